"""Claims that swaps hurt: which draws count, what decides, and the mildest swaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FunctionGraph,
    HypothesisError,
    Metric,
    WhichDonors,
    check,
    module,
    output,
)

ROWS = 40
A = torch.tensor(np.random.default_rng(0).integers(0, 4, ROWS), dtype=torch.float64)
B = torch.tensor(np.random.default_rng(1).integers(0, 2, ROWS), dtype=torch.float64)
GRAPH = FunctionGraph(a_=lambda a: a, b_=lambda b: b, output=lambda a_, b_: a_ + 0 * b_)
OFF = Metric("off", lambda out, batch: (out - batch.labels).abs())
RIGHT = Metric("right", lambda out, batch: -(out - batch.labels).abs(), worse="lower")


def data() -> Dataset:
    return Dataset({"a": A, "b": B}, labels=A, features={"parity": A % 2, "large": A >= 2})


def verdict(root: Any, **options: Any) -> Any:
    settings = {"metric": OFF, "samples": 2000, "budget": 2000, "min_gap": 0.5, **options}
    return check(root, GRAPH, data(), **settings)


def brute(agree: Any) -> tuple[float, float]:
    """The mean over all swaps that change a, and over references that of the mildest of them."""
    changes = (A[:, None] - A[None]).abs()
    counts = (changes > 0) & (agree[:, None] == agree[None])
    mildest = torch.where(counts, changes, torch.inf).min(1).values
    return float(changes[counts].mean()), float(mildest[mildest.isfinite()].mean())


@pytest.mark.parametrize("metric", [OFF, RIGHT])
@pytest.mark.parametrize(
    ("feature", "values"), [(ANYTHING, torch.zeros(ROWS)), ("parity", A % 2), ("large", A >= 2)]
)
def test_the_gap_is_that_of_all_swaps_in_which_the_node_moves(
    feature: Any, values: torch.Tensor, metric: Any
) -> None:
    mean, mildest = brute(values)
    found = verdict(output(module("a_", agrees_on=feature), rest=EXACT), metric=metric)
    assert found.gap.exact
    assert found.gap.mean == pytest.approx(mean if found.metric_worse == "higher" else -mean)
    assert found.metric_worse == metric.worse
    assert found.outcome == "held"
    (attempt,) = found.search.attempts
    assert abs(attempt.gap) == pytest.approx(mildest)
    assert not found.search.gates


def test_without_the_draws_that_change_nothing_it_is_no_larger() -> None:
    """Half of the donors are the same: counted, the mean would be below what is claimed."""
    root = output(module("a_", agrees_on=ANYTHING), rest=EXACT)
    changes = (A[:, None] - A[None]).abs()
    between = (float(changes.mean()) + brute(torch.zeros(ROWS))[0]) / 2
    assert verdict(root, min_gap=between).outcome == "held"


def test_what_does_not_hurt_enough_is_refuted_and_shows_a_swap() -> None:
    root = output(module("a_", agrees_on=ANYTHING), rest=EXACT)
    found = verdict(root, min_gap=2.0)
    assert (found.outcome, found.average) == ("refuted", "refuted")
    assert found.search.counterexample.gap == 1.0
    assert "swaps hurt less than it says" in str(found)
    assert "claimed to be at least 2" in str(found)


def test_the_mildest_swaps_gate_where_that_is_said() -> None:
    root = output(module("a_", agrees_on=ANYTHING), rest=EXACT)
    found = verdict(root, min_gap=1.2, min_gap_at_worst=1.2)
    assert (found.average, found.outcome) == ("held", "refuted")
    assert verdict(root, min_gap=1.2, min_gap_at_worst=0.9).outcome == "held"
    assert verdict(root, min_gap=1.2).outcome == "held"


def test_a_node_that_does_not_matter_does_not_hurt() -> None:
    found = verdict(output(module("b_", agrees_on=ANYTHING), rest=EXACT), min_gap=0.01)
    assert found.outcome == "refuted"
    both = output(module("a_", agrees_on=ANYTHING), module("b_", agrees_on=ANYTHING), rest=EXACT)
    assert verdict(both).outcome == "held"  # of both it is true, as only both together are claimed


def test_a_node_that_never_moves_is_untested() -> None:
    root = output(module("a_", agrees_on=["parity", "large"]), rest=EXACT)
    assert verdict(root).outcome == "untested"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tolerance": 0.1}, "tolerance= has no meaning beside it"),
        ({"min_explained": 0.9}, "min_explained= has no meaning"),
        ({"adversaries": [WhichDonors()]}, "adversaries= has no meaning"),
        ({"generalize": True}, "generalize= has no meaning"),
        ({"mutate": True}, "mutate= has no meaning"),
        ({"min_gap": -1.0}, "zero or more"),
        ({"min_gap": None, "tolerance": 1.0, "min_gap_at_worst": 1.0}, "needs min_gap="),
    ],
)
def test_what_speaks_of_small_gaps_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(HypothesisError, match=says):
        verdict(output(module("a_", agrees_on=ANYTHING), rest=EXACT), **options)


@pytest.mark.parametrize("rest", [ANYTHING, "parity"])
def test_a_rest_that_is_swapped_beside_the_node_is_refused(rest: Any) -> None:
    """What hurts would be the rest: b does not matter, and everything else is swapped."""
    with pytest.raises(HypothesisError, match="output/rest is swapped beside it"):
        verdict(output(module("b_", agrees_on=ANYTHING), rest=rest))


@pytest.mark.parametrize("rest", [ANYTHING, "parity"])
def test_what_stays_while_all_else_is_swapped_is_not_shown_to_be_needed(rest: Any) -> None:
    """b does not matter: all else that is swapped is what hurts."""
    with pytest.raises(HypothesisError, match=r"output/rest is swapped while it stays.*say agrees"):
        verdict(output(module("b_", agrees_on=EXACT), rest=rest))
    assert verdict(output(module("b_", agrees_on=EXACT), rest=EXACT)).outcome == "untested"


def test_no_change_can_be_predicted_beside_it() -> None:
    root = output(
        module("a_", agrees_on=ANYTHING, name="a"), rest=EXACT, predicts=lambda a: a["parity"]
    )
    with pytest.raises(HypothesisError, match="claim one of them"):
        verdict(root)
