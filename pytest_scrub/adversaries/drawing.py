"""Draws from a distribution that was chosen, group after group, until they decide.

It was chosen on other rows, so its draws are independent, and as their intervals are confidence
sequences, results may say whether another group follows.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np

from pytest_scrub.adversaries.bound import by_distribution
from pytest_scrub.adversaries.search import Draws, NotSearched, Spending
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.statistics.sampling import BURN_IN
from pytest_scrub.swaps.swap_set import Rows, SwapSet, joined
from pytest_scrub.verdict import UNDECIDED

GROUP = 400  # draws between two looks


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
        look = min(BURN_IN, spending.budget - spending.evaluations)  # whatever the deadline says
        own.add(look)
        if self.null is not None:
            of_null = _first_of_null(*self.null, look)
        while not self._is_decided(own, of_null) and (more := min(GROUP, spending.left)):
            own.add(more)
            if of_null is not None:
                of_null.add(more)
        self.of_null = None if of_null is None else of_null.changes
        return own.together()

    @staticmethod
    def _is_decided(own: _Drawn, of_null: _Drawn | None) -> bool:
        spending, changes = own.spending, own.changes
        clean = spending.unscrubbed(own.references)
        decision = by_distribution(
            spending.acceptance,
            changes,
            None if of_null is None else of_null.changes,
            spending.rounding(clean, changes),
        )
        return decision.outcome != UNDECIDED


class _Drawn:
    """What was drawn so far."""

    def __init__(self, draw: Draws, spending: Spending) -> None:
        self.draw, self.spending = draw, spending
        self.swap_sets: list[SwapSet] = []
        self.changes: Numbers = np.empty(0)

    def add(self, draws: int) -> None:
        self.swap_sets.append(self.draw(draws))
        new = self.spending.changes(self.swap_sets[-1])
        self.changes = np.concatenate([self.changes, new])

    @property
    def references(self) -> Rows:
        return np.concatenate([one.references for one in self.swap_sets])

    def together(self) -> tuple[SwapSet, Numbers]:
        """All groups as one swap set."""
        return joined(self.swap_sets), self.changes


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
