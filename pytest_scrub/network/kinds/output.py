"""The output, which every hypothesis begins with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Clean, Stages, Where
from pytest_scrub.network.kinds.part import first_stage
from pytest_scrub.network.kinds.reading import ReadingPart
from pytest_scrub.tree.nodes import ROOT


class Output(ReadingPart):
    """The logits, from the residual stream after all layers."""

    hook = "logits"
    writes = False

    def __init__(self, transformer: Transformer) -> None:
        super().__init__(transformer, ROOT, ROOT)
        self.width = None
        self.layer = len(transformer.attention)
        self.stage, self.point = first_stage(self.layer), f"post.{self.layer - 1}"

    @classmethod
    def all_of(cls, transformer: Transformer) -> Iterator[Output]:
        yield cls(transformer)

    def apply(self, stream: Tensor) -> Tensor:
        return self.transformer.unembed(self.transformer.final_norm(stream))

    def staged(self, stream: Callable[[Clean, Tensor, Where, Sequence[Tensor]], Tensor]) -> Stages:
        return Stages(stream, self.transformer.final_norm, self.transformer.unembed)
