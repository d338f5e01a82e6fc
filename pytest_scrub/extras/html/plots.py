"""Plots as pieces of SVG that take their colours and their type from the page around them."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from pytest_scrub.reports.run import Claimed
from pytest_scrub.verdict import HELD, REFUTED, UNDECIDED, UNTESTED, WEAK, Attempt, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (5.2, 2.9)  # inches of 72 pixels
TYPE = 11.5
LONGEST_NAME = 40  # characters of a claim's name in a plot
WIDE = 11.0
ROW, ROOM = 0.27, 0.3  # inches for each claim, and above and below all of them
LINEAR_UP_TO = 5  # tolerances; changes that go further are drawn on a logarithmic axis
FEWEST_LOOKS = 2
LOG_TICKS = 6  # powers of ten

# Colours that nothing else has; in the page they become its own, which are others in the dark.
INK, MUTED, GRID, BAND, PLAIN, WORST = (
    "#010101",
    "#020202",
    "#030303",
    "#040404",
    "#050505",
    "#060606",
)
OUTCOMES = {
    HELD: "#070707",
    REFUTED: "#080808",
    UNDECIDED: "#090909",
    UNTESTED: "#0a0a0a",
    WEAK: "#0b0b0b",
}
VARIABLES = {
    INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--line)", BAND: "var(--band)",
    PLAIN: "var(--plain)",
    WORST: "var(--worst)", **{colour: f"var(--{outcome})" for outcome, colour in OUTCOMES.items()},
}  # fmt: skip
MARKERS = {HELD: "o", REFUTED: "X", UNDECIDED: "D", UNTESTED: "s", WEAK: "^"}
# of the attempts in turn; () is solid
DASHES = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (9, 3), (3, 3, 1, 3))
SVG = "{http://www.w3.org/2000/svg}"
COORDINATES = {"d", "x", "y", "width", "height", "transform"}
TOO_PRECISE = re.compile(r"(\d+\.\d)\d+")  # a tenth of a pixel is enough
LINK = "{http://www.w3.org/1999/xlink}href"


def overview(claims: Sequence[Claimed], links: Sequence[str]) -> str | None:
    """The gap of every claim as a share of its tolerance, with its interval and the worst that was
    found.

    **Arguments**

    - `links`: where the name of each claim leads.

    **Returns** None where no claim has a tolerance to compare with.
    """
    rows = [
        (one.verdict, link)
        for one, link in zip(claims, links, strict=True)
        if one.verdict is not None
    ]
    rows = [(verdict, link) for verdict, link in rows if verdict.tolerance > 0]
    if not rows:
        return None
    height = ROW * len(rows)
    with _drawing("overview", (WIDE, height + 2 * ROOM)) as figure:
        axes = _axes(figure, (0.38, ROOM / (height + 2 * ROOM), 0.6, height / (height + 2 * ROOM)))
        axes.axvspan(-1, 1, color=BAND, lw=0)
        furthest = _furthest([verdict for verdict, _ in rows])
        for y, (verdict, _) in enumerate(rows):
            _row(axes, y, verdict, furthest)
        axes.set_xscale("symlog", linthresh=1, linscale=0.7)
        _ticks(axes, 1)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        names = [_short(verdict.claim) for verdict, _ in rows]
        axes.set_yticks(range(len(rows)), names, parse_math=False)
        for label, (_, link) in zip(axes.get_yticklabels(), rows, strict=True):
            label.set_url(link)
        axes.tick_params(labeltop=True)
        return _as_svg(figure)


def _furthest(verdicts: Sequence[Verdict]) -> float:
    """Beyond all that is drawn: where an interval is drawn to that has no end."""
    ends = [
        end / one.tolerance for one in verdicts for end in (one.gap.low, one.gap.mean, one.gap.high)
    ]
    return 3 * max(abs(end) for end in [1.0, *ends] if math.isfinite(end))


def _row(axes: Axes, y: int, verdict: Verdict, furthest: float) -> None:
    gap, unit, colour = verdict.gap, verdict.tolerance, OUTCOMES[verdict.outcome]
    axes.plot(
        [max(gap.low / unit, -furthest), min(gap.high / unit, furthest)],
        [y, y],
        color=colour,
        lw=4,
        alpha=0.45,
        solid_capstyle="butt",
    )
    filled = "none" if verdict.outcome == UNTESTED else colour
    axes.plot(
        [gap.mean / unit],
        [y],
        MARKERS[verdict.outcome],
        mec=colour,
        mfc=filled,
        ms=6,
        clip_on=False,
    )
    search = verdict.search
    if search is not None and search.worst is not None and search.tolerance > 0:
        axes.plot([search.worst.found / search.tolerance], [y], "|", color=WORST, ms=11, mew=2)


def distributions(verdict: Verdict, salt: str) -> str | None:
    """How large the change of single samples is: drawn uniformly, and in the worst swap set that
    was found.

    **Returns** None where nothing was measured, or nothing changed.
    """
    worst = _worst(verdict)
    curves = [(verdict.changes, PLAIN, ()), (() if worst is None else worst.changes, WORST, (5, 2))]
    if not any(change for changes, _, _ in curves for change in changes):
        return None
    with _drawing(f"{salt}-changes", SIZE) as figure:
        axes = _axes(figure)
        _limits(axes, verdict, verdict.tolerance, across=True)
        for changes, colour, dashes in curves:
            if changes:
                share = [100 * i / (len(changes) - 1) for i in range(len(changes))]
                axes.plot(changes, share, color=colour, lw=2, dashes=dashes or (None, None))
        furthest = max(abs(change) for changes, _, _ in curves for change in changes)
        if 0 < verdict.tolerance < furthest / LINEAR_UP_TO:
            axes.set_xscale("symlog", linthresh=verdict.tolerance, linscale=0.7)
            _ticks(axes, verdict.tolerance)
        axes.set_ylim(-3, 103)
        axes.set_yticks([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])
        axes.set_xlabel("change of the metric is at most")
        return _as_svg(figure)


def convergence(verdict: Verdict, salt: str) -> str | None:
    """The gap and its interval as samples were drawn; None where there are not several looks."""
    looks = [look for look in verdict.looks if math.isfinite(look.gap.around)]
    if len(looks) < FEWEST_LOOKS:
        return None
    with _drawing(f"{salt}-looks", SIZE) as figure:
        axes = _axes(figure)
        samples = [look.samples for look in looks]
        _limits(axes, verdict, verdict.tolerance)
        low, high = [look.gap.low for look in looks], [look.gap.high for look in looks]
        axes.fill_between(samples, low, high, color=PLAIN, alpha=0.25, lw=0)
        axes.plot(samples, [look.gap.mean for look in looks], color=PLAIN, lw=2, marker="o", ms=3)
        if samples[-1] > 10 * samples[0]:
            axes.set_xscale("log")
        _counts(axes, samples[0], samples[-1])
        axes.set_xlabel("samples")
        return _as_svg(figure)


def dashes(attempts: Sequence[Attempt]) -> list[tuple[float, ...]]:
    """The dashes of every attempt's curve."""
    return [DASHES[i % len(DASHES)] for i in range(len(attempts))]


def search_curves(verdict: Verdict, salt: str) -> str | None:
    """The worst mean gap so far of every adversary, by the evaluations it had spent; None where
    none searched."""
    search = verdict.search
    if search is None or not any(attempt.curve for attempt in search.attempts):
        return None
    with _drawing(f"{salt}-search", SIZE) as figure:
        axes = _axes(figure)
        _limits(axes, verdict, search.tolerance)
        spent: list[int] = []
        for attempt, dash in zip(search.attempts, dashes(search.attempts), strict=True):
            points = attempt.curve or (
                [(attempt.evaluations, attempt.found)] if attempt.searched else []
            )
            points = [(max(evaluations, 1), gap) for evaluations, gap in points]
            if points:
                x, y = zip(*points, strict=True)
                spent += x
                axes.plot(
                    x, y, color=WORST, lw=1.8, dashes=dash or (None, None), drawstyle="steps-post"
                )
                axes.plot(
                    x[-1:],
                    y[-1:],
                    "X" if attempt.refutes else "o",
                    color=WORST,
                    ms=6,
                    clip_on=False,
                )
        axes.set_xscale("log")
        _counts(axes, min(spent), max(spent))
        axes.set_xlabel("evaluations")
        return _as_svg(figure)


def _worst(verdict: Verdict) -> Attempt | None:
    return None if verdict.search is None else verdict.search.worst


def _limits(axes: Axes, verdict: Verdict, tolerance: float, across: bool = False) -> None:
    """What a gap may be: to both sides, or as far as the direction that counts is known, to one."""
    worse = "either" if verdict.search is None else verdict.search.worse
    limits = {"higher": (tolerance,), "lower": (-tolerance,)}.get(worse, (-tolerance, tolerance))
    draw, span = (axes.axvline, axes.axvspan) if across else (axes.axhline, axes.axhspan)
    if len(limits) > 1:
        span(*limits, color=BAND, lw=0)
    for limit in limits:
        draw(limit, color=MUTED, lw=1, dashes=(4, 3))


@contextmanager
def _drawing(salt: str, size: tuple[float, float]) -> Iterator[Figure]:
    """A figure in our style, whatever the user's own settings are; `salt` keeps the ids of a page
    apart."""
    from matplotlib import style
    from matplotlib.figure import Figure

    ours = {
        "svg.fonttype": "none", "svg.hashsalt": salt, "figure.dpi": 72,
        "font.family": ["sans-serif"],
        "font.size": TYPE, "axes.edgecolor": GRID, "axes.labelcolor": MUTED, "xtick.color": MUTED,
        "ytick.color": MUTED, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6,
        "axes.axisbelow": True, "axes.unicode_minus": False, "path.simplify": True,
    }  # fmt: skip
    with warnings.catch_warnings(), style.context(["default", ours]):
        # the page's fonts have what this one lacks
        warnings.filterwarnings("ignore", message="Glyph")
        yield Figure(figsize=size)


def _axes(
    figure: Figure, place: tuple[float, float, float, float] = (0.15, 0.19, 0.81, 0.77)
) -> Axes:
    axes = figure.add_axes(place)
    axes.patch.set_visible(False)
    axes.tick_params(length=0)
    return axes


def _ticks(axes: Axes, threshold: float) -> None:
    """Ticks of a scale that is linear up to a threshold: that, zero and few powers of ten
    beyond."""
    low, high = axes.get_xlim()
    beyond = max(-low, high) / threshold
    powers = max(math.floor(math.log10(beyond)), 0) if beyond > 0 else 0
    each = max(math.ceil(powers / 3), 1)
    sizes = [10.0**power for power in range(0, powers + 1, each)]
    both = sorted({0.0, *(sign * size * threshold for sign in (-1, 1) for size in sizes)})
    shown = [tick for tick in both if low <= tick <= high]
    axes.set_xticks(shown, [f"{tick:.3g}" for tick in shown])
    axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)


def _counts(axes: Axes, least: int, most: int) -> None:
    """Few ticks of a logarithmic or linear axis of whole numbers."""
    if axes.get_xscale() == "log":
        powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
        digits = (
            (1,)
            if len(powers) > LOG_TICKS
            else (1, 3)
            if len(powers) > LOG_TICKS // 2
            else (1, 2, 5)
        )
        each = math.ceil(len(powers) / LOG_TICKS)
        ticks = [digit * 10**power for power in powers[::each] for digit in digits]
        ticks = [tick for tick in ticks if least <= tick <= most] or sorted({least, most})
    else:
        ticks = sorted({least, (least + most) // 2, most})
    axes.set_xticks(ticks, [f"{tick:,}".replace(",", "\u202f") for tick in ticks])
    axes.set_xticks([], minor=True)


def _short(name: str) -> str:
    """The end of a claim's name, in characters that can be seen."""
    from pytest_scrub.common.visible import visible

    short = visible(name.partition("::")[2] or name)
    return short if len(short) <= LONGEST_NAME else f"…{short[1 - LONGEST_NAME :]}"


def _as_svg(figure: Figure) -> str:
    """Without what a page does not need: a header, metadata, names of groups, and fonts."""
    file = io.BytesIO()
    figure.patch.set_visible(False)
    figure.savefig(
        file, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    root = ElementTree.fromstring(file.getvalue())
    for parent in list(root.iter()):
        for child in list(parent):
            # a style would be one for the whole page
            if child.tag in (f"{SVG}metadata", f"{SVG}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        if element.tag in ("g", "svg"):
            element.attrib.pop("id", None)
        if LINK in element.attrib:
            element.set("href", element.attrib.pop(LINK))
        if element.attrib.pop("target", None):  # a link, which the page has in its table too
            element.set("tabindex", "-1")
        for name in COORDINATES & element.attrib.keys():
            element.set(name, " ".join(TOO_PRECISE.sub(r"\1", element.attrib[name]).split()))
        if "style" in element.attrib:
            element.set("style", _restyled(element.attrib["style"]))
        element.tail = None
        element.text = (
            None if element.tag != "text" and not (element.text or "").strip() else element.text
        )
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.attrib |= {"aria-hidden": "true", "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")


def _restyled(style: str) -> str:
    """With the page's colours, and its type."""
    kept = []
    for declaration in style.split(";"):
        name, _, value = declaration.partition(":")
        if name.strip() and name.strip() not in (
            "font",
            "font-family",
            "font-size",
            "stroke-linejoin",
        ):
            kept.append(f"{name.strip()}:{VARIABLES.get(value.strip(), value.strip())}")
    return ";".join(kept)
