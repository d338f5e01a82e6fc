"""What is believed: figures are the evaluator's, whatever an adversary or a file says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import (
    Dataset,
    FunctionGraph,
    HypothesisError,
    Metric,
    Verdict,
    WhichDonors,
    check,
    module,
    output,
)
from pytest_scrub.adversaries.in_turn import search_in_turn
from pytest_scrub.adversaries.search import Found, NotSearched, Spending
from pytest_scrub.adversaries.which_nodes import WhichNodes
from pytest_scrub.adversaries.which_refinement import WhichRefinement
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.reports.figures import figures
from pytest_scrub.reports.terminal import story
from pytest_scrub.statistics.acceptance import Acceptance
from pytest_scrub.tree.nodes import Node

ROWS = 200
SIGNS = torch.where(
    torch.rand(ROWS, generator=torch.Generator().manual_seed(0)) < 0.5, 1.0, -1.0
).double()
GRAPH = FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B: A + B)
DATA = Dataset(
    {"a": SIGNS, "b": SIGNS.flip(0)},
    features={
        "a": SIGNS,
        "b": SIGNS.flip(0),
        "half": [row % 2 for row in range(ROWS)],
        "row": range(ROWS),
    },
)
# Scrubbed, the sum is another one, and on average the same: allowed swaps that all raise it break
# the claim.
SUM = Metric("sum", lambda out, batch: out, lower=-2.0, upper=2.0)
ROOT = output(module("A", agrees_on="half"), module("B", agrees_on="half"))
# No allowed swaps change the sum, and those of features that know nothing do.
TRUE = output(module("A", agrees_on="a"), module("B", agrees_on="b"))
SQUARE = Metric(
    "square",
    lambda out, batch: (out - batch.inputs["a"] - batch.inputs["b"]) ** 2,
    lower=0.0,
    upper=16.0,
)


def judged(root: Node = ROOT, **options: Any) -> Verdict:
    return check(
        root,
        GRAPH,
        DATA,
        **{"metric": SUM, "tolerance": 0.5, "samples": 600, "budget": 1500, **options},
    )


@dataclass(frozen=True)
class Tells:
    """An adversary that finds what *which donors* does, and tells it otherwise."""

    otherwise: Callable[[Found, Any], Any]
    name: str = "teller"
    pointwise: bool = True

    def search(self, space: Any, spending: Spending, rng: np.random.Generator) -> Any:
        return self.otherwise(WhichDonors().search(space, spending, rng), space)


class Mine(WhichDonors):
    """One of the package's own adversaries under another name."""


# --- adversaries ----------------------------------------------------------------------------------


def test_changes_that_are_understated_refute_all_the_same() -> None:
    honest = judged(adversaries=[WhichDonors()])
    assert (honest.average, honest.outcome) == ("held", "refuted")
    found = judged(adversaries=[Tells(lambda found, _: replace(found, changes=0 * found.changes))])
    assert found.outcome == "refuted"
    assert found.search is not None
    assert found.search.worst is not None
    assert found.search.worst.found > 0.5
    assert found.search.worst.adversary == "teller"  # not what it calls what it found


def test_changes_that_are_overstated_refute_nothing() -> None:
    def nothing(found: Found, space: Any) -> Found:
        return replace(
            found, swap_set=space.unswapped(found.swap_set.references), changes=found.changes + 9.0
        )

    found = judged(TRUE, metric=SQUARE, adversaries=[Tells(nothing)], budget=8000)
    assert found.outcome == "held"
    assert found.search is not None
    assert [(attempt.gap, attempt.refutes) for attempt in found.search.attempts] == [(0.0, False)]


def test_an_interval_is_that_of_the_changes() -> None:
    honest = Tells(lambda found, _: found, pointwise=False)
    found = judged(adversaries=[honest], budget=8000)
    assert found.search is not None
    (attempt,) = found.search.attempts
    assert attempt.interval is not None
    assert 0.5 < attempt.interval.low < attempt.interval.high < 3
    assert found.outcome == "refuted"


@pytest.mark.parametrize(
    ("otherwise", "why"),
    [
        (
            lambda found, space: replace(
                found, swap_set=space.swap_set(np.zeros(1, int), np.ones((3, 1), int))
            ),
            "^the adversary 'teller' found swaps that the claim does not allow: .*output/A",
        ),
        (
            lambda found, _: replace(found, swap_set=found.swap_set[:0]),
            "^the adversary 'teller' found a swap set with",
        ),
        (
            lambda found, _: found.swap_set,
            r"^the adversary 'teller' has to return Found\(...\), not ",
        ),
    ],
)
def test_what_is_not_the_claims_own_is_an_error(otherwise: Any, why: str) -> None:
    with pytest.raises(HypothesisError, match=why):
        judged(adversaries=[Tells(otherwise)])


@pytest.mark.parametrize(
    ("adversaries", "why"),
    [
        (
            [WhichDonors(), WhichNodes(), WhichDonors()],
            "^two adversaries are called 'which donors'; give each a name=",
        ),
        (
            [Tells(lambda found, _: found, name="")],
            "^the adversary .* needs a name= of its own for reports, not ''$",
        ),
        (
            [Tells(lambda found, _: found, name="saved counterexample")],
            "^the adversary .* needs a name= of its own",
        ),
    ],
)
def test_adversaries_have_names_of_their_own(adversaries: Any, why: str) -> None:
    with pytest.raises(HypothesisError, match=why):
        judged(adversaries=adversaries)


def test_no_saved_find_decides_whatever_its_file_says(tmp_path: Path) -> None:
    adversary = Mine(name="mine")
    first = judged(adversaries=[adversary], folder=tmp_path)
    assert first.outcome == "refuted"
    assert first.search is not None
    assert first.search.counterexample is not None
    (file,) = tmp_path.glob("*.json")
    note = (
        f"the counterexample of an earlier run, {file.name}, still has the gap "
        f"{first.search.counterexample.gap:.4g}; it decides nothing"
    )
    record = json.loads(file.read_text())
    assert [record[part].pop("pointwise") for part in ("worst", "minimal")] == [True, True]
    record["worst"]["adversary"] = record["minimal"]["adversary"] = "which donors"
    for written in (file.read_text(), json.dumps(record)):  # and as before it was said
        file.write_text(written)
        again = judged(adversaries=[adversary], folder=tmp_path)
        assert again.search is not None
        assert again.search.notes == (note,)
        # all else is what it is without a file
        assert replace(again, search=replace(again.search, notes=())) == first
    held = judged(TRUE, metric=SQUARE, adversaries=[adversary], folder=tmp_path, budget=8000)
    assert held.outcome == "held"
    assert held.search is not None
    (note,) = held.search.notes
    assert note.startswith(
        f"{file.name} could not be tried: the claim no longer allows the saved swaps: output/A: "
    )
    assert judged(adversaries=[], folder=tmp_path).search is None


def test_no_name_decides_the_share_of_the_budget() -> None:
    evaluator = Evaluator(GRAPH, DATA, ROOT, SUM)
    spent = [
        search_in_turn(
            evaluator, [WhichNodes(), donors], 3000, Acceptance(SUM, 0.5), seed=0, name="claim"
        )
        for donors in (WhichDonors(), Mine(name="mine"))
    ]
    assert [found[0].attempt.evaluations for found in spent] == [
        spent[0][0].attempt.evaluations
    ] * 2
    assert spent[0][0].attempt.evaluations < 3000 / 4


# --- searches that did not happen -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [({"budget": 0}, "the budget is too small"), ({"budget": 1}, "the budget is too small"),
     ({"deadline": 1e-9}, "the deadline had passed")],
)  # fmt: skip
def test_nothing_searched_is_no_figure(options: Any, why: str) -> None:
    found = judged(TRUE, metric=SQUARE, **options)
    assert found.outcome == "held"
    assert found.search is not None
    assert found.search.worst is None
    assert [attempt.gap for attempt in found.search.attempts] == [None] * 5
    assert {
        json.dumps(one["gap"]) for one in json.loads(found.to_json())["search"]["attempts"]
    } == {"null"}
    assert Verdict.from_json(found.to_json()) == found
    told = story(found)
    assert (
        "held on average only: nothing was searched for worse swaps, for the reasons below" in told
    )
    assert f"\n  which swaps: not searched: {why}" in told
    # each adversary says so once, and the one without a strategy says that
    assert told.count(why) == 4
    assert "worst" not in figures(found)
    assert why in str(figures(found)["unsearched"])


def test_after_the_deadline_a_counterexample_is_shown_as_it_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spent: list[int] = []
    changes = Spending.changes
    monkeypatch.setattr(
        Spending, "changes", lambda self, swaps: spent.append(len(swaps)) or changes(self, swaps)
    )
    found = judged(
        tolerance=0.0,
        metric=Metric("far", lambda out, batch: (out - batch.inputs["a"]) ** 2),
        deadline=1e-9,
    )
    assert found.outcome == "refuted"
    assert found.search is not None
    assert found.search.counterexample is not None
    assert (found.search.mends, spent) == ((), [])


def test_mutants_share_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[float] = []
    monkeypatch.setattr(
        "pytest_scrub.power.refuted.search_in_turn",
        lambda *_, until, **__: ends.append(until) or [],
    )
    root = output(module("A", agrees_on="a"), module("B", agrees_on="a"))
    check(root, GRAPH, DATA, metric=SUM, tolerance=0.5, samples=600, mutate=True, deadline=1e-9)
    assert len(ends) > 1
    assert len(set(ends)) == 1


@pytest.mark.parametrize("late", [False, True])
def test_no_more_refinements_are_made_than_can_be_tried(
    late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs of 60 features at three places are more than five thousand."""
    parted: list[int] = []
    monkeypatch.setattr(
        "pytest_scrub.adversaries.which_refinement.how_parted",
        lambda codes: parted.append(1) or codes.tobytes(),
    )
    random = np.random.default_rng(0)
    data = DATA.with_features({f"f{i}": random.integers(0, 2, ROWS) for i in range(60)})
    evaluator = Evaluator(GRAPH, data, ROOT, SUM)
    ticks = iter(range(10**6))
    if late:
        clock = type("Clock", (), {"monotonic": staticmethod(lambda: next(ticks))})
        monkeypatch.setattr("pytest_scrub.adversaries.search.time", clock)
    spending = Spending(evaluator, 400, deadline=20 if late else None)
    rng = np.random.default_rng(0)
    if late:
        with pytest.raises(NotSearched, match=r"^not searched: the deadline"):
            WhichRefinement().search(evaluator.space, spending, rng)
    else:
        found = WhichRefinement().search(evaluator.space, spending, rng)
        # three quarters of the budget choose, with eight draws of each
        assert found.how.startswith("the first 37 refinements by 64 features")
    assert 0 < len(parted) < (30 if late else 200)
