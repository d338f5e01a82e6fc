"""What a claim accepts, and what the draws so far decide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from pytest_scrub.settings import CONFIDENCE, EITHER
from pytest_scrub.statistics.intervals import Numbers, confidence_sequence
from pytest_scrub.verdict import (
    HELD,
    NO_ROOM,
    REFUTED,
    ROUNDED,
    STRADDLES,
    TOO_FEW,
    UNDECIDED,
    Decided,
    Estimate,
    NodeReport,
)

if TYPE_CHECKING:
    from pytest_scrub.metrics import Metric
    from pytest_scrub.settings import Settings

# values, the largest absolute one that there can be, confidence, and what is no difference
Interval = Callable[[Numbers, float, float, float], Estimate]
MOST_SLACK = 0.01  # of the tolerance: rounding is given no more, however large it is
NO_NODE = NodeReport("output", "nothing", False, (1, 1.0, 1), 0.0, 0.0, False, False, None)


@dataclass(frozen=True)
class Acceptance:
    """How large a gap a claim accepts.

    - `metric`: gives the unit, the bounds, and which way is worse.
    - `tolerance`: the largest gap, in the metric's unit; None where only `min_recovered` says it.
    - `min_recovered`: the least share recovered, or None.
    - `min_explained`: the least share of what the claim would cost if its features knew nothing, or
      None.
    - `min_within`: the least share of single swaps that stay within the tolerance, or None.
    - `min_gap`: the least gap, in the metric's worse direction, of a claim that swaps hurt; then
      nothing else is accepted or asked for.
    - `confidence`: of the verdict; `routes`: how many ways there are to refute the claim.
    - `direction`: `"either"`, or `"worse"` where a metric that gets better is no objection.
    - `generalize`: whether it speaks of more references than the dataset's own.
    """

    metric: Metric
    tolerance: float | None = None
    min_recovered: float | None = None
    direction: str = EITHER
    min_explained: float | None = None
    min_within: float | None = None
    confidence: float = CONFIDENCE
    routes: int = 1
    generalize: bool = False
    min_gap: float | None = None

    @classmethod
    def of(cls, settings: Settings, metric: Metric) -> Acceptance:
        """What a claim says."""
        return cls(
            metric, settings.tolerance, settings.min_recovered, settings.direction,
            settings.min_explained, settings.min_within, settings.confidence, settings.routes,
            settings.generalize, settings.min_gap,
        )  # fmt: skip

    @property
    def to_refute(self) -> float:
        """The confidence that one of several ways to refute the claim needs, so that all of them
        together have the claim's own (Bonferroni)."""
        return 1 - (1 - self.confidence) / self.routes

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether a gap above zero may refute the claim, and one below."""
        two = self.direction == EITHER
        return two or self.metric.worse == "higher", two or self.metric.worse == "lower"

    @property
    def largest_change(self) -> float:
        """The largest absolute change that the metric's bounds allow."""
        return self.metric.upper - self.metric.lower

    def badness(self, gap: float) -> float:
        """How much a gap embarrasses the claim."""
        if self.min_gap is not None:
            return -self.sign * gap
        above, below = self.sides
        return abs(gap) if above and below else gap if above else -gap

    def with_tolerance(self, tolerance: float) -> Acceptance:
        """The same for another tolerance alone."""
        return replace(
            self,
            tolerance=float(tolerance),
            min_recovered=None,
            min_explained=None,
            min_within=None,
        )

    def accepted(self, lost: float = 0.0, room: float = 0.0) -> float:
        """The largest gap in the metric's unit, or the least of a claim that swaps hurt, where the
        baseline is `lost` away from the unscrubbed metric, and the null worse by `room`."""
        if self.min_gap is not None:
            return self.min_gap
        limits = [math.inf if self.tolerance is None else float(self.tolerance)]
        if self.min_recovered is not None:
            limits.append((1 - self.min_recovered) * lost)
        if self.min_explained is not None:
            limits.append((1 - self.min_explained) * max(room, 0.0))
        return min(limits)

    @property
    def sign(self) -> int:
        """Times a change: positive where the metric gets worse."""
        return 1 if self.metric.worse == "higher" else -1

    def outcome(
        self,
        changes: Numbers,
        lost: Numbers | None,
        room: Numbers | None,
        rounding: float,
        *,
        confidence: float | None = None,
        largest_weight: float = 1.0,
        interval: Interval = confidence_sequence,
    ) -> tuple[Decided, str | None]:
        """Held, refuted or undecided, and why it is undecided.

        It is held where every interval lies within what the claim accepts, and refuted where one
        lies beyond it that is as much wider as there are ways to refute the claim.

        **Arguments**

        - `changes`: scrubbed minus unscrubbed metric of every unit drawn so far, float64 `[units]`.
        - `lost`, `room`: how much worse the baseline, and the null, are on the same units; read
          where a share of it is to be recovered, or explained, so that their error is part of the
          decision.
        - `rounding`: how far off the mean change may be, as the network computes with so many
          digits.
        - `confidence`: of all intervals, instead; `largest_weight`: the largest weight of a unit.
        - `interval`: of a mean; called as `confidence_sequence` is.
        """
        if self.min_gap is not None:
            sure = self.confidence if confidence is None else confidence
            largest, least_gap = self.largest_change * largest_weight, self.min_gap

            def hurts(confidence: float) -> Estimate:
                return interval(self.sign * changes, largest, confidence, rounding) + -least_gap

            return self._hurts(hurts, sure, rounding)
        none = np.zeros(1)
        lost, room = none if lost is None else lost, none if room is None else room
        tolerance = self.accepted(abs(float(lost.mean())), float(room.mean()))
        if not tolerance and not changes.any():
            rounding = 0.0  # no tolerance asks for the very same numbers, and these are
        largest, least = self.largest_change * largest_weight, slack(rounding, tolerance)

        def at(confidence: float) -> tuple[Decided, str | None]:
            def sized(values: Numbers, times: float = 1.0) -> Estimate:
                return interval(values, largest * times, confidence, least)

            return self._decided(changes, lost, room, rounding, tolerance, sized)

        found = at(self.confidence if confidence is None else confidence)
        if found[0] != REFUTED or confidence is not None or self.routes == 1:
            return found
        beyond = at(self.to_refute)
        return beyond if beyond[0] == REFUTED else (UNDECIDED, beyond[1] or STRADDLES)

    def _hurts(
        self, beyond: Callable[[float], Estimate], confidence: float, rounding: float
    ) -> tuple[Decided, str | None]:
        """By how much swaps hurt more than is claimed, at several confidences."""
        if not beyond(confidence).is_known:
            return UNDECIDED, TOO_FEW
        if beyond(confidence).low >= rounding:
            return HELD, None
        if beyond(max(confidence, self.to_refute)).high < -rounding:
            return REFUTED, None
        return UNDECIDED, STRADDLES

    def _decided(
        self,
        changes: Numbers,
        lost: Numbers,
        room: Numbers,
        rounding: float,
        tolerance: float,
        interval: Callable[..., Estimate],
    ) -> tuple[Decided, str | None]:
        """What intervals of one confidence decide; `interval`: of values, and how many times as
        large as a change they may be."""

        def apart(part: float, of: Numbers) -> tuple[Estimate, Estimate]:
            """Gap minus, and plus, this part of what is lost."""
            times = 1 + abs(part)
            return interval(changes - part * of, times), interval(changes + part * of, times)

        gap = interval(changes)
        gaps = [] if self.tolerance is None else [(gap + -self.tolerance, gap + self.tolerance)]
        rooms = []
        if self.min_explained is not None:
            rooms.append(interval(room))
            above, below = apart(1 - self.min_explained, room)
            # beyond a share of a room that may be none is only what is a gap at all
            above = replace(above, low=min(above.low, gap.low))
            gaps.append((above, replace(below, high=max(below.high, gap.high))))
        of_nothing: list[tuple[Estimate, Estimate]] = []
        if self.min_recovered is not None:
            rooms.append(interval(lost))
            share = apart(1 - self.min_recovered, lost)
            # nothing is known to be lost, so no share of it can be recovered
            (gaps if rooms[-1].low > 0 else of_nothing).append(share)
        if not all(one.is_known for one in chain([gap], rooms, *gaps, *of_nothing)):
            return UNDECIDED, TOO_FEW
        found = self._together(gaps, tolerance, rounding)
        if found == REFUTED or (found == HELD and all(one.low > 0 for one in rooms)):
            return found, None
        if self.min_explained is not None and rooms[0].high <= 0:
            return UNDECIDED, NO_ROOM
        without = self._together(gaps, tolerance, 0.0)
        all_of_it = self._together(gaps, math.inf, rounding)
        by_rounding = found == UNDECIDED and {without, all_of_it} != {UNDECIDED}
        return UNDECIDED, ROUNDED if by_rounding else STRADDLES

    def _together(
        self, gaps: list[tuple[Estimate, Estimate]], tolerance: float, rounding: float
    ) -> Decided:
        return decided_by(decided(*gap, self.sides, rounding, tolerance) for gap in gaps)


def decided_by(figures: Iterable[str | None]) -> Decided:
    """What several figures decide together: refuted by any of them, held by all."""
    outcomes = {*figures}
    return REFUTED if REFUTED in outcomes else UNDECIDED if UNDECIDED in outcomes else HELD


def slack(rounding: float, tolerance: float) -> float:
    """What is no difference: the last digits that a network has, and never more than a hundredth of
    the tolerance."""
    return min(rounding, MOST_SLACK * tolerance)


def decided(
    above: Estimate,
    below: Estimate,
    sides: tuple[bool, bool],
    rounding: float = 0.0,
    tolerance: float = 0.0,
) -> Decided:
    """The outcome of a gap, by the intervals of gap minus tolerance and of gap plus tolerance.

    Beyond the tolerance is what rounding cannot explain. Within it is what exceeds it by rounding
    alone; where rounding is more than a hundredth of the tolerance, only what stays within it
    whatever rounding did.
    """
    is_above, is_below = sides
    if (is_above and above.low > rounding) or (is_below and below.high < -rounding):
        return REFUTED
    most = rounding if rounding <= MOST_SLACK * tolerance else -rounding
    if (not is_above or above.high <= most) and (not is_below or below.low >= -most):
        return HELD
    return UNDECIDED


def beyond(gap: float, tolerance: float, sides: tuple[bool, bool]) -> bool:
    """Whether a gap lies beyond the tolerance on a side that counts; see `Acceptance.sides`."""
    is_above, is_below = sides
    return (is_above and gap > tolerance) or (is_below and gap < -tolerance)


def recovered(
    gap: float, baseline: float, unscrubbed: float, worse: str, spread: float = 0.0
) -> tuple[float | None, str | None]:
    """`1 - gap / (baseline - unscrubbed)`, or None and the reason.

    `spread` is how far off the sampled denominator may be.
    """
    room = baseline - unscrubbed if worse == "higher" else unscrubbed - baseline
    if room > spread:
        return 1 - gap / (baseline - unscrubbed), None
    if math.isinf(spread):
        return (
            None,
            f"too few draws say how much worse the baseline ({baseline:.4g}) is than the "
            "unscrubbed metric",
        )
    clearly = "clearly " if room > 0 else ""
    return (
        None,
        f"the baseline ({baseline:.4g}) is not {clearly}worse than the unscrubbed metric "
        f"({unscrubbed:.4g})",
    )


def untested_nodes(nodes: tuple[NodeReport, ...]) -> tuple[NodeReport, ...]:
    """The nodes that the data cannot test; all nodes where none claims anything that could be
    swapped, or where the swaps exchanged equal values.

    What stays as it is, beside a rest that is swapped, claims that it suffices: the swaps of the
    rest test that, and its null lets go of what is kept ("nothing is kept").
    """
    named = tuple(node for node in nodes if not node.is_rest)
    claiming = tuple(node for node in named if node.must_be_tested)
    wanting = tuple(node for node in claiming if not node.is_tested)
    if wanting:
        return wanting
    if claiming:
        is_swapped = any(node.is_rest and node.moved > 0 for node in nodes)
        return claiming if all(node.fixed for node in claiming) and not is_swapped else ()
    loose = {
        node.slot.removesuffix("/rest")
        for node in nodes
        if node.is_rest and node.is_tested and not node.fixed
    }
    if any(node.slot.rpartition("/")[0] in loose for node in named):
        return ()
    return named or nodes or (NO_NODE,)
