"""The first half of checking a claim: what uniformly drawn allowed swaps do on average."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from pytest_scrub.common.calls import LARGEST, is_number, is_whole, shown
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError
from pytest_scrub.statistics.deciding import Acceptance, recovered, slack, untested_nodes
from pytest_scrub.statistics.intervals import (
    Numbers,
    confidence_sequence,
    estimate,
    has_seen_enough,
    share_within,
)
from pytest_scrub.statistics.sampling import BURN_IN, References, Sample, sample
from pytest_scrub.statistics.slicing import outcome_of, slices, why_of
from pytest_scrub.swaps.slots import Slot
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    UNDECIDED,
    UNTESTED,
    Decided,
    Estimate,
    Look,
    NodeReport,
    OnAverage,
    Share,
    Slices,
)

MOST_SAMPLES_PER_NODE = 2000  # the table node by node is for reading, not for deciding
NODES_SHARE = 5  # samples of all nodes together, for each sample of the claim
# a node with other donors on fewer references than this says nothing about the claim
LEAST_WITH_OTHER = 0.10
LEAST_MOVED = 0.02  # nor does one that is hardly ever swapped
MOST_SAMPLES = 10**8  # their references are drawn at once, and take a gigabyte
MOST_WANTING = 3  # values of a feature that a message names


@dataclass(frozen=True)
class Criteria:
    """What decides a claim on average.

    - `acceptance`: how large a gap it accepts.
    - `samples`: the most references drawn.
    - `generalize`: whether the interval speaks of the distribution that the rows were drawn from.
    - `min_with_other`, `min_moved`: the least share of references that have another donor for a
      node, and of drawn donors that differ from what they stand in for.
    - `by`, `slice_tolerance`: the feature by whose values the gap is shown, and the largest gap of
      each, which gates.

    **Raises** `HypothesisError` for what has no meaning.
    """

    acceptance: Acceptance
    samples: int
    generalize: bool = False
    min_with_other: float = LEAST_WITH_OTHER
    min_moved: float = LEAST_MOVED
    by: str | None = None
    slice_tolerance: float | None = None

    def __post_init__(self) -> None:
        if not is_whole(self.samples, 2, math.inf):
            raise HypothesisError(
                f"samples= is a whole number of at least 2, not {shown(self.samples)}"
            )
        if self.samples > MOST_SAMPLES:
            raise HypothesisError(
                f"samples= is at most {MOST_SAMPLES:,}, not {shown(self.samples)}"
            )
        for name in ("min_with_other", "min_moved"):
            share = getattr(self, name)
            if not is_number(share, 0, 1):
                raise HypothesisError(f"{name}= is a share from 0 to 1, not {shown(share)}")
        if self.by is not None and not isinstance(self.by, str):
            raise HypothesisError(
                f"by= is the name of a feature of the dataset, not {shown(self.by)}"
            )
        if self.slice_tolerance is not None:
            if self.by is None:
                raise HypothesisError(
                    "slice_tolerance= needs by=, the feature whose values are the slices"
                )
            if not is_number(self.slice_tolerance, 0, LARGEST):
                raise HypothesisError(
                    f"slice_tolerance= is a gap, zero or more, not {shown(self.slice_tolerance)}"
                )


@dataclass(frozen=True, eq=False)
class Measured:
    """What the draws of one claim say.

    - `gap`: of the units drawn; `outcome`: what it and the slices decide; `undecided`: why they do
      not.
    - `tolerance`: the largest gap that the claim accepts, in the metric's unit.
    - `recovered`, `reason`: as in a `Verdict`; `baseline` too.
    """

    evaluator: Evaluator
    criteria: Criteria
    sample: Sample
    gap: Estimate
    outcome: OnAverage
    tolerance: float
    nodes: tuple[NodeReport, ...]
    slices: Slices | None
    baseline: float
    recovered: float | None
    reason: str | None
    undecided: str | None

    @property
    def rounding(self) -> float:
        """How far off the gap may be."""
        return self.sample.mean(self.sample.rounding)

    @property
    def slack(self) -> float:
        """Changes up to this are none."""
        return slack(self.rounding, self.tolerance)

    @property
    def share(self) -> Share | None:
        """What single swaps do. The first draws tell it: how many there are did not depend on what
        they were."""
        if self.criteria.generalize:
            return None
        return share_within(self.sample.changes[:BURN_IN], self.tolerance + self.slack)

    @property
    def looks(self) -> tuple[Look, ...]:
        """The gap at every look, the last one included."""
        drawn, reach = (
            self.sample,
            self.criteria.acceptance.reach * self.sample.references.plan.heaviest,
        )
        counts = [count for count in drawn.references.plan.looks() if count < len(drawn)]
        units = drawn.units(drawn.changes)
        seen = [n // drawn.references.plan.per_unit for n in counts]
        gaps = [confidence_sequence(units[:n], reach, rounding=self.slack) for n in seen]
        before = [Look(n, gap) for n, gap in zip(counts, gaps, strict=True)]
        return (*before, Look(len(drawn), self.gap))

    @property
    def share_worse(self) -> float:
        """Share of samples whose metric got worse, by more than the last digits of a network."""
        worse = self.sample.changes * (
            1 if self.criteria.acceptance.metric.worse == "higher" else -1
        )
        return self.sample.mean((worse > self.slack).astype(np.float64))

    @property
    def interval_kind(self) -> str:
        """Which swaps and which statistics the interval speaks of."""
        bounded = np.isfinite(self.criteria.acceptance.reach)
        kind = "betting" if bounded else "asymptotic"
        population = "swaps drawn from this dataset"
        if self.criteria.generalize:
            population = "references drawn as this dataset's were, with its donors"
        return f"95 % {kind} confidence sequence over {population}"


def measure(
    evaluator: Evaluator, references: References, criteria: Criteria, *, seed: int, name: str
) -> Measured:
    """Draw swaps until the claim is decided, or the budget is spent.

    **Arguments**

    - `evaluator`, `references`: the claim's own, or those of a mutant of it.
    - `seed`, `name`: the random stream is derived from both.

    Undecided where a share is to be recovered of nothing; `reason` tells.

    **Raises** `DataError` where the dataset lacks the feature of the slices.
    """
    acceptance, space = criteria.acceptance, evaluator.space
    if criteria.by is not None:
        space.dataset.feature(criteria.by)  # a wrong name is told before anything is drawn

    def outcome(drawn: Sample) -> tuple[Decided, str | None]:
        changes, room = drawn.units(drawn.changes), None
        if acceptance.min_recovered is not None:
            sign = 1 if acceptance.metric.worse == "higher" else -1
            room = drawn.units(sign * (drawn.baseline - drawn.unscrubbed))
        return acceptance.outcome(
            changes, room, drawn.mean(drawn.rounding), heaviest=drawn.references.plan.heaviest
        )  # fmt: skip

    def sliced(drawn: Sample) -> Slices | None:
        if criteria.by is None:
            return None
        return slices(space, drawn, criteria.by, acceptance, criteria.slice_tolerance)

    def is_decided(drawn: Sample) -> bool:
        if evaluator.progress is not None:
            stands = confidence_sequence(
                drawn.units(drawn.changes), acceptance.reach * drawn.references.plan.heaviest
            )
            evaluator.progress("samples", len(drawn), criteria.samples, f"gap {stands}")
        if untested_nodes(_nodes(space, drawn, criteria)):
            return True
        found, _ = outcome(drawn)
        if found != HELD or criteria.slice_tolerance is None:
            return found != UNDECIDED
        return outcome_of(sliced(drawn)) != UNDECIDED

    drawn = sample(evaluator, references, stream(seed, name, "draw"), is_decided, criteria.samples)
    heaviest = references.plan.heaviest
    lost = confidence_sequence(
        drawn.units(drawn.baseline - drawn.unscrubbed), acceptance.reach * heaviest
    )
    tolerance = acceptance.accepted(abs(lost.mean))
    alike = slack(drawn.mean(drawn.rounding), tolerance)
    gap = confidence_sequence(
        drawn.units(drawn.changes), acceptance.reach * heaviest, rounding=alike
    )
    clean, baseline = drawn.mean(drawn.unscrubbed), drawn.mean(drawn.baseline)
    share, reason = recovered(gap.mean, baseline, clean, acceptance.metric.worse, lost.around)
    nodes, by_slice = _nodes(space, drawn, criteria), sliced(drawn)
    together: OnAverage
    together, why = outcome(drawn)
    if untested_nodes(nodes):
        together, why = UNTESTED, None
    elif together != REFUTED and outcome_of(by_slice) != HELD:
        if outcome_of(by_slice) != together:
            why = why_of(by_slice)
        together = outcome_of(by_slice)
    return Measured(
        evaluator,
        criteria,
        drawn,
        gap,
        together,
        tolerance,
        nodes,
        by_slice,
        baseline,
        share,
        reason,
        why,
    )


def _nodes(space: SwapSpace, drawn: Sample, criteria: Criteria) -> tuple[NodeReport, ...]:
    """How far every slot is tested, without the gaps."""
    moved = space.moved(drawn.swap_set)
    found = []
    for i, (slot, support) in enumerate(zip(space.slots, space.support(), strict=True)):
        computed = slot.node.computed_by is not None and not slot.is_rest
        # A computed node takes no activation from a donor: the function itself is put to the test.
        with_other, swapped = (1.0 if computed else support.share), float(moved[i].mean())
        is_tested = with_other >= criteria.min_with_other and (
            computed or swapped >= criteria.min_moved
        )
        must_be_tested = not slot.is_rest and not slot.agrees_on.exact
        found.append(
            NodeReport(
                slot=slot.path,
                agrees_on="its features, computed" if computed else str(slot.agrees_on),
                is_rest=slot.is_rest,
                donors=(
                    int(support.donors.min()),
                    float(np.median(support.donors)),
                    int(support.donors.max()),
                ),
                with_other=with_other,
                moved=swapped,
                must_be_tested=must_be_tested,
                is_tested=is_tested,
                alone=None,
                wanting=tuple(_wanting(space, slot, i)) if must_be_tested and not is_tested else (),
            )
        )
    return tuple(found)


def _wanting(space: SwapSpace, slot: Slot, i: int) -> Iterator[str]:
    """Some values of a slot's features for which no reference has a donor of other content."""
    dataset, codes = space.dataset, space.agree(i)
    # one for each content of a value
    contents = np.unique(np.stack([codes, dataset.content]), axis=1)[0]
    lonely = np.isin(codes, np.flatnonzero(np.bincount(contents) <= 1)) & np.isin(
        codes, codes[space.reference_rows]
    )
    _, first = np.unique(codes[lonely], return_index=True)
    for row in np.flatnonzero(lonely)[np.sort(first)[:MOST_WANTING]]:
        yield ", ".join(
            f"{name} = {_plain(dataset.feature(name)[row])}" for name in slot.agrees_on.features
        )


def _plain(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else value


def percentiles(changes: Numbers) -> tuple[float, ...]:
    """0, 1, ... 100 per cent, each of them a change that was seen."""
    found: list[float] = np.percentile(changes, range(101), method="inverted_cdf").tolist()
    return tuple(found)


def with_gaps(measured: Measured, rng: np.random.Generator) -> tuple[NodeReport, ...]:
    """The reports with the gap when only that slot is swapped, the others EXACT."""
    evaluator, drawn = measured.evaluator, measured.sample
    most = min(
        MOST_SAMPLES_PER_NODE,
        max(2, NODES_SHARE * measured.criteria.samples // max(1, len(measured.nodes))),
    )
    few = drawn.swap_set.references[:most]
    found = []
    for node in measured.nodes:
        alone = evaluator.space.keep([node.slot]).draw(len(few), rng, few)
        changes = evaluator.evaluate(alone) - drawn.unscrubbed[: len(few)]
        found.append(replace(node, alone=_alone(changes, measured)))
    return tuple(found)


def _alone(changes: Numbers, measured: Measured) -> Estimate:
    """Student's t, and no ends where a metric without bounds has not shown enough for them."""
    found = estimate(changes)
    is_known = np.isfinite(measured.criteria.acceptance.reach) or has_seen_enough(
        changes, rounding=measured.slack
    )
    return found if is_known else Estimate(found.mean, -math.inf, math.inf)
