"""Claims over checkpoints on the page: curves of whatever there is, in the order of the
training."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pytest_scrub.extras.html.over import over
from pytest_scrub.extras.html.page import page
from pytest_scrub.extras.html.plots import Plot
from pytest_scrub.reports.run import Measured, Run
from pytest_scrub.verdict import Estimate, Verdict
from tests.example_verdicts import claimed, run, verdict

TEST = "test_it.py::test_it"


def training(*verdicts: Verdict | None) -> Run:
    """One claim at a checkpoint for each verdict, in the order in which ids are sorted: not that of
    the training."""
    claims = [
        claimed(one, f"{TEST}[step{nth}]", over=Measured(TEST, nth, f"step{nth}"))
        for nth, one in enumerate(verdicts, 1)
    ]
    return run(*sorted(claims, key=lambda one: one.test))


def curve(plot: Plot) -> list[tuple[float, float]]:
    (points,) = [list(one.points) for one in plot.series if one.style == "curve plain"]
    return points


def at(mean: float, explained: float | None, digest: str) -> Verdict:
    gap = Estimate(mean, mean - 0.1, mean + 0.1)
    return replace(verdict(), gap=gap, explained=explained, model_digest=digest)


def test_curves_follow_the_training() -> None:
    of_training = training(*(at(0.1 * nth, nth / 20, str(nth)) for nth in range(1, 13)))
    assert of_training.claims[0].test.endswith("step10]")
    ((claim, claims, plots),) = over(of_training)
    assert claim == TEST
    assert [one.over.place for _, one in claims if one.over] == list(range(1, 13))
    assert [of_training.claims[number - 1] for number, _ in claims] == [one for _, one in claims]
    assert [title for title, _ in plots] == ["Gap", "Explained"]
    gap, explained = (curve(plot) for _, plot in plots)
    assert gap == [(nth, pytest.approx(0.1 * nth)) for nth in range(1, 13)]
    assert explained == [(nth, nth / 20) for nth in range(1, 13)]
    assert "are identical" not in page(of_training)


def test_a_checkpoint_without_a_verdict_or_a_figure_is_left_out() -> None:
    unknown = replace(at(0.3, None, "c"), gap=Estimate(0.3, -math.inf, math.inf))
    ((_, claims, plots),) = over(training(at(0.1, -40.0, "a"), None, unknown, at(0.2, 0.5, "b")))
    assert len(claims) == 4
    gap, explained = (plot for _, plot in plots)
    assert curve(gap) == [(1, 0.1), (3, 0.3), (4, 0.2)]
    (area,) = [list(one.points) for one in gap.series if one.style == "area plain"]
    assert {x for x, _ in area} == {1, 4}
    assert curve(explained) == [(1, -40.0), (4, 0.5)]
    for plot in (gap, explained):
        heights = [plot.y_of(y) for one in plot.series for _, y in one.points]
        assert all(0 <= height <= plot.height for height in heights)


@pytest.mark.parametrize("found", [(), (None,), (None, None)])
def test_what_has_no_curve_has_its_table(found: tuple[Verdict | None, ...]) -> None:
    of_training = training(at(0.1, 0.5, "a"), *found)
    ((_, claims, plots),) = over(of_training)
    assert not plots
    assert len(claims) == len(found) + 1
    if found:
        assert "1: step1" in page(of_training)


def test_nothing_is_accepted_and_nothing_changed() -> None:
    still = replace(at(0, None, "a"), gap=Estimate(0.0, 0.0, 0.0), tolerance=0.0)
    assert "over checkpoints" in page(training(still, still))


def test_one_network_for_two_checkpoints_is_said() -> None:
    said = "step1 and step3 are identical: no weight of the network differs between them"
    assert said in page(training(at(0.1, 0.5, "a"), at(0.1, 0.5, "b"), at(0.1, 0.5, "a")))
