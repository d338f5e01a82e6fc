"""A hypothesis as a drawing: its nodes on the levels of the network."""

from __future__ import annotations

import re

from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.swaps.slots import node_paths
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import Circuit, CircuitNode

PARTS_OF_A_TRANSFORMER = {"embed": "embeddings", "pos_embed": "embeddings", "mask": "embeddings"}


def circuit_of(hypothesis: Node, graph: ModelGraph) -> Circuit:
    """The levels of a transformer are its embeddings, the attention and the MLP of each layer, and
    its output; those of any other network are the components that the hypothesis names, in order of
    computation."""
    paths = node_paths(hypothesis)
    named = {component for _, node, _ in paths for component in node.components}
    shown = [name for name in graph.components if graph.adds or name in named]
    levels = list(dict.fromkeys(_level(name) if graph.adds else name for name in shown))
    nodes = []
    for path, node, parent in paths:
        own = [_level(name) if graph.adds else name for name in node.components]
        nodes.append(
            CircuitNode(
                path=path,
                parent=parent,
                components=node.components,
                level=max(levels.index(level) for level in own),
                into=node.into,
                agrees_on=None if node.agrees_on is None else str(node.agrees_on),
                rest=None if node.rest is None else str(node.rest),
                positions=None if node.pos is None else str(node.pos),
                subspace=None if node.subspace is None else str(node.subspace),
                along_every_path=parent is not None
                and (node.via == "any" or not graph.reads_directly),
                is_computed=node.computed_by is not None,
            )
        )
    return Circuit(tuple(levels), tuple(nodes))


def _level(component: str) -> str:
    """Where a component of a transformer lies, in words."""
    layer = re.fullmatch(r"(head|mlp)(\d+)(?:\.\d+)?", component)
    if layer is None:
        return PARTS_OF_A_TRANSFORMER.get(component, component)
    return f"attention {layer[2]}" if layer[1] == "head" else f"MLP {layer[2]}"
