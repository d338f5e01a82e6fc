"""What every adversary is given, and what it gives back."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pytest_scrub.adversaries.bound import by_distribution, by_references
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.data.strategies import Draw
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.gradients import ActivationGradient
from pytest_scrub.errors import HypothesisError
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.average import percentiles
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.verdict import REFUTED, Attempt

EVALUATIONS_OF_A_GRADIENT = 3  # the backward pass costs twice the forward pass, as usual
MOST_OF_A_CURVE = 100  # points
UNLIMITED = int(np.iinfo(np.int64).max)  # evaluations, where the deadline alone is kept
MOST_USED = 10  # donors whose share of the references says how concentrated a swap set is


class Drawable(Protocol):
    """What gives allowed swap sets: a swap space, or a part of one."""

    def draw(self, n: int, rng: np.random.Generator, references: Rows | None = None) -> SwapSet:
        """`n` independent samples; see `SwapSpace.draw`."""
        ...


@dataclass(frozen=True, eq=False)
class Distribution:
    """A distribution of allowed swap sets, which an adversary may choose.

    - `name`: in reports.
    - `of`: the part of a swap space that it draws from.
    - `gap`: its mean gap on the rows it was tried on.
    - `exact`: slots that are not swapped.
    - `refined`: slots that have to agree on `features` as well.
    """

    name: str
    of: Callable[[SwapSpace], Drawable]
    gap: float = math.nan
    exact: tuple[str, ...] = ()
    refined: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


class NotSearched(Exception):
    """What an adversary raises that could not search; reports show the message.

    - `tried`: the distributions that were compared all the same.
    """

    tried: tuple[Distribution, ...] = ()


@dataclass(frozen=True, eq=False)
class Found:
    """The worst allowed swap set that one adversary found.

    - `how`: the search in words.
    - `swap_set`, `changes`: for each of its references, the change of the metric, float64 `[R]`.
    - `exhaustive`: every combination was evaluated.
    - `tried`: the distributions that were compared.
    - `fresh`: the inputs that the dataset was extended by.
    """

    how: str
    swap_set: SwapSet
    changes: Numbers
    exhaustive: bool = False
    tried: tuple[Distribution, ...] = ()
    fresh: tuple[Draw, ...] = ()

    @property
    def gap(self) -> float:
        """The mean change."""
        return float(self.changes.mean())


class Adversary(Protocol):
    """Searches a swap space for the allowed swap set that makes its claim look worst.

    What it finds is checked and evaluated again, so nothing hangs on the changes that it reports.
    It may say two more things of itself, as attributes:

    - `effort`: how many times the budget of another it gets; 1 by default.
    - `pointwise`: True, the default, where it finds the worst swaps for its own references, whose
      mean then decides. False where it draws from a distribution that was chosen on other rows:
      then the whole interval of the mean has to lie beyond the tolerance.
    """

    @property
    def name(self) -> str:
        """How reports call it; no two of one claim have the same."""
        ...

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The worst allowed swap set found within the budget.

        **Arguments**

        - `space`: that of the evaluator, or a part of it.
        - `spending`: evaluates, and counts.
        - `rng`: the only source of randomness.

        **Raises** `NotSearched`.
        """
        ...


class SearchGroup(Protocol):
    """Searches a group of references."""

    def __call__(
        self,
        space: SwapSpace,
        spending: Spending,
        references: Rows,
        rng: np.random.Generator,
        learned: Found | None,
        *,
        apart: bool,
    ) -> Found:
        """What is worst for each of them.

        **Arguments**

        - `learned`: what was found for others, and may be tried.
        - `apart`: what is found for one of them may not be tried for another.
        """
        ...


# The space, what may be spent, references, and how many donors are tried on them.
Cover = Callable[["SwapSpace", "Spending", Rows, int, np.random.Generator], "Found | None"]


class ByReference(Protocol):
    """Searches references group after group, after a look at all donors."""

    def __call__(
        self,
        search: SearchGroup,
        space: SwapSpace,
        spending: Spending,
        rng: np.random.Generator,
        cover: Cover | None = None,
    ) -> Found:
        """What is found for them."""
        ...


Draws = Callable[[int], SwapSet]  # so many of a distribution that was chosen


@dataclass(frozen=True, eq=False)
class Searched:
    """What one adversary found, measured.

    - `attempt`: in plain values.
    - `evaluator`: of the swap set; where inputs are fresh, on a dataset that has them.
    - `found`: None where nothing was searched.
    - `tried`: the distributions that were compared.
    """

    attempt: Attempt
    evaluator: Evaluator
    found: Found | None = None
    tried: tuple[Distribution, ...] = ()


class Spending:
    """An evaluator whose evaluations are counted against a budget.

    **Arguments**

    - `evaluator`: of the hypothesis that is searched.
    - `evaluations`: the budget; a gradient counts as three.
    - `deadline`: `time.monotonic()` after which no new batch starts, or None.
    - `name`: of the adversary, for progress and reports.
    - `acceptance`: what may be found; by default, anything.

    `by_reference` searches references group after group until they decide; where it is None, some
    of them are searched at once. `by_draws` draws from a chosen distribution likewise.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        evaluations: int,
        deadline: float | None = None,
        name: str = "searching",
        acceptance: Acceptance | None = None,
    ) -> None:
        self.by_reference: ByReference | None = None
        self.by_draws: Callable[[Draws, Spending], tuple[SwapSet, Numbers]] | None = None
        self.evaluator, self.budget, self.deadline = evaluator, evaluations, deadline
        self.name, self.acceptance = name, acceptance or Acceptance(evaluator.metric)
        self.sign = self.acceptance.sign
        # what was found out of rows, and does not change while this is spent
        self.known: dict[tuple[object, ...], Any] = {}
        self.evaluations = 0
        self.multiplications = 0.0
        self.late = False
        self._read_elsewhere = -evaluator.rows_read
        self._curve: list[tuple[int, float]] = []
        self._last: tuple[SwapSet, Numbers] | None = None
        self._unscrubbed = np.full(len(evaluator.dataset), np.nan)

    @property
    def left(self) -> int:
        """Evaluations that may still be spent; none after the deadline."""
        self.late = self.late or (self.deadline is not None and time.monotonic() > self.deadline)
        return 0 if self.late else max(0, self.budget - self.evaluations)

    def exhausted(self, what: str = "not searched") -> NotSearched:
        """Why nothing could be spent."""
        why = "the deadline had passed" if self.late else "the budget is too small"
        return NotSearched(f"{what}: {why}")

    def extend(self, dataset: Dataset) -> None:
        """Go on with a dataset that has more rows at its end."""
        self._read_elsewhere += self.evaluator.rows_read
        self.evaluator = self.evaluator.on(dataset)
        self.known.clear()
        self._unscrubbed = np.full(len(dataset), np.nan)

    def unscrubbed(self, references: Rows) -> Numbers:
        """The clean metric of every reference, computed once for each row."""
        new = np.unique(references[np.isnan(self._unscrubbed[references])])
        self._unscrubbed[new] = self.evaluator.unscrubbed(new)
        found: Numbers = self._unscrubbed[references]
        return found

    def changes(self, swap_set: SwapSet) -> Numbers:
        """Scrubbed minus unscrubbed metric of every reference, float64 `[R]`."""
        self.evaluations += len(swap_set)
        found = self.evaluator.evaluate(swap_set) - self.unscrubbed(swap_set.references)
        if self.evaluator.progress is not None:
            stands = f"worst so far {self._curve[-1][1]:.3g}" if self._curve else ""
            # of what has no end there is no share that is done, and no time that is left
            most = self.evaluations if self.budget == UNLIMITED else self.budget
            self.evaluator.progress(self.name, min(self.evaluations, most), most, stands)
        self.remember(swap_set, found)
        return found

    def remember(self, swap_set: SwapSet, changes: Numbers) -> None:
        """What was evaluated here, at once or in parts, so that judging it evaluates nothing."""
        self._last = swap_set, changes

    def rounding(self, swap_set: SwapSet, changes: Numbers) -> Numbers:
        """How far off the change of each reference may be, float64 `[R]`."""
        clean = self.unscrubbed(swap_set.references)
        return self.evaluator.rounding_of(np.maximum(np.abs(clean), np.abs(clean + changes)))

    def drawn(self, draw: Draws) -> tuple[SwapSet, Numbers]:
        """Draws from a chosen distribution and what they change, until they decide; by default all
        that are left."""
        if self.by_draws is not None:
            return self.by_draws(draw, self)
        swap_set = draw(self.left)
        return swap_set, self.changes(swap_set)

    def slopes(self, swap_set: SwapSet) -> list[ActivationGradient]:
        """The evaluator's slopes at a swap set."""
        self.evaluations += EVALUATIONS_OF_A_GRADIENT * len(swap_set)
        return self.evaluator.slopes(swap_set)

    def stands_at(self, gap: float) -> None:
        """Note the mean gap of the worst so far, for the curve of the search."""
        if not self._curve or gap != self._curve[-1][1]:
            self._curve.append((self.evaluations, gap))

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """(evaluations, mean gap of the worst so far), thinned where there are many."""
        points = min(len(self._curve), MOST_OF_A_CURVE)
        kept = np.unique(np.linspace(0, len(self._curve) - 1, points).astype(np.int64))
        return tuple(self._curve[i] for i in kept)

    @property
    def ranking(self) -> float:
        """What ranking cost beside evaluations, in clean forward passes of one input: one for each
        input that the claim had not read before, cached or not, and the matrix products by the
        number of multiplications."""
        read = self._read_elsewhere + self.evaluator.rows_read
        return read + self.multiplications / self.evaluator.store.multiplications_of_a_run

    def nothing(self, how: str, tried: tuple[Distribution, ...] = ()) -> Searched:
        """An attempt that found nothing, and what it cost all the same."""
        attempt = Attempt(
            adversary=self.name, how=how, searched=False, gap=None, interval=None, unscrubbed=None,
            scrubbed=None, references=0, exhaustive=False, evaluations=self.evaluations,
            ranking=self.ranking, concentration=None, late=self.late, refutes=False,
            curve=self.curve,
        )  # fmt: skip
        return Searched(attempt, self.evaluator, tried=tried)

    def judged(
        self, found: Found, *, pointwise: bool, of_null: Numbers | None = None, exact: bool = False
    ) -> Searched:
        """What an adversary found, with its changes as they are and not as it says.

        **Arguments**

        - `pointwise`: see `Adversary`.
        - `of_null`: what is found for the null, float64; of the same references where pointwise.
        - `exact`: these references are all that there are.

        **Raises** `HypothesisError` where it is not allowed, or not of this claim.
        """
        space = self.evaluator.space
        self._require_allowed(found)
        attempt = self.nothing(found.how).attempt  # what is read from here on ranks nothing
        clean = self.evaluator.unscrubbed(found.swap_set.references)
        if self._last is not None and self._last[0] is found.swap_set:
            changes = self._last[1]
        else:
            changes, acts = np.zeros(len(clean)), can_change(found.swap_set, space)
            changes[acts] = self.evaluator.evaluate(found.swap_set[acts]) - clean[acts]
        rounding = float(self.rounding(found.swap_set, changes).mean())
        if pointwise:
            decision = by_references(self.acceptance, changes, of_null, rounding, exact=exact)
        else:
            decision = by_distribution(self.acceptance, changes, of_null, rounding)
        gap, unscrubbed = float(changes.mean()), float(clean.mean())
        attempt = replace(
            attempt,
            searched=True,
            gap=gap,
            interval=decision.interval,
            longer=decision.longer,
            unscrubbed=unscrubbed,
            scrubbed=unscrubbed + gap,
            references=len(found.swap_set),
            exhaustive=found.exhaustive,
            concentration=concentration(found.swap_set, space),
            refutes=decision.outcome == REFUTED,
            outcome=decision.outcome,
            bound=decision.bound if math.isfinite(decision.bound) else None,
            of_null=decision.of_null,
            pointwise=pointwise,
            changes=percentiles(changes),
        )
        return Searched(attempt, self.evaluator, replace(found, changes=changes), found.tried)

    def _require_allowed(self, found: Found) -> None:
        if not isinstance(found, Found):
            raise HypothesisError(
                f"the adversary {self.name!r} has to return Found(...), not {found!r}"
            )
        if not len(found.swap_set):
            raise HypothesisError(
                f"the adversary {self.name!r} found a swap set without references; where it "
                "finds nothing, raise NotSearched(why)"
            )
        violations = self.evaluator.space.check(found.swap_set)
        if violations:
            raise HypothesisError(
                f"the adversary {self.name!r} found swaps that the claim does not allow: "
                f"{violations[0]}"
            )


def concentration(swap_set: SwapSet, space: SwapSpace) -> float:
    """The share of references in which at least one of the ten most used donors stands in for
    another input."""
    moved, content = space.moved(swap_set), space.content
    kinds, counts = np.unique(content[swap_set.donors[moved]], return_counts=True)
    most = kinds[np.argsort(-counts, kind="stable")[:MOST_USED]]
    return float((moved & np.isin(content[swap_set.donors], most)).any(0).mean())


def is_swapped(swap_set: SwapSet) -> npt.NDArray[np.bool_]:
    """bool `[R]`: some donor is not the reference itself."""
    found: npt.NDArray[np.bool_] = np.any(np.not_equal(swap_set.donors, swap_set.references), 0)
    return found


def is_computed(space: SwapSpace) -> bool:
    """Whether a node, or the label, is computed for references that are not swapped too."""
    return space.predicted is not None or any(
        slot.node.computed_by is not None or slot.node.edited is not None for slot in space.slots
    )


def can_change(swap_set: SwapSet, space: SwapSpace) -> npt.NDArray[np.bool_]:
    """bool `[R]`: where the network computes anything else than it does anyway."""
    return is_swapped(swap_set) | is_computed(space)


def swapped_slots(space: SwapSpace) -> list[int]:
    """Indices of the slots that choose a donor: not frozen, not EXACT, not following a
    sibling's."""
    return [
        i
        for i, slot in enumerate(space.slots)
        if slot.shares is None and slot.path not in space.frozen and not slot.agrees_on.exact
    ]


def swapped_nodes(space: SwapSpace) -> list[str]:
    """The nodes and rests that choose donors, whose slots of all positions are one."""
    return [*dict.fromkeys(space.slots[i].whole for i in swapped_slots(space))]


def sharing(space: SwapSpace, slot: int) -> list[int]:
    """A slot that chooses a donor, and those that take it too."""
    return [i for i, other in enumerate(space.slots) if slot in (i, other.shares)]


def fits(space: SwapSpace, slot: int, donors: Rows, parents: Rows) -> npt.NDArray[np.bool_]:
    """Which donors the slot with this index may take, where its parents' own inputs are these; the
    two arrays are broadcast."""
    codes = space.agree(slot)
    agree: npt.NDArray[np.bool_] = np.equal(codes[donors], codes[parents])
    if space.is_donor.all():
        return agree
    return (agree & space.is_donor[donors]) | np.equal(donors, parents)
