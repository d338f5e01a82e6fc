"""Claims on networks of other families, from a Hugging Face model to a verdict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf

from pytest_scrub import EXACT, Dataset, check, embed, group, head, load_model, mlp, output

SIZES: dict[str, Any] = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "initializer_range": 0.3,
}
NETWORKS: dict[str, Callable[[], Any]] = {
    "gemma 2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**SIZES, sliding_window=3)),
    "qwen 3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SIZES)),
}


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Padded on the right, to less and to more than the window."""
    tokens = torch.randint(1, 20, (60, 6), generator=torch.Generator().manual_seed(0))
    lengths = torch.arange(60) % 3 * 2 + 2
    visible = (torch.arange(6) < lengths[:, None]).long()
    last = tokens[torch.arange(60), lengths - 1]
    features = {"last_token": last, "length": lengths, "last": lengths - 1}
    return Dataset(
        {"tokens": tokens, "attention_mask": visible},
        labels=last,
        label_pos="last",
        features=features,
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_claim_on_a_family_has_a_verdict(name: str, data: Dataset) -> None:
    torch.manual_seed(0)
    network = load_model(NETWORKS[name]().eval())
    on: dict[str, Any] = {"agrees_on": ["last_token", "length"]}
    claimed = output(
        mlp(1, **on, pos="last"),
        group([head(1, 0), head(0, 3)], **on, pos="last"),
        head(1, 1, **on, pos="last", reads=[embed(**on, into="v"), head(0, 0, **on)], rest=EXACT),
        rest=EXACT,
    )
    options: dict[str, Any] = {"tolerance": 10.0, "budget": 500, "samples": 100, "seed": 0}
    verdict = check(claimed, network, data, **options)
    assert verdict.gap is not None
    assert verdict.gap.mean != 0
    # what agrees with the input itself changes nothing
    same = check(output(mlp(1, agrees_on=EXACT), rest=EXACT), network, data, **options)
    assert same.gap is None or abs(same.gap.mean) < 1e-5
