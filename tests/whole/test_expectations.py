"""Expectations that can be worked out on paper: toy networks, each named after the mistake that it
catches.

Digits 0 to 9 in every combination; the metric is the absolute error against the reference's own
label.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.metrics import Metric
from pytest_scrub.network.plain import FunctionGraph
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, module, output

DIGITS = torch.arange(10, dtype=torch.float64)
ABSOLUTE_ERROR = Metric("absolute error", lambda out, batch: (out - batch.labels).abs())


def digits(inputs: str, label: Callable[..., Tensor], **rows: Any) -> Dataset:
    """Every combination of digits for the named inputs; they and the label are features."""
    columns = [
        column.flatten() for column in torch.meshgrid(*[DIGITS] * len(inputs), indexing="ij")
    ]
    named = dict(zip(inputs, columns, strict=True))
    labels = label(**named)
    return Dataset(named, labels=labels, features={**named, "label": labels}, **rows)


def a_on_a(**options: Any) -> Node:
    return module("A", agrees_on="a", **options)


def b_on_b() -> Node:
    return module("B", agrees_on="b")


@dataclass(frozen=True)
class Expectation:
    """A network, a claim, and the mean error of what it allows.

    - `idle`: the rests that feed nothing, since all that their node reads is claimed.
    """

    graph: FunctionGraph
    data: Dataset
    claim: Node
    expected: float
    idle: Collection[str] = ()

    @property
    def evaluator(self) -> Evaluator:
        return Evaluator(self.graph, self.data, self.claim, ABSOLUTE_ERROR)

    def enumerated(self, space: SwapSpace) -> float:
        """The exact mean. Donors that feed nothing are not swapped: they would only multiply the
        swaps, 100-fold."""
        kept = [path for path in space.paths if path not in self.idle]
        evaluator, mean, probability = self.evaluator, 0.0, 0.0
        for swap_set, weights in space.keep(kept).enumerate():
            mean += float(evaluator.evaluate(swap_set) @ weights)
            probability += float(weights.sum())
        assert probability == pytest.approx(1)
        return mean


SUM = {"B": lambda b: 3 * b, "output": lambda A, B: A + B}
TWO_A_AND_THREE_B = digits("ab", lambda a, b: 2 * a + 3 * b)

EXPECTATIONS = {
    # Both leaves agree with the root's own input, so their sum is its label, which is the
    # reference's.
    "leaves that agree with different inputs": Expectation(
        FunctionGraph(A=lambda a: 2 * a, **SUM),
        TWO_A_AND_THREE_B,
        output(a_on_a(), b_on_b(), agrees_on="label"),
        0,
        idle=["output/rest"],
    ),
    # |b' - b|: the b that A reads comes from A's rest, which is neither the direct b's donor nor
    # A's own input.
    "a rest that is not its own": Expectation(
        FunctionGraph(A=lambda a, b: a + b, output=lambda A, b: A + b),
        digits("ab", lambda a, b: a + 2 * b),
        output(a_on_a(reads=[module("a", agrees_on=EXACT)]), module("b", agrees_on="b")),
        3.3,
        idle=["output/rest"],
    ),
    # 3 |a' - a|: C computes what A does, but nobody claims it.
    "a rest that is left in place": Expectation(
        FunctionGraph(A=lambda a: 2 * a, C=lambda a: 3 * a, output=lambda A, C: A + C),
        digits("a", lambda a: 5 * a),
        output(a_on_a()),
        9.9,
    ),
    # b': what A adds beside a, from a donor that agrees on a alone, though the root agrees on the
    # label.
    "a leaf that is held to more than its feature": Expectation(
        FunctionGraph(A=lambda a, b: 2 * a + b, **SUM),
        TWO_A_AND_THREE_B,
        output(a_on_a(), b_on_b(), agrees_on="label"),
        4.5,
        idle=["output/rest"],
    ),
    # |c' - c''|: in the network c cancels, in donors of A and B that were drawn apart it does not.
    "intermediates that cancel": Expectation(
        FunctionGraph(A=lambda a, c: a + c, B=lambda b, c: b - c, output=lambda A, B: A + B),
        digits("abc", lambda a, b, c: a + b),
        output(a_on_a(), b_on_b(), agrees_on="label"),
        3.3,
        idle=["output/rest"],
    ),
    # 3 |b' - b|: an unclaimed B is scrubbed ...
    "an unclaimed sibling that is left in place": Expectation(
        FunctionGraph(A=lambda a: 2 * a, **SUM), TWO_A_AND_THREE_B, output(a_on_a()), 9.9
    ),
    # ... but not where the rest is exact.
    "an exact rest that is swapped": Expectation(
        FunctionGraph(A=lambda a: 2 * a, **SUM), TWO_A_AND_THREE_B, output(a_on_a(), rest=EXACT), 0
    ),
}


@pytest.mark.parametrize("mistake", EXPECTATIONS)
def test_enumerated(mistake: str) -> None:
    case = EXPECTATIONS[mistake]
    if mistake == "intermediates that cancel":
        # A thousand rows allow 67 million swaps. A hundred in a Latin square, c = a + b modulo 10,
        # are as good: each pair of a and b is there once, and given a, or given b, all c are
        # equally frequent. References and donors are the same rows: a reference that is no donor
        # would be one more donor of itself.
        a, b, c = (case.data.feature(name) for name in "abc")
        square = (a + b) % 10 == c
        case = replace(
            case, data=digits("abc", lambda a, b, c: a + b, references=square, donors=square)
        )
    assert case.enumerated(case.evaluator.space) == pytest.approx(case.expected, abs=1e-6)


@pytest.mark.parametrize("mistake", EXPECTATIONS)
def test_drawn(mistake: str) -> None:
    case, n = EXPECTATIONS[mistake], 20_000
    errors = case.evaluator.evaluate(case.evaluator.space.draw(n, np.random.default_rng(0)))
    assert abs(errors.mean() - case.expected) <= 4 * errors.std() / n**0.5
    assert (errors.std() > 0) == (case.expected > 0)


@pytest.mark.parametrize("mistake", EXPECTATIONS)
def test_unscrubbed_it_is_the_error_of_the_network(mistake: str) -> None:
    case = EXPECTATIONS[mistake]
    rows = case.data.reference_rows
    expected = (
        case.data.inputs["b"].numpy()
        if mistake == "a leaf that is held to more than its feature"
        else 0
    )
    np.testing.assert_allclose(case.evaluator.unscrubbed(rows), expected, atol=1e-12)


def test_an_average_that_hides_every_single_change() -> None:
    # The label is z1, the network computes z1 xor z2, and the claim is that z2 does not matter.
    z1, z2 = torch.tensor([[0.0, 0, 1, 1], [0, 1, 0, 1]], dtype=torch.float64)
    data = Dataset({"z1": z1, "z2": z2}, labels=z1)
    graph = FunctionGraph(output=lambda z1, z2: (z1 != z2).double())
    wrong = Metric("0-1 error", lambda out, batch: (out != batch.labels).double())
    claim = output(module("z1", agrees_on=EXACT), module("z2", agrees_on=ANYTHING))
    evaluator = Evaluator(graph, data, claim, wrong)
    (swap_set, weights), *others = evaluator.space.keep(["output/z1", "output/z2"]).enumerate()
    assert not others
    scrubbed, clean = evaluator.evaluate(swap_set), evaluator.unscrubbed(swap_set.references)
    assert clean @ weights == pytest.approx(0.5)
    assert scrubbed @ weights == pytest.approx(0.5)
    assert abs(scrubbed - clean) @ weights == pytest.approx(0.5)
    by_reference = [scrubbed[swap_set.references == row] for row in range(4)]
    assert [errors.max() for errors in by_reference] == [1, 1, 1, 1]
    assert [errors.min() for errors in by_reference] == [0, 0, 0, 0]
