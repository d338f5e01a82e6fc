"""What uniformly drawn swaps decide: when drawing stops, of whom the interval speaks, and what is
untested."""

from __future__ import annotations

import json
from dataclasses import replace
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
    module,
    output,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.statistics import average
from pytest_scrub.statistics.sampling import BATCH, BURN_IN
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import SwapSet, joined
from pytest_scrub.verdict import WHY_UNKNOWN, Estimate
from tests.sizes import few_in_quick

ROWS = 1000
NOISE = torch.randn(ROWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SLICE = torch.arange(ROWS) % 4
# What the network adds to a useless constant: a little noise, and in slice 3 a shift that swaps of
# B take away.
GRAPH = FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B: 5 + A + B)
SIZE = Metric("size", lambda out, batch: out)
SWAPS = output(module("A", agrees_on="slice"), module("B", agrees_on="slice"))


def rows(a: Any = NOISE, b: Any = None, **options: Any) -> Dataset:
    b = torch.zeros(ROWS, dtype=torch.float64) if b is None else b
    features = {"slice": SLICE, "row": range(ROWS), "all": [0] * ROWS}
    return Dataset({"a": a, "b": b}, **{"features": features, **options})


def verdict(root: Any = SWAPS, data: Dataset | None = None, **options: Any) -> Verdict:
    settings = {"metric": SIZE, "tolerance": 1.0, "samples": 4000, "adversaries": (), **options}
    return check(root, GRAPH, rows() if data is None else data, **settings)


def three(batch: Any) -> Any:
    return torch.as_tensor(batch.feature("slice").copy() == 3)


# --- stopping -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tolerance", "outcome", "most"), [(1.0, "held", 600), (0.001, "undecided", 4000)]
)
def test_drawing_stops_when_it_is_decided(tolerance: float, outcome: str, most: int) -> None:
    found = verdict(tolerance=tolerance)
    assert found.average == outcome
    assert found.samples <= most <= found.budget == 4000
    assert (found.samples - BURN_IN) % BATCH == 0


def test_a_refuted_claim_stops_as_early() -> None:
    far = Metric(
        "far", lambda out, batch: 9 + 9 * (out - 5 - batch.inputs["a"] - batch.inputs["b"]).abs()
    )
    found = verdict(output(module("A", agrees_on=ANYTHING)), tolerance=0.01, metric=far)
    assert (found.outcome, found.samples) == ("refuted", BURN_IN)


def test_a_small_budget_is_looked_at_once() -> None:
    found = verdict(samples=30)
    assert (found.samples, found.budget) == (30, 30)


def test_where_hardly_anything_changes_all_is_drawn() -> None:
    unbounded = Metric("rare", lambda out, batch: 400 * (out > 5 + RARE).double())
    assert verdict(metric=unbounded, tolerance=10.0).samples == 4000
    bounded = Metric("rare", lambda out, batch: (out > 5 + RARE).double(), lower=0, upper=1)
    assert verdict(metric=bounded, tolerance=0.1).samples < 1000


RARE = float(NOISE.quantile(0.998))


def test_an_untested_claim_is_not_drawn_further() -> None:
    found = verdict(output(module("A", agrees_on="row")))
    assert (found.outcome, found.samples) == ("untested", BURN_IN)


def test_the_budget_of_adversaries_does_not_depend_on_when_drawing_stops() -> None:
    early, late = (verdict(adversaries=None, tolerance=t, samples=1000).search for t in (1.0, 1e-9))
    assert early is not None
    assert late is not None
    assert early.budget == late.budget == 20_000


def test_the_interval_says_what_it_is() -> None:
    assert (
        verdict().interval_kind
        == "95 % asymptotic confidence sequence over swaps drawn from this dataset"
    )
    bounded = Metric("capped", lambda out, batch: out.clamp(0, 1), lower=0, upper=1)
    assert verdict(metric=bounded).interval_kind.startswith("95 % betting confidence sequence")
    assert "references drawn as this dataset's were" in verdict(generalize=True).interval_kind


# --- few draws ------------------------------------------------------------------------------------


def seldom(share: float) -> Metric:
    """Worse by a thousand for so many of the swaps, and unbounded as far as anyone has said."""
    limit = float(NOISE.quantile(1 - share))
    return Metric(
        "seldom",
        lambda out, batch: 1000.0 * ((out > 5 + limit) & (batch.inputs["a"] <= limit)).double(),
    )


@pytest.mark.parametrize("samples", [2, 50, 200, 1000])
@pytest.mark.parametrize("options", [{"tolerance": 0.1}, {"tolerance": None, "min_recovered": 0.9}])
def test_few_draws_of_a_metric_without_bounds_decide_nothing(samples: int, options: Any) -> None:
    found = verdict(metric=seldom(0.001), samples=samples, **options)
    assert (found.outcome, found.undecided, found.samples) == (
        "undecided",
        "too few draws",
        samples,
    )
    assert not found.gap.is_known
    assert not found.looks[-1].gap.is_known
    assert json.loads(found.to_json())["gap"]["low"] is None
    assert f"too few of the {samples} draws differ from the others to give an interval" in str(
        found
    )
    assert "30 have to, or none of 3000; draw more, with samples=" in str(found)
    assert "[?, ?]" in str(found).splitlines()[0]
    assert str(found).splitlines()[-1] == f"[?, ?]: {WHY_UNKNOWN}"
    assert "straddles" not in str(found)


def test_a_metric_without_bounds_that_never_changes_takes_3000_draws() -> None:
    idle = Metric("idle", lambda out, batch: batch.inputs["a"] ** 2)
    assert verdict(metric=idle, samples=2999).undecided == "too few draws"
    held = verdict(metric=idle)
    assert (held.average, held.samples, held.gap) == ("held", 3000, Estimate(0, 0, 0))
    bounded = verdict(metric=replace(idle, lower=0, upper=20), tolerance=2.0, samples=300)
    assert bounded.average == "held"
    assert WHY_UNKNOWN not in str(bounded)
    for alone in (node.alone for node in held.nodes):
        assert alone is not None
        assert not alone.is_known  # the table has fewer draws


def test_a_slice_with_few_draws_says_so() -> None:
    """Not that an interval straddles a tolerance, where there is none."""
    only_in_3 = Metric(
        "in 3", lambda out, batch: batch.inputs["a"] ** 2 + 3.0 * three(batch) * (out - 5) ** 2
    )
    found = verdict(metric=only_in_3, by="slice", tolerance=9.0, slice_tolerance=9.0)
    assert (found.outcome, found.undecided) == ("undecided", "too few draws")
    assert found.slices is not None
    undecided = {one.value: one.undecided for one in found.slices.slices}
    assert undecided == {"3": None, **dict.fromkeys("012", "too few draws")}
    worst = next(one for one in found.slices.slices if one.undecided)
    assert f"too few of the {worst.samples} draws where slice = {worst.value} differ" in str(found)
    assert "none of 4389" in str(found)  # as each of four has to be surer
    assert "straddles" not in str(found)


# --- rounding -------------------------------------------------------------------------------------


def shifted(by: Any) -> Metric:
    """A gap of 16.5, in a metric that has large terms besides."""
    return Metric(
        "shifted", lambda out, batch: by(batch) + 16.5 * (out - 5 - batch.inputs["a"]).abs()
    )


@pytest.mark.parametrize("by", [lambda _: 1e9, lambda batch: 1e11 * (batch.rows == 7)])
@pytest.mark.parametrize(
    ("dtype", "outcome"), [(torch.float32, "undecided"), (torch.float64, "refuted")]
)
def test_large_terms_swallow_no_gap(by: Any, dtype: torch.dtype, outcome: str) -> None:
    data = rows(NOISE.to(dtype), torch.zeros(ROWS, dtype=dtype))
    found = verdict(data=data, metric=shifted(by), tolerance=0.1)
    assert found.outcome == outcome
    if outcome == "undecided":
        assert found.undecided == "rounding"
        assert found.rounding > 10
        assert f"may be off by {found.rounding:.2g}, which is more than 1% of the tolerance" in str(
            found
        )
        assert "give the network in float64" in str(found)
    exact = verdict(data=data, metric=shifted(lambda _: 0.0), tolerance=0.1)
    assert (exact.outcome, exact.undecided) == ("refuted", None)


def test_large_terms_swallow_no_slice() -> None:
    by = lambda batch: 1e11 * three(batch) * (batch.rows == 7)  # noqa: E731
    data = rows(NOISE.float(), torch.zeros(ROWS))
    found = verdict(data=data, metric=shifted(by), tolerance=1e3, by="slice", slice_tolerance=0.1)
    assert found.slices is not None
    assert {one.outcome for one in found.slices.slices} == {"refuted"} or found.outcome != "held"


def test_no_tolerance_asks_for_the_same_numbers() -> None:
    data = rows(NOISE.float(), torch.zeros(ROWS))
    same = Metric("own", lambda out, batch: 3 + batch.inputs["a"].double())
    assert verdict(data=data, metric=same, tolerance=0).average == "held"
    nearly = Metric("noise", lambda out, batch: 3 + 1e-9 * (out - 5))
    found = verdict(data=data, metric=nearly, tolerance=0)
    assert (found.outcome, found.undecided) == ("undecided", "rounding")
    apart = Metric("apart", lambda out, batch: 3 + 1e-3 * (out - 5 - batch.inputs["a"]).abs())
    assert verdict(data=data, metric=apart, tolerance=0).outcome == "refuted"


EIGHT = FunctionGraph(
    A=lambda a: a * 1.0, output=lambda A: torch.stack([8 + A, torch.zeros_like(A)], -1)
)


def eight(others: Any, **options: Any) -> Verdict:
    """Logits of eight and zero, the first of them off by `others` where swaps come from."""
    a, rows = torch.cat([torch.zeros(ROWS, dtype=torch.float64), others]), np.arange(2 * ROWS)
    data = Dataset({"a": a}, features={"all": 0 * rows}, references=rows[:ROWS], donors=rows[ROWS:])
    claim = output(module("A", agrees_on="all"), rest=EXACT)
    return check(claim, EIGHT, data, samples=4000, adversaries=(), min_moved=0.0, **options)


def test_last_digits_of_logits_are_no_change_however_small_the_metric_is() -> None:
    """A few draws differ in the last bit of a logit, which is more than that of the metric: they
    do not leave a true claim undecided."""
    entropy = Metric("entropy", lambda out, batch: -out.log_softmax(1)[:, 0])
    few = torch.zeros(ROWS, dtype=torch.float64)
    few[:4] = 1e-12  # a change of 3e-16, where the metric is 3e-4
    found = eight(few, metric=entropy, tolerance=0.3)
    assert 0 < found.absolute_change < found.rounding < 1e-13
    assert found.average == "held"
    assert eight(few * 1e6, metric=entropy, tolerance=0.3).average == "undecided"


@pytest.mark.parametrize("tolerance", [1e-14, 1e-12, 1e-3])
def test_last_digits_let_no_gap_pass(tolerance: float) -> None:
    """No slack is more than a hundredth of the tolerance, whatever the digits are."""
    loss = Metric("loss", lambda out, batch: out[:, 0] - 8)
    beyond = torch.full((ROWS,), 1.3 * tolerance, dtype=torch.float64)
    found = eight(beyond, metric=loss, tolerance=tolerance)
    assert found.gap.mean > tolerance
    assert found.average == ("undecided" if tolerance < 1e-13 else "refuted")


@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float64, 2e-15), (torch.float32, 1e-6), (torch.bfloat16, 4e-3)]
)
def test_how_exact_a_network_is(dtype: torch.dtype, digits: float) -> None:
    data = rows(NOISE.to(dtype), torch.zeros(ROWS, dtype=dtype))
    assert Evaluator(GRAPH, data, SWAPS, SIZE).rounding == pytest.approx(digits, rel=0.2)


# --- one side -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("worse", "outcome"), [("higher", "held"), ("lower", "refuted")])
def test_better_is_no_objection_where_only_worse_counts(worse: str, outcome: str) -> None:
    falls = Metric(
        "falls",
        lambda out, batch: -2.0 * (out != 5 + batch.inputs["a"]).double(),
        worse=worse,
        lower=-2,
        upper=0,
    )
    assert verdict(metric=falls, tolerance=0.5).outcome == "refuted"
    one_sided = verdict(metric=falls, tolerance=0.5, direction="worse")
    assert (one_sided.average, one_sided.direction) == (outcome, "worse")
    searched = verdict(
        metric=falls, tolerance=0.5, direction="worse", adversaries=None, samples=500
    )
    assert searched.average == outcome
    assert searched.search is not None
    assert searched.search.refutes == (outcome == "refuted")


@few_in_quick(1)
@pytest.mark.parametrize("seed", range(3))
def test_which_nodes_looks_the_same_way(seed: int) -> None:
    """Swapping B alone makes the metric much better, swapping A alone a little worse."""
    graph = FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B: torch.stack([A, B], -1))

    def score(out: Any, batch: Any) -> Any:
        a, b = ((out[:, i] != batch.inputs[name]).double() for i, name in enumerate("ab"))
        return 0.6 * a * (1 - b) - 4.0 * b * (1 - a)

    data = rows(b=NOISE.flip(0))
    for direction, outcome in (("either", "refuted"), ("worse", "held")):
        found = check(
            output(module("A", agrees_on="slice"), module("B", agrees_on="slice")), graph, data,
            metric=Metric("score", score, lower=-4.0, upper=0.6), tolerance=1.0, samples=400,
            direction=direction,
            seed=seed,
        )  # fmt: skip
        assert found.average == "held"
        assert found.search is not None
        assert found.search.refutes == (outcome == "refuted")
        worst = found.search.worst
        assert worst is not None
        assert worst.gap == pytest.approx(-4.0 if direction == "either" else 0.6, abs=0.1)


def test_a_direction_that_is_none() -> None:
    with pytest.raises(HypothesisError, match=r"^direction= is 'either' or 'worse', not 'up'$"):
        verdict(direction="up")


# --- a share that has to be recovered -------------------------------------------------------------


def test_the_error_of_the_baseline_is_part_of_the_decision() -> None:
    """The gap is a fifth of what there is to lose, both of them noisy and of the same draws."""
    lossy = Metric(
        "lossy", lambda out, batch: (out - 5 - batch.inputs["a"] - batch.inputs["b"]).abs()
    )
    data = rows(b=NOISE.flip(0) / 4)
    by_share = {
        share: verdict(data=data, metric=lossy, tolerance=None, min_recovered=share)
        for share in (0.0, 0.2)
    }
    assert by_share[0.0].tolerance == pytest.approx(
        by_share[0.0].baseline - by_share[0.0].unscrubbed
    )
    assert by_share[0.2].tolerance == pytest.approx(0.8 * by_share[0.2].baseline, rel=0.1)
    # Both lose the same: all of it. That nothing is recovered can be neither held nor refuted at
    # exactly 0.
    assert by_share[0.0].outcome == "undecided"
    assert by_share[0.2].outcome == "refuted"


def test_both_limits_count() -> None:
    lossy = Metric(
        "lossy", lambda out, batch: (out - 5 - batch.inputs["a"] - batch.inputs["b"]).abs()
    )
    settings = {"metric": lossy, "samples": 1000}
    root = output(module("A", agrees_on="row", computed_by=lambda row: NOISE[row]), rest=ANYTHING)
    shifted = rows(b=0.02 * NOISE)
    assert verdict(root, shifted, tolerance=0.5, min_recovered=0.5, **settings).outcome == "held"
    assert (
        verdict(root, shifted, tolerance=0.001, min_recovered=0.5, **settings).outcome == "refuted"
    )
    assert (
        verdict(root, shifted, tolerance=0.5, min_recovered=0.9999, **settings).outcome == "refuted"
    )


# --- untested -------------------------------------------------------------------------------------


def test_the_thresholds_can_be_set() -> None:
    pairs = rows(
        features={"slice": SLICE, "pairs": [min(i, 299) if i < 300 else i for i in range(ROWS)]}
    )
    halves = rows(features={"half": [0] * 150 + list(range(1, 851))})
    root = output(module("A", agrees_on="half"))
    assert verdict(root, halves).average == "held"
    assert verdict(root, halves, min_with_other=0.2).outcome == "untested"
    assert verdict(root, halves, min_moved=0.2).outcome == "untested"
    assert verdict(output(module("A", agrees_on="pairs")), pairs).outcome == "untested"
    assert (
        verdict(
            output(module("A", agrees_on="pairs")), pairs, min_with_other=0.0, min_moved=0.0
        ).average
        == "held"
    )
    with pytest.raises(HypothesisError, match=r"^min_moved= is a share from 0 to 1, not 2$"):
        verdict(min_moved=2)


def test_a_node_whose_donors_hardly_ever_differ_is_untested() -> None:
    """Every reference has another donor, one in a hundred: the draws are what shows it."""
    a = torch.zeros(ROWS, dtype=torch.float64)
    a[0] = 1.0
    found = verdict(output(module("A", agrees_on="all")), rows(a=a), tolerance=10.0)
    assert found.outcome == "untested"
    node = next(node for node in found.nodes if node.slot == "output/A")
    assert node.with_other == 1
    assert 0 <= node.moved < 0.02


def test_what_data_would_test_it() -> None:
    found = verdict(output(module("A", agrees_on=["row", "slice"])))
    node = next(node for node in found.nodes if node.slot == "output/A")
    assert node.wanting == ("row = 0, slice = 0", "row = 1, slice = 1", "row = 2, slice = 2")
    assert not node.is_tested


# --- single swaps ---------------------------------------------------------------------------------


def test_what_single_swaps_do_comes_from_the_first_draws() -> None:
    one, other = (verdict(tolerance=tolerance).share for tolerance in (1.0, 0.001))
    assert one is not None
    assert other is not None
    assert one.draws == other.draws == BURN_IN
    assert one.within == other.within  # how long was drawn on does not matter
    assert 0 < other.tolerated < one.tolerated < 1
    assert verdict(samples=30).share is None


@pytest.mark.parametrize("side", [1.0, -1.0])
def test_what_single_swaps_refute_is_shown_by_one_of_them(side: float) -> None:
    """Where neither their mean nor a slice lies beyond the tolerance, and no search found more."""
    signed = Metric("signed", lambda out, batch: side * out)
    found = verdict(
        output(module("A", agrees_on="all"), rest="all"), metric=signed, tolerance=0.5,
        min_within=0.9, adversaries=[WhichNodes()], adversary="report",
    )  # fmt: skip
    assert found.outcome == "refuted"
    assert abs(found.gap.mean) < 0.5
    assert found.search is not None
    assert found.search.counterexample is not None
    assert abs(found.search.counterexample.gap) > 0.5


# --- the table node by node -----------------------------------------------------------------------


def test_nodes_are_measured_together_as_they_are_one_by_one(monkeypatch: Any) -> None:
    at_once = verdict().nodes
    monkeypatch.setattr(average, "TOGETHER", 1)
    assert verdict().nodes == at_once
    assert all(node.alone is not None for node in at_once)


def test_a_node_that_cannot_be_measured_leaves_the_others() -> None:
    """Of swaps that are evaluated together, only those that fail are left out."""
    space = SwapSpace(SWAPS, rows())
    references = np.arange(15).reshape(3, 5)
    good, bad, other = (space.draw(5, np.random.default_rng(0), some) for some in references)

    class Failing:
        def evaluate(self, swap_set: SwapSet) -> Any:
            if np.isin(swap_set.references, bad.references).any():
                raise HypothesisError("no")
            return swap_set.references.astype(float)

    drawn = {"a": good, "b": bad, "c": other}

    def draw(some: Any) -> SwapSet:
        return joined([drawn[node] for node in some])

    of = list(average._known(Failing(), [*drawn], draw, at_once=3))  # type: ignore
    assert [None if one is None else one.tolist() for one in of] == [
        good.references.tolist(), None, other.references.tolist(),
    ]  # fmt: skip


def test_very_many_nodes_have_fewer_samples_each(monkeypatch: Any) -> None:
    """The table is for reading, and its cost follows the number of nodes."""
    drawn: list[int] = []
    evaluate = Evaluator.evaluate

    def watched(self: Evaluator, swap_set: SwapSet) -> Any:
        drawn.append(len(swap_set))
        return evaluate(self, swap_set)

    monkeypatch.setattr(Evaluator, "evaluate", watched)
    counts = []
    for most in (40_000, 600, 30):
        monkeypatch.setattr(average, "MOST_SAMPLES_OF_NODES", most)
        drawn.clear()
        verdict()
        counts.append(sum(drawn))
    nodes = len(verdict().nodes)
    assert counts[0] - counts[1] == (400 - 600 // nodes) * (nodes + 2)
    # never so few that an interval means nothing
    assert counts[0] - counts[2] == 300 * (nodes + 2)
