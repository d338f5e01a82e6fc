"""Units of a place, such as an MLP's neurons, in the name of a component: `neurons3[0:5,7]`.

A set is one text, whatever its size: runs of numbers, `first:end`, and those a step apart,
`first:end:step`; without an end all that there are. One set has one text, so that names are equal
where sets are.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

MOST_UNITS = 10**9  # beyond any dictionary, so that a larger number is a mistake
LONGEST = 48  # characters of a set in what is shown
NAMED = re.compile(r"(.+)\[([\d:,]+)\]")


def named(basis: str, text: str) -> str:
    """The component that is these units of a basis."""
    return f"{basis}[{text}]"


def split(component: str) -> tuple[str, str] | None:
    """The basis and the units that a name means; None where it is no set of units."""
    found = NAMED.fullmatch(component)
    return None if found is None else (found[1], found[2])


def text_of(units: Sequence[int]) -> str:
    """The text of different numbers in ascending order, or of a range."""
    return ",".join(_piece(run) for run in ([units] if _is_even(units) else _runs(units)))


def text_from(start: int, step: int) -> str:
    """The text of all units from `start` on."""
    return f"{start}:" if step == 1 else f"{start}::{step}"


def _is_even(units: Sequence[int]) -> bool:
    """Whether they are as far apart from one another all along."""
    if len(units) < 3:
        return len(units) == 1 or units[1] == units[0] + 1
    return isinstance(units, range) or len({*np.diff(units).tolist()}) == 1


def _runs(units: Sequence[int]) -> Iterator[list[int]]:
    """Numbers that follow one another, together."""
    for _, run in groupby(enumerate(units), key=lambda pair: pair[1] - pair[0]):
        yield [unit for _, unit in run]


def _piece(run: Sequence[int]) -> str:
    if len(run) == 1:
        return str(run[0])
    step = run[1] - run[0]
    return f"{run[0]}:{run[-1] + 1}" + ("" if step == 1 else f":{step}")


def numbers(text: str, count: int) -> Ints:
    """The units that a text means of so many, ascending; those beyond them too, where it names
    them."""
    found = []
    for piece in text.split(","):
        start, *more = piece.split(":")
        end = (more[0] or count) if more else int(start) + 1
        step = int(more[1]) if len(more) > 1 else 1
        found.append(np.arange(int(start), int(end), step, dtype=np.int64))
    return np.concatenate(found)


def are_apart(one: str, other: str) -> bool:
    """Whether two texts have no unit in common, whatever the number of units."""
    if any(
        piece.endswith(":") or "::" in piece for text in (one, other) for piece in text.split(",")
    ):
        return False
    return not np.intersect1d(numbers(one, 0), numbers(other, 0)).size


def shown(component: str) -> str:
    """A component's name, with a set of many pieces cut short; different sets stay different."""
    parts = split(component)
    if parts is None or len(parts[1]) <= LONGEST:
        return component
    basis, text = parts
    first, *_, last = text.split(",")
    digest = hashlib.blake2b(text.encode(), digest_size=3).hexdigest()
    return named(basis, f"{first},...,{last}: {len(numbers(text, 0))} units, {digest}")
