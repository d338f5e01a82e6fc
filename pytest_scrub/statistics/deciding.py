"""What a claim accepts, and what the draws so far decide."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pytest_scrub.settings import EITHER
from pytest_scrub.statistics.intervals import CONFIDENCE, Numbers, confidence_sequence
from pytest_scrub.verdict import (
    HELD,
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

MOST_SLACK = 0.01  # of the tolerance: rounding is given no more, however large it is
NO_NODE = NodeReport("output", "nothing", False, (1, 1.0, 1), 0.0, 0.0, False, False, None)


@dataclass(frozen=True)
class Acceptance:
    """How large a gap a claim accepts.

    - `metric`: gives the unit, the bounds, and which way is worse.
    - `tolerance`: the largest gap, in the metric's unit; None where only `min_recovered` says it.
    - `min_recovered`: the least share recovered, or None.
    - `direction`: `"either"`, or `"worse"` where a metric that gets better is no objection.
    """

    metric: Metric
    tolerance: float | None = None
    min_recovered: float | None = None
    direction: str = EITHER

    @classmethod
    def of(cls, settings: Settings, metric: Metric) -> Acceptance:
        """What a claim says."""
        return cls(metric, settings.tolerance, settings.min_recovered, settings.direction)

    @property
    def sides(self) -> tuple[bool, bool]:
        """Whether a gap above zero may refute the claim, and one below."""
        two = self.direction == EITHER
        return two or self.metric.worse == "higher", two or self.metric.worse == "lower"

    @property
    def reach(self) -> float:
        """The largest absolute change that the metric's bounds allow."""
        return self.metric.upper - self.metric.lower

    def badness(self, gap: float) -> float:
        """How much a gap embarrasses the claim."""
        above, below = self.sides
        return abs(gap) if above and below else gap if above else -gap

    def with_tolerance(self, tolerance: float) -> Acceptance:
        """The same for another tolerance alone."""
        return Acceptance(self.metric, float(tolerance), None, self.direction)

    def accepted(self, room: float) -> float:
        """The largest gap in the metric's unit, where the baseline is worse by `room`."""
        limits = [math.inf if self.tolerance is None else float(self.tolerance)]
        if self.min_recovered is not None:
            limits.append((1 - self.min_recovered) * room)
        return min(limits)

    def outcome(
        self,
        changes: Numbers,
        room: Numbers | None,
        rounding: float,
        *,
        confidence: float = CONFIDENCE,
        heaviest: float = 1.0,
    ) -> tuple[Decided, str | None]:
        """Held, refuted or undecided, and why it is undecided.

        **Arguments**

        - `changes`: scrubbed minus unscrubbed metric of every unit drawn so far, float64 `[units]`.
        - `room`: how much worse the baseline is on the same units; read where a share has to be
          recovered, so that the error of the sampled baseline is part of the decision.
        - `rounding`: how far off the mean change may be, as the network computes with so many
          digits.
        - `confidence`: of the intervals; `heaviest`: the largest weight of a unit.
        """
        tolerance = self.accepted(0.0 if room is None else abs(float(room.mean())))
        if not tolerance and not changes.any():
            rounding = 0.0  # no tolerance asks for the very same numbers, and these are
        reach, alike = self.reach * heaviest, slack(rounding, tolerance)
        gap = confidence_sequence(changes, reach, confidence, alike)
        if not gap.is_known:
            return UNDECIDED, TOO_FEW
        gaps = [] if self.tolerance is None else [(gap + -self.tolerance, gap + self.tolerance)]
        if self.min_recovered is not None:
            assert room is not None
            lost, share = (
                confidence_sequence(room, reach, confidence, alike),
                1 - self.min_recovered,
            )
            above, below = (
                confidence_sequence(changes + way * share * room, reach * (1 + abs(share)),
                confidence, alike)
                for way in (-1, 1)
            )  # fmt: skip
            if not (lost.is_known and above.is_known and below.is_known):
                return UNDECIDED, TOO_FEW
            if lost.low <= 0:
                # nothing is known to be lost, so no share of it can be recovered
                return UNDECIDED, STRADDLES
            gaps.append((above, below))
        found = self._together(gaps, tolerance, rounding)
        if found != UNDECIDED:
            return found, None
        without, all_of_it = (
            self._together(gaps, tolerance, 0.0),
            self._together(gaps, math.inf, rounding),
        )
        return found, STRADDLES if without == all_of_it == UNDECIDED else ROUNDED

    def _together(
        self, gaps: list[tuple[Estimate, Estimate]], tolerance: float, rounding: float
    ) -> Decided:
        outcomes = {decided(above, below, self.sides, rounding, tolerance) for above, below in gaps}
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


def beyond(
    gap: float,
    interval: Estimate | None,
    tolerance: float,
    sides: tuple[bool, bool] = (True, True),
    rounding: float = 0.0,
) -> bool:
    """Whether a swap set found by a search refutes: its mean change, or all of its interval, beyond
    the tolerance."""
    found = Estimate(gap, gap, gap) if interval is None else interval
    return (
        decided(found + -tolerance, found + tolerance, sides, slack(rounding, tolerance), tolerance)
        == REFUTED
    )


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
    swapped."""
    named = tuple(node for node in nodes if not node.is_rest)
    wanting = tuple(node for node in named if node.must_be_tested and not node.is_tested)
    if wanting or any(node.must_be_tested for node in named):
        return wanting
    return named or nodes or (NO_NODE,)
