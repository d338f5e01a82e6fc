"""Which nodes and which refinement: distributions of swaps under which a claim is worse, measured
on rows that the search has not seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_scrub.adversaries.search import Spending
from pytest_scrub.adversaries.which_nodes import WhichNodes
from pytest_scrub.adversaries.which_refinement import WhichRefinement
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.network import FunctionGraph
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import EXACT, Node, module, output
from tests.adversaries.problems import (
    ANY,
    CANCELLING,
    OUT,
    SIGNS,
    F,
    H,
    cancelling,
    changes,
    generator,
    planted,
    why_not,
)

# --- which nodes ----------------------------------------------------------------------------------


class Watched(Spending):
    """Remembers the contents that each batch of swaps uses."""

    def __init__(self, evaluator: Evaluator, evaluations: int) -> None:
        super().__init__(evaluator, evaluations)
        self.used: list[set[int]] = []

    def changes(self, swap_set: SwapSet) -> Any:
        content = self.evaluator.dataset.content
        self.used.append(
            {*content[swap_set.references].tolist(), *content[swap_set.donors].ravel().tolist()}
        )
        return super().changes(swap_set)


def test_an_effect_that_cancels_between_nodes_is_found() -> None:
    evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, OUT)
    average = changes(evaluator, evaluator.space.draw(4000, generator()))
    assert abs(average.mean()) < 0.1
    spending = Spending(evaluator, 3000)
    found = WhichNodes().search(evaluator.space, spending, generator())
    assert abs(found.gap) == pytest.approx(1, abs=0.2)
    interval = spending.judged(found, pointwise=WhichNodes.pointwise).attempt.interval
    assert interval is not None
    assert interval.low > 0.5 or interval.high < -0.5
    assert interval.mean == pytest.approx(found.gap)
    assert found.how.startswith("all 3 subsets of nodes: only output/")
    assert {arm.name: round(arm.gap) for arm in found.tried} == {
        "only output/A swapped": -1, "only output/B swapped": 1,
        "only output/A, output/B swapped": 0,
    }  # fmt: skip
    assert {arm.name: arm.exact for arm in found.tried}["only output/A swapped"] == ("output/B",)
    assert found.swap_set is not None
    assert evaluator.space.check(found.swap_set) == []
    swapped = (evaluator.space.moved(found.swap_set)).any(1)
    assert swapped.sum() == 1  # the other node and the rest stay
    assert spending.evaluations <= 3000


@pytest.mark.parametrize("adversary", [WhichNodes(), WhichRefinement()])
@pytest.mark.parametrize("split", [False, True])
def test_the_interval_is_of_rows_that_the_search_has_not_seen(adversary: Any, split: bool) -> None:
    # Every content twice, and sometimes references that are no donors.
    inputs = {"x": torch.tensor([1.0, -1.0]).double().repeat(40), "n": torch.arange(80) % 30}
    rows = {"references": list(range(0, 80, 3)), "donors": list(range(0, 80, 2))} if split else {}
    data = Dataset(inputs, features={"none": [0] * 80, "g": [row % 3 for row in range(80)]}, **rows)
    evaluator = Evaluator(cancelling(), data, CANCELLING, OUT)
    for seed in range(3):
        spending = Watched(evaluator, 2000)
        found = adversary.search(evaluator.space, spending, generator(seed))
        assert found.swap_set is not None
        assert found.changes is not None
        *searched, reported = spending.used
        assert len(searched) > 1
        assert not reported & set().union(*searched)
        content = data.content
        own = {
            *content[found.swap_set.references].tolist(),
            *content[found.swap_set.donors].ravel().tolist(),
        }
        assert own == reported
        assert len(found.changes) >= 0.2 * 2000  # a quarter of the budget, and what was left


def test_search_and_report_have_about_as_many_rows() -> None:
    evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, OUT)
    spending = Watched(evaluator, 4000)
    WhichNodes().search(evaluator.space, spending, generator())
    *searched, reported = spending.used
    assert len(set().union(*searched)) == pytest.approx(len(reported), abs=4)


def test_four_contents_can_always_be_halved() -> None:
    data = Dataset(
        {name: rows[:4] for name, rows in SIGNS.inputs.items()}, features={"none": [0] * 4}
    )
    evaluator = Evaluator(cancelling(), data, CANCELLING, OUT)
    found = [
        WhichNodes().search(evaluator.space, Spending(evaluator, 500), generator(seed))
        for seed in range(20)
    ]
    assert all(one.swap_set is not None for one in found)


def many_nodes(count: int) -> tuple[FunctionGraph, Node]:
    """Of `count` nodes the second and the third change the output together, and the fourth and
    fifth undo it."""
    names = [f"N{i}" for i in range(count)]
    arguments = ", ".join([*names, "x"])
    functions = {name: eval("lambda x: x") for name in names}
    made = eval(
        f"lambda {arguments}: N1 * N2 * x * x - N3 * N4 * x * x + 0.01 * ({' + '.join(names)})"
    )
    root = output(*(module(name, agrees_on="none") for name in names), rest=EXACT)
    return FunctionGraph(**functions, output=made), root


@pytest.mark.parametrize("count", [6, 10, 11, 14])
def test_subsets_are_tried_all_or_greedily(count: int) -> None:
    graph, root = many_nodes(count)
    evaluator = Evaluator(graph, SIGNS, root, OUT)
    found = WhichNodes().search(evaluator.space, Spending(evaluator, 60_000), generator())
    assert abs(found.gap) > 0.8  # one of both pairs
    tried = {tuple(sorted(arm.exact)) for arm in found.tried}
    assert len(tried) == len(found.tried)
    if count <= 10:
        assert found.how.startswith(f"all {2**count - 1} subsets of nodes: only output/")
        assert len(found.tried) == 2**count - 1
    else:
        assert f" subsets of {count} nodes, chosen greedily: only output/" in found.how
        alone = [arm for arm in found.tried if len(arm.exact) == count - 1]
        assert len(alone) == count
        assert () in tried
        assert count < len(found.tried) < 2**count - 1


def test_nodes_that_share_a_donor_are_one() -> None:
    root = output(
        module("A", agrees_on="none", name="both"),
        module("B", agrees_on="none", shares="both"),
        rest=EXACT,
    )
    evaluator = Evaluator(cancelling(), SIGNS, root, OUT)
    assert (
        why_not(WhichNodes(), evaluator, Spending(evaluator, 1000))
        == "not searched: at most one node is swapped, so no subset differs from the claim"
    )


@pytest.mark.parametrize("adversary", [WhichNodes(), WhichRefinement()])
def test_what_cannot_be_searched_says_why(adversary: Any) -> None:
    evaluator = Evaluator(cancelling(), SIGNS, CANCELLING, OUT)
    data = Dataset(SIGNS.inputs, features={"none": [0] * 80, "g": [row % 2 for row in range(80)]})
    evaluator = Evaluator(cancelling(), data, CANCELLING, OUT)
    for budget in (0, 1, 9):
        why = why_not(adversary, evaluator, Spending(evaluator, budget))
        assert why == "not searched: the budget is too small"
    three = Dataset(
        {name: rows[:3] for name, rows in SIGNS.inputs.items()},
        features={"none": [0] * 3, "g": [0, 1, 1]},
    )
    evaluator = Evaluator(cancelling(), three, CANCELLING, OUT)
    spending = Spending(evaluator, 500)
    why = why_not(adversary, evaluator, spending)
    assert (
        why
        == "not searched: too few different inputs to choose on one half and report on the other"
    )
    attempt = spending.nothing(why).attempt
    assert (attempt.how, attempt.searched, attempt.refutes) == (why, False, False)
    assert (attempt.gap, attempt.interval) == (None, None)


def test_greedy_search_says_where_it_cannot() -> None:
    graph, root = many_nodes(12)
    evaluator = Evaluator(graph, SIGNS, root, OUT)
    for budget in (0, 50, 100):
        why = why_not(WhichNodes(), evaluator, Spending(evaluator, budget))
        assert why == "not searched: the budget is too small"
    for budget in (500, 2000):
        spending = Spending(evaluator, budget)
        assert WhichNodes().search(evaluator.space, spending, generator()).swap_set is not None
        assert spending.evaluations <= budget


# --- which refinement -----------------------------------------------------------------------------


def test_a_planted_refinement_is_found() -> None:
    evaluator = planted()
    assert abs(changes(evaluator, evaluator.space.draw(4000, generator())).mean()) < 0.1
    spending = Spending(evaluator, 6000)
    found = WhichRefinement().search(evaluator.space, spending, generator())
    assert abs(found.gap) == pytest.approx(1, abs=0.3)
    interval = spending.judged(found, pointwise=WhichRefinement.pointwise).attempt.interval
    assert interval is not None
    assert interval.low > 0.5 or interval.high < -0.5
    gaps = {arm.name: arm.gap for arm in found.tried}
    assert gaps["output/A agrees also on f"] == pytest.approx(1, abs=0.4)
    assert gaps["output/A agrees also on h"] == pytest.approx(-1, abs=0.4)
    assert gaps["output/A agrees also on f and h"] == pytest.approx(0, abs=0.3)
    arm = next(arm for arm in found.tried if arm.name == "output/A agrees also on h")
    assert (arm.refined, arm.features, arm.exact) == (("output/A",), ("h",), ())
    assert found.swap_set is not None
    assert evaluator.space.check(found.swap_set) == []
    assert spending.evaluations <= 6000


def test_refinements_that_change_nothing_are_not_tried() -> None:
    """`constant` says nothing, `also f` what f says; and at one node `every node` is that node."""
    found = WhichRefinement().search(planted().space, Spending(planted(), 6000), generator())
    assert found.how.startswith("6 refinements by 5 features: output/A agrees also on ")
    tried = {("f",), ("h",), ("noise",), ("f", "h"), ("f", "noise"), ("h", "noise")}
    assert {arm.features for arm in found.tried} == tried


def test_refinements_are_of_one_node_or_of_all() -> None:
    data = Dataset(SIGNS.inputs, features={"none": [0] * 80, "g": [row % 3 for row in range(80)]})
    evaluator = Evaluator(cancelling(), data, CANCELLING, OUT)
    found = WhichRefinement().search(evaluator.space, Spending(evaluator, 1000), generator())
    assert {arm.name: arm.refined for arm in found.tried} == {
        "output/A agrees also on g": ("output/A",),
        "output/B agrees also on g": ("output/B",),
        "every node agrees also on g": ("output/A", "output/B"),
    }


@pytest.mark.parametrize("claim", [{"agrees_on": ["f", "h", "noise"]}, {"agrees_on": EXACT}])
def test_where_no_feature_says_more_nothing_is_refined(claim: Any) -> None:
    evaluator = planted(**claim)
    why = why_not(WhichRefinement(), evaluator, Spending(evaluator, 1000))
    assert why == "not searched: no feature of the dataset says more than the claim does"


def test_a_column_without_values_for_all_rows_is_left_out() -> None:
    data = Dataset(
        {"u": F + H, "w": F - H},
        features={"f": lambda inputs: (inputs["u"] + inputs["w"]).sign(), "column": [0, 1] * 40},
    ).extend({"u": torch.tensor([2.0]).double(), "w": torch.tensor([0.0]).double()})
    graph = FunctionGraph(A=lambda u: u, output=lambda A, w: A * w)
    evaluator = Evaluator(graph, data, output(module("A", **ANY), rest=EXACT), OUT)
    found = WhichRefinement().search(evaluator.space, Spending(evaluator, 1000), generator())
    assert found.how.startswith("1 refinements by 1 features: ")


def many_columns(count: int, values: int) -> Evaluator:
    rows = generator().integers(0, values, (count, 80))
    features = {"none": [0] * 80, **{f"g{i}": column.tolist() for i, column in enumerate(rows)}}
    data = Dataset(SIGNS.inputs, features=features)
    return Evaluator(cancelling(), data, CANCELLING, OUT)


def test_more_refinements_than_can_be_tried_are_left_out_and_it_is_said() -> None:
    evaluator = many_columns(40, 2)
    found = WhichRefinement().search(evaluator.space, Spending(evaluator, 2000), generator())
    assert found.how.startswith("the first 187 refinements by 41 features: ")
    assert len(found.tried) == 1500 // 8
    assert found.changes is not None
    assert len(found.changes) >= 500  # what is kept for the interval


def test_features_that_tell_all_rows_apart_are_in_no_pair(monkeypatch: Any) -> None:
    """A pair with one of them says what it says alone, and there are very many pairs."""
    columns = {f"g{i}": generator(i).permutation(80).tolist() for i in range(30)}
    data = Dataset(SIGNS.inputs, features={"none": [0] * 80, **columns})
    evaluator = Evaluator(cancelling(), data, CANCELLING, OUT)
    asked: list[int] = []
    codes = Dataset.codes

    def watched(self: Dataset, agreement: Any, at: int | None = None) -> Any:
        asked.append(len(agreement.features))
        return codes(self, agreement, at)

    monkeypatch.setattr(Dataset, "codes", watched)
    found = WhichRefinement().search(evaluator.space, Spending(evaluator, 2000), generator())
    assert found.how.startswith("2 refinements by 31 features: ")  # one at each node alone
    assert 3 not in asked
    assert asked.count(2) <= 4 * 30  # with the claim's own feature, never with another
