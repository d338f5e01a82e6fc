"""Edits: what they may say, and that they do what hooks of the network itself do."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pytest_scrub import (
    ANYTHING,
    EACH,
    EXACT,
    Dataset,
    FunctionGraph,
    HypothesisError,
    Metric,
    ModuleGraph,
    check,
    edit,
    head,
    mlp,
    module,
    output,
    squared_error,
    stream,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.network import as_graph
from tests.reference.generate import Architecture, build

V, W = (np.random.default_rng(seed).standard_normal(8) for seed in (1, 2))
ROWS = 12


@cache
def small() -> tuple[Any, Dataset]:
    model = build(Architecture(n_layers=2, attn_only=False, norm="LN", n_ctx=5, d_head=4))
    tokens = torch.tensor(np.random.default_rng(0).integers(0, 5, size=(ROWS, 5)))
    return model.bridge, Dataset(tokens, labels=np.zeros(ROWS, dtype=int), label_pos=-1)


def scrubbed(*edits: Any, **donors: Any) -> torch.Tensor:
    bridge, data = small()
    metric = Metric("sum", lambda out, batch: out.flatten(1).sum(1))
    evaluator = Evaluator(as_graph(bridge), data, output(*edits, rest=EXACT), metric)
    swap_set = evaluator.space.unswapped(np.arange(ROWS))
    changes = {evaluator.space.index[f"output/{name}"]: rows for name, rows in donors.items()}
    return evaluator.outputs(swap_set.with_donors(changes))


def hooked(**hooks: Any) -> torch.Tensor:
    bridge, data = small()
    places = {"pre0": "blocks.0.hook_resid_pre", "pre1": "blocks.1.hook_resid_pre",
              "post": "blocks.1.hook_resid_post"}  # fmt: skip
    with torch.no_grad():
        out = bridge.run_with_hooks(
            data.inputs["tokens"], fwd_hooks=[(places[name], of) for name, of in hooks.items()]
        )
    return out[:, -1]


def add(value: torch.Tensor, hook: Any) -> torch.Tensor:
    return value + torch.tensor(V).to(value)


def add_last(value: torch.Tensor, hook: Any) -> torch.Tensor:
    value = value.clone()
    value[:, -1] += torch.tensor(V).to(value)
    return value


def project_out(value: torch.Tensor, hook: Any) -> torch.Tensor:
    direction = torch.tensor(W / np.linalg.norm(W)).to(value)
    return value - (value @ direction)[..., None] * direction


@pytest.mark.parametrize(
    ("edits", "hooks"),
    [
        ([edit(stream(1), add=V, via="any")], {"pre1": add}),
        ([edit(stream(1), project_out=3 * W, via="any")], {"pre1": project_out}),
        ([edit(stream(1), add=V, via="any", pos=-1)], {"pre1": add_last}),
        ([edit(stream(2), add=V)], {"post": add}),
        ([edit(stream(2), project_out=W)], {"post": project_out}),
        (
            [edit(stream(n), project_out=W, via="any") for n in range(3)],
            {"pre0": project_out, "pre1": project_out, "post": project_out},
        ),
        (
            [edit(stream(0), project_out=W, via="any"), edit(stream(1), add=V, via="any", pos=-1)],
            {"pre0": project_out, "pre1": add_last},
        ),
    ],
)
def test_an_edit_is_what_hooks_of_the_network_do(edits: list[Any], hooks: dict[str, Any]) -> None:
    assert (scrubbed(*edits) - hooked()).abs().max() > 1e-2
    torch.testing.assert_close(scrubbed(*edits), hooked(**hooks), rtol=0, atol=1e-12)


def test_an_edit_beside_a_swap_in_one_run_changes_what_the_swap_left() -> None:
    donors = np.roll(np.arange(ROWS), 1)
    swapped = head(0, 0, agrees_on=ANYTHING, via="any", name="swapped")
    bridge, data = small()
    tokens = data.inputs["tokens"]
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
    z = cache["blocks.0.attn.hook_z"][donors]

    def swap(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value = value.clone()
        value[:, :, 0] = z[:, :, 0]
        return value

    hooks = [("blocks.0.attn.hook_z", swap), ("blocks.1.hook_resid_pre", project_out)]
    with torch.no_grad():
        expected = bridge.run_with_hooks(tokens, fwd_hooks=hooks)[:, -1]
    found = scrubbed(swapped, edit(stream(1), project_out=W, via="any"), swapped=donors)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_it_takes_no_donor() -> None:
    donors = np.roll(np.arange(ROWS), 1)
    steered = edit(stream(1), project_out=W, via="any", name="steered")
    assert torch.equal(scrubbed(steered, steered=donors), scrubbed(steered))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: edit(stream(1)), "either add= or project_out="),
        (lambda: edit(stream(1), add=V, project_out=W), "either add= or project_out="),
        (lambda: edit(stream(1), add=np.zeros(8)), "not zero, which changes nothing"),
        (lambda: edit(stream(1), add=np.ones((8, 1))), "shape \\(8, 1\\)"),
        (lambda: edit(stream(1), add=V * np.nan), "finite numbers"),
        (lambda: edit(stream(1), add="up"), "takes a vector"),
        (lambda: edit(stream(1), add=V, pos=EACH), "takes no donor"),
        (lambda: edit(stream(1, agrees_on=ANYTHING), add=V), "a bare node"),
        (lambda: edit("stream1", add=V), "a bare node"),
        (lambda: scrubbed(edit(stream(1), add=V[:5], via="any")), "5 numbers, but .* 8 numbers"),
        (
            lambda: scrubbed(edit(stream(1), add=V), edit(mlp(0), add=V)),
            "claim the same edge",
        ),
        (
            lambda: scrubbed(edit(stream(1), add=V, via="any"), stream(1, agrees_on=ANYTHING,
                                                                       via="any")),
            "claim the same edge",
        ),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_refused(make: Any, says: str) -> None:
    with pytest.raises(HypothesisError, match=says):
        make()


# Claims -------------------------------------------------------------------------------------------


class Detector(nn.Module):
    """What it says depends on one direction of its hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden = nn.Linear(6, 6, bias=False)
        nn.init.eye_(self.hidden.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.hidden(x)[:, 0]


def detector() -> tuple[ModuleGraph, Dataset]:
    x = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
    return ModuleGraph(Detector().eval()), Dataset(x, labels=x[:, 0])


@pytest.mark.parametrize(("direction", "outcome"), [(0, "held"), (1, "refuted")])
def test_a_direction_is_needed_or_is_not(direction: int, outcome: str) -> None:
    model, data = detector()
    root = output(edit(module("hidden"), project_out=np.eye(6)[direction]), rest=EXACT)
    found = check(root, model, data, metric=squared_error(), min_gap=0.3, samples=2000)
    assert found.outcome == outcome
    if outcome == "held":
        assert found.gap.mean == pytest.approx(float((data.labels**2).mean()), rel=0.2)
        controls = {control.name: control for control in found.controls}
        assert controls["random vectors of the same norm"].passed
    else:
        (node,) = [node for node in found.nodes if not node.is_rest]
        assert (node.moved, node.is_tested) == (1.0, True)


def test_an_edit_by_which_any_vector_hurts_is_weak() -> None:
    """The claim is that this direction steers; so does any other of that size."""
    x = torch.randn(600, 6, generator=torch.Generator().manual_seed(0))
    model = FunctionGraph(hidden=lambda x: x, output=lambda hidden: hidden.square().sum(-1))
    data = Dataset({"x": x}, labels=x.square().sum(-1))
    root = output(edit(module("hidden"), add=9 * np.eye(6)[0]), rest=EXACT)
    found = check(root, model, data, metric=squared_error(), min_gap=10.0, samples=600)
    assert (found.average, found.outcome) == ("held", "weak")
    assert "random vectors of the same norm" in str(found)
    found = check(
        root, model, data, metric=squared_error(), min_gap=10.0, samples=600, controls=False
    )
    assert (found.outcome, found.controls) == ("held", ())


@pytest.mark.parametrize("seed", range(3))
def test_in_few_dimensions_a_needed_direction_is_held_whatever_is_drawn(seed: int) -> None:
    """A random direction of three is often nearly the same, and then hurts as much."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    model = FunctionGraph(hidden=lambda x: 1 * x, output=lambda hidden: hidden[:, 0])
    root = output(edit(module("hidden"), project_out=np.eye(3)[0]), rest=EXACT)
    found = check(
        root, model, Dataset({"x": x}, labels=x[:, 0]), metric=squared_error(), min_gap=0.3,
        samples=800, seed=seed,
    )  # fmt: skip
    assert found.outcome == "held"
    (control,) = [one for one in found.controls if one.name == "random vectors of the same norm"]
    assert (control.note or "").startswith("0 of 19 do, or may do, as well")
    assert control.gap == pytest.approx(0, abs=1e-9)


def test_an_edit_by_which_one_of_several_directions_hurts_is_weak() -> None:
    """Where half of all other directions do as well, one that is drawn may not."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    model = FunctionGraph(hidden=lambda x: 1 * x, output=lambda hidden: hidden.clamp(min=0).sum(1))
    data = Dataset({"x": x}, labels=x.clamp(min=0).sum(1))
    root = output(edit(module("hidden"), add=3 * np.eye(3)[0]), rest=EXACT)
    for seed in range(10):
        found = check(
            root, model, data, metric=squared_error(), min_gap=3.0, samples=2000, seed=seed,
            budget=1,
        )  # fmt: skip
        assert (found.average, found.outcome) == ("held", "weak")
        (control,) = [one for one in found.controls if one.name.startswith("random vectors")]
        assert not control.passed
        assert control.note is None or control.note.startswith("1 of ")


def test_of_one_number_there_is_no_other_direction() -> None:
    x = torch.randn(400, 1, generator=torch.Generator().manual_seed(0))
    model = FunctionGraph(hidden=lambda x: 1 * x, output=lambda hidden: hidden[:, 0])
    root = output(edit(module("hidden"), add=np.ones(1)), rest=EXACT)
    found = check(
        root, model, Dataset({"x": x}, labels=x[:, 0]), metric=squared_error(), min_gap=0.3,
        samples=800,
    )  # fmt: skip
    assert found.outcome == "held"
    assert "one number has no other direction" in str(found)


def test_beside_an_edit_of_one_number_others_have_their_control() -> None:
    x = torch.randn(400, 9, generator=torch.Generator().manual_seed(0))
    model = FunctionGraph(
        one=lambda x: 1 * x[:, :1], wide=lambda x: 1 * x[:, 1:],
        output=lambda one, wide: one[:, 0] + wide[:, 0],
    )  # fmt: skip
    added = np.zeros(8)
    added[0] = 1
    root = output(edit(module("one"), add=np.ones(1)), edit(module("wide"), add=added), rest=EXACT)
    found = check(
        root, model, Dataset({"x": x}, labels=x[:, 0] + x[:, 1]), metric=squared_error(),
        min_gap=2.0, samples=800,
    )  # fmt: skip
    (control,) = [one for one in found.controls if one.name == "random vectors of the same norm"]
    # with the two together the sum is off by two, with the number alone by one
    assert (found.outcome, control.passed) == ("held", True)
    assert control.gap == pytest.approx(1.0)


def test_an_edit_that_changes_nothing_is_untested() -> None:
    model, data = detector()
    (x,) = data.inputs.values()
    data = Dataset(x * torch.tensor([1.0, 0, 1, 1, 1, 1]), labels=data.labels)
    root = output(edit(module("hidden"), project_out=np.eye(6)[1]), rest=EXACT)
    found = check(root, model, data, metric=squared_error(), tolerance=0.1, samples=600)
    assert found.outcome == "untested"
