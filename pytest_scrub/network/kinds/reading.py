"""One component of a transformer read with some of its inputs replaced.

The stream that a slot reads is the carrier's, plus what each child contributes more than the
carrier's own component did; it is summed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.data.names import MASK as MASK_INPUT
from pytest_scrub.network.graph import (
    Clean,
    Compute,
    Edit,
    Reader,
    Site,
    Stages,
    Where,
    add_at,
    at_rows,
    change_of,
    kept_positions,
    projected_onto,
    select,
    summed,
)
from pytest_scrub.network.kinds.part import (
    VISIBLE,
    Part,
    added,
    first_changed_layer,
    first_stage,
    stream_before,
)
from pytest_scrub.network.kinds.rerun import Rerun
from pytest_scrub.network.precision import widened
from pytest_scrub.tree.nodes import HEAD_SLOTS

Made = TypeVar("Made")
Kept = TypeVar("Kept", bound=tuple[Any, ...])
# Of one reading's weights, side by side.
MOST_KEPT_BYTES = 1 << 18


class Child:
    """An edit as a part reads it.

    - `slots`: the part's slots that it changes.
    - `is_whole`: whether its value comes at all positions; else where the part's own is wanted.
    - `is_z`: whether its value is a head's z, to be multiplied with the output weights.
    - `is_product`: whether all that it changes is a product with its z, position by position.
    - `own`: where the carrier's value, which it replaces, is kept; `everywhere`: where all of it
      is that the part may want.
    """

    def __init__(
        self, part: Part, parts: Mapping[str, Part], edit: Edit, where: Positions | None
    ) -> None:
        self.edit, self.component = edit, parts[edit.components[0]].as_read_by(part)
        slots = part.slots(self.component, edit.anywhere)
        self.slots = {slot for slot in slots if edit.into in (None, slot)}
        self.is_whole = edit.anywhere or not all(map(part.reads_in_place, self.slots))
        self.is_z = edit.site.kind == "z"
        # what is normalised or scaled together with others is no term of the stream by itself
        self.is_term = self.component.after is None
        is_part = edit.at is not None or edit.subspace is not None or edit.change is not None
        self.is_product = self.is_z and self.is_term and not is_part
        at = None if self.is_whole else where
        self.everywhere = edit.site._replace(positions=kept_positions(where))
        self.own = edit.site._replace(positions=kept_positions(at if edit.at is None else edit.at))


class SlotInput:
    """What one slot of a part reads of the residual stream.

    - `direct`, `rerun`: the children that change it directly, and those that do along every path.
    - `products`: those of `direct` that add a product to the stream of the carrier; `terms`: the
      others that simply add to it.
    - `blocks`: those of `direct` that are parts of what a block adds as a whole, by block.
    - `kept`: for each block where the carrier's own sum of its parts is kept.
    - `in_place`: whether only the positions at which the part's value is wanted are read.
    - `is_projected`: whether it begins with the carrier's own query, key or value, to which all
      that children change can be added; `start`: where that, or the carrier's stream, is kept.
    """

    def __init__(self, reading: Reading, slot: str, where: Positions | None) -> None:
        part = reading.part
        children = [child for child in reading.children if slot in child.slots]
        self.direct = tuple(child for child in children if not child.edit.anywhere)
        self.rerun = tuple(child for child in children if child.edit.anywhere)
        self.products = tuple(child for child in self.direct if child.is_product and not self.rerun)
        self.in_place = part.reads_in_place(slot)
        alone = [child for child in self.direct if child.is_term]
        self.terms = tuple(child for child in alone if child not in self.products)
        self.blocks: dict[str, list[Child]] = {}
        for child in self.direct:
            if not child.is_term:
                self.blocks.setdefault(child.component.block, []).append(child)
        is_linear = part.is_linear(slot) and self.products == self.direct
        self.is_projected = slot in HEAD_SLOTS and (is_linear or not self.direct) and not self.rerun
        kind, name = (slot, part.name) if self.is_projected else ("stream", part.point)
        at = kept_positions(where if self.in_place else None)
        self.start = Site(kind, (name,), at)
        self.kept = {block: Site("block", (block,), at) for block in self.blocks}

    def sites(self, parts: Mapping[str, Part]) -> Iterator[Site]:
        """All clean activations that it takes."""
        if not self.rerun:
            yield from (self.start, *(child.own for child in self.direct), *self.kept.values())
            return
        first = first_changed_layer(parts, (child.edit for child in self.rerun))
        yield from (stream_before(parts, first), VISIBLE)
        # What lies below the first changed layer has its clean value in the run.
        for child in (*self.rerun, *self.direct):
            below = (n for n in child.edit.components if parts[n].stage < first_stage(first))
            yield from (Site("value", (name,)) for name in below)
            if not child.is_term and child.component.stage < first_stage(first):
                yield Site("block", (child.component.block,))


class Reading:
    """A part read with some of its inputs replaced: what does not depend on rows, worked out.

    - `inputs`: what each slot that reads the residual stream reads.
    """

    def __init__(
        self, part: ReadingPart, parts: Mapping[str, Part], edits: Sequence[Edit],
        where: Positions | None,
    ) -> None:  # fmt: skip
        self.part, self.parts = part, parts
        self.children = [Child(part, parts, edit, where) for edit in edits]
        claimed = {slot for child in self.children for slot in child.slots}
        unread = {other for slot in claimed for other in part.instead.get(slot, ())}
        self.inputs = {
            slot: SlotInput(self, slot, where) for slot in part.streams if slot not in unread
        }
        self._kept: dict[Hashable, Any] = {}

    def kept(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """Tensors that `make` gives of weights and positions alone, the same of every batch: made
        once, like what is captured, unless they are so large that their products take far longer
        anyway."""
        if key in self._kept:
            kept: Kept = self._kept[key]
            return kept
        with torch.no_grad():
            made = make()
        tensors = [one for one in made if isinstance(one, Tensor)]
        if sum(one.numel() * one.element_size() for one in tensors) <= MOST_KEPT_BYTES:
            self._kept[key] = made
        return made

    def reader(self) -> Reader:
        """What the engine has to know of it."""
        part = self.part
        sites = [site for source in self.inputs.values() for site in source.sites(self.parts)]
        for child in self.children:
            if child.slots & part.instead.keys():
                sites += [child.everywhere, child.own]
        changed = [slot for slot, source in self.inputs.items() if source.direct or source.rerun]
        reruns = [slot for slot in changed if self.inputs[slot].rerun]
        # what a block adds as a whole is no sum of what each of its parts contributes
        stages = (
            None
            if reruns or any(source.blocks for source in self.inputs.values())
            else part.stages(lambda *given: Batch(self, *given).stream(part.streams[0]))
        )
        return Reader(
            lambda *given: part.read(Batch(self, *given)),
            tuple(dict.fromkeys([VISIBLE, *sites] if part.beside else sites)),
            tuple("all" if child.is_whole else "same" for child in self.children),
            (
                *(part.name if len(part.streams) == 1 else f"{part.name}[{n}]" for n in changed),
                *(f"the layers below {part.name}, for {slot}" for slot in reruns),
            ),
            bool(reruns),
            stages,
        )


class Batch:
    """A reading on the rows of one batch. Slots that read the same stream share it, what is made of
    it, and what is rerun for it.

    **Arguments**

    - `carrier`: the dataset's rows `[B]`; `where`: the positions at which the part's value is
      wanted.
    - `values`: what each child gives, in order.
    """

    def __init__(
        self, reading: Reading, clean: Clean, carrier: Tensor, where: Where,
        values: Sequence[Tensor],
    ) -> None:  # fmt: skip
        self.reading, self.clean, self.carrier, self.where = reading, clean, carrier, where
        self.values = dict(zip(reading.children, values, strict=True))
        self._made: dict[Hashable, Any] = {}

    def shared(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gives, made once for the batch."""
        if key not in self._made:
            self._made[key] = make()
        made: Made = self._made[key]
        return made

    @cached_property
    def sees_all(self) -> bool:
        """Whether every key of every row is visible, as there is no mask."""
        return MASK_INPUT not in self.clean.input_names

    @cached_property
    def visible(self) -> Tensor:
        """The carrier's visible keys, `[B, P]`; `[1, P]` where every row sees all."""
        rows = self.carrier.flatten()[:1] if self.sees_all else self.carrier
        return self.clean.take(VISIBLE, rows, None)

    def where_of(self, source: SlotInput) -> Where:
        """The positions at which a slot reads the stream."""
        return self.where if source.in_place else None

    def stream(self, slot: str) -> Tensor:
        """What a slot reads, `[B, K, d_model]`."""
        source = self.reading.inputs[slot]
        where = self.where_of(source)
        run = self.run(source) if source.rerun else None
        if run is None:
            start = self.clean.take(source.start, self.carrier, where)
        else:
            start = run.stream if run.at is not None else select(run.stream, where)
        stream = widened(start)
        if source.products:
            z, weights = self.product(source)
            stream = torch.addmm(stream.flatten(0, 1), z.flatten(0, 1), weights).view_as(stream)
        for child in source.terms:
            stream = self.replaced(child, stream, where, run)
        for block, children in source.blocks.items():
            if run is None:
                own = self.clean.take(source.kept[block], self.carrier, where)
            else:
                own = select(run.sum_of(block), where)
            replaced = widened(own)
            for child in children:
                replaced = self.replaced(child, replaced, where, run)
            now, before = (
                added(children[0].component, summed, own.dtype) for summed in (replaced, own)
            )
            stream = stream + (now - before)
        return stream.to(start.dtype)

    def replaced(self, child: Child, total: Tensor, where: Where, run: Rerun | None) -> Tensor:
        """A sum that a child is a term of, `[B, K, d_model]` at `where`, with its value put in."""
        at = self._at(child)
        if run is not None:
            own = select(summed(map(run.own, child.edit.components)), at)
        elif child.edit.change is not None:
            own = self.clean.take(child.own, self.carrier, at)
        if child.edit.change is not None:
            change = change_of(widened(own), child.edit.change)
        elif run is not None:
            change = widened(self._value(child)) - widened(own)
            if child.component.crosses:
                change = change @ widened(child.component.output_weights)
        else:
            if child.is_whole and child.edit.at is None:
                at = where  # no more of it than is read
            change = self._change(child, at)
            if child.is_z:
                change = change @ widened(child.component.output_weights)
        return add_at(total, where, projected_onto(change, child.edit.subspace), at)

    def product(self, source: SlotInput) -> tuple[Tensor, Tensor]:
        """What children change of their z, side by side, and their output weights, one below the
        other."""

        def make() -> tuple[Tensor, Tensor]:
            z = [self._change(child, self.where_of(source)) for child in source.products]
            (weights,) = self.reading.kept(source.products, weights_of_all)
            return z[0] if len(z) == 1 else torch.cat(z, -1), weights  # of one nothing is copied

        def weights_of_all() -> tuple[Tensor]:
            every = [widened(child.component.output_weights) for child in source.products]
            return (every[0] if len(every) == 1 else torch.cat(every),)

        return self.shared((source.products, source.in_place), make)

    def run(self, source: SlotInput) -> Rerun:
        """The layers below, where something is replaced along every path into a slot."""
        reading = self.reading
        direct = [child.edit for child in reading.children if not child.edit.anywhere]
        wanted = {name for edit in direct for name in edit.components}
        wanted |= {block for part in reading.inputs.values() for block in part.blocks}
        # slots that read one run read it at the same positions
        where = self.where if all(one.in_place for one in reading.inputs.values()) else None

        def make() -> Rerun:
            edits = [(child.edit, self._value(child)) for child in source.rerun]
            run = reading.parts, reading.part, self.clean, self.carrier, edits
            return Rerun(*run, wanted=wanted, where=where)

        return self.shared(source.rerun, make)

    def _at(self, child: Child) -> Where:
        """The positions at which a child's value comes."""
        if child.edit.at is None:
            return None if child.is_whole else self.where
        return at_rows(child.edit.at, self.carrier)

    def _change(self, child: Child, at: Where) -> Tensor:
        """What a child's value is more than the carrier's own at these positions, in the form in
        which it comes."""
        own, value = self.clean.take(child.own, self.carrier, at), self.values[child]
        if child.is_whole and child.edit.at is None:
            value = select(value, at)
        return widened(value) - widened(own)

    def _value(self, child: Child) -> Tensor:
        """What a child adds to the stream, or of what writes at several layers its codes."""
        value, component = self.values[child], child.component
        is_added = not child.is_z or component.crosses
        return value if is_added else value @ component.output_weights


class ReadingPart(Part):
    """A component that reads the residual stream, in one slot unless it says otherwise."""

    streams: tuple[str, ...] = ("in",)

    def is_linear(self, slot: str) -> bool:
        """Whether what is kept of a slot is linear in the stream that it reads."""
        return False

    def apply(self, stream: Tensor) -> Tensor:
        """Its value from the stream that its only slot reads, at the same positions."""
        raise NotImplementedError

    def start(self, batch: Batch, slot: str, nth: int) -> Tensor:
        """The carrier's own queries, keys or values, from what is kept of this part: the `nth` ones
        of its layer."""
        source = batch.reading.inputs[slot]
        return batch.clean.take(source.start, batch.carrier, batch.where_of(source))

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        return self.apply(stream)

    def read(self, batch: Batch) -> Tensor:
        """Its value where some of what it reads is replaced."""
        return self.apply(batch.stream(self.streams[0]))

    def stages(self, stream: Compute) -> Stages | None:
        """Its value taken apart, where it is a norm of a sum."""
        return None
