"""What a verdict comes to in three lines."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_scrub.reports.short import in_short
from pytest_scrub.verdict import Circuit, Counterexample, Estimate, Swap, Verdict
from tests.example_verdicts import attempt, node, search, verdict

OUTPUT = node("output", 1, agrees_on=None, rest="ANYTHING")


def rows(one: Verdict) -> dict[str, str]:
    return dict(in_short(one))


def claiming(*nodes: object, **facts: object) -> Verdict:
    return verdict(circuit=Circuit(("A", "output"), nodes), tolerance=0.5, **facts)


def test_what_comes_from_where() -> None:
    one = claiming(
        OUTPUT, node("output/A", 0), node("output/B", 0, into="k"),
        node("output/C", 0, agrees_on="EXACT"), node("output/D", 0, agrees_on="ANYTHING"),
        node("output/E", 0, is_computed=True, agrees_on="e"),
        node("output/F", 0, agrees_on=None, edited="project out"),
    )  # fmt: skip
    assert rows(one)["claimed"] == (
        "mean cross-entropy changes by 0.5 at most, with A and B (into k) taken from any input "
        "with the same a; C taken from the input itself; D and everything else taken from any "
        "input; E computed from any input with the same e; F changed: project out"
    )
    nested = claiming(OUTPUT, node("output/A", 0, rest="EXACT"), node("output/A/B", 0))
    assert rows(nested)["claimed"].endswith(
        "with B taken from any input with the same a; everything else taken from any input; "
        "everything else that A reads taken from the input itself"
    )


def test_which_way_and_what_label() -> None:
    said = "with everything else taken from any input"
    assert rows(claiming(OUTPUT))["claimed"] == f"mean cross-entropy changes by 0.5 at most, {said}"
    worse = claiming(OUTPUT, direction="worse")
    assert rows(worse)["claimed"] == f"mean cross-entropy gets worse by 0.5 at most, {said}"
    hurt = claiming(OUTPUT, min_gap=0.4)
    assert rows(hurt)["claimed"] == f"mean cross-entropy gets worse by 0.4 or more, {said}"
    predicting = claiming(replace(OUTPUT, predicts="predicts f"))
    assert rows(predicting)["claimed"] == (
        f"predicts f: mean cross-entropy against that label changes by 0.5 at most, {said}"
    )


def test_more_than_can_be_read_is_counted() -> None:
    many = [node(f"output/A{nth}", 0, agrees_on=f"a{nth}") for nth in range(20)]
    said = rows(claiming(OUTPUT, *many))["claimed"]
    assert said.count("; ") == 7
    assert said.endswith("; 14 more swaps are made")


@pytest.mark.parametrize(
    ("gap", "facts", "said"),
    [
        (0.25, {}, "gap 0.25, 50.0% of what is accepted"),
        (-0.25, {}, "gap -0.25, 50.0% of what is accepted"),
        (1.0, {"outcome": "refuted", "average": "refuted"}, "gap 1, 2 times what is accepted"),
        (1.0, {"min_gap": 0.5}, "gap 1, 2 times what is claimed"),
        (1.0, {"outcome": "refuted", "average": "refuted", "tolerance": 0.0}, "gap 1"),
    ],
)
def test_by_how_much(gap: float, facts: dict[str, object], said: str) -> None:
    found = verdict(**{"gap": Estimate(gap, gap - 0.1, gap + 0.1), "tolerance": 0.5, **facts})
    assert rows(found)["found"] == said


def test_what_breaks_it() -> None:
    assert "what breaks it" not in rows(verdict())  # nothing was searched
    tried = verdict(search=search(attempts=(attempt(gap=0.1),), counterexample=None))
    assert rows(tried)["worst that was found"] == "gap 0.1, by which donors"
    swap = Swap("output/A", "a", "1 2", "1 3", (), "tokens at 1")
    found = Counterexample("which donors", "1 2", (swap,), 0.125, 2.5, 2.375, "", "")
    broken = verdict(outcome="refuted", search=search(attempts=(attempt(),), counterexample=found))
    assert rows(broken)["what breaks it"] == (
        "1 3 in place of 1 2 at output/A takes cross-entropy from 0.125 to 2.5"
    )
    long = replace(found, swaps=(replace(swap, own="x" * 99), replace(swap, slot="output/B")))
    assert rows(replace(broken, search=replace(broken.search, counterexample=long)))[
        "what breaks it"
    ].startswith("another input at output/A and output/B takes")


def test_nothing_was_found_of_what_was_not_tested() -> None:
    assert list(rows(verdict(outcome="untested", average="untested"))) == ["claimed"]
