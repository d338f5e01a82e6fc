"""A verdict is a record of plain values, which travels as JSON and comes back the same."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from pytest_scrub.errors import ScrubError
from pytest_scrub.extras.html.page import page
from pytest_scrub.reports.terminal import headline, remedy, story
from pytest_scrub.statistics.acceptance import (
    NO_NODE,
)
from pytest_scrub.tree.nodes import module, output
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    Deciding,
    Estimate,
    Slice,
    Slices,
    Verdict,
)
from tests.example_verdicts import attempt, claimed, refuted, run, search, verdict, whole
from tests.statistics.test_acceptance import TESTED, verdict_on

VERDICT = verdict_on(
    output(module("A", agrees_on="b"), module("b", agrees_on="b")), tolerance=0.1, samples=100
)


def test_a_verdict_travels_as_json() -> None:
    assert VERDICT.outcome == REFUTED  # so that the gaps of single nodes travel too
    assert VERDICT.nodes[0].alone is not None
    text = VERDICT.to_json()
    assert "\n" not in text
    assert Verdict.from_json(text) == VERDICT
    without = replace(VERDICT, recovered=None, recovered_reason="why", nodes=(TESTED, NO_NODE))
    assert Verdict.from_json(without.to_json()) == without


def test_a_verdict_is_made_of_plain_values() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(part) for key, part in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or type(value) in (bool, int, float, str)

    parts = ("gap", "nodes", "share", "circuit", "looks", "null", "bounds", "functions")
    fields = {name: value for name, value in vars(VERDICT).items() if name not in parts}
    assert plain(fields), {name: type(value) for name, value in fields.items()}
    assert plain(vars(VERDICT.gap))
    for node in VERDICT.nodes:
        gaps = ("alone", "unknowing")
        assert plain({name: value for name, value in vars(node).items() if name not in gaps}), node
        assert all(plain(vars(gap)) for name in gaps if (gap := getattr(node, name)) is not None)
    assert VERDICT.null is not None
    assert plain({name: value for name, value in vars(VERDICT.null).items() if name != "gap"})
    assert plain(vars(VERDICT.null.gap))
    assert plain(VERDICT.circuit.levels)
    assert all(plain(vars(node)) for node in VERDICT.circuit.nodes)
    assert all(plain(vars(one)) for one in (*VERDICT.bounds, *VERDICT.functions))
    assert all(plain(look.samples) and plain(vars(look.gap)) for look in VERDICT.looks)


def test_another_schema_is_refused() -> None:
    fields = json.loads(VERDICT.to_json())
    assert fields["schema_version"] == 1
    for version in (2, None):
        with pytest.raises(ValueError, match=f"^{re.escape(f'its schema is {version}, not 1')}$"):
            Verdict.from_json(json.dumps({**fields, "schema_version": version}))


def test_nan_never_travels() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(VERDICT, gap=Estimate(math.nan, 0, 0)).to_json()


def test_a_verdict_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        VERDICT.outcome = HELD  # type: ignore[misc]


# Two results --------------------------------------------------------------------------------------


def test_to_fall_to_a_search_is_another_result_than_to_be_refuted() -> None:
    assert (refuted().word, refuted().result) == ("fell", "held on average, fell to the search")
    assert refuted(average="undecided").result == "undecided on average, fell to the search"
    both = refuted(average="refuted")
    assert (both.word, both.result) == ("refuted", "refuted")
    assert (verdict().word, verdict().result) == ("held", "held")


def test_the_figure_that_decided() -> None:
    interval = Estimate(0.9, 0.8, 1.0)
    found = attempt(interval=interval, bound=0.3)
    fell = refuted(search=search(attempts=(found,)))
    assert fell.deciding == Deciding(interval, 0.3, "found by which donors")
    # of a file from before there were intervals of searches
    old = refuted().deciding
    assert (old.gap.is_known, old.of, old.what) == (False, 0.5, "found by which donors")
    shown = verdict(search=search(attempts=(found,), gates=False))
    assert shown.deciding == Deciding(shown.gap, 0.5)
    on_average = refuted(average="refuted")
    assert on_average.deciding == Deciding(on_average.gap, 0.5)

    straddling = attempt(gap=0.4, interval=interval, bound=0.3, outcome="undecided", refutes=False)
    open_search = search(attempts=(straddling,))
    assert verdict(outcome="undecided", search=open_search).deciding.what == "found by which donors"
    both = verdict(outcome="undecided", average="undecided", search=open_search)
    assert both.deciding.what == ""

    slices = Slices(
        "last", 0.2, (Slice("x", 3, 9, interval, "refuted"), Slice("y", 1, 0, None, None))
    )
    sliced = verdict(outcome="refuted", average="refuted", slices=slices)
    assert sliced.deciding == Deciding(interval, 0.2, "where last = x")
    assert verdict(slices=slices).deciding.what == ""

    within = verdict(
        outcome="refuted", average="refuted", min_within=0.95, changes=(0.0,) * 80 + (2.0,) * 21
    )
    assert within.deciding == Deciding(Estimate(2, 2, 2), 0.5, "for 0.95 of the swaps")


def test_an_undecided_search_shows_the_interval_that_has_to_decide() -> None:
    """With its long tail it is longer, and straddles what the shown one does not."""
    shown, longer = Estimate(0.4, 0.35, 0.45), Estimate(0.4, 0.35, 0.62)
    open_ = attempt(gap=0.4, interval=shown, longer=longer, bound=0.5, outcome="undecided",
                    refutes=False)  # fmt: skip
    found = verdict(outcome="undecided", search=search(attempts=(open_,)))
    assert found.deciding.gap == longer
    assert f"but {longer} of 0.5 for the worst swaps found" in headline(found)
    assert "a budget= of about" in "".join(remedy(found))
    (line,) = (one for one in story(found).splitlines() if f"worst gap {shown}" in one)
    assert f"; {longer} has to lie on one side, as few references show little of" in line
    assert (
        "with a long tail, of which few references show little, 0.4 [0.35, 0.62] decides"
        in page(run(claimed(found)))
    )

    held = attempt(gap=0.4, interval=shown, longer=longer, bound=0.7, outcome="held", refutes=False)
    found = verdict(search=search(attempts=(held,)))
    assert "one side" not in story(found)


def test_the_worst_is_that_of_the_search() -> None:
    found = refuted()
    assert found.search is not None
    assert found.worst is found.search.worst is not None
    assert verdict().worst is None


def test_figures_as_a_row_of_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed: no tables")
    rows = pandas.concat([verdict().to_dataframe(), replace(whole(), claim="b").to_dataframe()])
    assert list(rows["claim"]) == ["test_it.py::test_it", "b"]
    assert list(rows["gap"]) == [verdict().gap.mean, whole().gap.mean]
    assert rows["gap_low"].iloc[0] == verdict().gap.low
    assert rows["worst"].isna().tolist() == [True, False]


def test_what_a_verdict_lists_as_tables_of_pandas() -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: no tables")
    found = whole()
    nodes = found.to_dataframe("nodes")
    assert list(nodes["slot"]) == [one.slot for one in found.nodes]
    assert list(nodes["alone"]) == [one.alone.mean for one in found.nodes if one.alone]
    assert list(nodes["alone_low"]) == [one.alone.low for one in found.nodes if one.alone]
    assert found.search is not None
    attempts = found.to_dataframe("attempts")
    assert list(attempts["adversary"]) == [one.adversary for one in found.search.attempts]
    assert "curve" not in attempts
    for of in ("looks", "slices", "mutants", "controls"):
        assert len(found.to_dataframe(of)) > 0
        assert len(verdict().to_dataframe(of)) == (of == "looks")
    assert not len(verdict().to_dataframe("answers")) + len(verdict().to_dataframe("rivals"))


def test_a_table_that_is_none_is_named() -> None:
    with pytest.raises(ScrubError, match="no table 'node'; did you mean 'nodes'"):
        verdict().to_dataframe("node")


def test_tables_say_that_they_need_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs pandas, .*: pip install pandas$"):
        verdict().to_dataframe()
