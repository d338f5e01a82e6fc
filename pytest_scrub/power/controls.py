"""Controls: the same claim where it should not hold. A claim that holds there as well says
nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import torch

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.fitting import (
    BATCH,
    Turn,
    fitted,
    subspaces_of,
    to_fit,
    weights_anew,
    with_subspaces,
)
from pytest_scrub.errors import ModelError, ScrubError
from pytest_scrub.network.graph import ModelGraph, Recoding
from pytest_scrub.network.shuffled import FEWEST, MOST, shuffled, why_not_shuffled
from pytest_scrub.power.mutants import permuted_everywhere, with_other_units
from pytest_scrub.power.null import against_null
from pytest_scrub.statistics.average import Measured, measure
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.statistics.sampling import BURN_IN, References
from pytest_scrub.tree.edits import VectorEdit
from pytest_scrub.tree.nodes import ANYTHING, Node, Subspace, output
from pytest_scrub.tree.paths import node_paths, with_changes
from pytest_scrub.verdict import HELD, REFUTED, TOO_FEW, UNDECIDED, Control

SHUFFLED, PERMUTED = "weights shuffled", "features permuted among rows"
DIRECTION = "random vectors of the same norm"
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
SAME = "the network answers as before, so that says nothing"

# A draw is near that is off by no more than three times what the claim accepts, or hurts at least
# a third as much as it says. A fit takes longer than all other draws, so the first decides unless
# it is near: how well one does depends on the shuffled network, and hardly on its start.
NEAR, FEWEST_FITS = 3.0, 1


def predicts_a_change(average: Measured) -> bool:
    """Whether a claim says that swaps do something, which flexible ones may say of anything: such
    a claim has controls by default."""
    return average.settings.min_gap is not None or average.predicted is not None


def controls_of(average: Measured) -> tuple[Control, ...]:
    """The claim on the network with its weights shuffled, with the feature values of other rows
    and, where it names any, in random subspaces, with other units and by other vectors.

    All are judged on average, on the claim's own references.
    """
    return tuple(_controls(average))


def _controls(average: Measured) -> Iterator[Control]:
    own, settings = average.evaluator, average.settings
    graph, dataset, hypothesis = own.graph, own.dataset, own.hypothesis
    if reason := why_not_shuffled(graph):
        yield Control(SHUFFLED, None, None, reason, True)
    else:
        clean = None if average.predicted is None else _known_by_itself(average)

        def judged(other: ModelGraph) -> Control:
            return _control(SHUFFLED, average, other, dataset, hypothesis, clean)

        yield from _nearest(average, _on_shuffled(average, judged))
    if average.predicted is not None:
        yield from _fitted_anew(average)
    if settings.min_gap is None:  # else features only say which swaps are left out, which hurt too
        permuted = permuted_everywhere(dataset, hypothesis, settings.stream(PERMUTED))
        # one is enough: the null permutes them anew for every few of its swaps
        controls = [*islice(_otherwise(PERMUTED, average, permuted), 1)]
        if not controls and average.predicted is None:
            yield Control(PERMUTED, None, None, "the claim names no feature", True)
        yield from controls
    rotated = ((other, dataset) for other in _rotated(hypothesis, settings.stream(ROTATED)))
    yield from _nearest(average, _otherwise(ROTATED, average, rotated))
    yield from _of_other_vectors(average)
    units = with_other_units(
        graph, dataset, hypothesis, own.metric.pos, settings.stream(OTHER_UNITS)
    )
    yield from _nearest(
        average, _otherwise(OTHER_UNITS, average, ((one, dataset) for one in units))
    )


def _nearest(
    average: Measured, draws: Iterator[Control], least: int = FEWEST, most: int = MOST
) -> Iterator[Control]:
    """Of controls that are drawn, one after the other, the one that comes nearest to the claim;
    none where nothing can be drawn.

    One that does as well, or may, is enough to make the claim weak, so it is the last. Where the
    `least` all fail, that is known too, unless one of them came near: then `most` are drawn.
    """
    near = average.tolerance * (NEAR if average.settings.min_gap is None else -1 / NEAR)

    def badness(one: Control) -> float:
        return math.inf if one.gap is None else average.acceptance.badness(one.gap)

    progress = average.evaluator.progress
    found: list[Control] = []
    tell: list[Control] = []  # the others have a note that says why they do not
    for one in islice(draws, most):
        found.append(one)
        tell += [one] if one.note is None else []
        if progress is not None:
            progress("controls", len(found), most, one.name)
        others = sum(other.note != SAME for other in found)
        is_clear = others >= least and all(badness(other) > near for other in tell)
        if is_clear or not one.passed:
            break
    if not tell or len(found) == 1:
        yield from sorted(found, key=lambda one: one.note == SAME)[:1]
        return
    as_well = sum(not one.passed for one in tell)
    told = f"{as_well} of {len(tell)} do, or may do, as well; this is the nearest"
    silent = [one.note for one in found if one.note is not None]
    if silent:
        told = f"{told}; of {len(silent)} more: {silent[0]}"
    yield replace(min(tell, key=lambda one: (one.passed, badness(one))), note=told)


def _otherwise(
    what: str, average: Measured, changed: Iterator[tuple[Node, Dataset]]
) -> Iterator[Control]:
    """The same network judged by other claims about other data, as they are drawn."""
    graph = average.evaluator.graph
    for hypothesis, dataset in changed:
        yield _control(what, average, graph, dataset, hypothesis)


def _on_shuffled(average: Measured, judged: Callable[[ModelGraph], Control]) -> Iterator[Control]:
    """What is judged on the network with its weights shuffled, again and again. Few weights, or
    weights of which most are alike, are now and then shuffled to those of the same network."""
    own, rng = average.evaluator, average.settings.stream(SHUFFLED)
    rows = average.references.plan.rows[:BURN_IN]
    while True:
        with shuffled(own.graph, rng) as other:
            found, outputs = judged(other), None
            if not found.passed:
                store = own.store.for_dataset(other, own.dataset)
                there = Evaluator(other, own.dataset, own.hypothesis, own.metric, store=store)
                outputs = there.clean_outputs(rows)
        # only now are the weights the network's own again, and whoever takes no other leaves them
        if outputs is not None and torch.allclose(outputs, own.clean_outputs(rows)):
            found = replace(found, passed=True, note=SAME)
        yield found


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

        def judged(other: ModelGraph) -> Control:
            return _fitted_to(other, average, fit, recoding, steps, clean)

        (control,) = _nearest(average, _on_shuffled(average, judged), FEWEST_FITS, FEWEST)
        if control.note is not None:
            notes.append(control.note)
        tells = is_linear or is_other
        if control.passed and tells:
            again = judged(own.graph.rebuilt())
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


def _rotated(hypothesis: Node, rng: np.random.Generator) -> Iterator[Node]:
    """The claim about random subspaces, again and again: all of one width that it names turned as
    one, so that what was orthogonal stays so. None of a claim that names none."""
    named: dict[int, list[Subspace]] = {}
    for subspace in subspaces_of(hypothesis):
        named.setdefault(subspace.width, []).append(subspace)
    named.pop(1, None)  # which is all there is
    while named:
        others = dict[Subspace, Subspace]()
        for subspaces in named.values():
            others |= _elsewhere(subspaces, rng)
        yield with_subspaces(hypothesis, others)


def _elsewhere(subspaces: list[Subspace], rng: np.random.Generator) -> dict[Subspace, Subspace]:
    """Where a turn takes them that is no nearer to their places than turns are on average: in few
    dimensions a random one is nearly the same every now and then."""
    width, sizes = subspaces[0].width, [one.basis.shape[1] for one in subspaces]
    while True:
        found = Turn(subspaces, rng).found()
        shared = [np.square(one.basis.T @ other.basis).sum() for one, other in found.items()]
        if sum(shared) < np.square(sizes).sum() / width + 1e-6:
            return found


def _of_other_vectors(average: Measured) -> Iterator[Control]:
    """The claim with edits by random vectors; none without edits.

    They are orthogonal to the claim's own, as in few dimensions a random one is nearly the same
    every now and then. As many are drawn as there may be, since none of them is far off: any may
    hurt.
    """
    own, rng = average.evaluator, average.settings.stream(DIRECTION)
    widths = [n.edited.width for _, n, _ in node_paths(own.hypothesis) if n.edited is not None]
    if widths and max(widths) == 1:
        yield Control(DIRECTION, None, None, "one number has no other direction", True)
    elif widths:
        others = ((_otherwise_edited(own.hypothesis, rng), own.dataset) for _ in range(MOST))
        yield from _nearest(average, _otherwise(DIRECTION, average, others), MOST)


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
    nothing = _nothing_to_lose(found, average)
    note = nothing and f"nothing can be lost there, so that says nothing: {nothing}"
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
    passed = nothing is not None or fails
    return Control(what, found.outcome, found.gap.mean, note, passed, accuracy)


def _nothing_to_lose(found: Measured, average: Measured) -> str | None:
    """Why a claim that is not refuted elsewhere would not be whatever it said, unlike the claim
    itself; None where it could be."""
    if found.outcome == REFUTED:
        return None
    if found.recovered is None:
        return found.recovered_reason
    own = average.evaluator
    if predicts_a_change(average) or found.evaluator.graph is own.graph:
        return None
    lost, its_own = (abs(one.baseline - one.unscrubbed) for one in (found, average))
    if lost <= found.tolerance < its_own:
        return f"no more than what the claim accepts, {lost:.4g} of {found.tolerance:.4g}"
    if not against_null(found, None).tells:
        return "the claim is not told from its null there"
    return None
