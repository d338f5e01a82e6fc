"""Ranking donors through the final norm, whose scale a first-order estimate does not see.

What reaches the output is a sum of contributions, so replacing one donor moves the stream by a
known difference. The norm divides by the length of the sum, and a length is made of inner products:
two matrix products give every donor's normalised stream exactly as a linear readout sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.adversaries.search import Spending, sharing
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.tree.nodes import EXACT

SAMPLES = 64  # streams on which a norm's form is measured
FORM_TOLERANCE = 1e-3  # of the largest normalised value: this only ranks
MOST_POSITIONS = 8  # that the output is read at; above, a first-order estimate is the cheaper one
TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class NormForm:
    """A norm as `gain * u / |u| * sqrt(d) + bias`, with `u` the stream, centered or not."""

    center: bool
    gain: Tensor

    def direction(self, stream: Tensor) -> Tensor:
        """`u`, in float64."""
        stream = stream.double()
        return stream - stream.mean(-1, keepdim=True) if self.center else stream


def form_of(norm: Callable[[Tensor], Tensor], streams: Tensor) -> NormForm | None:
    """The form of a norm, measured on `streams [n, d_model]`; None where it has another."""
    with torch.no_grad():
        normed = norm(streams).double() - norm(torch.zeros_like(streams[:1])).double()
    for center in (True, False):
        unit = NormForm(center, normed).direction(streams)
        unit = unit / unit.square().mean(-1, keepdim=True).sqrt().clamp(min=TINY)
        gain = (normed * unit).sum(0) / unit.square().sum(0).clamp(min=TINY)
        if (normed - gain * unit).abs().max() <= FORM_TOLERANCE * normed.abs().max():
            return NormForm(center, gain)
    return None


class OutputRanking:
    """Values of donors of the slots that add to the output's stream: leaves that it reads, and its
    rest.

    **Arguments**

    - `spending`, `space`: what is searched.
    - `rows`: int64 `[D]`, every row that can be a donor of these slots.
    - `slots`: those of the space that choose a donor.
    """

    def __init__(
        self, spending: Spending, space: SwapSpace, rows: Rows, slots: Sequence[int]
    ) -> None:
        self.spending, self.evaluator, self.space = spending, spending.evaluator, space
        self.contributions: dict[int, Tensor] = {}
        self._evaluators: dict[int, Evaluator] = {}
        stages = self.evaluator.stages
        if stages is None:
            return
        self._own = rows[:1]  # what others are told from
        self._base = self.evaluator.streams(space.unswapped(self._own))
        if self._base.ndim != 3 or self._base.shape[1] > MOST_POSITIONS:
            return
        sample = self.evaluator.streams(space.draw(SAMPLES, np.random.default_rng(0)))
        form = form_of(stages.norm, sample.flatten(0, 1))
        if form is None:
            return
        self._stages, self._form = stages, form
        self._place = np.full(len(space.content), -1)
        self._place[rows] = np.arange(len(rows))
        for i in slots:
            if all(_adds(space, j) for j in sharing(self.space, i)):
                self.contributions[i] = self._contribution(i, rows)

    def _contribution(self, i: int, rows: Rows) -> Tensor:
        """What each row as a donor adds to the stream that one and the same row does not,
        `[rows, K, d_model]`."""
        if i not in self._evaluators:
            self._evaluators[i] = self._alone(i)
        evaluator = self._evaluators[i]
        space = evaluator.space
        own = space.unswapped(self._own.repeat(len(rows)))
        donors, moving = own.donors.copy(), sharing(self.space, i)
        if evaluator is not self.evaluator:
            moving = [
                j for j, slot in enumerate(space.slots) if "/" in slot.path and not slot.is_rest
            ]
        # those from other positions are no donors of what gives one vector
        donors[moving] = space.rows_of(rows)
        moved = evaluator.streams(space.swap_set(own.references, donors))
        return self._form.direction(moved.double() - self._base.double())

    def _alone(self, i: int) -> Evaluator:
        """An evaluator of the output that reads only what takes this slot's donor: what a leaf adds
        does not depend on its siblings, and all of them would be computed for each."""
        space = self.space
        if space.slots[i].is_rest:
            return self.evaluator
        nodes = tuple(replace(space.slots[j].node, shares=None) for j in sharing(space, i))
        only = replace(space.hypothesis, reads=nodes, rest=EXACT)
        return Evaluator(
            self.evaluator.graph, space.dataset, only, self.evaluator.metric,
            store=self.evaluator.store,
        )  # fmt: skip

    def values(self, swap_set: SwapSet) -> dict[int, Tensor]:
        """For each slot, what every donor would change up to a constant per reference, `[R, D]`."""
        if not self.contributions:
            return {}
        stream = self.evaluator.streams(swap_set)
        with torch.enable_grad():
            normed = self._stages.norm(stream).detach().requires_grad_()
            output = self._stages.unembed(normed)
            ranked = self.evaluator.ranked(swap_set, output).sum()
            if not ranked.requires_grad:
                return {}
            slope = torch.autograd.grad(ranked, normed)[0].double() * self._form.gain
        here, along = self._form.direction(stream), self._form.direction(slope)
        return {i: self._values(i, swap_set, here, along) for i in self.contributions}

    def _values(self, i: int, swap_set: SwapSet, here: Tensor, slope: Tensor) -> Tensor:
        """`here`, `slope`: `[R, K, d_model]`, both as the norm's direction."""
        contributions = self.contributions[i]
        places = self._place[swap_set.donors[i]]
        present = contributions[torch.from_numpy(places).to(here.device)]
        unranked = np.flatnonzero(places < 0)  # donors that were drawn blindly
        if len(unranked):
            others = self._contribution(i, swap_set.donors[i, unranked])
            present[torch.from_numpy(unranked).to(here.device)] = others
        without = (here - present).transpose(0, 1)  # [K, R, d_model]
        slope, donors = slope.transpose(0, 1), contributions.transpose(0, 1)
        along = (slope * without).sum(-1, keepdim=True) + slope @ donors.mT
        length = without.square().sum(-1, keepdim=True) + 2 * without @ donors.mT
        length = (length + donors.square().sum(-1)[:, None]) / here.shape[-1]
        self.spending.multiplications += 2 * along.numel() * here.shape[-1]
        return (along / length.clamp(min=TINY).sqrt()).sum(0)


def _adds(space: SwapSpace, i: int) -> bool:
    """Whether a slot's donor gives the output one vector, whatever the other slots' donors are."""
    slot = space.slots[i]
    if slot.is_rest:
        return slot.path == "output/rest"
    return slot.node.is_leaf and slot.node.computed_by is None and slot.path.count("/") == 1
