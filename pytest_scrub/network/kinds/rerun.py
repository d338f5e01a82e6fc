"""The layers below a component computed anew with other components replaced."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import groupby

from torch import Tensor

from pytest_scrub.network.graph import Clean, Edits, Site, Where, patched, select
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
        self.stream = clean.take(Site("stream", (f"pre.{self.first}",)), carrier, None)
        self.visible = clean.take(VISIBLE, carrier, None)
        self.values: dict[str, Tensor] = {}
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
        stages = [
            stage
            for stage in in_stages(parts.values())
            if first_stage(self.first) <= stage[0].stage < stop.stage
        ]
        mixing = [stage for stage in stages if any(part.beside for part in stage)]
        apart = {*edited, *wanted}
        for stage in stages:
            there = where if stage is mixing[-1] and not wanted else None
            self.at = self.at if there is None else there
            after = widened(select(self.stream, there)) + sum(part.constant for part in stage)
            for _, alike in groupby(stage, key=type):
                some = list(alike)
                each = some[0].together(some, apart, self.stream, self.visible, there)
                for name, own in each:
                    value = patched(name, own, edits, carrier, self.at)
                    after = after + value
                    if name in wanted:
                        self.values[name] = value
            self.stream = after.to(self.stream.dtype)

    def own(self, name: str) -> Tensor:
        """A component's value in this run: the clean one where it lies below what is changed."""
        if name in self.values:
            return self.values[name]
        return self.clean.take(Site("value", (name,)), self.carrier, None)
