"""A run against its baseline, as text."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_scrub.common.visible import visible
from pytest_scrub.extras.baselines.comparison import (
    MOVED,
    UNCHANGED,
    VANISHED,
    ClaimComparison,
    Comparison,
    FigureChange,
)
from pytest_scrub.extras.baselines.files import Refuted, file_of
from pytest_scrub.extras.baselines.limits import MISSING
from pytest_scrub.reports.terminal import table_lines
from pytest_scrub.verdict import Estimate


def comparison_lines(
    comparison: Comparison, *, only_failing: bool = False
) -> Iterator[tuple[bool, str]]:
    """`(fails, line)`: a table with a part for each claim, what else is not what it was, and what
    that comes to.

    **Arguments**

    - `only_failing`: leave out the claims that nothing is wrong with.
    """
    shown = [claim for claim in comparison.claims if claim.fails or not only_failing]
    confidence = f"moved by ({100 * comparison.confidence:.4g} %)"
    header = ("", "figure", "old", "new", confidence, "limit", "verdict")
    rows = [_cells(figure) for claim in shown for figure in claim.figures]
    table = table_lines([header, *rows])
    heading = next(table)
    if rows:
        yield False, heading
    for claim in shown:
        yield claim.fails, visible(f"{claim.claim}: {_outcome(claim)}")
        for figure in claim.figures:
            yield figure in claim.moved, next(table)
        for text in filter(None, (claim.incomparable, *claim.objections.values())):
            yield True, f"  {visible(text)}"
        for text in claim.changed:
            yield bool(claim.incomparable), f"  {visible(text)}"
    yield from ((False, visible(text)) for text in comparison.beside)
    yield from conclusion_lines(comparison)


def conclusion_lines(comparison: Comparison) -> Iterator[tuple[bool, str]]:
    """Which claims fail the run by how much, and what to do."""
    failing = [claim for claim in comparison.claims if claim.fails]
    count = len(comparison.claims)
    of = f"{count} claim{'s' * (count != 1)}"
    if not count:
        none = f"no claim of this run is in the baseline {comparison.name!r}"
        yield comparison.fails, f"nothing to compare: {none}"
    elif not failing:
        changed = any(claim.was != claim.now for claim in comparison.claims)
        but = " but by another seed's search" * changed
        yield (
            False,
            f"{of} compared: no outcome changed{but}, and no figure that gates moved further than "
            "interval and limit allow",
        )
    else:
        yield True, f"{len(failing)} of {of} not as in the baseline {comparison.name!r}:"
        for claim in failing:
            test = claim.claim.rpartition("::")[2]
            yield True, visible(f"  {test}: {'; '.join(_reasons(claim))}")
        kinds = dict.fromkeys(kind for claim in failing for kind in claim.objections)
        allow = f", or compare with --scrub-compare-allow={','.join(kinds)}" if kinds else ""
        yield (
            True,
            f"if that is meant, save the new figures with --scrub-save={comparison.name}{allow}",
        )
    yield from _missing_lines(comparison)
    moved = [one for claim in comparison.claims for one in claim.figures if one.verdict == MOVED]
    if shown := sum(not one.gates for one in moved):
        figures = f"{shown} figure{'s' * (shown != 1)} moved that {'are' if shown > 1 else 'is'}"
        yield False, f"{figures} only shown; --scrub-compare-fail=all:0 fails by each"


def _missing_lines(comparison: Comparison) -> Iterator[tuple[bool, str]]:
    """Claims of the baseline that nobody runs any more, and what to do."""
    if not (missing := comparison.missing):
        return
    yield (
        True,
        f"{len(missing)} claim{'s' * (len(missing) > 1)} of the baseline {comparison.name!r} not "
        "there any more, though all of the suite was to be run:",
    )
    yield from ((True, visible(f"  {test} (in {file_of(test)})")) for test in missing)
    yield (
        True,
        f"if that is meant, delete {'these files' if len(missing) > 1 else 'this file'} of the "
        f"baseline, or compare with --scrub-compare-allow={MISSING}",
    )


def _reasons(claim: ClaimComparison) -> Iterator[str]:
    if claim.was != claim.now:
        yield f"was {claim.was} and is {claim.now}"
    for change in claim.moved:
        if change.by is None:
            yield (
                f"{change.figure} was {figure_text(change.old)} and is not there any more "
                f"({change.why})"
            )
            continue
        yield (
            f"{change.figure} moved by {_signed(change.by.mean)} from {figure_text(change.old)} to "
            f"{figure_text(change.new)}"
        )
    if claim.incomparable:
        yield claim.incomparable
    yield from claim.objections.values()


def _outcome(claim: ClaimComparison) -> str:
    return claim.now if claim.was == claim.now else f"{claim.was} -> {claim.now}"


def _cells(change: FigureChange) -> tuple[str, ...]:
    verdict = f"{change.verdict}: {change.why}" if change.why else change.verdict
    if change.verdict in (MOVED, VANISHED) and not change.gates:
        verdict = f"{verdict}, shown only"
    by = "" if change.by is None else "0" if change.verdict == UNCHANGED else _by(change.by)
    limit = "" if change.by is None or not change.gates else f"{change.limit:.3g}"
    return "", change.figure, figure_text(change.old), figure_text(change.new), by, limit, verdict


def _by(by: Estimate) -> str:
    return _signed(by.mean) if by.low == by.high else f"{_signed(by.mean)} ± {by.around:.2g}"


def _signed(number: float) -> str:
    return f"{number:+.3g}"


def figure_text(value: float | Refuted | None) -> str:
    """As tables have it."""
    if isinstance(value, Refuted):
        return str(value)
    return "" if value is None else f"{value:.4g}"
