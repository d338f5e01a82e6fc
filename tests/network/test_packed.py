"""Weights packed as bitsandbytes and GPTQ pack them: their layers are called, and whatever they
compute with is part of the network."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing._internal.two_tensor import TwoTensor

from pytest_scrub import EXACT, Dataset, check, head, mlp, output
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError
from pytest_scrub.network import ModuleGraph, as_graph
from pytest_scrub.network.adapter import rows_of
from pytest_scrub.network.packed import packed_in
from pytest_scrub.network.precision import coarsest, precision_of, rounding_of
from pytest_scrub.network.state import State
from tests.network.on_two_devices import made
from tests.sizes import few_in_quick

TOKENS = torch.randint(12, (24, 5), generator=torch.Generator().manual_seed(1))
DATA = Dataset(TOKENS, labels=TOKENS[:, 0], label_pos=-1, features={"first": TOKENS[:, 0] % 2})


def packed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 numbers `[out, in]` and a scale for each row."""
    scales = weight.detach().abs().amax(1) / 127
    return (weight.detach() / scales[:, None]).round().to(torch.int8), scales


class Layer(nn.Module):
    """A linear layer that unpacks its weights when it is called."""

    bias: Tensor | None
    compute_dtype = torch.float32

    def unpacked(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.unpacked().to(x.dtype), self.bias)


class Params4bit(nn.Parameter):
    """A weight that holds what it is scaled by, as that of bitsandbytes does."""

    def __new__(cls, packed: Tensor, quant_state: Any) -> Any:
        made: Any = torch.Tensor._make_subclass(cls, packed, False)  # type: ignore[attr-defined]
        made.quant_state = quant_state
        return made


class QuantState:
    """Of scales that are scaled themselves, too."""

    def __init__(self, absmax: Tensor, shape: tuple[int, ...]) -> None:
        self.shape, self.state2 = shape, SimpleNamespace(absmax=torch.tensor(2.0))
        self.absmax = absmax / 2


class Linear4bit(Layer):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        numbers, scales = packed(linear.weight)
        self.weight = Params4bit(numbers.reshape(-1, 1), QuantState(scales, tuple(numbers.shape)))
        self.bias, self.compute_dtype = linear.bias, torch.float32

    def unpacked(self) -> Tensor:
        state = self.weight.quant_state
        return self.weight.reshape(state.shape) * (state.absmax * state.state2.absmax)[:, None]

    def parts(self) -> list[Tensor]:
        state = self.weight.quant_state
        return [self.weight.data, state.absmax, state.state2.absmax]


class Linear8bitLt(Layer):
    """Moves its scales from the weight to itself when it is first called."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        numbers, scales = packed(linear.weight)
        self.weight = nn.Parameter(numbers, requires_grad=False)
        vars(self.weight)["SCB"] = scales
        self.bias, self.state = linear.bias, SimpleNamespace(SCB=None)

    def unpacked(self) -> Tensor:
        if self.state.SCB is None:
            self.state.SCB = vars(self.weight).pop("SCB")
        scales: Tensor = self.state.SCB
        return self.weight * scales[:, None]

    def parts(self) -> list[Tensor]:
        return [self.weight.data, self.state.SCB]


class QuantLinear(Layer):
    """GPTQ's: no parameters, four numbers in one of a buffer."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        numbers, scales = packed(linear.weight)
        self.register_buffer("qweight", numbers.contiguous().view(torch.int32))
        self.register_buffer("scales", scales)
        self.bias = linear.bias

    def unpacked(self) -> Tensor:
        return self.qweight.view(torch.int8) * self.scales[:, None]

    def parts(self) -> list[Tensor]:
        return [self.qweight, self.scales]


class Hidden(Layer):
    """Weights that nobody can know of: tensors in attributes."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.numbers, self.scales = packed(linear.weight)
        self.bias = linear.bias

    def unpacked(self) -> Tensor:
        return self.numbers * self.scales[:, None]

    def parts(self) -> list[Tensor]:
        return [self.numbers, self.scales]


Kind = Callable[[nn.Linear], Layer]
KINDS: tuple[Any, ...] = (Linear4bit, Linear8bitLt, QuantLinear)


def both(kind: Kind) -> tuple[Any, Any]:
    """A Llama whose projections are packed, and the same with the numbers that these unpack to."""
    small, plain = made("Llama"), made("Llama")
    for name, linear in list(plain.model.named_modules()):
        if isinstance(linear, nn.Linear):
            layer = kind(linear)
            small.model.set_submodule(name, layer)
            with torch.no_grad():
                linear.weight.copy_(layer.unpacked())
    return small, plain


@few_in_quick(2)
@pytest.mark.parametrize("kind", [*KINDS, Hidden])
def test_figures_are_those_of_the_unpacked_network(kind: Kind) -> None:
    small, plain = both(kind)
    claim = output(
        head(1, 2, agrees_on="first", reads=[head(0, 1, agrees_on="first")]),
        mlp(0, agrees_on="first"),
        rest=EXACT,
    )
    explicit = output(
        head(1, 2, agrees_on="first", via="any", reads=[head(0, 1, agrees_on="first", via="any")]),
        mlp(0, agrees_on="first", via="any"),
        rest=EXACT,
    )
    mine, other = (
        Evaluator(as_graph(small), DATA, claim),
        Evaluator(as_graph(plain), DATA, explicit),
    )
    swaps, same = (each.space.draw(12, np.random.default_rng(0)) for each in (mine, other))
    found, wanted = mine.evaluate(swaps), other.evaluate(same)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert np.abs(found - mine.unscrubbed(swaps.references)).max() > 0.01
    assert len(mine.slopes(swaps))  # what is packed is differentiated through


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *(
            (
                kind,
                "this LlamaForCausalLM has weights that are packed and cannot be read "
                f"(model.layers.0.self_attn.q_proj, a {kind.__name__})",
            )
            for kind in KINDS
        ),
        (
            Hidden,
            "TransformerBridge (LlamaForCausalLM) has projections in layer 0 without weights to "
            "read (W_Q)",
        ),
    ],
)
def test_direct_reading_is_refused_by_name(kind: Kind, reason: str) -> None:
    graph = as_graph(both(kind)[0])
    with pytest.raises(
        HypothesisError, match=re.escape(f"always read along every path, since {reason}; leave via")
    ):
        Evaluator(graph, DATA, output(head(1, 2, agrees_on="first", via="direct")))


@pytest.mark.parametrize("kind", KINDS)
def test_packed_numbers_and_their_scales_are_the_network(kind: Kind) -> None:
    graph: Any = as_graph(both(kind)[0])
    graph.run(DATA.batch([0]))
    state, digest = State(graph), graph.digest()
    assert state.is_current()
    layer = graph.module.get_submodule("model.layers.1.self_attn.v_proj")
    for part in layer.parts():
        before = part.clone()
        part.reshape(-1)[:1].add_(1)
        if part.ndim == 0:
            part.add_(1)
        assert not state.is_current()
        assert graph.digest() != digest
        part.copy_(before)
        assert state.is_current()
        assert graph.digest() == digest


def test_numbers_in_attributes_are_noticed_within_a_process() -> None:
    graph: Any = as_graph(both(Hidden)[0])
    state = State(graph)
    graph.module.get_submodule("model.layers.1.self_attn.v_proj").scales[0] += 1
    assert not state.is_current()


def test_the_verdict_says_what_is_packed_and_the_control_is_not_made_of_half_a_network() -> None:
    found = check(
        output(head(1, 2, agrees_on="first")),
        both(Linear4bit)[0],
        DATA,
        tolerance=10.0,
        samples=40,
        adversaries=(),
        controls=True,
    )
    assert found.precision == "float32 and packed (Linear4bit) weights, on cpu"
    assert found.controls[0].outcome is None
    assert found.controls[0].note == (
        "LlamaForCausalLM (along every path) has packed weights, which are not shuffled"
    )


def test_the_numbers_that_packed_layers_compute_in_count() -> None:
    layer = Linear4bit(nn.Linear(4, 4))
    graph = ModuleGraph(nn.Sequential(layer, nn.Linear(4, 4)))
    fine = rounding_of(coarsest(graph, torch.zeros(1)))
    layer.compute_dtype = torch.bfloat16
    assert rounding_of(coarsest(graph, torch.zeros(1))) > 1000 * fine
    assert precision_of(graph).startswith("bfloat16 and float32 and packed (Linear4bit) weights")


def test_what_counts_or_masks_is_not_packed() -> None:
    network = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3))
    network.register_buffer("position_ids", torch.arange(3))
    assert packed_in(network) == {}
    network[1].weight = nn.Parameter(torch.zeros(3, 3).to(torch.float8_e4m3fn), False)
    assert list(packed_in(network)) == ["1"]


def test_a_weight_that_is_made_of_other_tensors_is_packed_and_all_of_them_are_read() -> None:
    """As those of torchao are, and shards of tensors."""
    linear, inner = nn.Linear(3, 3), [torch.ones(3, 3) for _ in range(2)]
    linear.weight = nn.Parameter(TwoTensor(*inner), False)
    graph = ModuleGraph(nn.Sequential(linear))
    assert list(graph.packed()) == ["0"]
    assert rows_of(linear) is None  # some cannot be transposed
    state, digest = State(graph), graph.digest()
    assert state.is_current()
    for part in inner:
        part[0, 0] += 1
        assert not state.is_current()
        assert graph.digest() != digest
        part[0, 0] -= 1
    assert state.is_current()
