"""The ladder: every adversary in turn, weakest first, within one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pytest_scrub.adversaries.distributions import WhichNodes, WhichRefinement
from pytest_scrub.adversaries.search import Adversary, Found, Spending
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.adversaries.which_inputs import WhichInputs
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError

LADDER: tuple[Adversary, ...] = (WhichNodes(), WhichRefinement(), WhichDonors(), WhichInputs())


def climb_ladder(
    evaluator: Evaluator,
    adversaries: Sequence[Adversary],
    budget: int,
    *,
    seed: int,
    name: str,
    until: float | None = None,
    sides: tuple[bool, bool] = (True, True),
) -> list[Found]:
    """What each adversary finds, checked; what one leaves of its part of the budget is the next
    ones'.

    **Arguments**

    - `budget`: evaluations for all of them.
    - `seed`, `name`: the random streams are derived from both, one for each adversary.
    - `until`: `time.monotonic()` after which no new batch starts.
    - `sides`: whether a gap above zero embarrasses the claim, and one below.
    """
    found: list[Found] = []
    left = budget
    for i, adversary in enumerate(adversaries):
        weights = [getattr(other, "effort", 1) for other in adversaries[i:]]
        spending = Spending(
            evaluator, left * weights[0] // sum(weights), until, adversary.name, sides
        )
        one = adversary.search(evaluator.space, spending, stream(seed, name, adversary.name))
        if not isinstance(one, Found):
            raise HypothesisError(
                f"the adversary {adversary.name!r} has to return Found(...), not {one!r}"
            )
        found.append(
            replace(
                spending.judged(replace(one, adversary=adversary.name)),
                evaluations=spending.evaluations,
                ranking=spending.ranking,
                late=spending.late,
                curve=spending.curve,
            )
        )
        left -= spending.evaluations
    return found
