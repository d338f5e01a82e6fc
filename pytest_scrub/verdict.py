"""What was measured, and what it decides. Everything that reports reads only this."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

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
class Attempt:
    """What one adversary found.

    - `how`: the search in words, or why there was none.
    - `searched`: whether there was one.
    - `gap`: mean change of the metric over the `references` of the worst swap set found.
    - `interval`: of that mean, where the swap set was drawn anew on rows that the search had not seen.
    - `exhaustive`: every combination of allowed donors was evaluated.
    - `evaluations`: scrubbed evaluations spent, a gradient counting as three.
    - `ranking`: what else was computed to choose what to evaluate, in clean forward passes of one input.
    - `concentration`: share of the references in which one of its ten most used donors takes part.
    - `late`: a deadline ended the search before its budget did.
    - `refutes`: whether it lies beyond the adversarial tolerance.
    """

    adversary: str
    how: str
    searched: bool
    gap: float
    interval: Estimate | None
    unscrubbed: float
    scrubbed: float
    references: int
    exhaustive: bool
    evaluations: int
    ranking: float
    concentration: float
    late: bool
    refutes: bool


@dataclass(frozen=True)
class Swap:
    """One donor of a counterexample, as a person reads it.

    - `own`, `donor`: the input it stands in for, and itself.
    - `agrees_on`: what the claim asks of the donor; `also`: the dataset's other features that are equal as well.
    - `differs`: where the two inputs differ.
    """

    slot: str
    agrees_on: str
    own: str
    donor: str
    also: tuple[str, ...]
    differs: str


@dataclass(frozen=True)
class Counterexample:
    """A swap set that breaks a claim, pruned to one reference and the fewest nodes found.

    - `found_by`: the adversary whose swap set was pruned, or `"the claim's own draws"`.
    - `reference`: the reference as the dataset shows it.
    - `swaps`: the donors that differ from what they stand in for.
    - `unscrubbed`, `scrubbed`: the metric of that reference; `gap` is their difference.
    - `clean_output`, `scrubbed_output`: the largest outputs.
    - `file`: where it was saved, if it was.
    """

    found_by: str
    reference: str
    swaps: tuple[Swap, ...]
    unscrubbed: float
    scrubbed: float
    gap: float
    clean_output: str
    scrubbed_output: str
    file: str | None = None


@dataclass(frozen=True)
class Mend:
    """An addition to a refuted claim, and the mean gap that was left with it: `where` says of what."""

    what: str
    gap: float
    where: str


@dataclass(frozen=True)
class Search:
    """What the adversaries found about one claim.

    - `tolerance`: the largest mean gap either way that a found swap set may have.
    - `gates`: whether a swap set beyond it refutes the claim, or is only shown.
    - `budget`: evaluations that all of them together might spend.
    - `notes`: what went wrong beside the search, such as a saved counterexample that could not be used.
    """

    tolerance: float
    gates: bool
    budget: int
    attempts: tuple[Attempt, ...]
    counterexample: Counterexample | None
    mends: tuple[Mend, ...]
    notes: tuple[str, ...] = ()

    @property
    def worst(self) -> Attempt | None:
        """The attempt with the largest gap either way; those that refute come first."""
        searched = [attempt for attempt in self.attempts if attempt.searched]
        return max(searched, key=lambda attempt: (attempt.refutes, abs(attempt.gap)), default=None)

    @property
    def refutes(self) -> bool:
        """Whether an allowed swap set beyond the tolerance was found."""
        return any(attempt.refutes for attempt in self.attempts)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one claim, in plain Python values.

    - `outcome`: `"held"`, `"refuted"`, `"undecided"` or `"untested"`; `average` is that of uniformly drawn swaps alone.
    - `search`: what the adversaries found; None where none was asked.
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
    average: str
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
    search: Search | None = None
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
        verdict: Verdict = _built(cls, fields)
        return verdict


def _built(kind: Any, value: Any) -> Any:
    """A value of a type as these dataclasses use them, from what JSON keeps of it."""
    if isinstance(kind, UnionType):
        return None if value is None else _built(get_args(kind)[0], value)
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        each = kinds[:1] * len(value) if kinds[1:] == (...,) else kinds
        return tuple(_built(one, part) for one, part in zip(each, value, strict=True))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = get_type_hints(kind)
        return kind(**{name: _built(hints[name], part) for name, part in value.items()})
    return value


def estimate(values: Numbers) -> Estimate:
    """Mean of independent samples with Student's t interval; a point where they are all the same."""
    from scipy import stats

    mean, error = float(values.mean()), float(stats.sem(values)) if len(values) > 1 else math.inf
    if error == 0:
        return Estimate(mean, mean, mean)
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=error)
    return Estimate(mean, float(low), float(high))


def recovered(
    gap: float, baseline: float, unscrubbed: float, worse: str, spread: float = 0.0
) -> tuple[float | None, str | None]:
    """`1 - gap / (baseline - unscrubbed)`, or None and the reason.

    `spread` is how far off the sampled denominator may be.
    """
    room = baseline - unscrubbed if worse == "higher" else unscrubbed - baseline
    if room > spread:
        return 1 - gap / (baseline - unscrubbed), None
    clearly = "clearly " if room > 0 else ""
    return None, f"the baseline ({baseline:.4g}) is not {clearly}worse than the unscrubbed metric ({unscrubbed:.4g})"


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


def beyond(gap: float, interval: Estimate | None, tolerance: float) -> bool:
    """Whether a swap set found by a search refutes: its mean change, or all of its interval, beyond the tolerance."""
    if interval is None:
        return abs(gap) > tolerance
    return interval.low > tolerance or interval.high < -tolerance


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
