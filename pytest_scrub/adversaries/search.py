"""What every adversary is given, and what it gives back."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import torch

from pytest_scrub.data.strategies import Draw
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.slopes import Slope
from pytest_scrub.errors import HypothesisError
from pytest_scrub.statistics.deciding import beyond
from pytest_scrub.statistics.intervals import Numbers, seen_once
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.verdict import Estimate

EVALUATIONS_OF_A_GRADIENT = 3  # the backward pass costs twice the forward pass, as usual
MOST_OF_A_CURVE = 100  # points
MOST_USED = 10  # donors whose share of the references says how concentrated a swap set is


class Spending:
    """An evaluator whose evaluations are counted against a budget.

    **Arguments**

    - `evaluator`: of the hypothesis that is searched.
    - `evaluations`: the budget; a gradient counts as three.
    - `deadline`: `time.monotonic()` after which no new batch starts, or None.
    - `purpose`: how progress calls the search.
    - `sides`: whether a gap above zero embarrasses the claim, and one below.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        evaluations: int,
        deadline: float | None = None,
        purpose: str = "searching",
        sides: tuple[bool, bool] = (True, True),
    ) -> None:
        self.purpose, self.sides = purpose, sides
        self.evaluator, self.budget, self.deadline = evaluator, evaluations, deadline
        self.evaluations = 0
        self.multiplications = 0.0
        self._read_before = evaluator.rows_read
        self.late = False
        self._beside = 0.0
        self._curve: list[tuple[int, float]] = []
        self._last: tuple[SwapSet, Numbers] | None = None
        self._unscrubbed = np.full(len(evaluator.dataset), np.nan)

    @property
    def left(self) -> int:
        """Evaluations that may still be spent; none after the deadline."""
        self.late = self.late or (self.deadline is not None and time.monotonic() > self.deadline)
        return 0 if self.late else max(0, self.budget - self.evaluations)

    @property
    def why_none(self) -> str:
        """Why nothing could be spent."""
        return "the deadline had passed" if self.late else "the budget is too small"

    @property
    def sign(self) -> int:
        """1 where a higher metric is worse, else -1."""
        return 1 if self.evaluator.metric.worse == "higher" else -1

    def badness(self, gap: float) -> float:
        """How much a mean gap embarrasses the claim."""
        above, below = self.sides
        return abs(gap) if above and below else gap if above else -gap

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
            self.evaluator.progress(
                self.purpose, min(self.evaluations, self.budget), self.budget, stands
            )
        self._last = swap_set, found
        return found

    def judged(self, found: Found) -> Found:
        """What an adversary found, with its changes as they are and not as it says.

        **Raises** `HypothesisError` where it is not allowed, or not of this claim.
        """
        if found.swap_set is None:
            return replace(found, changes=None, interval=None)
        own, there = self.evaluator, found.evaluator or self.evaluator
        if (there.graph, there.hypothesis, there.metric) != (own.graph, own.hypothesis, own.metric):
            raise HypothesisError(
                f"the adversary {found.adversary!r} gave an evaluator of another network, claim or "
                "metric; make it with spending.evaluator.on(dataset)"
            )
        if not len(found.swap_set):
            raise HypothesisError(
                f"the adversary {found.adversary!r} found a swap set without references; where it "
                "finds nothing, return Found(name, why) without one"
            )
        violations = there.space.check(found.swap_set)
        if violations:
            raise HypothesisError(
                f"the adversary {found.adversary!r} found swaps that the claim does not allow: "
                f"{violations[0]}"
            )
        if self._last is not None and self._last[0] is found.swap_set:
            changes = self._last[1]
        else:
            changes = there.evaluate(found.swap_set) - there.unscrubbed(found.swap_set.references)
        found = replace(found, changes=changes)
        return found if found.pointwise else replace(found, interval=interval_of(found, there))

    def stands_at(self, gap: float) -> None:
        """Note the mean gap of the worst so far, for the curve of the search."""
        if not self._curve or gap != self._curve[-1][1]:
            self._curve.append((self.evaluations, gap))

    @property
    def curve(self) -> tuple[tuple[int, float], ...]:
        """(evaluations, mean gap of the worst so far), thinned where there are many."""
        keep = np.unique(
            np.linspace(0, len(self._curve) - 1, min(len(self._curve), MOST_OF_A_CURVE)).astype(
                np.int64
            )
        )
        return tuple(self._curve[i] for i in keep)

    def take_over(self, other: Spending) -> None:
        """Count what another search spent within this one's budget."""
        self._curve += [(self.evaluations + spent, gap) for spent, gap in other.curve]
        self.evaluations += other.evaluations
        self._beside += other.ranking
        self.late = self.late or other.late

    def slopes(self, swap_set: SwapSet) -> list[Slope]:
        """The evaluator's slopes at a swap set."""
        self.evaluations += EVALUATIONS_OF_A_GRADIENT * len(swap_set)
        return self.evaluator.slopes(swap_set)

    @property
    def ranking(self) -> float:
        """What ranking cost beside evaluations, in clean forward passes of one input: one for each
        input that the claim had not read before, cached or not, and the matrix products by the
        number of multiplications."""
        own = self.evaluator.rows_read - self._read_before
        return self._beside + own + self.multiplications / self._multiplications_of_a_forward

    @cached_property
    def _multiplications_of_a_forward(self) -> float:
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            self.evaluator.graph.run(self.evaluator.dataset.batch(np.zeros(1, dtype=np.int64)))
        counted = counter.get_total_flops() / 2  # a multiplication and an addition
        # Plain functions may multiply no matrices: then one operation for every component and
        # number of the input.
        numbers = sum(tensor[0].numel() for tensor in self.evaluator.dataset.inputs.values())
        return counted or float(numbers * len(self.evaluator.graph.components))


@dataclass(frozen=True, eq=False)
class Arm:
    """One distribution of swap sets that was tried: what it is, and its mean gap on the rows it was
    tried on.

    - `exact`: slots that were not swapped.
    - `refined`: slots that had to agree on `features` as well.
    """

    name: str
    gap: float
    exact: tuple[str, ...] = ()
    refined: tuple[str, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Found:
    """The worst allowed swap set that one adversary found.

    - `swap_set`, `changes`: the swap set and, for each of its references, the change of the metric;
      of None where nothing could be searched, for which `how` gives the reason.
    - `interval`: of the mean change, where the swap set was drawn anew on rows that the search had
      not seen: then all of it has to lie beyond the tolerance to refute the claim, else the mean.
    - `exhaustive`: every combination was evaluated.
    - `evaluations`: scrubbed evaluations, a gradient counting as three.
    - `ranking`: what was computed beside them to choose what to evaluate, in clean forward passes
      of one input.
    - `how`: the search in words.
    - `late`: the deadline ended the search before its budget did.
    - `arms`: the distributions that were compared.
    - `curve`: (evaluations, mean gap of the worst so far) along the search.
    - `evaluator`: of the swap set, where it is of a dataset that was extended by the `fresh`
      inputs.
    """

    adversary: str
    how: str
    swap_set: SwapSet | None = None
    changes: Numbers | None = None
    interval: Estimate | None = None
    exhaustive: bool = False
    evaluations: int = 0
    ranking: float = 0.0
    late: bool = False
    arms: tuple[Arm, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    evaluator: Evaluator | None = None
    fresh: tuple[Draw, ...] = ()

    @property
    def gap(self) -> float | None:
        """The mean change; None where nothing was searched."""
        return None if self.changes is None else float(self.changes.mean())

    @property
    def pointwise(self) -> bool:
        """Whether it is the worst for its own references, rather than a draw from a distribution
        with an interval."""
        return self.interval is None


class Adversary(Protocol):
    """Searches a swap space for the allowed swap set that makes its claim look worst.

    One that also has an `effort` gets so many times the budget of another; it is 1 for those that
    have none. What it finds is checked and evaluated again, so nothing hangs on the changes that it
    reports.
    """

    @property
    def name(self) -> str:
        """How reports call it."""
        ...

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The worst allowed swap set found within the budget. `space` is that of the evaluator, or
        a part of it."""
        ...


def refutes(found: Found, evaluator: Evaluator, tolerance: float, sides: tuple[bool, bool]) -> bool:
    """Whether what was found lies beyond the tolerance; `evaluator` is that of the claim."""
    if found.swap_set is None or found.changes is None or found.gap is None:
        return False
    return beyond(
        found.gap, found.interval, tolerance, sides, _rounding(found, found.evaluator or evaluator)
    )


def interval_of(found: Found, there: Evaluator) -> Estimate:
    """Of the mean change of a swap set that was drawn from a distribution; `there` is its
    evaluator."""
    assert found.changes is not None
    return seen_once(
        found.changes, there.metric.upper - there.metric.lower, _rounding(found, there)
    )


def _rounding(found: Found, there: Evaluator) -> float:
    """How far off the mean change may be, as the network computes with so many digits."""
    assert found.swap_set is not None
    assert found.changes is not None
    clean = there.unscrubbed(found.swap_set.references)
    return there.rounding * float(np.maximum(np.abs(clean), np.abs(clean + found.changes)).mean())


def concentration(swap_set: SwapSet, space: SwapSpace) -> float:
    """The share of references in which at least one of the ten most used donors stands in for
    another input."""
    moved = space.moved(swap_set)
    content = space.dataset.content
    if not moved.any():
        return 0.0
    kinds, counts = np.unique(content[swap_set.donors[moved]], return_counts=True)
    most = kinds[np.argsort(-counts, kind="stable")[:MOST_USED]]
    return float((moved & np.isin(content[swap_set.donors], most)).any(0).mean())


def swapped_slots(space: SwapSpace) -> list[int]:
    """Indices of the slots that choose a donor: not frozen, not EXACT, not following a
    sibling's."""
    return [
        i
        for i, slot in enumerate(space.slots)
        if slot.shares is None and slot.path not in space.frozen and not slot.agrees_on.exact
    ]
