"""Saved swaps on a dataset of today: every row found again by its content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from pytest_scrub.adversaries.saved import Saved, SavedRow, SavedSwaps
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import HypothesisError, ScrubError
from pytest_scrub.swaps.each import length_of
from pytest_scrub.swaps.slots import REFERENCE, slots_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node

if TYPE_CHECKING:
    from torch import Tensor

Candidates = Mapping[str, list[int]]  # digest to the rows that have it


class RowsGone(ScrubError):
    """Rows of a saved counterexample that the dataset no longer has."""


class ClaimChanged(HypothesisError):
    """A saved counterexample of a claim that has other slots by now."""


def resolve(
    saved: Saved, swaps: SavedSwaps, dataset: Dataset, hypothesis: Node
) -> tuple[Dataset, SwapSet]:
    """The swap set that was saved, on this dataset.

    **Arguments**

    - `swaps`: `saved.worst` or `saved.minimal`.
    - `hypothesis`: the claim's, as it is now.

    **Returns** the dataset, with saved rows that no dataset has at its end, and the swap set on it.
    Of rows with equal content those are taken that make it an allowed one; where none do,
    `SwapSpace.check` says why.

    **Raises** `RowsGone`; `ClaimChanged` where the slots are others now; `DataError` for a feature
    that cannot be computed.
    """
    paths = [slot.path for slot in slots_of(hypothesis, partial(length_of, dataset))]
    _require_same_slots(paths, saved.slots)
    lines = [saved.digests(swaps.references), *(saved.digests(swaps.donors[p]) for p in paths)]
    wanted = set().union(*lines)
    none = (0,) * len(swaps.references)
    further = np.array([swaps.further.get(path, none) for path in paths])
    rows = {digest: rows for digest, rows in _rows_by_digest(dataset).items() if digest in wanted}
    absent = wanted - rows.keys()
    missing = [row for row in saved.rows if row.digest in absent]
    if missing:
        fresh = _rebuilt(missing, dataset, len(wanted))
        rows |= {row.digest: [len(dataset) + nth] for nth, row in enumerate(missing)}
        dataset = dataset.extend(fresh)
    space = SwapSpace(hypothesis, dataset)
    if (further >= np.array([[slot.shifts] for slot in space.slots])).any():
        raise ClaimChanged(
            "the claim has changed since: donors come from positions from which it takes none"
        )
    matching = _Matching(space, rows)
    chosen = np.array(
        [
            matching.column(reference, donors, shifts)
            for (reference, *donors), shifts in zip(
                zip(*lines, strict=True), (further * len(dataset)).T.tolist(), strict=True
            )
        ]
    )
    return dataset, space.swap_set(chosen[:, 0], chosen[:, 1:].T)


def _require_same_slots(paths: list[str], saved: tuple[str, ...]) -> None:
    """Siblings may stand in another order now."""
    for path in saved:
        if path not in paths:
            raise ClaimChanged(
                f"the claim has changed since: it has no slot {path!r}, which the saved swaps fill"
            )
    for path in paths:
        if path not in saved:
            raise ClaimChanged(
                f"the claim has changed since: its slot {path!r} has no donors in the saved swaps"
            )


def _rebuilt(missing: list[SavedRow], dataset: Dataset, wanted: int) -> dict[str, Tensor]:
    """The inputs of rows that the dataset does not have, one batch."""
    import torch

    def kinds(row: Mapping[str, Tensor]) -> dict[str, tuple[Any, ...]]:
        return {name: (tensor.dtype, tensor.shape) for name, tensor in row.items()}

    like = kinds({name: tensor[0] for name, tensor in dataset.inputs.items()})
    fresh = [row.rebuilt() if row.inputs else {} for row in missing]
    gone = [row for row, own in zip(missing, fresh, strict=True) if kinds(own) != like]
    if gone:
        raise RowsGone(
            f"{len(gone)} of the {wanted} rows of the saved swaps are gone from the dataset, the "
            f"first is {gone[0].shown!r}; put them back, or delete the saved counterexample"
        )
    return {name: torch.stack([row[name] for row in fresh]) for name in like}


_FOUND: WeakKeyDictionary[Dataset, Candidates] = WeakKeyDictionary()


def _rows_by_digest(dataset: Dataset) -> Candidates:
    """Computed once for a dataset: it costs several microseconds a row."""
    if dataset not in _FOUND:
        here = dataset.to("cpu")  # one copy instead of one for every row
        rows = defaultdict(list)
        for row in range(len(dataset)):
            rows[here.row_digest(row)].append(row)
        _FOUND[dataset] = dict(rows)
    return _FOUND[dataset]


class _Matching:
    """Which of several rows with equal content to take, so that every donor agrees as its slot
    asks.

    Features may be columns, which tell rows of equal content apart. The tree makes it exact: a row
    can stand in a slot where each slot below has a row that fits it, so rows are ruled out from the
    leaves up and chosen from the root down.
    """

    def __init__(self, space: SwapSpace, rows: Candidates) -> None:
        self.space = space
        self.codes = [space.agree(i) for i in range(len(space.slots))]
        told_apart: list[npt.NDArray[Any]] = [
            codes[: slot.shifts * len(space.dataset)].reshape(slot.shifts, -1)
            for slot, codes in zip(space.slots, self.codes, strict=True)
            if not slot.agrees_on.exact
        ]
        told_apart.insert(0, space.is_donor[None, : len(space.dataset)])

        def signature(row: int) -> bytes:
            return b"".join(codes[:, row].tobytes() for codes in told_apart)

        references = set(space.reference_rows.tolist())
        self.candidates: dict[str, list[int]] = {}
        for digest, alike in rows.items():
            first: dict[bytes, int] = {}
            # rows that nothing tells apart are as good as their first, or as a reference
            for row in sorted(alike, key=lambda row: row not in references):
                first.setdefault(signature(row), row)
            self.candidates[digest] = list(first.values())
        # A slot that shares a donor is the same row as its owner, and so are the parents of what is
        # below it.
        owners = [i if slot.shares is None else slot.shares for i, slot in enumerate(space.slots)]
        self.above = [
            REFERENCE if slot.parent == REFERENCE else owners[slot.parent] for slot in space.slots
        ]

    def column(self, reference: str, donors: list[str], further: list[int]) -> list[int]:
        """Rows for one reference and its donors; those that come first where none are allowed.

        `further`: what donors from other positions have added to the numbers of their rows.
        """
        is_donor = self.space.is_donor
        candidates = {
            i: [row + more for row in self.candidates[digest]]
            for i, (digest, more) in enumerate(zip(donors, further, strict=True))
        }
        candidates[REFERENCE] = self.candidates[reference]
        fitting = {**candidates}
        for i in reversed(self.space.order):  # what is below it has been settled
            above, codes, itself = self.above[i], self.codes[i], set(fitting[i])
            classes = {codes[row] for row in fitting[i] if is_donor[row]}
            fitting[above] = [
                row for row in fitting[above] if codes[row] in classes or row in itself
            ]
        rows = {REFERENCE: (fitting[REFERENCE] or self.candidates[reference])[0]}
        for i in self.space.order:
            parent, codes, shares = rows[self.above[i]], self.codes[i], self.space.slots[i].shares
            same = parent if shares is None else rows[shares]
            # Where the digest is that of the parent, nothing was swapped.
            if same in fitting[i]:
                rows[i] = same
                continue
            fits = [r for r in fitting[i] if is_donor[r] and codes[r] == codes[parent]]
            rows[i] = (fits or candidates[i])[0]
        return [rows[i] for i in range(REFERENCE, len(donors))]
