"""A graph that keeps count of the rows it captures, some of which are repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.metrics import Metric
from pytest_scrub.network import FunctionGraph
from pytest_scrub.network.graph import Inputs, Site
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import (
    EXACT,
    module,
    output,
)


def drawn(evaluator: Evaluator, n: int = 20, seed: int = 0) -> SwapSet:
    return evaluator.space.draw(n, np.random.default_rng(seed))


class Counting(FunctionGraph):
    """A graph that keeps count of the rows it captures, by their input a."""

    def __init__(self, **nodes: Any) -> None:
        super().__init__(**nodes)
        self.captured: Counter[float] = Counter()

    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        self.captured.update(inputs["a"].tolist())
        return super().capture(sites, inputs)


REPEATED = Dataset(
    {"a": torch.tensor([0.0, 1, 1, 2, 3, 3, 4])}, labels=torch.zeros(7), features={"f": [0] * 7}
)
OUT = Metric("out", lambda out, batch: out)
NON_LEAF = output(module("A", agrees_on="f", reads=[module("a", agrees_on="f")]), rest=EXACT)


def counting() -> Counting:
    return Counting(A=lambda a: 2 * a, B=lambda a: 3 * a, output=lambda A, B: A + B)


def swaps(evaluator: Evaluator, references: list[int], **rows: list[int]) -> SwapSet:
    donors = [
        rows.get(path.removeprefix("output/").replace("/", "_"), references)
        for path in evaluator.space.paths
    ]
    return SwapSet(references, donors, evaluator.space.paths, REPEATED.digest())
