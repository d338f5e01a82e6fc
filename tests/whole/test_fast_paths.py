"""Every way in which the engine saves work gives what the slow evaluator gives, and is shown to be
taken."""

from __future__ import annotations

import functools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_scrub import ANYTHING, Dataset, Evaluator, Metric, embed, head, meaning, mlp, output
from pytest_scrub.engine.memory import CachedSite, Memory
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.extras.disk_cache.activations import activation_files
from pytest_scrub.extras.disk_cache.folder import BoundedFolder
from pytest_scrub.network import as_graph
from pytest_scrub.network.graph import Site
from pytest_scrub.network.kinds.head import Head
from pytest_scrub.network.kinds.reading import Batch
from pytest_scrub.network.kinds.rerun import Rerun
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node
from tests.reference.bridges import BridgeNetwork
from tests.reference.generate import Architecture, build
from tests.sizes import only_in_full, sized
from tests.whole.test_engine_against_reference import CASES as OF_A_KIND
from tests.whole.test_engine_against_reference import assert_same, engine_and_reference_agree

CASES = sized(8, 200)
SWAPS = sized(8, 30)  # of one tree


class Taken:
    """How often each way was taken; what counts is no part of the network, as a counter that it
    holds would be."""

    def __init__(self) -> None:
        self._ways: list[str] = []
        self.note = self._ways.append

    def __getitem__(self, way: str) -> int:
        return self._ways.count(way)


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    taken = Taken()
    note = taken.note

    def noting(holder, name, ways):
        original = getattr(holder, name)

        @functools.wraps(original)
        def noted(self, *args, **kwargs):
            for way, is_taken in ways.items():
                if is_taken(self, *args):
                    note(way)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(holder, name, noted)

    def slot_of(batch, slot):
        return batch.reading.inputs[slot]

    def is_unchanged(head, batch, slot):
        return not slot_of(batch, slot).direct and not slot_of(batch, slot).rerun

    def shares_a_stream(head, batch, slot):
        read = slot_of(batch, slot)
        return (read.direct, read.rerun, batch.where_of(read) is None) in batch._made

    def is_read_at_its_positions(of):
        return lambda batch, slot: slot == of and batch.where is not None

    noting(
        Head, "projected",
        {
            "a projection that nothing changes is gathered": is_unchanged,
            "two slots share a stream": shares_a_stream,
        },
    )  # fmt: skip
    noting(
        Batch, "product",
        {
            "heads are added to the stream by one product":
                lambda batch, read: read.start.kind == "stream",
            "heads are added to queries, keys and values":
                lambda batch, read: read.start.kind != "stream",
        },
    )  # fmt: skip
    noting(
        Batch, "run",
        {"two slots share a rerun": lambda batch, read: read.rerun in batch._made},
    )  # fmt: skip
    noting(
        Batch, "stream",
        {
            "a query is read at its positions only": is_read_at_its_positions("q"),
            "the output is read at its positions only": is_read_at_its_positions("in"),
        },
    )  # fmt: skip
    noting(
        Head, "together",
        {
            "heads of a rerun are one product":
                lambda first, heads, apart, *_: sum(one.name not in apart for one in heads) > 1,
            "heads of a rerun are computed where they are read":
                lambda *given: given[-1] is not None,
        },
    )  # fmt: skip
    noting(Rerun, "own", {"a rerun starts above the first layer": lambda run, name: run.first > 0})
    noting(
        CachedSite, "gather",
        {
            "gathered from a file": lambda kept, *_: kept.in_file,
            "gathered at positions from a file": lambda kept, places,
            where=None: kept.in_file and where is not None,
            "gathered from memory": lambda kept, *_: not kept.in_file,
        },
    )  # fmt: skip
    noting(ActivationStore, "_capture", {"captured": lambda *_: True})
    return taken


def agree(kind: str, store_of, cases: int = CASES) -> None:
    settings(max_examples=cases, suppress_health_check=[*HealthCheck])(
        given(data=st.data())(engine_and_reference_agree)
    )(kind=kind, store_of=store_of)


@dataclass(frozen=True)
class Both:
    """A small network on a few rows, for the engine and for the slow evaluator."""

    store: ActivationStore
    slow: BridgeNetwork

    def evaluator(self, root: Node, metric: Metric) -> Evaluator:
        store = self.store
        return Evaluator(store.graph, store.dataset, root, metric, store=store)

    def slowly(self, root: Node, swap_set: SwapSet, at: Any = -1) -> list[torch.Tensor]:
        return meaning.outputs(self.slow, root, self.store.dataset, swap_set, at)


@functools.cache
def both(small: Architecture) -> Both:
    model, length, rng = build(small), small.n_ctx, np.random.default_rng(0)
    tokens, marked = rng.integers(0, 5, size=(12, length)), rng.integers(0, length, size=12)
    columns = np.arange(length)
    two = (columns == marked[:, None]) | (columns == (marked[:, None] - 1) % length)
    features = {"marked": marked, "two": two}
    data = Dataset(tokens, labels=np.zeros(12, dtype=int), label_pos=-1, features=features)
    store = ActivationStore(as_graph(model.bridge), data)
    return Both(store, BridgeNetwork(model.bridge, data))


SUM = Metric("sum", lambda out, batch: out.double().sum(1))


def test_native_networks_agree_and_reading_takes_its_short_cuts(taken: Taken) -> None:
    agree("native", lambda graph, dataset: None, OF_A_KIND["native"])
    for way in (
        "a projection that nothing changes is gathered",
        # a few of a thousand trees have them
        *sized((), ("two slots share a stream", "two slots share a rerun")),
        "a query is read at its positions only", "the output is read at its positions "
                                                 "only", "gathered from memory",
    ):  # fmt: skip
        assert taken[way], way


@pytest.mark.parametrize(
    ("norm", "way"),
    [
        ("LN", "heads are added to the stream by one product"),
        (None, "heads are added to queries, keys and values"),
    ],
)
@pytest.mark.parametrize("kind", ["native", pytest.param("rotary", marks=only_in_full)])
@pytest.mark.parametrize("into", [None, "k", "v", "q"])
def test_heads_that_read_heads(
    taken: Taken, norm: str | None, way: str, kind: str, into: str | None
) -> None:
    choices = {"positions": "rotary"} if kind == "rotary" else {}
    network = both(Architecture(n_layers=2, n_ctx=4, norm=norm, **choices))
    below = [head(0, h, agrees_on=ANYTHING, into=into) for h in range(2)]
    root = output(
        head(1, 0, agrees_on=ANYTHING, reads=below),
        head(1, 1, agrees_on=ANYTHING),
        embed(agrees_on=ANYTHING),
    )
    evaluator = network.evaluator(root, SUM)
    swap_set = evaluator.space.draw(SWAPS, np.random.default_rng(1))
    theirs = [float(out[-1].sum()) for out in network.slowly(root, swap_set)]
    assert evaluator.evaluate(swap_set) == pytest.approx(theirs, rel=1e-6)
    assert taken[way]
    if norm == "LN" and into is None:
        assert taken["two slots share a stream"]


def test_a_rerun_starts_where_something_changes(taken: Taken) -> None:
    network = both(Architecture(n_layers=3, attn_only=False, norm="LN", n_ctx=4))
    changed = head(1, 1, agrees_on=ANYTHING, via="any")
    root = output(
        mlp(2, agrees_on=ANYTHING, reads=[changed, embed(agrees_on=ANYTHING)]),
        head(1, 0, agrees_on=ANYTHING),
    )
    evaluator = network.evaluator(root, SUM)
    swap_set = evaluator.space.draw(SWAPS, np.random.default_rng(1))
    theirs = [float(out[-1].sum()) for out in network.slowly(root, swap_set)]
    assert evaluator.evaluate(swap_set) == pytest.approx(theirs, rel=1e-6)
    assert taken["a rerun starts above the first layer"]


@pytest.mark.parametrize("at", [None, -1, slice(1, 4), "marked"])
@pytest.mark.parametrize("subspace", [None, 3])
@pytest.mark.parametrize("read_at", [-1, "marked", "two"])
def test_a_rerun_computes_the_last_layer_where_it_is_read(
    taken: Taken, at: int | str | slice | None, subspace: int | None, read_at: int | str
) -> None:
    """Whether what is replaced lies there, beside it, or partly there."""
    small = Architecture(n_layers=2, n_heads=4, attn_only=False, norm="LN", n_ctx=5)
    network, rng = both(small), np.random.default_rng(1)
    basis = None
    if subspace is not None:
        basis = np.linalg.qr(rng.normal(size=(small.d_model, subspace)))[0]
    below = [head(1, h, agrees_on=ANYTHING, via="any", pos=at, subspace=basis) for h in (0, 2)]
    root = output(*below, head(0, 1, agrees_on=ANYTHING, via="any", pos=at, subspace=basis))
    metric = Metric("sum", lambda out, batch: out.double().flatten(1).sum(1), read_at)
    evaluator = network.evaluator(root, metric)
    swap_set = evaluator.space.draw(SWAPS, rng)
    theirs = network.slowly(root, swap_set, read_at)
    assert_same(evaluator.outputs(swap_set).double(), theirs, 1e-9)
    assert taken["heads of a rerun are one product"]
    assert taken["heads of a rerun are computed where they are read"]


@only_in_full
@pytest.mark.parametrize("kind", ["native", "llama"])
def test_activations_in_files(taken: Taken, kind: str, tmp_path: Path) -> None:
    agree(
        kind, lambda graph, dataset: ActivationStore(graph, dataset, Memory(0, tmp_path)), 3 * CASES
    )
    assert taken["gathered from a file"]
    assert taken["gathered at positions from a file"]
    assert not taken["gathered from memory"]
    assert not any(tmp_path.iterdir())  # nothing is left behind


def test_activations_in_files_and_in_memory(taken: Taken, tmp_path: Path) -> None:
    agree(
        "native",
        lambda graph, dataset: ActivationStore(graph, dataset, Memory(1 << 11, tmp_path)),
        2 * CASES,
    )
    assert taken["gathered from a file"]
    assert taken["gathered from memory"]


@pytest.mark.parametrize("turn", [(0, 1), pytest.param((1, 2), marks=only_in_full)])
def test_activations_of_another_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, turn: tuple[int, int]
) -> None:
    """Everything that is gathered was read from the disk cache; another store has put it there."""
    disk_cache = functools.partial(activation_files, BoundedFolder(tmp_path, 1 << 26))
    loaded, captured = Counter[str](), list[int]()
    capture = ActivationStore._capture

    def counted(store, sites, places):
        captured.append(len(places))
        return capture(store, sites, places)

    # of the store alone: what is put into a graph's class is code of no installed package
    monkeypatch.setattr(ActivationStore, "_capture", counted)

    class Second(ActivationStore):
        def ensure(self, sites, rows, progress=None):
            first = ActivationStore(self.graph, self.dataset, disk_cache=disk_cache, turn=turn)
            first.ensure(sites, rows)
            first.keep()
            before = len(captured)
            super().ensure(sites, rows, progress)
            loaded["captured again"] += len(captured) - before
            loaded["sites"] += len(sites)

    agree("native", lambda graph, dataset: Second(graph, dataset, disk_cache=disk_cache))
    assert captured
    assert loaded["sites"]
    assert not loaded["captured again"]


def test_sums_of_16_bit_contributions_are_made_in_float32() -> None:
    """Many children add the error of one rounding, and not of one for each child."""
    few = Architecture(
        n_layers=2, n_heads=4, d_head=8, d_model=32, n_ctx=6, norm="LN", attn_only=False
    )
    rng = np.random.default_rng(0)
    data = Dataset(
        torch.tensor(rng.integers(0, 5, size=(40, 6))), labels=np.zeros(40, dtype=int), label_pos=-1
    )
    parts = [f"head{layer}.{h}" for layer in range(2) for h in range(4)] + ["mlp0", "mlp1", "embed"]
    heads = [head(layer, h, agrees_on=ANYTHING) for layer in range(2) for h in range(4)]
    root = output(
        *heads, mlp(0, agrees_on=ANYTHING), mlp(1, agrees_on=ANYTHING), embed(agrees_on=ANYTHING)
    )
    graph = as_graph(build.__wrapped__(few).bridge.to(torch.bfloat16))
    evaluator = Evaluator(graph, data, root, Metric("m", lambda out, batch: out.double().mean(1)))
    swap_set = evaluator.space.draw(200, rng)
    mine = evaluator.streams(swap_set)
    assert mine.dtype == torch.bfloat16
    rows = dict(zip(evaluator.space.paths, torch.tensor(swap_set.donors.copy()), strict=True))

    def kept(site: Site, slot: str) -> torch.Tensor:
        return evaluator.store.take(site, rows[slot], None).double()

    exact = kept(Site("stream", ("post.1",), (5,)), "output/rest")
    for name in parts:
        value = graph.value_site((name,), (5,))
        change = kept(value, f"output/{name}") - kept(value, "output/rest")
        exact += change @ graph.parts[name].output_weights.double() if value.kind == "z" else change
    torch.testing.assert_close(
        mine.double(), exact, rtol=torch.finfo(torch.bfloat16).eps / 2 * 1.01, atol=1e-6
    )
