"""The published paren-balance checker and its strings, read from the folder in SCRUB_BRACKETS;
never copied here.

Chan et al., "Causal scrubbing: results on a paren balance checker" (2022).
"""

from __future__ import annotations

import json
import os
from itertools import accumulate
from pathlib import Path

import torch

from pytest_scrub import Dataset, head, output
from pytest_scrub.network.loading import load_raw

FOLDER = "SCRUB_BRACKETS"
STRINGS = 20_000
LENGTH = 42
START, PAD, END = 0, 1, 2
BRACKETS = {"(": 3, ")": 4}
CONFIG = {
    "n_layers": 3, "n_heads": 2, "d_head": 28, "d_model": 56, "d_mlp": 56, "act_fn": "relu",
    "n_ctx": LENGTH,
    "d_vocab": 5, "d_vocab_out": 2, "attention_dir": "bidirectional", "normalization_type": "LN",
}  # fmt: skip


def folder() -> Path | None:
    """Where the network and its strings lie, None where nobody said."""
    return Path(os.environ[FOLDER]) if os.environ.get(FOLDER) else None


def network(at: Path):
    """The network as TransformerLens runs it."""
    return load_raw(at / "brackets_model_state_dict.pt", config=CONFIG)


def dataset(at: Path, strings: int = STRINGS) -> Dataset:
    """The first strings: balanced or not is the label, read at position 0."""
    rows = json.loads((at / "brackets_data.json").read_text())[:strings]
    texts = [text for text, _ in rows]
    tokens = torch.full((len(texts), LENGTH), PAD)
    for i, text in enumerate(texts):
        tokens[i, : len(text) + 2] = torch.tensor([START, *(BRACKETS[c] for c in text), END])
    features = {
        "count": [text.count("(") == text.count(")") for text in texts],
        "horizon": [
            max(accumulate(1 if c == "(" else -1 for c in reversed(text))) <= 0 for text in texts
        ],
        "starts_open": [text.startswith("(") for text in texts],
    }
    features["count_open"] = [
        a and b for a, b in zip(features["count"], features["starts_open"], strict=True)
    ]
    return Dataset(
        {"tokens": tokens, "attention_mask": tokens != PAD},
        labels=[int(balanced) for _, balanced in rows],
        label_pos=0,
        features=features,
        show=lambda row: "".join({3: "(", 4: ")"}.get(int(t), "") for t in row["tokens"]),
        name="published bracket strings",
    )


def claim_1a():
    return output(
        head(1, 0, agrees_on="count"), head(2, 0, agrees_on="count"),
        head(2, 1, agrees_on="horizon")
    )  # fmt: skip


def claim_1b():
    return output(
        head(1, 0, agrees_on="count_open"), head(2, 0, agrees_on="count_open"),
        head(2, 1, agrees_on="horizon")
    )  # fmt: skip
