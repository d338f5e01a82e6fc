"""Every adversary in turn, weakest first, within one budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from pytest_scrub.adversaries.drawing import DrawSequence
from pytest_scrub.adversaries.search import Adversary, Found, NotSearched, Searched, Spending
from pytest_scrub.adversaries.sequence import ReferenceSequence
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.adversaries.which_inputs import WhichInputs
from pytest_scrub.adversaries.which_nodes import WhichNodes
from pytest_scrub.adversaries.which_refinement import WhichRefinement
from pytest_scrub.adversaries.which_swaps import WhichSwaps
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.settings import WORSE
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.verdict import REFUTED, UNDECIDED

ALL_ADVERSARIES: tuple[Adversary, ...] = (
    WhichSwaps(),
    WhichNodes(),
    WhichRefinement(),
    WhichDonors(),
    WhichInputs(),
)


def search_in_turn(
    evaluator: Evaluator,
    adversaries: Sequence[Adversary] | None,
    budget: int,
    acceptance: Acceptance,
    null: Evaluator | None = None,
    *,
    seed: int,
    name: str,
    until: float | None = None,
) -> list[Searched]:
    """What each adversary finds; what one leaves of its part of the budget is the next ones'.

    **Arguments**

    - `adversaries`: None = all there are.
    - `budget`: evaluations for all of them.
    - `acceptance`: of what they find.
    - `null`: of the claim's null, where what they find is held against what they find for it.
    - `seed`, `name`: the random streams are derived from both, one for each adversary.
    - `until`: `time.monotonic()` after which no new batch starts.
    """
    adversaries = ALL_ADVERSARIES if adversaries is None else adversaries
    searched: list[Searched] = []
    left = budget
    for i, adversary in enumerate(adversaries):
        efforts = [getattr(other, "effort", 1) for other in adversaries[i:]]
        spending = Spending(
            evaluator, left * efforts[0] // sum(efforts), until, adversary.name, acceptance
        )
        randomness = partial(stream, seed, name, adversary.name)
        searched.append(_searched(adversary, spending, null, randomness))
        left -= spending.evaluations
    return searched


def _searched(
    adversary: Adversary,
    spending: Spending,
    null: Evaluator | None,
    randomness: Callable[[], np.random.Generator],
) -> Searched:
    """What one adversary finds, against what it finds for the null."""
    space, acceptance = spending.evaluator.space, spending.acceptance
    references = ReferenceSequence(acceptance, null)
    again = None if null is None else _again(adversary, spending, null, randomness)
    draws, pointwise = DrawSequence(again), getattr(adversary, "pointwise", True)
    spending.by_reference, spending.by_draws = references.run, draws.run
    try:
        found = adversary.search(space, spending, randomness())
        of_null = draws.of_null if draws.ran else references.of_null
        exact = references.is_exact
        if not (references.ran or draws.ran) and isinstance(found, Found):
            rows = np.sort(found.swap_set.references)
            chosen = getattr(adversary, "references", None) is not None
            exact = chosen or np.array_equal(rows, np.sort(space.reference_rows))
            if again is not None:
                of_null = _of_null(*again)
                # what is paired needs the same references
                same = of_null is not None and len(of_null) == len(rows)
                of_null = of_null if same or not pointwise else None
        judged = spending.judged(found, pointwise=pointwise, of_null=of_null, exact=exact)
        if references.is_thorough or (judged.attempt.outcome == REFUTED and of_null is None):
            return judged
        # a harder search finds something worse, and for the null too
        undecided = replace(judged.attempt, outcome=UNDECIDED, refutes=False)
        return replace(judged, attempt=undecided)
    except NotSearched as why:
        return spending.nothing(str(why), why.tried)


def _again(
    adversary: Adversary,
    spending: Spending,
    null: Evaluator,
    randomness: Callable[[], np.random.Generator],
) -> tuple[Spending, Callable[[], Found]]:
    """The same search for the null, and what it may spend."""
    # room is a worse metric, whichever way the claim's gap counts
    costs = replace(spending.acceptance, direction=WORSE)
    again = Spending(null, spending.budget, spending.deadline, acceptance=costs)
    return again, lambda: adversary.search(null.space, again, randomness())


def _of_null(spending: Spending, search: Callable[[], Found]) -> Numbers | None:
    """What is found for the null; None where nothing is, and nothing is known then."""
    try:
        return spending.changes(search().swap_set)
    except NotSearched:
        return None
