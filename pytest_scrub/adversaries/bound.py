"""What the swap sets that a search finds decide: their mean over references, and its interval."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pytest_scrub.statistics.acceptance import Acceptance, Interval, decided_by
from pytest_scrub.statistics.intervals import Numbers, confidence_sequence, point, unseen_tail
from pytest_scrub.verdict import HELD, REFUTED, UNDECIDED, Decided, Estimate

# References below which the mean of their worst swaps decides nothing, unless they are all.
FEWEST_TO_REFUTE, FEWEST_TO_HOLD = 100, 200


@dataclass(frozen=True)
class Decision:
    """What was decided, and by what.

    - `interval`: of the mean change; a point where it is of all references.
    - `longer`: the one that decides where that is longer, see `_of_few_worst`.
    - `of_null`: that of what was found for the null, where the two are compared.
    - `bound`: the largest mean that the claim accepts, in the metric's unit.
    """

    outcome: Decided
    interval: Estimate
    of_null: Estimate | None
    bound: float
    longer: Estimate | None = None


def by_references(
    acceptance: Acceptance,
    changes: Numbers,
    of_null: Numbers | None,
    rounding: float,
    *,
    exact: bool,
) -> Decision:
    """By the worst swaps of each reference.

    **Arguments**

    - `changes`, `of_null`: of the metric, float64 `[R]`, on the same references.
    - `rounding`: how far off their mean may be.
    - `exact`: the references are all that there are.
    """
    room = None if of_null is None else acceptance.sign * of_null
    interval = point if exact else _of_a_search
    decides = point if exact else _of_few_worst
    outcome = _outcome(acceptance, changes, room, rounding, decides)
    fewest = {HELD: FEWEST_TO_HOLD, REFUTED: FEWEST_TO_REFUTE}.get(outcome, 0)

    def mean(values: Numbers, interval: Interval = interval) -> Estimate:
        return interval(values, acceptance.largest_change, acceptance.confidence, 0.0)

    own, longer = mean(changes), mean(changes, decides)
    return Decision(
        outcome if exact or len(changes) >= fewest else UNDECIDED,
        own,
        None if of_null is None else mean(of_null),
        acceptance.accepted(room=0.0 if room is None else float(room.mean())),
        None if longer == own else longer,
    )


def by_distribution(
    acceptance: Acceptance, changes: Numbers, of_null: Numbers | None, rounding: float
) -> Decision:
    """By draws from a distribution that was chosen on other rows, and from the one that was chosen
    for the null; the two are no pairs."""
    if of_null is None:
        outcome = _outcome(acceptance, changes, None, rounding, _of_a_search)
        own = confidence_sequence(changes, acceptance.largest_change, acceptance.confidence)
        return Decision(outcome, own, None, acceptance.accepted())
    outcomes = [_relative(acceptance, changes, of_null)]
    if acceptance.tolerance is not None:
        absolute = replace(acceptance, min_explained=None)
        outcomes.append(absolute.outcome(changes, None, None, rounding)[0])
    own, null = (
        confidence_sequence(values, acceptance.largest_change, acceptance.confidence)
        for values in (changes, of_null)
    )
    return Decision(
        decided_by(outcomes), own, null, acceptance.accepted(room=acceptance.sign * null.mean)
    )


def _outcome(
    acceptance: Acceptance,
    changes: Numbers,
    room: Numbers | None,
    rounding: float,
    interval: Interval,
) -> Decided:
    """By the acceptance; where a share of the null is accepted and nothing is known of it, no more
    than the tolerance may decide, and only against the claim."""
    if room is not None or acceptance.min_explained is None:
        return acceptance.outcome(changes, None, room, rounding, interval=interval)[0]
    if acceptance.tolerance is None:
        return UNDECIDED
    absolute = replace(acceptance, min_explained=None)
    outcome, _ = absolute.outcome(changes, None, None, rounding, interval=interval)
    return REFUTED if outcome == REFUTED else UNDECIDED


def _of_a_search(values: Numbers, largest: float, confidence: float, rounding: float) -> Estimate:
    """Of the mean of what a search found; the average before it has seen as many as it needs."""
    return confidence_sequence(values, largest, confidence, rounding, alike=FEWEST_TO_HOLD)


def _of_few_worst(values: Numbers, largest: float, confidence: float, rounding: float) -> Estimate:
    """The same with either end moved out where values have a long tail there, which few references
    have not seen all of: else their mean is held too often."""
    found = _of_a_search(values, largest, confidence, rounding)
    if math.isfinite(largest) or not found.is_known:
        return found
    below, above = (unseen_tail(side, 1 - confidence) for side in (-values, values))
    return Estimate(found.mean, found.low - below, found.high + above)


def _relative(acceptance: Acceptance, changes: Numbers, of_null: Numbers) -> Decided:
    """Whether the mean change is at most the share of the null's that need not be explained."""
    assert acceptance.min_explained is not None
    share, above, below = 1 - acceptance.min_explained, *acceptance.sides

    def intervals(confidence: float) -> tuple[Estimate, Estimate]:
        both = 1 - (1 - confidence) / 2
        own = confidence_sequence(changes, acceptance.largest_change, both)
        return own, confidence_sequence(acceptance.sign * of_null, acceptance.largest_change, both)

    own, null = intervals(acceptance.to_refute)
    most = share * max(null.high, 0.0)
    if (above and own.low > most) or (below and own.high < -most):
        return REFUTED
    own, null = intervals(acceptance.confidence)
    least = share * null.low
    if least > 0 and (not above or own.high <= least) and (not below or own.low >= -least):
        return HELD
    return UNDECIDED
