"""A transformer recomposed from its parts, and how far that is from what its hooks show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.parts import Attention, HeadNorm

Differences = Callable[[Transformer, dict[str, Tensor]], dict[str, float]]


@pytest.fixture(scope="session")
def differences() -> Differences:
    """`(parts, inputs) -> {what: largest difference, relative to the largest value}`."""
    return _differences


@torch.no_grad()
def _differences(parts: Transformer, inputs: dict[str, Tensor]) -> dict[str, float]:
    seen = parts.capture(inputs, _names(parts))
    found: dict[str, float] = {}

    def compare(name: str, mine: Tensor) -> None:
        theirs = seen[name]
        assert mine.shape == theirs.shape, name
        found[name] = float((mine - theirs).abs().max() / theirs.abs().max())

    stream = seen["embed"] + (seen["pos_embed"] if parts.has_pos_embed else 0)
    for layer, attention in enumerate(parts.attention):
        before = seen[f"resid_pre.{layer}"]
        compare(f"resid_pre.{layer}", stream)
        compare(f"z.{layer}", _z(parts, attention, before, inputs))
        written = torch.einsum("bphe,hed->bpd", seen[f"z.{layer}"], attention.W_O)
        written = written if attention.b_O is None else written + attention.b_O
        if attention.after is not None:
            compare(f"attn_out.{layer}", written)
            written = attention.after(written)
        stream = stream + written
        if parts.mlps:
            mlp = parts.mlps[layer]
            if not parts.parallel:
                compare(f"resid_mid.{layer}", stream)
                before = seen[f"resid_mid.{layer}"]
            compare(f"mlp_out.{layer}", mlp.apply(mlp.norm(before)))
            written = seen[f"mlp_out.{layer}"]
            stream = stream + (written if mlp.after is None else mlp.after(written))
        compare(f"resid_post.{layer}", stream)
    compare(
        "logits", parts.unembed(parts.final_norm(seen[f"resid_post.{len(parts.attention) - 1}"]))
    )
    return found


def _names(parts: Transformer) -> list[str]:
    per_layer = ["resid_pre", "z", "resid_post"]
    if parts.mlps:
        per_layer += ["mlp_out"] if parts.parallel else ["mlp_out", "resid_mid"]
    per_layer += ["attn_out"] if parts.attention[0].after is not None else []
    names = [f"{name}.{layer}" for name in per_layer for layer in range(len(parts.attention))]
    return ["embed", "logits", *names, *(["pos_embed"] if parts.has_pos_embed else [])]


def _z(
    parts: Transformer, attention: Attention, stream: Tensor, inputs: dict[str, Tensor]
) -> Tensor:
    """Every head's mixed values `[B, P, heads, d_head]` from the residual stream before the
    layer."""
    x, columns = attention.norm(stream), torch.arange(stream.shape[1])
    per_kv = parts.n_heads // attention.W_K.shape[0]

    def project(
        weight: Tensor, bias: Tensor | None, norm: HeadNorm | None = None, is_turned: bool = True
    ) -> Tensor:
        projected = torch.einsum("bpd,hde->bphe", x, weight)
        projected = projected if bias is None else projected + bias
        if norm is not None and not norm.after_rotation:
            projected = norm.apply(projected)
        projected = projected.transpose(1, 2)
        if is_turned and attention.rotate is not None:
            projected = attention.rotate(projected, columns)
        if norm is not None and norm.after_rotation:
            projected = norm.apply(projected)
        return projected.repeat_interleave(parts.n_heads // weight.shape[0], 1)

    q = project(attention.W_Q, attention.b_Q, attention.norm_q)
    k = project(attention.W_K, attention.b_K, attention.norm_k)
    v = project(attention.W_V, attention.b_V, is_turned=False)
    assert per_kv * attention.W_K.shape[0] == parts.n_heads
    scores = q @ k.transpose(-1, -2) * attention.scale
    if attention.softcap is not None:
        scores = attention.softcap * torch.tanh(scores / attention.softcap)
    if attention.bias is not None:
        scores = scores + attention.bias(len(columns))[:, None]
    visible = torch.ones_like(inputs["tokens"], dtype=torch.bool)[:, None, None]
    if "attention_mask" in inputs:
        visible = inputs["attention_mask"].bool()[:, None, None]
    if parts.causal:
        visible = visible & (columns <= columns[:, None])
    if attention.window is not None:
        visible = visible & (columns > columns[:, None] - attention.window)
    nothing = torch.finfo(scores.dtype).min
    scores = scores.masked_fill(~visible, nothing)
    if attention.sinks is not None:
        sinks = attention.sinks.view(-1, 1, 1).expand(len(scores), -1, scores.shape[2], 1)
        scores = torch.cat([scores, sinks], -1)
    return (scores.softmax(-1)[..., : len(columns)] @ v).transpose(1, 2)
