"""*Which refinement*: donors that agree on more than the claim asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import combinations, islice, takewhile
from typing import ClassVar

import numpy as np

from pytest_scrub.adversaries.distributions import FEWEST_DRAWS, REPORT_SHARE, worst_by_halving
from pytest_scrub.adversaries.search import (
    Distribution,
    Found,
    NotSearched,
    Spending,
    is_computed,
    swapped_nodes,
)
from pytest_scrub.data.columns import Places, first_of_codes, how_parted
from pytest_scrub.swaps.space import SwapSpace
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
        nodes = swapped_nodes(space)
        # The others are columns that a part of the data lacks; the claim does not use them.
        names = [name for name in space.dataset.feature_names if space.dataset.covers(name)]
        # No more than can be tried once: there are as many as pairs of features.
        most = max(1, int(spending.left * (1 - REPORT_SHARE)) // FEWEST_DRAWS)
        made = _Refinements(space, nodes, names, most)
        each = iter(made)
        choices = list(islice(takewhile(lambda _: spending.left, each), most))
        if not spending.left and not choices:
            raise spending.exhausted()
        if not choices:
            raise NotSearched(
                "not searched: no feature of the dataset says more than the claim does"
            )
        is_first = spending.late or next(each, None) is not None or made.are_left_out
        first = "the first " if is_first else ""
        how = f"{first}{len(choices)} refinements by {len(names)} features"
        return worst_by_halving(how, choices, space, spending, rng)


class _Refinements:
    """Refinements that leave a slot fewer donors, and some slot another than its own input, none of
    them twice; each is made as it is asked for.

    - `most`: pairs of features that are looked at.
    - `are_left_out`: whether there are more.
    """

    def __init__(
        self, space: SwapSpace, nodes: Sequence[str], names: Sequence[str], most: int
    ) -> None:
        self.space, self.names, self.most = space, names, most
        self.places = [(path,) for path in nodes] + ([tuple(nodes)] if len(nodes) > 1 else [])
        self.nodes = frozenset(nodes)
        self.are_left_out = False
        # The slots whose donor one place is, its own or another's; a computed node takes none.
        self.owned: dict[str, list[int]] = {path: [] for path in nodes}
        for i, slot in enumerate(space.slots):
            owner = space.slots[i if slot.shares is None else slot.shares].whole
            if not slot.node.computed_by and owner in self.owned:
                self.owned[owner].append(i)
        self.part, self.tells_all_apart = cache(self._part), cache(self._tells_all_apart)

    def __iter__(self) -> Iterator[Distribution]:
        seen: set[frozenset[tuple[int, int]]] = {frozenset()}
        all_take_donors = not is_computed(self.space)
        for features in self._chosen():
            extra = Agreement(tuple(sorted(features)))
            for place in self.places:
                slots = [i for path in place for i in self.owned[path]]
                before = [(s.agrees_on, s.places) for s in (self.space.slots[i] for i in slots)]
                refined = [(agreement | extra, at) for agreement, at in before]
                key = frozenset(
                    (i, self.part(*finer))
                    for i, own, finer in zip(slots, before, refined, strict=True)
                    if self.part(*finer) != self.part(*own)
                )
                if key in seen:
                    continue
                seen.add(key)
                is_everywhere = all_take_donors and len(place) == len(self.nodes)
                if is_everywhere and all(self.tells_all_apart(*finer) for finer in refined):
                    continue
                where = "every node" if len(place) > 1 else place[0]
                yield Distribution(
                    f"{where} agrees also on {extra}",
                    partial(SwapSpace.refine, slots=place, extra=extra),
                    refined=place,
                    features=extra.features,
                )

    def _chosen(self) -> Iterator[tuple[str, ...]]:
        """Each feature, then pairs of those that part the rows in a way of their own and leave some
        of them together: others say in a pair what one feature says alone."""
        yield from ((name,) for name in self.names)
        ways = {self.part(Agreement((name,))): name for name in reversed(self.names)}
        some = [
            name for name in reversed(ways.values()) if not self.tells_all_apart(Agreement((name,)))
        ]
        pairs = combinations(some, 2)
        yield from islice(pairs, self.most)
        self.are_left_out = next(pairs, None) is not None

    def _part(self, agreement: Agreement, places: Places | None = None) -> int:
        """How the rows are parted: a number for each way, whatever the agreement is called."""
        return hash(how_parted(self.space.dataset.codes(agreement, places)))

    def _tells_all_apart(self, agreement: Agreement, places: Places | None = None) -> bool:
        """Whether no input agrees with another."""
        codes = self.space.dataset.codes(agreement, places)
        content = self.space.content[: len(codes)]
        return bool((content[first_of_codes(codes)][codes] == content).all())
