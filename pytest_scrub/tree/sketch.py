"""A hypothesis as a drawing, before it is brought to a network."""

from __future__ import annotations

from pytest_scrub.tree.nodes import Node
from pytest_scrub.tree.paths import node_paths
from pytest_scrub.verdict import Circuit, CircuitNode


def sketch(hypothesis: Node) -> Circuit:
    """Its nodes on levels without a name, each on the one below the node that reads it."""
    paths = node_paths(hypothesis)
    depths: dict[str | None, int] = {None: -1}
    for path, _, parent in paths:
        depths[path] = depths[parent] + 1
    deepest = max(depths.values())
    nodes = (
        CircuitNode(
            path=path,
            parent=parent,
            components=node.components,
            level=deepest - depths[path],
            into=node.into,
            agrees_on=None if node.edited or node.agrees_on is None else str(node.agrees_on),
            rest=None if node.rest is None else str(node.rest),
            positions=None if node.pos is None else str(node.pos),
            subspace=None if node.subspace is None else str(node.subspace),
            along_every_path=parent is not None and node.via == "any",
            is_computed=node.computed_by is not None,
            edited=None if node.edited is None else str(node.edited),
            predicts=None if node.predicts is None else str(node.predicts),
        )
        for path, node, parent in paths
    )
    return Circuit(("",) * (deepest + 1), tuple(nodes))
