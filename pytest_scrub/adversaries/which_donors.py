"""*Which donors*: for every reference, the worst allowed donor of every node at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pytest_scrub.adversaries.candidates import Candidates, Values
from pytest_scrub.adversaries.cover import cover, in_order
from pytest_scrub.adversaries.search import (
    EVALUATIONS_OF_A_GRADIENT,
    Found,
    NotSearched,
    Spending,
    is_computed,
    swapped_slots,
)
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet, joined

# where the budget allows it, fewer references are searched rather than less well
EVALUATIONS_PER_REFERENCE = 240
MOST_REFERENCES = 200
WIDTHS = (1, 2, 8)  # candidates evaluated for a slot: more, once fewer find nothing better
DRAWS_OF_A_START = 8  # of which the worst is climbed from
LEAST_TO_DRAW = 100  # evaluations left for each reference; with fewer, the first draw has to do
SHIFTED = 2  # slots that are drawn anew to leave a local optimum
IDLE_STARTS = 8  # starts that find nothing new to try, after which all has been tried that can be
MOST_ALONE = 32  # slots that are visited one after the other
VISITS = 8  # of a sweep over more: several slots at once, as a small batch costs what a larger does
MIGRANTS = 4  # other references' donors that are tried for a reference


_Chosen = tuple[int, Rows]  # a reference, and its donors


@dataclass(frozen=True, eq=False)
class _Tried:
    """A swap set that may be tried: `here` with other donors, int64 `[R]`, in some slots.

    - `keys`: int64 `[R]`, equal for swaps of one reference that give the same activations to all
      that read any.
    """

    here: SwapSet
    keys: Rows
    changes: Mapping[int, Rows] = field(default_factory=dict)

    def donors(self, nth: int) -> Rows:
        """int64 `[slots]`: those of one reference."""
        found: Rows = self.here.donors[:, nth].copy()
        for i, donors in self.changes.items():
            found[i] = donors[nth]
        return found


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
        if self.references is None and spending.by_reference is not None:
            return spending.by_reference(_search, space, spending, rng, cover)
        references = self.references
        if references is None:
            references = space.reference_rows
            most = max(1, min(MOST_REFERENCES, spending.left // EVALUATIONS_PER_REFERENCE))
            if len(references) > most:
                references = np.sort(rng.choice(references, most, replace=False))
        return _search(space, spending, references, rng)


def _search(
    space: SwapSpace,
    spending: Spending,
    references: Rows,
    rng: np.random.Generator,
    learned: Found | None = None,
    *,
    apart: bool = False,
) -> Found:
    """The worst donors of these references; `learned`: what was found for others, which is tried.
    What is found for one another is tried as well, but where they are searched `apart`."""
    if space.combinations(references).sum() <= spending.left:
        return _exhaustive(space, spending, references)
    if not spending.left:
        raise spending.exhausted()
    climb = _Climb(space, spending, references, rng, learned, apart=apart)
    starts = climb.climb()
    if not climb.seen:
        raise spending.exhausted()
    how = f"{climb.candidates.how}; coordinate ascent, {starts} start{'s' * (starts != 1)}"
    return Found(how, climb.swap_set(climb.best), spending.sign * climb.best.worth)


@dataclass
class _Point:
    """One swap set for every reference, int64 `[slots, R]`, and how bad each is, float64 `[R]`.

    `noise`: differences up to it are none, float64 `[R]`; as a share of how bad it is, `rounding`.
    """

    donors: Rows
    worth: Numbers
    noise: Numbers
    rounding: float

    def improve(self, which: Rows, donors: Rows, worth: Numbers) -> None:
        """Take over, for the references `which` (with repetitions), what is worse than what is
        here, by more than the last digits: those depend on what else is in a batch."""
        by_worth = np.lexsort((-worth, which))
        first = by_worth[np.unique(which[by_worth], return_index=True)[1]]
        noise = self.noise[which[first]] + self.rounding * np.abs(worth[first])
        better = first[worth[first] > self.worth[which[first]] + noise]
        self.donors[:, which[better]], self.worth[which[better]] = donors[:, better], worth[better]


def _exhaustive(space: SwapSpace, spending: Spending, references: Rows) -> Found:
    here = space.unswapped(references).donors.copy()
    worst = _Point(here, np.full(len(references), -np.inf), np.zeros(len(references)), 0.0)
    place = np.full(len(space.dataset), -1)
    place[references] = np.arange(len(references))
    for swap_set, _ in space.enumerate(references):
        if not spending.left:
            break  # the deadline: all combinations fit the budget
        worth = spending.sign * spending.changes(swap_set)
        worst.improve(place[swap_set.references], swap_set.donors, worth)
    tried = np.isfinite(worst.worth)  # all, but for a deadline
    if not tried.any():
        raise spending.exhausted()
    changes = spending.sign * worst.worth[tried]
    spending.stands_at(float(changes.mean()))
    how = "every combination of allowed donors"
    if spending.late:
        how = "combinations of allowed donors, in order"
    found = space.swap_set(references, worst.donors)[tried]
    return Found(how, found, changes, exhaustive=not spending.late)


class _Climb:
    """Coordinate ascent for many references at once, and the best that it has seen."""

    def __init__(
        self,
        space: SwapSpace,
        spending: Spending,
        references: Rows,
        rng: np.random.Generator,
        learned: Found | None,
        *,
        apart: bool,
    ) -> None:
        self.space, self.spending, self.references, self.rng = space, spending, references, rng
        self.learned, self.apart = learned, apart
        self.candidates = Candidates(space, spending, references, rng)
        self.everyone = np.arange(len(references))
        rounding = spending.evaluator.rounding
        noise = spending.evaluator.rounding_of(spending.unscrubbed(references))
        here = space.unswapped(references).donors.copy()
        self.best = _Point(here, np.zeros(len(references)), noise, rounding)
        self.here = self.best
        self.seen: set[tuple[int, int]] = set()  # references, and what was tried for each
        reads = np.array([[space.is_read(i)] for i in range(len(space.slots))])
        self.salt = rng.integers(1, 1 << 62, size=reads.shape, dtype=np.int64) * reads

    def swap_set(self, point: _Point, which: Rows | None = None) -> SwapSet:
        """A point as a swap set, of some of the references."""
        which = self.everyone if which is None else which
        return self.space.swap_set(self.references[which], point.donors[:, which])

    def affords(self, evaluations: int, which: Rows) -> bool:
        """Whether each of some references can have so many."""
        return self.spending.left >= evaluations * len(which)

    def climb(self) -> int:
        """Climb from many starts; how many there were."""
        # What nothing swapped changes is known: nothing, unless a node is computed.
        if is_computed(self.space) and self.affords(1, self.everyone):
            self.best.worth[:] = -np.inf
            self._try(self.everyone, [self.swap_set(self.best)])
        starts = idle = 0
        while self.affords(1, self.everyone) and idle < IDLE_STARTS:
            tried = len(self.seen)
            self._start(starts)
            for width in WIDTHS:
                active = self.everyone
                while len(active) and self.affords(EVALUATIONS_OF_A_GRADIENT + 1, active):
                    active = active[self._sweep(active, width)]
            if self.spending.left:
                self._migrate()
            starts += 1
            idle = 0 if len(self.seen) > tried else idle + 1
        return starts

    def _drawn(self) -> SwapSet:
        return self.space.draw(len(self.references), self.rng, self.references)

    def _start(self, nth: int) -> None:
        """Go to a random draw, or shift the best in some slots."""
        start = self._drawn()
        if nth % 2:
            start = self.swap_set(self.best)
            for i in self.rng.permutation(self.candidates.slots)[:SHIFTED]:
                donors = self.candidates.drawn(i, start)
                start = start.with_donors(self.candidates.changed(start, i, donors, None))
        nowhere = np.full(len(self.references), -np.inf)
        self.here = replace(self.best, donors=start.donors.copy(), worth=nowhere)
        starts = [start]
        if nth % 2 == 0 and self.affords(LEAST_TO_DRAW, self.everyone):
            starts += [self._drawn() for _ in range(DRAWS_OF_A_START - 1)]
        self._try(self.everyone, starts, len(starts))
        if nth == 0 and self.learned is not None:
            self._try(self.everyone, self._migrants(), MIGRANTS)

    def _sweep(self, active: Rows, width: int) -> npt.NDArray[np.bool_]:
        """One visit to every slot; which of the active references got worse."""
        before = self.here.worth[active]
        values = self.candidates.values(self.swap_set(self.here, active))
        slots = len(self.candidates.slots)
        visits = slots if slots <= MOST_ALONE else VISITS
        for nth in range(visits):
            if not self.spending.left:
                break
            together = self.candidates.slots[nth::visits]
            if len(together) == 1:
                here = self._as_it_is(self.swap_set(self.here, active))
                for tried, most in self._options(together[0], here, values, width):
                    if chosen := self._new(active, tried, most, self.spending.left):
                        self._evaluated(chosen)
            else:
                self._visit_together(together, active, values, width)
        better: npt.NDArray[np.bool_] = self.here.worth[active] > before
        return better

    def _options(
        self, i: int, as_it_is: _Tried, values: Mapping[int, Values], width: int
    ) -> list[tuple[list[_Tried], int]]:
        """Swap sets with other donors in one slot, and how many of them to evaluate."""
        here = as_it_is.here
        blindly = width // 2  # ranks are estimates: where several are tried, half are drawn blindly
        blind = [self.candidates.drawn(i, here) for _ in range(blindly)]
        if i in self.candidates.idle:
            return []
        ranked = self.candidates.best(i, here, values[i], 2 * width).T
        return [
            ([self._changed(as_it_is, i, donor, values) for donor in donors], most)
            for donors, most in ((ranked, width - blindly), (blind, blindly))
        ]

    def _as_it_is(self, swap_set: SwapSet) -> _Tried:
        each = zip(self.candidates.kinds, swap_set.donors, strict=True)
        kinds = np.stack([kinds[donors] for kinds, donors in each])
        return _Tried(swap_set, (kinds * self.salt).sum(0))

    def _changed(
        self, as_it_is: _Tried, i: int, donors: Rows, values: Mapping[int, Values]
    ) -> _Tried:
        """The same with other donors in one slot, without going through all others."""
        here, keys = as_it_is.here, as_it_is.keys
        changes = self.candidates.changed(here, i, donors, values)
        for j, changed in changes.items():
            kinds = self.candidates.kinds[j]
            keys = keys + (kinds[changed] - kinds[here.donors[j]]) * self.salt[j]
        return _Tried(here, keys, changes)

    def _visit_together(
        self, slots: Sequence[int], active: Rows, values: Mapping[int, Values], width: int
    ) -> None:
        """Visit several slots at once, each with the others as they are; then try all at once that
        were worse by themselves."""
        here, start = self.here.donors.copy(), self.here.worth.copy()
        as_it_is = self._as_it_is(self.swap_set(self.here, active))
        chosen: list[_Chosen] = []
        of_slot: list[int] = []
        for i in slots:
            for tried, most in self._options(i, as_it_is, values, width):
                chosen += self._new(active, tried, most, self.spending.left - len(chosen))
            of_slot += [i] * (len(chosen) - len(of_slot))
        if not chosen:
            return
        which, donors, worth = self._evaluated(chosen)
        noise = self.here.noise[which] + self.here.rounding * np.abs(worth)
        helps = worth > start[which] + noise
        together, helped = here.copy(), np.zeros(len(start), dtype=np.int64)
        for i in slots:
            mine = np.flatnonzero(helps & (np.array(of_slot) == i))
            mine = mine[np.argsort(worth[mine], kind="stable")]  # the worst last, which stays
            of, changed = which[mine], donors[:, mine] != here[:, which[mine]]
            together[:, of] = np.where(changed, donors[:, mine], together[:, of])
            helped[of] += 1
        several = active[helped[active] > 1]
        swap_set = self.space.swap_set(self.references[several], together[:, several])
        allowed = self.space.allows(swap_set)
        if allowed.any():
            self._try(several[allowed], [swap_set[allowed]])

    def _migrants(self) -> list[SwapSet]:
        """For each reference what is worst for others: of every child of the root, and all below
        it, the donors found where its own agree on the same."""
        sources = [] if self.apart else [(self.swap_set(self.best), self.best.worth)]
        if self.learned is not None:
            sources.append((self.learned.swap_set, self.spending.sign * self.learned.changes))
        if not sources:
            return []
        found = joined([swap_set for swap_set, _ in sources])
        place = in_order(np.concatenate([worth for _, worth in sources]), self.best.noise)
        donors = np.repeat(self.best.donors[None], 2 * MIGRANTS, axis=0)
        for top, slots in self.candidates.branches.items():
            codes = self.space.agree(top)
            theirs, own = codes[found.references], codes[self.references]
            members = np.lexsort((place, theirs))
            first, end = (np.searchsorted(theirs[members], own, side) for side in ("left", "right"))
            mine = np.flatnonzero(first < end)
            for nth, one in enumerate(donors):
                source = members[np.minimum(first + nth, end - 1)[mine]]
                one[np.ix_(slots, mine)] = found.donors[np.ix_(slots, source)]
        migrants = [self.space.swap_set(self.references, one) for one in donors]
        return [
            self.space.swap_set(
                self.references,
                np.where(self.space.allows(one), one.donors, self.best.donors),
            )
            for one in migrants
        ]

    def _migrate(self) -> None:
        """Try for each reference what was found for others, from the best of its own."""
        self.here = replace(self.best, donors=self.best.donors.copy(), worth=self.best.worth.copy())
        self._try(self.everyone, self._migrants(), MIGRANTS)

    def _try(self, active: Rows, swap_sets: Sequence[SwapSet], most: int = 1) -> None:
        """Evaluate what is new among the swap sets, at most `most` for each reference, and go where
        it is worst."""
        tried = [self._as_it_is(swap_set) for swap_set in swap_sets]
        if chosen := self._new(active, tried, most, self.spending.left):
            self._evaluated(chosen)

    def _new(
        self, active: Rows, swap_sets: Sequence[_Tried], most: int, left: int
    ) -> list[_Chosen]:
        """What was not tried before among the swap sets, at most `most` for each reference and
        `left` in all."""
        chosen: list[_Chosen] = []
        tried = Counter[int]()
        for swap_set in swap_sets:
            for nth, key in enumerate(zip(active, swap_set.keys.tolist(), strict=True)):
                if tried[nth] < most and len(chosen) < left and key not in self.seen:
                    self.seen.add(key)
                    tried[nth] += 1
                    chosen.append((active[nth], swap_set.donors(nth)))
        return chosen

    def _evaluated(self, chosen: Sequence[_Chosen]) -> tuple[Rows, Rows, Numbers]:
        """Evaluate what was chosen, and go where it is worst. **Returns** references, donors
        `[slots, chosen]`, and how bad each is."""
        which, columns = map(np.array, zip(*chosen, strict=True))
        donors = columns.T
        worth = self.spending.sign * self.spending.changes(
            self.space.swap_set(self.references[which], donors)
        )
        self.here.improve(which, donors, worth)
        self.best.improve(which, donors, worth)
        if np.isfinite(self.best.worth).all():
            self.spending.stands_at(self.spending.sign * float(self.best.worth.mean()))
        return which, donors, worth
