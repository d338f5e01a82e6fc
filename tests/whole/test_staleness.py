"""What a claim uses is never older than the network, however that was changed since the claim
before."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook

from pytest_scrub import (
    ANYTHING,
    DataError,
    Dataset,
    FunctionGraph,
    Metric,
    ModelError,
    ModuleGraph,
    check,
    head,
    output,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network import as_graph
from pytest_scrub.network.state import State
from pytest_scrub.pytest_edge.session import Scrub, Session
from pytest_scrub.swaps.space import SwapSet
from tests.reference.generate import Architecture, build
from tests.sizes import few_in_quick

ROWS = 60
MEAN = Metric("mean", lambda out, batch: out.flatten(1).mean(1))
NOTHING = output(agrees_on=ANYTHING)
SETTINGS: dict[str, Any] = {"metric": MEAN, "tolerance": 100.0, "samples": 50}
ALPHA = 2.0
TABLE = torch.ones(3)
CONFIG = SimpleNamespace(alpha=1.0)
UNSEEN = ctypes.c_double(1.0)  # no object of Python's: what it holds is nowhere to be seen


def helper(x: Tensor) -> Tensor:
    return x


class Network(nn.Module):
    """All that a network may compute with besides its weights."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.alpha, self.settings = nn.Linear(4, 3), 1.0, {"shift": [0.0]}
        self.register_buffer("offset", torch.zeros(3))
        self.register_buffer("unsaved", torch.zeros(3), persistent=False)
        self.loose = torch.zeros(3)  # a tensor that is no parameter
        self.drop = nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        x = (
            self.inner(x) * self.alpha * self.factor
            + self.settings["shift"][0]
            + self.offset
            + self.unsaved
        )
        x = x + self.loose + (7.0 if self.training else 0.0)
        return ALPHA * TABLE * CONFIG.alpha * UNSEEN.value * helper(x)


def rows() -> Dataset:
    return Dataset(torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1)) + 1)


def add_to_weight(model: Network) -> None:
    model.inner.weight.data.mul_(2)


def through_numpy(model: Network) -> None:
    model.inner.bias.detach().numpy()[:] += 1  # nobody tells torch


def changed_code(model: Network) -> None:
    model.inner.forward = lambda x: 3 * nn.Linear.forward(model.inner, x)  # type: ignore[method-assign]


def a_hook(model: Network) -> None:
    model.inner.register_forward_hook(lambda module, inputs, out: out + 1)


def another_hook_of_the_same_code(model: Network) -> None:
    model.inner._forward_hooks.clear()
    model.inner.register_forward_hook(shifting(2.0))


def shifting(by: float) -> Callable[..., Tensor]:
    return lambda module, inputs, out: out + by


CHANGES: dict[str, Callable[[Network], object]] = {
    "weight through .data": add_to_weight,
    "weight zeroed": lambda model: model.inner.weight.data.zero_(),
    "weight copied": lambda model: model.inner.weight.data.copy_(torch.ones(3, 4)),
    "weights exchanged for one another": lambda model: model.inner.weight.data.copy_(
        model.inner.weight.data.flip(0, 1)
    ),
    "weight through numpy": through_numpy,
    "data replaced": lambda model: setattr(model.inner.weight, "data", torch.ones(3, 4)),
    "buffer": lambda model: model.offset.data.add_(1),
    "buffer that is not saved": lambda model: model.unsaved.data.add_(1),
    "tensor attribute": lambda model: model.loose.data.add_(1),
    "attribute": lambda model: setattr(model, "alpha", 5.0),
    "inside an attribute": lambda model: model.settings["shift"].__setitem__(0, 5.0),
    "attribute of the class": lambda model: setattr(Network, "factor", 5.0),
    "hook": a_hook,
    "pre-hook": lambda model: model.inner.register_forward_pre_hook(
        lambda module, inputs: (inputs[0] + 1,)
    ),
    "hook exchanged": another_hook_of_the_same_code,
    "forward of a part": changed_code,
    "train mode": lambda model: model.train(),
}


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Puts back what a test changes of this module and its classes."""
    monkeypatch.setattr(Network, "factor", 1.0)
    monkeypatch.setattr(Network, "forward", Network.forward)
    monkeypatch.setattr(nn.Linear, "forward", nn.Linear.forward)
    monkeypatch.setitem(globals(), "ALPHA", 2.0)
    monkeypatch.setitem(globals(), "helper", helper)
    monkeypatch.setitem(globals(), "TABLE", torch.ones(3))
    monkeypatch.setattr(CONFIG, "alpha", 1.0)
    monkeypatch.setattr(UNSEEN, "value", 1.0)
    return monkeypatch


def judged(session: Session, model: Any, data: Dataset) -> float:
    found = session.check(NOTHING, model=model, data=data, name="claim", **SETTINGS)
    assert found.samples > 0
    return found.unscrubbed


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize(
    "wrap", [lambda network: network, ModuleGraph], ids=["module", "ModuleGraph"]
)
def test_a_changed_network_is_another_one(
    change: Callable[[Network], object], wrap: Callable[[Any], Any]
) -> None:
    network, session, data = Network().eval(), Session({"samples": 50, "effort": "none"}), rows()
    network.inner.register_forward_hook(shifting(1.0))
    model = wrap(network)
    before = judged(session, model, data)
    change(network)
    after = judged(session, model, data)
    assert (
        after
        == judged(Session({"samples": 50, "effort": "none"}), network, data)
        != pytest.approx(before, rel=1e-3)
    )


def test_a_network_that_was_not_changed_is_not_captured_again() -> None:
    session, model, data = Session({"samples": 50, "effort": "none"}), Network().eval(), rows()
    store = session.store(model, data)
    judged(session, model, data)
    assert session.store(model, data) is store
    assert store.bytes()


def test_a_hook_of_all_modules_is_noticed() -> None:
    session, model, data = Session({"samples": 50, "effort": "none"}), Network().eval(), rows()
    before = judged(session, model, data)
    with register_module_forward_hook(
        lambda module, inputs, out: out + isinstance(module, nn.Linear)
    ):
        assert judged(session, model, data) == pytest.approx(before + 2)
    assert judged(session, model, data) == before


# Every entry --------------------------------------------------------------------------------------

ENTRIES: dict[str, Callable[[Scrub, ActivationStore], float]] = {
    "session.check": lambda scrub, _: judged(scrub.session, scrub.model, scrub.data),
    "scrub.check": lambda scrub, _: scrub.check(NOTHING, **SETTINGS).unscrubbed,
    "scrub.evaluator": lambda scrub, _: float(
        scrub.evaluator(NOTHING, MEAN).unscrubbed(scrub.data.reference_rows).mean()
    ),
    "scrub.gap": lambda scrub, _: float(
        abs(scrub.gap(all_from_the_next(scrub), metric=MEAN)).sum()
    ),
    "check(store=)": lambda scrub, store: (
        check(NOTHING, scrub.model, scrub.data, store=store, **SETTINGS).unscrubbed
    ),
}


def all_from_the_next(scrub: Scrub) -> SwapSet:
    references = scrub.data.reference_rows
    return SwapSet(references, [(references + 1) % ROWS], ("output",), scrub.data.digest(), NOTHING)


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES)
def test_it_is_noticed_at_every_entry(entry: Callable[[Scrub, ActivationStore], float]) -> None:
    network, data = Network().eval(), rows()
    scrub, store = (
        Scrub(Session({"samples": 50, "effort": "none"}), network, data, "claim"),
        ActivationStore(as_graph(network), data),
    )
    before = entry(scrub, store)
    network.inner.weight.data.mul_(2)
    network.alpha = 3.0
    assert (
        entry(scrub, store)
        == entry(Scrub(Session({"samples": 50, "effort": "none"}), network, data, "claim"), store)
        != pytest.approx(before)
    )


def test_a_store_of_another_network_or_other_data_is_refused() -> None:
    network, data = Network().eval(), rows()
    store = ActivationStore(as_graph(network), data)
    assert check(NOTHING, network, data, store=store, **SETTINGS).average == "held"
    with pytest.raises(
        ModelError, match=r"^store= has activations of another network; leave store= out"
    ):
        check(NOTHING, Network().eval(), data, store=store, **SETTINGS)
    with pytest.raises(
        DataError, match=r"^store= has activations of another dataset; leave store= out"
    ):
        check(NOTHING, network, rows(), store=store, **SETTINGS)
    with pytest.raises(
        ModelError,
        match=r"^store= has activations of another graph; make the evaluator of store.graph",
    ):
        Evaluator(as_graph(network), data, NOTHING, MEAN, store=store)


# What a network computes with, and does not hold --------------------------------------------------

BESIDE: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "global number": lambda changed: changed.setitem(globals(), "ALPHA", 5.0),
    "global tensor": lambda changed: TABLE.data.mul_(3),
    "global object": lambda changed: setattr(CONFIG, "alpha", 4.0),
    "global function": lambda changed: changed.setitem(globals(), "helper", lambda x: x + 1),
    "forward of the class": lambda changed: changed.setattr(
        Network, "forward", lambda self, x: self.inner(x)
    ),
    "forward of torch's class": lambda changed: changed.setattr(
        nn.Linear, "forward", lambda self, x: nn.functional.linear(x, 2 * self.weight, self.bias)
    ),
    "what cannot be seen": lambda changed: setattr(UNSEEN, "value", 3.0),
}


@pytest.mark.parametrize("change", BESIDE.values(), ids=BESIDE)
def test_what_lies_beside_the_network_is_noticed(
    changed: pytest.MonkeyPatch, change: Callable[..., object]
) -> None:
    session, network, data = Session({"samples": 50, "effort": "none"}), Network().eval(), rows()
    before = judged(session, network, data)
    change(changed)
    assert (
        judged(session, network, data)
        == judged(Session({"samples": 50, "effort": "none"}), network, data)
        != pytest.approx(before)
    )


def test_what_can_be_seen_is_seen_without_a_run(changed: pytest.MonkeyPatch) -> None:
    """A run on a few rows would miss what only others need."""
    graph = as_graph(Network().eval())
    states = {State(graph).digest}
    for name, change in BESIDE.items():
        if name != "what cannot be seen":
            change(changed)
            states.add(State(graph).digest)
    assert len(states) == len(BESIDE)
    assert State(graph).digest == State(as_graph(graph.module)).digest  # type: ignore[attr-defined]


MORE: dict[str, Callable[[Network], object]] = {
    "parameter": lambda model: setattr(model.inner, "bias", nn.Parameter(torch.ones(3))),
    "module added": lambda model: model.add_module("more", nn.Identity()),
    "what was empty": lambda model: model.settings["empty"].append(1.0),
    "class of a part": lambda model: setattr(model.inner, "__class__", nn.Bilinear),
    "equal numbers of another type": lambda model: setattr(model, "alpha", True),
    "minus zero": lambda model: model.settings["shift"].__setitem__(0, -0.0),
    "inside a tuple": lambda model: model.settings["nested"][1].update(key=2),
    "array": lambda model: model.settings["array"].__setitem__(0, 1.0),
    "default of a hook": lambda model: setattr(defaulting, "__defaults__", (3.0,)),
    "variable of a closure": lambda model: setattr(closing.__closure__[0], "cell_contents", 3.0),
    "hook that becomes a pre-hook": lambda model: model.inner._forward_pre_hooks.update(
        [model.inner._forward_hooks.popitem()]
    ),
    "code of a hook": lambda model: setattr(defaulting, "__code__", other_code.__code__),
}


def defaulting(module: Any, inputs: Any, out: Tensor, by: float = 0.0) -> Tensor:
    return out + by


def other_code(module: Any, inputs: Any, out: Tensor, by: float = 0.0) -> Tensor:
    return out - by


closing: Any = shifting(0.0)


@pytest.mark.parametrize("change", {**CHANGES, **MORE}.values(), ids=[*CHANGES, *MORE])
def test_a_state_sees_what_a_run_on_a_few_rows_might_not(
    changed: pytest.MonkeyPatch, change: Callable[[Network], object]
) -> None:
    changed.setattr(defaulting, "__defaults__", (0.0,))
    changed.setattr(defaulting, "__code__", defaulting.__code__)
    changed.setattr(closing.__closure__[0], "cell_contents", 0.0)
    network = Network().eval()
    network.settings |= {"nested": (1, {"key": 1}), "array": np.zeros(2), "empty": []}
    for hook in (shifting(1.0), defaulting, closing):
        network.inner.register_forward_hook(hook)
    graph = as_graph(network)
    state, again = State(graph), State(graph)
    assert state.is_current()
    assert state.digest == again.digest
    change(network)
    assert not state.is_current()
    assert State(graph).digest != again.digest


@pytest.mark.parametrize("kind", ["native", "gpt2", "llama"])
def test_only_what_was_exchanged_is_spelled_out_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = build.__wrapped__(Architecture(kind)).bridge
    graph = as_graph(bridge)
    inputs = {"tokens": torch.zeros(2, 3, dtype=torch.long)}
    graph.run(inputs)
    bridge.told = [1.5]
    state = State(graph)
    monkeypatch.setattr("pytest_scrub.network.state.spelled", pytest.fail)
    graph.run(inputs)
    assert state.is_current()
    monkeypatch.undo()
    bridge.told = [1.5]
    assert state.is_current(), "what is equal is no change"
    monkeypatch.setattr("pytest_scrub.network.state.spelled", pytest.fail)
    assert state.is_current(), "and from then on the same"


def test_functions_may_call_whatever_they_like(changed: pytest.MonkeyPatch) -> None:
    own, table = SimpleNamespace(alpha=1.0), torch.ones(1)
    graph = FunctionGraph(
        A=lambda a: ALPHA * a + UNSEEN.value, output=lambda A: own.alpha * table * A
    )
    session, data = (
        Session({"samples": 50, "effort": "none"}),
        Dataset({"a": torch.arange(1.0, 41)[:, None]}),
    )
    seen = [judged(session, graph, data)]
    for change in (
        lambda: changed.setitem(globals(), "ALPHA", 5.0),
        lambda: setattr(UNSEEN, "value", 30.0),
        lambda: setattr(own, "alpha", 2.0),
        lambda: table.data.mul_(2),
    ):
        change()
        seen.append(judged(session, graph, data))
        assert seen[-1] == judged(Session({"samples": 50, "effort": "none"}), graph, data)
    assert len(set(seen)) == len(seen)


# Transformers: derived tensors are made again -----------------------------------------------------


def shift_biases(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if "bias" in name or "b_" in name.rpartition(".")[2]:
            parameter.data.add_(0.5)


def scale_values(model: Any) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.5)


@few_in_quick(2)
@pytest.mark.parametrize("change", [shift_biases, scale_values])
@pytest.mark.parametrize("loaded", [False, True], ids=["bridge", "graph"])
def test_a_transformer_that_was_changed_is_taken_apart_again(
    change: Callable[[Any], None], loaded: bool
) -> None:
    bridge = build.__wrapped__(Architecture()).bridge
    tokens = torch.randint(0, 5, (80, 3), generator=torch.Generator().manual_seed(0))
    data, other = (Dataset(tokens, features={"first": tokens[:, 0]}) for _ in range(2))
    root = output(head(0, 0, agrees_on="first"))
    model, session = (
        as_graph(bridge) if loaded else bridge,
        Session({"samples": 50, "effort": "none"}),
    )
    settings = {"metric": MEAN, "tolerance": 100.0, "samples": 50, "name": "claim"}
    before = session.check(root, model=model, data=data, **settings)
    change(bridge)
    anew = Session({"samples": 50, "effort": "none"}).check(
        root, model=as_graph(bridge), data=data, **settings
    )
    for rows_ in (data, other):  # and where the graph meets data for the first time
        after = session.check(root, model=model, data=rows_, **settings)
        assert (after.unscrubbed, after.scrubbed, after.gap) == (
            anew.unscrubbed,
            anew.scrubbed,
            anew.gap,
        )
        assert after.model_digest == anew.model_digest != before.model_digest
    assert after.scrubbed != pytest.approx(before.scrubbed, rel=1e-6)


def test_a_hugging_face_model_is_compared_behind_its_bridge() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=7, n_positions=4, n_embd=8, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    session, data = (
        Session({"samples": 50, "effort": "none"}),
        Dataset(torch.randint(0, 7, (60, 3))),
    )
    seen = [judged(session, model, data)]
    for change in (
        lambda: model.transformer.wte.weight.data.mul_(1.5),
        lambda: model.transformer.h[0].ln_1.bias.data.add_(1.0),
        lambda: model.transformer.h[0].mlp.act.register_forward_hook(shifting(0.5)),
    ):
        change()
        seen.append(judged(session, model, data))
        assert seen[-1] == judged(Session({"samples": 50, "effort": "none"}), model, data)
    assert len(set(seen)) == len(seen)
