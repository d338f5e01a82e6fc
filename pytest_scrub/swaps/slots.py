"""The slots of a hypothesis: every place of its tree that takes a donor, under a stable name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from graphlib import TopologicalSorter

from pytest_scrub.data.columns import Places
from pytest_scrub.errors import HypothesisError, located_at
from pytest_scrub.tree.nodes import ANYTHING, Agreement, Node
from pytest_scrub.tree.paths import (
    donor_owners,
    node_paths,
    predicted_from,
    readers,
    with_changes,
)

REFERENCE = -1  # the parent of a slot whose donor must agree with the reference itself


@dataclass(frozen=True)
class Slot:
    """A place of the tree that takes a donor.

    - `path`: stable name, such as `output/head1.0[k]/rest`.
    - `node`: the node whose own input this is or, for a rest, whose rest this is.
    - `agrees_on`: what the donor agrees on with the input in slot `parent` (`REFERENCE`: the
      reference).
    - `shares`: the slot whose donor it takes, where the node says so. What takes one donor agrees
      with the input of the nearest node that reads all of it.
    - `through`: the slots of the nodes in between.
    - `at`: the one position that is swapped, of a node with `pos=EACH`, which has a slot for each
      of `positions`.
    - `shifts`: from how many positions its donors come: with `with_shift=True` from all; see
      `SwapSet`.
    """

    path: str
    node: Node
    is_rest: bool
    agrees_on: Agreement
    parent: int
    shares: int | None = None
    through: tuple[int, ...] = ()
    at: int | None = None
    positions: int = 1
    shifts: int = 1

    @property
    def place(self) -> Places | None:
        """Its own position."""
        return None if self.at is None else Places(range(self.at, self.at + 1), self.positions)

    @property
    def places(self) -> Places | None:
        """The positions of whose values it asks: its own, or those of all that are compared."""
        return self.place if self.shifts == 1 else Places(range(self.shifts), self.positions)

    @property
    def whole(self) -> str:
        """What tables, pictures and searches over nodes call it: all positions of a node are
        one."""
        return self.path if self.at is None else self.path.removesuffix(f"/{self.at}")


Lengths = Callable[[str, Node], int]
"""How many positions a node with `pos=EACH` has, by its path."""


def _without_data(path: str, node: Node) -> int:
    with located_at(node):
        raise HypothesisError(
            f"{path} has pos=EACH, and how many positions there are is known with the dataset only"
        )


def slots_of(root: Node, lengths: Lengths = _without_data) -> tuple[Slot, ...]:
    """The slots of a tree: every node's own input (the root's only where it names a feature), at
    each position where it has `pos=EACH`, and every rest.

    **Raises** `HypothesisError` where `shares=` names no node, or one with another feature, and
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
        if node.agrees_on is not None and node.is_each:
            length = lengths(path, node)
            shifts = length if node.is_shifted else 1
            for at in range(length):
                slot = Slot(f"{path}/{at}", node, False, node.agrees_on, above)
                add(replace(slot, at=at, positions=length, shifts=shifts))
        elif node.agrees_on is not None:
            add(Slot(path, node, False, node.agrees_on, above))
        if node.rest is not None:
            add(Slot(f"{path}/rest", node, True, node.rest, index.get(path, REFERENCE)))
    nodes = {path: node for path, node, _ in node_paths(root)}
    for owner, takers in _by_owner(root).items():
        kinds = {(nodes[path].is_each, nodes[path].is_shifted) for path in (owner, *takers)}
        if len(kinds) > 1:
            alike = len({is_each for is_each, _ in kinds}) == 1
            differ, give = (
                ("from any position", "EACH(with_shift=True)")
                if alike
                else ("for each position", "pos=EACH")
            )
            with located_at(*(nodes[path] for path in takers)):
                raise HypothesisError(
                    f"{', '.join(takers)} and {owner} share donors, but only some have them "
                    f"{differ}; give all of them {give}, or none"
                )
        count = lengths(owner, nodes[owner]) if nodes[owner].is_each else None
        for place in [""] if count is None else [f"/{at}" for at in range(count)]:
            _share(slots, index, readers(root), owner, takers, place)
    if root.predicts is not None and root.predicts.apart:
        again: dict[int, int] = {}
        for source in predicted_from(root).values():
            if source is not None:
                _drawn_again(index[source], slots, add, again)
    return tuple(slots)


def predicted_path(path: str) -> str:
    """The slot of another draw, for the same reference, of what is in a slot."""
    return f"{path}/predicted"


def _drawn_again(
    i: int, slots: Sequence[Slot], add: Callable[[Slot], None], again: dict[int, int]
) -> int:
    """Add a slot for another draw of what is in one, and of all that it depends on, unless it is
    there."""
    slot = slots[i]
    if slot.shares is not None:
        return _drawn_again(slot.shares, slots, add, again)
    if i not in again:
        above = slot.parent
        if above != REFERENCE:
            above = _drawn_again(above, slots, add, again)
        again[i] = len(slots)
        add(replace(slot, path=predicted_path(slot.path), parent=above, through=()))
    return again[i]


def _by_owner(root: Node) -> dict[str, list[str]]:
    """Of every node whose donor others take, by path, those that do."""
    found: dict[str, list[str]] = {}
    for path, owner in donor_owners(root).items():
        found.setdefault(owner, []).append(path)
    return found


def _share(
    slots: list[Slot],
    index: dict[str, int],
    above: dict[str, list[str]],
    owner: str,
    takers: list[str],
    place: str,
) -> None:
    """Let slots take one donor; `place`: what their paths end with, after those of the nodes."""
    source = slots[index[owner + place]]
    for path in takers:
        slot = slots[index[path + place]]
        if source.agrees_on != slot.agrees_on or source.node.shares is not None:
            with located_at(slot.node):
                raise HypothesisError(
                    f"{path} shares the donor of {slot.node.shares!r}, so both must agree on the "
                    f"same ({slot.agrees_on} against {source.agrees_on}), and that one must have a "
                    "donor of its own"
                )
    common = [node for node in above[owner] if all(node in above[path] for path in takers)]
    for path in (owner, *takers):
        slots[index[path + place]] = replace(
            slots[index[path + place]],
            parent=index.get(common[-1], REFERENCE),
            shares=None if path == owner else index[owner + place],
            through=tuple(index[between] for between in above[path][len(common) :]),
        )


def owners_first(slots: tuple[Slot, ...]) -> list[int]:
    """An order in which parents come before children, and who shares a donor after the one that
    takes it."""
    before = {
        i: {j for j in (s.parent, s.shares) if j is not None and j != REFERENCE}
        for i, s in enumerate(slots)
    }
    return list(TopologicalSorter(before).static_order())


def with_agreement(root: Node, paths: Collection[str], extra: Agreement) -> Node:
    """The tree in which the slots at these paths agree on `extra` as well; with `EXACT`, they are
    not swapped."""

    def finer(path: str, node: Node) -> Node:
        # A computed node takes no activation from a donor, and needs the features that it is
        # computed from.
        if path in paths and node.computed_by is None:
            node = replace(node, agrees_on=(node.agrees_on or ANYTHING) | extra)
        if f"{path}/rest" in paths:
            node = replace(node, rest=(node.rest or ANYTHING) | extra)
        return node

    return with_changes(root, finer)
