"""Of whom an interval speaks: the rows that there are, or others like them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import (
    DataError,
    Dataset,
    Metric,
    module,
    output,
)
from pytest_scrub.statistics.sampling import FEWEST_UNITS, Plan
from pytest_scrub.swaps.space import SwapSpace
from tests.statistics.test_average import NOISE, verdict


def drawn_from(count: int, budget: int, **options: Any) -> Plan:
    data = Dataset({"a": torch.arange(count, dtype=torch.float64) // options.pop("repeats", 1)})
    return Plan.of(SwapSpace(output(), data), budget, np.random.default_rng(0), generalize=True)


def test_to_generalize_every_reference_counts_once() -> None:
    plan = drawn_from(300, 100)
    assert len(plan.rows) == len(set(plan.rows.tolist())) == 100
    assert (plan.per_unit, plan.weights) == (1, None)
    more = drawn_from(100, 450)
    assert (more.per_unit, len(more.rows)) == (4, 400)
    assert (more.rows.reshape(-1, 4) == more.rows[::4, None]).all()
    assert sorted(more.rows[::4].tolist()) == list(range(100))
    values = np.arange(400.0)
    np.testing.assert_array_equal(more.units(values), values.reshape(100, 4).mean(1))


def test_rows_of_equal_content_are_one_reference() -> None:
    plan = drawn_from(301, 1000, repeats=2)  # the last content has one row, the others two
    assert plan.weights is not None
    assert len(plan.weights) == 151 == len({row // 2 for row in plan.rows.tolist()})
    assert plan.weights.mean() == pytest.approx(1)
    assert sorted(set(np.round(plan.weights * 301 / 151, 9))) == [1, 2]
    assert plan.largest_weight == pytest.approx(2 * 151 / 301)


def test_the_weighted_mean_is_that_over_rows() -> None:
    values = torch.tensor([0.0] * 300 + [float(i) for i in range(1, 101)], dtype=torch.float64)
    data = Dataset(
        {"a": values, "b": torch.zeros(400, dtype=torch.float64)}, features={"all": [0] * 400}
    )
    swap = output(module("A", agrees_on="all"))
    gone = Metric(
        "own",
        lambda out, batch: (
            (out - 5) * 0 + batch.inputs["a"] * (out != 5 + batch.inputs["a"]).double()
        ),
    )
    found = verdict(swap, data, metric=gone, generalize=True, tolerance=1e9)
    expected = float(
        (values * (1 - torch.tensor([float((values == v).sum()) for v in values]) / 400)).mean()
    )
    assert found.gap.mean == pytest.approx(expected, rel=0.02)


def test_drawing_rows_again_does_not_narrow_what_is_said_of_others() -> None:
    """60 references whose gaps differ: their own mean is known exactly, that of their distribution
    is not."""
    own = torch.cat([NOISE[:60], NOISE[:60]])
    is_donor = torch.arange(120) >= 60
    data = Dataset(
        {"a": own, "b": is_donor.double()}, features={"all": [0] * 120}, donors=is_donor.numpy(),
    )  # fmt: skip
    swapped = Metric(
        "swapped", lambda out, batch: batch.inputs["a"] * (out != 5 + batch.inputs["a"]).double()
    )
    here, there = (
        verdict(
            output(module("B", agrees_on="all"), rest="all"),
            data,
            metric=swapped,
            tolerance=0.4,
            generalize=on,
        )
        for on in (False, True)
    )
    assert here.average == "held"
    assert there.outcome == "undecided"
    assert there.gap.around > 3 * here.gap.around
    assert here.share is not None
    assert there.share is None


def test_a_handful_cannot_speak_for_others() -> None:
    with pytest.raises(
        DataError, match=f"^generalize=True .* {FEWEST_UNITS - 1} references of different content"
    ):
        drawn_from(FEWEST_UNITS - 1, 1000)
    drawn_from(FEWEST_UNITS, 1000)
