"""Real numbers in bins: which agree, on which edges, and what is refused."""

from __future__ import annotations

import math
import pickle
import re
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_scrub import FunctionGraph, binned, check, module, near, output, squared_error
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import DataError
from pytest_scrub.tree.nodes import Agreement

numbers = st.floats(-1e6, 1e6, width=32)


def data(feature: Any, rows: int, **more: Any) -> Dataset:
    return Dataset(torch.arange(rows)[:, None], features={"size": feature}, **more)


def parts(feature: Any, rows: int) -> list[int]:
    return data(feature, rows).codes(Agreement(("size",))).tolist()


def refuses(sentence: str) -> Any:
    return pytest.raises(DataError, match=rf"^{re.escape(sentence)}$")


def test_quantiles_have_as_many_rows_each_and_are_called_after_their_median() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000)
    found = data(binned(values), 1000).feature("size")
    medians, counts = np.unique(found, return_counts=True)
    assert counts.tolist() == [100] * 10
    assert np.array_equal(medians, np.sort(values)[49::100])
    order = np.argsort(values)
    assert np.all(np.diff(found[order]) >= 0)  # bins are ranges


def test_quantiles_of_three_rows_and_of_numbers_that_repeat() -> None:
    assert data(binned([3.0, 1.0, 2.0], quantiles=3), 3).feature("size").tolist() == [3, 1, 2]
    # equal numbers share a bin, so the first has two rows and the second four
    assert parts(binned([1, 2, 3, 3, 3, 3], quantiles=2), 6) == [0, 0, 1, 1, 1, 1]


@given(st.lists(numbers, min_size=2, max_size=30), st.integers(2, 6))
def test_quantiles_are_a_partition_into_that_many_ranges_or_refused(
    values: list[float], quantiles: int
) -> None:
    lowest = [sorted(values)[k * len(values) // quantiles] for k in range(quantiles)]
    if len(set(lowest)) < quantiles:
        with pytest.raises(DataError, match="too few or too unevenly frequent"):
            parts(binned(values, quantiles), len(values))
        return
    codes = parts(binned(values, quantiles), len(values))
    assert len(set(codes)) == quantiles
    by_value: dict[float, set[int]] = {}
    for value, code in zip(values, codes, strict=True):
        by_value.setdefault(value, set()).add(code)
    assert all(len(of_one) == 1 for of_one in by_value.values())
    ranked = [code for _, code in sorted(zip(values, codes, strict=True))]
    assert sum(a != b for a, b in pairwise(ranked)) == quantiles - 1


@given(st.lists(numbers, min_size=2, max_size=30), st.floats(1e-3, 1e3))
def test_numbers_near_one_multiple_agree_and_never_differ_by_more_than_the_width(
    values: list[float], width: float
) -> None:
    found = data(near(values, width), len(values)).feature("size")
    off = np.abs(found - np.array(values))
    assert (off <= width / 2 * (1 + 1e-6)).all()
    multiples = found / width
    assert np.allclose(multiples, np.round(multiples), rtol=1e-9, atol=1e-9)


def test_an_edge_parts_neighbours_and_half_way_goes_up() -> None:
    # what "near" does not say: 0.24 and 0.26 are nearer than 0.26 and 0.7
    found = data(near([0.24, 0.26, 0.7, -0.25, -0.26], width=0.5), 5).feature("size")
    assert found.tolist() == [0.0, 0.5, 0.5, 0.0, -0.5]
    assert data(near([0.25, -0.2, 0.2], width=0.5), 3).feature("size").tolist() == [0.5, 0.0, 0.0]
    assert parts(near([-0.1, 0.1], width=1), 2) == [0, 0]  # 0.0 is -0.0


def test_functions_have_the_bins_of_the_dataset_on_fresh_inputs() -> None:
    def size(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["tokens"][:, 0].double() / 10

    few = data(binned(size, quantiles=4), 100)
    few.feature("size")
    late = data(binned(size, quantiles=4), 100)  # asked for only once there are fresh rows
    fresh = torch.tensor([[1000]] * 400 + [[-5], [30]])
    for known in (few, late):
        more = known.extend(fresh).feature("size")
        assert np.array_equal(more[:100], few.feature("size"))
        assert more[100:].tolist() == [8.7] * 400 + [1.2, 3.7]
        assert known.extend(fresh).extend(fresh).feature("size").tolist()[-1] == 3.7
    assert data(near(size, 0.5), 10).extend(fresh).feature("size")[10] == 100


def test_what_is_wrong_with_the_bins_is_wrong_with_fresh_rows_too() -> None:
    uneven = data(binned(lambda inputs: inputs["tokens"][:, 0] // 100, quantiles=2), 50)
    with pytest.raises(DataError, match="too few"):
        uneven.extend(torch.arange(50, 500)[:, None]).feature("size")


def test_rounding_of_a_function_is_judged_before_its_numbers_are_put_into_bins() -> None:
    """Numbers on an edge would change their bin with the last digit."""

    def size(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        value = torch.full((len(inputs["tokens"]),), 0.25)
        return value if len(value) == 100 else value - 1e-8

    assert set(data(near(size, 0.5), 100).feature("size")) == {0.5}


def test_several_numbers_in_a_row_have_the_same_bins() -> None:
    values = np.arange(40.0).reshape(10, 4)
    found = data(binned(values, quantiles=2), 10).feature("size")
    assert found.shape == (10, 4)
    assert set(found[:5].ravel()) == {9.0}
    assert set(found[5:].ravel()) == {29.0}


def test_other_features_and_other_datasets_keep_their_own() -> None:
    known = data(binned([1.0, 2.0, 3.0, 4.0], quantiles=2), 4)
    more = known.with_features({"wide": near([0, 0, 9, 9], 4), "even": [0, 1, 0, 1]})
    assert more.feature("wide").tolist() == [0, 0, 8, 8]
    assert more.feature("size").tolist() == [1, 1, 3, 3]
    assert known.feature_names == ("size",)
    assert pickle.loads(pickle.dumps(more)).feature("size").tolist() == [1, 1, 3, 3]


def test_files_and_strategies_take_them(tmp_path: Any) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, tokens=np.arange(8).reshape(4, 2), size=np.array([0.1, 0.2, 0.3, 0.4]))
    read = Dataset.from_npz(path, inputs="tokens", features={"size": binned("size", 2)})
    assert read.feature("size").tolist() == [0.1, 0.1, 0.3, 0.3]
    drawn = Dataset.from_strategy(
        st.integers(0, 1000),
        lambda number: [number],
        rows=50,
        features={"size": near(lambda inputs: inputs["tokens"][:, 0], 100)},
    )
    assert not (drawn.feature("size") % 100).any()
    with pytest.raises(DataError, match="is a column; give it as a function"):
        Dataset.from_strategy(
            st.integers(), lambda number: [number], features={"size": near([1.0], 1)}
        )


@pytest.mark.parametrize(
    ("feature", "sentence"),
    [
        (
            binned([1.0, math.nan, 2.0]),
            "feature 'size' is NaN at row 1, which equals nothing; give it a value",
        ),
        (
            near([1.0, 2.0, math.inf], 1),
            "feature 'size' is infinite at row 2, which lies in no bin; give it a number",
        ),
        (
            binned([1.0, 2.0, 2.0]),
            "feature 'size' has 2 distinct numbers, too few or too unevenly frequent for 10 "
            "quantiles; ask for 2, use near(), or give the numbers as they are",
        ),
        (
            binned([1.0, 1.0, 1.0], quantiles=2),
            "feature 'size' has 1 distinct numbers, too few or too unevenly frequent for 2 "
            "quantiles; use near(), or give the numbers as they are",
        ),
        (
            near([1e30, 1.0, 2.0], 1e-300),
            "feature 'size' has numbers so large that floats do not tell bins of width 1e-300 "
            "apart; give near() a larger width",
        ),
        (
            binned(["a", "b", "c"]),
            "feature 'size' holds values of several lengths or types, or text, but binned() and "
            "near() take real numbers; give the values as they are",
        ),
        (
            near([True, False, True], 1),
            "feature 'size' holds bools, but binned() and near() take real numbers; give the "
            "values as they are",
        ),
        (near([1.0, 2.0], 1), "feature 'size' has 2 values for 3 rows; give one per row"),
    ],
)
def test_numbers_that_have_no_bins_are_refused(feature: Any, sentence: str) -> None:
    known = data(feature, 3)
    with refuses(sentence):
        known.feature("size")


@pytest.mark.parametrize("width", [0, -1.0, math.inf, math.nan, "1", True, None])
def test_a_width_is_a_number_above_zero(width: Any) -> None:
    with refuses(f"width= of near() is a number above 0, not {width!r}"):
        near([1.0], width)


@pytest.mark.parametrize("quantiles", [1, 0, 2.0, "10", True, None])
def test_quantiles_are_counted(quantiles: Any) -> None:
    with refuses(f"quantiles= of binned() is a whole number of at least 2, not {quantiles!r}"):
        binned([1.0], quantiles)


# A bin too fine leaves nothing to swap, one too wide says nothing: neither may pass.


@pytest.mark.parametrize(
    ("width", "outcome"), [(1e-6, "untested"), (1.0, "held"), (1e6, "weak"), (30.0, "refuted")]
)
def test_a_claim_is_only_as_good_as_its_bins(width: float, outcome: str) -> None:
    rng = np.random.default_rng(0)
    sizes = torch.from_numpy(rng.uniform(0, 100, size=400)).float()
    graph = FunctionGraph(size=lambda x: x.clone(), output=lambda size: (size / 20).round().clone())
    known = Dataset(
        {"x": sizes}, labels=(sizes / 20).round(), features={"size": near(sizes, width)}
    )
    verdict = check(
        output(module("size", agrees_on="size")),
        graph,
        known,
        metric=squared_error(),
        tolerance=10.0 if outcome == "weak" else 0.4,
        adversaries=(),
        seed=0,
    )
    assert verdict.outcome == outcome, verdict
