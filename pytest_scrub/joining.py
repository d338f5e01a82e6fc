"""`join(H, H')`: the hypothesis that claims both.

Its allowed swap sets are those that H and H' both allow. What only one of them claims is tied, by the other,
to the other's rest, so it becomes a condition on the rest's donor; where one has a leaf and the other a tree
below it, everything below is tied to the leaf's donor, and the leaf wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import reduce

from pytest_scrub.errors import HypothesisError
from pytest_scrub.hypothesis_tree import ANYTHING, EXACT, HEAD_SLOTS, Agreement, Node, is_head, natural_key

Edge = tuple[object, ...]


def join(first: Node | Agreement, second: Node | Agreement) -> Node | Agreement:
    """The hypothesis that claims what both claim.

    **Arguments**

    - `first`, `second`: roots of trees, or `ANYTHING` (neutral) or `EXACT` (absorbing).

    **Returns** a tree, or `EXACT` / `ANYTHING` where an operand forces it.

    **Raises** `HypothesisError` where both cannot be said in one tree: a node computed in two ways, a child read
    directly in one and along every path in the other, a shared donor whose owner is only claimed in one.
    """
    if EXACT in (first, second):
        return EXACT
    if first == ANYTHING:
        return second
    if second == ANYTHING:
        return first
    for operand in (first, second):
        if not isinstance(operand, Node):
            raise HypothesisError(f"join takes hypotheses, EXACT or ANYTHING, not {operand}")
    assert isinstance(first, Node) and isinstance(second, Node)
    if first.components != second.components:
        raise HypothesisError(f"join takes two roots, not {first.component} and {second.component}")
    return _join_nodes(first, second)


def _join_nodes(a: Node, b: Node) -> Node:
    """Two claims about the same edges."""
    if a.computed_by is not b.computed_by:
        raise HypothesisError(f"cannot join: {a.component} is computed by two different functions, or only by one")
    node = replace(
        a,
        components=tuple(sorted({*a.components, *b.components}, key=natural_key)),
        # A root without a feature is the reference itself: as strict as EXACT.
        agrees_on=None if a.agrees_on is None or b.agrees_on is None else a.agrees_on | b.agrees_on,
        into=a.into if a.into == b.into else None,
        shares=a.shares or b.shares,
        name=_joint_name(a, b),
    )
    if a.rest is None or b.rest is None:
        return replace(node, reads=(), rest=None)
    children, rest = _join_children(a, b, a.rest | b.rest)
    return replace(node, reads=children, rest=rest)


def _joint_name(a: Node, b: Node) -> str | None:
    names = sorted({node.name for node in (a, b) if node.name})
    return "+".join(names) or None


def _edges(parent: Node, child: Node) -> frozenset[Edge]:
    """What a child claims of its parent, in the smallest pieces that the tree itself can tell apart."""
    heads = is_head(parent.components[0])

    def slots(component: str) -> tuple[str | None, ...]:
        return HEAD_SLOTS if heads and child.into is None and component != "mask" else (child.into,)

    return frozenset(
        (component, slot, child.pos, child.subspace) for component in child.components for slot in slots(component)
    )


def _join_children(a: Node, b: Node, rest: Agreement) -> tuple[tuple[Node, ...], Agreement]:
    """The children claimed by both, and what their rest agrees on."""
    children: list[Node] = []
    for block in _blocks(a, b):
        edges_a = frozenset[Edge]().union(*(_edges(a, child) for child in block if child in a.reads))
        edges_b = frozenset[Edge]().union(*(_edges(b, child) for child in block if child in b.reads))
        if edges_a == edges_b:
            children.append(_join_block(block))
        else:
            rest = reduce(Agreement.__or__, (_feature(child) for child in block), rest)
    names = {child.name for child in children}
    for child in children:
        if child.shares is not None and child.shares not in names:
            raise HypothesisError(
                f"cannot join: {child.label} shares the donor of {child.shares}, which only one hypothesis claims"
            )
    return tuple(children), rest


def _feature(node: Node) -> Agreement:
    assert node.agrees_on is not None  # only a root has none
    return node.agrees_on


def _join_block(block: list[Node]) -> Node:
    vias = {node.via for node in block}
    if len(vias) > 1:
        raise HypothesisError(
            f"cannot join: {block[0].component} is read directly in one hypothesis and along every path in the other"
        )
    return reduce(_join_nodes, block)


def _blocks(a: Node, b: Node) -> Iterable[list[Node]]:
    """The children of both, in groups connected by a shared edge: those must take one donor together."""
    blocks: list[tuple[set[Edge], list[Node]]] = []
    for parent in (a, b):
        for child in parent.reads:
            edges = set(_edges(parent, child))
            touching = [block for block in blocks if block[0] & edges]
            for block in touching:
                blocks.remove(block)
            merged = (edges.union(*(e for e, _ in touching)), [n for _, nodes in touching for n in nodes] + [child])
            blocks.append(merged)
    order = [*a.reads, *b.reads]
    return sorted((nodes for _, nodes in blocks), key=lambda nodes: order.index(nodes[0]))
