"""Attention heads.

With `x = norm(residual stream)`, `q = x @ W_Q + b_Q`, and so on; a head's z is `softmax(rotate(q) @
rotate(k).T * scale, capped, masked) @ v`, and what it adds to the stream is `z @ W_O`. v has no
bias: attention weights sum to one, so its bias is a constant and belongs to nobody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Clean, Site, Where, at_rows, select
from pytest_scrub.network.kinds.mask import replaced_keys, require_a_key, seen_keys
from pytest_scrub.network.kinds.part import MASK, VISIBLE, first_stage
from pytest_scrub.network.kinds.reading import Batch, Reading, ReadingPart
from pytest_scrub.network.precision import widened
from pytest_scrub.tree.nodes import HEAD_SLOTS

QKV = tuple[Tensor, Tensor, Tensor]


class HeadReading(Reading):
    """A head read with some of its inputs replaced. Queries, keys and values that nothing changes
    are gathered as they are, and what children add to a stream that is not normalised, as well."""

    part: Head

    def is_kept(self, slot: str) -> bool:
        """Whether the carrier's own projection is what a slot begins with."""
        return not (self.direct[slot] or self.rerun[slot]) or self.is_linear(slot)

    def is_linear(self, slot: str) -> bool:
        """Whether what children change of a slot is a product of what they change of their z."""
        return (
            not self.rerun[slot]
            and self.part.reads_unnormed
            and self.adding_z[slot] == self.direct[slot]
        )

    def start(self, slot: str) -> Site:
        if not self.is_kept(slot):
            return super().start(slot)
        return Site(slot, (self.part.name,), self.positions(slot))

    def _sites(self) -> Iterator[Site]:
        yield VISIBLE
        yield from super()._sites()

    def value(
        self, clean: Clean, carrier: Tensor, where: Where, values: Sequence[Tensor]
    ) -> Tensor:
        """Its z, `[B, K, d_head]`."""
        batch = Batch(self, clean, carrier, values)
        q, k, v = (
            self._projected(batch, slot, where if slot == "q" else None) for slot in HEAD_SLOTS
        )
        visible = clean.take(VISIBLE, carrier, None)
        for i in self.masks:
            visible = replaced_keys(visible, values[i], at_rows(self.edits[i].at, carrier))
        seen = seen_keys(visible, where, q, self.part.transformer.causal)
        if self.masks:
            require_a_key(seen, carrier, self.part.name)
        return self.part.mix((q, k, v), seen)

    @cached_property
    def masks(self) -> tuple[int, ...]:
        return (*self.among(MASK, False), *self.among(MASK, True))

    def _projected(self, batch: Batch, slot: str, where: Where) -> Tensor:
        """q, k or v `[B, K, d_head]`."""
        if not (self.direct[slot] or self.rerun[slot]):
            return batch.clean.take(self.starts[slot], batch.carrier, where)
        if self.is_linear(slot):
            start = batch.clean.take(self.starts[slot], batch.carrier, where)
            added = self.part.project_product(slot, *batch.product(slot, where), where)
            return (widened(start) + added).to(start.dtype)
        alike = ("normed", self.direct[slot], self.rerun[slot], where is None)
        if alike not in batch.shared:
            batch.shared[alike] = self.part.attention.norm(batch.stream(slot, where))
        return self.part.project(slot, batch.shared[alike], where)


class Head(ReadingPart):
    """A query head of a layer's attention, with the key and value head that it shares with others
    where there are fewer of those (grouped queries)."""

    streams = HEAD_SLOTS
    beside = (MASK,)
    reading = HeadReading

    def __init__(self, transformer: Transformer, layer: int, head: int) -> None:
        super().__init__(transformer, f"head{layer}.{head}", f"attention {layer}")
        self.layer, self.head, self.attention = layer, head, transformer.attention[layer]
        self.kv_head = head * self.attention.W_K.shape[0] // self.attention.W_Q.shape[0]
        self.stage, self.point, self.hook = first_stage(layer), f"pre.{layer}", f"z.{layer}"

    @classmethod
    def all_of(cls, transformer: Transformer) -> Iterator[Head]:
        for layer in range(len(transformer.attention)):
            yield from (cls(transformer, layer, head) for head in range(transformer.n_heads))

    def reads_in_place(self, slot: str) -> bool:
        return slot == "q"  # keys and values, and the mask, are read at every position

    @cached_property
    def constant(self) -> Tensor | None:  # type: ignore[override]
        """What attention adds whatever it attends to, the biases of values and of the output,
        `[d_model]`; the first head has that of its layer."""
        if self.head:
            return None
        a = self.attention
        total = a.W_O.new_zeros(a.W_O.shape[-1])
        if a.b_O is not None:
            total = total + a.b_O
        if a.b_V is not None:
            b_V = a.b_V.repeat_interleave(a.W_O.shape[0] // a.b_V.shape[0], 0)
            total = total + torch.einsum("he,hed->d", b_V, a.W_O)
        return total.detach()

    # Clean values ---------------------------------------------------------------------------------

    def site(self, positions: tuple[int, ...] | None) -> Site:
        return Site("z", (self.name,), positions)

    def hooks(self, kind: str) -> set[str]:
        return {f"resid_{self.point}" if kind in HEAD_SLOTS else self.hook}

    def clean(self, kind: str, seen: Mapping[str, Tensor], where: Where) -> Tensor:
        if kind in HEAD_SLOTS:
            normed = self.attention.norm(select(seen[f"resid_{self.point}"], where))
            return self.project(kind, normed, where)
        z, bias = super().clean(kind, seen, where)[:, :, self.head], self.attention.b_V
        z = z if bias is None else z - bias[self.kv_head]
        return z if kind == "z" else z @ self.output_weights

    # The arithmetic -------------------------------------------------------------------------------

    @property
    def reads_unnormed(self) -> bool:
        """Whether it projects the residual stream as it is."""
        return isinstance(self.attention.norm, torch.nn.Identity)

    @property
    def output_weights(self) -> Tensor:
        """`W_O`, `[d_head, d_model]`."""
        return self.attention.W_O[self.head]

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        normed = self.attention.norm(stream)
        q, k, v = (self.project(slot, normed, None) for slot in HEAD_SLOTS)
        seen = seen_keys(visible, None, q, self.transformer.causal)
        return self.mix((q, k, v), seen) @ self.output_weights

    def project(self, slot: str, normed: Tensor, where: Where) -> Tensor:
        """q, k or v at `where`, `[B, K, d_head]`, from the normed stream there."""
        x = normed @ self._projection(slot)
        if slot == "v":
            return x
        bias = self.attention.b_Q if slot == "q" else self.attention.b_K
        if bias is not None:
            x = x + bias[self._nth(slot)]
        return self._rotated(x, where)

    def project_product(self, slot: str, z: Tensor, weights: Tensor, where: Where) -> Tensor:
        """What `z @ weights` in the stream adds to q, k or v at `where`; it reads the stream as it
        is."""
        added = z @ (weights @ self._projection(slot).to(weights.dtype))
        return added if slot == "v" else self._rotated(added, where)

    def mix(self, qkv: QKV, seen: Tensor) -> Tensor:
        """z, `[B, K, d_head]`, from q `[B, K, d_head]`, k and v `[B, P, d_head]`, and the keys that
        each query sees: bool, broadcasts to `[B, K, P]`."""
        q, k, v = qkv
        scores = q @ k.transpose(-1, -2) * self.attention.scale
        if self.attention.softcap is not None:
            scores = self.attention.softcap * torch.tanh(scores / self.attention.softcap)
        return scores.masked_fill(~seen, float("-inf")).softmax(-1) @ v

    def _nth(self, slot: str) -> int:
        return self.head if slot == "q" else self.kv_head

    def _projection(self, slot: str) -> Tensor:
        """`[d_model, d_head]`."""
        a = self.attention
        return {"q": a.W_Q, "k": a.W_K, "v": a.W_V}[slot][self._nth(slot)]

    def _rotated(self, x: Tensor, where: Where) -> Tensor:
        """Queries or keys `[B, K, d_head]` turned as their positions say, where there are rotary
        embeddings."""
        if self.attention.rotate is None:
            return x
        ids = torch.arange(x.shape[1], device=x.device) if where is None else where.clamp(min=0)
        return self.attention.rotate(x, ids)
