"""Which of several distributions of allowed swap sets is the worst for a claim.

They are compared on one half of the references and donors, and the worst is drawn anew on the other
half: what was chosen for looking bad is measured where it was not chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pytest_scrub.adversaries.bound import by_distribution
from pytest_scrub.adversaries.search import (
    Choose,
    Distribution,
    Found,
    NotSearched,
    Spending,
    can_change,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.statistics.sampling import BATCH, BURN_IN, FEWEST_UNITS
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.verdict import UNDECIDED

REPORT_SHARE = 0.25  # of the budget: what the interval of the worst distribution is drawn with
FEWEST_DRAWS = 8  # of one distribution, to choose it
# of the chosen one: with fewer, a mean is no normal distribution and its interval means nothing
FEWEST_REPORTED = 30
LEAST_SWAPPED = 0.05  # of the references, by a distribution that swaps nothing for the others
LEAST_CONTENTS = 4  # references of different content that can be halved


class Comparison:
    """A swap space cut in two, rows of equal content together, and what each distribution changed
    on average in the first half.

    **Raises** `NotSearched` where too few rows differ.
    """

    def __init__(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> None:
        self.spending = spending
        self.budget = int(spending.left * (1 - REPORT_SHARE))  # to choose with
        self._sums: dict[Distribution, float] = {}
        self._draws: dict[Distribution, int] = {}
        content, references, donors = space.dataset.content, space.reference_rows, space.donor_rows
        # A reference that is also a donor keeps the side its content has.
        of_references = np.unique(content[references])
        of_donors = np.setdiff1d(content[donors], of_references)
        halved = [
            kinds[: len(kinds) // 2]
            for kinds in (rng.permutation(of_references), rng.permutation(of_donors))
        ]
        first = np.isin(content, np.concatenate(halved))
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

    def draw(self, one: Distribution, draws: int, seed: int) -> None:
        """Draw from a distribution, in addition to what was drawn of it before."""
        drawn = one.of(self._first).draw(draws, np.random.default_rng(seed))
        total = float(self.spending.changes(drawn).sum())
        self._sums[one] = self._sums.get(one, 0.0) + total
        self._draws[one] = self._draws.get(one, 0) + draws

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
        drawn = [one for one in among or self._sums if one in self._sums]
        return sorted(drawn, key=lambda one: -self.badness(one))

    def reported(self, how: str, worst: Distribution, rng: np.random.Generator) -> Found:
        """The chosen distribution, drawn on the half that it was not chosen on with all that is
        left of the budget."""
        spending = self.spending
        if spending.left < FEWEST_REPORTED:
            why = spending.exhausted("not searched to the end")
            why.tried = self.tried
            raise why
        swap_set = worst.of(self._second).draw(spending.left, rng)
        changes = spending.changes(swap_set)
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
        draws = max(FEWEST_DRAWS, compared.budget // (rounds * len(choices)))
        seed = int(rng.integers(1 << 62))  # the same draws for all: what differs is what they swap
        for one in choices:
            if spending.left < draws + FEWEST_REPORTED:
                break
            compared.draw(one, draws, seed)
        choices = compared.worst_first(choices)
        if not choices:
            raise spending.exhausted()
        choices = choices[: max(1, len(choices) // 2)]
        spending.stands_at(compared.gap(choices[0]))
    return compared.reported(how, choices[0], rng)


# Drawn until it is decided ------------------------------------------------------------------------


class DrawSequence:
    """A distribution that was chosen by other draws, drawn batch after batch until that decides.

    Its draws and those that chose it are independent, so its interval holds for the references of
    the dataset. Where the interval is to speak of more references than these, half of their
    contents choose and the others are drawn, each once.

    **Arguments**

    - `acceptance`: of the mean of what is drawn.
    - `null`: the evaluator of the claim's null, where the claim is held against what is chosen for
      that, by as many draws.
    """

    def __init__(self, acceptance: Acceptance, null: Evaluator | None = None) -> None:
        self.acceptance, self.null = acceptance, null
        self.ran = False
        self.of_null: Numbers | None = None

    def run(
        self, choose: Choose, space: SwapSpace, spending: Spending, rng: np.random.Generator
    ) -> Found:
        """What was chosen, drawn until it is decided or nothing is left. **Raises** `NotSearched`
        where too little is."""
        self.ran = True
        budget, seed = spending.budget, int(rng.integers(1 << 62))
        generalize = self.acceptance.generalize
        own = _Drawn(choose, space, spending, rng, generalize=generalize)
        null: _Drawn | None = None
        if self.null is not None:
            costs = self.acceptance.of_costs()
            other = Spending(self.null, budget, spending.deadline, acceptance=costs)
            with suppress(NotSearched):
                null = _Drawn(
                    choose, self.null.space, other, np.random.default_rng(seed),
                    generalize=generalize,
                )  # fmt: skip
        more = BURN_IN
        while own.add(more):
            if null is not None and null.add(more):
                self.of_null = null.changes
            decision = by_distribution(self.acceptance, own.changes, self.of_null, own.rounding)
            if decision.outcome != UNDECIDED:
                break
            more = max(BATCH, own.evaluated // 2)
        if len(own.changes) < FEWEST_REPORTED:
            raise spending.exhausted("not searched to the end")
        spending.stands_at(float(own.changes.mean()))
        swap_set = space.swap_set(own.references, own.donors)
        return Found(own.chosen.name, swap_set, own.changes)


class _Drawn:
    """A chosen distribution, for the claim or for its null, and what was drawn of it."""

    def __init__(
        self,
        choose: Choose,
        space: SwapSpace,
        spending: Spending,
        rng: np.random.Generator,
        *,
        generalize: bool,
    ) -> None:
        self.spending, self.rng = spending, rng
        first = second = space
        self._planned: Rows | None = None
        if generalize:
            first, second = _halves(space, rng)
            self._planned = _each_once(second, rng)
        self.chosen = choose(first, spending, rng)
        self._draws, self._space = self.chosen.of(second), space
        self.references = np.empty(0, dtype=np.int64)
        self.donors = np.empty((len(space.slots), 0), dtype=np.int64)
        self.changes = np.empty(0)
        self.evaluated, self._rounding = 0, 0.0

    def add(self, most: int) -> bool:
        """Draw until so many more are evaluated, or as many as there can be; whether there were
        any.

        What is not swapped changes nothing and needs no evaluation.
        """
        before = len(self.changes)
        end = self.evaluated + min(most, self.spending.left)
        drawn_at_most = before + most / LEAST_SWAPPED
        while self.evaluated < end and len(self.changes) < drawn_at_most and self.spending.left:
            n, planned = most, None
            if self._planned is not None:
                planned = self._planned[len(self.changes) :][:n]
                n = len(planned)
            drawn = self._draws.draw(n, self.rng, planned)
            acts = can_change(drawn, self._space)
            affordable = np.cumsum(acts) <= end - self.evaluated
            self._take(drawn[affordable], acts[affordable])
            if not n:
                break
        return len(self.changes) > before

    def _take(self, drawn: SwapSet, acts: npt.NDArray[np.bool_]) -> None:
        changes = np.zeros(len(drawn))
        if acts.any():
            changes[acts] = self.spending.changes(drawn[acts])
        self._rounding += float(self.spending.rounding(drawn, changes).sum())
        self.evaluated += int(acts.sum())
        self.references = np.concatenate([self.references, drawn.references])
        self.donors = np.concatenate([self.donors, drawn.donors], axis=1)
        self.changes = np.concatenate([self.changes, changes])

    @property
    def rounding(self) -> float:
        """How far off the mean change may be."""
        return self._rounding / len(self.changes)


def _halves(space: SwapSpace, rng: np.random.Generator) -> tuple[SwapSpace, SwapSpace]:
    """The same donors for either half of the references' contents."""
    rows = space.reference_rows
    content = space.dataset.content[rows]
    kinds = rng.permutation(np.unique(content))
    first = np.isin(content, kinds[: len(kinds) // 2])
    return space.within(rows[first], space.donor_rows), space.within(rows[~first], space.donor_rows)


def _each_once(space: SwapSpace, rng: np.random.Generator) -> Rows:
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
