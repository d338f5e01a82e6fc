"""Which donors are worth an evaluation: every donor of every slot valued at once, the whole tree
taken together.

To first order the change of the metric is a sum over the slots that give activations. The donor of
a node that reads others gives none, but says what its children and its rest may take; its value is
the best they can reach under it, computed from the leaves up.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub.adversaries.output_norm import OutputRanking
from pytest_scrub.adversaries.search import Spending, swapped_slots
from pytest_scrub.engine.slopes import Group, first_order, sizes
from pytest_scrub.swaps.slots import REFERENCE
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet

Values = npt.NDArray[np.float64]
CAPTURED_AT_ONCE = 1024  # rows, between two looks at a deadline
HASHED_AT_ONCE = 256  # donors' activations, which may be large
FEW = 16  # donors of a slot that are sooner tried than ranked, as a gradient costs evaluations too
MOST_AT_ONCE = 512  # donors of a slot ranked to first order at one step; the next step ranks others
GRADIENTS = 2  # of a reference that are held at once: each piece of it as it comes, and joined
NOISE = 1e-12  # far below any change that is worth finding
# rows that are ranked; a claim about more is searched among as many of them, drawn at random
MOST_DONORS = 8192


@dataclass(frozen=True)
class _Classes:
    """Ranked rows sorted by what a slot agrees on."""

    order: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    of_row: Rows  # [D]: the class of every ranked row


class Candidates:
    """The donors that are ranked for some references, and their values at a swap set.

    **Arguments**

    - `space`, `spending`: what is searched, and where it is counted.
    - `references`: int64 `[R]`, the rows whose donors are searched.
    - `rng`: draws the rows to rank where there are too many.
    """

    def __init__(
        self, space: SwapSpace, spending: Spending, references: Rows, rng: np.random.Generator
    ) -> None:
        self.space, self.spending, self.rng = space, spending, rng
        self.slots = swapped_slots(space)
        self.together = {
            i: [i, *(j for j, s in enumerate(space.slots) if s.shares == i)] for i in self.slots
        }
        self.moving = {i: self._moving(i) for i in self.slots}
        self.rows = ranked_rows(space, references, rng)
        self.is_donor = space.is_donor[self.rows]
        self.kinds = {i: self._kinds(i) for i in range(len(space.slots))}
        self.classes = {i: self._classes(i) for i in self.slots}
        self.distinct = {i: self._distinct(i) for i in self.slots}
        self.are_few = all(self._most_in_a_class(i) <= FEW for i in self.slots)
        self.has_slopes = True  # until a gradient was asked for and there was none
        self._reached: dict[tuple[tuple[int, ...], int], Rows] = {}
        self.output = OutputRanking(spending, space, self.rows, self.slots)
        evaluator = spending.evaluator
        step = len(self.rows) if spending.deadline is None else CAPTURED_AT_ONCE
        for start in range(0, len(self.rows), step):
            if spending.left:
                evaluator.ensure(evaluator.sites, self.rows[start : start + step])

    def _moving(self, i: int) -> list[int]:
        """The slots that take this one's donor: those that share it, and what is EXACT or not
        swapped below them."""
        moving = list(self.together[i])
        for j in self.space.order:
            slot = self.space.slots[j]
            follows = slot.path in self.space.frozen or slot.agrees_on.exact
            if j not in moving and (slot.shares in moving or (follows and slot.parent in moving)):
                moving.append(j)
        return moving

    def _kinds(self, i: int) -> Rows:
        """`[rows of the dataset]`: equal where two ranked rows are the same as this slot's
        donor."""
        slot, rows = self.space.slots[i], self.rows
        kinds: Rows = self.space.dataset.content + len(rows)
        if slot.is_rest:
            return kinds
        if slot.node.computed_by is not None:
            return self.space.agree(i)
        # sorting such long rows would take far longer than hashing them
        seen: dict[bytes, int] = {}
        for start in range(0, len(rows), HASHED_AT_ONCE):
            some = rows[start : start + HASHED_AT_ONCE]
            gathered = (
                self.spending.evaluator.gathered(slot.path, some) if self.spending.left else None
            )
            if gathered is None:
                break
            contiguous = (
                gathered.reshape(len(some), -1).contiguous().cpu().view(torch.uint8).numpy()
            )
            kinds[some] = [
                seen.setdefault(blake2b(row, digest_size=16).digest(), len(seen))
                for row in contiguous
            ]
        return kinds

    def _distinct(self, i: int) -> npt.NDArray[np.bool_]:
        """bool `[D]`: one ranked row of each kind and class, and all that are no donors but of
        themselves."""
        if self._is_structural(i):
            return np.ones(len(self.rows), dtype=np.bool_)
        kinds = [self.classes[i].of_row, *(self.kinds[j][self.rows] for j in self.together[i])]
        donors = np.flatnonzero(self.is_donor)
        distinct = ~self.is_donor
        distinct[donors[np.unique(np.stack(kinds)[:, donors], axis=1, return_index=True)[1]]] = True
        return distinct

    def _most_in_a_class(self, i: int) -> int:
        return int(np.bincount(self.classes[i].of_row, self.distinct[i] & self.is_donor).max())

    def _classes(self, i: int) -> _Classes:
        of_row = np.unique(self.space.agree(i)[self.rows], return_inverse=True)[1]
        order = np.argsort(of_row, kind="stable")
        return _Classes(order, np.searchsorted(of_row[order], np.arange(of_row.max() + 1)), of_row)

    def values(self, swap_set: SwapSet) -> dict[int, Values]:
        """For each slot, what each ranked row is worth as its donor, `[R, D]`, up to a constant per
        reference; larger is worse for the claim. Rows that the slot's present parent does not allow
        have values too."""
        if self.are_few or not self.has_slopes:
            return {i: self._shuffled(len(swap_set)) for i in self.slots}
        exact = self.output.values(swap_set)
        # children before parents
        order = [i for i in reversed(self.space.order) if i in self.together]
        groups = {i: self._groups(i, swap_set.references) for i in order if i not in exact}
        found = self._first_order(swap_set, groups)
        values: dict[int, Values] = {}
        for i in order:
            if i in exact:
                values[i] = self.spending.sign * exact[i].cpu().numpy()
                continue
            values[i] = (
                _among(groups[i], self.spending.sign * found[i])
                if i in found
                else self._shuffled(len(swap_set))
            )
            for child, slot in enumerate(self.space.slots):
                if slot.parent in self.moving[i] and child in values:
                    values[i] += self._best(child, values[child])
        return values

    def _first_order(self, swap_set: SwapSet, groups: dict[int, list[Group]]) -> dict[int, Values]:
        """What each donor would change to first order, `[R, D]`, for the slots whose activations
        have a gradient.

        The gradients of a few references are in memory at once. Nothing where the deadline passes
        before all are done.
        """
        evaluator, parts = self.spending.evaluator, dict[int, list[Values]]()
        of_one = sum(evaluator.store.bytes_per_row(site) for site in evaluator.sites)
        step = max(
            1,
            evaluator.store.memory.batch_bytes(evaluator.graph.device)
            // max(1, GRADIENTS * of_one),
        )
        self.has_slopes = False
        for start in range(0, len(swap_set), step):
            if start and not self.spending.left:
                return {}
            part = swap_set[start : start + step]
            slopes = self.spending.slopes(part)
            self.has_slopes |= bool(slopes)
            for i, grouped in groups.items():
                cut = (
                    (_within(references, start, start + step), donors)
                    for references, donors in grouped
                )
                here = [group for group in cut if len(group[0])]
                pairs = sum(len(references) * len(donors) for references, donors in here)
                self.spending.multiplications += sizes(slopes, self.moving[i]) * pairs
                found = first_order(evaluator.store, slopes, self.moving[i], self.rows, here)
                if found is not None:
                    parts.setdefault(i, []).append(found.cpu().numpy())
        return {i: some[0] if len(some) == 1 else np.concatenate(some) for i, some in parts.items()}

    def _groups(self, i: int, references: Rows) -> list[Group]:
        """References that can be given the same donors of a slot, and these: places in `rows`."""
        chain = [i]
        while (parent := self.space.slots[chain[-1]].parent) != REFERENCE:
            owner = self.space.slots[parent].shares
            chain.append(parent if owner is None else owner)
        classes, inverse = np.unique(self.space.agree(chain[-1])[references], return_inverse=True)
        by_donors: dict[bytes, list[int]] = {}  # different classes may leave the same donors
        for nth, code in enumerate(classes.tolist()):
            by_donors.setdefault(
                self._reachable(tuple(reversed(chain)), code).tobytes(), []
            ).append(nth)
        return [
            (
                np.flatnonzero(np.isin(inverse, alike)),
                self._some(np.frombuffer(donors, dtype=np.int64)),
            )
            for donors, alike in by_donors.items()
        ]

    def _some(self, donors: Rows) -> Rows:
        """At most `MOST_AT_ONCE`, others every time."""
        return (
            donors
            if len(donors) <= MOST_AT_ONCE
            else np.sort(self.rng.choice(donors, MOST_AT_ONCE, replace=False))
        )

    def _reachable(self, chain: tuple[int, ...], code: int) -> Rows:
        """The ranked rows that can be donors of the last slot of a chain of parents and children,
        where the first one's have this code."""
        if (chain, code) not in self._reached:
            reached = self.space.agree(chain[0])[self.rows] == code
            for i in chain[1:]:
                codes = self.space.agree(i)[self.rows]
                reached = np.isin(codes, codes[reached])
            self._reached[chain, code] = np.flatnonzero(reached)
        return self._reached[chain, code]

    def _shuffled(self, references: int) -> Values:
        """Values that only say in which order to try."""
        return NOISE * self.rng.random((references, len(self.rows)))

    @property
    def how(self) -> str:
        """How donors are ranked, in words."""
        if self.are_few:
            return f"at most {FEW} donors a slot, in random order"
        if not self.has_slopes:
            return "in random order, as nothing has a gradient"
        exact, everything = len(self.output.contributions), len(self.slots)
        ways = []
        if exact:
            ways.append(
                f"{'' if exact == everything else f'{exact} of {everything} slots '}exactly up to "
                "a linear readout"
            )
        if exact < everything:
            ways.append("to first order")
        return (
            f"ranked {', the others '.join(ways)} "
            f"({self.spending.evaluator.metric.to_rank_by.name})"
        )

    def _best(self, child: int, values: Values) -> Values:
        """`[R, D]`: the most that a slot can be worth when its parent's own input is each of the
        ranked rows."""
        classes = self.classes[child]
        usable = np.where(self.is_donor, values, -np.inf)[:, classes.order]
        best = np.maximum.reduceat(usable, classes.starts, axis=1)[:, classes.of_row]
        found: Values = np.maximum(best, values)  # the row itself is always allowed
        return found

    def allowed(self, i: int, parents: Rows) -> npt.NDArray[np.bool_]:
        """bool `[R, D]`: the ranked rows that may be the slot's donors, given its parents' own
        inputs."""
        codes = self.space.agree(i)
        agrees = codes[self.rows] == codes[parents][:, None]
        found: npt.NDArray[np.bool_] = agrees & (self.is_donor | (self.rows == parents[:, None]))
        return found

    def parents(self, i: int, swap_set: SwapSet) -> Rows:
        """The own inputs with which a slot's donors have to agree."""
        parent = self.space.slots[i].parent
        return swap_set.references if parent == REFERENCE else swap_set.donors[parent]

    def best(self, i: int, swap_set: SwapSet, values: Values, most: int) -> Rows:
        """int64 `[R, <= most]`: the most valuable allowed donors of a slot other than its present
        one; where there are fewer, the present one again."""
        worth = np.where(
            self.allowed(i, self.parents(i, swap_set)) & self.distinct[i], values, -np.inf
        )
        current = swap_set.donors[i]
        if not self._is_structural(i):
            kinds = [self.kinds[j] for j in self.together[i]]
            same = np.all([kind[self.rows] == kind[current][:, None] for kind in kinds], axis=0)
            worth[same] = -np.inf
        most = min(most, worth.shape[1])
        top = torch.from_numpy(worth).topk(most, dim=1)
        found: Rows = np.where(
            np.isfinite(top.values.numpy()), self.rows[top.indices.numpy()], current[:, None]
        )
        return found

    def drawn(self, i: int, swap_set: SwapSet, most: int) -> Rows:
        """int64 `[R, most]`: donors of a slot drawn uniformly from all that are allowed, ranked or
        not."""
        parents = self.parents(i, swap_set)
        picked = [self.space.pick(i, parents, self.rng.random(len(parents))) for _ in range(most)]
        return np.stack(picked, axis=1) if picked else np.empty((len(parents), 0), dtype=np.int64)

    def _is_structural(self, i: int) -> bool:
        return any(slot.parent in self.together[i] for slot in self.space.slots)

    def moved(
        self, swap_set: SwapSet, i: int, donors: Rows, values: dict[int, Values] | None
    ) -> SwapSet:
        """The swap set with other donors, int64 `[R]`, in one slot; what is below it and no longer
        agrees takes the most valuable donor that does, or without values the parent's own input."""
        changed = swap_set.donors.copy()
        changed[i] = donors
        touched = {i}
        for j in self.space.order:
            slot = self.space.slots[j]
            if slot.shares is not None:
                changed[j] = changed[slot.shares]
                touched |= {j} if slot.shares in touched else set()
            elif slot.parent in touched and j != i:
                parents, codes = changed[slot.parent], self.space.agree(j)
                if slot.path in self.space.frozen:
                    broken = changed[j] != parents
                else:
                    outside = (changed[j] != parents) & ~self.space.is_donor[changed[j]]
                    broken = (codes[changed[j]] != codes[parents]) | outside
                if broken.any():
                    touched.add(j)
                    changed[j, broken] = self._replacement(j, parents[broken], broken, values)
        return self.space.swap_set(swap_set.references, changed)

    def _replacement(
        self, j: int, parents: Rows, broken: npt.NDArray[np.bool_], values: dict[int, Values] | None
    ) -> Rows:
        if values is None or j not in values:
            return parents
        worth = np.where(self.allowed(j, parents), values[j][broken], -np.inf)
        best = worth.argmax(1)
        found: Rows = np.where(np.isfinite(worth.max(1)), self.rows[best], parents)
        return found


def _within(references: Rows, start: int, stop: int) -> Rows:
    """Those in a range, counted from its start."""
    found: Rows = references[(references >= start) & (references < stop)] - start
    return found


def _among(groups: list[Group], values: Values) -> Values:
    """The values of what the groups hold; of anything else, minus infinity."""
    known = np.full_like(values, -np.inf)
    for references, donors in groups:
        at = np.ix_(references, donors)
        known[at] = values[at]
    return known


def ranked_rows(space: SwapSpace, references: Rows, rng: np.random.Generator) -> Rows:
    """The references and the rows that can be donors for them, one of each kind; at most
    `MOST_DONORS` donors.

    Rows are of one kind where their content is the same and every slot agrees on them.
    """
    slots = swapped_slots(space)
    kinds = np.stack([space.dataset.content, *(space.agree(i) for i in slots)])
    first = np.unique(kinds[:, space.donor_rows], axis=1, return_index=True)[1]
    donors = np.sort(space.donor_rows[first])
    if len(donors) > MOST_DONORS:
        # Drawn as the claim draws, so that the few donors of a rare reference are among them.
        drawn = space.draw(MOST_DONORS, rng, rng.choice(references, MOST_DONORS)).donors[slots]
        donors = rng.permutation(np.unique(drawn))[:MOST_DONORS]
    return np.union1d(references, donors)
