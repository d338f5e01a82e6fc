"""Claims on a Ray cluster: are figures those of this process, whatever dies, and is nothing copied
that need not be?"""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from pytest_scrub import (
    Dataset,
    FunctionGraph,
    HypothesisError,
    Metric,
    check,
    head,
    mlp,
    module,
    output,
)
from pytest_scrub.engine.evaluator import SHARD, SHARD_OF_RERUNS, Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import DataError, ModelError, ScrubError
from pytest_scrub.metrics import Batch
from pytest_scrub.network import as_graph
from tests.network.test_loading import GPT2, LLAMA

pytestmark = pytest.mark.xdist_group("ray")

DRIVER = os.getpid()
ROWS = 1200
TOKENS = torch.randint(20, (ROWS, 12), generator=torch.Generator().manual_seed(0))
NUMBERS = torch.randn(ROWS, 12, generator=torch.Generator().manual_seed(0))
BLOCK = {
    "d_model": 16,
    "d_head": 4,
    "n_heads": 4,
    "n_layers": 2,
    "n_ctx": 12,
    "d_vocab": 20,
    "d_mlp": 32,
}
HEADS = output(
    head(1, 1, agrees_on="first", reads=[head(0, 2, agrees_on="second", into="v")]),
    mlp(1, agrees_on="first", pos=-1),
)
MODULE = output(module("1", agrees_on="sign"))


class Own(Exception):
    """An exception that only this file knows."""


def tokens() -> Dataset:
    # Features of both kinds, one of them code of this file.
    features = {"first": TOKENS[:, 0] % 4, "second": lambda inputs: inputs["tokens"][:, 1] % 3}
    return Dataset(TOKENS, labels=TOKENS[:, 0], label_pos=-1, features=features)


def numbers(**features: Any) -> Dataset:
    return Dataset(
        NUMBERS, labels=(NUMBERS[:, 0] > 0).long(), features={"sign": NUMBERS[:, 0] > 0, **features}
    )


def native() -> nn.Module:
    return TransformerBridge.boot_native(TransformerBridgeConfig(**BLOCK, act_fn="relu", seed=0))


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0)).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**LLAMA)).eval()


class Perceptron(nn.Sequential):
    """A class that no worker can import."""

    def __init__(self, width: int = 32) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 3))


def functions() -> FunctionGraph:
    weight = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    return FunctionGraph(
        A=lambda tokens: tokens @ weight, output=lambda A, tokens: A + tokens[:, :3]
    )


NETWORKS: dict[str, tuple[Callable[[], Any], Callable[[], Dataset], Any]] = {
    "native": (native, tokens, HEADS),
    "gpt2": (gpt2, tokens, HEADS),
    "module": (Perceptron, numbers, MODULE),
    "functions": (functions, numbers, output(module("A", agrees_on="sign"))),
}


def loss(output: Tensor, batch: Batch) -> Tensor:
    assert batch.labels is not None
    return nn.functional.cross_entropy(output, batch.labels, reduction="none")


def on_workers(action: Callable[[], object]) -> Callable[[Tensor, Batch], Tensor]:
    """The loss, but on workers something happens before it is computed of a shard."""

    def metric(output: Tensor, batch: Batch) -> Tensor:
        # of one or two, it is to prove that each counts alone
        if os.getpid() != DRIVER and len(output) > 2:
            action()
        return loss(output, batch)

    return metric


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def crew(cluster: str) -> Any:
    from pytest_scrub.extras.ray.crew import RayCrew

    return RayCrew()


def evaluator(
    network: Any, data: Dataset, hypothesis: Any, crew: Any = None, **options: Any
) -> Evaluator:
    graph = as_graph(network)
    return Evaluator(
        graph, data, hypothesis, store=ActivationStore(graph, data, crew=crew), **options
    )


def figures(own: Evaluator, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """The scrubbed and the clean metric of references drawn at random."""
    drawn = own.space.draw(count, np.random.default_rng(0))
    return own.evaluate(drawn), own.unscrubbed(drawn.references)


def pieces(count: int, size: int) -> int:
    return -(-count // size)


# The same figures ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_metric_of_every_reference(crew: Any, name: str) -> None:
    network, data, hypothesis = (make() if callable(make) else make for make in NETWORKS[name])
    here, there = (figures(evaluator(network, data, hypothesis, who)) for who in (None, crew))
    for mine, theirs in zip(here, there, strict=True):
        assert mine.std() > 0
        np.testing.assert_allclose(theirs, mine, rtol=1e-6)
    read = len(
        np.unique(
            evaluator(network, data, hypothesis)
            .space.draw(600, np.random.default_rng(0))
            .references
        )
    )
    assert crew.tasks["scrubbed"] == pieces(600, SHARD_OF_RERUNS if name == "module" else SHARD)
    assert crew.tasks["unscrubbed"] == pieces(read, SHARD)
    assert crew.tasks["captured"] > 1


@pytest.mark.parametrize("name", ["native", "gpt2", "module"])
def test_whole_verdicts(crew: Any, name: str) -> None:
    network, data, hypothesis = (make() if callable(make) else make for make in NETWORKS[name])
    graph = as_graph(network)
    found = [
        check(
            hypothesis, graph, data, tolerance=0.02, samples=800, budget=3000,
            by=data.feature_names[0], controls=True,
            store=ActivationStore(graph, data, crew=who),
        ).to_json()
        for who in (None, crew)
    ]  # fmt: skip
    here, there = (re.split(r"(-?\d+\.\d+(?:e-?\d+)?)", text) for text in found)
    assert there[::2] == here[::2]  # all but the numbers that are no whole ones
    np.testing.assert_allclose(
        np.array(there[1::2], float), np.array(here[1::2], float), rtol=1e-5, atol=1e-7
    )
    assert all(crew.tasks.values())


def test_a_lone_piece_is_done_here(crew: Any) -> None:
    own = evaluator(Perceptron(), numbers(), MODULE, crew)
    few = own.space.draw(SHARD_OF_RERUNS, np.random.default_rng(0))
    own.evaluate(few)
    own.unscrubbed(few.references)
    assert not any(crew.tasks.values())


def test_code_that_no_worker_can_import(
    crew: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "only_mine.py").write_text(
        "FACTOR = 3\n\ndef metric(output, batch):\n    return output[:, 0] * FACTOR\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    only_mine = importlib.import_module("only_mine")
    here, there = (
        evaluator(Perceptron(), numbers(), MODULE, who, metric=only_mine.metric)
        for who in (None, crew)
    )
    np.testing.assert_allclose(figures(there), figures(here), rtol=1e-6)


def test_the_default_type_of_torch_goes_along(crew: Any) -> None:
    graph = FunctionGraph(
        A=lambda tokens: tokens, output=lambda A: A[:, :3] * torch.full((3,), 0.1)
    )
    data = Dataset(
        NUMBERS.double(), labels=(NUMBERS[:, 0] > 0).long(), features={"sign": NUMBERS[:, 0] > 0}
    )
    hypothesis = output(module("A", agrees_on="sign"))
    for dtype in (torch.float64, torch.float32):
        torch.set_default_dtype(dtype)
        try:
            here, there = (
                figures(evaluator(graph, data, hypothesis, who, metric=loss))
                for who in (None, crew)
            )
        finally:
            torch.set_default_dtype(torch.float32)
        np.testing.assert_allclose(there, here, rtol=1e-12)  # 0.1 is another number as a float32


def test_features_that_only_a_mutant_has(crew: Any) -> None:
    """A claim is sent with its own features, and without the inputs that are there already."""
    import ray

    wide = NUMBERS.repeat(1, 20)
    data = Dataset(wide, labels=(NUMBERS[:, 0] > 0).long())
    more = data.with_features({"other": (NUMBERS[:, 1] > 0).numpy()})
    hypothesis = output(module("A", agrees_on="other"))
    graph = FunctionGraph(A=lambda tokens: tokens, output=lambda A: A[:, :3])
    here, there = (
        Evaluator(graph, more, hypothesis, store=ActivationStore(graph, data, crew=who))
        for who in (None, crew)
    )
    np.testing.assert_allclose(figures(there), figures(here), rtol=1e-6)
    claim = crew._claim(there, there.sites)
    sent, known = (
        len(packed.payload) + sum(array.nbytes for array in packed.arrays)
        for packed in ray.get([claim.claim, claim.source.data])
    )
    assert sent < wide.nbytes / 2 < wide.nbytes < known


def test_progress_is_told_as_results_arrive(crew: Any) -> None:
    told: list[tuple[str, int, int]] = []
    own = evaluator(
        Perceptron(),
        numbers(),
        MODULE,
        crew,
        progress=lambda what, n, of, _: told.append((what, n, of)),
    )
    own.evaluate(own.space.draw(100, np.random.default_rng(0)))
    assert [step for step in told if step[0] == "scrubbed evaluations"] == [
        ("scrubbed evaluations", done, 100) for done in (32, 64, 96, 100)
    ]


def test_changed_weights_are_another_network(crew: Any) -> None:
    graph = as_graph(Perceptron())
    before = figures(
        Evaluator(graph, numbers(), MODULE, store=ActivationStore(graph, numbers(), crew=crew))
    )
    with torch.no_grad():
        graph.module[2].weight.mul_(2)
    changed = [
        figures(Evaluator(graph, data, MODULE, store=ActivationStore(graph, data, crew=who)))
        for who, data in ((None, numbers()), (crew, numbers()))
    ]
    assert abs(changed[0][0] - before[0]).max() > 0.1
    np.testing.assert_allclose(changed[1], changed[0], rtol=1e-6)


# What is sent -------------------------------------------------------------------------------------


def chunks_of(shared: Any, site: Any) -> Any:
    return dict(shared._published.values())[site]


def test_activations_are_few_chunks_however_they_came(crew: Any) -> None:
    """Logarithmically many, each place in one of them; what was sent altogether is a small
    multiple."""
    graph, data = functions(), numbers()
    store = ActivationStore(graph, data, crew=crew)
    own = Evaluator(graph, data, output(module("A", agrees_on="sign")), loss, store=store)
    sites, sent, seen = own.sites, 0, set()
    for start in range(0, ROWS, 30):
        store.ensure(sites, np.arange(start, start + 30))
        shared = crew._sent_store(store)
        shared.chunks(store, sites)
        for site in sites:
            for places, chunk in chunks_of(shared, site):
                sent += 0 if chunk in seen else len(places)
                seen.add(chunk)
    for site in sites:
        chunks = [places for places, _ in chunks_of(shared, site)]
        assert len(chunks) <= np.log2(ROWS / 30) + 2
        assert sorted(np.concatenate(chunks)) == list(range(ROWS))
    assert sent <= len(sites) * ROWS * np.log(ROWS / 30) / np.log(1.5)
    here = figures(
        evaluator(functions(), numbers(), output(module("A", agrees_on="sign")), metric=loss)
    )
    np.testing.assert_allclose(figures(own), here, rtol=1e-6)


def test_activations_that_were_forgotten_are_sent_anew(crew: Any) -> None:
    import ray

    own = evaluator(functions(), numbers(), output(module("A", agrees_on="sign")), crew)
    before, shared = figures(own), crew._sent_store(own.store)
    kept = [own.store.kept(site) for site in own.sites]
    own.store._kept.clear()
    own.ensure(own.sites, np.arange(4))
    shared.chunks(own.store, own.sites)
    assert [len(places) for places, _ in chunks_of(shared, own.sites[0])] == [4]
    np.testing.assert_array_equal(figures(own), before)
    del kept
    own.store._kept.clear()
    assert ray.get(shared.chunks(own.store, ())) == {}


def test_a_row_that_nobody_has_captured_is_never_made_up(crew: Any) -> None:
    own = evaluator(functions(), numbers(), output(module("A", agrees_on="sign")), crew)
    own.store.ensure(own.sites, np.arange(4))
    own.store.ensure = lambda *_: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="was not captured on all rows"):
        own.evaluate(own.space.draw(600, np.random.default_rng(0)))


def _file_of(tensor: Tensor) -> tuple[str, str, int]:
    """The mapped file that a tensor lies in: how it is mapped, its name, and where in it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights, offset, _, inode, *name = line.split()
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= tensor.data_ptr() < last:
            return rights, f"{inode} {' '.join(name)}", tensor.data_ptr() - first + int(offset, 16)
    raise AssertionError("not mapped")


def _where(
    claim: Any, site: Any, met: Path
) -> tuple[int, str, tuple[str, str, int], tuple[str, str, int]]:
    """In each of two workers: the network it has, and where a weight and a chunk of activations
    are."""
    from pytest_scrub.extras.ray import worker

    (met / str(os.getpid())).touch()
    while len(list(met.iterdir())) < 2:
        time.sleep(0.01)
    store = worker._evaluator(claim).store
    weight, values = store.graph.module[0].weight, store._find(site).values[0]
    return os.getpid(), store.graph.digest(), _file_of(weight), _file_of(values)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_weights_and_activations_are_in_memory_once(crew: Any, tmp_path: Path) -> None:
    import ray

    own = evaluator(Perceptron(4000), numbers(), MODULE, crew)
    own.ensure(own.sites, np.arange(100))
    claim, where = crew._claim(own, own.sites), ray.remote(_where)
    (one, *mine), (other, *theirs) = ray.get(
        [where.remote(claim, own.sites[0], tmp_path) for _ in range(2)]
    )
    assert one != other
    assert mine == theirs  # the same bytes of the same file
    assert mine[0] == own.graph.digest()
    for rights, name, _ in mine[1:]:
        assert "s" in rights  # shared: not a copy on write
        assert "plasma" in name or "/dev/shm" in name


@pytest.mark.parametrize("make", [native, gpt2, llama, Perceptron, functions])
def test_a_network_is_what_it_was_and_its_views_stay_views(make: Callable[[], Any]) -> None:
    from pytest_scrub.extras.ray.packed import pack, unpack

    graph = as_graph(make())
    packed = pack(graph, "the network")
    there = unpack(packed)
    assert there.digest() == graph.digest()
    data = tokens() if make in (native, gpt2, llama) else numbers()
    there.prove(data.batch(range(4)))
    assert torch.equal(there.run(data.batch(range(4))), graph.run(data.batch(range(4))))
    if make in (native, gpt2, llama):
        assert _shared_weights(there) == _shared_weights(graph)


def _shared_weights(graph: Any) -> list[bool]:
    """Which of the heads' weights are views of the network's parameters."""
    own = {tensor.untyped_storage().data_ptr() for _, tensor in graph.transformer.parameters()}
    views = [w for a in graph.transformer.attention for w in (a.W_Q, a.W_K, a.W_V, a.W_O)]
    return [view.untyped_storage().data_ptr() in own for view in views]


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64]
)
def test_large_tensors_are_views_of_what_is_sent_and_small_ones_can_be_written_to(
    dtype: torch.dtype,
) -> None:
    from pytest_scrub.extras.ray.packed import LEAST_SHARED, pack, unpack

    large = torch.randn(2, LEAST_SHARED).to(dtype)
    small = torch.randn(3, 4).to(dtype)
    given = {
        "large": large,
        "part": large[1, ::2],
        "small": small,
        "part of small": small.T[1:],
        "empty": large[:0],
    }
    packed = pack(given, "tensors")
    assert len(packed.arrays) == 1
    frozen = packed.arrays[0].copy()
    frozen.setflags(write=False)  # as they are in the object store
    found = unpack(type(packed)(packed.payload, (frozen,)))
    assert all(
        torch.equal(found[name], given[name]) and found[name].dtype == dtype for name in given
    )
    assert found["large"].data_ptr() == frozen.ctypes.data
    assert found["part"].untyped_storage().data_ptr() == frozen.ctypes.data
    found["small"].zero_()
    assert not found["part of small"].any()


def test_storages_that_begin_at_one_address_keep_their_lengths() -> None:
    from pytest_scrub.extras.ray.packed import pack, unpack

    numbers = np.arange(1 << 15, dtype=np.float64)
    short, long = torch.from_numpy(numbers[:10]), torch.from_numpy(numbers)
    found = unpack(pack((short, long), "tensors"))
    assert torch.equal(found[0], short)
    assert torch.equal(found[1], long)


def test_parameters_stay_parameters() -> None:
    from pytest_scrub.extras.ray.packed import pack, unpack

    weight = nn.Parameter(torch.randn(4, 4))
    weight.note = "kept"  # type: ignore[attr-defined]
    frozen = nn.Parameter(torch.zeros(2), requires_grad=False)
    first, second, third = unpack(pack((weight, weight, frozen), "parameters"))
    assert first is second
    assert isinstance(first, nn.Parameter)
    assert first.requires_grad
    assert first.note == "kept"
    assert not third.requires_grad


# Workers that die ---------------------------------------------------------------------------------


def test_a_worker_that_dies_of_a_task_loses_nothing(crew: Any, tmp_path: Path) -> None:
    flag = tmp_path / "died"

    def die_once() -> None:
        if not flag.exists():
            flag.touch()
            die()

    here = figures(evaluator(Perceptron(), numbers(), MODULE, metric=loss), 100)
    there = figures(
        evaluator(Perceptron(), numbers(), MODULE, crew, metric=on_workers(die_once)), 100
    )
    assert flag.exists()
    np.testing.assert_allclose(there, here, rtol=1e-6)


def test_a_worker_that_is_killed_from_outside_loses_nothing(crew: Any, tmp_path: Path) -> None:
    def busy() -> None:
        (tmp_path / f"{os.getpid()}-{time.monotonic_ns()}").touch()
        time.sleep(0.3)

    def kill_one() -> None:
        while not (started := list(tmp_path.iterdir())):
            time.sleep(0.01)
        os.kill(int(started[0].name.partition("-")[0]), signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    own = evaluator(Perceptron(), numbers(), MODULE, crew, metric=on_workers(busy))
    drawn = own.space.draw(100, np.random.default_rng(0))
    there = own.evaluate(drawn)
    killer.join()
    # what it had begun was done once more
    assert len(list(tmp_path.iterdir())) == pieces(100, SHARD_OF_RERUNS) + 1
    here = evaluator(Perceptron(), numbers(), MODULE, metric=loss).evaluate(drawn)
    np.testing.assert_allclose(there, here, rtol=1e-6)


@pytest.mark.usefixtures("cluster")
def test_a_task_that_kills_every_worker_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_scrub.extras.ray import crew as module_

    monkeypatch.setattr(module_, "RETRIES", 1)  # workers take a second or two to start
    crew = module_.RayCrew()
    own = evaluator(Perceptron(), numbers(), MODULE, crew, metric=on_workers(die))
    drawn = own.space.draw(SHARD_OF_RERUNS + 1, np.random.default_rng(0))
    started = time.monotonic()
    with pytest.raises(
        ScrubError,
        match=r"^Ray gave up a task that was tried 2 times \(The worker died .*\); leave",
    ):
        own.evaluate(drawn)
    assert time.monotonic() - started < 120
    # and whoever comes next has workers again
    own = evaluator(Perceptron(), numbers(), MODULE, crew, metric=loss)
    assert own.evaluate(drawn).shape == (len(drawn),)


def test_a_cluster_that_loses_all_its_processors_is_one_error(
    crew: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pytest_scrub.extras.ray import crew as module_

    own = evaluator(Perceptron(), numbers(), MODULE, crew, metric=on_workers(lambda: time.sleep(3)))
    monkeypatch.setattr(module_, "PATIENCE", 0.1)
    monkeypatch.setattr(module_, "_cpus", lambda: 0)
    with pytest.raises(ScrubError, match="no processor left"):
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))


@pytest.fixture
def interrupts() -> Iterator[None]:
    """A process in the background may have been told to ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_waiting(crew: Any, tmp_path: Path) -> None:
    def wait() -> None:
        (tmp_path / "begun").touch()
        time.sleep(4)

    def interrupt() -> None:
        while not (tmp_path / "begun").exists():
            time.sleep(0.01)
        os.kill(DRIVER, signal.SIGINT)

    own = evaluator(Perceptron(), numbers(), MODULE, crew, metric=on_workers(wait))
    drawn = own.space.draw(100, np.random.default_rng(0))
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        own.evaluate(drawn)
    assert (tmp_path / "begun").stat().st_mtime > time.time() - 3


# Errors -------------------------------------------------------------------------------------------


def raise_key_error() -> None:
    raise KeyError("mine")


def raise_own() -> None:
    raise Own("mine", 3)


def raise_hypothesis_error() -> None:
    raise HypothesisError("a sentence")


@pytest.mark.parametrize(
    ("action", "error", "text"),
    [
        (raise_key_error, DataError, "raised KeyError: 'mine'"),
        (raise_own, DataError, "raised Own: ('mine', 3)"),
        (raise_hypothesis_error, HypothesisError, "a sentence"),
    ],
)
def test_what_a_task_raises_is_raised_here(
    crew: Any, action: Callable[[], None], error: type[Exception], text: str
) -> None:
    own = evaluator(Perceptron(), numbers(), MODULE, crew, metric=on_workers(action))
    with pytest.raises(error) as raised:
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))
    assert type(raised.value) is error
    assert text in str(raised.value)


def test_what_is_wrong_is_said_in_the_same_words(crew: Any) -> None:
    """A metric of the wrong shape, and activations that are not finite."""
    said = []
    for who in (None, crew):
        own = evaluator(
            Perceptron(), numbers(), MODULE, who, metric=Metric("bad", lambda output, _: output[:5])
        )
        with pytest.raises(DataError) as raised:
            own.evaluate(own.space.draw(SHARD_OF_RERUNS + 5, np.random.default_rng(0)))
        said.append(re.sub(r"\[\d+\]", "[n]", str(raised.value)))
        broken = NUMBERS.clone()
        broken[700, 3] = torch.inf
        graph = FunctionGraph(A=lambda tokens: tokens * 0, output=lambda A: A)
        data = Dataset(broken, labels=torch.zeros(ROWS, dtype=torch.long))
        with pytest.raises(ModelError, match="NaN or infinite on row 700") as raised:
            ActivationStore(graph, data, crew=who).ensure(
                [graph.value_site(("A",), None)], np.arange(ROWS)
            )
        said.append(str(raised.value))
    assert said[:2] == said[2:]


def locked(function: Callable[..., Any]) -> Callable[..., Any]:
    lock = threading.Lock()

    def wrapped(*arguments: Any) -> Any:
        with lock:
            return function(*arguments)

    return wrapped


class Locked(Perceptron):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("network", "features", "metric", "what"),
    [
        (Locked, {}, loss, r"the network \(torch module Locked\)"),
        (
            Perceptron,
            {"odd": locked(lambda inputs: inputs["tokens"][:, 1] > 0)},
            loss,
            "the feature 'odd' of the dataset",
        ),
        (Perceptron, {}, Metric("mine", locked(loss)), "the metric mine"),
    ],
)
def test_what_cannot_be_sent_is_named(
    crew: Any, network: Any, features: Any, metric: Any, what: str
) -> None:
    own = evaluator(network(), numbers(**features), MODULE, crew, metric=metric)
    with pytest.raises(
        ScrubError,
        match=rf"^{what} cannot be sent to Ray's workers \(TypeError: .*\); let it hold no",
    ):
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))


def test_other_versions_on_a_worker(crew: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_scrub.extras.ray import worker

    there = tuple({**dict(worker.VERSIONS), "torch": "1.0"}.items())
    monkeypatch.setattr(worker, "Source", partial(worker.Source, versions=there))
    own = evaluator(Perceptron(), numbers(), MODULE, crew)
    with pytest.raises(
        ModelError,
        match=r"a Ray worker has torch \S+, this process 1\.0; install the same everywhere",
    ):
        own.evaluate(own.space.draw(100, np.random.default_rng(0)))


def test_a_package_that_workers_lack(crew: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def f(*_: Any) -> None:
        """Of a module that is installed here alone."""

    lacking = type(sys)("only_here")
    f.__module__, f.__qualname__, lacking.f = lacking.__name__, "f", f  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "only_here", lacking)
    own = evaluator(Perceptron(), numbers(), MODULE, crew, metric=Metric("mine", loss, stand_in=f))  # type: ignore[arg-type]
    drawn = own.space.draw(100, np.random.default_rng(0))
    with pytest.raises(
        ModelError,
        match=r"cannot import .* \(No module named 'only_here'\); install the same packages",
    ):
        own.evaluate(drawn)
    crew._remote = dict.fromkeys(crew._remote, ray.remote(f))
    with pytest.raises(
        ScrubError, match="Ray's workers cannot import pytest_scrub; install it on every machine"
    ):
        evaluator(Perceptron(), numbers(), MODULE, crew).evaluate(drawn)


# Joining ------------------------------------------------------------------------------------------


@pytest.fixture
def outside(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had joined nothing."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("outside")
def test_an_address_where_nobody_listens() -> None:
    from pytest_scrub.extras.ray.cluster import Cluster

    with socket.socket() as taken:
        taken.bind(("", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ScrubError) as raised:
            Cluster(address).require()
    assert time.monotonic() - started < 10
    assert str(raised.value).startswith(f"the Ray cluster at {address} cannot be joined (")
    assert "\n" not in str(raised.value)


@pytest.mark.usefixtures("outside")
def test_an_address_where_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_scrub.extras.ray import cluster as module_

    monkeypatch.setattr(module_, "JOINED", 4)
    with socket.create_server(("", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ScrubError, match="what answers there is no Ray cluster"):
            module_.Cluster(address).require()


@pytest.mark.usefixtures("outside")
def test_a_cluster_that_is_there(cluster: str) -> None:
    from pytest_scrub.extras.ray.cluster import Cluster

    Cluster(cluster).require()


def test_a_process_that_has_joined_stays_where_it_is(cluster: str) -> None:
    import ray

    from pytest_scrub.extras.ray.cluster import Cluster

    own = Cluster("local")
    assert own.join() == cluster
    own.leave()
    assert ray.is_initialized()


def test_a_cluster_without_processors(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from pytest_scrub.extras.ray.cluster import Cluster

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"memory": 1.0})
    with pytest.raises(ScrubError, match="has no processors; add a node that has some"):
        Cluster(cluster).join()


@pytest.mark.usefixtures("outside")
def test_a_cluster_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from pytest_scrub.extras.ray.cluster import Cluster

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room in /dev/shm.\nA long story.")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(
        ScrubError,
        match=r"^a Ray cluster cannot be started on this machine \(no room in /dev/shm\)$",
    ):
        Cluster("local").join()
