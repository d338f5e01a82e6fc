"""Train the adding network: two layers of four attention heads and an MLP. Minutes on one core.

    python -m example_circuits.carrying.train

writes carrying.safetensors and carrying.json beside this file and prints what they reach on pairs
that were not trained on. One seed gives one network on one machine; another torch version or
processor rounds differently, which after thousands of steps is another network.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import cross_entropy
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from example_circuits.carrying.data import (
    D_VOCAB,
    HUNDREDS,
    LENGTH,
    ONES,
    answer,
    is_held_out,
    pairs,
    sums,
)

CONFIG: dict[str, Any] = {
    "d_model": 48,
    "d_head": 12,
    "n_layers": 2,
    "n_heads": 4,
    "d_mlp": 128,
    "n_ctx": LENGTH,
    "d_vocab": D_VOCAB,
    "act_fn": "relu",
    "normalization_type": "LN",
    "positional_embedding_type": "standard",
    "attention_dir": "causal",
}
STEPS = 2500
BATCH = 256
LEARNING_RATE = 3e-3
WARMUP = 100  # steps
WEIGHT_DECAY = 0.1


def train(seed: int) -> TransformerBridge:
    """A network trained to write the three digits of the sums that are not held out."""
    config = TransformerBridgeConfig(**CONFIG, seed=seed)
    bridge: TransformerBridge = TransformerBridge.boot_native(config)  # type: ignore[attr-defined]
    # the same parameters, without the bridge's own work at every call
    network = bridge.original_model
    optimizer = torch.optim.AdamW(
        list(network.parameters()), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / STEPS)
    )
    seen = sums(pairs()[~is_held_out(seed)])
    generator = np.random.default_rng(seed)
    start = time.perf_counter()
    for step in range(STEPS):
        tokens = seen[generator.integers(len(seen), size=BATCH)]
        logits = network(torch.from_numpy(tokens))[:, HUNDREDS : ONES + 1]
        loss = cross_entropy(logits.flatten(0, 1), torch.from_numpy(answer(tokens)).flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        if step % 500 == 0 or step == STEPS - 1:
            print(
                f"step {step:4}: loss {loss.item():.5f} after {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    bridge.eval()
    return bridge


@torch.no_grad()
def report(bridge: TransformerBridge, seed: int) -> None:
    """Print loss (nats for each digit) and accuracy on the pairs that were not trained on."""
    tokens = sums(pairs()[is_held_out(seed)])
    logits = bridge(torch.from_numpy(tokens))[:, HUNDREDS : ONES + 1]
    digits = torch.from_numpy(answer(tokens))
    for i, name in enumerate(("hundreds", "tens", "ones")):
        loss = cross_entropy(logits[:, i], digits[:, i]).item()
        right = (logits[:, i].argmax(dim=-1) == digits[:, i]).float().mean().item()
        print(f"{name:8}: loss {loss:.5f}, accuracy {right:.4f} on {len(tokens)} pairs held out")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("carrying.safetensors")
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    bridge = train(arguments.seed)
    report(bridge, arguments.seed)
    weights = bridge.state_dict()  # type: ignore[no-untyped-call]
    save_file(weights, arguments.out)
    arguments.out.with_suffix(".json").write_text(json.dumps(CONFIG, indent=2) + "\n")


if __name__ == "__main__":
    main()
