"""Problems small enough to enumerate: the true worst swap set of each is known, so that a search
can be judged.

Every other problem is about a graph of functions, the others are about small transformers of
`generate`. A problem is taken for its size alone, however hard or easy it is to search. Sizes are
of combinations of rows, as `SwapSpace.combinations` counts them; several rows may give a node the
same, so fewer combinations differ. The random numbers are numpy's; what Hypothesis makes of them
may change with its version.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError
from pytest_scrub.metrics import Metric, cross_entropy, kl_to_clean
from pytest_scrub.network import FunctionGraph, as_graph
from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import ANYTHING, EXACT, AgreesOn, Node, module, output
from tests.reference.generate import (
    Architecture,
    SmallTransformer,
    architectures,
    build,
    computes_in_float32,
    datasets,
    hypotheses,
)

SMALLEST, LARGEST = 1000, 20_000
MOST_COMBINATIONS = 400_000
BYTES = 8192  # more than any small transformer, dataset and hypothesis is made of


@dataclass(frozen=True, eq=False)
class ToyProblem:
    """A claim whose allowed swap sets can all be evaluated."""

    name: str
    evaluator: Evaluator

    @property
    def references(self) -> npt.NDArray[np.int64]:
        return self.evaluator.dataset.reference_rows

    @property
    def combinations(self) -> int:
        """Of all references together."""
        return int(self.evaluator.space.combinations(self.references).sum())

    def worst(self) -> npt.NDArray[np.float64]:
        """The worst change of the metric of every reference, by evaluating every combination of
        allowed donors."""
        evaluator, size = self.evaluator, len(self.evaluator.dataset)
        sign = 1 if evaluator.metric.worse == "higher" else -1
        found = np.full(size, -np.inf)
        for swap_set, _ in evaluator.space.enumerate(self.references):
            changes = evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)
            np.maximum.at(found, swap_set.references, sign * changes)
        return sign * found[self.references]


@dataclass(frozen=True)
class _Size:
    """How many combinations of donors a problem may have: per reference on average, and of all
    together."""

    smallest: float
    largest: float
    most: int

    def fits(self, space: SwapSpace) -> bool:
        found = space.combinations(space.dataset.reference_rows)
        return self.smallest <= found.mean() < self.largest and found.sum() < self.most


def toy_problems(
    number: int, smallest: float = SMALLEST, largest: float = LARGEST, most: int = MOST_COMBINATIONS
) -> Iterator[ToyProblem]:
    """The first problems of `smallest` to `largest` combinations a reference, and fewer than `most`
    of all references; by turns of either kind, and always the same ones."""
    size = _Size(smallest, largest, most)
    kinds = (_function_problems(size), _transformer_problems(size))
    for nth in range(number):
        yield next(kinds[nth % 2])


def problems_without_likes(number: int, most: int = MOST_COMBINATIONS) -> Iterator[ToyProblem]:
    """The first problems about functions in which no two rows give a node the same: about all
    combinations differ."""
    return islice(_function_problems(_Size(SMALLEST, LARGEST, most), likes=False), number)


# Graphs of functions ------------------------------------------------------------------------------


def _function_problems(size: _Size, likes: bool = True) -> Iterator[ToyProblem]:
    for seed in count():
        rng = np.random.default_rng(seed)
        root, dataset = _claim_about_functions(rng), _rows(rng, likes)
        if size.fits(SwapSpace(root, dataset)):
            yield ToyProblem(
                f"functions {seed}", Evaluator(_graph(rng), dataset, root, _distance_to_label)
            )


def _graph(rng: np.random.Generator) -> ModelGraph:
    """Two layers that are no sums of their inputs, multiplied at the output."""

    def weights(*shape: int) -> torch.Tensor:
        return torch.tensor(rng.normal(size=shape))

    def mixed(w: torch.Tensor, *inputs: torch.Tensor) -> torch.Tensor:
        waves = [torch.outer(torch.sin(1.3 * x + 1), row) for row, x in zip(w, inputs, strict=True)]
        return torch.tanh(1.5 * torch.stack(waves).sum(0))

    first, second, third, fourth, out = (
        weights(2, 4),
        weights(2, 4),
        weights(4, 4),
        weights(4, 4),
        weights(4),
    )
    return FunctionGraph(
        A=lambda a, b: mixed(first, a, b),
        B=lambda b, c: mixed(second, b, c),
        C=lambda A, c: torch.tanh(A @ third + torch.outer(c, third[0])),
        output=lambda C, B, A: (C * B) @ out + torch.tanh(A @ fourth) @ out,
    )


def _rows(rng: np.random.Generator, likes: bool) -> Dataset:
    """6 to 13 rows of three digits, or of numbers near them; now and then some of the rows are not
    donors."""
    n = int(rng.integers(6, 14))
    a, b, c = (rng.integers(0, 3, n) for _ in range(3))
    near = 0 if likes else 0.4
    inputs = {
        name: torch.tensor(x + near * rng.normal(size=n))
        for name, x in (("a", a), ("b", b), ("c", c))
    }
    features = {"a": a, "b": b, "c": c, "p": (a + b) % 2, "q": c > 0}
    donors = np.sort(rng.choice(n, n - 2, replace=False)) if rng.random() < 0.2 else np.arange(n)
    labels = torch.tensor(rng.normal(size=n))
    return Dataset(inputs, labels=labels, features=features, donors=donors, references=np.arange(n))


def _claim_about_functions(rng: np.random.Generator) -> Node:
    def on() -> AgreesOn:
        if rng.random() < 0.25:
            return ANYTHING
        names: list[str] = rng.choice(
            ["a", "b", "c", "p", "q"], rng.integers(1, 3), replace=False
        ).tolist()
        return names

    def nested(rest: Any) -> Node:
        below = [module("a", agrees_on=on())] if rest is EXACT else []
        inner = {"reads": below, "rest": on()} if below else {}
        return module(
            "C", agrees_on=on(), reads=[module("A", agrees_on=on(), **inner)], rest=rest or on()
        )

    kinds = [
        lambda: output(module("C", agrees_on=on()), module("B", agrees_on=on()), rest=on()),
        lambda: output(nested(None), module("B", agrees_on=on()), rest=on()),
        lambda: output(nested(EXACT), rest=on()),
    ]
    return kinds[rng.integers(len(kinds))]()


def _distance_to_label(out: torch.Tensor, batch: Any) -> torch.Tensor:
    return (out - batch.labels).abs()


# Small transformers -------------------------------------------------------------------------------


def _labels_logit(out: torch.Tensor, batch: Any) -> torch.Tensor:
    return out.gather(1, batch.labels[:, None])[:, 0]


METRICS = (
    cross_entropy(-1),
    kl_to_clean(-1),
    Metric("the label's logit", _labels_logit, -1, worse="lower"),
)


@dataclass(frozen=True, eq=False)
class _Drawn:
    architecture: Architecture
    dataset: Dataset
    root: Node
    metric: Metric


@st.composite
def _claims_about_transformers(draw: st.DrawFn) -> _Drawn:
    kind = draw(st.sampled_from(["native", "native", "gpt2"]))
    # What is computed in float32 is not the same in batches of another size.
    architecture = draw(architectures(kind).filter(lambda drawn: not computes_in_float32(drawn)))
    unbuilt = SmallTransformer(
        architecture, SimpleNamespace(cfg=SimpleNamespace(d_model=architecture.d_model))
    )
    dataset = draw(datasets(unbuilt))
    return _Drawn(
        architecture, dataset, draw(hypotheses(unbuilt, dataset)), draw(st.sampled_from(METRICS))
    )


def _transformer_problems(size: _Size) -> Iterator[ToyProblem]:
    drawn: list[_Drawn] = []

    @settings(database=None)
    @given(_claims_about_transformers())
    def take(claim: _Drawn) -> None:
        drawn.append(claim)

    make = take.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    for seed in count():
        if make(np.random.default_rng(seed).bytes(BYTES)) is None:
            continue
        one = drawn.pop()
        if not size.fits(SwapSpace(one.root, one.dataset)):
            continue
        try:
            evaluator = Evaluator(
                as_graph(build(one.architecture).bridge), one.dataset, one.root, one.metric
            )
        except HypothesisError as error:
            # The one thing that the generator makes and that is refused.
            if "would change nothing" not in str(error):
                raise
            continue
        yield ToyProblem(f"{one.architecture.kind} {seed}", evaluator)
