"""Sums of three digits, as the network of Huang et al. ("InversionView", 2024) reads and writes
them, and the causal model of the first digit of a sum.

A row is `B 1 2 3 + 4 5 6 =`, and the digit after it is the first of the sum, 1 where that has four.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from pytest_scrub import CausalModel, Dataset

BEGIN, PLUS, EQUALS = 10, 11, 12  # the digits are themselves
EQUALS_AT = 8
ROWS = 4000  # of 810,000 pairs

Tokens = NDArray[np.int64]


def dataset() -> Dataset:
    """Pairs of numbers from 100 to 999, drawn once; `hundreds`, `tens` and `ones` are sums of two
    digits, 0 to 18."""
    pairs = np.random.default_rng(0).integers(100, 1000, (ROWS, 2))
    digits = pairs[..., None] // np.array([100, 10, 1]) % 10
    both = digits.sum(1)
    total = pairs.sum(1)
    tokens = np.full((ROWS, EQUALS_AT + 1), BEGIN)
    tokens[:, 1:4], tokens[:, 5:8] = digits[:, 0], digits[:, 1]
    tokens[:, 4], tokens[:, EQUALS_AT] = PLUS, EQUALS
    return Dataset(
        torch.from_numpy(tokens),
        labels=np.where(total >= 1000, 1, total // 100),
        label_pos=EQUALS_AT,
        features=dict(zip(("hundreds", "tens", "ones"), both.T, strict=True)),
        show=lambda row: _shown(row["tokens"].numpy()),
        name="sums of three digits, asked for the first",
    )


def _shown(tokens: Tokens) -> str:
    """A row as text, such as `123 + 456`."""
    first, second = ("".join(map(str, tokens[at : at + 3])) for at in (1, 5))
    return f"{first} + {second}"


def first_digit(hundreds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of a sum with so many hundreds."""
    return np.where(hundreds >= 10, 1, hundreds)


WRITTEN = CausalModel(
    carry=lambda tens, ones: (tens + ones // 10) // 10,
    answer=lambda hundreds, carry: first_digit(hundreds + carry),
)
NO_CARRY = CausalModel(answer=first_digit)
