"""Pruning a swap set that breaks a claim to one that a person can read and that still breaks it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from pytest_scrub.adversaries.search import NotSearched, Spending, swapped_slots
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.swap_set import Rows, SwapSet

REFERENCES = 32  # the worst references of a swap set, among which the most readable is chosen
ALONE = 60  # evaluations for each of them to find a single node that breaks the claim by itself
NEAREST = 64  # donors tried for a node, those that differ least from what they stand in for
FRESH_DRAWS = 8  # random donors of a node alone, for each reference


def minimal(
    spending: Spending,
    swap_set: SwapSet,
    changes: Numbers,
    tolerance: float,
    rng: np.random.Generator,
) -> SwapSet:
    """A swap set of one reference whose metric changes by more than the tolerance, the same way as
    on average.

    After a deadline of the spending it stays as it is there.

    **Arguments**

    - `swap_set`, `changes`: what breaks the claim, float64 `[R]`.
    - `tolerance`: of the change of one reference, either way.
    """
    direction = 1 if changes.mean() > 0 else -1
    order = np.argsort(-direction * changes, kind="stable")
    order = order[direction * changes[order] > tolerance]  # not empty, as their mean is beyond it
    first = order[np.sort(np.unique(swap_set.references[order], return_index=True)[1])[:REFERENCES]]
    pruning = _Pruning(spending, tolerance, direction, rng)
    breaking = pruning.alone(swap_set[first]) or pruning.fewest(swap_set[first])
    return pruning.readable(*breaking)


class _Pruning:
    def __init__(
        self, spending: Spending, tolerance: float, direction: int, rng: np.random.Generator
    ) -> None:
        self.space, self.spending, self.rng = spending.evaluator.space, spending, rng
        self.tolerance, self.direction = tolerance, direction
        self.nodes = [self.space.paths[i] for i in swapped_slots(self.space)]

    def breaks(self, swap_set: SwapSet) -> npt.NDArray[np.bool_]:
        """Which references are allowed and break the claim."""
        breaks = self.space.allows(swap_set)
        if breaks.any():
            changes = self.spending.changes(swap_set[breaks])
            breaks[breaks] = self.direction * changes > self.tolerance
        return breaks

    def only(self, swap_set: SwapSet, kept: Sequence[str]) -> SwapSet:
        """The same donors where slots are kept; elsewhere, the parent's own input."""
        space = self.space.keep(kept)
        return space.fill(swap_set.references, lambda i, _parents, _settled: swap_set.donors[i])

    def alone(self, swap_set: SwapSet) -> tuple[SwapSet, list[str]] | None:
        """References that break when one node alone is swapped: as they are, or with other donors
        for it.

        Donors are searched only where those at hand and random ones break nothing.
        """
        for tries in (self._at_hand, self._searched):
            found = [
                (tried[self.breaks(tried)], [node])
                for node in self.nodes
                if self.spending.left  # a deadline
                for tried in tries(swap_set, node)
            ]
            most = max(found, key=lambda entry: len(entry[0]), default=None)
            if most is not None and len(most[0]):
                return most
        return None

    def _at_hand(self, swap_set: SwapSet, node: str) -> Iterator[SwapSet]:
        yield self.only(swap_set, [node])
        space = self.space.keep([node])
        for _ in range(FRESH_DRAWS):
            yield space.draw(len(swap_set), self.rng, swap_set.references)

    def _searched(self, swap_set: SwapSet, node: str) -> Iterator[SwapSet]:
        if self.spending.sign != self.direction:
            return  # donors are searched for a worse metric only
        inner = Spending(self.spending.evaluator, ALONE * len(swap_set), self.spending.deadline)
        donors = WhichDonors(references=swap_set.references)
        with suppress(NotSearched):
            yield donors.search(self.space.keep([node]), inner, self.rng).swap_set

    def fewest(self, swap_set: SwapSet) -> tuple[SwapSet, list[str]]:
        """Nodes taken out one by one, as long as a reference still breaks without them."""
        kept = list(self.nodes)
        while True:
            still = []
            for node in kept:
                fewer = [path for path in kept if path != node]
                if fewer and self.spending.left:
                    tried = self.only(swap_set, fewer)
                    still.append((tried[self.breaks(tried)], fewer))
            best, fewer = max(still, key=lambda entry: len(entry[0]), default=(swap_set[:0], kept))
            if not len(best):
                return swap_set, kept
            swap_set, kept = best, fewer

    def readable(self, swap_set: SwapSet, kept: Sequence[str]) -> SwapSet:
        """For every reference the nearest donors that still break it, and of these references the
        clearest."""
        for node in kept:
            if self.spending.left:
                swap_set = self._nearest(swap_set, node, kept)
        distance = self._differences(swap_set.donors, self.space.parents(swap_set)).sum(0)
        shown = [len(self.space.dataset.show(row)) for row in swap_set.references.tolist()]
        return swap_set[np.lexsort((shown, distance))[:1]]

    def _nearest(self, swap_set: SwapSet, node: str, kept: Sequence[str]) -> SwapSet:
        i = self.space.index[node]
        parents = self.space.parents(swap_set)[i]
        near = [
            self._near(own, rows)
            for own, rows in zip(parents, self.space.allowed(node, parents), strict=True)
        ]
        rows, which = np.concatenate(near), np.repeat(np.arange(len(near)), list(map(len, near)))
        if not len(rows):
            return swap_set
        base = swap_set[which]
        tried = self.space.keep(kept).fill(
            base.references, lambda j, _parents, _settled: rows if j == i else base.donors[j]
        )
        breaks = np.flatnonzero(self.breaks(tried))
        first = breaks[np.unique(which[breaks], return_index=True)[1]]
        result = swap_set.donors.copy()
        result[:, which[first]] = tried.donors[:, first]
        return self.space.swap_set(swap_set.references, result)

    def _near(self, own: Rows, rows: Rows) -> Rows:
        """The rows that differ from one, those that differ least first."""
        distance = self._differences(rows, own)
        near = np.argsort(distance, kind="stable")
        return rows[near[distance[near] > 0]][:NEAREST]

    def _differences(self, first: Rows, second: Rows) -> npt.NDArray[np.int64]:
        """In how many places the inputs of rows differ from those of others; shaped like
        `first`."""
        total = np.zeros(first.shape, dtype=np.int64)
        for tensor in self.space.dataset.inputs.values():
            differs = tensor[np.array(first)] != tensor[np.array(second)]
            total += differs.reshape(*first.shape, -1).sum(-1).cpu().numpy()
        return total
