"""What a claim about a graph of functions means, by enumeration: every allowed swap, its
probability and its change.

Only the tree is read. Allowed donors come from the features' values, what a node computes from
calling its functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_scrub.tree.nodes import ROOT, Agreement, Node
from pytest_scrub.tree.paths import node_paths

Rows = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Features = Mapping[str, npt.NDArray[Any]]  # name to column


@dataclass(frozen=True)
class Functions:
    """A network: name to what it reads, and a function of that; the inputs are tensors `[rows]`."""

    reads: Mapping[str, tuple[str, ...]]
    calls: Mapping[str, Callable[..., Tensor]]
    inputs: Mapping[str, Tensor]

    def run(self, rows: Rows, replaced: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every value of a run on these rows, where some are replaced as soon as they are
        computed."""
        values = {name: tensor.clone()[rows] for name, tensor in self.inputs.items()}
        values |= {name: replaced[name] for name in values if name in replaced}
        for name, call in self.calls.items():
            arguments = [values[argument].clone() for argument in self.reads[name]]
            values[name] = replaced[name] if name in replaced else call(*arguments)
        return values

    def above(self, name: str) -> list[str]:
        """Whatever it depends on."""
        found = list(self.reads.get(name, ()))
        for argument in found:
            found += [other for other in self.above(argument) if other not in found]
        return found


@dataclass(frozen=True)
class Swaps:
    """Every allowed swap of every reference: a row for each slot, and how probable each is for its
    reference."""

    references: Rows
    donors: Mapping[str, Rows]
    weights: Numbers


def combinations(root: Node, features: Features, rows: int) -> int:
    """At most so many allowed swaps for one reference."""
    shared, everyone = _shared(root), np.arange(rows)
    sizes = [
        max(map(len, _allowed(on, features, everyone)))
        for path, _, on in _slots(root)
        if path not in shared
    ]
    return int(np.prod(sizes, dtype=np.float64))


def every_swap(
    root: Node, features: Features, references: Rows, rows: int, donors: Rows | None = None
) -> Swaps:
    """All swaps that a claim allows; with all rows as donors by default."""
    among = np.arange(rows) if donors is None else donors
    table: dict[str, Rows] = {"": references}
    weights = np.ones(len(references))
    shared = _shared(root)
    for path, parent, on in _slots(root):
        if path in shared:
            table[path] = table[shared[path]]
            continue
        allowed = _allowed(on, features, among, rows)
        lists = [allowed[row] for row in table[parent if parent in table else ""]]
        counts = np.array([len(one) for one in lists])
        at = np.repeat(np.arange(len(counts)), counts)
        table = {name: column[at] for name, column in table.items()}
        table[path], weights = np.concatenate(lists), (weights / counts)[at]
    return Swaps(table.pop(""), table, weights)


def _slots(root: Node) -> list[tuple[str, str, Agreement]]:
    """Path, parent and agreement of every place that takes a donor; lenders before those that
    share."""
    found = []
    for path, node, parent in node_paths(root):
        if node.agrees_on is not None:
            found.append((path, parent or "", node.agrees_on))
        if node.rest is not None:
            found.append((f"{path}/rest", path, node.rest))
    shared = _shared(root)
    # who shares a donor is a leaf here, so nobody's parent
    return sorted(found, key=lambda slot: slot[0] in shared)


def _shared(root: Node) -> dict[str, str]:
    paths = node_paths(root)
    named = {(parent, node.name): path for path, node, parent in paths if node.name}
    return {path: named[parent, node.shares] for path, node, parent in paths if node.shares}


def _allowed(
    on: Agreement, features: Features, among: Rows, rows: int | None = None
) -> list[npt.NDArray[np.int64]]:
    """For every row the donors that agree with it, and the row itself."""
    size = len(among) if rows is None else rows
    if on.exact:
        return [np.array([row]) for row in range(size)]
    values = [tuple(features[name][row] for name in on.features) for row in range(size)]
    alike: dict[tuple[Any, ...], list[int]] = {}
    for row in among:
        alike.setdefault(values[row], []).append(int(row))
    outside = set(range(size)) - {int(row) for row in among}
    agreeing = {value: np.array(rows) for value, rows in alike.items()}
    return [
        np.array([*alike.get(values[row], ()), row]) if row in outside else agreeing[values[row]]
        for row in range(size)
    ]


@dataclass(frozen=True)
class Truth:
    """The metric of every allowed swap, and of the references themselves.

    - `swaps`: all of them; `clean`, `scrubbed`: float64, the metric before and after each.
    - `baseline`: mean metric where the whole output is another row's.
    - `worse`: 1 where a higher metric is worse, else -1.
    """

    swaps: Swaps
    clean: Numbers
    scrubbed: Numbers
    baseline: float
    worse: int

    @cached_property
    def of_reference(self) -> dict[int, float]:
        """Mean change of every reference."""
        changes, rows = self.swaps.weights * (self.scrubbed - self.clean), self.swaps.references
        # Every row is a reference once, so the weights of its swaps sum to one.
        return {int(row): float(changes[rows == row].sum()) for row in np.unique(rows)}

    @property
    def gap(self) -> float:
        return float(np.mean(list(self.of_reference.values())))

    @property
    def unscrubbed(self) -> float:
        return float((self.swaps.weights * self.clean).sum() / self.swaps.weights.sum())

    @property
    def room(self) -> float:
        """How much worse the baseline is."""
        return self.worse * (self.baseline - self.unscrubbed)

    @property
    def worst(self) -> float:
        """Mean over the references of the worst change that any allowed swap makes, in the worse
        direction."""
        changes, rows = self.worse * (self.scrubbed - self.clean), self.swaps.references
        return float(np.mean([changes[rows == row].max() for row in np.unique(rows)]))

    @property
    def rounding(self) -> float:
        """What float64 loses in a difference of two such numbers."""
        return 8 * float(
            np.finfo(np.float64).eps * max(np.abs(self.clean).max(), np.abs(self.scrubbed).max())
        )

    def of_slices(self, values: Sequence[Any]) -> list[float]:
        """Mean change of the references with every value of a feature."""
        kinds = {values[row] for row in self.of_reference}
        return [
            float(np.mean([c for row, c in self.of_reference.items() if values[row] == k]))
            for k in kinds
        ]


# from the output for some references, and which they are, to the metric
Score = Callable[[Tensor, Rows], Tensor]


def truth_of(
    root: Node,
    network: Functions,
    swaps: Swaps,
    features: Features,
    score: Score,
    worse: int = 1,
    anywhere: bool = False,
) -> Truth:
    """The metric of every swap; `anywhere`: children are read along every path by default."""
    outputs = _Meaning(network, swaps, node_paths(root), features, anywhere).value(root, ROOT)
    rows = len(next(iter(network.inputs.values())))
    clean = network.run(np.arange(rows), {})[ROOT]
    references = np.unique(swaps.references)
    pairs = np.repeat(references, rows), np.tile(np.arange(rows), len(references))
    return Truth(
        swaps,
        score(clean[swaps.references], swaps.references).numpy(),
        score(outputs, swaps.references).numpy(),
        float(score(clean[pairs[1]], pairs[0]).mean()),
        worse,
    )


@dataclass(frozen=True)
class _Meaning:
    network: Functions
    swaps: Swaps
    paths: list[tuple[str, Node, str | None]]
    features: Features
    anywhere: bool

    def value(self, node: Node, path: str) -> Tensor:
        """What a node gives its parent in every swap."""
        own = self.swaps.donors.get(path, self.swaps.references)
        if node.computed_by is not None:
            assert node.agrees_on is not None
            return torch.as_tensor(
                node.computed_by(*(self.features[f][own] for f in node.agrees_on.features))
            )
        if node.rest is None:
            return self.network.run(own, {})[node.component]
        direct: dict[str, Tensor] = {}
        along: dict[str, Tensor] = {}
        for child_path, child, parent in self.paths:
            if parent == path:
                everywhere = child.via == "any" or (child.via is None and self.anywhere)
                (along if everywhere else direct)[child.component] = self.value(child, child_path)
        run = self.network.run(self.swaps.donors[f"{path}/rest"], along)
        arguments = [direct.get(name, run[name]) for name in self.network.reads[node.component]]
        return self.network.calls[node.component](*(argument.clone() for argument in arguments))
