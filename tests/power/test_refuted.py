"""How much a claim says: which of the false claims made from it are refuted, and where else it
holds."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FunctionGraph,
    HypothesisError,
    ModuleGraph,
    Verdict,
    check,
    module,
    output,
)
from pytest_scrub.network import as_graph
from pytest_scrub.network.shuffling import shuffled
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import Power
from tests.bounded import capped_error

ROWS = 600
RANDOM = torch.randint(0, 4, (ROWS, 2), generator=torch.Generator().manual_seed(0)).double()
IDLE = torch.randint(0, 4, (ROWS,), generator=torch.Generator().manual_seed(1)).double()
# The output needs A and B; C is read and does nothing.
GRAPH = FunctionGraph(
    A=lambda a: a, B=lambda b: b, C=lambda c: c, output=lambda A, B, C: A + 3 * B + 0 * C
)
DATA = Dataset(
    {"a": RANDOM[:, 0], "b": RANDOM[:, 1], "c": IDLE},
    labels=RANDOM[:, 0] + 3 * RANDOM[:, 1],
    features={"a": RANDOM[:, 0], "b": RANDOM[:, 1], "c": IDLE, "row": range(ROWS)},
)
A, B, C = (module(name.upper(), agrees_on=name) for name in "abc")


def judged(root: Node, **options: Any) -> Verdict:
    settings = {
        "metric": capped_error(),
        "tolerance": 0.2,
        "samples": 600,
        "adversaries": (),
        "mutate": True,
    }
    return check(root, GRAPH, DATA, **{**settings, **options})


def power(root: Node, **options: Any) -> Power:
    found = judged(root, **options).power
    assert found is not None
    return found


def test_a_claim_that_says_it_all_has_full_power() -> None:
    found = power(output(A, B))
    assert found.refuted == len(found.mutants) > 6
    assert (found.power, found.survivors, found.left_out) == (1.0, (), 0)
    assert {mutant.kind for mutant in found.mutants} >= {
        "dropped",
        "coarsened",
        "permuted",
        "component",
        "exchanged",
    }
    assert {mutant.outcome for mutant in found.mutants} == {"refuted"}
    assert min(mutant.gap for mutant in found.mutants) > 0.2


def test_what_does_not_matter_survives_and_is_named() -> None:
    found = power(output(A, B, C))
    assert found.power is not None
    assert 0 < found.power < 1
    assert {mutant.node for mutant in found.survivors} == {"output/C"}
    assert {"dropped", "permuted"} <= {mutant.kind for mutant in found.survivors}
    dropped = next(mutant for mutant in found.survivors if mutant.kind == "dropped")
    assert dropped.means == "the claim does not depend on C: it would hold without it"
    assert (dropped.outcome, dropped.gap) == ("held", 0)


def test_adversaries_search_the_mutants_that_hold_on_average() -> None:
    """Merged in pairs, `c` is free in half of its values; that costs something only on a handful of
    rows."""
    graph = FunctionGraph(C=lambda c, a: c + 0 * a, output=lambda C: C)
    rare = torch.zeros(ROWS, dtype=torch.float64)
    rare[:4] = 3.0
    data = Dataset({"c": rare, "a": RANDOM[:, 0]}, labels=rare, features={"c": rare})
    settings = {
        "metric": capped_error(3.0),
        "tolerance": 0.3,
        "samples": 600,
        "mutate": True,
        "min_moved": 0.0,
    }
    root = output(module("C", agrees_on="c"), rest=EXACT)
    on_average, searched = (
        check(root, graph, data, adversaries=a, **settings).power for a in ((), None)
    )
    assert on_average is not None
    assert searched is not None
    assert on_average.refuted == 0 < len(on_average.mutants)
    assert searched.refuted == len(searched.mutants)


def test_mutants_that_say_nothing_else_are_not_counted() -> None:
    twins = DATA.with_features({"twin": RANDOM[:, 0]})
    settings = {
        "metric": capped_error(),
        "tolerance": 0.2,
        "samples": 600,
        "adversaries": (),
        "mutate": True,
    }
    root = output(module("A", agrees_on=["a", "twin"]), B)
    found = check(root, GRAPH, twins, **settings).power
    assert found is not None
    assert found.equivalent >= 2  # either of them can be left out
    assert not any(
        "without a" in mutant.what or "without twin" in mutant.what for mutant in found.mutants
    )


def test_only_claims_that_hold_have_power() -> None:
    assert judged(output(A)).power is None
    assert judged(output(module("A", agrees_on="row"), B)).power is None
    assert judged(output(A, B), mutate=False).power is None


@pytest.mark.parametrize(
    ("root", "required", "outcome"),
    [(output(A, B), 1.0, "held"), (output(A, B, C), 0.9, "weak"), (output(A, B, C), 0.3, "held")],
)
def test_a_claim_may_ask_for_power(root: Node, required: float, outcome: str) -> None:
    found = judged(root, mutate=False, min_power=required)  # asking for it is enough
    assert found.outcome == outcome
    assert found.average == "held"
    assert found.power is not None
    assert found.power.required == required
    assert Verdict.from_json(found.to_json()) == found


@pytest.mark.parametrize("share", [2, -0.1, "high", True])
def test_a_power_that_is_none(share: Any) -> None:
    with pytest.raises(
        HypothesisError, match=r"^min_power= is a share from 0 to 1, such as 0.8, not "
    ):
        judged(output(A, B), min_power=share)


def test_mutants_take_their_activations_from_the_claims_cache() -> None:
    seen: list[int] = []
    graph = as_graph(FunctionGraph(**{**GRAPH.nodes, "A": lambda a: seen.append(len(a)) or a}))
    settings: Any = {"metric": capped_error(), "tolerance": 0.2, "samples": 600, "adversaries": ()}
    check(output(A, B), graph, DATA, **settings)
    alone, mutants = sum(seen), power(output(A, B), **settings)
    assert len(mutants.mutants) > 6
    seen.clear()
    check(output(A, B), graph, DATA, mutate=True, **settings)
    assert sum(seen) < 2 * alone  # and not seven times


# --- controls -------------------------------------------------------------------------------------


class Network(nn.Module):
    """Two hidden layers that were not trained, and labels that are what it says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 3)
        self.register_buffer("scale", torch.tensor([3.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.a(x[:, :4]).tanh(), self.b(x[:, 4:]).tanh()], -1)
        return 20 * self.out(both * self.scale.repeat_interleave(8))


def network() -> tuple[Network, Dataset]:
    model = Network().eval()
    kinds = torch.eye(4)[
        torch.randint(0, 4, (ROWS, 2), generator=torch.Generator().manual_seed(2))
    ].flatten(1)
    kinds = kinds + 0.01 * torch.randn(kinds.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = model(kinds).argmax(-1)
    features = {"left": kinds[:, :4].argmax(-1), "right": kinds[:, 4:].argmax(-1)}
    return model, Dataset(kinds, labels=labels, features=features)


def test_controls_show_that_a_claim_says_something() -> None:
    model, data = network()
    root = output(module("a", agrees_on="left"), module("b", agrees_on="right"), rest=EXACT)
    found = check(
        root, ModuleGraph(model), data, tolerance=0.1, samples=600, adversaries=(), controls=True
    )
    assert found.outcome == "held"
    weights, features = found.controls
    assert (weights.name, features.name) == ("weights shuffled", "features permuted among rows")
    assert (features.outcome, features.passed, features.note) == ("refuted", True, None)
    assert features.gap is not None
    assert features.gap > 0.2
    assert weights.passed  # nothing is known there that could be lost, or the claim fails
    assert weights.outcome != "held" or "nothing can be lost there" in str(weights.note)


def test_a_claim_that_holds_on_permuted_features_is_weak() -> None:
    model, data = network()
    root = output(module("a", agrees_on="left"), rest=EXACT)
    found = check(
        root, ModuleGraph(model), data, tolerance=50.0, samples=600, adversaries=(), controls=True
    )
    assert found.outcome == "weak"
    assert [control.passed for control in found.controls][1] is False
    assert Verdict.from_json(found.to_json()) == found


def test_a_claim_that_may_hold_on_permuted_features_is_weak() -> None:
    model, data = network()
    root = output(module("a", agrees_on="left"), module("b", agrees_on="right"), rest=EXACT)
    settings: Any = {"samples": 600, "adversaries": (), "controls": True}
    gap = check(root, ModuleGraph(model), data, tolerance=0.1, **settings).controls[1].gap
    found = check(root, ModuleGraph(model), data, tolerance=gap, **settings)
    assert (found.average, found.outcome) == ("held", "weak")
    assert (found.controls[1].outcome, found.controls[1].passed) == ("undecided", False)
    assert "these samples do not decide whether it holds with features permuted among rows" in str(
        found
    )
    assert "it holds there too" not in str(found)


def test_where_there_is_nothing_to_change() -> None:
    found = judged(
        output(module("C", agrees_on=ANYTHING)), mutate=False, controls=True, tolerance=100.0
    )
    assert [control.outcome for control in found.controls] == [None, None]
    assert [control.note for control in found.controls] == [
        "a graph of functions has no weights",
        "the claim names no feature",
    ]
    assert found.outcome == "held"


def test_weights_are_put_back() -> None:
    model, data = network()
    graph = ModuleGraph(model)
    before, version = (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        graph.version(),
    )
    clean = graph.run(data.batch(range(5)))
    rng = np.random.default_rng(0)
    with suppress(KeyboardInterrupt), shuffled(graph, rng) as other:
        assert other is not None
        assert not torch.allclose(other.run(data.batch(range(5))), clean)
        for name, tensor in model.named_parameters():
            assert sorted(tensor.flatten().tolist()) == sorted(before[name].flatten().tolist())
        assert torch.equal(model.scale, before["scale"])  # nothing that was learned
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert graph.version() == version  # what was cached is still of this network
    assert torch.equal(graph.run(data.batch(range(5))), clean)
