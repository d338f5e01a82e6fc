"""How much a claim says: which of the false claims made from it are refuted, and where else it
holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pytest_scrub import (
    EXACT,
    Dataset,
    FunctionGraph,
    HypothesisError,
    Verdict,
    check,
    module,
    output,
)
from pytest_scrub.network import as_graph
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


def judged(root: Node, graph: Any = GRAPH, data: Dataset = DATA, **options: Any) -> Verdict:
    settings = {
        "metric": capped_error(),
        "tolerance": 0.2,
        "samples": 600,
        "adversaries": (),
        "mutate": True,
    }
    return check(root, graph, data, **{**settings, **options})


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
    root = output(module("C", agrees_on="c"), rest=EXACT)
    # mutants get a tenth of the budget, which is to reach a hundred references and more
    options = {"metric": capped_error(3.0), "tolerance": 0.3, "min_moved": 0.0, "budget": 60_000}
    on_average, searched = (
        power(root, graph=graph, data=data, adversaries=a, **options) for a in ((), None)
    )
    assert on_average.refuted == 0 < len(on_average.mutants)
    assert searched.refuted == len(searched.mutants)


def test_mutants_that_say_nothing_else_are_not_counted() -> None:
    twins = DATA.with_features({"twin": RANDOM[:, 0]})
    found = power(output(module("A", agrees_on=["a", "twin"]), B), data=twins)
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
    judged(output(A, B), graph, mutate=False)
    alone, mutants = sum(seen), power(output(A, B))
    assert len(mutants.mutants) > 6
    seen.clear()
    judged(output(A, B), graph)
    assert sum(seen) < 2 * alone  # and not seven times
