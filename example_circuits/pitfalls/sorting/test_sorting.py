"""What can be claimed of a program that sorts, and what tells a merge sort from a quicksort.

"This node sorts" is true of both. A tree that says what its parts know is true of one.
"""

from __future__ import annotations

import pytest
import torch

from example_circuits.pitfalls.sorting import data, programs
from pytest_scrub import Metric, Refuted, claim, module, output

TOLERANCE = 0.01  # of the lists; a program is exact, so a claim that is true of it has a gap of 0
PROGRAMS = ("merge_sort", "merge_of_quick_sorts", "quick_sort")


def of(*true, false=()):
    """Of which programs a claim is true, and of which it is published as refuted, with its gap."""
    refuted = pytest.mark.xfail(raises=Refuted, strict=True)
    return pytest.mark.parametrize(
        "scrub_model",
        [*true, *(pytest.param(program, marks=refuted) for program in false)],
        indirect=True,
    )


def wrong(output, batch):
    return (output != batch.require_labels("wrong")).any(dim=1).double()


METRIC = Metric("lists that are not sorted", wrong, lower=0.0, upper=1.0)


def sorts(*reads, **options):
    """The output is made of what the list holds, in whatever order."""
    return output(module("sort", agrees_on="content", reads=reads, **options))


def partitions(**options):
    """One part knows what lies below the first number, the other what does not."""
    return sorts(
        module("sort.first", agrees_on="smaller"),
        module("sort.second", agrees_on="larger"),
        **options,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_sorts_every_list(program):
    numbers = data.lists()
    with torch.no_grad():
        out = getattr(programs, program)()(torch.from_numpy(numbers))
    assert torch.equal(out, torch.from_numpy(data.content(numbers)).float())


# What a node computes: no program can be told from another.


@of(*PROGRAMS)
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_this_node_sorts():
    return sorts()


@of(*PROGRAMS)
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_this_node_computes_the_sorted_list():
    """Its value replaced by the sorted list itself: the most that can be said of one node."""
    return output(
        module(
            "sort",
            agrees_on="content",
            computed_by=lambda content: torch.tensor(content[:, 0]).float(),
        )
    )


# How it computes it: a tree. The leaves of a tree are nodes again: how a half is sorted remains
# open.


@of("merge_sort", "merge_of_quick_sorts", false=["quick_sort"])  # gap 0.99
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_it_merges_sorted_halves():
    return sorts(module("sort.first", agrees_on="left"), module("sort.second", agrees_on="right"))


@of("quick_sort", false=["merge_sort", "merge_of_quick_sorts"])  # gap 0.92 for both
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_it_partitions():
    """What joins the parts reads the pivot from the list itself, so the rest has to agree on it."""
    return partitions(rest="pivot")


@of(false=["quick_sort"])  # gap 0.74
@claim(tolerance=TOLERANCE, metric=METRIC)
def test_it_partitions_around_any_pivot():
    return partitions()
