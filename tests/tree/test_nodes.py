"""Hypothesis trees: what the constructors make, which claims are refused and how, printing,
equality."""

from __future__ import annotations

import re
from dataclasses import FrozenInstanceError, replace
from fnmatch import fnmatchcase
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pytest_scrub.errors import HypothesisError, Place
from pytest_scrub.tree.nodes import (
    ANYTHING,
    EXACT,
    Agreement,
    Node,
    NodeOptions,
    Span,
    Subspace,
    attn,
    embed,
    group,
    head,
    is_head,
    mask,
    mlp,
    module,
    natural_key,
    output,
    pos_embed,
)

F = Agreement(("f",))


def refuses(sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(HypothesisError, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


# --- constructors ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("node", "components"),
    [
        (head(1, 0), ("head1.0",)),
        (attn(2), ("attn2",)),
        (mlp(2), ("mlp2",)),
        (embed(), ("embed",)),
        (pos_embed(), ("pos_embed",)),
        (mask(), ("mask",)),
        (module("layer.0.relu"), ("layer.0.relu",)),
        (output(), ("output",)),
        (group([head(10, 0), "head2.1", "embed"]), ("embed", "head2.1", "head10.0")),
        (group([group(["a", "c"]), "b"]), ("a", "b", "c")),
        (group("a"), ("a",)),
        (group(head(1, 1)), ("head1.1",)),
    ],
)
def test_a_constructor_names_its_components(node: Node, components: tuple[str, ...]) -> None:
    assert node == Node(components, None)


def test_every_option_of_a_claim_is_kept() -> None:
    basis = np.eye(4)[:, :2]
    child = embed(agrees_on=EXACT)

    def compute(value: Any) -> Any:
        return value

    assert head(
        1,
        0,
        agrees_on=["g", "f", "g"],
        reads=[child],
        into="k",
        pos=slice(1, 4),
        subspace=basis,
        via="any",
        rest=["h"],
        shares="other",
        name="mine",
    ) == Node(
        ("head1.0",),
        Agreement(("f", "g")),
        (child,),
        into="k",
        pos=Span(1, 4, None),
        subspace=Subspace(basis),
        via="any",
        rest=Agreement(("h",)),
        shares="other",
        name="mine",
    )
    assert mlp(0, agrees_on="f", computed_by=compute) == Node(("mlp0",), F, computed_by=compute)


@pytest.mark.parametrize(
    ("given_", "meant"),
    [
        ("f", F),
        (["f"], F),
        (("g", "f"), Agreement(("f", "g"))),
        ({"g", "f"}, Agreement(("f", "g"))),
        (EXACT, EXACT),
        (ANYTHING, ANYTHING),
        (None, None),
    ],
)
def test_features_are_a_sorted_set(given_: Any, meant: Agreement | None) -> None:
    assert head(0, 0, agrees_on=given_).agrees_on == meant
    assert output(agrees_on=given_).agrees_on == meant


def test_reads_may_be_one_node() -> None:
    child = embed(agrees_on="f")
    assert head(0, 0, agrees_on="f", reads=child) == head(0, 0, agrees_on="f", reads=[child])


def test_a_rest_is_what_makes_a_non_leaf() -> None:
    leaf, non_leaf = (
        head(0, 0, agrees_on="f"),
        head(0, 0, agrees_on="f", reads=[embed(agrees_on="f")]),
    )
    assert (leaf.rest, leaf.is_leaf) == (None, True)
    assert (non_leaf.rest, non_leaf.is_leaf) == (ANYTHING, False)
    assert (output().is_leaf, output(leaf).is_leaf, output(leaf, rest=EXACT).rest) == (
        True,
        False,
        EXACT,
    )


def test_agreements_are_joined_by_or() -> None:
    g = Agreement(("g",))
    assert F | g == g | F == Agreement(("f", "g"))
    assert F | F == F | ANYTHING == ANYTHING | F == F
    assert F | EXACT == EXACT | F == EXACT | ANYTHING == EXACT
    assert [str(a) for a in (F | g, EXACT, ANYTHING)] == ["f and g", "EXACT", "ANYTHING"]


@pytest.mark.parametrize(
    ("pos", "label"),
    [
        (3, "head0.0@3"),
        (-1, "head0.0@-1"),
        ("where", "head0.0@where"),
        (slice(1, 4), "head0.0@1:4"),
        (slice(None, -1), "head0.0@:-1"),
        (slice(2, None, 3), "head0.0@2::3"),
        (None, "head0.0"),
    ],
)
def test_positions_stand_in_the_label(pos: Any, label: str) -> None:
    node = head(0, 0, agrees_on="f", pos=pos)
    assert node.label == label
    assert replace(node, into="k").label == label.replace("head0.0", "head0.0[k]")
    if isinstance(pos, slice):
        assert isinstance(node.pos, Span)
        assert node.pos.slice == pos


def test_a_name_replaces_the_component_in_the_label() -> None:
    assert head(1, 0, agrees_on="f", name="counts", into="q", pos=0).label == "counts[q]@0"
    assert group(["b", "a"], agrees_on="f").label == "group(a+b)"


def test_heads_are_recognised_and_sorted_by_number() -> None:
    assert [
        is_head(name) for name in ("head1.0", "head10.12", "head1", "xhead1.0", "head1.0x", "mlp1")
    ] == [
        *(True, True),
        *(False,) * 4,
    ]
    names = ["mlp10", "head10.0", "head2.10", "head2.9", "mlp2", "embed"]
    assert sorted(names, key=natural_key) == [
        "embed",
        "head2.9",
        "head2.10",
        "head10.0",
        "mlp2",
        "mlp10",
    ]


# --- what is refused ------------------------------------------------------------------------------


def first_feature(*values: Any) -> Any:
    return values[0]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"agrees_on": 3},
            "agrees_on= of head1.0 takes the name of a feature of the dataset, a list of names, "
            "EXACT or ANYTHING, not 3",
        ),
        (
            {"agrees_on": ["f", None]},
            "agrees_on= of head1.0 takes the name of a feature of the dataset, a list of names, "
            "EXACT or ANYTHING, not None",
        ),
        (
            {"agrees_on": []},
            "agrees_on= of head1.0 got an empty list; write ANYTHING where no agreement is claimed",
        ),
        (
            {"agrees_on": "f", "reads": [embed(agrees_on="f")], "rest": 1.5},
            "rest= of head1.0 takes the name of a feature of the dataset, a list of names, EXACT "
            "or ANYTHING, not 1.5",
        ),
        (
            {"agrees_on": "f", "rest": EXACT},
            "head1.0 has rest= but reads nothing; a leaf has no rest, so leave it out",
        ),
        (
            {"pos": True},
            "pos= of head1.0 takes an int, a slice or the name of a dataset column, not True",
        ),
        (
            {"pos": 1.0},
            "pos= of head1.0 takes an int, a slice or the name of a dataset column, not 1.0",
        ),
        (
            {"pos": [0, 1]},
            "pos= of head1.0 takes an int, a slice or the name of a dataset column, not [0, 1]",
        ),
        *(
            (
                {"name": name},
                "name= of head1.0 is text without a slash, which parts the names in a path, not "
                f"{name!r}",
            )
            for name in ("a/b", "/", 3)
        ),
        ({"via": "all"}, "via= of head1.0 is 'direct' or 'any', not 'all'"),
        (
            {"reads": ["embed"]},
            "reads= of head1.0 takes nodes such as head(1, 0, agrees_on=...), not 'embed'",
        ),
        (
            {"reads": [output(agrees_on="f")]},
            "head1.0 reads output, but output is the root: a hypothesis has exactly one",
        ),
        (
            {"reads": [embed()]},
            "embed names no feature; say agrees_on= with a feature of the dataset, EXACT or "
            "ANYTHING",
        ),
        (
            {"agrees_on": "f", "computed_by": first_feature, "reads": [embed(agrees_on="f")]},
            "head1.0 has both computed_by= and reads=; a computed node is a leaf",
        ),
        *(
            (
                {"agrees_on": agrees_on, "computed_by": first_feature},
                "computed_by= of head1.0 needs agrees_on= to name the features it is computed from",
            )
            for agrees_on in (None, EXACT, ANYTHING)
        ),
    ],
)
def test_a_contradictory_claim_is_refused(options: dict[str, Any], sentence: str) -> None:
    with refuses(sentence):
        head(1, 0, **options)


@pytest.mark.parametrize("node", [head(1, 0), group(["embed", "mlp0"])])
def test_every_node_but_the_root_needs_a_feature(node: Node) -> None:
    with refuses(
        f"{node.component} names no feature; say agrees_on= with a feature of the dataset, EXACT "
        "or ANYTHING"
    ):
        output(node)


@pytest.mark.parametrize(
    ("members", "options", "sentence"),
    [
        (
            [head(1, 0, agrees_on="f"), "embed"],
            {},
            "head1.0 makes a claim of its own inside a group; put agrees_on= and the like on the "
            "group",
        ),
        (
            [head(1, 0, pos=0), "embed"],
            {},
            "head1.0 makes a claim of its own inside a group; put agrees_on= and the like on the "
            "group",
        ),
        (["a", "a"], {}, "a group needs different components, not ['a', 'a']"),
        ([group(["a", "b"]), "a"], {}, "a group needs different components, not ['a', 'b', 'a']"),
        ([], {}, "a group needs different components, not []"),
        (
            ["a", "b"],
            {"reads": [embed(agrees_on="f")]},
            "a group is one leaf with one donor and reads nothing; claim its members one by one",
        ),
        ([1, "a"], {}, "a group takes nodes such as head(1, 0), or names of components, not 1"),
    ],
)
def test_a_group_that_is_none_is_refused(
    members: Any, options: dict[str, Any], sentence: str
) -> None:
    with refuses(sentence):
        group(members, agrees_on="f", **options)


def circular() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


NODES = "takes nodes such as head(1, 0, agrees_on=...), not"
COUNTED = "is a whole number counted from 0, not"
FEATURES = "takes the name of a feature of the dataset, a list of names, EXACT or ANYTHING, not"


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: head(1, 0, possition=-1), "head takes no possition=; did you mean 'pos'?"),
        (lambda: head(1, 0, agree_on="f"), "head takes no agree_on=; did you mean 'agrees_on'?"),
        (lambda: mlp(1, agrees_on="f", via_="any"), "mlp takes no via_=; did you mean 'via'?"),
        (lambda: group(["a", "b"], agree="f"), "group takes no agree=; did you mean 'agrees_on'?"),
        (lambda: output(agree_on="f"), "output takes no agree_on=; did you mean 'agrees_on'?"),
        (
            lambda: output(q=1),
            "output takes no q=; its options are agrees_on, rest, predicts, rivals",
        ),
        (lambda: output(reads=[]), "output takes reads by position; leave reads= out"),
        (lambda: module(path="a"), "module takes path by position; leave path= out"),
        (
            lambda: head(1),
            "head takes (layer, head) and then options by name: missing a required argument: "
            "'head'",
        ),
        (
            lambda: head(1, 0, 2),
            "head takes (layer, head) and then options by name: too many positional arguments",
        ),
        (lambda: embed("f"), "embed takes options by name: too many positional arguments"),
        (lambda: head("1", 0), f"the layer of a head {COUNTED} '1'"),
        (lambda: head(1.0, 0), f"the layer of a head {COUNTED} 1.0"),
        (lambda: head(0, True), f"the number of a head {COUNTED} True"),
        (lambda: head(-1, 0), f"the layer of a head {COUNTED} -1"),
        (lambda: attn(-1), f"the layer of an attention {COUNTED} -1"),
        (lambda: mlp(10**5000), f"the layer of an MLP {COUNTED} a number of 16610 bits"),
        (lambda: module(3), "module takes the name of a module, an input or a node, not 3"),
        (lambda: output([embed(agrees_on="f")]), f"output {NODES} a list; write output(*nodes)"),
        (lambda: output("head1.0"), f"output {NODES} 'head1.0'"),
        (lambda: output(None), f"output {NODES} None"),
        (lambda: head(1, 0, reads=None), f"reads= of head1.0 {NODES} None"),
        (lambda: head(1, 0, reads=circular()), f"reads= of head1.0 {NODES} [[...]]"),
        (lambda: head(1, 0, agrees_on=circular()), f"agrees_on= of head1.0 {FEATURES} [[...]]"),
        (lambda: head(1, 0, agrees_on={"f": 1}), f"agrees_on= of head1.0 {FEATURES} {{'f': 1}}"),
        (
            lambda: head(1, 0, agrees_on=["f", EXACT]),
            "agrees_on= of head1.0 has EXACT in a list; EXACT and ANYTHING stand alone, without "
            "the list",
        ),
        (
            lambda: group(circular()),
            "a group takes nodes such as head(1, 0), or names of components, not [[...]]",
        ),
        (lambda: group(3), "a group takes a list of nodes such as head(1, 0), not 3"),
        (lambda: head(1, 0, into=0), "into= of head1.0 is the name of a slot such as 'q', not 0"),
        (
            lambda: head(1, 0, shares=head(0, 0)),
            "shares= of head1.0 is the name= of another node, not *",
        ),
        (
            lambda: head(1, 0, computed_by="f"),
            "computed_by= of head1.0 is a function of the features, not 'f'",
        ),
        (
            lambda: head(1, 0, pos=slice("a", None)),
            "pos= of head1.0 takes an int, a slice or the name of a dataset column, not slice('a', "
            "None, None)",
        ),
        (
            lambda: head(1, 0, pos=slice(torch.tensor(1.5), None)),
            "pos= of head1.0 takes an int, a slice or the name of a dataset column, not "
            "slice(tensor(1.5000), None, None)",
        ),
        (
            lambda: head(1, 0, pos=slice(0, 4, 0)),
            "pos= of head1.0 takes an int, a slice or the name of a dataset column, not slice(0, "
            "4, 0)",
        ),
        (
            lambda: head(1, 0, subspace="abc"),
            "subspace= takes a [d_model, k] matrix of orthonormal columns (*)",
        ),
    ],
)
def test_what_a_constructor_does_not_take_is_one_sentence(misuse: Any, sentence: str) -> None:
    with pytest.raises(HypothesisError) as raised:
        misuse()
    assert fnmatchcase(str(raised.value), sentence.replace("[", "[[]"))
    assert "\n" not in str(raised.value)
    assert raised.value.places == (Place(__file__, misuse.__code__.co_firstlineno),)


@pytest.mark.parametrize("constructor", [head, mlp, embed, pos_embed, mask, module, group])
def test_the_options_of_a_node_are_parameters(constructor: Any) -> None:
    """As `help` and editors show them."""
    keywords = [
        one.name
        for one in signature(constructor).parameters.values()
        if one.kind is one.KEYWORD_ONLY
    ]
    own = {head: ["of"], mlp: ["of"], module: ["call", "item", "head"]}
    assert keywords == own.get(constructor, []) + list(NodeOptions.__annotations__)


def test_which_value_of_a_module_is_in_its_name() -> None:
    nodes = {
        module("a.b", agrees_on="f"): "a.b",
        module("a.b", call=0, agrees_on="f"): "a.b(call=0)",
        module("a.b", item="mean", call=1, agrees_on="f"): "a.b(call=1, item=mean)",
        module("a.b", head=3, agrees_on="f"): "a.b(head=3)",
        head(1, 0, of="encoder", agrees_on="f"): "encoder.head1.0",
        head(1, 0, of="cross", agrees_on="f"): "cross.head1.0",
        mlp(1, of="encoder", agrees_on="f"): "encoder.mlp1",
    }
    assert {node: node.component for node in nodes} == nodes


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: head(0, 0, of="decoder"),
            "of= of a head is 'encoder' or 'cross', or left out, not 'decoder'",
        ),
        (lambda: mlp(0, of="cross"), "of= of an MLP is 'encoder', or left out, not 'cross'"),
        (
            lambda: module("a", call=-1),
            "call= of module 'a' is a whole number counted from 0, not -1",
        ),
        (
            lambda: module("a", head=0.5),  # type: ignore[arg-type]
            "head= of module 'a' is a whole number counted from 0, not 0.5",
        ),
        (
            lambda: module("a", item="x, y"),
            "item= of module 'a', where it is no name, is a whole number counted from 0, not "
            "'x, y'",
        ),
        (
            lambda: module("a", item=0, head=1),
            "module 'a' is claimed as a head and as an item; leave one out",
        ),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(HypothesisError) as caught:
        make()
    assert str(caught.value) == sentence


def test_numbers_of_other_libraries_and_generators_are_as_good() -> None:
    names = (name for name in ("g", "f"))
    assert head(np.int64(1), torch.tensor(0), agrees_on=names, pos=np.int32(-1)) == head(
        1, 0, agrees_on=["f", "g"], pos=-1
    )
    assert head(1, 0, agrees_on="f", reads=(node for node in [embed(agrees_on="f")])).reads == (
        embed(agrees_on="f"),
    )


# --- where a node was said ------------------------------------------------------------------------


def test_a_node_knows_the_line_that_said_it() -> None:
    def helper() -> Node:
        return embed(agrees_on="f")

    line = helper.__code__.co_firstlineno
    root = output(
        helper(),
        mlp(0, agrees_on="f"),
    )
    assert [node.place for node in (root, *root.reads)] == [
        Place(__file__, line + n) for n in (4, 1, 6)
    ]
    assert replace(root, rest=EXACT).place == root.place


def test_where_it_was_said_is_no_part_of_what_it_says() -> None:
    one = head(1, 0, agrees_on="f", reads=[embed(agrees_on="f")])
    other = head(1, 0, agrees_on="f", reads=[embed(agrees_on="f")])
    assert one.place != other.place
    assert (one, hash(one), str(one), repr(one)) == (other, hash(other), str(other), repr(other))


def test_places_are_seen_from_the_current_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    inside, outside = (
        Place(str(tmp_path / "a" / "test_a.py"), 3),
        Place(str(tmp_path.parent / "b.py"), 1),
    )
    monkeypatch.chdir(tmp_path)
    assert str(inside) == f"{Path('a', 'test_a.py')}:3"
    assert str(outside) == f"{tmp_path.parent / 'b.py'}:1"


# --- printing -------------------------------------------------------------------------------------


def test_a_tree_prints_every_claim() -> None:
    def count_brackets(count: Any) -> Any:
        return count

    root = output(
        head(
            2,
            0,
            agrees_on=["count", "horizon"],
            name="counts",
            rest="first",
            reads=[
                embed(agrees_on=EXACT, into="q", pos=-1),
                group(["head0.1", "head0.0"], agrees_on=ANYTHING, into="v", via="any"),
            ],
        ),
        mlp(1, agrees_on="count", subspace=np.eye(4)[:, :3]),
        head(1, 0, agrees_on="count", computed_by=count_brackets, pos=slice(0, 3)),
        head(2, 1, agrees_on=["count", "horizon"], shares="counts"),
        agrees_on="label",
    )
    assert str(root).splitlines() == [
        "output agrees on label",
        "├── counts (head2.0) agrees on count and horizon, rest agrees on first",
        "│   ├── embed[q]@-1 is EXACT",
        "│   └── group(head0.0+head0.1)[v] agrees on ANYTHING, along every path",
        "├── mlp1 agrees on count, in a 3-dimensional subspace",
        "├── head1.0@0:3 agrees on count, computed by count_brackets",
        "└── head2.1 agrees on count and horizon, shares the donor of counts",
    ]


def test_printing_takes_names_as_they_are() -> None:
    # rich would read square brackets as markup, colons as emoji, and wrap at the width of the
    # terminal.
    long = module("x" * 300, agrees_on=["f" * 300], into="k", name="[red]:smile:")
    assert str(output(long, rest=EXACT)).splitlines() == [
        "output, rest is EXACT",
        f"└── [red]:smile:[k] ({'x' * 300}) agrees on {'f' * 300}",
    ]


# --- equality and immutability --------------------------------------------------------------------

AGREEMENTS = st.sampled_from([EXACT, ANYTHING, F, Agreement(("f", "g"))])


def nodes() -> st.SearchStrategy[Node]:
    leaves = st.builds(
        lambda name, agrees, into, pos: module(name, agrees_on=agrees, into=into, pos=pos),
        st.sampled_from("abc"),
        AGREEMENTS,
        st.sampled_from([None, "k"]),
        st.sampled_from([None, 1, slice(1, None)]),
    )
    return st.recursive(
        leaves,
        lambda below: st.builds(
            lambda name, agrees, reads, rest: module(
                name, agrees_on=agrees, reads=reads, rest=rest
            ),
            st.sampled_from("abc"),
            AGREEMENTS,
            st.lists(below, min_size=1, max_size=3),
            AGREEMENTS,
        ),
        max_leaves=8,
    )


def shuffled(node: Node, draw: Any) -> Node:
    return replace(
        node, reads=tuple(draw(st.permutations([shuffled(child, draw) for child in node.reads])))
    )


@given(st.data())
def test_the_order_of_siblings_means_nothing(data: st.DataObject) -> None:
    tree = data.draw(nodes())
    other = shuffled(tree, data.draw)
    assert tree == other
    assert hash(tree) == hash(other)


@pytest.mark.parametrize(
    "changed",
    [
        {"components": ("b",)},
        {"agrees_on": EXACT},
        {"reads": (module("c", agrees_on="f"),)},
        {"reads": (module("c", agrees_on="f"), module("c", agrees_on="f"))},
        {"into": "q"},
        {"pos": 2},
        {"subspace": Subspace(np.eye(3)[:, :1])},
        {"via": "any"},
        {"rest": EXACT},
        {"computed_by": first_feature},
        {"shares": "t"},
        {"name": "t"},
    ],
)
def test_trees_that_claim_something_else_differ(changed: dict[str, Any]) -> None:
    node = Node(
        ("a",),
        F,
        (module("c", agrees_on="g"),),
        "k",
        1,
        Subspace(np.eye(3)[:, 1:]),
        "direct",
        F,
        None,
        "s",
        "s",
    )
    assert replace(node, **changed) != node
    assert output(replace(node, **changed)) != output(node)
    assert node != "a"


def test_claiming_twice_is_not_claiming_once() -> None:
    child, other = module("a", agrees_on="f"), module("b", agrees_on="f")
    assert output(child, child) != output(child)
    assert output(child, child, other) != output(child, other, other)


def test_a_node_cannot_be_changed() -> None:
    reads = [embed(agrees_on="f")]
    node = head(1, 0, agrees_on="f", reads=reads)
    with pytest.raises(FrozenInstanceError):
        node.name = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        EXACT.exact = False  # type: ignore[misc]
    reads.clear()  # the caller's list is not the node's
    assert node.reads == (embed(agrees_on="f"),)


# --- subspaces ------------------------------------------------------------------------------------


def test_a_subspace_takes_any_kind_of_matrix() -> None:
    columns = torch.linalg.qr(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))[0]
    for given_ in (columns, columns.clone().requires_grad_(), columns.double(), columns.numpy()):
        subspace = Subspace(given_)
        assert subspace.width == 6
        assert subspace.basis.dtype == np.float64
        np.testing.assert_allclose(subspace.basis, columns.double().numpy(), atol=1e-7)
    assert str(Subspace(columns)) == "a 3-dimensional subspace"


def test_a_subspace_is_its_own_and_read_only() -> None:
    columns = np.eye(3)[:, :2].copy()
    subspace = Subspace(columns)
    columns[0, 0] = 7
    assert subspace.basis[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        subspace.basis[0, 0] = 7


def test_subspaces_are_equal_by_content() -> None:
    first, same, other = (Subspace(np.eye(4)[:, columns]) for columns in ([0, 1], [0, 1], [1, 0]))
    assert first == same
    assert hash(first) == hash(same)
    assert first != other
    assert first != Subspace(np.eye(3)[:, :2])
    assert first != "a 2-dimensional subspace"


def test_subspaces_are_orthogonal_only_in_one_space() -> None:
    first, second = Subspace(np.eye(4)[:, :2]), Subspace(np.eye(4)[:, 2:])
    turned = Subspace(np.array([[0.0, 1, 1, 0]]).T / 2**0.5)
    assert first.is_orthogonal_to(second)
    assert not first.is_orthogonal_to(first)
    assert not first.is_orthogonal_to(turned)
    assert not first.is_orthogonal_to(Subspace(np.eye(5)[:, 3:]))


@pytest.mark.parametrize(
    ("basis", "sentence"),
    [
        (
            np.ones(3),
            "subspace= takes a [d_model, k] matrix of orthonormal columns, not one of shape (3,); "
            "give one direction as v[:, None] / v.norm()",
        ),
        (
            np.eye(3)[:2],
            "subspace= takes a [d_model, k] matrix of orthonormal columns, not one of shape (2, 3)"
            "; transpose it",
        ),
        (
            np.empty((3, 0)),
            "subspace= takes a [d_model, k] matrix of orthonormal columns, not one of shape (3, 0)",
        ),
        (
            2 * np.eye(3),
            "the columns of subspace= are not orthonormal; take the Q of torch.linalg.qr(columns)",
        ),
        (
            np.ones((3, 2)),
            "the columns of subspace= are not orthonormal; take the Q of torch.linalg.qr(columns)",
        ),
        (
            np.full((3, 1), np.nan),
            "the columns of subspace= are not orthonormal; take the Q of torch.linalg.qr(columns)",
        ),
    ],
)
def test_a_matrix_that_spans_no_subspace_is_refused(basis: Any, sentence: str) -> None:
    with refuses(sentence):
        head(1, 0, agrees_on="f", subspace=basis)
