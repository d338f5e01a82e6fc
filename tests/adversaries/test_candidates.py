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


def deep() -> FunctionGraph:
    return FunctionGraph(
        A=lambda a: a, B=lambda A, b: A + b, C=lambda B, c: B * c, output=lambda A, C: A + C
    )


def idle_of(root: Node, data: Dataset = MANY) -> list[str]:
    """The slots in which no other donor changes anything, after none was found that does."""
    evaluator = Evaluator(deep(), data, root, OUT)
    space, references = evaluator.space, evaluator.space.reference_rows[::23]
    tried = candidates(evaluator, references)
    swap_set = space.draw(len(references), generator(), references)
    assert not tried.idle & tried.values(swap_set).keys()
    for i in tried.idle:
        for _ in range(3):
            changed = tried.changed(swap_set, i, tried.drawn(i, swap_set), None)
            assert {space.slots[j].path for j in changed} <= {space.paths[i]}
            moved = swap_set.with_donors(changed)
            assert not space.check(moved)
            np.testing.assert_array_equal(evaluator.evaluate(moved), evaluator.evaluate(swap_set))
    return [space.paths[i] for i in sorted(tried.idle)]


@pytest.mark.parametrize("root", [0, 1, 2])
def test_values_that_are_computed_when_a_slot_is_visited_are_the_same(
    root: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = [
        chain("half", "half", "half"),
        chain("half", "third", "third"),
        output(module("A", agrees_on="half"), module("C", agrees_on="third")),
    ]
    evaluator = Evaluator(deep(), MANY, claims[root], OUT)
    swap_set = evaluator.space.draw(len(REFERENCES), generator(), REFERENCES)
    tried = candidates(evaluator, REFERENCES)
    later = tried.values(swap_set)
    multiplied = tried.spending.multiplications
    assert later.later.keys() <= tried.once
    assert later.later
    before = {i: later[i] for i in {*later, *later.later}}  # as it was when it was ranked
    evaluator.evaluate(evaluator.space.draw(50, generator(1)))
    each = candidates(evaluator, REFERENCES)
    each.once = set()
    at_once = each.values(swap_set)
    assert not at_once.later
    assert at_once.keys() == before.keys()
    assert each.spending.multiplications == multiplied
    for i, values in at_once.items():
        np.testing.assert_array_equal(values, before[i])
        np.testing.assert_array_equal(values, later[i])
    assert not any(tried.below[i] for i in tried.once)
    # what takes another donor where what is above it changes finds the best of all
    assert not any(later.later.keys() & tried.below[i] for i in {*tried.slots} - tried.idle)
    # in parts, of which none is kept
    monkeypatch.setattr(type(evaluator.store.memory), "batch_bytes", lambda *_: 1)
    in_parts = candidates(evaluator, REFERENCES).values(swap_set)
    assert not in_parts.later
    for i, values in in_parts.items():
        np.testing.assert_allclose(values, before[i], rtol=1e-9)


def chain(c: Any, b: Any, a: Any, **more: Any) -> Node:
    below = module("B", agrees_on=b, reads=[module("A", agrees_on=a)], **more)
    return output(
        module("C", agrees_on=c, reads=[below]), module("A", agrees_on="half"), rest=EXACT
    )


def test_a_donor_that_only_says_what_it_says_anyway_is_not_tried() -> None:
    assert idle_of(chain("half", "half", "half")) == ["output/C", "output/C/B"]
    assert idle_of(chain("half", "half", ANYTHING)) == ["output/C", "output/C/B"]
    # what is below may take others then, of C, or of B and so of C
    assert idle_of(chain("half", "third", "third")) == []
    assert idle_of(chain("half", "half", "third")) == ["output/C"]
    assert idle_of(chain("half", "half", "half", rest="third")) == ["output/C"]
    assert idle_of(chain(ANYTHING, "half", "half")) == []
    # the donor itself is taken below
    assert idle_of(chain("half", "half", EXACT)) == ["output/C"]
    assert idle_of(chain("half", "half", "half", rest=EXACT)) == ["output/C"]


def test_where_not_every_row_is_a_donor_none_says_what_it_says_anyway() -> None:
    # a row that is no donor allows below it what no other does: itself
    some = Dataset(
        MANY.inputs,
        features={n: MANY.feature(n) for n in ("half", "third")},
        donors=np.arange(0, 400, 3),
    )
    assert idle_of(chain("half", "half", "half"), some) == []


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
