"""Features of real numbers: numbers in one bin agree.

Agreement has to be transitive, since a donor's own donor has to agree with what the donor stands in
for. So it is a partition: numbers on two sides of an edge do not agree, however near they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pytest_scrub.common.calls import as_plain, is_number, is_whole, short_repr
from pytest_scrub.errors import DataError, hides_scrub_errors

__tracebackhide__ = hides_scrub_errors

Numbers = NDArray[Any]
Bins = Callable[[str, Numbers], Numbers]
"""For the numbers of a feature, by its name, what stands for the bin of each."""
# Above it floats are whole numbers, and multiples of a width no longer told apart.
MOST_MULTIPLES = 2.0**52


@dataclass(frozen=True)
class Binned:
    """What `binned` and `near` make.

    - `source`: numbers, a column or a function as `features=` takes them.
    - `cut`: the bins of a feature, by its name, that has these numbers in the dataset. Fresh inputs
      change no edge.
    """

    source: Any
    cut: Callable[[str, Numbers], Bins]


def binned(values: Any, quantiles: int = 10) -> Binned:
    """A feature of real numbers, which agree where they lie in the same one of `quantiles` bins of
    about as many rows each: `features={"size": binned(sizes)}`.

    **Arguments**

    - `values`: numbers, a column or a function as `features=` takes them; where a row has several,
      the bins are those of all together.
    - `quantiles`: how many bins. Equal numbers share one, which may then have more rows.

    What stands for a bin, in tables and for `computed_by=`, is the median of its numbers. Fresh
    inputs fall into the bins of the dataset, what lies beyond all of them into the outermost.

    **Raises** `DataError`; where the numbers fill fewer bins, when the feature is first used.
    """
    quantiles = as_plain(quantiles)
    if not is_whole(quantiles, 2, math.inf):
        raise DataError(
            f"quantiles= of binned() is a whole number of at least 2, not {short_repr(quantiles)}"
        )
    return Binned(values, partial(_quantiles, number=quantiles))


def near(values: Any, width: float) -> Binned:
    """A feature of real numbers, which agree where the same multiple of `width` is the nearest:
    `features={"size": near(sizes, width=0.5)}`.

    **Arguments**

    - `values`: numbers, a column or a function as `features=` takes them.
    - `width`: numbers that agree differ by less. Numbers that differ by less need not agree: with a
      width of 0.5, 0.24 and 0.26 do not. What lies half-way belongs to the higher multiple.

    What stands for a bin, in tables and for `computed_by=`, is the multiple.

    **Raises** `DataError`.
    """
    width = as_plain(width)
    if not (is_number(width, 0.0, math.inf) and 0 < width < math.inf):
        raise DataError(f"width= of near() is a number above 0, not {short_repr(width)}")
    return Binned(values, partial(_multiples, width=float(width)))


def _quantiles(name: str, values: Numbers, *, number: int) -> Bins:
    ranked = np.sort(_real(name, values), axis=None)
    distinct = len(np.unique(ranked))
    lowest = _lowest(ranked, number)
    if lowest is None:
        fewer = range(min(number, distinct + 1) - 1, 1, -1)
        most = next((k for k in fewer if _lowest(ranked, k) is not None), None)
        remedy = "" if most is None else f"ask for {most}, "
        raise DataError(
            f"feature {name!r} has {distinct} distinct numbers, too few or too unevenly frequent "
            f"for {number} quantiles; {remedy}use near(), or give the numbers as they are"
        )
    starts = np.searchsorted(ranked, lowest)
    middles = (starts + np.append(starts[1:], len(ranked)) - 1) // 2
    return partial(_between, lowest=lowest, middle=ranked[middles])


def _lowest(ranked: Numbers, number: int) -> Numbers | None:
    """The lowest number of each of so many bins; None where some would be empty."""
    lowest = ranked[np.arange(number) * len(ranked) // number]
    return lowest if (lowest[1:] > lowest[:-1]).all() else None


def _between(name: str, values: Numbers, *, lowest: Numbers, middle: Numbers) -> Numbers:
    places = np.searchsorted(lowest, _real(name, values), side="right") - 1
    return np.asarray(middle[places.clip(min=0)])


def _multiples(name: str, values: Numbers, *, width: float) -> Bins:
    return partial(_nearest, width=width)


def _nearest(name: str, values: Numbers, *, width: float) -> Numbers:
    with np.errstate(over="ignore"):  # which is told below
        multiples = np.floor(_real(name, values) / width + 0.5)
    if np.abs(multiples).max(initial=0.0) >= MOST_MULTIPLES:
        raise DataError(
            f"feature {name!r} has numbers so large that floats do not tell bins of width "
            f"{width:g} apart; give near() a larger width"
        )
    return np.asarray(multiples * width + 0.0)  # which makes 0.0 of -0.0


def _real(name: str, values: Numbers) -> Numbers:
    """Real numbers, all of them finite. **Raises** `DataError` where they are not."""
    if values.dtype.kind not in "iuf":
        kind = "values of several lengths or types, or text"
        kind = "bools" if values.dtype.kind == "b" else kind
        raise DataError(
            f"feature {name!r} holds {kind}, but binned() and near() take real numbers; give the "
            "values as they are"
        )
    infinite = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
    if infinite.any():
        raise DataError(
            f"feature {name!r} is infinite at row {infinite.argmax()}, which lies in no bin; give "
            "it a number"
        )
    return values
