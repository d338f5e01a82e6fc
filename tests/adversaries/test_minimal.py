"""What a counterexample is pruned to: few nodes that still break the claim, found with work that
grows no faster than the claim."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pytest_scrub import Dataset, FunctionGraph, Metric, check, edit, module, output
from pytest_scrub.adversaries import minimal as pruning
from pytest_scrub.adversaries import repairs
from pytest_scrub.adversaries.minimal import minimal
from pytest_scrub.adversaries.repairs import repairs_of
from pytest_scrub.adversaries.search import UNLIMITED, Spending
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import EXACT, Node

OWN = Metric("own", lambda out, batch: out)
ROWS = 200


def parts(weights: list[float], others: float = 0.3) -> tuple[FunctionGraph, Dataset]:
    """An output that is the sum of as many nodes: each a number of the input, times its weight.
    Those of row 0 are 0; node 7 has another one on row 150."""
    names = [f"n{i}" for i in range(len(weights))]
    space: dict[str, Any] = {"weights": weights}
    for i, name in enumerate(names):
        exec(f"def {name}(bits): return weights[{i}] * bits[:, {i}]", space)
    exec(f"def out({', '.join(names)}): return {' + '.join(names)}", space)
    bits = torch.full((ROWS, len(weights)), others, dtype=torch.float64)
    bits[0], bits[150, 7] = 0.0, 5.0
    features = {"any": np.zeros(ROWS), "half": np.arange(ROWS) % 2}
    return FunctionGraph(**{n: space[n] for n in names}, output=space["out"]), Dataset(
        {"bits": bits}, features=features
    )


def claim(number: int) -> Node:
    return output(*(module(f"n{i}", agrees_on="any") for i in range(number)), rest=EXACT)


def pruned(
    graph: FunctionGraph, data: Dataset, donor: int, tolerance: float
) -> tuple[SwapSet, Evaluator, Spending]:
    """Row 0, in which everything is swapped for one row."""
    number = len(graph.nodes) - 1
    evaluator = Evaluator(graph, data, claim(number), OWN)
    space, spending = evaluator.space, Spending(evaluator, UNLIMITED)
    references = np.zeros(1, dtype=np.int64)
    donors = space.unswapped(references).donors.copy()
    donors[[space.index[f"output/n{i}"] for i in range(number)]] = donor
    worst = space.swap_set(references, donors)
    changes = evaluator.evaluate(worst) - evaluator.unscrubbed(references)
    assert changes[0] > tolerance
    small = minimal(spending, worst, changes, tolerance, np.random.default_rng(0))
    assert space.check(small) == []
    assert (evaluator.evaluate(small) - evaluator.unscrubbed(small.references))[0] > tolerance
    return small, evaluator, spending


def swapped(small: SwapSet) -> set[str]:
    """The nodes that are left."""
    return {
        path.removeprefix("output/")
        for path, donors in zip(small.slots, small.donors, strict=True)
        if (donors != small.references).any()
    }


def test_the_nodes_that_change_most_are_left_and_no_more_of_them_than_it_takes() -> None:
    graph, data = parts([0.1] * 20 + [1.0, 1.1, 1.2] + [0.1] * 20, others=1.0)
    small, *_ = pruned(graph, data, donor=1, tolerance=3.0)
    assert swapped(small) == {"n20", "n21", "n22"}


def test_nodes_that_break_it_only_together_are_found() -> None:
    """What a node does by itself says little where others bear on it: C mends it, and D changes
    most alone but is not needed."""
    graph = FunctionGraph(
        A=lambda bits: bits[:, 0], B=lambda bits: bits[:, 1], C=lambda bits: bits[:, 2],
        D=lambda bits: bits[:, 3],
        output=lambda A, B, C, D: A * B * 2 - C * 0.5 + D * 0.3 + A * 0.1 + B * 0.1,
    )  # fmt: skip
    bits = torch.zeros(ROWS, 4, dtype=torch.float64)
    bits[1] = 1.0
    data = Dataset({"bits": bits}, features={"any": np.zeros(ROWS)})
    reads = [module(name, agrees_on="any") for name in "ABCD"]
    evaluator = Evaluator(graph, data, output(*reads, rest=EXACT), OWN)
    references, space = np.zeros(1, dtype=np.int64), evaluator.space
    worst = space.swap_set(references, np.ones((len(space.slots), 1)) * [[1]])
    donors = worst.donors.copy()
    donors[space.index["output/rest"]] = 0
    worst = space.swap_set(references, donors)
    changes = evaluator.evaluate(worst)
    small = minimal(Spending(evaluator, UNLIMITED), worst, changes, 1.5, np.random.default_rng(0))
    assert swapped(small) == {"A", "B"}


def test_a_donor_that_breaks_it_alone_is_found_by_its_rank(monkeypatch: Any) -> None:
    """No donor at hand and none that is drawn does it."""
    graph, data = parts([1.0] * 12)
    monkeypatch.setattr(pruning, "FRESH_DRAWS", 1)
    small, evaluator, _ = pruned(graph, data, donor=1, tolerance=3.0)
    assert swapped(small) == {"n7"}
    assert small.donors[evaluator.space.index["output/n7"]].tolist() == [150]
    monkeypatch.setattr(pruning._Pruning, "_ranked", lambda *_: None)
    assert len(swapped(pruned(graph, data, donor=1, tolerance=3.0)[0])) > 1


def test_the_work_grows_no_faster_than_the_claim() -> None:
    spent = []
    for number in (30, 60, 120):
        graph, data = parts([1.0] * number)
        *_, spending = pruned(graph, data, donor=1, tolerance=5.0)
        spent.append(spending.evaluations)
    assert spent[2] - spent[1] <= 2.5 * (spent[1] - spent[0]) + 100


def test_of_edits_alone_the_reference_that_changes_most_is_left() -> None:
    """They take no donor, so there is nothing else to prune."""
    data = Dataset({"bits": torch.tensor([[0.0], [1.0], [5.0], [2.0]])})
    graph = FunctionGraph(
        wide=lambda bits: bits * torch.tensor([1.0, 2.0]), output=lambda wide: wide.sum(1)
    )
    claimed = output(edit(module("wide"), project_out=torch.tensor([0.0, 1.0])), rest=EXACT)
    verdict = check(claimed, graph, data, tolerance=0.1, metric=OWN)
    assert verdict.outcome == "refuted"
    assert verdict.search is not None
    found = verdict.search.counterexample
    assert found is not None
    assert not found.swaps
    assert found.gap == -10.0  # of row 2, and the second number is twice the first


def test_additions_are_looked_at_on_some_references_where_they_are_many(monkeypatch: Any) -> None:
    graph, data = parts([0.1] * 30 + [2.0], others=1.0)
    evaluator = Evaluator(graph, data, claim(31), OWN)
    found = evaluator.space.draw(100, np.random.default_rng(1))
    every, few = Spending(evaluator, UNLIMITED), Spending(evaluator, UNLIMITED)
    mends = repairs_of(every, found, 0.1)
    monkeypatch.setattr(repairs, "MOST_EVALUATIONS", 1)
    assert repairs_of(few, found, 0.1)[0] == mends[0]
    assert few.evaluations < every.evaluations / 2
