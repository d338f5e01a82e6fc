"""Gradients with respect to the clean activations that an evaluation gathers, and what other donors
would change.

An evaluation is a function of what it gathers: for every slot, the activations of its donor's row.
So one backward pass gives, for every slot at once, what each donor would change to first order (as
in attribution patching, Nanda 2023): the inner product of the gradient with the donor's own
activations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network.graph import Site, Where, at_rows

DONOR_BYTES = 1 << 24  # of donors' activations that are multiplied with gradients at once
FEWEST_DONORS = 16

Group = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Numbers of references, and of the donors that they may take."""


@dataclass(frozen=True)
class Slope:
    """The gradient of the metric with respect to one activation that a slot's donors give.

    - `slot`: index of the slot; None = the references.
    - `source`: where the activation is kept, or the name of a model input.
    - `at`: the positions that any donor would give it at: None or `[K]` for all alike, `Positions`
      where they are the donor's own, `[R, K]` where they are those of the reference's present
      parents.
    - `gradient`: `[R, (K,) ...]`.
    """

    slot: int | None
    source: Site | str
    at: Where | Positions
    gradient: Tensor


Gathered = tuple[Tensor, Callable[[Tensor], Slope]]
"""An activation gathered for a batch, and what makes a slope of its gradient."""


def joined(parts: Sequence[Slope]) -> Slope:
    """The slopes of consecutive batches as one."""
    at = parts[0].at
    if isinstance(at, Tensor) and at.ndim == 2:
        at = torch.cat([part.at for part in parts if isinstance(part.at, Tensor)])
    return replace(parts[0], at=at, gradient=torch.cat([part.gradient for part in parts]))


@dataclass(frozen=True)
class WatchedStore:
    """An activation store that notes what is taken from it for one slot.

    - `own`: the positions of the node itself where they differ from row to row.
    - `where`: those positions on the rows of this batch, or the ones it has from its parent.
    - `children`: their components, and the positions at which they are read where they name some.
    """

    store: ActivationStore
    slot: int | None
    own: Positions | None
    where: Where
    children: Sequence[tuple[tuple[str, ...], Positions | None]]
    gathered: list[Gathered] = field(repr=False)

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        return self._noted(site, self._rule(site, rows, where), self.store.take(site, rows, where))

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        inputs = self.store.inputs(rows)
        return {name: self._noted(name, None, value) for name, value in inputs.items()}

    def _noted(self, source: Site | str, at: Where | Positions, value: Tensor) -> Tensor:
        if not value.is_floating_point():
            return value
        value = value.detach().requires_grad_()
        self.gathered.append((value, partial(Slope, self.slot, source, at)))
        return value

    def _rule(self, site: Site, rows: Tensor, where: Where) -> Where | Positions:
        """The positions at which any donor would give what this row gives at `where`."""
        if where is None or where.ndim == 1:
            return where
        if where is self.where:
            return where if self.own is None else self.own
        for names, positions in self.children:
            at = at_rows(positions, rows)
            if names == site.names and at is not None and where.equal(at):
                return positions
        return where


def first_order(
    store: ActivationStore,
    slopes: Sequence[Slope],
    slots: Sequence[int],
    donors: npt.NDArray[np.int64],
    groups: Sequence[Group] | None = None,
) -> Tensor | None:
    """What each donor in all of `slots` would change, up to a constant for each reference:
    `[R, donors]`, float64.

    None where nothing that these slots give has a gradient. The donors' activations have to be in
    the store.

    **Arguments**

    - `groups`: which references may take which of the donors; zero is given for what is in none.
    """
    everything = (np.arange(len(slopes[0].gradient) if slopes else 0), np.arange(len(donors)))
    rows = torch.tensor(donors, device=store.dataset.device)
    scores: Tensor | None = None
    for slope in slopes:
        if slope.slot not in slots:
            continue
        gradient = slope.gradient
        at_once = max(
            FEWEST_DONORS, DONOR_BYTES // max(1, gradient[0].numel() * gradient.element_size())
        )
        if scores is None:
            scores = gradient.new_zeros(len(gradient), len(rows), dtype=torch.float64)
        for references, allowed in [everything] if groups is None else groups:
            some = torch.tensor(references, device=rows.device)
            own = gradient.index_select(0, some)
            for those in torch.split(torch.tensor(allowed, device=rows.device), at_once):
                part, values = own, _values(store, slope, rows[those])
                if isinstance(slope.at, Tensor) and slope.at.ndim == 2:
                    part = _spread(part, slope.at.index_select(0, some), values)
                scores[some[:, None], those] += (
                    part.reshape(len(part), -1) @ values.reshape(len(values), -1).T
                )
    return scores


def _values(store: ActivationStore, slope: Slope, rows: Tensor) -> Tensor:
    if isinstance(slope.source, str):
        return store.inputs(rows)[slope.source]
    if isinstance(slope.at, Positions):
        return store.take(slope.source, rows, at_rows(slope.at, rows))
    if slope.at is None or slope.at.ndim == 1:
        return store.take(slope.source, rows, slope.at)
    return store.take(slope.source, rows, None)


def _spread(gradient: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """A gradient at positions `at [R, K]`, laid out over all positions of `values [D, P, ...]`."""
    spread = gradient.new_zeros(len(gradient), *values.shape[1:])
    # Positions that are absent (-1) mean nothing: their gradient must not fall on position 0.
    present = (at >= 0).reshape(*at.shape, *[1] * (gradient.ndim - 2))
    index = at.clamp(min=0).reshape(present.shape).expand_as(gradient)
    return spread.scatter_add(1, index, gradient * present)


def sizes(slopes: Sequence[Slope], slots: Sequence[int]) -> int:
    """How many numbers of one donor `first_order` multiplies for these slots, for one reference."""
    return sum(slope.gradient[0].numel() for slope in slopes if slope.slot in slots)
