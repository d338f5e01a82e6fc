"""The residual stream before a layer as a component of its own."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import Dataset, Evaluator, HypothesisError, Metric, group, head, module, output
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.network import as_graph
from tests.reference.generate import Architecture, build

TOKENS = torch.tensor(np.random.default_rng(0).integers(0, 5, size=(12, 4)))
DATA = Dataset(TOKENS, labels=[0] * 12, label_pos=-1, features={"f": [0] * 12})
SUM = Metric("sum", lambda out, batch: out.double().sum(1))
WRITERS = ["embed", "pos_embed", "head0.0", "head0.1", "mlp0"]


@pytest.fixture(scope="module")
def graph() -> Any:
    return as_graph(build(Architecture(n_layers=2, attn_only=False, norm="LN", n_ctx=4)).bridge)


@pytest.mark.parametrize("into", [None, "k"])
def test_a_stream_is_the_sum_of_all_that_wrote_it(graph: Any, into: str | None) -> None:
    claim = {"agrees_on": "f", "into": into}
    trees = [
        output(head(1, 0, agrees_on="f", reads=[child]))
        for child in (module("stream1", **claim), group(WRITERS, **claim))
    ]
    mine, theirs = (Evaluator(graph, DATA, tree, SUM) for tree in trees)
    drawn = mine.space.draw(30, np.random.default_rng(1))
    same = theirs.space.swap_set(drawn.references, drawn.donors)
    assert mine.evaluate(drawn) == pytest.approx(theirs.evaluate(same), rel=1e-5)
    assert circuit_of(trees[0], graph).levels[-4:] == ("stream 1", "attention 1", "MLP 1", "output")


@pytest.mark.parametrize("child", [module("stream1", agrees_on="f", via="any")])
def test_a_stream_is_read_directly(graph: Any, child: Any) -> None:
    sentence = "output/stream1: output cannot read stream1: later layers read it, and directly"
    with pytest.raises(HypothesisError, match=re.escape(sentence)):
        Evaluator(graph, DATA, output(child))
