"""The layers below a component computed anew with other components replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from pytest_scrub.network.graph import Clean, Edits, Site, patched, summed
from pytest_scrub.network.kinds.mask import replaced_keys, require_a_key, seen_keys
from pytest_scrub.network.kinds.part import (
    INPUT_STAGE,
    MASK,
    VISIBLE,
    Part,
    first_changed_layer,
    first_stage,
    in_stages,
)
from pytest_scrub.network.precision import widened


class Rerun:
    """The layers below `stop` on the carriers, from the first that sees that something is replaced.

    **Arguments**

    - `edits`: what is replaced along every path, with the values.
    - `wanted`: names of components whose own values in this run are asked for.

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
        wanted: Collection[str],
    ) -> None:
        self.clean, self.carrier = clean, carrier
        self.first = first_changed_layer(parts, (edit for edit, _ in edits))
        self.stream = clean.take(Site("stream", (f"pre.{self.first}",)), carrier, None)
        self.visible = clean.take(VISIBLE, carrier, None)
        self.values: dict[str, Tensor] = {}
        edited = dict.fromkeys(name for edit, _ in edits for name in edit.components)
        if MASK in edited:
            self.visible = replaced_keys(self.visible, edits, carrier)
            seen = seen_keys(self.visible, None, self.stream, stop.transformer.causal)
            require_a_key(seen, carrier, stop.name)
        asked = {*edited, *wanted}
        for name in edited:
            if parts[name].adds and parts[name].stage == INPUT_STAGE:
                value = self.own(name)
                self.values[name] = patched(name, value, edits, carrier)
                self.stream = self.stream + (self.values[name] - value)
        # Of the sums of others those that somebody asks for, after what they are the sums of.
        sums = [part for part in parts.values() if part.members and part.name in asked]
        kept = {*wanted, *(member.name for part in sums for member in part.members)}
        stages = range(first_stage(self.first), stop.stage)
        run = (part for part in parts.values() if not part.members or part in sums)
        for stage in in_stages(part for part in run if part.stage in stages):
            after = widened(self.stream) + sum(part.constant for part in stage)
            for part in stage:
                value = self._computed(part)
                now = patched(part.name, value, edits, carrier)
                after = after + (now - value if part.members else now)
                if part.name in kept:
                    self.values[part.name] = now
            self.stream = after.to(self.stream.dtype)

    def _computed(self, part: Part) -> Tensor:
        """A component's value in this run, before anything is put in its place."""
        if part.members:
            return summed(self.values[member.name] for member in part.members)
        return part.computed(self.stream, self.visible)

    def own(self, name: str) -> Tensor:
        """A component's value in this run: the clean one where it lies below what is changed."""
        if name in self.values:
            return self.values[name]
        return self.clean.take(Site("value", (name,)), self.carrier, None)
