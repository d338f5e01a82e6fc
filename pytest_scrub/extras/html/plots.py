"""What plots of verdicts show, as values with their axes; the page draws them, in its own style and
colours."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, pairwise
from typing import NamedTuple

from pytest_scrub import Verdict
from pytest_scrub.common.visible import visible
from pytest_scrub.verdict import FELL, HELD, UNDECIDED, Attempt, Word

LONGEST_NAME = 40  # characters of a claim's name in a plot
ROW, NARROW_ROW = 19.5, 38.0  # for each claim
# The larger, the more room an axis of gaps has within the tolerance: at 3, as much as for the
# next power of ten.
LINEAR_PART = 3
FEWEST_LOOKS = 2
ATTENTION, LARGEST_CELL = 300.0, 20.0  # pixels of a picture, and of one position
NAME_HEIGHT, LONGEST_WORD = 12.0, 10  # of a position: pixels, characters
MOST_TICKS = 6
BEYOND = 0.05  # of an axis, beyond what is drawn
DASHES_OF_NULL = (2, 2)
# of the attempts in turn; () is solid
DASHES = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (9, 3), (3, 3, 1, 3))

Scale = Callable[[float], float]


class Axis(NamedTuple):
    """One direction of a plot: from `low` to `high` of a scale, with names for some values."""

    scale: Scale
    low: float
    high: float
    ticks: Mapping[float, str]

    def share(self, value: float) -> float:
        """How far along it a value lies, from 0 to 1; what is infinite, at its end."""
        return min(max((self.scale(value) - self.low) / (self.high - self.low), 0.0), 1.0)


def axis(
    values: Iterable[float], ticks: Iterable[float], label: Callable[[float], str], scale: Scale
) -> Axis:
    """An axis that has room for all finite values, with those of the ticks that lie on it."""
    every = [scale(value) for value in values if math.isfinite(value)]
    low, high = min(every), max(every)
    beyond = BEYOND * (high - low) or abs(high) or 1.0
    low, high = low - beyond, high + beyond
    return Axis(scale, low, high, {at: label(at) for at in ticks if low <= scale(at) <= high})


class Series(NamedTuple):
    """Points, in the style of what they are: joined, or with a marker at each."""

    style: str
    points: Sequence[tuple[float, float]]
    marker: str | None = None
    dashes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plot:
    """What is drawn between two axes.

    - `limits`: what the gap may be, which is the horizontal axis `across`, or else the upright one.
    - `bands`: what is accepted, where that is not the same for all.
    - `label`: what the horizontal axis says; `links`: where the names of the upright one lead.
    - `narrow`: names of the upright axis stand above what they name, not beside it.
    """

    x: Axis
    y: Axis
    series: Sequence[Series]
    limits: Sequence[float]
    across: bool = False
    label: str = ""
    links: Sequence[str] = ()
    bands: Sequence[Series] = ()
    narrow: bool = False
    left: float = 56
    width: float = 304
    height: float = 160

    def x_of(self, value: float) -> float:
        """Pixels from the left."""
        return self.left + self.x.share(value) * self.width

    def y_of(self, value: float) -> float:
        """Pixels from the top of the frame."""
        return (1 - self.y.share(value)) * self.height


def overview(verdicts: Mapping[str, Verdict], *, narrow: bool = False) -> Plot | None:
    """The figure that decided every claim as a share of what is accepted of it, with its interval;
    beside it the average and the worst that was found, where they did not decide.

    What a claim that swaps hurt accepts begins at one, and has no end.

    **Arguments**

    - `verdicts`: by where the name of the claim leads.
    - `narrow`: whether it is for a phone.

    **Returns** None where no claim has a tolerance to compare with.
    """
    rows = {link: verdict for link, verdict in verdicts.items() if verdict.tolerance > 0}
    if not rows:
        return None
    series, names = [], {}
    for row, verdict in enumerate(rows.values()):
        decided, search, y = verdict.deciding, verdict.search, float(-row)
        low, high, mean = (
            _share(verdict, end, decided.of)
            for end in (decided.gap.low, decided.gap.high, decided.gap.mean)
        )
        if decided.what:
            average = _share(verdict, verdict.gap.mean, verdict.tolerance)
            series.append(Series("plain", [(average, y)], "dot"))
        worst = None if search is None or search.tolerance <= 0 else search.worst
        if search and worst and decided.what != f"found by {worst.adversary}":
            found = _share(verdict, worst.found, search.tolerance)
            series.append(Series("worst", [(found, y)], "stroke"))
        series.append(Series(f"bar {verdict.word}", [(low, y), (high, y)]))
        series.append(Series(verdict.word, [(mean, y)], verdict.word))
        names[y] = _short_name(verdict.claim)
    return Plot(
        gap_axis([-1.0, 1.0, *_coordinates(0, series)], 1.0),
        Axis(float, 0.5 - len(rows), 0.5, names),
        series,
        (),
        across=True,
        links=[*rows],
        bands=list(_bands(rows.values())),
        narrow=narrow,
        left=8 if narrow else 301,
        width=344 if narrow else 475,
        height=(NARROW_ROW if narrow else ROW) * len(rows),
    )


def _share(verdict: Verdict, gap: float, of: float) -> float:
    """Of what is accepted; infinite where that is nothing. Of a claim that swaps hurt, by how much
    the metric got worse."""
    if verdict.min_gap is not None and verdict.metric_worse == "lower":
        gap = -gap
    return gap / of if of > 0 else math.copysign(math.inf, gap) if gap else 0.0


def _bands(verdicts: Iterable[Verdict]) -> Iterator[Series]:
    """What is accepted of the rows of an overview, for those together that lie together."""
    bottom = 0.5
    for hurts, some in groupby(verdicts, lambda verdict: verdict.min_gap is not None):
        top, bottom = bottom, bottom - len([*some])
        low, high = (1.0, math.inf) if hurts else (-1.0, 1.0)
        yield Series("band", [(low, top), (high, top), (high, bottom), (low, bottom)])


def distributions(verdict: Verdict) -> Plot | None:
    """How large the change of single samples is: drawn uniformly, where the claim's features know
    nothing, and in the worst swap set that was found.

    **Returns** None where nothing was measured, or nothing changed.
    """
    tolerance, worst = verdict.tolerance, verdict.worst
    curves = (
        ("null", DASHES_OF_NULL, verdict.null.changes if verdict.null else ()),
        ("plain", (), verdict.changes),
        ("worst", (5, 2), worst.changes if worst else ()),
    )
    series = [
        Series(f"curve {style}", [(at, share) for share, at in enumerate(changes)], None, dash)
        for style, dash, changes in curves
        if changes
    ]
    every, limits = _coordinates(0, series), accepted(verdict, tolerance)
    if not any(every):
        return None
    return Plot(
        gap_axis([*every, *limits], tolerance),
        Axis(float, -3, 103, {float(share): f"{share} %" for share in range(0, 101, 25)}),
        series,
        limits,
        across=True,
        label="change of the metric is at most",
    )


def convergence(verdict: Verdict) -> Plot | None:
    """The gap and its interval as samples were drawn; None where there are not several looks."""
    looks = [look for look in verdict.looks if look.gap.is_known]
    if len(looks) < FEWEST_LOOKS:
        return None
    low, high, means = (
        [(look.samples, getattr(look.gap, end)) for look in looks]
        for end in ("low", "high", "mean")
    )
    series = [
        Series("area plain", [*low, *reversed(high)]),
        Series("curve plain", means),
        Series("plain", means, "dot"),
    ]
    return _counted("samples", series, verdict, verdict.tolerance)


def dashes(nth: int) -> tuple[float, ...]:
    """The dashes of an attempt's curve."""
    return DASHES[nth % len(DASHES)]


def search_curves(verdict: Verdict) -> Plot | None:
    """The worst mean gap so far of every adversary, by the evaluations it had spent; None where
    none searched."""
    search = verdict.search
    if search is None or not any(attempt.curve for attempt in search.attempts):
        return None
    series = []
    for nth, attempt in enumerate(search.attempts):
        if not (attempt.curve or attempt.searched):
            continue
        curve = attempt.curve or [(attempt.evaluations, attempt.found)]
        points = [(max(spent, 1), gap) for spent, gap in curve]
        # a value stays until the next
        corners = [(after[0], before[1]) for before, after in pairwise(points)]
        steps = [*points[:1], *chain(*zip(corners, points[1:], strict=True))]
        series.append(Series("curve worst", steps, None, dashes(nth)))
        series.append(Series("worst", steps[-1:], _mark(attempt)))
    return _counted("evaluations", series, verdict, search.tolerance)


def _mark(attempt: Attempt) -> Word:
    """At the end of an attempt's curve."""
    return FELL if attempt.refutes else UNDECIDED if attempt.outcome == UNDECIDED else HELD


def _counted(label: str, series: Sequence[Series], verdict: Verdict, tolerance: float) -> Plot:
    """A plot of gaps by a count, on a logarithmic scale, and how far they may go."""
    counts, limits = _coordinates(0, series), accepted(verdict, tolerance)
    ticks = _round_counts(int(min(counts)), int(max(counts)))
    x = axis(counts, ticks, "{:,}".format, math.log10)
    y = gap_axis([*_coordinates(1, series), *limits], tolerance)
    return Plot(x, y, series, limits, label=label)


def _coordinates(direction: int, series: Sequence[Series]) -> list[float]:
    """All that is drawn, in one of the two directions."""
    return [point[direction] for one in series for point in one.points]


def accepted(verdict: Verdict, tolerance: float) -> tuple[float, ...]:
    """What a gap may be: to both sides, or as far as the direction that counts is known, to one."""
    worse = "either" if verdict.search is None else verdict.search.worse
    if verdict.min_gap is not None:  # which the milder side is worse for
        return (-tolerance if verdict.metric_worse == "lower" else tolerance,)
    return {"higher": (tolerance,), "lower": (-tolerance,)}.get(worse, (-tolerance, tolerance))


def gap_axis(values: Sequence[float], tolerance: float) -> Axis:
    """An axis of gaps: about linear up to the tolerance on both sides, and logarithmic beyond, with
    ticks at zero, the tolerance, and few powers of ten beyond."""
    furthest = max(abs(value) for value in values if math.isfinite(value))
    unit = tolerance or furthest / LINEAR_PART or 1.0
    count = max(math.floor(math.log10(furthest / unit)), 0) if furthest else 0
    powers = range(0, count + 1, max(math.ceil(count / 3), 1))
    ticks = [0.0, *(sign * unit * 10.0**power for power in powers for sign in (-1, 1))]
    return axis(
        values, ticks, "{:.3g}".format, lambda value: math.asinh(LINEAR_PART * value / unit)
    )


def _round_counts(least: int, most: int) -> list[int]:
    """Few ticks of a logarithmic scale of whole numbers."""
    every = [digit * 10**power for power in range(len(str(most))) for digit in (1, 2, 5)]
    inside = [count for count in every if least <= count <= most] or [least, most]
    return inside[:: math.ceil(len(inside) / MOST_TICKS)]


def attention_axes(
    uri: str, words: Sequence[str]
) -> tuple[int, float, float, list[tuple[int, str]]]:
    """How many positions a picture of attention has, how large it draws each, what room their names
    have, and the names that do not lie on each other: their words, or else every fifth number.

    No positions where it is no picture that was made for a verdict.
    """
    made = re.fullmatch(r"data:image/png;base64,([A-Za-z0-9+/]{44}[A-Za-z0-9+/]*={0,2})", uri)
    if made is None:
        return 0, 0.0, 0.0, []
    count = int.from_bytes(base64.b64decode(made[1][:32])[16:20], "big")  # the width, in its header
    cell = max(min(ATTENTION / max(count, 1), LARGEST_CELL), 1.0)
    if len(words) != count:
        words = [str(nth) if nth % 5 == 0 else "" for nth in range(count)]
    every = math.ceil(NAME_HEIGHT / cell)
    named = [(nth, _cut(word)) for nth, word in enumerate(words) if word and nth % every == 0]
    longest = max((len(word) for _, word in named), default=0)
    return count, cell, 8 + 6.7 * longest, named


def _cut(word: str) -> str:
    return word if len(word) <= LONGEST_WORD else f"{word[: LONGEST_WORD - 1]}…"


def _short_name(name: str) -> str:
    """The end of a claim's name, in characters that can be seen."""
    short = visible(name.partition("::")[2] or name)
    return short if len(short) <= LONGEST_NAME else f"…{short[1 - LONGEST_NAME :]}"
