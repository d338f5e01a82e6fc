"""A hypothesis compiled for one network and one dataset: what to cache, what to gather, what to
recompute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pytest_scrub.data.dataset import Positions
from pytest_scrub.engine.checks import Checked
from pytest_scrub.network.graph import Edit, Reader, Site, kept
from pytest_scrub.swaps.slots import node_paths, slots_of
from pytest_scrub.tree.nodes import ROOT, Node


@dataclass(frozen=True)
class Step:
    """One compiled node.

    - `carrier`: the slot whose row its tensors are computed on; None = the reference.
    - `donor`: the slot of its own input; None = the reference.
    - `positions`: its own, where it names some.
    - `parts`: the components whose values it gives its parent, each summed; one edit of the parent
      each.
    - `sites`: of a leaf, where the values of the parts are kept.
    - `reader`: of a non-leaf, and of the output.
    - `same`: whether its value is wanted where its parent's is; else at all positions.
    """

    path: str
    node: Node
    carrier: int | None
    donor: int | None
    positions: Positions | None
    parts: tuple[tuple[str, ...], ...]
    sites: tuple[Site, ...]
    reader: Reader | None
    same: bool
    children: tuple[Step, ...]

    def walk(self) -> Iterator[Step]:
        """This step and all below."""
        yield self
        for child in self.children:
            yield from child.walk()


def compile_plan(root: Node, checked: Checked) -> Step:
    """The root step of a hypothesis that passed the static checks."""
    slots = {slot.path: i for i, slot in enumerate(slots_of(root))}
    children: dict[str, list[tuple[str, Node]]] = {}
    for path, node, parent in node_paths(root):
        children.setdefault(path, [])
        if parent is not None:
            children[parent].append((path, node))

    def parts_of(node: Node) -> tuple[tuple[str, ...], ...]:
        adding = () if checked.is_anywhere(node) else checked.adding(node)
        alone = tuple((name,) for name in node.components if name not in adding)
        return ((adding,) if adding else ()) + alone

    def edits_of(path: str, node: Node) -> list[Edit]:
        at, anywhere = checked.positions[path], checked.is_anywhere(node)
        return [
            Edit(part, node.into, at, node.subspace, anywhere, site(node, part))
            for part in parts_of(node)
        ]

    def site(node: Node, part: tuple[str, ...]) -> Site:
        # a function gives the value itself
        is_computed = node.computed_by is not None
        return Site("value", part) if is_computed else checked.graph.value_site(part, None)

    def step(path: str, node: Node, wanted: Positions | None, same: bool) -> Step:
        own = checked.positions[path]
        at = wanted if own is None else own
        reader, below = None, []
        if node.components == (ROOT,) or not node.is_leaf:
            edits = [(child, edit) for child, n in children[path] for edit in edits_of(child, n)]
            reader = checked.graph.reader(node.component, [edit for _, edit in edits], at)
            for child_path, child in children[path]:
                wide = [
                    word
                    for (owner, _), word in zip(edits, reader.child_positions, strict=True)
                    if owner == child_path
                ]
                as_mine = set(wide) == {"same"}
                below.append(step(child_path, child, at if as_mine else None, as_mine))
        parts = parts_of(node)
        leaf = reader is None and node.computed_by is None
        return Step(
            path=path,
            node=node,
            carrier=slots.get(path if node.is_leaf else f"{path}/rest"),
            donor=slots.get(path),
            positions=own,
            parts=parts,
            sites=tuple(checked.graph.value_site(part, kept(at)) for part in parts) if leaf else (),
            reader=reader,
            same=same,
            children=tuple(below),
        )

    return step(ROOT, root, checked.output, True)
