"""Networks that `device_map` has put on several devices, or whose weights are fetched when a module
is run: the same figures as on one device, and no change of a weight goes unnoticed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import accelerate
import numpy as np
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module
from torch import nn

from pytest_scrub import EXACT, Dataset, head, mlp, output
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError, ModelError
from pytest_scrub.network import ModuleGraph, as_graph
from pytest_scrub.network.shuffled import why_not_shuffled
from pytest_scrub.network.state import State
from tests.network.on_two_devices import CLAIMS, FAMILIES, made
from tests.places import ROOT
from tests.sizes import sized

TRIED = sized(("Llama",), tuple(FAMILIES))
DISK = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.layers.0": "cpu",
    "model.layers.1": "disk",
    "model.norm": "cpu",
    "lm_head": "disk",
}
TOKENS = torch.randint(12, (8, 4), generator=torch.Generator().manual_seed(1))
DATA = Dataset(TOKENS, labels=TOKENS[:, 0], label_pos=-1, features={"first": TOKENS[:, 0] % 2})


@pytest.fixture(scope="module")
def two_devices(python: str) -> dict[str, Any]:
    """What a process with a second device has found."""
    ran = subprocess.run(
        [python, "-m", "tests.network.on_two_devices", *TRIED],
        check=True,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


# a pattern is read directly, which nothing of Bert is
ASKED = [
    (family, claim) for family in TRIED for claim in CLAIMS if (family, claim) != ("Bert", "units")
]


@pytest.mark.parametrize(("family", "claim"), ASKED)
def test_figures_and_slopes_are_those_of_one_device(
    family: str, claim: str, two_devices: dict[str, Any]
) -> None:
    found = two_devices[family][claim]
    assert found["off"] < 1e-5 < 1e-2 < found["change"]
    assert found["slopes"]
    assert max(found["slopes"]) < 1e-5


def test_parts_are_recomputed_where_they_lie(two_devices: dict[str, Any]) -> None:
    there = two_devices["Llama"]
    assert there["a head of a head"]["softmaxes there"] > there["leaves"]["softmaxes there"]


@pytest.mark.parametrize("family", TRIED)
def test_what_is_read_how_and_where_is_said(family: str, two_devices: dict[str, Any]) -> None:
    found = two_devices[family]
    assert (found["read"] == "directly") is (family != "Bert")
    assert found["precision"] == "float32 weights, on cpu and second"
    assert found["noticed"] == [True, False]  # a weight there was changed


def offloaded(folder: Path) -> Any:
    return accelerate.dispatch_model(made("Llama"), DISK, offload_dir=str(folder))


def drawn(evaluator: Evaluator) -> Any:
    return evaluator.space.draw(12, np.random.default_rng(0))


def flip_a_bit(file: Path) -> None:
    numbers = bytearray(file.read_bytes())
    numbers[3] ^= 64
    file.write_bytes(numbers)


def test_weights_on_a_disk_are_run_and_not_read(tmp_path: Path) -> None:
    away = as_graph(offloaded(tmp_path))
    claim = output(
        head(1, 2, agrees_on="first", reads=[head(0, 1, agrees_on="first")]),
        mlp(1, agrees_on="first"),
        rest=EXACT,
    )
    explicit = output(
        head(1, 2, agrees_on="first", via="any", reads=[head(0, 1, agrees_on="first", via="any")]),
        mlp(1, agrees_on="first", via="any"),
        rest=EXACT,
    )
    mine, other = Evaluator(as_graph(made("Llama")), DATA, explicit), Evaluator(away, DATA, claim)
    wanted = mine.evaluate(drawn(mine))
    np.testing.assert_allclose(other.evaluate(drawn(other)), wanted, atol=1e-5)
    assert np.abs(wanted - mine.unscrubbed(drawn(mine).references)).max() > 0.01
    sentence = (
        "output/head1.2: components of LlamaForCausalLM (along every path) are always read along "
        "every path, since this LlamaForCausalLM has weights that are fetched only while their "
        "module is run (model.layers.1.self_attn.q_proj.weight); leave via= out"
    )
    with pytest.raises(HypothesisError, match=re.escape(sentence)):
        Evaluator(away, DATA, output(head(1, 2, agrees_on="first", via="direct")))


def test_another_number_on_the_disk_is_another_network(tmp_path: Path) -> None:
    graph = as_graph(offloaded(tmp_path))
    graph.run(DATA.batch([0]))
    state, digest, version = State(graph), graph.digest(), graph.version()
    graph.run(DATA.batch([1]))  # after which other tensors stand for the weights
    assert state.is_current()
    assert (graph.digest(), graph.version()) == (digest, version)
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"):
        flip_a_bit(tmp_path / f"{name}.dat")
        assert not state.is_current(), name
        assert graph.digest() != digest, name
        flip_a_bit(tmp_path / f"{name}.dat")
        assert state.is_current()
        assert graph.digest() == digest
    assert why_not_shuffled(graph) == (
        "LlamaForCausalLM (along every path) has weights that are not in memory, which are not "
        "shuffled"
    )


def test_the_same_numbers_in_other_weights_are_another_network(tmp_path: Path) -> None:
    """On the meta device all weights of one shape lie in one place."""
    graph = as_graph(offloaded(tmp_path))
    state, digest = State(graph), graph.digest()
    gate, up = (tmp_path / f"model.layers.1.mlp.{name}_proj.weight.dat" for name in ("gate", "up"))
    one, other = gate.read_bytes(), up.read_bytes()
    gate.write_bytes(other)
    up.write_bytes(one)
    assert not state.is_current()
    assert graph.digest() != digest


def test_weights_whose_numbers_are_nowhere_are_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    add_hook_to_module(network, AlignDevicesHook(io_same_device=True))
    with pytest.raises(ModelError, match=r"the weight 1\.weight is on the meta device and nothing"):
        as_graph(network)


class Louder(ModelHook):  # type: ignore[misc]  # accelerate has no types
    """A hook of accelerate's kind that changes figures."""

    by = 2.0

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        return output * self.by


def test_hooks_of_the_users_own_are_part_of_the_network() -> None:
    linear = nn.Linear(2, 2)
    graph = ModuleGraph(linear)
    state = State(graph)
    add_hook_to_module(linear, Louder())
    loud = State(graph)
    assert not state.is_current()
    assert loud.is_current()
    vars(linear)["_hf_hook"].by = 3.0
    assert not loud.is_current()


def test_a_layer_in_two_places_is_refused() -> None:
    network = made("Llama")
    graph: Any = as_graph(network)
    attention = graph.transformer.attention[1]
    vars(attention)["W_O"] = attention.W_O.to("meta")
    with pytest.raises(
        ModelError, match="has the attention of layer 1 on several devices; let device_map= keep"
    ):
        graph.transformer._refuse_uneven()


def test_networks_of_one_device_are_as_they_were() -> None:
    assert as_graph(made("Llama")).devices == (torch.device("cpu"),)
    assert sys.modules.get("torch.second") is None  # the second device is of another process
