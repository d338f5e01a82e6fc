"""Hugging Face's configurations of networks with two small layers."""

from __future__ import annotations

from typing import Any

GPT2: dict[str, Any] = {
    "vocab_size": 20,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 12,
}
SMALL: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 2}
