"""What a claim about ten of 16,384 latents costs at the width of GPT-2 small, with random weights.

    python benchmarks/latents.py

A residual SAE before layer 8; ten of its latents are leaves, all else is the reference's, and the metric
reads the logits at the last of 64 positions. Beside it the same latents recomputed from what stands at
their place, and a clean forward pass of the network by itself, with logits at one position too.
One thread, seconds of the processor. The last line is one JSON object.
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
ROWS, EVALUATIONS, ROUNDS = 64, 512, 5
SPARSE = 2.0  # deviations above the mean from which a latent is active


def main() -> None:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from pytest_scrub import (
        ANYTHING, EXACT, Dataset, Dictionary, Evaluator, head, latents, load_model, output,
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
    claims = {
        "leaf": output(latents("res8", units, agrees_on="first"), rest=EXACT),
        "read": output(latents("res8", units, agrees_on="first", **read), rest=EXACT),
    }
    found: dict[str, float] = {"forward": forward}
    for name, claim in claims.items():
        evaluator = Evaluator(graph, data, claim)
        swap_set = evaluator.space.draw(EVALUATIONS, np.random.default_rng(0))
        started = time.process_time()
        evaluator.ensure(evaluator.sites, np.arange(ROWS))
        found[f"{name}, capturing a row"] = (time.process_time() - started) / ROWS
        evaluator.evaluate(swap_set)
        found[name] = best(lambda e=evaluator, s=swap_set: e.evaluate(s)) / EVALUATIONS
        found[f"{name}, in a forward"] = forward / found[name]
        found[f"{name}, bytes of a row"] = float(sum(map(evaluator.store.bytes_per_row, evaluator.sites)))
        print(f"{name}: {found[f'{name}, in a forward']:.0f} evaluations in a forward pass", flush=True)
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
