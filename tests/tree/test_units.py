"""Sets of units: one text for one set, whatever it was given as, and sentences for what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_scrub import ANYTHING, HypothesisError, neurons
from pytest_scrub.tree.units import LONGEST, are_apart, named, numbers, shown, split, text_of

COUNT = 40
SETS = st.sets(st.integers(0, COUNT - 1), min_size=1).map(sorted)


def text(units: Any) -> str:
    found = split(neurons(3, units).component)
    assert found is not None
    assert found[0] == "neurons3"
    return found[1]


@given(SETS)
def test_a_text_means_the_numbers_that_it_was_made_of(units: list[int]) -> None:
    assert numbers(text_of(units), COUNT).tolist() == units


@given(SETS, SETS)
def test_one_set_has_one_text_and_two_have_two(one: list[int], other: list[int]) -> None:
    assert (text(one) == text(other)) == (one == other)
    assert are_apart(text(one), text(other)) == (not {*one} & {*other})


@given(st.integers(0, 9), st.integers(1, COUNT), st.integers(1, 5))
def test_a_slice_is_the_list_of_what_it_holds(start: int, length: int, step: int) -> None:
    some = slice(start, start + length, step)
    assert text(some) == text(list(range(start, start + length, step)))


@pytest.mark.parametrize(
    "units",
    [
        [5, 2, 3],
        (2, 3, 5),
        {2, 3, 5},
        np.array([5, 3, 2]),
        torch.tensor([2, 3, 5]),
        iter([2, 3, 5]),
    ],
    ids=lambda units: type(units).__name__,
)
def test_any_collection_of_whole_numbers_will_do(units: Any) -> None:
    assert text(units) == "2:4,5"


def test_without_an_end_all_that_there_are() -> None:
    assert text(slice(None)) == text(slice(0, None)) == "0:"
    assert numbers(text(slice(1, None, 2)), 7).tolist() == [1, 3, 5]
    assert not are_apart("0:", "7")  # of how many, a tree does not know


def test_sixteen_thousand_units_are_one_short_text() -> None:
    assert text(range(16_384)) == "0:16384"
    assert text(list(range(0, 16_384, 2))) == "0:16383:2"


def test_what_is_shown_of_a_long_set_is_short_and_its_own() -> None:
    rng = np.random.default_rng(0)
    sets = [np.sort(rng.choice(10_000, 500, replace=False)).tolist() for _ in range(50)]
    labels = {neurons(3, units, agrees_on=ANYTHING).label for units in sets}
    assert len(labels) == len(sets)
    assert all(len(label) < 2 * LONGEST and "500 units" in label for label in labels)
    assert shown(named("neurons3", "0:5")) == "neurons3[0:5]"
    assert shown("head1.0") == "head1.0"


@pytest.mark.parametrize(
    ("units", "said"),
    [
        ([], "units= of neurons3 is empty; give different units"),
        ([1, 2, 1], "units= of neurons3 names one twice; give different units"),
        (-1, "a unit in units= of neurons3 is a whole number counted from 0, not -1"),
        ([0.5], "a unit in units= of neurons3 is a whole number counted from 0, not 0.5"),
        ([True], "a unit in units= of neurons3 is a whole number counted from 0, not True"),
        ("all", "a unit in units= of neurons3 is a whole number counted from 0, not 'all'"),
        (slice(4, 2), "units= of neurons3: slice(4, 2, None) holds no unit"),
        (slice(0, 4, 0), "units= of neurons3: slice(0, 4, 0) holds no unit"),
        (slice(-4, None), "start of units= of neurons3 is a whole number counted from 0, not -4"),
    ],
    ids=str,
)
def test_what_is_no_set_is_said_in_a_sentence(units: Any, said: str) -> None:
    with pytest.raises(HypothesisError) as error:
        neurons(3, units)
    assert str(error.value) == said
