"""What adversaries find, against everything that there is to find."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import (
    ANYTHING,
    Dataset,
    Evaluator,
    FunctionGraph,
    Metric,
    SwapSet,
    WhichDonors,
    WhichInputs,
    WhichNodes,
    WhichRefinement,
    WhichSwaps,
    check,
    module,
    output,
)
from pytest_scrub.adversaries.output_norm import form_of
from pytest_scrub.adversaries.search import NotSearched, Spending

ERROR = Metric("absolute error", lambda out, batch: (out - batch.labels).abs())
ZERO_ONE = Metric("0-1 error", lambda out, batch: (out != batch.labels).double(), lower=0, upper=1)


def stream() -> np.random.Generator:
    return np.random.default_rng(0)


def factorial(names: str, values: int = 3, **features: Any) -> dict[str, Any]:
    table = torch.tensor(list(product(range(values), repeat=len(names))), dtype=torch.float64)
    inputs = {name: table[:, i] for i, name in enumerate(names)}
    columns = {name: column.tolist() for name, column in inputs.items()}
    return {
        "inputs": inputs,
        "features": columns | {n: f(**inputs).tolist() for n, f in features.items()},
    }


def xor() -> tuple[FunctionGraph, Dataset]:
    graph = FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B: (A + B) % 2)
    data = factorial("ab", 2)
    return graph, Dataset(data["inputs"], labels=data["inputs"]["a"], features=data["features"])


def test_cancellation_is_seen_by_the_worst_swaps_and_not_by_the_average() -> None:
    graph, data = xor()
    root = output(module("A", agrees_on="a"), module("B", agrees_on=ANYTHING))
    verdict = check(root, graph, data, metric=ZERO_ONE, tolerance=0.1, samples=4000)
    assert (verdict.average, verdict.outcome) == ("held", "refuted")
    assert verdict.unscrubbed == pytest.approx(0.5, abs=0.1)
    worst = verdict.search.worst  # type: ignore[union-attr]
    assert worst is not None
    assert (worst.adversary, worst.exhaustive, worst.gap, worst.scrubbed) == (
        "which donors",
        True,
        0.5,
        1.0,
    )
    shown = verdict.search.counterexample  # type: ignore[union-attr]
    assert shown is not None
    assert [swap.slot for swap in shown.swaps] in (["output/B"], ["output/A"])
    assert (shown.gap, shown.swaps[0].also) == (1.0, ("a",))
    assert type(verdict).from_json(verdict.to_json()) == verdict


def cancelling(parts: int) -> tuple[Evaluator, list[str]]:
    """Two nodes whose swaps cancel when they share what they are: out = A - B of the same input,
    the others idle."""
    names = [f"N{i}" for i in range(parts)]
    nodes = {name: (lambda a: a) for name in names}
    source = f"lambda {', '.join(names)}: N0 - N1 + 0 * ({' + '.join(names)})"
    graph = FunctionGraph(**nodes, output=eval(source))
    values = torch.arange(40.0, dtype=torch.float64)
    metric = Metric("out", lambda out, batch: out)
    root = output(*(module(name, agrees_on=ANYTHING) for name in names))
    return Evaluator(
        graph, Dataset({"a": values}, features={"low": (values < 20).tolist()}), root, metric
    ), names


@pytest.mark.parametrize("parts", [3, 12])
def test_which_nodes_measures_what_it_chose_on_rows_it_had_not_seen(parts: int) -> None:
    evaluator, _ = cancelling(parts)
    budget = 8000
    spending = Spending(evaluator, budget)
    found = WhichNodes().search(evaluator.space, spending, stream())
    assert found.swap_set is not None
    assert spending.judged(found, pointwise=WhichNodes.pointwise).attempt.interval is not None
    assert spending.evaluations <= budget
    kept = np.flatnonzero(evaluator.space.moved(found.swap_set).any(1))
    assert evaluator.space.check(found.swap_set) == []
    used = np.unique(
        np.concatenate([found.swap_set.references, found.swap_set.donors[kept].ravel()])
    )
    assert len(used) <= 20  # one half of 40 rows, for references and donors alike
    assert any(arm.exact for arm in found.tried)


def test_an_effect_of_one_node_that_another_cancels_is_found() -> None:
    # Alone, either node adds 1; together they add nothing.
    graph = FunctionGraph(
        A=lambda a: a,
        B=lambda b: b,
        output=lambda A, B, c: (A - c).abs().clamp(max=1) - (B - c).abs().clamp(max=1),
    )
    values = torch.arange(60.0, dtype=torch.float64)
    data = Dataset({"a": values, "b": values, "c": values})
    root = output(module("A", agrees_on=ANYTHING), module("B", agrees_on=ANYTHING), rest="own")
    data = Dataset({"a": values, "b": values, "c": values}, features={"own": range(60)})
    verdict = check(
        root,
        graph,
        data,
        metric=Metric("out", lambda out, batch: out),
        tolerance=0.5,
        adversaries=[WhichNodes()],
    )
    assert (verdict.average, verdict.outcome) == ("held", "refuted")
    [attempt] = verdict.search.attempts  # type: ignore[union-attr]
    assert abs(attempt.gap) == pytest.approx(1, abs=0.1)
    assert attempt.interval is not None


def test_which_refinement_finds_the_feature_under_which_it_is_worse() -> None:
    # On average over `a` the error of B cancels; where `a` is fixed it does not.
    graph = FunctionGraph(A=lambda a: a, B=lambda a, b: b * (a - 1), output=lambda A, B: A + 3 * B)
    given = factorial("ab", 3)
    data = Dataset(given["inputs"], labels=given["inputs"]["a"], features=given["features"])
    metric = Metric("out", lambda out, batch: out - batch.labels)
    root = output(module("A", agrees_on="a"), module("B", agrees_on=ANYTHING))
    evaluator = Evaluator(graph, data, root, metric)
    spending = Spending(evaluator, 20_000)
    found = WhichRefinement().search(evaluator.space, spending, stream())
    names = {arm.name for arm in found.tried}
    assert "output/B agrees also on a" in names
    assert not any(
        name.startswith("output/A agrees also on a") and "and" not in name for name in names
    )
    assert found.swap_set is not None
    assert evaluator.space.check(found.swap_set) == []


def searched(adversary: Any, evaluator: Evaluator, spending: Spending) -> SwapSet | None:
    try:
        return adversary.search(evaluator.space, spending, stream()).swap_set
    except NotSearched:
        return None


@pytest.mark.parametrize("budget", [0, 1, 5, 8, 9, 10, 27, 100, 1000])
@pytest.mark.parametrize(
    "adversary", [WhichSwaps(), WhichNodes(), WhichRefinement(), WhichDonors()]
)
def test_a_budget_is_kept_to_the_last_evaluation(adversary: Any, budget: int) -> None:
    given = factorial("abc", 3)
    graph = FunctionGraph(A=lambda a, b: a * b, B=lambda b, c: b + c, output=lambda A, B: A - B)
    data = Dataset(
        given["inputs"], labels=torch.zeros(27, dtype=torch.float64), features=given["features"]
    )
    evaluator = Evaluator(
        graph, data, output(module("A", agrees_on="a"), module("B", agrees_on="c")), ERROR
    )
    spending = Spending(evaluator, budget)
    found = searched(adversary, evaluator, spending)
    assert spending.evaluations <= budget
    assert found is None or evaluator.space.check(found) == []
    assert searched(adversary, evaluator, Spending(evaluator, budget)) == found


def test_a_metric_that_is_worse_when_lower_and_one_without_a_gradient() -> None:
    values = torch.linspace(-1, 1, 50, dtype=torch.float64)
    graph = FunctionGraph(A=lambda a: a, output=lambda A, b: A + b / 100)
    data = Dataset({"a": values, "b": values.flip(0)}, labels=values)
    root = output(module("A", agrees_on=ANYTHING))
    lower = Metric("closeness", lambda out, batch: -(out - batch.labels).abs(), worse="lower")
    step = Metric("far", lambda out, batch: ((out - batch.labels).abs() > 1.5).double())
    for metric, sign, how in (
        (lower, -1, "to first order"),
        (step, 1, "in random order, as nothing has a gradient"),
    ):
        evaluator = Evaluator(graph, data, root, metric)
        spending = Spending(evaluator, 50 * 45)
        found = WhichDonors(references=data.reference_rows).search(
            evaluator.space, spending, stream()
        )
        assert found.changes is not None
        assert (sign * found.changes >= 0).all()
        assert sign * found.gap > (1.0 if sign < 0 else 0.4)
        assert how in found.how


def test_nothing_to_search_is_said() -> None:
    graph, data = xor()
    evaluator = Evaluator(graph, data, output(module("A", agrees_on="a")), ZERO_ONE)
    frozen = evaluator.space.keep(())
    for adversary in (WhichSwaps(), WhichNodes(), WhichRefinement(), WhichDonors(), WhichInputs()):
        with pytest.raises(NotSearched, match=r"^not searched: "):
            adversary.search(frozen, Spending(evaluator, 100), stream())


def test_the_diagnosis_names_the_missing_feature_first() -> None:
    given = factorial("abc", 4)
    graph = FunctionGraph(A=lambda a, b: 10 * a + 3 * b, output=lambda A, c: A + c)
    data = Dataset(
        {name: tensor.repeat(4) for name, tensor in given["inputs"].items()},
        labels=(10 * given["inputs"]["a"] + 3 * given["inputs"]["b"]).repeat(4),
        features={name: column * 4 for name, column in given["features"].items()},
    )
    root = output(module("A", agrees_on="a"), rest="c")
    average = check(root, graph, data, metric=ERROR, tolerance=0.5, samples=2000)
    assert average.average == "refuted"
    assert average.search is not None
    assert average.search.mends[0].what == "output/A agrees also on b"
    report = check(root, graph, data, metric=ERROR, tolerance=4.5, samples=2000)
    assert (report.average, report.outcome) == ("held", "refuted")
    assert "output/A agrees also on b" in [mend.what for mend in report.search.mends]  # type: ignore[union-attr]


@pytest.mark.parametrize("center", [True, False])
def test_the_form_of_a_norm_is_measured(center: bool) -> None:
    streams = torch.randn(30, 8, generator=torch.Generator().manual_seed(0))
    gain = torch.linspace(0.5, 2, 8)
    norm = torch.nn.LayerNorm(8) if center else torch.nn.RMSNorm(8)
    norm.weight.data.copy_(gain)
    form = form_of(norm, streams)
    assert form is not None
    assert form.center == center
    torch.testing.assert_close(form.gain, gain.double(), rtol=1e-3, atol=1e-3)
    assert form_of(torch.tanh, streams) is None
