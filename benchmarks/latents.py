"""What a claim about ten of 16,384 latents costs at the width of GPT-2 small, with random weights.

    python benchmarks/latents.py

A residual SAE before layer 8; ten of its latents are leaves, all else is the reference's, and the
metric, cross-entropy or a difference of two logits, reads the last of 64 positions. Beside it the
same latents recomputed from what stands at their place, and a clean forward pass of the network by
itself, with logits at one position too: all of these multiply with the unembedding, which is most
of what an evaluation costs. One thread, seconds of the processor. The last line is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

WIDTH, LAYERS, HEADS, WORDS, LENGTH = 768, 12, 12, 50257, 64
UNITS, LAYER, FIRST, CLAIMED = 16_384, 8, 100, 10
ROWS, EVALUATIONS, ROUNDS = 16, 256, 7
SPARSE = 2.0  # deviations above the mean from which a latent is active


def main() -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from pytest_scrub import (
        ANYTHING,
        EXACT,
        Dataset,
        Dictionary,
        Evaluator,
        cross_entropy,
        head,
        latents,
        load_model,
        logit_difference,
        output,
        with_dictionaries,
    )  # fmt: skip

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": WORDS}
    model = GPT2LMHeadModel(GPT2Config(n_positions=LENGTH, **sizes)).eval()
    tokens = torch.randint(WORDS, (ROWS, LENGTH))

    def clean() -> None:
        with torch.no_grad():
            model(tokens[:8], logits_to_keep=1)

    forward = best(clean) / 8
    rows = torch.randn(UNITS, WIDTH)
    rows /= rows.norm(dim=1, keepdim=True)
    sae = Dictionary(
        rows.T.clone(), torch.full((UNITS,), -SPARSE), rows, at=f"blocks.{LAYER}.hook_resid_pre"
    )
    graph = with_dictionaries(load_model(model), res8=sae)
    data = Dataset(tokens, labels=tokens[:, 0], label_pos=-1, features={"first": tokens[:, 0] % 4})
    units = np.random.default_rng(0).choice(UNITS, CLAIMED, replace=False).tolist()
    read = {"reads": [head(0, 0, agrees_on=ANYTHING)], "rest": EXACT}
    leaf = output(latents("res8", units, agrees_on="first"), rest=EXACT)
    reading = output(latents("res8", units, agrees_on="first", **read), rest=EXACT)
    losses, logits = cross_entropy(), logit_difference(0)
    found: dict[str, float] = {"forward": forward}
    for name, claim, metric in (
        ("leaf, two logits", leaf, logits), ("leaf", leaf, losses),
        ("read, two logits", reading, logits),
    ):  # fmt: skip
        evaluator = Evaluator(graph, data, claim, metric)
        swap_set = evaluator.space.draw(EVALUATIONS, np.random.default_rng(0))
        evaluator.evaluate(swap_set)
        found[name] = best(lambda e=evaluator, s=swap_set: e.evaluate(s)) / EVALUATIONS
        found[f"{name}, in a forward"] = forward / found[name]
        kept = sum(map(evaluator.store.bytes_per_row, evaluator.sites))
        found[f"{name}, bytes of a row"] = float(kept)
        times = found[f"{name}, in a forward"]
        print(f"{name}: {times:.0f} evaluations in a forward pass", flush=True)
    print(json.dumps(found))


def best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs."""
    times = []
    for _ in range(ROUNDS):
        started = time.process_time()
        run()
        times.append(time.process_time() - started)
    return min(times)


if __name__ == "__main__":
    main()
