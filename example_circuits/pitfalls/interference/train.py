"""Train two networks that answer questions about bags of words, one with far too few dimensions for
its words.

    python -m example_circuits.pitfalls.interference.train

writes crowded.safetensors and roomy.safetensors beside this file (or in `--out`) and prints what
they reach. One seed gives one pair of networks on one machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from example_circuits.pitfalls.interference.data import WORDS, bags, is_in
from example_circuits.pitfalls.interference.network import Bag

WIDTHS = {"crowded": 10, "roomy": WORDS}  # dimensions for the words
STEPS = 4000
BATCH = 512
LEARNING_RATE = 1e-2
HELD_OUT = 2**32  # added to the seed, so that what is reported was not trained on


def load(kind: str, folder: Path = Path(__file__).parent) -> Bag:
    """A trained network, ready to evaluate."""
    network = Bag(WIDTHS[kind])
    network.load_state_dict(load_file(folder / f"{kind}.safetensors"))
    return network.eval()


def batch(n: int, generator: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Bags, questions and answers."""
    bag, asked = bags(n, generator)
    return torch.from_numpy(bag), torch.from_numpy(asked), torch.from_numpy(is_in(bag, asked))


def train(kind: str, seed: int) -> Bag:
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    network = Bag(WIDTHS[kind])
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / STEPS)
    for _ in range(STEPS):
        bag, asked, label = batch(BATCH, generator)
        loss = cross_entropy(network(bag, asked), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return network.eval()


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bag, asked, label = batch(20_000, np.random.default_rng(arguments.seed + HELD_OUT))
    for kind in WIDTHS:
        start = time.perf_counter()
        with torch.enable_grad():
            network = train(kind, arguments.seed)
        logits = network(bag, asked)
        accuracy = (logits.argmax(1) == label).double().mean().item()
        print(
            f"{kind}: loss {cross_entropy(logits, label).item():.4f}, accuracy {accuracy:.4f}",
            end="",
        )
        print(f", {time.perf_counter() - start:.0f} s")
        save_file(network.state_dict(), arguments.out / f"{kind}.safetensors")


if __name__ == "__main__":
    main()
