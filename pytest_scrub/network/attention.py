"""The arithmetic of one attention head, with its queries, keys and values from wherever a claim
takes them."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_scrub.errors import ModelError
from pytest_scrub.network.graph import Inputs, Where, blend
from pytest_scrub.network.parts import Attention


def kv_head(attention: Attention, head: int) -> int:
    """The key and value head of a query head (there are fewer in grouped-query attention)."""
    return head * attention.W_K.shape[0] // attention.W_Q.shape[0]


def project(attention: Attention, head: int, slot: str, x: Tensor, where: Where) -> Tensor:
    """A head's q, k or v from the normed residual stream before it, `[B, K, d_model]` at `where` to
    `[B, K, d_head]`.

    v has no bias: attention weights sum to one, so its bias is a constant and belongs to nobody.
    """
    x = x @ projection(attention, head, slot)
    if slot == "v":
        return x
    bias = attention.b_Q if slot == "q" else attention.b_K
    if bias is not None:
        x = x + bias[head if slot == "q" else kv_head(attention, head)]
    return rotated(attention, x, where)


def projection(attention: Attention, head: int, slot: str) -> Tensor:
    """The weights of a head's q, k or v, `[d_model, d_head]`."""
    weight = {"q": attention.W_Q, "k": attention.W_K, "v": attention.W_V}[slot]
    return weight[head if slot == "q" else kv_head(attention, head)]


def rotated(attention: Attention, x: Tensor, where: Where) -> Tensor:
    """Queries or keys `[B, K, d_head]` turned as their positions say, where there are rotary
    embeddings."""
    if attention.rotate is None:
        return x
    positions = torch.arange(x.shape[1], device=x.device) if where is None else where.clamp(min=0)
    return attention.rotate(x, positions)


def mix(attention: Attention, qkv: tuple[Tensor, Tensor, Tensor], seen: Tensor) -> Tensor:
    """A head's z, `[B, K, d_head]`: what it writes to the stream, but for constants, is that times
    its `W_O`.

    **Arguments**

    - `qkv`: q `[B, K, d_head]`, k and v `[B, P, d_head]`, as `project` gives them.
    - `seen`: bool, broadcasts to `[B, K, P]`: which keys each query sees.
    """
    q, k, v = qkv
    scores = q @ k.transpose(-1, -2) * attention.scale
    if attention.softcap is not None:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    pattern = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return pattern @ v


def constant(attention: Attention) -> Tensor:
    """What a layer's attention adds whatever it attends to, `[d_model]`: the biases of values and
    of the output."""
    total = attention.W_O.new_zeros(attention.W_O.shape[-1])
    if attention.b_O is not None:
        total = total + attention.b_O
    if attention.b_V is not None:
        repeats = attention.W_O.shape[0] // attention.b_V.shape[0]
        total = total + torch.einsum(
            "he,hed->d", attention.b_V.repeat_interleave(repeats, 0), attention.W_O
        )
    return total.detach()


def seen_keys(visible: Tensor, where: Where, queries: Tensor, causal: bool) -> Tensor:
    """Which keys queries at `where` see, `[B, 1 or K, P]`, from the visible keys `[B, P]`."""
    seen = visible[:, None, :]
    if not causal:
        return seen
    at = (
        torch.arange(queries.shape[1], device=queries.device)
        if where is None
        else where.clamp(min=0)
    )
    keys = torch.arange(visible.shape[1], device=visible.device)
    return seen & (keys <= at.unsqueeze(-1))


def visible_keys(inputs: Inputs) -> Tensor:
    """bool `[B, P]`: the keys that attention may see."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["tokens"], dtype=torch.bool) if mask is None else mask.bool()


def replaced_keys(visible: Tensor, donor: Tensor, at: Where) -> Tensor:
    """bool `[B, P]`: the carrier's visible keys with the donor's put in at `at`."""
    return blend(visible.float(), donor.float(), at, None) > 0


def require_a_key(seen: Tensor, carrier: Tensor, reader: str) -> None:
    """**Raises** `ModelError` where a query sees no key, which the network's own masks never do to
    it.

    **Arguments**

    - `seen`: as `seen_keys` gives it, of the queries that are computed.
    - `carrier`: the dataset's rows `[B]` that they are of; `reader`: the component they are
      computed for.
    """
    blind = ~seen.any(-1).all(-1)
    if blind.any():
        raise ModelError(
            f"{reader}: a mask swapped at some positions only leaves a query of row "
            f"{int(carrier[blind][0])} without a key that it sees; claim all positions of the "
            "mask, or let it agree on which keys are visible"
        )
