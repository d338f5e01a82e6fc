"""Latents and errors: the engine against `pytest_scrub.meaning`, on random networks with random
dictionaries."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_scrub import with_dictionaries
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError
from pytest_scrub.tree.paths import node_paths
from tests.reference.bridges import BridgeNetwork
from tests.reference.generate import (
    datasets,
    hypotheses,
    positions,
    small_transformers,
    swap_sets,
)
from tests.reference.latents import dictionaries, dictionary_of
from tests.sizes import sized
from tests.whole.test_engine_against_reference import assert_same, meaning, outputs_as_metric

CASES = sized({"native": 20, "gpt2": 8, "llama": 8}, {"native": 600, "gpt2": 200, "llama": 200})


@pytest.mark.parametrize("kind", CASES)
def test_engine_and_reference_agree(kind):
    settings(max_examples=CASES[kind])(given(data=st.data())(engine_and_reference_agree))(kind=kind)


def engine_and_reference_agree(kind, data):
    model = data.draw(small_transformers(kind))
    places = [name for name in model.components if name.startswith(("stream", "attn", "mlp"))]
    d_model = model.bridge.cfg.d_model
    own = data.draw(dictionaries(places, d_model, has_mid=not model.architecture.attn_only))
    model = replace(model, dictionaries=own)
    dataset = data.draw(datasets(model))
    root = data.draw(hypotheses(model, dataset))
    swap_set = data.draw(swap_sets(root, dataset))
    metric_pos = data.draw(positions(dataset))
    layers = model.architecture.n_layers
    fast = {one.name: one.fast(layers) for one in own}
    graph = with_dictionaries(model.bridge, **fast)
    try:
        evaluator = Evaluator(
            graph, dataset, root, outputs_as_metric(metric_pos),
            batch_size=data.draw(st.sampled_from([None, 1])),
        )  # fmt: skip
    except HypothesisError as error:
        # What is put where nobody looks is refused; everything else the generator makes is valid.
        assert "would change nothing" in str(error), error  # noqa: PT017  # valid trees raise nothing at all
        return
    named = [name for _, node, _ in node_paths(root) for name in node.components]
    event(f"{sum(map(bool, map(dictionary_of, named)))} nodes of dictionaries")
    mine = evaluator.outputs(swap_set).double()
    network = BridgeNetwork(model.bridge, dataset, own)
    theirs = meaning.outputs(network, root, dataset, swap_set, metric_pos)
    assert_same(mine, theirs, model.tolerance)
