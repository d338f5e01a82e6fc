"""`stream(layer)`: is it all that was added before, and what a slot reads?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import ANYTHING, attn, embed, group, head, mlp, output, pattern, stream
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.power.mutants import mutants
from pytest_scrub.tree.nodes import Node
from tests.network.kinds.conftest import HEADS, LAYERS, SOME, F, Same, Small, many_rows
from tests.sizes import few_in_quick


def before(small: Small, layer: int) -> list[Node]:
    """Everything that was added to the stream."""
    found = [name for name in ("embed", "pos_embed") if name in small.graph.components]
    nodes = [Node((name,), None) for name in found]
    for below in range(layer):
        nodes += [head(below, nth) for nth in range(HEADS)] + [mlp(below)]
    return nodes


@few_in_quick(24)
@pytest.mark.parametrize("layer", range(LAYERS + 1))
@pytest.mark.parametrize("way", [{}, {"pos": -1}, {"pos": "where"}, {"pos": slice(1, 3)}], ids=str)
def test_it_is_the_group_of_all_before(
    small: Small, layer: int, way: dict[str, Any], same: Same, donors: dict[str, Any]
) -> None:
    claim = {**F, **way, "name": "it"}
    one = small.outputs(output(stream(layer, **claim)), donors)
    same(one, small.outputs(output(group(before(small, layer), **claim)), donors))
    still = dict.fromkeys(donors, np.arange(len(small.data)))
    assert not torch.allclose(one, small.outputs(output(stream(layer, **claim)), still))


def test_in_a_subspace_it_is_the_group_where_nothing_is_normalised_between(
    small: Small, same: Same, donors: dict[str, Any]
) -> None:
    if small.kind == "post-norm":
        pytest.skip("a subspace is one of what a block adds before its norm")
    claim = {**F, "subspace": SOME, "name": "it"}
    one = small.outputs(output(stream(2, **claim)), donors)
    same(one, small.outputs(output(group(before(small, 2), **claim)), donors))


def test_along_every_path_the_first_one_is_all_embeddings(
    small: Small, same: Same, donors: dict[str, Any]
) -> None:
    claim = {**F, "via": "any", "name": "it"}
    embeddings = group(before(small, 0), **claim)
    same(
        small.outputs(output(stream(0, **claim)), donors),
        small.outputs(output(embeddings), donors),
    )


@pytest.mark.parametrize("layer", range(1, LAYERS + 1))
def test_along_every_path_what_follows_is_the_donors(
    small: Small, layer: int, donors: dict[str, Any]
) -> None:
    """Where its rest has the same keys hidden, the output is the donor's own."""
    visible = small.data.inputs["attention_mask"]
    root = output(stream(layer, **F, via="any", name="it"))
    out = small.outputs(root, donors)
    clean = small.clean()[donors["it"]]
    alike = (visible[donors["rest"]] == visible[donors["it"]]).all(1)
    assert alike.any()
    torch.testing.assert_close(
        out[alike], clean[alike], rtol=0, atol=1e-9 * float(clean.abs().max())
    )


@pytest.mark.parametrize("via", ["direct", "any"])
def test_into_all_slots_of_a_head_it_is_all_that_the_head_reads(
    small: Small, via: str, same: Same, donors: dict[str, Any]
) -> None:
    moved = {slot: stream(1, **F, into=slot, via=via, name="moves") for slot in "qkv"}
    apart = output(head(1, 0, **F, name="it", reads=list(moved.values())))
    at_once = output(head(1, 0, **F, name="it", reads=[stream(1, **F, via=via, name="moves")]))
    same(small.outputs(apart, donors), small.outputs(at_once, donors))
    leaf = {**donors, "rest": donors["rest"], "it": donors["moves"]}
    alike = small.data.inputs["attention_mask"]
    rows = (alike[donors["rest"]] == alike[donors["moves"]]).all(1)
    one = small.outputs(at_once, {**donors, "it": donors["moves"]})
    other = small.outputs(output(head(1, 0, **F, name="it")), leaf)
    same(one[rows], other[rows])


def test_what_it_reads_is_added_to_it(small: Small, same: Same, donors: dict[str, Any]) -> None:
    """All else that it reads is its rest's, as is all that its parent does not read of it."""
    one = output(stream(3, **F, name="it", reads=[embed(**F, name="below")]))
    same(small.outputs(one, donors), small.outputs(output(embed(**F, name="below")), donors))


@few_in_quick(1)
@pytest.mark.parametrize("via", ["direct", "any"])
def test_a_false_claim_is_refuted_and_a_true_one_is_not(via: str) -> None:
    many = many_rows()

    def outcome(on: str) -> str:
        return many.outcome(output(stream(1, agrees_on=on, via=via), rest="first two"))

    assert {on: outcome(on) for on in many.data.feature_names} == {
        "first": "refuted",
        "second": "refuted",
        "first two": "held",
    }


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (
            output(head(1, 0, **F, reads=[stream(2, **F, into="v")])),
            "head1.0 cannot read stream2, which is not computed before it",
        ),
        (
            output(stream(4, **F)),
            "output/stream4: the network has no component 'stream4'; it has stream0 to stream",
        ),
        (output(stream(2, **F), head(1, 0, **F)), "claim the same edge into output twice"),
        (output(stream(2, **F), stream(1, **F)), "claim the same edge into output twice"),
        (output(stream(1, **F), embed(**F)), "claim the same edge into output twice"),
        (
            output(group([stream(1), attn(0)], **F)),
            "attn0 and stream1 are one group, but both hold head0.0; leave one of them out",
        ),
        (
            output(head(2, 0, **F, reads=[stream(1, **F, via="any", into="mask")])),
            "head2.0 reads stream1 into q, k or v, not into='mask'",
        ),
    ],
    ids=str,
)
def test_what_is_misstated_is_said_in_a_sentence(native: Small, root: Node, said: str) -> None:
    assert said in native.refused(root)


def test_a_mutant_of_it_is_the_stream_of_another_layer(native: Small) -> None:
    root = output(stream(1, agrees_on="first"), mlp(2, agrees_on=ANYTHING))
    made = mutants(native.graph, native.data, root, None, np.random.default_rng(0), 200).mutants
    kin = {
        child.component
        for one in made if one.kind == "component" for child in one.hypothesis.reads
        if child.component.startswith("stream")
    }  # fmt: skip
    assert kin == {"stream0", "stream1", "stream2"}  # the last would hold mlp2


def test_pictures_show_its_level_where_a_claim_names_it(native: Small) -> None:
    drawn = circuit_of(output(stream(1, **F), stream(3, **F)), native.graph)
    assert [drawn.levels[node.level] for node in drawn.nodes[1:]] == [
        "stream before layer 1",
        "stream after all layers",
    ]
    assert drawn.levels.index("MLP 0") + 1 == drawn.levels.index("stream before layer 1")
    without = circuit_of(output(head(1, 0, **F, reads=[pattern(1, 0, **F)])), native.graph)
    assert not [level for level in without.levels if "stream" in level]
