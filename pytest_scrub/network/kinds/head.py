"""Attention heads.

With `x = norm(residual stream)`, `q = norm_q(x @ W_Q + b_Q)`, and so on; a head's z is
`softmax(rotate(q) @ rotate(k).T * scale, capped, biased, masked) @ v`, and what it adds is `z @
W_O`. v has no bias: attention weights sum to one, so its bias is a constant and belongs to nobody.
Where a sink takes a share of them it is no constant, and v has it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import FixedPositions, Inputs, Site, Where, position_ids, select
from pytest_scrub.network.kinds.mask import replaced_keys, require_a_key, seen_keys
from pytest_scrub.network.kinds.part import MASK, PATTERN, Part, first_stage
from pytest_scrub.network.kinds.reading import Batch, ReadingPart
from pytest_scrub.network.parts import HeadNorm
from pytest_scrub.network.precision import widened
from pytest_scrub.tree.nodes import HEAD_SLOTS

Weights = tuple[Tensor, Tensor | None, list[int]]
"""Weights `[out, d_model]` of several slots one below the other, their biases, and how many of
these are each slot's."""
# Of fewer keys a processor's vectors hold those of one query half empty: then of many queries.
FEWEST_KEYS = 8


class Head(ReadingPart):
    """A query head of a layer's attention, with the key and value head that it shares with others
    where there are fewer of those (grouped queries)."""

    streams = HEAD_SLOTS
    beside = (MASK,)
    instead = MappingProxyType({PATTERN: ("q", "k", MASK)})

    def __init__(self, transformer: Transformer, layer: int, head: int) -> None:
        super().__init__(transformer, f"head{layer}.{head}", f"attention {layer}")
        self.layer, self.head, self.attention = layer, head, transformer.attention[layer]
        self.kv_head = head * self.attention.W_K.shape[0] // self.attention.W_Q.shape[0]
        self.stage, self.point, self.hook = first_stage(layer), f"pre.{layer}", f"z.{layer}"
        self.block, self.after = f"attn_out.{layer}", self.attention.after

    def slots(self, child: Part, anywhere: bool) -> tuple[str, ...]:
        if child.stage == self.stage:  # its own attention is no later one
            return tuple(slot for slot in child.ways_into(self, anywhere) if slot == PATTERN)
        return super().slots(child, anywhere)

    def reads_in_place(self, slot: str) -> bool:
        # keys and values, and the mask, are read at every position
        return slot in ("q", PATTERN)

    @property
    def constant(self) -> Tensor | float:
        """That of its layer's attention, for the first head."""
        return 0.0 if self.head else self.attention.constant.to(self.transformer.device)

    # Clean values ---------------------------------------------------------------------------------

    def site(self, positions: FixedPositions) -> Site:
        return Site("z", (self.name,), positions)

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        value = super().clean(kind, seen, where)
        if kind in HEAD_SLOTS:
            length = seen[self.hook_of(kind)].shape[1]
            (projected,) = self.project((kind,), self.normed(value), where, length)
            return projected.to(value.device)
        z, bias = value[:, :, self.head], self.attention.b_V
        if bias is not None and self.attention.sinks is None:
            z = z - bias[self.kv_head].to(z.device)
        return z if kind == "z" else z @ self.output_weights

    # Reading with something replaced --------------------------------------------------------------

    def read(self, batch: Batch) -> Tensor:
        """Its z, `[B, K, d_head]`."""
        claimed = [child for child in batch.values if PATTERN in child.slots]
        v = self.projected(batch, "v")
        if not claimed:
            return torch.bmm(self.attention_to(batch), v).to(batch.carrier.device)
        site = claimed[0].everywhere
        attention = widened(batch.clean.take(site, batch.carrier, batch.where))
        for child in claimed:
            attention = batch.replaced(child, attention, batch.where, None)
        z, bias = torch.bmm(attention.to(v), v), self.attention.b_V
        if bias is not None and self.attention.sinks is None:
            # z is without the values' bias, which all keys have: where what was computed for them
            # is no whole one, it counts for more or less than once
            z = z + (attention.sum(-1, keepdim=True) - 1).to(v) * bias[self.kv_head].to(v)
        return z.to(batch.carrier.device)

    def attention_to(self, batch: Batch) -> Tensor:
        """What share of each key its queries attend to, `[B, K, P]`, of what they, the keys and the
        mask read."""
        q, k = (self.projected(batch, slot) for slot in ("q", "k"))
        return self.attention_of(q, k, self.hidden(batch, q))

    def hidden(self, batch: Batch, q: Tensor) -> Tensor:
        """The keys that its queries do not see, bool, broadcasts to `[B, K, P]`."""
        where = batch.where
        if batch.sees_all and (where is None or where.ndim == 1):  # the same of every batch
            return batch.reading.kept(
                (self.name, "hidden"), lambda: (~self.seen(batch.visible.to(q.device), where, q),)
            )[0]
        masks = [
            (child.edit, value) for child, value in batch.values.items() if MASK in child.slots
        ]
        visible = replaced_keys(batch.visible, masks, batch.carrier).to(q.device)
        if masks:  # beyond a window only padding sees no key
            seen = seen_keys(visible, where, q, self.transformer.causal)
            require_a_key(seen.to(batch.carrier.device), batch.carrier, self.name)
        return ~self.seen(visible, where, q)

    def projected(self, batch: Batch, slot: str) -> Tensor:
        """q, k or v `[B, K, d_head]`, where this head computes. Those that nothing changes are
        gathered as they are, and what children add to a stream that is not normalised is added to
        them."""
        source = batch.reading.inputs[slot]
        where = batch.where_of(source)
        length = None if where is None else batch.visible.shape[1]
        if source.is_projected:
            nth = self.head if slot == "q" else self.kv_head
            start = batch.reading.part.start(batch, slot, nth).to(self.device)
            if not source.products:
                return start
            z, weights = (both.to(self.device) for both in batch.product(source))
            added = z @ (weights @ self.projection(slot)[0].T.to(weights.dtype))
            return (widened(start) + self.rotated(slot, added, where, length)).to(start.dtype)
        key = (source.direct, source.rerun, where is None)

        def make() -> dict[str, Tensor]:
            """Of all slots that read this stream."""
            others = batch.reading.inputs.items()
            slots = [
                other
                for other, own in others
                if not own.is_projected
                and key == (own.direct, own.rerun, batch.where_of(own) is None)
            ]
            normed = batch.shared(key, lambda: self.normed(batch.stream(slot)))
            weights = batch.reading.kept((self.name, *slots), lambda: self.weights(slots))
            projected = self.project(slots, normed, where, length, weights)
            return dict(zip(slots, projected, strict=True))

        return batch.shared((self.name, *key), make)[slot]

    # The arithmetic -------------------------------------------------------------------------------

    def is_linear(self, slot: str) -> bool:
        unnormed = isinstance(self.attention.norm, torch.nn.Identity)
        return unnormed and self.head_norm(slot) is None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.attention.W_Q.device

    def normed(self, stream: Tensor) -> Tensor:
        """What its layer makes of the stream that it reads, where it computes."""
        return self.attention.norm(stream.to(self.device)).to(self.device)

    @property
    def output_weights(self) -> Tensor:
        """`W_O`, `[d_head, d_model]`, where contributions are summed."""
        return self.attention.W_O[self.head].to(self.transformer.device)

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        normed = self.normed(stream)
        q, k, v = self.project(HEAD_SLOTS, normed, None)
        z = self.mix(q, k, v, ~self.seen(visible.to(self.device), None, q))
        return (z @ self.attention.W_O[self.head]).to(stream.device)

    def together(
        self,
        parts: Sequence[Part],
        apart: Collection[str],
        stream: Tensor,
        visible: Tensor,
        where: Where,
    ) -> Iterator[tuple[str, Tensor]]:
        """Heads of one layer: what they add that are not told apart is one product."""
        z, weights = list[Tensor](), list[Tensor]()
        for head, own in self.mixed_of(parts, stream, visible, where):
            if head.name in apart:
                yield head.name, (own @ self.attention.W_O[head.head]).to(stream.device)
            else:
                z.append(own)
                weights.append(self.attention.W_O[head.head])
        if z:
            yield "", (torch.cat(z, -1) @ torch.cat(weights)).to(stream.device)

    def mixed_of(
        self, parts: Sequence[Part], stream: Tensor, visible: Tensor, where: Where
    ) -> Iterator[tuple[Head, Tensor]]:
        """Heads of one layer, each with its z at `where`, `[B, K, d_head]`, where it computes: the
        stream is normed once, keys and values are computed once for all that share them."""
        normed = self.normed(stream)
        here = select(normed, where)
        hidden = ~self.seen(visible.to(self.device), where, here)
        shared: dict[int, tuple[Tensor, Tensor]] = {}
        for head in parts:
            assert isinstance(head, Head)
            if head.kv_head not in shared:
                k, v = head.project(("k", "v"), normed, None)
                shared[head.kv_head] = k, v
            (q,) = head.project(("q",), here, where, visible.shape[1])
            yield head, head.mix(q, *shared[head.kv_head], hidden)

    def seen(self, visible: Tensor, where: Where, queries: Tensor) -> Tensor:
        """Which keys queries at `where` see, bool, broadcasts to `[B, K, P]`."""
        return seen_keys(visible, where, queries, self.transformer.causal, self.attention.window)

    def project(
        self,
        slots: Sequence[str],
        normed: Tensor,
        where: Where,
        length: int | None = None,
        weights: Weights | None = None,
    ) -> list[Tensor]:
        """q, k or v at `where`, `[B, K, d_head]` each, from the normed stream there, of inputs of
        this length where that is not all of it. `weights`: theirs, where they are at hand."""
        weight, bias, widths = weights or self.weights(slots)
        projected = torch.nn.functional.linear(normed, weight, bias).split_with_sizes(widths, -1)
        own = zip(slots, projected, strict=True)
        return [self.finished(slot, part, where, length) for slot, part in own]

    def weights(self, slots: Sequence[str]) -> Weights:
        """What queries, keys or values are computed with, as one product: of heads, which are
        narrow, several take hardly longer than one."""
        weights, biases = zip(*map(self.projection, slots), strict=True)
        widths = [*map(len, weights)]
        if all(bias is None for bias in biases):
            return torch.cat(weights), None, widths
        each = zip(weights, biases, strict=True)
        every = [own.new_zeros(len(own)) if bias is None else bias for own, bias in each]
        return torch.cat(weights), torch.cat(every), widths

    def finished(self, slot: str, projected: Tensor, where: Where, length: int | None) -> Tensor:
        """q, k or v of what `projection` gives: normalised and rotated, where they are."""
        norm = self.head_norm(slot)
        if norm is None:
            return self.rotated(slot, projected, where, length)
        if not norm.each_alone:
            weights, _, nth = self.projections(slot)
            every = norm.apply(projected.reshape(*projected.shape[:-1], len(weights), -1))
            return self.rotated(slot, every[:, :, nth], where, length)
        if norm.after_rotation:
            return norm.apply(self.rotated(slot, projected, where, length))
        return self.rotated(slot, norm.apply(projected), where, length)

    def head_norm(self, slot: str) -> HeadNorm | None:
        """What normalises its queries or keys."""
        return {"q": self.attention.norm_q, "k": self.attention.norm_k, "v": None}[slot]

    def mix(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> Tensor:
        """z, `[B, K, d_head]`, from q `[B, K, d_head]`, k and v `[B, P, d_head]`, and the keys that
        each query does not see: bool, broadcasts to `[B, K, P]`."""
        return torch.bmm(self.attention_of(q, k, hidden), v)

    def attention_of(self, q: Tensor, k: Tensor, hidden: Tensor) -> Tensor:
        """What share of each key queries attend to, `[B, K, P]`."""
        nothing = q.new_empty(1, 1, 1)  # to which the scaled product is added, and it ignored
        scores = torch.baddbmm(nothing, q, k.transpose(-1, -2), beta=0, alpha=self.attention.scale)
        if self.attention.softcap is not None:
            scores = self.attention.softcap * torch.tanh(scores / self.attention.softcap)
        if self.attention.bias is not None:
            scores = scores + self.attention.bias(k.shape[1])[self.head].to(scores.dtype)
        # The most negative number, as networks have it: a query that sees no key, of padding,
        # attends to all alike, or to a sink alone.
        scores = scores.masked_fill_(hidden, torch.finfo(scores.dtype).min)
        sinks = self.attention.sinks
        if sinks is None:
            return softmax(scores)
        sink = sinks[self.head].to(scores.dtype).expand(*scores.shape[:-1], 1)
        return softmax(torch.cat([scores, sink], -1))[..., :-1]

    def projection(self, slot: str) -> tuple[Tensor, Tensor | None]:
        """The weights, `[d_head, d_model]`, and the bias of queries, keys or values; of all heads,
        one below the other, where these are normalised together."""
        weights, biases, nth = self.projections(slot)
        norm = self.head_norm(slot)
        if norm is None or norm.each_alone:
            return weights[nth].T, None if biases is None else biases[nth]
        return weights.mT.flatten(0, 1), None if biases is None else biases.flatten()

    def projections(self, slot: str) -> tuple[Tensor, Tensor | None, int]:
        """The weights and biases of the layer's queries, keys or values, and which are this
        head's."""
        a = self.attention
        b_V = None if a.sinks is None else a.b_V
        both = {"q": (a.W_Q, a.b_Q), "k": (a.W_K, a.b_K), "v": (a.W_V, b_V)}
        return *both[slot], self.head if slot == "q" else self.kv_head

    def rotated(self, slot: str, x: Tensor, where: Where, length: int | None) -> Tensor:
        """Queries or keys `[B, K, d_head]` turned as their positions say, where there are rotary
        embeddings; values as they are."""
        if slot == "v" or self.attention.rotate is None:
            return x
        return self.attention.rotate(x, position_ids(where, x), length)


def softmax(scores: Tensor) -> Tensor:
    """Over the keys of `[B, K, P]`."""
    if scores.shape[-1] >= FEWEST_KEYS:
        return scores.softmax(-1)
    return scores.permute(2, 0, 1).softmax(0).permute(1, 2, 0)
