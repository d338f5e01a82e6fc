"""Plots: of any scale, of intervals without ends, and words where there is nothing to show."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

from pytest_scrub.data.pictures import opaque_where
from pytest_scrub.extras.html.page import fragment, page
from pytest_scrub.extras.html.plots import Plot, attention_axes, overview
from pytest_scrub.verdict import Estimate, Look, Null
from tests.example_verdicts import (
    attempt,
    claimed,
    refuted,
    run,
    search,
    verdict,
    whole,
)
from tests.extras.html.test_page import Parsed


def test_a_plot_without_anything_to_show_is_said_in_words() -> None:
    still = verdict(changes=(0.0,) * 101)
    text = Parsed(fragment(still)).text
    assert "No plot of changes: no sample changed the metric." in text
    assert "it was looked at once, after 400 samples." in text
    assert "No plot of the search: no adversary searched." in text
    assert "<figure" not in fragment(still)
    unsearched = search(
        attempts=(attempt(searched=False, changes=(), curve=()),), counterexample=None, mends=()
    )
    assert "no adversary left a curve" in Parsed(fragment(verdict(search=unsearched))).text
    text = Parsed(fragment(whole())).text
    assert "No plot" not in text
    assert fragment(whole()).count("<figure") == 3


def test_an_adversary_that_did_not_search_has_no_curve() -> None:
    idle = attempt("idle", searched=False, changes=(), curve=(), unscrubbed=None, scrubbed=None)
    found = search(attempts=(attempt(), replace(idle, gap=None)))
    text = fragment(refuted(search=found))
    assert text.count('class="curve worst"') == 2  # that of the other, and of its changes
    assert "</svg>idle" not in text


@pytest.mark.parametrize("tolerance", [0.0, 1e-9, 1e9])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_plots_of_any_scale(tolerance: float, scale: float) -> None:
    def scaled(estimate: Estimate) -> Estimate:
        return Estimate(estimate.mean * scale, estimate.low * scale, estimate.high * scale)

    found = whole(
        tolerance=tolerance,
        changes=tuple((i - 50) ** 3 * scale for i in range(101)),
        gap=scaled(Estimate(-1.0, -2.0, 0.5)),
        looks=tuple(Look(10**i, scaled(Estimate(-1.0, -2.0, 0.5))) for i in range(1, 6)),
        search=search(
            tolerance=tolerance,
            attempts=(attempt(gap=-scale, curve=((0, -scale), (10**6, -scale))),),
        ),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = page(run(claimed(found), claimed(found)))
    assert text.count("<figure") == (7 if tolerance else 6)
    assert not re.search(r"\b(nan|inf)\b", " ".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL)))


def test_large_counts_can_be_read() -> None:
    looks = tuple(Look(10**i, Estimate(0.1, 0.0, 0.2)) for i in range(1, 6))
    axis = re.findall(r"<text[^>]*>([^<]*)</text>", fragment(verdict(looks=looks)))
    assert {"10", "1,000", "100,000"} <= set(axis)


def test_an_interval_without_ends_is_drawn_across() -> None:
    wide = Estimate(0.01, -math.inf, math.inf)
    found = verdict(
        gap=wide, outcome="undecided", average="undecided", looks=(Look(2, wide), Look(400, wide))
    )
    text = page(run(claimed(found), claimed(found)))
    assert "0.01 [?, ?]" in text
    assert "it was not known before the last of 400 samples" in text
    plot = re.findall(r'<figure class="wide">.*?</figure>', text, re.DOTALL)[0]
    bar = re.search(r'class="bar undecided" d="M([-\d.]+) [\d.]+L([-\d.]+) ', plot).groups()
    band = re.search(r'class="band" d="M([-\d.]+) [-\d.]+L([-\d.]+) ', plot).groups()
    assert float(bar[0]) < float(band[0]) < float(band[1]) < float(bar[1])


def test_the_limit_of_a_search_that_looks_one_way_is_one_line() -> None:
    both, one = (fragment(refuted(search=search(worse=worse))) for worse in ("either", "higher"))
    assert both.count('class="limit"') == 2 * one.count('class="limit"') > 0


def marks(plot: Plot) -> dict[str, float]:
    """Marker to where it stands, of a plot of one claim."""
    return {one.marker: one.points[0][0] for one in plot.series if one.marker is not None}


def test_the_figure_that_decided_is_what_is_marked() -> None:
    found = attempt(interval=Estimate(0.9, 0.8, 1.0), bound=0.3)
    fell = overview({"#a": refuted(search=search(attempts=(found,)))})
    assert fell is not None
    assert marks(fell) == pytest.approx({"fell": 3.0, "dot": 0.02})
    bar = next(one.points for one in fell.series if one.style == "bar fell")
    assert [at for at, _ in bar] == pytest.approx([0.8 / 0.3, 1.0 / 0.3])

    straddling = replace(found, refutes=False, outcome="undecided")
    undecided = overview({
        "#a": verdict(outcome="undecided", search=search(attempts=(straddling,)))
    })  # fmt: skip
    assert undecided is not None
    assert marks(undecided) == pytest.approx({"undecided": 3.0, "dot": 0.02})

    shown = overview({"#a": verdict(search=search(attempts=(found,), gates=False))})
    assert shown is not None
    assert marks(shown) == pytest.approx({"held": 0.02, "stroke": 1.8})


@pytest.mark.parametrize("metric_worse", ["higher", "lower"])
def test_a_claim_that_swaps_hurt_is_accepted_from_its_least_gap_on(metric_worse: str) -> None:
    sign = 1 if metric_worse == "higher" else -1
    hurts = verdict(
        min_gap=0.5, tolerance=0.5, metric_worse=metric_worse,
        gap=Estimate(sign * 1.0, sign * 1.0 - 0.25, sign * 1.0 + 0.25),
    )  # fmt: skip
    plot = overview({"#a": verdict(), "#b": hurts, "#c": hurts, "#d": verdict()})
    assert plot is not None
    # a share of what is claimed, whichever way the metric gets worse
    assert [one.points[0][0] for one in plot.series if one.marker] == pytest.approx(
        [0.02, 2.0, 2.0, 0.02]
    )
    assert [[one.points[0], one.points[2]] for one in plot.bands] == [
        [(-1.0, 0.5), (1.0, -0.5)], [(1.0, -0.5), (math.inf, -2.5)], [(-1.0, -2.5), (1.0, -3.5)],
    ]  # fmt: skip
    assert plot.x_of(math.inf) == plot.left + plot.width
    text = page(run(claimed(verdict(), "a.py::a"), claimed(hurts, "a.py::b")))
    in_both_charts = 4
    assert text.count('class="band"') == in_both_charts + fragment(verdict()).count('class="band"')
    assert "of a claim that swaps hurt, all from 1 on" in text


@pytest.mark.parametrize(
    ("count", "words", "named"),
    [
        (3, ("a", "bb", "c" * 12), [(0, "a"), (1, "bb"), (2, "ccccccccc…")]),
        (12, (), [(0, "0"), (5, "5"), (10, "10")]),
        (3, ("a", "b"), [(0, "0")]),  # words of other positions
        (100, ("w",) * 100, [(nth, "w") for nth in range(0, 100, 4)]),  # as many as have room
    ],
)
def test_positions_are_named_where_there_is_room(
    count: int, words: tuple[str, ...], named: list[tuple[int, str]]
) -> None:
    found, cell, left, shown = attention_axes(opaque_where(np.eye(count)), words)
    assert (found, shown) == (count, named)
    assert count * cell <= 300
    assert left > 6 * max(len(word) for _, word in named)


def test_the_null_is_drawn_beside_the_claim() -> None:
    null = Null("a permuted", Estimate(1.0, 0.9, 1.1), 1.0, 400, "refuted")
    without = fragment(verdict(null=null))
    assert "if its features knew nothing</li>" not in without
    text = fragment(verdict(null=replace(null, changes=tuple(i / 50 for i in range(101)))))
    assert text.count('class="curve null"') == without.count('class="curve null"') + 1 == 1
    assert "if its features knew nothing</li>" in text


def test_what_is_found_where_nothing_is_accepted_stands_at_the_end() -> None:
    found = attempt(interval=Estimate(0.9, 0.8, 1.0), bound=0.0)
    plot = overview({"#a": refuted(search=search(attempts=(found,)))})
    assert plot is not None
    assert plot.x_of(marks(plot)["fell"]) == plot.left + plot.width


def test_names_in_the_plot_of_all_lead_to_their_claims_and_are_cut() -> None:
    long = "test_" + "x" * 200
    text = page(
        run(claimed(verdict(claim=f"a.py::{long}")), claimed(verdict(claim="a.py::$x$"), "a.py::y"))
    )
    plot = re.findall(r'<figure class="wide">.*?</figure>', text, re.DOTALL)[0]
    assert re.findall(r'<a [^>]*href="(#claim-\d)"', plot) == ["#claim-1", "#claim-2"] * 2
    assert long not in plot
    assert "…xxx" in plot
    assert ">$x$<" in plot
