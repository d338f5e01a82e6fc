"""Bags of words, and the question whether one of the words is in the bag.

The asked word is in the bag in half of the cases; every other word with probability `FREQUENCY`,
independently of everything else. So the other words say nothing about the answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORDS = 40
FREQUENCY = 0.05

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


def bags(n: int, generator: np.random.Generator) -> tuple[Floats, Ints]:
    """`n` bags `[n, WORDS]` of zeros and ones, and the word that is asked for `[n]`."""
    bag = generator.random((n, WORDS)) < FREQUENCY
    asked = generator.integers(WORDS, size=n)
    bag[np.arange(n), asked] = generator.random(n) < 0.5
    return bag.astype(np.float32), asked


def is_in(bag: Floats, asked: Ints) -> Ints:
    """`[n]`: 1 where the asked word is in the bag; the label."""
    return np.take_along_axis(bag, asked[:, None], axis=1)[:, 0].astype(np.int64)


def show(bag: Floats, asked: int) -> str:
    """The words of a bag by number, and the asked one."""
    return f"{asked} in {{{', '.join(map(str, np.flatnonzero(bag)))}}}?"
