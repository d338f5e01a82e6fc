"""One component of a transformer read with some of its inputs replaced.

The stream that a slot reads is the carrier's, plus what each child contributes more than the
carrier's own component did; it is summed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.network.graph import (
    Clean,
    Edit,
    FixedPositions,
    Reader,
    Site,
    Stages,
    Where,
    add_at,
    at_rows,
    inside,
    kept,
    select,
    summed,
)
from pytest_scrub.network.kinds.part import (
    VISIBLE,
    Part,
    first_changed_layer,
    first_stage,
)
from pytest_scrub.network.kinds.rerun import Rerun
from pytest_scrub.network.precision import widened
from pytest_scrub.tree.nodes import HEAD_SLOTS


class Child:
    """An edit as a part reads it.

    - `slots`: the part's slots that it changes.
    - `is_whole`: whether its value comes at all positions; else where the part's own is wanted.
    - `is_z`: whether its value is a head's z, to be multiplied with the output weights.
    - `is_product`: whether all that it changes is a product with its z, position by position.
    """

    def __init__(self, part: Part, parts: Mapping[str, Part], edit: Edit) -> None:
        self.edit, self.component = edit, parts[edit.components[0]]
        slots = part.slots(self.component, edit.anywhere)
        self.slots = {slot for slot in slots if edit.into in (None, slot)}
        self.is_whole = edit.anywhere or not all(map(part.reads_in_place, self.slots))
        self.is_z = edit.site.kind == "z"
        self.is_product = self.is_z and edit.at is None and edit.subspace is None

    def site(self, positions: FixedPositions) -> Site:
        """Where what it replaces is kept; `positions` are those that its parent reads."""
        at = self.edit.at
        return replace(self.edit.site, positions=positions if at is None else kept(at))


Children = tuple[Child, ...]
Streaming = Callable[[Clean, Tensor, Where, Sequence[Tensor]], Tensor]


class Reading(Reader):
    """A part read with some of its inputs replaced: what does not depend on rows, worked out.

    - `direct`, `rerun`: for each slot that reads the stream, the children that change it directly,
      and those that do along every path.
    - `positions`: for each, those of the stream that are kept; None for all.
    """

    def __init__(
        self, part: ReadingPart, parts: Mapping[str, Part], edits: Sequence[Edit],
        where: Positions | None,
    ) -> None:  # fmt: skip
        self.part, self.parts = part, parts
        self.children = tuple(Child(part, parts, edit) for edit in edits)
        self.direct = {slot: self._changing(slot, False) for slot in part.streams}
        self.rerun = {slot: self._changing(slot, True) for slot in part.streams}
        in_place = {slot: part.reads_in_place(slot) for slot in part.streams}
        self.positions = {slot: kept(where) if here else None for slot, here in in_place.items()}
        self.sites = tuple(dict.fromkeys(self._sites()))
        self.child_positions = tuple("all" if child.is_whole else "same" for child in self.children)
        self.reruns = any(self.rerun.values())
        changed = [slot for slot in part.streams if self.direct[slot] or self.rerun[slot]]
        self.recomputes = (
            *(f"{part.name}[{slot}]" if len(part.streams) > 1 else part.name for slot in changed),
            *(f"the layers below {part.name}, for {slot}" for slot in changed if self.rerun[slot]),
        )
        self.stages = None if self.reruns else part.stages(self.stream)

    def _changing(self, slot: str, anywhere: bool) -> Children:
        found = (child for child in self.children if child.edit.anywhere == anywhere)
        return tuple(child for child in found if slot in child.slots)

    def is_projected(self, slot: str) -> bool:
        """Whether a head's slot begins with the carrier's own query, key or value, to which all
        that children change can be added."""
        direct = self.direct[slot]
        is_linear = self.part.reads_unnormed and all(child.is_product for child in direct)
        return slot in HEAD_SLOTS and not self.rerun[slot] and (is_linear or not direct)

    def start(self, slot: str) -> Site:
        """The carrier's clean activation that a slot begins with."""
        if self.is_projected(slot):
            return Site(slot, (self.part.name,), self.positions[slot])
        return Site("stream", (self.part.point,), self.positions[slot])

    def _sites(self) -> Iterator[Site]:
        if self.part.beside:
            yield VISIBLE
        for slot in self.part.streams:
            direct, rerun = self.direct[slot], self.rerun[slot]
            if not rerun:
                yield self.start(slot)
                yield from (child.site(self.positions[slot]) for child in direct)
                continue
            first = first_changed_layer(self.parts, (child.edit for child in rerun))
            yield from (Site("stream", (f"pre.{first}",)), VISIBLE)
            # What lies below the first changed layer has its clean value in the run.
            for name in (name for child in (*rerun, *direct) for name in child.edit.components):
                if self.parts[name].stage < first_stage(first):
                    yield Site("value", (name,))

    def stream(
        self, clean: Clean, carrier: Tensor, where: Where, values: Sequence[Tensor]
    ) -> Tensor:
        """What the only slot reads."""
        return Batch(self, clean, carrier, values).stream(self.part.streams[0], where)

    def value(
        self, clean: Clean, carrier: Tensor, where: Where, values: Sequence[Tensor]
    ) -> Tensor:
        return self.part.read(Batch(self, clean, carrier, values), where)


class Batch:
    """A reading of one batch. Slots that read the same stream share it, what is made of it, and
    what is rerun for it."""

    def __init__(
        self, reading: Reading, clean: Clean, carrier: Tensor, values: Sequence[Tensor]
    ) -> None:
        self.reading, self.clean, self.carrier = reading, clean, carrier
        self.values = dict(zip(reading.children, values, strict=True))
        self.shared: dict[Any, Any] = {}

    def stream(self, slot: str, where: Where) -> Tensor:
        """What a slot reads at `where`, `[B, K, d_model]`."""
        direct, run = self.reading.direct[slot], self.run(slot)
        if run is None:
            start = self.clean.take(self.reading.start(slot), self.carrier, where)
        else:
            start = select(run.stream, where)
        stream = widened(start)
        if run is None and any(child.is_product for child in direct):
            z, weights = self.product(slot, where)
            stream = torch.addmm(stream.flatten(0, 1), z.flatten(0, 1), weights).view_as(stream)
            direct = tuple(child for child in direct if not child.is_product)
        for child in direct:
            at = self._at(child, where)
            if run is not None:
                own = select(summed(map(run.own, child.edit.components)), at)
                difference = widened(self._value(child, where)) - widened(own)
            else:
                difference = self._difference(child, slot, where)
                if child.is_z:
                    difference = difference @ widened(child.component.output_weights)
            stream = add_at(stream, where, inside(difference, child.edit.subspace), at)
        return stream.to(start.dtype)

    def product(self, slot: str, where: Where) -> tuple[Tensor, Tensor]:
        """What children change of their z, side by side, and their output weights, one below the
        other."""
        children = tuple(child for child in self.reading.direct[slot] if child.is_product)
        key = (children, where is None)
        if key not in self.shared:
            z = [self._difference(child, slot, where) for child in children]
            weights = [widened(child.component.output_weights) for child in children]
            self.shared[key] = torch.cat(z, -1), torch.cat(weights)
        product: tuple[Tensor, Tensor] = self.shared[key]
        return product

    def run(self, slot: str) -> Rerun | None:
        """The layers below, where something is replaced along every path into a slot."""
        reading, rerun = self.reading, self.reading.rerun[slot]
        if rerun and rerun not in self.shared:
            direct = [child.edit for child in reading.children if not child.edit.anywhere]
            beside = {name for edit in direct for name in edit.components}
            edits = [(child.edit, self._value(child, None)) for child in rerun]
            self.shared[rerun] = Rerun(
                reading.parts, reading.part, self.clean, self.carrier, edits, beside
            )
        run: Rerun | None = self.shared.get(rerun)
        return run

    def _at(self, child: Child, where: Where) -> Where:
        """Where a child's value is put."""
        return where if child.edit.at is None else at_rows(child.edit.at, self.carrier)

    def _difference(self, child: Child, slot: str, where: Where) -> Tensor:
        """What a child's value is more than the carrier's own, in the form in which it comes."""
        site = child.site(self.reading.positions[slot])
        own = self.clean.take(site, self.carrier, self._at(child, where))
        return widened(self._given(child, where)) - widened(own)

    def _given(self, child: Child, where: Where) -> Tensor:
        """A child's value where it is read."""
        is_cut = child.is_whole and child.edit.at is None
        return select(self.values[child], where) if is_cut else self.values[child]

    def _value(self, child: Child, where: Where) -> Tensor:
        """The same as what is added to the stream, `[B, K, d_model]`."""
        given = self._given(child, where)
        return given @ child.component.output_weights if child.is_z else given


class ReadingPart(Part):
    """A component that reads the residual stream, in one slot unless it says otherwise.

    - `reads_unnormed`: whether it reads the stream as it is.
    """

    streams: tuple[str, ...] = ("in",)

    @property
    def reads_unnormed(self) -> bool:
        return False

    def apply(self, stream: Tensor) -> Tensor:
        """Its value from the stream that its only slot reads, at the same positions."""
        raise NotImplementedError

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        return self.apply(stream)

    def read(self, batch: Batch, where: Where) -> Tensor:
        """Its value at `where`, where some of what it reads is replaced."""
        return self.apply(batch.stream(self.streams[0], where))

    def stages(self, stream: Streaming) -> Stages | None:
        """Its value taken apart, where it is a norm of a sum."""
        return None
