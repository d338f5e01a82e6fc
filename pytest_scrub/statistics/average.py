"""The first half of checking a claim: what uniformly drawn allowed swaps do on average.

Where all of them are few enough, each is evaluated, and weighs as it is likely to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.moved import (
    all_moved,
    moved_leaves,
    reaches_output,
    read_at,
    silent_units,
)
from pytest_scrub.errors import HypothesisError, ScrubError, located_at
from pytest_scrub.settings import Settings
from pytest_scrub.statistics.acceptance import Acceptance, recovered, slack, untested_nodes
from pytest_scrub.statistics.enumerating import how_many
from pytest_scrub.statistics.intervals import (
    ADDED_UP,
    Numbers,
    all_within,
    confidence_sequence,
    estimate,
    has_seen_enough,
    point,
    quantile,
    share_within,
)
from pytest_scrub.statistics.predicted import Predictions, outcome_with, with_rivals
from pytest_scrub.statistics.sampling import (
    BURN_IN,
    References,
    Sample,
    UnderNull,
    every,
    sample,
)
from pytest_scrub.statistics.slices import outcome_of, said, slices, why_of
from pytest_scrub.swaps.null import drawn_of, null_of
from pytest_scrub.swaps.slots import Slot
from pytest_scrub.swaps.space import SwapSpace, drawn_in
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.verdict import (
    HELD,
    NO_ROOM,
    REFUTED,
    STRADDLES,
    UNDECIDED,
    UNTESTED,
    Decided,
    Estimate,
    Look,
    NodeReport,
    OnAverage,
    Predicted,
    Share,
    Slices,
)

MOST_SAMPLES_PER_NODE = 400  # the table node by node is for reading, not for deciding
MOST_SAMPLES_OF_NODES = 20_000  # of all nodes together, unless each has few
FEWEST_SAMPLES_PER_NODE = 100
FEWEST_MOVED = 20  # samples in which every node moved, of a claim that this hurts
TOGETHER = 8192  # samples of several nodes that are evaluated at once
MOST_WANTING = 3  # values of a feature that a message names


@dataclass(frozen=True, eq=False)
class Measured:
    """What the draws of one claim say: its figures by the names that they have in a `Verdict`.

    - `references`: what is drawn, whether the claim's own sample is or not.
    - `outcome`: what the gap and the slices decide.
    """

    evaluator: Evaluator
    settings: Settings
    references: References
    sample: Sample
    gap: Estimate
    outcome: OnAverage
    tolerance: float
    nodes: tuple[NodeReport, ...]
    slices: Slices | None
    baseline: float
    recovered: float | None
    recovered_reason: str | None
    undecided: str | None
    under_null: UnderNull | None
    predicted: Predicted | None

    @property
    def acceptance(self) -> Acceptance:
        """How large a gap the claim accepts."""
        return acceptance_of(self.evaluator, self.settings)

    @property
    def samples(self) -> int:
        """How many were drawn."""
        return len(self.sample)

    @property
    def unscrubbed(self) -> float:
        """The mean metric without swaps."""
        return self.sample.mean(self.sample.unscrubbed)

    @property
    def scrubbed(self) -> float:
        """The mean metric with them."""
        return self.sample.mean(self.sample.scrubbed)

    @property
    def absolute_change(self) -> float:
        """What cancels in the mean does not cancel here."""
        return self.sample.mean(np.abs(self.sample.changes))

    @property
    def changes(self) -> tuple[float, ...]:
        """Of single samples."""
        return percentiles(self.sample.changes, self.sample.weights)

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
        most, drawn = self.tolerance + self.slack, self.sample
        if self.settings.generalize or self.settings.min_gap is not None:
            return None
        if drawn.weights is not None:
            return all_within(drawn.changes, drawn.weights, most)
        return share_within(drawn.changes[:BURN_IN], most, confidence=self.settings.confidence)

    @property
    def looks(self) -> tuple[Look, ...]:
        """The gap at every look, the last one included."""
        drawn = self.sample
        if drawn.exact:
            return (Look(len(drawn), self.gap),)
        largest = self.acceptance.largest_change * drawn.references.plan.largest_weight
        counts = [count for count in drawn.references.plan.looks() if count < len(drawn)]
        units = drawn.units(drawn.changes)
        seen = [n // drawn.references.plan.per_unit for n in counts]
        confidence = self.settings.confidence
        gaps = [confidence_sequence(units[:n], largest, confidence, self.slack) for n in seen]
        before = [Look(n, gap) for n, gap in zip(counts, gaps, strict=True)]
        return (*before, Look(len(drawn), self.gap))

    @property
    def share_worse(self) -> float:
        """Share of samples whose metric got worse, by more than the last digits of a network."""
        worse = self.sample.changes * self.acceptance.sign
        return self.sample.mean((worse > self.slack).astype(np.float64))

    @property
    def interval_kind(self) -> str:
        """Which swaps and which statistics the interval speaks of; that there is none where all is
        enumerated that is compared, and what cannot be where the claim's own swaps can."""
        drawn, most = self._kind_of_draws, self.settings.samples
        if self.sample.exact:
            exact = "exact: every allowed swap set, each as likely as it is drawn"
            if self.under_null is None or self.under_null.is_enumerable:
                return exact
            return f"{exact}; its null has more than {most}: {drawn}"
        if self.settings.generalize or how_many([self.evaluator.space], apart=True) > most:
            return drawn
        beside = _too_many(self.references, self.settings, self.under_null)
        if beside is None:
            return drawn
        return f"{drawn}; not exact, as {beside} has more than {most} swap sets"

    @property
    def _kind_of_draws(self) -> str:
        bounded = np.isfinite(self.acceptance.largest_change)
        kind = "betting" if bounded else "asymptotic"
        population = "swaps drawn from this dataset"
        if self.settings.generalize:
            population = "references drawn as this dataset's were, with its donors"
        confidence = f"{self.settings.confidence * 100:.4g} %"
        return f"{confidence} {kind} confidence sequence over {population}"


def acceptance_of(evaluator: Evaluator, settings: Settings) -> Acceptance:
    """How large a gap a claim accepts, which each of its rivals is one more way to refute."""
    acceptance, said = Acceptance.of(settings, evaluator.metric), evaluator.hypothesis.predicts
    rivals = 0 if said is None else len(said.rivals)
    return replace(acceptance, routes=acceptance.routes + rivals)


def measure(
    evaluator: Evaluator,
    references: References,
    settings: Settings,
    under_null: UnderNull | None = None,
) -> Measured:
    """Draw swaps until the claim is decided, or the budget is spent.

    **Arguments**

    - `evaluator`, `references`: the claim's own, or those of a mutant of it.
    - `under_null`: of the claim, where a mutant is to explain as much of it.

    Undecided where a share is to be recovered of nothing; `recovered_reason` tells.

    **Raises** `DataError` where the dataset lacks the feature of the slices.
    """
    acceptance, space = acceptance_of(evaluator, settings), evaluator.space
    if settings.by is not None:
        space.dataset.feature(settings.by)  # a wrong name is told before anything is drawn

    under_null = under_null or _under_null(evaluator, references, settings)
    nodes_of, predictions = _Nodes(evaluator, settings), Predictions(evaluator, acceptance)
    where_all_moved = _WhereAllMoved(evaluator)

    def counted(drawn: Sample) -> Sample | None:
        """The samples that count; None where these are too few."""
        if settings.min_gap is None:
            return drawn
        which = where_all_moved(drawn.swap_set)
        enough = 1 if drawn.exact else FEWEST_MOVED
        return drawn.only(which) if which.sum() >= enough else None

    def is_decided(whole: Sample) -> bool:
        drawn = counted(whole)
        if drawn is None:
            return bool(untested_nodes(nodes_of(whole)))
        if evaluator.progress is not None:
            stands = interval_of_draws(drawn, drawn.changes, acceptance)
            evaluator.progress("samples", len(whole), settings.samples, f"gap {stands}")
        if untested_nodes(nodes_of(whole)):
            return True
        found, why = outcome_of_draws(drawn, acceptance, under_null)
        if (together := outcome_with(predictions(drawn), found)) != found:
            return together != UNDECIDED
        if found != HELD or settings.slice_tolerance is None:
            return found != UNDECIDED or why == NO_ROOM
        return outcome_of(_sliced(space, drawn, settings, acceptance)) != UNDECIDED

    whole = _all_there_is(evaluator, references, settings, under_null)
    if whole is None:
        whole = sample(evaluator, references, settings.stream("draw"), is_decided, settings.samples)
    nodes, counts = nodes_of(whole), counted(whole)
    drawn = whole if counts is None else counts
    base = drawn.baseline
    lost, tolerance = _accepted(drawn, base, acceptance, under_null)
    alike = slack(drawn.mean(drawn.rounding), tolerance)
    gap = interval_of_draws(drawn, drawn.changes, acceptance, alike)
    clean, baseline = drawn.mean(drawn.unscrubbed), base.mean(base.scrubbed)
    share, reason = recovered(gap.mean, baseline, clean, acceptance.metric.worse, lost)
    by_slice = _sliced(space, drawn, settings, acceptance)
    together, why = _together(drawn, acceptance, under_null, nodes, by_slice)
    if counts is None:
        together, why = UNTESTED, None
    together, why, predicted = with_rivals(predictions(drawn), together, why)
    return Measured(
        evaluator, settings, references, drawn, gap, together, tolerance, nodes, by_slice,
        baseline, share, reason, why, under_null, predicted,
    )  # fmt: skip


def _under_null(
    evaluator: Evaluator, references: References, settings: Settings
) -> UnderNull | None:
    """The claim's null, if any. **Raises** `HypothesisError` where a share of it is asked for, and
    there is none."""
    null = null_of(evaluator.space)
    if settings.min_gap is not None:
        _require_alone(evaluator.space)
        null = None  # that swaps hurt is nothing that features explain
    shares = {"min_explained": "tolerance", "min_explained_at_worst": "adversarial_tolerance"}
    for name, instead in shares.items():
        if null is None and getattr(settings, name) is not None:
            raise HypothesisError(
                f"{name}= is a share of what the claim's features explain, and it names none: "
                f"give {instead}= instead"
            )
    if null is None:
        return None
    return UnderNull(evaluator, null, references, settings.stream("null"))


def _require_alone(space: SwapSpace) -> None:
    """**Raises** `HypothesisError` where what hurts could be anything but what the claim names."""
    with located_at(space.hypothesis):
        if space.predicted is not None:
            raise HypothesisError(
                "min_gap= says that swaps hurt, and predicts= what they lead to; claim one of them"
            )
        named = [slot for slot in space.slots if not slot.is_rest]
        claimed = [s for s in named if not s.agrees_on.exact or s.node.edited is not None]
        beside, remedy = "beside it", "rest=EXACT"
        if not claimed:  # what stays says that it suffices, and not that it is needed
            beside, remedy = "while it stays", "agrees_on=ANYTHING and rest=EXACT"
        for slot in space.slots if named else ():
            if slot.is_rest and not slot.agrees_on.exact:
                raise HypothesisError(
                    f"min_gap= says that it hurts to change {(claimed or named)[0].whole}, but "
                    f"{slot.path} is swapped {beside}, which may be what hurts; say {remedy}"
                )


class _WhereAllMoved:
    """In which of the samples so far every node moved; each is looked at once."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator, self._found = evaluator, np.empty(0, dtype=np.bool_)

    def __call__(self, swap_set: SwapSet) -> npt.NDArray[np.bool_]:
        if new := len(swap_set) - len(self._found):
            moved = all_moved(self._evaluator, swap_set[-new:])
            self._found = np.concatenate([self._found, moved])
        return self._found


def _all_there_is(
    evaluator: Evaluator,
    references: References,
    settings: Settings,
    under_null: UnderNull | None,
) -> Sample | None:
    """Every swap that a claim allows; None where they, or what decides the claim beside them, are
    more than its samples, and where it speaks of more than these rows."""
    if settings.generalize or _too_many(references, settings, under_null):
        return None
    found = every(evaluator, references, settings.samples, apart=True)
    if found is not None and evaluator.progress is not None:
        evaluator.progress(
            "swap sets", len(found), len(found), f"gap {found.mean(found.changes):.4g}"
        )
    return found


def _too_many(
    references: References, settings: Settings, under_null: UnderNull | None
) -> str | None:
    """What decides a claim on average beside its own swaps, and has too many to evaluate all."""
    if settings.min_recovered is not None and references.every_baseline is None:
        return "the baseline"
    is_wanting = under_null is not None and not under_null.is_enumerable
    return "the null" if settings.min_explained is not None and is_wanting else None


def _accepted(
    drawn: Sample, base: Sample, acceptance: Acceptance, under_null: UnderNull | None
) -> tuple[float, float]:
    """How far off what there is to lose may be, and the largest gap that the claim accepts."""
    lost = interval_of_draws(base, base.changes, acceptance)
    room = 0.0
    if acceptance.min_explained is not None and under_null is not None:
        null = drawn.under(under_null)
        room = acceptance.sign * null.mean(null.changes)
    # what is exact is so up to the last digits of the network
    off = base.mean(base.rounding) if base.exact else lost.around
    return off, acceptance.accepted(abs(lost.mean), room)


def _together(
    drawn: Sample,
    acceptance: Acceptance,
    under_null: UnderNull | None,
    nodes: tuple[NodeReport, ...],
    by_slice: Slices | None,
) -> tuple[OnAverage, str | None]:
    """What the gap and the slices decide, and why they do not."""
    if untested_nodes(nodes):
        return UNTESTED, None
    together, why = outcome_of_draws(drawn, acceptance, under_null)
    of_slices = outcome_of(by_slice)
    if together == REFUTED or of_slices == HELD:
        return together, why
    return of_slices, why if of_slices == together else why_of(by_slice)


def interval_of_draws(
    drawn: Sample, values: Numbers, acceptance: Acceptance, rounding: float = 0.0
) -> Estimate:
    """Of the mean of one value for each sample; differences up to `rounding` are none."""
    largest = acceptance.largest_change * drawn.largest_weight
    return drawn.interval(drawn.units(values), largest, acceptance.confidence, rounding)


def outcome_of_draws(
    drawn: Sample,
    acceptance: Acceptance,
    under_null: UnderNull | None,
    confidence: float | None = None,
) -> tuple[Decided, str | None]:
    """What the draws decide, slices aside, and why they do not; `confidence`: of all intervals,
    instead of the claim's own."""
    lost = room = None
    if acceptance.min_recovered is not None:
        lost = acceptance.sign * _beside(drawn.baseline)
    if acceptance.min_explained is not None:
        assert under_null is not None
        room = acceptance.sign * _beside(drawn.under(under_null))
    found = acceptance.outcome(
        drawn.units(drawn.changes), lost, room, drawn.mean(drawn.rounding),
        confidence=confidence, largest_weight=drawn.largest_weight, interval=drawn.interval,
    )  # fmt: skip
    if acceptance.min_within is None or found[0] == REFUTED:
        return found
    return _within(drawn, acceptance, found)


def _beside(other: Sample) -> Numbers:
    """The changes of what a claim is compared with: of every unit, or their one mean where they are
    all that there are, which is none where rounding could have made it."""
    if not other.exact:
        return other.units(other.changes)
    mean = other.mean(other.changes)
    return np.array([mean if abs(mean) > other.mean(other.rounding) else 0.0])


def _within(
    drawn: Sample, acceptance: Acceptance, found: tuple[Decided, str | None]
) -> tuple[Decided, str | None]:
    """What the share of single swaps decides that stay within the tolerance, where their mean has
    not refuted the claim."""
    assert acceptance.min_within is not None
    assert acceptance.tolerance is not None
    most = acceptance.tolerance + slack(drawn.mean(drawn.rounding), acceptance.tolerance)
    inside = drawn.units((np.abs(drawn.changes) <= most).astype(np.float64))
    beyond, within = (
        drawn.interval(inside, drawn.largest_weight, confidence, 0.0)
        for confidence in (acceptance.to_refute, acceptance.confidence)
    )
    # probabilities that are added up have lost some of their last digits
    least = acceptance.min_within - (ADDED_UP if drawn.exact else 0.0)
    if beyond.high < least:
        return REFUTED, None
    if within.low < least:
        return UNDECIDED, found[1] or STRADDLES
    return found


def _sliced(
    space: SwapSpace, drawn: Sample, settings: Settings, acceptance: Acceptance
) -> Slices | None:
    if settings.by is None:
        return None
    return slices(space, drawn, settings.by, acceptance, settings.slice_tolerance)


class _Nodes:
    """How far every slot is tested, without the gaps."""

    def __init__(self, evaluator: Evaluator, settings: Settings) -> None:
        self._evaluator, self._settings = evaluator, settings
        # by node: the share of swaps that change what is read of a leaf, its units that are never
        # active, and the nodes that make up for all that it changes
        self._moves: dict[str, float] = {}
        self._silent: dict[str, tuple[int, ...]] = {}
        self._made_up: dict[str, tuple[str, ...]] = {}
        self._idle: bool | None = None  # whether nothing that is swapped reaches the output

    def __call__(self, drawn: Sample) -> tuple[NodeReport, ...]:
        evaluator = self._evaluator
        # the first draws tell, which every look has
        first = drawn.swap_set if drawn.exact else drawn.swap_set[:BURN_IN]
        if not self._moves:
            moved, made_up = moved_leaves(evaluator, first)
            counted = _counted(evaluator, first)
            self._moves = {
                whole: _share_of(drawn, np.stack([moved[i] for i in slots]), counted[slots])
                for whole, slots in evaluator.space.wholes.items()
                if moved.keys() >= {*slots}
            }
            silent = silent_units(evaluator, first)
            whole = [slot.whole for slot in evaluator.space.slots]
            self._silent = {whole[i]: of for i, of in silent.items()}
            self._made_up = {
                whole[i]: tuple(dict.fromkeys(whole[other] for other in others))
                for i, others in made_up.items()
            }
        nodes = _nodes(evaluator, drawn, self._settings, self._moves)
        if not any(node.must_be_tested for node in nodes):  # the swaps of rests are all there is
            if self._idle is None:
                self._idle = not reaches_output(evaluator, first)
            idle = [node.is_rest and node.moved > 0 and self._idle for node in nodes]
            nodes = tuple(
                replace(n, fixed=n.fixed or is_idle) for n, is_idle in zip(nodes, idle, strict=True)
            )
        return tuple(map(self._with_units, nodes))

    def _with_units(self, node: NodeReport) -> NodeReport:
        """Where no unit of a leaf is ever active, or others make up for all that it changes,
        nothing was swapped: what it agrees on has not fixed it."""
        space, parts = self._evaluator.space, self._evaluator.graph.parts
        silent = self._silent.get(node.slot, ())
        claimed = space.slots[space.wholes[node.slot][0]].node.components
        units = [parts[name].units for name in claimed]
        count = sum(-1 if some is None else len(some) for some in units)
        if silent and len(silent) == count:
            is_tested = not node.must_be_tested
            return replace(node, silent=silent, fixed=False, is_tested=is_tested)
        if not node.moved and (others := self._made_up.get(node.slot, ())):
            is_tested = not node.must_be_tested
            return replace(node, silent=silent, fixed=False, is_tested=is_tested, made_up_by=others)
        return replace(node, silent=silent)


def _nodes(
    evaluator: Evaluator, drawn: Sample, settings: Settings, moves: Mapping[str, float]
) -> tuple[NodeReport, ...]:
    """`moves`: the share of draws that changed what is read of a leaf, by node."""
    space = evaluator.space
    swaps, counted = space.moved(drawn.swap_set), _counted(evaluator, drawn.swap_set)
    of_references = _counted(evaluator, space.unswapped(space.reference_rows))
    supports = space.support()
    found = []
    for whole, slots in space.wholes.items():
        slot = space.slots[slots[0]]
        donors = np.stack([supports[i].donors for i in slots])
        swapped = _share_of(drawn, swaps[slots], counted[slots])
        others = np.stack([supports[i].other for i in slots])[of_references[slots]]
        computed = slot.node.computed_by is not None and not slot.is_rest
        edited = None if slot.is_rest else slot.node.edited
        # A computed or edited node takes no activation from a donor: what it puts in its place is
        # put to the test.
        takes_none = computed or edited is not None
        with_other = 1.0 if takes_none else float(others.mean()) if others.size else 0.0
        moved = moves.get(whole, swapped)
        fixed = moved == 0 and swapped >= settings.min_moved > 0
        is_tested = with_other >= settings.min_with_other and (
            computed or fixed or moved >= settings.min_moved
        )
        is_claimed = edited is not None or not slot.agrees_on.exact
        must_be_tested = not slot.is_rest and is_claimed
        found.append(
            NodeReport(
                slot=whole,
                agrees_on="its features, computed"
                if computed
                else str(edited or _in_words(space, slot)),
                is_rest=slot.is_rest,
                donors=(int(donors.min()), float(np.median(donors)), int(donors.max())),
                with_other=with_other,
                moved=moved,
                must_be_tested=must_be_tested,
                is_tested=is_tested,
                alone=None,
                wanting=tuple(_wanting(space, slot, slots[0]))
                if must_be_tested and not is_tested and edited is None
                else (),
                fixed=fixed,
            )
        )
    return tuple(found)


def _in_words(space: SwapSpace, slot: Slot) -> str:
    """What a slot agrees on; of several values for a row, that all of them are compared at once."""
    names = () if slot.at is not None else slot.agrees_on.features
    numbers = {name: math.prod(space.dataset.feature(name).shape[1:]) for name in names}
    whole = [f"all {number} values of {name}" for name, number in numbers.items() if number > 1]
    return f"{slot.agrees_on} ({', '.join(whole)} at once)" if whole else str(slot.agrees_on)


def _counted(evaluator: Evaluator, swap_set: SwapSet) -> npt.NDArray[np.bool_]:
    """bool `[slots, R]`: what shares of swaps are shares of. Of a node with a donor for each
    position these are the positions that are there, and that anything looks at."""
    space = evaluator.space
    return read_at(evaluator, swap_set) & space.is_there(space.parents(swap_set))


def _share_of(drawn: Sample, moved: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_]) -> float:
    """Of the draws, whatever they are drawn for, those in which a slot moved; both
    `[slots, draws]`."""
    if not counted.any():
        return 0.0
    weights = drawn.weights
    if weights is not None:
        weights = np.broadcast_to(weights, moved.shape)[counted]
    return float(np.average(moved[counted], weights=weights))


def _wanting(space: SwapSpace, slot: Slot, i: int) -> Iterator[str]:
    """Some values of a slot's features for which no reference has a donor of other content."""
    dataset, codes = space.dataset, space.agree(i)
    # one for each content of a value
    contents = np.unique(np.stack([codes, space.content]), axis=1)[0]
    lonely = np.isin(codes, np.flatnonzero(np.bincount(contents) <= 1)) & np.isin(
        codes, codes[space.reference_rows]
    )
    _, first = np.unique(codes[lonely], return_index=True)
    for row in np.flatnonzero(lonely)[np.sort(first)[:MOST_WANTING]]:
        further, own = divmod(int(row), len(dataset))
        at = None if slot.at is None else (slot.at + further) % max(slot.shifts, slot.at + 1)
        yield ", ".join(
            f"{name} = {said(_at(dataset.feature(name)[own], at))}"
            for name in slot.agrees_on.features
        )


def _at(value: Any, position: int | None) -> Any:
    """Of what a row has for each position the value at one."""
    return value if position is None or np.ndim(value) == 0 else value[position]


def percentiles(changes: Numbers, weights: Numbers | None = None) -> tuple[float, ...]:
    """0, 1, ... 100 per cent, each of them a change that was seen."""
    if weights is not None:
        return tuple(quantile(changes, weights, share / 100) for share in range(101))
    found: list[float] = np.percentile(changes, range(101), method="inverted_cdf").tolist()
    return tuple(found)


def with_gaps(measured: Measured) -> tuple[NodeReport, ...]:
    """The reports with the gap when only that slot is swapped, the others EXACT, and with the gap
    when its features alone know nothing."""
    evaluator, drawn = measured.evaluator, measured.sample
    references, under = drawn.references, measured.under_null
    rng, others = measured.settings.stream("alone"), measured.settings.stream("null, alone")
    most = max(FEWEST_SAMPLES_PER_NODE, MOST_SAMPLES_OF_NODES // max(1, len(measured.nodes)))
    most = min(MOST_SAMPLES_PER_NODE, most)
    few = references.plan.rows[: most if drawn.exact else min(most, len(drawn))]
    clean = references.unscrubbed(len(few))
    as_claimed = measured.gap.mean if drawn.exact else drawn.changes[: len(few)]

    def alone(some: Sequence[NodeReport]) -> SwapSet:
        spaces = [evaluator.space.keep([node.slot]) for node in some]
        chances = [rng.random((len(evaluator.space.slots), len(few))) for _ in some]
        sizes, references = [len(few)] * len(some), np.tile(few, len(some))
        return drawn_in(spaces, sizes, references, np.concatenate(chances, axis=1))

    def unknowing(some: Sequence[NodeReport]) -> SwapSet:
        assert under is not None
        nulls = [under.null.of_one(node.slot) for node in some]
        return drawn_of(nulls, few, others, under.together)

    at_once = max(1, TOGETHER // len(few))
    nodes = measured.nodes
    if drawn.exact:
        nodes = tuple(_enumerated(node, measured) for node in nodes)
    by_themselves = _evaluated(
        evaluator, [node for node in nodes if node.alone is None], alone, at_once
    )
    asked = [
        node
        for node in nodes
        if under is not None and under.null.slots_of_one(node.slot) and node.unknowing is None
    ]
    of_null = dict(zip(asked, _known(evaluator, asked, unknowing, at_once), strict=True))
    found = []
    for node in nodes:
        report, knows_nothing = node, of_null.get(node)
        if node.alone is None:
            report = replace(node, alone=_alone(next(by_themselves) - clean, measured))
        if knows_nothing is not None:
            apart = _alone(knows_nothing - clean - as_claimed, measured)
            report = replace(
                report,
                unknowing=_alone(knows_nothing - clean, measured),
                says_nothing=apart.low <= 0 <= apart.high,
            )
        found.append(report)
    return tuple(found)


def _enumerated(report: NodeReport, measured: Measured) -> NodeReport:
    """With points, where all that there are are few enough, so that nothing needs to be drawn."""
    evaluator, references = measured.evaluator, measured.references
    only = evaluator.allowing(evaluator.space.keep([report.slot]))
    alone = every(only, references, measured.settings.samples)
    if alone is not None:
        report = replace(report, alone=point(alone.units(alone.changes)))
    under, of_null = measured.under_null, None
    if under is not None and under.null.slots_of_one(report.slot):
        null = under.null.of_one(report.slot)
        # what cannot be evaluated is told of the whole null
        with suppress(ScrubError):
            of_null = UnderNull(
                evaluator, null, references, measured.settings.stream("null, alone")
            ).every
    if of_null is None:
        return report
    unknowing = point(of_null.units(of_null.changes))
    by = abs(unknowing.mean - measured.gap.mean)
    return replace(report, unknowing=unknowing, says_nothing=by <= measured.rounding)


_Draw = Callable[[Sequence[NodeReport]], SwapSet]  # as many for each of some nodes, in order


def _evaluated(
    evaluator: Evaluator, nodes: Sequence[NodeReport], draw: _Draw, at_once: int
) -> Iterator[Numbers]:
    """The metric of what is drawn for each node, for several nodes together."""
    for start in range(0, len(nodes), at_once):
        some = nodes[start : start + at_once]
        yield from evaluator.evaluate(draw(some)).reshape(len(some), -1)


def _known(
    evaluator: Evaluator, nodes: Sequence[NodeReport], draw: _Draw, at_once: int
) -> Iterator[Numbers | None]:
    """The same; None where it cannot be evaluated, as the verdict says of the whole null."""
    for start in range(0, len(nodes), at_once):
        some = nodes[start : start + at_once]
        drawn = draw(some)
        try:
            yield from evaluator.evaluate(drawn).reshape(len(some), -1)
        except ScrubError:
            for which in np.split(np.arange(len(drawn)), len(some)):
                found = None
                with suppress(ScrubError):
                    found = evaluator.evaluate(drawn[which])
                yield found


def _alone(changes: Numbers, measured: Measured) -> Estimate:
    """Student's t, and no ends where a metric without bounds has not shown enough for them."""
    found = estimate(changes, measured.settings.confidence)
    is_known = np.isfinite(measured.acceptance.largest_change) or has_seen_enough(
        changes, measured.settings.confidence, measured.slack
    )
    return found if is_known else Estimate(found.mean, -math.inf, math.inf)
