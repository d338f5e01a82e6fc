"""Sums of two numbers of two digits, and what a claim about them needs to know of each.

A row is `a1 a0 + b1 b0 = = =`: the network writes the three digits of the sum from the left, each
at one of the `=`. Every digit but the last depends on what is carried from those to its right,
which have not been written yet: the network has to carry inside.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PLUS, EQUALS = 10, 11  # the digits are themselves
D_VOCAB = 12
LENGTH = 8
LAST_DIGIT = 4  # where the last digit of the second number stands
HUNDREDS, TENS, ONES = 5, 6, 7  # where each digit of the sum is written
HELD_OUT = 0.2  # of all pairs

Tokens = NDArray[np.int64]


def pairs() -> Tokens:
    """All 10,000 pairs of numbers from 0 to 99, `[10000, 2]`."""
    return np.stack(np.divmod(np.arange(10_000), 100), axis=1)


def is_held_out(seed: int) -> NDArray[np.bool_]:
    """`[10000]`: the pairs that are not trained on."""
    return np.random.default_rng(seed).random(10_000) < HELD_OUT


def sums(pairs: Tokens) -> Tokens:
    """The tokens `[n, LENGTH]` of pairs of numbers `[n, 2]`."""
    tokens = np.full((len(pairs), LENGTH), EQUALS, dtype=np.int64)
    tokens[:, :2] = np.stack(np.divmod(pairs[:, 0], 10), axis=1)
    tokens[:, 2] = PLUS
    tokens[:, 3:5] = np.stack(np.divmod(pairs[:, 1], 10), axis=1)
    return tokens


def features(tokens: Tokens) -> dict[str, Tokens]:
    """`ones` and `tens`: the sums of the last and of the first digits, 0 to 18."""
    return {"ones": tokens[:, 1] + tokens[:, 4], "tens": tokens[:, 0] + tokens[:, 3]}


def answer(tokens: Tokens) -> Tokens:
    """The digits of the sum, `[n, 3]`, from the left."""
    sums = features(tokens)
    total = 10 * sums["tens"] + sums["ones"]
    return np.stack([total // 100, total // 10 % 10, total % 10], axis=1)


def show(row: Tokens) -> str:
    """A row as text, such as `38 + 45`."""
    a1, a0, _, b1, b0 = row[:5]
    return f"{a1}{a0} + {b1}{b0}"
