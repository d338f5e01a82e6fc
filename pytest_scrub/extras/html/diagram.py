"""Where the boxes and edges of a circuit lie when it is drawn: lanes for the levels, a box for
every node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from pytest_scrub import Verdict
from pytest_scrub.common.visible import visible
from pytest_scrub.reports.circuit import names, rest, stated
from pytest_scrub.verdict import Circuit, CircuitNode

# Boxes are as wide as lines of a monospaced font at 11 pixels, whose characters are 0.6 of that.
CELL, LINE = 6.65, 15.0
CELLS = 18  # a line in a box
PADDING = 5.0
BOX = CELLS * CELL + 2 * PADDING
APART = 7.0  # between boxes side by side
MARGIN = 76.0  # for the names of the levels
LANE_PADDING = 9.0
LEVEL_CELLS = 10  # a line in the margin
BETWEEN = 54.0  # lanes, where edges bend
HINT = 20.0  # the height of levels that no node is on
MOST_NAMED = 3  # unused levels in one place that are named; of more, only the first and the last
LEAST_SHADE, STRENGTH = 0.04, 0.56  # how opaque a box is; text has to be readable on it


class Line(NamedTuple):
    """A line of text in a box, with its baseline below the box's top; `strong` for the name."""

    text: str
    y: float
    strong: bool


class Part(NamedTuple):
    """The part of a box that one slot colours: the node's own input, or its rest.

    - `y`: below the box's top; `opacity`: of its colour.
    """

    y: float
    height: float
    opacity: float


class Box(NamedTuple):
    """What stands in the box of a node, and how high that is."""

    height: float
    parts: Sequence[Part]
    lines: Sequence[Line]


class Placed(NamedTuple):
    """A box and its corner."""

    node: CircuitNode
    box: Box
    x: float
    y: float

    @property
    def middle(self) -> float:
        """Of its width."""
        return self.x + BOX / 2


class Edge(NamedTuple):
    """From a child up to its parent, aside from `bend` on."""

    child: Placed
    bend: float
    x: float
    y: float


class Lane(NamedTuple):
    """One level, or a run of levels that no node is on."""

    level: int
    name: Sequence[str]
    y: float
    height: float
    used: bool


class Diagram(NamedTuple):
    """A circuit laid out; `scale` says what the full colour stands for."""

    width: float
    height: float
    lanes: Sequence[Lane]
    edges: Sequence[Edge]
    boxes: Sequence[Placed]
    scale: str
    box_width: float = BOX


def diagram(verdict: Verdict) -> Diagram:
    """The hypothesis of a verdict over the levels of its network, coloured by what each slot does
    alone."""
    circuit = verdict.circuit
    alone = {node.slot: node.alone.mean for node in verdict.nodes if node.alone is not None}
    whole, scale = _scale(verdict, alone)
    middles, columns = _columns(circuit)
    boxes = {node.path: _box(node, alone, whole) for node in circuit.nodes}
    lanes = list(_lanes(circuit, boxes))
    at = {lane.level: lane for lane in lanes}
    placed = {}
    for node in circuit.nodes:
        lane, box = at[node.level], boxes[node.path]
        x, y = MARGIN + middles[node.path] * (BOX + APART), lane.y + (lane.height - box.height) / 2
        placed[node.path] = Placed(node, box, x, y)
    unused = [16 + len(lane.name[0]) * CELL for lane in lanes if not lane.used]
    return Diagram(
        width=max(MARGIN + columns * (BOX + APART), *unused, 0),
        height=max(lane.y + lane.height for lane in lanes),
        lanes=lanes,
        edges=list(_edges(placed, at)),
        boxes=list(placed.values()),
        scale=scale,
    )


def _scale(verdict: Verdict, alone: Mapping[str, float]) -> tuple[float, str]:
    """What the full colour stands for: small gaps of a claim that is far within its tolerance are
    not made to glow."""
    total = sum(abs(gap) for gap in alone.values())
    if not alone:
        return 0.0, "not measured for this claim"
    what = "its size as a share of"
    if total > verdict.tolerance:
        return total, f"{what} the sum of all sizes ({total:.4g})"
    return verdict.tolerance, f"{what} the tolerance ({verdict.tolerance:.4g})"


def _columns(circuit: Circuit) -> tuple[dict[str, float], int]:
    """The column of every node, and how many there are: each leaf has one of its own, and parents
    stand above the middle of theirs, so that no edge passes through a box."""
    children: dict[str | None, list[str]] = {}
    for node in circuit.nodes:
        children.setdefault(node.parent, []).append(node.path)
    middles: dict[str, float] = {}
    leaves = 0
    for node in circuit.nodes:  # parents before children, each subtree in one piece
        if node.path not in children:
            middles[node.path] = leaves
            leaves += 1
    for node in reversed(circuit.nodes):
        if node.path in children:
            below = [middles[path] for path in children[node.path]]
            middles[node.path] = (min(below) + max(below)) / 2
    return middles, leaves


def _box(node: CircuitNode, alone: Mapping[str, float], whole: float) -> Box:
    lines: list[Line] = []
    parts: list[Part] = []
    y = 0.0
    own = [*names(node), *stated(node)]
    for slot, texts in ((node.path, own), (f"{node.path}/rest", rest(node))):
        if not texts:
            continue
        gap = alone.get(slot)
        said = [*texts, *([] if gap is None else [f"alone {gap:.3g}"])]
        top, y = y, y + PADDING
        for i, text in enumerate(said):
            for piece in _wrapped(text):
                lines.append(Line(piece, y + LINE * 0.75, texts is own and i < len(names(node))))
                y += LINE
        y += PADDING
        is_shaded = gap is not None and whole > 0
        shade = min(abs(gap or 0.0) / whole, 1.0) if is_shaded else 0.0
        parts.append(Part(top, y - top, is_shaded * (LEAST_SHADE + STRENGTH * shade)))
    return Box(y, parts, lines)


def _wrapped(text: str, cells: int = CELLS) -> Iterator[str]:
    """Lines of so many cells, broken between words, in names after a separator, or else
    anywhere."""
    from rich.cells import cell_len, chop_cells

    text = visible(text)  # before it is measured

    line = ""
    for word in re.findall(r"\S+\s*", text):
        pieces = (
            re.findall(r"[^_./,:]*[_./,:]+|[^_./,:]+", word)
            if cell_len(word.strip()) > cells
            else [word]
        )
        for piece in pieces:
            if line and cell_len((line + piece).rstrip()) > cells:
                yield line.rstrip()
                line = ""
            *full, line = (
                chop_cells(line + piece, cells)
                if cell_len(piece.rstrip()) > cells
                else [line + piece]
            )
            yield from full
    yield line.rstrip()


def _lanes(circuit: Circuit, boxes: Mapping[str, Box]) -> Iterator[Lane]:
    """Every lane from the top, that of a run of unused levels being its highest."""
    needed: dict[int, float] = {}
    for node in circuit.nodes:
        needed[node.level] = max(needed.get(node.level, 0.0), boxes[node.path].height)
    y = 0.0
    runs = groupby(
        reversed(range(len(circuit.levels))), lambda level: level if level in needed else None
    )
    for level, run in runs:
        levels = list(run)
        if level is not None:
            height = needed[level] + 2 * LANE_PADDING
            yield Lane(level, list(_wrapped(circuit.levels[level], LEVEL_CELLS)), y, height, True)
            y += height + (BETWEEN if level > min(needed) else 0.0)
            continue
        is_between = min(needed) < levels[0] < max(needed)
        # where it is between lanes, in the room of the edges
        top = y - HINT - 3 if is_between else y
        text = _unused(circuit.levels[levels[-1] : levels[0] + 1])
        yield Lane(levels[0], [text], top, HINT, False)
        y += 0.0 if is_between else HINT


def _unused(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMED:
        return f"nothing claimed on {', '.join(names)}"
    return f"nothing claimed on {len(names)} levels, {names[0]} to {names[-1]}"


def _edges(placed: Mapping[str, Placed], lanes: Mapping[int, Lane]) -> Iterator[Edge]:
    """Straight up from the child, and aside only just below the parent's lane, where no box is."""
    families: dict[str, list[Placed]] = {}
    for child in placed.values():
        if child.node.parent is not None:
            families.setdefault(child.node.parent, []).append(child)
    for parent, children in families.items():
        reader = placed[parent]
        lane = lanes[reader.node.level]
        step = min(BOX * 0.8 / len(children), 26.0)
        for i, child in enumerate(children):
            x = reader.middle + step * (i - (len(children) - 1) / 2)
            bend = lane.y + lane.height + BETWEEN / 2
            yield Edge(child, bend, x, reader.y + reader.box.height)
