"""Which columns of a batch give a node one value, so that it is computed once for all of them.

A value is made of the rows of the slots below it alone. Searches change few slots of a swap set at
a time, and the table node by node swaps one: most of what is below and beside is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.columns import first_of_codes, joint_codes
from pytest_scrub.engine.plan import Step
from pytest_scrub.swaps.swap_set import Rows

# Bytes that nodes gather for one column before columns are told apart: that takes a share of the
# time of computing with so many.
FEWEST_BYTES = 1024
MOST_KINDS = 7 / 8  # of the columns; where more differ, little is saved
SALT = np.random.default_rng(0).integers(1, 1 << 62, size=64, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Kinds:
    """Columns `[C]` by what a step's value is made of.

    - `first`: int64 `[kinds]`, ascending: the first column of each.
    - `of_column`: int64 `[C]`: which of these each column is like.
    """

    first: Rows
    of_column: Rows

    @classmethod
    def of(cls, codes: Sequence[Rows]) -> Kinds | None:
        """Columns are alike where all of these are equal; None where hardly any are."""
        kinds = _kinds(codes)
        first = first_of_codes(kinds)
        if len(first) > MOST_KINDS * len(kinds):
            return None
        order = np.argsort(first)
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        return cls(first[order], place[kinds])

    def within(self, batch: slice) -> Kinds:
        """Those of one batch, none of which goes beyond it."""
        start, end = np.searchsorted(self.first, (batch.start, batch.stop))
        return Kinds(self.first[start:end] - batch.start, self.of_column[batch] - start)


def _kinds(codes: Sequence[Rows]) -> Rows:
    """`[B]`: equal exactly where all codes are."""
    salted = np.zeros_like(codes[0])
    for nth, code in enumerate(codes):
        salted = (salted ^ code) * (SALT[nth % len(SALT)] | 1)
        salted ^= salted >> 29
    found: Rows = np.unique(salted, return_inverse=True)[1].reshape(-1)
    like = first_of_codes(found)[found]
    if all(np.array_equal(code[like], code) for code in codes):
        return found
    return joint_codes(codes)  # numbers that differ were mixed to the same


def kinds_below(
    plan: Step, rows: Rows, size: int, gathered: Callable[[Step], int]
) -> dict[str, Kinds]:
    """For the steps below the root that compute something, by path, which columns of a batch are
    alike; what is alike for a step is so for those below it.

    Those of all batches are told apart at once: of a small batch it would take longer than what it
    saves.

    **Arguments**

    - `rows`: int64 `[slots + 1, C]`; `size`: how many of these columns are a batch.
    - `gathered`: bytes that a step gathers for one column.
    """
    found: dict[str, Kinds] = {}
    columns = rows.shape[1]
    batch = [np.arange(columns) // size] if columns > size else []

    def told_by(step: Step, placed_by: int | None) -> tuple[list[Rows] | None, int]:
        """What tells a step's columns apart, None where no two are alike, and the bytes that were
        gathered since columns were compared; `placed_by`: the slot on whose row its positions
        depend where it has none of its own."""
        if step.positions is not None:
            placed_by = None if step.positions.static else step.carrier
        own = {step.donor} if step.node.computed_by else {step.carrier, *step.each}
        codes: list[Rows] | None = [rows[slot] for slot in own | {placed_by} - {None}]
        since = 0
        for child in step.children:
            of_child, more = told_by(child, placed_by if child.same else None)
            codes = None if codes is None or of_child is None else codes + of_child
            since += more
        if step.reader is None or codes is None:
            return codes, since
        since += gathered(step)
        if since < FEWEST_BYTES:
            return codes, since
        kinds = Kinds.of(batch + codes)
        if kinds is None:
            return None, 0
        found[step.path] = kinds
        return [kinds.of_column], 0

    placed_by = None if plan.positions is None or plan.positions.static else plan.carrier
    for child in plan.children:
        if child.reader is not None:
            told_by(child, placed_by if child.same else None)
    return found


class Columns:
    """Some columns of a batch of swap sets.

    **Arguments**

    - `rows`: int64 `[slots + 1, B]`: the donors of all slots and, last, the references.
    - `kinds`: of all columns of the batch.
    - `which`: int64, ascending: which of them these are; None for all.
    """

    def __init__(
        self, rows: Tensor, kinds: Mapping[str, Kinds] | None = None, which: Rows | None = None
    ) -> None:
        self.rows, self.kinds, self._which = rows, kinds or {}, which
        self._index = None if which is None else torch.from_numpy(which).to(rows.device)

    def __len__(self) -> int:
        return self.rows.shape[1] if self._which is None else len(self._which)

    def of(self, slot: int) -> Tensor:
        """int64 `[B]`: the rows of one slot, or of the references."""
        rows = self.rows[slot]
        return rows if self._index is None else rows.index_select(0, self._index)

    @property
    def sizes(self) -> set[int]:
        """How many columns are computed at once, by any step."""
        return {len(self), *(len(kinds.first) for kinds in self.kinds.values())}

    def below(self, step: Step) -> tuple[Columns, Tensor, Tensor] | None:
        """The columns for which a step is to be computed, their places here, and which of them
        each is like; None where that is all of them."""
        kinds = self.kinds.get(step.path)
        if kinds is None or len(kinds.first) == len(self):
            return None
        at, like = kinds.first, kinds.of_column
        if self._which is not None:
            at, like = np.searchsorted(self._which, at), like[self._which]
        index, back = (torch.from_numpy(each).to(self.rows.device) for each in (at, like))
        return Columns(self.rows, self.kinds, kinds.first), index, back
