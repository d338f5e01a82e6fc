"""*Which donors*: for every reference, the worst allowed donor of every node at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pytest_scrub.adversaries.candidates import Candidates
from pytest_scrub.adversaries.search import (
    EVALUATIONS_OF_A_GRADIENT,
    Found,
    NotSearched,
    Spending,
    swapped_slots,
)
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet

# where the budget allows it, fewer references are searched rather than less well
EVALUATIONS_PER_REFERENCE = 240
MOST_REFERENCES = 200
WIDTHS = (1, 2, 8)  # candidates evaluated for a slot: more, once fewer find nothing better
DRAWS_OF_A_START = 8  # of which the worst is climbed from
LEAST_TO_DRAW = 100  # evaluations left for each reference; with fewer, the first draw has to do
SHIFTED = 2  # slots that are drawn anew to leave a local optimum
IDLE_STARTS = 8  # starts that find nothing new to try, after which all has been tried that can be
MIGRANTS = 4  # other references' donors that are tried for a reference


@dataclass(frozen=True)
class WhichDonors:
    """Coordinate ascent over the slots, all references at once, again and again from elsewhere.

    At every step all donors are ranked, and the most valuable that were not tried are evaluated
    exactly. What was found for one reference is tried for the others that allow it. Exhaustive
    where all combinations fit the budget.

    - `references`: int64 rows to search instead of a random choice among the claim's.
    """

    references: Rows | None = None
    name: str = "which donors"
    pointwise: ClassVar[bool] = True
    effort: ClassVar[int] = 4

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The swap set with the worst donors found for each reference; see `Adversary`."""
        if not swapped_slots(space):
            raise NotSearched("not searched: no slot has a choice of donors")
        references = self._references(space, spending, rng)
        if space.combinations(references).sum() <= spending.left:
            return self._exhaustive(space, spending, references)
        if not spending.left:
            raise spending.exhausted()
        climb = _Climb(space, spending, references, rng)
        if not climb.begin():
            raise spending.exhausted()
        starts = idle = 0
        while climb.affords(1, len(references)) and idle < IDLE_STARTS:
            tried = climb.tried
            climb.start(starts)
            climb.run()
            starts += 1
            idle = 0 if climb.tried > tried else idle + 1
        if not climb.tried:
            raise spending.exhausted()
        how = f"{climb.candidates.how}; coordinate ascent, {starts} start{'s' * (starts != 1)}"
        return Found(how, climb.swap_set(climb.best), climb.changes)

    def _references(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Rows:
        if self.references is not None:
            return self.references
        most = max(1, min(MOST_REFERENCES, spending.left // EVALUATIONS_PER_REFERENCE))
        rows = space.reference_rows
        return rows if len(rows) <= most else np.sort(rng.choice(rows, most, replace=False))

    def _exhaustive(self, space: SwapSpace, spending: Spending, references: Rows) -> Found:
        donors, changes = (
            space.unswapped(references).donors.copy(),
            np.full(len(references), -np.inf),
        )
        place = np.full(len(space.dataset), -1)
        place[references] = np.arange(len(references))
        for swap_set, _ in space.enumerate(references):
            if not spending.left:
                break  # the deadline: all combinations fit the budget
            worth = spending.sign * spending.changes(swap_set)
            where = place[swap_set.references]
            by_worth = np.lexsort((-worth, where))
            columns = by_worth[np.unique(where[by_worth], return_index=True)[1]]
            better = columns[worth[columns] > changes[where[columns]]]
            changes[where[better]], donors[:, where[better]] = (
                worth[better],
                swap_set.donors[:, better],
            )
        tried = np.isfinite(changes)  # all, but for a deadline
        if not tried.any():
            raise spending.exhausted()
        found = space.swap_set(references, donors)[tried]
        spending.stands_at(spending.sign * float(changes[tried].mean()))
        how = (
            "combinations of allowed donors, in order"
            if spending.late
            else "every combination of allowed donors"
        )
        return Found(how, found, spending.sign * changes[tried], exhaustive=not spending.late)


@dataclass
class _Point:
    """One swap set for every reference, int64 `[slots, R]`, and how bad each is, float64 `[R]`."""

    donors: Rows
    worth: Numbers

    def improve(self, which: Rows, donors: Rows, worth: Numbers) -> None:
        """Take over, for the references `which` (with repetitions), what is worse than what is
        here."""
        by_worth = np.lexsort((-worth, which))
        first = by_worth[np.unique(which[by_worth], return_index=True)[1]]
        better = first[worth[first] > self.worth[which[first]]]
        self.donors[:, which[better]], self.worth[which[better]] = donors[:, better], worth[better]


class _Climb:
    """Coordinate ascent for many references at once, and the best that it has seen."""

    def __init__(
        self, space: SwapSpace, spending: Spending, references: Rows, rng: np.random.Generator
    ) -> None:
        self.space, self.spending, self.references, self.rng = space, spending, references, rng
        self.candidates = Candidates(space, spending, references, rng)
        self.everyone = np.arange(len(references))
        self.best = _Point(space.unswapped(references).donors.copy(), np.zeros(len(references)))
        self.here = self.best
        self.seen: list[set[int]] = [set() for _ in references]
        self.salt = rng.integers(1, 1 << 62, size=len(space.slots), dtype=np.int64)
        self.tried = 0

    @property
    def changes(self) -> Numbers:
        return self.spending.sign * self.best.worth

    def begin(self) -> bool:
        """Know what nothing swapped changes: nothing, unless a node is computed. False where that
        is not affordable."""
        if all(slot.node.computed_by is None for slot in self.space.slots):
            return True
        if not self.affords(1, len(self.references)):
            return False
        self.best.worth[:] = -np.inf
        self._try(self.everyone, [self.swap_set(self.best)])
        return True

    def swap_set(self, point: _Point, which: Rows | None = None) -> SwapSet:
        """A point as a swap set, of some of the references."""
        which = self.everyone if which is None else which
        return self.space.swap_set(self.references[which], point.donors[:, which])

    def affords(self, evaluations: int, references: int) -> bool:
        return self.spending.left >= evaluations * references

    def start(self, nth: int) -> None:
        """Go to a random draw, or shift the best in some slots."""
        start = self.space.draw(len(self.references), self.rng, self.references)
        if nth % 2:
            start = self.swap_set(self.best)
            for i in self.rng.permutation(self.candidates.slots)[:SHIFTED]:
                parents = self.candidates.parents(i, start)
                donors = self.space.pick(i, parents, self.rng.random(len(parents)))
                start = self.candidates.moved(start, i, donors, None)
        self.here = _Point(start.donors.copy(), np.full(len(self.references), -np.inf))
        draws = (
            DRAWS_OF_A_START
            if nth % 2 == 0 and self.affords(LEAST_TO_DRAW, len(self.references))
            else 1
        )
        others = [
            self.space.draw(len(self.references), self.rng, self.references)
            for _ in range(draws - 1)
        ]
        self._try(self.everyone, [start, *others], draws)

    def run(self) -> None:
        """Climb until nothing better is found, or the budget is spent."""
        for width in WIDTHS:
            active = self.everyone
            while len(active) and self.affords(EVALUATIONS_OF_A_GRADIENT + 1, len(active)):
                active = active[self._sweep(active, width)]
        if self.spending.left:
            self._migrate()

    def _sweep(self, active: Rows, width: int) -> npt.NDArray[np.bool_]:
        """One visit to every slot; which of the active references got worse."""
        before = self.here.worth[active]
        values = self.candidates.values(self.swap_set(self.here, active))
        for i in self.candidates.slots:
            if not self.spending.left:
                break
            here = self.swap_set(self.here, active)
            # Ranks are estimates: where several are tried, every other one is drawn blindly.
            blind = self.candidates.drawn(i, here, width // 2)
            ranked = self.candidates.best(i, here, values[i], 2 * width)
            for donors, most in ((ranked, width - width // 2), (blind, width // 2)):
                self._try(
                    active,
                    [self.candidates.moved(here, i, donor, values) for donor in donors.T],
                    most,
                )
        better: npt.NDArray[np.bool_] = self.here.worth[active] > before
        return better

    def _migrate(self) -> None:
        """Try for each reference what was found for others that must agree on the same."""
        tops = [
            self.space.agree(i)[self.references]
            for i, slot in enumerate(self.space.slots)
            if slot.parent < 0
        ]
        classes = np.unique(np.stack(tops), axis=1, return_inverse=True)[1].reshape(-1)
        order = np.argsort(-self.best.worth, kind="stable")
        self.here = _Point(self.best.donors.copy(), self.best.worth.copy())
        migrants = []
        for nth in range(2 * MIGRANTS):
            source = self.everyone.copy()
            for c in range(classes.max() + 1):
                members = order[classes[order] == c]
                source[classes == c] = members[min(nth, len(members) - 1)]
            there = self.space.swap_set(self.references, self.best.donors[:, source])
            donors = np.where(self.space.allows(there), there.donors, self.best.donors)
            migrants.append(self.space.swap_set(self.references, donors))
        self._try(self.everyone, migrants, MIGRANTS)

    def _try(self, active: Rows, swap_sets: Iterable[SwapSet], most: int = 1) -> None:
        """Evaluate what is new among the swap sets, at most `most` for each reference, and go where
        it is worst."""
        columns: list[int] = []
        donors: list[Rows] = []
        tried = np.zeros(len(active), dtype=np.int64)
        left = self.spending.left
        for swap_set in swap_sets:
            for column, key in enumerate(self._keys(swap_set)):
                if (
                    tried[column] < most
                    and len(columns) < left
                    and key not in self.seen[active[column]]
                ):
                    self.seen[active[column]].add(key)
                    tried[column] += 1
                    columns.append(column)
                    donors.append(swap_set.donors[:, column])
        self.tried += len(columns)
        if columns:
            which = active[np.array(columns)]
            batch = self.space.swap_set(self.references[which], np.stack(donors, axis=1))
            worth = self.spending.sign * self.spending.changes(batch)
            self.here.improve(which, batch.donors, worth)
            self.best.improve(which, batch.donors, worth)
            if np.isfinite(self.best.worth).all():
                self.spending.stands_at(self.spending.sign * float(self.best.worth.mean()))

    def _keys(self, swap_set: SwapSet) -> list[int]:
        """Equal for the swaps of one reference that give the same activations to every slot that
        reads any."""
        feeds = [i for i, s in enumerate(self.space.slots) if s.is_rest or s.node.is_leaf]
        kinds = np.stack([self.candidates.kinds[i][swap_set.donors[i]] for i in feeds])
        keys: list[int] = (kinds * self.salt[feeds, None]).sum(0).tolist()
        return keys
