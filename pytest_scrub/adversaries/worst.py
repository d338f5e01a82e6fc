"""The second half of checking a claim: the worst that adversaries find, pruned, saved and
explained."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pytest_scrub.adversaries.counterexample import described
from pytest_scrub.adversaries.in_turn import search_in_turn
from pytest_scrub.adversaries.mildest import Mildest
from pytest_scrub.adversaries.minimal import minimal
from pytest_scrub.adversaries.repairs import repairs_of, repairs_on_average
from pytest_scrub.adversaries.saved import (
    DamagedFile,
    NewerFile,
    Saved,
    SavedSwaps,
    load,
    path_for,
    rows_of,
    save,
    set_aside,
    written_by,
)
from pytest_scrub.adversaries.saved_rows import resolve
from pytest_scrub.adversaries.search import UNLIMITED, Searched, Spending
from pytest_scrub.adversaries.simpler_inputs import shrunk
from pytest_scrub.data.strategies import Draw
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError, ScrubError
from pytest_scrub.settings import DRAWN_BY_CLAIM, EFFORT
from pytest_scrub.statistics.acceptance import Acceptance, beyond
from pytest_scrub.statistics.average import Measured
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.statistics.sampling import UnderNull
from pytest_scrub.statistics.slices import outcome_of, refuted_slice
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.verdict import REFUTED, Counterexample, Mend, Search, Worse

MOST_SAVED = 2000  # references of the worst swap set


@dataclass(frozen=True, eq=False)
class _Broken:
    """What breaks the claim.

    - `swap_set`, `changes`: found by `adversary`, with the `fresh` inputs; see `Found`.
    - `evaluator`: of the swap set.
    - `tolerance`: what it exceeds.
    - `pointwise`: see `Adversary`.
    """

    adversary: str
    swap_set: SwapSet
    changes: Numbers
    evaluator: Evaluator
    tolerance: float
    pointwise: bool = True
    fresh: tuple[Draw, ...] = ()


def search(average: Measured) -> Search:
    """The worst allowed swap sets that adversaries find, and what to make of them."""
    settings = average.settings
    acceptance, null = acceptance_of_found(average), null_of_found(average)
    until = deadline_from_now(settings.deadline)
    notes: list[str] = []
    file = None if settings.folder is None else path_for(settings.folder, settings.name)
    if file is not None and not settings.anew:
        notes += _saved_before(file, average.evaluator, acceptance)
    budget = settings.evaluations
    if average.outcome == REFUTED:  # a counterexample is all that is left to be found
        budget = min(budget, EFFORT["quick"] * settings.samples)
    adversaries = settings.adversaries if settings.min_gap is None else [Mildest()]
    searched = search_in_turn(
        average.evaluator, adversaries, budget, acceptance, null,
        seed=settings.seed, name=settings.name, until=until,
    )  # fmt: skip
    shown, mends = None, list[Mend]()
    if settings.min_gap is not None:
        shown = _mildest(searched, acceptance)
    elif (broken := _broken(average, searched, acceptance)) is not None:
        broken, small = _pruned(broken, until, settings.stream("minimal"))
        shown = described(broken.evaluator, small, broken.adversary)
        if file is not None:
            notes += _save(file, average, broken, small)
            shown = replace(shown, file=str(file) if file.exists() else None)
        mends = (
            repairs_on_average(
                [tried for one in searched for tried in one.tried], average.tolerance
            )
            if average.outcome == REFUTED
            else repairs_of(_unlimited(broken, until), broken.swap_set, broken.tolerance)
        )
    found = Search(
        tolerance=average.tolerance,
        gates=settings.gates,
        budget=budget,
        attempts=tuple(one.attempt for one in searched),
        counterexample=shown,
        mends=tuple(mends),
        worse=_worse(acceptance),
        notes=tuple(notes),
    )
    bound = None if found.worst is None else found.worst.bound
    return found if bound is None else replace(found, tolerance=bound)


def _worse(acceptance: Acceptance) -> Worse:
    """Which gap is the worse one for the claim."""
    if acceptance.min_gap is not None:  # the milder one
        return "lower" if acceptance.metric.worse == "higher" else "higher"
    return "either" if all(acceptance.sides) else acceptance.metric.worse


def _mildest(searched: Sequence[Searched], acceptance: Acceptance) -> Counterexample | None:
    """The swap that hurts least of those that were found, where that refutes that swaps hurt."""
    for one in searched:
        if one.found is not None and one.attempt.refutes:
            least = int(np.argmin(acceptance.sign * one.found.changes))
            swap_set = one.found.swap_set[least : least + 1]
            return described(one.evaluator, swap_set, one.attempt.adversary)
    return None


def acceptance_of_found(average: Measured) -> Acceptance:
    """What a claim accepts of swaps that are found: what it accepts on average, unless it says
    otherwise."""
    settings, acceptance = average.settings, average.acceptance
    if settings.min_gap is not None:
        least = settings.min_gap_at_worst
        return replace(acceptance, min_gap=settings.min_gap if least is None else least)
    absolute, share = settings.tolerance_of_search, settings.min_explained_at_worst
    if absolute is None and share is None:
        share = acceptance.min_explained
        lost = abs(average.baseline - average.unscrubbed)
        absolute = replace(acceptance, min_explained=None).accepted(lost)
    return replace(
        acceptance,
        tolerance=None if absolute is None or math.isinf(absolute) else absolute,
        min_recovered=None,
        min_explained=share,
        min_within=None,
    )


def null_of_found(average: Measured) -> Evaluator | None:
    """The evaluator of the claim's null, where what is found is held against it."""
    under = average.under_null
    if under is None or acceptance_of_found(average).min_explained is None:
        return None
    return under_one_permutation(average, under)


def under_one_permutation(average: Measured, under: UnderNull) -> Evaluator:
    """The evaluator of the claim's null as it is searched: features are permuted once for all."""
    return average.evaluator.allowing(under.null.space(average.settings.stream("null, searched")))


def deadline_from_now(deadline: float | None) -> float | None:
    """When so many seconds have passed from now on, as `time.monotonic()`."""
    return None if deadline is None else time.monotonic() + deadline


def _unlimited(broken: _Broken, until: float | None) -> Spending:
    return Spending(broken.evaluator, UNLIMITED, until)


def _broken(
    average: Measured, searched: Sequence[Searched], acceptance: Acceptance
) -> _Broken | None:
    """What breaks the claim: the worst that was found, or what refuted it on average."""
    refuting = [one for one in searched if one.attempt.refutes]
    if refuting:
        worst = max(refuting, key=lambda one: acceptance.badness(one.attempt.found))
        found = worst.found
        assert found is not None
        return _Broken(
            worst.attempt.adversary, found.swap_set, found.changes, worst.evaluator,
            worst.attempt.bound or 0.0, bool(worst.attempt.pointwise), found.fresh,
        )  # fmt: skip
    return _by_its_draws(average, acceptance) if average.outcome == REFUTED else None


def _by_its_draws(average: Measured, acceptance: Acceptance) -> _Broken:
    """What of the claim's own draws refuted it on average."""
    drawn, evaluator, accepted = average.sample, average.evaluator, average.tolerance
    changes, weights = drawn.changes, drawn.weights
    those = np.ones(len(drawn), dtype=np.bool_)
    by_mean = beyond(drawn.mean(changes), accepted, acceptance.sides)
    by_slice = not by_mean and outcome_of(average.slices) == REFUTED
    if by_slice:
        those, accepted = refuted_slice(average.slices, drawn, evaluator.dataset)
    by_single_swaps = not (by_mean or by_slice)
    if by_single_swaps:
        is_above = (changes > accepted).sum() >= (changes < -accepted).sum()
    else:
        own = None if weights is None else weights[those]
        is_above = np.average(changes[those], weights=own) > 0
    if drawn.exact or by_single_swaps:
        # a swap set knows no probabilities: those beyond what is accepted by themselves
        those &= (changes if is_above else -changes) > accepted
    return _Broken(DRAWN_BY_CLAIM, drawn.swap_set[those], changes[those], evaluator, accepted)


def _pruned(
    broken: _Broken, until: float | None, rng: np.random.Generator
) -> tuple[_Broken, SwapSet]:
    """The least of a swap set that still breaks the claim; with what was found on the data that it
    speaks of."""
    there, spending = broken.evaluator, _unlimited(broken, until)
    small = minimal(spending, broken.swap_set, broken.changes, broken.tolerance, rng)
    if there.dataset.source is not None and broken.fresh:
        there, small = shrunk(small, there.dataset.source, broken.fresh, broken.tolerance, spending)
        # rows were only added
        wider = there.space.swap_set(broken.swap_set.references, broken.swap_set.donors)
        broken = replace(broken, evaluator=there, swap_set=wider)
    return broken, small


# Saved counterexamples ----------------------------------------------------------------------------


def _saved_before(file: Path, evaluator: Evaluator, acceptance: Acceptance) -> list[str]:
    """What has become of the counterexample that was saved for this claim, in words: it decides
    nothing."""
    try:
        saved = load(file)
        swap_set, there = restored(saved, saved.minimal, evaluator)
        changes = there.evaluate(swap_set) - there.unscrubbed(swap_set.references)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ScrubError) as error:
        aside = ""
        if isinstance(error, DamagedFile) and not isinstance(error, NewerFile):
            aside = f"; set aside as {set_aside(file).name}"
        return [f"{file.name} could not be tried: {error}{aside}"]
    gap = float(changes.mean())
    tolerance = acceptance.tolerance
    breaks = tolerance is not None and beyond(gap, tolerance, acceptance.sides)
    still = "still has" if breaks else "now has"
    return [
        f"the counterexample of an earlier run, {file.name}, {still} the gap {gap:.4g}; it decides "
        "nothing"
    ]


def restored(saved: Saved, swaps: SavedSwaps, evaluator: Evaluator) -> tuple[SwapSet, Evaluator]:
    """A saved swap set on this data, and the evaluator for it, which is another one where inputs
    were fresh.

    **Raises** `RowsGone`, `ClaimChanged`, or `HypothesisError` where the claim no longer allows it.
    """
    dataset, swap_set = resolve(saved, swaps, evaluator.dataset, evaluator.hypothesis)
    there = evaluator if dataset is evaluator.dataset else evaluator.on(dataset)
    violations = there.space.check(swap_set)
    if violations:
        raise HypothesisError(f"the claim no longer allows the saved swaps: {violations[0]}")
    return swap_set, there


def _save(file: Path, average: Measured, broken: _Broken, small: SwapSet) -> list[str]:
    """Keep what breaks the claim; the problem in words where that fails."""
    there, worst = broken.evaluator, broken.swap_set[:MOST_SAVED]
    rows, places = rows_of(there.dataset, worst, small, len(average.evaluator.dataset))

    def of(swap_set: SwapSet) -> SavedSwaps:
        clean, scrubbed = there.unscrubbed(swap_set.references), there.evaluate(swap_set)
        return SavedSwaps.of(
            broken.adversary, swap_set, places,
            clean=clean, scrubbed=scrubbed, pointwise=broken.pointwise,
        )  # fmt: skip

    saved = Saved(
        written_by=written_by(),
        claim=average.settings.name,
        hypothesis=tuple(str(there.hypothesis).split("\n")),
        slots=there.space.paths,
        metric=there.metric.name,
        tolerance=broken.tolerance,
        worst=of(worst),
        minimal=of(small),
        rows=rows,
        model=there.graph.source,
        model_digest=there.graph.digest(),
        dataset_digest=average.evaluator.dataset.digest(),
    )
    try:
        save(file, saved)
    except OSError as error:
        return [f"the counterexample could not be saved: {error}"]
    return []
