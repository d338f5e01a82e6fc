"""What `pos=EACH` costs beside a leaf at all positions: the same claim, one donor or 64 of them.

    python -m benchmarks.each

Prints, for leaves that are read directly by the output and by a head, milliseconds for 256
scrubbed evaluations and for drawing as many swap sets, and how many times as much EACH takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pytest_scrub import ANYTHING, EACH, Dataset, embed, head, mlp, output
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.network import as_graph
from pytest_scrub.tree.nodes import Node
from tests.reference.generate import Architecture, build

POSITIONS, ROWS, EVALUATIONS, REPEATS = 64, 256, 256, 5
SIZE = {
    "attn_only": False,
    "d_vocab": 50,
    "d_vocab_out": 50,
    "d_model": 64,
    "d_head": 32,
    "n_heads": 2,
}


def claims(pos: Any) -> dict[str, Node]:
    """The same leaves, with one donor or one for each position."""
    on = {"agrees_on": "half" if pos == EACH else "row", "pos": pos}
    return {
        "a head and an MLP, read by the output": output(head(1, 0, **on), mlp(0, **on)),
        "what a head reads": output(
            head(
                1, 0, agrees_on=ANYTHING, reads=[embed(into="k", **on), head(0, 1, into="v", **on)]
            )
        ),
        "the same, along every path": output(head(0, 1, via="any", **on)),
    }


def fastest(work: Callable[[], object]) -> float:
    """Milliseconds."""
    took = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return 1000 * min(took)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, size=(ROWS, POSITIONS))
    features = {"half": tokens % 2, "row": tokens[:, 0] % 2}
    data = Dataset(torch.tensor(tokens), labels=tokens, features=features)
    graph = as_graph(build(Architecture(n_ctx=POSITIONS, n_layers=2, norm="LN", **SIZE)).bridge)
    print("| | one donor | EACH | times | draw, one | draw, EACH |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, plain in claims(None).items():
        found = []
        for root in (plain, claims(EACH)[name]):
            evaluator = Evaluator(graph, data, root)
            swap_set = evaluator.space.draw(EVALUATIONS, rng)
            evaluator.evaluate(swap_set)
            found.append(
                (
                    fastest(lambda e=evaluator, s=swap_set: e.evaluate(s)),
                    fastest(lambda e=evaluator: e.space.draw(EVALUATIONS, rng)),
                )
            )
        (one, drawn), (each, drawn_each) = found
        print(
            f"| {name} | {one:.0f} ms | {each:.0f} ms | {each / one:.2f} | {drawn:.1f} ms | "
            f"{drawn_each:.1f} ms |"
        )


if __name__ == "__main__":
    main()
