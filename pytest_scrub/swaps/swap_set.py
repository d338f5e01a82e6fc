"""A swap set: one donor row for every slot of the tree, for every reference.

Everything else in the package either makes swap sets or evaluates them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pytest_scrub.errors import DataError
from pytest_scrub.swaps.slots import REFERENCE, slots_of
from pytest_scrub.tree.nodes import Node

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
MOST_SHOWN = 8  # references in a repr


@dataclass(frozen=True, eq=False)
class SwapSet:
    """Donors for every slot and reference: what an evaluator evaluates, and a counterexample is.

    - `references`: int64 `[R]`, dataset rows.
    - `donors`: int64 `[slots, R]`, dataset rows. Of a slot of `pos=EACH(with_shift=True)` a row
      read `n` positions further on, around the end, is the row number plus `n` times `rows`.
    - `slots`: the S slot paths.
    - `dataset`: digest of the dataset whose rows are meant.
    - `hypothesis`: the tree whose slots these are, where it is known; equality does not ask for it.
    - `rows`: how many the dataset has, where it is known; nor for this.
    """

    references: Rows
    donors: Rows
    slots: tuple[str, ...]
    dataset: str
    hypothesis: Node | None = None
    rows: int = 0

    def __post_init__(self) -> None:
        for name in ("references", "donors"):
            rows = np.array(getattr(self, name), dtype=np.int64)
            rows.setflags(write=False)
            object.__setattr__(self, name, rows)
        expected = (len(self.slots), *self.references.shape)
        if self.references.ndim != 1 or self.donors.shape != expected:
            raise DataError(
                f"a swap set of {len(self.slots)} slots has donors [slots, R] beside references "
                f"[R]; these are {self.donors.shape} and {self.references.shape}"
            )

    def __len__(self) -> int:
        return len(self.references)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, SwapSet)
            and (self.slots, self.dataset) == (other.slots, other.dataset)
            and np.array_equal(self.references, other.references)
            and np.array_equal(self.donors, other.donors)
        )

    def __hash__(self) -> int:
        return hash((self.slots, self.dataset, self.references.tobytes(), self.donors.tobytes()))

    def __getitem__(self, which: slice | npt.NDArray[np.intp] | Mask) -> SwapSet:
        """The same swaps for some of the references."""
        return replace(self, references=self.references[which], donors=self.donors[:, which])

    def with_donors(self, changes: Mapping[int, Rows]) -> SwapSet:
        """The same with other donors, int64 `[R]`, in the slots with these indices."""
        donors = self.donors.copy()
        for i, changed in changes.items():
            donors[i] = changed
        return replace(self, donors=donors)

    def __repr__(self) -> str:
        """What is swapped for each reference, by row number."""
        parents = (
            [-1] * len(self.slots)
            if self.hypothesis is None
            else [s.parent for s in slots_of(self.hypothesis, self._length)]
        )
        rows = self.rows or 1 + int(max(self.references.max(initial=0), self.donors.max(initial=0)))
        own = [
            self.references if parent == REFERENCE else self.donors[parent] for parent in parents
        ]
        lines = []
        for column, reference in enumerate(self.references[:MOST_SHOWN].tolist()):
            swapped = [
                f"{slot} <- {place_in_words(slot, int(self.donors[i, column]), rows)}"
                for i, slot in enumerate(self.slots)
                if self.donors[i, column] != own[i][column]
            ]
            lines.append(f"row {reference}: {', '.join(swapped) or 'nothing swapped'}")
        more = [f"and {len(self) - MOST_SHOWN} more references"] if len(self) > MOST_SHOWN else []
        return f"SwapSet({'; '.join(lines + more)})"

    def _length(self, path: str, _: Node) -> int:
        return sum(slot.rpartition("/")[0] == path for slot in self.slots)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """What IPython and Hypothesis print, which would list every field of a dataclass
        otherwise."""
        printer.text(repr(self))


def place_in_words(slot: str, donor: int, rows: int) -> str:
    """A donor of a slot, on a dataset with so many rows."""
    further, row = divmod(donor, rows)
    return f"row {row}, {further} positions on" if further else f"row {row}"


def joined(swap_sets: Sequence[SwapSet]) -> SwapSet:
    """Swap sets of the same slots and dataset as one, which is called a swap set of the first
    one's hypothesis."""
    return replace(
        swap_sets[0],
        references=np.concatenate([one.references for one in swap_sets]),
        donors=np.concatenate([one.donors for one in swap_sets], axis=1),
    )
