"""What moved since a baseline was saved, by the intervals of both and not by their points.

A gap is the mean of draws that ended as soon as they decided the claim, so both have intervals that
are valid whenever one stops. A gap has moved where even the interval of the difference lies beyond
the limit, at a confidence that is corrected for all gaps and powers of the run (Bonferroni, as they
depend on one another). Runs with the same seed depend on one another, too, so each of the two
intervals gets half of the error.

So it is with what the claim would cost if its features knew nothing, and with what is explained of
that: their intervals follow from those of both gaps, so they cost no confidence of their own.

So has the share of swaps that lead to what a claim predicts, of draws whose number is fixed.

The worst that was found is compared where both runs searched alike, with the same seed: another one
tries other donors, which no interval over references covers. Nor is an outcome that only the search
decided a change where the seeds differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from pytest_scrub.extras.baselines.files import NOT_KEPT, Baseline, Refuted, Worst
from pytest_scrub.extras.baselines.limits import (
    ACCEPTANCE,
    ACCURACY,
    DATA,
    EXPLAINED,
    GAP,
    MISSING,
    NULL,
    POWER,
    WORST,
    Limit,
    Limits,
)
from pytest_scrub.reports.run import INTERRUPTED, Run
from pytest_scrub.settings import CONFIDENCE, SETTINGS
from pytest_scrub.statistics.intervals import widened
from pytest_scrub.verdict import HELD, REFUTED, Estimate, result_of

_LEAST = 1e-6  # by which shares may differ that are the same
# a function that stands in for an activation may follow the weights; what a claim predicts may not
COMPUTED_BY = "computed_by="
MOVED, WITHIN, UNCHANGED, NOT_COMPARED = "moved", "within", "unchanged", "not compared"
VANISHED = "vanished"
# of what is tested, and not of what is accepted: less of it makes any outcome easier
_TESTED = ("confidence", "generalize", "min_with_other", "min_moved")
# that more is searched makes no refutation a lesser one
CONTROLS = "controls"  # None is an answer between True and False
_SEARCHED = ("adversary", "adversaries", "budget", "min_power", CONTROLS)


def _computing_else(whats: Collection[str]) -> str:
    verb = "compute" if len(whats) > 1 else "computes"
    return f"{', '.join(whats)} {verb} something else than when it was saved"


class Pair(NamedTuple):
    """One claim as it was saved, and as it is now."""

    old: Baseline
    new: Baseline

    @property
    def last_digit(self) -> float:
        """By how much figures may differ that are the same: that of today, as a file may be
        wrong."""
        return self.new.figures.last_digit

    @property
    def incomparable(self) -> str:
        """Why figures of the one cannot be compared with those of the other, or nothing."""
        old, new = self
        if old.metric != new.metric:
            return f"it is another claim by now: its metric was {old.metric} and is {new.metric}"
        if old.hypothesis != new.hypothesis:
            return "it is another claim by now: its hypothesis has changed"
        others = [what for what in self.functions[0] if not what.startswith(COMPUTED_BY)]
        return f"it is another claim by now: {_computing_else(others)}" if others else ""

    @property
    def functions(self) -> tuple[list[str], list[str]]:
        """Those of the hypothesis that compute something else now, and those of which that is not
        known: another version of Python has another code for the same function."""
        python, was = (
            one.versions.get("python", "").rpartition(".")[0] for one in (self.new, self.old)
        )
        then, now = ({one.what: one.digest for one in side.functions} for side in self)
        others, unknown = list[str](), list[str]()
        for what in dict.fromkeys((*now, *then)):
            # a file that keeps what is accepted keeps all functions as well
            is_new = what not in then and bool(self.old.bounds)
            if python == was and is_new:
                others.append(what)
            elif python != was or None in (now.get(what, ""), then.get(what)):
                unknown.append(what)
            elif now.get(what) != then[what]:
                others.append(what)
        return others, unknown

    @property
    def acceptance(self) -> str:
        """What makes today's outcome easier than it was, where it is the same, in words; or
        nothing."""
        old, new = self
        if old.outcome != new.outcome or new.outcome not in (HELD, REFUTED):
            return ""
        bounds = old.bounds or _bounds_of_an_older_file(self)
        eased = [
            f"{name}= was {_shown(bounds.get(name))} and is {_shown(new.bounds.get(name))}"
            for name in sorted({*bounds, *(new.bounds if old.bounds else ())})
            if _is_easier(name, bounds.get(name), new.bounds.get(name), new.outcome)
        ]
        to = "held" if new.outcome == HELD else "refuted"
        return f"it is easier to be {to} than when it was saved: {'; '.join(eased)}" * bool(eased)

    @property
    def by_search(self) -> bool:
        """Whether the outcomes differ by nothing but what searches with different seeds found."""
        old, new = self
        return (
            (old.outcome == REFUTED) != (new.outcome == REFUTED)
            and old.figures.worst is not None
            and new.figures.worst is not None
            and old.average == new.average
            and old.seed != new.seed
        )


def _is_easier(name: str, old: object, new: object, outcome: str) -> bool:
    """Whether an option makes this outcome easier than it was: of a claim that is published as
    refuted what it accepts has to stay as large. What has no order is as it was."""
    if old == new or (outcome == REFUTED and name in _SEARCHED):
        return False
    harder = SETTINGS[name].harder if name in SETTINGS else None
    if harder is None:  # a file of another version
        return True
    if outcome == REFUTED and name not in _TESTED:
        old, new = new, old
    if name != CONTROLS and None in (old, new):  # there was or is no such bound
        return new is None
    was, now = harder(old), harder(new)
    return not (now >= was or math.isclose(was, now, rel_tol=1e-5))


def _bounds_of_an_older_file(pair: Pair) -> Mapping[str, float]:
    """Where the claim says so itself, and no share of what a network does, its file has the gap
    that it accepted."""
    old, new = pair
    stated = [name for name in ("tolerance", "min_gap") if name in new.bounds]
    has_shares = {"min_explained", "min_recovered"} & new.bounds.keys()
    return {name: old.tolerance for name in stated if not has_shares}


def _shown(value: object) -> str:
    return "not given" if value is None else f"{value:.4g}" if type(value) is float else str(value)


@dataclass(frozen=True)
class FigureChange:
    """One figure of one claim.

    - `figure`: `"gap"`, `"accuracy"`, `"null"`, `"explained"`, `"worst"` or `"power"`.
    - `old`, `new`: None where there is none.
    - `by`: new minus old, with its corrected interval; None where they are not compared.
    - `limit`: how far it may move, in the figure's unit.
    - `verdict`: `"moved"` beyond the limit, `"within"` it, `"unchanged"`, `"vanished"`, or
      `"not compared"`; `why`: why not.
    - `gates`: whether it fails the run where it moved or vanished.
    """

    figure: str
    old: float | Refuted | None
    new: float | Refuted | None
    by: Estimate | None
    limit: float
    verdict: str
    why: str = ""
    gates: bool = True


@dataclass(frozen=True)
class ClaimComparison:
    """What moved of one claim.

    - `was`, `now`: its outcome in words, or what pytest made of a claim that has no verdict now.
    - `figures`: its figures; empty where they cannot be compared.
    - `changed`: what else is not what it was, in words.
    - `objections`: what of that fails the run, by the word that allows it.
    - `incomparable`: why it is another claim by now, empty where it is the same.
    - `by_search`: whether the outcomes differ by nothing but what searches with different seeds
      found.
    """

    claim: str
    was: str
    now: str
    figures: tuple[FigureChange, ...] = ()
    changed: tuple[str, ...] = ()
    incomparable: str = ""
    by_search: bool = False
    objections: Mapping[str, str] = field(default_factory=dict)

    @property
    def moved(self) -> tuple[FigureChange, ...]:
        """The figures beyond their limits, or not there any more, of those that gate."""
        return tuple(one for one in self.figures if one.verdict in (MOVED, VANISHED) and one.gates)

    @property
    def fails(self) -> bool:
        """Whether a figure moved, the outcome changed, or the claim did, or what it is measured
        by."""
        return bool(self.moved or self.incomparable or self.objections) or (
            self.was != self.now and not self.by_search
        )


@dataclass(frozen=True)
class Comparison:
    """A run against a baseline.

    - `name`: of the baseline.
    - `claims`: those that are in both; `beside`: what is in one of them alone, and what the figures
      were made with that differs now, in words.
    - `missing`: claims of the baseline that were to be run, and are not there any more.
    - `confidence`: of the interval of each difference.
    - `is_empty`: whether nothing was compared, though there is something to compare with: a gate
      that nobody went through.
    """

    name: str
    claims: tuple[ClaimComparison, ...]
    beside: tuple[str, ...]
    missing: tuple[str, ...]
    confidence: float
    is_empty: bool

    @property
    def fails(self) -> bool:
        """Whether the run fails by it."""
        return bool(self.is_empty or self.missing) or any(claim.fails for claim in self.claims)


def compare(
    run: Run,
    name: str,
    baselines: Mapping[str, Baseline],
    limits: Limits,
    allowed: Collection[str] = (),
    asked: Callable[[str], bool] = lambda test: False,
) -> Comparison:
    """What moved in a run.

    **Arguments**

    - `name`, `baselines`: the baseline, claim to what was saved of it.
    - `limits`: how far each figure may move; a share is one of what the figure was, that of a gap
      one of the claim's tolerance where that is larger.
    - `allowed`: what may be another than it was: `"acceptance"`, `"data"`; and whether claims of
      the baseline may be `"missing"`.
    - `asked`: whether a claim, were it still there, would have been run.
    """
    here = {one.test: one for one in run.claims if one.result != INTERRUPTED}
    verdicts = {test: one.verdict for test, one in here.items() if one.verdict is not None}
    pairs = {
        test: Pair(baselines[test], Baseline.of(verdict, run.versions))
        for test, verdict in verdicts.items()
        if test in baselines
    }
    figures = sum(map(_intervals, pairs.values()))
    confidence = 1 - (1 - CONFIDENCE) / max(1, figures)
    claims = []
    for test, one in here.items():
        if test in pairs:
            claims.append(_compared(pairs[test], limits, confidence, allowed))
        elif test in baselines and not one.is_marked:
            old, changed = baselines[test], ("it has no verdict now",)
            was = result_of(old.outcome, old.average)
            claims.append(ClaimComparison(test, was, one.outcome, changed=changed))
    files, ran = {_file(one.test) for one in run.claims}, {one.test for one in run.claims}
    missing = tuple(test for test in sorted(baselines) if test not in ran and asked(test))
    gone = () if MISSING in allowed else missing
    in_one = {
        "not in the baseline": [test for test in verdicts if test not in baselines],
        "in the baseline, but not in this run": [
            test
            for test in sorted(baselines)
            if test not in here and test not in gone and (test in missing or _file(test) in files)
        ],
        "in the baseline, but skipped by its mark": [
            test for test, one in here.items() if test in baselines and one.is_marked
        ],
    }
    beside = [f"{test}: {where}" for where, tests in in_one.items() for test in tests]
    if of_old := sum(not old.bounds for old, _ in pairs.values()):
        claims_of = f"{of_old} claim{'s' * (of_old > 1)}"
        beside.append(
            f"what {claims_of} accepted is not in this older baseline; --scrub-save={name} keeps it"
        )
    if versions := "; ".join(_other_versions(pairs.values(), run.versions)):
        beside.append(f"other versions than the baseline's: {versions}")
    is_empty = bool(baselines) and not claims
    return Comparison(name, tuple(claims), tuple(beside), gone, confidence, is_empty)


def _file(test: str) -> str:
    return test.partition("::")[0]


def _compared(
    pair: Pair, limits: Limits, confidence: float, allowed: Collection[str]
) -> ClaimComparison:
    old, new = pair
    objections = {} if pair.incomparable else dict(_objections(pair))
    let_pass = [said for kind, said in objections.items() if kind in allowed]
    changes = (
        gap_change(pair, limits[GAP], confidence),
        _accuracy_change(pair, limits[ACCURACY], confidence),
        _null_change(pair, limits[NULL], confidence),
        _explained_change(pair, limits[EXPLAINED], confidence),
        _worst_change(pair, limits[WORST], confidence),
        _power_change(pair, limits[POWER], confidence),
    )
    return ClaimComparison(
        old.claim,
        result_of(old.outcome, old.average),
        result_of(new.outcome, new.average),
        ()
        if pair.incomparable
        else tuple(
            replace(change, gates=limits[change.figure].gates)
            for change in changes
            if change is not None
        ),
        (*let_pass, *_changed(pair)),
        pair.incomparable,
        pair.by_search,
        {kind: said for kind, said in objections.items() if kind not in allowed},
    )


def _objections(pair: Pair) -> Iterator[tuple[str, str]]:
    """What is another than it was and fails the run, by the word that allows it."""
    old, new = pair
    if said := pair.acceptance:
        yield ACCEPTANCE, said
    if old.dataset_digest != new.dataset_digest:
        other = f": {old.dataset} -> {new.dataset}" if old.dataset != new.dataset else ""
        yield DATA, f"the data changed (rows, labels or features){other}"


def _changed(pair: Pair) -> Iterator[str]:
    old, new = pair
    if old.model_digest != new.model_digest:
        yield (
            "the network's weights changed"
            if old.model == new.model
            else f"the network: {old.model} -> {new.model}"
        )
    if not (math.isclose(old.tolerance, new.tolerance, rel_tol=1e-5) or pair.acceptance):
        yield f"the tolerance: {old.tolerance:.4g} -> {new.tolerance:.4g}"
    if pair.by_search:
        yield "the outcomes differ by what a search found, and another seed finds something else"
    others, unknown = pair.functions
    if follow := [what for what in others if what.startswith(COMPUTED_BY)]:
        yield _computing_else(follow)
    if unknown:
        yield (
            f"whether {', '.join(unknown)} still computes the same is not known: what was saved "
            "does not say it, or for another version of Python, or its code cannot be seen"
        )
    if old.interval != new.interval:
        yield f"the interval: {old.interval} -> {new.interval}"


def _other_versions(pairs: Collection[Pair], now: Mapping[str, str]) -> Iterator[str]:
    """Each package once, however many claims were saved with another one."""
    packages = {*now, *(package for old, _ in pairs for package in old.versions)}
    for package in sorted(packages - {*NOT_KEPT}) if pairs else ():
        before = {old.versions.get(package, "none") for old, _ in pairs}
        if before != {now.get(package, "none")}:
            yield f"{package} {', '.join(sorted(before))} -> {now.get(package, 'none')}"


# Figures ------------------------------------------------------------------------------------------


def gap_change(pair: Pair, limit: Limit, confidence: float) -> FigureChange:
    """Whether the gap moved, where intervals that are valid at any stopping time are widened to
    that confidence."""
    old, new = (one.figures.gap for one in pair)
    room = limit.of(max(abs(old.mean), min(one.tolerance for one in pair)))
    why, by = "", None
    if not (why := _unknown(old, new)):
        by = difference(*both(pair, GAP, confidence))
    return FigureChange(GAP, old.mean, new.mean, by, room, _judged(by, room, pair.last_digit), why)


def _unknown(old: Estimate, new: Estimate) -> str:
    """Which of two intervals has no ends, or nothing."""
    if old.is_known and new.is_known:
        return ""
    return f"too few draws {'then' if new.is_known else 'now'} to know its interval"


def both(pair: Pair, figure: str, confidence: float) -> tuple[Estimate, Estimate]:
    """A figure then and now, each interval with half of the error, so that both hold however they
    depend on one another; from that of the claim's own confidence."""
    half = (1 + confidence) / 2

    def widest(one: Baseline) -> Estimate:
        figures, estimate, draws = one.figures, one.figures.gap, one.samples
        if figure == NULL and figures.null is not None:
            estimate, draws = figures.null.gap, figures.null.samples
        if figure == WORST and figures.worst is not None:
            estimate, draws = figures.worst.known, figures.worst.references
        return widened(estimate, draws, half, one.confidence)

    return widest(pair.old), widest(pair.new)


def difference(old: Estimate, new: Estimate) -> Estimate:
    """New minus old."""
    return Estimate(new.mean - old.mean, new.low - old.high, new.high - old.low)


def _accuracy_change(pair: Pair, limit: Limit, confidence: float) -> FigureChange | None:
    old, new = (one.figures.accuracy for one in pair)
    if old is None or new is None:
        then, now = (None if one is None else one.share for one in (old, new))
        return _of_one_side(ACCURACY, then, now, "counted")
    # half of the error for each, as they may depend on one another
    by = difference(*(one.interval((1 + confidence) / 2) for one in (old, new)))
    room = limit.of(old.share)
    return FigureChange(ACCURACY, old.share, new.share, by, room, _judged(by, room, _LEAST))


def _null_change(pair: Pair, limit: Limit, confidence: float) -> FigureChange | None:
    old, new = (one.figures.null for one in pair)
    if old is None:  # an older file says nothing of it
        return None
    if new is None:
        return _of_one_side(NULL, old.gap.mean, None, "judged")
    room, by = limit.of(old.gap.mean), None
    if not (why := _unknown(old.gap, new.gap)):
        by = difference(*both(pair, NULL, confidence))
    verdict = _judged(by, room, pair.last_digit)
    return FigureChange(NULL, old.gap.mean, new.gap.mean, by, room, verdict, why)


def _explained_change(pair: Pair, limit: Limit, confidence: float) -> FigureChange | None:
    then, now = (one.figures.null for one in pair)
    if then is None:
        return None
    old, new = then.explained, None if now is None else now.explained
    if old is None or new is None:
        return _of_one_side(EXPLAINED, old, new, "defined")
    shares = [
        _explained(old, *(both(pair, of, confidence)[0] for of in (GAP, NULL))),
        _explained(new, *(both(pair, of, confidence)[1] for of in (GAP, NULL))),
    ]
    by, why = None, ""
    if None in shares:
        when = "then" if shares[0] is None else "now"
        why = f"what there is to explain may have been nothing {when}"
    else:
        by = difference(*filter(None, shares))
    room = limit.of(old)
    return FigureChange(EXPLAINED, old, new, by, room, _judged(by, room, _LEAST), why)


def _explained(share: float, gap: Estimate, null: Estimate) -> Estimate | None:
    """A share explained with the interval that those of both gaps leave it; None where the null may
    cost nothing."""
    if not (gap.is_known and null.is_known) or null.low <= 0 <= null.high:
        return None
    ends = [1 - one / of for one in (gap.low, gap.high) for of in (null.low, null.high)]
    return Estimate(share, min(share, *ends), max(share, *ends))


def _worst_change(pair: Pair, limit: Limit, confidence: float) -> FigureChange | None:
    old, new = (one.figures.worst for one in pair)
    if old is None or new is None:
        then, now = (None if one is None else one.gap for one in (old, new))
        return _of_one_side(WORST, then, now, "searched")
    room, by = limit.of(old.gap), Estimate(*[new.gap - old.gap] * 3)
    # what is the same is so however it was found
    is_same = abs(by.mean) <= pair.last_digit
    why = "" if is_same else _other_search(pair, old, new) or _unknown(old.known, new.known)
    if not (is_same or why):
        by = difference(*both(pair, WORST, confidence))
    found = None if why else by
    return FigureChange(
        WORST, old.gap, new.gap, found, room, _judged(found, room, pair.last_digit), why
    )


def _other_search(pair: Pair, old: Worst, new: Worst) -> str:
    """Why two searches may have found different worsts of the same claim, or nothing."""
    reasons = {
        "another seed": pair.old.seed != pair.new.seed,
        "other data": pair.old.dataset_digest != pair.new.dataset_digest,
        "another search": (old.budget, old.tried) != (new.budget, new.tried),
        "a deadline ended the search": old.late or new.late,
    }
    return next((why for why, is_so in reasons.items() if is_so), "")


def _of_one_side(
    figure: str, old: float | Refuted | None, new: float | Refuted | None, found: str
) -> FigureChange | None:
    """A figure that is not there on both sides."""
    if old is None and new is None:
        return None
    if old is None:
        return FigureChange(figure, old, new, None, 0.0, NOT_COMPARED, f"{found} now alone")
    return FigureChange(figure, old, new, None, 0.0, VANISHED, f"{found} then alone")


def _intervals(pair: Pair) -> int:
    """How many figures of a claim have intervals that may miss, among which the error is shared."""
    if pair.incomparable:
        return 0
    nulls, worsts = ([getattr(one.figures, of) for one in pair] for of in ("null", "worst"))
    is_worst_compared = all(worsts) and pair.old.seed == pair.new.seed
    has_interval = is_worst_compared and not any(one.is_point for one in worsts)
    counted = [one.figures.accuracy for one in pair]
    have_accuracy = all(counted) and not all(one.exact for one in counted if one)
    return 1 + _have_powers(pair) + all(nulls) + has_interval + have_accuracy


def _have_powers(pair: Pair) -> bool:
    powers = [one.figures.power for one in pair]
    return all(power is not None and power.of for power in powers)


def _power_change(pair: Pair, limit: Limit, confidence: float) -> FigureChange | None:
    old, new = (one.figures.power for one in pair)
    if old is None or new is None:
        return _of_one_side(POWER, old, new, "judged")
    if not _have_powers(pair):
        verdict = VANISHED if old.of and not new.of else NOT_COMPARED
        return FigureChange(POWER, old, new, None, 0.0, verdict, "no mutants")
    room, by = limit.of(old.share), shares_differ(old, new, confidence)
    is_clear = fisher(old, new) < 1 - confidence
    return FigureChange(POWER, old, new, by, room, _judged(by, room if is_clear else math.inf, 0.0))


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


def _judged(by: Estimate | None, room: float, rounding: float) -> str:
    if by is None:
        return NOT_COMPARED
    if by.low > room + rounding or by.high < -room - rounding:
        return MOVED
    return UNCHANGED if abs(by.mean) <= rounding else WITHIN
