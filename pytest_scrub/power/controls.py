"""Controls: the same claim where it should not hold. A claim that holds there as well says
nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.fitting import (
    BATCH,
    fitted,
    to_fit,
    weights_anew,
)
from pytest_scrub.errors import ModelError, ScrubError
from pytest_scrub.network.graph import ModelGraph, Recoding
from pytest_scrub.network.shuffled import shuffled, why_not_shuffled
from pytest_scrub.power.mutants import permuted_everywhere, with_other_units
from pytest_scrub.power.refuted import SAMPLE_SHARE
from pytest_scrub.statistics.average import Measured, measure
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.statistics.sampling import References
from pytest_scrub.tree.edits import VectorEdit
from pytest_scrub.tree.nodes import ANYTHING, Node, Subspace, output
from pytest_scrub.tree.paths import node_paths, with_changes
from pytest_scrub.verdict import HELD, REFUTED, TOO_FEW, UNDECIDED, Control

SHUFFLED, PERMUTED = "weights shuffled", "features permuted among rows"
DIRECTION, OTHER_VECTORS = "random vectors of the same norm", 19
RECODED, FITTED = "rows that tell what is recoded", "the alignment fitted anew to shuffled weights"
SEEN = (
    "where the claim's own was found on other rows, say so with fitted_on= of the Dataset, and "
    "this one is fitted there; else a simpler one would say more"
)
HOLDS_THERE = "give fitted_on= rows on which the claim holds; else a simpler one would say more"
SIMPLER, MORE_ROWS = "a simpler one would say more", "more rows there, or a simpler one, would tell"
FITTABLE = "one with weights that gradients reach would tell"
JUDGED_ROWS, OTHER_ROWS = "that it is judged on", "of fitted_on="
ROTATED, OTHER_UNITS = "random subspaces of the same width", "other units, about as often active"


def predicts_a_change(average: Measured) -> bool:
    """Whether a claim says that swaps do something, which flexible ones may say of anything: such
    a claim has controls by default."""
    return average.settings.min_gap is not None or average.predicted is not None


def controls_of(average: Measured) -> tuple[Control, ...]:
    """The claim on the network with its weights shuffled, with the feature values of other rows
    and, where it names any, in random subspaces and with other units.

    All are judged on average, on the claim's own references.
    """
    return tuple(_controls(average))


def _controls(average: Measured) -> Iterator[Control]:
    graph, dataset = average.evaluator.graph, average.evaluator.dataset
    hypothesis, settings = average.evaluator.hypothesis, average.settings
    if reason := why_not_shuffled(graph):
        yield Control(SHUFFLED, None, None, reason, True)
    else:
        clean = None if average.predicted is None else _known_by_itself(average)
        with shuffled(graph, settings.stream(SHUFFLED)) as other:
            yield _control(SHUFFLED, average, other, dataset, hypothesis, clean)
    if average.predicted is not None:
        yield from _fitted_anew(average)
    found = permuted_everywhere(dataset, hypothesis, settings.stream(PERMUTED))
    if settings.min_gap is not None:
        pass  # features only say which swaps are left out, and those hurt too
    elif found is not None:
        yield _control(PERMUTED, average, graph, found[1], found[0])
    elif average.predicted is None:
        yield Control(PERMUTED, None, None, "the claim names no feature", True)
    rotated = _rotated(hypothesis, settings.stream(ROTATED))
    if rotated != hypothesis:
        yield _control(ROTATED, average, graph, dataset, rotated)
    yield from _of_other_vectors(average)
    metric_pos = average.evaluator.metric.pos
    others = with_other_units(graph, dataset, hypothesis, metric_pos, settings.stream(OTHER_UNITS))
    if others is not None:
        yield _control(OTHER_UNITS, average, graph, dataset, others)


def _fitted_anew(average: Measured) -> Iterator[Control]:
    """The claim on the shuffled network with an alignment that is fitted to it: a flexible one fits
    any network. None of a claim that has nothing to fit.

    An alignment that is not linear may know by heart the rows that it was found on, and a fit that
    fails does not tell that it could not: only rows that it was not found on speak for it.
    """
    own, settings = average.evaluator, average.settings
    recoding, steps = to_fit(own, settings.stream(RECODED))
    if not steps:
        return
    is_linear = recoding is None
    not_judged = Control(FITTED, None, None, None, is_linear)
    try:
        if reason := why_not_shuffled(own.graph):
            raise ModelError(reason)
        fit, which = _found_on(average)
        is_other = which == OTHER_ROWS
        notes = [f"fitted by {steps} steps of Adam with {BATCH} swaps each, on the rows {which}"]
        remedy = SIMPLER if is_other else SEEN if which == JUDGED_ROWS else HOLDS_THERE
        clean = _known_by_itself(average)
        with shuffled(own.graph, settings.stream(SHUFFLED)) as other:
            control = _fitted_to(other, average, fit, recoding, steps, clean)
        if control.note is not None:
            notes.append(control.note)
        tells = is_linear or is_other
        if control.passed and tells:
            again = _fitted_to(own.graph.rebuilt(), average, fit, recoding, steps, clean)
            tells = again.outcome == HELD
            notes.append(_told_beside(again))
            remedy = MORE_ROWS
        if control.passed and not tells:
            control = replace(not_judged, accuracy=control.accuracy)
    except ScrubError as error:
        control, remedy, notes = not_judged, FITTABLE, [f"it cannot be fitted: {error}"]
    yield replace(control, note="; ".join(notes), remedy=None if control.passed else remedy)


def _found_on(average: Measured) -> tuple[Dataset, str]:
    """Data of the rows that the claim's alignment was found on, and which they are. Those of
    `fitted_on` are not believed to be it where the claim does not hold on them."""
    own = average.evaluator
    if own.dataset.fitted_rows is None:
        return own.dataset, JUDGED_ROWS
    fit = own.dataset.of_fit
    settings = replace(average.settings, by=None, slice_tolerance=None, generalize=False)
    try:
        store = own.store.for_dataset(own.graph, fit)
        evaluator = Evaluator(own.graph, fit, own.hypothesis, own.metric, store=store)
        outcome: str = measure(evaluator, References.of(evaluator, settings), settings).outcome
    except ScrubError as error:
        outcome = f"not judged ({error})"
    if outcome == HELD:
        return fit, OTHER_ROWS
    return own.dataset, f"{JUDGED_ROWS}, since on those of fitted_on= the claim is {outcome}"


def _fitted_to(
    graph: ModelGraph,
    average: Measured,
    fit: Dataset,
    recoding: Recoding | None,
    steps: int,
    clean: Numbers,
) -> Control:
    own, rng = average.evaluator, average.settings.stream(FITTED)
    with weights_anew(recoding, rng) as weights:
        store = own.store.for_dataset(graph, fit)
        fitting = Evaluator(graph, fit, own.hypothesis, own.metric, store=store)
        found = fitted(fitting, recoding, weights, steps, rng)
        # a graph of its own, as what was read before is of other weights
        return _control(FITTED, average, graph.rebuilt(), own.dataset, found, clean)


def _told_beside(again: Control) -> str:
    """What the same fit to the network itself says of one to shuffled weights that found nothing:
    as much only where it finds the claim."""
    if again.accuracy is None:
        return "fitted to the network itself it could not be judged, so this says little"
    told = f"fitted so to the network itself its interchange accuracy is {again.accuracy:.1%}"
    return told if again.outcome == HELD else f"{told}, which does not hold, so this says little"


def _known_by_itself(average: Measured) -> Numbers:
    """The unscrubbed metric of the network as it is, float64 `[rows]`, NaN for rows that are no
    sample's reference. Labels are to be predicted as well as it knows its own: beside a network
    that answers at random, any prediction would be as good."""
    plan, space = average.references.plan, average.evaluator.space
    rows = np.unique(plan.rows)
    if len(space.reference_rows) <= len(plan.rows):
        rows = np.union1d(rows, space.reference_rows)
    found = np.full(len(space.dataset), np.nan)
    found[rows] = average.evaluator.unscrubbed(rows)
    return found


def _rotated(hypothesis: Node, rng: np.random.Generator) -> Node:
    """The claim about random subspaces: all that it names turned by one rotation, so that what was
    orthogonal stays so."""
    rotations: dict[int, np.ndarray[Any, Any]] = {}

    def turned(_: str, node: Node) -> Node:
        if node.subspace is None:
            return node
        width = node.subspace.width
        if width not in rotations:
            rotations[width] = np.linalg.qr(rng.standard_normal((width, width)))[0]
        return replace(node, subspace=Subspace(rotations[width] @ node.subspace.basis))

    return with_changes(hypothesis, turned)


def _of_other_vectors(average: Measured) -> Iterator[Control]:
    """The claim with edits by random vectors, one after the other; none without edits.

    Where any vector did as well as the claim's, it would be the best of twenty in one case of
    twenty: so none of nineteen others may do as well. They are orthogonal to the claim's own, as in
    few dimensions a random one is nearly the same every now and then. The one that comes nearest is
    reported; as of mutants, the first fifth of the samples judges each.
    """
    own, settings = average.evaluator, average.settings
    widths = [n.edited.width for _, n, _ in node_paths(own.hypothesis) if n.edited is not None]
    if not widths:
        return
    if max(widths) == 1:
        yield Control(DIRECTION, None, None, "one number has no other direction", True)
        return
    rng, samples = settings.stream(DIRECTION), max(2, settings.samples // SAMPLE_SHARE)
    few = replace(average, settings=replace(settings, samples=samples))
    found = [
        _control(DIRECTION, few, own.graph, own.dataset, _otherwise_edited(own.hypothesis, rng))
        for _ in range(OTHER_VECTORS)
    ]
    sign = -1 if settings.min_gap is None else average.acceptance.sign
    nearest = max(found, key=lambda one: (not one.passed, sign * (one.gap or 0.0)))
    as_well = sum(not one.passed for one in found)
    told = f"{as_well} of {OTHER_VECTORS} do, or may do, as well; this is the nearest"
    yield replace(nearest, note=told if nearest.note is None else f"{told}; {nearest.note}")


def _otherwise_edited(hypothesis: Node, rng: np.random.Generator) -> Node:
    """The claim with edits by random vectors of the same norm that are orthogonal to its own, equal
    ones by the same."""
    others: dict[VectorEdit, VectorEdit] = {}

    def turned(_: str, node: Node) -> Node:
        if node.edited is None or node.edited.width == 1:  # which has no other direction
            return node
        if node.edited not in others:
            own, drawn = node.edited.vector, rng.standard_normal(node.edited.width)
            other = drawn - (drawn @ own) / (own @ own) * own
            others[node.edited] = node.edited.of(
                other * np.linalg.norm(own) / np.linalg.norm(other)
            )
        return replace(node, edited=others[node.edited])

    return with_changes(hypothesis, turned)


def _control(
    what: str,
    average: Measured,
    graph: ModelGraph,
    dataset: Dataset,
    hypothesis: Node,
    clean: Numbers | None = None,
) -> Control:
    metric = average.evaluator.metric
    settings = replace(average.settings, by=None, slice_tolerance=None)
    plan = average.references.plan
    try:
        store = average.evaluator.store
        if graph is not average.evaluator.graph:
            store = store.for_dataset(graph, dataset)
        evaluator = Evaluator(graph, dataset, hypothesis, metric, store=store)
        anything = Evaluator(graph, dataset, output(agrees_on=ANYTHING), metric, store=store)
        references = References(plan, evaluator, anything, settings.stream("baseline"), clean)
        found = measure(evaluator, references, settings)
    except ScrubError as error:
        return Control(what, None, None, f"it could not be judged: {error}", True)
    has_nothing_to_lose = found.outcome != REFUTED and found.recovered is None
    note = (
        f"nothing can be lost there, so that says nothing: {found.recovered_reason}"
        if has_nothing_to_lose
        else None
    )
    # of too few draws that differ there is no interval, but none of them hurts as it has to
    never_hurts = (
        settings.min_gap is not None
        and found.undecided == TOO_FEW
        and len(found.sample.changes) > 0
        and bool((found.acceptance.sign * found.sample.changes < settings.min_gap).all())
    )
    fails = found.outcome not in (HELD, UNDECIDED) or never_hurts
    told = None if found.predicted is None else found.predicted.accuracy
    accuracy = None if told is None else told.mean
    passed = has_nothing_to_lose or fails
    return Control(what, found.outcome, found.gap.mean, note, passed, accuracy)
