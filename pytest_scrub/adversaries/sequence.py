"""The mean over random references of the worst that a search finds for each, and its interval.

How hard one reference is searched is settled beforehand, and so is what else may be tried for it:
what was found for others comes from a pilot group alone. So references are independent draws,
results only decide whether more of them follow, and the mean has an interval.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from pytest_scrub.adversaries.bound import FEWEST_TO_HOLD, FEWEST_TO_REFUTE, by_references
from pytest_scrub.adversaries.search import (
    UNLIMITED,
    Cover,
    Found,
    NotSearched,
    SearchGroup,
    Spending,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, joined
from pytest_scrub.verdict import UNDECIDED

PILOT = 20  # references whose worst donors are tried for all others
GROUP = 50  # references between two looks, once there are enough to decide either way
# Evaluations of one reference. So few find nearly all that many do, and many references decide.
EFFORT, EFFORT_OF_A_SLOT = 20, 4
REFERENCES = 2250  # of a usual budget; with a larger one each is searched harder
COVERED = 8  # the part of a budget that is spent, at most, to try every donor once
FEWEST_REFERENCES = 300  # of any budget, where slots are so many that each would take more


class ReferenceSequence:
    """References searched group after group, until what is found is decided.

    **Arguments**

    - `acceptance`: of the mean of what is found.
    - `null`: the evaluator of the claim's null, where what is found is held against what is found
      for it: searched on the same references, just as hard.
    """

    def __init__(self, acceptance: Acceptance, null: Evaluator | None = None) -> None:
        self.acceptance, self.null = acceptance, null
        self.ran = self.is_exact = False
        self.is_thorough = True  # no reference was searched less hard than was settled
        self.of_null: Numbers | None = None

    def run(
        self,
        search: SearchGroup,
        space: SwapSpace,
        spending: Spending,
        rng: np.random.Generator,
        cover: Cover | None = None,
    ) -> Found:
        """What is found for all groups but the pilot, after a `cover` of the donors. **Raises**
        `NotSearched` where nothing is affordable."""
        self.ran = True
        rows = rng.permutation(space.reference_rows)
        each = _effort(space, spending.left)
        is_exhaustive = space.combinations(rows).sum() <= spending.left
        at_once = is_exhaustive or len(rows) <= FEWEST_TO_HOLD
        self.is_thorough = is_exhaustive or not at_once or each * len(rows) <= spending.left
        sides = [_Side(search, space, spending, rng)]
        if self.null is not None:
            other = np.random.default_rng(int(rng.integers(1 << 62)))
            unlimited = Spending(self.null, UNLIMITED, spending.deadline)
            unlimited.known = spending.known  # the same rows of the same network
            sides.append(_Side(search, self.null.space, unlimited, other))
        if cover is not None and not at_once:
            # on the references that are searched last, if at all
            donors = min(len(space.donors), len(rows), spending.left // COVERED)
            for side in sides:
                side.learned = cover(side.space, side.spending, rows[::-1], donors, side.rng)
        ends = [len(rows)] if at_once else _ends(len(rows), each, spending.left)
        for start, stop in pairwise([0, *ends]):
            most = spending.left if at_once else each * (stop - start)
            if start > PILOT and sides[0].total - spending.evaluations < most:
                break
            complete = len(sides[0].found)
            try:
                for side in sides:
                    side.add(rows[start:stop], most)
            except NotSearched:
                if start <= PILOT:
                    raise
            late = any(side.spending.late for side in sides)
            self.is_thorough &= not late
            if (
                late
                or len(sides[0].found) != len(sides[-1].found)
                or complete == len(sides[0].found)
            ):
                # a group that was not searched to its end, for the claim and its null, is none
                for side in sides:
                    del side.found[max(complete, 1) :]
                break
            self.is_exact = stop == len(rows)
            if (at_once or start) and self._is_decided(*sides):
                break
        self.of_null = self._of_null(*sides)
        spending.budget = sides[0].total
        return sides[0].together(with_pilot=self.is_exact)

    def _of_null(self, own: _Side, null: _Side | None = None) -> Numbers | None:
        """What is found for the null on the references of what is found; None where a deadline left
        some of them out."""
        if null is None:
            return None
        changes, of_null = (side.changes(with_pilot=self.is_exact) for side in (own, null))
        return of_null if len(of_null) == len(changes) else None

    def _is_decided(self, *sides: _Side) -> bool:
        changes, of_null = sides[0].changes(with_pilot=self.is_exact), self._of_null(*sides)
        decision = by_references(
            self.acceptance, changes, of_null, sides[0].rounding(changes), exact=self.is_exact
        )
        return decision.outcome != UNDECIDED


class _Side:
    """The search for the claim, or for its null, and what it found group after group."""

    def __init__(
        self, search: SearchGroup, space: SwapSpace, spending: Spending, rng: np.random.Generator
    ) -> None:
        self.search, self.space, self.spending, self.rng = search, space, spending, rng
        self.total = spending.budget
        self.learned: Found | None = None  # what is tried for references
        self.found: list[Found] = []

    def add(self, group: Rows, most: int) -> None:
        """Search a group with at most so many evaluations. **Raises** `NotSearched`."""
        is_pilot = not self.found
        self.spending.budget = min(self.total, self.spending.evaluations + most)
        found = self.search(
            self.space, self.spending, group, self.rng, self.learned, apart=not is_pilot
        )
        self.found.append(found)
        if is_pilot:
            self.learned = found if self.learned is None else _both(self.learned, found)

    def groups(self, *, with_pilot: bool) -> list[Found]:
        """What was found; a first group is no pilot where it is the only one."""
        return self.found if with_pilot or len(self.found) == 1 else self.found[1:]

    def changes(self, *, with_pilot: bool) -> Numbers:
        """Float64 `[R]`."""
        return np.concatenate([one.changes for one in self.groups(with_pilot=with_pilot)])

    def together(self, *, with_pilot: bool) -> Found:
        """All groups as one swap set."""
        groups = self.groups(with_pilot=with_pilot)
        references = np.concatenate([one.swap_set.references for one in groups])
        donors = np.concatenate([one.swap_set.donors for one in groups], axis=1)
        return replace(
            groups[-1],
            swap_set=self.space.swap_set(references, donors),
            changes=self.changes(with_pilot=with_pilot),
            exhaustive=all(one.exhaustive for one in groups),
        )

    def rounding(self, changes: Numbers) -> float:
        """How far off the mean change may be, as the network computes with so many digits."""
        references = [one.swap_set.references for one in self.found]
        clean = np.abs(self.spending.unscrubbed(np.concatenate(references))).mean()
        return float(self.spending.evaluator.rounding_of(clean + np.abs(changes).mean()))


def _both(first: Found, second: Found) -> Found:
    return replace(
        first,
        swap_set=joined([first.swap_set, second.swap_set]),
        changes=np.concatenate([first.changes, second.changes]),
    )


def _ends(references: int, each: int, left: int) -> list[int]:
    """Where the groups end. Few references decide nothing, and many are searched at once for less:
    where all that it takes to hold can be paid for, the first look is when a claim may fall."""
    first = [PILOT + FEWEST_TO_REFUTE, PILOT + FEWEST_TO_HOLD]
    if references <= first[-1] or left < each * first[-1]:
        return [*range(PILOT, references, GROUP), references]
    return [PILOT, first[0], *range(first[-1], references, GROUP), references]


def _effort(space: SwapSpace, budget: int) -> int:
    """Evaluations of one reference."""
    of_slots = min(EFFORT_OF_A_SLOT * len(space.slots), budget // FEWEST_REFERENCES)
    return max(EFFORT, of_slots, budget // REFERENCES)
