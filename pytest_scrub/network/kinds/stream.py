"""The residual stream before a layer, as one component: a leaf that sums all earlier writers."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.kinds.part import Part, first_stage


class Stream(Part):
    """What layer `layer` reads, from the first that does not read the embeddings alone."""

    writes = False
    hint = "later layers read it, and directly"

    def __init__(self, transformer: Transformer, layer: int) -> None:
        super().__init__(transformer, f"stream{layer}", f"stream {layer}")
        self.layer, self.stage = layer, first_stage(layer) - 1
        self.hook = f"resid_pre.{layer}"

    @classmethod
    def all_of(cls, transformer: Transformer) -> Iterator[Stream]:
        return (cls(transformer, layer) for layer in range(1, len(transformer.attention)))

    def ways_into(self, parent: Part, anywhere: bool) -> tuple[str, ...]:
        return () if anywhere else parent.streams
