"""All lists of six numbers from 0 to 3, and what a merge sort and a quicksort know of each.

A part of a list is a feature as a sorted tuple, filled up with `FILL` to one length: two parts
agree when they hold the same numbers in any order.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

LENGTH = 6
VALUES = 4
FILL = VALUES  # above every number: marks an empty place

Ints = NDArray[np.int64]


def lists() -> Ints:
    """Every list `[VALUES ** LENGTH, LENGTH]`."""
    return np.array(list(itertools.product(range(VALUES), repeat=LENGTH)))


def content(numbers: Ints) -> Ints:
    """The numbers in order; the label."""
    return np.sort(numbers, axis=1)


def left(numbers: Ints) -> Ints:
    """What the left half holds."""
    return np.sort(numbers[:, : LENGTH // 2], axis=1)


def right(numbers: Ints) -> Ints:
    """What the right half holds."""
    return np.sort(numbers[:, LENGTH // 2 :], axis=1)


def pivot(numbers: Ints) -> Ints:
    """The first number."""
    return numbers[:, 0]


def smaller(numbers: Ints) -> Ints:
    """The numbers below the pivot."""
    others = numbers[:, 1:]
    return np.sort(np.where(others < pivot(numbers)[:, None], others, FILL), axis=1)


def larger(numbers: Ints) -> Ints:
    """The numbers that are not below the pivot, without the pivot itself."""
    others = numbers[:, 1:]
    return np.sort(np.where(others >= pivot(numbers)[:, None], others, FILL), axis=1)


def as_one(values: Ints) -> Ints:
    """All values of a row as one: as many as there are positions would be one for each."""
    return values[:, None]


FEATURES = {feature.__name__: feature for feature in (left, right, pivot, smaller, larger)}
FEATURES["content"] = lambda numbers: as_one(content(numbers))
