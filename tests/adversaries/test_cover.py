"""Each donor is tried once before references are searched, and what is found is tried for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import (
    ANYTHING,
    EACH,
    EXACT,
    Dataset,
    Evaluator,
    FunctionGraph,
    Metric,
    check,
    module,
    output,
)
from pytest_scrub.adversaries import cover as cover_module
from pytest_scrub.adversaries import which_donors
from pytest_scrub.adversaries.cover import KEPT, cover
from pytest_scrub.adversaries.search import Found, Spending
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.tree.nodes import Node
from tests.adversaries.problems import generator

ROWS, ODD = 6000, 4321
OUT = Metric("out", lambda out, batch: out, lower=0.0, upper=1.0)
HALF = output(module("A", agrees_on="half"), rest=EXACT)


def numbers(rows: int, seed: int) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed)).double()


def dead(A: Tensor, n: Tensor) -> Tensor:
    """Nothing, and flat, but where A is large."""
    return (A - 2).relu().clamp(max=1) + 0 * n


def one_odd_row(rows: int = ROWS, features: Any = None) -> tuple[FunctionGraph, Dataset]:
    a, row = numbers(rows, 0), np.arange(rows)
    a[ODD % rows] = 3.0
    features = {"half": row % 2, **(features or {})}
    data = Dataset({"a": a, "n": torch.arange(rows)}, features=features)
    return FunctionGraph(A=lambda a: a, output=dead), data


def covered(
    says: Node, graph: FunctionGraph, data: Dataset, most: int | None = None
) -> tuple[Found | None, Spending]:
    evaluator = Evaluator(graph, data, says, OUT)
    spending, rng = Spending(evaluator, 10**9), generator()
    rows = rng.permutation(evaluator.space.reference_rows)
    most = len(evaluator.space.donor_rows) if most is None else most
    return cover(evaluator.space, spending, rows, most, rng), spending


def everything_tried(monkeypatch: pytest.MonkeyPatch) -> list[SwapSet]:
    tried: list[SwapSet] = []
    known = Spending.changes

    def noted(self: Spending, swap_set: SwapSet) -> Any:
        tried.append(swap_set)
        return known(self, swap_set)

    monkeypatch.setattr(Spending, "changes", noted)
    return tried


# --- what is found --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_one_odd_donor_of_many_behind_a_relu_refutes(seed: int) -> None:
    verdict = check(HALF, *one_odd_row(), metric=OUT, tolerance=0.02, seed=seed)
    assert verdict.average == "held"
    assert verdict.outcome == "refuted"
    assert verdict.search is not None
    (refutes,) = (one for one in verdict.search.attempts if one.refutes)
    assert refutes.adversary == "which donors"
    assert refutes.gap == pytest.approx(0.5, abs=0.1)  # of all that are of its half


def test_without_a_look_at_all_donors_it_would_be_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(which_donors, "cover", None)
    verdict = check(HALF, *one_odd_row(), metric=OUT, tolerance=0.02, seed=0)
    assert (verdict.average, verdict.outcome) != ("held", "refuted")


def test_what_is_odd_for_one_child_is_tried_beside_the_others_own() -> None:
    # of 400 pairs of values a search of a few references sees next to none twice
    row = np.arange(ROWS)
    graph = FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B, n: dead(A, n) + 0 * B)
    a = numbers(ROWS, 0)
    a[ODD] = 3.0
    data = Dataset(
        {"a": a, "b": numbers(ROWS, 1), "n": torch.arange(ROWS)},
        features={"few": row % 2, "many": generator().integers(0, 200, ROWS)},
    )
    says = output(module("A", agrees_on="few"), module("B", agrees_on="many"), rest=EXACT)
    verdict = check(says, graph, data, metric=OUT, tolerance=0.02, seed=0)
    assert verdict.search is not None
    (refutes,) = (one for one in verdict.search.attempts if one.refutes)
    assert refutes.gap == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("told_by", ["a feature", "the label", "nothing"])
def test_where_donors_are_too_many_the_odd_ones_come_first(told_by: str) -> None:
    # half, but for one row, beside features that are another for nearly every row
    row = np.arange(ROWS)
    half = row % 2
    half[ODD] = 0
    features = {"half": half, "row": row, "lot": generator().integers(0, 5000, ROWS)}
    graph, data = one_odd_row(features=features | ({"true": row % 2} if told_by[0] == "a" else {}))
    if told_by == "the label":
        data = Dataset(data.inputs, labels=row % 2, features=features)
    found, spending = covered(HALF, graph, data, most=60)
    assert spending.evaluations == 60
    assert (found is not None and ODD in found.swap_set.donors) == (told_by != "nothing")


# --- what is tried --------------------------------------------------------------------------------


def test_each_donor_is_tried_once_for_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 300
    row = np.arange(rows)
    graph = FunctionGraph(
        A=lambda a: a, B=lambda A: A, C=lambda n: n, output=lambda B, C: B + 0 * C
    )
    data = Dataset(
        {"a": numbers(rows, 0), "n": torch.arange(rows)},
        features={"third": row % 3, "fifth": row % 5},
    )
    says = output(
        module("B", agrees_on="third", reads=[module("A", agrees_on="fifth")], rest=ANYTHING),
        module("C", agrees_on=["third", "fifth"]),
        rest="fifth",
    )
    tried = everything_tried(monkeypatch)
    found, spending = covered(says, graph, data)
    (once,) = tried
    assert spending.evaluations == len(once) == rows
    space = spending.evaluator.space
    assert not space.check(once)
    assert np.array_equal(np.sort(once.references), row)
    for slot, donors in zip(space.slots, once.donors, strict=True):
        assert np.array_equal(np.sort(donors), row), slot.path
    assert found is not None
    assert not space.check(found.swap_set)
    assert (found.changes > 0).all()
    kept = np.bincount(space.agree(space.paths.index("output/C"))[found.swap_set.references])
    assert kept.max() >= KEPT


def test_donors_from_any_position_are_looked_at_as_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of all positions together no more than of one node that has one donor."""
    rows, positions, most = 200, 8, 80
    x = numbers(rows * positions, 0).view(rows, positions)
    graph = FunctionGraph(A=lambda x: x, output=lambda A: A.sum(1).clamp(0, 1))
    half = (x.numpy() * 2).astype(int)
    looked: list[int] = []

    def counting(space: Any, codes: Rows, donors: Rows) -> Any:
        looked.append(len(donors))
        return usual(space, codes, donors)

    usual = cover_module._usual
    monkeypatch.setattr(cover_module, "_usual", counting)
    monkeypatch.setattr(cover_module, "MOST_LOOKED_AT", most)
    each = module("A", agrees_on="half", pos=EACH(with_shift=True))
    data = Dataset({"x": x}, features={"half": half})
    covered(output(each, rest=EXACT), graph, data, most=20)
    assert looked == [most] + [most // positions] * positions  # the rest's, and the node's


def test_donors_that_are_no_references_and_classes_without_a_donor() -> None:
    rows = 300
    row = np.arange(rows)
    graph, data = one_odd_row(rows)
    features = {"half": np.where(row < 10, 7, row % 2)}
    apart = Dataset(data.inputs, features=features, donors=row[150:], references=row[:150])
    found, spending = covered(HALF, graph, apart)
    assert spending.evaluations == 150
    assert (found is not None) == (ODD % rows >= 150)


def test_what_changes_nothing_is_not_kept() -> None:
    graph, data = one_odd_row()
    found, _ = covered(output(module("A", agrees_on=EXACT), rest=EXACT), graph, data)
    assert found is None


def test_after_the_deadline_nothing_is_tried() -> None:
    graph, data = one_odd_row()
    evaluator = Evaluator(graph, data, HALF, OUT)
    spending, rng = Spending(evaluator, 10**9, deadline=0.0), generator()
    rows: Rows = rng.permutation(evaluator.space.reference_rows)
    assert cover(evaluator.space, spending, rows, ROWS, rng) is None
    assert not spending.evaluations
