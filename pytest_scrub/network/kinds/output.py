"""The output, which every hypothesis begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from pytest_scrub.data.dataset import Positions
from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Edit, Stages
from pytest_scrub.network.kinds.part import Part, first_stage
from pytest_scrub.network.kinds.reading import Reading, ReadingPart
from pytest_scrub.tree.nodes import ROOT


class Output(ReadingPart):
    """The logits, from the residual stream after all layers."""

    hook = "logits"
    adds = False

    def __init__(self, transformer: Transformer) -> None:
        super().__init__(transformer, ROOT, ROOT)
        self.layer = len(transformer.attention)
        self.stage, self.point = first_stage(self.layer), f"post.{self.layer - 1}"

    def apply(self, stream: Tensor) -> Tensor:
        return self.transformer.unembed(self.transformer.final_norm(stream))

    def reader(
        self, parts: Mapping[str, Part], edits: Sequence[Edit], where: Positions | None
    ) -> Reading:
        reading = super().reader(parts, edits, where)
        if not reading.reruns:
            transformer = self.transformer
            reading.stages = Stages(reading.stream, transformer.final_norm, transformer.unembed)
        return reading
