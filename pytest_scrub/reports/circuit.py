"""What a circuit's drawings say in its boxes, whoever draws them."""

from __future__ import annotations

from pytest_scrub.verdict import CircuitNode


def names(node: CircuitNode) -> list[str]:
    """What a node is of the network."""
    count = len(node.components)
    return [f"group of {count}", *node.components] if count > 1 else [*node.components]


def stated(node: CircuitNode) -> list[str]:
    """What the hypothesis says of it."""
    statements = {
        f"at {node.positions}": node.positions is not None,
        f"in {node.subspace}": node.subspace is not None,
        "computed by a function": node.is_computed,
        str(node.edited): node.edited is not None,
        "read along every path": node.along_every_path,
        f"agrees on {node.agrees_on}": node.agrees_on is not None,
        str(node.predicts): node.predicts is not None,
    }
    return [text for text, applies in statements.items() if applies]


def rest(node: CircuitNode) -> list[str]:
    """What it says of everything else that the node reads, where it has such a rest."""
    return [] if node.rest is None else [f"rest agrees on {node.rest}"]
