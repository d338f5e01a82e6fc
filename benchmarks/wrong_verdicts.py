"""How often a claim is decided whose gap is exactly its bound, by every route that can decide it.

There either verdict is wrong. `coverage.py` asks that of the average and of *which swaps*; here it
is asked of a share of the null, of what searches find reference by reference, of distributions that
they choose, and of seven routes at once, each at its bound. What searches find has heavy right
tails, so the changes are: lognormal, Pareto with shape 3, and one in twenty. Everything is looked
at as often as a claim looks at it, through the same code. The last line is one JSON object.

    python benchmarks/wrong_verdicts.py [--runs N]
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import numpy.typing as npt

from pytest_scrub import cross_entropy
from pytest_scrub.adversaries.bound import by_distribution, by_references
from pytest_scrub.adversaries.drawing import GROUP as GROUP_OF_DRAWS
from pytest_scrub.adversaries.sequence import GROUP, PILOT, REFERENCES, _ends
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.intervals import confidence_sequence
from pytest_scrub.statistics.predicted import against_rival
from pytest_scrub.statistics.sampling import BURN_IN, Plan
from pytest_scrub.verdict import HELD, REFUTED, UNDECIDED

BUDGET = 4000  # draws of the average
DRAWS = 20_000  # of a distribution that was chosen, at most
EACH = 20  # evaluations of a reference
SHARE = 0.9  # that the null leaves to be explained
ROUTES = 7  # the average, single swaps, five adversaries
Numbers = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Numbers]
CHANGES: dict[str, Draw] = {  # each with a mean of 1
    "gaussian": lambda rng, n: rng.normal(1, 1, n),
    "lognormal": lambda rng, n: rng.lognormal(-0.5, 1, n),
    "pareto_3": lambda rng, n: (rng.pareto(3, n) + 1) / 1.5,
    "one_in_twenty": lambda rng, n: 20.0 * (rng.random(n) < 0.05),
}
AT_THE_TOLERANCE = Acceptance(cross_entropy(), tolerance=1.0)
AT_THE_SHARE = Acceptance(cross_entropy(), min_explained=SHARE)


def first_decided(outcomes: Iterable[str]) -> str:
    """The outcome of the first look that decides."""
    return next((one for one in outcomes if one != UNDECIDED), UNDECIDED)


def looks_of_draws() -> list[int]:
    """When a distribution that was chosen is looked at."""
    looks = [BURN_IN]
    while looks[-1] < DRAWS:
        looks.append(min(DRAWS, looks[-1] + max(GROUP_OF_DRAWS, looks[-1] // 2)))
    return looks


def looks_of_references() -> list[int]:
    """How many references have been searched at each look, the pilot aside."""
    ends = _ends(PILOT + REFERENCES, EACH, EACH * (PILOT + REFERENCES))
    return [end - PILOT for end in ends[1:]]


EVERY: Sequence[int] = Plan(np.zeros(BUDGET, dtype=np.int64)).looks()
OF_DRAWS, OF_REFERENCES = looks_of_draws(), looks_of_references()


def average(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """A gap of exactly the tolerance."""
    changes = draw(rng, BUDGET)
    return first_decided(acceptance.outcome(changes[:n], None, None, 0.0)[0] for n in EVERY)


def share_of_null(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """A gap of exactly the share of the room that need not be explained, on the same references."""
    room, other = draw(rng, BUDGET), draw(rng, BUDGET)
    changes = (1 - SHARE) * (room + other) / 2  # what hurts the null hurts the claim
    return first_decided(acceptance.outcome(changes[:n], None, room[:n], 0.0)[0] for n in EVERY)


def by_reference(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """What is found has a mean of exactly the tolerance."""
    changes = draw(rng, OF_REFERENCES[-1])
    return first_decided(
        by_references(acceptance, changes[:n], None, 0.0, exact=False).outcome
        for n in OF_REFERENCES
    )


def by_reference_to_null(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """What is found has a mean of exactly that share of what is found for the null."""
    null, other = draw(rng, OF_REFERENCES[-1]), draw(rng, OF_REFERENCES[-1])
    changes = (1 - SHARE) * (null + other) / 2
    return first_decided(
        by_references(acceptance, changes[:n], null[:n], 0.0, exact=False).outcome
        for n in OF_REFERENCES
    )


def distribution(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """One that was chosen has a mean of exactly the tolerance."""
    changes = draw(rng, DRAWS)
    return first_decided(
        by_distribution(acceptance, changes[:n], None, 0.0).outcome for n in OF_DRAWS
    )


def distribution_to_null(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """It has a mean of exactly that share of the one that was chosen for the null."""
    changes, null = (1 - SHARE) * draw(rng, DRAWS), draw(rng, DRAWS)
    return first_decided(
        by_distribution(acceptance, changes[:n], null[:n], 0.0).outcome for n in OF_DRAWS
    )


def least_gap(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """Swaps that are claimed to hurt, and hurt exactly so much."""
    return average(acceptance, draw, rng)


def rival(acceptance: Acceptance, draw: Draw, rng: np.random.Generator) -> str:
    """A rival that predicts exactly as well, on the half of the swaps for which the two differ."""
    differs = rng.random(BUDGET) < 0.5
    apart = np.where(differs, draw(rng, BUDGET) - 1, 0.0)
    return first_decided(against_rival(acceptance, apart[:n])[0] for n in EVERY)


@cache
def single_swaps(run: int) -> str:
    """Exactly as many single swaps stay within the tolerance as have to; the size of the others is
    nothing to them."""
    inside = (np.random.default_rng((run, ROUTES)).random(BUDGET) < SHARE).astype(np.float64)
    acceptance = replace(AT_THE_TOLERANCE, routes=ROUTES)

    def at(n: int) -> str:
        if confidence_sequence(inside[:n], 1.0, acceptance.to_refute).high < SHARE:
            return REFUTED
        low = confidence_sequence(inside[:n], 1.0, acceptance.confidence).low
        return HELD if low >= SHARE else UNDECIDED

    return first_decided(at(n) for n in EVERY)


DECISIONS = {
    "average": (average, AT_THE_TOLERANCE),
    "share_of_null": (share_of_null, AT_THE_SHARE),
    "by_reference": (by_reference, AT_THE_TOLERANCE),
    "by_reference_to_null": (by_reference_to_null, AT_THE_SHARE),
    "distribution": (distribution, AT_THE_TOLERANCE),
    "distribution_to_null": (distribution_to_null, AT_THE_SHARE),
    "least_gap": (least_gap, Acceptance(cross_entropy(), min_gap=1.0)),
    "rival": (rival, AT_THE_TOLERANCE),
}
# As a claim with `tolerance=` and `min_within=` has them, or one with `min_explained=`, or one
# that has five rivals.
TOGETHER = {
    "tolerance": ("average", *["distribution"] * 3, *["by_reference"] * 2),
    "min_explained": (
        "share_of_null",
        *["distribution_to_null"] * 3,
        *["by_reference_to_null"] * 2,
    ),
    "rivals": ("average", *["rival"] * 5),
}


def at_once(kind: str, draw: Draw, run: int) -> str:
    """Seven independent routes, each exactly at its bound: refuted by any, held by all."""
    rng, outcomes = np.random.default_rng(run), {single_swaps(run)}
    for name in TOGETHER[kind]:
        route, acceptance = DECISIONS[name]
        outcomes.add(route(replace(acceptance, routes=ROUTES), draw, rng))
    return REFUTED if REFUTED in outcomes else HELD if outcomes == {HELD} else UNDECIDED


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=500)
    runs = parser.parse_args().runs
    print(
        f"{runs} runs; looks at {EVERY[0]} to {EVERY[-1]} draws, {OF_REFERENCES[0]} to "
        f"{OF_REFERENCES[-1]} references ({GROUP} at a time), {OF_DRAWS[0]} to {OF_DRAWS[-1]} "
        "draws of a distribution"
    )
    record: dict[str, float] = {"runs": runs, "routes": ROUTES}

    def tell(what: str, outcomes: Iterable[str]) -> None:
        found = Counter(outcomes)
        shares = {one: found[one] / runs for one in (REFUTED, HELD)}
        print(f"{what}: refuted {shares[REFUTED]:.1%}, held {shares[HELD]:.1%}", flush=True)
        record.update({f"{what}_{one}": share for one, share in shares.items()})

    for tail, draw in CHANGES.items():
        for nth, (name, (route, acceptance)) in enumerate(DECISIONS.items()):
            generators = (np.random.default_rng((run, nth)) for run in range(runs))
            tell(f"{name}_{tail}", [route(acceptance, draw, rng) for rng in generators])
        for kind in TOGETHER:
            tell(f"seven_routes_{kind}_{tail}", [at_once(kind, draw, run) for run in range(runs)])
    print(json.dumps(record))


if __name__ == "__main__":
    main()
