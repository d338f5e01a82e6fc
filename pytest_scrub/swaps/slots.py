"""The slots of a hypothesis: every place of its tree that takes a donor, under a stable name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from pytest_scrub.errors import HypothesisError, located_at
from pytest_scrub.tree.nodes import ANYTHING, ROOT, Agreement, Node

REFERENCE = -1  # the parent of a slot whose donor must agree with the reference itself


@dataclass(frozen=True)
class Slot:
    """A place of the tree that takes a donor.

    - `path`: stable name, such as `output/head1.0[k]/rest`.
    - `node`: the node whose own input this is or, for a rest, whose rest this is.
    - `agrees_on`: what the donor agrees on with the input in slot `parent` (`REFERENCE`: the
      reference).
    - `shares`: the slot whose donor it takes, where the node says so.
    """

    path: str
    node: Node
    is_rest: bool
    agrees_on: Agreement
    parent: int
    shares: int | None = None


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


def slots_of(root: Node) -> tuple[Slot, ...]:
    """The slots of a tree: every node's own input (the root's only where it names a feature) and
    every rest.

    **Raises** `HypothesisError` where `shares=` names no sibling, or one with another feature, and
    where two slots would have one path.
    """
    slots: list[Slot] = []
    index: dict[str, int] = {}

    def add(slot: Slot) -> None:
        if slot.path in index:
            with located_at(slots[index[slot.path]].node, slot.node):
                raise HypothesisError(
                    f"two slots would be called {slot.path}; give one of the nodes another name="
                )
        index[slot.path] = len(slots)
        slots.append(slot)

    for path, node, parent in node_paths(root):
        above = REFERENCE if parent is None else index.get(parent, REFERENCE)
        if node.agrees_on is not None:
            add(Slot(path, node, False, node.agrees_on, above))
        if node.rest is not None:
            add(Slot(f"{path}/rest", node, True, node.rest, index.get(path, REFERENCE)))
    return tuple(
        slot if slot.is_rest or slot.node.shares is None else _with_shares(slots, slot)
        for slot in slots
    )


def _with_shares(slots: list[Slot], slot: Slot) -> Slot:
    with located_at(slot.node):
        return replace(slot, shares=_shared(slots, slot))


def _shared(slots: list[Slot], slot: Slot) -> int:
    """The slot whose donor this one takes."""
    siblings = [
        (other.node.name, i)
        for i, other in enumerate(slots)
        if other.parent == slot.parent
        and not other.is_rest
        and other.node.name
        and other is not slot
    ]
    sources = [i for name, i in siblings if name == slot.node.shares]
    if len(sources) != 1:
        have = "several siblings have" if sources else "no sibling has"
        raise HypothesisError(
            f"{slot.path} shares the donor of {slot.node.shares!r}, but {have} that name=; "
            f"siblings with a name: {', '.join(sorted(name for name, _ in siblings)) or 'none'}"
        )
    source = sources[0]
    if slots[source].agrees_on != slot.agrees_on or slots[source].node.shares is not None:
        raise HypothesisError(
            f"{slot.path} shares the donor of {slot.node.shares!r}, so both must agree on the same "
            f"({slot.agrees_on} against {slots[source].agrees_on}), and that one must have a donor "
            "of its own"
        )
    return source


def owners_first(slots: tuple[Slot, ...]) -> list[int]:
    """An order in which parents come before children, and who shares a donor after the sibling that
    takes it."""
    before = {
        i: {j for j in (s.parent, s.shares) if j is not None and j != REFERENCE}
        for i, s in enumerate(slots)
    }
    return list(TopologicalSorter(before).static_order())


def with_agreement(root: Node, paths: Collection[str], extra: Agreement) -> Node:
    """The tree in which the slots at these paths agree on `extra` as well; with `EXACT`, they are
    not swapped."""
    nodes = node_paths(root)
    below: dict[str | None, list[tuple[str, Node]]] = {}
    for path, node, parent in nodes:
        below.setdefault(parent, []).append((path, node))

    def settle(path: str, node: Node) -> Node:
        # A computed node takes no activation from a donor, and needs the features that it is
        # computed from.
        finer = path in paths and node.computed_by is None
        own, rest = node.agrees_on or ANYTHING, node.rest or ANYTHING
        return replace(
            node,
            agrees_on=own | extra if finer else node.agrees_on,
            reads=tuple(settle(*child) for child in below.get(path, ())),
            rest=rest | extra if f"{path}/rest" in paths else node.rest,
        )

    return settle(*nodes[0][:2])
