"""Adversaries: judged by problems whose worst swap set is known, by planted effects, and by what
they spend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub.adversaries import which_donors
from pytest_scrub.adversaries.candidates import Candidates
from pytest_scrub.adversaries.in_turn import ALL_ADVERSARIES, search_in_turn
from pytest_scrub.adversaries.search import (
    EVALUATIONS_OF_A_GRADIENT,
    UNLIMITED,
    Found,
    NotSearched,
    Spending,
    concentration,
)
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.adversaries.which_nodes import WhichNodes
from pytest_scrub.adversaries.which_refinement import WhichRefinement
from pytest_scrub.adversaries.which_swaps import WhichSwaps
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.metrics import Metric, cross_entropy, kl_to_clean, zero_one_error
from pytest_scrub.network import FunctionGraph
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, head, mlp, module, output
from tests.adversaries.problems import (
    ANY,
    MANY,
    OF_THE_REST,
    OUT,
    REFERENCES,
    SMALL_TOYS,
    SOME,
    TWO_NODES,
    N,
    Numbers,
    by_all_donors,
    changes,
    dataset,
    generator,
    planted,
    product,
    small_toys,
    transformer,
    why_not,
)
from tests.reference.toy_problems import ToyProblem, problems_without_likes, toy_problems
from tests.sizes import FULL, few_in_quick, only_in_full, sized

# --- problems whose worst swap set is known -------------------------------------------------------


@dataclass(frozen=True)
class Solved:
    """What a tenth of the combinations found, and what all of them hold."""

    problem: ToyProblem
    budget: int
    spent: int
    found: Found
    worst: Numbers

    @property
    def evaluated(self) -> Numbers:
        """The changes of the swap set that was found, evaluated once more."""
        assert self.found.swap_set is not None
        return changes(self.problem.evaluator, self.found.swap_set)

    @property
    def is_worst(self) -> bool:
        return abs(float(self.evaluated.mean() - self.worst.mean())) < 1e-9


def solved(problem: ToyProblem) -> Solved:
    budget = int(0.1 * problem.combinations)
    spending = Spending(problem.evaluator, budget)
    found = WhichDonors(references=problem.references).search(
        problem.evaluator.space, spending, generator()
    )
    return Solved(problem, budget, spending.evaluations, found, problem.worst())


@cache
def toys() -> list[Solved]:
    return [
        solved(problem) for problem in (toy_problems(200) if FULL else toy_problems(3, most=15_000))
    ]


@cache
def toys_without_likes() -> list[Solved]:
    problems = problems_without_likes(60) if FULL else problems_without_likes(3, most=15_000)
    return [solved(problem) for problem in problems]


def share_of_worst(problems: Sequence[Solved]) -> float:
    return float(np.mean([one.is_worst for one in problems]))


@pytest.mark.xdist_group("toy problems")
def test_a_tenth_of_the_combinations_finds_the_worst_swaps() -> None:
    """The worst swap set of all references in nine problems of ten."""
    shares = {
        kind: share_of_worst(
            [
                one
                for one in toys()
                if one.problem.name.startswith("functions") == (kind == "functions")
            ]
        )
        for kind in ("functions", "transformers")
    }
    share = share_of_worst(toys())
    assert share >= (0.9 if FULL else 0.85), f"{share:.1%} of {len(toys())} problems, {shares}"


@pytest.mark.xdist_group("toy problems")
def test_where_all_combinations_differ_a_tenth_of_them_finds_fewer() -> None:
    """Fewer: a tenth of combinations that are often the same is no tenth of them."""
    share = share_of_worst(toys_without_likes())
    assert share >= (0.65 if FULL else 0.5), f"{share:.1%} of {len(toys_without_likes())} problems"
    left = [one.evaluated.mean() / one.worst.mean() for one in toys_without_likes()]
    assert np.mean(left) > 0.97, left  # where it is not the worst, it is nearly as bad


@pytest.mark.xdist_group("toy problems")
def test_what_is_found_is_allowed_and_never_worse_than_the_worst() -> None:
    for one in toys() + toys_without_likes():
        evaluator, found = one.problem.evaluator, one.found
        assert found.swap_set is not None
        assert found.exhaustive is False
        assert one.spent <= one.budget
        assert evaluator.space.check(found.swap_set) == [], one.problem.name
        np.testing.assert_array_equal(found.swap_set.references, one.problem.references)
        sign = 1 if evaluator.metric.worse == "higher" else -1
        assert (sign * (one.evaluated - one.worst) < 1e-9).all(), one.problem.name


@pytest.mark.xdist_group("toy problems")
def test_what_is_found_has_the_changes_that_are_reported() -> None:
    for one in toys() + toys_without_likes():
        scale = max(1, np.abs(one.evaluated).max())  # of a metric that may be huge
        np.testing.assert_allclose(
            one.found.changes, one.evaluated, rtol=0, atol=1e-9 * scale, err_msg=one.problem.name
        )


@pytest.mark.parametrize("rows", [6, 60])
def test_what_is_computed_changes_the_metric_though_nothing_is_swapped(rows: int) -> None:
    # A is computed a hundred lower than it is, so that every swap set, nothing swapped included, is
    # far below.
    inputs = {name: torch.tensor(generator(ord(name)).normal(size=rows)) for name in "ac"}
    a = inputs["a"].tolist()
    data = Dataset(inputs, features={"a": a, "none": [0] * rows})
    graph = FunctionGraph(A=lambda a: a, output=lambda A, c: A + c)
    root = output(
        module("A", agrees_on="a", computed_by=lambda values: np.asarray(values) - 100),
        rest=ANYTHING,
    )
    evaluator = Evaluator(graph, data, root, OUT)
    references = np.arange(0, rows, 5)
    found = WhichDonors(references=references).search(
        evaluator.space, Spending(evaluator, 5 * len(references)), generator()
    )
    assert found.swap_set is not None
    assert not found.exhaustive
    np.testing.assert_allclose(found.changes, changes(evaluator, found.swap_set), rtol=0, atol=1e-9)


def is_computed(root: Node) -> bool:
    return root.computed_by is not None or any(map(is_computed, root.reads))


@few_in_quick(1)
@pytest.mark.parametrize("nth", range(sized(2, 8)))
def test_everything_is_tried_where_the_budget_allows_it(nth: int) -> None:
    problem = small_toys()[nth]
    spending = Spending(problem.evaluator, problem.combinations)
    found = WhichDonors(references=problem.references).search(
        problem.evaluator.space, spending, generator()
    )
    assert found.exhaustive
    assert found.how == "every combination of allowed donors"
    assert spending.evaluations == problem.combinations
    assert found.swap_set is not None
    assert problem.evaluator.space.check(found.swap_set) == []
    np.testing.assert_allclose(found.changes, problem.worst(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(
        found.changes, changes(problem.evaluator, found.swap_set), rtol=0, atol=1e-9
    )
    spending = Spending(problem.evaluator, problem.combinations - 1)
    found = WhichDonors(references=problem.references).search(
        problem.evaluator.space, spending, generator()
    )
    assert not found.exhaustive


def test_a_search_without_an_end_says_no_end_of_it() -> None:
    """Progress of so many that the time left for them is no time was an error on a terminal."""
    evaluator, told = planted(), list[tuple[str, int, int, str]]()
    evaluator.progress = lambda *said: told.append(said)
    spending, swap_set = Spending(evaluator, UNLIMITED), evaluator.space.draw(3, generator())
    for _ in range(2):
        spending.changes(swap_set)
    searching = [(done, total) for what, done, total, _ in told if what == spending.name]
    assert searching == [(3, 3), (6, 6)]


# --- ranking: many donors, few evaluations --------------------------------------------------------


def search(
    evaluator: Evaluator, each: int, seed: int = 0, references: Any = REFERENCES, space: Any = None
) -> tuple[Found, Spending]:
    """With `each` evaluations for every reference."""
    spending = Spending(evaluator, each * len(references))
    space = evaluator.space if space is None else space
    found = WhichDonors(references=references).search(space, spending, generator(seed))
    assert found.swap_set is not None
    assert space.check(found.swap_set) == []
    assert spending.evaluations <= spending.budget
    np.testing.assert_allclose(found.changes, changes(evaluator, found.swap_set), rtol=0, atol=1e-9)
    return found, spending


def worst_by_class(values: Any, feature: str, take: Callable[..., Any] = np.max) -> Numbers:
    """For every reference, the largest value among the rows that agree with it."""
    codes, values = MANY.feature(feature), np.asarray(values)
    return np.array([take(values[codes == codes[row]]) for row in REFERENCES])


def test_ranked_donors_are_found_with_a_few_evaluations() -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"), rest=EXACT)
    evaluator = Evaluator(product(), MANY, root, OUT)
    found, spending = search(evaluator, 20)
    a, b = MANY.inputs["a"].numpy(), MANY.inputs["b"].numpy()
    expected = worst_by_class(a, "half") + 2 * worst_by_class(b, "third") - (a + 2 * b)[REFERENCES]
    np.testing.assert_allclose(found.changes, expected, atol=1e-9)
    assert found.how.startswith("ranked to first order (out); coordinate ascent, ")
    assert spending.ranking > 0


def test_where_lower_is_worse_the_least_is_found() -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"), rest=EXACT)
    lower = Metric("out", lambda out, batch: out, worse="lower")
    found, _ = search(Evaluator(product(), MANY, root, lower), 20)
    a, b = MANY.inputs["a"].numpy(), MANY.inputs["b"].numpy()
    expected = (
        worst_by_class(a, "half", np.min)
        + 2 * worst_by_class(b, "third", np.min)
        - (a + 2 * b)[REFERENCES]
    )
    np.testing.assert_allclose(found.changes, expected, atol=1e-9)
    turned = Metric("minus", lambda out, batch: -out)
    other, _ = search(Evaluator(product(), MANY, root, turned), 20)
    assert other.swap_set == found.swap_set
    np.testing.assert_allclose(other.changes, -found.changes, atol=1e-12)


def test_the_donor_of_a_tree_is_valued_by_the_best_below_it() -> None:
    # A's own donor says by `third` what a may be; only rows with third = 2 have the large a.
    a = torch.where(torch.arange(N) % 3 == 2, 10.0, 0.0).double() + MANY.inputs["a"]
    data = Dataset(
        {**MANY.inputs, "a": a}, features={name: MANY.feature(name) for name in MANY.feature_names}
    )
    graph = FunctionGraph(A=lambda a, b: a + 0.01 * b, output=lambda A, c: A + 0 * c)
    root = output(
        module("A", agrees_on="half", reads=[module("a", agrees_on="third")], rest=ANYTHING),
        rest=EXACT,
    )
    found, _ = search(Evaluator(graph, data, root, OUT), 25)
    expected = a.numpy().max() + 0.01 * (
        MANY.inputs["b"].numpy().max() - MANY.inputs["b"].numpy()[REFERENCES]
    )
    np.testing.assert_allclose(found.changes, expected - a.numpy()[REFERENCES], atol=1e-9)


@pytest.mark.parametrize("kept", [["output/A"], None])
def test_what_follows_a_donor_counts_for_it(kept: Any) -> None:
    """An EXACT rest, or a child that is not swapped, takes the donor of its parent."""
    graph = FunctionGraph(A=lambda a, b: a + 0.01 * b, output=lambda A, c: A + 0 * c)
    below = [module("b", agrees_on="none")]
    root = output(module("A", agrees_on="none", reads=below, rest=EXACT), rest=EXACT)
    evaluator = Evaluator(graph, MANY, root, OUT)
    found, _ = search(
        evaluator, 25, space=evaluator.space if kept is None else evaluator.space.keep(kept)
    )
    a = MANY.inputs["a"].numpy()
    assert found.gap > 0.95 * (a.max() - a[REFERENCES]).mean()


def test_a_shared_donor_is_valued_for_all_that_share_it() -> None:
    graph = FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B, c: A - 3 * B + 0 * c)
    root = output(
        module("A", agrees_on="half", name="both"),
        module("B", agrees_on="half", shares="both"),
        rest=EXACT,
    )
    found, _ = search(Evaluator(graph, MANY, root, OUT), 15)
    values = (MANY.inputs["a"] - 3 * MANY.inputs["b"]).numpy()
    np.testing.assert_allclose(
        found.changes, worst_by_class(values, "half") - values[REFERENCES], atol=1e-9
    )


def test_a_part_of_the_claim_can_be_searched() -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"), rest=EXACT)
    evaluator = Evaluator(product(), MANY, root, OUT)
    found, _ = search(evaluator, 20, space=evaluator.space.keep(["output/A"]))
    a = MANY.inputs["a"].numpy()
    np.testing.assert_allclose(found.changes, worst_by_class(a, "half") - a[REFERENCES], atol=1e-9)
    donors = np.arange(100, 150)
    found, _ = search(evaluator, 20, space=evaluator.space.within(REFERENCES, donors))
    assert found.swap_set is not None
    moved = found.swap_set.donors != found.swap_set.references
    assert np.isin(found.swap_set.donors[moved], donors).all()


def stepped(out: Tensor, batch: Any) -> Tensor:
    return (out > 2.5).double() + (out > 1.5).double()


def test_a_metric_without_a_gradient_is_searched_all_the_same() -> None:
    root = output(module("A", agrees_on="none"), rest=EXACT)
    graph = FunctionGraph(A=lambda a: a, output=lambda A, c: A + 0 * c)
    evaluator = Evaluator(graph, MANY, root, stepped)
    found, _ = search(evaluator, 120)
    assert "in random order, as nothing has a gradient" in found.how
    assert found.gap > 0.5
    assert found.changes.max() <= 2


def test_a_search_without_a_gradient_is_no_worse_than_drawing() -> None:
    root = output(module("A", agrees_on="none"), rest=EXACT)
    graph = FunctionGraph(A=lambda a: a, output=lambda A, c: A + 0 * c)
    evaluator = Evaluator(graph, MANY, root, stepped)
    found = np.mean([search(evaluator, 50, seed)[0].gap for seed in range(5)])
    drawn = np.mean([drawing(evaluator, 50, seed).mean() for seed in range(5)])
    assert found >= drawn


def drawing(evaluator: Evaluator, each: int, seed: int) -> Numbers:
    """The worst of as many draws of the claim's own."""
    rng = generator(seed)
    draws = [evaluator.space.draw(len(REFERENCES), rng, REFERENCES) for _ in range(each)]
    return np.max([changes(evaluator, drawn) for drawn in draws], axis=0)


# --- ranking: transformers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("metric", "shown", "share"),
    [
        (cross_entropy(), "the stand-in for cross-entropy", 1),
        (Metric("logit", lambda out, batch: out[:, 1], worse="lower"), "logit", 1),
        (kl_to_clean(), "KL to clean", 0.95),  # as bad a divergence may lie the other way
    ],
)
def test_the_worst_donor_of_a_node_is_found_with_a_few_evaluations(
    metric: Metric, shown: str, share: float
) -> None:
    evaluator = Evaluator(transformer(), dataset(), OF_THE_REST, metric)
    found, _ = search(evaluator, 16, references=SOME)
    assert found.how.startswith(f"ranked exactly up to a linear readout ({shown})")
    everything = by_all_donors(
        evaluator, evaluator.space.unswapped(SOME), 0, evaluator.dataset.donor_rows
    )
    sign = 1 if metric.worse == "higher" else -1
    worst = sign * (sign * everything).max(1)
    assert sign * worst.mean() > 0.1
    assert sign * found.gap >= sign * share * worst.mean() - 1e-9


def test_errors_are_ranked_by_a_stand_in_that_still_grows() -> None:
    # Rightly classified with ease: the error itself is flat, so without its stand-in nothing could
    # be ranked.
    graph = FunctionGraph(A=lambda a: a, output=lambda A, c: torch.stack([0 * A + 0 * c, 3 - A], 1))
    data = Dataset(MANY.inputs, labels=np.ones(N, dtype=int), features={"none": [0] * N})
    evaluator = Evaluator(
        graph, data, output(module("A", agrees_on="none"), rest=EXACT), zero_one_error()
    )
    assert (MANY.inputs["a"] > 3).sum() <= 3  # few donors make an error at all
    found, _ = search(evaluator, 6)
    assert found.how.startswith("ranked to first order (the stand-in for 0-1 error)")
    assert (
        found.gap
        == float((MANY.inputs["a"].max() > 3).item() - evaluator.unscrubbed(REFERENCES).mean())
        == 1
    )


def test_how_tells_that_a_transformers_metric_has_no_gradient() -> None:
    def larger(out: Tensor, batch: Any) -> Tensor:
        return (out[:, 0] > out[:, 1]).double()

    found, _ = search(Evaluator(transformer(), dataset(), TWO_NODES, larger), 12, references=SOME)
    assert "in random order, as nothing has a gradient" in found.how


@pytest.mark.parametrize("norm", [None, "LN", "RMS"])
@pytest.mark.parametrize(
    "root", [TWO_NODES, output(head(1, 0, **ANY, reads=[head(0, 0, **ANY)]), mlp(1, **ANY))]
)
def test_a_search_beats_drawing_with_the_same_budget(norm: Any, root: Node) -> None:
    evaluator = Evaluator(transformer(norm), dataset(), root)
    found, _ = search(evaluator, 30, references=SOME)
    rng = generator(1)
    drawn = [changes(evaluator, evaluator.space.draw(len(SOME), rng, SOME)) for _ in range(30)]
    assert found.gap > 1.05 * np.max(drawn, axis=0).mean()


# --- what is spent --------------------------------------------------------------------------------


def odd_budgets(references: int) -> list[int]:
    r = references
    return sorted({0, 1, r - 1, r, r + 1, 3 * r, 4 * r - 1, 4 * r, 5 * r + 1, 37, 113})


@pytest.mark.parametrize("nth", range(sized(2, 4)))
def test_no_search_spends_more_than_its_budget(nth: int) -> None:
    problem = small_toys()[nth]
    evaluator = problem.evaluator
    for budget in odd_budgets(len(problem.references)):
        for adversary in (
            WhichDonors(),
            WhichDonors(references=problem.references),
            WhichNodes(),
            WhichRefinement(),
            WhichSwaps(),
        ):
            spending = Spending(evaluator, budget)
            found = None
            with suppress(NotSearched):
                found = adversary.search(evaluator.space, spending, generator())
            assert spending.evaluations <= budget, (adversary, budget)
            assert not spending.late
            if found is not None:
                assert evaluator.space.check(found.swap_set) == []
                if not is_computed(evaluator.hypothesis):
                    np.testing.assert_allclose(
                        found.changes, changes(evaluator, found.swap_set), rtol=0, atol=1e-9
                    )


@pytest.mark.parametrize("graph", ["functions", "transformer"])
def test_gradients_count_against_the_budget(graph: str) -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"))
    evaluator, references = Evaluator(product(), MANY, root, OUT), REFERENCES
    if graph == "transformer":
        evaluator, references = Evaluator(transformer(), dataset(), TWO_NODES), SOME
    evaluated: list[int] = []
    sloped: list[int] = []
    evaluate, slopes = evaluator.evaluate, evaluator.slopes
    evaluator.evaluate = lambda s: evaluated.append(len(s)) or evaluate(s)  # type: ignore[method-assign, func-returns-value]
    evaluator.slopes = lambda s: sloped.append(len(s)) or slopes(s)  # type: ignore[method-assign, func-returns-value]
    for budget in odd_budgets(len(references)):
        evaluated.clear()
        sloped.clear()
        spending = Spending(evaluator, budget)
        with suppress(NotSearched):
            WhichDonors(references=references).search(evaluator.space, spending, generator())
        assert (
            spending.evaluations
            == sum(evaluated) + EVALUATIONS_OF_A_GRADIENT * sum(sloped)
            <= budget
        )
        if budget >= 5 * len(references):
            assert sloped


@pytest.mark.parametrize(
    "adversary", [WhichDonors(), WhichNodes(), WhichRefinement(), WhichSwaps()]
)
def test_the_same_seed_finds_the_same(adversary: Any) -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"))
    found = []
    for seed in (3, 3, 4):
        evaluator = Evaluator(product(), MANY, root, OUT)
        found.append(adversary.search(evaluator.space, Spending(evaluator, 1500), generator(seed)))
    assert found[0].swap_set == found[1].swap_set
    np.testing.assert_array_equal(found[0].changes, found[1].changes)
    assert found[0].swap_set != found[2].swap_set


@pytest.mark.parametrize(
    "adversary", [WhichDonors(), WhichNodes(), WhichRefinement(), WhichSwaps()]
)
def test_after_the_deadline_nothing_is_evaluated(adversary: Any) -> None:
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="third")), OUT
    )
    spending = Spending(evaluator, 10_000, deadline=0.0)
    assert why_not(adversary, evaluator, spending) == "not searched: the deadline had passed"
    assert spending.late
    assert spending.evaluations == 0


@pytest.mark.parametrize(
    ("adversary", "deadline"),
    [(WhichDonors(), 12), (WhichNodes(), 4), (WhichRefinement(), 12), (WhichSwaps(), 1)],
)
def test_a_deadline_ends_a_search(
    adversary: Any, deadline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(
        "pytest_scrub.adversaries.search.time", SimpleNamespace(monotonic=lambda: next(seconds))
    )
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="third")), OUT
    )
    spending = Spending(evaluator, 10_000, deadline=deadline)
    if adversary.pointwise:
        found = adversary.search(evaluator.space, spending, generator())
    else:  # nothing is said of what was chosen and could not be drawn anew
        assert (
            why_not(adversary, evaluator, spending)
            == "not searched to the end: the deadline had passed"
        )
    assert spending.late
    assert 0 < spending.evaluations < 5000
    if not adversary.pointwise:
        return
    assert evaluator.space.check(found.swap_set) == []
    np.testing.assert_allclose(
        found.changes, changes(evaluator, found.swap_set), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("adversary", [WhichNodes(), WhichRefinement()])
def test_a_distribution_is_reported_from_enough_draws_or_not_at_all(adversary: Any) -> None:
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="third")), OUT
    )
    for budget in range(8, 60, 3):
        spending = Spending(evaluator, budget)
        if budget < 38:
            assert why_not(adversary, evaluator, spending)
        else:
            found = adversary.search(evaluator.space, spending, generator())
            assert len(found.swap_set) >= 30


def test_ranking_looks_at_the_deadline_between_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="third")), OUT
    )
    spending = Spending(evaluator, 10_000)
    candidates = Candidates(evaluator.space, spending, REFERENCES, generator())
    # one reference in each part
    monkeypatch.setattr(type(evaluator.store.memory), "batch_bytes", lambda *_: 1)
    swap_set = evaluator.space.unswapped(REFERENCES)
    groups = {i: candidates._groups(i, REFERENCES, {}) for i in candidates.slots}
    spending.deadline = 0.0
    assert candidates._first_order(swap_set, groups) == {}
    assert spending.evaluations == 3  # one gradient


def test_a_deadline_ends_an_exhaustive_search(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(
        "pytest_scrub.adversaries.search.time", SimpleNamespace(monotonic=lambda: next(seconds))
    )
    monkeypatch.setattr("pytest_scrub.swaps.space.ENUMERATION_CHUNK", 100)
    evaluator = Evaluator(product(), MANY, output(module("A", agrees_on="half"), rest=EXACT), OUT)
    spending = Spending(evaluator, 10_000, deadline=5)
    found = WhichDonors(references=REFERENCES).search(evaluator.space, spending, generator())
    assert spending.late
    assert not found.exhaustive
    assert spending.evaluations < 2000


def test_evaluations_and_slopes_are_counted() -> None:
    evaluator = Evaluator(transformer(), dataset(), TWO_NODES)
    spending = Spending(evaluator, 20)
    swap_set = evaluator.space.draw(5, generator())
    assert spending.left == 20
    found = spending.changes(swap_set)
    np.testing.assert_allclose(found, changes(evaluator, swap_set), rtol=0, atol=1e-12)
    assert (spending.evaluations, spending.left) == (5, 15)
    assert spending.slopes(swap_set[:2])
    assert (spending.evaluations, spending.left) == (5 + 6, 9)
    spending.changes(evaluator.space.draw(12, generator()))
    assert (spending.evaluations, spending.left) == (23, 0)  # never less than none
    spending.extend(evaluator.dataset)
    spending.changes(swap_set)
    assert spending.evaluations == 28


def test_the_clean_metric_is_computed_once_for_a_row() -> None:
    evaluator = Evaluator(product(), MANY, output(module("A", agrees_on="half")), OUT)
    asked: list[list[int]] = []
    clean = evaluator.unscrubbed
    evaluator.unscrubbed = lambda rows: asked.append(rows.tolist()) or clean(rows)  # type: ignore[method-assign, func-returns-value]
    spending = Spending(evaluator, 100)
    rows = np.array([4, 2, 4])
    np.testing.assert_array_equal(spending.unscrubbed(rows), clean(rows))
    np.testing.assert_array_equal(spending.unscrubbed(np.array([2, 7])), clean(np.array([2, 7])))
    assert [row for rows in asked for row in rows] == [2, 4, 7]
    assert spending.evaluations == 0


def test_ranking_counts_captures_and_multiplications() -> None:
    evaluator = Evaluator(transformer(), dataset(), TWO_NODES)
    spending = Spending(evaluator, 10_000)
    assert spending.ranking == 0
    tried = Candidates(evaluator.space, spending, SOME, generator())
    captured = spending.ranking
    assert captured == evaluator.rows_read > 0
    tried.values(evaluator.space.unswapped(SOME))
    assert spending.multiplications > 0
    multiplied = spending.ranking - captured
    assert 0 < multiplied < 100
    tried.values(evaluator.space.unswapped(SOME))
    assert spending.ranking - captured == pytest.approx(2 * multiplied)
    before = spending.ranking
    spending.extend(evaluator.dataset)
    assert spending.ranking == pytest.approx(before)
    spending.evaluator.unscrubbed(SOME)
    assert spending.ranking - before == pytest.approx(len(SOME))


@pytest.mark.parametrize("nth", SMALL_TOYS)
def test_a_changed_slot_has_the_key_of_the_whole(nth: int) -> None:
    """What was tried before is known by a key, which is not made anew from all slots."""
    evaluator, references = small_toys()[nth].evaluator, small_toys()[nth].references
    rng = generator(nth)
    spending = Spending(evaluator, 10**9)
    climb = which_donors._Climb(evaluator.space, spending, references, rng, None, apart=False)
    for _ in range(5):
        here = climb._as_it_is(climb._drawn())
        values = {i: rng.normal(size=(len(references), len(climb.candidates.rows)))
                  for i in climb.candidates.slots}  # fmt: skip
        for i in climb.candidates.slots:
            tried = climb._changed(here, i, climb.candidates.drawn(i, here.here), values)
            whole = here.here.with_donors(tried.changes)
            assert tried.keys.tolist() == climb._as_it_is(whole).keys.tolist()
            for column in range(len(references)):
                assert tried.donors(column).tolist() == whole.donors[:, column].tolist()


def test_a_few_donors_are_not_ranked() -> None:
    small = dataset(rows=slice(0, 12))
    evaluator = Evaluator(transformer(), small, TWO_NODES)
    found, spending = search(evaluator, 20, references=np.arange(6))
    assert found.how.startswith("at most 16 donors a slot, in random order")
    assert spending.multiplications == 0


def test_without_a_choice_of_donors_nothing_is_searched() -> None:
    evaluator = Evaluator(product(), MANY, output(module("A", agrees_on=EXACT), rest=EXACT), OUT)
    why = why_not(WhichDonors(), evaluator, Spending(evaluator, 100))
    assert why == "not searched: no slot has a choice of donors"


def test_fewer_references_are_searched_where_the_budget_is_small() -> None:
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="half")), OUT
    )
    for budget, references in ((100, 1), (960, 4), (10**5, 200)):
        spending = Spending(evaluator, budget)
        found = WhichDonors().search(evaluator.space, spending, generator())
        assert found.swap_set is not None
        assert len(found.swap_set) == len(set(found.swap_set.references.tolist())) == references


def test_all_in_turn_share_one_budget() -> None:
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="third")), OUT
    )
    accepts = Acceptance(OUT, 4.0)
    found = search_in_turn(evaluator, ALL_ADVERSARIES, 4000, accepts, seed=0, name="claim")
    assert [one.attempt.adversary for one in found] == [
        "which swaps",
        "which nodes",
        "which refinement",
        "which donors",
        "which inputs",
    ]
    assert sum(one.attempt.evaluations for one in found) <= 4000
    assert all(one.attempt.evaluations > 0 and one.attempt.ranking >= 0 for one in found[:4])
    again = search_in_turn(evaluator, ALL_ADVERSARIES, 4000, accepts, seed=0, name="claim")
    assert [one.found and one.found.swap_set for one in again] == [
        one.found and one.found.swap_set for one in found
    ]
    late = search_in_turn(
        evaluator, ALL_ADVERSARIES, 4000, accepts, seed=0, name="claim", until=0.0
    )
    assert [one.attempt.evaluations for one in late] == [0, 0, 0, 0, 0]
    assert all(one.attempt.late for one in late[:4])


def test_concentration_is_the_share_with_a_much_used_donor() -> None:
    evaluator = Evaluator(product(), MANY, output(module("A", agrees_on="none"), rest=EXACT), OUT)
    space, references = evaluator.space, np.arange(40)
    few = space.swap_set(
        references, np.stack([references, np.where(references < 30, 100, references)])
    )
    assert concentration(few, space) == 30 / 40
    many = space.swap_set(references, np.stack([references, references + 100]))
    assert concentration(many, space) == 10 / 40
    assert concentration(space.unswapped(references), space) == 0


@only_in_full
def test_many_slots_are_visited_together_and_as_bad_is_found(monkeypatch: Any) -> None:
    """Of 96 nodes several at once cost far fewer batches, and find what one after the other
    does."""
    count = 96
    inputs = {"x": torch.tensor(generator().normal(size=60)), "n": torch.arange(60)}
    data = Dataset(inputs, features={"none": [0] * 60})
    names = [f"N{i}" for i in range(count)]
    made = eval(f"lambda {', '.join(names)}, x: {' + '.join(names)} - {count} * x")
    nodes: dict[str, Any] = {name: eval("lambda x: x * x * x + x") for name in names}
    graph = FunctionGraph(**nodes, output=made)
    root = output(*(module(name, agrees_on="none") for name in names), rest=EXACT)
    evaluator = Evaluator(graph, data, root, OUT)
    found, batches = [], []
    for alone in (count, which_donors.MOST_ALONE):
        monkeypatch.setattr(which_donors, "MOST_ALONE", alone)
        spending = Spending(evaluator, 250 * 20)
        asked: list[int] = []
        changes = spending.changes

        def watched(one: Any, asked: list[int] = asked, of: Any = changes) -> Any:
            asked.append(len(one))
            return of(one)

        monkeypatch.setattr(spending, "changes", watched)
        adversary = WhichDonors(references=np.arange(20))
        one = adversary.search(evaluator.space, spending, generator())
        assert evaluator.space.check(one.swap_set) == []
        assert spending.evaluations <= 250 * 20
        found.append(one.gap)
        batches.append(len(asked))
    assert found[1] >= 0.98 * found[0] > 0
    assert batches[1] < 0.4 * batches[0]
