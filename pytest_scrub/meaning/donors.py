"""Which rows may be donors: rules 1, 2, 4, 5 and 7."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ROOT, Agreement, Node
from pytest_scrub.tree.paths import donor_owners, node_paths, readers


def rows_of(swap_set: SwapSet, column: int) -> dict[str | None, int]:
    """For one reference x, the row in every slot; of a donor from another position (rule 7) its
    number, see `agreeing_at`. Rule 1: x is what the root, with no parent (None), agrees with, and
    its own input unless it names a feature, which gives it a slot."""
    x, donors = int(swap_set.references[column]), swap_set.donors[:, column].tolist()
    return {None: x, ROOT: x, **dict(zip(swap_set.slots, donors, strict=True))}


def allowed(root: Node, dataset: Dataset, swap_set: SwapSet, column: int) -> dict[str, set[int]]:
    """For every slot, the rows that may be its donor, the donors above it being as they are; where
    all donors are among these, a swap set is allowed. Rule 11 says nothing else of these sets: of
    two claims about the same nodes, `join` allows in every slot what both do."""
    own, owners = rows_of(swap_set, column), donor_owners(root)
    rows: dict[str, set[int]] = {}
    for path, node, _ in node_paths(root):
        if node.agrees_on is not None:  # rule 2: with the parent's own input
            row = own[reader(root, path)]
            if node.is_each:  # rule 7: a leaf for every position
                at_each = places(path, own)
                found = {
                    f"{path}/{at}": agreeing_at(dataset, node, row, at, len(at_each))
                    for at in at_each
                }
            else:
                found = {path: agreeing(dataset, node.agrees_on, row)}
            if path in owners:  # rule 5: the donor of the node of that name
                for slot, rows_there in found.items():
                    rows_there &= {own[owners[path] + slot.removeprefix(path)]}
            rows |= found
        if node.rest is not None:  # rule 4: with the node's own input
            rows[f"{path}/rest"] = agreeing(dataset, node.rest, own[path])
    return rows


def places(path: str, rows: Mapping[str | None, int]) -> range:
    """The positions of a node with a slot for each."""
    return range(sum(slot is not None and slot.rpartition("/")[0] == path for slot in rows))


def reader(root: Node, path: str) -> str | None:
    """The node with whose own input a donor agrees: the parent, or of a donor that is shared the
    nearest node that reads all who take it (rule 5)."""
    owners, above = donor_owners(root), readers(root)
    owner = owners.get(path, path)
    takers = [owner, *(taker for taker, of in owners.items() if of == owner)]
    common = [node for node in above[path] if all(node in above[taker] for taker in takers)]
    return common[-1] if common else None


def agreeing(dataset: Dataset, on: Agreement, row: int) -> set[int]:
    """Rule 2: the row itself, and every donor that agrees with it on all features."""
    if on.exact:
        return {row}
    features = [dataset.feature(name) for name in on.features]  # none for ANYTHING: all agree
    donors = dataset.donor_rows.tolist()
    return {row} | {d for d in donors if all(np.all(value[d] == value[row]) for value in features)}


def agreeing_at(dataset: Dataset, node: Node, row: int, at: int, length: int) -> set[int]:
    """Rule 7: the same at one of so many positions, where neither row is padded; or, shifted, with
    what a donor has any number of positions further on, around the end. The number of such a donor
    tells: its row, plus the number of rows for every position further on."""
    on, found = node.agrees_on, {row}
    if on is None or on.exact:
        return found
    features = [dataset.feature(name) for name in on.features]
    is_padded = dataset.inputs.get("attention_mask", np.ones((len(dataset), length))) == 0
    for further in range(length if node.is_shifted else 1):
        there = (at + further) % length
        for donor in dataset.donor_rows.tolist():
            agree = [
                value[donor] == value[row]
                if value.ndim == 1
                else value[donor, there] == value[row, at]
                for value in features
            ]
            if all(agree) and not is_padded[row, at] and not is_padded[donor, there]:
                found.add(donor + further * len(dataset))
    return found


def chance(root: Node, dataset: Dataset, swap_set: SwapSet, column: int) -> float:
    """Rule 5: the probability of one sample, a uniform reference with uniform donors."""
    own, rows = rows_of(swap_set, column), allowed(root, dataset, swap_set, column)
    of_donors = [(own[slot] in rows[slot]) / len(rows[slot]) for slot in swap_set.slots]
    return float(np.mean(dataset.reference_rows == own[None]) * np.prod(of_donors))
