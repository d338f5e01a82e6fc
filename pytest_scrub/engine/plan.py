"""A hypothesis compiled for one network and one dataset: what to cache, what to gather, what to
recompute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from pytest_scrub.data.dataset import Positions
from pytest_scrub.engine.checks import CheckedHypothesis
from pytest_scrub.network.graph import Edit, FixedPositions, Reader, Site, kept_positions
from pytest_scrub.swaps.each import length_of
from pytest_scrub.swaps.slots import REFERENCE, slots_of
from pytest_scrub.tree.nodes import ROOT, Node
from pytest_scrub.tree.paths import node_paths


@dataclass(frozen=True)
class Step:
    """One compiled node.

    - `carrier`: the slot whose row its tensors are computed on, or `REFERENCE`.
    - `donor`: the slot of its own input, or `REFERENCE`.
    - `each`: where it has a donor for each position, their slots; the first is its carrier and its
      donor.
    - `positions`: its own, where it names some; of the output those that the metric reads.
    - `parts`: the components whose values it gives its parent, each summed; one edit of the parent
      each.
    - `sites`: the clean activations that it takes: the values of a leaf's parts, or what the reader
      of any other node reads.
    - `reader`: of a non-leaf, and of the output.
    - `edits`: what its children change of what it reads, one for each of their parts.
    - `same`: whether its value is wanted where its parent's is; else at all positions.
    """

    path: str
    node: Node
    carrier: int
    donor: int
    each: tuple[int, ...]
    positions: Positions | None
    parts: tuple[tuple[str, ...], ...]
    sites: tuple[Site, ...]
    reader: Reader | None
    edits: tuple[Edit, ...]
    same: bool
    children: tuple[Step, ...]

    def walk(self) -> Iterator[Step]:
        """This step and all below."""
        yield self
        for child in self.children:
            yield from child.walk()


def compile_plan(root: Node, checked: CheckedHypothesis) -> Step:
    """The root step of a hypothesis that passed the static checks."""
    graph, paths = checked.graph, node_paths(root)
    slots, each = dict[str, int](), dict[str, list[int]]()
    for i, slot in enumerate(slots_of(root, partial(length_of, checked.dataset))):
        slots.setdefault(slot.whole, i)
        if slot.at is not None:
            each.setdefault(slot.whole, []).append(i)

    def site_of(node: Node, part: tuple[str, ...], at: FixedPositions) -> Site:
        # a function gives the value itself, and a subspace is one of values
        is_part = node.subspace is not None or node.edited is not None
        is_value = node.computed_by or (node.is_leaf and is_part)
        return Site("value", part, at) if is_value else graph.value_site(part, at)

    def edits_of(path: str, node: Node) -> Iterator[Edit]:
        at, anywhere = checked.positions[path], checked.is_anywhere(node)
        for part in checked.parts(node):
            site = site_of(node, part, None)
            yield Edit(part, node.into, at, node.subspace, anywhere, site, node.edited)

    def step(path: str, node: Node, wanted: Positions | None, same: bool) -> Step:
        own, parts = checked.positions[path], checked.parts(node)
        at = wanted if own is None else own
        reader, edits, below, sites = None, tuple[Edit, ...](), [], tuple[Site, ...]()
        if node.components == (ROOT,) or not node.is_leaf:
            children = [(child_path, child) for child_path, child, above in paths if above == path]
            owned = [(child[0], edit) for child in children for edit in edits_of(*child)]
            edits = tuple(edit for _, edit in owned)
            reader = graph.reader(node.component, edits, at)
            sites = reader.sites
            needed = zip(owned, reader.child_positions, strict=True)
            everywhere = {owner for (owner, _), word in needed if word != "same"}
            for child_path, child in children:
                as_mine = child_path not in everywhere
                below.append(step(child_path, child, at if as_mine else None, as_mine))
        elif node.computed_by is None and node.edited is None:
            # donors from other positions may be read at any
            kept = None if node.is_shifted else kept_positions(at)
            sites = tuple(site_of(node, part, kept) for part in parts)
        return Step(
            path=path,
            node=node,
            carrier=slots.get(path if node.is_leaf else f"{path}/rest", REFERENCE),
            donor=slots.get(path, REFERENCE),
            each=tuple(each.get(path, ())),
            positions=own,
            parts=parts,
            sites=sites,
            reader=reader,
            edits=edits,
            same=same,
            children=tuple(below),
        )

    return step(ROOT, root, None, True)
