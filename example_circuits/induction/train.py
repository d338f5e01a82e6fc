"""Train the induction network: two layers of two attention heads, nothing else. Two minutes on one
core.

    python -m example_circuits.induction.train

writes induction.safetensors and induction.json beside this file and prints what they reach. One
seed gives one network on one machine; another torch version or processor rounds differently, which
after thousands of steps is another network. Seeds 0 to 3 all found the same circuit, with its heads
in different places.
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

from example_circuits.induction.data import D_VOCAB, LENGTH, answer, sequences, walks

CONFIG: dict[str, Any] = {
    "d_model": 64,
    "d_head": 32,
    "n_layers": 2,
    "n_heads": 2,
    "n_ctx": LENGTH,
    "d_vocab": D_VOCAB,
    "attn_only": True,
    "act_fn": "relu",  # required, but there is no MLP to use it
    "normalization_type": "LN",
    "positional_embedding_type": "standard",
    "attention_dir": "causal",
}
STEPS = 3000
BATCH = 128
LEARNING_RATE = 3e-3
WARMUP = 100  # steps
WEIGHT_DECAY = 0.1
HELD_OUT = 2**32  # added to the seed, so that what is reported was not trained on


def train(seed: int) -> TransformerBridge:
    """A network trained to predict every next token of `STEPS` batches of walks."""
    config = TransformerBridgeConfig(**CONFIG, seed=seed)
    bridge: TransformerBridge = TransformerBridge.boot_native(config)  # type: ignore[attr-defined]
    # the same parameters, without the bridge's own work at every call
    network = bridge.original_model
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(
        parameters, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98)
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / STEPS)
    )
    generator = np.random.default_rng(seed)
    start = time.perf_counter()
    for step in range(STEPS):
        tokens = torch.from_numpy(walks(BATCH, generator)[0])
        logits = network(tokens[:, :-1])
        loss = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        if step % 500 == 0 or step == STEPS - 1:
            print(
                f"step {step:4}: loss {loss.item():.3f} after {time.perf_counter() - start:.0f} s",
                flush=True,
            )
    bridge.eval()
    return bridge


@torch.no_grad()
def report(bridge: TransformerBridge, seed: int) -> None:
    """Print the losses (nats per token) on sequences that were not trained on."""
    tokens, copied = walks(4000, np.random.default_rng(seed + HELD_OUT))
    # A token is asked for the first time where the one before it has not occurred earlier.
    seen = np.array([[row[i] in row[:i] for i in range(LENGTH)] for row in tokens])
    loss = cross_entropy(
        bridge(torch.from_numpy(tokens[:, :-1])).transpose(1, 2),
        torch.from_numpy(tokens[:, 1:]),
        reduction="none",
    ).numpy()
    tested = sequences(4000, seed + HELD_OUT)
    logits = bridge(torch.from_numpy(tested))[:, -1]
    label = torch.from_numpy(answer(tested))
    print(
        f"first occurrences:    loss {loss[~seen].mean():.3f} (guessing a letter: "
        f"{np.log(D_VOCAB - 1):.3f})"
    )
    print(f"copied tokens:        loss {loss[copied[:, 1:]].mean():.3f}")
    print(
        f"evaluation sequences: loss {cross_entropy(logits, label).item():.3f}, "
        f"accuracy {(logits.argmax(dim=-1) == label).float().mean().item():.4f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).with_name("induction.safetensors")
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
