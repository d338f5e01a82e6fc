"""The layers below a component computed anew with other components replaced."""

from __future__ import annotations

from collections.abc import Container, Mapping

from torch import Tensor

from pytest_scrub.network.graph import Clean, Edits, Site, patched
from pytest_scrub.network.kinds.mask import replaced_keys, require_a_key, seen_keys
from pytest_scrub.network.kinds.part import (
    INPUT_STAGE,
    MASK,
    VISIBLE,
    Part,
    added,
    first_changed_layer,
    first_stage,
    in_blocks,
    in_stages,
    total,
)
from pytest_scrub.network.precision import widened


class Rerun:
    """The layers below `stop` on the carriers, from the first that sees that something is replaced.

    **Arguments**

    - `edits`: what is replaced along every path, with the values.
    - `wanted`: names of components and blocks whose own values and sums in this run are asked for.

    - `stream`: what `stop` reads, `[B, P, d_model]`.
    - `visible`: the keys that attention sees, `[B, P]`.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        stop: Part,
        clean: Clean,
        carrier: Tensor,
        edits: Edits,
        wanted: Container[str],
    ) -> None:
        self.clean, self.carrier = clean, carrier
        self.first = first_changed_layer(parts, (edit for edit, _ in edits))
        self.stream = clean.take(Site("stream", (f"pre.{self.first}",)), carrier, None)
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
        stages = range(first_stage(self.first), stop.stage)
        for stage in in_stages(part for part in parts.values() if part.stage in stages):
            after = widened(self.stream)
            for block in in_blocks(stage):
                values = []
                for part in block:
                    value = part.computed(self.stream, self.visible)
                    values.append(patched(part.name, value, edits, carrier))
                    if part.name in wanted:
                        self.values[part.name] = values[-1]
                summed = total(block, values)
                if block[0].block in wanted:
                    self.sums[block[0].block] = summed.to(self.stream.dtype)
                after = after + added(block[0], summed, self.stream.dtype)
            self.stream = after.to(self.stream.dtype)

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
