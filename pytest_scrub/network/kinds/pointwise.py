"""What is computed for each position by itself: embeddings, MLPs and the output."""

from __future__ import annotations

from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Compute, Inputs, Stages, Where
from pytest_scrub.network.kinds.part import Part, first_stage
from pytest_scrub.network.kinds.reading import ReadingPart
from pytest_scrub.tree.nodes import ROOT


class Embedding(Part):
    """The token embedding."""

    hook = "embed"

    def __init__(self, transformer: Transformer) -> None:
        super().__init__(transformer, self.hook, "embeddings")
        self.block = self.hook


class PositionEmbedding(Embedding):
    """The learned position embedding; rotary models have none."""

    hook = "pos_embed"


class Mlp(ReadingPart):
    """The MLP of a layer; its output bias belongs to nobody."""

    def __init__(self, transformer: Transformer, layer: int) -> None:
        super().__init__(transformer, f"mlp{layer}", f"MLP {layer}")
        self.layer, self.mlp = layer, transformer.mlps[layer]
        self.stage = first_stage(layer) + (0 if transformer.parallel else 2)
        self.point = f"{'pre' if transformer.parallel else 'mid'}.{layer}"
        self.hook = self.block = f"mlp_out.{layer}"
        self.after = self.mlp.after

    @property
    def rows(self) -> Tensor:
        """What each of its hidden units adds, `[units, d_model]`."""
        assert self.mlp.W_out is not None  # else it has no neurons to claim
        return self.mlp.W_out

    def hidden(self, stream: Tensor) -> Tensor:
        """What they hold, `[..., units]`."""
        assert self.mlp.hidden is not None
        return self.mlp.hidden(self.mlp.norm(stream))

    @property
    def constant(self) -> Tensor | float:
        return 0.0 if self.mlp.bias is None else self.mlp.bias.to(self.transformer.device)

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        return super().clean(kind, seen, where) - self.constant

    def apply(self, stream: Tensor) -> Tensor:
        return self.mlp.apply(self.mlp.norm(stream)).to(stream.device) - self.constant


class Output(ReadingPart):
    """The logits, from the residual stream after all layers; every hypothesis begins with it."""

    hook = "logits"
    adds = False

    def __init__(self, transformer: Transformer) -> None:
        super().__init__(transformer, ROOT, ROOT)
        self.layer = len(transformer.attention)
        self.stage, self.point = first_stage(self.layer), f"post.{self.layer - 1}"

    def apply(self, stream: Tensor) -> Tensor:
        return self.transformer.unembed(self.transformer.final_norm(stream))

    def stages(self, stream: Compute) -> Stages:
        return Stages(stream, self.transformer.final_norm, self.transformer.unembed)
