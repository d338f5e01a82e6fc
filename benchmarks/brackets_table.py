"""Claims 1a and 1b about the published bracket network, and what evaluating them costs.

    SCRUB_BRACKETS=/folder python benchmarks/brackets_table.py

The last line is one JSON object. Figures to compare with are in the causal-scrubbing posts and in
docs.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a file, only this folder is on the path

from benchmarks import published_brackets as published
from pytest_scrub import ANYTHING, Evaluator, load_model, output
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.store import ActivationStore

DRAWS = 200_000
ROWS = 1_000  # one batch of the timing, rows of a forward pass and columns of a swap set alike
BATCHES = 20
REPEATS = 15


def main() -> None:
    at = published.folder()
    if at is None:
        sys.exit(
            f"set {published.FOLDER} to the folder that holds the published bracket network and "
            "its strings"
        )
    torch.set_num_threads(1)
    bridge, data = published.network(at), published.dataset(at)
    graph = load_model(bridge)
    store = ActivationStore(graph, data)
    claims = {
        "baseline": output(agrees_on=ANYTHING),
        "claim_1a": published.claim_1a(),
        "claim_1b": published.claim_1b(),
    }
    figures: dict[str, float] = {}
    for name, hypothesis in claims.items():
        evaluator = Evaluator(graph, data, hypothesis, store=store)
        figures.setdefault("unscrubbed", float(evaluator.unscrubbed(data.reference_rows).mean()))
        loss = evaluator.evaluate(evaluator.space.draw(DRAWS, stream(0, name)))
        figures[name], figures[f"{name}_se"] = (
            float(loss.mean()),
            float(loss.std(ddof=1) / np.sqrt(DRAWS)),
        )
        print(
            f"{name}: {figures[name]:.4f} (standard error {figures[f'{name}_se']:.4f}, {DRAWS} "
            "draws)",
            flush=True,
        )
    figures["evaluations_per_forward"] = evaluations_per_forward(evaluator, bridge.original_model)
    print(json.dumps(figures))


def evaluations_per_forward(evaluator: Evaluator, network: torch.nn.Module) -> float:
    """Scrubbed evaluations in the time of one clean forward pass of the wrapped module, per row.

    Forward passes and evaluations alternate, and the median of the ratios of CPU time counts: the
    machine is shared and its speed drifts.
    """
    inputs = evaluator.dataset.batch(np.arange(ROWS))
    swap_sets = [evaluator.space.draw(ROWS, stream(0, "timing", str(i))) for i in range(BATCHES)]
    ratios = []
    for _ in range(REPEATS + 1):
        started = time.process_time()
        with torch.no_grad():
            network(inputs["tokens"], attention_mask=inputs["attention_mask"])
        between = time.process_time()
        for swap_set in swap_sets:
            evaluator.evaluate(swap_set)
        ratios.append(BATCHES * (between - started) / (time.process_time() - between))
    counted = ratios[1:]  # the first run of either warms up
    print(f"evaluations per forward: {sorted(round(ratio) for ratio in counted)}")
    return statistics.median(counted)


if __name__ == "__main__":
    main()
