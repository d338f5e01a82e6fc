"""Pruning a swap set that breaks a claim to one that a person can read and that still breaks it.

Every step tries much for all references at once, and costs as much again as there are nodes, or
less: a claim about many nodes is not searched anew for each of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub.adversaries.candidates import ranked_rows
from pytest_scrub.adversaries.search import Spending, fits, swapped_slots
from pytest_scrub.engine.gradients import ActivationGradient, first_order
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.space import drawn_in
from pytest_scrub.swaps.swap_set import Rows, SwapSet

REFERENCES = 32  # the worst references of a swap set, among which the most readable is chosen
NEAREST = 64  # donors tried for a node, those that differ least from what they stand in for
MOST_LOOKED_AT = 1 << 15  # donors of one input among which the nearest are chosen
MOST_NEAREST = 4096  # such tries in all; with many nodes fewer references have them
FRESH_DRAWS = 8  # random donors of a node alone, for each reference
MOST_FRESH = 1 << 14  # of all nodes and references; where they are more, each has fewer
RANKED = 240  # donors of single nodes that are tried for a reference, the most valuable of all
RANKED_OF_A_NODE = 60
AT_ONCE = 4096  # evaluations between two looks at a deadline
Mask = npt.NDArray[np.bool_]


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
    if not swapped_slots(spending.evaluator.space):  # edits alone: a reference is all there is
        return swap_set[order[:1]]
    first = order[np.sort(np.unique(swap_set.references[order], return_index=True)[1])[:REFERENCES]]
    pruning = _Pruning(spending, tolerance, direction, rng)
    return pruning.readable(pruning.fewest(swap_set[first]))


@dataclass(frozen=True, eq=False)
class _Pruned:
    """What still breaks the claim: only slots that are `kept`, bool `[slots, R]`, are swapped."""

    swap_set: SwapSet
    kept: Mask

    def __len__(self) -> int:
        return len(self.swap_set)

    def __getitem__(self, which: Rows) -> _Pruned:
        return _Pruned(self.swap_set[which], self.kept[:, which])


class _Pruning:
    def __init__(
        self, spending: Spending, tolerance: float, direction: int, rng: np.random.Generator
    ) -> None:
        self.space, self.spending, self.rng = spending.evaluator.space, spending, rng
        self.tolerance, self.direction = tolerance, direction
        self.nodes: Rows = np.array(swapped_slots(self.space))

    def worth(self, swap_set: SwapSet) -> Numbers:
        """By how much each reference breaks the claim, float64 `[R]`; minus infinity where it is
        not allowed, or after a deadline."""
        worth = np.full(len(swap_set), -np.inf)
        allowed = np.flatnonzero(self.space.allows(swap_set))
        for start in range(0, len(allowed), AT_ONCE):
            if not self.spending.left:
                break
            some = allowed[start : start + AT_ONCE]
            worth[some] = self.direction * self.spending.changes(swap_set[some]) - self.tolerance
        return worth

    def only(self, swap_set: SwapSet, kept: Mask) -> SwapSet:
        """The same donors where slots are kept; elsewhere, the parent's own input."""

        def settle(slots: list[int], _parents: Rows, donors: Rows) -> None:
            donors[slots] = swap_set.donors[slots]

        kept = kept & self.space.swapped[:, None]
        return self.space.settled(swap_set.references, settle, kept)

    def single(self, nodes: Rows) -> Mask:
        """bool `[slots, R]`: one node is kept for each reference."""
        return np.equal(np.arange(len(self.space.slots))[:, None], nodes)

    def fewest(self, swap_set: SwapSet) -> _Pruned:
        """References that break when one node alone is swapped, as they are or with other donors;
        where there are none, each with the fewest of its own."""
        number = len(swap_set)
        at_hand = np.full((len(self.nodes), number), -np.inf)
        best: _Pruned | None = None
        step = max(1, AT_ONCE // (number * (1 + FRESH_DRAWS)))
        for start in range(0, len(self.nodes), step):
            some = self.nodes[start : start + step]
            tried, kept = self._alone(swap_set, some)
            worth = self.worth(tried).reshape(len(some), -1, number)
            at_hand[start : start + step] = worth[:, 0]
            best = _most(best, worth.reshape(-1, number), tried, kept)
        if best is None and self.spending.left:
            best = self._ranked(swap_set)
        return self._without_others(swap_set, at_hand) if best is None else best

    def _alone(self, swap_set: SwapSet, nodes: Rows) -> tuple[SwapSet, Mask]:
        """Each node alone with the donors at hand, and then with some that are drawn."""
        number, slots = len(swap_set), len(self.space.slots)
        draws = min(FRESH_DRAWS, max(1, MOST_FRESH // (number * len(self.nodes))))
        each = np.repeat(nodes, (1 + draws) * number)
        kept = self.single(each)
        spaces = [self.space.keep([self.space.paths[node]]) for node in nodes.tolist()]
        chances = self.rng.random((len(nodes), draws, slots, number))
        # one try more, the first, is that of the donors at hand
        chances = np.pad(chances, [(0, 0), (1, 0), (0, 0), (0, 0)])
        chances = chances.transpose(2, 0, 1, 3).reshape(slots, -1)
        references = np.tile(swap_set.references, len(nodes) * (1 + draws))
        drawn = drawn_in(spaces, [(1 + draws) * number] * len(nodes), references, chances)
        at_hand = np.arange(len(each)).reshape(-1, 1 + draws, number)[:, 0].reshape(-1)
        donors = drawn.donors.copy()
        own = np.tile(np.arange(number), len(nodes))
        donors[:, at_hand] = self.only(swap_set[own], kept[:, at_hand]).donors
        return self.space.swap_set(references, donors), kept

    def _ranked(self, swap_set: SwapSet) -> _Pruned | None:
        """The same with the donors that are worth most to first order, where nothing else is
        swapped."""
        found = self._values(swap_set.references)
        if not found:
            return None
        values, nodes, donors = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        most = np.argsort(-values, axis=1, kind="stable")[:, :RANKED]
        of, place = np.nonzero(np.isfinite(np.take_along_axis(values, most, axis=1)))
        which = most[of, place]
        each, taken = nodes[of, which], donors[of, which]
        base = swap_set[of]
        alone = np.broadcast_to(taken, base.donors.shape)
        kept = self.single(each)
        tried = self.only(self.space.swap_set(base.references, alone), kept)
        worth = self.worth(tried)
        best = None
        for node in np.unique(each[worth > 0]):
            mine = np.flatnonzero((each == node) & (worth > 0))
            first = mine[np.unique(of[mine], return_index=True)[1]]
            if best is None or len(first) > len(best):
                best = _Pruned(tried[first], kept[:, first])
        return best

    def _values(self, references: Rows) -> list[tuple[Numbers, Rows, Rows]]:
        """For each node what its most valuable donors would change to first order if it alone were
        swapped, `[R, <= RANKED_OF_A_NODE]`, the node itself, and these donors."""
        space, evaluator = self.space, self.spending.evaluator
        rows = ranked_rows(space, references, self.rng, {})
        evaluator.ensure(evaluator.sites, rows)
        slopes: dict[int, list[ActivationGradient]] = {}
        for slope in self.spending.slopes(space.unswapped(references)):
            slopes.setdefault(slope.slot, []).append(slope)
        below: dict[int, Numbers] = {}  # what takes the donor of a slot with it
        own = np.searchsorted(rows, references)
        found = []
        for i in reversed(space.order if slopes else []):
            slot, values = space.slots[i], below.pop(i, np.zeros((len(references), len(rows))))
            gained = first_order(evaluator.store, slopes.get(i, ()), [i], rows)
            if gained is not None:
                values = values + self.direction * gained.cpu().numpy()
            upper = slot.parent if slot.shares is None else slot.shares
            if upper >= 0:
                below[upper] = below.get(upper, 0.0) + values
            if i in self.nodes and self.spending.left:
                allowed = fits(space, i, rows, references[:, None])
                gain = np.where(allowed, values - values[np.arange(len(own)), own, None], -np.inf)
                gain[gain <= 0] = -np.inf
                top = torch.from_numpy(gain).topk(min(RANKED_OF_A_NODE, len(rows)), dim=1)
                nodes = np.full(top.values.shape, i)
                found.append((top.values.numpy(), nodes, rows[top.indices.numpy()]))
        return found

    def _without_others(self, swap_set: SwapSet, alone: Numbers) -> _Pruned:
        """For each reference the fewest nodes that break it: those that change it most by
        themselves, as many as it takes, and of these none that is not needed."""
        number, each = len(swap_set), np.arange(len(swap_set))
        best_first = np.argsort(-alone, axis=0, kind="stable")
        place = np.argsort(best_first, axis=0, kind="stable")
        kept = np.zeros((len(self.space.slots), number), dtype=np.bool_)

        def breaks(those: Mask, some: Rows) -> Mask:
            kept[np.ix_(self.nodes, some)] = those[:, some]
            return self.worth(self.only(swap_set[some], kept[:, some])) > 0

        least, most = np.zeros(number, dtype=np.int64), np.full(number, len(self.nodes))
        while self.spending.left and len(some := np.flatnonzero(most - least > 1)):
            middle = (least + most) // 2
            enough = breaks(place < middle, some)
            most[some[enough]], least[some[~enough]] = middle[some[enough]], middle[some[~enough]]
        needed = place < most
        before = -1
        while before != needed.sum() and self.spending.left:
            before = int(needed.sum())
            for nth in reversed(range(int(most.max()))):
                node = best_first[nth]
                some = np.flatnonzero(needed[node, each] & (needed.sum(0) > 1))
                if len(some):
                    fewer = needed.copy()
                    fewer[node[some], some] = False
                    can_go = some[breaks(fewer, some)]
                    needed[node[can_go], can_go] = False
        kept[self.nodes] = needed
        least_nodes = np.flatnonzero(needed.sum(0) == needed.sum(0).min())
        return _Pruned(self.only(swap_set, kept), kept)[least_nodes]

    def readable(self, pruned: _Pruned) -> SwapSet:
        """For every reference the nearest donors that still break it, and of these references the
        clearest."""
        of_each = NEAREST * int(pruned.kept.sum(0).max())
        pruned = pruned[np.arange(len(pruned))[: max(1, MOST_NEAREST // of_each)]]
        for node in np.flatnonzero(pruned.kept.any(1)).tolist():
            if self.spending.left:
                pruned = self._nearest(pruned, node)
        swap_set = pruned.swap_set
        distance = self._differences(swap_set.donors, self.space.parents(swap_set)).sum(0)
        shown = [len(self.space.dataset.show(row)) for row in swap_set.references.tolist()]
        return swap_set[np.lexsort((shown, distance))[:1]]

    def _nearest(self, pruned: _Pruned, node: int) -> _Pruned:
        swap_set, mine = pruned.swap_set, np.flatnonzero(pruned.kept[node])
        parents = self.space.parents(swap_set)[node, mine]
        near = [
            self._near(own, rows)
            for own, rows in zip(
                parents, self.space.allowed(self.space.paths[node], parents), strict=True
            )
        ]
        which = np.repeat(mine, list(map(len, near)))
        if not len(which):
            return pruned
        donors = swap_set.donors[:, which]
        donors[node] = np.concatenate(near)
        changed = self.space.swap_set(swap_set.references[which], donors)
        tried = self.only(changed, pruned.kept[:, which])
        breaks = np.flatnonzero(self.worth(tried) > 0)
        first = breaks[np.unique(which[breaks], return_index=True)[1]]
        result = swap_set.donors.copy()
        result[:, which[first]] = tried.donors[:, first]
        return _Pruned(self.space.swap_set(swap_set.references, result), pruned.kept)

    def _near(self, own: Rows, rows: Rows) -> Rows:
        """The rows that differ from one, those that differ least first."""
        if len(rows) > MOST_LOOKED_AT:
            rows = self.rng.choice(rows, MOST_LOOKED_AT, replace=False)
        distance = self._differences(rows, own)
        near = np.argsort(distance, kind="stable")
        return rows[near[distance[near] > 0]][:NEAREST]

    def _differences(self, first: Rows, second: Rows) -> npt.NDArray[np.int64]:
        """In how many places the inputs of rows differ from those of others, and one more where
        they are read at other positions; shaped like `first`."""
        rows = len(self.space.dataset)
        total = np.not_equal(first // rows, second // rows).astype(np.int64)
        for tensor in self.space.dataset.inputs.values():
            differs = tensor[np.array(first % rows)] != tensor[np.array(second % rows)]
            total += differs.reshape(*first.shape, -1).sum(-1).cpu().numpy()
        return total


def _most(best: _Pruned | None, worth: Numbers, tried: SwapSet, kept: Mask) -> _Pruned | None:
    """The try that breaks the claim for most references, and only these, or the best before.

    `worth`: float64 `[tries, R]` of `tried`, one after the other.
    """
    broken = (worth > 0).sum(1)
    most = int(broken.argmax())
    if broken[most] <= (0 if best is None else len(best)):
        return best
    which = most * worth.shape[1] + np.flatnonzero(worth[most] > 0)
    return _Pruned(tried[which], kept[:, which])
