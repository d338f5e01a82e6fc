"""Where the boxes and edges of a circuit lie when it is drawn: lanes for the levels, a box for
every node."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

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
LEAST_SHADE, MOST_SHADE = 0.04, 0.6  # how opaque a box is; text has to be readable on it


@dataclass(frozen=True)
class Line:
    """A line of text in a box, with its baseline; `strong` for the name."""

    text: str
    y: float
    strong: bool = False


@dataclass(frozen=True)
class Part:
    """The part of a box that one slot colours: the node's own input, or its rest.

    - `shade`: 0 to 1, None where its gap alone was not measured.
    """

    y: float
    height: float
    shade: float | None

    @property
    def opacity(self) -> float:
        """Of its colour."""
        return 0.0 if self.shade is None else LEAST_SHADE + (MOST_SHADE - LEAST_SHADE) * self.shade


@dataclass(frozen=True)
class Box:
    """One node: its corner, its size, and what stands in it; `title` is what it says at length."""

    x: float
    y: float
    height: float
    parts: tuple[Part, ...]
    lines: tuple[Line, ...]
    title: str
    is_computed: bool

    @property
    def middle(self) -> float:
        """Of its width."""
        return self.x + BOX / 2


@dataclass(frozen=True)
class Edge:
    """From a child to its parent.

    - `path`: of an SVG; `head`: the points of its tip.
    - `slot`: the name of the parent's input, and where it stands.
    """

    path: str
    head: str
    slot: str | None
    x: float
    y: float
    along_every_path: bool


@dataclass(frozen=True)
class Lane:
    """One level, or a run of levels that no node is on."""

    name: tuple[str, ...]
    y: float
    height: float
    used: bool


@dataclass(frozen=True)
class Diagram:
    """A circuit laid out; `scale` says what the full colour stands for."""

    width: float
    height: float
    lanes: tuple[Lane, ...]
    edges: tuple[Edge, ...]
    boxes: tuple[Box, ...]
    scale: str
    box_width: float = BOX


def diagram(verdict: Verdict) -> Diagram:
    """The hypothesis of a verdict over the levels of its network, coloured by what each slot does
    alone."""
    circuit = verdict.circuit
    alone = {node.slot: node.alone.mean for node in verdict.nodes if node.alone is not None}
    whole, scale = _scale(verdict, alone)
    middles, columns = _columns(circuit)
    contents = {node.path: _content(node, alone, whole) for node in circuit.nodes}
    lanes = _lanes(circuit, {path: height for path, (_, _, height) in contents.items()})
    at = dict(lanes)
    boxes = {}
    for node in circuit.nodes:
        lines, parts, height = contents[node.path]
        lane = at[node.level]
        x, y = MARGIN + middles[node.path] * (BOX + APART), lane.y + (lane.height - height) / 2
        boxes[node.path] = Box(
            x, y, height,
            tuple(Part(y + part.y, part.height, part.shade) for part in parts),
            tuple(Line(line.text, y + line.y, line.strong) for line in lines),
            _title(node), node.is_computed,
        )  # fmt: skip
    return Diagram(
        width=max(MARGIN + columns * (BOX + APART), *(_unused_width(lane) for _, lane in lanes)),
        height=max(lane.y + lane.height for _, lane in lanes),
        lanes=tuple(lane for _, lane in lanes),
        edges=tuple(_edges(circuit, boxes, at)),
        boxes=tuple(boxes.values()),
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


def _content(
    node: CircuitNode, alone: Mapping[str, float], whole: float
) -> tuple[tuple[Line, ...], tuple[Part, ...], float]:
    """The lines of a box and its parts, as if it were at the top; and its height."""
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
                lines.append(
                    Line(piece, y + LINE * 0.75, slot == node.path and i < len(names(node)))
                )
                y += LINE
        y += PADDING
        shade = None if gap is None or not whole else min(abs(gap) / whole, 1.0)
        parts.append(Part(top, y - top, shade))
    return tuple(lines), tuple(parts), y


def _title(node: CircuitNode) -> str:
    into = "" if node.into is None else f", into {node.into}"
    return "; ".join([f"{node.path}{into}", *stated(node), *rest(node)])


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


def _lanes(circuit: Circuit, heights: Mapping[str, float]) -> list[tuple[int, Lane]]:
    """Every lane from the top with its level, that of a run of unused ones being its highest."""
    needed: dict[int, float] = {}
    for node in circuit.nodes:
        needed[node.level] = max(needed.get(node.level, 0.0), heights[node.path])
    found: list[tuple[int, Lane]] = []
    y, level = 0.0, len(circuit.levels) - 1
    while level >= 0:
        if level in needed:
            height = needed[level] + 2 * LANE_PADDING
            found.append(
                (level, Lane(tuple(_wrapped(circuit.levels[level], LEVEL_CELLS)), y, height, True))
            )
            y, level = y + height, level - 1
            if any(other <= level for other in needed):
                y += BETWEEN
            continue
        run = level
        while level >= 0 and level not in needed:
            level -= 1
        unused = circuit.levels[level + 1 : run + 1]
        is_between = any(lane.used for _, lane in found) and level >= 0
        # where it is between lanes, in the room of the edges
        top = y - HINT - 3 if is_between else y
        found.append((run, Lane((_unused(unused),), top, HINT, False)))
        if not is_between:
            y += HINT
    return found


def _unused(names: tuple[str, ...]) -> str:
    if len(names) <= MOST_NAMED:
        return f"nothing claimed on {', '.join(names)}"
    return f"nothing claimed on {len(names)} levels, {names[0]} to {names[-1]}"


def _unused_width(lane: Lane) -> float:
    return 0.0 if lane.used else 16 + len(lane.name[0]) * CELL


def _edges(circuit: Circuit, boxes: Mapping[str, Box], lanes: Mapping[int, Lane]) -> Iterator[Edge]:
    """Straight up from the child, and aside only just below the parent's lane, where no box is."""
    nodes = {node.path: node for node in circuit.nodes}
    families: dict[str, list[CircuitNode]] = {}
    for node in circuit.nodes:
        if node.parent is not None:
            families.setdefault(node.parent, []).append(node)
    for parent, children in families.items():
        reader, lane = boxes[parent], lanes[nodes[parent].level]
        step = min(BOX * 0.8 / len(children), 26.0)
        for i, child in enumerate(children):
            box = boxes[child.path]
            x0, y0 = box.middle, box.y
            x1, y1 = reader.middle + step * (i - (len(children) - 1) / 2), reader.y + reader.height
            bend = lane.y + lane.height + BETWEEN / 2
            path = (
                f"M{x0:.1f} {y0:.1f}V{bend:.1f}C{x0:.1f} {bend - 24:.1f} {x1:.1f} "
                f"{bend - 4:.1f} {x1:.1f} {y1 + 5:.1f}"
            )
            head = f"{x1 - 3.5:.1f},{y1 + 7:.1f} {x1 + 3.5:.1f},{y1 + 7:.1f} {x1:.1f},{y1:.1f}"
            yield Edge(path, head, child.into, x0, y0 - 12, child.along_every_path)
