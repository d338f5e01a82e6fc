"""*Which refinement*: donors that agree on more than the claim asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, islice, takewhile
from typing import ClassVar

import numpy as np

from pytest_scrub.adversaries.distributions import FEWEST_DRAWS, worst_by_halving
from pytest_scrub.adversaries.search import (
    Distribution,
    Found,
    NotSearched,
    Spending,
    swapped_slots,
)
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows
from pytest_scrub.tree.nodes import Agreement


@dataclass(frozen=True)
class WhichRefinement:
    """Donors that agree on more than the claim asks: join(H, H') for H' from the dataset's own
    features.

    One feature or a pair of them, at one node or at all.
    """

    name: str = "which refinement"
    pointwise: ClassVar[bool] = False

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The refinement with the largest mean gap either way; see `Adversary`."""
        nodes = [space.paths[i] for i in swapped_slots(space)]
        # The others are columns that a part of the data lacks; the claim does not use them.
        names = [name for name in space.dataset.feature_names if space.dataset.covers(name)]
        # No more than can be tried once: there are as many as pairs of features.
        most = spending.left // FEWEST_DRAWS + 1
        made = _refinements(space, nodes, names)
        choices = list(islice(takewhile(lambda _: spending.left, made), most))
        if not spending.left and not choices:
            raise spending.exhausted()
        if not choices:
            raise NotSearched(
                "not searched: no feature of the dataset says more than the claim does"
            )
        first = "the first " if spending.late or next(made, None) is not None else ""
        how = f"{first}{len(choices)} refinements by {len(names)} features"
        return worst_by_halving(how, choices, space, spending, rng)


def _refinements(
    space: SwapSpace, nodes: Sequence[str], names: Sequence[str]
) -> Iterator[Distribution]:
    """Refinements that leave a slot fewer donors, and some slot another than its own input, none of
    them twice; each is made as it is asked for."""
    places = [(path,) for path in nodes] + ([tuple(nodes)] if len(nodes) > 1 else [])
    # Whose donor a slot takes, itself or another's; a computed node takes none.
    owners = [
        None if slot.node.computed_by else space.paths[i if slot.shares is None else slot.shares]
        for i, slot in enumerate(space.slots)
    ]

    @cache
    def part(agreement: Agreement) -> int:
        """How the rows are parted: a number for each way, whatever the agreement is called."""
        return hash(_parted(space.dataset.codes(agreement)))

    @cache
    def tells_all_apart(agreement: Agreement) -> bool:
        """Whether no input agrees with another."""
        codes = space.dataset.codes(agreement)
        both = np.unique(np.stack([codes, space.dataset.content]), axis=1)
        return bool(both.shape[1] == len(np.unique(codes)))

    seen: set[frozenset[tuple[int, int]]] = {frozenset()}
    for features in (pair for size in (1, 2) for pair in combinations(names, size)):
        extra = Agreement(tuple(sorted(features)))
        for place in places:
            key = frozenset(
                (i, part(slot.agrees_on | extra))
                for i, slot in enumerate(space.slots)
                if owners[i] in place and part(slot.agrees_on | extra) != part(slot.agrees_on)
            )
            if key in seen:
                continue
            seen.add(key)
            refined = [
                slot.agrees_on | extra for i, slot in enumerate(space.slots) if owners[i] in place
            ]
            if {*place} == {*nodes} and None not in owners and all(map(tells_all_apart, refined)):
                continue
            where = "every node" if len(place) > 1 else place[0]
            yield Distribution(
                f"{where} agrees also on {extra}",
                partial(SwapSpace.refine, slots=place, extra=extra),
                refined=place,
                features=extra.features,
            )


def _parted(codes: Rows) -> bytes:
    """Equal for codes that are equal between the same rows."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first[inverse].tobytes()
