"""Slots: the places that take a donor, their paths, and donors that are shared."""

from __future__ import annotations

import pytest

from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.swaps.slots import REFERENCE, slots_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import Node, group, head, module, output
from pytest_scrub.tree.paths import node_paths
from tests.swaps.test_space import FOUR, B, generator, refuses


def test_slot_paths_name_node_slot_and_position() -> None:
    root = output(
        head(
            1,
            0,
            agrees_on="f",
            reads=[
                head(0, 0, agrees_on="f", into="k"),
                head(0, 0, agrees_on="g", into="q", pos=3),
                head(0, 0, agrees_on="g", into="q", pos=slice(1, 3)),
                head(0, 1, agrees_on="g", pos="where", name="looks back"),
            ],
        ),
        group(["head2.0", "head2.1"], agrees_on="f"),
        module("m", agrees_on="f"),
        module("m", agrees_on="f"),
        agrees_on="g",
    )
    paths = [
        "output",
        "output/rest",
        "output/head1.0",
        "output/head1.0/rest",
        "output/head1.0/head0.0[k]",
        "output/head1.0/head0.0[q]@3",
        "output/head1.0/head0.0[q]@1:3",
        "output/head1.0/looks back@where",
        "output/group(head2.0+head2.1)",
        "output/m",
        "output/m#2",
    ]
    assert [slot.path for slot in slots_of(root)] == paths
    assert [path for path, _, _ in node_paths(root)] == [
        path for path in paths if not path.endswith("rest")
    ]
    parents = [None if slot.parent == REFERENCE else paths[slot.parent] for slot in slots_of(root)]
    assert parents == [None, "output", "output", *["output/head1.0"] * 5, *["output"] * 3]


def test_without_a_feature_the_root_is_the_reference() -> None:
    slots = slots_of(output(module("a", agrees_on="f")))
    assert [(slot.path, slot.parent) for slot in slots] == [
        ("output/rest", REFERENCE),
        ("output/a", REFERENCE),
    ]
    assert slots_of(output()) == ()
    space = SwapSpace(output(), FOUR)
    assert space.check(space.draw(3, generator())) == []
    assert sum(weights.sum() for _, weights in space.enumerate()) == pytest.approx(1)


@pytest.mark.parametrize(
    "root",
    [
        output(module("rest", agrees_on="f")),
        output(
            module("a", agrees_on="f", name="b#2"),
            module("b", agrees_on="f"),
            module("b", agrees_on="f"),
        ),
    ],
)
def test_slots_with_one_path_are_refused(root: Node) -> None:
    taken = "output/rest" if len(root.reads) == 1 else "output/b#2"
    with refuses(
        HypothesisError, f"two slots would be called {taken}; give one of the nodes another name="
    ):
        SwapSpace(root, FOUR)


@pytest.mark.parametrize(
    ("root", "sentence"),
    [
        (
            output(module("a", agrees_on="f", shares="b"), B, module("c", agrees_on="f", name="d")),
            "output/a shares the donor of 'b', but no other node has that name=; nodes with a "
            "name: d",
        ),
        (
            output(module("a", agrees_on="f", shares="a", name="a")),
            "output/a shares the donor of 'a', but no other node has that name=; nodes with a "
            "name: none",
        ),
        (
            # Of cousins none is nearer than the other.
            output(
                *(
                    module(name, agrees_on="f", reads=[module("x", agrees_on="f", name="s")])
                    for name in "ab"
                ),
                module("c", agrees_on="f", shares="s"),
            ),
            "output/c shares the donor of 's', but several nodes have that name=; nodes with a "
            "name: s, s",
        ),
        (
            output(*(module(name, agrees_on="f", name="s") for name in "ab"),
            module("c", agrees_on="f", shares="s")),
            "output/c shares the donor of 's', but several nodes have that name=; nodes with a "
            "name: s, s",
        ),
        (
            output(module("a", agrees_on="f", name="s"), module("b", agrees_on="g", shares="s")),
            "output/b shares the donor of 's', so both must agree on the same (g against f), and "
            "that one must have a donor of its own",
        ),
        (
            output(
                module("a", agrees_on="f", name="s", shares="t"),
                module("b", agrees_on="f", shares="s"),
                module("c", agrees_on="f", name="t"),
            ),
            "output/b shares the donor of 's', so both must agree on the same (f against f), and "
            "that one must have a donor of its own",
        ),
    ],
)  # fmt: skip
def test_a_donor_that_cannot_be_shared_is_refused(root: Node, sentence: str) -> None:
    with refuses(HypothesisError, sentence):
        SwapSpace(root, FOUR)


def test_a_feature_that_is_missing_is_named_with_its_node() -> None:
    with refuses(
        DataError,
        "output/a/rest: the dataset has no feature 'al'; did you mean 'all'?; it has f, g, all",
    ):
        SwapSpace(
            output(module("a", agrees_on="f", reads=[module("b", agrees_on="f")], rest="al")), FOUR
        )


def test_a_hypothesis_starts_at_the_output() -> None:
    with refuses(HypothesisError, "a hypothesis starts at output(...), not at head1.0"):
        SwapSpace(head(1, 0, agrees_on="f"), FOUR)
