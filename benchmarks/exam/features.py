"""Features that stand for a way to be wrong, whatever the program."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def lottery(rows: int, seed: int = 0, share: float = 0.2) -> Ints:
    """A random feature under which this share of the rows has a partner, one each; all others are
    alone."""
    drawn = np.random.default_rng(seed).permutation(rows)
    values = np.arange(rows)
    paired = int(rows * share / 2)
    values[drawn[:paired]] = values[drawn[paired : 2 * paired]]
    return values


def memorised(right: Ints, seed: int = 0, share: float = 0.03) -> Ints:
    """The right feature, but for a few rows that have its next value instead."""
    few = max(2, int(len(right) * share))
    rows = np.random.default_rng(seed).choice(len(right), few, replace=False)
    kinds, which = np.unique(right, return_inverse=True)
    which = which.reshape(-1)
    which[rows] = (which[rows] + 1) % len(kinds)
    return np.asarray(kinds[which])
