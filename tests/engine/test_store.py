"""Clean activations: each row of different content is captured once, and only where it is
asked for."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.memory import Memory
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.metrics import Metric
from pytest_scrub.tree.nodes import (
    module,
    output,
)
from tests.engine.counting import NON_LEAF, OUT, REPEATED, Counting, counting, drawn, swaps


def forget_examples(evaluator: Evaluator) -> None:
    """Row 0 is run once to learn the output's shape; rows that are run again for a proof are not
    counted either."""
    evaluator.checked.example("output")
    assert isinstance(evaluator.graph, Counting)
    evaluator.graph.captured.clear()
    evaluator.store._prove_alone = lambda captured, places: None  # type: ignore[method-assign]


def test_each_content_is_captured_once_and_only_where_it_is_asked_for() -> None:
    graph = counting()
    evaluator = Evaluator(graph, REPEATED, output(module("A", agrees_on="f")), OUT)
    forget_examples(evaluator)
    assert evaluator.evaluate(swaps(evaluator, [0, 0], rest=[1, 2], A=[4, 5])).tolist() == [
        6 + 3,
        6 + 3,
    ]
    # rows 1 and 2 are the same, 4 and 5 too; the reference is only judged
    assert graph.captured == {1: 1, 3: 1}
    evaluator.evaluate(swaps(evaluator, [3, 6], rest=[5, 4], A=[1, 2]))
    assert graph.captured == {1: 1, 3: 1}
    evaluator.evaluate(swaps(evaluator, [0], rest=[6], A=[1]))
    assert graph.captured == {1: 1, 3: 1, 4: 1}


def test_the_own_input_of_a_non_leaf_is_never_captured() -> None:
    graph = counting()
    evaluator = Evaluator(graph, REPEATED, NON_LEAF, OUT)
    assert evaluator.space.paths == ("output/rest", "output/A", "output/A/rest", "output/A/a")
    forget_examples(evaluator)
    evaluator.evaluate(swaps(evaluator, [0], A=[6], A_rest=[1], A_a=[3]))
    assert graph.captured == {0: 1, 1: 1, 2: 1}


def test_a_shared_store_captures_nothing_twice() -> None:
    graph = counting()
    store = ActivationStore(graph, REPEATED)
    one, other = (
        Evaluator(graph, REPEATED, output(module("A", agrees_on="f")), OUT, store=store)
        for _ in range(2)
    )
    one.evaluate(drawn(one, 100))
    forget_examples(other)
    other.evaluate(drawn(other, 100, seed=1))
    assert graph.captured == {}


def test_unscrubbed_captures_each_reference_once() -> None:
    graph = counting()
    evaluator = Evaluator(graph, REPEATED, output(module("A", agrees_on="f")), OUT)
    forget_examples(evaluator)
    assert evaluator.unscrubbed(np.array([5, 4, 5, 1])).tolist() == [15, 15, 15, 5]
    assert graph.captured == {3: 1, 1: 1}


@pytest.mark.parametrize(
    ("width", "memory", "runs"), [(1, None, 1), (3, None, 2), (1, Memory(1 << 20), 2)]
)
def test_the_network_runs_once_for_a_row_unless_what_unscrubbed_metrics_read_is_much(
    width: int, memory: Memory | None, runs: int
) -> None:
    graph = Counting(
        A=lambda a: 2 * a, B=lambda a: a, C=lambda a: a, D=lambda a: a,
        output=lambda A, B, C, D: (A + B + C + D)[:, None].expand(-1, width),
    )  # fmt: skip
    first = Metric("first", lambda out, batch: out[:, 0])
    store = ActivationStore(graph, REPEATED, memory)
    evaluator = Evaluator(graph, REPEATED, output(module("A", agrees_on="f")), first, store=store)
    forget_examples(evaluator)
    evaluator.evaluate(swaps(evaluator, [0, 0], rest=[1, 2], A=[4, 5]))
    assert evaluator.unscrubbed(np.array([1, 4])).tolist() == [5, 15]
    assert graph.captured == {1: runs, 3: runs}
    evaluator.ensure(evaluator.sites, np.arange(7))
    evaluator.unscrubbed(np.arange(7))
    assert graph.captured == dict.fromkeys(range(5), runs)


def test_evaluators_of_one_store_run_the_first_row_once_to_learn_shapes() -> None:
    graph = counting()
    store = ActivationStore(graph, REPEATED)
    graph.captured.clear()
    for _ in range(3):
        claim = output(module("A", agrees_on="f"))
        Evaluator(graph, REPEATED, claim, OUT, store=store).checked.example("output")
    assert sum(graph.captured.values()) == 1


def test_rows_that_are_asked_for_later_are_captured_too() -> None:
    """What was there for some rows is not taken to be there for others."""
    graph = counting()
    evaluator = Evaluator(graph, REPEATED, output(module("A", agrees_on="f")), OUT)
    forget_examples(evaluator)
    for rows in ([3], [3], [0, 3], [5]):
        evaluator.ensure(evaluator.sites, np.array(rows))
    evaluator.ensure((), np.array([6]))
    assert graph.captured == {REPEATED.inputs["a"][row].item(): 1 for row in (3, 0, 5)}
