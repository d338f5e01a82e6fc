"""Train the bracket checker from scratch: `python -m example_circuits.brackets.train`, some minutes
on one core.

Writes `brackets.safetensors` and `brackets.json` beside this file and prints loss and accuracy on
strings it was not trained on. Same seed, same machine, same weights.
"""

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from example_circuits.brackets import data

WEIGHTS = Path(__file__).with_name("brackets.safetensors")
CONFIG: dict[str, Any] = {
    "n_layers": 3,
    "n_heads": 2,
    "d_model": 48,
    "d_head": 24,
    "d_mlp": 48,
    "act_fn": "relu",
    "normalization_type": "LN",
    "attention_dir": "bidirectional",
    "n_ctx": data.N_POSITIONS,
    "d_vocab": 5,
    "d_vocab_out": 2,
}
SEED = 0
TRAINING_STRINGS, HELD_OUT_STRINGS = 200_000, 20_000
STEPS, BATCH, LEARNING_RATE, WEIGHT_DECAY = 5_000, 256, 2e-3, 0.01


def load() -> TransformerBridge:
    """The trained network, ready to evaluate."""
    config = TransformerBridgeConfig(**json.loads(WEIGHTS.with_suffix(".json").read_text()))
    model = TransformerBridge.boot_native(config)
    model.load_state_dict(safetensors.torch.load_file(WEIGHTS))
    return model.eval()


def encode(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens and attention mask `[n, positions]` and labels `[n]` (1 = balanced)."""
    ids, mask = data.tokens(texts)
    return (
        torch.from_numpy(ids),
        torch.from_numpy(mask),
        torch.from_numpy(data.balanced(ids).astype(np.int64)),
    )


def train() -> TransformerBridge:
    torch.manual_seed(SEED)
    model = TransformerBridge.boot_native(TransformerBridgeConfig(**CONFIG)).train()
    ids, mask, labels = encode(data.strings(TRAINING_STRINGS, seed=SEED))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=STEPS, pct_start=0.1
    )
    # Every length is drawn equally often: few strings are short, and a checker has to know `()`
    # too.
    lengths = mask.sum(dim=1)
    rarity = 1 / lengths.bincount()[lengths].double()
    draws = torch.multinomial(rarity, STEPS * BATCH, replacement=True).view(STEPS, BATCH)
    began = time.perf_counter()
    for step, rows in enumerate(draws):
        logits = model(ids[rows], attention_mask=mask[rows])[:, 0]
        loss = torch.nn.functional.cross_entropy(logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 250 == 249:
            print(
                f"step {step + 1}: loss {loss.item():.4f}, {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return model.eval()


@torch.no_grad()
def evaluate(model: TransformerBridge, texts: list[str]) -> tuple[float, float]:
    """Mean loss and accuracy."""
    ids, mask, labels = encode(texts)
    batches = zip(ids.split(1_000), mask.split(1_000), strict=True)
    logits = torch.cat([model(rows, attention_mask=visible)[:, 0] for rows, visible in batches])
    loss = torch.nn.functional.cross_entropy(logits.double(), labels)
    return loss.item(), (logits.argmax(1) == labels).double().mean().item()


if __name__ == "__main__":
    torch.set_num_threads(1)
    network = train()
    safetensors.torch.save_file(network.state_dict(), WEIGHTS)
    WEIGHTS.with_suffix(".json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    trained_on = set(data.strings(TRAINING_STRINGS, seed=SEED))
    held_out = [
        text for text in data.strings(HELD_OUT_STRINGS, seed=SEED + 1) if text not in trained_on
    ]
    held_out_loss, accuracy = evaluate(load(), held_out)
    print(f"{len(held_out)} held-out strings: loss {held_out_loss:.6f}, accuracy {accuracy:.2%}")
    short = ["".join(text) for n in range(2, 13, 2) for text in itertools.product("()", repeat=n)]
    short_loss, accuracy = evaluate(load(), short)
    print(
        f"all {len(short)} strings of up to 12 brackets: loss {short_loss:.6f}, accuracy "
        f"{accuracy:.2%}"
    )
