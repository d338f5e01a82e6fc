"""Ranking donors through the final norm, whose scale a first-order estimate does not see.

What reaches the output is a sum of contributions, so replacing one donor moves the stream by a
known difference. The norm divides by the length of the sum, and a length is made of inner products:
two matrix products give every donor's normalised stream exactly as a linear readout sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.adversaries.search import Spending
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet

SAMPLES = 64  # streams on which a norm's form is measured
FORM_TOLERANCE = 1e-3  # of the largest normalised value: this only ranks
MOST_POSITIONS = 8  # that the output is read at; above, a first-order estimate is the cheaper one


@dataclass(frozen=True)
class NormForm:
    """A norm as `gain * u / |u| * sqrt(d) + bias`, with `u` the stream, centered or not."""

    center: bool
    gain: Tensor

    def direction(self, stream: Tensor) -> Tensor:
        return stream - stream.mean(-1, keepdim=True) if self.center else stream


def form_of(norm: Callable[[Tensor], Tensor], streams: Tensor) -> NormForm | None:
    """The form of a norm, measured on `streams [n, d_model]`; None where it has another."""
    with torch.no_grad():
        normed = norm(streams).double()
        normed = normed - norm(torch.zeros_like(streams[:1])).double()
    for center in (True, False):
        form = NormForm(center, normed.new_ones(()))
        unit = form.direction(streams.double())
        unit = unit / unit.square().mean(-1, keepdim=True).sqrt().clamp(
            min=torch.finfo(torch.float64).tiny
        )
        gain = (normed * unit).sum(0) / unit.square().sum(0).clamp(
            min=torch.finfo(torch.float64).tiny
        )
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
        self.spending, self.evaluator = spending, spending.evaluator
        self.contributions: dict[int, Tensor] = {}
        self._together: dict[int, list[int]] = {}
        self.space, self.place = space, np.full(len(space.dataset), -1)
        self.place[rows] = np.arange(len(rows))
        stages = self.evaluator.stages
        if stages is None:
            return
        own = space.unswapped(np.full(len(rows), rows[0]))
        streams = self.evaluator.streams(own[: min(1, len(rows))])
        if streams.ndim != 3 or streams.shape[1] > MOST_POSITIONS:
            return
        sample = space.draw(SAMPLES, np.random.default_rng(0))
        self.form = form_of(stages.norm, self.evaluator.streams(sample).flatten(0, 1))
        if self.form is None:
            return
        self._own, self._base = int(rows[0]), streams
        for i in slots:
            self._together[i] = [
                i,
                *(j for j, other in enumerate(space.slots) if other.shares == i),
            ]
            if all(_adds(space, j) for j in self._together[i]):
                self.contributions[i] = self._contribution(i, rows)

    def _contribution(self, i: int, rows: Rows) -> Tensor:
        """What each row as a donor adds to the stream that one and the same row does not,
        `[rows, K, d_model]`."""
        assert self.form is not None
        own = self.space.unswapped(np.full(len(rows), self._own))
        donors = own.donors.copy()
        donors[self._together[i]] = rows
        moved = self.evaluator.streams(self.space.swap_set(own.references, donors))
        return self.form.direction(moved.double() - self._base.double())

    def values(self, swap_set: SwapSet) -> dict[int, Tensor]:
        """For each slot, what every donor would change up to a constant per reference, `[R, D]`."""
        stages = self.evaluator.stages
        if stages is None or not self.contributions:
            return {}
        assert self.form is not None
        stream = self.evaluator.streams(swap_set)
        with torch.enable_grad():
            normed = stages.norm(stream).detach().requires_grad_()
            ranked = self.evaluator.ranked(swap_set.references, stages.unembed(normed)).sum()
            if not ranked.requires_grad:
                return {}
            slope = torch.autograd.grad(ranked, normed)[0].double() * self.form.gain
        here = self.form.direction(stream.double())
        return {
            i: self._values(i, swap_set, here, self.form.direction(slope))
            for i in self.contributions
        }

    def _values(self, i: int, swap_set: SwapSet, here: Tensor, slope: Tensor) -> Tensor:
        """`here`, `slope`: `[R, K, d_model]`, both as the norm's direction."""
        contributions = self.contributions[i]
        places = self.place[swap_set.donors[i]]
        present = contributions[torch.tensor(places, device=here.device)]
        unranked = np.flatnonzero(places < 0)  # donors that were drawn blindly
        if len(unranked):
            present[torch.tensor(unranked, device=here.device)] = self._contribution(
                i, swap_set.donors[i, unranked]
            )
        without = here - present
        values = here.new_zeros(len(here), len(contributions))
        for k in range(here.shape[1]):
            donors = contributions[:, k]
            along = (slope[:, k] * without[:, k]).sum(-1, keepdim=True) + slope[:, k] @ donors.T
            length = without[:, k].square().sum(-1, keepdim=True) + 2 * without[:, k] @ donors.T
            length = length + donors.square().sum(-1)
            values += (
                along / (length / here.shape[-1]).clamp(min=torch.finfo(torch.float64).tiny).sqrt()
            )
            self.spending.multiplications += 2 * along.numel() * here.shape[-1]
        return values


def _adds(space: SwapSpace, i: int) -> bool:
    """Whether a slot's donor gives the output one vector, whatever the other slots' donors are."""
    slot = space.slots[i]
    if slot.is_rest:
        return slot.path == "output/rest"
    return slot.node.is_leaf and slot.node.computed_by is None and _depth(slot.path) == 1


def _depth(path: str) -> int:
    return path.count("/")
