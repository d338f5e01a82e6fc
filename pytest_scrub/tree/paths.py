"""Where the nodes of a tree are, by stable names, and whose donor each takes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

from pytest_scrub.errors import HypothesisError, did_you_mean, located_at
from pytest_scrub.tree.nodes import ROOT, Node
from pytest_scrub.tree.predictions import REFERENCE_ARGUMENT, arguments_of


def node_paths(root: Node) -> list[tuple[str, Node, str | None]]:
    """`(path, node, parent path)` for every node, parents before children."""
    found: list[tuple[str, Node, str | None]] = []

    def walk(node: Node, path: str, parent: str | None) -> None:
        found.append((path, node, parent))
        seen: Counter[str] = Counter()
        for child in node.reads:
            seen[child.label] += 1
            nth = "" if seen[child.label] == 1 else f"#{seen[child.label]}"
            walk(child, f"{path}/{child.label}{nth}", path)

    walk(root, ROOT, None)
    return found


def donor_owners(root: Node) -> dict[str, str]:
    """For every node that says `shares=`, by path, the node whose donor it takes: the sibling of
    that name, or else the one node of the tree that has it.

    **Raises** `HypothesisError` where there is none, or several.
    """
    paths, owners = node_paths(root), dict[str, str]()
    for path, node, parent in paths:
        if node.shares is None:
            continue
        others = [(p, n, above) for p, n, above in paths if n.name is not None and p != path]
        named = [other for other in others if other[1].name == node.shares]
        found = [other for other in named if other[2] == parent] or named
        if len(found) != 1:
            have = "several nodes have" if found else "no other node has"
            names = ", ".join(sorted(str(other.name) for _, other, _ in others))
            with located_at(node):
                raise HypothesisError(
                    f"{path} shares the donor of {node.shares!r}, but {have} that name=; nodes "
                    f"with a name: {names or 'none'}"
                )
        owners[path] = found[0][0]
    return owners


def predicted_from(root: Node) -> dict[str, str | None]:
    """What the predictions of a root read: the path of the node that an argument is called after,
    None for the reference.

    **Raises** `HypothesisError` where there is no such node, or several, or one with a donor for
    each position.
    """
    found: dict[str, str | None] = {}
    if root.predicts is None:
        return found
    named = [(path, node) for path, node, _ in node_paths(root) if node.name is not None]
    for what, function in root.predicts.functions.items():
        for argument in arguments_of(what, function):
            nodes = [(path, node) for path, node in named if node.name == argument]
            if argument == REFERENCE_ARGUMENT and not nodes:
                found[argument] = None
                continue
            with located_at(root, *(node for _, node in nodes)):
                if argument == REFERENCE_ARGUMENT:
                    raise HypothesisError(
                        f"{what} reads {argument!r}, which is the reference, so no node can be "
                        "called that; give the node another name="
                    )
                if len(nodes) != 1:
                    have = "several nodes have" if nodes else "no node has"
                    names = sorted({str(node.name) for _, node in named})
                    raise HypothesisError(
                        f"{what} reads {argument!r}, but {have} that name="
                        f"{did_you_mean(argument, [REFERENCE_ARGUMENT, *names])}; nodes with a "
                        f"name: {', '.join(names) or 'none, so say name= of the one it reads'}"
                    )
                if nodes[0][1].is_each:
                    raise HypothesisError(
                        f"{what} reads {argument!r}, which has a donor of its own for each "
                        "position, so its row is none; name a node without pos=EACH"
                    )
            found[argument] = nodes[0][0]
    return found


def readers(root: Node) -> dict[str, list[str]]:
    """For every node, by path, those that read it, directly or through others, from the root
    down."""
    above: dict[str, list[str]] = {}
    for path, _, parent in node_paths(root):
        above[path] = [] if parent is None else [*above[parent], parent]
    return above


def with_changes(root: Node, change: Callable[[str, Node], Node]) -> Node:
    """The tree in which every node is what `change(path, node)` makes of it, but for what it
    reads."""
    below: dict[str | None, list[tuple[str, Node]]] = {}
    for path, node, parent in node_paths(root):
        below.setdefault(parent, []).append((path, node))

    def settled(path: str, node: Node) -> Node:
        reads = tuple(settled(*child) for child in below.get(path, ()))
        return replace(change(path, node), reads=reads)

    return settled(ROOT, root)
