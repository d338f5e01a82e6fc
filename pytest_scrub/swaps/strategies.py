"""Hypothesis strategies: swap sets for properties of one's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from pytest_scrub.errors import DataError
from pytest_scrub.swaps.slots import REFERENCE, owners_first
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet

if TYPE_CHECKING:
    from pytest_scrub.data.dataset import Dataset
    from pytest_scrub.tree.nodes import Node

BLOCK = 256  # up to here Hypothesis draws every integer about as often
EITHER, NEVER = st.booleans(), st.integers(0, 0)


def swap_sets(
    hypothesis: Node, dataset: Dataset, *, max_size: int = 4
) -> st.SearchStrategy[SwapSet]:
    """Allowed swap sets, to be drawn by a test with Hypothesis's `@given`.

    For every reference about half of the slots take a donor other than their parent's own input.
    Failing examples shrink towards few references, few swapped slots and low rows, in this order.

    **Arguments**

    - `hypothesis`: the root of a tree, as `output(...)` makes it.
    - `dataset`: gives rows, features, and which rows may be references and donors.
    - `max_size`: the most references of a swap set; the fewest is one.

    **Returns** a strategy for `SwapSet`. Make it once, outside the test function, where the dataset
    is large.

    **Raises** `HypothesisError` or `DataError` where the two do not fit together.
    """
    if not isinstance(max_size, int) or max_size < 1:
        raise DataError(
            f"max_size= is the most references of a swap set; give at least 1, not {max_size!r}"
        )
    space = SwapSpace(hypothesis, dataset)
    return _swap_sets(space, _columns(space, owners_first(space.slots), _Donors(space)), max_size)


@st.composite  # what is mapped would be shown as the call of a function
def _swap_sets(
    draw: st.DrawFn, space: SwapSpace, columns: st.SearchStrategy[list[int]], max_size: int
) -> SwapSet:
    # Out of a list Hypothesis often cannot shrink what is made of many choices; out of so many
    # draws it can.
    count = draw(st.integers(1, max_size))
    table = np.array([draw(columns) for _ in range(count)], dtype=np.int64).T
    return space.swap_set(table[0], table[1:])


class _Donors:
    """The allowed donors of every slot; those of rows that agree are listed once, when first asked
    for."""

    def __init__(self, space: SwapSpace) -> None:
        self._space = space
        self._listed: dict[tuple[int, int], Rows] = {}

    def others(self, slot: int, own: int) -> tuple[Rows, int]:
        """The donor rows that agree with the parent's own input, ascending, and the place of that
        among them; it is past their end where it is no donor row itself.
        """
        codes = self._space.agree(slot)  # the very same for slots that agree on the same
        key = id(codes), int(codes[own])
        if key not in self._listed:
            allowed = self._space.allowed(self._space.paths[slot], np.array([own]))[0]
            # The row that happens to ask first is listed for the others only if it is a donor row.
            self._listed[key] = allowed[self._space.is_donor[allowed]]
        rows = self._listed[key]
        at = int(np.searchsorted(rows, own))
        return rows, at if at < len(rows) and rows[at] == own else len(rows)


@st.composite
def _columns(draw: st.DrawFn, space: SwapSpace, order: list[int], donors: _Donors) -> list[int]:
    """A reference row, and the donor row of every slot."""
    references = space.dataset.reference_rows
    blocks = len(space.dataset) > BLOCK
    reference = int(references[_below(draw, len(references), blocks)])
    chosen = [reference] * len(space.slots)
    for i in order:
        slot = space.slots[i]
        own = reference if slot.parent == REFERENCE else chosen[slot.parent]
        if slot.shares is not None:
            chosen[i] = chosen[slot.shares]
            continue
        rows, at = donors.others(i, own)
        count = len(rows) - (at < len(rows))
        # Hypothesis shrinks to fewer choices first: a swap has to cost more than no swap does, and
        # a slot that cannot be swapped no less than one that can.
        is_swapped = draw(EITHER if count else NEVER)
        which = _below(draw, count, blocks) if is_swapped else 0
        chosen[i] = int(rows[which + (which >= at)]) if is_swapped else own
    return [reference, *chosen]


def _below(draw: st.DrawFn, count: int, blocks: bool) -> int:
    """0 to `count` - 1 about evenly; Hypothesis's integers alone are mostly small ones, and so
    would rows be."""
    start = BLOCK * draw(st.integers(0, (count - 1) // BLOCK)) if blocks else 0
    return start + draw(st.integers(0, min(BLOCK, count - start) - 1))
