"""How often the intervals of verdicts miss, when they are looked at after every batch.

Every run draws up to 4,000 changes of a known distribution and looks at the interval after the
burn-in of 400 and after every further 200 draws, as a claim does, where enough changed to give an
interval. It *covers* if it contains the mean at every one of these looks. A verdict at a gap of
exactly the tolerance is *wrong* if the claim is ever decided, either way. *Which swaps* chooses
among thousands of sets of pairs before it draws; it is wrong where it refutes a claim whose worst
set has a gap of exactly the tolerance. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    Evaluator,
    FunctionGraph,
    Metric,
    WhichSwaps,
    cross_entropy,
    module,
    output,
    zero_one_error,
)
from pytest_scrub.adversaries.search import Spending
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.statistics.intervals import confidence_sequence, estimate
from pytest_scrub.statistics.sampling import BATCH, BURN_IN, Plan
from pytest_scrub.verdict import REFUTED, UNDECIDED

BUDGET = 4000
GAP = 1.0  # the mean of every distribution of an unbounded metric
FLIPS = 0.03  # that of the bounded one: 5 % of labels lost and 2 % gained
SLOWER = 4  # times as slow are runs that evaluate a network
Numbers = npt.NDArray[np.float64]
DISTRIBUTIONS: dict[str, Callable[[np.random.Generator], Numbers]] = {
    "gaussian": lambda rng: rng.normal(GAP, 1, BUDGET),
    "student_t5": lambda rng: GAP + rng.standard_t(5, BUDGET),
    "spikes": lambda rng: GAP * 1000 * (rng.random(BUDGET) < 1e-3),
    "spikes_over_noise": lambda rng: (
        GAP * 1000 * (rng.random(BUDGET) < 1e-3) + rng.normal(0, 0.1, BUDGET)
    ),
}


@dataclass
class Tally:
    """Of all runs so far, how many did what; `needed` are draws until a clear claim was decided."""

    runs: int = 0
    covered: int = 0
    covered_by_t: int = 0
    wrong: int = 0
    needed: list[int] = field(default_factory=list)


def tally(
    draw: Callable[[np.random.Generator], Numbers], acceptance: Acceptance, gap: float, runs: int
) -> Tally:
    """What becomes of claims with this gap, at tolerances of just as much, of three times and of a
    third of it."""
    found = Tally(runs)
    for run in range(runs):
        values = draw(np.random.default_rng(run))
        every = Plan(np.zeros(BUDGET, dtype=np.int64)).looks()
        looks = [
            n for n in every if confidence_sequence(values[:n], acceptance.largest_change).is_known
        ]
        sequences = [confidence_sequence(values[:n], acceptance.largest_change) for n in looks]
        found.covered += all(one.low <= gap <= one.high for one in sequences)
        found.covered_by_t += all(
            one.low <= gap <= one.high for one in (estimate(values[:n]) for n in looks)
        )
        found.wrong += first_decided(acceptance.with_tolerance(gap), values, looks) is not None
        for tolerance in (gap * 3, gap / 3):
            found.needed.append(
                first_decided(acceptance.with_tolerance(tolerance), values, looks) or BUDGET
            )
    return found


def first_decided(acceptance: Acceptance, values: Numbers, looks: Sequence[int]) -> int | None:
    """How many draws decide it, or None."""
    return next(
        (n for n in looks if acceptance.outcome(values[:n], None, None, 0.0)[0] != UNDECIDED), None
    )


@cache
def of_noise(effect: float) -> Evaluator:
    """A swap changes the output by noise, and by an effect of g alone: 60 more features know
    nothing, and every pair of their values has a mean of exactly what it has without them."""
    noise = (-1.5, -1.2, -0.9, -0.3, 0.3, 0.9, 1.2, 1.5)
    g, n, z = (
        torch.tensor(column) for column in zip(*product((0, 1), noise, range(64)), strict=True)
    )
    rng = np.random.default_rng(0)
    features = {f"f{i}": rng.integers(0, 4, 64)[z.numpy()] for i in range(60)}
    data = Dataset({"g": g, "n": n.double(), "z": z}, features={"g": g, **features})
    graph = FunctionGraph(A=lambda g, n, z: effect * g + 3 * n, output=lambda A: A)
    out = Metric("out", lambda out, batch: out)
    return Evaluator(graph, data, output(module("A", agrees_on=ANYTHING), rest=EXACT), out)


def at_the_bound(seed: int, effect: float) -> str:
    """What *which swaps* decides where its worst pair, g of the reference and of the donor, has a
    gap of exactly the tolerance; a quarter of the swaps have that pair."""
    evaluator = of_noise(effect)
    spending = Spending(
        evaluator, BUDGET, acceptance=Acceptance(evaluator.metric, tolerance=effect / 4)
    )
    found = WhichSwaps().search(evaluator.space, spending, np.random.default_rng(seed))
    return str(spending.judged(found, pointwise=WhichSwaps.pointwise).attempt.outcome)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    print(f"{runs} runs; burn-in {BURN_IN}, then a look every {BATCH} draws, up to {BUDGET}")
    record: dict[str, float] = {"runs": runs, "burn_in": BURN_IN, "batch": BATCH, "budget": BUDGET}
    unbounded = Acceptance(cross_entropy(), tolerance=GAP)
    bounded = Acceptance(zero_one_error(), tolerance=FLIPS)

    def flips(rng: np.random.Generator) -> Numbers:
        return rng.choice([1.0, -1.0, 0.0], BUDGET, p=[0.05, 0.02, 0.93])

    kinds = [(name, draw, unbounded, GAP) for name, draw in DISTRIBUTIONS.items()]
    for name, draw, acceptance, gap in [*kinds, ("bounded", flips, bounded, FLIPS)]:
        found = tally(draw, acceptance, gap, runs)
        covers, naive, wrong = (
            count / runs for count in (found.covered, found.covered_by_t, found.wrong)
        )
        median, mean = float(np.median(found.needed)), float(np.mean(found.needed))
        print(
            f"{name}: covers at every look in {covers:.1%} of the runs (Student's t: {naive:.1%}); "
            f"decided at a gap of exactly the tolerance in {wrong:.1%}; at a third or three times "
            f"the tolerance {median:.0f} draws are enough in the median, {mean:.0f} on average"
        )
        record |= {f"{name}_coverage": covers, f"{name}_t_coverage": naive, f"{name}_wrong": wrong}
        record |= {f"{name}_draws_median": median, f"{name}_draws_mean": mean}
    for effect in (0.0, 1.0):
        few = max(1, runs // SLOWER)
        wrong = sum(at_the_bound(run, effect) == REFUTED for run in range(few)) / few
        print(
            f"which swaps, chosen among 61 features, {few} runs: refuted at a gap of exactly the "
            f"tolerance of {effect / 4:g} in {wrong:.1%}"
        )
        record[f"which_swaps_{effect / 4:g}_wrong"] = wrong
    print(json.dumps(record))


if __name__ == "__main__":
    main()
