"""MLPs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Where
from pytest_scrub.network.kinds.part import first_stage
from pytest_scrub.network.kinds.reading import ReadingPart


class Mlp(ReadingPart):
    """The MLP of a layer; its output bias belongs to nobody."""

    def __init__(self, transformer: Transformer, layer: int) -> None:
        super().__init__(transformer, f"mlp{layer}", f"MLP {layer}")
        self.layer, self.mlp = layer, transformer.mlps[layer]
        self.stage = first_stage(layer) + (0 if transformer.parallel else 1)
        self.point = f"{'pre' if transformer.parallel else 'mid'}.{layer}"
        self.hook = f"mlp_out.{layer}"

    @property
    def constant(self) -> Tensor | float:
        return 0.0 if self.mlp.bias is None else self.mlp.bias

    def clean(self, kind: str, seen: Mapping[str, Tensor], where: Where) -> Tensor:
        return super().clean(kind, seen, where) - self.constant

    def apply(self, stream: Tensor) -> Tensor:
        return self.mlp.apply(self.mlp.norm(stream)) - self.constant
