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
    evaluator: Evaluator, swap_set: SwapSet, source: StrategySource, fresh: Sequence[Draw],
    tolerance: float,
    spending: Spending,
) -> tuple[Evaluator, SwapSet]:  # fmt: skip
    """A swap set of one reference with its fresh donors made as simple as their strategy can.

    **Arguments**

    - `evaluator`: of a dataset whose last rows are `fresh`.
    - `tolerance`: the change of the metric that has to be exceeded still, the same way as now.
    - `spending`: where a deadline is kept.
    """
    first = len(evaluator.dataset) - len(fresh)
    change = evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)
    direction = float(np.sign(change[0]))
    for i in swapped_slots(evaluator.space):
        donor = int(swap_set.donors[i, 0])
        if not first <= donor < first + len(fresh) or not spending.left:
            continue

        attempt = partial(
            _attempt, evaluator, swap_set, source, donor, direction, tolerance, spending
        )
        simplest = _simplest(source, fresh[donor - first], attempt)
        if simplest is not None:
            evaluator, swap_set = simplest
    return evaluator, swap_set


def _attempt(  # noqa: PLR0917
    evaluator: Evaluator,
    swap_set: SwapSet,
    source: StrategySource,
    donor: int,
    direction: float,
    tolerance: float,
    spending: Spending,
    example: Any,
) -> tuple[Evaluator, SwapSet] | None:
    """The same swaps with an example in the place of one donor, wherever that stands, if they still
    break the claim.

    **Raises** `DataError` for an example that does not fit the data.
    """
    if not spending.left:
        return None
    extended = evaluator.dataset.extend(*source.encode(example))
    there = evaluator.on(extended)
    donors = np.where(swap_set.donors == donor, len(extended) - 1, swap_set.donors)
    tried = there.space.swap_set(swap_set.references, donors)
    if not there.space.allows(tried).all():
        return None
    change = there.evaluate(tried) - there.unscrubbed(tried.references)
    return (there, tried) if direction * change[0] > tolerance else None


def _simplest(
    source: StrategySource, draw: Draw, attempt: Callable[[Any], tuple[Evaluator, SwapSet] | None]
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
            simpler = attempt(example)
            if simpler is not None:
                found[:] = [simpler]
                raise _Breaks

    # Once with the example that is known, which puts it into the database, and once to shrink it.
    with suppress(_Breaks):
        never_breaks.hypothesis.fuzz_one_input(draw.choices)  # type: ignore[attr-defined]
    with suppress(_Breaks):
        never_breaks()
    return found[-1] if found else None
