"""One component of a transformer read with some of its inputs replaced.

The stream that a slot reads is the carrier's, plus what each child contributes more than the
carrier's own component did; it is summed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.network.graph import (
    Clean,
    Edit,
    Reader,
    Site,
    Stages,
    Where,
    add_at,
    at_rows,
    inside,
    kept,
    select,
)
from pytest_scrub.network.kinds.part import (
    BELOW,
    VISIBLE,
    Part,
    Run,
    first_changed_layer,
    first_stage,
)
from pytest_scrub.network.precision import widened

Streaming = Callable[[Clean, Tensor, Where, Sequence[Tensor]], Tensor]


class Reading(Reader):
    """A part read with some of its inputs replaced: what does not depend on rows, worked out.

    - `direct`, `rerun`: for each slot that reads the stream, which edits change it directly, and
      which along every path.
    - `starts`: for each, the clean activation of the carrier that it begins with; `own`: what the
      carrier has of what an edit of it replaces.
    - `wide`: for each edit, whether its value comes at all positions.
    - `as_z`: for each edit, whether its value comes as a factor of what it adds.
    """

    def __init__(
        self, part: ReadingPart, parts: Mapping[str, Part], edits: Sequence[Edit],
        where: Positions | None,
    ) -> None:  # fmt: skip
        self.part, self.parts, self.edits, self.where = part, parts, tuple(edits), where
        self.feeds = [
            {
                slot
                for slot in part.slots(parts[edit.components[0]], edit.anywhere)
                if edit.into in (None, slot)
            }
            for edit in edits
        ]
        self.direct = {slot: self.among(slot, False) for slot in part.streams}
        self.rerun = {slot: self.among(slot, True) for slot in part.streams}
        self.as_z = [edit.site.kind == "z" for edit in edits]
        self.wide = [
            edit.anywhere or not all(map(part.reads_in_place, slots))
            for edit, slots in zip(edits, self.feeds, strict=True)
        ]
        self.adding_z = {slot: self._adding_z(slot) for slot in part.streams}
        self.starts = {slot: self.start(slot) for slot in part.streams}
        self.own = {
            (slot, i): self._own(slot, i) for slot in part.streams for i in self.direct[slot]
        }
        self.sites = tuple(dict.fromkeys(self._sites()))
        self.child_positions = tuple("all" if wide else "same" for wide in self.wide)
        changed = [slot for slot in part.streams if self.direct[slot] or self.rerun[slot]]
        reruns = [slot for slot in part.streams if self.rerun[slot]]
        self.recomputes = (
            *(f"{part.name}[{slot}]" if len(part.streams) > 1 else part.name for slot in changed),
            *(f"the layers below {part.name}, for {slot}" for slot in reruns),
        )
        self.reruns = bool(reruns)
        self.stages = None if reruns else part.staged(self.stream)

    def among(self, slot: str, anywhere: bool) -> tuple[int, ...]:
        """The edits that change a slot."""
        return tuple(
            i
            for i, edit in enumerate(self.edits)
            if edit.anywhere == anywhere and slot in self.feeds[i]
        )

    def _adding_z(self, slot: str) -> tuple[int, ...]:
        """The edits that change a slot's stream by a product of what they change of a z, position
        by position."""
        return tuple(
            i
            for i in (() if self.rerun[slot] else self.direct[slot])
            if self.as_z[i] and self.edits[i].at is None and self.edits[i].subspace is None
        )

    def positions(self, slot: str) -> tuple[int, ...] | None:
        """What is kept of a slot's stream: all positions, or those where the value is wanted."""
        return kept(self.where) if self.part.reads_in_place(slot) else None

    def start(self, slot: str) -> Site:
        return Site("stream", (self.part.point,), self.positions(slot))

    def _own(self, slot: str, i: int) -> Site:
        at = self.edits[i].at
        positions = self.positions(slot) if at is None else kept(at)
        return replace(self.edits[i].site, positions=positions)

    def _sites(self) -> Iterator[Site]:
        for slot in self.part.streams:
            if not self.rerun[slot]:
                yield self.starts[slot]
                yield from (self.own[slot, i] for i in self.direct[slot])
                continue
            rerun = [self.edits[i] for i in self.rerun[slot]]
            first = first_changed_layer(self.parts, rerun)
            yield from (Site("stream", (f"pre.{first}",)), VISIBLE)
            beside = [name for i in self.direct[slot] for name in self.edits[i].components]
            edited = [name for edit in rerun for name in edit.components]
            # What lies below the first changed layer has its clean value in the run.
            below = [n for n in beside if self.parts[n].stage < first_stage(first)]
            restarted = [name for name in edited if self.parts[name].stage == BELOW]
            yield from (Site("value", (name,)) for name in (*restarted, *below))

    def stream(
        self, clean: Clean, carrier: Tensor, where: Where, values: Sequence[Tensor]
    ) -> Tensor:
        """What the only slot reads."""
        return Batch(self, clean, carrier, values).stream(self.part.streams[0], where)

    def value(
        self, clean: Clean, carrier: Tensor, where: Where, values: Sequence[Tensor]
    ) -> Tensor:
        return self.part.apply(self.stream(clean, carrier, where, values))


class Batch:
    """A reading of one batch. Slots that read the same stream share it, what is made of it, and
    what is rerun for it."""

    def __init__(
        self, reading: Reading, clean: Clean, carrier: Tensor, values: Sequence[Tensor]
    ) -> None:
        self.reading, self.clean, self.carrier, self.values = reading, clean, carrier, values
        self.shared: dict[Any, Any] = {}

    def stream(self, slot: str, where: Where) -> Tensor:
        """What a slot reads at `where`, `[B, K, d_model]`."""
        reading = self.reading
        rerun = reading.rerun[slot]
        if rerun:
            run = self.run(rerun)
            start = select(run.stream, where)
        else:
            start = self.clean.take(reading.starts[slot], self.carrier, where)
        stream = widened(start)
        adding = reading.adding_z[slot]
        if adding:
            z, weights = self.product(slot, where)
            stream = torch.addmm(stream.flatten(0, 1), z.flatten(0, 1), weights).view_as(stream)
        for i in reading.direct[slot]:
            if i in adding:
                continue
            edit = reading.edits[i]
            spot = where if edit.at is None else at_rows(edit.at, self.carrier)
            if rerun:
                own = select(self._own(edit, run), spot)
                difference = widened(self._full(i, where)) - widened(own)
            else:
                difference = self._difference(i, slot, where)
                difference = difference @ self._weights(i) if reading.as_z[i] else difference
            stream = add_at(stream, where, inside(difference, edit.subspace), spot)
        return stream.to(start.dtype)

    def product(self, slot: str, where: Where) -> tuple[Tensor, Tensor]:
        """What children change of their z, side by side, and their output weights, one below the
        other."""
        key = (self.reading.adding_z[slot], where is None)
        if key not in self.shared:
            z = [self._difference(i, slot, where) for i in key[0]]
            self.shared[key] = torch.cat(z, -1), torch.cat([self._weights(i) for i in key[0]])
        product: tuple[Tensor, Tensor] = self.shared[key]
        return product

    def _weights(self, i: int) -> Tensor:
        return widened(self.reading.parts[self.reading.edits[i].components[0]].output_weights)

    def _difference(self, i: int, slot: str, where: Where) -> Tensor:
        """What an edit's value is more than the carrier's own, in the form in which it comes."""
        at = self.reading.edits[i].at
        spot = where if at is None else at_rows(at, self.carrier)
        current = self.clean.take(self.reading.own[slot, i], self.carrier, spot)
        return widened(self._there(i, where)) - widened(current)

    def _there(self, i: int, where: Where) -> Tensor:
        """An edit's value where it is read."""
        is_cut = where is not None and self.reading.wide[i] and self.reading.edits[i].at is None
        return select(self.values[i], where) if is_cut else self.values[i]

    def _full(self, i: int, where: Where = None) -> Tensor:
        """An edit's value where it is read, `[B, K, d_model]`."""
        value = self._there(i, where)
        if not self.reading.as_z[i]:
            return value
        return value @ self.reading.parts[self.reading.edits[i].components[0]].output_weights

    def run(self, rerun: tuple[int, ...]) -> Run:
        """A run with these edits up to the component."""
        if rerun not in self.shared:
            reading = self.reading
            slots = [slot for slot in reading.part.streams if reading.rerun[slot] == rerun]
            beside = {i for slot in slots for i in reading.direct[slot]}
            wanted = {name for i in beside for name in reading.edits[i].components}
            edits = [(reading.edits[i], self._full(i)) for i in rerun]
            run = Run(reading.parts, reading.part, self.clean, self.carrier, edits)
            run.through(reading.parts.values(), wanted)
            self.shared[rerun] = run
        made: Run = self.shared[rerun]
        return made

    def _own(self, edit: Edit, run: Run) -> Tensor:
        """A run's own value of what is read directly beside it."""
        return torch.stack([self._own_part(name, run) for name in edit.components]).sum(0)

    def _own_part(self, name: str, run: Run) -> Tensor:
        if name not in run.values:  # it lies below what is changed
            run.values[name] = self.clean.take(Site("value", (name,)), self.carrier, None)
        return run.values[name]


class ReadingPart(Part):
    """A component that reads the residual stream, in one slot unless it says otherwise."""

    streams: tuple[str, ...] = ("in",)
    reading: ClassVar[type[Reading]] = Reading

    def reader(
        self, parts: Mapping[str, Part], edits: Sequence[Edit], where: Positions | None
    ) -> Reader:
        """How it is computed where `edits` are replaced."""
        return self.reading(self, parts, edits, where)

    def apply(self, stream: Tensor) -> Tensor:
        """Its value from the stream that its only slot reads, at the same positions."""
        raise NotImplementedError

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        return self.apply(stream)

    def staged(self, stream: Streaming) -> Stages | None:
        """Its value taken apart, where it is a norm of a sum."""
        return None
