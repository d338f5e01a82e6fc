"""The engine against the slow evaluator, on random small transformers, hypotheses and swap sets."""

from __future__ import annotations

import torch
from hypothesis import event, given
from hypothesis import strategies as st

from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError
from pytest_scrub.metrics import Metric
from pytest_scrub.models import as_graph
from tests.reference.evaluator import reference_outputs
from tests.reference.generate import datasets, hypotheses, positions, small_transformers, swap_sets


def outputs_as_metric(pos):
    return Metric("output", lambda output, batch: output.flatten(1).sum(1), pos)


@given(data=st.data())
def test_engine_and_reference_agree(data):
    model = data.draw(small_transformers())
    dataset = data.draw(datasets(model))
    root = data.draw(hypotheses(model, dataset))
    swap_set = data.draw(swap_sets(root, dataset))
    metric_pos = data.draw(positions(dataset))
    graph = as_graph(model.bridge)
    batch_size = data.draw(st.sampled_from([None, 1]))
    try:
        evaluator = Evaluator(graph, dataset, root, outputs_as_metric(metric_pos), batch_size=batch_size)
    except HypothesisError as error:
        # What is put where nobody looks is refused; everything else the generator makes is valid.
        assert "would change nothing" in str(error), error  # noqa: PT017  # valid trees raise nothing at all
        event("refused: nobody looks there")
        return
    event(f"{model.architecture.kind}, {sum(1 for _ in evaluator.plan.walk())} nodes")
    mine = evaluator.outputs(swap_set).double()
    theirs = reference_outputs(model.bridge, root, dataset, swap_set, metric_pos)
    scale = max(float(torch.stack([out.abs().max() for out in theirs]).max()), 1e-6)
    for got, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(
            got.reshape(expected.shape), expected, rtol=0, atol=model.tolerance * scale, check_dtype=False
        )
