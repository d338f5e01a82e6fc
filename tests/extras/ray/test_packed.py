"""What is sent to workers: networks and activations, once and as views of one memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_scrub import (
    module,
    output,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network import as_graph
from tests.extras.ray.networks import (
    MODULE,
    ROWS,
    Perceptron,
    evaluator,
    figures,
    functions,
    gpt2,
    llama,
    loss,
    native,
    numbers,
    tokens,
)
from tests.sizes import only_in_full

pytestmark = pytest.mark.xdist_group("ray")


def chunks_of(shared: Any, site: Any) -> Any:
    return dict(shared._published.values())[site]


def test_activations_are_few_chunks_however_they_came(executor: Any) -> None:
    """Logarithmically many, each place in one of them; what was sent altogether is a small
    multiple."""
    graph, data = functions(), numbers()
    store = ActivationStore(graph, data, executor=executor)
    own = Evaluator(graph, data, output(module("A", agrees_on="sign")), loss, store=store)
    sites, sent, seen = own.sites, 0, set()
    for start in range(0, ROWS, 30):
        store.ensure(sites, np.arange(start, start + 30))
        shared = executor._sent_store(store)
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


def test_activations_that_were_forgotten_are_sent_anew(executor: Any) -> None:
    import ray

    own = evaluator(functions(), numbers(), output(module("A", agrees_on="sign")), executor)
    before, shared = figures(own), executor._sent_store(own.store)
    kept = [own.store.site_cache(site) for site in own.sites]
    own.store._kept.clear()
    own.ensure(own.sites, np.arange(4))
    shared.chunks(own.store, own.sites)
    assert [len(places) for places, _ in chunks_of(shared, own.sites[0])] == [4]
    np.testing.assert_array_equal(figures(own), before)
    del kept
    own.store._kept.clear()
    assert ray.get(shared.chunks(own.store, ())) == {}


def test_a_row_that_nobody_has_captured_is_never_made_up(executor: Any) -> None:
    own = evaluator(functions(), numbers(), output(module("A", agrees_on="sign")), executor)
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
@only_in_full
def test_weights_and_activations_are_in_memory_once(executor: Any, tmp_path: Path) -> None:
    import ray

    own = evaluator(Perceptron(4000), numbers(), MODULE, executor)
    own.ensure(own.sites, np.arange(100))
    claim, where = executor._claim(own, own.sites), ray.remote(_where)
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
