"""Torch modules as graphs of their submodules, against plain hooks on one row at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pytest_scrub import meaning
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import DataError, ModelError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import as_graph
from pytest_scrub.network.modules import ModuleGraph
from pytest_scrub.power.mutants import mutants
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, group, module, output
from tests.reference.generate import rotation
from tests.reference.generate_plain import (
    LENGTH,
    ROWS,
    TOKENS,
    VECTORS,
    WIDTH,
    Residual,
    Returning,
    built,
    module_graph,
)
from tests.reference.modules import ModuleNetwork

TOTAL = Metric("total", lambda out, batch: out.flatten(1).sum(1))
F: dict[str, Any] = {"agrees_on": "f"}


def refuses(sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(ModelError, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


BASIS = rotation(WIDTH)
RESIDUAL = built(Residual)


def random_swaps(root: Node, data: Dataset, seed: int, columns: int = 3) -> SwapSet:
    rng, slots = np.random.default_rng(seed), slots_of(root)
    donors = rng.integers(0, ROWS, (len(slots), columns))
    return SwapSet(
        rng.integers(0, ROWS, columns), donors, tuple(s.path for s in slots), data.digest()
    )


def agrees_with_hooks(root: Node, network: nn.Module = RESIDUAL, data: Dataset = TOKENS) -> Tensor:
    swap_set = random_swaps(root, data, seed=0)
    found = Evaluator(as_graph(network), data, root, TOTAL).outputs(swap_set)
    expected = torch.stack(
        meaning.outputs(ModuleNetwork(network, data), root, data, swap_set, None)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    return found


# --- single cases, each of which changes something ------------------------------------------------


@pytest.mark.parametrize(
    "reads",
    [
        [module("blocks.0", **F)],
        [module("blocks.0", **F, pos=1)],
        [module("blocks.0", **F, pos="where"), module("blocks.1", **F, pos="two")],
        [module("blocks.0", **F, pos=0), module("blocks.0", **F, pos=2)],
        [module("blocks.0", **F, subspace=BASIS[:, :2])],
        [
            module("blocks.0", **F, subspace=part, name=name)
            for part, name in ((BASIS[:, :2], "2"), (BASIS[:, 2:], "3"))
        ],
        [group(["blocks.0", "blocks.1.act"], **F)],
        [module("blocks.0", **F), module("blocks.1.up", **F)],  # together in one run
        [module("blocks.1.act", **F), module("blocks.1", **F, pos=0)],  # one inside the other
        [module("blocks.1", **F, reads=[module("blocks.1.up", **F), module("embed", **F, pos=0)])],
        [module("head", **F, reads=[module("blocks.1", **F, reads=[module("blocks.0", **F)])])],
    ],
)
def test_a_hypothesis_is_what_hooks_say(reads: list[Node]) -> None:
    scrubbed = agrees_with_hooks(output(*reads))
    rests = random_swaps(output(*reads), TOKENS, 0).donors[0]  # the output's own rest comes first
    with torch.no_grad():
        clean = RESIDUAL(TOKENS.inputs["tokens"][rests.copy()])
    assert not torch.allclose(scrubbed, clean)


def test_every_call_item_and_head_is_what_hooks_say() -> None:
    plain = module_graph("awkward", 1, 0)
    graph = as_graph(plain.source)
    store, seen = ActivationStore(graph, plain.dataset), list[Tensor]()
    for name in plain.above["output"]:
        root = output(group([name], **F), rest=EXACT)
        swaps = random_swaps(root, plain.dataset, 0)
        found = Evaluator(graph, plain.dataset, root, TOTAL, store=store).outputs(swaps)
        expected = torch.stack(meaning.outputs(plain.network, root, plain.dataset, swaps, None))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        seen.append(found)
    # pair returns what pair.layer does
    assert len(torch.unique(torch.stack(seen), dim=0)) == len(seen) - 1 == 16


def test_the_whole_output_can_be_another_rows() -> None:
    agrees_with_hooks(output(agrees_on=ANYTHING))


def test_a_module_done_in_place_is_captured_before() -> None:
    # blocks.0.up is overwritten by its relu, and blocks.0.down by adding x.
    graph, inputs = as_graph(RESIDUAL), TOKENS.batch([0, 1])
    up, down = (graph.value_site((f"blocks.0.{name}",), None) for name in ("up", "down"))
    captured = graph.capture([up, down], inputs)
    block = RESIDUAL.get_submodule("blocks.0")
    with torch.no_grad():
        embedded = RESIDUAL.get_submodule("embed")(inputs["tokens"])
        expected = block.up(embedded)
        torch.testing.assert_close(captured[up], expected)
        assert (captured[up] < 0).any()
        torch.testing.assert_close(captured[down], block.down(block.act(expected)))


def test_a_computed_module_is_what_the_function_says() -> None:

    def compute(f: Any) -> Any:
        return np.arange(WIDTH)[None] + f[:, None]

    root = output(module("blocks.1", **F, computed_by=compute))
    evaluator = Evaluator(as_graph(RESIDUAL), TOKENS, root, TOTAL)
    found = evaluator.outputs(evaluator.space.draw(2, np.random.default_rng(0)))
    network = RESIDUAL
    x = torch.arange(WIDTH, dtype=torch.float64).expand(2, LENGTH, WIDTH)
    with torch.no_grad():
        mixed = network.get_submodule("mix")(x.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(found, network.get_submodule("head")(x + mixed))


def test_a_run_ends_where_the_claim_does() -> None:
    # A non-leaf is recomputed without what comes after it.
    calls = []
    root = output(module("blocks.0", **F, reads=[module("embed", **F)]))
    evaluator = Evaluator(as_graph(RESIDUAL), TOKENS, root, TOTAL)
    swap_set = evaluator.space.draw(2, np.random.default_rng(0))
    evaluator.evaluate(swap_set)  # nothing is left to capture
    handles = [
        RESIDUAL.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
        for name in ("blocks.0", "blocks.1", "head")
    ]
    evaluator.evaluate(swap_set)
    for handle in handles:
        handle.remove()
    assert calls == ["blocks.0", "blocks.0", "blocks.1", "head"]


def test_no_hook_stays_behind() -> None:
    root = output(module("blocks.0", **F, reads=[module("embed", **F)]))
    agrees_with_hooks(root)
    evaluator = Evaluator(as_graph(RESIDUAL), TOKENS, root, Metric("bad", lambda out, batch: 1 / 0))
    with pytest.raises(DataError, match="ZeroDivisionError"):
        evaluator.evaluate(evaluator.space.draw(2, np.random.default_rng(0)))
    assert all(not child._forward_hooks for child in RESIDUAL.modules())


# --- how the network is called --------------------------------------------------------------------


@dataclass
class Hidden:
    last_hidden_state: Tensor
    pooled: Tensor


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, *, scale: Tensor) -> Any:
        return self.returned(self.layer(x) * scale)

    def returned(self, out: Tensor) -> Any:
        return out


PAIRS = Dataset(
    {
        "x": torch.arange(6.0, dtype=torch.float64).view(3, 2),
        "scale": torch.tensor([[1.0], [2], [3]]).double(),
    },
    features={"f": [0] * 3},
)


def test_named_inputs_are_keywords() -> None:
    network = built(Named)
    evaluator = Evaluator(ModuleGraph(network), PAIRS, output(module("layer", **F)), TOTAL)
    swap_set = SwapSet([0], [[2], [1]], evaluator.space.paths, PAIRS.digest())
    with torch.no_grad():
        torch.testing.assert_close(
            evaluator.outputs(swap_set), network.get_submodule("layer")(PAIRS.inputs["x"][1:2]) * 3
        )


def test_a_lone_input_with_a_name_of_its_own_is_a_keyword() -> None:
    class Pixels(nn.Module):
        def forward(self, *, pixels: Tensor) -> Tensor:
            return 2 * pixels

    data = Dataset({"pixels": torch.ones(2, 3)})
    assert ModuleGraph(Pixels()).run(data.batch([0])).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    ("returned", "pick"),
    [
        (lambda out: out, None),
        (lambda out: type("Output", (), {"logits": out})(), None),
        (lambda out: Hidden(out, -out), None),
        (lambda out: ("a", out), None),
        (lambda out: {"scores": out}, lambda returned: returned["scores"]),
        (lambda out: (None, out), lambda returned: returned[1]),
    ],
)
def test_the_tensor_of_interest_is_picked(returned: Any, pick: Any) -> None:
    network = built(Named)
    network.returned = returned  # type: ignore[assignment]
    graph = ModuleGraph(network, output=pick)
    out = graph.run(PAIRS.batch([1]))
    with torch.no_grad():
        torch.testing.assert_close(out, network.get_submodule("layer")(PAIRS.inputs["x"][1:2]) * 2)
    site = graph.value_site(("output",), None)
    torch.testing.assert_close(graph.capture([site], PAIRS.batch([1]))[site], out)


def test_of_several_tensors_one_has_to_be_picked() -> None:
    network = built(Named)
    network.returned = lambda out: (out, out)  # type: ignore[method-assign,assignment,return-value]
    with refuses(
        "torch module Named returns tuple, not a tensor; say which with ModuleGraph(module, "
        "output=...)"
    ):
        ActivationStore(ModuleGraph(network), PAIRS)


# --- modules that cannot be claimed ---------------------------------------------------------------


class Silent(nn.Module):
    def forward(self, x: Tensor) -> None:
        return None


class Strange(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.fine = (
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(1, 1),
            nn.Linear(WIDTH, WIDTH),
        )
        self.silent, self.pair = Silent(), Returning("dictionary")
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.twice(self.twice(self.fine(tokens)))
        self.silent(x)
        x = self.pair(x)["value"]
        return self.attention(x, x, x)[0]


def test_a_value_that_is_not_there_is_refused_with_what_is() -> None:
    attention, pair, twice = (f"module {n!r} " for n in ("attention", "pair", "twice"))
    sentences = {
        module("twice", **F): twice
        + "is called 2 times in one forward pass; say which with call=, 0 to 1",
        module("twice", call=2, **F): twice
        + "is called 2 times in one forward pass, so call= is 0 to 1, not 2",
        module("fine", call=0, **F): "module 'fine' is called once in a forward pass; leave call= "
        "out",
        module("fine", item=0, **F): "module 'fine' returns one tensor; leave item= out",
        module(
            "fine", head=0, **F
        ): "module 'fine' is no torch.nn.MultiheadAttention, so it has no head=; leave it out",
        module("attention", head=2, **F): attention + "has 2 heads, so head= is 0 to 1, not 2",
        module("pair", item="value", **F): pair
        + "is claimed as its first tensor, item='value'; leave item= out",
        module("pair", item="hafl", **F): pair
        + "returns dict without a tensor 'hafl'; did you mean 'half'?",
        module("pair", item=7, **F): pair + "returns dict without a tensor 7, but with value, half",
    }
    for node, sentence in sentences.items():
        with refuses(sentence):
            Evaluator(ModuleGraph(built(Strange)), VECTORS, output(node), TOTAL)


def test_a_pattern_that_torchs_attention_does_not_give_is_refused_with_what_would() -> None:
    class Silently(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.attention(tokens, tokens, tokens, need_weights=False)[0]

    with refuses(
        "module 'attention' returns tuple without a tensor 1, but with 0; torch's attention gives "
        "its pattern where it is called with need_weights=True"
    ):
        claimed = output(module("attention", item=1, **F))
        Evaluator(ModuleGraph(built(Silently)), VECTORS, claimed, TOTAL)


def test_every_value_has_one_name_and_can_be_mutated() -> None:
    graph = ModuleGraph(built(Strange))
    ActivationStore(graph, VECTORS)
    assert graph.components == (
        "fine", "twice(call=0)", "twice(call=1)", "pair.layer", "pair", "pair(item=half)",
        "attention(head=0)", "attention(head=1)", "attention", "attention(item=1)", "output",
    )  # fmt: skip
    claim = output(module("attention", head=1, agrees_on="g"))
    found = mutants(graph, VECTORS, claim, None, np.random.default_rng(0)).mutants
    exchanged = [mutant.hypothesis.reads[0] for mutant in found if mutant.kind == "component"]
    assert [node.component for node in exchanged] == ["attention(head=0)"]


def test_heads_of_attention_with_positions_first_are_rows_all_the_same() -> None:
    class Swapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            x = tokens.transpose(0, 1)
            return self.attention(x, x, x)[0].transpose(0, 1)

    network = built(Swapped)
    graph = as_graph(network)
    ActivationStore(graph, VECTORS)
    site = graph.value_site(("attention(head=1)",), None)
    value = graph.capture([site], VECTORS.batch([0, 1]))[site]
    assert value.shape == (2, LENGTH, WIDTH // 2)
    weight = network.get_submodule("attention").out_proj.weight  # type: ignore[union-attr]
    with torch.no_grad():
        whole = graph.run(VECTORS.batch([0, 1]))
        other = graph.value_site(("attention(head=0)",), None)
        both = torch.cat([graph.capture([other], VECTORS.batch([0, 1]))[other], value], -1)
        torch.testing.assert_close(both @ weight.T, whole)  # biases are zero at first


def test_inputs_that_it_does_not_take_are_refused() -> None:
    data = Dataset({"x": torch.ones(2, 2), "scael": torch.ones(2, 1)}, features={"f": [0, 0]})
    with refuses(
        "torch module Named cannot be called with the inputs x, scael (missing a required "
        "argument: 'scale'); it takes x, scale, so name the inputs of the dataset like these"
    ):
        ActivationStore(ModuleGraph(Named()), data)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("never", "is not called by the forward pass"),
        ("silent", "returns NoneType, not a tensor"),
        ("attention.out_proj", "is not called by the forward pass"),
    ],
)
def test_a_module_that_cannot_be_claimed_says_why(name: str, why: str) -> None:
    network = built(Strange)
    sentence = f"module {name!r} {why}, so it cannot be claimed; claim a module in it or around it"
    for root in (output(module(name, **F)), output(module(name, **F, reads=[module("fine", **F)]))):
        with refuses(sentence):
            Evaluator(ModuleGraph(network), VECTORS, root, TOTAL)
    agrees_with_hooks(output(module("fine", **F)), network, VECTORS)


def test_order_is_learnt_from_a_run() -> None:
    with refuses(
        "a torch module has to be run on a batch of the dataset before claims can be checked"
    ):
        ModuleGraph(built(Residual)).slots("output", "embed", True)
    graph = as_graph(built(Residual))
    ActivationStore(graph, TOKENS)
    assert graph.slots("output", "blocks.1", True) == ("in",)
    assert graph.slots("blocks.1", "blocks.1.up", True) == ("in",)  # a module reads its own parts
    assert graph.slots("blocks.1.up", "blocks.1", True) == ()
    assert graph.slots("blocks.0", "blocks.1.up", True) == ()
    assert graph.slots("output", "blocks.1", False) == ()  # never directly


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.layer = nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.drop(tokens))


def test_a_network_in_train_mode_is_refused() -> None:
    with refuses(
        "the model is in train mode and drop drops activations at random; call model.eval()"
    ):
        as_graph(built(Dropping).train())
    with refuses(
        "the model is in train mode and it drops activations at random; call model.eval()"
    ):
        as_graph(nn.Dropout(0.5))
    as_graph(built(Dropping))
    as_graph(built(Residual).train())  # nothing is dropped at random


def test_a_network_that_differs_from_run_to_run_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens + torch.rand(())

    with refuses(
        "torch module Noisy: two clean runs on the same inputs differ; make it deterministic (eval "
        "mode)"
    ):
        ActivationStore(ModuleGraph(Noisy()), VECTORS)


# --- digests and devices --------------------------------------------------------------------------


def test_a_digest_is_of_the_weights() -> None:
    one, same, other = built(Residual), built(Residual), built(Residual)
    with torch.no_grad():
        other.get_submodule("head").bias += 1  # type: ignore[operator]
    assert ModuleGraph(one).digest() == ModuleGraph(same).digest() != ModuleGraph(other).digest()
    running = [nn.BatchNorm1d(3).eval() for _ in range(2)]
    running[1].running_mean += 1  # type: ignore[operator]  # buffers count as well
    assert ModuleGraph(running[0]).digest() != ModuleGraph(running[1]).digest()


def test_a_network_on_several_devices_is_refused() -> None:
    with refuses(
        "the weights of the Sequential are on several devices (0.bias on cpu and 1.bias on meta); "
        "load it onto one, or let Hugging Face place it with device_map="
    ):
        as_graph(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta")))


def test_a_network_without_weights_is_on_the_cpu() -> None:
    assert ModuleGraph(nn.ReLU()).device == torch.device("cpu")
    assert ModuleGraph(nn.Linear(2, 2, device="meta")).device == torch.device("meta")
