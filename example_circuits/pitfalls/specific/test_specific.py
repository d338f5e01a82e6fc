"""Claims that hold and say little, and claims that test nothing.

The more two lists have to agree on, the fewer swaps are left, and the easier a claim is to hold:
down to a program that does not sort, and to no swap at all.
"""

from __future__ import annotations

import numpy as np
import pytest

from pytest_scrub import EXACT, Metric, Refuted, SwapSpace, Untested, claim, module, output

TOLERANCE = 0.01  # of the lists; programs are exact
refuted = pytest.mark.xfail(raises=Refuted, strict=True)
untested = pytest.mark.xfail(raises=Untested, strict=True)


def changed(output, batch):
    return (output != batch.clean).any(dim=1).double()


# The clean output, not the sorted list: a program that is wrong before and after the swap has to
# show as well.
METRIC = Metric("lists that come out otherwise", changed, lower=0.0, upper=1.0, needs_clean=True)


def the_output_follows_from(feature):
    return output(module("sort", agrees_on=feature))


# Specific enough: what says "sorts" is refuted where nothing is sorted.


@pytest.mark.parametrize(
    "scrub_model", ["merge_sort", pytest.param("forgetful", marks=refuted)], indirect=True
)
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_it_follows_from_what_the_list_holds():  # refuted with a gap of 0.78
    return the_output_follows_from("content")


# Too specific: true of both, so it says nothing about sorting.


@pytest.mark.parametrize("scrub_model", ["merge_sort", "forgetful"], indirect=True)
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_it_follows_from_what_the_halves_hold():
    return the_output_follows_from(["left", "right"])


@pytest.mark.parametrize(
    ("feature", "donors"), [("content", 60), (["left", "right"], 18), ("numbers", 1)]
)
def test_fewer_swaps_are_left(scrub_data, feature, donors):
    """How many of the 4,096 lists may stand in for a list, itself included; the median over all
    lists."""
    count = SwapSpace(the_output_follows_from(feature), scrub_data).count()
    assert np.median(count["output/sort"]) == donors


# Nothing is left to swap.


@untested
@pytest.mark.parametrize("scrub_model", ["merge_sort", "forgetful"], indirect=True)
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_it_follows_from_the_list():
    """No two lists are the same, so every list is its own only donor."""
    return the_output_follows_from("numbers")


@untested
@pytest.mark.parametrize("scrub_model", ["merge_sort", "forgetful"], indirect=True)
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_exact():
    return the_output_follows_from(EXACT)


@untested
@pytest.mark.parametrize("scrub_model", ["merge_sort"], indirect=True)
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_one_node_of_several():
    """The second half is tested well, the first not at all; every node is asked for itself."""
    return output(
        module(
            "sort",
            agrees_on="content",
            reads=[
                module("sort.first", agrees_on="numbers"),
                module("sort.second", agrees_on="right"),
            ],
        )
    )
