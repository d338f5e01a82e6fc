"""Whether swaps changed what is read: by activations, not by rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import example_circuits.induction as induction
from example_circuits.induction import data
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FunctionGraph,
    Metric,
    Verdict,
    check,
    embed,
    head,
    load_model,
    module,
    neurons,
    output,
    pos_embed,
)
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import HELD, REFUTED, UNTESTED, WEAK
from tests.reference.generate import Architecture, build

SOME: dict[str, Any] = {"agrees_on": "none", "subspace": np.eye(8)[:, :3]}
ERROR = Metric(
    "absolute error", lambda out, batch: (out - batch.labels).abs(), lower=0.0, upper=9.0
)
# C cannot tell the rows apart that share b, D can tell one row from all others
GRAPH = FunctionGraph(
    A=lambda a: 2 * a, C=lambda b: b % 2, D=lambda a: (a == 59).double(),
    output=lambda A, C, D: A / 40 + C + D,
)  # fmt: skip


def judged(root: Node, **options: Any) -> Verdict:
    a = torch.arange(60, dtype=torch.float64)
    inputs = {"a": a, "b": a % 3}
    features = {"b": (a % 3).long(), "half": (a >= 30).long()}
    labels = GRAPH_OUTPUT(a)
    dataset = Dataset(inputs, labels=labels, features=features)
    told = {"metric": ERROR, "tolerance": 2.0, "adversaries": (), "samples": 400, **options}
    return check(root, GRAPH, dataset, **told)


def GRAPH_OUTPUT(a: torch.Tensor) -> torch.Tensor:
    return a / 20 + (a % 3) % 2 + (a == 59).double()


def test_what_donors_do_not_change_has_not_moved() -> None:
    (node,) = judged(output(module("C", agrees_on="b"), rest=EXACT)).nodes[1:]
    assert (node.slot, node.with_other, node.moved, node.fixed) == ("output/C", 1.0, 0.0, True)


def test_a_claim_whose_every_node_is_fixed_is_untested() -> None:
    verdict = judged(output(module("C", agrees_on="b"), rest=EXACT))
    assert verdict.outcome == UNTESTED
    assert "output/C is the same on all donors that agree on b" in str(verdict)


@pytest.mark.parametrize(
    "root",
    [
        output(module("C", agrees_on="b")),  # the rest is swapped
        output(module("C", agrees_on="b"), module("A", agrees_on="half"), rest=EXACT),
    ],
)
def test_one_that_is_fixed_beside_what_moves_is_marked(root: Node) -> None:
    verdict = judged(root)
    fixed = {node.slot for node in verdict.nodes if node.fixed}
    assert fixed == {"output/C"}
    assert verdict.outcome in (HELD, WEAK, REFUTED)
    assert "b (fixes it)" in str(verdict)


def test_what_hardly_ever_changes_is_untested() -> None:
    # 59 is one of 60, and is swapped for a row that differs, or differs from its donor, in 3 %
    rarely = judged(output(module("D", agrees_on=ANYTHING), rest=EXACT), min_moved=0.1)
    assert rarely.outcome == UNTESTED
    (node,) = rarely.nodes[1:]
    assert 0 < node.moved < 0.1
    assert not node.fixed


def test_rests_and_what_is_computed_count_as_before() -> None:
    root = output(module("A", agrees_on="half", computed_by=lambda half: 2.0 * half))
    rest, a = judged(root).nodes
    assert rest.moved > 0.9
    assert (a.is_tested, a.fixed) == (True, False)


def test_of_a_subspace_only_the_projection_counts() -> None:
    value = torch.arange(40.0).reshape(40, 1).repeat(1, 2)
    value[:, 1] = 1.0  # one direction is the same on all rows
    graph = FunctionGraph(A=lambda x: x, output=lambda A: A)
    dataset = Dataset({"x": value}, labels=value[:, 0], features={"none": [0] * 40})
    metric = Metric("error", lambda out, batch: (out[:, 0] - batch.labels).abs(), upper=40.0)
    moved = {}
    for name, column in (("first", 0), ("second", 1)):
        basis = np.eye(2)[:, column : column + 1]
        root = output(module("A", agrees_on="none", subspace=basis), rest=EXACT)
        verdict = check(
            root, graph, dataset, metric=metric, tolerance=50.0, adversaries=(), samples=400
        )
        moved[name] = verdict.nodes[1].moved
    assert moved["first"] > 0.9
    assert moved["second"] == 0


def test_of_a_head_in_a_subspace_too() -> None:
    """What is kept of a head is narrower than what a subspace is one of."""
    model = build(Architecture(n_layers=1, attn_only=False, norm="LN"))
    tokens = np.random.default_rng(0).integers(0, 5, (60, 3))
    dataset = Dataset(tokens, labels=tokens[:, 0], label_pos=-1, features={"none": [0] * 60})
    for node in (head(0, 0, **SOME), neurons(0, [1, 2, 5], **SOME)):
        verdict = check(
            output(node, rest=EXACT), model.bridge, dataset, tolerance=50.0, adversaries=()
        )
        assert verdict.nodes[1].moved is not None
        assert verdict.nodes[1].moved > 0.5


# On a trained network -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> tuple[Any, Dataset]:
    folder = Path(induction.__file__).parent
    tokens = data.sequences(500, 1)
    dataset = Dataset(
        tokens,
        labels=data.answer(tokens),
        label_pos=-1,
        features={
            "last_token": lambda batch: data.last_token(batch["tokens"].numpy()),
            "answer": lambda batch: data.answer(batch["tokens"].numpy()),
        },
    )
    return load_model(folder / "induction.safetensors"), dataset


@pytest.mark.parametrize(
    "root",
    [
        output(pos_embed(agrees_on=ANYTHING), rest=EXACT),
        output(embed(agrees_on="last_token"), rest=EXACT),
    ],
)
def test_swaps_that_exchange_equal_values_test_nothing(
    trained: tuple[Any, Dataset], root: Node
) -> None:
    verdict = check(root, *trained, tolerance=0.1, adversaries=(), samples=400)
    assert verdict.outcome == UNTESTED
    assert verdict.gap.mean == 0
    assert "the same on all donors" in str(verdict)


def test_an_idle_head_that_computes_zeros_says_nothing(trained: tuple[Any, Dataset]) -> None:
    def zeros(answer: Any) -> Any:
        return np.zeros((len(answer), 64))

    root = output(head(0, 0, agrees_on="answer", computed_by=zeros), rest=EXACT)
    verdict = check(root, *trained, tolerance=0.5, adversaries=(), samples=800)
    assert (verdict.average, verdict.outcome) == (HELD, WEAK)
