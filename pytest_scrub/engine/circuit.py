"""A hypothesis as a drawing: its nodes on the levels of the network."""

from __future__ import annotations

from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.tree.nodes import Node
from pytest_scrub.tree.paths import node_paths
from pytest_scrub.verdict import Circuit, CircuitNode


def circuit_of(hypothesis: Node, graph: ModelGraph) -> Circuit:
    """The levels of a transformer are its embeddings, the attention and the MLP of each layer, its
    output, and the streams that the hypothesis names; those of any other network are the components
    that the hypothesis names, in order of computation."""
    paths = node_paths(hypothesis)
    named = {graph.parts[name].level for _, node, _ in paths for name in node.components}
    every = (
        part.level
        for part in graph.parts.values()
        if (graph.adds and part.is_drawn) or part.level in named
    )
    levels = list(dict.fromkeys(every))
    nodes = (
        CircuitNode(
            path=path,
            parent=parent,
            components=tuple(graph.parts[name].title for name in node.components),
            level=max(levels.index(graph.parts[name].level) for name in node.components),
            into=node.into,
            agrees_on=None if node.edited or node.agrees_on is None else str(node.agrees_on),
            rest=None if node.rest is None else str(node.rest),
            positions=None if node.pos is None else str(node.pos),
            subspace=None if node.subspace is None else str(node.subspace),
            along_every_path=parent is not None and (node.via == "any" or not graph.reads_directly),
            is_computed=node.computed_by is not None,
            edited=None if node.edited is None else str(node.edited),
            predicts=None if node.predicts is None else str(node.predicts),
        )
        for path, node, parent in paths
    )
    return Circuit(tuple(levels), tuple(nodes))
