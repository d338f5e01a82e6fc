"""Networks, rows and claims that searches are tried on."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from pytest_scrub.adversaries.candidates import Candidates
from pytest_scrub.adversaries.search import NotSearched, Spending
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.metrics import Metric
from pytest_scrub.network import FunctionGraph, as_graph
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import ANYTHING, EXACT, head, mlp, module, output
from tests.reference.generate import Architecture, build
from tests.reference.toy_problems import ToyProblem, toy_problems
from tests.sizes import sized

ANY: dict[str, Any] = {"agrees_on": ANYTHING}
Numbers = npt.NDArray[np.float64]
OUT = Metric("out", lambda out, batch: out)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def why_not(adversary: Any, evaluator: Evaluator, spending: Spending) -> str:
    """What is said where nothing is searched."""
    with pytest.raises(NotSearched) as raised:
        adversary.search(evaluator.space, spending, generator())
    return str(raised.value)


def changes(evaluator: Evaluator, swap_set: SwapSet) -> Numbers:
    return evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)


SMALL_TOYS = range(sized(2, 8))


@cache
def small_toys() -> list[ToyProblem]:
    return list(toy_problems(len(SMALL_TOYS), smallest=20, largest=300))


N = 400
MANY = Dataset(
    {name: torch.tensor(generator(ord(name)).normal(size=N)) for name in "abc"},
    features={
        "none": [0] * N,
        "half": [row % 2 for row in range(N)],
        "third": [row % 3 for row in range(N)],
    },
)
REFERENCES = np.arange(0, N, 23)


def product() -> FunctionGraph:
    return FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B, c: A + 2 * B + 0 * c)


LENGTH, CLASSES = 4, 5
TOKENS = torch.tensor(np.unique(generator().integers(0, CLASSES, (90, LENGTH)), axis=0))
COLUMNS = {
    "first": TOKENS[:, 0] % 2,
    "none": torch.zeros(len(TOKENS), dtype=torch.int64),
    "where": TOKENS[:, 1] % LENGTH,
}
SOME = np.arange(0, len(TOKENS), 11)


def transformer(norm: str | None = "LN", classes: int = CLASSES) -> Any:
    small = Architecture(
        n_layers=2, d_head=4, n_ctx=LENGTH, attn_only=False, norm=norm, d_vocab_out=classes
    )
    return as_graph(build(small).bridge)


def dataset(label_pos: Any = -1, classes: int = CLASSES, rows: Any = slice(None)) -> Dataset:
    tokens = TOKENS[rows]
    columns = {name: column[rows] for name, column in COLUMNS.items()}
    return Dataset(tokens, labels=(tokens.sum(1) % classes), label_pos=label_pos, features=columns)


TWO_NODES = output(head(1, 0, agrees_on="first"), mlp(1, agrees_on="first"), rest=EXACT)
OF_THE_REST = output(mlp(1, agrees_on=EXACT), rest=ANYTHING)


def by_all_donors(evaluator: Evaluator, swap_set: SwapSet, slot: int, donors: Any) -> Numbers:
    """`[R, donors]`: the change of the metric with each donor in one slot."""
    found = []
    for donor in donors:
        rows = swap_set.donors.copy()
        rows[slot] = donor
        found.append(changes(evaluator, evaluator.space.swap_set(swap_set.references, rows)))
    return np.stack(found, axis=1)


SIGNS = Dataset(
    {"x": torch.tensor([1.0, -1.0]).double().repeat(40), "n": torch.arange(80)},
    features={"none": [0] * 80},
)


def cancelling() -> FunctionGraph:
    """x times A minus x times B: each alone changes it by minus or plus one on average, both
    together by nothing."""
    return FunctionGraph(A=lambda x: x, B=lambda x: x, output=lambda A, B, x: A * x - B * x)


CANCELLING = output(module("A", agrees_on="none"), module("B", agrees_on="none"), rest=EXACT)
F, H = (
    torch.tensor([1.0, 1, -1, -1]).double().repeat(20),
    torch.tensor([1.0, -1, 1, -1]).double().repeat(20),
)
PLANTED = Dataset(
    {"u": F + H, "w": F - H, "n": torch.arange(80)},
    features={
        "f": F.int(),
        "h": H.int(),
        "constant": [0] * 80,
        "also f": F.int() + 5,
        "noise": [row // 8 for row in range(80)],
    },
)


def planted(**claim: Any) -> Evaluator:
    """u of the donor times w: on average nothing, among donors that agree on f plus one, on h minus
    one."""
    graph = FunctionGraph(A=lambda u: u, output=lambda A, w: A * w)
    return Evaluator(graph, PLANTED, output(module("A", **{**ANY, **claim}), rest=EXACT), OUT)


def candidates(evaluator: Evaluator, references: Any = SOME) -> Candidates:
    return Candidates(evaluator.space, Spending(evaluator, 10**9), references, generator())
