"""The second half of checking a claim: the worst that adversaries find, pruned, saved and
explained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pytest_scrub.adversaries.counterexample import described
from pytest_scrub.adversaries.diagnosis import mends_of, mends_on_average
from pytest_scrub.adversaries.ladder import LADDER, climb_ladder
from pytest_scrub.adversaries.minimal import minimal
from pytest_scrub.adversaries.resolving import resolve
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
from pytest_scrub.adversaries.search import (
    Found,
    Spending,
    concentration,
    interval_of,
    refutes,
)
from pytest_scrub.adversaries.shrinking import shrunk
from pytest_scrub.common.records import shared
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError, ScrubError
from pytest_scrub.settings import OWN_DRAWS, SAVED
from pytest_scrub.statistics.deciding import beyond
from pytest_scrub.statistics.measuring import Measured, percentiles
from pytest_scrub.statistics.slicing import refuted_slice
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.verdict import REFUTED, Attempt, Mend, Search, Worse

MOST_SAVED = 2000  # references of the worst swap set
Sides = tuple[bool, bool]


def search(average: Measured) -> Search:
    """The worst allowed swap sets that adversaries find, and what to make of them."""
    settings, acceptance = average.settings, average.acceptance
    tolerance = settings.found_tolerance
    if tolerance is None:
        tolerance = average.tolerance
    sides = acceptance.sides
    until = until_of(settings.deadline)
    notes: list[str] = []
    file = None if settings.folder is None else path_for(settings.folder, settings.name)
    found = (
        []
        if file is None or settings.anew
        else _tried_first(file, average.evaluator, tolerance, sides, notes)
    )
    is_saved = bool(found)
    if not found:
        adversaries = LADDER if settings.adversaries is None else settings.adversaries
        found = climb_ladder(
            average.evaluator, adversaries, settings.evaluations,
            seed=settings.seed, name=settings.name, until=until, sides=sides,
        )  # fmt: skip
    attempts = tuple(_attempt(one, average.evaluator, tolerance, sides) for one in found)
    worse: Worse = "either" if all(sides) else acceptance.metric.worse
    result = Search(
        tolerance, settings.gates, settings.evaluations, attempts, None, (), worse
    )  # fmt: skip
    breaking = _broken(average, found, tolerance)
    if breaking is not None:
        broken, exceeded = breaking
        broken, small = _pruned(broken, average, exceeded, until, settings.stream("minimal"))
        there = broken.evaluator or average.evaluator
        shown = described(there, small, broken.adversary)
        if file is not None and not is_saved:
            notes += _save(file, average, broken, small, exceeded)
            shown = replace(shown, file=str(file) if file.exists() else None)
        result = replace(
            result, counterexample=shown, mends=_mends(average, found, broken, tolerance, until)
        )
    return replace(result, notes=tuple(notes))


def until_of(deadline: float | None) -> float | None:
    """When so many seconds have passed from now on, as `time.monotonic()`."""
    return None if deadline is None else time.monotonic() + deadline


def _broken(
    average: Measured, found: Sequence[Found], tolerance: float
) -> tuple[Found, float] | None:
    """What breaks the claim, the worst that was found or what refuted it on average, and the
    tolerance it exceeds."""
    acceptance, drawn = average.acceptance, average.sample
    refuting = [
        one for one in found if refutes(one, average.evaluator, tolerance, acceptance.sides)
    ]
    if refuting:
        return max(refuting, key=lambda one: acceptance.badness(one.gap or 0.0)), tolerance
    if average.outcome != REFUTED:
        return None
    if beyond(float(drawn.changes.mean()), None, average.tolerance, acceptance.sides):
        return Found(OWN_DRAWS, "", drawn.swap_set, drawn.changes), average.tolerance
    of_slice, accepted = refuted_slice(average.slices, drawn, average.evaluator.dataset)
    return Found(OWN_DRAWS, "", drawn.swap_set[of_slice], drawn.changes[of_slice]), accepted


def _attempt(found: Found, evaluator: Evaluator, tolerance: float, sides: Sides) -> Attempt:
    there = found.evaluator or evaluator
    clean = scrubbed = share = None
    if found.swap_set is not None and found.gap is not None:
        clean = float(there.unscrubbed(found.swap_set.references).mean())
        scrubbed = clean + found.gap
        share = concentration(found.swap_set, there.space)
    return Attempt(**{
        **shared(Attempt, found),
        "searched": found.swap_set is not None,
        "unscrubbed": clean,
        "scrubbed": scrubbed,
        "references": 0 if found.swap_set is None else len(found.swap_set),
        "concentration": share,
        "refutes": refutes(found, evaluator, tolerance, sides),
        "changes": () if found.changes is None else percentiles(found.changes),
    })  # fmt: skip


def _pruned(
    broken: Found,
    average: Measured,
    tolerance: float,
    until: float | None,
    rng: np.random.Generator,
) -> tuple[Found, SwapSet]:
    """The least of a swap set that still breaks the claim; with what was found on the data that it
    speaks of."""
    there = broken.evaluator or average.evaluator
    assert broken.swap_set is not None
    assert broken.changes is not None
    spending = Spending(there, np.iinfo(np.int64).max, until)
    small = minimal(there.space, spending, broken.swap_set, broken.changes, tolerance, rng)
    source = average.evaluator.dataset.source
    if source is not None and broken.fresh:
        there, small = shrunk(there, small, source, broken.fresh, tolerance, spending)
        # rows were only added
        wider = there.space.swap_set(broken.swap_set.references, broken.swap_set.donors)
        broken = replace(broken, evaluator=there, swap_set=wider)
    return broken, small


def _mends(
    average: Measured, found: Sequence[Found], broken: Found, tolerance: float, until: float | None
) -> tuple[Mend, ...]:
    """What would mend the claim, for the way in which it was refuted."""
    if average.outcome == REFUTED:
        return tuple(mends_on_average(found, average.tolerance))
    there = broken.evaluator or average.evaluator
    assert broken.swap_set is not None
    return tuple(
        mends_of(
            there.space, Spending(there, np.iinfo(np.int64).max, until), broken.swap_set, tolerance
        )
    )


# Saved counterexamples ----------------------------------------------------------------------------


def _tried_first(
    file: Path, evaluator: Evaluator, tolerance: float, sides: Sides, notes: list[str]
) -> list[Found]:
    """What was saved for this claim, where it still breaks it; otherwise a note that says why
    not."""
    try:
        saved = load(file)
        swap_set, there = restored(saved, saved.worst, evaluator)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ScrubError) as error:
        aside = ""
        if isinstance(error, DamagedFile) and not isinstance(error, NewerFile):
            aside = f"; set aside as {set_aside(file).name}"
        notes.append(f"{file.name} could not be tried: {error}{aside}")
        return []
    changes = there.evaluate(swap_set) - there.unscrubbed(swap_set.references)
    found = Found(
        SAVED, f"found before by {saved.worst.adversary}", swap_set, changes,
        evaluations=len(swap_set), evaluator=there,
    )  # fmt: skip
    if not saved.worst.pointwise:
        found = replace(found, interval=interval_of(found, there))
    if refutes(found, evaluator, tolerance, sides):
        return [found]
    notes.append(f"{file.name} no longer breaks the claim (gap {found.gap:.4g})")
    return []


def restored(saved: Saved, swaps: SavedSwaps, evaluator: Evaluator) -> tuple[SwapSet, Evaluator]:
    """A saved swap set on this data, and the evaluator for it, which is another one where inputs
    were fresh.

    **Raises** `RowsGone`, `ClaimChanged`, or `HypothesisError` where the claim no longer allows it.
    """
    dataset, swap_set = resolve(saved, swaps, evaluator.dataset, evaluator.hypothesis)
    there = evaluator
    if dataset is not evaluator.dataset:
        there = evaluator.on(dataset)
    violations = there.space.check(swap_set)
    if violations:
        raise HypothesisError(f"the claim no longer allows the saved swaps: {violations[0]}")
    return swap_set, there


def _save(
    file: Path, average: Measured, broken: Found, small: SwapSet, tolerance: float
) -> list[str]:
    """Keep what breaks the claim; the problem in words where that fails."""
    there = broken.evaluator or average.evaluator
    assert broken.swap_set is not None
    worst = broken.swap_set[:MOST_SAVED]
    rows = rows_of(there.dataset, worst, small, len(average.evaluator.dataset))

    def of(swap_set: SwapSet) -> SavedSwaps:
        clean, scrubbed = there.unscrubbed(swap_set.references), there.evaluate(swap_set)
        return SavedSwaps.of(
            broken.adversary, swap_set, there.dataset, rows,
            clean=clean, scrubbed=scrubbed, pointwise=broken.pointwise,
        )  # fmt: skip

    saved = Saved(
        written_by=written_by(),
        claim=average.settings.name,
        hypothesis=tuple(str(there.hypothesis).split("\n")),
        slots=there.space.paths,
        metric=there.metric.name,
        tolerance=tolerance,
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
