"""Strategies for swap sets: what they draw is allowed, nothing allowed is out of reach, and
failures are small."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.swaps.space import SwapSet, SwapSpace
from pytest_scrub.swaps.strategies import swap_sets
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, module, output
from tests.pytest_edge.conftest import Suite
from tests.sizes import few_in_quick, only_in_full, sized
from tests.swaps.test_space import SPLIT, UNEVEN, datasets, hypotheses, swaps_by_hand

CHAIN = output(
    module("a", agrees_on="f", reads=[module("x", agrees_on="g")], name="owner"),
    module("b", agrees_on="f", shares="owner"),
    rest=EXACT,
)


def drawn(strategy: st.SearchStrategy[SwapSet], count: int) -> list[SwapSet]:
    found: list[SwapSet] = []

    @settings(max_examples=count, phases=[Phase.generate])
    @given(strategy)
    def collect(swap_set: SwapSet) -> None:
        found.append(swap_set)

    collect()
    return found


def swapped(swap_set: SwapSet, hypothesis: Node, dataset: Dataset) -> Any:
    return swap_set.donors != SwapSpace(hypothesis, dataset).parents(swap_set)


# --- what is drawn --------------------------------------------------------------------------------


@given(hypotheses(depth=2), datasets(), st.integers(1, 3), st.data())
def test_what_is_drawn_is_allowed(
    hypothesis: Node, dataset: Dataset, max_size: int, data: st.DataObject
) -> None:
    swap_set = data.draw(swap_sets(hypothesis, dataset, max_size=max_size))
    assert SwapSpace(hypothesis, dataset).check(swap_set) == []
    assert 1 <= len(swap_set) <= max_size
    assert set(swap_set.references.tolist()) <= set(dataset.reference_rows.tolist())
    assert (swap_set.hypothesis, swap_set.dataset) == (hypothesis, dataset.digest())


@pytest.mark.parametrize("dataset", [UNEVEN, SPLIT])
@pytest.mark.parametrize(
    "hypothesis", [CHAIN, output(module("a", agrees_on="f"), agrees_on="g"), output()]
)
def test_every_allowed_swap_is_reached(dataset: Dataset, hypothesis: Node) -> None:
    expected = {
        (reference, *donors)
        for reference, donors, _ in swaps_by_hand(SwapSpace(hypothesis, dataset))
    }
    found = drawn(swap_sets(hypothesis, dataset, max_size=1), 5000)
    assert {tuple(np.vstack([s.references, s.donors])[:, 0].tolist()) for s in found} == expected


def test_references_may_be_several_and_the_same_again() -> None:
    found = drawn(swap_sets(CHAIN, UNEVEN), 300)
    assert {len(s) for s in found} == {1, 2, 3, 4}
    assert any(len(set(s.references.tolist())) < len(s) for s in found)
    assert any(len(set(s.references.tolist())) == 4 for s in found)


def test_about_half_of_the_slots_are_swapped() -> None:
    tree = output(*(module(name, agrees_on=ANYTHING) for name in "abcdefg"))
    shares = [swapped(s, tree, UNEVEN).mean() for s in drawn(swap_sets(tree, UNEVEN), 300)]
    assert 0.35 < np.mean(shares) < 0.65
    assert np.std(shares) > 0.05


# --- large data -----------------------------------------------------------------------------------


LARGE = Dataset(torch.arange(100_000)[:, None], features={"f": np.arange(100_000) % 3})


@only_in_full
def test_rows_of_a_large_dataset_are_drawn_evenly() -> None:
    tree = output(module("a", agrees_on="f"))
    found = drawn(swap_sets(tree, LARGE), 300)
    moved = np.concatenate([s.donors[swapped(s, tree, LARGE)] for s in found])
    for rows in (moved, np.concatenate([s.references for s in found])):
        assert np.all(
            np.abs(np.quantile(rows / 100_000, [0.25, 0.5, 0.75]) - [0.25, 0.5, 0.75]) < 0.25
        )


def test_donors_are_listed_once_for_all_rows_that_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    allowed = SwapSpace.allowed

    def counted(space: SwapSpace, slot: str, parents: Any) -> Any:
        calls.append(slot)
        return allowed(space, slot, parents)

    monkeypatch.setattr(SwapSpace, "allowed", counted)
    drawn(swap_sets(output(module("a", agrees_on="f"), module("b", agrees_on="f")), LARGE), 100)
    assert len(calls) == 4  # three classes of f, and ANYTHING


# --- shrinking ------------------------------------------------------------------------------------


def smallest(
    hypothesis: Node, dataset: Dataset, condition: Callable[[SwapSet], Any], seed: int = 0
) -> SwapSet:
    tries = settings(max_examples=2000, database=None)
    return find(
        swap_sets(hypothesis, dataset),
        lambda s: bool(condition(s)),
        settings=tries,
        random=Random(seed),
    )


THREE = output(*(module(name, agrees_on=ANYTHING) for name in "abc"), rest=EXACT)
ROWS = Dataset(
    torch.arange(20)[:, None], features={"f": np.arange(20) // 2}, references=np.arange(3, 20)
)


def test_it_shrinks_to_no_swap_of_the_first_reference() -> None:
    assert smallest(THREE, ROWS, lambda s: True) == SwapSpace(THREE, ROWS).unswapped(np.array([3]))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_shrinks_to_one_reference_with_as_few_swaps_as_do(count: int) -> None:
    found = smallest(THREE, ROWS, lambda s: (swapped(s, THREE, ROWS).sum(axis=0) >= count).any())
    assert (len(found), swapped(found, THREE, ROWS).sum()) == (1, count)


def test_it_shrinks_to_as_few_references_as_do() -> None:
    found = smallest(THREE, ROWS, lambda s: swapped(s, THREE, ROWS).any(axis=0).sum() >= 3)
    assert (len(found), swapped(found, THREE, ROWS).sum()) == (3, 3)


@few_in_quick(4)
@pytest.mark.parametrize("seed", range(10))
def test_no_reference_stays_that_is_not_needed(seed: int) -> None:
    found = smallest(
        THREE,
        ROWS,
        lambda s: ((s.references > 9) & swapped(s, THREE, ROWS).any(axis=0)).any(),
        seed,
    )
    assert (len(found), swapped(found, THREE, ROWS).sum()) == (1, 1)


@pytest.mark.parametrize("seed", range(sized(2, 10)))
def test_a_parent_does_not_stay_swapped_to_be_rid_of_what_its_children_may_take(seed: int) -> None:
    # Below row 0 every child has two donors, and below the others, where the parent may go, only
    # one.
    dataset = Dataset(torch.arange(6)[:, None], features={"f": [0, 0, 1, 2, 3, 4]}, references=[0])
    below = [module(name, agrees_on="f") for name in "xyz"]
    tree = output(
        module("p", agrees_on=ANYTHING, reads=below, rest=EXACT),
        module("d", agrees_on=ANYTHING),
        rest=EXACT,
    )
    d = SwapSpace(tree, dataset).index["output/d"]
    found = smallest(tree, dataset, lambda s: (s.donors[d] > 1).any(), seed)
    assert (len(found), swapped(found, tree, dataset).sum()) == (1, 1)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("max_size", [0, -1, 2.5, None])
def test_a_swap_set_has_a_reference(max_size: Any) -> None:
    sentence = f"max_size= is the most references of a swap set; give at least 1, not {max_size!r}"
    with pytest.raises(DataError, match=rf"^{re.escape(sentence)}$"):
        swap_sets(CHAIN, UNEVEN, max_size=max_size)


def test_what_does_not_fit_is_refused_before_anything_is_drawn() -> None:
    with pytest.raises(DataError, match=r"^output/a: the dataset has no feature 'h'"):
        swap_sets(output(module("a", agrees_on="h")), UNEVEN)
    with pytest.raises(HypothesisError, match=r"^a hypothesis starts at output"):
        swap_sets(module("a", agrees_on="f"), UNEVEN)


# --- in a test of one's own -----------------------------------------------------------------------


PROPERTIES = """
    import numpy as np
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st
    from pytest_scrub.swaps.strategies import swap_sets

    FIXTURES = settings(
        suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50
    )

    @FIXTURES
    @given(data=st.data())
    def test_the_parity_decides(scrub, scrub_data, data):
        swaps = data.draw(swap_sets(output(module("A", agrees_on="a")), scrub_data))
        assert scrub.gap(swaps).max() < 0.5

    @FIXTURES
    @given(data=st.data())
    def test_no_allowed_swap_flips_the_label(scrub, scrub_data, data):
        hypothesis = output(module("A", agrees_on=ANYTHING))
        swaps = data.draw(swap_sets(hypothesis, scrub_data))
        margin = scrub.evaluator(hypothesis).outputs(swaps).diff(dim=-1)[:, 0].numpy()
        kept = (margin > 0) == (scrub_data.labels.numpy()[swaps.references] == 1)
        swapped = (swaps.donors != scrub.space(hypothesis).parents(swaps)).sum()
        assert kept.all(), f"{len(swaps)} reference, {swapped} swapped, row {swaps.references[0]}"
"""


@only_in_full
def test_properties_over_swap_sets_hold_or_fall_to_the_smallest(pytester: pytest.Pytester) -> None:
    suite = Suite(pytester)
    suite.write(PROPERTIES)
    ran = suite.run()
    assert ran.outcomes == {"passed": 1, "failed": 1}
    ran.result.stdout.fnmatch_lines(["*AssertionError: 1 reference, 1 swapped, row 0*"])
    ran.result.stdout.fnmatch_lines(["*Draw 1: SwapSet(*"])
