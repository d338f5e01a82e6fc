"""What inputs and fields are called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

TOKENS, MASK, LABELS = "tokens", "attention_mask", "labels="
# inputs that hold token ids: ours, and what Hugging Face calls them
TOKEN_NAMES = (TOKENS, "input_ids")

Field = str | Callable[[Any], Any]
Names = str | Sequence[str] | Mapping[str, Field]
