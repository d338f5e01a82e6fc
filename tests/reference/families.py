"""Hugging Face's decoder families with small random weights, computed in float64 throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import transformers as hf
from torch.overrides import TorchFunctionMode

# a config and a model from: sizes (`common`, the names most of them have), a window, soft caps
Options = Mapping[str, Any]


class AllFloat64(TorchFunctionMode):
    """Whatever asks for float32 gets float64: norms, rotations and softmax of these networks do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        named = kwargs or {}
        if any(arg is torch.float32 for arg in (*args, *named.values())):  # seldom
            args = [_double(arg) for arg in args]
            named = {name: _double(arg) for name, arg in named.items()}
        return func(*args, **named)


def _double(arg: Any) -> Any:
    return torch.float64 if arg is torch.float32 else arg


def common(a: Any) -> dict[str, Any]:
    """Sizes, as most configs call them."""
    return {
        "vocab_size": a.d_vocab,
        "hidden_size": a.d_model,
        "intermediate_size": 2 * a.d_model,
        "num_hidden_layers": a.n_layers,
        "num_attention_heads": a.n_heads,
        "num_key_value_heads": a.n_kv_heads,
        "head_dim": a.d_head,
        "max_position_embeddings": a.n_ctx,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def sliding(a: Any) -> dict[str, Any]:
    """Every other layer, from the first, sees a window of keys only."""
    kinds = ["sliding_attention", "full_attention"]
    return {"sliding_window": a.window, "layer_types": [kinds[i % 2] for i in range(a.n_layers)]}


def _gemma2(a: Any) -> Any:
    caps = {"attn_logit_softcapping": a.score_cap, "final_logit_softcapping": a.logit_cap}
    return hf.Gemma2Config(**common(a), **sliding(a), **caps)


def _olmo2(a: Any) -> Any:
    return hf.Olmo2Config(**{**common(a), "hidden_size": a.n_heads * a.d_head})


def _gpt_neo(a: Any) -> Any:
    return hf.GPTNeoConfig(
        vocab_size=a.d_vocab,
        hidden_size=a.n_heads * a.d_head,
        num_layers=a.n_layers,
        num_heads=a.n_heads,
        attention_types=[[[("local", "global")[i % 2]], 1] for i in range(a.n_layers)],
        window_size=a.window,
        max_position_embeddings=a.n_ctx,
        bos_token_id=0,
        eos_token_id=0,
    )


def _bloom(a: Any) -> Any:
    width = a.n_heads * a.d_head
    return hf.BloomConfig(
        vocab_size=a.d_vocab, hidden_size=width, n_layer=a.n_layers, n_head=a.n_heads,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip


def _granite(a: Any) -> Any:
    sizes = {**common(a), "hidden_size": a.n_heads * a.d_head}
    return hf.GraniteConfig(
        **sizes,
        residual_multiplier=0.4,
        embedding_multiplier=3.0,
        attention_multiplier=0.7,
        logits_scaling=2.0,
    )


def _cohere(a: Any) -> Any:
    sizes = {**common(a), "hidden_size": a.n_heads * a.d_head}
    return hf.CohereConfig(**sizes, use_qk_norm=True, logit_scale=0.3)


def _gpt_oss(a: Any) -> Any:
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1}
    return hf.GptOssConfig(**common(a), **sliding(a), **experts)


FAMILIES: dict[str, tuple[Callable[[Any], Any], type[Any]]] = {
    # post-norm, soft caps, windows
    "gemma2": (_gemma2, hf.Gemma2ForCausalLM),
    # post-norm, windows, each head's queries and keys normalised
    "gemma3": (lambda a: hf.Gemma3TextConfig(**common(a), **sliding(a)), hf.Gemma3ForCausalLM),
    # post-norm only, all heads' queries and keys normalised together
    "olmo2": (_olmo2, hf.Olmo2ForCausalLM),
    "qwen3": (lambda a: hf.Qwen3Config(**common(a)), hf.Qwen3ForCausalLM),
    "mistral": (
        lambda a: hf.MistralConfig(**common(a), sliding_window=a.window),
        hf.MistralForCausalLM,
    ),
    "gpt_neo": (_gpt_neo, hf.GPTNeoForCausalLM),
    "bloom": (_bloom, hf.BloomForCausalLM),
    "granite": (_granite, hf.GraniteForCausalLM),
    # parallel blocks, adjacent pairs rotated, queries and keys with weights for each head
    # normalised after rotation
    "hunyuan": (lambda a: hf.HunYuanDenseV1Config(**common(a)), hf.HunYuanDenseV1ForCausalLM),
    # attention that sums to less than one, windows, experts
    "gpt_oss": (_gpt_oss, hf.GptOssForCausalLM),
    "cohere": (_cohere, hf.CohereForCausalLM),
}
