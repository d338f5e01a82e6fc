"""Small transformers of several families, what swap sets of two trees give on them, and what is
said of a claim."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import Dataset, HypothesisError, Metric, check
from pytest_scrub.engine.checks import check_hypothesis
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network import as_graph
from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ROOT, Node
from tests.reference.families import AllFloat64
from tests.reference.generate import Architecture, build
from tests.sizes import only_in_full

Same = Callable[[Tensor, Tensor], None]
F: dict[str, Any] = {"agrees_on": "first"}
ROWS, LENGTH, LAYERS, HEADS = 12, 4, 3, 2
D_MODEL = 8
SOME = np.eye(D_MODEL)[:, :3]
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

    @cached_property
    def store(self) -> ActivationStore:
        """What all its evaluators share: the network is proved once."""
        return ActivationStore(self.graph, self.data)

    def evaluator(self, root: Node) -> Evaluator:
        return Evaluator(self.graph, self.data, root, OUTPUT, store=self.store)

    def clean(self) -> Tensor:
        """Those of the network as it is."""
        return self.evaluator(Node((ROOT,), None)).clean_outputs(np.arange(ROWS)).double()

    def refused(self, root: Node) -> str:
        """What is said of a claim that has no meaning."""
        with pytest.raises(HypothesisError) as error:
            check_hypothesis(self.graph, self.data, root, None)
        return str(error.value)

    def outputs(self, root: Node, donors: dict[str, Any]) -> Tensor:
        """When every slot takes the donors of the name at the end of its path."""
        slots = tuple(slot.path for slot in slots_of(root))
        table = np.stack(
            [donors[slot.rpartition("/")[2].split("[")[0].split("@")[0]] for slot in slots]
        )
        rows = SwapSet(np.arange(ROWS), table, slots, self.data.digest())
        return self.evaluator(root).outputs(rows).double()


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
    sizes = {"n_layers": LAYERS, "n_ctx": LENGTH, "n_heads": HEADS, "d_model": D_MODEL}
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


@pytest.fixture(scope="module")
def native() -> Small:
    return small_of("native", KINDS["native"])


@dataclass(frozen=True)
class Many:
    """A network, and many rows of which "first two" says the first two tokens."""

    bridge: Any
    data: Dataset

    def outcome(self, root: Node, **options: Any) -> str:
        """Of a claim on average that the output at position 1 is the network's."""
        options = {"metric": CHANGE, "tolerance": 1e-3, "adversaries": [], **options}
        return check(root, self.bridge, self.data, **options).outcome


def many_rows(**choices: Any) -> Many:
    """Attention is causal: what is at position 1 depends on two tokens, and no fewer."""
    small = {"n_layers": 2, "n_ctx": LENGTH, "attn_only": False, "norm": "LN", **choices}
    tokens = np.random.default_rng(4).integers(0, 5, (300, LENGTH))
    two = [f"{a} {b}" for a, b in tokens[:, :2]]
    features = {"first": tokens[:, 0], "second": tokens[:, 1], "first two": two}
    data = Dataset(tokens, labels=tokens[:, 0], features=features)
    return Many(build(Architecture(**small)).bridge, data)


@pytest.fixture
def same() -> Same:
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
