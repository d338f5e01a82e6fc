"""Claims whose swaps are few: each is evaluated, weighs as it is likely to be drawn, and the gap
has no interval."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
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
    WhichNodes,
    check,
    group,
    meaning,
    module,
    output,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.settings import Settings
from pytest_scrub.statistics import average
from pytest_scrub.statistics.average import percentiles
from pytest_scrub.statistics.enumerating import enumerated, how_many
from pytest_scrub.statistics.intervals import all_within, point, quantile
from pytest_scrub.statistics.sampling import References, UnderNull
from pytest_scrub.swaps.null import null_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import Estimate
from tests.reference.functions import FunctionNetwork
from tests.sizes import few_in_quick

FUNCTIONS = {"A": lambda a: 2 * a, "B": lambda b: b / 4, "C": lambda A, B: A * B}
FUNCTIONS["output"] = lambda A, B, C: A + B + C / 8
GRAPH = FunctionGraph(**FUNCTIONS)
VALUE = Metric("value", lambda out, batch: out + batch.inputs["a"] * (out - 1).abs())
IDENTICAL = [0.0, 1.0, 1.0, 0.0, 1.0, 0.0]  # with b: rows 1 and 2 are the same


def rows(**options: Any) -> Dataset:
    """Six rows, two of them the same, of which four are references and four donors."""
    inputs = {
        "a": torch.tensor(IDENTICAL, dtype=torch.float64),
        "b": torch.tensor([0.0, 3.0, 3.0, 1.0, 2.0, 7.0], dtype=torch.float64),
    }
    features = {"a": IDENTICAL, "pair": [0, 0, 0, 1, 1, 1], "row": range(6), "all": [0] * 6}
    given = {
        "references": np.array([True, True, False, True, True, False]),
        "donors": np.array([True, True, True, False, True, False]),
        **options,
    }
    return Dataset(inputs, features=features, **given)


TREES = {
    "leaf": output(module("A", agrees_on="pair"), rest=EXACT),
    "leaf and rest": output(module("B", agrees_on="a"), rest="pair"),
    "two leaves": output(module("A", agrees_on="a"), module("B", agrees_on=ANYTHING), rest=EXACT),
    "shared": output(
        module("A", agrees_on="pair", name="one"),
        module("B", agrees_on="pair", shares="one"),
        rest="a",
    ),
    "group": output(group([module("A"), module("B")], agrees_on="pair")),
    "tree": output(
        module("C", agrees_on="pair", reads=[module("A", agrees_on="a")], rest="pair"), rest="a"
    ),
    "root": output(module("B", agrees_on="a"), agrees_on="pair", rest=EXACT),
}


def all_of(root: Node, data: Dataset) -> tuple[SwapSet, np.ndarray[Any, Any]]:
    return enumerated([SwapSpace(root, data)], apart=True)


def by_meaning(root: Node, data: Dataset, swap_set: SwapSet) -> tuple[float, float]:
    """The mean change and the mean absolute change, by the slow program that says what a claim
    means: its probabilities and its outputs."""
    chances = [meaning.chance(root, data, swap_set, i) for i in range(len(swap_set))]
    network = FunctionNetwork(FUNCTIONS, data)
    scrubbed = torch.stack(meaning.outputs(network, root, data, swap_set, None))
    a, b = (value.clone()[swap_set.references.copy()] for value in data.inputs.values())
    clean = 2 * a + b / 4 + a * b / 16
    score = [out + a * (out - 1).abs() for out in (scrubbed.reshape(-1), clean)]
    changes = (score[0] - score[1]).numpy()
    assert sum(chances) == pytest.approx(1)
    return float(np.dot(chances, changes)), float(np.dot(chances, np.abs(changes)))


def judged(root: Node, data: Dataset | None = None, **options: Any) -> Verdict:
    usual = {"metric": VALUE, "tolerance": 100.0, "adversaries": (), **options}
    return check(root, GRAPH, rows() if data is None else data, **usual)


# --- the weights are those of the draw ------------------------------------------------------------


@pytest.mark.parametrize("root", TREES.values(), ids=TREES)
def test_every_swap_weighs_as_its_meaning_says(root: Node) -> None:
    data = rows()
    swap_set, weights = all_of(root, data)
    assert len({tuple(column) for column in np.vstack([swap_set.references, swap_set.donors]).T})
    chances = [meaning.chance(root, data, swap_set, i) for i in range(len(swap_set))]
    np.testing.assert_allclose(weights / len(weights), chances, rtol=1e-12)
    assert how_many([SwapSpace(root, data)], apart=True) == len(swap_set)


@few_in_quick(4)
@pytest.mark.parametrize("root", TREES.values(), ids=TREES)
def test_every_swap_weighs_as_it_is_drawn(root: Node) -> None:
    data, draws = rows(), 200_000
    swap_set, weights = all_of(root, data)
    drawn = SwapSpace(root, data).draw(draws, np.random.default_rng(0))
    columns = np.vstack([swap_set.references, swap_set.donors]).T
    expected = {
        tuple(column): weight / len(weights)
        for column, weight in zip(columns.tolist(), weights, strict=True)
    }
    seen = Counter(map(tuple, np.vstack([drawn.references, drawn.donors]).T.tolist()))
    assert len(expected) == len(columns)
    assert seen.keys() <= expected.keys()
    for column, share in expected.items():
        assert seen[column] / draws == pytest.approx(share, abs=5 * (share / draws) ** 0.5)


def test_repeated_rows_count() -> None:
    """Rows 0 to 2 agree, of which 1 and 2 are the same: of three equally likely donors, two."""
    data = rows(references=None, donors=None)
    swap_set, weights = all_of(output(module("B", agrees_on="pair"), rest=EXACT), data)
    of_first = swap_set.references == 0
    b = data.inputs["b"].numpy()[swap_set.donors[swap_set.slots.index("output/B")]]
    assert weights[of_first & (b == 3)].sum() == pytest.approx(
        2 * weights[of_first & (b == 0)].sum()
    )
    plain = FunctionGraph(A=lambda a: 2 * a, B=lambda b: b, output=lambda A, B: A + B)
    found = check(
        output(module("B", agrees_on="pair"), rest=EXACT), plain, data,
        metric=Metric("left", lambda out, batch: (out - 2 * batch.inputs["a"]) * (batch.rows == 0)),
        tolerance=1, adversaries=(),
    )  # fmt: skip
    assert found.gap.mean == pytest.approx((2 * 3 + 0) / 3 / 6)


@pytest.mark.parametrize("root", TREES.values(), ids=TREES)
def test_its_gap_is_what_it_means_and_what_drawing_tends_to(root: Node) -> None:
    data = rows()
    found = judged(root, data)
    gap, absolute = by_meaning(root, data, all_of(root, data)[0])
    assert found.gap.exact
    assert found.gap.low == found.gap.mean == found.gap.high == pytest.approx(gap, abs=1e-12)
    assert found.absolute_change == pytest.approx(absolute, abs=1e-12)
    assert found.scrubbed - found.unscrubbed == pytest.approx(gap, abs=1e-12)
    evaluator = Evaluator(GRAPH, data, root, VALUE)
    drawn = evaluator.space.draw(40_000, np.random.default_rng(1))
    changes = evaluator.evaluate(drawn) - evaluator.unscrubbed(drawn.references)
    assert changes.mean() == pytest.approx(gap, abs=4 * changes.std() / 200)
    worse = (changes > 1e-9).mean()
    assert found.share_worse == pytest.approx(worse, abs=0.012)
    moved = evaluator.space.moved(drawn).mean(1)
    for node, share in zip(found.nodes, moved, strict=True):
        assert node.moved <= share + 0.012  # of a leaf, by its value
        if node.is_rest:
            assert node.moved == pytest.approx(share, abs=0.012)


def test_own_inputs_of_non_leaves_count_as_they_are_drawn() -> None:
    """Where those that feed the same are visited once, a node might seem never to be swapped."""
    root = output(module("C", agrees_on="all", reads=[module("A", agrees_on="all")]), rest=EXACT)
    data = rows(references=None, donors=None)
    merged = sum(len(one) for one, _ in SwapSpace(root, data).enumerate())
    assert how_many([SwapSpace(root, data)], apart=True) == 6 * merged
    node = next(one for one in judged(root, data).nodes if one.slot == "output/C")
    # of six rows one is itself, and of two more one is the same
    assert node.moved == pytest.approx(1 - (4 * 1 / 6 + 2 * 2 / 6) / 6)


# --- what is decided ------------------------------------------------------------------------------


LEAF = TREES["two leaves"]
DIRECTIONS = [1.0, -1.0]


def exact_gap(root: Node = LEAF) -> float:
    return by_meaning(root, rows(), all_of(root, rows())[0])[0]


@pytest.mark.parametrize("sign", DIRECTIONS)
@pytest.mark.parametrize(("beside", "average"), [(0.0, "held"), (1e-9, "held"), (-1e-9, "refuted")])
def test_a_gap_at_its_tolerance_is_decided(beside: float, average: str, sign: float) -> None:
    metric = Metric("value", lambda out, batch: sign * VALUE(out, batch))
    gap = abs(exact_gap())
    found = judged(LEAF, metric=metric, tolerance=gap + beside)
    assert (found.average, found.undecided) == (average, None)
    assert found.rounding < 1e-12


def test_rounding_still_decides_nothing() -> None:
    """A metric with large terms, in which a gap has no more digits than that."""
    large = Metric("large", lambda out, batch: 1e9 + VALUE(out, batch))
    gap = abs(exact_gap())
    found = judged(LEAF, metric=large, tolerance=gap + 1e-9)
    assert (found.average, found.undecided) == ("held", None)
    tiny = judged(LEAF, metric=large, tolerance=1e-7)
    assert tiny.outcome == "refuted"
    swapped = output(module("A", agrees_on="a"), rest=EXACT)
    same = judged(swapped, metric=Metric("s", lambda out, batch: 1e9 + 1e-8 * out), tolerance=0)
    assert same.outcome == "untested"


def test_no_tolerance_takes_no_changes_that_cancel() -> None:
    """Up and down by the same: a mean of zero, which is not that of numbers that are the same."""
    data = Dataset({"a": torch.tensor([-1.0, 1.0]), "b": torch.zeros(2)}, features={"all": [0, 0]})
    signed = Metric("signed", lambda out, batch: out)
    found = judged(
        output(module("A", agrees_on="all"), rest=EXACT), data, metric=signed, tolerance=0
    )
    assert found.gap.exact
    assert found.gap.mean == 0
    assert found.outcome == "undecided"
    assert found.undecided == "rounding"
    assert found.absolute_change > 0


def test_intervals_are_as_they_were_where_there_is_one_swap_too_many() -> None:
    columns = len(all_of(LEAF, rows())[0])
    assert judged(LEAF, samples=columns).gap.exact
    drawn = judged(LEAF, samples=columns - 1)
    assert not drawn.gap.exact
    assert not drawn.exact
    assert "exact" not in str(drawn)


@pytest.mark.parametrize("too_many", [False, True])
def test_no_node_is_drawn_that_is_enumerated(
    monkeypatch: pytest.MonkeyPatch, too_many: bool
) -> None:
    drawn = []

    def noted(*_: Any) -> Estimate:
        drawn.append(True)
        return point(np.zeros(1))

    monkeypatch.setattr(average, "_alone", noted)
    if too_many:
        monkeypatch.setattr(average, "_enumerated", lambda report, _: report)
    says = output(module("A", agrees_on=ANYTHING), rest=EXACT)  # it has no null
    assert all(node.alone is not None for node in judged(says).nodes)
    assert bool(drawn) == too_many


def test_to_generalize_is_never_exact() -> None:
    values = torch.arange(60, dtype=torch.float64)
    data = Dataset({"a": values % 2, "b": values}, features={"pair": range(60), "a": values % 2})
    root = output(module("B", agrees_on="pair"), module("A", agrees_on="a"), rest=EXACT)
    assert judged(root, data).gap.exact
    found = judged(root, data, generalize=True)
    assert not found.gap.exact
    assert "exact" not in str(found)
    assert "references drawn as this dataset's were" in found.interval_kind


@pytest.mark.parametrize("share", [0.5, 0.75])
def test_single_swaps_are_all_known(share: float) -> None:
    swap_set, weights = all_of(LEAF, rows())
    evaluator = Evaluator(GRAPH, rows(), LEAF, VALUE)
    sizes = np.abs(evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references))
    tolerance = float(np.sort(sizes)[len(sizes) // 2])
    inside = float(np.average(sizes <= tolerance, weights=weights))
    found = judged(LEAF, tolerance=tolerance, min_within=inside)
    assert found.share is not None
    assert (found.share.exact, found.share.draws) == (True, len(swap_set))
    assert found.share.tolerated == pytest.approx(inside)
    assert "% confidence" not in str(found)
    assert "swap sets, which are all)" in str(found)
    # it is in no doubt which side of it the share lies on
    assert abs(found.gap.mean) <= tolerance
    assert found.average == "held"
    refuted = judged(LEAF, tolerance=tolerance, min_within=min(inside + 1e-6, 0.999))
    assert "of single swaps only stay within" in str(refuted).splitlines()[0]
    assert refuted.outcome == "refuted"


def test_too_many_single_swaps_are_shown_by_one_of_them() -> None:
    tolerance = abs(exact_gap()) + 0.1
    options = {"adversaries": [WhichNodes()], "adversary": "report"}
    found = judged(LEAF, tolerance=tolerance, min_within=0.999, **options)
    assert found.outcome == "refuted"
    assert found.search is not None
    assert not found.search.refutes
    assert found.search.counterexample is not None
    assert abs(found.search.counterexample.gap) > tolerance


def test_slices_are_exact_as_well() -> None:
    found = judged(LEAF, by="pair", slice_tolerance=1e-3)
    swap_set, weights = all_of(LEAF, rows())
    evaluator = Evaluator(GRAPH, rows(), LEAF, VALUE)
    changes = evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)
    pair = rows().feature("pair")[swap_set.references]
    assert found.slices is not None
    for one in found.slices.slices:
        here = pair == int(one.value)
        assert one.gap is not None
        assert one.gap.exact
        mean = np.average(changes[here], weights=weights[here])
        assert one.gap.mean == pytest.approx(mean, abs=1e-12)
        assert one.outcome == ("refuted" if abs(mean) > 1e-3 else "held")
    assert found.outcome == "refuted"
    assert "of all allowed swap sets" in str(found)


# --- the null and the baseline --------------------------------------------------------------------


FOUR = output(module("A", agrees_on="a"), rest="all")
SWAPPED = output(group([module("A"), module("B"), module("C")], agrees_on="a"), rest="all")
ERROR = Metric(
    "error",
    lambda out, batch: (
        out
        - 2 * batch.inputs["a"]
        - batch.inputs["b"] / 4
        - batch.inputs["a"] * batch.inputs["b"] / 16
    ).abs(),
)


def few(count: int = 4) -> Dataset:
    values = torch.arange(count, dtype=torch.float64)
    return Dataset(
        {"a": values % 2, "b": values / 8}, features={"a": values % 2, "all": [0] * count}
    )


def null_by_hand(data: Dataset) -> float:
    """The mean change over all orders of the feature's values, all references and donors."""
    evaluator = Evaluator(GRAPH, data, FOUR, ERROR)
    count, total = len(data), []
    values = data.feature("a")
    for order in permutations(range(count)):
        permuted = values[list(order)]
        for row in range(count):
            donors = np.flatnonzero(permuted == permuted[row])
            pairs = [(rest, donor) for rest in range(count) for donor in donors]
            swap_set = evaluator.space.swap_set(
                np.full(len(pairs), row), np.array(pairs, dtype=np.int64).T
            )
            changes = evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)
            total.append(changes.mean())
    return float(np.mean(total))


def test_the_null_is_enumerated_over_all_permutations() -> None:
    data = few()
    assert SwapSpace(FOUR, data).paths == ("output/rest", "output/A")
    found = judged(FOUR, data, metric=ERROR)
    assert found.null is not None
    assert found.null.gap.exact
    assert found.exact
    assert found.null.gap.mean == pytest.approx(null_by_hand(data), abs=1e-12)
    # six ways to give two of four rows the same value
    assert found.null.samples == 6 * how_many([SwapSpace(FOUR, data)])
    assert "exact: every allowed swap set" in found.interval_kind
    assert "null:      with features permuted the gap would be" in str(found)
    assert f"(all {found.null.samples} swap sets)" in str(found)


def test_drawing_the_null_tends_to_that() -> None:
    data, settings = few(), Settings(tolerance=1.0, samples=40_000)
    evaluator = Evaluator(GRAPH, data, FOUR, VALUE)
    null = null_of(evaluator.space)
    assert null is not None
    under = UnderNull(evaluator, null, References.of(evaluator, settings), settings.stream("null"))
    changes = under.changes(40_000)
    assert under.every is not None
    exact = under.every.mean(under.every.changes)
    error = changes.reshape(-1, 40).mean(1).std() / 1000**0.5
    assert changes.mean() == pytest.approx(exact, abs=4 * error)


def test_what_is_exact_may_be_anything_is_one_space() -> None:
    found = judged(output(module("A", agrees_on=EXACT), rest="all"), few())
    assert found.null is not None
    assert found.null.gap.exact
    assert found.null.samples == 4 * 4 * 4


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_share_explained_is_exact_where_the_null_is(share: float) -> None:
    data = few()
    gap, room = judged(FOUR, data, metric=ERROR).gap.mean, null_by_hand(data)
    assert 0 < gap < room
    accepted = (1 - share) * room
    found = judged(FOUR, data, metric=ERROR, tolerance=None, min_explained=share)
    assert found.tolerance == pytest.approx(accepted)
    assert found.average == ("held" if gap <= accepted else "refuted")
    assert found.explained == pytest.approx(1 - gap / room)
    for beside, outcome in ((0.0, "held"), (-1e-9, "held"), (1e-9, "refuted")):
        at = 1 - gap / room + beside
        near = judged(FOUR, data, metric=ERROR, tolerance=None, min_explained=at)
        assert (near.average, near.undecided) == (outcome, None)


def test_a_null_that_cannot_be_enumerated_keeps_its_interval() -> None:
    data = few(8)  # 70 ways to give four of eight rows the same value
    found = judged(FOUR, data, samples=2000)
    assert found.gap.exact
    assert found.null is not None
    assert not found.null.gap.exact
    assert not found.exact
    assert "its null has more than 2000: 95 % asymptotic" in found.interval_kind
    explained = judged(FOUR, data, samples=2000, tolerance=None, min_explained=0.5)
    assert not explained.gap.exact
    assert explained.interval_kind.endswith("; not exact, as the null has more than 2000 swap sets")


def test_nothing_is_exact_by_a_null_that_costs_nothing() -> None:
    """Where nothing can be explained the claim is weak, whatever the last digits of a sum are."""
    rooms = []
    for size in (1.0, 0.1, -0.1, 0.3, 0.7, 1 / 3):
        signed = Metric("signed", lambda out, batch, size=size: 0.1 + size * (out - out**2 / 7))
        found = judged(SWAPPED, few(), metric=signed, tolerance=None, min_explained=0.5)
        assert found.null is not None
        rooms.append(found.null.gap.mean)
        assert (found.outcome, found.undecided) == ("weak", "no room")
        assert found.explained is None
    assert max(rooms) > 0  # of the size of the last digit
    assert max(map(abs, rooms)) < 1e-15


def test_a_share_recovered_is_exact_where_the_baseline_is() -> None:
    root, data = output(module("B", agrees_on="a"), rest=EXACT), few()
    off = Metric("off", lambda out, batch: (out - 2 * batch.inputs["a"]).abs())
    found = judged(root, data, tolerance=None, min_recovered=0.1, metric=off)
    assert found.gap.exact
    evaluator = Evaluator(GRAPH, data, output(agrees_on=ANYTHING), off)
    every = enumerated([evaluator.space])[0]
    assert found.baseline == pytest.approx(evaluator.evaluate(every).mean())
    columns = how_many([SwapSpace(root, data)])
    drawn = judged(root, data, tolerance=None, min_recovered=0.1, metric=off, samples=int(columns))
    assert not drawn.gap.exact
    assert drawn.interval_kind.endswith("; not exact, as the baseline has more than 8 swap sets")


# --- what exactness does not change ---------------------------------------------------------------


def test_what_cannot_be_tested_stays_untested() -> None:
    """Every row the only one of its class: all there is to swap is the row itself."""
    values = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = Dataset({"a": values, "b": values}, features={"value": values, "all": [0] * 20})
    for rest in (EXACT, "all"):
        found = judged(output(module("A", agrees_on="value"), rest=rest), data, tolerance=1e9)
        assert found.gap.exact
        assert (found.outcome, found.average) == ("untested", "untested")


def test_a_claim_that_would_hold_for_nothing_stays_weak() -> None:
    """A tolerance that accepts whatever the swaps do."""
    found = judged(FOUR, few(), tolerance=50.0)
    assert found.exact
    assert found.average == "held"
    assert found.outcome == "weak"


def test_the_search_refutes_what_holds_exactly_on_average() -> None:
    """Changes that cancel in the mean: exactness is of the average alone."""
    data = Dataset(
        {"a": torch.tensor([-1.0, 1.0] * 4).double(), "b": torch.arange(8).double() / 100},
        features={"all": [0] * 8},
    )
    signed = Metric("signed", lambda out, batch: out)
    root = output(module("A", agrees_on="all"), rest=EXACT)
    found = judged(root, data, metric=signed, tolerance=0.1, adversaries=None, budget=2000)
    assert (found.average, found.outcome) == ("held", "refuted")


@pytest.mark.parametrize("others", [0.0, -0.001])
@pytest.mark.parametrize("sign", DIRECTIONS)
def test_likely_swaps_count_by_their_weight(sign: float, others: float) -> None:
    """Changes of few swaps that are likely, beside many that are not and change little or the other
    way: without weights the claim would hold. Row 0 has one donor beside itself, the others have
    each other."""
    count = 40
    kind = [0, 0] + [1] * (count - 2)
    b = torch.arange(count).double() / 8
    data = Dataset({"a": torch.zeros(count).double(), "b": b}, features={"kind": kind})

    def own(output: torch.Tensor, batch: Any) -> torch.Tensor:
        is_other = (output - batch.inputs["b"] / 4).abs() > 1e-9
        of_first = batch.rows == 0
        return sign * is_other.double() * torch.where(of_first, 1.0, others)

    root = output(module("B", agrees_on="kind"), rest=EXACT)
    truth = 1 / count / 2 + others / count * (1 / 2 + 37)
    found = judged(
        root, data, metric=Metric("own", own), tolerance=truth / 2,
        adversaries=[WhichNodes()], adversary="report",
    )  # fmt: skip
    assert found.gap.mean == pytest.approx(sign * truth)
    assert found.outcome == "refuted"
    assert found.changes[99 if sign > 0 else 1] == sign  # of 80 swaps one
    assert found.search is not None
    assert found.search.counterexample is not None
    assert found.search.counterexample.gap == sign
    columns = len(all_of(root, data)[0])
    assert (
        1 + others * (1 + 38 * 37)
    ) / columns < truth / 2  # what a mean without weights would be


def test_mutants_and_controls_are_judged_as_well() -> None:
    found = judged(FOUR, few(), tolerance=0.5, mutate=True, controls=True, direction="worse")
    assert found.gap.exact
    assert found.power is not None or found.average != "held"


def test_min_explained_needs_a_feature_as_ever() -> None:
    with pytest.raises(HypothesisError, match="it names none"):
        judged(
            output(module("A", agrees_on=ANYTHING), rest=EXACT), tolerance=None, min_explained=0.5
        )


# --- what is said ---------------------------------------------------------------------------------


def test_it_is_told_in_words_and_kept_in_json() -> None:
    found = judged(FOUR, few(), metric=ERROR, tolerance=0.1)
    assert (found.exact, found.outcome) == (True, "held")
    assert f"gap {found.gap.mean:.4g} (exact) in error" in str(found).splitlines()[0]
    assert "[" not in str(found).partition("output, rest")[0]
    kept = json.loads(found.to_json())
    assert kept["gap"] == {
        "mean": found.gap.mean, "low": found.gap.mean, "high": found.gap.mean, "exact": True,
    }  # fmt: skip
    assert Verdict.from_json(found.to_json()) == found
    assert len(found.looks) == 1
    assert found.looks[0].gap == found.gap


def test_it_does_not_depend_on_the_seed() -> None:
    one, other = (replace(judged(FOUR, few(), seed=seed), seed=0) for seed in (1, 2))
    assert one == other


def test_quantiles_by_weight() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([0.5, 2.0, 0.5])
    assert [quantile(values, weights, share) for share in (0.0, 0.5, 2 / 3, 0.7, 0.9, 1.0)] == [
        1, 1, 1, 2, 3, 3,
    ]  # fmt: skip
    same = np.random.default_rng(0).normal(size=57)
    assert percentiles(same, np.ones(57)) == percentiles(same)
    share = all_within(values, weights, 2.0)
    assert (share.within, share.tolerated) == (3.0, pytest.approx(2.5 / 3))


def test_a_search_of_all_references_is_not_called_exact() -> None:
    """Its mean is, but of what it found; only where all combinations were tried is that the
    worst."""
    count = 60
    values = torch.arange(count, dtype=torch.float64)
    data = Dataset(
        {"a": values % 2, "b": values / 8}, features={"a": values % 2, "all": [0] * count}
    )
    root = output(module("A", agrees_on="a"), module("B", agrees_on="all"), rest="all")
    found = judged(root, data, metric=ERROR, adversaries=None, budget=8000, samples=500)
    assert found.search is not None
    donors = next(one for one in found.search.attempts if one.adversary == "which donors")
    assert donors.interval is not None
    assert (donors.interval.exact, donors.exhaustive) == (True, False)
    assert f"worst gap {donors.found:.4g} (all references)" in str(found)
    few_of_them = judged(FOUR, few(), metric=ERROR, adversaries=None, budget=8000)
    assert f"true worst gap {few_of_them.search.worst.found:.4g} (exact)" in str(few_of_them)  # type: ignore[union-attr]
