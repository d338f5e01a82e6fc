"""The network that is small enough for every tool: two layers of attention, and two claims about
it.

d_model 256, 8 heads of 32, 64 tokens, vocabulary 1,000, causal, float32, no layer norm, logits at
the last position. Random weights: what a claim says is false, but what evaluating it costs does not
depend on that.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_scrub import ANYTHING, EXACT, Dataset, embed, head, output
from pytest_scrub.tree.nodes import Node

LAYERS, HEADS, D_HEAD, D_MODEL, SEQ, VOCABULARY = 2, 8, 32, 256, 64, 1000
ROWS = 2048


def network():
    """The network as TransformerLens runs it."""
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    config = TransformerBridgeConfig(
        n_layers=LAYERS, n_heads=HEADS, d_head=D_HEAD, d_model=D_MODEL, n_ctx=SEQ,
        d_vocab=VOCABULARY,
        attn_only=True, normalization_type=None, attention_dir="causal", act_fn="relu", seed=0,
    )  # fmt: skip
    bridge = TransformerBridge.boot_native(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in bridge.original_model.named_parameters():
            # Biases are zero: rust_circuit's attention has none, and the networks have to be the
            # same.
            scale = (
                0.0
                if name.endswith("bias")
                else 1.0
                if "embed" in name or "pos" in name
                else D_MODEL**-0.5
            )
            tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
    return bridge.eval()


def dataset(rows: int = ROWS) -> Dataset:
    tokens = torch.randint(VOCABULARY, (rows, SEQ), generator=torch.Generator().manual_seed(2))
    labels = torch.randint(VOCABULARY, (rows,), generator=torch.Generator().manual_seed(3))
    return Dataset(
        tokens,
        labels=labels,
        label_pos=-1,
        features={"last": tokens[:, -1] % 2, "before": tokens[:, -2] % 2},
        name="random tokens",
    )


def claim_of_4_nodes() -> Node:
    """Head 1.0 agrees on the last token's parity and reads head 0.3, which agrees on that of the
    token before."""
    return output(
        head(1, 0, agrees_on="last", reads=[head(0, 3, agrees_on="before")]),
        embed(agrees_on=EXACT),
    )


def claim_of_73_nodes() -> Node:
    """Each head of layer 1 reads each of layer 0; no donor has to agree on anything."""
    return output(
        *(
            head(
                1,
                above,
                agrees_on=ANYTHING,
                reads=[head(0, below, agrees_on=ANYTHING) for below in range(HEADS)],
            )
            for above in range(HEADS)
        )
    )


def weights(bridge) -> dict[str, Tensor]:
    """The network's weights as plain tensors: per layer q, k, v, o `[heads, ...]`."""
    found = {
        "embed": bridge.W_E.detach(),
        "pos": bridge.W_pos.detach(),
        "unembed": bridge.W_U.detach(),
    }
    for layer, block in enumerate(bridge.blocks):
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            found[f"{name}{layer}"] = getattr(block.attn, name).detach()
    return found


def minimal_forward(bridge) -> Callable[[Tensor], Tensor]:
    """The same network with as little as possible around it: tokens to logits at the last position.

    One matrix product for the queries, keys and values of a layer, fused attention, and in the last
    layer queries of the last position only.
    """
    w = weights(bridge)
    packed, out = [], []
    for layer in range(LAYERS):
        columns = [
            w[f"{name}{layer}"].permute(1, 0, 2).reshape(D_MODEL, -1)
            for name in ("W_Q", "W_K", "W_V")
        ]
        packed.append(torch.cat(columns, 1).T.contiguous())
        out.append(w[f"W_O{layer}"].reshape(-1, D_MODEL).T.contiguous())
    unembed = w["unembed"].T.contiguous()
    width = HEADS * D_HEAD

    def split(x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], HEADS, D_HEAD).transpose(1, 2)

    def forward(tokens: Tensor) -> Tensor:
        x = F.embedding(tokens, w["embed"]) + w["pos"][: tokens.shape[1]]
        q, k, v = F.linear(x, packed[0]).split(width, -1)
        z = F.scaled_dot_product_attention(split(q), split(k), split(v), is_causal=True)
        x = x + F.linear(z.transpose(1, 2).reshape(x.shape), out[0])
        k, v = F.linear(x, packed[1][width:]).split(width, -1)
        last = x[:, -1:]
        q = F.linear(last, packed[1][:width])
        z = F.scaled_dot_product_attention(split(q), split(k), split(v))
        return F.linear(last + F.linear(z.transpose(1, 2).reshape(last.shape), out[1]), unembed)[
            :, 0
        ]

    return forward


def rows_of(swap_set, slot: str) -> np.ndarray:
    """The donors of one slot."""
    return swap_set.donors[swap_set.slots.index(slot)]
