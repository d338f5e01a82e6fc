"""Draws from a distribution that was chosen, group after group, until they decide.

It was chosen on other rows, so its draws are independent, and as their intervals are confidence
sequences, results may say whether another group follows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from pytest_scrub.adversaries.bound import by_distribution
from pytest_scrub.adversaries.search import Draws, NotSearched, Spending, can_change
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.statistics.sampling import BURN_IN
from pytest_scrub.swaps.swap_set import SwapSet, joined
from pytest_scrub.verdict import UNDECIDED

GROUP = 400  # evaluations between two looks, at least
LEAST_SWAPPED = 0.05  # of the references, by a distribution that swaps nothing for the others


class DrawSequence:
    """Draws from what was chosen for a claim, and as many from what was chosen for its null.

    **Arguments**

    - `null`: where what is found is held against what the same search finds for the null: its
      budget, and that search, which raises `NotSearched`.
    """

    def __init__(self, null: tuple[Spending, Callable[[], object]] | None = None) -> None:
        self.null, self.ran = null, False
        self.of_null: Numbers | None = None

    def run(self, draw: Draws, spending: Spending) -> tuple[SwapSet, Numbers]:
        """What is drawn, and its changes."""
        self.ran = True
        own, of_null = _Drawn(draw, spending), None
        more = min(BURN_IN, spending.budget - spending.evaluations)  # whatever the deadline says
        is_more = own.add(more)
        if self.null is not None:
            of_null = _first_of_null(*self.null, more)
        while is_more and not self._is_decided(own, of_null):
            more = min(max(GROUP, own.evaluated // 2), spending.left)
            is_more = bool(more) and own.add(more)
            if of_null is not None and is_more:
                of_null.add(more)
        self.of_null = None if of_null is None else of_null.changes
        return own.together()

    @staticmethod
    def _is_decided(own: _Drawn, of_null: _Drawn | None) -> bool:
        decision = by_distribution(
            own.spending.acceptance,
            own.changes,
            None if of_null is None else of_null.changes,
            own.rounding,
        )
        return decision.outcome != UNDECIDED


class _Drawn:
    """What was drawn so far."""

    def __init__(self, draw: Draws, spending: Spending) -> None:
        self.draw, self.spending = draw, spending
        self.swap_sets: list[SwapSet] = []
        self.changes: Numbers = np.empty(0)
        self.evaluated, self._rounding = 0, 0.0

    def add(self, most: int) -> bool:
        """Draw until nearly so many more are evaluated, or as many as there can be; whether any
        were, as otherwise no more would tell anything else.

        What is not swapped changes nothing and needs no evaluation.
        """
        before, start = len(self.changes), self.evaluated
        end = start + most
        while (
            end - self.evaluated > most * LEAST_SWAPPED
            and len(self.changes) - before < most / LEAST_SWAPPED
        ):
            drawn = self.draw(end - self.evaluated)
            self._take(drawn)
            if not len(drawn):
                break
        return self.evaluated > start

    def _take(self, drawn: SwapSet) -> None:
        acts, changes = can_change(drawn, self.spending.evaluator.space), np.zeros(len(drawn))
        if acts.any():
            changes[acts] = self.spending.changes(drawn[acts])
        self._rounding += float(self.spending.rounding(drawn, changes).sum())
        self.evaluated += int(acts.sum())
        self.swap_sets.append(drawn)
        self.changes = np.concatenate([self.changes, changes])

    @property
    def rounding(self) -> float:
        """How far off the mean change may be."""
        return self._rounding / max(1, len(self.changes))

    def together(self) -> tuple[SwapSet, Numbers]:
        """All groups as one swap set."""
        swap_set = joined(self.swap_sets)
        self.spending.remember(swap_set, self.changes)
        return swap_set, self.changes


def _first_of_null(spending: Spending, search: Callable[[], object], draws: int) -> _Drawn | None:
    """The first group of what is chosen for the null; None where its search finds nothing."""
    found: list[_Drawn] = []

    def first(draw: Draws, of: Spending) -> tuple[SwapSet, Numbers]:
        found.append(_Drawn(draw, of))
        found[0].add(draws)
        return found[0].together()

    spending.by_draws = first
    with suppress(NotSearched):
        search()
    return found[0] if found else None
