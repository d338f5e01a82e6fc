"""What was measured, and what it decides. Everything that reports reads only this."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_scrub.errors import HypothesisError

SCHEMA_VERSION = 1
CONFIDENCE = 0.95
LEAST_TESTED = 0.10  # a node with other donors on fewer references than this says nothing about the claim

HELD, REFUTED, UNDECIDED, UNTESTED = "held", "refuted", "undecided", "untested"

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % confidence interval, in the metric's unit."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclass(frozen=True)
class NodeReport:
    """How one slot was tested.

    - `donors`: least, median and most allowed donors of a reference, the row itself included.
    - `with_other`: share of references that have a donor of other content.
    - `moved`: share of drawn donors whose content differs from the parent's own input.
    - `alone`: the gap when only this slot is swapped; None where it was not measured.
    """

    slot: str
    agrees_on: str
    is_rest: bool
    donors: tuple[int, float, int]
    with_other: float
    moved: float
    must_be_tested: bool
    alone: Estimate | None


@dataclass(frozen=True)
class Verdict:
    """The outcome of one claim, in plain Python values.

    - `outcome`: `"held"`, `"refuted"`, `"undecided"` or `"untested"`.
    - `tolerance`: the largest gap either way that the claim accepts, in the metric's unit.
    - `unscrubbed`, `scrubbed`: mean metric on the same sampled references.
    - `gap`: scrubbed minus unscrubbed, paired by reference.
    - `absolute_change`: mean of the absolute change per reference, which cancellation does not hide.
    - `share_worse`: share of samples whose metric got worse.
    - `baseline`: mean metric when the whole output comes from an unrelated row.
    - `recovered`: 1 - gap / (baseline - unscrubbed), or None with `recovered_reason`.
    - `interval_kind`: which swaps and which statistics the interval speaks of.
    """

    claim: str
    outcome: str
    hypothesis: str
    metric: str
    tolerance: float
    unscrubbed: float
    scrubbed: float
    gap: Estimate
    absolute_change: float
    share_worse: float
    baseline: float
    recovered: float | None
    recovered_reason: str | None
    samples: int
    seed: int
    nodes: tuple[NodeReport, ...]
    model: str
    model_digest: str
    dataset: str
    dataset_digest: str
    interval_kind: str
    schema_version: int = SCHEMA_VERSION

    @property
    def held(self) -> bool:
        """Whether the prediction held; nothing else passes."""
        return self.outcome == HELD

    def to_json(self) -> str:
        """All fields as one line of JSON; NaN never occurs."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Verdict:
        """**Raises** `ValueError` for another schema version."""
        fields: dict[str, Any] = json.loads(text)
        if fields.get("schema_version") != SCHEMA_VERSION:
            raise ValueError(f"this verdict has schema {fields.get('schema_version')}, not {SCHEMA_VERSION}")
        fields["gap"] = Estimate(**fields["gap"])
        fields["nodes"] = tuple(
            NodeReport(
                **{
                    **node,
                    "donors": tuple(node["donors"]),
                    "alone": None if node["alone"] is None else Estimate(**node["alone"]),
                }
            )
            for node in fields["nodes"]
        )
        return cls(**fields)


def estimate(values: Numbers) -> Estimate:
    """Mean of independent samples with Student's t interval; a point where they are all the same."""
    from scipy import stats

    mean, error = float(values.mean()), float(stats.sem(values)) if len(values) > 1 else math.inf
    if error == 0:
        return Estimate(mean, mean, mean)
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return Estimate(mean, float(low), float(high))


def recovered(gap: float, baseline: float, unscrubbed: float, worse: str) -> tuple[float | None, str | None]:
    """`1 - gap / (baseline - unscrubbed)`, or None and the reason."""
    room = baseline - unscrubbed
    if (room if worse == "higher" else -room) > 0:
        return 1 - gap / room, None
    return None, f"the baseline ({baseline:.4g}) is not worse than the unscrubbed metric ({unscrubbed:.4g})"


def require_tolerance(tolerance: float | None, min_recovered: float | None) -> None:
    """**Raises** `HypothesisError` unless a claim says how large a gap it accepts."""
    __tracebackhide__ = True  # at collection the error stands on the line of the decorator
    if tolerance is None and min_recovered is None:
        raise HypothesisError("a claim needs tolerance= (the largest gap, in the metric's unit) or min_recovered=")
    if tolerance is not None and (
        isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf
    ):
        raise HypothesisError(f"tolerance= is a gap in the metric's unit, zero or more, not {tolerance!r}")
    if min_recovered is not None and (
        isinstance(min_recovered, bool) or not isinstance(min_recovered, (int, float)) or not min_recovered <= 1
    ):
        raise HypothesisError(f"min_recovered= is a share of at most 1, such as 0.9, not {min_recovered!r}")


def decide(gap: Estimate, tolerance: float, nodes: tuple[NodeReport, ...]) -> str:
    """The outcome: untested before anything else, then by where the interval lies."""
    if untested_nodes(nodes):
        return UNTESTED
    if -tolerance <= gap.low and gap.high <= tolerance:
        return HELD
    if gap.low > tolerance or gap.high < -tolerance:
        return REFUTED
    return UNDECIDED


def untested_nodes(nodes: tuple[NodeReport, ...]) -> tuple[NodeReport, ...]:
    """The nodes that too few references can test; all nodes where none claims anything that could be swapped."""
    named = tuple(node for node in nodes if not node.is_rest)
    wanting = tuple(n for n in named if n.must_be_tested and n.with_other < LEAST_TESTED)
    if wanting or any(node.must_be_tested for node in named):
        return wanting
    return named or nodes or (NO_NODE,)


NO_NODE = NodeReport("output", "nothing", False, (1, 1.0, 1), 0.0, 0.0, False, None)
