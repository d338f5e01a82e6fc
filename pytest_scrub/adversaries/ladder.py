"""The ladder: every adversary in turn, weakest first, within one budget."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_scrub.adversaries.search import Adversary, NotSearched, Searched, Spending
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.adversaries.which_inputs import WhichInputs
from pytest_scrub.adversaries.which_nodes import WhichNodes
from pytest_scrub.adversaries.which_refinement import WhichRefinement
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.statistics.deciding import Acceptance

LADDER: tuple[Adversary, ...] = (WhichNodes(), WhichRefinement(), WhichDonors(), WhichInputs())


def climb_ladder(
    evaluator: Evaluator,
    adversaries: Sequence[Adversary] | None,
    budget: int,
    acceptance: Acceptance | None = None,
    *,
    seed: int,
    name: str,
    until: float | None = None,
) -> list[Searched]:
    """What each adversary finds; what one leaves of its part of the budget is the next ones'.

    **Arguments**

    - `adversaries`: None = the whole ladder.
    - `budget`: evaluations for all of them.
    - `acceptance`: of what they find.
    - `seed`, `name`: the random streams are derived from both, one for each adversary.
    - `until`: `time.monotonic()` after which no new batch starts.
    """
    adversaries = LADDER if adversaries is None else adversaries
    searched: list[Searched] = []
    left = budget
    for i, adversary in enumerate(adversaries):
        efforts = [getattr(other, "effort", 1) for other in adversaries[i:]]
        part = left * efforts[0] // sum(efforts)
        spending = Spending(evaluator, part, until, adversary.name, acceptance)
        try:
            found = adversary.search(evaluator.space, spending, stream(seed, name, adversary.name))
            one = spending.judged(found, getattr(adversary, "pointwise", True))
        except NotSearched as why:
            one = spending.nothing(str(why), why.tried)
        searched.append(one)
        left -= spending.evaluations
    return searched
