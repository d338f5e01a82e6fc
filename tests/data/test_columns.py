"""Features: columns and functions of rows, when they are called, and what is no feature."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub.data.columns import first_of_codes, joint_codes, row_codes
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.tree.nodes import Agreement
from tests.data.test_dataset import TOKENS, refuses, rows


@pytest.mark.parametrize(
    ("column", "dtype", "values"),
    [
        ([True, False, True], bool, [True, False, True]),
        ([1, 2, 3], np.int64, [1, 2, 3]),
        ([True, 2, 3], np.int64, [1, 2, 3]),
        ([1, 2.5, 3], np.float64, [1.0, 2.5, 3.0]),
        (["a", "b", "c"], object, ["a", "b", "c"]),
        ([1, "1", 1.5], object, [1, "1", 1.5]),
        ([2**70, 1, 2], object, [2**70, 1, 2]),
        ([2**53 + 1, 0.5, 2], object, [2**53 + 1, 0.5, 2]),
        ([(1, 2), (3, 4), (5, 6)], np.int64, [[1, 2], [3, 4], [5, 6]]),
        ([[1], [2, 3], []], object, [(1,), (2, 3), ()]),
        ([("a", 1), ("b", 2), ("a", 1)], object, [("a", 1), ("b", 2), ("a", 1)]),
        (np.array([1.5, 2, 3], np.float32), np.float32, [1.5, 2, 3]),
        (np.array(["x", "yy", "z"]), np.dtype("<U2"), ["x", "yy", "z"]),
        (np.array(["x", 1, 2], dtype=object), object, ["x", 1, 2]),
        (torch.tensor([[True, False]] * 3), bool, [[True, False]] * 3),
        (torch.tensor([0.5, 1, 2], dtype=torch.bfloat16), np.float64, [0.5, 1, 2]),
        ([torch.tensor(1), np.int64(2), 3], np.int64, [1, 2, 3]),
        ((value for value in [1, 2, 3]), np.int64, [1, 2, 3]),
    ],
)
def test_a_column_keeps_its_values(column: Any, dtype: Any, values: list[Any]) -> None:
    data = Dataset(rows(3), features={"f": column})
    assert data.feature("f").dtype == dtype
    assert data.feature("f").tolist() == values
    assert not data.feature("f").flags.writeable


def test_a_column_is_the_datasets_own() -> None:
    column = np.array([1, 2])
    data = Dataset(rows(2), features={"f": column})
    data.feature("f")
    column[0] = 7
    assert data.feature("f").tolist() == [1, 2]


def test_a_function_is_called_with_all_rows_once_more_and_only_when_used() -> None:
    calls = []

    def total(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(len(batch["tokens"]))
        return batch["tokens"].sum(1)

    data = Dataset(TOKENS, features={"total": total, "unused": lambda batch: 1 / 0})
    assert data.feature_names == ("total", "unused")
    assert calls == []
    assert data.feature("total").tolist() == [9, 8, 9, 6]
    data.codes(Agreement(("total",)))
    assert calls == [4, 4, 1, 1, 1]


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (
            [1.0, float("nan"), 2.0],
            "feature 'f' is NaN at row 1, which equals nothing; give it a value",
        ),
        (
            np.array([[0, 1], [0, 1], [0, np.nan]]),
            "feature 'f' is NaN at row 2, which equals nothing; give it a value",
        ),
        (
            torch.tensor([np.nan] * 3),
            "feature 'f' is NaN at row 0, which equals nothing; give it a value",
        ),
        (
            [1, (2, float("nan")), 3],
            "feature 'f' is NaN at row 1, which equals nothing; give it a value",
        ),
        (["a", None, None], "feature 'f' is None at row 1, which equals nothing; give it a value"),
        ([1, 2], "feature 'f' has 2 values for 3 rows; give one per row"),
        (lambda batch: [1, 2, 3, 4], "feature 'f' has 4 values for 3 rows; give one per row"),
        (5, "feature 'f' is of type int; give one value per row"),
        (np.array(5), "feature 'f' is of type ndarray; give one value per row"),
        ("abc", "feature 'f' is of type str; give one value per row"),
        ({1, 2, 3}, "feature 'f' is of type set; give one value per row"),
        ({"a": 1}, "feature 'f' is of type dict; give one value per row"),
        (
            [1, {2}, 3],
            "feature 'f' holds a value of type set at row 1; give numbers, strings or tuples",
        ),
        (
            [b"a", b"b", b"c"],
            "feature 'f' holds a value of type bytes at row 0; give numbers, strings or tuples",
        ),
        (
            np.array([1j, 2, 3]),
            "feature 'f' holds a value of type complex at row 0; give numbers, strings or tuples",
        ),
    ],
)
def test_a_bad_feature_is_refused_when_it_is_used(column: Any, sentence: str) -> None:
    data = Dataset(rows(3), features={"f": column, "good": [1, 2, 3]})
    data.feature("good")
    with refuses(sentence):
        data.feature("f")


def test_a_name_that_is_no_feature_is_refused() -> None:
    data = Dataset(rows(2), features={"count_open": [1, 2], "horizon": [1, 2]})
    with refuses(
        "the dataset has no feature 'count_opn'; did you mean 'count_open'?; it has count_open, "
        "horizon"
    ):
        data.codes(Agreement(("count_opn",)))
    with refuses("the dataset has no feature 'x'; give it in features="):
        Dataset(rows(2)).feature("x")


@pytest.mark.parametrize("width", [1, 3, 8, 9, 16, 31, 32, 33, 80])
def test_rows_are_numbered_in_the_order_of_their_bytes(width: int) -> None:
    """However they are compared: what is drawn depends on the order."""
    table = np.random.default_rng(width).integers(0, 3, (500, width)).astype(np.uint8) * 100
    kinds = sorted({row.tobytes() for row in table})
    expected = [kinds.index(row.tobytes()) for row in table]
    assert row_codes(len(table), [table]).tolist() == expected


def test_the_first_row_of_each_code() -> None:
    assert first_of_codes(np.array([1, 0, 1, 2, 0])).tolist() == [1, 0, 3]


def test_joint_codes_are_equal_and_ordered_as_the_columns_are() -> None:
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, most, size=200) for most in (3, 1, 7, 100)]
    codes, tuples = joint_codes(columns), list(zip(*map(np.ndarray.tolist, columns), strict=True))
    numbers = {of: i for i, of in enumerate(sorted(set(tuples)))}
    assert codes.tolist() == [numbers[of] for of in tuples]
