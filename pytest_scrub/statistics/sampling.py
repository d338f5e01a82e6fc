"""The swaps that a claim allows: drawn, batch by batch, until it is decided, or all of them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError
from pytest_scrub.settings import Settings
from pytest_scrub.statistics.acceptance import Interval
from pytest_scrub.statistics.enumerating import enumerated, how_many
from pytest_scrub.statistics.intervals import Numbers, confidence_sequence, point
from pytest_scrub.swaps.null import Null
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.tree.nodes import ANYTHING, output

BURN_IN = 400  # units drawn before the first look: the asymptotic intervals need some
BATCH = 200  # units between two looks
DRAWS_OF_A_PERMUTATION = 40  # at least
ROWS_OF_A_DRAW = 500  # of the data, for which a permutation has one draw more
FEWEST_UNITS = 50  # references of different content that can speak for others


@dataclass(frozen=True)
class Plan:
    """The references of a claim's samples, all of them before the first is evaluated.

    A unit is what intervals count as one independent draw: a reference with one swap, or, where
    they are to speak of the distribution that the rows came from, a reference's content with all of
    its swaps.

    - `rows`: int64 `[samples]`.
    - `per_unit`: how many in a row are one unit.
    - `weights`: float64 `[units]`, 1 in the mean over all of them; None where all are 1.
    """

    rows: Rows
    per_unit: int = 1
    weights: Numbers | None = None

    @classmethod
    def of(
        cls, space: SwapSpace, budget: int, rng: np.random.Generator, *, generalize: bool
    ) -> Plan:
        """Uniform references with replacement or, to generalize, every content once in random
        order.

        **Raises** `DataError` where there are too few references to generalize from.
        """
        rows = space.reference_rows
        if not generalize:
            return cls(rng.choice(rows, size=budget, replace=True))
        _, of_row, counts = np.unique(
            space.dataset.content[rows], return_inverse=True, return_counts=True
        )
        if len(counts) < FEWEST_UNITS:
            raise DataError(
                f"generalize=True speaks of more than these rows, and {len(counts)} references of "
                "different content "
                f"are too few for that; give at least {FEWEST_UNITS}, or leave it out"
            )
        start = np.cumsum(counts) - counts
        nth = (rng.random(len(counts)) * counts).astype(np.int64)  # a uniform row of each content
        chosen = rows[np.argsort(of_row, kind="stable")[start + nth]]
        order = rng.permutation(len(counts))[:budget]
        per_unit = max(1, budget // len(counts))
        weights = None if (counts == 1).all() else counts[order] / counts.mean()
        return cls(np.repeat(chosen[order], per_unit), per_unit, weights)

    def looks(self) -> list[int]:
        """How many samples have been drawn when the interval is looked at."""
        units = len(self.rows) // self.per_unit
        return [n * self.per_unit for n in range(min(BURN_IN, units), units, BATCH)] + [
            len(self.rows)
        ]

    def units(self, values: Numbers) -> Numbers:
        """Float64 `[units]` of one value for each of the first samples."""
        means: Numbers = values.reshape(-1, self.per_unit).mean(1)
        return means if self.weights is None else means * self.weights[: len(means)]

    @property
    def largest_weight(self) -> float:
        """The largest weight of a unit."""
        return 1.0 if self.weights is None else float(self.weights.max())


class References:
    """What is measured on a claim's references beside its own swaps; the same for all of its
    mutants.

    **Arguments**

    - `plan`: which they are.
    - `evaluator`: of any claim about the same network, data and metric: for the unscrubbed metric.
    - `anything`: that of `output(agrees_on=ANYTHING)`, for the baseline.
    - `rng`: of the baseline's donors.
    - `clean`: the unscrubbed metric of rows, float64 `[rows]`, where it is that of another network.
    """

    def __init__(
        self,
        plan: Plan,
        evaluator: Evaluator,
        anything: Evaluator,
        rng: np.random.Generator,
        clean: Numbers | None = None,
    ) -> None:
        self.plan, self._clean = plan, clean
        self._evaluator, self._anything, self._rng = evaluator, anything, rng
        self._unscrubbed = self._baseline = np.empty(0)

    @classmethod
    def of(cls, evaluator: Evaluator, settings: Settings) -> References:
        """Those of a claim, whose evaluator is given.

        **Raises** `DataError` where there are too few references to generalize from.
        """
        plan = Plan.of(
            evaluator.space,
            settings.samples,
            settings.stream("references"),
            generalize=settings.generalize,
        )
        anything = Evaluator(
            evaluator.graph, evaluator.dataset, output(agrees_on=ANYTHING), evaluator.metric,
            store=evaluator.store,
            progress=evaluator.progress,
        )  # fmt: skip
        return cls(plan, evaluator, anything, settings.stream("baseline"))

    def unscrubbed(self, count: int) -> Numbers:
        """The clean metric of the first `count` references."""
        new = self.plan.rows[len(self._unscrubbed) : count]
        self._unscrubbed = np.concatenate([self._unscrubbed, self.clean(new)])
        return self._unscrubbed[:count]

    def only(self, which: npt.NDArray[np.bool_]) -> References:
        """Some of the first ones, bool `[samples]`."""
        some = copy(self)
        some.plan = replace(self.plan, rows=self.plan.rows[: len(which)][which])
        some._unscrubbed, some._baseline = self.unscrubbed(len(which))[which], np.empty(0)
        return some

    def clean(self, rows: Rows) -> Numbers:
        """The clean metric of these references."""
        return self._evaluator.unscrubbed(rows) if self._clean is None else self._clean[rows]

    def rounding_of(self, values: Numbers) -> Numbers:
        """How far off metrics may be that have these values."""
        return self._evaluator.rounding_of(values)

    @cached_property
    def every_baseline(self) -> Sample | None:
        """The baseline of every reference with every row; None where these are more than the
        samples."""
        return every(self._anything, self, len(self.plan.rows))

    def baseline(self, count: int) -> Numbers:
        """The metric of the first `count` references when the whole output comes from an unrelated
        row."""
        new = self.plan.rows[len(self._baseline) : count]
        unrelated = self._anything.space.draw(len(new), self._rng, new)
        self._baseline = np.concatenate([self._baseline, self._anything.evaluate(unrelated)])
        return self._baseline[:count]


class UnderNull:
    """The references of a claim under its null: float64 metrics, drawn as they are asked for.

    Every few draws have a permutation of their own, so the figures speak of all of them.
    """

    def __init__(
        self, evaluator: Evaluator, null: Null, references: References, rng: np.random.Generator
    ) -> None:
        self.null, self._references = null, references
        self._evaluator, self._rng = evaluator.allowing(null.known), rng
        self._scrubbed = np.empty(0)
        self._draws = len(references.plan.rows)
        # a permutation sorts all rows once
        self.together = max(DRAWS_OF_A_PERMUTATION, len(evaluator.dataset) // ROWS_OF_A_DRAW)

    def scrubbed(self, count: int) -> Numbers:
        """The metric of the first `count` references, each with one swap that the null allows.

        **Raises** `ScrubError` where swaps that the null allows cannot be evaluated.
        """
        # what was begun of a permutation's draws is drawn to its end
        new = -(-max(0, count - len(self._scrubbed)) // self.together) * self.together
        rows = self._references.plan.rows[len(self._scrubbed) :][:new]
        if len(rows):
            swap_set = self.null.draw(rows, self._rng, self.together)
            self._scrubbed = np.concatenate([self._scrubbed, self._evaluator.evaluate(swap_set)])
        return self._scrubbed[:count]

    def changes(self, count: int) -> Numbers:
        """Null minus unscrubbed metric of the first `count` references."""
        return self.scrubbed(count) - self._references.unscrubbed(count)

    @cached_property
    def is_enumerable(self) -> bool:
        """Whether what it allows is no more than the samples, under all permutations together."""
        return self._spaces is not None

    @cached_property
    def every(self) -> Sample | None:
        """All that it allows; None where that is not enumerable.

        **Raises** `ScrubError` where swaps that the null allows cannot be evaluated.
        """
        if self._spaces is None:
            return None
        return _evaluated(self._evaluator, self._references, *enumerated(self._spaces))

    @cached_property
    def _spaces(self) -> list[SwapSpace] | None:
        found = self.null.spaces(self._draws // len(self.null.claimed.reference_rows))
        return None if found is None or how_many(found) > self._draws else found


@dataclass(frozen=True, eq=False)
class Sample:
    """What was drawn so far, or all that there is: float64 `[samples]` metrics of a swap set.

    - `weights`: how probable each is, 1 in the mean over all of them, where they are all that there
      are; None where they were drawn, with the first of the `references`.
    """

    references: References
    swap_set: SwapSet
    scrubbed: Numbers
    weights: Numbers | None = None

    def __len__(self) -> int:
        return len(self.scrubbed)

    @property
    def exact(self) -> bool:
        """Whether these are all that there are, so that their mean has no interval."""
        return self.weights is not None

    @cached_property
    def unscrubbed(self) -> Numbers:
        if self.exact:
            return self.references.clean(self.swap_set.references)
        return self.references.unscrubbed(len(self))

    @property
    def baseline(self) -> Sample:
        """The baseline on the same references; all there is of it where these are all and it is few
        enough, else as many draws as are planned."""
        if self.exact and self.references.every_baseline is not None:
            return self.references.every_baseline
        count = len(self.references.plan.rows) if self.exact else len(self)
        return replace(self, scrubbed=self.references.baseline(count), weights=None)

    def under(self, null: UnderNull) -> Sample:
        """The null on the same references, likewise."""
        if self.exact and null.every is not None:
            return null.every
        count = len(self.references.plan.rows) if self.exact else len(self)
        return replace(self, scrubbed=null.scrubbed(count), weights=None)

    def only(self, which: npt.NDArray[np.bool_]) -> Sample:
        """Those samples alone, bool `[samples]`; where they are all that there are, each as likely
        among them."""
        swap_set, scrubbed = self.swap_set[which], self.scrubbed[which]
        if self.weights is None:
            return Sample(self.references.only(which), swap_set, scrubbed)
        weights = self.weights[which]
        return Sample(self.references, swap_set, scrubbed, weights / weights.mean())

    @property
    def changes(self) -> Numbers:
        return self.scrubbed - self.unscrubbed

    def units(self, values: Numbers) -> Numbers:
        """One value for each independent draw, or as each weighs; see `Plan`."""
        return self.references.plan.units(values) if self.weights is None else values * self.weights

    @property
    def largest_weight(self) -> float:
        """The largest weight of a unit."""
        return (
            self.references.plan.largest_weight
            if self.weights is None
            else float(self.weights.max())
        )

    @property
    def interval(self) -> Interval:
        """How a mean of units gets its interval."""
        return point if self.exact else confidence_sequence

    @property
    def rounding(self) -> Numbers:
        """How far off the change of each sample may be, float64 `[samples]`."""
        largest = np.maximum(np.abs(self.unscrubbed), np.abs(self.scrubbed))
        return self.references.rounding_of(largest)

    def mean(self, values: Numbers) -> float:
        """The mean of one value for each sample, as the units weigh it."""
        return float(self.units(values).mean())


def every(
    evaluator: Evaluator, references: References, most: int, *, apart: bool = False
) -> Sample | None:
    """All that the evaluator's claim allows, where that is no more than `most` swap sets; `apart`:
    as of `SwapSpace.enumerate`."""
    # one alone swaps nothing
    if not 2 <= how_many([evaluator.space], apart=apart) <= most:
        return None
    return _evaluated(evaluator, references, *enumerated([evaluator.space], apart=apart))


def _evaluated(
    evaluator: Evaluator, references: References, swap_set: SwapSet, weights: Numbers
) -> Sample:
    return Sample(references, swap_set, evaluator.evaluate(swap_set), weights)


def sample(
    evaluator: Evaluator,
    references: References,
    rng: np.random.Generator,
    is_decided: Callable[[Sample], bool],
    most: int,
) -> Sample:
    """Draw and evaluate the swaps that the evaluator's claim allows until `is_decided`, or as many
    as are planned, or no further look is within `most` samples."""
    space, plan = evaluator.space, references.plan
    donors, scrubbed = np.empty((len(space.slots), 0), dtype=np.int64), np.empty(0)
    first, *others = plan.looks()
    for count in [first, *(look for look in others if look <= most)]:
        rows = plan.rows[len(scrubbed) : count]
        batch = space.draw(len(rows), rng, rows)
        donors = np.concatenate([donors, batch.donors], axis=1)
        scrubbed = np.concatenate([scrubbed, evaluator.evaluate(batch)])
        drawn = Sample(references, space.swap_set(plan.rows[:count], donors), scrubbed)
        if is_decided(drawn):
            break
    return drawn
