"""Confidence sequences: intervals for a mean that stay valid however often they are looked at.

A sampler that stops as soon as its interval is on one side of the tolerance looks at the data many
times; an interval for one look would then miss the mean too often.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import numpy.typing as npt

from pytest_scrub.settings import CONFIDENCE
from pytest_scrub.verdict import Estimate, Share

# draws at which the asymptotic sequence is tightest; at a fifth or five times as many it is 12 %
# wider
TUNED_AT = 800
BETS_FOR = (200, 800, 3200, 12800)  # draws at which the sequence by betting is tightest
MOST_BET = 0.75  # of what a bettor has; any share below 1 keeps the sequence valid
NEAREST = 1e-9  # to the ends of a bounded metric's range
HALVINGS = 30
# draws unlike the most common one, before an asymptotic interval means anything
FEWEST_CHANGED = 30
# where all are alike: with 95 % confidence fewer than one in a thousand is not (the rule of three)
FEWEST_ALIKE = 3000

ADDED_UP = 1e-12  # by how much a sum of probabilities may be off

Numbers = npt.NDArray[np.float64]


def estimate(values: Numbers, confidence: float = CONFIDENCE) -> Estimate:
    """Mean of independent samples with Student's t interval, for one look; a point where they are
    all the same, and without ends where there is but one."""
    if len(values) < 2:
        return Estimate(float(values.mean()), -math.inf, math.inf)
    mean, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    if error == 0:
        return Estimate(mean, mean, mean)
    low, high = _ends_of_t(confidence, len(values) - 1)
    return Estimate(mean, mean + low * error, mean + high * error)


@cache  # a table of nodes asks for the same again and again, and it takes longer than the mean
def _ends_of_t(confidence: float, freedom: int) -> tuple[float, float]:
    from scipy import stats

    low, high = stats.t.interval(confidence, freedom)
    return float(low), float(high)


def point(
    values: Numbers,
    largest: float = math.inf,
    confidence: float = CONFIDENCE,
    rounding: float = 0.0,
) -> Estimate:
    """The mean itself, where the values are all that there are; called as `confidence_sequence`
    is."""
    mean = float(values.mean())
    return Estimate(mean, mean, mean, exact=True)


def confidence_sequence(
    values: Numbers,
    largest: float = math.inf,
    confidence: float = CONFIDENCE,
    rounding: float = 0.0,
    alike: int | None = None,
) -> Estimate:
    """The mean of the draws so far, with an interval that may be looked at after every draw.

    **Arguments**

    - `values`: float64 `[draws]`, independent and of one distribution.
    - `largest`: the largest absolute value that any draw can have. Where it is finite the sequence
      is one by betting, which holds for every number of draws; else the asymptotic one, which needs
      a burn-in.
    - `confidence`: 0.95 by default; more where several sequences are looked at together.
    - `rounding`: differences up to this are none.
    - `alike`: how many equal draws of an unbounded metric are enough; `fewest_alike` by default.

    **Returns** an `Estimate`, without ends where an unbounded metric has not shown enough; see
    `has_seen_enough`.
    """
    if math.isfinite(largest):
        return _betting(values, largest, 1 - confidence)
    if not has_seen_enough(values, confidence, rounding, alike):
        return Estimate(float(values.mean()), -math.inf, math.inf)
    return _asymptotic(values, 1 - confidence)


def _asymptotic(values: Numbers, alpha: float) -> Estimate:
    """Waudby-Smith, Arbour, Sinha, Kennedy and Ramdas, "Time-uniform central limit theory and
    asymptotic confidence sequences" (Annals of Statistics 2024): Theorem 2.2, with rho as their
    section 2.3 tunes it."""
    mean = float(values.mean())
    radius = float(values.std(ddof=1)) * _asymptotic_radius(len(values), alpha)
    return Estimate(mean, mean - radius, mean + radius)


def _asymptotic_radius(n: int, alpha: float) -> float:
    """In standard deviations of a single draw."""
    rho = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / TUNED_AT  # their rho squared
    return math.sqrt(2 * (n * rho + 1) / (n**2 * rho) * math.log(math.sqrt(n * rho + 1) / alpha))


def widened(estimate: Estimate, draws: int, confidence: float, was: float = CONFIDENCE) -> Estimate:
    """A confidence sequence's interval at another confidence than it `was` made with, where the
    draws themselves are gone.

    An asymptotic one widens just as if it were computed anew, and by as much as Student's t is
    wider than a normal distribution, as few draws do not know their spread; one by betting is taken
    to widen likewise.
    """
    from scipy import stats

    if draws < 2:
        return Estimate(estimate.mean, -math.inf, math.inf)
    tail = (1 - confidence) / 2
    factor = _asymptotic_radius(draws, 1 - confidence) / _asymptotic_radius(draws, 1 - was)
    factor *= float(stats.t.isf(tail, draws - 1) / stats.norm.isf(tail))
    mean = estimate.mean
    return Estimate(
        mean, mean - factor * (mean - estimate.low), mean + factor * (estimate.high - mean)
    )


def clopper_pearson(share: float, samples: int, confidence: float | None) -> Estimate:
    """A share of so many samples with its interval for one look: their number is fixed beforehand.

    - `confidence`: None where the samples are all that there are, whose share is a point.
    """
    if confidence is None:
        return Estimate(share, share, share, exact=True)
    from scipy import stats

    ends = stats.binomtest(round(share * samples), samples).proportion_ci(confidence)
    # a share that was rounded for a file may lie beyond them in its last digit
    return Estimate(share, float(min(ends.low, share)), float(max(ends.high, share)))


def unseen_tail(values: Numbers, alpha: float) -> float:
    """How much further up the upper end of `_asymptotic` belongs where values have a long tail
    there: a mean of few that has not seen all of it is too small, and so is their spread.

    Johnson, "Modified t tests and confidence intervals for asymmetrical populations" (JASA 1978):
    the term of the third moment, with the number of standard errors that the sequence has. Nothing
    for a tail the other way.
    """
    n, spread = len(values), float(values.std())
    if not spread:
        return 0.0
    skewness = float((((values - values.mean()) / spread) ** 3).mean())
    errors = _asymptotic_radius(n, alpha) * math.sqrt(n)
    return max(skewness, 0.0) / (6 * n) * (1 + 2 * errors**2) * spread


def _betting(values: Numbers, largest: float, alpha: float) -> Estimate:
    """Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting" (JRSS B
    2024): the hedged capital of Theorem 3, with the predictable variance of equation (26). The
    stake is split between bets that are tightest after different numbers of draws: a mean of
    martingales is one, and it does not wander as one bet does that shrinks with every draw.

    A mean is kept as long as nobody who bets against it has won `1 / alpha` times the stake.
    Betting that the mean is higher wins less the higher it is, so those that are kept are an
    interval, whose ends are found by bisection.
    """
    mean = float(values.mean())
    if largest == 0:
        return Estimate(mean, mean, mean)
    unit = np.clip((values / largest + 1) / 2, 0, 1)
    t = np.arange(1, len(unit) + 1)
    means = (0.5 + np.cumsum(unit)) / (t + 1)
    variances = (0.25 + np.cumsum((unit - means) ** 2)) / (t + 1)
    known = np.r_[0.25, variances[:-1]]  # before each draw
    most = math.log(2 / alpha)  # both ways to bet have half of the stake
    bets = np.sqrt(2 * most / np.outer(BETS_FOR, known))

    def is_kept(at: float) -> bool:
        up = np.log1p(np.minimum(bets, MOST_BET / at) * (unit - at)).sum(1)
        down = np.log1p(-np.minimum(bets, MOST_BET / (1 - at)) * (unit - at)).sum(1)
        won = max(float(np.logaddexp.reduce(up)), float(np.logaddexp.reduce(down)))
        return won - math.log(len(BETS_FOR)) < most

    def end(outside: float) -> float:
        inside = min(max(float(unit.mean()), NEAREST), 1 - NEAREST)
        if is_kept(outside):
            return outside
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_kept(middle) else (inside, middle)
        return outside  # the interval is never too narrow

    low, high = ((2 * end(outside) - 1) * largest for outside in (NEAREST, 1 - NEAREST))
    return Estimate(mean, min(low, mean), max(high, mean))


def has_seen_enough(
    values: Numbers, confidence: float = CONFIDENCE, rounding: float = 0.0, alike: int | None = None
) -> bool:
    """Whether these draws of an unbounded metric have an interval for their mean.

    Where nearly all draws are equal, those that are not decide the mean, and few of them are no
    normal distribution. No interval for an unbounded metric can know of what it has not seen; where
    all are equal, it takes many of them to say that hardly any is not.
    """
    unlike = int((np.abs(values - np.median(values)) > rounding).sum())
    return unlike >= FEWEST_CHANGED or (
        not unlike and len(values) >= (alike or fewest_alike(confidence))
    )


def fewest_alike(confidence: float = CONFIDENCE) -> int:
    """How many equal draws say that hardly any is not, at a confidence."""
    return math.ceil(FEWEST_ALIKE * math.log(1 - confidence) / math.log(1 - CONFIDENCE))


def quantile(values: Numbers, weights: Numbers, share: float) -> float:
    """The least of the values that is not exceeded by this share of their weights."""
    order = np.argsort(values, kind="stable")
    up_to = np.cumsum(weights[order]) / weights.sum()
    at = int(np.searchsorted(up_to, share - ADDED_UP))
    return float(values[order][min(at, len(values) - 1)])


def all_within(changes: Numbers, weights: Numbers, tolerance: float, share: float = 0.95) -> Share:
    """What single swaps do, where these are all of them."""
    sizes = np.abs(changes)
    tolerated = float(np.average(sizes <= tolerance, weights=weights))
    return Share(share, quantile(sizes, weights, share), tolerated, len(changes), exact=True)


def share_within(
    changes: Numbers, tolerance: float, share: float = 0.95, confidence: float = CONFIDENCE
) -> Share | None:
    """What independent draws say of single swaps, by order statistics; None where they are too few.

    The r-th smallest of n absolute changes is an upper limit for the `share` quantile with a
    confidence of c where a binomial of n and `share` lies below r with probability c (David and
    Nagaraja, "Order Statistics", section 7.1).
    """
    from scipy import stats

    n = len(changes)
    at = int(stats.binom.ppf(confidence, n, share)) + 1
    if at > n:
        return None
    sizes = np.sort(np.abs(changes))
    kept = int((sizes <= tolerance).sum())
    least = stats.binomtest(kept, n, alternative="greater").proportion_ci(confidence).low
    return Share(share, float(sizes[at - 1]), float(least), n)
