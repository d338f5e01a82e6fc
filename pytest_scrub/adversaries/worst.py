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
    Adversary,
    Found,
    Spending,
    concentration,
    interval_of,
    refutes,
)
from pytest_scrub.adversaries.shrinking import shrunk
from pytest_scrub.common.calls import is_number, is_whole, shown
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError, ScrubError
from pytest_scrub.statistics.deciding import EITHER, beyond
from pytest_scrub.statistics.measuring import Measured, percentiles
from pytest_scrub.statistics.slicing import refuted_slice
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.verdict import REFUTED, Attempt, Mend, Search

SAVED = "saved counterexample"
OWN_DRAWS = "the claim's own draws"
MOST_EVALUATIONS = 10**12  # years of any machine
MOST_SAVED = 2000  # references of the worst swap set
EVALUATIONS_PER_SAMPLE = 20  # of the whole ladder, by default
GATE, REPORT = "gate", "report"
Sides = tuple[bool, bool]


@dataclass(frozen=True)
class SearchOptions:
    """What a claim says about its adversaries.

    - `adversaries`: None is the whole ladder; empty is no search at all.
    - `tolerance`: the largest mean gap of a swap set that is found; None is the claim's own
      tolerance, and infinity gates as little as `mode="report"`.
    - `mode`: `"gate"`, or `"report"` to show without refuting.
    - `budget`: evaluations for all adversaries together; None is twenty times the samples.
    - `deadline`: seconds after which the search ends early, and says so.
    - `folder`: where counterexamples are saved and looked for; None keeps none.
    - `anew`: search even where a saved one still breaks the claim, so that the worst found depends
      on the seed alone.
    """

    adversaries: Sequence[Adversary] | None = None
    tolerance: float | None = None
    mode: str = GATE
    budget: int | None = None
    deadline: float | None = None
    folder: Path | None = None
    anew: bool = False

    def __post_init__(self) -> None:
        if self.mode not in (GATE, REPORT):
            raise HypothesisError(f"adversary= is {GATE!r} or {REPORT!r}, not {shown(self.mode)}")
        if self.tolerance is not None and not is_number(self.tolerance, 0, math.inf):
            raise HypothesisError(
                f"adversarial_tolerance= is a gap, zero or more, not {shown(self.tolerance)}"
            )
        if self.budget is not None and not is_whole(self.budget, 0, math.inf):
            raise HypothesisError(
                f"budget= is a whole number of evaluations, not {shown(self.budget)}"
            )
        if self.budget is not None and self.budget > MOST_EVALUATIONS:
            raise HypothesisError(
                f"budget= is at most {MOST_EVALUATIONS:,} evaluations, not {shown(self.budget)}"
            )
        if self.deadline is not None and not is_number(self.deadline, 0, math.inf):
            raise HypothesisError(f"deadline= is a number of seconds, not {shown(self.deadline)}")
        if self.adversaries is not None and not isinstance(self.adversaries, (list, tuple)):
            raise HypothesisError(
                f"adversaries= takes a list such as [WhichDonors()], not {shown(self.adversaries)}"
            )
        _require_adversaries(self.adversaries or ())
        # nothing lies beyond it, so what is found is compared with the claim's own
        if self.tolerance == math.inf:
            object.__setattr__(self, "tolerance", None)
            object.__setattr__(self, "mode", REPORT)


def _require_adversaries(adversaries: Sequence[Adversary]) -> None:
    """**Raises** `HypothesisError` for what is no adversary, and for two of one name."""
    for adversary in adversaries:
        if not callable(getattr(adversary, "search", None)) or isinstance(adversary, type):
            raise HypothesisError(
                f"adversaries= takes adversaries such as WhichDonors(), not {shown(adversary)}"
            )
        name, effort = getattr(adversary, "name", None), getattr(adversary, "effort", 1)
        if not isinstance(name, str) or not name or name in (SAVED, OWN_DRAWS):
            raise HypothesisError(
                f"the adversary {adversary!r} needs a name= of its own for reports, not {name!r}"
            )
        if isinstance(effort, bool) or not isinstance(effort, int) or effort < 1:
            raise HypothesisError(
                f"effort= of the adversary {name!r} says how many times the budget of another it "
                f"gets, a whole number of at least 1, not {effort!r}"
            )
    names = [adversary.name for adversary in adversaries]
    for name in names:
        if names.count(name) > 1:
            raise HypothesisError(
                f"two adversaries are called {name!r}; give each a name= of its own"
            )


def search(average: Measured, options: SearchOptions, *, seed: int, name: str) -> Search:
    """The worst allowed swap sets that adversaries find, and what to make of them."""
    tolerance = average.tolerance if options.tolerance is None else options.tolerance
    budget = (
        EVALUATIONS_PER_SAMPLE * average.criteria.samples
        if options.budget is None
        else options.budget
    )
    sides = average.criteria.acceptance.sides
    until = until_of(options.deadline)
    notes: list[str] = []
    file = None if options.folder is None else path_for(options.folder, name)
    found = (
        []
        if file is None or options.anew
        else _tried_first(file, average.evaluator, tolerance, sides, notes)
    )
    is_saved = bool(found)
    if not found:
        adversaries = LADDER if options.adversaries is None else options.adversaries
        found = climb_ladder(
            average.evaluator, adversaries, budget, seed=seed, name=name, until=until, sides=sides
        )  # fmt: skip
    attempts = tuple(_attempt(one, average.evaluator, tolerance, sides) for one in found)
    worse = EITHER if all(sides) else average.criteria.acceptance.metric.worse
    result = Search(tolerance, options.mode == GATE, budget, attempts, None, (), worse)
    breaking = _broken(average, found, tolerance)
    if breaking is not None:
        broken, exceeded = breaking
        broken, small = _pruned(broken, average, exceeded, until, stream(seed, name, "minimal"))
        there = broken.evaluator or average.evaluator
        shown = described(there, small, broken.adversary)
        if file is not None and not is_saved:
            notes += _save(file, name, average, broken, small, exceeded)
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
    acceptance, drawn = average.criteria.acceptance, average.sample
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
    return Attempt(
        adversary=found.adversary,
        how=found.how,
        searched=found.swap_set is not None,
        gap=found.gap,
        interval=found.interval,
        unscrubbed=clean,
        scrubbed=scrubbed,
        references=0 if found.swap_set is None else len(found.swap_set),
        exhaustive=found.exhaustive,
        evaluations=found.evaluations,
        ranking=found.ranking,
        concentration=share,
        late=found.late,
        refutes=refutes(found, evaluator, tolerance, sides),
        changes=() if found.changes is None else percentiles(found.changes),
        curve=found.curve,
    )


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
    file: Path, name: str, average: Measured, broken: Found, small: SwapSet, tolerance: float
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
        claim=name,
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
