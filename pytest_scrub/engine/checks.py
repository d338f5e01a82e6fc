"""Static checks of a hypothesis against a network and a dataset: each error one sentence with a
remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, product

import numpy as np
import torch

from pytest_scrub.common.user_code import require_arguments
from pytest_scrub.data.dataset import Dataset, Positions
from pytest_scrub.errors import DataError, HypothesisError, located_at
from pytest_scrub.metrics import MetricPosition
from pytest_scrub.network.graph import Component, ModelGraph, Site, require_component
from pytest_scrub.swaps.each import length_of
from pytest_scrub.tree.nodes import ROOT, Each, Node, Span
from pytest_scrub.tree.paths import node_paths
from pytest_scrub.tree.units import shown


@dataclass
class CheckedHypothesis:
    """A hypothesis whose names, slots and positions are known to exist.

    - `positions`: node path to its positions; None where the node names none. Those of the output
      are the ones that the metric reads.
    - `one_position`: whether the metric names one position of the output for each row.
    - `examples`: see `example`.
    """

    graph: ModelGraph
    dataset: Dataset
    positions: dict[str, Positions | None] = field(default_factory=dict)
    one_position: bool = False
    examples: dict[Site, torch.Tensor] = field(default_factory=dict)

    @property
    def output(self) -> Positions | None:
        """The output positions that the metric reads, None for all of the output."""
        return self.positions[ROOT]

    def is_anywhere(self, node: Node) -> bool:
        """Whether the node is read along every path."""
        return node.via == "any" or (node.via is None and not self.graph.reads_directly)

    def parts(self, node: Node) -> tuple[tuple[str, ...], ...]:
        """Its components, those together whose values what reads them reads the sum of."""
        together: dict[tuple[bool, str], list[str]] = {}
        for name in node.components:
            part = self.graph.parts[name]
            is_summed = part.adds and not self.is_anywhere(node)
            together.setdefault((is_summed, part.sum if is_summed else name), []).append(name)
        return tuple(map(tuple, together.values()))

    def resolve(self, spec: int | slice | Span | str, component: str, where: str) -> Positions:
        """The positions `spec` names in a component's activation."""
        value = self.example(component)
        if value.ndim < 2:
            raise HypothesisError(
                f"{where}: {component} has no positions, one number for each input; leave pos= out"
            )
        if isinstance(spec, str) and spec not in self.dataset.feature_names:
            try:
                self.dataset.feature(spec)
            except DataError as error:
                raise DataError(f"{where}: {error}") from None
        return self.dataset.positions(spec, value.shape[1], where=where)

    def width(self, component: str) -> int | None:
        """Of the vectors that a subspace is one of; None where an activation is one number for each
        input."""
        known = self.graph.parts[component].width
        if known is None and self.example(component).ndim > 1:
            return self.example(component).shape[-1]
        return known

    def example(self, component: str) -> torch.Tensor:
        """A component's activation on the first row, `[1, ...]`: for its shape and type."""
        site = Site("value", (component,))
        if site not in self.examples:
            with torch.no_grad():
                self.examples.update(self.graph.capture([site], self.dataset.batch([0])))
        return self.examples[site]


def check_hypothesis(
    graph: ModelGraph,
    dataset: Dataset,
    root: Node,
    metric_pos: MetricPosition,
    examples: dict[Site, torch.Tensor] | None = None,
) -> CheckedHypothesis:
    """Every static error, but for features, which the swap space checks.

    `examples`: of this network and dataset, where some may be known; see `CheckedHypothesis`.

    **Raises** `HypothesisError` or `DataError` with the node's path and what to do.
    """
    checked = CheckedHypothesis(graph, dataset, examples={} if examples is None else examples)
    pos = dataset.label_pos if metric_pos is None else metric_pos
    if pos is not None:
        where = "pos= of the metric" if metric_pos is not None else "label_pos= of the Dataset"
        checked.positions[ROOT] = checked.resolve(pos, ROOT, where)
        column = dataset.feature(pos).ndim == 1 if isinstance(pos, str) else False
        checked.one_position = column or isinstance(pos, int)
    paths = node_paths(root)
    nodes = {path: node for path, node, _ in paths}
    for path, node, parent in paths:
        with located_at(node):
            _check_node(checked, path, node)
            if parent is not None:
                _check_edge(checked, path, node, nodes[parent])
    siblings: dict[str, list[tuple[str, Claimed]]] = {}
    for path, node, parent in paths:
        if parent is not None:
            above, claimed = nodes[parent], _claimed(checked, nodes[parent], node)
            for other, others in siblings.setdefault(parent, []):
                with located_at(nodes[other], node):
                    if graph.parts[above.component].instead:
                        _check_instead(checked, above, (path, claimed), (other, others))
                        _check_instead(checked, above, (other, others), (path, claimed))
                    both = _common(others, claimed)
                    if both and not _in_one_run(checked, nodes[other], node):
                        _check_siblings(checked, above, {other: nodes[other], path: node}, both)
            siblings[parent].append((path, claimed))
    # where a node's value is looked at, None for anywhere
    seen = {ROOT: checked.output}
    for path, node, parent in paths:
        if parent is not None:
            with located_at(node):
                seen[path] = _seen(checked, path, node, nodes[parent], seen[parent])
    return checked


def _check_node(checked: CheckedHypothesis, path: str, node: Node) -> None:
    for component in node.components:
        require_component(checked.graph, component, path)
    for one, other in combinations(node.components, 2):
        parts = checked.graph.parts
        if common := parts[one].common(parts[other]):
            raise HypothesisError(
                f"{path}: {shown(one)} and {shown(other)} are one group, but both hold {common}; "
                "leave one of them out"
            )
    checked.positions.setdefault(path)
    if isinstance(node.pos, Each):
        _check_each(checked, path, node)
    elif node.pos is not None:
        checked.positions[path] = checked.resolve(node.pos, node.components[0], f"pos= of {path}")
    if node.pos is None and node.subspace is None:
        return
    for component in node.components:
        if checked.graph.parts[component].divisible:
            continue
        value = checked.example(component)
        if value.is_floating_point() or (value.dtype != torch.bool and node.subspace is None):
            continue
        kind = str(value.dtype).removeprefix("torch.")
        part = "pos=" if node.subspace is None else "subspace="
        raise HypothesisError(
            f"{path}: {part} names a part of an activation, but those of {component} are {kind}, "
            f"not floating-point numbers; leave {part} out, or claim what is computed from them"
        )


def _check_each(checked: CheckedHypothesis, path: str, node: Node) -> None:
    """**Raises** where a node has other positions than its features."""
    length = length_of(checked.dataset, path, node)
    for component in node.components:
        has = checked.resolve(Span(None, None, None), component, f"pos= of {path}").index.size
        if has != length:
            raise HypothesisError(
                f"{path}: pos=EACH has a donor for each of {length} positions, as what it agrees "
                f"on has, but {component} has {has} positions"
            )


def _check_edge(checked: CheckedHypothesis, path: str, node: Node, parent: Node) -> None:
    graph, above, anywhere = checked.graph, parent.component, checked.is_anywhere(node)
    if node.via == "direct" and not graph.reads_directly:
        raise HypothesisError(
            f"{path}: components of {graph.source} are always read along every path"
            f"{_since(graph)}; leave via= out"
        )
    for component in node.components:
        slots = graph.slots(above, component, anywhere)
        if not slots:
            raise HypothesisError(
                f"{path}: {above} cannot read {shown(component)}{_reason(graph, above, component)}"
            )
        if node.into is not None and node.into not in slots:
            raise HypothesisError(
                f"{path}: {above} reads {component} {_listed(slots)}{_since(graph)}, not "
                f"into={node.into!r}"
            )
        if refusal := graph.parts[component].refusal(node, checked.dataset):
            raise HypothesisError(f"{path}: {refusal}")
        if node.subspace is not None and node.subspace.width != (width := checked.width(component)):
            numbers = (
                "no dimension but the rows'; leave subspace= out"
                if width is None
                else f"{width} numbers"
            )
            raise HypothesisError(
                f"{path}: subspace= has {node.subspace.width} rows, but activations of "
                f"{shown(component)} have {numbers}"
            )
        if node.edited is not None and node.edited.width != (width := checked.width(component)):
            has = "one number for each input" if width is None else f"{width} numbers"
            raise HypothesisError(
                f"{path}: the vector of edit has {node.edited.width} numbers, but activations of "
                f"{shown(component)} have {has}"
            )
    if node.computed_by is not None and node.agrees_on is not None:
        require_arguments(
            f"{path}: computed_by=", node.computed_by, node.agrees_on.features, HypothesisError
        )
    if node.computed_by is not None and len(checked.parts(node)) > 1:
        reason = (
            "read directly"
            if anywhere or not all(graph.parts[name].adds for name in node.components)
            else "of one layer's attention, since what that adds is normalised or scaled as a whole"
        )
        raise HypothesisError(
            f"{path}: computed_by= of a group gives the sum of its members, so they must be "
            f"{reason}"
        )


def _reason(graph: ModelGraph, parent: str, child: str) -> str:
    if graph.parts[child].hint is not None:
        return f": {graph.parts[child].hint}"
    if not graph.reads_directly:
        return ", which is computed later or not at all before it"
    if graph.slots(parent, child, True):
        return " directly; use via='any' for every path between them"
    return ", which is not computed before it"


def _since(graph: ModelGraph) -> str:
    return "" if graph.indirect is None else f", since {graph.indirect}"


def _listed(slots: tuple[str, ...]) -> str:
    return (
        f"into {', '.join(slots[:-1])} or {slots[-1]}"
        if len(slots) > 1
        else "in one way only, without into="
    )


def _slots(checked: CheckedHypothesis, parent: Node, node: Node, component: str) -> set[str]:
    """The parent's slots into which a member of the node goes."""
    slots = checked.graph.slots(parent.component, component, checked.is_anywhere(node))
    return {slot for slot in slots if node.into in (None, slot)}


Claimed = Sequence[tuple[Component, set[str]]]
"""The components of a node, each with the parent's slots into which it goes."""


def _claimed(checked: CheckedHypothesis, parent: Node, node: Node) -> Claimed:
    return [
        (checked.graph.parts[name], _slots(checked, parent, node, name)) for name in node.components
    ]


def _in_one_run(checked: CheckedHypothesis, one: Node, other: Node) -> bool:
    """Whether one of two nodes is an edit and both are of one run, each at a place of its own: then
    the later one finds what the earlier one did."""
    are_edits = one.edited is not None or other.edited is not None
    along = checked.is_anywhere(one) and checked.is_anywhere(other)
    return are_edits and along and not {*one.components} & {*other.components}


def _common(some: Claimed, others: Claimed) -> str:
    """Something that both hold and one slot of the parent reads; empty where there is nothing."""
    meet = (
        one.common(other) for (one, slots), (other, more) in product(some, others) if slots & more
    )
    return next(filter(None, meet), "")


def _check_siblings(
    checked: CheckedHypothesis, parent: Node, children: dict[str, Node], both: str
) -> None:
    """**Raises** where two children that hold the same and go into the same slot claim it twice."""
    a, b = children.values()
    if (
        a.subspace is not None
        and b.subspace is not None
        and a.subspace.is_orthogonal_to(b.subspace)
    ):
        return
    here, there = (checked.positions[path] for path in children)
    if here is not None and there is not None:
        mine = np.atleast_2d(here.index)[:, :, None]
        theirs = np.atleast_2d(there.index)[:, None, :]
        if not ((mine == theirs) & (mine >= 0)).any():
            return
    is_plain = all(both in node.components for node in children.values())
    reason = "" if is_plain else f", as {shown(both)} goes into both"
    raise HypothesisError(
        f"{' and '.join(children)} claim the same edge into {parent.component} twice{reason}; join "
        "them into one node, or part them by into=, pos= or orthogonal subspaces"
    )


def _check_instead(
    checked: CheckedHypothesis, parent: Node, given: tuple[str, Claimed], other: tuple[str, Claimed]
) -> None:
    """**Raises** where a node is read in place of what another goes into."""
    slots, others = (set[str]().union(*(into for _, into in node)) for _, node in (given, other))
    instead = checked.graph.parts[parent.component].instead
    unread = {unread for slot in slots for unread in instead.get(slot, ())}
    if unread & others:
        free = sorted(others - unread)
        remedy = f"say into={free[0]!r}, or put it" if free else "put it"
        raise HypothesisError(
            f"{given[0]} is read in place of {' and '.join(sorted(unread & others))} of "
            f"{parent.component}, into which {other[0]} goes; {remedy} under {given[0]}"
        )


def _seen(
    checked: CheckedHypothesis, path: str, child: Node, parent: Node, seen: Positions | None
) -> Positions | None:
    """The positions at which a child is looked at, of a parent that is looked at at `seen`.

    **Raises** `HypothesisError` where the child is put in where nobody looks.
    """
    slots = set[str]().union(*(_slots(checked, parent, child, name) for name in child.components))
    above, at = checked.graph.parts[parent.component], checked.positions[path]
    if checked.is_anywhere(child) or not all(map(above.reads_in_place, slots)):
        return at
    if at is None or seen is None:
        return at or seen
    if at.static and seen.static and not np.intersect1d(at.index, seen.index).size:
        raise HypothesisError(
            f"{path}: {parent.component} is read at position "
            f"{', '.join(map(str, seen.index.tolist()))} only, so swapping {child.component} at "
            f"{', '.join(map(str, at.index.tolist()))} would change nothing"
        )
    return at


def require_floating(output: torch.Tensor, source: str) -> None:
    """**Raises** `DataError` where a network returns integers."""
    if not output.is_floating_point():
        raise DataError(
            f"{source} returns {str(output.dtype).removeprefix('torch.')} numbers; a metric needs "
            "floating-point outputs such as logits, so return those"
        )
