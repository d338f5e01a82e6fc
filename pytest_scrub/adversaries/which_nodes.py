"""*Which nodes*: only some of them swapped."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from pytest_scrub.adversaries.distributions import (
    FEWEST_DRAWS,
    MOST_DRAWS,
    Comparison,
    worst_by_halving,
)
from pytest_scrub.adversaries.search import (
    Distribution,
    Found,
    NotSearched,
    Spending,
    swapped_nodes,
)
from pytest_scrub.swaps.space import SwapSpace

ALL_SUBSETS_UP_TO = 10  # nodes
RESTARTS = 3  # of the greedy choice of nodes, beside all and each alone


@dataclass(frozen=True)
class WhichNodes:
    """Only some of the nodes swapped, the others EXACT: shows effects that cancel between nodes.

    All subsets up to ten nodes (rests count as nodes); above, each alone and a greedy choice with
    restarts.
    """

    name: str = "which nodes"
    pointwise: ClassVar[bool] = False

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The subset with the largest mean gap either way; see `Adversary`."""
        nodes = swapped_nodes(space)
        if len(nodes) <= 1:
            raise NotSearched(
                "not searched: at most one node is swapped, so no subset differs from the claim"
            )
        if len(nodes) > ALL_SUBSETS_UP_TO:
            return _greedy(nodes, space, spending, rng)
        subsets = [
            _only(kept, nodes)
            for size in range(1, len(nodes) + 1)
            for kept in combinations(nodes, size)
        ]
        how = f"all {len(subsets)} subsets of nodes"
        return worst_by_halving(how, subsets, space, spending, rng)


def _only(kept: Collection[str], nodes: Sequence[str]) -> Distribution:
    swapped = [path for path in nodes if path in kept]
    return Distribution(
        f"only {', '.join(swapped)} swapped",
        lambda space: space.keep(swapped),
        exact=tuple(path for path in nodes if path not in kept),
    )


def _greedy(
    nodes: Sequence[str], space: SwapSpace, spending: Spending, rng: np.random.Generator
) -> Found:
    """Each node alone and all of them, then from several starts the one change of the subset that
    helps most."""
    compared = Comparison(space, spending, rng)
    a_round = len(nodes) + 1
    draws = max(FEWEST_DRAWS, compared.budget // (len(nodes) * (1 + a_round) * (RESTARTS + 1)))
    seed = int(rng.integers(1 << 62))
    if compared.left < a_round * draws:
        raise spending.exhausted()
    subsets: dict[frozenset[str], Distribution] = {}

    def worst_of(tried: Sequence[frozenset[str]]) -> frozenset[str]:
        new = [kept for kept in tried if kept not in subsets]
        subsets.update((kept, _only(kept, nodes)) for kept in new)
        compared.draw([subsets[kept] for kept in new], min(MOST_DRAWS, draws), seed)
        return max(tried, key=badness)

    def badness(kept: frozenset[str]) -> float:
        # what a deadline left out is chosen by nobody
        return compared.badness(subsets[kept]) if subsets[kept] in compared else -math.inf

    everything = frozenset(nodes)
    starts = [worst_of([everything, *(frozenset([path]) for path in nodes)])]
    for _ in range(RESTARTS):
        drawn = frozenset(path for path in nodes if rng.random() < 0.5)
        starts.append(drawn or frozenset(nodes[:1]))
    for start in starts:
        kept = start
        while compared.left >= a_round * draws:
            best = worst_of([kept, *(kept ^ {path} for path in nodes if kept != {path})])
            spending.stands_at(compared.gap(compared.worst_first()[0]))
            if best == kept:
                break
            kept = best
    how = f"{len(compared.tried)} subsets of {len(nodes)} nodes, chosen greedily"
    return compared.reported(how, compared.worst_first()[0], rng)
