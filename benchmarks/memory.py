"""What a run takes in memory whose activations are ten times what they may, and that its figures
are those with room.

    python benchmarks/memory.py [MIB]

A two-layer attention-only network (d_model 256, 64 positions) and a claim of heads that read heads.
Both runs are processes of their own. `peak` is the most that a run was resident beyond what it was
before the claim, which is the interpreter, the libraries, the network and the data. The last line
is one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
MIB = 1 << 20
LENGTH, D_MODEL, D_HEAD, TIMES = 64, 256, 32, 10
WARM = 64  # rows of a first claim


def run(limit: int | None, rows: int) -> None:
    sys.path.insert(0, str(ROOT))
    import torch

    from pytest_scrub import ANYTHING, check, head, load_model, output
    from pytest_scrub.engine.memory import Memory
    from pytest_scrub.engine.store import ActivationStore

    torch.set_num_threads(1)
    network, data = made(rows)
    graph = load_model(network)
    claim = output(
        head(1, 0, agrees_on="last", reads=[head(0, 3, agrees_on="before")]),
        head(1, 1, agrees_on=ANYTHING),
    )
    few = made(WARM)[1]  # what the libraries take at their first use is theirs
    check(claim, graph, few, tolerance=0.05, samples=WARM, budget=2 * WARM)
    before, started = resident("VmRSS"), time.perf_counter()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    memory = Memory(limit)
    store = ActivationStore(graph, data, memory)
    verdict = check(claim, graph, data, tolerance=0.05, samples=rows, budget=2 * rows, store=store)
    print(
        json.dumps(
            {
                "peak": (resident("VmHWM") - before) / MIB,
                "activations": store.bytes() / MIB,
                "network": sum(
                    weight.numel() * weight.element_size() for _, weight in graph.weights()
                )
                / MIB,
                "seconds": time.perf_counter() - started,
                "figures": [
                    verdict.outcome,
                    verdict.gap.mean,
                    verdict.unscrubbed,
                    verdict.search.worst.gap,
                ],
            }
        )
    )


def made(rows: int):
    import torch
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    from pytest_scrub import Dataset

    torch.manual_seed(0)
    config = TransformerBridgeConfig(
        d_model=D_MODEL, d_head=D_HEAD, n_layers=2, n_heads=8, n_ctx=LENGTH, d_vocab=100,
        attn_only=True, d_mlp=0,
        normalization_type="LN", act_fn="relu",
    )  # fmt: skip
    network = TransformerBridge.boot_native(config)
    network.eval()
    tokens = torch.randint(0, 100, (rows, LENGTH), generator=torch.Generator().manual_seed(0))
    features = {"last": tokens[:, -1] % 2, "before": tokens[:, -2] % 2}
    return network, Dataset(tokens, labels=tokens[:, -1], label_pos=-1, features=features)


def resident(what: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def main(limit: int) -> None:
    # At all positions: the stream that head 1.0 reads, and the z of head 0.3. Others take little.
    rows = TIMES * limit * MIB // (LENGTH * (D_MODEL + D_HEAD) * 4)
    found = {}
    for name, least in (("with room", "none"), ("tight", str(limit))):
        command = [sys.executable, __file__, "--run", least, str(rows)]
        done = subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(
            f"{name:>9}: activations {found[name]['activations']:.0f} MiB, peak "
            f"{found[name]['peak']:.0f} MiB, "
            f"{found[name]['seconds']:.1f} s, {found[name]['figures']}",
            flush=True,
        )
    tight, roomy = found["tight"], found["with room"]
    figures = {
        "budget_mib": limit,
        "activations_over_budget": tight["activations"] / limit,
        "peak_over_budget_and_model": tight["peak"] / (limit + tight["network"]),
        "slower": tight["seconds"] / roomy["seconds"],
        "same_figures": tight["figures"] == roomy["figures"],
        "largest_difference": float(
            np.abs(np.subtract(tight["figures"][1:], roomy["figures"][1:])).max()
        ),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    if "--run" in sys.argv:
        run(None if sys.argv[2] == "none" else int(sys.argv[2]) * MIB, int(sys.argv[3]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 384)
