"""Swap sets as values: immutable, equal by content, and of one shape."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import numpy as np
import pytest

from pytest_scrub.errors import DataError
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.swaps.swap_set import joined
from tests.swaps.test_space import refuses


def test_a_swap_set_is_immutable_and_its_own() -> None:
    references, donors = np.array([0, 1]), np.array([[2, 3]])
    swap_set = SwapSet(references, donors, ("output/a",), "digest")
    references[0] = donors[0, 0] = 9
    assert (swap_set.references.tolist(), swap_set.donors.tolist()) == ([0, 1], [[2, 3]])
    for rows in (swap_set.references, swap_set.donors):
        assert rows.dtype == np.int64
        with pytest.raises(ValueError, match="read-only"):
            rows[..., 0] = 1
    with pytest.raises(FrozenInstanceError):
        swap_set.dataset = "other"  # type: ignore[misc]


def test_swap_sets_are_equal_by_content() -> None:
    def made(**changed: Any) -> SwapSet:
        given_ = {
            "references": [0, 1],
            "donors": [[2, 3]],
            "slots": ("output/a",),
            "dataset": "digest",
        }
        return SwapSet(**{**given_, **changed})

    assert made() == made()
    assert hash(made()) == hash(made())
    for changed in (
        {"references": [0, 2]},
        {"donors": [[2, 2]]},
        {"slots": ("output/b",)},
        {"dataset": "other"},
    ):
        assert made(**changed) != made()
    assert made() != "digest"


def test_a_swap_set_can_be_cut() -> None:
    swap_set = SwapSet([0, 1, 2], [[3, 4, 5], [6, 7, 8]], ("a", "b"), "digest")
    assert len(swap_set) == 3
    for which in (slice(1, None), np.array([1, 2]), np.array([False, True, True])):
        assert swap_set[which] == SwapSet([1, 2], [[4, 5], [7, 8]], ("a", "b"), "digest")


@pytest.mark.parametrize(
    ("references", "donors", "shapes"),
    [
        ([0, 1], [[0, 1]], "(1, 2) and (2,)"),
        ([0, 1], [[0], [1]], "(2, 1) and (2,)"),
        ([[0, 1]], [[[0, 1]], [[0, 1]]], "(2, 1, 2) and (1, 2)"),
        ([0, 1], [0, 1], "(2,) and (2,)"),
    ],
)
def test_a_swap_set_of_another_shape_is_refused(references: Any, donors: Any, shapes: str) -> None:
    with refuses(
        DataError,
        f"a swap set of 2 slots has donors [slots, R] beside references [R]; these are {shapes}",
    ):
        SwapSet(references, donors, ("a", "b"), "digest")


def test_joined_swap_sets_are_one_after_the_other() -> None:
    parts = [
        SwapSet(np.array(references), np.array([donors]), ("a",), "digest")
        for references, donors in (([0, 1], [2, 3]), ([4], [5]), ([0, 1, 4], [2, 3, 5]))
    ]
    assert joined(parts[:2]) == parts[2]
