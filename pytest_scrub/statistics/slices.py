"""The gap by the values of a feature of the reference."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.statistics.acceptance import Acceptance, decided_by, slack
from pytest_scrub.statistics.sampling import Sample
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import Agreement
from pytest_scrub.verdict import REFUTED, TOO_FEW, UNDECIDED, Decided, Slice, Slices

FEWEST_OF_A_SLICE = 50  # units before a slice is decided: its interval is asymptotic too


def slices(
    space: SwapSpace, sample: Sample, by: str, acceptance: Acceptance, tolerance: float | None
) -> Slices:
    """The gap of every value that a reference has: what was refuted first, then what is undecided,
    by the gap.

    **Arguments**

    - `by`: the feature.
    - `tolerance`: the largest gap of a slice, or None to report only.

    Intervals hold for all slices together: the error that the claim's confidence leaves is shared
    among them, and, where they gate, among all that can refute the claim (Bonferroni).

    **Raises** `DataError` where the dataset has no such feature.
    """
    dataset = space.dataset
    codes, values = dataset.codes(Agreement((by,))), dataset.feature(by)
    kinds, first, counts = np.unique(
        codes[space.reference_rows], return_index=True, return_counts=True
    )
    routes = len(kinds) + (0 if tolerance is None else acceptance.routes)
    confidence = 1 - (1 - acceptance.confidence) / routes
    accepted = None if tolerance is None else acceptance.with_tolerance(tolerance)
    per_unit = 1 if sample.exact else sample.references.plan.per_unit
    drawn = codes[sample.swap_set.references[::per_unit]]
    changes, rounding = sample.units(sample.changes), sample.units(sample.rounding)
    weights = sample.units(np.ones(len(sample)))
    largest_weight = sample.largest_weight
    found = []
    for kind, at, count in zip(kinds, first, counts, strict=True):
        here = drawn == kind
        gap, why = None, None
        outcome: Decided | None = None
        if here.any():
            weight = weights[here].mean()
            own, off = changes[here] / weight, float(rounding[here].mean() / weight)
            alike = off if accepted is None else slack(off, accepted.accepted())
            gap = sample.interval(
                own, acceptance.largest_change * largest_weight, confidence, alike
            )
        if accepted is not None:
            outcome, why = UNDECIDED, TOO_FEW
            if here.sum() >= FEWEST_OF_A_SLICE or (sample.exact and here.any()):
                outcome, why = accepted.outcome(
                    own, None, None, off,
                    confidence=confidence, largest_weight=largest_weight, interval=sample.interval,
                )  # fmt: skip
        value = values[space.reference_rows[at]]
        found.append(Slice(said(value), int(count), int(here.sum()), gap, outcome, why))

    def badness(one: Slice) -> tuple[bool, bool, float]:
        return (
            one.outcome == REFUTED,
            one.outcome == UNDECIDED,
            acceptance.badness(one.gap.mean if one.gap else 0.0),
        )

    worst_first = sorted(found, key=badness, reverse=True)
    return Slices(by, tolerance, tuple(worst_first))


def said(value: object) -> str:
    """A feature's value in words."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    return str(plain)


def outcome_of(sliced: Slices | None) -> Decided:
    """What the slices decide together."""
    return decided_by(() if sliced is None else (one.outcome for one in sliced.slices))


def why_of(sliced: Slices | None) -> str | None:
    """Why the slices are undecided: the reason of the first that is."""
    each = () if sliced is None else sliced.slices
    return next((one.undecided for one in each if one.outcome == UNDECIDED), None)


def refuted_slice(
    sliced: Slices | None, sample: Sample, dataset: Dataset
) -> tuple[npt.NDArray[np.bool_], float]:
    """The samples of the worst slice that was refuted, bool `[samples]`, and the tolerance that it
    exceeds."""
    assert sliced is not None
    assert sliced.tolerance is not None
    worst = next(one for one in sliced.slices if one.outcome == REFUTED)
    values = dataset.feature(sliced.by)[sample.swap_set.references]
    return np.array([said(value) == worst.value for value in values]), sliced.tolerance
