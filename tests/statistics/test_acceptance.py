"""What decides a claim: intervals, what counts as recovered, the outcome, and which nodes were
tested."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pytest_scrub.adversaries.bound import by_references
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.judge import check
from pytest_scrub.metrics import Metric
from pytest_scrub.network.plain import FunctionGraph
from pytest_scrub.statistics.acceptance import (
    NO_NODE,
    Acceptance,
    decided,
    recovered,
    untested_nodes,
)
from pytest_scrub.statistics.intervals import FEWEST_ALIKE, FEWEST_CHANGED, estimate
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, module, output
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    ROUNDED,
    TOO_FEW,
    UNDECIDED,
    UNTESTED,
    WEAK,
    Estimate,
    NodeReport,
    Verdict,
)

# --- intervals ------------------------------------------------------------------------------------


def test_an_interval_is_students_t() -> None:
    # 1, 2, 3, 4: mean 2.5, variance 5/3, standard error sqrt(5/12); the 97.5 % point of t with 3
    # degrees is 3.182446.
    found = estimate(np.array([1.0, 2, 3, 4]))
    assert found.mean == 2.5
    half = 3.1824463052842638 * (5 / 12) ** 0.5
    assert (found.low, found.high) == (pytest.approx(2.5 - half), pytest.approx(2.5 + half))


def test_two_values_have_a_wide_interval() -> None:
    # 12.7062 is the 97.5 % point of t with 1 degree, the standard error 1
    found = estimate(np.array([0.0, 2.0]))
    assert (found.low, found.high) == (pytest.approx(1 - 12.7062047), pytest.approx(1 + 12.7062047))


@pytest.mark.parametrize("value", [0.0, -3.5, 0.1])
def test_values_that_are_all_the_same_are_a_point(value: float) -> None:
    found = estimate(np.full(7, value))
    assert found.low == pytest.approx(value)
    assert found.high == pytest.approx(value)
    assert found.low <= found.mean <= found.high


@given(arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e6, 1e6)), st.floats(-1e3, 1e3))
def test_an_interval_moves_with_its_values(values: np.ndarray[Any, Any], shift: float) -> None:
    one, other = estimate(values), estimate(values + shift)
    for name in ("mean", "low", "high"):
        assert getattr(other, name) == pytest.approx(getattr(one, name) + shift, rel=1e-6, abs=1e-3)
    assert one.low <= one.mean <= one.high


def test_an_interval_covers_the_mean_95_times_in_100() -> None:
    rng = np.random.default_rng(0)
    covered = [
        found.low <= 3 <= found.high
        for found in (estimate(rng.normal(3, 2, 10)) for _ in range(2000))
    ]
    assert abs(np.mean(covered) - 0.95) < 4 * (0.95 * 0.05 / 2000) ** 0.5


def test_an_interval_prints_four_digits() -> None:
    assert str(Estimate(0.123456, -0.0000123456, 12345.6)) == "0.1235 [-1.235e-05, 1.235e+04]"


# --- recovered ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "baseline", "unscrubbed", "worse", "share"),
    [
        (0.0, 4.0, 1.0, "higher", 1.0),
        (3.0, 4.0, 1.0, "higher", 0.0),
        (0.75, 4.0, 1.0, "higher", 0.75),
        (6.0, 4.0, 1.0, "higher", -1.0),  # worse than the baseline
        (-0.3, 4.0, 1.0, "higher", 1.1),  # better than unscrubbed
        (-0.5, 0.0, 2.0, "lower", 0.75),  # a logit difference, or an accuracy
        (-2.0, 0.0, 2.0, "lower", 0.0),
        (1.0, 0.0, 2.0, "lower", 1.5),
    ],
)
def test_what_is_recovered(
    gap: float, baseline: float, unscrubbed: float, worse: str, share: float
) -> None:
    assert recovered(gap, baseline, unscrubbed, worse) == (pytest.approx(share), None)


@pytest.mark.parametrize(
    ("baseline", "unscrubbed", "worse"),
    [(1.0, 1.0, "higher"), (0.5, 1.0, "higher"), (1.0, 1.0, "lower"), (2.0, 1.0, "lower")],
)
def test_nothing_is_recovered_where_the_baseline_is_no_worse(
    baseline: float, unscrubbed: float, worse: str
) -> None:
    reason = f"the baseline ({baseline:g}) is not worse than the unscrubbed metric ({unscrubbed:g})"
    assert recovered(0.1, baseline, unscrubbed, worse) == (None, reason)


# --- the outcome ----------------------------------------------------------------------------------


TESTED = NodeReport("output/a", "f", False, (2, 3.0, 4), 1.0, 0.5, True, True, None)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (-0.25, 0.25, HELD),  # the bounds themselves are accepted
        (0.0, 0.0, HELD),
        (0.25, 0.25, HELD),
        (-0.1, 0.2, HELD),
        (0.3, 0.4, REFUTED),
        (-0.4, -0.3, REFUTED),  # better than it should be
        (math.nextafter(0.25, 1), 0.3, REFUTED),
        (-0.3, math.nextafter(-0.25, -1), REFUTED),
        (0.25, 0.3, UNDECIDED),  # its low end is just acceptable
        (-0.3, -0.25, UNDECIDED),
        (0.2, math.nextafter(0.25, 1), UNDECIDED),
        (math.nextafter(-0.25, -1), 0.2, UNDECIDED),
        (-1.0, 1.0, UNDECIDED),
    ],
)
def test_the_outcome_follows_the_interval(low: float, high: float, outcome: str) -> None:
    assert at(low, high) == outcome


def at(
    low: float, high: float, sides: tuple[bool, bool] = (True, True), tolerance: float = 0.25
) -> str:
    gap = Estimate((low + high) / 2, low, high)
    return decided(gap + -tolerance, gap + tolerance, sides)


@pytest.mark.parametrize(
    ("low", "high", "sides", "outcome"),
    [
        (-0.4, -0.3, (True, False), HELD),  # better is no objection
        (-0.4, 0.2, (True, False), HELD),
        (-0.4, 0.3, (True, False), UNDECIDED),
        (0.3, 0.4, (True, False), REFUTED),
        (0.3, 0.4, (False, True), HELD),
        (-0.2, 0.4, (False, True), HELD),
        (-0.4, -0.3, (False, True), REFUTED),
    ],
)
def test_where_only_one_side_counts(
    low: float, high: float, sides: tuple[bool, bool], outcome: str
) -> None:
    assert at(low, high, sides) == outcome


def test_no_tolerance_accepts_no_gap_only() -> None:
    none = Acceptance(ERROR, tolerance=0)
    assert none.outcome(np.zeros(FEWEST_ALIKE), None, None, 1e-6) == (HELD, None)
    assert none.outcome(np.full(FEWEST_ALIKE, 1e-3), None, None, 1e-6) == (REFUTED, None)
    # The last digits of a network decide nothing.
    assert none.outcome(np.full(FEWEST_ALIKE, 1e-9), None, None, 1e-6) == (UNDECIDED, ROUNDED)
    # unless they are still smaller
    assert none.outcome(np.full(FEWEST_ALIKE, 1e-9), None, None, 1e-12) == (REFUTED, None)


@pytest.mark.parametrize(
    ("gap", "rounding", "outcome"),
    [
        (0.0, 1e-4, (HELD, None)),
        # no more beyond the tolerance than rounding, which is a small part of it
        (0.10005, 1e-4, (HELD, None)),
        (0.1002, 1e-4, (REFUTED, None)),
        (0.0, 0.01, (HELD, None)),  # whatever rounding did
        (0.085, 0.01, (HELD, None)),
        (0.095, 0.01, (UNDECIDED, ROUNDED)),
        (0.105, 0.01, (UNDECIDED, ROUNDED)),
        (0.115, 0.01, (REFUTED, None)),
        (0.0, 1e3, (UNDECIDED, ROUNDED)),
        (16.5, 1e3, (UNDECIDED, ROUNDED)),
        (2e3, 1e3, (REFUTED, None)),
    ],
)
def test_rounding_never_swallows_the_tolerance(
    gap: float, rounding: float, outcome: tuple[str, str | None]
) -> None:
    accepted = Acceptance(ERROR, tolerance=0.1)
    assert accepted.outcome(np.full(FEWEST_ALIKE, gap), None, None, rounding) == outcome
    found = by_references(accepted, np.full(FEWEST_ALIKE, gap), None, rounding, exact=True)
    assert found.outcome == outcome[0]


@pytest.mark.parametrize("changed", [0, 1, FEWEST_CHANGED - 1])
def test_few_draws_of_a_metric_without_bounds_decide_nothing(changed: int) -> None:
    """Also where a share of what is lost is asked for, which is known well."""
    changes = np.zeros(FEWEST_ALIKE - 1)
    changes[:changed] = 1e-3
    room = np.random.default_rng(0).normal(5, 1, len(changes))
    for accepted in (
        Acceptance(ERROR, 0.1),
        Acceptance(ERROR, None, 0.9),
        Acceptance(ERROR, 0.1, 0.9),
    ):
        assert accepted.outcome(changes, room, None, 1e-9) == (UNDECIDED, TOO_FEW)
        assert (
            accepted.outcome(
                np.r_[changes, np.full(FEWEST_CHANGED, 1e-3)], np.r_[room, room[:30]], None, 1e-9
            )[0]
            == HELD
        )


EXACTLY = replace(TESTED, slot="output/b", agrees_on="EXACT", with_other=0.0, must_be_tested=False)
RARELY = replace(TESTED, slot="output/c", with_other=0.0999, is_tested=False)
REST = replace(TESTED, slot="output/rest", agrees_on="ANYTHING", is_rest=True, must_be_tested=False)


@pytest.mark.parametrize(
    ("nodes", "untested"),
    [
        ((TESTED,), ()),
        ((RARELY,), (RARELY,)),
        ((REST, TESTED, RARELY, EXACTLY), (RARELY,)),
        ((REST, TESTED, EXACTLY), ()),  # what is exact need not be swapped
        # that it suffices is tested by the rest beside it, if that reaches the output
        ((REST, EXACTLY), ()),
        ((replace(REST, fixed=True), EXACTLY), (EXACTLY,)),
        ((replace(REST, is_tested=False), EXACTLY), (EXACTLY,)),
        ((replace(REST, slot="output/c/rest"), EXACTLY), (EXACTLY,)),  # of another node
        ((EXACTLY,), (EXACTLY,)),
        ((REST,), (REST,)),
        ((), (NO_NODE,)),
    ],
)
def test_what_is_untested(nodes: tuple[NodeReport, ...], untested: tuple[NodeReport, ...]) -> None:
    assert untested_nodes(nodes) == untested


# The same on a network: what `check` finds out about each node.
ROWS = 20
BITS = torch.tensor([[i % 2, i // 2 % 2] for i in range(ROWS)], dtype=torch.float64)
GRAPH = FunctionGraph(A=lambda a: 2 * a, output=lambda A, b: A + b)
ERROR = Metric("absolute error", lambda out, batch: (out - batch.labels).abs())


def rare(count: int) -> list[Any]:
    """A feature that `count` rows share, all other rows have a value of their own."""
    return ["shared"] * count + [str(i) for i in range(ROWS - count)]


def verdict_on(root: Node, **options: Any) -> Verdict:
    inputs = {"a": torch.arange(ROWS, dtype=torch.float64), "b": BITS[:, 1]}
    features = {"one": rare(1), "two": rare(2), "a": torch.arange(ROWS), "b": BITS[:, 1]}
    data = Dataset(inputs, labels=2 * inputs["a"] + inputs["b"], features=features)
    return check(
        root,
        GRAPH,
        data,
        **{
            "metric": replace(ERROR, lower=0.0, upper=64.0),
            "tolerance": 1e9,
            "samples": 50,
            "adversaries": (),
            **options,
        },
    )


def twice(values: Any) -> Any:
    return 2.0 * values


def copy_of_b(b: Any) -> Any:
    return np.asarray(b, dtype=np.float64)


@pytest.mark.parametrize(
    ("root", "outcome"),
    [
        (output(module("A", agrees_on="b")), HELD),
        (output(module("A", agrees_on=ANYTHING)), HELD),
        # two of twenty rows can be swapped: one in ten
        (output(module("A", agrees_on="two")), HELD),
        (output(module("A", agrees_on="one")), UNTESTED),
        (output(module("A", agrees_on="a")), UNTESTED),  # the rest of b is swapped all the same
        (output(module("A", agrees_on=EXACT)), HELD),  # it suffices: the rest is swapped
        (output(module("A", agrees_on=EXACT), rest=EXACT), UNTESTED),
        (output(module("A", agrees_on=EXACT), rest="a"), UNTESTED),
        (output(module("A", agrees_on=EXACT), module("b", agrees_on=EXACT)), UNTESTED),
        # that b is the same wherever its feature is may be what is found, as of a node that sorts
        (output(module("A", agrees_on=EXACT), module("b", agrees_on="b")), HELD),
        (output(module("A", agrees_on=EXACT), module("b", agrees_on=ANYTHING)), HELD),
        (output(module("A", agrees_on="a"), module("b", agrees_on="b")), UNTESTED),
        # the function is what is tested
        (output(module("A", agrees_on="a", computed_by=twice)), HELD),
        (
            output(module("A", agrees_on="a", computed_by=twice), module("b", agrees_on="a")),
            UNTESTED,
        ),
        (output(agrees_on=ANYTHING), HELD),
        (output(agrees_on="a"), UNTESTED),
        (output(), UNTESTED),
    ],
)
def test_a_claim_is_tested_where_its_nodes_can_be_swapped(root: Node, outcome: str) -> None:
    verdict = verdict_on(root)
    assert verdict.average == outcome
    # whatever the swaps do is accepted, so what is tested says nothing of a feature
    names_one = verdict.null is not None
    assert verdict.outcome == (WEAK if outcome == HELD and names_one else outcome)


def test_what_stays_as_it_is_is_said_with_what_to_claim_instead() -> None:
    said = str(verdict_on(output(module("A", agrees_on=EXACT), rest=EXACT)))
    assert "and nothing else was swapped; claim what it agrees on, or let the rest be" in said


def test_parts_that_are_all_there_is_suffice_by_construction() -> None:
    said = str(verdict_on(output(module("A", agrees_on=EXACT), module("b", agrees_on=EXACT))))
    assert "claim untested: too little is swapped at output/A, output/b" in said
    assert "nothing else that was swapped reaches the output; claim what it agrees on" in said
    assert "ANYTHING (reaches nothing)" in said


def test_what_suffices_is_held_against_keeping_nothing() -> None:
    column = torch.arange(ROWS, dtype=torch.float64)
    data = Dataset({"a": column, "b": BITS[:, 1]}, labels=2 * column)
    options = {"metric": replace(ERROR, lower=0.0, upper=64.0), "samples": 2000, "adversaries": ()}

    def judged(*kept: str, **accepted: float) -> Verdict:
        root = output(*(module(name, agrees_on=EXACT) for name in kept))
        return check(root, GRAPH, data, **options, **accepted)

    for accepted in ({"tolerance": 2.0}, {"min_explained": 0.8}):
        assert judged("A", **accepted).outcome == HELD  # b changes the sum by one at most
        assert judged("b", **accepted).outcome == REFUTED
    assert judged("b", tolerance=60.0).outcome == WEAK  # nothing kept is as good


def test_what_reaches_the_output_of_few_references_is_found_wherever_they_are() -> None:
    graph = FunctionGraph(A=lambda a: 2 * a, output=lambda A, b: A + b * (A >= 2 * 20))
    column = torch.arange(25, dtype=torch.float64)
    data = Dataset({"a": column, "b": column % 2}, labels=2 * column)
    root = output(module("A", agrees_on=EXACT))
    metric = replace(ERROR, lower=0.0, upper=64.0)
    verdict = check(root, graph, data, metric=metric, tolerance=2.0, samples=1000, adversaries=())
    assert verdict.gap.exact  # of the first references come the first swaps
    assert verdict.outcome == HELD


def test_beside_outputs_that_are_masks_what_reaches_the_others_is_seen() -> None:
    graph = FunctionGraph(
        A=lambda a: 2 * a, output=lambda A, b: torch.stack([A + b, torch.full_like(A, -1e9)], 1)
    )
    column = torch.arange(ROWS, dtype=torch.float64)
    data = Dataset({"a": column, "b": BITS[:, 1]}, labels=2 * column)
    metric = Metric("off", lambda out, batch: (out[:, 0] - batch.labels).abs(), lower=0.0)
    root = output(module("A", agrees_on=EXACT))
    assert check(root, graph, data, metric=metric, tolerance=2.0).average == HELD


def test_repeated_rows_test_nothing() -> None:
    column = torch.zeros(ROWS, dtype=torch.float64)
    data = Dataset({"a": column, "b": column}, labels=column, features={"all": column})
    verdict = check(output(module("A", agrees_on="all")), GRAPH, data, metric=ERROR, tolerance=1.0)
    assert verdict.outcome == UNTESTED
    assert [node.with_other for node in verdict.nodes] == [0, 0]
    assert [node.donors for node in verdict.nodes] == [(ROWS, ROWS, ROWS)] * 2


def test_what_a_verdict_says_of_each_node() -> None:
    rest, a, b = verdict_on(
        output(
            module("A", agrees_on="a", computed_by=twice), module("b", agrees_on="two"), rest=EXACT
        )
    ).nodes
    assert (rest.slot, rest.agrees_on, rest.is_rest, rest.must_be_tested) == (
        "output/rest",
        "EXACT",
        True,
        False,
    )
    assert (rest.donors, rest.with_other, rest.moved) == ((1, 1, 1), 0, 0)
    assert (a.slot, a.agrees_on, a.with_other, a.must_be_tested) == (
        "output/A",
        "its features, computed",
        1,
        True,
    )
    assert (b.slot, b.agrees_on, b.is_rest, b.must_be_tested) == ("output/b", "two", False, True)
    assert (b.donors, b.with_other) == ((1, 1, 2), 0.1)
    # A is as computed, and the two rows have the same b
    assert rest.alone == a.alone == b.alone == Estimate(0, 0, 0, exact=True)


def test_every_nodes_own_gap_is_measured_where_the_claim_holds_too() -> None:
    root = output(module("A", agrees_on="b"), module("b", agrees_on=ANYTHING))
    verdict = verdict_on(root, samples=400)
    assert verdict.average == HELD
    alone = {node.slot: node.alone for node in verdict.nodes}
    assert alone["output/b"].low <= 0.5 <= alone["output/b"].high


def test_figures_of_a_verdict() -> None:
    # |2a + b' - (2a + b)|: half of all swaps are off by one, of which there are 20 times 20.
    root = output(module("A", agrees_on="a", computed_by=twice))
    verdict = verdict_on(root, metric=ERROR, tolerance=0.6, samples=2000, name="a claim", seed=3)
    assert verdict.outcome == HELD
    assert verdict.held
    assert verdict.unscrubbed == 0
    assert verdict.scrubbed == verdict.gap.mean == verdict.absolute_change == verdict.share_worse
    assert verdict.gap.mean == pytest.approx(0.5)
    assert verdict.gap.low == verdict.gap.high == verdict.gap.mean
    assert (verdict.gap.exact, verdict.samples, verdict.budget) == (True, ROWS * ROWS, 2000)
    # The baseline is off by 2 |a' - a| and what b adds: 13.3 times 2, and a little.
    assert verdict.baseline == pytest.approx(13.3, abs=1)
    assert verdict.recovered == pytest.approx(1 - verdict.gap.mean / verdict.baseline)
    assert verdict.recovered_reason is None
    assert (verdict.budget, verdict.seed, verdict.claim, verdict.metric) == (
        2000,
        3,
        "a claim",
        "absolute error",
    )
    assert verdict.hypothesis == str(root)


def test_a_refuted_claim_says_what_each_node_does_alone() -> None:
    root = output(module("A", agrees_on="b"), module("b", agrees_on="b"), rest=EXACT)
    verdict = verdict_on(root, tolerance=0.1, samples=400)
    assert verdict.outcome == REFUTED
    rest, a, b = verdict.nodes
    assert rest.alone == Estimate(0, 0, 0)
    assert b.alone == Estimate(0, 0, 0)  # b agrees on b
    assert a.alone is not None
    assert a.alone.mean == pytest.approx(verdict.gap.mean, rel=0.25)


def test_a_metric_that_is_worse_when_lower() -> None:
    closeness = Metric("closeness", lambda out, batch: -(out - batch.labels).abs(), worse="lower")
    root = output(module("A", agrees_on="a", computed_by=twice))
    one, other = verdict_on(root, samples=300), verdict_on(root, samples=300, metric=closeness)
    assert other.gap.mean == -one.gap.mean
    assert other.recovered == pytest.approx(one.recovered)
    assert other.share_worse == one.share_worse > 0


def test_the_share_recovered_can_be_the_tolerance() -> None:
    root = output(module("A", agrees_on="a", computed_by=twice))
    strict = verdict_on(root, tolerance=None, min_recovered=0.999, samples=1000)
    assert strict.tolerance == pytest.approx(0.001 * strict.baseline)
    assert strict.outcome == REFUTED
    lax = verdict_on(root, tolerance=None, min_recovered=0.9, samples=1000)
    assert lax.outcome == HELD
    assert verdict_on(root, tolerance=0.01, min_recovered=0.9, samples=1000).outcome == REFUTED


def test_one_seed_one_verdict() -> None:
    root = output(module("A", agrees_on="b"))
    first = verdict_on(root, samples=100)
    torch.manual_seed(5)
    np.random.seed(5)
    assert verdict_on(root, samples=100) == first
    assert verdict_on(root, samples=100, seed=1).gap != first.gap
    assert verdict_on(root, samples=100, name="another test").gap != first.gap
