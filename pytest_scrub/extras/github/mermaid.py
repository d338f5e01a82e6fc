"""A claim's circuit as a Mermaid flowchart, which GitHub draws."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pytest_scrub import Verdict
from pytest_scrub.common.visible import visible
from pytest_scrub.reports.circuit import names, rest, stated
from pytest_scrub.verdict import OUTCOMES, UNTESTED, CircuitNode, Word

MOST_CHARACTERS = 50_000  # of a diagram; Mermaid refuses more, and more than 500 edges
MOST_EDGES = 500

WORD_JOINER = "#8288;"  # takes no room, and may not be seen

# Borders only, so that they are right on a light page and on a dark one.
STROKES = {"green": "#1a7f37", "red": "#cf222e", "yellow": "#9a6700"}
STYLES = {
    outcome: f"stroke:{STROKES[mark.colour]},stroke-width:3px" for outcome, mark in OUTCOMES.items()
}
STYLES[UNTESTED] += ",stroke-dasharray:5"


def flowchart(verdict: Verdict) -> str | None:
    """The circuit, read from below; None where it is larger than Mermaid draws.

    The output has the colour of the outcome, and a node that is not tested a broken line. An arrow
    is labelled with the slot that it goes into, and broken where the node is read by way of others
    too.
    """
    text = "\n".join(_lines(verdict))
    return None if len(text) > MOST_CHARACTERS or len(verdict.circuit.nodes) > MOST_EDGES else text


def _lines(verdict: Verdict) -> Iterator[str]:
    nodes = verdict.circuit.nodes
    ids = {node.path: f"n{i}" for i, node in enumerate(nodes)}
    yield "flowchart BT"
    for node in nodes:
        yield f'  {ids[node.path]}["{_label(node)}"]'
    for node in nodes:
        if node.parent is not None:
            arrow = "-.->" if node.along_every_path else "-->"
            slot = "" if not node.into else f'|"{_quoted(node.into)}"|'
            yield f"  {ids[node.path]} {arrow}{slot} {ids[node.parent]}"
    classes: dict[str, Word] = {
        ids[node.slot]: UNTESTED
        for node in verdict.nodes
        if not node.is_tested and node.slot in ids
    }
    classes |= {ids[node.path]: verdict.word for node in nodes if node.parent is None}
    for outcome in dict.fromkeys(classes.values()):
        yield f"  classDef {outcome} {STYLES[outcome]}"
        yield (
            f"  class {','.join(one for one, own in classes.items() if own == outcome)} {outcome}"
        )


def _label(node: CircuitNode) -> str:
    said = [f"<b>{'<br>'.join(map(_quoted, names(node)))}</b>"]
    return "<br>".join([*said, *map(_quoted, [*stated(node), *rest(node)])])


def _quoted(text: str) -> str:
    """Everything that could be syntax, of Mermaid's or of HTML, as the code of its character."""
    return re.sub(r"[^\w ,]|_", _code, visible(text))


def _code(found: re.Match[str]) -> str:
    """With a word joiner behind it where Mermaid reads the decoded text again: `$$x$$`,
    `fa:fa-car`, line breaks."""
    return f"#{ord(found[0])};" + (WORD_JOINER if found[0] in "$:\\" else "")
