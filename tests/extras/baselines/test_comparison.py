"""What moved since a baseline was saved: limits, intervals of differences, and how often nothing is
called a move."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.extras.baselines.comparison import (
    Comparison,
    FigureChange,
    Pair,
    both,
    compare,
    difference,
    fisher,
    gap_change,
    shares_differ,
)
from pytest_scrub.extras.baselines.files import Accuracy, Baseline, Refuted
from pytest_scrub.extras.baselines.limits import NONE, Limit, Limits, parsed
from pytest_scrub.extras.baselines.summary import comparison_summary
from pytest_scrub.extras.baselines.text import comparison_lines
from pytest_scrub.settings import SETTINGS, Settings
from pytest_scrub.statistics.intervals import clopper_pearson, confidence_sequence, widened
from pytest_scrub.verdict import (
    Bound,
    Estimate,
    Function,
    MutantReport,
    Null,
    Power,
    Predicted,
    Search,
    Verdict,
)
from tests.example_verdicts import attempt, claimed, run, search, verdict
from tests.sizes import only_in_full

STRICT = parsed("all:0")  # every figure gates
VERSIONS = {"python": "3.12.0", "torch": "2.13.0"}  # those of `run`


def power(refuted: int, of: int) -> Power:
    mutants = tuple(
        MutantReport("dropped", "output/A", "", "refuted" if i < refuted else "held", 1, "")
        for i in range(of)
    )
    return Power(mutants, 0, 0, None)


def moved(
    old: Verdict, new: Verdict, limits: Limits = NONE, allow: Sequence[str] = (), **facts: Any
) -> Comparison:
    """One claim then and now."""
    baselines = {old.claim: Baseline.of(old, VERSIONS)}
    return compare(run(claimed(new), **facts), "main", baselines, limits, allow)


def verdicts_of(comparison: Comparison) -> dict[str, str]:
    return {move.figure: move.why or move.verdict for move in comparison.claims[0].figures}


# Limits -------------------------------------------------------------------------------------------


def test_limits_are_numbers_or_shares() -> None:
    found = parsed(" gap: 10% , power:0.25,")
    assert found == {**NONE, "gap": Limit(0.1, True), "power": Limit(0.25)}
    assert found["gap"].of(-4.0) == pytest.approx(0.4)
    assert found["power"].of(0.5) == 0.25
    assert parsed("") == NONE
    assert parsed("worst:inf")["worst"].of(0.0) == math.inf


def test_a_share_of_a_gap_is_one_of_the_tolerance_where_that_is_larger() -> None:
    """A tenth of a gap near zero is next to nothing."""
    for mean, room in ((0.001, 0.05), (-0.45, 0.05), (-2.0, 0.2)):
        one = verdict(gap=Estimate(mean, mean - 0.1, mean + 0.1), tolerance=0.5)
        assert moved(one, one, parsed("gap:10%")).claims[0].figures[0].limit == pytest.approx(room)


# Intervals of differences -------------------------------------------------------------------------


@pytest.mark.parametrize("draws", [400, 4000])
@pytest.mark.parametrize("confidence", [0.99, 0.9995])
@pytest.mark.parametrize("was", [0.9, 0.95, 0.999])
def test_widening_is_what_the_draws_would_have_given(
    draws: int, confidence: float, was: float
) -> None:
    values = np.random.default_rng(0).normal(3, 2, draws)
    found, expected = (
        widened(confidence_sequence(values, confidence=was), draws, confidence, was),
        confidence_sequence(values, confidence=confidence),
    )
    assert found.mean == expected.mean
    student = stats.t.isf((1 - confidence) / 2, draws - 1) / stats.norm.isf((1 - confidence) / 2)
    assert found.high - found.mean == pytest.approx((expected.high - expected.mean) * student)
    assert found.low - found.mean == pytest.approx((expected.low - expected.mean) * student)


def test_few_draws_do_not_know_their_spread() -> None:
    one = Estimate(0.0, -1.0, 1.0)
    assert widened(one, 2, 0.999).high > 5 * widened(one, 50, 0.999).high
    assert widened(one, 1, 0.99).high == math.inf


def test_a_difference_has_both_intervals() -> None:
    old, new = Estimate(1.0, 0.9, 1.3), Estimate(2.0, 1.8, 2.1)
    half = 0.995  # of 0.99
    before, after = widened(old, 400, half), widened(new, 800, half)
    pair = Pair(
        *(
            Baseline.of(verdict(gap=gap, samples=samples), VERSIONS)
            for gap, samples in ((old, 400), (new, 800))
        )
    )
    assert both(pair, "gap", 0.99) == (before, after)
    found = difference(before, after)
    assert found == Estimate(1.0, after.low - before.high, after.high - before.low)
    assert found.low < 1.0 - 0.3 - 0.2
    assert found.high > 1.0 + 0.1 + 0.1


def test_newcombes_example() -> None:
    """Newcombe 1998, table II: 56/70 against 48/80, method 10."""
    found = shares_differ(Refuted(48, 80), Refuted(56, 70), 0.95)
    assert (found.low, found.high) == (
        pytest.approx(0.0524, abs=1e-4),
        pytest.approx(0.3339, abs=1e-4),
    )
    found = shares_differ(Refuted(0, 10), Refuted(10, 10), 0.95)
    assert (found.low, found.high) == (pytest.approx(0.6075, abs=1e-4), pytest.approx(1.0))


def test_fishers_tea() -> None:
    assert fisher(Refuted(3, 4), Refuted(1, 4)) == pytest.approx(34 / 70)


# What a file says ---------------------------------------------------------------------------------


def moved_by(old: Verdict, new: Verdict, limit: Limit) -> FigureChange:
    return gap_change(Pair(Baseline.of(old, VERSIONS), Baseline.of(new, VERSIONS)), limit, 0.95)


def held_at(gap: float, **facts: Any) -> Verdict:
    interval = Estimate(gap, gap - 0.001, gap + 0.001)
    return verdict(
        **{"gap": interval, "unscrubbed": 0.3, "scrubbed": 0.3 + gap, "tolerance": 0.1, **facts}
    )


def test_an_absurd_tolerance_in_a_file_opens_nothing() -> None:
    limit = Limit(0.5, relative=True)
    assert moved_by(held_at(0.0), held_at(0.09), limit).verdict == "moved"
    found = moved_by(held_at(0.0, tolerance=1e308), held_at(0.09), limit)
    assert (found.verdict, found.limit) == ("moved", 0.05)
    # nor does one stated since
    assert moved_by(held_at(0.0), held_at(0.09, tolerance=1e3), limit).limit == 0.05


def test_an_absurd_scale_in_a_file_opens_nothing() -> None:
    far = held_at(0.0, unscrubbed=1e12, scrubbed=1e12)
    assert moved_by(far, held_at(0.09), Limit()).verdict == "moved"


def test_an_interval_that_is_not_known_is_not_compared() -> None:
    unknown = replace(
        held_at(0.0),
        gap=Estimate(0.0, -math.inf, math.inf),
        outcome="undecided",
        average="undecided",
    )
    found = moved_by(unknown, held_at(0.09), Limit())
    assert (found.verdict, found.by, found.why) == (
        "not compared",
        None,
        "too few draws then to know its interval",
    )
    assert moved_by(held_at(0.09), unknown, Limit()).why == "too few draws now to know its interval"


# Nothing, and something ---------------------------------------------------------------------------


def drawn(
    rng: np.random.Generator, rate: float, shift: float = 0.0, tolerance: float = 0.5
) -> tuple[Estimate, int]:
    """A gap as a claim measures it: skewed changes, drawn until the interval lies on one side of
    the tolerance."""
    values = rng.gamma(0.3, rate / 0.3, 4000) + shift
    for count in range(400, 4001, 200):
        found = confidence_sequence(values[:count])
        if found.high <= tolerance or found.low > tolerance:
            break
    return found, count


def null_of(rng: np.random.Generator, rate: float) -> Null:
    gap, samples = drawn(rng, rate)
    return Null("features permuted", gap, gap.mean, samples, "refuted")


def found_by_search(rng: np.random.Generator, rate: float) -> Search:
    """The worst swaps of each of some references, searched until that is decided."""
    gap, references = drawn(rng, rate, tolerance=2.0)
    one = attempt(gap=gap.mean, interval=gap, references=references)
    return search(attempts=(one,))


def suite_of(rng: np.random.Generator, shift: float = 0.0, seed: int = 0) -> list[Verdict]:
    """Claims with gaps from far below their tolerance to far above it, some with a null, a worst
    found and a power; one may be shifted."""
    found = []
    for i, rate in enumerate(np.geomspace(0.02, 3, 40)):
        gap, samples = drawn(rng, float(rate), shift if i == 20 else 0.0)
        facts: dict[str, Any] = {
            "gap": gap,
            "samples": samples,
            "unscrubbed": 0.3,
            "scrubbed": 0.3 + gap.mean,
        }
        if i % 4 == 0:
            facts["power"] = power(int(rng.binomial(12, 0.8)), 12)
            facts["null"] = null = null_of(rng, float(rate) * 3 + 1)
            facts["explained"] = 1 - gap.mean / null.gap.mean
            facts["search"] = found_by_search(rng, float(rate) * 2 + 1)
        found.append(verdict(claim=f"test_it.py::test_{i}", outcome="held", seed=seed, **facts))
    return found


@only_in_full
def test_nothing_moved_under_twenty_seeds() -> None:
    """Sixty figures a run; uncorrected intervals for one look would cry wolf in nearly every
    run."""
    rng = np.random.default_rng(1)
    old = {one.claim: Baseline.of(one, VERSIONS) for one in suite_of(rng)}
    naive = 0
    for seed in range(1, 21):
        new = suite_of(rng, seed=seed)
        found = compare(run(*(claimed(one, one.claim) for one in new)), "main", old, NONE)
        assert found.confidence == 1 - 0.05 / 60
        assert not found.fails, list(comparison_lines(found))
        compared = [change for claim in found.claims for change in claim.figures if change.by]
        assert len(compared) == 70  # of what is explained the intervals are those of both gaps
        # At 400 draws the sequence's radius is 3.08 standard errors; 1.96 * sqrt(2) of them are for
        # one look at one.
        naive += any(
            abs(one.gap.mean - old[one.claim].figures.gap.mean) > one.gap.around * 2.77 / 3.08
            for one in new
            if one.samples == old[one.claim].samples == 400
        )
    assert naive > 10


def test_a_gap_that_moved_is_found_among_fifty_figures() -> None:
    rng = np.random.default_rng(2)
    old = {one.claim: Baseline.of(one, VERSIONS) for one in suite_of(rng)}
    for _ in range(5):
        new = suite_of(rng, shift=0.5)
        found = compare(run(*(claimed(one, one.claim) for one in new)), "main", old, NONE)
        assert [claim.claim for claim in found.claims if claim.fails] == ["test_it.py::test_20"]


def test_the_limit_is_one_of_the_whole_interval() -> None:
    old, new = (verdict(gap=Estimate(mean, mean - 0.01, mean + 0.01), seed=mean) for mean in (0, 1))
    by = moved(old, new).claims[0].figures[0].by
    assert by is not None
    assert 0.9 < by.low < 1
    assert moved(old, new, parsed(f"gap:{by.low - 0.001}")).fails
    assert not moved(old, new, parsed(f"gap:{by.low + 0.001}")).fails
    assert moved(new, old, parsed(f"gap:{by.low - 0.001}")).fails
    assert not moved(new, old, parsed(f"gap:{by.low + 0.001}")).fails


def test_more_figures_ask_for_more() -> None:
    old, new = (
        verdict(gap=Estimate(mean, mean - 0.1, mean + 0.1), seed=mean) for mean in (0.0, 0.25)
    )
    new = replace(new, seed=1)
    assert moved(old, new).fails
    many = [replace(old, claim=f"test_it.py::test_{i}") for i in range(60)]
    baselines = {one.claim: Baseline.of(one, VERSIONS) for one in (old, *many)}
    claims = [claimed(new), *(claimed(one, one.claim) for one in many)]
    assert not compare(run(*claims), "main", baselines, NONE).fails


# The worst found, and power -----------------------------------------------------------------------


def searched(gap: float, **facts: Any) -> Verdict:
    own = {name: facts.pop(name) for name in ("late", "references", "adversary") if name in facts}
    budget = facts.pop("budget", 1000)
    found = search(attempts=(attempt(gap=gap, **{"refutes": True, **own}),), budget=budget)
    return verdict(search=found, **facts)


def test_the_worst_is_compared_as_it_is() -> None:
    assert verdicts_of(moved(searched(0.9), searched(0.9)))["worst"] == "unchanged"
    assert verdicts_of(moved(searched(0.9), searched(0.9 + 5e-7)))["worst"] == "unchanged"
    assert verdicts_of(moved(searched(0.9), searched(0.90001)))["worst"] == "moved"
    assert verdicts_of(moved(searched(0.9), searched(0.8)))["worst"] == "moved"
    assert (
        verdicts_of(moved(searched(0.9), searched(0.8), parsed("worst:0.2")))["worst"] == "within"
    )
    assert verdicts_of(moved(searched(0.9), searched(0.8), parsed("worst:10%")))["worst"] == "moved"
    assert (
        verdicts_of(moved(searched(0.9), searched(0.8), parsed("worst:12%")))["worst"] == "within"
    )


@pytest.mark.parametrize(
    ("facts", "why"),
    [
        ({"seed": 8}, "another seed"),
        ({"dataset_digest": "other"}, "other data"),
        ({"budget": 2000}, "another search"),
        ({"adversary": "saved counterexample"}, "another search"),
        ({"late": True}, "a deadline ended the search"),
    ],
)
def test_another_search_has_another_worst(facts: dict[str, Any], why: str) -> None:
    found = moved(searched(0.9), searched(3.0, **facts), allow=["data"])
    assert verdicts_of(found)["worst"] == why
    assert not found.fails
    assert verdicts_of(moved(searched(0.9), searched(0.9, **facts)))["worst"] == "unchanged"


def with_interval(gap: float, around: float = 0.05, **facts: Any) -> Verdict:
    interval = Estimate(gap, gap - around, gap + around)
    one = attempt(gap=gap, interval=interval, references=400, refutes=True)
    return verdict(search=search(attempts=(one,)), **facts)


def test_the_worst_of_some_references_is_compared_by_its_intervals() -> None:
    old = with_interval(0.9)
    # neither interval holds the mean of the other, and yet they may be of the same
    assert verdicts_of(moved(old, with_interval(0.99)))["worst"] == "within"
    found = moved(old, with_interval(1.2), STRICT)
    assert verdicts_of(found)["worst"] == "moved"
    assert found.fails
    assert not moved(old, with_interval(1.2)).fails  # a network that was trained again has another
    change = found.claims[0].figures[-1]
    assert change.by is not None
    before, after = (
        widened(Estimate(gap, gap - 0.05, gap + 0.05), 400, (1 + found.confidence) / 2)
        for gap in (0.9, 1.2)
    )
    assert change.by.low == pytest.approx(after.low - before.high, abs=1e-5)
    limit = parsed(f"worst:{change.by.low + 0.01}")
    assert verdicts_of(moved(old, with_interval(1.2), limit))["worst"] == "within"
    unknown = replace(old, search=replace(old.search, attempts=(
        replace(old.search.attempts[0], interval=Estimate(0.9, -math.inf, math.inf)),
    )))  # fmt: skip
    assert verdicts_of(moved(unknown, with_interval(1.2)))["worst"] == (
        "too few draws then to know its interval"
    )
    # of a file from before there were intervals
    assert verdicts_of(moved(searched(0.9), with_interval(0.92)))["worst"] == "within"


def test_under_another_seed_other_donors_are_tried() -> None:
    found = moved(with_interval(0.9), with_interval(1.2, seed=8))
    assert verdicts_of(found)["worst"] == "another seed"
    assert not found.fails


def with_null(cost: float, around: float = 0.1, **facts: Any) -> Verdict:
    interval = Estimate(cost, cost - around, cost + around)
    null = Null("features permuted", interval, cost, 400, "refuted")
    return verdict(**{"null": null, "explained": 1 - 0.01 / cost, **facts})


def test_what_the_claim_would_cost_if_its_features_knew_nothing() -> None:
    old = with_null(2.0)
    assert verdicts_of(moved(old, old)) == dict.fromkeys(("gap", "null", "explained"), "unchanged")
    near = verdicts_of(moved(old, with_null(2.2, seed=8)))
    assert near == {"gap": "unchanged", "null": "within", "explained": "within"}
    found = moved(old, with_null(1.0, seed=8), STRICT)
    assert verdicts_of(found)["null"] == "moved"
    assert found.fails
    assert not moved(old, with_null(1.0, seed=8)).fails
    assert not moved(old, with_null(1.0), parsed("null:0.8")).fails
    assert not moved(old, with_null(1.0), parsed("null:40%")).fails
    # the gap and its null moved together, and a share of it is as it was
    larger = with_null(4.0, gap=Estimate(0.02, -0.01, 0.05), scrubbed=0.145, explained=1 - 0.02 / 4)
    assert verdicts_of(moved(old, larger))["explained"] == "unchanged"


def test_what_is_explained_may_move_where_neither_gap_may() -> None:
    def explaining(gap: float, null: float) -> Verdict:
        interval = Estimate(gap, gap - 0.01, gap + 0.01)
        facts = {"gap": interval, "scrubbed": 0.125 + gap, "explained": 1 - gap / null}
        return with_null(null, 0.02, **facts)

    limits = parsed("gap:1,null:1")
    old, new = explaining(0.1, 1.0), explaining(0.6, 1.0)
    found = moved(old, new, limits)
    assert verdicts_of(found) == {"gap": "within", "null": "unchanged", "explained": "moved"}
    assert not moved(old, new, parsed("gap:1,null:1,explained:0.5")).fails
    change = found.claims[0].figures[-1]
    assert change.by is not None
    assert change.by.low < -0.5 < change.by.high < -0.3


def test_a_null_that_may_cost_nothing_explains_nothing_to_compare() -> None:
    old, new = with_null(2.0), with_null(0.05, 0.045)
    why = "what there is to explain may have been nothing now"
    found = moved(old, replace(new, explained=0.8))
    assert verdicts_of(found)["explained"] == why
    assert verdicts_of(found)["null"] == "moved"
    none = replace(new, explained=None)
    assert verdicts_of(moved(old, none))["explained"] == "defined then alone"


def test_a_baseline_without_a_null_compares_gaps_alone() -> None:
    assert verdicts_of(moved(verdict(), with_null(2.0))) == {"gap": "unchanged"}
    found = verdicts_of(moved(with_null(2.0), verdict()))
    assert found["null"] == "judged then alone"


@pytest.mark.parametrize(("then", "now"), [(0.95, 0.99), (0.99, 0.95), (0.99, 0.99)])
def test_intervals_are_widened_from_the_confidence_that_they_have(then: float, now: float) -> None:
    values = np.random.default_rng(0).normal(0, 1, 800)
    old, new = (
        verdict(
            gap=(gap := confidence_sequence(values, confidence=confidence)), confidence=confidence,
            samples=800, unscrubbed=0.0, scrubbed=gap.mean, tolerance=2,
        )
        for confidence in (then, now)
    )  # fmt: skip
    pair = Pair(Baseline.of(old, VERSIONS), Baseline.of(new, VERSIONS))
    expected = confidence_sequence(values, confidence=0.99).around
    for found in both(pair, "gap", 0.98):  # half of the error for each
        assert found.around == pytest.approx(expected, rel=0.01)


def test_to_be_refuted_on_average_is_another_outcome_than_to_fall_to_the_search() -> None:
    fell, refuted = (
        searched(0.9, outcome="refuted"),
        searched(0.9, outcome="refuted", average="refuted"),
    )
    found = moved(fell, refuted)
    assert found.fails
    text = "\n".join(line for _, line in comparison_lines(found))
    assert "was held on average, fell to the search and is refuted" in text


@pytest.mark.parametrize(
    ("facts", "fails"),
    [
        ({"seed": 8}, False),
        ({"seed": 7}, True),  # the same search
        ({"seed": 8, "average": "undecided"}, True),
        ({"seed": 8, "outcome": "weak"}, False),
        ({"seed": 8, "outcome": "untested", "average": "untested"}, True),
        ({"seed": 8, "search": None}, True),
    ],
)
def test_an_outcome_that_only_a_search_decided(facts: dict[str, Any], fails: bool) -> None:
    """Another seed finds another worst, so no other outcome of the claim follows from it."""
    fallen = searched(0.9, outcome="refuted", average="held")
    held = replace(searched(0.4, outcome="held", average="held"), **facts)
    for found in (moved(fallen, held), moved(held, fallen)):
        assert found.fails is fails
        text = "\n".join(line for _, line in comparison_lines(found))
        assert (
            f"{fallen.result} -> {held.result}" in text
            or f"{held.result} -> {fallen.result}" in text
        )
        assert ("another seed finds something else" in text) is not fails


def test_an_outcome_on_average_counts_whatever_the_seed() -> None:
    assert moved(verdict(), verdict(outcome="undecided", average="undecided", seed=8)).fails
    assert moved(searched(0.9, outcome="weak"), searched(0.9, outcome="held", seed=8)).fails


def test_a_figure_of_one_side_alone() -> None:
    assert verdicts_of(moved(searched(0.9), verdict())) == {
        "gap": "unchanged",
        "worst": "searched then alone",
    }
    assert verdicts_of(moved(verdict(), searched(0.9))) == {
        "gap": "unchanged",
        "worst": "searched now alone",
    }
    assert verdicts_of(moved(verdict(), verdict(power=power(1, 2))))["power"] == "judged now alone"
    assert (
        verdicts_of(moved(verdict(power=power(0, 0)), verdict(power=power(1, 2))))["power"]
        == "no mutants"
    )
    assert verdicts_of(moved(verdict(), verdict())) == {"gap": "unchanged"}


def test_power() -> None:
    def found(old: Power, new: Power, limits: str = "") -> str:
        return verdicts_of(moved(verdict(power=old), verdict(power=new), parsed(limits)))["power"]

    assert found(power(9, 10), power(9, 10)) == "unchanged"
    assert found(power(9, 10), power(8, 10)) == "within"
    assert found(power(10, 10), power(2, 10)) == "moved"
    assert found(power(2, 10), power(10, 10)) == "moved"
    assert shares_differ(Refuted(1, 4), Refuted(4, 4), 0.975).low > 0
    # what Fisher's test, which is exact, does not see
    assert found(power(1, 4), power(4, 4)) == "within"
    assert found(power(50, 50), power(25, 50)) == "moved"
    assert found(power(50, 50), power(25, 50), "power:20%") == "moved"
    assert found(power(50, 50), power(25, 50), "power:0.4") == "within"


def accurate(share: float, samples: int = 400, **facts: Any) -> Verdict:
    changed, right = Estimate(0.9, 0.8, 1.0), clopper_pearson(share, samples, 0.95)
    return verdict(predicted=Predicted(changed, None, right, (), samples), **facts)


def test_interchange_accuracy_moves_beyond_its_interval() -> None:
    old = accurate(0.95)
    assert verdicts_of(moved(old, old))["accuracy"] == "unchanged"
    assert verdicts_of(moved(old, accurate(0.93)))["accuracy"] == "within"
    for share in (0.6, 1.0):
        found = moved(accurate(0.8), accurate(share))
        assert verdicts_of(found)["accuracy"] == "moved"
        assert found.fails
    assert not moved(accurate(0.8), accurate(0.6), parsed("accuracy:25%")).fails
    # of few swaps nothing is known
    assert verdicts_of(moved(accurate(0.8, 10), accurate(0.4, 10)))["accuracy"] == "within"
    change = moved(old, accurate(0.6)).claims[0].figures[1]
    assert (change.figure, change.old, change.new) == ("accuracy", 0.95, 0.6)


def test_interchange_accuracy_of_all_swaps_has_no_interval() -> None:
    exact = {"gap": Estimate(0.01, 0.01, 0.01, exact=True)}
    found = moved(accurate(0.8, 10, **exact), accurate(0.7, 10, **exact))
    assert verdicts_of(found)["accuracy"] == "moved"


def test_interchange_accuracy_that_one_side_does_not_have_is_told() -> None:
    found = moved(verdict(), accurate(0.9))  # a file from before it was kept
    assert verdicts_of(found)["accuracy"] == "counted now alone"
    assert not found.fails
    assert verdicts_of(moved(accurate(0.9), verdict()))["accuracy"] == "counted then alone"


@only_in_full
def test_intervals_of_accuracy_cover_where_half_of_the_error_is_left_to_each() -> None:
    for share, samples in ((0.02, 400), (0.5, 40), (0.97, 100)):
        counts = np.arange(samples + 1)
        found = [Accuracy(count / samples, samples).interval(0.9) for count in counts]
        inside = [one.low <= share <= one.high for one in found]
        assert stats.binom.pmf(counts, samples, share)[inside].sum() >= 0.9
        assert all(one.low <= one.mean <= one.high for one in found)


# What is accepted, and what is measured on --------------------------------------------------------


def accepting(outcome: str = "held", **options: Any) -> Verdict:
    """A claim with these options."""
    bounds = tuple(Bound(*one) for one in Settings(**options).bounds.items())
    tolerance = options.get("tolerance", 0.5)
    return verdict(outcome=outcome, average=outcome, bounds=bounds, tolerance=tolerance)


EASIER: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"tolerance": 0.1}, {"tolerance": 0.2}, "tolerance= was 0.1 and is 0.2"),
    ({"tolerance": 0.1}, {"min_explained": 0.9}, "tolerance= was 0.1 and is not given"),
    ({"min_explained": 0.9}, {"min_explained": 0.5}, "min_explained= was 0.9 and is 0.5"),
    ({"min_recovered": 0.9}, {"min_recovered": 0.5}, "min_recovered= was 0.9 and is 0.5"),
    ({"min_gap": 0.9}, {"min_gap": 0.5}, "min_gap= was 0.9 and is 0.5"),
    ({"min_within": 0.9}, {}, "min_within= was 0.9 and is not given"),
    ({}, {"direction": "worse"}, "direction= was either and is worse"),
    ({"by": "a", "slice_tolerance": 1}, {}, "slice_tolerance= was 1 and is not given"),
    ({"by": "a", "slice_tolerance": 1}, {"by": "b", "slice_tolerance": 1}, "by= was a and is b"),
    ({}, {"adversary": "report"}, "adversary= was gate and is report"),
    ({}, {"effort": "none"}, "adversary= was gate and is report"),
    ({}, {"adversaries": []}, "adversary= was gate and is report"),
    ({}, {"adversaries": [WhichDonors()]}, "adversaries= was all and is which donors"),
    ({}, {"adversarial_tolerance": 3}, "adversarial_tolerance= was 0.1 and is 3"),
    ({"min_recovered": 0.9}, {"min_recovered": 0.9, "adversarial_tolerance": 3},
     "adversarial_tolerance= was that of the average and is 3"),
    ({"min_explained": 0.9}, {"min_explained": 0.9, "min_explained_at_worst": 0.1},
     "min_explained_at_worst= was 0.9 and is 0.1"),
    ({"min_gap": 0.9, "min_gap_at_worst": 0.1}, {"min_gap": 0.9}, "adversary= was gate and is rep"),
    ({}, {"effort": "quick"}, "budget= was 80000 and is 8000"),
    ({"confidence": 0.95}, {"confidence": 0.6}, "confidence= was 0.95 and is 0.6"),
    ({}, {"min_with_other": 0.01}, "min_with_other= was 0.1 and is 0.01"),
    ({}, {"min_moved": 0.0}, "min_moved= was 0.02 and is 0"),
    ({"generalize": True}, {}, "generalize= was True and is False"),
    ({"min_power": 0.9}, {"min_power": 0.5}, "min_power= was 0.9 and is 0.5"),
    ({}, {"controls": False}, "controls= was not given and is False"),
    ({"controls": True}, {}, "controls= was True and is not given"),
]  # fmt: skip


def usual(options: dict[str, Any]) -> dict[str, Any]:
    instead = ("min_explained", "min_recovered", "min_gap")
    return options if any(name in options for name in instead) else {"tolerance": 0.1} | options


@pytest.mark.parametrize(("old", "new", "said"), EASIER)
def test_a_claim_that_is_easier_to_hold_fails(
    old: dict[str, Any], new: dict[str, Any], said: str
) -> None:
    """Everything else is as it was, and it holds: who compares asked whether it still does."""
    before, after = accepting(**usual(old)), accepting(**usual(new))
    found = moved(before, after)
    assert found.fails
    lines = [line for _, line in comparison_lines(found)]
    assert any("it is easier to be held than when it was saved: " in line for line in lines)
    assert any(said in line for line in lines)
    assert lines[-1] == (
        "if that is meant, save the new figures with --scrub-save=main, or compare with "
        "--scrub-compare-allow=acceptance"
    )
    allowed = moved(before, after, allow=["acceptance"])
    assert not allowed.fails
    assert any(said in line for _, line in comparison_lines(allowed))
    assert said in comparison_summary(found, 9999)
    assert not moved(before, before).fails


def test_every_option_that_makes_a_claim_easier_is_among_them() -> None:
    bounds = {name for name, one in SETTINGS.items() if one.harder}
    tried = {name for old, new, _ in EASIER for name in (*old, *new)}
    assert bounds - {"budget"} <= tried | {"tolerance"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"tolerance": 0.2}, {"tolerance": 0.1}),
        ({"tolerance": 0.2}, {"tolerance": 0.2, "min_explained": 0.5}),
        ({"tolerance": 0.2, "effort": "quick"}, {"tolerance": 0.2}),
        ({"tolerance": 0.2, "confidence": 0.9}, {"tolerance": 0.2}),
        # each claim's share of what a run may get wrong, which -k makes larger
        ({"tolerance": 0.2, "confidence": 0.999}, {"tolerance": 0.2, "confidence": 0.96}),
        ({"tolerance": 0.2, "adversary": "report"}, {"tolerance": 0.2}),
        ({"tolerance": 0.2}, {"tolerance": 0.2, "by": "a", "slice_tolerance": 1}),
        ({"tolerance": 0.2, "controls": False}, {"tolerance": 0.2}),
    ],
)
def test_a_claim_that_is_harder_to_hold_passes(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert not moved(accepting(**old), accepting(**new)).fails


def test_a_published_refutation_has_to_stay_as_large() -> None:
    """What is refuted at 0.5 is more than what is refuted at 0.1."""
    large, small = (accepting("refuted", tolerance=one) for one in (0.5, 0.1))
    assert moved(large, small).fails
    (said,) = moved(large, small).claims[0].objections.values()
    assert said == (
        "it is easier to be refuted than when it was saved: adversarial_tolerance= was 0.5 and is "
        "0.1; tolerance= was 0.5 and is 0.1"
    )
    assert not moved(small, large).fails
    tested = accepting("refuted", tolerance=0.5, confidence=0.6)
    assert moved(large, tested).fails
    assert not moved(large, accepting("refuted", tolerance=0.5, effort="thorough")).fails


@pytest.mark.parametrize("outcome", ["undecided", "untested", "weak"])
def test_what_neither_held_nor_was_refuted_gets_no_easier(outcome: str) -> None:
    found = moved(accepting(outcome, tolerance=0.1), accepting(outcome, tolerance=0.2))
    assert not found.fails
    assert "the tolerance: 0.1 -> 0.2" in found.claims[0].changed


@pytest.mark.parametrize(
    ("new", "fails"),
    [
        ({"tolerance": 0.2}, False), ({"tolerance": 0.3}, True),
        # what it accepts follows from what its network loses otherwise
        ({"min_explained": 0.1}, False),
    ],
)  # fmt: skip
def test_a_file_that_kept_only_the_tolerance_is_held_against_that(
    new: dict[str, Any], fails: bool
) -> None:
    found = moved(verdict(tolerance=0.2), accepting(**new))
    assert found.fails is fails
    said = "what 1 claim accepted is not in this older baseline; --scrub-save=main keeps it"
    assert said in found.beside
    assert not moved(accepting(**new), accepting(**new)).beside


def test_other_data_fail_unless_they_are_allowed() -> None:
    old, new = verdict(), verdict(dataset_digest="other", dataset="other rows")
    found = moved(old, new)
    said = "the data changed (rows, labels or features): rows -> other rows"
    assert found.fails
    assert found.claims[0].objections == {"data": said}
    lines = [line for _, line in comparison_lines(found)]
    assert f"  test_it: {said}" in lines
    assert lines[-1].endswith("--scrub-save=main, or compare with --scrub-compare-allow=data")
    allowed = moved(old, new, allow=["data"])
    assert not allowed.fails
    assert said in allowed.claims[0].changed
    assert moved(old, new, allow=["acceptance"]).fails


def test_a_figure_that_gates_and_vanished_fails() -> None:
    before = replace(searched(0.9), power=power(4, 5))
    assert not moved(before, verdict()).fails  # neither was asked about
    for limits, figure in (("worst:inf", "worst"), ("power:inf", "power")):
        found = moved(before, verdict(), parsed(limits))
        assert [one.figure for one in found.claims[0].moved] == [figure]
        lines = list(comparison_lines(found))
        assert any(fails and "then alone" in line for fails, line in lines)
        assert any(f"{figure} was " in line and "not there any more" in line for _, line in lines)
        assert f"<b>{'0.9' if figure == 'worst' else '4/5'} → -</b>" in comparison_summary(
            found, 9999
        )
    assert moved(before, replace(before, power=power(0, 0)), parsed("power:inf")).fails
    accurate_then = moved(accurate(0.9), verdict())
    assert accurate_then.fails  # which gates whatever is asked
    # what is there now alone was never promised
    assert not moved(verdict(), before, STRICT).fails


# The functions of a hypothesis --------------------------------------------------------------------


def with_functions(**digests: str | None) -> Verdict:
    names = {"predicts": "predicts=", "computed": "computed_by= of output/A"}
    return verdict(functions=tuple(Function(names[one], of) for one, of in digests.items()))


def test_another_function_is_another_claim() -> None:
    old = with_functions(predicts="ab")
    assert not moved(old, old).fails
    found = moved(old, with_functions(predicts="cd"))
    assert found.fails
    (claim,) = found.claims
    assert claim.incomparable == (
        "it is another claim by now: predicts= computes something else than when it was saved"
    )
    assert claim.figures == ()


def test_a_function_that_stands_in_for_an_activation_may_follow_the_weights() -> None:
    old = with_functions(predicts="ab", computed="12")
    found = moved(old, with_functions(predicts="ab", computed="34"))
    assert not found.fails
    assert found.claims[0].changed == (
        "computed_by= of output/A computes something else than when it was saved",
    )


@pytest.mark.parametrize(
    ("old", "new", "versions"),
    [
        (verdict(), with_functions(predicts="cd"), VERSIONS),  # a file from before they were kept
        (with_functions(predicts=None), with_functions(predicts="cd"), VERSIONS),
        (with_functions(predicts="ab"), with_functions(predicts=None), VERSIONS),
        (with_functions(predicts="ab"), with_functions(predicts="cd"), {"python": "3.13.0"}),
    ],
)
def test_functions_that_cannot_be_compared_are_told(
    old: Verdict, new: Verdict, versions: dict[str, str]
) -> None:
    found = moved(old, new, versions=versions)
    assert not found.fails
    (said,) = found.claims[0].changed
    assert said.startswith("whether predicts= still computes the same is not known: ")


# Words --------------------------------------------------------------------------------------------


def test_what_is_only_shown_is_said_to_be() -> None:
    text = "\n".join(line for _, line in comparison_lines(moved(searched(0.9), searched(1.5))))
    assert re.search(r"worst +0.9 +1.5 +\+0.6 +moved, shown only", text)
    assert "1 claim compared: no outcome changed" in text
    assert text.endswith(
        "1 figure moved that is only shown; --scrub-compare-fail=all:0 fails by each"
    )


def test_a_page_for_a_reviewer_has_old_against_new() -> None:
    old = {
        name: replace(searched(0.9), claim=f"t.py::{name}", gap=Estimate(0.01, 0.0, 0.02))
        for name in ("as_it_was", "worse<b>", "found_more")
    }
    worse = Estimate(0.3, 0.29, 0.31)
    new = {
        **old,
        "worse<b>": replace(old["worse<b>"], gap=worse, scrubbed=0.425, outcome="refuted",
                            average="refuted"),
        "found_more": replace(searched(1.5), claim="t.py::found_more", gap=Estimate(0.01, 0, 0.02)),
    }  # fmt: skip
    found = compare(
        run(*(claimed(one, one.claim) for one in new.values())),
        "main",
        {one.claim: Baseline.of(one, VERSIONS) for one in old.values()},
        NONE,
    )
    text = comparison_summary(found, 10**6)
    rows = re.findall(r"<tr>(.*?)</tr>", text)
    assert rows[0] == "".join(f"<th>{one}</th>" for one in ("claim", "outcome", "gap", "worst"))
    # what fails first; as text, whatever it is called
    assert rows[1:] == [
        "<td><code>t.py::worse&lt;b&gt;</code></td><td><b>held → refuted</b></td>"
        "<td><b>0.01 → 0.3</b></td><td>0.9</td>",
        "<td><code>t.py::as_it_was</code></td><td>held</td><td>0.01</td><td>0.9</td>",
        "<td><code>t.py::found_more</code></td><td>held</td><td>0.01</td><td><i>0.9 → 1.5</i></td>",
    ]
    assert "1 of 3 claims not as in the baseline" in text
    short = comparison_summary(found, len(text.encode()) - 10)
    assert len(re.findall("<tr>", short)) < 4
    assert "more rows are left out" in short
    assert len(short.encode()) < len(text.encode())
    assert comparison_summary(found, 100) == ""


def test_the_table_fits_eighty_columns_and_says_how_far() -> None:
    bounds = (Bound("tolerance", 0.5),)
    old, new = (
        replace(searched(0.9), power=power(9, 10), bounds=bounds),
        replace(searched(1.5, model_digest="x"), power=power(8, 10), bounds=bounds),
    )
    lines = [line for _, line in comparison_lines(moved(old, new, STRICT))]
    assert max(map(len, lines)) <= 80
    assert lines == [
        "  figure  old   new   moved by (97.5 %)  limit  verdict",
        "test_it.py::test_it: held",
        "  gap     0.01  0.01  0                  0      unchanged",
        "  worst   0.9   1.5   +0.6               0      moved",
        "  power   9/10  8/10  -0.1 ± 0.38        0      within",
        "  the network's weights changed",
        "1 of 1 claim not as in the baseline 'main':",
        "  test_it: worst moved by +0.6 from 0.9 to 1.5",
        "if that is meant, save the new figures with --scrub-save=main",
    ]
    fails = [line for red, line in comparison_lines(moved(old, new, STRICT)) if red]
    assert fails == [lines[1], lines[3], *lines[6:]]


def test_names_do_no_more_than_be_read() -> None:
    old = verdict(metric="loss")
    new = verdict(metric="loss\x1b[31m\u202e\n")
    text = "\n".join(line for _, line in comparison_lines(moved(old, new, STRICT)))
    assert "its metric was loss and is loss\\x1b[31m\\u202e\\n" in text


def test_a_comparison_of_nothing_fails() -> None:
    """All claims were renamed, or none was run."""
    old = {"a.py::a": Baseline.of(verdict(claim="a.py::a"), VERSIONS)}
    for now in ([claimed(verdict(claim="a.py::b"), "a.py::b")], []):
        found = compare(run(*now), "main", old, NONE)
        assert found.is_empty
        assert found.fails
        assert (
            True,
            "nothing to compare: no claim of this run is in the baseline 'main'",
        ) in comparison_lines(found)


def test_without_a_claim_in_common() -> None:
    found = compare(run(claimed(verdict(claim="a.py::b"), "a.py::b")), "main", {}, NONE)
    assert not found.fails
    assert [line for _, line in comparison_lines(found)] == [
        "a.py::b: not in the baseline",
        "nothing to compare: no claim of this run is in the baseline 'main'",
    ]
