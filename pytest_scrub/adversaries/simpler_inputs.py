"""Shrinking fresh inputs: Hypothesis looks for the simplest example of the strategy that still
breaks the claim."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.database import InMemoryExampleDatabase

from pytest_scrub.adversaries.search import Spending, swapped_slots
from pytest_scrub.data.strategies import Draw, StrategySource
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError
from pytest_scrub.swaps.swap_set import SwapSet

MOST_SHRINKS = 500  # examples tried for one donor


class _Breaks(Exception):
    """The claim is still broken."""


def shrunk(
    swap_set: SwapSet,
    source: StrategySource,
    fresh: Sequence[Draw],
    tolerance: float,
    spending: Spending,
) -> tuple[Evaluator, SwapSet]:
    """A swap set of one reference with its fresh donors made as simple as their strategy can, and
    the evaluator on the dataset that has them.

    **Arguments**

    - `fresh`: the last rows of the dataset.
    - `tolerance`: the change of the metric that has to be exceeded still, the same way as now.
    - `spending`: whose evaluator is that of the swap set, and where a deadline is kept.
    """
    evaluator = spending.evaluator
    first = len(evaluator.dataset) - len(fresh)
    sign = float(np.sign(_change(evaluator, swap_set)))

    def breaking(donor: int, example: Any) -> tuple[Evaluator, SwapSet] | None:
        """The same swaps with an example in the place of one donor, wherever that stands, if they
        still break the claim."""
        if not spending.left:
            return None
        extended = evaluator.dataset.extend(*source.encode(example))
        there = evaluator.on(extended)
        donors = np.where(swap_set.donors == donor, len(extended) - 1, swap_set.donors)
        tried = there.space.swap_set(swap_set.references, donors)
        if there.space.allows(tried).all() and sign * _change(there, tried) > tolerance:
            return there, tried
        return None

    for i in swapped_slots(evaluator.space):
        donor = int(swap_set.donors[i, 0])
        if first <= donor < first + len(fresh) and spending.left:
            simplest = _simplest(source, fresh[donor - first], partial(breaking, donor))
            evaluator, swap_set = simplest or (evaluator, swap_set)
    return evaluator, swap_set


def _change(evaluator: Evaluator, swap_set: SwapSet) -> float:
    return float((evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references))[0])


def _simplest(
    source: StrategySource, draw: Draw, breaking: Callable[[Any], tuple[Evaluator, SwapSet] | None]
) -> tuple[Evaluator, SwapSet] | None:
    found: list[tuple[Evaluator, SwapSet]] = []

    @settings(
        database=InMemoryExampleDatabase(),
        phases=[Phase.reuse, Phase.shrink],
        max_examples=MOST_SHRINKS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @seed(0)  # below the settings, as it takes their database away
    @given(source.strategy)
    def never_breaks(example: Any) -> None:
        with suppress(DataError):  # an example that does not fit is no counterexample
            simpler = breaking(example)
            if simpler is not None:
                found[:] = [simpler]
                raise _Breaks

    # Once with the example that is known, which puts it into the database, and once to shrink it.
    with suppress(_Breaks):
        never_breaks.hypothesis.fuzz_one_input(draw.choices)  # type: ignore[attr-defined]
    with suppress(_Breaks):
        never_breaks()
    return found[-1] if found else None
