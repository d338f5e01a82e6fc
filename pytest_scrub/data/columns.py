"""Feature columns: which values they may hold, and which rows have equal ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pytest_scrub.errors import DataError, hides_scrub_errors

__tracebackhide__ = hides_scrub_errors

Ints = NDArray[np.int64]
ROUNDING = 1e-5  # of a float32 that is computed for many rows or for few


class Places(NamedTuple):
    """The positions at which values are compared, and how many there are in all: a column with so
    many values for a row has one for each."""

    at: range
    of: int


def values_at(values: NDArray[Any], places: Places | None) -> NDArray[Any]:
    """Those of all rows at the first position, then all at the next; what has no value for each
    position is the row's at all of them."""
    if places is None:
        return values
    if values.ndim == 2 and values.shape[1] == places.of:
        found: NDArray[Any] = values[:, places.at].T.reshape(-1)
        return found
    return np.concatenate([values] * len(places.at))


def checked_column(name: str, column: Any, rows: int) -> NDArray[Any]:
    """`[rows, ...]` checked values: a typed array where that loses nothing, else one of Python
    objects."""
    if hasattr(column, "detach"):
        column = _array(name, column)
    # of a table, list() gives its columns
    elif hasattr(column, "__array__") and not isinstance(column, np.ndarray):
        column = np.asarray(column)
    if np.ma.is_masked(column):
        raise DataError(f"feature {name!r} has masked values, which equal nothing; fill them")
    if isinstance(column, (str, bytes, Mapping, AbstractSet)) or not np.iterable(column):
        raise DataError(
            f"feature {name!r} is of type {type(column).__name__}; give one value per row"
        )
    column = column if isinstance(column, np.ndarray) else list(column)
    if len(column) != rows:
        raise DataError(
            f"feature {name!r} has {len(column)} values for {rows} rows; give one per row"
        )
    simple = (
        isinstance(column, np.ndarray)
        and column.dtype.kind in "biufU"
        and column.dtype != np.longdouble
    )
    # where it is not equal to itself there is a NaN, which the loop below names
    if simple and np.array_equal(column, column):
        return np.array(column)
    try:
        values = [_plain(value, name, row) for row, value in enumerate(column)]
    except RecursionError:
        raise DataError(
            f"feature {name!r} holds lists in lists without end; give numbers, strings or tuples"
        ) from None
    types = {
        type(part) for value in values for part in (value if isinstance(value, tuple) else (value,))
    }
    if types <= {bool, int, float}:
        # of tuples of several lengths there is no array
        with suppress(ValueError, OverflowError):
            typed = np.array(values)
            # and no int was rounded
            if typed.dtype != object and _plain(typed, name, 0) == tuple(values):
                return typed
    return np.fromiter(values, dtype=object, count=rows)


def _array(name: str, tensor: Any) -> NDArray[Any]:
    try:
        tensor = tensor.detach().cpu().resolve_conj()
        # it has no bfloat16
        array: NDArray[Any] = (tensor.double() if tensor.is_floating_point() else tensor).numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}".replace("torch.", "")
        raise DataError(
            f"feature {name!r} is a tensor whose numbers cannot be read row by row ({kind}); give "
            "a dense one"
        ) from error
    return array


def first_unlike(one: NDArray[Any], other: NDArray[Any]) -> int | None:
    """The first row at which two columns have another value, beyond what rounding does to
    floats."""
    if one.shape == other.shape and {one.dtype.kind, other.dtype.kind} <= set("biuf"):
        size = float(np.abs(other[np.isfinite(other)]).max(initial=0))
        alike = (
            np.isclose(one, other, rtol=ROUNDING, atol=ROUNDING * size)
            .reshape(len(one), -1)
            .all(axis=1)
        )
    else:
        alike = np.array(
            [_plain(a, "", 0) == _plain(b, "", 0) for a, b in zip(one, other, strict=True)]
        )
    return None if alike.all() else int(alike.argmin())


def _plain(value: Any, name: str, row: int) -> Any:
    """A Python bool, int, float or str, or a tuple of them."""
    # scalars and rows of numpy or torch
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return tuple(_plain(part, name, row) for part in value)
    if value is None or (isinstance(value, float) and np.isnan(value)):
        what = "None" if value is None else "NaN"
        raise DataError(
            f"feature {name!r} is {what} at row {row}, which equals nothing; give it a value"
        )
    if not isinstance(value, (bool, int, float, str)):
        kind = type(value).__name__
        raise DataError(
            f"feature {name!r} holds a value of type {kind} at row {row}; give numbers, strings or "
            "tuples"
        )
    return value


def value_codes(values: NDArray[Any]) -> Ints:
    """`[rows]`: equal exactly where the values are, as Python's `==` has it."""
    if values.dtype == object:
        seen: dict[Any, int] = {}
        return np.fromiter(
            (seen.setdefault(value, len(seen)) for value in values), np.int64, len(values)
        )
    # adding zero makes 0.0 of -0.0
    return row_codes(len(values), [values + 0.0 if values.dtype.kind == "f" else values])


WORD, MOST_WORDS = 8, 4  # bytes, and how many of them are compared as numbers


def first_of_codes(codes: Ints) -> Ints:
    """`[codes]`: the first row of each code."""
    first = np.empty(int(codes.max()) + 1, dtype=np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return first


def how_parted(codes: Ints) -> bytes:
    """Equal for codes that are equal between the same rows."""
    return first_of_codes(codes)[codes].tobytes()


def joint_codes(columns: Sequence[Ints]) -> Ints:
    """`[rows]`: equal exactly where all columns of codes are; in their order, the first one's
    first."""
    first, *others = columns
    codes = np.unique(first, return_inverse=True)[1].reshape(-1)
    for other in others:
        together = codes * (int(other.max(initial=0)) + 1) + other
        codes = np.unique(together, return_inverse=True)[1].reshape(-1)
    return codes


def row_codes(rows: int, columns: list[NDArray[Any]]) -> Ints:
    """`[rows]`: equal exactly where the rows of all `columns` are equal, byte for byte."""
    raw = [np.ascontiguousarray(column).reshape(-1).view(np.uint8) for column in columns]
    table = np.concatenate(
        [np.empty((rows, 0), np.uint8), *(r.reshape(rows, -1) for r in raw if r.size)], axis=1
    )
    if not table.shape[1]:
        return np.zeros(rows, np.int64)
    width = table.shape[1]
    if width > MOST_WORDS * WORD:
        inverse = np.unique(table.view(np.dtype((np.void, width))), return_inverse=True)[1]
        return inverse.reshape(rows).astype(np.int64)
    # the same order, by numbers, which are sorted faster
    words = np.zeros((rows, -(-width // WORD) * WORD), np.uint8)
    words[:, :width] = table
    numbers = words.view(">u8").T.astype(np.uint64)
    return joint_codes([np.unique(word, return_inverse=True)[1].reshape(rows) for word in numbers])
