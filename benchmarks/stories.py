"""What a claim of five slots takes on a trained network, at the default settings.

    SCRUB_NETWORKS=... python -m benchmarks.stories [CLAIM ...]

The network is `stories260K` (see `example_circuits/stories`): five layers of eight heads, 2,000
prompts. All are read along every path, so an evaluation reruns layers: the last one, or four of
five. CPU seconds on one thread, outcomes, and the median of them all; the last line is one JSON
object.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from example_circuits.stories import claims, data
from pytest_scrub import Dataset, check, head, load_model, output
from pytest_scrub.network.loading import load_raw
from pytest_scrub.tree.nodes import Node

ROWS, SEED = 2_000, 1  # as the example has them


def _told(*heads: int, agrees_on: str = "gender", reads: Any = ()) -> Node:
    nodes = [claims.at_the_end(which, agrees_on, reads) for which in heads]
    return claims.told(*nodes, claims.at_the_end(4, "initial"))


def _below() -> Node:
    """Heads of the layers in which nothing was found: four layers are rerun."""
    gender = [head(*at, agrees_on="gender", via="any") for at in ((1, 0), (2, 3), (3, 1))]
    return output(*gender, head(2, 5, agrees_on="initial", via="any"), rest="ending")


CLAIMS: dict[str, Callable[[], Node]] = {
    "three heads of the last layer": lambda: _told(0, 2, 6),
    "three other heads of it": lambda: _told(1, 6, 7),
    "they carry the initial": lambda: _told(0, 2, 6, agrees_on="initial"),
    "one head, and what it reads at the noun": lambda: _told(
        0, reads=[claims.everything_at("noun_start")]
    ),
    "heads of lower layers": _below,
}


def main(names: list[str]) -> None:
    torch.set_num_threads(1)
    network = load_raw(Path(os.environ["SCRUB_NETWORKS"]) / "stories260K")
    encode = network.tokenizer.encode
    prompts: Dataset = data.dataset(
        data.prompts(ROWS, SEED), lambda word: encode(word, add_special_tokens=False)
    )
    graph, found = load_model(network), {}
    for name in names or CLAIMS:
        claim = CLAIMS[name]()
        started = time.process_time()
        verdict = check(claim, graph, prompts, name=name, **claims.KL)
        seconds = time.process_time() - started
        found[name] = {
            "seconds": seconds, "outcome": verdict.outcome, "slots": len(verdict.nodes),
        }  # fmt: skip
        print(
            f"{name}: {len(verdict.nodes)} slots, {verdict.outcome}, {seconds:.1f} CPU-seconds",
            flush=True,
        )
    median = statistics.median(one["seconds"] for one in found.values())
    print(f"median: {median:.1f} CPU-seconds")
    print(json.dumps({"claims": found, "median": median}))


if __name__ == "__main__":
    main(sys.argv[1:])
