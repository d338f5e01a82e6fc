"""Room for clean activations: what lies in files where memory is short, and what a
full disk does."""

from __future__ import annotations

import os
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.memory import CACHED, Memory
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import ModelError
from pytest_scrub.tree.nodes import (
    module,
    output,
)
from tests.engine.counting import NON_LEAF, OUT, REPEATED, counting, drawn


def in_memory(store: ActivationStore) -> set[str]:
    return {str(site) for site, kept in store._kept.items() if not kept.in_file}


def room_for(sites: int) -> Memory:
    """Memory for so many sites: float32 numbers, one for each of the five contents."""
    return Memory(int(np.ceil(4 * 5 * sites / CACHED)))


def test_beyond_the_limit_what_was_not_needed_for_longest_lies_in_files() -> None:
    graph = counting()
    store = ActivationStore(graph, REPEATED, memory=room_for(3))
    by_name = {
        name: Evaluator(
            graph, REPEATED, output(module(name, agrees_on="f", via="any")), OUT, store=store
        )
        for name in "AB"
    }
    by_name["a"] = Evaluator(graph, REPEATED, output(agrees_on="f"), OUT, store=store)
    figures = by_name["A"].evaluate(drawn(by_name["A"]))
    # the arguments of the output, whatever reaches them
    assert in_memory(store) == {"value of A", "value of B"}
    by_name["a"].evaluate(drawn(by_name["a"]))
    assert in_memory(store) == {"value of A", "value of B", "value of output"}  # that still fits
    store.ensure([graph.value_site(("a",), None)], np.arange(7))
    assert in_memory(store) == {"value of B", "value of output", "value of a"}  # A came first
    assert store.memory.held == 4 * 5 * 3
    before = graph.captured.copy()
    np.testing.assert_array_equal(by_name["A"].evaluate(drawn(by_name["A"])), figures)
    assert graph.captured == before  # nothing was forgotten


@pytest.mark.parametrize("sites", [0, 1])
def test_what_is_needed_together_and_has_no_room_lies_in_files(sites: int) -> None:
    graph = counting()
    roomy = Evaluator(graph, REPEATED, NON_LEAF, OUT)
    store = ActivationStore(graph, REPEATED, memory=room_for(sites))
    evaluator = Evaluator(graph, REPEATED, NON_LEAF, OUT, store=store)
    np.testing.assert_array_equal(
        evaluator.evaluate(drawn(evaluator)), roomy.evaluate(drawn(roomy))
    )
    assert len(in_memory(store)) == sites
    assert store.memory.held == 4 * 5 * sites


def test_using_again_keeps() -> None:
    graph = counting()
    store = ActivationStore(graph, REPEATED, memory=room_for(2))
    for name in ("a", "A", "a", "B"):
        store.ensure([graph.value_site((name,), None)], np.arange(7))
    assert in_memory(store) == {"value of a", "value of B"}


def test_stores_share_a_limit() -> None:
    memory, graph = room_for(1), counting()
    stores = [ActivationStore(graph, REPEATED, memory=memory) for _ in range(2)]
    for store in stores:
        store.ensure([graph.value_site(("a",), None)], np.arange(7))
    assert [in_memory(store) for store in stores] == [set(), {"value of a"}]
    del store, stores
    assert memory.held == 0


def test_without_a_limit_all_is_in_memory() -> None:
    graph = counting()
    store = ActivationStore(graph, REPEATED)
    for root in (output(module("A", agrees_on="f")), output(agrees_on="f"), NON_LEAF):
        evaluator = Evaluator(graph, REPEATED, root, OUT, store=store)
        evaluator.evaluate(drawn(evaluator))
    assert in_memory(store) == {f"value of {name}" for name in ("a", "A", "B", "output")}
    assert store.bytes() == store.memory.held == 4 * 4 * 5
    assert store.bytes_per_row(next(iter(store._kept))) == 4


def test_without_a_limit_what_has_no_room_is_said_before_most_of_it_is_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pytest_scrub.engine.memory.free_bytes", lambda device: 4 * 5 - 1)
    monkeypatch.setattr("pytest_scrub.engine.store.CAPTURE_BATCH", 1)
    graph = counting()
    store = ActivationStore(graph, REPEATED)
    graph.captured.clear()
    site = graph.value_site(("a",), None)
    sentence = (
        "the clean activations of 5 rows (most of them the value of a) take 1.91e-05 MiB, but "
        "1.81e-05 MiB are free; name positions with pos=, claim fewer nodes, or take fewer rows, "
        "or give --scrub-memory, beyond which they lie in files"
    )
    with pytest.raises(ModelError, match=re.escape(sentence)):
        store.ensure([site], np.arange(7))
    assert set(graph.captured) == {0, 4}  # the last beside the first, to prove that they are alike
    store.ensure([site], np.array([0, 1]))  # two have room
    limited = ActivationStore(graph, REPEATED, memory=Memory(0))
    limited.ensure([site], np.arange(7))  # in files


def test_where_activations_would_lie_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("pytest_scrub.engine.memory.free_bytes", lambda device: 3 << 30)
    cpu, disk = torch.device("cpu"), SimpleNamespace(free=2 << 40)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: disk)
    smaller = "name positions with pos=, claim fewer nodes, or take fewer rows"
    free, limited = Memory(), Memory(1 << 30, tmp_path)
    assert free.where(1, cpu) == (True, "in memory, where 3 GiB are for them")
    assert free.where(4 << 30, cpu) == (
        False, f"they do not fit: 3 GiB are there in memory; {smaller}",
    )  # fmt: skip
    assert limited.where(1, cpu) == (True, "in memory, where 768 MiB are for them")
    in_files = f"in files in {tmp_path}, where 2.05e+03 GiB are free"
    assert limited.where(1 << 30, cpu) == (True, in_files)
    disk.free = 1 << 20
    assert limited.where(1 << 30, cpu) == (
        False, f"they do not fit: 768 MiB are there in memory and 1 MiB in {tmp_path}; {smaller}",
    )  # fmt: skip


def test_a_folder_without_room_is_said() -> None:
    store = ActivationStore(counting(), REPEATED, memory=Memory(0, Path("/nowhere")))
    with pytest.raises(
        ModelError,
        match=r"could not be put into /nowhere \(.*\); raise --scrub-memory, or let TMPDIR",
    ):
        store.ensure([store.graph.value_site(("a",), None)], np.arange(7))


def test_on_a_full_disk_what_was_not_needed_for_longest_is_captured_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph = counting()
    store = ActivationStore(graph, REPEATED, memory=Memory(0))
    sites = {name: graph.value_site((name,), None) for name in "aAB"}
    for name in "aA":
        store.ensure([sites[name]], np.arange(7))
    allocate, refusals = os.posix_fallocate, [OSError(28, "No space left on device")]

    def full(*args: int) -> None:
        if refusals:
            raise refusals.pop()
        allocate(*args)

    monkeypatch.setattr(os, "posix_fallocate", full)
    store.ensure([sites["B"]], np.arange(7))
    assert [store.site_cache(site).filled.any() for site in sites.values()] == [False, True, True]
    store.ensure([sites["a"]], np.arange(7))
    everything = torch.arange(7)
    np.testing.assert_array_equal(
        store.take(sites["a"], everything, None),
        graph.capture([sites["a"]], REPEATED.batch(np.arange(7)))[sites["a"]],
    )
