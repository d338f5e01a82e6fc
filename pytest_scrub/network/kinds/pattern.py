"""The attention probabilities of a head, which it alone reads, in place of queries, keys and
mask."""

from __future__ import annotations

from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.network.graph import FixedPositions, Inputs, Site, Where
from pytest_scrub.network.kinds.head import Head
from pytest_scrub.network.kinds.mask import visible_keys
from pytest_scrub.network.kinds.part import MASK, PATTERN, Part
from pytest_scrub.network.kinds.reading import Batch, ReadingPart
from pytest_scrub.tree.nodes import PATTERN_SLOTS, Node


class Pattern(ReadingPart):
    """What share of each key every query of a head attends to, `[B, queries, keys]`."""

    streams = PATTERN_SLOTS
    beside = (MASK,)
    adds = single = False

    def __init__(self, head: Head) -> None:
        super().__init__(head.transformer, head.name.replace("head", "pattern"), head.level)
        self.head, self.layer, self.stage, self.point = head, head.layer, head.stage, head.point
        self.hint = f"only {head.name} reads it, directly; put it under that head, without via="

    def ways_into(self, parent: Part, anywhere: bool) -> tuple[str, ...]:
        return (PATTERN,) if parent is self.head and not anywhere else ()

    def slots(self, child: Part, anywhere: bool) -> tuple[str, ...]:
        slots = super().slots(child, anywhere)
        return tuple(slot for slot in slots if slot in (*self.streams, *self.beside))

    def reads_in_place(self, slot: str) -> bool:
        return self.head.reads_in_place(slot)

    def is_linear(self, slot: str) -> bool:
        return self.head.is_linear(slot)

    def site(self, positions: FixedPositions) -> Site:
        return Site(PATTERN, (self.name,), positions)

    def hook_of(self, kind: str) -> str:
        return f"resid_{self.point}"

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        if kind in self.streams:
            return self.head.clean(kind, seen, where)
        head, own = self.head, self.head.clean("q", seen, where)
        q, k = (value.to(head.device) for value in (own, head.clean("k", seen, None)))
        visible = visible_keys(seen).to(q.device)
        return head.attention_of(q, k, ~head.seen(visible, where, q)).to(own.device)

    def read(self, batch: Batch) -> Tensor:
        return self.head.attention_to(batch).to(batch.carrier.device)

    def refusal(self, node: Node, dataset: Dataset) -> str | None:
        return refused_pattern(node)


def refused_pattern(node: Node) -> str | None:
    """What is wrong with a claim about attention probabilities, and what to do."""
    if isinstance(node.pos, str):
        return (
            f"pos= of a pattern means the same queries for all inputs, not those of column "
            f"{node.pos!r}; give an int or a slice"
        )
    if node.edited is not None:
        return "a pattern is one probability for each key, to which no vector is added; swap it"
    if node.is_shifted:
        return (
            "a query at another position sees other keys, so where it looks means nothing here; "
            "give a pattern pos=EACH without with_shift="
        )
    if node.subspace is not None:
        return "a pattern is one probability for each key, so it has no subspace=; leave it out"
    return None
