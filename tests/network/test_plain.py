"""Graphs of functions: direct reading and reading along every path, with figures made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import meaning
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError, ModelError
from pytest_scrub.metrics import Metric
from pytest_scrub.network.plain import FunctionGraph
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import ANYTHING, Node, Subspace, group, module, output
from tests.reference.functions import FunctionNetwork

TOTAL = Metric("total", lambda out, batch: out.flatten(1).sum(1))


def refuses(sentence: str, kind: type[Exception] = ModelError) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


def outputs(
    graph: FunctionGraph, data: Dataset, root: Node, reference: int = 0, **donors: int
) -> list[Any]:
    """The scrubbed output for one reference. Donors by the last part of the slot path; the rest
    stay where they are."""
    evaluator = Evaluator(graph, data, root, TOTAL)
    rows = dict.fromkeys(evaluator.space.paths, reference)
    for name, row in donors.items():
        (path,) = [path for path in rows if path.replace("/", "_").endswith(f"output_{name}")]
        rows[path] = row
    swap_set = SwapSet(
        [reference], [[row] for row in rows.values()], evaluator.space.paths, data.digest()
    )
    found: list[Any] = evaluator.outputs(swap_set)[0].tolist()
    (expected,) = meaning.outputs(FunctionNetwork(graph.nodes, data), root, data, swap_set, None)
    assert found == pytest.approx(expected.tolist())
    return found


# --- hand-made cases ------------------------------------------------------------------------------

# One position each, so that figures can be read: row r has a = r and b = 10 r.
ROWS = Dataset(
    {"a": torch.arange(5.0)[:, None], "b": 10 * torch.arange(5.0)[:, None]}, features={"f": [0] * 5}
)
DIAMOND = FunctionGraph(
    A=lambda a: a + 100, B=lambda A: 2 * A, C=lambda A, b: A + b, output=lambda B, C: B * 1000 + C
)
F = {"agrees_on": "f"}


def test_clean_it_is_the_function() -> None:
    assert outputs(DIAMOND, ROWS, output(module("B", **F)), reference=2) == [
        2 * 102 * 1000 + 102 + 20
    ]


def test_a_direct_child_replaces_that_argument_only() -> None:
    # B of row 3; C, which reads A as well, of the rest's row 1.
    assert outputs(DIAMOND, ROWS, output(module("B", **F)), B=3, rest=1) == [
        2 * 103 * 1000 + 101 + 10
    ]


def test_along_every_path_a_child_is_replaced_as_soon_as_it_is_computed() -> None:
    # A of row 3 reaches B and C; the b in C is of the rest's row 1.
    assert outputs(DIAMOND, ROWS, output(module("A", **F, via="any")), A=3, rest=1) == [
        2 * 103 * 1000 + 103 + 10
    ]


def test_along_every_path_into_one_argument() -> None:
    root = output(module("A", **F, via="any", into="C"))
    assert outputs(DIAMOND, ROWS, root, **{"A[C]": 3}, rest=1) == [2 * 101 * 1000 + 103 + 10]


def test_a_direct_child_beside_one_along_every_path_stands_in_that_run() -> None:
    root = output(module("A", **F, via="any"), module("C", **F))
    assert outputs(DIAMOND, ROWS, root, A=3, C=4, rest=1) == [2 * 103 * 1000 + 104 + 40]


def test_children_along_every_path_are_replaced_together() -> None:
    # C is replaced after A has already changed it; B is not.
    root = output(module("A", **F, via="any"), module("C", **F, via="any"))
    assert outputs(DIAMOND, ROWS, root, A=3, C=4, rest=1) == [2 * 103 * 1000 + 104 + 40]
    root = output(module("a", **F, via="any"), module("A", **F, via="any"))
    assert outputs(DIAMOND, ROWS, root, a=4, A=3, rest=1) == [2 * 103 * 1000 + 103 + 10]


def test_a_non_leaf_is_recomputed_on_its_own_rest() -> None:
    # C reads A of row 2 and b of its rest's row 3; its own input, row 4, feeds nothing.
    root = output(module("C", **F, reads=[module("A", **F)]))
    assert outputs(DIAMOND, ROWS, root, rest=1, C=4, C_A=2, C_rest=3) == [2 * 101 * 1000 + 102 + 30]


def test_a_group_is_one_donors() -> None:
    root = output(group(["B", "C"], **F))
    assert outputs(DIAMOND, ROWS, root, **{"group(B+C)": 3}, rest=1) == [2 * 103 * 1000 + 103 + 30]
    root = output(group(["A", "b"], **F, via="any"))
    assert outputs(DIAMOND, ROWS, root, **{"group(A+b)": 3}, rest=1) == [2 * 103 * 1000 + 103 + 30]


def test_a_computed_child_is_what_the_function_says() -> None:
    data = Dataset(ROWS.inputs, features={"f": [0, 0, 1, 1, 1], "g": torch.arange(5)})

    def times_seven(f: Any, g: Any) -> Any:
        return 7.0 * g[:, None] + f[:, None]

    root = output(module("B", agrees_on=["g", "f"], computed_by=times_seven))
    assert outputs(DIAMOND, data, root, B=3, rest=1) == [(7 * 3 + 1) * 1000 + 101 + 10]


def test_the_whole_output_can_be_another_rows() -> None:
    assert outputs(DIAMOND, ROWS, Node(("output",), ANYTHING), reference=0) == [
        2 * 100 * 1000 + 100
    ]
    evaluator = Evaluator(DIAMOND, ROWS, output(agrees_on=ANYTHING), TOTAL)
    swapped = SwapSet([0], [[3]], ("output",), ROWS.digest())
    assert evaluator.evaluate(swapped).tolist() == [2 * 103 * 1000 + 103 + 30]


# --- positions and subspaces ----------------------------------------------------------------------

WIDE = Dataset(
    {"a": torch.tensor([[1.0, 2, 3], [10, 20, 30], [100, 200, 300]])},
    features={"f": [0] * 3, "where": [0, 1, 2],
    "both": [[True, True, False], [False, True, True], [True, False, True]],
              "some": [[True, False, False], [True, True, False], [False, False, True]]},
)  # fmt: skip
COPY = FunctionGraph(output=lambda a: a)


@pytest.mark.parametrize(
    ("reads", "donors", "expected"),
    [
        ([module("a", **F, pos=1)], {"a@1": 1, "rest": 2}, [100, 20, 300]),
        ([module("a", **F, pos=-1)], {"a@-1": 1}, [1, 2, 30]),
        ([module("a", **F, pos=slice(1, None))], {"a@1:": 1}, [1, 20, 30]),
        # Two claims about one component: both count.
        ([module("a", **F, pos=0), module("a", **F, pos=2)], {"a@0": 1, "a@2": 2}, [10, 2, 300]),
        # Taken at the child's own position, put in at the parent's: row 1 has it at 1, row 0 at 0,
        # row 2 at 2.
        ([module("a", **F, pos="where")], {"a@where": 1, "rest": 0}, [20, 2, 3]),
        ([module("a", **F, pos="where")], {"a@where": 0, "rest": 2}, [100, 200, 1]),
        # The first to the first, the second to the second: 10, 20 of row 1 become positions 0 and 2
        # of row 2.
        ([module("a", **F, pos="both")], {"a@both": 1, "rest": 2}, [20, 200, 30]),
    ],
)
@pytest.mark.parametrize("via", [None, "any"])
def test_positions(
    reads: list[Node], donors: dict[str, int], expected: list[float], via: str | None
) -> None:
    root = output(*(replace(child, via=via) for child in reads))
    assert outputs(COPY, WIDE, root, **donors) == pytest.approx(expected)


def test_masks_need_as_many_positions() -> None:
    root = output(module("a", **F, pos="some"))
    assert outputs(COPY, WIDE, root, **{"a@some": 2, "rest": 0}) == [300, 2, 3]
    with refuses(
        "output/a@some: its position mask has 1 positions on row 0 and 2 on row 1, which is to "
        "stand in for it; let them agree on a feature that counts the positions",
        DataError,
    ):
        outputs(COPY, WIDE, root, **{"a@some": 1, "rest": 0})


@pytest.mark.parametrize("via", [None, "any"])
def test_subspaces(via: str | None) -> None:
    first, last = Subspace(np.eye(3)[:, :1]), Subspace(np.eye(3)[:, 2:])
    both = output(
        module("a", **F, subspace=first, via=via),
        module("a", **F, subspace=last, via=via, name="z"),
    )
    assert outputs(COPY, WIDE, both, a=1, z=2) == [10, 2, 300]
    diagonal = Subspace(np.array([[1.0], [1], [0]]) / 2**0.5)
    # The projection of row 1's (10, 20, 30) on the diagonal is (15, 15, 0), and row 0's remainder
    # (-0.5, 0.5, 3).
    root = output(module("a", **F, subspace=diagonal, via=via))
    assert outputs(COPY, WIDE, root, a=1) == pytest.approx([14.5, 15.5, 3])


def test_whole_numbers_can_be_swapped_at_a_position() -> None:
    data = Dataset(torch.tensor([[1, 2, 3], [10, 20, 30]]), features={"f": [0, 0]})
    graph = FunctionGraph(output=lambda tokens: tokens.double())
    assert outputs(graph, data, output(module("tokens", **F, pos=1)), **{"tokens@1": 1}) == [
        1,
        20,
        3,
    ]


# --- what a graph is, and what is none ------------------------------------------------------------


def test_components_are_in_order_of_computation() -> None:
    graph = FunctionGraph(output=lambda B, a: B + a, B=lambda A, b: A + b, A=lambda a: a)
    assert sorted(graph.components) == ["A", "B", "a", "b", "output"]
    assert graph.components[-1] == "output"
    order = graph.components.index
    assert order("a") < order("A") < order("B")
    assert order("b") < order("B")
    assert set(graph.input_names) == {"a", "b"}


def test_slots_are_arguments() -> None:
    assert DIAMOND.slots("output", "B", False) == ("B",)
    assert DIAMOND.slots("output", "A", False) == ()
    assert DIAMOND.slots("output", "A", True) == ("B", "C")
    assert DIAMOND.slots("B", "b", True) == ()
    assert DIAMOND.slots("a", "A", True) == ()
    assert DIAMOND.slots("A", "A", True) == ()


@pytest.mark.parametrize(
    ("nodes", "sentence"),
    [
        ({}, "a FunctionGraph needs a node called 'output'; it has none"),
        (
            {"A": lambda a: a, "B": lambda A: A},
            "a FunctionGraph needs a node called 'output'; it has A, B",
        ),
        (
            {"output": lambda *arguments: arguments[0]},
            "node 'output' has to name its arguments after the nodes and inputs that it reads",
        ),
        (
            {"A": lambda **arguments: arguments["a"], "output": lambda A: A},
            "node 'A' has to name its arguments after the nodes and inputs that it reads",
        ),
        (
            {"output": 3},
            "node 'output' has to be a Python function of the nodes and inputs it reads, not 3",
        ),
        (
            {"output": torch.add},
            "node 'output' has to be a Python function of the nodes and inputs it reads, not "
            "<built-in method add of type object",
        ),
    ],
)
def test_what_is_no_graph_is_refused(nodes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError, match=rf"^{re.escape(sentence)}( at 0x\w+>)?$"):
        FunctionGraph(**nodes)


def test_a_circle_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"^the nodes (A -> B -> A|B -> A -> B) read one another in a circle$"
    ):
        FunctionGraph(A=lambda B: B, B=lambda A: A, output=lambda A: A)


@pytest.mark.parametrize("returned", [torch.tensor(1.0), torch.ones(3), 2.0, None])
def test_a_node_returns_one_value_for_each_row(returned: Any) -> None:
    # read or not, it is told of the node that returned it
    for read in (lambda a, A: a, lambda a, A: a @ A):
        with refuses("node 'A' has to return a tensor with one value for each of the 5 rows"):
            Evaluator(
                FunctionGraph(A=lambda a: returned, output=read),
                ROWS,
                output(module("a", **F)),
                TOTAL,
            )


def test_a_recomputed_node_returns_one_value_for_each_row() -> None:
    # Clean it has them; nothing is broadcast over the references once its argument is swapped.
    graph = FunctionGraph(
        A=lambda a: a, output=lambda A, b: A + b if (b > A).any() else (A + b)[:1]
    )
    evaluator = Evaluator(graph, ROWS, output(module("A", **F)), TOTAL)
    donors = [{"output/A": [4, 3], "output/rest": [0, 0]}[path] for path in evaluator.space.paths]
    with refuses("node 'output' has to return a tensor with one value for each of the 2 rows"):
        evaluator.outputs(SwapSet([1, 2], donors, evaluator.space.paths, ROWS.digest()))


def test_a_node_is_deterministic() -> None:
    calls = iter(range(100))
    graph = FunctionGraph(A=lambda a: a + next(calls), output=lambda A: A)
    with refuses("node 'A' gave two different values on the same inputs; make it deterministic"):
        Evaluator(graph, ROWS, output(module("A", **F)), TOTAL)


def test_an_input_the_dataset_lacks_is_named() -> None:
    graph = FunctionGraph(output=lambda a, z: a + z)
    with refuses("the dataset has no input 'z', which the graph reads; it has ['a', 'b']"):
        Evaluator(graph, ROWS, output(module("a", **F)), TOTAL)


def test_a_digest_is_of_what_the_functions_do() -> None:
    def digest(function: Any, name: str = "A") -> str:
        return FunctionGraph(**{name: function}, output=lambda a: a).digest()

    one, same, other = lambda a: 2.5 * a, lambda a: 2.5 * a, lambda a: 3.5 * a
    assert digest(one) == digest(same)
    assert len({digest(one), digest(other), digest(one, "B")}) == 3
    assert digest(lambda a: a.sin()) != digest(lambda a: a.cos())
    # Functions within functions count too.
    nested = [
        lambda a: [2.5 * x for x in a],
        lambda a: [2.5 * x for x in a],
        lambda a: [3.5 * x for x in a],
    ]
    one, same, other = map(digest, nested)
    assert one == same != other

    # And so does what they close over.
    def scaled(factor: Any) -> Any:
        return lambda a: a * factor

    for one, same, other in ((2.5, 2.5, 3.5), (torch.ones(2), torch.ones(2), torch.zeros(2))):
        assert digest(scaled(one)) == digest(scaled(same)) != digest(scaled(other))
    # Anything that can be called may be a node.
    assert digest(Doubled()) == digest(Doubled()) != digest(lambda a: 2 * a)


class Doubled:
    def __call__(self, a: Tensor) -> Tensor:
        return 2 * a


def test_capturing_gives_the_values_of_a_clean_run() -> None:
    graph, inputs = DIAMOND, ROWS.batch([1, 3])
    whole, summed = graph.value_site(("C",), None), graph.value_site(("A", "B"), (0,))
    captured = graph.capture([whole, summed], inputs)
    assert captured[whole].tolist() == [[111.0], [133.0]]
    assert captured[summed].tolist() == [[303.0], [309.0]]
    assert graph.run(inputs).tolist() == [[202_000 + 111.0], [206_000 + 133.0]]
