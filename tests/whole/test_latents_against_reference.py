"""Latents and errors: the engine against `pytest_scrub.meaning`, on random networks with random
dictionaries."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_scrub import (
    ANYTHING,
    EACH,
    Dataset,
    embed,
    error,
    group,
    head,
    latents,
    mlp,
    output,
    stream,
    with_dictionaries,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError
from pytest_scrub.tree.paths import node_paths
from tests.reference.bridges import BridgeNetwork
from tests.reference.families import FAMILIES, AllFloat64
from tests.reference.generate import (
    Architecture,
    build,
    datasets,
    hypotheses,
    positions,
    small_transformers,
    swap_sets,
)
from tests.reference.latents import Slow, dictionaries, dictionary_of
from tests.sizes import few_in_quick, only_in_full, sized
from tests.whole.test_engine_against_reference import assert_same, meaning, outputs_as_metric

ALL = {"agrees_on": ANYTHING}
# claims about units that write at several layers, read directly or along every path
CROSSING = {
    "as leaves": lambda **v: [
        latents("clt_mlp0", [1, 2], **v), latents("clt_mlp1", 1, **v), latents("clt_mlp2", 1, **v),
    ],
    "under a head": lambda **v: [
        head(2, 0, reads=[latents("clt_mlp0", [0, 1, 2, 3, 4], **v), head(0, 1, **ALL)], **ALL)
    ],
    "into a slot": lambda **v: [
        head(2, 0, reads=[latents("clt_mlp0", [0, 1], into="k", **v)], **ALL)
    ],
    "under an MLP": lambda **v: [mlp(1, reads=[latents("clt_mlp0", [0, 3], **v)], **ALL)],
    "under units": lambda **v: [
        latents("clt_mlp1", [0, 3], reads=[latents("clt_mlp0", 2, **v), head(1, 0, **ALL)], **v)
    ],
    "at a position": lambda **v: [latents("clt_mlp0", 2, pos=1, **v), head(1, 1, via="any", **ALL)],
    "beside a rerun": lambda **v: [latents("clt_mlp0", 2, **v), head(0, 1, via="any", **ALL)],
    "from any position": lambda **v: [latents("clt_mlp0", 2, pos=EACH(with_shift=True), **v)],
    "in a group": lambda **v: [group(["clt_mlp0[1]", "head0.1", "clt_mlp1[2:4]"], **v)],
    "under a stream": lambda **v: [stream(2, reads=[latents("clt_mlp0", 2, **v)], **ALL)],
}  # fmt: skip


@few_in_quick(1)
@pytest.mark.parametrize("via", [None, "any"])
def test_units_that_write_at_several_layers(via):
    model = build(Architecture(n_layers=3, norm="LN", n_ctx=4, attn_only=False, causal=True))
    drawn = torch.Generator().manual_seed(0)
    layers = []
    for layer in range(3):
        shapes = {"W_enc": (8, 5), "b_enc": (5,), "W_dec": (5, 3 - layer, 8), "threshold": (5,)}
        tensors = {
            name: torch.randn(shape, generator=drawn, dtype=torch.float64)
            for name, shape in shapes.items()
        }
        tensors |= {"b_dec": torch.zeros(8), "k": 1, "centred": False}
        reads = ("stream", "normed", "stream")[layer]
        layers.append(Slow(f"clt_mlp{layer}", "jumprelu", "none", reads, tensors))
    graph = with_dictionaries(model.bridge, **{own.name: own.fast(3) for own in layers})
    tokens = torch.randint(0, 5, (8, 4), generator=drawn)
    dataset = Dataset(tokens, features={"f": tokens[:, 0]})
    network = BridgeNetwork(model.bridge, dataset, layers)
    for what, make in CROSSING.items():
        root = output(*make(via=via, **ALL))
        evaluator = Evaluator(graph, dataset, root, outputs_as_metric(None))
        swap_set = evaluator.space.draw(3, np.random.default_rng(0))
        mine = evaluator.outputs(swap_set).double()
        assert_same(mine, meaning.outputs(network, root, dataset, swap_set, None), 1e-9)
        clean = evaluator.clean_outputs(swap_set.references).double()
        assert (mine - clean).abs().max() > 1e-3, what


# claims about units of a dictionary at a place of layer 1, or before layer 2
LEVELS = {
    "as leaves": lambda of, at, **v: [latents(of, 1, **v), latents(of, [0, 2], **v)],
    "units and error": lambda of, at, **v: [latents(of, [1, 3], **v), error(of, **v)],
    "in a group": lambda of, at, **v: [group([latents(of, [0, 4]), error(of), "mlp2"], **v)],
    "under a head": lambda of, at, **v: [
        head(2, 0, reads=[latents(of, [0, 1], into="k", **v), head(0, 1, into="v", **ALL)], **ALL)
    ],
    "not as leaves": lambda of, at, **v: [
        latents(of, [0, 3], reads=[embed(**ALL)], rest="f", **v),
        error(of, reads=[head(0, 0, **ALL)], **v),
    ],
    "a part": lambda of, at, **v: [latents(of, 2, pos=1, subspace=np.eye(8)[:, :3], **v)],
    "from any position": lambda of, at, **v: [latents(of, [1, 2], pos=EACH(with_shift=True), **v)],
    "beside its place": lambda of, at, **v: [
        latents(of, [1, 2], pos=2, **v), group([at], pos=1, **v), head(1, 0, pos=0, **v)
    ],
    "beside another MLP": lambda of, at, **v: [
        latents(of, 2, **v), mlp(2 if at in ("stream2", "mid1") else 0, via="any", **ALL)
    ],
    "below a head": lambda of, at, **v: [
        latents(of, [1, 2], **v), head(2, 1, reads=[head(1, 0, **ALL)], **ALL)
    ],
}  # fmt: skip
# of what is read, of what stands there, before and after a norm, of what heads hand on
PLACES = [
    "sae_attn1", "raw_attn1", "z_attn1", "sae_mlp1", "raw_mlp1", "tc_mlp1", "sae_stream2",
    "sae_mid1",
]  # fmt: skip
NETWORKS = ["native", "gemma2", "olmo2", "granite"]


QUICK = [("sae_mid1", "native")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*case, marks=() if case in QUICK else only_in_full)
        for case in product(PLACES, NETWORKS)
    ],
)
def test_units_of_every_place(name, kind):
    with AllFloat64():
        units_of_every_place(name, PLACES.index(name), kind)


def units_of_every_place(name, nth, kind):
    a = Architecture(
        kind=kind, n_layers=3, n_kv_heads=1, d_head=4, n_ctx=4, attn_only=False, norm="LN",
        score_cap=3.0, logit_cap=3.0,
    )  # fmt: skip
    model, drawn = build(a), torch.Generator().manual_seed(nth)

    def some(*shape):
        return torch.randn(shape, generator=drawn, dtype=torch.float64)

    tensors = {"W_enc": some(8, 5), "b_enc": some(5), "W_dec": some(5, 8), "b_dec": some(8)}
    tensors |= {"threshold": some(5).abs() / 4, "k": 3, "centred": nth % 2 == 0}
    norm, reads = ("none", "layer_norm")[nth % 2], "stream" if name.startswith("tc") else "own"
    own = Slow(name, ("jumprelu", "topk", "relu")[nth % 3], norm, reads, tensors)
    graph = with_dictionaries(model.bridge, **{name: own.fast(3)})
    tokens = torch.randint(0, 5, (8, 4), generator=drawn)
    dataset = Dataset(tokens, features={"f": tokens[:, 0]})
    network = BridgeNetwork(model.bridge, dataset, [own])
    for what, make in LEVELS.items():
        for via in (None, "any"):
            root = output(*make(name, own.place, via=via, **ALL))
            evaluator = Evaluator(graph, dataset, root, outputs_as_metric(None))
            swap_set = evaluator.space.draw(2, np.random.default_rng(0))
            mine = evaluator.outputs(swap_set).double()
            assert_same(mine, meaning.outputs(network, root, dataset, swap_set, None), 1e-9)
            clean = evaluator.clean_outputs(swap_set.references).double()
            assert (mine - clean).abs().max() > 1e-3, (what, via)


CASES = sized({"native": 6, "gpt2": 2, "llama": 2}, {"native": 600, "gpt2": 200, "llama": 200})
# whose blocks normalise or scale what they add
CASES |= sized({"gemma2": 2}, {"gemma2": 200, "olmo2": 100, "granite": 100})


@pytest.mark.parametrize("kind", CASES)
def test_engine_and_reference_agree(kind):
    with AllFloat64():
        settings(max_examples=CASES[kind])(given(data=st.data())(engine_and_reference_agree))(
            kind=kind
        )


def engine_and_reference_agree(kind, data):
    model = data.draw(small_transformers(kind))
    places = [name for name in model.components if name.startswith(("stream", "attn", "mlp"))]
    d_model = model.bridge.cfg.d_model
    a = model.architecture
    has_mid, z = not a.attn_only, a.n_heads * a.d_head
    own = data.draw(
        dictionaries(places, d_model, has_mid=has_mid, z=z, crossing=kind not in FAMILIES)
    )
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
