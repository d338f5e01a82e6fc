"""What handing work to a Ray cluster costs, on one that is started on this machine:
`python benchmarks/distributed.py`.

The measured figures of docs/scaling.md. Times are CPU times: a machine that does other things as
well does not decide. GPT-2 small has random weights here, since what evaluating costs does not
depend on them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pytest_scrub import Dataset, FunctionGraph, ModuleGraph, head, module, output
from pytest_scrub.engine.evaluator import SHARD, SHARD_OF_RERUNS, Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.extras.ray.cluster import Cluster
from pytest_scrub.network import as_graph

ROWS, POSITIONS = 800, 16
HEADS = output(*(head(9, h, agrees_on="first") for h in range(4)))
MODULE = output(module("transformer.h.9.mlp", agrees_on="first"))


class Plain(torch.nn.Module):
    """A network as a torch module like any other, called with its tokens alone."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.transformer, self.lm_head = network.transformer, network.lm_head

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.transformer(tokens, use_cache=False).last_hidden_state)


def seen_by_a_worker(_: int) -> tuple[int, float]:
    """Its process, and the CPU time that it has spent."""
    time.sleep(0.5)  # or one of them would do all of these tasks
    return os.getpid(), time.process_time()


def private_bytes() -> int:
    """What this process alone has in memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))


def grows_by(small: Any, large: Any) -> int:
    """In a worker: what it alone has in memory for the large network, its packages being there for
    the small one."""
    from pytest_scrub.extras.ray import worker

    worker._store(small)
    before = private_bytes()
    worker._store(large)
    return private_bytes() - before


class Meter:
    """CPU times of this process and of the workers."""

    def __init__(self) -> None:
        import ray

        self.ray, self.workers = ray, int(ray.cluster_resources()["CPU"])
        self.look = ray.remote(seen_by_a_worker)

    def spent(self) -> tuple[float, float]:
        theirs = dict(self.ray.get([self.look.remote(i) for i in range(self.workers)]))
        return time.process_time(), sum(theirs.values())


def cost(own: Evaluator, count: int, meter: Meter | None = None) -> tuple[float, float]:
    """CPU seconds of one scrubbed evaluation, here and on workers, once its activations are where
    they are needed."""
    drawn = own.space.draw(count, np.random.default_rng(0))
    own.evaluate(drawn)
    if meter is None:
        started = time.process_time()
        own.evaluate(drawn)
        return (time.process_time() - started) / count, 0.0
    before = meter.spent()
    own.evaluate(drawn)
    after = meter.spent()
    return (after[0] - before[0]) / count, (after[1] - before[1]) / count


def main() -> None:
    torch.set_num_threads(1)
    cluster, started = Cluster("local"), time.perf_counter()
    cluster.join()
    print(f"starting and joining a cluster: {time.perf_counter() - started:.1f} s")
    from ray import cloudpickle

    from pytest_scrub.extras.ray.executor import RayExecutor

    executor, meter = RayExecutor(), Meter()
    numbers = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0))
    toy = FunctionGraph(A=lambda tokens: tokens, output=lambda A: A)
    toys = Dataset(numbers, labels=(numbers[:, 0] > 0).long(), features={"sign": numbers[:, 0] > 0})
    for who in (None, executor):
        own = Evaluator(
            toy,
            toys,
            output(module("A", agrees_on="sign")),
            store=ActivationStore(toy, toys, executor=who),
        )
        here, there = cost(own, 200 * SHARD, meter if who else None)
        name = "as a task" if who else "in this process"
        print(
            f"{SHARD} evaluations of next to nothing, {name}: {1e3 * SHARD * here:.2f} + "
            f"{1e3 * SHARD * there:.2f} ms"
        )

    tokens = torch.randint(50257, (ROWS, POSITIONS), generator=torch.Generator().manual_seed(0))
    data = Dataset(tokens, labels=tokens[:, 0], label_pos=-1, features={"first": tokens[:, 0] % 4})
    torch.manual_seed(0)
    modules = Plain(GPT2LMHeadModel(GPT2Config())).eval()
    small, large = (
        as_graph(GPT2LMHeadModel(GPT2Config(n_layer=layers)).eval()) for layers in (1, 12)
    )
    sources = [
        executor._sent_store(ActivationStore(graph, data, executor=executor)).source
        for graph in (small, large)
    ]
    weights = sum(
        {
            p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for _, p in large.weights()
        }.values()
    )
    grown = meter.ray.get(meter.ray.remote(grows_by).remote(*sources))
    print(f"{weights >> 20} MiB of weights: a worker alone has {grown >> 20} MiB more in memory")
    for what, graph, hypothesis, count, size in (
        ("four leaf heads", large, HEADS, 2048, SHARD),
        ("a module, everything above it rerun", ModuleGraph(modules), MODULE, 128, SHARD_OF_RERUNS),
    ):
        for who in (None, executor):
            own = Evaluator(
                graph, data, hypothesis, store=ActivationStore(graph, data, executor=who)
            )
            own.ensure(own.sites, np.arange(ROWS))
            here, there = cost(own, count, meter if who else None)
            name = f"{meter.workers} workers" if who else "in this process"
            print(
                f"GPT-2 small, {what}, {name}: {1e3 * here:.2f} + {1e3 * there:.2f} ms for each "
                "evaluation",
                flush=True,
            )
        task = executor._claim(own, own.sites), own.space.draw(size, np.random.default_rng(0))
        print(f"a task of {size} of these: {len(cloudpickle.dumps(task))} bytes in, {8 * size} out")
    cluster.leave()


if __name__ == "__main__":
    main()
