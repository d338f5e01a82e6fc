"""The null: what a claim would be if its features knew nothing, and which claims it shows to be
weak."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FunctionGraph,
    HypothesisError,
    Metric,
    Verdict,
    WhichDonors,
    check,
    module,
    output,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.reports.terminal import story
from pytest_scrub.settings import Settings
from pytest_scrub.statistics.sampling import References, UnderNull
from pytest_scrub.swaps import space as space_module
from pytest_scrub.swaps.null import drawn_of, null_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import joined
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import HELD, NO_FEATURE, NO_ROOM, REFUTED, UNDECIDED, UNTESTED, WEAK
from tests.sizes import few_in_quick

ERROR = Metric(
    "absolute error", lambda out, batch: (out - batch.labels).abs(), lower=0.0, upper=5.01
)
# b is in A as well, so that swapping A moves something where donors agree on a
GRAPH = FunctionGraph(A=lambda a, b: 2 * a + b / 1000, output=lambda A, b: A + b)
A, B = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1])


def data(repeats: int = 1) -> Dataset:
    """Each of the six inputs so many times."""
    a, b = (torch.tensor(np.tile(values, repeats), dtype=torch.float64) for values in (A, B))
    features = {"a": a.long(), "b": b.long(), "parity": a.long() % 2}
    return Dataset({"a": a, "b": b}, labels=2 * a + 1.001 * b, features=features)


def space(root: Node, dataset: Dataset | None = None) -> SwapSpace:
    return SwapSpace(root, dataset or data())


def judged(root: Node, dataset: Dataset | None = None, **options: Any) -> Verdict:
    told = {"metric": ERROR, "tolerance": 0.5, "adversaries": (), **options}
    return check(root, GRAPH, dataset or data(20), **told)


def classes(of: SwapSpace, path: str) -> list[list[int]]:
    """The donors of every row."""
    return [rows.tolist() for rows in of.allowed(path, np.arange(len(of.dataset)))]


# What is permuted ---------------------------------------------------------------------------------


def test_features_below_the_root_are_permuted_and_nothing_else() -> None:
    root = output(module("A", agrees_on="a"), rest="b", agrees_on="parity")
    claimed = space(root)
    null = null_of(claimed)
    assert null is not None
    assert (null.what, list(null.permuted)) == ("features permuted", ["output/A"])
    drawn = [null.space(np.random.default_rng(seed)) for seed in range(20)]
    for one in drawn:
        assert classes(one, "output") == classes(claimed, "output")
        assert classes(one, "output/rest") == classes(claimed, "output/rest")
        # as many values of the same frequencies
        assert sorted(map(len, classes(one, "output/A"))) == [2] * 6
    assert len({str(classes(one, "output/A")) for one in drawn}) > 10


def test_rows_of_equal_content_keep_equal_values() -> None:
    null = null_of(space(output(module("A", agrees_on="a")), data(3)))
    assert null is not None
    codes = null.space(np.random.default_rng(0)).agree(null.claimed.index["output/A"])
    assert (codes.reshape(3, 6) == codes[:6]).all()


def test_one_permutation_serves_the_whole_tree() -> None:
    root = output(module("A", agrees_on="a"), module("b", agrees_on="a"), rest=EXACT)
    null = null_of(space(root))
    assert null is not None
    one = null.space(np.random.default_rng(1))
    assert classes(one, "output/A") == classes(one, "output/b")


@pytest.mark.parametrize(
    ("root", "what", "permuted"),
    [
        (output(module("A", agrees_on=EXACT), rest="b"), "nothing kept EXACT", []),
        (
            output(module("A", agrees_on=ANYTHING), rest="b"),
            "features of rests permuted",
            ["output/rest"],
        ),
        (
            output(module("A", agrees_on=ANYTHING), rest=EXACT, agrees_on="b"),
            "features of the output permuted",
            ["output"],
        ),
        (output(agrees_on="b"), "features of the output permuted", ["output"]),
    ],
)
def test_where_no_node_names_a_feature(root: Node, what: str, permuted: list[str]) -> None:
    null = null_of(space(root))
    assert null is not None
    assert (null.what, list(null.permuted)) == (what, permuted)
    if not permuted:
        assert classes(null.space(np.random.default_rng(0)), "output/A") == [[*range(6)]] * 6


@pytest.mark.parametrize(
    "root", [output(module("A", agrees_on=ANYTHING), rest=EXACT), output(agrees_on=ANYTHING)]
)
def test_a_claim_that_something_does_not_matter_has_none(root: Node) -> None:
    assert null_of(space(root)) is None
    verdict = judged(root, tolerance=100)
    assert (verdict.null, verdict.null_reason, verdict.explained) == (None, NO_FEATURE, None)
    assert verdict.outcome == HELD


def test_a_refinement_of_it_keeps_what_it_permutes() -> None:
    null = null_of(space(output(module("A", agrees_on="a"))))
    assert null is not None
    one = null.space(np.random.default_rng(3))
    from pytest_scrub.tree.nodes import Agreement

    refined = one.refine(["output/A"], Agreement(("b",)))
    within = one.within(np.arange(6), np.arange(6))
    b = data().codes(Agreement(("b",)))
    assert classes(within, "output/A") == classes(one, "output/A")
    assert classes(refined, "output/A") == [
        [row for row in rows if b[row] == b[i]] for i, rows in enumerate(classes(one, "output/A"))
    ]


@few_in_quick(1)
@pytest.mark.parametrize(("feature", "count"), [("a", 90), ("parity", 15)])
def test_all_its_permutations_are_as_likely_as_they_are_drawn(feature: str, count: int) -> None:
    null = null_of(space(output(module("A", agrees_on=feature))))
    assert null is not None
    spaces = null.spaces(count)
    assert spaces is not None
    assert null.spaces(count - 1) is None
    of_each = [str(classes(one, "output/A")) for one in spaces]
    assert len(spaces) == count
    rng, draws = np.random.default_rng(0), 6000
    drawn = Counter(str(classes(null.space(rng), "output/A")) for _ in range(draws))
    for kind, times in Counter(of_each).items():
        expected = times / count
        assert drawn[kind] / draws == pytest.approx(expected, abs=5 * (expected / draws) ** 0.5)
    assert drawn.keys() <= set(of_each)


def test_many_permutations_are_only_counted() -> None:
    wide = Dataset({"a": torch.arange(3000.0)}, features={"a": torch.arange(3000) % 2})
    null = null_of(SwapSpace(output(module("A", agrees_on="a")), wide))
    assert null is not None
    assert null.spaces(10**8) is None
    alike = Dataset({"a": torch.arange(3000.0)}, features={"a": [0] * 3000})
    null = null_of(SwapSpace(output(module("A", agrees_on="a")), alike))
    assert null is not None
    assert len(null.spaces(1) or ()) == 1


# What it costs ------------------------------------------------------------------------------------


def expected(feature: np.ndarray[Any, Any]) -> float:
    """The mean error over all permutations where A agrees on a permuted feature and b is its
    donor's own: |2 a' + b'' - (2 a + b)| with any b''."""
    total = 0.0
    for order in permutations(range(6)):
        values = feature[list(order)]
        for row in range(6):
            donors = np.flatnonzero(values == values[row])
            value = 2 * A + B / 1000
            changes = value[donors][:, None] + B[None, :] - value[row] - B[row]
            total += float(np.abs(changes).mean()) / 6
    return total / 720


@pytest.mark.parametrize("feature", [A, A % 2])
def test_its_gap_is_the_mean_over_all_permutations(feature: np.ndarray[Any, Any]) -> None:
    name = {3: "a", 2: "parity"}[len(set(feature))]
    dataset, settings = data(), Settings(tolerance=1, samples=40_000)
    evaluator = Evaluator(GRAPH, dataset, output(module("A", agrees_on=name)), ERROR)
    references = References.of(evaluator, settings)
    null = null_of(evaluator.space)
    assert null is not None
    under = UnderNull(evaluator, null, references, settings.stream("null"))
    changes = under.changes(40_000)
    # 1,000 permutations of 40 draws
    error = float(changes.reshape(-1, 40).mean(1).std()) / 1000**0.5
    assert changes.mean() == pytest.approx(expected(feature), abs=4 * error)
    assert error < 0.02


def test_how_many_are_drawn_at_once_changes_no_figure() -> None:
    settings = Settings(tolerance=1, samples=300)
    evaluator = Evaluator(GRAPH, data(), output(module("A", agrees_on="a")), ERROR)
    null = null_of(evaluator.space)
    assert null is not None
    references = References.of(evaluator, settings)
    one, other = (UnderNull(evaluator, null, references, settings.stream("null")) for _ in range(2))
    one.scrubbed(50)
    one.scrubbed(130)
    assert np.array_equal(one.scrubbed(300), other.scrubbed(300))
    assert len(one.scrubbed(170)) == 170


def test_a_computed_node_computes_from_any_row() -> None:
    unique = Dataset(
        {"a": torch.arange(60.0).double(), "b": torch.zeros(60).double()},
        labels=2 * torch.arange(60.0).double(),
        features={"a": torch.arange(60)},
    )
    root = output(module("A", agrees_on="a", computed_by=lambda a: 2.0 * a), rest=EXACT)
    verdict = judged(root, unique, metric=Metric("error", ERROR.function, lower=0.0, upper=200.0))
    assert verdict.outcome == HELD
    assert verdict.null is not None
    # two numbers of 0 to 59 differ by a third of the range on average
    assert verdict.null.gap.mean == pytest.approx(2 * 60 / 3, rel=0.2)


# What it decides ----------------------------------------------------------------------------------


def test_a_claim_that_says_something_is_told_from_it() -> None:
    verdict = judged(output(module("A", agrees_on="a"), rest=EXACT))
    assert verdict.outcome == HELD
    assert verdict.null is not None
    assert verdict.null.outcome == REFUTED
    # what reports draw beside the claim's own: 101 percentiles of the null's samples
    assert len(verdict.null.changes) == 101
    assert [*verdict.null.changes] == sorted(verdict.null.changes)
    assert np.mean(verdict.null.changes) == pytest.approx(verdict.null.gap.mean, rel=0.1)
    assert verdict.explained == pytest.approx(1.0, abs=1e-2)
    assert "explained: 99.9%" in str(verdict)


@pytest.mark.parametrize(
    ("root", "options", "says"),
    [
        # the tolerance accepts whatever the swaps do
        (output(module("A", agrees_on="a")), {"tolerance": 5}, "it would hold as well"),
        # what is named is idle: the output does not read it
        (
            output(module("C", agrees_on="parity"), rest=EXACT),
            {},
            "it would hold as well with features permuted (gap 0",
        ),
        # what the null costs, 0.8, is not told from what the claim accepts
        (
            output(module("A", agrees_on="a"), rest=EXACT),
            {"tolerance": 0.8, "samples": 600},
            "600 samples do not show that it would fail with features permuted",
        ),
    ],
)
def test_a_claim_that_its_null_holds_as_well_is_weak(
    root: Node, options: dict[str, Any], says: str
) -> None:
    graph = FunctionGraph(
        A=lambda a, b: 2 * a + b / 1000,
        C=lambda a, b: a % 2 + b,
        output=lambda A, b, C: A + b + 0 * C,
    )
    told = {"metric": ERROR, "tolerance": 0.5, "adversaries": (), **options}
    verdict = check(root, graph, data(20), **told)
    assert (verdict.average, verdict.outcome) == (HELD, WEAK)
    assert says in str(verdict).splitlines()[0]


def test_what_does_not_show_on_average_may_show_in_a_search() -> None:
    """A signed metric cancels in the null as well; its worst swaps do not."""
    signed = Metric("difference", lambda out, batch: out - batch.labels, lower=-5.01, upper=5.01)
    root = output(module("A", agrees_on="a"), rest=EXACT)
    alone = judged(root, metric=signed, tolerance=1.0)
    assert alone.outcome == WEAK
    searched = judged(root, metric=signed, tolerance=1.0, adversaries=None, samples=4000)
    assert searched.null is not None
    assert searched.null.worst is not None
    assert (searched.null.worst.adversary, searched.null.worst.beyond) == ("which donors", True)
    assert searched.outcome == HELD


def test_another_seed_or_name_tells_it_as_well() -> None:
    root = output(module("A", agrees_on="a"), rest=EXACT)
    assert {judged(root, seed=seed, name=str(seed)).outcome for seed in range(8)} == {HELD}


# min_explained= -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "least", "outcome"),
    [
        (output(module("A", agrees_on="a"), rest=EXACT), 0.9, HELD),
        # b is anything: half of the swaps are off by one, where the null is off by more than two
        (output(module("A", agrees_on="a")), 0.5, HELD),
        (output(module("A", agrees_on="a")), 0.95, REFUTED),
        (output(module("A", agrees_on="parity"), rest=EXACT), 0.9, REFUTED),
    ],
)
def test_a_share_of_what_the_null_costs_can_be_the_tolerance(
    root: Node, least: float, outcome: str
) -> None:
    verdict = judged(root, tolerance=None, min_explained=least)
    assert verdict.outcome == outcome
    assert verdict.null is not None
    assert verdict.explained == pytest.approx(1 - verdict.gap.mean / verdict.null.gap.mean)
    assert verdict.tolerance == pytest.approx((1 - least) * verdict.null.gap.mean)


def test_where_the_null_costs_nothing_nothing_is_explained() -> None:
    better = Metric(
        "closeness to zero",
        lambda out, batch: -out.abs() * (batch.labels + 1),
        lower=-400.0,
        upper=0.0,
    )
    verdict = judged(
        output(module("A", agrees_on="parity")), metric=better, tolerance=None, min_explained=0.5
    )
    assert verdict.outcome in (WEAK, REFUTED, UNDECIDED)
    assert verdict.outcome != HELD


@pytest.mark.parametrize("direction", ["worse", "either"])
def test_a_room_below_zero_ends_at_once_and_is_weak(direction: Any) -> None:
    # the network is wrong by 5 on every row unless A comes from elsewhere
    graph = FunctionGraph(
        A=lambda a: a, output=lambda A, a: torch.where(a % 2 == A % 2, a + 5.0, a.double())
    )
    dataset = Dataset(
        {"a": torch.arange(40.0).double() % 4},
        labels=torch.arange(40.0).double() % 4,
        features={"parity": torch.arange(40) % 2},
    )
    verdict = check(
        output(module("A", agrees_on="parity"), rest=EXACT), graph, dataset,
        metric=Metric("error", ERROR.function, lower=0.0, upper=9.0),
        min_explained=0.9, adversaries=(), direction=direction,
    )  # fmt: skip
    assert (verdict.undecided, verdict.outcome) == (NO_ROOM, WEAK)
    assert verdict.samples < verdict.budget
    assert "signed metrics can cancel" in str(verdict).splitlines()[0]
    assert "straddles" not in story(verdict)


def test_a_share_of_nothing_is_a_misstatement() -> None:
    with pytest.raises(HypothesisError, match=r"min_explained= is a share of what .* names none"):
        judged(output(agrees_on=ANYTHING), tolerance=None, min_explained=0.9)
    with pytest.raises(HypothesisError, match=r"min_explained_at_worst= is .* adversarial_tol"):
        judged(output(agrees_on=ANYTHING), min_explained_at_worst=0.9)
    with pytest.raises(HypothesisError, match=r"min_explained= is a share above 0"):
        judged(output(module("A", agrees_on="a")), tolerance=None, min_explained=0.0)


def test_a_null_is_shown_where_it_decides_nothing() -> None:
    refuted = judged(output(module("A", agrees_on="parity"), rest=EXACT), tolerance=0.01)
    assert (refuted.outcome, refuted.null is not None) == (REFUTED, True)
    untested = judged(output(module("A", agrees_on=["a", "b"]), rest=EXACT), data(1))
    assert untested.outcome == UNTESTED


# Node by node -------------------------------------------------------------------------------------


def test_the_table_says_what_each_node_is_worth() -> None:
    """The gap when the feature of one node alone knows nothing."""
    graph = FunctionGraph(
        A=lambda a, b: 2 * a + b / 1000,
        C=lambda a, b: a % 2 + b,
        output=lambda A, b, C: A + b + 0 * C,
    )
    root = output(module("A", agrees_on="a"), module("C", agrees_on="parity"), rest="b")
    verdict = check(root, graph, data(20), metric=ERROR, tolerance=0.5, adversaries=())
    rest, a, c = verdict.nodes
    assert rest.unknowing is None
    assert a.unknowing is not None
    assert a.unknowing.low > 0.5
    assert not a.says_nothing
    assert c.unknowing is not None
    assert c.unknowing.mean < 0.01
    assert c.says_nothing
    assert "so it says nothing" in next(
        line for line in str(verdict).splitlines() if line.startswith("output/C ")
    )


def test_the_search_says_how_much_is_explained_at_the_worst() -> None:
    root = output(module("A", agrees_on="a"), rest=EXACT)
    verdict = judged(root, tolerance=None, min_explained=0.9, adversaries=[WhichDonors()])
    assert verdict.outcome == HELD
    assert verdict.search is not None
    (attempt,) = verdict.search.attempts
    assert attempt.of_null is not None
    assert attempt.found == pytest.approx(0.001, abs=1e-4)  # b, where A is one of another b
    assert attempt.of_null.mean > 1
    assert attempt.bound == pytest.approx(0.1 * attempt.of_null.mean)
    assert "for the null: 100.0% explained" in str(verdict)


def test_many_permutations_are_drawn_at_once_as_one_by_one() -> None:
    root = output(module("A", agrees_on="a"), rest="parity")
    null = null_of(space(root, data(20)))
    assert null is not None
    rows = np.arange(100)
    at_once = null.draw(rows, np.random.default_rng(0), together=40)
    rng = np.random.default_rng(0)
    one_by_one = [null.space(rng).draw(len(some), rng, some) for some in np.split(rows, [40, 80])]
    assert np.array_equal(at_once.references, rows)
    assert np.array_equal(at_once.donors, np.concatenate([one.donors for one in one_by_one], 1))


def test_nulls_of_single_nodes_are_drawn_together_as_they_are_alone(monkeypatch: Any) -> None:
    found = null_of(space(output(module("A", agrees_on=["a", "b"]), agrees_on="parity")))
    assert found is not None
    nulls, rows = [found, found.of_one("output/A")], np.arange(6)
    one, together = np.random.default_rng(0), np.random.default_rng(0)
    alone = joined([null.draw(rows, one, 4) for null in nulls])
    assert drawn_of(nulls, rows, together, 4) == alone
    for most in (1, 13):  # on large data, few of them at once
        monkeypatch.setattr(space_module, "ROWS_AT_ONCE", most)
        assert drawn_of(nulls, rows, np.random.default_rng(0), 4) == alone


def test_the_null_is_not_searched_for_a_claim_that_fell_to_its_own_search() -> None:
    """It would decide nothing; for the same claim, withstanding, it does."""
    signed = Metric("difference", lambda out, batch: out - batch.labels, lower=-5.01, upper=5.01)
    root = output(module("A", agrees_on="a"), rest=EXACT)
    told = {"metric": signed, "tolerance": 1.0, "adversaries": None, "samples": 4000}
    fell = judged(root, adversarial_tolerance=1e-4, **told)
    assert (fell.average, fell.outcome) == (HELD, REFUTED)
    assert fell.null is not None
    assert fell.null.worst is None
