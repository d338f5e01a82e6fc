"""Train two networks on the same noisy task: one memorises 500 sequences, one never sees a sequence
twice.

    python -m example_circuits.pitfalls.cancellation.train

writes memoriser.safetensors and learner.safetensors, each with its config, and the sequences that
were memorised beside this file (or in `--out`) and prints what the networks reach. One seed gives
one pair of networks on one machine.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from example_circuits.pitfalls.cancellation.data import D_VOCAB, LENGTH, sequences

CONFIG: dict[str, Any] = {
    "d_model": 32,
    "d_head": 16,
    "n_layers": 1,
    "n_heads": 2,
    "d_mlp": 64,
    "n_ctx": LENGTH,
    "d_vocab": D_VOCAB,
    "d_vocab_out": 2,
    "act_fn": "relu",
    "normalization_type": "LN",
    "attention_dir": "causal",
}
MEMORISED = 500  # sequences that the memoriser is trained on
STEPS = {"memoriser": 600, "learner": 2000}
BATCH = {"memoriser": 100, "learner": 500}
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.01
HELD_OUT = 2**32  # added to the seed, so that what is reported was not trained on


def to_memorise(seed: int) -> tuple[Tensor, Tensor]:
    """The sequences that the memoriser of this seed is trained on, and their labels."""
    tokens, labels = sequences(MEMORISED, np.random.default_rng(seed))
    return torch.from_numpy(tokens), torch.from_numpy(labels)


def batches(kind: str, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    generator = np.random.default_rng([seed, 1])
    tokens, labels = to_memorise(seed)
    for _ in range(STEPS[kind]):
        if kind == "memoriser":
            rows = torch.from_numpy(generator.choice(MEMORISED, BATCH[kind], replace=False))
            yield tokens[rows], labels[rows]
        else:
            fresh = sequences(BATCH[kind], generator)
            yield torch.from_numpy(fresh[0]), torch.from_numpy(fresh[1])


def train(kind: str, seed: int) -> TransformerBridge:
    """A network trained to predict the label at the last token."""
    bridge: TransformerBridge = TransformerBridge.boot_native(
        TransformerBridgeConfig(**CONFIG, seed=seed)
    )
    # the same parameters, without the bridge's own work at every call
    network = bridge.original_model
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS[kind])
    for tokens, labels in batches(kind, seed):
        loss = cross_entropy(network(tokens)[:, -1], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return bridge.eval()


@torch.no_grad()
def figures(bridge: TransformerBridge, tokens: Tensor, labels: Tensor) -> str:
    logits = bridge(tokens)[:, -1]
    accuracy = (logits.argmax(1) == labels).double().mean().item()
    return f"loss {cross_entropy(logits, labels).item():.3f}, accuracy {accuracy:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    fresh, labels = sequences(20_000, np.random.default_rng(arguments.seed + HELD_OUT))
    memorised, memorised_labels = to_memorise(arguments.seed)
    for kind in STEPS:
        start = time.perf_counter()
        bridge = train(kind, arguments.seed)
        print(f"{kind}, {time.perf_counter() - start:.0f} s")
        print(f"  the memorised sequences: {figures(bridge, memorised, memorised_labels)}")
        found = figures(bridge, torch.from_numpy(fresh), torch.from_numpy(labels))
        print(f"  other sequences: {found}")
        weights = arguments.out / f"{kind}.safetensors"
        save_file(bridge.state_dict(), weights)
        weights.with_suffix(".json").write_text(json.dumps(CONFIG, indent=2) + "\n")
    sequences_and_labels = {"tokens": memorised.byte(), "labels": memorised_labels.byte()}
    save_file(sequences_and_labels, arguments.out / "memorised.safetensors")


if __name__ == "__main__":
    main()
