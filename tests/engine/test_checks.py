"""Static checks: what a claim can get wrong about a network and its data, each error one sentence
with a remedy."""

from __future__ import annotations

import re
import sys
from traceback import format_exception_only
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.checks import CheckedHypothesis, check_hypothesis
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError, HypothesisError, ModelError, ScrubError
from pytest_scrub.metrics import Metric, squared_error
from pytest_scrub.network import FunctionGraph, ModelGraph, ModuleGraph, as_graph
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import (
    ANYTHING,
    EXACT,
    Agreement,
    Node,
    attn,
    embed,
    group,
    head,
    mask,
    mlp,
    module,
    output,
    pos_embed,
)
from tests.reference.generate import Architecture, build

F = {"agrees_on": "f"}
FEATURE = Agreement(("f",))
D_MODEL, LENGTH = 8, 4
TOKENS = torch.tensor([[0, 1, 2, 3], [1, 1, 2, 0], [4, 1, 0, 0], [0, 2, 2, 1]])
COLUMNS = {
    "f": [0, 0, 1, 1],
    "start": [0, 0, 0, 1],
    "later": [1, 2, 3, 0],
    "ends": [
        [True, False, False, False],
        [False, False, True, True],
        [True, False, True, False],
        [False, False, False, True],
    ],
    "others": [
        [False, True, True, False],
        [True, True, False, False],
        [False, True] * 2,
        [True, True, True, False],
    ],
}
DATA = Dataset(
    {"tokens": TOKENS, "attention_mask": torch.ones_like(TOKENS)},
    labels=[0, 1, 0, 1],
    features=COLUMNS,
)
UNMASKED = Dataset(TOKENS, labels=[0, 1, 0, 1], features=COLUMNS)


@pytest.fixture(scope="session")
def transformer() -> ModelGraph:
    """Two layers of two heads and an MLP, with learned positions."""
    small = Architecture(
        n_layers=2, d_head=4, d_model=D_MODEL, n_ctx=LENGTH, attn_only=False, norm="LN"
    )
    return as_graph(build(small).bridge)


FUNCTIONS = FunctionGraph(
    A=lambda a: 2 * a,
    B=lambda a, b: a + b,
    C=lambda A, B: A * B,
    output=lambda C, b: C.sum(1) + b.sum(1),
)
NUMBERS = Dataset(
    {"a": torch.arange(12.0).view(4, 3), "b": torch.ones(4, 3)},
    labels=torch.zeros(4),
    features=COLUMNS,
)


class Residual(nn.Module):
    """Two linear layers, one after the other, the second beside a skip connection; one more is
    never called."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.unused = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.first(tokens)
        return hidden + self.second(hidden)


@pytest.fixture(scope="session")
def modules() -> ModelGraph:
    graph = ModuleGraph(Residual().eval())
    graph.prove({"tokens": torch.ones(2, 3)})
    return graph


VECTORS = Dataset(torch.arange(12.0).view(4, 3), labels=torch.zeros(4, 3), features=COLUMNS)


def refuses(sentence: str, kind: type[Exception] = HypothesisError) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


# --- components that are not there ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        (
            output(head(1, 2, **F)),
            "output/head1.2: the network has no component 'head1.2'; it has head1.0 to head1.1",
        ),
        (
            output(head(2, 0, **F)),
            "output/head2.0: the network has no component 'head2.0'; it has head0.0 to head1.1",
        ),
        (
            output(mlp(1, **F, reads=[mlp(2, **F)])),
            "output/mlp1/mlp2: the network has no component 'mlp2'; it has mlp0 to mlp1",
        ),
        (
            output(group(["head1.0", "mpl0"], **F, name="pair")),
            "output/pair: the network has no component 'mpl0'; did you mean 'mlp0'?",
        ),
        (
            output(module("transformer.h.0", **F)),
            "output/transformer.h.0: the network has no component 'transformer.h.0'; it has mask, "
            "embed, pos_embed, stream0 to stream2, pattern0.0 to pattern1.1, head0.0 to head1.1, "
            "attn0 to attn1, mlp0 to mlp1, output",
        ),
    ],
)
def test_an_unknown_component_is_refused(
    transformer: ModelGraph, root: Node, sentence: str
) -> None:
    with refuses(sentence):
        check_hypothesis(transformer, DATA, root, None)


def test_a_long_list_of_components_is_cut() -> None:
    many = FunctionGraph(output=eval(f"lambda {', '.join('abcdefghijklmn')}: a"))
    with refuses(
        "output/x: the network has no component 'x'; it has a, b, c, d, e, f, g, h, "
        "i, j, ..., output"
    ):
        check_hypothesis(many, NUMBERS, output(module("x", **F)), None)


# --- what cannot be read --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        (
            output(head(0, 0, **F, reads=[head(1, 0, **F)])),
            "output/head0.0/head1.0: head0.0 cannot read head1.0, which is not computed before it",
        ),
        (
            output(head(1, 0, **F, reads=[head(1, 1, **F)])),
            "output/head1.0/head1.1: head1.0 cannot read head1.1, which is not computed before it",
        ),
        (
            output(mlp(0, **F, reads=[mlp(0, **F)])),
            "output/mlp0/mlp0: mlp0 cannot read mlp0, which is not computed before it",
        ),
        (
            output(head(1, 0, **F, reads=[mlp(1, **F, via="any")])),
            "output/head1.0/mlp1: head1.0 cannot read mlp1, which is not computed before it",
        ),
        (
            output(embed(**F, reads=[pos_embed(**F)])),
            "output/embed/pos_embed: embed cannot read pos_embed, which is not computed before it",
        ),
        (
            output(mask(**F)),
            "output/mask: output cannot read mask: only heads read the mask directly; use "
            "via='any' for all of them below it",
        ),
        (
            output(mlp(1, **F, reads=[mask(**F)])),
            "output/mlp1/mask: mlp1 cannot read mask: only heads read the mask directly; use "
            "via='any' for all of them below it",
        ),
    ],
)
def test_what_a_component_does_not_read_is_refused(
    transformer: ModelGraph, root: Node, sentence: str
) -> None:
    with refuses(sentence):
        check_hypothesis(transformer, DATA, root, None)


def test_a_function_reads_only_its_arguments() -> None:
    check_hypothesis(
        FUNCTIONS,
        NUMBERS,
        output(module("C", **F, reads=[module("A", **F), module("a", **F, via="any")])),
        None,
    )
    with refuses(
        "output/A: output cannot read A directly; use via='any' for every path between them"
    ):
        check_hypothesis(FUNCTIONS, NUMBERS, output(module("A", **F)), None)
    with refuses("output/C/A/b: A cannot read b, which is not computed before it"):
        inner = module("A", **F, reads=[module("b", **F, via="any")])
        check_hypothesis(FUNCTIONS, NUMBERS, output(module("C", **F, reads=[inner])), None)


def test_a_module_reads_what_was_computed_before(modules: ModelGraph) -> None:
    check_hypothesis(
        modules, VECTORS, output(module("second", **F, reads=[module("first", **F)])), None
    )
    with refuses(
        "output/first/second: first cannot read second, which is computed later or not at all "
        "before it"
    ):
        check_hypothesis(
            modules, VECTORS, output(module("first", **F, reads=[module("second", **F)])), None
        )


def test_modules_are_never_read_directly(modules: ModelGraph) -> None:
    with refuses(
        "output/first: components of torch module Residual are always read along every path; leave "
        "via= out"
    ):
        check_hypothesis(modules, VECTORS, output(module("first", **F, via="direct")), None)
    check_hypothesis(modules, VECTORS, output(module("first", **F, via="any")), None)


def test_a_module_that_is_never_called_cannot_be_claimed(modules: ModelGraph) -> None:
    with refuses(
        "module 'unused' is not called by the forward pass, so it cannot be claimed; claim a "
        "module in it or around it",
        ModelError,
    ):
        check_hypothesis(modules, VECTORS, output(module("unused", **F)), None)


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        (
            output(head(1, 0, **F, reads=[embed(**F, into="in")])),
            "output/head1.0/embed[in]: head1.0 reads embed into q, k or v, not into='in'",
        ),
        (
            output(head(1, 0, **F, reads=[embed(**F, into="mask")])),
            "output/head1.0/embed[mask]: head1.0 reads embed into q, k or v, not into='mask'",
        ),
        (
            output(head(1, 0, **F, into="q")),
            "output/head1.0[q]: output reads head1.0 in one way only, without into=, not into='q'",
        ),
        (
            output(head(1, 0, **F, reads=[mask(**F, into="q")])),
            "output/head1.0/mask[q]: head1.0 reads mask in one way only, without into=, not "
            "into='q'",
        ),
        (
            output(mask(**F, via="any", into="k")),
            "output/mask[k]: output reads mask in one way only, without into=, not into='k'",
        ),
    ],
)
def test_a_slot_that_is_not_there_is_refused(
    transformer: ModelGraph, root: Node, sentence: str
) -> None:
    with refuses(sentence):
        check_hypothesis(transformer, DATA, root, None)


def test_the_slots_of_a_function_are_its_arguments() -> None:
    check_hypothesis(FUNCTIONS, NUMBERS, output(module("b", **F, via="any", into="C")), None)
    with refuses("output/C[b]: output reads C in one way only, without into=, not into='b'"):
        check_hypothesis(FUNCTIONS, NUMBERS, output(module("C", **F, into="b")), None)
    with refuses("output/a[B]: output reads a into C or b, not into='B'"):
        check_hypothesis(FUNCTIONS, NUMBERS, output(module("a", **F, via="any", into="B")), None)


# --- masks and subspaces --------------------------------------------------------------------------


def test_without_an_attention_mask_there_is_no_mask(transformer: ModelGraph) -> None:
    with refuses(
        "output/head1.0/mask: the inputs have no 'attention_mask', so every key is visible and "
        "mask swaps nothing"
    ):
        check_hypothesis(transformer, UNMASKED, output(head(1, 0, **F, reads=[mask(**F)])), None)
    check_hypothesis(transformer, DATA, output(head(1, 0, **F, reads=[mask(**F)])), None)


@pytest.mark.parametrize(
    "node",
    [
        mask(**F, subspace=np.eye(LENGTH)[:, :1]),
        mask(**F, computed_by=lambda f: f),
        Node(("mask",), FEATURE, (embed(**F),), rest=ANYTHING),
    ],
)
def test_a_mask_is_a_leaf_of_visible_keys(transformer: ModelGraph, node: Node) -> None:
    with refuses(
        "output/head1.0/mask: mask is a leaf of visible keys; leave reads=, subspace= and "
        "computed_by= out"
    ):
        check_hypothesis(transformer, DATA, output(head(1, 0, **F, reads=[node])), None)


def test_a_subspace_has_the_width_of_the_stream(transformer: ModelGraph) -> None:
    check_hypothesis(
        transformer, DATA, output(head(1, 0, **F, subspace=np.eye(D_MODEL)[:, :3])), None
    )
    with refuses("output/head1.0: subspace= has 4 rows, but activations of head1.0 have 8 numbers"):
        check_hypothesis(
            transformer, DATA, output(head(1, 0, **F, subspace=np.eye(4)[:, :3])), None
        )


@pytest.mark.parametrize(
    ("shape", "numbers"),
    [((4,), "no dimension but the rows'; leave subspace= out"), ((4, 3), "3 numbers")],
)
def test_so_it_has_where_no_stream_tells_the_width(shape: tuple[int, ...], numbers: str) -> None:
    # As many columns as rows: a product would go through, and mix the rows.
    data = Dataset({"a": torch.ones(shape)}, features={"f": [0] * 4})
    root = output(module("a", agrees_on="f", subspace=np.eye(4)))
    with refuses(f"output/a: subspace= has 4 rows, but activations of a have {numbers}"):
        check_hypothesis(FunctionGraph(output=lambda a: a), data, root, None)


def test_a_computed_group_is_of_one_block_where_that_is_normalised() -> None:
    sizes = {"score_cap": 3.0, "logit_cap": 3.0, "n_ctx": DATA.inputs["tokens"].shape[1]}
    small = Architecture(kind="gemma2", n_layers=2, d_head=4, attn_only=False, **sizes)
    graph = as_graph(build(small).bridge)

    def computed(*members: str) -> Node:
        return output(group(list(members), **F, computed_by=lambda f: f))

    check_hypothesis(graph, DATA, computed("head1.0", "head1.1"), None)
    with refuses(
        "output/group(head0.0+head1.0): computed_by= of a group gives the sum of its members, so "
        "they must be of one layer's attention, since what that adds is normalised or scaled as a "
        "whole"
    ):
        check_hypothesis(graph, DATA, computed("head0.0", "head1.0"), None)


def test_a_computed_group_is_read_directly(transformer: ModelGraph) -> None:
    def computed(**options: Any) -> Node:
        return output(group(["head1.0", "mlp0"], **F, computed_by=lambda f: f, **options))

    check_hypothesis(transformer, DATA, computed(), None)
    with refuses(
        "output/group(head1.0+mlp0): computed_by= of a group gives the sum of its members, so "
        "they must be read directly"
    ):
        check_hypothesis(transformer, DATA, computed(via="any"), None)
    both = group(["A", "B"], **F, computed_by=lambda f: f)
    with refuses(
        "output/C/group(A+B): computed_by= of a group gives the sum of its members, so they must "
        "be read directly"
    ):  # the arguments of a function are no sum
        check_hypothesis(FUNCTIONS, NUMBERS, output(module("C", **F, reads=[both])), None)


# --- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pos", "sentence"),
    [
        (4, "pos= of output/head1.0@4 is 4, but positions go from -4 to 3"),
        (-5, "pos= of output/head1.0@-5 is -5, but positions go from -4 to 3"),
        (
            slice(2, 9),
            "pos= of output/head1.0@2:9 is 2:9, which goes past the 4 positions there are, and "
            "would be cut short; give a slice within them",
        ),
        (
            slice(3, 1),
            "pos= of output/head1.0@3:1 is 3:1, which holds none of the 4 positions; widen it",
        ),
        (
            "where",
            "pos= of output/head1.0@where: the dataset has no feature 'where'; it has f, start, "
            "later, ends, others",
        ),
    ],
)
def test_positions_have_to_be_there(transformer: ModelGraph, pos: Any, sentence: str) -> None:
    with refuses(sentence, DataError):
        check_hypothesis(transformer, DATA, output(head(1, 0, **F, pos=pos)), None)


@pytest.mark.parametrize("pos", [3, -4, slice(1, 4), "start", "ends"])
def test_positions_that_are_there(transformer: ModelGraph, pos: Any) -> None:
    checked = check_hypothesis(transformer, DATA, output(head(1, 0, **F, pos=pos)), None)
    (found,) = [positions for path, positions in checked.positions.items() if path != "output"]
    assert found is not None
    assert found.static == (not isinstance(pos, str))


def test_the_output_is_read_where_the_metric_or_the_labels_say(transformer: ModelGraph) -> None:
    root = output(head(1, 0, **F))

    def read(dataset: Dataset, pos: Any) -> Any:
        found = check_hypothesis(transformer, dataset, root, pos).output
        return None if found is None else found.index.tolist()

    labelled = Dataset(TOKENS, labels=[0, 1, 0, 1], label_pos=-1, features=COLUMNS)
    assert [read(DATA, None), read(DATA, 1), read(labelled, None), read(labelled, slice(0, 2))] == [
        None,
        [1],
        [3],
        [0, 1],
    ]
    with refuses(
        "pos= of the metric is 4, but positions go from -4 to 3",
        DataError,
    ):
        check_hypothesis(transformer, DATA, root, 4)


def test_a_number_for_each_input_has_no_positions() -> None:
    scalars = Dataset(
        {"a": torch.arange(4.0), "b": torch.ones(4)}, labels=torch.zeros(4), features=COLUMNS
    )
    graph = FunctionGraph(A=lambda a: a, output=lambda A, b: A + b)
    with refuses(
        "pos= of output/A@0: A has no positions, one number for each input; leave pos= out"
    ):
        check_hypothesis(graph, scalars, output(module("A", **F, pos=0)), None)
    with refuses(
        "pos= of the metric: output has no positions, one number for each input; leave pos= out"
    ):
        check_hypothesis(graph, scalars, output(module("A", **F)), 0)


# --- the same edge twice --------------------------------------------------------------------------

ONE, OTHER, ACROSS = np.eye(D_MODEL)[:, :2], np.eye(D_MODEL)[:, 2:5], np.eye(D_MODEL)[:, 1:3]


def head10(**options: Any) -> Node:
    return head(1, 0, **F, **options)


def read_by_head(*reads: Node) -> tuple[Node, ...]:
    return (head(1, 0, **F, reads=reads),)


@pytest.mark.parametrize(
    ("reads", "first", "second", "parent"),
    [
        ([head10(), head(1, 0, agrees_on=EXACT)], "head1.0", "head1.0#2", "output"),
        ([head10(), head10(name="again")], "head1.0", "again", "output"),
        ([group(["head1.0", "mlp0"], **F), head10()], "group(head1.0+mlp0)", "head1.0", "output"),
        ([head10(), head10(via="any")], "head1.0", "head1.0#2", "output"),
        ([attn(1, **F), head10()], "attn1", "head1.0", "output"),
        ([attn(1, **F, via="any"), head10(pos=1)], "attn1", "head1.0@1", "output"),
        (
            read_by_head(attn(0, **F, into="k"), head(0, 0, **F)),
            "head1.0/attn0[k]",
            "head1.0/head0.0",
            "head1.0",
        ),
        (
            [group(["embed", "mlp0"], **F, via="any"), mlp(0, **F)],
            "group(embed+mlp0)",
            "mlp0",
            "output",
        ),
        ([head10(pos=3), head10(pos=-1)], "head1.0@3", "head1.0@-1", "output"),
        ([head10(pos=3), head10()], "head1.0@3", "head1.0", "output"),
        (
            [head10(pos=slice(0, 3)), head10(pos=slice(2, 4))],
            "head1.0@0:3",
            "head1.0@2:4",
            "output",
        ),
        ([head10(pos="start"), head10(pos="ends")], "head1.0@start", "head1.0@ends", "output"),
        ([head10(pos="later"), head10(pos=3)], "head1.0@later", "head1.0@3", "output"),
        ([head10(subspace=ONE), head10()], "head1.0", "head1.0#2", "output"),
        ([head10(subspace=ONE), head10(subspace=ACROSS)], "head1.0", "head1.0#2", "output"),
        (
            read_by_head(embed(**F), embed(**F, into="k")),
            "head1.0/embed",
            "head1.0/embed[k]",
            "head1.0",
        ),
        (
            read_by_head(embed(**F, into="k"), embed(**F, into="k", via="any")),
            "head1.0/embed[k]",
            "head1.0/embed[k]#2",
            "head1.0",
        ),
        (
            read_by_head(mask(**F), mask(**F, via="any")),
            "head1.0/mask",
            "head1.0/mask#2",
            "head1.0",
        ),
    ],
)
def test_no_edge_is_claimed_twice(
    transformer: ModelGraph, reads: tuple[Node, ...], first: str, second: str, parent: str
) -> None:
    # of a whole attention and a head, what that head writes
    written = second.rpartition("/")[2].partition("@")[0]
    reason = f", as {written} goes into both" if "attn" in first else ""
    with refuses(
        f"output/{first} and output/{second} claim the same edge into {parent} twice{reason}; join "
        "them into one node, or part them by into=, pos= or orthogonal subspaces"
    ):
        check_hypothesis(transformer, DATA, output(*reads), None)


@pytest.mark.parametrize(
    "reads",
    [
        [head10(), mlp(0, **F)],
        [head10(), head(0, 0, **F, via="any")],
        [head10(pos=3), head10(pos=2)],
        [head10(pos=slice(0, 2)), head10(pos=slice(2, None))],
        [head10(pos="later"), head10(pos="start")],  # never the same position on the same row
        [head10(pos="ends"), head10(pos="others")],
        [head10(subspace=ONE), head10(subspace=OTHER)],
        [attn(1, **F, subspace=ONE), head10(subspace=OTHER), attn(0, **F)],
        read_by_head(attn(0, **F, into="k"), head(0, 0, **F, into="v")),
        [head10(subspace=ONE, pos=0), head10(subspace=ACROSS, pos=1)],
        read_by_head(embed(**F, into="k"), embed(**F, into="q"), embed(**F, into="v", via="any")),
        read_by_head(mask(**F), embed(**F)),
        # The same component below two parents is two nodes.
        [head(1, 0, **F, reads=[embed(**F)]), head(1, 1, **F, reads=[embed(**F)]), embed(**F)],
    ],
)
def test_edges_that_are_told_apart(transformer: ModelGraph, reads: Any) -> None:
    check_hypothesis(transformer, DATA, output(*reads), None)


def test_functions_and_modules_are_told_apart_too(modules: ModelGraph) -> None:
    twice = "; join them into one node, or part them by into=, pos= or orthogonal subspaces"
    with refuses(f"output/C/A and output/C/A#2 claim the same edge into C twice{twice}"):
        reads = [module("A", **F), module("A", **F)]
        check_hypothesis(FUNCTIONS, NUMBERS, output(module("C", **F, reads=reads)), None)
    with refuses(f"output/a and output/a[C] claim the same edge into output twice{twice}"):
        reads = [module("a", **F, via="any"), module("a", **F, via="any", into="C")]
        check_hypothesis(FUNCTIONS, NUMBERS, output(*reads), None)
    check_hypothesis(
        FUNCTIONS, NUMBERS, output(*(module("a", **F, via="any", into=slot) for slot in "Cb")), None
    )
    # A direct child beside one along every path is another component.
    check_hypothesis(
        FUNCTIONS,
        NUMBERS,
        output(module("C", **F), module("b", **F), module("a", **F, via="any")),
        None,
    )
    with refuses(
        f"output/first and output/group(first+second) claim the same edge into output twice{twice}"
    ):
        check_hypothesis(
            modules, VECTORS, output(module("first", **F), group(["first", "second"], **F)), None
        )


# --- where nobody looks ---------------------------------------------------------------------------


def test_what_is_put_where_nobody_looks_is_refused(transformer: ModelGraph) -> None:
    with refuses(
        "output/head0.0@1: output is read at position 3 only, so swapping head0.0 at 1 would "
        "change nothing"
    ):
        check_hypothesis(transformer, DATA, output(head(0, 0, **F, pos=1)), 3)
    with refuses(
        "output/mlp1@0:2: output is read at position 2, 3 only, so swapping mlp1 at 0, 1 would "
        "change nothing"
    ):
        check_hypothesis(transformer, DATA, output(mlp(1, **F, pos=slice(0, 2))), slice(2, 4))
    with refuses(
        "output/head1.0@3/embed[q]@1: head1.0 is read at position 3 only, so swapping embed at 1 "
        "would change nothing"
    ):
        check_hypothesis(
            transformer,
            DATA,
            output(head(1, 0, **F, pos=3, reads=[embed(**F, into="q", pos=1)])),
            None,
        )
    with refuses(
        "output/mlp1/head1.0/embed[q]@0: head1.0 is read at position 3 only, so swapping embed at "
        "0 would change nothing"
    ):  # neither mlp1 nor head1.0 says where, but nothing else reads them
        inner = head(1, 0, **F, reads=[embed(**F, into="q", pos=0)])
        check_hypothesis(transformer, DATA, output(mlp(1, **F, reads=[inner])), 3)


@pytest.mark.parametrize(
    ("reads", "metric_pos"),
    [
        ([head(0, 0, **F, pos=1)], None),
        ([head(0, 0, **F, pos=1)], slice(1, 4)),
        ([head(0, 0, **F, pos=1, via="any")], 3),  # later layers carry it on
        # keys are read at every position
        ([head(1, 0, **F, pos=3, reads=[embed(**F, into="k", pos=1)])], 3),
        ([head(1, 0, **F, pos=3, reads=[embed(**F, pos=1)])], 3),
        ([head(1, 0, **F, pos=3, reads=[embed(**F, into="v", pos=1)])], 3),
        ([head(1, 0, **F, pos=3, reads=[mask(**F, pos=1)])], 3),  # a mask is of keys
        (
            [
                head(
                    1,
                    0,
                    **F,
                    reads=[head(0, 0, **F, into="k", reads=[embed(**F, into="q", pos=1)])],
                )
            ],
            3,
        ),
        # the layers after mlp1 carry it on
        ([mlp(1, **F, via="any", reads=[mlp(0, **F, pos=1)])], 3),
        ([head(0, 0, **F, pos="later")], 3),  # on some row
    ],
)
def test_what_somebody_may_look_at(
    transformer: ModelGraph, reads: list[Node], metric_pos: Any
) -> None:
    check_hypothesis(transformer, DATA, output(*reads), metric_pos)


def test_a_function_may_look_at_other_positions() -> None:
    graph = FunctionGraph(A=lambda a: a.cumsum(1), output=lambda A: A)
    claim = output(module("A", **F, pos=-1, reads=[module("a", **F, pos=0)]))
    metric = Metric("last", lambda out, batch: out, pos=-1)
    evaluator = Evaluator(graph, NUMBERS, claim, metric)
    swapped = evaluator.space.keep([evaluator.space.paths[-1]]).draw(8, np.random.default_rng(0))
    assert (evaluator.evaluate(swapped) != evaluator.unscrubbed(swapped.references)).any()


# --- the whole way --------------------------------------------------------------------------------


def test_a_checked_hypothesis_knows_its_positions(transformer: ModelGraph) -> None:
    checked = check_hypothesis(
        transformer, DATA, output(head(1, 0, **F, pos=1, reads=[embed(**F)])), 1
    )
    assert isinstance(checked, CheckedHypothesis)
    assert {
        path: positions and positions.index.tolist()
        for path, positions in checked.positions.items()
    } == {
        "output": [1],  # which the metric reads
        "output/head1.0@1": [1],
        "output/head1.0@1/embed": None,
    }


def evaluate(graph: ModelGraph, claim: Node, metric: Metric) -> None:
    evaluator = Evaluator(graph, DATA, claim, metric)
    evaluator.evaluate(evaluator.space.draw(64, np.random.default_rng(0)))


def test_an_error_has_the_line_of_its_node(transformer: ModelGraph) -> None:
    """Also one that only values show, and a traceback shows the line below the sentence."""
    unknown, typo = head(7, 0, **F), head(1, 0, agrees_on="g")
    far, short = (
        head(1, 0, **F, pos=9),
        head(1, 0, **F, computed_by=lambda f: torch.zeros(len(f), 3)),
    )
    unseen, uneven = head(0, 0, **F, pos=0), head(1, 0, agrees_on=ANYTHING, pos="ends")
    for node, pos in ((unknown, 3), (typo, 3), (far, 3), (short, 3), (unseen, 3), (uneven, None)):
        metric = Metric("mean", lambda out, batch: out.flatten(1).mean(1), pos=pos)
        with pytest.raises(ScrubError) as raised:
            evaluate(transformer, output(node), metric)
        assert node.place is not None
        assert raised.value.places == (node.place,)
        if sys.version_info >= (3, 11):
            assert f"said at {node.place}" in "".join(format_exception_only(raised.value))


def test_an_error_about_two_nodes_has_the_lines_of_both(transformer: ModelGraph) -> None:
    twice = [
        head10(),
        head(1, 0, **F),
    ]
    with pytest.raises(HypothesisError) as raised:
        check_hypothesis(transformer, DATA, output(*twice), None)
    assert raised.value.places == (twice[0].place, twice[1].place)
    with pytest.raises(HypothesisError) as raised:
        SwapSpace(output(mlp(0, **F, name="a"), mlp(1, **F, name="a", shares="b")), DATA)
    assert len(raised.value.places) == 1  # of the one that shares


def test_an_evaluator_checks_first(transformer: ModelGraph) -> None:
    with refuses("output/hed1.0: the network has no component 'hed1.0'; did you mean 'head1.0'?"):
        Evaluator(transformer, DATA, output(module("hed1.0", **F)))
    with refuses(
        "output/head1.0: the dataset has no feature 'g'; it has f, start, later, ends, others",
        DataError,
    ):
        Evaluator(transformer, DATA, output(head(1, 0, agrees_on="g")))


def test_a_metric_needs_a_floating_point_output() -> None:
    graph = FunctionGraph(output=lambda a: a.argmax(1))
    evaluator = Evaluator(
        graph, NUMBERS, output(module("a", **F)), Metric("mine", lambda out, batch: out)
    )
    sentence = (
        "a graph of functions returns int64 numbers; a metric needs floating-point outputs such "
        "as logits, so return those"
    )
    for evaluate in (
        lambda: evaluator.unscrubbed(np.arange(4)),
        lambda: evaluator.evaluate(evaluator.space.draw(2, np.random.default_rng(0))),
    ):
        with refuses(sentence, DataError):
            evaluate()


def test_labels_have_to_fit_the_output(transformer: ModelGraph) -> None:
    evaluator = Evaluator(transformer, DATA, output(head(1, 0, **F)))
    with refuses(
        "the metric cross_entropy needs one class index for each output it reads, [4, 4], but the "
        "labels are int64 [4]; say which output positions the labels speak of with label_pos= of "
        "the Dataset or pos= of the metric",
        DataError,
    ):
        evaluator.unscrubbed(np.arange(4))
    assert Evaluator(
        transformer, VECTORS_AS_TOKENS, output(head(1, 0, **F)), squared_error()
    ).unscrubbed(np.arange(4)).shape == (4,)


VECTORS_AS_TOKENS = Dataset(TOKENS, labels=torch.zeros(4, LENGTH, 5), features=COLUMNS)


@pytest.mark.parametrize("size", [0, -1, "x", True, 1.5])
def test_a_batch_of_no_size(size: Any) -> None:
    graph, data = FunctionGraph(output=lambda x: x), Dataset({"x": torch.ones(4, 2)})
    with pytest.raises(HypothesisError, match="batch_size= is a whole number of at least 1"):
        Evaluator(graph, data, output(), batch_size=size)


class Threshold(torch.nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x > 0).to(self.dtype)


class Read(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


@pytest.mark.parametrize(
    ("dtype", "part"),
    [
        (torch.bool, {"pos": 0}),
        (torch.bool, {"subspace": torch.eye(2)}),
        (torch.int64, {"subspace": torch.eye(2)}),
    ],
)
def test_a_part_of_an_activation_that_is_no_number(
    dtype: torch.dtype, part: dict[str, Any]
) -> None:
    """A projection of whole numbers would be rounded to none, and swap nothing."""
    graph = ModuleGraph(torch.nn.Sequential(Threshold(dtype), Read()))
    data = Dataset(torch.randn(8, 2), labels=torch.zeros(8, 2), features={"a": range(8)})
    with pytest.raises(HypothesisError, match=rf"output/0.*: {next(iter(part))}= names a part"):
        Evaluator(graph, data, output(module("0", agrees_on="a", **part)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_module_is_refused() -> None:
    inner = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
    for scripted in (torch.jit.script(inner), torch.jit.freeze(torch.jit.script(inner.eval()))):
        with pytest.raises(ModelError, match=r"the model was compiled by torch.jit"):
            ModuleGraph(scripted)
    with pytest.raises(ModelError, match=r"the module '0' was compiled by torch.jit"):
        ModuleGraph(torch.nn.Sequential(torch.jit.script(inner)))
