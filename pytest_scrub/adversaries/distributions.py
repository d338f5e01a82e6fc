"""Which of several distributions of allowed swap sets is the worst for a claim.

They are compared on one half of the references and donors with a number of draws that is settled
beforehand, and the worst is drawn anew on the other half, group after group, until it decides: what
was chosen for looking bad is measured where it was not chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from pytest_scrub.adversaries.search import Distribution, Found, NotSearched, Spending
from pytest_scrub.statistics.sampling import FEWEST_UNITS
from pytest_scrub.swaps.space import SwapSpace, drawn_alike
from pytest_scrub.swaps.swap_set import Rows

REPORT_SHARE = 0.25  # of the budget: kept for the interval of the worst distribution
FEWEST_DRAWS = 8  # of one distribution, to choose it
# of one distribution in one round: what so many do not tell apart, more hardly choose better
MOST_DRAWS = 200
# of the chosen one: with fewer, a mean is no normal distribution and its interval means nothing
FEWEST_REPORTED = 30
LEAST_CONTENTS = 4  # references of different content that can be halved
TOGETHER = 4096  # draws of several distributions that are evaluated at once


class Comparison:
    """A swap space cut in two, rows of equal content together, and what each distribution changed
    on average in the first half.

    **Raises** `NotSearched` where too few rows differ.
    """

    def __init__(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> None:
        self.spending = spending
        self.budget = int(spending.left * (1 - REPORT_SHARE))  # to choose with
        self._reserved = max(spending.left - self.budget, FEWEST_REPORTED)
        self._sums: dict[Distribution, float] = {}
        self._draws: dict[Distribution, int] = {}
        content, references, donors = space.dataset.content, space.reference_rows, space.donor_rows
        # A reference that is also a donor keeps the side its content has.
        of_references, of_donors = np.unique(content[references]), np.unique(content[donors])
        is_first = np.zeros(content.max() + 1, dtype=np.bool_)
        for kinds in (of_references, np.setdiff1d(of_donors, of_references)):
            is_first[rng.permutation(kinds)[: len(kinds) // 2]] = True
        first = is_first[content]
        self._first, self._second = (
            space.within(references[side[references]], donors[side[donors]])
            for side in (first, ~first)
        )
        for half in (self._first, self._second):
            contents = len(np.unique(content[half.reference_rows]))
            if contents * 2 < LEAST_CONTENTS or not len(half.donor_rows):
                raise NotSearched(
                    "not searched: too few different inputs to choose on one half and report on "
                    "the other"
                )

    @property
    def left(self) -> int:
        """Evaluations that may still be spent on choosing."""
        return max(0, self.spending.left - self._reserved)

    def draw(self, these: Sequence[Distribution], draws: int, seed: int) -> None:
        """Draw as often from each of some distributions, in addition to what was drawn of them
        before, as far as the budget for choosing goes.

        They are evaluated together, and with the same seed: what differs is what they swap.
        """
        step = max(1, TOGETHER // draws)
        for start in range(0, len(these), step):
            some = these[start : min(start + step, start + self.left // draws)]
            if not some:
                break
            parts = (cast(SwapSpace, one.of(self._first)) for one in some)
            drawn = drawn_alike(parts, draws, seed)
            totals = self.spending.changes(drawn).reshape(len(some), draws).sum(1)
            for one, total in zip(some, totals.tolist(), strict=True):
                self._sums[one] = self._sums.get(one, 0.0) + total
                self._draws[one] = self._draws.get(one, 0) + draws

    def __contains__(self, one: Distribution) -> bool:
        """Whether it was drawn from."""
        return one in self._sums

    def gap(self, one: Distribution) -> float:
        """The mean change of what was drawn."""
        return self._sums[one] / self._draws[one]

    def badness(self, one: Distribution) -> float:
        """How much that embarrasses the claim."""
        return self.spending.acceptance.badness(self.gap(one))

    @property
    def tried(self) -> tuple[Distribution, ...]:
        """All that were drawn from, with their gaps."""
        return tuple(replace(one, gap=self.gap(one)) for one in self._sums)

    def worst_first(self, among: Iterable[Distribution] | None = None) -> list[Distribution]:
        """Those that were drawn from, by default among all."""
        drawn = [one for one in among or self._sums if one in self]
        return sorted(drawn, key=lambda one: -self.badness(one))

    def reported(self, how: str, worst: Distribution, rng: np.random.Generator) -> Found:
        """The chosen distribution, drawn on the half that it was not chosen on until it decides,
        or all that is left of the budget is spent."""
        spending = self.spending
        if spending.left < FEWEST_REPORTED:
            why = spending.exhausted("not searched to the end")
            why.tried = self.tried
            raise why
        space = worst.of(self._second)
        swap_set, changes = spending.drawn(lambda draws: space.draw(draws, rng))
        spending.stands_at(float(changes.mean()))
        return Found(f"{how}: {worst.name}", swap_set, changes, tried=self.tried)


def worst_by_halving(
    how: str,
    choices: Sequence[Distribution],
    space: SwapSpace,
    spending: Spending,
    rng: np.random.Generator,
) -> Found:
    """Successive halving (Jamieson and Talwalkar 2016): every round draws as much as any other, and
    the better half of the distributions goes on."""
    compared = Comparison(space, spending, rng)
    rounds = max(1, int(np.ceil(np.log2(len(choices)))))
    for _ in range(rounds):
        most = min(MOST_DRAWS, compared.budget // (rounds * len(choices)))
        compared.draw(choices, max(FEWEST_DRAWS, most), int(rng.integers(1 << 62)))
        choices = compared.worst_first(choices)
        if not choices:
            raise spending.exhausted()
        choices = choices[: max(1, len(choices) // 2)]
        spending.stands_at(compared.gap(choices[0]))
    return compared.reported(how, choices[0], rng)


# References that stand for more than these --------------------------------------------------------


def halves(space: SwapSpace, rng: np.random.Generator) -> tuple[SwapSpace, SwapSpace]:
    """The same donors for either half of the references' contents."""
    rows = space.reference_rows
    content = space.dataset.content[rows]
    kinds = rng.permutation(np.unique(content))
    first = np.isin(content, kinds[: len(kinds) // 2])
    return space.within(rows[first], space.donor_rows), space.within(rows[~first], space.donor_rows)


def each_once(space: SwapSpace, rng: np.random.Generator) -> Rows:
    """References of different content in random order, each as probable as its content has rows.

    **Raises** `NotSearched` where there are too few.
    """
    rows = rng.permutation(space.reference_rows)
    _, first, counts = np.unique(space.dataset.content[rows], return_index=True, return_counts=True)
    # A content that stands once among others that stand twice is left out half of the time, so that
    # those that are left need no weights.
    kept = rows[rng.permutation(first[rng.random(len(counts)) < counts / counts.max()])]
    if len(kept) < FEWEST_UNITS:
        raise NotSearched(
            "not searched: too few references of different content to choose on one half and "
            "generalize from the other"
        )
    return kept
