"""Units of a place, as neurons: are all of them the MLP, and is a false claim on some refuted?"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    attn,
    embed,
    group,
    head,
    mlp,
    neurons,
    output,
    stream,
)  # fmt: skip
from pytest_scrub.engine.checks import check_hypothesis
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.explain import explain
from pytest_scrub.errors import ModelError
from pytest_scrub.network import ResidualGraph, as_graph
from pytest_scrub.network.graph import Site
from pytest_scrub.power.mutants import mutants
from pytest_scrub.tree.nodes import Node
from tests.network.kinds.conftest import (
    CHANGE,
    LENGTH,
    OUTPUT,
    SOME,
    F,
    Many,
    Same,
    Small,
    many_rows,
    small_of,
)
from tests.reference.generate import Architecture, build
from tests.sizes import few_in_quick

SILENT = 5  # a unit
WAYS: list[dict[str, Any]] = [
    {},
    {"pos": -1},
    {"pos": "where"},
    {"subspace": SOME},
    {"via": "any"},
    {"via": "any", "pos": slice(1, 3), "subspace": SOME},
]


def above(into: str | None, *nodes: Node) -> Node:
    """Read by a head of the last layer, or by the output."""
    return output(
        head(2, 1, **F, name="above", reads=nodes) if into else nodes[0],
        *nodes[1:] if not into else (),
    )


@few_in_quick(16)
@pytest.mark.parametrize("into", [None, "k"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_all_of_them_are_the_mlp(
    small: Small, way: dict[str, Any], into: str | None, same: Same, donors: dict[str, Any]
) -> None:
    claim = {**F, **way, "into": into, "name": "it"}
    whole = small.outputs(above(into, mlp(1, **claim)), donors)
    same(small.outputs(above(into, neurons(1, slice(None), **claim)), donors), whole)
    same(small.outputs(above(into, neurons(1, range(small.units), **claim)), donors), whole)
    still = dict.fromkeys(donors, np.arange(len(small.data)))
    assert not torch.allclose(whole, small.outputs(above(into, mlp(1, **claim)), still))


@few_in_quick(8)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_two_halves_with_one_donor_are_the_mlp(
    small: Small, way: dict[str, Any], same: Same, donors: dict[str, Any]
) -> None:
    """Each changes the MLP by what it adds itself, be it alone, beside the other or in a group."""
    claim = {**F, **way, "name": "it"}
    even, odd = neurons(1, slice(0, None, 2), **claim), neurons(1, slice(1, None, 2), **claim)
    together = group([neurons(1, slice(0, None, 2)), neurons(1, slice(1, None, 2))], **claim)
    whole = small.outputs(output(mlp(1, **claim)), donors)
    shared = {**donors, "it#2": donors["it"]}
    same(small.outputs(output(even, odd), shared), whole)
    same(small.outputs(output(together), donors), whole)
    assert not torch.allclose(small.outputs(output(even), donors), whole)


@pytest.mark.parametrize("via", ["direct", "any"])
def test_what_they_read_the_mlp_reads(
    small: Small, via: str, same: Same, donors: dict[str, Any]
) -> None:
    below = embed(**F, via=via, name="below")
    one, other = (
        output(make(**F, name="it", reads=[below]))
        for make in (
            lambda **claim: mlp(1, **claim),
            lambda **claim: neurons(1, slice(None), **claim),
        )
    )
    same(small.outputs(one, donors), small.outputs(other, donors))


def test_beside_what_moved_them_they_are_the_donors(
    small: Small, same: Same, donors: dict[str, Any]
) -> None:
    """Along every path what is replaced is the unit as it is in that run: another donor's embedding
    has moved it already, and is undone where all units are the donor's."""
    moved = embed(**F, via="any", name="other")
    one, other = (
        output(moved, unit(1, name="it", via="any", **F))
        for unit in (mlp, lambda layer, **claim: neurons(layer, slice(None), **claim))
    )
    same(small.outputs(one, donors), small.outputs(other, donors))


# --- claims ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained() -> Iterator[Many]:
    """A network whose MLP has a unit that is always silent, and many rows."""
    many = many_rows(act="relu", seed=3)
    bias = many.bridge.blocks[0].mlp._modules["in"].original_component.bias.data
    bias[SILENT] = -1e3
    yield many
    bias[SILENT] = 0.1


@few_in_quick(1)
@pytest.mark.parametrize("via", ["direct", "any"])
def test_a_false_claim_is_refuted_and_a_true_one_is_not(trained: Many, via: str) -> None:
    def outcome(on: str) -> str:
        some = neurons(0, [0, 1, 2, 3, 4, 7, 9], agrees_on=on, via=via)
        return trained.outcome(output(some, rest="first two"))

    assert {on: outcome(on) for on in trained.data.feature_names} == {
        "first": "refuted",
        "second": "refuted",
        "first two": "held",
    }


def test_a_claim_about_a_unit_that_never_fires_tests_nothing(trained: Many) -> None:
    site, rows = Site("z", ("neurons0[0:8]",)), trained.data.batch(range(100))
    (codes,) = as_graph(trained.bridge).capture([site], rows).values()
    moves = codes[:, 1].std(0) > 1e-3
    assert not moves[SILENT]
    assert moves.any()

    def outcome(unit: int) -> str:
        return trained.outcome(output(neurons(0, unit, agrees_on=ANYTHING), rest=EXACT))

    assert outcome(SILENT) == "untested"
    assert outcome(int(moves.nonzero()[0])) == "refuted"


def test_mutants_are_as_many_other_units(trained: Many) -> None:
    graph = as_graph(trained.bridge)
    root = output(
        neurons(0, [1, 2, 3], agrees_on="first"), neurons(0, range(6, 9), agrees_on="second")
    )
    made = mutants(graph, trained.data, root, None, np.random.default_rng(0)).mutants
    new = [
        graph.parts[child.component].units.tolist()
        for one in made if one.kind == "component" and one.node.endswith("[1:4]")
        for child in one.hypothesis.reads if child.agrees_on == root.reads[0].agrees_on
    ]  # fmt: skip
    assert len(new) == 3
    for units in new:
        assert len(units) == 3
        assert not {*units} & {1, 2, 3, 6, 7, 8}


# --- what is asked and said -----------------------------------------------------------------------


def test_what_claims_an_edge_twice_is_refused(native: Small) -> None:
    some = neurons(1, [0, 2, 5], **F)
    twice = "claim the same edge into output twice"
    assert twice in native.refused(output(some, mlp(1, **F)))
    assert twice in native.refused(output(some, neurons(1, slice(2, None), **F)))
    assert twice in native.refused(output(some, stream(2, **F)))
    both = output(group([mlp(1), neurons(1, [0, 2, 5])], **F))
    assert "neurons1[0,2,5] are one group, but both hold mlp1" in native.refused(both)
    overlapping = output(group([neurons(1, [0, 2]), neurons(1, slice(2, None))], **F))
    assert "are one group, but both hold neurons1[2]" in native.refused(overlapping)
    for apart in (
        neurons(1, [1, 3], **F),
        neurons(0, [0, 2, 5], **F),
        stream(1, **F),
        attn(1, **F),
    ):
        check_hypothesis(native.graph, native.data, output(some, apart), None)


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (neurons(1, 16, **F), "output/neurons1[16]: neurons1 has 16 units, 0 to 15, not 16"),
        (neurons(1, [3, 99], **F), "output/neurons1[3,99]: neurons1 has 16 units, 0 to 15, not 99"),
        (neurons(1, slice(16, None), **F), "neurons1 has 16 units, 0 to 15, none of these"),
        (
            neurons(3, 0, **F),
            "the network has no component 'neurons3'; it has neurons0 to neurons2",
        ),
        (
            head(1, 0, **F, reads=[neurons(1, 0, **F)]),
            "output/head1.0/neurons1[0]: head1.0 cannot read neurons1[0], which is not computed "
            "before it",
        ),
    ],
    ids=lambda given: given.component if isinstance(given, Node) else "",
)
def test_unknown_units_are_said_with_the_nearest(native: Small, node: Node, said: str) -> None:
    assert said in native.refused(output(node))


def test_a_network_without_mlps_says_so(native: Small) -> None:
    small = small_of("attention", Architecture(attn_only=True, d_head=4))
    said = small.refused(output(neurons(0, 0, **F)))
    assert said == "output/neurons0[0]: the network has no component 'neurons0'; it has none"


def test_an_mlp_that_ends_in_no_known_matrix_has_none(native: Small) -> None:
    graph: Any = native.graph
    parts = copy.copy(graph.transformer)
    parts.mlps = tuple(replace(one, hidden=None, W_out=None) for one in parts.mlps)
    root = output(neurons(0, 0, **F))
    with pytest.raises(ModelError) as error:
        check_hypothesis(ResidualGraph(parts), native.data, root, None)
    assert str(error.value) == (
        "mlp0 of TransformerBridge (native) does not end in one known matrix, as experts and "
        "packed layers do not, so it has no neurons0; claim mlp0 as a whole"
    )


@pytest.mark.parametrize("wrong", ["rows", "hidden"])
def test_units_that_are_not_the_networks_own_are_refused(native: Small, wrong: str) -> None:
    """Rows that are not those that the network multiplies with, and other hidden units."""
    graph: Any = native.graph
    parts = copy.copy(graph.transformer)

    def spoilt(one: Any) -> Any:
        if wrong == "rows":
            return replace(one, W_out=one.W_out.roll(1, 0))
        return replace(one, hidden=lambda x: one.hidden(x).roll(1, -1))

    parts.mlps = tuple(map(spoilt, parts.mlps))
    whole = Evaluator(ResidualGraph(parts), native.data, output(mlp(0, **F)), OUTPUT)
    whole.evaluate(whole.space.draw(2, np.random.default_rng(0)))
    evaluator = Evaluator(ResidualGraph(parts), native.data, output(neurons(0, 0, **F)), OUTPUT)
    with pytest.raises(ModelError, match=r"the hidden units of mlp0 are off by .* claim mlp0 as a"):
        evaluator.evaluate(evaluator.space.draw(2, np.random.default_rng(0)))


def test_they_are_drawn_with_their_mlp_and_explained_as_they_are(native: Small) -> None:
    root = output(neurons(1, [0, 2], **F), mlp(0, **F))
    drawn = circuit_of(root, native.graph)
    assert [drawn.levels[node.level] for node in drawn.nodes] == ["output", "MLP 1", "MLP 0"]
    assert drawn.nodes[1].components == ("neurons1[0,2]",)
    told = explain(Evaluator(native.graph, native.data, root))
    assert "z of neurons1[0,2]" in told.cached  # two numbers for each position


def test_sixteen_thousand_units_are_one_node() -> None:
    """No object, no text and no copy of weights for each of them."""
    small = build(Architecture(n_layers=2, n_ctx=LENGTH, attn_only=False, d_model=512, norm="LN"))
    width = small.hidden_units
    tokens = torch.randint(5, (6, LENGTH), generator=torch.Generator().manual_seed(0))
    data = Dataset(tokens, labels=tokens[:, 0], features={"first": tokens[:, 0]})
    graph = as_graph(small.bridge)
    halves = [neurons(1, slice(0, width, 2), **F), neurons(1, slice(1, width, 2), **F)]
    began = time.perf_counter()
    evaluator = Evaluator(graph, data, output(*halves), CHANGE)
    evaluator.evaluate(evaluator.space.draw(5, np.random.default_rng(0)))
    assert time.perf_counter() - began < 20
    assert [len(slot.path) < 40 for slot in evaluator.space.slots] == [True] * 3
    part = graph.parts[neurons(1, slice(None)).component]
    assert part.output_weights.data_ptr() == graph.transformer.mlps[1].W_out.data_ptr()
