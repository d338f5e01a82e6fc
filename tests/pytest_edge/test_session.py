"""What claims of one session share, and when they stop sharing it."""

from __future__ import annotations

import pytest
import torch

from pytest_scrub import ANYTHING, Dataset, Metric, output
from pytest_scrub.errors import ModelError
from pytest_scrub.pytest_edge.session import STORES_KEPT, Session
from tests.sizes import few_in_quick

MEAN = Metric("mean", lambda output, batch: output.mean(1))
MEAN_OF_ALL = Metric("mean", lambda output, batch: output.mean((1, 2)))
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


# Networks are taken apart once --------------------------------------------------------------------


def llama():
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=7, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def rows(seed):
    tokens = torch.randint(0, 7, (20, 3), generator=torch.Generator().manual_seed(seed))
    return Dataset(tokens)


@pytest.fixture
def taken_apart(monkeypatch):
    """A list that grows whenever a network is taken apart."""
    from pytest_scrub.network import transformer_lens

    seen, own = [], transformer_lens.graph_of
    monkeypatch.setattr(transformer_lens, "graph_of", lambda model: (seen.append(1), own(model))[1])
    return seen


def scaled(module, given, out):
    return out * 1.5


CHANGES = {
    "weight": lambda model: model.model.norm.weight.data.mul_(2),
    "hook": lambda model: model.model.layers[0].register_forward_hook(scaled),
    "attribute": lambda model: setattr(model.model.layers[1].self_attn, "scaling", 3.0),
    "code": lambda model: setattr(
        model.model.norm, "forward", lambda x: 2 * torch.nn.functional.normalize(x)
    ),
}


@few_in_quick(2)
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_network_is_taken_apart_once_for_all_data_while_it_is_what_it_was(taken_apart, change):
    session, model = Session({"samples": 50, "effort": "none"}), llama()
    stores = [session.store(model, rows(seed)) for seed in range(STORES_KEPT + 2)]
    assert len(taken_apart) == 1
    assert len({store.graph.source for store in stores}) == 1
    change(model)
    fresh = session.store(model, rows(9))
    assert len(taken_apart) == 2
    assert fresh.graph.digest() == Session({}).store(model, rows(9)).graph.digest()


def test_what_no_longer_sums_is_not_read_directly_because_it_once_was():
    session, model = Session({"samples": 50, "effort": "none"}), llama()
    assert session.store(model, rows(0)).graph.reads_directly
    handle = model.model.layers[0].register_forward_hook(scaled)
    assert not session.store(model, rows(1)).graph.reads_directly
    handle.remove()
    assert session.store(model, rows(1)).graph.reads_directly
    assert session.store(model, rows(2)).graph.reads_directly


def test_a_store_that_is_given_takes_its_network_apart_once(taken_apart):
    from pytest_scrub import check as judge
    from pytest_scrub.engine.store import ActivationStore
    from pytest_scrub.network import as_graph

    model, data = llama(), rows(0)
    settings = {"metric": MEAN_OF_ALL, "tolerance": 9.0, "samples": 50, "adversaries": ()}
    store = ActivationStore(as_graph(model), data)
    unscrubbed = []
    for times in (2, 2, 2):  # made, seen to be of this network, and believed from then on
        unscrubbed.append(judge(NOTHING, model, data, store=store, **settings).unscrubbed)
        assert len(taken_apart) == times
    model.model.norm.weight.data.mul_(2)
    unscrubbed.append(judge(NOTHING, model, data, store=store, **settings).unscrubbed)
    assert len(taken_apart) == 3
    assert unscrubbed[0] == unscrubbed[2] != pytest.approx(unscrubbed[3])
    with pytest.raises(ModelError, match="another network"):
        judge(NOTHING, llama(), data, store=store, **settings)
