"""Which donors are worth an evaluation: every donor of every slot valued at once, the whole tree
taken together.

To first order the change of the metric is a sum over the slots that give activations. The donor of
a node that reads others gives none, but says what its children and its rest may take; its value is
the best they can reach under it, computed from the leaves up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub.adversaries.output_norm import OutputRanking
from pytest_scrub.adversaries.search import Spending, fits, sharing, swapped_slots
from pytest_scrub.data.columns import joint_codes
from pytest_scrub.engine.gradients import ActivationGradient, first_order, sizes
from pytest_scrub.swaps.slots import REFERENCE
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet

Values = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Groups = tuple[Rows, Mask]  # the group of every reference, [R], and its donors, [groups, D]
CAPTURED_AT_ONCE = 1024  # rows, between two looks at a deadline
HASHED_AT_ONCE, HASHED_BYTES = 256, 1 << 22  # donors' activations, more where they are small
FEW = 16  # donors of a slot that are sooner tried than ranked, as a gradient costs evaluations too
MOST_AT_ONCE = 512  # donors of a slot ranked to first order at one step; the next step ranks others
GRADIENTS = 2  # of a reference that are held at once: each piece of it as it comes, and joined
NOISE = 1e-12  # far below any change that is worth finding
# rows that are ranked; a claim about more is searched among as many of them, drawn at random
MOST_DONORS = 8192


class Ranked(dict[int, Values]):
    """Values by slot; those of `later` are asked for once, computed then and not kept: of all slots
    together they would take far more memory than what they are computed from."""

    def __init__(
        self,
        values: Mapping[int, Values] = MappingProxyType({}),
        later: Mapping[int, Callable[[], Values]] = MappingProxyType({}),
    ) -> None:
        super().__init__(values)
        self.later = later

    def __missing__(self, i: int) -> Values:
        return self.later[i]()


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
        # of every slot: those that share its donor, that take it, that depend on it, and that
        # choose among what it says
        self.together = self._known("together", lambda i: sharing(space, i))
        self.moving = self._known("moving", self._moving)
        self.after = self._known("after", self._after)
        self.below = self._known("below", self._below)
        self.idle = self._idle()
        # whose values nothing but a visit reads
        depending = {j for i in self.slots if i not in self.idle for j in self.below[i]}
        self.once = {i for i in self.slots if not self.below[i]} - depending
        # with whose donors the predicted label changes, of which no gradient knows
        read = frozenset[int]() if space.predicted is None else space.predicted.read
        self.predicting = {i for i in self.slots if not read.isdisjoint(self.moving[i])}
        self.rows = ranked_rows(space, references, rng, spending.known)
        self._known_classes: dict[int, tuple[Rows, Rows, Rows]] = {}
        varying = {j for after in self.after.values() for j in after}
        self.kinds = [self._kinds(i, i in varying) for i in range(len(space.slots))]
        self.distinct = {i: self._distinct(i) for i in self.slots}
        self.are_few = all(self._most_in_a_class(i) <= FEW for i in self.slots)
        self.has_slopes = True  # until a gradient was asked for and there was none
        key = ("output", space, self.rows.tobytes())
        if key not in spending.known:
            spending.known[key] = OutputRanking(spending, space, self.rows, self.slots)
        self.output: OutputRanking = spending.known[key]
        for start in range(0, len(self.rows), CAPTURED_AT_ONCE):
            if spending.left:
                some = self.rows[start : start + CAPTURED_AT_ONCE]
                spending.evaluator.ensure(spending.evaluator.sites, some)

    def _known(self, what: str, of: Callable[[int], list[int]]) -> dict[int, list[int]]:
        """Of every slot, found out once for the space."""
        key = (what, self.space)
        if key not in self.spending.known:
            self.spending.known[key] = {i: of(i) for i in self.slots}
        known: dict[int, list[int]] = self.spending.known[key]
        return known

    def _below(self, i: int) -> list[int]:
        """The slots that choose a donor among those that agree with this slot's, or with one that
        takes it."""
        moving = set(self.moving[i])
        return [j for j in self.slots if self.space.slots[j].parent in moving]

    def _moving(self, i: int) -> list[int]:
        """The slots that take this one's donor: those that share it, and what is EXACT or not
        swapped below them."""
        moving = dict.fromkeys(self.together[i])
        for j in self.space.order:
            slot = self.space.slots[j]
            follows = slot.path in self.space.frozen or slot.agrees_on.exact
            if slot.shares in moving or (follows and slot.parent in moving):
                moving[j] = None
        return [*moving]

    def _after(self, i: int) -> list[int]:
        """The slot and all whose donors depend on its own, parents before children."""
        after = {i}
        for j in self.space.order:
            slot = self.space.slots[j]
            after |= {j} if slot.parent in after or slot.shares in after else set()
        return [j for j in self.space.order if j in after]

    def _idle(self) -> set[int]:
        """The slots of which no other donor changes anything: nothing reads the donor, and all that
        it may be say the same of what those below may take. So it is above them."""
        space, idle = self.space, set(self.slots if self.space.is_donor.all() else ())
        for i in self.slots:
            others = [space.agree(j) for j in self.below[i] if space.agree(j) is not space.agree(i)]
            if any(map(np.ptp, others)) or any(map(space.is_read, self.moving[i])):
                idle.discard(i)
        for i in space.order:  # parents before children
            if i in self.below and i not in idle:
                idle.difference_update(self.below[i])
        return idle

    @cached_property
    def branches(self) -> dict[int, Rows]:
        """The slots right below the root, each with all that are below it."""
        top_of = np.arange(len(self.space.slots))
        for j in self.space.order:
            if (parent := self.space.slots[j].parent) != REFERENCE:
                top_of[j] = top_of[parent]
        return {top: np.flatnonzero(top_of == top) for top in np.unique(top_of).tolist()}

    def _kinds(self, i: int, varies: bool) -> Rows:
        """`[donors]`: equal where two ranked rows are the same as this slot's donor; of one that
        does not vary, where their content is."""
        slot, rows = self.space.slots[i], self.rows
        if self.space.predicted is not None and i in self.space.predicted.read:
            return np.arange(len(self.space.content))  # which may read anything of a row
        if slot.is_rest or not varies or slot.at is not None:
            return self.space.content
        kinds: Rows = self.space.content + len(rows)
        if slot.node.computed_by is not None:
            return self.space.agree(i)
        key = (slot.path, rows.tobytes())
        if key in self.spending.known:
            known: Rows = self.spending.known[key]
            return known
        # sorting such long rows would take far longer than hashing them
        seen: dict[int, int] = {}
        start, step = 0, HASHED_AT_ONCE
        while start < len(rows) and self.spending.left:
            some = rows[start : start + step]
            gathered = self.spending.evaluator.gathered(slot.path, some)
            if gathered is None:
                break
            table = gathered.reshape(len(some), -1).contiguous().cpu().view(torch.uint8).numpy()
            each = table.view(f"V{table.shape[1]}").reshape(-1).tolist()
            kinds[some] = [seen.setdefault(hash(row), len(seen)) for row in each]
            start, step = start + step, max(step, HASHED_BYTES // table.shape[1])
        self.spending.known[key] = kinds
        return kinds

    def _distinct(self, i: int) -> Mask:
        """bool `[D]`: one ranked row of each kind and class, and all that are no donors but of
        themselves."""
        is_donor = self.space.is_donor[self.rows]
        if self._is_structural(i):
            return np.ones_like(is_donor)
        donors = np.flatnonzero(is_donor)
        rows = self.rows[donors]
        kinds = (self.kinds[j][rows] for j in self.together[i])
        alike = joint_codes([self.space.agree(i)[rows], *kinds])
        distinct = ~is_donor
        distinct[donors[np.unique(alike, return_index=True)[1]]] = True
        return distinct

    def _most_in_a_class(self, i: int) -> int:
        tried = self.rows[self.distinct[i] & self.space.is_donor[self.rows]]
        return int(np.bincount(self.space.agree(i)[tried], minlength=1).max())

    def _is_structural(self, i: int) -> bool:
        """Whether it says what others may take."""
        return not self._parents.isdisjoint(self.together[i])

    @cached_property
    def _parents(self) -> set[int]:
        return {slot.parent for slot in self.space.slots}

    def _most_of_class(self, i: int, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """`[R, D]`: the largest value of the ranked rows that agree with each as this slot asks."""
        of_row, order, starts = self._classes(i)
        return np.maximum.reduceat(values[:, order], starts, axis=1)[:, of_row]

    def _classes(self, i: int) -> tuple[Rows, Rows, Rows]:
        """Of the ranked rows: the class of each as a slot agrees, an order by class, and where each
        class begins in it."""
        codes = self.space.agree(i)
        if id(codes) not in self._known_classes:  # most slots agree on the same
            of_row = np.unique(codes[self.rows], return_inverse=True)[1]
            order = np.argsort(of_row, kind="stable")
            starts = np.searchsorted(of_row[order], np.arange(of_row.max() + 1))
            self._known_classes[id(codes)] = of_row, order, starts
        return self._known_classes[id(codes)]

    def values(self, swap_set: SwapSet) -> Ranked:
        """For each slot that is not idle, what each ranked row is worth as its donor, `[R, D]`, up
        to a constant per reference; larger is worse for the claim. Rows that the slot's present
        parent does not allow have values too."""
        if self.are_few or not self.has_slopes:
            return Ranked({i: self._shuffled(len(swap_set)) for i in self.slots})
        # children before parents
        order = [i for i in reversed(self.space.order) if i in self.together]
        exact = self.output.values(swap_set)
        known = {i: self.spending.sign * found.cpu().numpy() for i, found in exact.items()}
        known |= {i: self._shuffled(len(swap_set)) for i in self.predicting}
        reached: dict[int, tuple[Rows, Mask]] = {}
        groups = {i: self._groups(i, swap_set.references, reached) for i in order if i not in known}
        values = self._first_order(swap_set, groups)
        values.update(known)
        for i in order:
            if i in values.later:
                continue
            if i not in values:
                values[i] = self._shuffled(len(swap_set))
            if i in self.idle:
                del values[i]  # drawn all the same: what is idle changes nothing that is drawn
                continue
            for child in self.below[i]:
                values[i] += self._best(child, values[child])
        return values

    def _shuffled(self, references: int) -> Values:
        """Values that only say in which order to try."""
        return NOISE * self.rng.random((references, len(self.rows)))

    def _best(self, child: int, values: Values) -> Values:
        """`[R, D]`: the most that a slot can be worth when its parent's own input is each of the
        ranked rows."""
        is_donor = self.space.is_donor[self.rows]
        if is_donor.all():
            return self._most_of_class(child, values)
        of_donors = np.where(is_donor, values, -np.inf)
        # the row itself is always allowed
        found: Values = np.maximum(self._most_of_class(child, of_donors), values)
        return found

    def _first_order(self, swap_set: SwapSet, groups: dict[int, Groups]) -> Ranked:
        """What each donor would change to first order, `[R, D]`, for the slots whose activations
        have a gradient; minus infinity for those that are in no group.

        The gradients of a few references are in memory at once. Nothing where the deadline passes
        before all are done.
        """
        evaluator, parts = self.spending.evaluator, dict[int, list[Values]]()
        of_one = sum(evaluator.store.bytes_per_row(site) for site in evaluator.sites)
        memory = evaluator.store.memory.batch_bytes(evaluator.graph.device)
        step = max(1, memory // max(1, GRADIENTS * of_one))
        self.has_slopes, later = False, dict[int, Callable[[], Values]]()
        for start in range(0, len(swap_set), step):
            if start and not self.spending.left:
                return Ranked()
            slopes = self.spending.slopes(swap_set[start : start + step])
            self.has_slopes |= bool(slopes)
            for i, (group_of, donors) in groups.items():
                size, own = sizes(slopes, self.moving[i]), group_of[start : start + step]
                self.spending.multiplications += size * int(donors.sum(1)[own].sum())
                worth = partial(self._worth, slopes, i, own, donors)
                if size and i in self.once and step >= len(swap_set):
                    later[i] = worth
                elif size:
                    parts.setdefault(i, []).append(worth())
        joined = {
            i: some[0] if len(some) == 1 else np.concatenate(some) for i, some in parts.items()
        }
        return Ranked(joined, later)

    def _worth(
        self, slopes: Sequence[ActivationGradient], i: int, group_of: Rows, donors: Mask
    ) -> Values:
        """That of one slot's donors for some references."""
        here = [
            (np.flatnonzero(group_of == group), np.flatnonzero(donors[group]))
            for group in np.unique(group_of)
        ]
        found = first_order(
            self.spending.evaluator.store, slopes, self.moving[i], self.rows, here,
            elsewhere=-self.spending.sign * np.inf,
        )  # fmt: skip
        assert found is not None  # it has slopes
        worth: Values = found.mul_(self.spending.sign).cpu().numpy()
        return worth

    def _reached(
        self, i: int, references: Rows, known: dict[int, tuple[Rows, Mask]]
    ) -> tuple[Rows, Mask]:
        """Which class of a slot each reference is of, `[R]`, and which ranked rows it can be given,
        `[classes, D]`. `known`: those of slots that were asked for before."""
        if i not in known:
            parent = self.space.slots[i].parent
            if parent == REFERENCE:
                codes = self.space.agree(i)
                classes, class_of = np.unique(codes[references], return_inverse=True)
                known[i] = class_of, codes[self.rows] == classes[:, None]
            else:
                owner = self.space.slots[parent].shares
                above = parent if owner is None else owner
                class_of, reached = self._reached(above, references, known)
                known[i] = class_of, self._most_of_class(i, reached)
        return known[i]

    def _groups(self, i: int, references: Rows, known: dict[int, tuple[Rows, Mask]]) -> Groups:
        """References that can be given the same donors of a slot, and these, at most
        `MOST_AT_ONCE`: others every time. `known`: see `_reached`."""
        class_of, reached = self._reached(i, references, known)
        numbers: dict[bytes, int] = {}  # different classes may leave the same donors
        group_of = np.array(
            [numbers.setdefault(donors.tobytes(), len(numbers)) for donors in reached]
        )
        groups = reached[np.unique(group_of, return_index=True)[1]]
        for donors in groups:
            if donors.sum() > MOST_AT_ONCE:
                some = self.rng.choice(np.flatnonzero(donors), MOST_AT_ONCE, replace=False)
                donors[:] = False
                donors[some] = True
        return group_of[class_of], groups

    @property
    def how(self) -> str:
        """How donors are ranked, in words."""
        if self.are_few:
            return f"at most {FEW} donors a slot, in random order"
        if not self.has_slopes:
            return "in random order, as nothing has a gradient"
        everything, blind = len(self.slots), len(self.predicting)
        exact = len(self.output.contributions.keys() - self.predicting)
        ways = []
        if exact:
            share = "" if exact == everything else f"{exact} of {everything} slots "
            ways.append(f"{share}exactly up to a linear readout")
        if blind:
            share = "" if blind == everything else f"{blind} of {everything} slots "
            ways.append(f"{share}in random order, as the predicted label changes with them")
        if exact + blind < everything:
            ways.append("to first order")
        by = self.spending.evaluator.metric.to_rank_by.name
        return f"ranked {', the others '.join(ways)} ({by})"

    def best(self, i: int, swap_set: SwapSet, values: Values, most: int) -> Rows:
        """int64 `[R, <= most]`: the most valuable allowed donors of a slot other than its present
        one; where there are fewer, the present one again."""
        parents = self.space.parents_of(i, swap_set.references, swap_set.donors)
        rows, distinct = self.rows, self.distinct[i]
        if not distinct.all():
            rows, values = rows[distinct], values[:, distinct]
        worth = np.where(fits(self.space, i, rows, parents[:, None]), values, -np.inf)
        current = swap_set.donors[i]
        if not self._is_structural(i):
            same = [self.kinds[j][rows] == self.kinds[j][current, None] for j in self.together[i]]
            worth[same[0] if len(same) == 1 else np.all(same, axis=0)] = -np.inf
        top = torch.from_numpy(worth).topk(min(most, worth.shape[1]), dim=1)
        found: Rows = np.where(
            np.isfinite(top.values.numpy()), rows[top.indices.numpy()], current[:, None]
        )
        return found

    def drawn(self, i: int, swap_set: SwapSet) -> Rows:
        """int64 `[R]`: donors of a slot drawn uniformly from all that are allowed, ranked or
        not."""
        parents = self.space.parents_of(i, swap_set.references, swap_set.donors)
        return self.space.pick(i, parents, self.rng.random(len(parents)))

    def changed(
        self, swap_set: SwapSet, i: int, donors: Rows, values: Mapping[int, Values] | None
    ) -> dict[int, Rows]:
        """The donors, int64 `[R]`, of the slots that change where one slot has other ones: what is
        below it and no longer agrees takes the most valuable donor that does, or without values the
        parent's own input."""
        changed: dict[int, Rows] = {}
        for j in self.after[i]:
            slot, present = self.space.slots[j], swap_set.donors[j]
            if j != i and slot.parent not in changed and slot.shares not in changed:
                continue
            own = self.space.parents_of(j, swap_set.references, swap_set.donors)
            parents = changed.get(slot.parent, own)
            if slot.shares is not None:
                found = changed.get(slot.shares, swap_set.donors[slot.shares])
            elif slot.path in self.space.frozen:
                found = parents
            else:
                found = self._kept(j, donors if j == i else present, parents, values)
            if j == i or not np.array_equal(found, present):
                changed[j] = found
        return changed

    def _kept(
        self, j: int, current: Rows, parents: Rows, values: Mapping[int, Values] | None
    ) -> Rows:
        """The present donors of a slot, and others where these no longer agree."""
        broken = ~fits(self.space, j, current, parents)
        if not broken.any():
            return current
        chosen = np.where(broken, parents, current)
        if values is not None and j in values:
            own = parents[broken]
            allowed = fits(self.space, j, self.rows, own[:, None])
            worth = np.where(allowed, values[j][broken], -np.inf)
            known = np.isfinite(worth.max(1))
            chosen[broken] = np.where(known, self.rows[worth.argmax(1)], own)
        return chosen


def ranked_rows(
    space: SwapSpace,
    references: Rows,
    rng: np.random.Generator,
    known: dict[tuple[object, ...], Any],
) -> Rows:
    """The references and the rows that can be donors for them, one of each kind; at most
    `MOST_DONORS` donors.

    Rows are of one kind where their content is the same and every slot agrees on them.

    - `known`: which rows are of one kind, where it was found out before for this space.
    """
    slots = swapped_slots(space)
    if ("donors", space) not in known:
        parted = {id(codes): codes for codes in (space.agree(i) for i in slots)}
        contents = space.content[space.donors]
        first = np.arange(len(contents))
        # else nothing is alike; and a prediction may read anything of a row
        if space.predicted is None and len(np.unique(contents)) < len(contents):
            kinds = joint_codes([contents, *(codes[space.donors] for codes in parted.values())])
            first = np.unique(kinds, return_index=True)[1]
        known["donors", space] = np.sort(space.donors[first])
    donors: Rows = known["donors", space]
    if len(donors) > MOST_DONORS:
        # Drawn as the claim draws, so that the few donors of a rare reference are among them.
        drawn = space.draw(MOST_DONORS, rng, rng.choice(references, MOST_DONORS)).donors[slots]
        donors = rng.permutation(np.unique(drawn))[:MOST_DONORS]
    return np.union1d(references, donors)
