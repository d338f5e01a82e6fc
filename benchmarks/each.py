"""What `pos=EACH` costs beside a leaf at all positions: the same claim, one donor or 64 of them,
from the same position or from any.

    python -m benchmarks.each

Prints, for leaves that are read directly by the output and by a head, milliseconds of the processor
for 256 scrubbed evaluations and for drawing as many swap sets, and how many times as much EACH
takes.
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
    on = {"agrees_on": "row" if pos is None else "half", "pos": pos}
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
        start = time.process_time()
        work()
        took.append(time.process_time() - start)
    return 1000 * min(took)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 50, size=(ROWS, POSITIONS))
    features = {"half": tokens % 2, "row": tokens[:, 0] % 2}
    data = Dataset(torch.tensor(tokens), labels=tokens, features=features)
    graph = as_graph(build(Architecture(n_ctx=POSITIONS, n_layers=2, norm="LN", **SIZE)).bridge)
    print("| | one donor | EACH | times | with_shift | times | draw, one | EACH | with_shift |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    ways = (None, EACH, EACH(with_shift=True))
    for name in claims(None):
        evaluating, drawing = list[float](), list[float]()
        for pos in ways:
            evaluator = Evaluator(graph, data, claims(pos)[name])
            swap_set = evaluator.space.draw(EVALUATIONS, rng)
            evaluator.evaluate(swap_set)
            evaluating.append(fastest(lambda e=evaluator, s=swap_set: e.evaluate(s)))
            drawing.append(fastest(lambda e=evaluator: e.space.draw(EVALUATIONS, rng)))
        one, *others = evaluating
        times = (f"{each:.0f} ms | {each / one:.2f}" for each in others)
        drawn = (f"{each:.1f} ms" for each in drawing)
        print(f"| {name} | {one:.0f} ms | {' | '.join([*times, *drawn])} |")


if __name__ == "__main__":
    main()
