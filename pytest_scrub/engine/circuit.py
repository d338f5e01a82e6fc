"""A hypothesis as a drawing: its nodes on the levels of the network."""

from __future__ import annotations

from dataclasses import replace

from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.tree.nodes import Node
from pytest_scrub.tree.sketch import sketch
from pytest_scrub.verdict import Circuit


def circuit_of(hypothesis: Node, graph: ModelGraph) -> Circuit:
    """The levels of a transformer are its embeddings, the attention and the MLP of each layer, its
    output, and the streams that the hypothesis names; those of any other network are the components
    that the hypothesis names, in order of computation."""
    nodes = sketch(hypothesis).nodes
    named = {graph.parts[name].level for node in nodes for name in node.components}
    every = (
        part.level
        for part in graph.parts.values()
        if (graph.adds and part.is_drawn) or part.level in named
    )
    levels = list(dict.fromkeys(every))
    placed = (
        replace(
            node,
            components=tuple(graph.parts[name].title for name in node.components),
            level=max(levels.index(graph.parts[name].level) for name in node.components),
            along_every_path=node.along_every_path
            or (node.parent is not None and not graph.reads_directly),
        )
        for node in nodes
    )
    return Circuit(tuple(levels), tuple(placed))
