"""The layers below a component computed anew with other components replaced."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby

from torch import Tensor

from pytest_scrub.network.graph import Clean, Edits, Site, Where, patched, select
from pytest_scrub.network.kinds.mask import replaced_keys, require_a_key, seen_keys
from pytest_scrub.network.kinds.part import (
    INPUT_STAGE,
    MASK,
    VISIBLE,
    Part,
    added,
    first_changed_layer,
    in_blocks,
    in_stages,
    stage_before,
    stream_before,
    total,
)
from pytest_scrub.network.precision import widened
from pytest_scrub.tree.units import split


class Rerun:
    """The layers below `stop` on the carriers, from the first that sees that something is replaced.

    **Arguments**

    - `edits`: what is replaced along every path, with the values.
    - `wanted`: names of components and blocks whose own values and sums in this run are asked for.
    - `where`: the positions at which `stop` reads; from the last attention on nothing else is
      computed, unless values are asked for.

    - `stream`: what `stop` reads, `[B, K, d_model]`; `at`: where.
    - `visible`: the keys that attention sees, `[B, P]`.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        stop: Part,
        clean: Clean,
        carrier: Tensor,
        edits: Edits,
        *,
        wanted: Collection[str],
        where: Where,
    ) -> None:
        self.clean, self.carrier, self.at = clean, carrier, None
        self.first = first_changed_layer(parts, (edit for edit, _ in edits))
        self.stream = clean.take(stream_before(parts, self.first), carrier, None)
        self.visible = clean.take(VISIBLE, carrier, None)
        self.values: dict[str, Tensor] = {}
        self.sums: dict[str, Tensor] = {}
        edited = dict.fromkeys(name for edit, _ in edits for name in edit.components)
        if MASK in edited:
            self.visible = replaced_keys(self.visible, edits, carrier)
            seen = seen_keys(self.visible, None, self.stream, stop.transformer.causal)
            require_a_key(seen, carrier, stop.name)
        for name in edited:
            if parts[name].adds and parts[name].stage == INPUT_STAGE:
                value = self.own(name)
                self.values[name] = patched(name, value, edits, carrier)
                self.stream = self.stream + (self.values[name] - value)
        # Of what is made of others those that somebody asks for, after what they are made of.
        asked = (n for n in dict.fromkeys([*edited, *sorted(wanted)]) if n in parts or split(n))
        made = [parts[name] for name in asked if not parts[name].single]
        kept = {*wanted, *(member.name for part in made for member in part.members)}
        summed = {*wanted, *(part.follows for part in made)}
        run = [*(part for part in parts.values() if part.single), *made]
        run = [part for part in run if stage_before(self.first) <= part.stage < stop.stage]
        # what is replaced of parts that write at several layers, and where that is there
        crossing: list[tuple[Part, Tensor, Where]] = []
        stages = [*in_stages(sorted(run, key=lambda part: (part.stage, part.block)))]
        mixing = [stage for stage in stages if any(part.beside for part in stage)]
        for stage in stages:
            there = where if [stage] == mixing[-1:] and not wanted else None
            self.at = self.at if there is None else there
            after = widened(select(self.stream, there))
            for block in in_blocks(stage):
                values = []
                for name, own, is_made in self._computed(block, {*edited, *kept}, there):
                    value = patched(name, own, edits, carrier, self.at)
                    if is_made and parts[name].crosses:
                        crossing.append((parts[name], value - own, self.at))
                    else:
                        values.append(value - own if is_made else value)
                    if name in kept:
                        self.values[name] = value
                values += [
                    (change if at is self.at else select(change, self.at)) @ part.writes[name]
                    for part, change, at in crossing
                    if (name := block[0].block) in part.writes
                ]
                together = total(block, values)
                if block[0].block in summed:
                    self.sums[block[0].block] = together.to(self.stream.dtype)
                after = after + added(block[0], together, self.stream.dtype)
            self.stream = after.to(self.stream.dtype)

    def _computed(
        self, block: Sequence[Part], apart: Collection[str], where: Where
    ) -> Iterator[tuple[str, Tensor, bool]]:
        """The values of a block's parts in this run before anything is put in their place, by name,
        and whether one is made of others."""
        for _, alike in groupby(block, key=type):
            some = list(alike)
            if not some[0].single:
                yield from ((part.name, part.in_run(self, where), True) for part in some)
            else:
                each = some[0].together(some, apart, self.stream, self.visible, where)
                yield from ((name, own, False) for name, own in each)

    def own(self, name: str) -> Tensor:
        """A component's value in this run: the clean one where it lies below what is changed."""
        if name in self.values:
            return self.values[name]
        return self.clean.take(Site("value", (name,)), self.carrier, None)

    def sum_of(self, block: str) -> Tensor:
        """The sum of a block's parts in this run."""
        if block in self.sums:
            return self.sums[block]
        return self.clean.take(Site("block", (block,)), self.carrier, None)
