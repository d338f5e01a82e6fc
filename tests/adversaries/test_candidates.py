"""Donors that may be tried: what they leave below them stays allowed, and the best come first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub.adversaries.candidates import Candidates
from pytest_scrub.adversaries.search import (
    Spending,
)
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.metrics import Metric
from pytest_scrub.network import FunctionGraph
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, module, output
from tests.adversaries.problems import (
    MANY,
    OUT,
    REFERENCES,
    SMALL_TOYS,
    candidates,
    generator,
    product,
    small_toys,
)


@pytest.mark.parametrize("nth", SMALL_TOYS)
def test_moving_a_donor_keeps_the_rest_allowed(nth: int) -> None:
    evaluator = small_toys()[nth].evaluator
    space, rng = evaluator.space, generator(nth)
    references = small_toys()[nth].references
    tried = Candidates(space, Spending(evaluator, 10**9), references, rng)
    for _ in range(5):
        swap_set = space.draw(len(references), rng, references)
        values = {i: rng.normal(size=(len(references), len(tried.rows))) for i in tried.slots}
        for i in tried.slots:
            donors = tried.drawn(i, swap_set)
            for by in (values, None):
                moved = swap_set.with_donors(tried.changed(swap_set, i, donors, by))
                assert space.check(moved) == []
                np.testing.assert_array_equal(moved.donors[i], donors)
                below = {i, *tried.together[i]}
                for j in space.order:
                    below |= (
                        {j}
                        if space.slots[j].parent in below or space.slots[j].shares in below
                        else set()
                    )
                others = [j for j in range(len(space.slots)) if j not in below]
                np.testing.assert_array_equal(moved.donors[others], swap_set.donors[others])
            for best in tried.best(i, swap_set, values[i], 3).T:
                moved = swap_set.with_donors(tried.changed(swap_set, i, best, values))
                assert space.check(moved) == []


def test_the_best_donors_are_the_most_valuable_that_are_allowed() -> None:
    root = output(module("A", agrees_on="half"), module("B", agrees_on="third"), rest=EXACT)
    evaluator = Evaluator(product(), MANY, root, OUT)
    tried = candidates(evaluator, REFERENCES)
    swap_set = evaluator.space.draw(len(REFERENCES), generator(), REFERENCES)
    values = tried.values(swap_set)
    for name, path, feature in (("a", "output/A", "half"), ("b", "output/B", "third")):
        best = tried.best(
            evaluator.space.index[path], swap_set, values[evaluator.space.index[path]], 3
        )
        assert best.shape == (len(REFERENCES), 3)
        for row, donors, present in zip(
            REFERENCES, best, swap_set.donors[evaluator.space.index[path]], strict=True
        ):
            agree = np.flatnonzero(MANY.feature(feature) == MANY.feature(feature)[row])
            order = agree[np.argsort(-MANY.inputs[name].numpy()[agree])]
            assert donors.tolist() == order[order != present][:3].tolist()


def test_donors_that_a_prediction_reads_are_not_taken_for_one_another() -> None:
    """Its activation is the same on half of the rows, whose features the label may depend on."""

    def root(**said: Any) -> Node:
        a = module("A", name="a", agrees_on=ANYTHING)
        return output(a, module("B", agrees_on=ANYTHING), rest=EXACT, **said)

    graph = FunctionGraph(
        A=lambda a: (a > 0) * 1.0, B=lambda b: b, output=lambda A, B, c: A + B + 0 * c
    )
    rows = Dataset(
        MANY.inputs, labels=[0] * len(MANY), features={"third": np.arange(len(MANY)) % 3}
    )
    said = Metric("out", lambda out, batch: out + batch.labels)
    for predicts, kinds in ((None, 2), (lambda a: a["third"], len(MANY))):
        tried = candidates(Evaluator(graph, rows, root(predicts=predicts), said), REFERENCES)
        (place,) = (i for i, slot in enumerate(tried.space.slots) if slot.path == "output/a")
        assert tried.distinct[place].sum() == kinds
        assert len(tried.rows) == len(MANY)


def test_rows_of_one_content_are_ranked_apart_where_a_label_is_predicted() -> None:
    """A column may tell apart what the network cannot."""
    twice = {name: torch.cat([values, values]) for name, values in MANY.inputs.items()}
    half = np.arange(2 * len(MANY)) < len(MANY)
    rows = Dataset(twice, labels=[0] * len(half), features={"half": half})
    said = Metric("out", lambda out, batch: out + batch.labels)
    for predicts, count in ((None, 1), (lambda a: a["half"] * 1, 2)):
        root = output(module("A", name="a", agrees_on=ANYTHING), rest=EXACT, predicts=predicts)
        tried = candidates(Evaluator(product(), rows, root, said), REFERENCES)
        assert len(tried.rows) == count * len(MANY)
