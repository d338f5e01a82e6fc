"""One component of a transformer read with some of its inputs replaced.

The stream that a slot reads is the carrier's, plus what each child contributes more than the
carrier's own component did; it is summed in float32 at least.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.network.attention import replaced_keys, require_a_key, seen_keys
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
from pytest_scrub.network.precision import widened
from pytest_scrub.network.residual import EMBEDDINGS, MASK, ResidualStream
from pytest_scrub.tree.nodes import HEAD_SLOTS, ROOT


class ResidualReading:
    """One component read with some of its inputs replaced, compiled for a transformer."""

    def __init__(
        self,
        graph: ResidualStream,
        component: str,
        edits: tuple[Edit, ...],
        where: Positions | None,
    ) -> None:
        self.graph, self.component, self.edits, self.where = graph, component, edits, where
        self.is_head = component.startswith("head")
        self.slots = HEAD_SLOTS if self.is_head else ("in",)
        self.feeds = [
            {
                s
                for s in graph.slots(component, edit.components[0], edit.anywhere)
                if edit.into in (None, s)
            }
            for edit in edits
        ]

    def among(self, slot: str, anywhere: bool) -> tuple[int, ...]:
        """The edits that change a slot."""
        return tuple(
            i
            for i, edit in enumerate(self.edits)
            if edit.anywhere == anywhere and slot in self.feeds[i]
        )

    def spec(self, slot: str) -> Positions | None:
        """Where a slot is read: queries, MLPs and the output only where the value is wanted."""
        return None if slot in ("k", "v") else self.where

    def changed(self, slot: str) -> bool:
        """Whether any edit changes a slot."""
        return bool(self.among(slot, False) or self.among(slot, True))

    def is_linear(self, slot: str) -> bool:
        """Whether what children change of a slot is a product of what they change of their z."""
        if (
            not self.is_head
            or self.among(slot, True)
            or not self.graph.reads_unnormed(self.component)
        ):
            return False
        return self.adding_z(slot) == self.among(slot, False)

    def adding_z(self, slot: str) -> tuple[int, ...]:
        """The edits that change a slot's stream by a product of what they change of a z, position
        by position."""
        if self.among(slot, True):
            return ()
        those = [(i, self.edits[i]) for i in self.among(slot, False)]
        return tuple(
            i for i, edit in those if edit.as_z and edit.at is None and edit.subspace is None
        )

    def site(self, edit: Edit, slot: str) -> Site:
        """The carrier's own value of what an edit of a slot replaces."""
        positions = kept(self.spec(slot) if edit.at is None else edit.at)
        return (
            self.graph.value_site(edit.components, positions)
            if edit.as_z
            else Site("value", edit.components, positions)
        )

    def is_wide(self, i: int) -> bool:
        """Whether edit i's value comes at all positions."""
        return bool(self.edits[i].anywhere or self.feeds[i] & {"k", "v", MASK})

    def compiled(self) -> Reader:
        changed = [s for s in self.slots if self.changed(s)]
        reruns = [s for s in self.slots if self.among(s, True)]
        return Reader(
            sites=tuple(dict.fromkeys(self._sites())),
            child_positions=tuple(
                "all" if self.is_wide(i) else "same" for i in range(len(self.edits))
            ),
            value=lambda clean, carrier, where, values: _Batch(self, clean, carrier, values).value(
                where
            ),
            recomputes=(
                *(f"{self.component}[{s}]" if self.is_head else self.component for s in changed),
                *(f"the layers below {self.component}, for {s}" for s in reruns),
            ),
            reruns=bool(reruns),
            stages=None if self.component != ROOT or reruns else self._stages(),
        )

    def _stages(self) -> Stages:
        parts = self.graph.parts
        return Stages(
            lambda clean, carrier, where, values: _Batch(self, clean, carrier, values).stream(
                "in", where
            ),
            parts.final_norm,
            parts.unembed,
        )

    def _sites(self) -> list[Site]:
        sites = [Site("value", (MASK,))] if self.is_head else []
        for slot in self.slots:
            positions = kept(self.spec(slot))
            if self.is_head and (not self.changed(slot) or self.is_linear(slot)):
                sites.append(Site(slot, (self.component,), positions))
                sites += [self.site(self.edits[i], slot) for i in self.among(slot, False)]
                continue
            rerun = [self.edits[i] for i in self.among(slot, True)]
            if rerun:
                first = self.graph.first_changed_layer(rerun)
                sites += [Site("stream", (f"pre.{first}",)), Site("value", (MASK,))]
                beside = [
                    name for i in self.among(slot, False) for name in self.edits[i].components
                ]
                edited = [name for edit in rerun for name in edit.components if name in EMBEDDINGS]
                # What lies below the first changed layer has its clean value in the run.
                below = [
                    name
                    for name in beside
                    if self.graph.first_layer(name) < first or name in EMBEDDINGS
                ]
                sites += [Site("value", (name,)) for name in (*edited, *below)]
                continue
            sites.append(self.graph.stream_site(self.component, positions))
            sites += [self.site(self.edits[i], slot) for i in self.among(slot, False)]
        return sites


@dataclass
class _Batch:
    """A reading of one batch. Slots that read the same stream share it, its norm, and what is rerun
    for it."""

    reading: ResidualReading
    clean: Clean
    carrier: Tensor
    values: Sequence[Tensor]
    _normed: dict[tuple[tuple[int, ...], tuple[int, ...], bool], Tensor] = field(
        default_factory=dict
    )
    _products: dict[tuple[tuple[int, ...], bool], tuple[Tensor, Tensor]] = field(
        default_factory=dict
    )
    _runs: dict[tuple[int, ...], tuple[Tensor, dict[str, Tensor]]] = field(default_factory=dict)

    def value(self, where: Where) -> Tensor:
        """The component at `where`: a head's z `[B, K, d_head]`, `[B, K, d_model]`, or logits."""
        reading, graph = self.reading, self.reading.graph
        if not reading.is_head:
            return graph.apply(reading.component, self.stream("in", where))
        q, k, v = (self._projected(slot, where if slot == "q" else None) for slot in HEAD_SLOTS)
        visible = self.clean.take(Site("value", (MASK,)), self.carrier, None)
        masks = (*reading.among(MASK, False), *reading.among(MASK, True))
        for i in masks:
            visible = replaced_keys(
                visible, self.values[i], at_rows(reading.edits[i].at, self.carrier)
            )
        if masks:
            require_a_key(
                seen_keys(visible, where, q, graph.parts.causal), self.carrier, reading.component
            )
        return graph.attend(reading.component, (q, k, v), visible, where)

    def _projected(self, slot: str, where: Where) -> Tensor:
        reading, head = self.reading, self.reading.component
        own = Site(slot, (head,), kept(reading.spec(slot)))
        if not reading.changed(slot):
            return self.clean.take(own, self.carrier, where)
        if reading.is_linear(slot):
            start = self.clean.take(own, self.carrier, where)
            added = reading.graph.project_product(head, slot, *self._product(slot, where), where)
            return (widened(start) + added).to(start.dtype)
        alike = (reading.among(slot, False), reading.among(slot, True), where is None)
        if alike not in self._normed:
            self._normed[alike] = reading.graph.normed(head, self.stream(slot, where))
        return reading.graph.project(head, slot, self._normed[alike], where)

    def stream(self, slot: str, where: Where) -> Tensor:
        """What a slot reads at `where`, `[B, K, d_model]`."""
        reading = self.reading
        rerun = reading.among(slot, True)
        if rerun:
            run, own = self._run(rerun)
            start = select(run, where)
        else:
            site = reading.graph.stream_site(reading.component, kept(reading.spec(slot)))
            start, own = self.clean.take(site, self.carrier, where), {}
        stream = widened(start)
        adding = reading.adding_z(slot)
        if adding:
            z, weights = self._product(slot, where)
            stream = torch.addmm(stream.flatten(0, 1), z.flatten(0, 1), weights).view_as(stream)
        for i in reading.among(slot, False):
            if i in adding:
                continue
            edit = reading.edits[i]
            spot = where if edit.at is None else at_rows(edit.at, self.carrier)
            if rerun:
                difference = widened(self._full(i, where)) - widened(
                    select(self._own(edit, own), spot)
                )
            else:
                difference = self._difference(i, slot, where)
                difference = difference @ self._weights(edit) if edit.as_z else difference
            stream = add_at(stream, where, inside(difference, edit.subspace), spot)
        return stream.to(start.dtype)

    def _product(self, slot: str, where: Where) -> tuple[Tensor, Tensor]:
        """What children change of their z, side by side, and their output weights, one below the
        other."""
        reading = self.reading
        those = reading.adding_z(slot)
        if (those, where is None) not in self._products:
            weights = [self._weights(reading.edits[i]) for i in those]
            z = [self._difference(i, slot, where) for i in those]
            self._products[those, where is None] = torch.cat(z, -1), torch.cat(weights)
        return self._products[those, where is None]

    def _weights(self, edit: Edit) -> Tensor:
        return widened(self.reading.graph.output_weights(edit.components[0]))

    def _difference(self, i: int, slot: str, where: Where) -> Tensor:
        """What an edit's value is more than the carrier's own, as a head's z where it comes so."""
        edit = self.reading.edits[i]
        spot = where if edit.at is None else at_rows(edit.at, self.carrier)
        current = self.clean.take(self.reading.site(edit, slot), self.carrier, spot)
        return widened(self._there(i, where)) - widened(current)

    def _there(self, i: int, where: Where) -> Tensor:
        """An edit's value where it is read."""
        value, edit = self.values[i], self.reading.edits[i]
        return (
            select(value, where)
            if edit.at is None and where is not None and self.reading.is_wide(i)
            else value
        )

    def _full(self, i: int, where: Where = None) -> Tensor:
        """An edit's value where it is read, `[B, K, d_model]`."""
        value, edit = self._there(i, where), self.reading.edits[i]
        return value @ self.reading.graph.output_weights(edit.components[0]) if edit.as_z else value

    def _run(self, rerun: tuple[int, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """The stream before the component in a run with these edits; and of that run what is read
        directly beside."""
        if rerun not in self._runs:
            reading = self.reading
            slots = [slot for slot in reading.slots if reading.among(slot, True) == rerun]
            beside = {i for slot in slots for i in reading.among(slot, False)}
            wanted = {name for i in beside for name in reading.edits[i].components}
            edits = [(reading.edits[i], self._full(i)) for i in rerun]
            self._runs[rerun] = reading.graph.rerun(
                self.clean, self.carrier, edits, reading.component, wanted
            )
        return self._runs[rerun]

    def _own(self, edit: Edit, own: dict[str, Tensor]) -> Tensor:
        parts = [
            own[name]
            if name in own
            else self.clean.take(Site("value", (name,)), self.carrier, None)
            for name in edit.components
        ]
        return torch.stack(parts).sum(0)


class ResidualGraph(ResidualStream):
    """A transformer as a graph of heads, MLPs and embeddings around one residual stream."""

    def reader(self, component: str, edits: Sequence[Edit], where: Positions | None) -> Reader:
        return ResidualReading(self, component, tuple(edits), where).compiled()
