"""Where the boxes and edges of a circuit lie when it is drawn: lanes for the levels, a box for
every node."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import count, groupby
from typing import NamedTuple

from pytest_scrub import Verdict
from pytest_scrub.common.visible import visible
from pytest_scrub.reports.circuit import names, rest, stated
from pytest_scrub.verdict import Circuit, CircuitNode

# Boxes are as wide as lines of a monospaced font at 11 pixels, whose characters are 0.6 of that.
CELL_WIDTH, LINE_HEIGHT = 6.65, 15.0
LINE_CELLS = 18  # a line in a box
PADDING = 5.0
BOX_WIDTH = LINE_CELLS * CELL_WIDTH + 2 * PADDING
APART = 7.0  # between boxes side by side
MARGIN = 76.0  # for the names of the levels
LANE_PADDING = 9.0
LEVEL_CELLS = 10  # a line in the margin
BETWEEN = 54.0  # lanes, where edges bend
NARROW = 340.0  # what a claim has of a page 390 pixels wide
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
    - `texts`: what stands in it, where lines need not be broken; the first `strong` are names.
    """

    y: float
    height: float
    opacity: float
    texts: Sequence[str]
    strong: int


class Box(NamedTuple):
    """A node, the corner of its box, and what stands in it."""

    node: CircuitNode
    x: float
    y: float
    height: float
    parts: Sequence[Part]
    lines: Sequence[Line]

    @property
    def middle(self) -> float:
        """Of its width."""
        return self.x + BOX_WIDTH / 2


class Edge(NamedTuple):
    """From a child up to a point of its parent, aside from `bend` on."""

    child: Box
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
    boxes: Sequence[Box]
    scale: str
    box_width: float = BOX_WIDTH

    @property
    def is_wide(self) -> bool:
        """Whether a phone would cut it."""
        return self.width > NARROW


def diagram(verdict: Verdict) -> Diagram:
    """The hypothesis of a verdict over the levels of its network, coloured by what each slot does
    alone."""
    alone = {node.slot: node.alone.mean for node in verdict.nodes if node.alone is not None}
    return laid_out(verdict.circuit, alone, *_scale(verdict, alone))


def laid_out(
    circuit: Circuit, alone: Mapping[str, float] | None = None, whole: float = 0.0, scale: str = ""
) -> Diagram:
    """A circuit, each slot coloured by its gap `alone` as a share of the `whole`, where they are
    known."""
    alone = alone or {}
    margin = MARGIN if any(circuit.levels) else APART  # where levels have no names
    middles, columns = _columns(circuit)
    boxes = [
        _box(node, margin + middles[node.path] * (BOX_WIDTH + APART), alone, whole)
        for node in circuit.nodes
    ]
    lanes = {lane.level: lane for lane in _lanes(circuit.levels, boxes)}
    for i, box in enumerate(boxes):
        lane = lanes[box.node.level]
        boxes[i] = box._replace(y=lane.y + (lane.height - box.height) / 2)
    unused = [16 + len(lane.name[0]) * CELL_WIDTH for lane in lanes.values() if not lane.used]
    return Diagram(
        width=max(margin + columns * (BOX_WIDTH + APART), *unused, 0),
        height=max(lane.y + lane.height for lane in lanes.values()),
        lanes=list(lanes.values()),
        edges=list(_edges(boxes, lanes)),
        boxes=boxes,
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
    children: dict[str | None, list[str]] = defaultdict(list)
    for node in circuit.nodes:
        children[node.parent].append(node.path)
    middles: dict[str, float] = {}
    leaves = count()

    def place(path: str) -> float:
        below = [place(child) for child in children[path]]
        middles[path] = (below[0] + below[-1]) / 2 if below else float(next(leaves))
        return middles[path]

    for root in children[None]:
        place(root)
    return middles, next(leaves)


def _box(node: CircuitNode, x: float, alone: Mapping[str, float], whole: float) -> Box:
    """The box of a node, which nobody has put on its level yet."""
    lines: list[Line] = []
    parts: list[Part] = []
    y = 0.0
    own = [*names(node), *stated(node)]
    for slot, texts in ((node.path, own), (f"{node.path}/rest", rest(node))):
        if not texts:
            continue
        gap, top = alone.get(slot), y
        y += PADDING
        strong = len(names(node)) if slot == node.path else 0
        said = texts if gap is None else [*texts, f"alone {gap:.3g}"]
        for i, text in enumerate(said):
            for piece in _wrapped(text):
                lines.append(Line(piece, y + LINE_HEIGHT * 0.75, i < strong))
                y += LINE_HEIGHT
        y += PADDING
        shade = 0.0
        if gap is not None and whole > 0:
            shade = LEAST_SHADE + STRENGTH * min(abs(gap) / whole, 1.0)
        parts.append(Part(top, y - top, shade, said, strong))
    return Box(node, x, 0.0, y, parts, lines)


def _wrapped(text: str, cells: int = LINE_CELLS) -> Iterator[str]:
    """Lines of so many cells, broken between words, in names after a separator, or else
    anywhere."""
    from rich.cells import cell_len, chop_cells

    line = ""
    for word in re.findall(r"\S+\s*", visible(text)):
        is_long = cell_len(word.strip()) > cells
        for piece in re.findall(r"[^_./,:]*[_./,:]+|[^_./,:]+", word) if is_long else [word]:
            if line and cell_len((line + piece).rstrip()) > cells:
                yield line.rstrip()
                line = ""
            is_longer = cell_len(piece.rstrip()) > cells
            *full, line = chop_cells(piece, cells) if is_longer else [line + piece]
            yield from full
    yield line.rstrip()


def _lanes(levels: Sequence[str], boxes: Sequence[Box]) -> Iterator[Lane]:
    """Every lane from the top; a run of unused levels has one, called by its highest."""
    needed: dict[int, float] = defaultdict(float)
    for box in boxes:
        needed[box.node.level] = max(needed[box.node.level], box.height)
    y = 0.0
    downwards = reversed(range(len(levels)))
    for level, run in groupby(downwards, lambda level: level if level in needed else None):
        if level is not None:
            height = needed[level] + 2 * LANE_PADDING
            yield Lane(level, list(_wrapped(levels[level], LEVEL_CELLS)), y, height, True)
            y += height + BETWEEN * (level > min(needed))
        else:
            top, *lower = run
            text = _unused(levels[min(lower, default=top) : top + 1])
            yield Lane(top, [text], y, HINT, False)
            y += HINT


def _unused(names: Sequence[str]) -> str:
    if len(names) <= MOST_NAMED:
        return f"nothing claimed on {', '.join(names)}"
    return f"nothing claimed on {len(names)} levels, {names[0]} to {names[-1]}"


def _edges(boxes: Sequence[Box], lanes: Mapping[int, Lane]) -> Iterator[Edge]:
    """Straight up from the child, and aside only just below the parent's lane, where no box is."""
    for reader in boxes:
        children = [box for box in boxes if box.node.parent == reader.node.path]
        lane = lanes[reader.node.level]
        step = min(BOX_WIDTH * 0.8 / max(1, len(children)), 26.0)
        for i, child in enumerate(children):
            x = reader.middle + step * (i - (len(children) - 1) / 2)
            bend = lane.y + lane.height + BETWEEN / 2
            yield Edge(child, bend, x, reader.y + reader.height)
