"""Units of a place: what a dictionary makes of it, some of which are one component.

A place is the sum of its units' codes times their rows of a decoder, and what is left. A kind of
dictionary says what the codes are; all else is here.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from pytest_scrub.data.columns import Ints
from pytest_scrub.network.graph import FixedPositions, Inputs, Site, Where, select
from pytest_scrub.network.kinds.part import Part, Running
from pytest_scrub.network.kinds.reading import Batch, ReadingPart


class Units(ReadingPart):
    """Some units of one place.

    Where they are fewer than the stream has dimensions, their codes are kept, else what they add.

    **Arguments**

    - `place`: what is the sum of such values, where they are read and replaced.
    - `basis`: the name of the dictionary; `units`: which of it, ascending.
    """

    single = False

    def __init__(self, place: Part, name: str, basis: str, units: Ints) -> None:
        super().__init__(place.transformer, name, place.level)
        self.place, self.basis, self.units = place, basis, units
        self.layer, self.stage, self.point = place.layer, place.stage, place.point
        self.block, self.after, self.written_by = place.block, place.after, place.writers
        self.chosen: slice | Tensor = torch.from_numpy(units).to(place.transformer.device)
        if len(units) == units[-1] - units[0] + 1:  # a view of what is there
            self.chosen = slice(int(units[0]), int(units[-1]) + 1)
        self.keeps_codes = len(units) < place.transformer.d_model

    @property
    @abstractmethod
    def output_weights(self) -> Tensor:
        """Its rows of the decoder, `[units, d_model]`."""

    @abstractmethod
    def codes(self, stream: Tensor) -> Tensor:
        """What its units hold, `[..., units]`, from the stream that they read, `[..., d_model]`."""

    @abstractmethod
    def clean_codes(self, seen: Inputs) -> Tensor:
        """The same of a clean run, `[B, P, units]`, from the network's own activations."""

    def site(self, positions: FixedPositions) -> Site:
        return Site("z" if self.keeps_codes else "value", (self.name,), positions)

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        if kind in self.streams:
            return super().clean(kind, seen, where)
        codes = select(self.clean_codes(seen), where)
        return codes if kind == "z" else codes @ self.output_weights

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        return self.codes(stream) @ self.output_weights

    def in_run(self, run: Running, where: Where) -> Tensor:
        return self.computed(select(run.stream, where), run.visible)

    def read(self, batch: Batch) -> Tensor:
        codes = self.codes(batch.stream(self.streams[0]))
        return codes if self.keeps_codes else codes @ self.output_weights
