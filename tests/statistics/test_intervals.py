"""Confidence sequences: what they cover, and how wide they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from pytest_scrub import cross_entropy
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.intervals import (
    FEWEST_ALIKE,
    FEWEST_CHANGED,
    TUNED_AT,
    clopper_pearson,
    confidence_sequence,
    fewest_alike,
    has_seen_enough,
    share_within,
    unseen_tail,
)
from pytest_scrub.statistics.predicted import against_rival
from pytest_scrub.verdict import Estimate
from tests.sizes import only_in_full, sized

Values = np.ndarray[Any, Any]


def naive_asymptotic(values: Values, alpha: float) -> float:
    """The radius of Theorem 2.2, term by term."""
    t, sigma = len(values), np.std(values, ddof=1)
    rho2 = (-2 * math.log(alpha) + math.log(-2 * math.log(alpha) + 1)) / TUNED_AT
    return float(
        sigma
        * math.sqrt(2 * (t * rho2 + 1) / (t**2 * rho2) * math.log(math.sqrt(t * rho2 + 1) / alpha))
    )


def naive_capital(values: Values, mean: float, alpha: float) -> float:
    """What a bettor against this mean of values in [0, 1] owns, round by round, of a stake of one
    split eight ways."""
    horizons = (200, 800, 3200, 12800)
    up, down = [1 / 8] * 4, [1 / 8] * 4
    total, squares = 0.5, 0.25
    for t, x in enumerate(values, start=1):
        variance = squares / t
        for i, horizon in enumerate(horizons):
            bet = math.sqrt(2 * math.log(2 / alpha) / (variance * horizon))
            up[i] *= 1 + min(bet, 0.75 / mean) * (x - mean)
            down[i] *= 1 - min(bet, 0.75 / (1 - mean)) * (x - mean)
        total += x
        squares += (x - total / (t + 1)) ** 2
    return max(sum(up), sum(down))


def test_an_unbounded_metric_has_the_asymptotic_sequence() -> None:
    values = np.random.default_rng(0).normal(3, 2, 500)
    found = confidence_sequence(values)
    radius = naive_asymptotic(values, 0.05)
    assert (found.low, found.high) == (
        pytest.approx(values.mean() - radius),
        pytest.approx(values.mean() + radius),
    )
    wider = confidence_sequence(values, confidence=0.99)
    assert wider.around == pytest.approx(naive_asymptotic(values, 0.01))


def test_the_ends_of_a_bounded_metric_are_where_a_bettor_wins() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0, 1], 150, p=[0.1, 0.6, 0.3])
    found = confidence_sequence(values, largest=2.0)
    for end, outside in ((found.low, -1e-4), (found.high, 1e-4)):
        unit = (values / 2 + 1) / 2
        at = (end / 2 + 1) / 2
        assert naive_capital(unit, at, 0.05) == pytest.approx(1 / 0.05, rel=1e-4)
        assert (
            naive_capital(unit, at + outside, 0.05)
            > 1 / 0.05
            > naive_capital(unit, at - outside, 0.05)
        )


@pytest.mark.parametrize("largest", [math.inf, pytest.param(1.0, marks=only_in_full)])
@pytest.mark.parametrize("share", [pytest.param(0.02, marks=only_in_full), 0.3])
def test_a_sequence_may_be_looked_at_often(largest: float, share: float) -> None:
    missed = {"sequence": 0, "one look": 0}
    runs = sized(40, 400)
    for run in range(runs):
        values = (np.random.default_rng(run).random(2000) < share).astype(np.float64)
        looks = range(400, 2001, 100)
        missed["sequence"] += any(
            not _covers(confidence_sequence(values[:n], largest), share) for n in looks
        )
        missed["one look"] += any(
            abs(values[:n].mean() - share) > 1.96 * values[:n].std() / n**0.5 for n in looks
        )  # fmt: skip
    assert missed["sequence"] <= 0.05 * runs
    assert missed["one look"] > 0.1 * runs  # which is why it takes more than one


def _covers(found: Estimate, mean: float) -> bool:
    return found.low <= mean <= found.high


@given(arrays(np.float64, st.integers(2, 60), elements=st.floats(-1, 1)), st.floats(1, 10))
def test_an_interval_holds_its_mean_and_stays_in_reach(values: Values, largest: float) -> None:
    for found in (confidence_sequence(values), confidence_sequence(values, largest)):
        assert found.low <= found.mean <= found.high
        assert found.mean == values.mean()
    assert -largest - 1e-6 <= found.low <= found.high <= largest + 1e-6
    other = confidence_sequence(-values, largest)
    assert (other.low, other.high) == (
        pytest.approx(-found.high, abs=1e-6),
        pytest.approx(-found.low, abs=1e-6),
    )


@given(arrays(np.float64, st.integers(2, 60), elements=st.floats(-1, 1)), st.floats(0.1, 100))
def test_an_interval_scales_with_the_unit(values: Values, unit: float) -> None:
    for one, other in (
        (confidence_sequence(values), confidence_sequence(unit * values)),
        (confidence_sequence(values, 1.0), confidence_sequence(unit * values, unit)),
    ):
        assert other.low == pytest.approx(unit * one.low, rel=1e-5, abs=1e-5 * unit)
        assert other.high == pytest.approx(unit * one.high, rel=1e-5, abs=1e-5 * unit)


def test_more_draws_and_less_confidence_make_it_narrower() -> None:
    values = np.random.default_rng(0).choice([-1.0, 0, 1], 4000, p=[0.1, 0.8, 0.1])
    for largest in (math.inf, 1.0):
        widths = [confidence_sequence(values[:n], largest).around for n in (100, 400, 1600)]
        assert widths == sorted(widths, reverse=True)
        assert (
            confidence_sequence(values, largest, 0.999).around
            > confidence_sequence(values, largest, 0.9).around
        )


def test_one_draw_says_nothing_and_a_metric_without_room_everything() -> None:
    assert confidence_sequence(np.array([3.0])) == Estimate(3.0, -math.inf, math.inf)
    assert confidence_sequence(np.zeros(5), 0.0) == Estimate(0.0, 0.0, 0.0)


def test_few_changes_have_no_interval() -> None:
    rare = np.zeros(4000)
    rare[: FEWEST_CHANGED - 1] = 1.0
    assert not has_seen_enough(rare)
    assert confidence_sequence(rare) == Estimate(rare.mean(), -math.inf, math.inf)
    assert str(confidence_sequence(rare)) == "0.00725 [?, ?]"
    # the bound takes care of what was not seen
    assert confidence_sequence(rare, largest=1.0).is_known
    rare[FEWEST_CHANGED - 1] = 1.0
    assert has_seen_enough(rare)
    assert confidence_sequence(rare).is_known
    assert not has_seen_enough(rare[:2000] * 1e-9, rounding=1e-8)  # the last digits are no changes


@pytest.mark.parametrize("value", [0.0, 3.0])
def test_where_all_are_alike_it_takes_many(value: float) -> None:
    assert confidence_sequence(np.full(FEWEST_ALIKE - 1, value)) == Estimate(
        value, -math.inf, math.inf
    )
    assert confidence_sequence(np.full(FEWEST_ALIKE, value)) == Estimate(value, value, value)
    # one in a thousand would have been seen
    assert 0.999**FEWEST_ALIKE < 0.05 < 0.999 ** (FEWEST_ALIKE - 50)
    several = confidence_sequence(np.full(FEWEST_ALIKE, value), confidence=0.99)
    assert not several.is_known  # of which each has to be surer
    assert 0.999 ** fewest_alike(0.99) < 0.01


def test_what_single_swaps_do() -> None:
    changes = np.random.default_rng(0).permutation(np.arange(-200.0, 200))
    found = share_within(changes, 100.5)
    assert found is not None
    assert (found.share, found.draws) == (0.95, 400)
    # The 388th of 400: a binomial of 400 and 0.95 is at most 387 with 95 % probability.
    assert stats.binom.cdf(387, 400, 0.95) >= 0.95 > stats.binom.cdf(386, 400, 0.95)
    assert found.within == np.sort(np.abs(changes))[387]
    kept = int((np.abs(changes) <= 100.5).sum())
    assert found.tolerated == pytest.approx(stats.beta.ppf(0.05, kept, 400 - kept + 1))
    assert share_within(changes[:58], 1.0) is None  # even the largest of 58 says less
    assert share_within(changes[:59], 1.0) is not None


@pytest.mark.parametrize("draws", [100, 400])
def test_the_statement_on_single_swaps_is_right_95_times_in_100(draws: int) -> None:
    right = within = 0
    for run in range(600):
        changes = np.random.default_rng(run).exponential(1, draws)
        found = share_within(changes, 2.0)
        assert found is not None
        within += 1 - math.exp(-found.within) >= 0.95
        right += 1 - math.exp(-2.0) >= found.tolerated
    assert min(within, right) >= (0.95 - 3 * (0.05 * 0.95 / 600) ** 0.5) * 600


@pytest.mark.parametrize("draws", [2, 30, 2999])
def test_values_that_are_all_alike_decide_nothing_where_they_are_few(draws: int) -> None:
    alike = np.full(draws, 0.5) + 1e-9 * np.arange(draws)
    assert not confidence_sequence(alike, rounding=1e-4).is_known
    bounded = confidence_sequence(np.full(draws, 0.5), 1.0)
    assert bounded.is_known
    assert bounded.low < 0.5
    assert confidence_sequence(np.full(3000, 0.5)).low == 0.5


def test_a_tail_that_was_not_seen_moves_only_its_own_end() -> None:
    rng = np.random.default_rng(0)
    values = (rng.pareto(3, 400) + 1) / 1.5
    alpha = 0.05 / 7
    further = unseen_tail(values, alpha)
    ends = confidence_sequence(values, confidence=1 - alpha)
    errors = (ends.high - ends.mean) / values.std(ddof=1) * 20  # of a mean of 400
    skewness = stats.skew(values)
    assert further == pytest.approx(skewness / 2400 * (1 + 2 * errors**2) * values.std())
    assert unseen_tail(-values, alpha) == 0
    assert unseen_tail(np.r_[values, -values], alpha) == pytest.approx(0, abs=1e-12)
    assert unseen_tail(np.ones(400), alpha) == 0


@pytest.mark.parametrize("tail", ["pareto", "rare"])
def test_a_rival_that_is_as_good_seldom_refutes_by_a_tail_that_was_not_seen(
    tail: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of five rivals and two other routes, at the first look: each mean is exactly zero."""
    rng, runs = np.random.default_rng(1), 2000
    draws = {
        "pareto": lambda size: (rng.pareto(3, size) + 1) / 1.5 - 1,
        "rare": lambda size: 20.0 * (rng.random(size) < 0.05) - 1,
    }[tail]((runs, 400))
    apart = np.where(rng.random((runs, 400)) < 0.5, draws, 0.0)
    acceptance = Acceptance(cross_entropy(), tolerance=1.0, routes=7)

    def of_five() -> float:
        """How many claims that have five such rivals are refuted."""
        refuted = np.array([against_rival(acceptance, one)[0] == "refuted" for one in apart])
        return float(refuted.reshape(-1, 5).any(1).mean())

    assert of_five() < 0.02 < with_normal_ends(of_five, monkeypatch)


def with_normal_ends(found: Callable[[], float], monkeypatch: pytest.MonkeyPatch) -> float:
    with monkeypatch.context() as patch:
        patch.setattr("pytest_scrub.statistics.predicted.unseen_tail", lambda *_: 0.0)
        return found()


@pytest.mark.parametrize(("right", "samples"), [(0, 400), (396, 400), (400, 400), (7, 25)])
def test_a_share_has_the_interval_of_a_binomial(right: int, samples: int) -> None:
    found = clopper_pearson(right / samples, samples, 0.95)
    assert found.mean == right / samples
    if right:
        assert stats.binom.sf(right - 1, samples, found.low) == pytest.approx(0.025)
    else:
        assert found.low == 0
    if right < samples:
        assert stats.binom.cdf(right, samples, found.high) == pytest.approx(0.025)
    else:
        assert found.high == 1
    assert clopper_pearson(0.3, 10, None) == Estimate(0.3, 0.3, 0.3, exact=True)
