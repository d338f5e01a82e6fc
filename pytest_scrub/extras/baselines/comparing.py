"""What moved since a baseline was saved, by the intervals of both and not by their points.

A gap is the mean of draws that ended as soon as they decided the claim, so both have intervals that
are valid whenever one stops. A gap has moved where even the interval of the difference lies beyond
the limit, at a confidence that is corrected for all gaps and powers of the run (Bonferroni, as they
depend on one another). Runs with the same seed depend on one another, too, so each of the two
intervals gets half of the error.

The worst that was found has no interval: it is compared where both runs searched alike, with the
same seed. Nor is an outcome that only the search decided a change where the seeds differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from pytest_scrub.extras.baselines.limits import GAP, POWER, WORST, Limit, Limits
from pytest_scrub.extras.baselines.saved import NOT_KEPT, Baseline, Refuted
from pytest_scrub.reports.run import INTERRUPTED, Run
from pytest_scrub.settings import CONFIDENCE
from pytest_scrub.statistics.intervals import widened
from pytest_scrub.verdict import REFUTED, Estimate

MOVED, WITHIN, UNCHANGED, NOT_COMPARED = "moved", "within", "unchanged", "not compared"


class Pair(NamedTuple):
    """One claim as it was saved, and as it is now."""

    old: Baseline
    new: Baseline

    @property
    def last_digit(self) -> float:
        """By how much figures may differ that are the same: a file says nothing of that."""
        return self.new.figures.last_digit


@dataclass(frozen=True)
class Move:
    """One figure of one claim.

    - `figure`: `"gap"`, `"worst"` or `"power"`.
    - `old`, `new`: None where there is none.
    - `by`: new minus old, with its corrected interval; None where they are not compared.
    - `limit`: how far it may move, in the figure's unit.
    - `verdict`: `"moved"` beyond the limit, `"within"` it, `"unchanged"`, or `"not compared"`;
      `why`: why not.
    """

    figure: str
    old: float | Refuted | None
    new: float | Refuted | None
    by: Estimate | None
    limit: float
    verdict: str
    why: str = ""


@dataclass(frozen=True)
class ClaimMoves:
    """What moved of one claim.

    - `was`, `now`: its outcome, or what pytest made of a claim that has no verdict now.
    - `moves`: its figures; empty where they cannot be compared.
    - `changed`: what else is not what it was, in words.
    - `another`: why it is another claim by now, empty where it is the same.
    - `by_search`: whether the outcomes differ by nothing but what searches with different seeds
      found.
    """

    claim: str
    was: str
    now: str
    moves: tuple[Move, ...] = ()
    changed: tuple[str, ...] = ()
    another: str = ""
    by_search: bool = False

    @property
    def moved(self) -> tuple[Move, ...]:
        """The figures beyond their limits."""
        return tuple(move for move in self.moves if move.verdict == MOVED)

    @property
    def fails(self) -> bool:
        """Whether a figure moved, the outcome changed, or the claim did."""
        return bool(self.moved or self.another) or (self.was != self.now and not self.by_search)


@dataclass(frozen=True)
class Comparison:
    """A run against a baseline.

    - `name`: of the baseline.
    - `claims`: those that are in both; `fresh`: those of the run alone.
    - `gone`: those of the baseline alone, as far as their files were run; `marked`: those that a
      mark skipped.
    - `saved`: how many the baseline has.
    - `versions`: what the figures were made with that differs now, in words.
    - `confidence`: of the interval of each difference.
    """

    name: str
    claims: tuple[ClaimMoves, ...]
    fresh: tuple[str, ...]
    gone: tuple[str, ...]
    marked: tuple[str, ...]
    saved: int
    versions: tuple[str, ...]
    confidence: float

    @property
    def is_empty(self) -> bool:
        """Whether nothing was compared, though there is something to compare with: a gate that
        nobody went through."""
        return bool(self.saved) and not self.claims

    @property
    def fails(self) -> bool:
        """Whether the run fails by it."""
        return self.is_empty or any(claim.fails for claim in self.claims)


def compare(run: Run, name: str, baselines: Mapping[str, Baseline], limits: Limits) -> Comparison:
    """What moved in a run.

    **Arguments**

    - `name`, `baselines`: the baseline, claim to what was saved of it.
    - `limits`: how far each figure may move; a share is one of what the figure was, that of a gap
      one of the claim's tolerance where that is larger.
    """
    ended = [one for one in run.claims if one.result != INTERRUPTED]
    here = {one.test: one for one in ended}
    verdicts = {one.test: one.verdict for one in ended if one.verdict is not None}
    pairs = {
        test: Pair(baselines[test], Baseline.of(verdict, run.versions))
        for test, verdict in verdicts.items()
        if test in baselines
    }
    comparable = {test: pair for test, pair in pairs.items() if not _another(pair)}
    figures = sum(1 + (_powers(pair) is not None) for pair in comparable.values())
    confidence = 1 - (1 - CONFIDENCE) / max(1, figures)
    claims = []
    for test, one in here.items():
        if test in pairs:
            claims.append(_moves(pairs[test], limits, confidence))
        elif test in baselines and not one.is_marked:
            claims.append(
                ClaimMoves(
                    test, baselines[test].outcome, one.outcome, changed=("it has no verdict now",)
                )
            )
    files = {_file(one.test) for one in run.claims}
    return Comparison(
        name=name,
        claims=tuple(claims),
        fresh=tuple(test for test in verdicts if test not in baselines),
        gone=tuple(test for test in sorted(baselines) if test not in here and _file(test) in files),
        marked=tuple(test for test, one in here.items() if test in baselines and one.is_marked),
        saved=len(baselines),
        versions=tuple(_other_versions(pairs.values(), run.versions)),
        confidence=confidence,
    )


def _file(test: str) -> str:
    return test.partition("::")[0]


def _moves(pair: Pair, limits: Limits, confidence: float) -> ClaimMoves:
    old, new = pair
    found = ClaimMoves(
        old.claim, old.outcome, new.outcome,
        changed=tuple(_changed(pair)), another=_another(pair), by_search=_by_search(pair),
    )  # fmt: skip
    if found.another:
        return found
    moves = (
        gap_moved(pair, limits[GAP], confidence),
        _worst_moved(pair, limits[WORST]),
        _power_moved(pair, limits[POWER], confidence),
    )
    return replace(
        found, moves=tuple(move for move in moves if move.old is not None or move.new is not None)
    )


def _another(pair: Pair) -> str:
    """Why figures of one claim cannot be compared with those of the other."""
    old, new = pair
    if old.metric != new.metric:
        return f"it is another claim by now: its metric was {old.metric} and is {new.metric}"
    if old.hypothesis != new.hypothesis:
        return "it is another claim by now: its hypothesis has changed"
    return ""


def _by_search(pair: Pair) -> bool:
    """Whether the outcomes differ by what adversaries found alone, who found it with different
    seeds."""
    old, new = pair
    both_searched = old.figures.worst is not None and new.figures.worst is not None
    is_refuted = (old.outcome == REFUTED) != (new.outcome == REFUTED)
    return is_refuted and both_searched and old.average == new.average and old.seed != new.seed


def _changed(pair: Pair) -> Iterator[str]:
    old, new = pair
    if old.model_digest != new.model_digest:
        yield (
            "the network's weights changed"
            if old.model == new.model
            else f"the network: {old.model} -> {new.model}"
        )
    if old.dataset_digest != new.dataset_digest:
        yield (
            "the data changed"
            if old.dataset == new.dataset
            else f"the data: {old.dataset} -> {new.dataset}"
        )
    if not math.isclose(old.tolerance, new.tolerance, rel_tol=1e-5):
        yield f"the tolerance: {old.tolerance:.4g} -> {new.tolerance:.4g}"
    if _by_search(pair):
        yield "the outcomes differ by what a search found, and another seed finds something else"
    if old.interval != new.interval:
        yield f"the interval: {old.interval} -> {new.interval}"


def _other_versions(pairs: Iterable[Pair], now: Mapping[str, str]) -> Iterator[str]:
    """Each package once, however many claims were saved with another one."""
    then: dict[str, set[str]] = {}
    for old, _ in pairs:
        for package, version in old.versions.items():
            then.setdefault(package, set()).add(version)
    for package in sorted({*then, *now} - {*NOT_KEPT}) if then else ():
        before = then.get(package, {"none"})
        if before != {now.get(package, "none")}:
            yield f"{package} {', '.join(sorted(before))} -> {now.get(package, 'none')}"


# Figures ------------------------------------------------------------------------------------------


def gap_moved(pair: Pair, limit: Limit, confidence: float) -> Move:
    """Whether the gap moved, where intervals that are valid at any stopping time are widened to
    that confidence."""
    old, new = (one.figures.gap for one in pair)
    room = limit.of(max(abs(old.mean), min(one.tolerance for one in pair)))
    if not (old.is_known and new.is_known):
        which = "then" if new.is_known else "now"
        return Move(
            GAP,
            old.mean,
            new.mean,
            None,
            room,
            NOT_COMPARED,
            f"too few draws {which} to know its interval",
        )
    by = difference(old, pair.old.samples, new, pair.new.samples, confidence)
    return Move(GAP, old.mean, new.mean, by, room, _judged(by, room, pair.last_digit))


def difference(
    old: Estimate, old_draws: int, new: Estimate, new_draws: int, confidence: float
) -> Estimate:
    """New minus old of two means; each interval gets half of the error, however they depend on one
    another."""
    half = (1 + confidence) / 2
    before, after = widened(old, old_draws, half), widened(new, new_draws, half)
    return Estimate(new.mean - old.mean, after.low - before.high, after.high - before.low)


def _worst_moved(pair: Pair, limit: Limit) -> Move:
    old, new = (one.figures.worst for one in pair)
    if old is None or new is None:
        then, now = (None if one is None else one.gap for one in (old, new))
        return Move(
            WORST,
            then,
            now,
            None,
            0.0,
            NOT_COMPARED,
            f"searched {'now' if old is None else 'then'} alone",
        )
    room, why = limit.of(old.gap), ""
    by = Estimate(*[new.gap - old.gap] * 3)
    if abs(by.mean) <= pair.last_digit:
        pass  # the same, however it was found
    elif pair.old.seed != pair.new.seed:
        why = "another seed"
    elif pair.old.dataset_digest != pair.new.dataset_digest:
        why = "other data"
    elif (old.budget, old.tried) != (new.budget, new.tried):
        why = "another search"
    elif old.late or new.late:
        why = "a deadline ended the search"
    if why:
        return Move(WORST, old.gap, new.gap, None, room, NOT_COMPARED, why)
    return Move(WORST, old.gap, new.gap, by, room, _judged(by, room, pair.last_digit))


def _powers(pair: Pair) -> tuple[Refuted, Refuted] | None:
    old, new = (one.figures.power for one in pair)
    return None if old is None or new is None or not old.of or not new.of else (old, new)


def _power_moved(pair: Pair, limit: Limit, confidence: float) -> Move:
    both, (old, new) = _powers(pair), (one.figures.power for one in pair)
    if both is None:
        why = "no mutants" if old and new else f"judged {'then' if old else 'now'} alone"
        return Move(POWER, old, new, None, 0.0, NOT_COMPARED, why)
    room, by = limit.of(both[0].share), shares_differ(*both, confidence)
    is_clear = fisher(*both) < 1 - confidence
    return Move(
        POWER,
        old,
        new,
        by,
        room,
        _judged(by, room, 0.0) if is_clear else _judged(by, math.inf, 0.0),
    )


def fisher(old: Refuted, new: Refuted) -> float:
    """How likely two shares differ as much as these where they are the same: Fisher's exact
    test."""
    import numpy as np
    from scipy import stats

    table = np.array([[one.refuted, one.of - one.refuted] for one in (old, new)])
    return float(stats.fisher_exact(table).pvalue)


def shares_differ(old: Refuted, new: Refuted, confidence: float) -> Estimate:
    """New minus old, with the interval from the Wilson intervals of both (Newcombe 1998, method
    10)."""
    from scipy import stats

    before, after = (
        stats.binomtest(one.refuted, one.of).proportion_ci(confidence, method="wilson")
        for one in (old, new)
    )
    by = new.share - old.share
    down = math.hypot(new.share - after.low, before.high - old.share)
    up = math.hypot(after.high - new.share, old.share - before.low)
    return Estimate(by, by - down, by + up)


def _judged(by: Estimate, room: float, rounding: float) -> str:
    if by.low > room + rounding or by.high < -room - rounding:
        return MOVED
    return UNCHANGED if abs(by.mean) <= rounding else WITHIN
