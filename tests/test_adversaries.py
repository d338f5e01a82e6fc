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
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from pytest_scrub.adversaries.candidates import Candidates
from pytest_scrub.adversaries.ladder import LADDER, climb_ladder
from pytest_scrub.adversaries.output_norm import OutputRanking, form_of
from pytest_scrub.adversaries.search import (
    EVALUATIONS_OF_A_GRADIENT,
    Found,
    NotSearched,
    Spending,
    concentration,
)
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.adversaries.which_nodes import WhichNodes
from pytest_scrub.adversaries.which_refinement import WhichRefinement
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.metrics import Metric, cross_entropy, kl_to_clean, zero_one_error
from pytest_scrub.network import FunctionGraph, as_graph
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, head, mlp, module, output
from tests.reference.generate import Architecture, build
from tests.reference.toy_problems import ToyProblem, problems_without_likes, toy_problems
from tests.sizes import FULL

ANY: dict[str, Any] = {"agrees_on": ANYTHING}
Numbers = npt.NDArray[np.float64]
OUT = Metric("out", lambda out, batch: out)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def why_not(adversary: Any, evaluator: Evaluator, spending: Spending) -> str:
    """What is said where nothing is searched."""
    with pytest.raises(NotSearched) as raised:
        adversary.search(evaluator.space, spending, generator())
    return str(raised.value)


def changes(evaluator: Evaluator, swap_set: SwapSet) -> Numbers:
    return evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)


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
        solved(problem)
        for problem in (toy_problems(200) if FULL else toy_problems(40, most=30_000))
    ]


@cache
def toys_without_likes() -> list[Solved]:
    problems = problems_without_likes(60) if FULL else problems_without_likes(15, most=30_000)
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
        np.testing.assert_allclose(
            one.found.changes, one.evaluated, rtol=0, atol=1e-9, err_msg=one.problem.name
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


@cache
def small_toys() -> list[ToyProblem]:
    return list(toy_problems(8, smallest=20, largest=300))


def is_computed(root: Node) -> bool:
    return root.computed_by is not None or any(map(is_computed, root.reads))


@pytest.mark.parametrize("nth", range(8))
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


# --- ranking: many donors, few evaluations --------------------------------------------------------


N = 400
MANY = Dataset(
    {name: torch.tensor(generator(ord(name)).normal(size=N)) for name in "abc"},
    features={
        "none": [0] * N,
        "half": [row % 2 for row in range(N)],
        "third": [row % 3 for row in range(N)],
    },
)
REFERENCES = np.arange(0, N, 23)


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


def product() -> FunctionGraph:
    return FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B, c: A + 2 * B + 0 * c)


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


LENGTH, CLASSES = 4, 5
TOKENS = torch.tensor(np.unique(generator().integers(0, CLASSES, (90, LENGTH)), axis=0))
COLUMNS = {
    "first": TOKENS[:, 0] % 2,
    "none": torch.zeros(len(TOKENS), dtype=torch.int64),
    "where": TOKENS[:, 1] % LENGTH,
}
SOME = np.arange(0, len(TOKENS), 11)


def transformer(norm: str | None = "LN", classes: int = CLASSES) -> Any:
    small = Architecture(
        n_layers=2, d_head=4, n_ctx=LENGTH, attn_only=False, norm=norm, d_vocab_out=classes
    )
    return as_graph(build(small).bridge)


def dataset(label_pos: Any = -1, classes: int = CLASSES, rows: Any = slice(None)) -> Dataset:
    tokens = TOKENS[rows]
    columns = {name: column[rows] for name, column in COLUMNS.items()}
    return Dataset(tokens, labels=(tokens.sum(1) % classes), label_pos=label_pos, features=columns)


TWO_NODES = output(head(1, 0, agrees_on="first"), mlp(1, agrees_on="first"), rest=EXACT)
OF_THE_REST = output(mlp(1, agrees_on=EXACT), rest=ANYTHING)


def by_all_donors(evaluator: Evaluator, swap_set: SwapSet, slot: int, donors: Any) -> Numbers:
    """`[R, donors]`: the change of the metric with each donor in one slot."""
    found = []
    for donor in donors:
        rows = swap_set.donors.copy()
        rows[slot] = donor
        found.append(changes(evaluator, evaluator.space.swap_set(swap_set.references, rows)))
    return np.stack(found, axis=1)


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


# --- the output's norm ----------------------------------------------------------------------------


STREAMS = torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
GAIN, BIAS = (
    torch.linspace(-2, 3, 8, dtype=torch.float64),
    torch.linspace(1, -1, 8, dtype=torch.float64),
)


def layer_norm(stream: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(stream, (8,), GAIN, BIAS, eps=1e-6)


def rms_norm(stream: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(stream, (8,), GAIN, eps=1e-6)


@pytest.mark.parametrize(("norm", "center"), [(layer_norm, True), (rms_norm, False)])
def test_the_form_of_a_norm_is_measured(norm: Any, center: bool) -> None:
    form = form_of(norm, STREAMS)
    assert form is not None
    assert form.center is center
    torch.testing.assert_close(form.gain, GAIN, rtol=1e-4, atol=1e-4)
    direction = form.direction(STREAMS)
    normed = form.gain * direction / direction.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(
        normed + norm(torch.zeros(1, 8, dtype=torch.float64)), norm(STREAMS), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    "other",
    [
        torch.tanh,
        lambda stream: stream,  # has no length to divide by: to first order it is exact
        lambda stream: stream / stream.abs().mean(-1, keepdim=True),
        lambda stream: torch.nn.functional.layer_norm(stream, (8,), eps=10.0),
        lambda stream: layer_norm(stream).relu(),
    ],
)
def test_what_has_another_form_is_not_taken_for_a_norm(other: Any) -> None:
    assert form_of(other, STREAMS) is None


def candidates(evaluator: Evaluator, references: Any = SOME) -> Candidates:
    return Candidates(evaluator.space, Spending(evaluator, 10**9), references, generator())


def log_odds(out: Tensor, batch: Any) -> Tensor:
    flat = out.flatten(0, -2)
    labels = batch.labels.repeat_interleave(len(flat) // len(out))
    odds = flat.gather(1, 1 - labels[:, None]) - flat.gather(1, labels[:, None])
    return odds.reshape(len(out), -1).mean(1)


@pytest.mark.parametrize("norm", ["LN", "RMS"])
@pytest.mark.parametrize(("label_pos", "pos"), [(-1, -1), (slice(1, 3), -2)])
def test_the_output_ranks_donors_by_the_true_log_odds(norm: str, label_pos: Any, pos: int) -> None:
    """With two classes these are linear in what the norm gives, so values are exact up to a
    constant."""
    root = output(
        head(1, 0, **ANY), mlp(1, **ANY, pos=pos), head(1, 1, **ANY, reads=[head(0, 0, **ANY)])
    )
    data = dataset(label_pos, classes=2)
    assert len(set(data.content.tolist())) == len(data)
    evaluator = Evaluator(transformer(norm, classes=2), data, root, log_odds)
    rows = np.arange(len(data))
    slots = list(range(len(evaluator.space.slots)))
    ranking = OutputRanking(Spending(evaluator, 10**9), evaluator.space, rows, slots)
    exact = [
        evaluator.space.index[path]
        for path in ("output/rest", "output/head1.0", f"output/mlp1@{pos}")
    ]
    assert sorted(ranking.contributions) == sorted(exact)
    swap_set = evaluator.space.draw(len(SOME), generator(), SOME)
    values = ranking.values(swap_set)
    for slot in exact:
        true, found = by_all_donors(evaluator, swap_set, slot, rows), values[slot].numpy()
        assert np.ptp(true, axis=1).max() > 1e-2
        # the norm has an eps
        np.testing.assert_allclose(found - found[:, :1], true - true[:, :1], rtol=0, atol=2e-4)


def test_the_output_ranks_shared_donors_together() -> None:
    root = output(head(1, 0, **ANY, name="both"), mlp(1, **ANY, shares="both"), rest=EXACT)
    evaluator = Evaluator(transformer("LN", classes=2), dataset(classes=2), root, log_odds)
    rows = np.arange(len(evaluator.dataset))
    slot = evaluator.space.index["output/both"]
    ranking = OutputRanking(Spending(evaluator, 10**9), evaluator.space, rows, [slot])
    swap_set = evaluator.space.draw(len(SOME), generator(), SOME)
    true = []
    for donor in rows:
        donors = swap_set.donors.copy()
        donors[[slot, evaluator.space.index["output/mlp1"]]] = donor
        true.append(changes(evaluator, evaluator.space.swap_set(SOME, donors)))
    found = ranking.values(swap_set)[slot].numpy()
    np.testing.assert_allclose(
        found - found[:, :1], np.array(true).T - np.array(true)[0][:, None], rtol=0, atol=2e-4
    )


def test_a_donor_of_repeated_content_is_ranked_like_the_row_it_repeats() -> None:
    twice = [*range(len(TOKENS)), *range(len(TOKENS))]
    data = dataset(classes=2, rows=twice)
    evaluator = Evaluator(
        transformer("LN", classes=2), data, output(head(1, 0, **ANY), mlp(1, **ANY)), log_odds
    )
    ranked = candidates(evaluator)
    assert len(ranked.rows) == len(TOKENS)
    swap_set = evaluator.space.draw(len(SOME), generator(), SOME)
    values = ranked.values(swap_set)
    for slot in ranked.slots:
        true, found = by_all_donors(evaluator, swap_set, slot, ranked.rows), values[slot]
        np.testing.assert_allclose(found - found[:, :1], true - true[:, :1], rtol=0, atol=2e-4)


def test_only_what_adds_to_the_output_is_ranked_through_its_norm() -> None:
    for root, label_pos in [
        (output(head(0, 0, **ANY, via="any")), -1),  # is run again
        (output(head(1, 0, **ANY, pos="where")), -1),
        (output(head(1, 0, **ANY)), "where"),
    ]:
        evaluator = Evaluator(transformer(), dataset(label_pos), root)
        assert not candidates(evaluator).output.contributions
    plain = Evaluator(product(), MANY, output(module("A", agrees_on="none")), OUT)
    assert not candidates(plain, REFERENCES).output.contributions
    without = Evaluator(transformer(None), dataset(), output(head(1, 0, **ANY)))
    assert not candidates(without).output.contributions


# --- donors and what they leave below them --------------------------------------------------------


@pytest.mark.parametrize("nth", range(8))
def test_moving_a_donor_keeps_the_rest_allowed(nth: int) -> None:
    evaluator = small_toys()[nth].evaluator
    space, rng = evaluator.space, generator(nth)
    references = small_toys()[nth].references
    tried = Candidates(space, Spending(evaluator, 10**9), references, rng)
    for _ in range(5):
        swap_set = space.draw(len(references), rng, references)
        values = {i: rng.normal(size=(len(references), len(tried.rows))) for i in tried.slots}
        for i in tried.slots:
            donors = tried.drawn(i, swap_set)
            for by in (values, None):
                moved = tried.moved(swap_set, i, donors, by)
                assert space.check(moved) == []
                np.testing.assert_array_equal(moved.donors[i], donors)
                below = {i, *tried.together[i]}
                for j in space.order:
                    below |= (
                        {j}
                        if space.slots[j].parent in below or space.slots[j].shares in below
                        else set()
                    )
                others = [j for j in range(len(space.slots)) if j not in below]
                np.testing.assert_array_equal(moved.donors[others], swap_set.donors[others])
            for best in tried.best(i, swap_set, values[i], 3).T:
                assert space.check(tried.moved(swap_set, i, best, values)) == []


def test_the_best_donors_are_the_most_valuable_that_are_allowed() -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"), rest=EXACT)
    evaluator = Evaluator(product(), MANY, root, OUT)
    tried = candidates(evaluator, REFERENCES)
    swap_set = evaluator.space.draw(len(REFERENCES), generator(), REFERENCES)
    values = tried.values(swap_set)
    for name, path, feature in (("a", "output/A", "half"), ("b", "output/B", "third")):
        best = tried.best(
            evaluator.space.index[path], swap_set, values[evaluator.space.index[path]], 3
        )
        assert best.shape == (len(REFERENCES), 3)
        for row, donors, present in zip(
            REFERENCES, best, swap_set.donors[evaluator.space.index[path]], strict=True
        ):
            agree = np.flatnonzero(MANY.feature(feature) == MANY.feature(feature)[row])
            order = agree[np.argsort(-MANY.inputs[name].numpy()[agree])]
            assert donors.tolist() == order[order != present][:3].tolist()


# --- what is spent --------------------------------------------------------------------------------


def odd_budgets(references: int) -> list[int]:
    r = references
    return sorted({0, 1, r - 1, r, r + 1, 3 * r, 4 * r - 1, 4 * r, 5 * r + 1, 37, 113})


@pytest.mark.parametrize("nth", range(4))
def test_no_search_spends_more_than_its_budget(nth: int) -> None:
    problem = small_toys()[nth]
    evaluator = problem.evaluator
    for budget in odd_budgets(len(problem.references)):
        for adversary in (
            WhichDonors(),
            WhichDonors(references=problem.references),
            WhichNodes(),
            WhichRefinement(),
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


@pytest.mark.parametrize("adversary", [WhichDonors(), WhichNodes(), WhichRefinement()])
def test_the_same_seed_finds_the_same(adversary: Any) -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"))
    found = []
    for seed in (3, 3, 4):
        evaluator = Evaluator(product(), MANY, root, OUT)
        found.append(adversary.search(evaluator.space, Spending(evaluator, 1500), generator(seed)))
    assert found[0].swap_set == found[1].swap_set
    np.testing.assert_array_equal(found[0].changes, found[1].changes)
    assert found[0].swap_set != found[2].swap_set


@pytest.mark.parametrize("adversary", [WhichDonors(), WhichNodes(), WhichRefinement()])
def test_after_the_deadline_nothing_is_evaluated(adversary: Any) -> None:
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="third")), OUT
    )
    spending = Spending(evaluator, 10_000, deadline=0.0)
    assert why_not(adversary, evaluator, spending) == "not searched: the deadline had passed"
    assert spending.late
    assert spending.evaluations == 0


@pytest.mark.parametrize(
    ("adversary", "deadline"), [(WhichDonors(), 12), (WhichNodes(), 4), (WhichRefinement(), 12)]
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
    groups = {i: candidates._groups(i, REFERENCES) for i in candidates.slots}
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


def test_the_ladder_shares_one_budget() -> None:
    evaluator = Evaluator(
        product(), MANY, output(module("A", agrees_on="half"), module("B", agrees_on="third")), OUT
    )
    found = climb_ladder(evaluator, LADDER, 4000, seed=0, name="claim")
    assert [one.attempt.adversary for one in found] == [
        "which nodes",
        "which refinement",
        "which donors",
        "which inputs",
    ]
    assert sum(one.attempt.evaluations for one in found) <= 4000
    assert all(one.attempt.evaluations > 0 and one.attempt.ranking >= 0 for one in found[:3])
    again = climb_ladder(evaluator, LADDER, 4000, seed=0, name="claim")
    assert [one.found and one.found.swap_set for one in again] == [
        one.found and one.found.swap_set for one in found
    ]
    late = climb_ladder(evaluator, LADDER, 4000, seed=0, name="claim", until=0.0)
    assert [one.attempt.evaluations for one in late] == [0, 0, 0, 0]
    assert all(one.attempt.late for one in late[:3])


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


# --- which nodes ----------------------------------------------------------------------------------


SIGNS = Dataset(
    {"x": torch.tensor([1.0, -1.0]).double().repeat(40), "n": torch.arange(80)},
    features={"none": [0] * 80},
)


def cancelling() -> FunctionGraph:
    """x times A minus x times B: each alone changes it by minus or plus one on average, both
    together by nothing."""
    return FunctionGraph(A=lambda x: x, B=lambda x: x, output=lambda A, B, x: A * x - B * x)


CANCELLING = output(module("A", agrees_on="none"), module("B", agrees_on="none"), rest=EXACT)


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
    interval = spending.judged(found, WhichNodes.pointwise).attempt.interval
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


F, H = (
    torch.tensor([1.0, 1, -1, -1]).double().repeat(20),
    torch.tensor([1.0, -1, 1, -1]).double().repeat(20),
)
PLANTED = Dataset(
    {"u": F + H, "w": F - H, "n": torch.arange(80)},
    features={
        "f": F.int(),
        "h": H.int(),
        "constant": [0] * 80,
        "also f": F.int() + 5,
        "noise": [row // 8 for row in range(80)],
    },
)


def planted(**claim: Any) -> Evaluator:
    """u of the donor times w: on average nothing, among donors that agree on f plus one, on h minus
    one."""
    graph = FunctionGraph(A=lambda u: u, output=lambda A, w: A * w)
    return Evaluator(graph, PLANTED, output(module("A", **{**ANY, **claim}), rest=EXACT), OUT)


def test_a_planted_refinement_is_found() -> None:
    evaluator = planted()
    assert abs(changes(evaluator, evaluator.space.draw(4000, generator())).mean()) < 0.1
    spending = Spending(evaluator, 6000)
    found = WhichRefinement().search(evaluator.space, spending, generator())
    assert abs(found.gap) == pytest.approx(1, abs=0.3)
    interval = spending.judged(found, WhichRefinement.pointwise).attempt.interval
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
