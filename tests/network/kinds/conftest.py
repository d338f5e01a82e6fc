"""Small transformers of several families, and what swap sets of two trees give on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import Dataset, Metric
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.network import as_graph
from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ROOT, Node
from tests.reference.families import AllFloat64
from tests.reference.generate import Architecture, build
from tests.sizes import only_in_full

ROWS, LENGTH, LAYERS, HEADS = 12, 4, 3, 2
KINDS = {
    "native": Architecture(attn_only=False, norm="LN", d_head=4, act="relu"),
    "grouped and gated": Architecture("llama", attn_only=False, n_kv_heads=1, d_head=4),
    "post-norm": Architecture("gemma2", attn_only=False, n_kv_heads=1, d_head=4),
    "normalised queries": Architecture("qwen3", attn_only=False, n_kv_heads=1, d_head=4),
    "parallel": Architecture("cohere", attn_only=False, n_kv_heads=1, d_head=4),
}
# unsigned, so that changes do not cancel on average
CHANGE = Metric(
    "change of a logit",
    lambda out, batch: (out[:, 0] - batch.clean[:, 0]).abs(),
    1,
    lower=0.0,
    needs_clean=True,
)
OUTPUT = Metric("output", lambda out, batch: out.flatten(1).sum(1), slice(None))


@dataclass(frozen=True)
class Small:
    """A network, rows for it, and which units its MLPs have."""

    kind: str
    graph: ModelGraph
    data: Dataset
    units: int

    def clean(self) -> Tensor:
        """Those of the network as it is."""
        evaluator = Evaluator(self.graph, self.data, Node((ROOT,), None), OUTPUT)
        return evaluator.clean_outputs(np.arange(ROWS)).double()

    def outputs(self, root: Node, donors: dict[str, Any]) -> Tensor:
        """When every slot takes the donors of the name at the end of its path."""
        slots = tuple(slot.path for slot in slots_of(root))
        table = np.stack(
            [donors[slot.rpartition("/")[2].split("[")[0].split("@")[0]] for slot in slots]
        )
        rows = SwapSet(np.arange(ROWS), table, slots, self.data.digest())
        return Evaluator(self.graph, self.data, root, OUTPUT).outputs(rows).double()


MOST_IN_FULL = [
    pytest.param(kind, marks=only_in_full if kind in ("normalised queries", "parallel") else ())
    for kind in KINDS
]


@pytest.fixture(params=MOST_IN_FULL, scope="module")
def small(request: pytest.FixtureRequest) -> Iterator[Small]:
    """One of every family, some rows of which are padded."""
    kind = KINDS[request.param]
    with AllFloat64():
        yield small_of(request.param, kind)


def small_of(name: str, kind: Architecture) -> Small:
    sizes = {"n_layers": LAYERS, "n_ctx": LENGTH, "n_heads": HEADS, "d_model": 8}
    model = build(Architecture(**{**vars(kind), **sizes, "score_cap": 3.0, "logit_cap": 3.0}))
    tokens = torch.randint(5, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    visible = torch.ones_like(tokens)
    visible[::3, -1] = 0
    data = Dataset(
        {"tokens": tokens, "attention_mask": visible},
        labels=tokens[:, 0],
        features={"first": tokens[:, 0], "where": tokens[:, 1] % LENGTH},
    )
    return Small(name, as_graph(model.bridge), data, model.hidden_units)


@pytest.fixture
def same() -> Callable[[Tensor, Tensor], None]:
    """Whether two outputs are, up to rounding in float64."""

    def assert_same(one: Tensor, other: Tensor) -> None:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9 * float(other.abs().max()))

    return assert_same


@pytest.fixture
def donors() -> dict[str, Any]:
    """Random rows for slots of these names."""
    rng = np.random.default_rng(1)
    names = ("rest", "it", "above", "other", "looks", "moves", "below")
    return {name: rng.integers(0, ROWS, ROWS) for name in names}
