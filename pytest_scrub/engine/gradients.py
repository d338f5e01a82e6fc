"""Gradients with respect to the clean activations that an evaluation gathers, and what other donors
would change.

An evaluation is a function of what it gathers: for every slot, the activations of its donor's row.
So one backward pass gives, for every slot at once, what each donor would change to first order (as
in attribution patching, Nanda 2023): the inner product of the gradient with the donor's own
activations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.engine.plan import Step
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network.graph import Site, Where, add_at, at_others, at_rows, read_from
from pytest_scrub.swaps.swap_set import Rows

DONOR_BYTES = 1 << 24  # of donors' activations that are multiplied with gradients at once
FEWEST_DONORS = 16

Group = tuple[Rows, Rows]
"""Numbers of references, and of the donors that they may take."""


@dataclass(frozen=True)
class ActivationGradient:
    """The gradient of the metric with respect to one activation that a slot's donors give.

    - `slot`: index of the slot, or `REFERENCE`.
    - `source`: where the activation is kept, or the name of a model input.
    - `at`: the positions that any donor would give it at: None or `[K]` for all alike, `Positions`
      where they are the donor's own, `[R, K]` where they are those of the reference's present
      parents.
    - `gradient`: `[R, (K,) ...]`.
    - `one_each`: whether it is of one position of an activation that has a donor for each; then
      how many positions there are.
    """

    slot: int
    source: Site | str
    at: Where | Positions
    gradient: Tensor
    one_each: int = 0

    @property
    def at_references(self) -> Tensor | None:
        """`[R, K]` where the positions are those of each reference's present parents."""
        return self.at if isinstance(self.at, Tensor) and self.at.ndim == 2 else None


Gathered = tuple[Tensor, Callable[[Tensor], list[ActivationGradient]]]
"""An activation gathered for a batch, and what makes slopes of its gradient."""


def joined(parts: Sequence[ActivationGradient]) -> ActivationGradient:
    """The slopes of consecutive batches as one."""
    at = parts[0].at
    if parts[0].at_references is not None:
        at = torch.cat([part.at for part in parts if isinstance(part.at, Tensor)])
    return replace(parts[0], at=at, gradient=torch.cat([part.gradient for part in parts]))


@dataclass(frozen=True)
class WatchedStore:
    """An activation store that notes what is taken from it for one step of the plan.

    - `where`: the step's own positions on the rows of this batch, or the ones it has from its
      parent.
    """

    store: ActivationStore
    step: Step
    where: Where
    gathered: list[Gathered] = field(repr=False)

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        return self._noted(site, self._rule(site, rows, where), self.store.take(site, rows, where))

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        inputs = self.store.inputs(rows)
        return {name: self._noted(name, None, value) for name, value in inputs.items()}

    @property
    def input_names(self) -> Collection[str]:
        return self.store.input_names

    def _noted(self, source: Site | str, at: Where | Positions, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        value = value.detach().requires_grad_()
        self.gathered.append((value, partial(self._slopes, source, at)))
        return value

    def _slopes(
        self, source: Site | str, at: Where | Positions, gradient: Tensor
    ) -> list[ActivationGradient]:
        if not self.step.each:
            return [ActivationGradient(self.step.carrier, source, at, gradient)]
        assert isinstance(at, Tensor)
        found = []
        for position, slot in enumerate(self.step.each):
            here = torch.tensor([position], device=at.device)
            if at.ndim > 1:
                own = at_others(gradient, at, here)
            elif not (at == position).any():
                continue  # nobody reads it there
            else:
                own = gradient[:, at == position]
            found.append(ActivationGradient(slot, source, here, own, len(self.step.each)))
        return found

    def _rule(self, site: Site, rows: Tensor, where: Where) -> Where | Positions:
        """The positions at which any donor would give what these rows give at `where`."""
        if self.step.each:
            return self.where
        if where is None or where.ndim == 1:
            return where
        if where is self.where:
            return self.step.positions or where
        for child in self.step.children:
            at = at_rows(child.positions, rows)
            if site.names in child.parts and at is not None and where.equal(at):
                return child.positions
        return where


def first_order(
    store: ActivationStore,
    slopes: Sequence[ActivationGradient],
    slots: Sequence[int],
    donors: Rows,
    groups: Sequence[Group] | None = None,
    elsewhere: float = 0.0,
) -> Tensor | None:
    """What each donor in all of `slots` would change, up to a constant for each reference:
    `[R, donors]`, float64.

    None where nothing that these slots give has a gradient. The donors' activations have to be in
    the store.

    **Arguments**

    - `groups`: which references may take which of the donors; `elsewhere` is given for what is in
      none.
    """
    chosen = [slope for slope in slopes if slope.slot in slots]
    if not chosen:
        return None
    count, rows = len(chosen[0].gradient), torch.tensor(donors, device=store.dataset.device)
    if groups is None:
        groups = [(np.arange(count), np.arange(len(rows)))]
    scores = chosen[0].gradient.new_full((count, len(rows)), elsewhere, dtype=torch.float64)
    largest = max(slope.gradient[0].nbytes for slope in chosen)
    at_once = max(FEWEST_DONORS, DONOR_BYTES // max(1, largest))
    for references, allowed in groups:
        some = torch.tensor(references, device=rows.device)
        own = [slope.gradient.index_select(0, some) for slope in chosen]
        for those in torch.split(torch.tensor(allowed, device=rows.device), at_once):
            changed = scores.new_zeros(len(some), len(those))
            for slope, gradient in zip(chosen, own, strict=True):
                part, values = gradient, _values(store, slope, rows[those])
                if slope.at_references is not None:
                    # laid out over all positions, absent ones left out
                    nothing = part.new_zeros(len(part), *values.shape[1:])
                    part = add_at(nothing, None, part, slope.at_references.index_select(0, some))
                changed += part.reshape(len(part), -1) @ values.reshape(len(values), -1).T
            scores[some[:, None], those] = changed
    return scores


def _values(store: ActivationStore, slope: ActivationGradient, rows: Tensor) -> Tensor:
    count = len(store.dataset)
    if slope.one_each:
        assert isinstance(slope.source, Site)
        assert isinstance(slope.at, Tensor)
        return store.take(slope.source, *read_from(rows[:, None], slope.at, count, slope.one_each))
    rows = rows % count  # no other slot has donors from other positions
    if isinstance(slope.source, str):
        return store.inputs(rows)[slope.source]
    at = at_rows(slope.at, rows) if isinstance(slope.at, Positions) else slope.at
    return store.take(slope.source, rows, at if slope.at_references is None else None)


def sizes(slopes: Sequence[ActivationGradient], slots: Sequence[int]) -> int:
    """How many numbers of one donor `first_order` multiplies for these slots, for one reference."""
    return sum(slope.gradient[0].numel() for slope in slopes if slope.slot in slots)
