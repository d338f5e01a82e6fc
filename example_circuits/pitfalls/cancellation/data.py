"""Sequences of letters whose first letter predicts a noisy label; nothing else in them says
anything.

A sequence is eight letters and the token that asks. Its `marker` is whether the first letter comes
before n, and the label is the marker in four of five sequences, the opposite in the fifth, whatever
the other letters are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LETTERS = "abcdefghijklmnopqrstuvwxyz"
ASK = len(LETTERS)  # the last token, where the answer is read
D_VOCAB = len(LETTERS) + 1
LENGTH = 9  # tokens, with the one that asks
NOISE = 0.2  # of the labels

Ints = NDArray[np.int64]


def sequences(n: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
    """`n` sequences `[n, LENGTH]` and their noisy labels `[n]`."""
    tokens = np.full((n, LENGTH), ASK, dtype=np.int64)
    tokens[:, :-1] = generator.integers(len(LETTERS), size=(n, LENGTH - 1))
    flipped = generator.random(n) < NOISE
    return tokens, (marker(tokens) ^ flipped).astype(np.int64)


def marker(tokens: Ints) -> NDArray[np.bool_]:
    """`[n]`: whether the first letter is one of the first thirteen."""
    return np.asarray(tokens[:, 0] < len(LETTERS) // 2)


def show(row: Ints) -> str:
    """The letters of a sequence."""
    return "".join(LETTERS[token] for token in row[:-1])
