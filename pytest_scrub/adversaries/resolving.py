"""Saved swaps on a dataset of today: every row found again by its content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from pytest_scrub.adversaries.saved import Saved, SavedRow, SavedSwaps
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import HypothesisError, ScrubError
from pytest_scrub.swaps.slots import REFERENCE, Slot, owners_first, slots_of
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

    **Raises** `RowsGone`; `ClaimChanged` where the slots are others now; `DataError` where equal
    rows have to be told apart by a feature that cannot be computed.
    """
    slots = slots_of(hypothesis)
    _require_same_slots([slot.path for slot in slots], saved.slots)
    references = saved.digests(swaps.references)
    donors = [saved.digests(swaps.donors[slot.path]) for slot in slots]
    known = _rows_by_digest(dataset)
    wanted = dict.fromkeys(digest for line in (references, *donors) for digest in line)
    missing = [row for row in saved.rows if row.digest in wanted and row.digest not in known]
    fresh = [row.rebuilt() if row.inputs else {} for row in missing]
    _require_all(
        missing, [_kinds(row) == _kinds(dataset.inputs, skip=1) for row in fresh], len(wanted)
    )
    candidates = {digest: known[digest] for digest in wanted if digest in known}
    if fresh:
        import torch

        candidates |= {row.digest: [len(dataset) + nth] for nth, row in enumerate(missing)}
        dataset = dataset.extend(
            {name: torch.stack([row[name] for row in fresh]) for name in dataset.inputs}
        )
    columns = [
        (reference, list(line)) for reference, *line in zip(references, *donors, strict=True)
    ]
    if all(len(rows) == 1 for rows in candidates.values()):
        chosen = [
            [candidates[digest][0] for digest in (reference, *line)] for reference, line in columns
        ]
    else:
        matching = _Matching(slots, dataset, candidates)
        chosen = [matching.column(reference, line) for reference, line in columns]
    table = np.array(chosen, dtype=np.int64).T
    paths = tuple(slot.path for slot in slots)
    return dataset, SwapSet(table[0], table[1:], paths, dataset.digest(), hypothesis)


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


def _kinds(inputs: Mapping[str, Tensor], skip: int = 0) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        name: (str(tensor.dtype), tuple(tensor.shape[skip:])) for name, tensor in inputs.items()
    }


def _require_all(missing: list[SavedRow], is_fresh: list[bool], wanted: int) -> None:
    gone = [row for row, back in zip(missing, is_fresh, strict=True) if not back]
    if gone:
        raise RowsGone(
            f"{len(gone)} of the {wanted} rows of the saved swaps are gone from the dataset, the "
            f"first is {gone[0].shown!r}; put them back, or delete the saved counterexample"
        )


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

    def __init__(self, slots: tuple[Slot, ...], dataset: Dataset, candidates: Candidates) -> None:
        self.slots, self.order = slots, owners_first(slots)
        self.codes = [dataset.codes(slot.agrees_on) for slot in slots]
        self.is_donor = np.zeros(len(dataset), dtype=np.bool_)
        self.is_donor[dataset.donor_rows] = True
        is_reference = np.zeros(len(dataset), dtype=np.bool_)
        is_reference[dataset.reference_rows] = True
        told_apart = [
            codes for slot, codes in zip(slots, self.codes, strict=True) if not slot.agrees_on.exact
        ]
        signature = np.stack([is_reference, self.is_donor, *told_apart], axis=1)
        self.candidates: dict[str, list[int]] = {}
        for digest, rows in candidates.items():
            first: dict[bytes, int] = {}
            for row in rows:  # rows that nothing tells apart are as good as their first
                first.setdefault(signature[row].tobytes(), row)
            self.candidates[digest] = sorted(first.values(), key=lambda row: not is_reference[row])
        # A slot that shares a donor is the same row as its owner, and so are the parents of what is
        # below it.
        self.above = [s.parent if s.parent == REFERENCE else self._owner(s.parent) for s in slots]
        self.below = defaultdict(list)
        for i, parent in enumerate(self.above):
            self.below[parent].append(i)

    def _owner(self, i: int) -> int:
        shares = self.slots[i].shares
        return i if shares is None else shares

    def column(self, reference: str, donors: list[str]) -> list[int]:
        """Rows for one reference and its donors; those that come first where none are allowed."""
        fitting = {
            i: self.candidates[digest] for i, digest in [(REFERENCE, reference), *enumerate(donors)]
        }
        for i in [*reversed(self.order), REFERENCE]:
            for j in self.below[i]:
                classes = {self.codes[j][row] for row in fitting[j] if self.is_donor[row]}
                itself = set(fitting[j])
                fitting[i] = [
                    row for row in fitting[i] if self.codes[j][row] in classes or row in itself
                ]
        rows = {REFERENCE: (fitting[REFERENCE] or self.candidates[reference])[0]}
        for i in self.order:
            parent = rows[self.above[i]]
            same = rows[self._owner(i)] if self.slots[i].shares is not None else parent
            fits = [row for row in fitting[i] if row == same or self._is_allowed(i, row, parent)]
            # Where the digest is that of the parent, nothing was swapped.
            rows[i] = same if same in fits else (fits or self.candidates[donors[i]])[0]
        return [rows[i] for i in range(REFERENCE, len(self.slots))]

    def _is_allowed(self, i: int, row: int, parent: int) -> bool:
        return bool(self.is_donor[row] and self.codes[i][row] == self.codes[i][parent])
