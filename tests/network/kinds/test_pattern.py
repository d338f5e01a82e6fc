"""`pattern(layer, head)`: with the values it is the head, its head alone reads it, and nothing of
the carrier's queries, keys or mask leaks into it."""

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
    attn,
    embed,
    group,
    head,
    mask,
    output,
    pattern,
    stream,
)  # fmt: skip
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.network.graph import Site
from pytest_scrub.power.mutants import mutants
from pytest_scrub.tree.nodes import Node
from tests.network.kinds.conftest import (
    HEADS,
    LENGTH,
    OUTPUT,
    ROWS,
    F,
    Same,
    Small,
    many_rows,
)  # fmt: skip


def of_head(*more: Node, nth: int = 1, **way: Any) -> Node:
    """A head with its pattern, and its values."""
    looks = pattern(1, nth, **F, name="looks", **way)
    return output(head(1, nth, **F, name="it", reads=[looks, *more]))


@pytest.mark.parametrize("nth", range(HEADS))
def test_with_the_values_it_is_the_head(
    small: Small, nth: int, same: Same, donors: dict[str, Any]
) -> None:
    """Whatever the rest of the head is, its mask and its length too."""
    both = of_head(stream(1, **F, into="v", name="moves"), nth=nth)
    one = {**donors, "looks": donors["it"], "moves": donors["it"]}
    leaf = small.outputs(output(head(1, nth, **F, name="it")), donors)
    other = {**one, "rest": donors["rest"]}
    # the head's own rest is another slot of the same name: all rests take one row here
    same(small.outputs(both, other), leaf)


def test_nothing_of_the_mask_of_the_carrier_leaks(small: Small, donors: dict[str, Any]) -> None:
    """The carrier hides a key at which the donor looks: what the head adds is the donor's
    probabilities times the carrier's values, computed here by hand."""
    graph: Any = small.graph
    visible = small.data.inputs["attention_mask"]
    hidden, whole = np.flatnonzero(visible[:, -1] == 0), np.flatnonzero(visible[:, -1] == 1)
    rows = {**donors, "looks": np.resize(whole, ROWS), "rest": np.resize(hidden, ROWS)}
    found = small.outputs(of_head(), rows)
    sites = [Site("pattern", ("pattern1.1",)), Site("v", ("head1.1",))]
    seen = graph.capture(sites, small.data.batch(range(ROWS)))
    mixed = seen[sites[0]][rows["looks"]] @ seen[sites[1]][rows["rest"]]
    assert float(seen[sites[0]][rows["looks"]][:, -1, -1].abs().min()) > 0  # it does look there
    own = graph.capture([Site("z", ("head1.1",))], small.data.batch(range(ROWS)))
    (z,) = own.values()
    change = (mixed - z[rows["rest"]]) @ graph.parts["head1.1"].output_weights
    layer = graph.transformer
    seen = layer.capture(small.data.batch(rows["rest"]), ["attn_out.1", f"resid_post.{2}"])
    after = layer.attention[1].after
    if after is not None:
        before = seen["attn_out.1"]
        change = after(before + change) - after(before)
    expected = layer.unembed(layer.final_norm(seen["resid_post.2"] + change))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def test_no_query_sees_what_comes_after_it(small: Small) -> None:
    site = Site("pattern", ("pattern1.1",))
    (found,) = small.graph.capture([site], small.data.batch(range(ROWS))).values()
    assert not found.triu(1).any()
    torch.testing.assert_close(found.sum(-1), torch.ones(ROWS, LENGTH, dtype=torch.float64))
    hidden = small.data.inputs["attention_mask"] == 0
    assert not found[hidden.nonzero()[:, 0], :-1, -1].any()


@pytest.mark.parametrize("pos", [-1, slice(1, 3), slice(0, 1)], ids=str)
def test_at_some_queries_it_is_the_whole_where_these_are_read(
    small: Small, pos: Any, same: Same, donors: dict[str, Any]
) -> None:
    def tree(way: dict[str, Any]) -> Node:
        looks = pattern(1, 0, **F, name="looks", **way)
        return output(head(1, 0, **F, name="it", pos=pos, reads=[looks]))

    same(small.outputs(tree({"pos": pos}), donors), small.outputs(tree({}), donors))
    everywhere = output(
        head(1, 0, **F, name="it", reads=[pattern(1, 0, **F, name="looks", pos=pos)])
    )
    same(small.outputs(everywhere, donors), small.outputs(tree({}), donors))


def test_with_a_donor_for_each_query_it_is_as_many_leaves(small: Small, same: Same) -> None:
    def under_its_head(*looks: Node) -> Evaluator:
        root = output(head(1, 1, agrees_on=ANYTHING, reads=looks))
        return Evaluator(small.graph, small.data, root, OUTPUT)

    each = under_its_head(pattern(1, 1, agrees_on=ANYTHING, pos=EACH))
    leaves = under_its_head(
        *(pattern(1, 1, agrees_on=ANYTHING, pos=at, name=f"{at}") for at in range(LENGTH))
    )
    drawn = each.space.draw(ROWS, np.random.default_rng(0))
    alike = leaves.space.swap_set(drawn.references, drawn.donors)
    found = each.outputs(drawn).double()
    same(found, leaves.outputs(alike).double())
    # each query looks where its own donor's does
    turned = drawn.donors.copy()
    turned[-LENGTH:] = turned[: -LENGTH - 1 : -1]
    other = leaves.space.swap_set(drawn.references, turned)
    assert not torch.allclose(found, leaves.outputs(other).double())


@pytest.mark.parametrize("via", ["direct", "any"])
def test_what_it_reads_its_head_reads_into_queries_keys_and_mask(
    small: Small, via: str, same: Same, donors: dict[str, Any]
) -> None:
    below = [embed(**F, into=slot, via=via, name="below") for slot in "qk"]
    hidden = mask(**F, name="other")
    root = output(head(1, 1, **F, name="it", reads=[*below, hidden]))
    inside = pattern(1, 1, **F, name="looks", reads=[*below, hidden])
    nested = output(head(1, 1, **F, name="it", reads=[inside]))
    same(small.outputs(nested, donors), small.outputs(root, donors))
    at_once = embed(**F, via=via, name="below")
    nested = output(
        head(
            1, 1, **F, name="it", reads=[pattern(1, 1, **F, name="looks", reads=[at_once, hidden])]
        )
    )
    same(small.outputs(nested, donors), small.outputs(root, donors))


def test_a_function_may_say_where_a_head_looks(
    small: Small, same: Same, donors: dict[str, Any]
) -> None:
    """At the key before each query, whatever the input: a shift of the values."""
    previous = torch.eye(LENGTH).roll(-1, 1).tril() + torch.eye(LENGTH)[:1].T * torch.eye(LENGTH)[0]

    def shift(first: Any) -> Tensor:
        return previous.expand(len(first), LENGTH, LENGTH)

    looks = pattern(1, 0, **F, name="looks", computed_by=shift)
    said = output(head(1, 0, **F, name="it", reads=[looks]))
    graph: Any = small.graph
    site = Site("v", ("head1.0",))
    (v,) = graph.capture([site], small.data.batch(donors["rest"])).values()
    (z,) = graph.capture([Site("z", ("head1.0",))], small.data.batch(donors["rest"])).values()
    if graph.transformer.attention[1].after is not None:
        pytest.skip("what it adds is normalised")
    change = (previous.to(v.dtype) @ v - z) @ graph.parts["head1.0"].output_weights
    seen = graph.transformer.capture(small.data.batch(donors["rest"]), ["resid_post.2"])
    expected = graph.transformer.unembed(
        graph.transformer.final_norm(seen["resid_post.2"] + change)
    )
    same(small.outputs(said, donors), expected)


def test_a_false_claim_is_refuted_and_a_true_one_is_not() -> None:
    """At position 1 a pattern depends on the first two tokens, and no fewer."""
    many = many_rows(d_head=4)

    def outcome(on: str, moves: str) -> str:
        reads = [pattern(1, 0, agrees_on=on), stream(1, into="v", agrees_on=moves)]
        return many.outcome(
            output(head(1, 0, agrees_on="first two", reads=reads), rest="first two")
        )

    assert outcome("first two", "first two") == "held"
    assert outcome("first", "first two") == "refuted"
    assert outcome("first two", "second") == "refuted"


READS_TWICE = (
    "output/head1.0/pattern1.0 is read in place of {what} of head1.0, into which "
    "output/head1.0/{other} goes; {remedy} under output/head1.0/pattern1.0"
)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            stream(1, **F),
            READS_TWICE.format(what="k and q", other="stream1", remedy="say into='v', or put it"),
        ),
        (
            embed(**F, into="q", via="any"),
            READS_TWICE.format(what="q", other="embed[q]", remedy="put it"),
        ),
        (mask(**F), READS_TWICE.format(what="mask", other="mask", remedy="put it")),
        (
            pattern(1, 0, **F, name="again"),
            "output/head1.0/pattern1.0 and output/head1.0/again claim the same edge into head1.0 "
            "twice",
        ),
        (
            pattern(1, 1, **F),
            "head1.0 cannot read pattern1.1: only head1.1 reads it, directly; put it under that "
            "head, without via=",
        ),
    ],
    ids=lambda given: given.label if isinstance(given, Node) else "",
)
def test_beside_what_it_stands_for_it_is_refused(native: Small, other: Node, said: str) -> None:
    root = output(head(1, 0, **F, reads=[pattern(1, 0, **F), other]))
    assert said in native.refused(root)


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (output(pattern(1, 0, **F)), "output cannot read pattern1.0: only head1.0 reads it"),
        (output(pattern(1, 0, **F, via="any")), "output cannot read pattern1.0: only head1.0"),
        (
            output(attn(1, **F, reads=[pattern(1, 0, **F)])),
            "attn1 cannot read pattern1.0: only head1.0 reads it",
        ),
        (
            output(head(2, 0, **F, reads=[pattern(1, 0, **F)])),
            "head2.0 cannot read pattern1.0: only head1.0 reads it",
        ),
        (
            output(head(1, 0, **F, reads=[pattern(1, 0, **F, pos="where")])),
            "pos= of a pattern means the same queries for all inputs, not those of column 'where'; "
            "give an int or a slice",
        ),
        (
            output(head(1, 0, **F, reads=[pattern(1, 0, **F, subspace=np.eye(LENGTH)[:, :1])])),
            "a pattern is one probability for each key, so it has no subspace=; leave it out",
        ),
        (
            output(head(1, 0, **F, reads=[pattern(1, 0, **F, reads=[embed(**F, into="v")])])),
            "pattern1.0 reads embed into q or k, not into='v'",
        ),
        (
            output(head(1, 0, **F, reads=[pattern(1, 0, **F, pos=EACH(with_shift=True))])),
            "a query at another position sees other keys, so where it looks means nothing here; "
            "give a pattern pos=EACH without with_shift=",
        ),
        (
            output(head(1, 0, **F, reads=[pattern(1, 7, **F)])),
            "the network has no component 'pattern1.7'; it has pattern1.0 to pattern1.",
        ),
    ],
    ids=str,
)
def test_what_is_misstated_is_said_in_a_sentence(native: Small, root: Node, said: str) -> None:
    assert said in native.refused(root)


def test_a_mutant_of_a_head_with_its_pattern_is_another_with_its_own(native: Small) -> None:
    reads = [pattern(1, 0, agrees_on="first"), stream(1, into="v", agrees_on=ANYTHING)]
    root = output(head(1, 0, agrees_on=EXACT, reads=reads))
    made = mutants(native.graph, native.data, root, None, np.random.default_rng(0), 200).mutants
    swapped = [one.hypothesis.reads[0] for one in made if one.kind == "component"]
    others = [node for node in swapped if node.component != "head1.0"]
    assert "head1.1" in {node.component for node in others}
    for node in others:
        assert node.component.replace("head", "pattern") in {c.component for c in node.reads}


def test_it_is_drawn_with_its_head(native: Small) -> None:
    drawn = circuit_of(of_head(stream(1, **F, into="v")), native.graph)
    levels = {node.components[0]: drawn.levels[node.level] for node in drawn.nodes}
    assert levels["pattern1.1"] == levels["head1.1"] == "attention 1"
    assert group([head(1, 0), head(1, 1)], **F).label == "group(head1.0+head1.1)"
