"""All that a layer's attention adds: the sum of its heads.

What is kept of it are its heads' queries, keys, values and z, side by side, so that it is read and
recomputed as a head is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import FixedPositions, Inputs, Site, Where, summed
from pytest_scrub.network.kinds.head import Head
from pytest_scrub.network.kinds.part import MASK, Running
from pytest_scrub.network.kinds.reading import Batch, ReadingPart
from pytest_scrub.tree.nodes import HEAD_SLOTS


class Attn(ReadingPart):
    """The attention of a layer; the biases of its heads belong to nobody."""

    streams = HEAD_SLOTS
    beside = (MASK,)
    single = False

    def __init__(self, transformer: Transformer, heads: Sequence[Head]) -> None:
        first = heads[0]
        super().__init__(transformer, f"attn{first.layer}", first.level)
        self.heads: tuple[Head, ...] = tuple(heads)
        self.members = self.heads
        self.written_by = frozenset(head.name for head in heads)
        self.layer, self.stage, self.point, self.hook = (
            first.layer, first.stage, first.point, first.hook,
        )  # fmt: skip
        self.block, self.after = first.block, first.after

    def in_run(self, run: Running, where: Where) -> Tensor:
        return summed(run.values[head.name] for head in self.heads)

    def mixed_in_run(self, run: Running, where: Where) -> Tensor:
        """The z of its heads at `where`, as they are computed in a run, whatever is put in the
        place of what they add."""
        mixed = self.heads[0].mixed_of(self.heads, run.stream, run.visible, where)
        return torch.cat([z.to(run.stream.device) for _, z in mixed], -1)

    @property
    def value_bias(self) -> Tensor | float:
        """What is in the network's own z beside that of its heads, `[heads * d_head]`."""
        bias = self.heads[0].attention.b_V
        if bias is None or self.heads[0].attention.sinks is not None:
            return 0.0
        return torch.cat([bias[head.kv_head] for head in self.heads]).to(self.transformer.device)

    def reads_in_place(self, slot: str) -> bool:
        return self.heads[0].reads_in_place(slot)

    def is_linear(self, slot: str) -> bool:
        return self.heads[0].is_linear(slot)

    def site(self, positions: FixedPositions) -> Site:
        return Site("z", (self.name,), positions)

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        if kind == "value":
            return self.clean("z", seen, where) @ self.output_weights
        return torch.cat([head.clean(kind, seen, where) for head in self._keeping(kind)], -1)

    def _keeping(self, kind: str) -> Sequence[Head]:
        """The heads of which something is kept: of those that share keys and values, one."""
        if kind in ("k", "v"):
            return tuple({head.kv_head: head for head in self.heads}.values())
        return self.heads

    def start(self, batch: Batch, slot: str, nth: int) -> Tensor:
        return super().start(batch, slot, nth).chunk(len(self._keeping(slot)), -1)[nth]

    @property
    def output_weights(self) -> Tensor:
        """`W_O` of its heads one below the other, `[heads * d_head, d_model]`."""
        return torch.cat([head.output_weights for head in self.heads])

    def read(self, batch: Batch) -> Tensor:
        """The z of its heads, `[B, K, heads * d_head]`."""
        return torch.cat([head.read(batch) for head in self.heads], -1)
