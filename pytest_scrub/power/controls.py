"""Controls: the same claim where it should not hold. A claim that holds there as well says
nothing."""

from __future__ import annotations

from dataclasses import replace

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import ScrubError
from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.network.shuffled import shuffled, why_not_shuffled
from pytest_scrub.power.mutants import permuted_everywhere
from pytest_scrub.statistics.average import Measured, measure
from pytest_scrub.statistics.sampling import References
from pytest_scrub.tree.nodes import ANYTHING, Node, output
from pytest_scrub.verdict import HELD, REFUTED, UNDECIDED, Control

SHUFFLED, PERMUTED = "weights shuffled", "features permuted among rows"


def controls_of(average: Measured) -> tuple[Control, ...]:
    """The claim on the network with its weights shuffled, and with the feature values of other
    rows.

    Both are judged on average, on the claim's own references.
    """
    graph, dataset = average.evaluator.graph, average.evaluator.dataset
    hypothesis, settings = average.evaluator.hypothesis, average.settings
    if reason := why_not_shuffled(graph):
        control = Control(SHUFFLED, None, None, reason, True)
    else:
        with shuffled(graph, settings.stream(SHUFFLED)) as other:
            control = _control(SHUFFLED, average, other, dataset, hypothesis)
    found = permuted_everywhere(dataset, hypothesis, settings.stream(PERMUTED))
    if found is None:
        return control, Control(PERMUTED, None, None, "the claim names no feature", True)
    return control, _control(PERMUTED, average, graph, found[1], found[0])


def _control(
    what: str, average: Measured, graph: ModelGraph, dataset: Dataset, hypothesis: Node
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
        references = References(plan, evaluator, anything, settings.stream("baseline"))
        found = measure(evaluator, references, settings)
    except ScrubError as error:
        return Control(what, None, None, f"it could not be judged: {error}", True)
    has_nothing_to_lose = found.outcome != REFUTED and found.recovered is None
    note = (
        f"nothing can be lost there, so that says nothing: {found.recovered_reason}"
        if has_nothing_to_lose
        else None
    )
    fails = found.outcome not in (HELD, UNDECIDED)
    return Control(what, found.outcome, found.gap.mean, note, has_nothing_to_lose or fails)
