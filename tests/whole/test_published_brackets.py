"""The published paren-balance checker: our figures against those measured independently on the same
strings."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import published_brackets as published
from pytest_scrub import ANYTHING, Evaluator, load_model, output
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.store import ActivationStore
from tests.sizes import only_in_full, sized

DRAWS = sized(20_000, 100_000)
pytestmark = [
    pytest.mark.skipif(
        published.folder() is None, reason=f"{published.FOLDER} does not name the published network"
    ),
    pytest.mark.xdist_group("published_brackets"),
]


@pytest.fixture(scope="module")
def store():
    at = published.folder()
    graph, data = load_model(published.network(at)), published.dataset(at)
    return ActivationStore(graph, data)


def test_unscrubbed_loss(store):
    evaluator = Evaluator(store.graph, store.dataset, output(agrees_on=ANYTHING), store=store)
    assert evaluator.unscrubbed(store.dataset.reference_rows).mean() == pytest.approx(
        0.000253, abs=5e-7
    )


@pytest.mark.parametrize(
    ("hypothesis", "expected", "their_error"),
    [
        pytest.param(  # enumerated
            output(agrees_on=ANYTHING), 5.5183, 0.0, id="baseline", marks=only_in_full
        ),
        pytest.param(published.claim_1a(), 0.4256, 0.0045, id="claim 1a", marks=only_in_full),
        pytest.param(published.claim_1b(), 0.2851, 0.0034, id="claim 1b"),
    ],
)
def test_scrubbed_loss_is_the_published_one(store, hypothesis, expected, their_error, request):
    evaluator = Evaluator(store.graph, store.dataset, hypothesis, store=store)
    loss = evaluator.evaluate(evaluator.space.draw(DRAWS, stream(0, request.node.callspec.id)))
    error = np.hypot(loss.std(ddof=1) / np.sqrt(DRAWS), their_error)
    assert abs(loss.mean() - expected) < 4 * error
