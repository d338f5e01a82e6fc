"""Fitting an alignment: the subspaces that a hypothesis names, and modules that recode what passes,
so that swaps lead to the labels that it predicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from copy import copy, deepcopy
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.memory import Memory
from pytest_scrub.errors import DataError, HypothesisError, first_line
from pytest_scrub.metrics import Metric, cross_entropy
from pytest_scrub.network.graph import Inputs, Recoding, Site, Where, captured, select
from pytest_scrub.network.shuffled import permuted
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node, Subspace
from pytest_scrub.tree.paths import node_paths, with_changes

# Of Adam, and swaps in each: of a subspace, with their gradients, about as much as a search
# evaluates by default. Modules that were learnt by heart took long to learn.
STEPS, STEPS_OF_MODULES, BATCH = 500, 2000, 64
LEARNING_RATE = 0.02  # at first; it falls to nothing
LOOKED_AT = 16  # rows that tell whether anything recodes what passes


@dataclass(frozen=True)
class _Live:
    """Clean activations as the network computes them now, with gradients."""

    dataset: Dataset
    recoding: Recoding
    memory = Memory()

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        values = self.recoding.values(site.names, self.inputs(rows))
        return select(captured(values, [site])[site], where if site.positions is None else None)

    def inputs(self, rows: Tensor) -> Inputs:
        return self.dataset.batch(rows)

    def ensure(self, *_: object) -> None:
        """Nothing is kept."""


class _Turned(Subspace):
    """A subspace whose columns are found step by step."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


class Turn:
    """Columns that span subspaces of one tree, some of them orthogonal or equal, and turn as one,
    so that they stay so."""

    def __init__(self, subspaces: Sequence[Subspace], rng: np.random.Generator) -> None:
        together = np.hstack([one.basis for one in subspaces])
        left, sizes, _ = np.linalg.svd(together, full_matrices=False)
        spans = left[:, sizes > 1e-6 * sizes[0]]
        self.of = {one: _Turned(one.basis) for one in subspaces}
        self._within = {one: torch.from_numpy(spans.T @ one.basis) for one in subspaces}
        start = np.linalg.qr(rng.standard_normal(spans.shape))[0]
        self.weight = torch.from_numpy(start).requires_grad_()

    def turn(self) -> None:
        """Have the columns where the weight says."""
        columns = torch.linalg.qr(self.weight).Q
        for one, turned in self.of.items():
            turned.basis = columns @ self._within[one]

    def found(self) -> dict[Subspace, Subspace]:
        self.turn()
        return {one: Subspace(turned.basis) for one, turned in self.of.items()}


def subspaces_of(hypothesis: Node) -> list[Subspace]:
    """The different ones that it names."""
    return list({n.subspace: None for _, n, _ in node_paths(hypothesis) if n.subspace is not None})


def _turns(hypothesis: Node, rng: np.random.Generator) -> list[Turn]:
    """One for all that is tied by being orthogonal."""
    groups: list[list[Subspace]] = []
    for one in subspaces_of(hypothesis):
        tied = [group for group in groups if any(map(one.is_orthogonal_to, group))]
        groups = [group for group in groups if group not in tied]
        groups.append([one, *(other for group in tied for other in group)])
    return [Turn(group, rng) for group in groups]


def to_fit(evaluator: Evaluator, rng: np.random.Generator) -> tuple[Recoding | None, int]:
    """What recodes the parts that its hypothesis names, None where nothing does, and in how many
    steps the alignment is fitted; none where there is nothing to fit."""
    nodes = [node for _, node, _ in node_paths(evaluator.hypothesis)]
    # any rows, as the first may be alike in all that is recoded
    rows = rng.permutation(evaluator.dataset.first_of_content)[:LOOKED_AT]
    named = [name for node in nodes for name in node.components]
    recoding = evaluator.graph.recoding(named, evaluator.dataset.batch(rows))
    if recoding is not None:
        return recoding, STEPS_OF_MODULES
    return None, STEPS if any(node.subspace is not None for node in nodes) else 0


@contextmanager
def weights_anew(recoding: Recoding | None, rng: np.random.Generator) -> Iterator[Sequence[Tensor]]:
    """While it lasts, weights of an alignment are as at its start, and have gradients; then they
    are put back.

    Modules with `reset_parameters()` start as that has it, other weights with their numbers
    permuted: a fit that starts where it was found finds it.

    **Raises** `HypothesisError` where it has no weights, or cannot be started anew.
    """
    if recoding is None:
        yield []
        return
    modules = recoding.modules
    own = [weight for weight in modules.parameters() if weight.is_floating_point()]
    if not own:
        raise HypothesisError("the modules that recode what passes have no weights")
    fresh = _restarted(modules, int(rng.integers(1 << 31)))
    before = [(weight.detach().clone(), weight.requires_grad) for weight in own]
    try:
        for weight, value in zip(own, fresh, strict=True):
            other = permuted(value, rng)
            start = other if torch.equal(weight, value) else value
            weight.data.copy_(start)  # through .data torch's count of changes stays
            weight.requires_grad_()
        yield own
    finally:
        for weight, (value, has_gradient) in zip(own, before, strict=True):
            weight.data.copy_(value)
            weight.requires_grad_(has_gradient)


def _restarted(modules: nn.ModuleList, seed: int) -> list[Tensor]:
    devices = sorted({w.device.index or 0 for w in modules.parameters() if w.is_cuda})
    try:
        copies = deepcopy(modules)
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed)
            for module in copies.modules():
                reset = getattr(module, "reset_parameters", None)
                reset = reset or getattr(module, "_reset_parameters", None)
                if callable(reset) and not is_parametrized(module):
                    reset()
    except Exception as error:  # whatever modules of others do
        raise HypothesisError(
            f"the modules that recode what passes cannot be started anew: {first_line(error)}"
        ) from error
    return [weight.detach() for weight in copies.parameters() if weight.is_floating_point()]


def fitted(
    evaluator: Evaluator,
    recoding: Recoding | None,
    weights: Sequence[Tensor],
    steps: int,
    rng: np.random.Generator,
) -> Node:
    """The evaluator's hypothesis with subspaces that were found, by gradient descent, for the
    swaps that it allows to lead to what it predicts; so are the weights.

    **Raises** `HypothesisError` where what it predicts has no gradient.
    """
    turns = _turns(evaluator.hypothesis, rng)
    turned = {one: new for turn in turns for one, new in turn.of.items()}
    hypothesis = with_subspaces(evaluator.hypothesis, turned)
    fitting = Evaluator(
        evaluator.graph, evaluator.dataset, hypothesis, evaluator.metric, store=evaluator.store
    )
    live = copy(fitting)
    if recoding is not None:
        live.store = _Live(evaluator.dataset, recoding)  # type: ignore[assignment]
    space = fitting.space
    rows = rng.choice(space.reference_rows, size=steps * BATCH)
    swaps = space.draw(len(rows), rng, rows)
    metric, sign = _told_by(live, swaps[:1])
    shadows = [weight.detach().clone() for weight in weights]
    free = [turn.weight for turn in turns] + shadows
    descent = torch.optim.Adam(free, lr=LEARNING_RATE)
    for step in range(steps):
        for turn in turns:
            turn.turn()
        batch = swaps[slice(step * BATCH, (step + 1) * BATCH)]
        loss = sign * live.with_gradients(batch, metric).mean()
        if not loss.requires_grad:
            raise HypothesisError(f"what {metric.name} tells of swaps has no gradient there")
        wanted = [*(turn.weight for turn in turns), *weights]
        slopes = torch.autograd.grad(loss, wanted, materialize_grads=True)
        for one, slope in zip(free, slopes, strict=True):
            one.grad = slope.nan_to_num(0.0, 0.0, 0.0)
        descent.step()
        for group in descent.param_groups:
            group["lr"] = LEARNING_RATE * (1 - (step + 1) / steps)
        for weight, shadow in zip(weights, shadows, strict=True):
            weight.data.copy_(shadow)
    with torch.no_grad():
        found = {one: new for turn in turns for one, new in turn.found().items()}
    return with_subspaces(evaluator.hypothesis, found)


def with_subspaces(hypothesis: Node, others: Mapping[Subspace, Subspace]) -> Node:
    """The tree with others in their places."""

    def changed(_: str, node: Node) -> Node:
        other = node.subspace and others.get(node.subspace)
        return node if other is None else replace(node, subspace=other)

    return with_changes(hypothesis, changed)


def _told_by(evaluator: Evaluator, some: SwapSet) -> tuple[Metric, float]:
    """What is to fall: cross-entropy of the labels where they are classes of the output, else the
    metric."""
    metric = evaluator.metric
    classes = cross_entropy(metric.pos)
    with suppress(DataError):
        evaluator.with_gradients(some, classes)
        return classes, 1.0
    return metric.to_rank_by, 1.0 if metric.worse == "higher" else -1.0
