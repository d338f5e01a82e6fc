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
    STEPS,
    STEPS_OF_MODULES,
    fitted,
    subspaces_of,
    weights_anew,
)
from pytest_scrub.errors import ModelError, ScrubError
from pytest_scrub.network.graph import ModelGraph
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
LOOKED_AT = 16  # rows that tell whether anything recodes what passes
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

    Of what is not linear nothing else is a control: where that cannot be fitted, only rows that it
    was not found on speak for it.
    """
    own, settings = average.evaluator, average.settings
    graph, dataset = own.graph, own.dataset
    # any, as the first may be alike in all that is recoded
    rows = settings.stream(RECODED).permutation(dataset.first_of_content)[:LOOKED_AT]
    recoding = graph.recoding(_named(own.hypothesis), dataset.batch(rows))
    if recoding is None and not subspaces_of(own.hypothesis):
        return
    rng, is_seen = settings.stream(FITTED), dataset.fitted_rows is None
    rows_of = "that it is judged on" if is_seen else "of fitted_on="
    steps = STEPS if recoding is None else STEPS_OF_MODULES
    note = f"fitted by {steps} steps of Adam with {BATCH} swaps each, on the rows {rows_of}"
    try:
        if reason := why_not_shuffled(graph):
            raise ModelError(reason)
        clean = _known_by_itself(average)
        with (
            shuffled(graph, settings.stream(SHUFFLED)) as other,
            weights_anew(recoding, rng) as weights,
        ):
            fit = dataset.of_fit
            store = own.store.for_dataset(other, fit)
            fitting = Evaluator(other, fit, own.hypothesis, own.metric, store=store)
            found = fitted(fitting, recoding, weights, steps, rng)
            control = _control(FITTED, average, other, dataset, found, clean)
            note = note if control.note is None else f"{note}; {control.note}"
    except ScrubError as error:
        note = f"it cannot be fitted: {error}"
        control = Control(FITTED, None, None, None, recoding is None or not is_seen)
    remedy = None if control.passed else SEEN if is_seen else "a simpler one would say more"
    yield replace(control, note=note, remedy=remedy)


def _named(hypothesis: Node) -> list[str]:
    return [name for _, node, _ in node_paths(hypothesis) for name in node.components]


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
