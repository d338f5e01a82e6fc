"""Where the boxes of a circuit lie: on their level, beside each other, and in nobody's way."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from pytest_scrub.extras.html.diagram import (
    BOX_WIDTH,
    LEAST_SHADE,
    LINE_CELLS,
    STRENGTH,
    Box,
    Diagram,
    diagram,
)
from pytest_scrub.verdict import Circuit
from tests.example_verdicts import node, slot, verdict

LEVELS = (
    "embeddings",
    "attention 0",
    "MLP 0",
    "attention 1",
    "MLP 1",
    "attention 2",
    "MLP 2",
    "output",
)


def drawn(*nodes: object, levels: tuple[str, ...] = LEVELS, **facts: object) -> Diagram:
    return diagram(verdict(circuit=Circuit(levels, nodes), **facts))


def text(placed: Box) -> str:
    return " ".join(line.text for line in placed.lines)


def assert_nothing_overlaps(found: Diagram) -> None:
    for one, other in combinations(found.boxes, 2):
        beside = one.x + BOX_WIDTH <= other.x or other.x + BOX_WIDTH <= one.x
        above = bottom(one) <= other.y or bottom(other) <= one.y
        assert beside or above
    for one, other in combinations(found.lanes, 2):
        assert one.y + one.height <= other.y or other.y + other.height <= one.y
    for placed in found.boxes:
        assert placed.x >= 0
        assert placed.x + BOX_WIDTH <= found.width
        assert any(
            lane.used and lane.y <= placed.y and bottom(placed) <= lane.y + lane.height
            for lane in found.lanes
        )
        lines = placed.lines
        assert all(cell_len(line.text) <= LINE_CELLS for line in lines)
        assert all(0 < line.y < placed.height for line in lines)
        assert [one.y for one in lines] == sorted({one.y for one in lines})


def bottom(placed: Box) -> float:
    return placed.y + placed.height


def assert_no_edge_crosses_a_box(found: Diagram) -> None:
    """The straight part of an edge is above its child, below the lane of its parent, and passes no
    other box."""
    for edge in found.edges:
        child = edge.child
        for other in found.boxes:
            is_aside = not other.x < child.middle < other.x + BOX_WIDTH
            assert is_aside or bottom(other) <= edge.bend or child.y <= other.y, (edge, other)


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    """Trees in which every child is on a lower level than its parent."""
    nodes = [node("output", 7, agrees_on=None, rest="ANYTHING")]

    def grow(path: str, level: int, depth: int) -> None:
        for i in range(draw(st.integers(0, 3 if depth else 4))):
            below = draw(st.integers(0, level - 1))
            child = f"{path}/{draw(st.text(min_size=1, max_size=30)).replace('/', '|')}#{i}"
            into = draw(st.sampled_from([None, "q", "k", "v"]))
            nodes.append(
                node(
                    child,
                    below,
                    into=into,
                    agrees_on=draw(st.text(max_size=40)),
                    rest=draw(st.none() | st.just("b")),
                )
            )
            if below and depth < 2:
                grow(child, below, depth + 1)

    grow("output", 7, 0)
    return Circuit(LEVELS, tuple(nodes))


@given(circuits())
def test_nothing_overlaps_and_no_edge_crosses_a_box(circuit: Circuit) -> None:
    found = diagram(
        verdict(circuit=circuit, nodes=tuple(slot(one.path, 0.2) for one in circuit.nodes))
    )
    assert len(found.boxes) == len(circuit.nodes)
    assert len(found.edges) == len(circuit.nodes) - 1
    assert_nothing_overlaps(found)
    assert_no_edge_crosses_a_box(found)


def test_levels_lie_above_each_other_and_unused_ones_are_a_hint() -> None:
    found = drawn(
        node("output", 7, agrees_on=None, rest="ANYTHING"),
        node("output/head2.1", 5),
        node("output/head2.1/embed[k]", 0),
    )
    assert [" ".join(lane.name) for lane in found.lanes] == [
        "output", "nothing claimed on MLP 2", "attention 2",
        "nothing claimed on 4 levels, attention 0 to MLP 1", "embeddings",
    ]  # fmt: skip
    heights = [lane.height for lane in found.lanes]
    assert max(heights[1], heights[3]) < min(heights[0], heights[2], heights[4])
    top, middle, bottom = found.boxes
    assert top.y < middle.y < bottom.y


def test_levels_beyond_the_claim_are_hints_too() -> None:
    found = drawn(node("output", 2), node("output/a", 1), levels=("in", "mid", "top", "beyond"))
    assert [(lane.name[0], lane.used) for lane in found.lanes] == [
        ("nothing claimed on beyond", False), ("top", True), ("mid", True),
        ("nothing claimed on in", False),
    ]  # fmt: skip
    assert_nothing_overlaps(found)


def test_a_box_says_everything_of_its_node() -> None:
    found = drawn(
        node("output", 7, agrees_on=None, rest="EXACT"),
        node(
            "output/group",
            3,
            components=("head1.0", "head1.1"),
            positions="last",
            subspace="a 2-dimensional subspace",
        ),
        node("output/mlp", 2, along_every_path=True, is_computed=True, rest="b"),
        nodes=(slot("output/mlp", -0.25), slot("output/mlp/rest", 0.125)),
    )
    top, group, mlp = found.boxes
    assert text(top) == "output rest agrees on EXACT"
    assert (
        text(group) == "group of 2 head1.0 head1.1 at last in a 2-dimensional subspace agrees on a"
    )
    assert text(mlp) == (
        "mlp computed by a function read along every path agrees on a alone -0.25 rest agrees on b "
        "alone 0.125"
    )
    assert [line.text for line in group.lines if line.strong] == [
        "group of 2",
        "head1.0",
        "head1.1",
    ]
    assert [edge.child.node.along_every_path for edge in found.edges] == [False, True]


def test_edges_say_which_input_they_go_into() -> None:
    found = drawn(
        node("output", 7),
        node("output/head", 3, into=None),
        node("output/head/embed[q]", 0, into="q"),
    )
    assert [edge.child.node.into for edge in found.edges] == [None, "q"]


def test_a_component_that_two_nodes_read_is_two_boxes() -> None:
    found = drawn(
        node("output", 7),
        node("output/a", 3),
        node("output/a/embed", 0),
        node("output/b", 3),
        node("output/b/embed", 0),
    )
    assert [placed.lines[0].text for placed in found.boxes].count("embed") == 2


@pytest.mark.parametrize(
    ("alone", "shades", "scale"),
    [
        ((0.3, -0.9), [0.25, 0.75], "the sum of all sizes (1.2)"),
        ((0.1, -0.05), [0.2, 0.1], "the tolerance (0.5)"),
        ((0.0, 0.0), [0.0, 0.0], "the tolerance (0.5)"),
    ],
)
def test_colour_is_the_share_of_the_gap_alone(
    alone: tuple[float, float], shades: list[float], scale: str
) -> None:
    """Of all of them, or of the tolerance where all together stay below it: a claim that holds well
    does not glow."""
    found = diagram(verdict(nodes=(slot("output/rest", alone[0]), slot("output/A", alone[1]))))
    parts = [part.opacity for placed in found.boxes for part in placed.parts]
    assert parts == pytest.approx([0.0, *(LEAST_SHADE + STRENGTH * shade for shade in shades)])
    assert found.scale.endswith(scale)


def test_no_colour_where_nothing_was_measured_alone() -> None:
    found = diagram(verdict(nodes=(slot("output/rest", None), slot("output/A", None))))
    assert {part.opacity for placed in found.boxes for part in placed.parts} == {0.0}
    assert "not measured" in found.scale


def test_no_tolerance_and_no_gap_is_no_colour() -> None:
    found = diagram(verdict(tolerance=0.0, nodes=(slot("output/A", 0.0),)))
    assert {part.opacity for placed in found.boxes for part in placed.parts} == {0.0}
