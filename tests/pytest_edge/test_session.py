"""What claims of one session share, and when they stop sharing it."""

from __future__ import annotations

import pytest
import torch

from pytest_scrub import ANYTHING, Dataset, Metric, output
from pytest_scrub.pytest_edge.session import STORES_KEPT, Session

MEAN = Metric("mean", lambda output, batch: output.mean(1))
NOTHING = output(agrees_on=ANYTHING)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))


def dataset():
    return Dataset(torch.randn(20, 3, generator=torch.Generator().manual_seed(1)))


def check(session, model, data):
    return session.check(
        NOTHING, model=model, data=data, samples=50, name="claim", metric=MEAN, tolerance=1.0
    )


def test_claims_on_the_same_network_and_data_share_activations():
    session, model, data = Session({"samples": 50, "effort": "none"}), network(), dataset()
    assert session.store(model, data) is session.store(model, data)
    assert session.store(model, dataset()) is not session.store(model, data)


def test_changed_weights_are_another_network():
    session, model, data = Session({"samples": 50, "effort": "none"}), network(), dataset()
    before = check(session, model, data)
    with torch.no_grad():
        model[2].bias.add_(1.0)
    after = check(session, model, data)
    assert after.unscrubbed == pytest.approx(before.unscrubbed + 1.0)
    assert after.model_digest != before.model_digest


def test_only_the_last_used_are_kept():
    session, model = Session({"samples": 50, "effort": "none"}), network()
    data = [dataset() for _ in range(STORES_KEPT + 1)]
    first = session.store(model, data[0])
    for other in data[1:]:
        session.store(model, other)
    assert session.store(model, data[0]) is not first
