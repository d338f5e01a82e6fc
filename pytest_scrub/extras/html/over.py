"""Claims over the checkpoints of a training, as curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from pytest_scrub import Verdict
from pytest_scrub.extras.html.plots import MOST_TICKS, Plot, Series, accepted, axis, gap_axis
from pytest_scrub.reports.over import by_claim
from pytest_scrub.reports.run import Claimed, Run

FEWEST = 2  # points of a curve


class Over(NamedTuple):
    """One claim.

    - `claims`: it at each checkpoint, by its number on the page.
    - `plots`: what is drawn, and a name for it; none where there are too few verdicts.
    """

    claim: str
    claims: Sequence[tuple[int, Claimed]]
    plots: Sequence[tuple[str, Plot]]


def over(run: Run) -> list[Over]:
    """Every claim that was run for checkpoints."""
    numbers = {one.test: nth for nth, one in enumerate(run.claims, 1)}
    found = []
    for claim, claims in by_claim(run).items():
        plots = _plots({one.over.place: one.verdict for one in claims if one.over and one.verdict})
        found.append(Over(claim, [(numbers[one.test], one) for one in claims], plots))
    return found


def _plots(verdicts: dict[int, Verdict]) -> list[tuple[str, Plot]]:
    """By the checkpoint's place in the training."""
    gaps = {place: verdict.gap for place, verdict in verdicts.items()}
    known = {place: gap for place, gap in gaps.items() if gap.is_known}
    ends = [[(place, gap.low) for place, gap in known.items()]]
    ends += [[(place, gap.high) for place, gap in reversed(known.items())]]
    limits = [
        (place, end) for place, one in verdicts.items() for end in accepted(one, one.tolerance)
    ]
    sides = [[one for one in limits if math.copysign(1, one[1]) == side] for side in (1, -1)]
    tolerance = max((one.tolerance for one in verdicts.values()), default=0.0)
    shares = {place: one.explained for place, one in verdicts.items() if one.explained is not None}
    drawn = []
    if len(gaps) >= FEWEST:
        means = {place: gap.mean for place, gap in gaps.items()}
        below = [
            Series("area plain", [*ends[0], *ends[1]]),
            *(Series("limit", one) for one in sides),
        ]
        drawn.append(
            ("Gap", _drawn(means, verdicts, [one for one in below if one.points], tolerance))
        )
    if len(shares) >= FEWEST:
        whole = [Series("limit", [(place, 1.0) for place in shares])]
        drawn.append(("Explained", _drawn(shares, verdicts, whole, 1.0)))
    return drawn


def _drawn(
    values: dict[int, float], verdicts: dict[int, Verdict], below: Sequence[Series], unit: float
) -> Plot:
    """A curve with the mark of every verdict, over what lies below it."""
    places = list(values)
    marks = [
        Series(verdicts[place].word, [(place, value)], verdicts[place].word)
        for place, value in values.items()
    ]
    heights = [0.0, *values.values(), *(y for one in below for _, y in one.points)]
    return Plot(
        axis(places, places[:: math.ceil(len(places) / MOST_TICKS)], "{:g}".format, float),
        gap_axis(heights, unit),
        [*below, Series("curve plain", list(values.items())), *marks],
        (),
        label="checkpoint",
    )
