"""Donors position by position: what `pos=EACH` means on a dataset.

A node with it stands for one leaf at each position, whose donor agrees on the feature's value
there. At positions that are padded in the parent's own input nothing is swapped, and a row that is
padded at a position is no donor there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pytest_scrub.data.names import MASK, TOKEN_NAMES
from pytest_scrub.errors import DataError, located_at
from pytest_scrub.swaps.swap_set import Mask, Rows
from pytest_scrub.tree.nodes import ENCODER, Node

if TYPE_CHECKING:
    from pytest_scrub.data.dataset import Dataset
    from pytest_scrub.swaps.slots import Slot

DECODER = "decoder_"  # how the inputs of a decoder are called beside those of an encoder


def length_of(dataset: Dataset, path: str, node: Node) -> int:
    """How many positions a node with `pos=EACH` has: those of its features, or of the inputs where
    no feature has a value for each.

    **Raises** `DataError` where features are not per position, or differ in how many there are.
    """
    with located_at(node):
        found: dict[int, str] = {}
        for name in () if node.agrees_on is None else node.agrees_on.features:
            values = dataset.feature(name)
            if values.ndim > 2 or (values.dtype == object and isinstance(values[0], tuple)):
                raise DataError(
                    f"{path}: feature {name!r} has several values for each row, but no array "
                    "[rows, positions] of them; give pos=EACH one value for each position"
                )
            if values.ndim == 2:
                found.setdefault(values.shape[1], name)
        if len(found) > 1:
            (one, first), (other, second) = sorted(found.items())[:2]
            raise DataError(
                f"{path}: feature {first!r} has {one} positions and feature {second!r} has "
                f"{other}; give pos=EACH one value for each position"
            )
        if found:
            return next(iter(found))
        length = _length_of_inputs(dataset, node)
        if length is None:
            raise DataError(
                f"{path}: the inputs have no positions; give pos=EACH a feature [rows, positions]"
            )
        return length


def _length_of_inputs(dataset: Dataset, node: Node) -> int | None:
    """How many positions the inputs have that a node reads; None where there are none."""
    ids = (dataset.inputs[name] for name in _ids(dataset, node) if name in dataset.inputs)
    shapes = (tensor.shape for tensor in (*ids, *dataset.inputs.values()))
    return next((shape[1] for shape in shapes if len(shape) > 1), None)


def require_one_value(dataset: Dataset, slot: Slot) -> None:
    """**Raises** `DataError` where a donor is to agree as a whole on what has a value for each
    position: who takes that for agreement at each position claims much less than they believe."""
    length = _length_of_inputs(dataset, slot.node)
    for name in () if slot.at is not None or length in (None, 1) else slot.agrees_on.features:
        if _several(dataset.feature(name)) == length:
            takes_donors = slot.node.is_leaf and slot.node.computed_by is None and not slot.is_rest
            who = "the node" if takes_donors else "a leaf"
            with located_at(slot.node):
                raise DataError(
                    f"{slot.path}: feature {name!r} [{len(dataset)}, {length}] has a value for "
                    f"each of {length} positions; give {who} pos=EACH for a donor at each of them "
                    f"that agrees there, or give the feature as [rows, 1, {length}], "
                    "values[:, None], where a donor agrees on the whole row at once"
                )


def _several(values: NDArray[Any]) -> int | None:
    """How many values a feature has for each row, one beside the other; None for one, or where
    rows have more or fewer."""
    if values.dtype != object:
        return values.shape[1] if values.ndim == 2 else None
    lengths = {len(value) if isinstance(value, tuple) else None for value in values}
    return lengths.pop() if len(lengths) == 1 else None


def _ids(dataset: Dataset, node: Node) -> tuple[str, ...]:
    return (f"{DECODER}input_ids",) if _decodes(dataset, node) else TOKEN_NAMES


def _decodes(dataset: Dataset, node: Node) -> bool:
    """Whether it is a node of a decoder, beside which there is an encoder."""
    two_sides = any(name.startswith(DECODER) for name in dataset.inputs)
    return two_sides and not node.components[0].startswith(f"{ENCODER}.")


def is_there(dataset: Dataset, path: str, node: Node, length: int) -> Mask | None:
    """bool `[rows, positions]`: where rows are not padded; None where none is, anywhere.

    **Raises** `DataError` for a mask that has other positions.
    """
    name = f"{DECODER}{MASK}" if _decodes(dataset, node) else MASK
    if name not in dataset.inputs:
        return None
    mask = dataset.inputs[name].cpu().numpy() != 0
    if mask.shape[1:] != (length,):
        with located_at(node):
            raise DataError(
                f"{path}: pos=EACH has {length} positions, but {name!r} has {mask.shape[1:]}, so "
                "it does not say which are padded; claim the positions one by one"
            )
    return None if mask.all() else mask


def codes_at(codes: Rows, there: Mask | None) -> Rows:
    """The same codes where rows are there; a padded row agrees with itself alone."""
    if there is None:
        return codes
    alone: Rows = int(codes.max()) + 1 + np.arange(len(codes))
    return np.where(there, codes, alone)


def rows_at(rows: Rows, there: Mask | None) -> Rows:
    """A permutation of rows, for one position or for all: who would get the value of a padded row
    gets that of the next in line, so that the values that are there are permuted among those that
    are there."""
    if there is None:
        return rows
    found: Rows = rows.copy()
    while (padded := there & ~there[found]).any():
        found[padded] = rows[found[padded]]
    return found
