"""The gap by the values of a feature: the worst slice, and slices that are hardly drawn."""

from __future__ import annotations

import pytest
import torch

from pytest_scrub import (
    DataError,
    HypothesisError,
    Metric,
)
from tests.statistics.test_average import ROWS, SLICE, rows, three, verdict


def test_the_gap_by_the_values_of_a_feature() -> None:
    only_in_3 = Metric(
        "in 3",
        lambda out, batch: 2 * ((out != 5 + batch.inputs["a"]) & three(batch)).double(),
        lower=0,
        upper=2,
    )
    found = verdict(metric=only_in_3, by="slice", tolerance=1.0)
    assert found.average == "held"
    assert found.slices is not None
    assert (found.slices.by, found.slices.tolerance) == ("slice", None)
    assert found.slices.slices[0].value == "3"
    assert sum(one.samples for one in found.slices.slices) == found.samples
    assert {one.references for one in found.slices.slices} == {250}
    worst = found.slices.slices[0]
    assert worst.gap is not None
    assert worst.gap.mean == pytest.approx(2, abs=0.05)
    assert all(one.gap is not None and one.gap.mean == 0 for one in found.slices.slices[1:])
    assert {one.outcome for one in found.slices.slices} == {None}


def test_the_worst_slice_may_gate() -> None:
    only_in_3 = Metric(
        "in 3",
        lambda out, batch: 2 * ((out != 5 + batch.inputs["a"]) & three(batch)).double(),
        lower=0,
        upper=2,
    )
    found = verdict(
        metric=only_in_3,
        by="slice",
        tolerance=1.0,
        slice_tolerance=1.0,
        adversaries=None,
        samples=1000,
    )
    assert (found.average, found.outcome) == ("refuted", "refuted")
    assert found.slices is not None
    assert {one.value: one.outcome for one in found.slices.slices}["3"] == "refuted"
    assert found.search is not None
    assert found.search.counterexample is not None  # of that slice, and beyond its tolerance
    assert found.search.counterexample.gap == 2
    assert (
        verdict(metric=only_in_3, by="slice", tolerance=1.0, slice_tolerance=3.0).average == "held"
    )


def test_intervals_of_slices_hold_together() -> None:
    """With forty slices of no gap, some interval for one of them alone would be beyond a tolerance
    of none."""
    data = rows(features={"slice": SLICE, "forty": torch.arange(ROWS) % 40})
    found = verdict(data=data, by="forty", samples=4000, tolerance=1e-6).slices
    assert found is not None
    assert len(found.slices) == 40
    assert all(one.gap is not None and one.gap.low <= 0 <= one.gap.high for one in found.slices)


def test_a_slice_that_is_hardly_drawn_is_undecided() -> None:
    few = ["rare"] * 3 + ["common"] * (ROWS - 3)
    data = rows(features={"slice": SLICE, "few": few})
    found = verdict(data=data, by="few", slice_tolerance=5.0, samples=1000)
    assert found.outcome == "undecided"
    assert found.samples == 1000
    assert found.slices is not None
    assert {one.value: one.outcome for one in found.slices.slices} == {
        "rare": "undecided",
        "common": "held",
    }


def test_slices_that_have_no_meaning() -> None:
    with pytest.raises(HypothesisError, match=r"^slice_tolerance= needs by="):
        verdict(slice_tolerance=1.0)
    with pytest.raises(DataError, match="no feature 'slise'; did you mean 'slice'"):
        verdict(by="slise")
    with pytest.raises(HypothesisError, match=r"^slice_tolerance= is a gap, zero or more, not -1$"):
        verdict(by="slice", slice_tolerance=-1)
