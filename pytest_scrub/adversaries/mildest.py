"""*Mildest swaps*: of a claim that swaps hurt, those that hurt each reference least."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pytest_scrub.adversaries.search import Found, NotSearched, Spending, swapped_slots
from pytest_scrub.engine.moved import all_moved
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.slots import REFERENCE
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet

MOST_REFERENCES = 200
FEWEST_EACH = 8  # evaluations of a reference
AT_ONCE = 4096  # evaluations between two looks at a deadline


@dataclass(frozen=True)
class Mildest:
    """Allowed swaps in which every node moves, drawn for each reference; then one child of the
    output after the other is drawn anew, and what hurts less stays."""

    name: str = "mildest swaps"
    pointwise: ClassVar[bool] = True

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The mildest swaps found for each reference; see `Adversary`."""
        if not swapped_slots(space):
            raise NotSearched("not searched: no slot has a choice of donors")
        if spending.by_reference is not None:
            return spending.by_reference(_search, space, spending, rng)
        rows = space.reference_rows
        most = max(1, min(MOST_REFERENCES, spending.left // FEWEST_EACH))
        return _search(space, spending, np.sort(rng.permutation(rows)[:most]), rng)


def _search(
    space: SwapSpace,
    spending: Spending,
    references: Rows,
    rng: np.random.Generator,
    learned: Found | None = None,
    *,
    apart: bool = False,
) -> Found:
    """The mildest swaps of these references; what was found for others is not tried."""
    rounds = spending.left // max(1, len(references))
    if not rounds:
        raise spending.exhausted()
    best = space.unswapped(references).donors.copy()
    least = np.full(len(references), np.inf)  # by how much each is hurt
    tops = _tops(space)
    for nth in range(rounds):
        if not spending.left:
            break
        drawn = space.draw(len(references), rng, references)
        if nth >= rounds // 2:  # all but one branch as they are in the best
            donors, top = best.copy(), rng.choice(np.unique(tops))
            donors[tops == top] = drawn.donors[tops == top]
            drawn = space.swap_set(references, donors)
        hurt = _hurt(drawn, spending)
        milder = hurt < least
        best[:, milder], least[milder] = drawn.donors[:, milder], hurt[milder]
    found = np.isfinite(least)
    if not found.any():
        raise NotSearched("not searched: no swap was drawn in which every node moves")
    changes = spending.sign * least[found]
    spending.stands_at(float(changes.mean()))
    how = f"the mildest of {rounds} swaps of each reference in which every node moves"
    return Found(how, space.swap_set(references, best)[found], changes)


def _tops(space: SwapSpace) -> Rows:
    """int64 `[slots]`: the slot right below the root above each, or itself."""
    tops = np.arange(len(space.slots))
    for i in space.order:
        slot = space.slots[i]
        if slot.shares is not None:
            tops[i] = tops[slot.shares]
        elif slot.parent != REFERENCE:
            tops[i] = tops[slot.parent]
    return tops


def _hurt(swap_set: SwapSet, spending: Spending) -> Numbers:
    """By how much worse the metric gets, float64 `[R]`; infinitely where not every node moved, or
    the swaps are not allowed."""
    hurt = np.full(len(swap_set), np.inf)
    counts = all_moved(spending.evaluator, swap_set)
    counts &= spending.evaluator.space.allows(swap_set)
    for some in np.array_split(np.flatnonzero(counts), -(-int(counts.sum()) // AT_ONCE) or 1):
        if len(some) and spending.left:
            hurt[some] = spending.sign * spending.changes(swap_set[some])
    return hurt
