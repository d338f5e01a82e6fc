"""How fast the worst donors are found: mean worst loss against scrubbed evaluations for each
reference.

    SCRUB_BRACKETS=/folder python benchmarks/donor_search.py

Claim 1b of the published bracket network, and a claim whose nodes are not leaves; 4,000 strings,
all of them donors. The last line is one JSON object: `full`, what coordinate ascent over all donors
reaches; `found_60` and `found_1000`, the search of the package within so many evaluations;
`random_3000`, the worst of so many draws.
"""

from __future__ import annotations

import json
import sys
import time
from copy import copy
from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings, target

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only this folder is on the path

from benchmarks import published_brackets as published
from pytest_scrub import Evaluator, head, load_model, output, swap_sets
from pytest_scrub.adversaries.search import Spending, swapped_slots
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.store import ActivationStore

STRINGS, REFERENCES, FEWER_REFERENCES = 4_000, 200, 20
RANDOM, FOUND, TARGETED = (1, 10, 100, 1000, 3000), (20, 60, 200, 1000), (60, 300)


def two_levels():
    """Head 2.1 looks at the horizon, and gets it from head 1.1 and the MLPs below."""
    return output(
        head(1, 0, agrees_on="count_open"),
        head(2, 0, agrees_on="count_open"),
        head(
            2,
            1,
            agrees_on="horizon",
            reads=[head(1, 1, agrees_on="horizon", into="v")],
            rest="horizon",
        ),
    )


def main() -> None:
    at = published.folder()
    if at is None:
        sys.exit(
            f"set {published.FOLDER} to the folder that holds the published bracket network and "
            "its strings"
        )
    torch.set_num_threads(1)
    data = published.dataset(at, STRINGS)
    graph = load_model(published.network(at))
    store = ActivationStore(graph, data)
    references = stream(0, "references").choice(data.reference_rows, REFERENCES, replace=False)
    leaves = Evaluator(graph, data, published.claim_1b(), store=store)
    figures = curve("claim 1b", leaves, references, RANDOM, FOUND)
    few = references[:FEWER_REFERENCES]
    hypothesis_curve("claim 1b", leaves, few)
    figures["full"], figures["full_evaluations"] = full_ascent("claim 1b", leaves, references)
    nested = Evaluator(graph, data, two_levels(), store=store)
    found = curve("two levels", nested, few, RANDOM[:4], FOUND)
    found["full"], found["full_evaluations"] = full_ascent("two levels", nested, few)
    figures |= {f"two_levels_{name}": value for name, value in found.items()}
    print(f"share of full, claim 1b: {figures['found_60'] / figures['full']:.1%} within 60 "
          f"evaluations, {figures['found_1000'] / figures['full']:.1%} within 1,000, "
          f"{figures['random_3000'] / figures['full']:.1%} by 3,000 random draws")  # fmt: skip
    print(json.dumps(figures))


def curve(name: str, evaluator: Evaluator, references, draws, budgets) -> dict[str, float]:
    """The worst of random draws, and of the search with different budgets; the mean loss over the
    references."""
    figures: dict[str, float] = {}
    rng, worst, started = (
        stream(0, "random"),
        np.full(len(references), -np.inf),
        time.perf_counter(),
    )
    for n in range(1, max(draws) + 1):
        worst = np.maximum(
            worst, evaluator.evaluate(evaluator.space.draw(len(references), rng, references))
        )
        if n in draws:
            figures[f"random_{n}"] = float(worst.mean())
            seconds = time.perf_counter() - started
            print(
                f"{name}: random draws, {n} evaluations: {worst.mean():.3f} ({seconds:.1f} s)",
                flush=True,
            )
    for budget in budgets:
        started = time.perf_counter()
        spending = Spending(evaluator, budget * len(references))
        search = WhichDonors(references=references).search(
            evaluator.space, spending, stream(0, "search")
        )
        assert search.swap_set is not None
        assert not evaluator.space.check(search.swap_set)
        assert spending.evaluations <= budget * len(references)
        loss, ranking = (
            float(evaluator.evaluate(search.swap_set).mean()),
            spending.ranking / len(references),
        )
        figures[f"found_{budget}"], figures[f"ranking_{budget}"] = loss, ranking
        spent, seconds = spending.evaluations / len(references), time.perf_counter() - started
        print(
            f"{name}: ranked, {spent:.0f} evaluations and {ranking:.2f} forward passes to rank: "
            f"{loss:.3f} ({seconds:.1f} s; {search.how})",
            flush=True,
        )
    return figures


def hypothesis_curve(name: str, evaluator: Evaluator, references) -> None:
    """Hypothesis with `target()`, one reference at a time; few references, as it evaluates one swap
    set at a time."""
    for budget in TARGETED:
        started = time.perf_counter()
        worst = [worst_with_target(evaluator, reference, budget) for reference in references]
        print(
            f"{name}: Hypothesis with target(), at most {budget} evaluations, {len(references)} "
            f"references: {np.mean(worst):.3f} ({time.perf_counter() - started:.1f} s)",
            flush=True,
        )


def worst_with_target(evaluator: Evaluator, reference: int, budget: int) -> float:
    one = copy(evaluator.dataset)
    one.reference_rows = np.array([reference])
    losses: list[float] = []

    @settings(
        max_examples=budget,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.target],
        suppress_health_check=list(HealthCheck),
    )
    @seed(0)
    @given(swap_sets(evaluator.hypothesis, one, max_size=1))
    def climbs(swap_set) -> None:
        losses.append(float(evaluator.evaluate(swap_set)[0]))
        target(losses[-1])

    climbs()
    return max(losses)


def full_ascent(name: str, evaluator: Evaluator, references) -> tuple[float, float]:
    """From one draw, slot after slot the worst of all allowed donors, until a round changes
    nothing."""
    space, started, evaluations = evaluator.space, time.perf_counter(), 0
    best = space.draw(len(references), stream(0, "full"), references).donors.copy()
    loss = evaluator.evaluate(space.swap_set(references, best))
    improved = True
    while improved:
        improved = False
        for i in swapped_slots(space):
            below = any(slot.parent == i for slot in space.slots)
            for column in range(len(references)):
                parent = space.parents(space.swap_set(references, best))[i][column]
                donors = space.allowed(space.paths[i], np.array([parent]))[0]
                tried = np.repeat(best[:, column : column + 1], len(donors), axis=1)
                tried[i] = donors
                if below:  # what no longer agrees takes the new own input
                    tried = space.fill(
                        np.full(len(donors), references[column]),
                        lambda j, parents, _, tried=tried: np.where(
                            space.agree(j)[tried[j]] == space.agree(j)[parents], tried[j], parents
                        ),
                    ).donors
                found = evaluator.evaluate(
                    space.swap_set(np.full(len(donors), references[column]), tried)
                )
                evaluations += len(donors)
                if found.max() > loss[column]:
                    loss[column], best[:, column], improved = (
                        found.max(),
                        tried[:, found.argmax()],
                        True,
                    )
        print(f"{name}: full ascent, {evaluations / len(references):.0f} evaluations: "
              f"{loss.mean():.3f} ({time.perf_counter() - started:.0f} s)", flush=True)  # fmt: skip
    return float(loss.mean()), evaluations / len(references)


if __name__ == "__main__":
    main()
