"""The claim against its null: what it would cost if its features knew nothing.

A claim that would hold then as well is no evidence for what it says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from pytest_scrub.adversaries.in_turn import search_in_turn
from pytest_scrub.adversaries.worst import (
    acceptance_of_found,
    deadline_from_now,
    under_one_permutation,
)
from pytest_scrub.errors import ScrubError
from pytest_scrub.statistics.average import (
    Measured,
    interval_of_draws,
    outcome_of_draws,
    percentiles,
)
from pytest_scrub.statistics.sampling import Sample, UnderNull
from pytest_scrub.verdict import (
    HELD,
    HURTS,
    NO_FEATURE,
    NO_ROOM,
    REFUTED,
    UNDECIDED,
    Null,
    Search,
    WorstOfNull,
)


@dataclass(frozen=True)
class AgainstNull:
    """What the null says of a claim, by the names that it has in a `Verdict`."""

    null: Null | None
    null_reason: str | None
    explained: float | None = None
    explained_reason: str | None = None

    @property
    def tells(self) -> bool:
        """Whether a claim that held is told from its null, or has none."""
        return self.null_reason in (NO_FEATURE, HURTS) or (self.null is not None and self.null.told)


def against_null(average: Measured, searched: Search | None) -> AgainstNull:
    """The null of a claim on the claim's own references, drawn until it is told from the claim.

    Where the claim held and its draws do not tell its null from it, and the claim withstood a
    search that gates, the null is searched in the same way.
    """
    under = average.under_null
    if average.settings.min_gap is not None:
        return AgainstNull(None, HURTS)
    if under is None:
        return AgainstNull(None, NO_FEATURE)
    gates = (
        searched is not None
        and average.settings.would_gate
        and searched.worst is not None
        and acceptance_of_found(average).tolerance is not None
    )
    confidence = 1 - (1 - average.settings.confidence) / (1 + gates)
    # by one that the run only shows as well; where it did not, the null decides nothing
    withstood = searched is not None and not (searched.refutes or searched.undecided)
    try:
        null = _on_average(average, under, confidence)
        if average.outcome == HELD and null.outcome != REFUTED and gates and withstood:
            null = _searched(average, under, null, confidence)
    except ScrubError as error:
        return AgainstNull(None, f"its null cannot be judged: {error}")
    return AgainstNull(null, None, *_explained(average, null))


def _on_average(average: Measured, under: UnderNull, confidence: float) -> Null:
    drawn, acceptance, plan = average.sample, average.acceptance, average.references.plan
    is_drawn = len(drawn) if acceptance.min_explained is not None else 0
    looks = [count for count in plan.looks() if count >= is_drawn]
    if average.outcome != HELD:  # then the null decides nothing, and is only shown
        looks = looks[:1]
    every = under.every if drawn.exact else None
    for count in looks if every is None else [len(every)]:
        sample = every or Sample(drawn.references, drawn.swap_set, under.scrubbed(count))
        found, why = outcome_of_draws(sample, acceptance, under, confidence)
        if found != UNDECIDED or why == NO_ROOM:
            break
    gap = interval_of_draws(sample, sample.changes, acceptance, average.slack)
    size, changes = sample.mean(np.abs(sample.changes)), percentiles(sample.changes, sample.weights)
    return Null(under.null.what, gap, size, len(sample), found, why, changes=changes)


def _explained(average: Measured, null: Null) -> tuple[float | None, str | None]:
    """1 - gap / room, or None and why not."""
    room, around = average.acceptance.sign * null.gap.mean, null.gap.around
    if null.gap.exact:  # up to the last digits of the network
        around = average.rounding
    if room > around:
        return 1 - average.gap.mean / null.gap.mean, None
    if math.isinf(around):
        return None, "too few draws say what the claim costs if its features know nothing"
    return (
        None,
        f"if its features knew nothing the gap would be {null.gap}, not clearly worse than none",
    )


def _searched(average: Measured, under: UnderNull, null: Null, confidence: float) -> Null:
    """The null with the worst swaps that the claim's own search finds for it, under one
    permutation."""
    settings = average.settings
    evaluator = under_one_permutation(average, under)
    acceptance = replace(acceptance_of_found(average), confidence=confidence, routes=1)
    worst = None
    for one in search_in_turn(
        evaluator, settings.adversaries, settings.evaluations, acceptance,
        seed=settings.seed, name=settings.name, until=deadline_from_now(settings.deadline),
    ):  # fmt: skip
        attempt = one.attempt
        # what was found among fresh inputs is the claim's own
        if attempt.interval is None or one.evaluator is not evaluator:
            continue
        found = WorstOfNull(attempt.adversary, attempt.interval, attempt.refutes)
        if worst is None or _badness(found) > _badness(worst):
            worst = found
    return replace(null, worst=worst)


def _badness(worst: WorstOfNull) -> tuple[bool, float]:
    return worst.beyond, abs(worst.gap.mean)
