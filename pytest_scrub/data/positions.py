"""Positions of a tensor: the same for every row, or each row's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_scrub.data.columns import Ints
from pytest_scrub.errors import DataError, hides_scrub_errors
from pytest_scrub.tree.nodes import Span

__tracebackhide__ = hides_scrub_errors


@dataclass(frozen=True, eq=False)
class Positions:
    """`index`: int64 [K] positions, the same for every row, or [rows, K], filled up with -1 on the
    right."""

    index: Ints

    @property
    def static(self) -> bool:
        """Whether every row has the same positions."""
        return self.index.ndim == 1


def same_positions(spec: int | slice | Span, length: int, where: str) -> Ints:
    """`[K]` from an int or a slice. **Raises** `DataError` where they name no position, or one out
    of range."""
    if isinstance(spec, int) and not isinstance(spec, bool):
        if not -length <= spec < length:
            raise DataError(f"{where} is {spec}, but positions go from {-length} to {length - 1}")
        return np.array([spec % length])
    span = spec.slice if isinstance(spec, Span) else spec
    if not isinstance(span, slice):
        raise DataError(f"{where} takes an int, a slice or the name of a feature, not {spec!r}")
    if any(end is not None and not -length <= end <= length for end in (span.start, span.stop)):
        raise DataError(
            f"{where} is {spec}, which goes past the {length} positions there are, and would be "
            "cut short; give a slice within them"
        )
    index = np.arange(length)[span]
    if not index.size:
        raise DataError(f"{where} is {spec}, which holds none of the {length} positions; widen it")
    return index


def positions_by_row(values: NDArray[Any], length: int, where: str) -> Ints:
    """`[rows, K]` from one int per row, or from a bool mask `[rows, length]`."""
    if values.dtype.kind in "iu" and values.ndim == 1:
        outside = (values < -length) | (values >= length)
        if outside.any():
            row = outside.argmax()
            where = f"{where} is {values[row]} at row {row}"
            raise DataError(f"{where}, but positions go from {-length} to {length - 1}")
        return np.asarray(values.astype(np.int64) % length)[:, None]
    if values.dtype != bool or values.ndim != 2:
        has = f"{values.dtype} {list(values.shape)}"
        raise DataError(
            f"{where} holds {has}; give one int per row, or a bool mask [rows, positions]"
        )
    if values.shape[1] != length:
        raise DataError(f"{where} is a mask of {values.shape[1]} positions, but there are {length}")
    counts = values.sum(axis=1)
    if not counts.all():
        raise DataError(
            f"{where} marks no position at row {counts.argmin()}; mark at least one in every row"
        )
    first = np.argsort(~values, axis=1, kind="stable")[:, : counts.max()]
    return np.where(np.arange(counts.max()) < counts[:, None], first, -1)
