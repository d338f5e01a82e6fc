"""Draws from a chosen distribution, until they decide."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_scrub.adversaries.distributions import FEWEST_DRAWS, MOST_DRAWS, Comparison
from pytest_scrub.adversaries.drawing import LEAST_SWAPPED, DrawSequence
from pytest_scrub.adversaries.in_turn import search_in_turn
from pytest_scrub.adversaries.search import Distribution, Searched, Spending
from pytest_scrub.adversaries.which_nodes import WhichNodes
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.metrics import Metric
from pytest_scrub.network import FunctionGraph
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.intervals import Numbers, fewest_alike
from pytest_scrub.statistics.sampling import BURN_IN
from pytest_scrub.swaps.null import null_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ANYTHING, EXACT, module, output
from tests.adversaries.problems import CANCELLING, OUT, SIGNS, cancelling, generator

BUDGET = 20_000
BOUNDED = Metric("bounded", lambda out, batch: out, lower=-4.0, upper=4.0)


def searched(tolerance: float, metric: Metric = OUT, budget: int = BUDGET) -> Searched:
    """Which of two nodes that cancel: each alone changes the output by one on average."""
    evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, metric)
    acceptance = Acceptance(metric, tolerance)
    (one,) = search_in_turn(evaluator, [WhichNodes()], budget, acceptance, seed=0, name="claim")
    return one


@pytest.mark.parametrize("metric", [OUT, BOUNDED])
@pytest.mark.parametrize(("tolerance", "outcome"), [(0.3, "refuted"), (2.5, "held")])
def test_what_is_clear_is_drawn_once(tolerance: float, outcome: str, metric: Metric) -> None:
    attempt = searched(tolerance, metric).attempt
    assert attempt.outcome == outcome
    # what few draws decide is at least what the average needs before it is looked at
    assert attempt.references == BURN_IN
    chosen = attempt.evaluations - attempt.references
    assert chosen <= (3 + 1) * MOST_DRAWS


def test_what_is_not_clear_is_drawn_to_the_end_of_the_budget() -> None:
    """Near the bound nothing is decided early, and no more is spent than there is."""
    attempt = searched(1.0, budget=4000).attempt
    assert attempt.outcome == "undecided"
    assert attempt.evaluations == 4000
    assert attempt.references > 2000


def test_a_decision_is_looked_at_again_after_every_group() -> None:
    """A gap a little beyond the bound takes more draws, and not all of them."""
    counts = {searched(tolerance).attempt.references for tolerance in (0.8, 0.85, 0.9)}
    assert max(counts) > BURN_IN
    assert all(BURN_IN < count <= BUDGET for count in counts)


def test_a_false_claim_falls_as_it_did_with_all_draws() -> None:
    """What is decided early is what the whole budget decides."""
    for tolerance in (0.1, 0.5, 0.7, 1.4, 2.5):
        early = searched(tolerance)
        evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, OUT)
        acceptance = Acceptance(OUT, tolerance)
        spending = Spending(evaluator, BUDGET, acceptance=acceptance)
        found = WhichNodes().search(evaluator.space, spending, generator())
        whole = spending.judged(found, pointwise=False)
        assert early.attempt.outcome == whole.attempt.outcome != "undecided"


def test_draws_that_are_all_equal_hold_nothing_before_there_are_enough() -> None:
    """One draw in two hundred changes the output by much: few equal draws do not hold."""
    data = Dataset(
        {"x": torch.tensor([1000.0] + [0.0] * 399).double(), "n": torch.arange(400)},
        features={"none": [0] * 400},
    )
    graph = FunctionGraph(
        A=lambda x: x, B=lambda x: 0 * x, output=lambda A, B, x, n: A + B + 0 * x + 0 * n
    )
    evaluator = Evaluator(graph, data, CANCELLING, OUT)
    for budget in (60, 120, 200):
        (one,) = search_in_turn(
            evaluator, [WhichNodes()], budget, Acceptance(OUT, 0.5), seed=0, name="claim"
        )
        assert one.attempt.outcome != "held"


# --- beside the null ------------------------------------------------------------------------------


def beside_null(metric: Metric = OUT, weight: float = 0.0001) -> tuple[Searched, list[int]]:
    """A node whose feature says all that matters, and one that does next to nothing; how many draws
    were evaluated for the null at once."""
    rows = np.arange(400)
    data = Dataset(
        {"x": torch.tensor(rows % 2 * 2 - 1).double(), "n": torch.tensor(rows)},
        features={"sign": rows % 2},
    )
    graph = FunctionGraph(
        A=lambda x, n: x, B=lambda n: n, output=lambda A, B, x: -A * x + weight * B
    )
    root = output(module("A", agrees_on="sign"), module("B", agrees_on=ANYTHING), rest=EXACT)
    evaluator = Evaluator(graph, data, root, metric)
    null = null_of(evaluator.space)
    assert null is not None
    of_null = evaluator.allowing(null.space(generator()))
    asked: list[int] = []
    evaluate = of_null.evaluate

    def watched(swap_set: SwapSet) -> np.ndarray:
        asked.append(len(swap_set))
        return evaluate(swap_set)

    of_null.evaluate = watched  # type: ignore[method-assign]
    acceptance = Acceptance(metric, min_explained=0.5)
    (one,) = search_in_turn(
        evaluator, [WhichNodes()], BUDGET, acceptance, of_null, seed=0, name="claim"
    )
    return one, asked


def test_a_claim_and_its_null_are_drawn_as_often() -> None:
    one, asked = beside_null()
    assert one.attempt.outcome == "held"
    assert one.attempt.references == BURN_IN
    assert asked[-1] == BURN_IN
    assert one.attempt.of_null is not None
    assert one.attempt.of_null.low > 0.5


def test_where_nothing_differs_a_bounded_metric_says_so_early_and_another_late() -> None:
    """Equal draws of a metric without bounds say nothing of those that are not, but that they are
    few, and that takes thousands."""
    early, _ = beside_null(BOUNDED, weight=0.0)
    late, _ = beside_null(OUT, weight=0.0)
    assert early.attempt.outcome == late.attempt.outcome == "held"
    assert early.attempt.references <= 2 * BURN_IN
    assert late.attempt.references >= fewest_alike()


def test_a_null_of_which_nothing_is_found_holds_nothing() -> None:
    """Without the null's draws a share of it says nothing, however few of its own changes there
    are."""
    evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, OUT)
    spending = Spending(evaluator, 100, acceptance=Acceptance(OUT, min_explained=0.5))

    def nothing() -> object:
        raise spending.exhausted()

    sequence = DrawSequence((Spending(evaluator, 100), nothing))
    nowhere = evaluator.space.keep(())
    swap_set, changes = sequence.run(lambda n: nowhere.draw(n, generator()), spending)
    # nothing that could be evaluated was drawn, however often: so it ends
    assert (spending.evaluations, not changes.any(), sequence.of_null) == (0, True, None)
    assert len(swap_set) == 100 / LEAST_SWAPPED


def test_what_was_drawn_in_groups_is_not_evaluated_again_to_be_judged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluated: list[int] = []
    evaluate = Evaluator.evaluate

    def counted(self: Evaluator, swap_set: SwapSet) -> Numbers:
        evaluated.append(len(swap_set))
        return evaluate(self, swap_set)

    monkeypatch.setattr(Evaluator, "evaluate", counted)
    attempt = searched(1.0, budget=4000).attempt
    assert attempt.references > BURN_IN  # more than one group
    assert sum(evaluated) == attempt.evaluations == 4000


# --- choosing -------------------------------------------------------------------------------------


def test_distributions_are_drawn_together_as_they_are_alone() -> None:
    evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, OUT)
    arms = [
        Distribution(path, lambda space, path=path: SwapSpace.keep(space, [path]))
        for path in evaluator.space.paths[:2]
    ]
    gaps = []
    for together in ([arms], [[one] for one in arms]):
        compared = Comparison(evaluator.space, Spending(evaluator, 5000), generator())
        for some in together:
            compared.draw(some, 50, seed=3)
        gaps.append([compared.gap(one) for one in arms])
    assert gaps[0] == gaps[1]


def test_choosing_leaves_what_the_report_needs() -> None:
    """Many distributions spend no draw that is kept for the interval of the worst."""
    evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, OUT)
    compared = Comparison(evaluator.space, spending := Spending(evaluator, 1000), generator())
    arms = [Distribution(str(n), lambda space: space) for n in range(500)]
    compared.draw(arms, FEWEST_DRAWS, seed=0)
    assert spending.left >= 250
    assert len(compared.tried) == 750 // FEWEST_DRAWS
    assert arms[0] in compared
    assert arms[-1] not in compared
