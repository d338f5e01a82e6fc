"""A run against its baseline as a table of old against new, for a page that a reviewer reads."""

from __future__ import annotations

import html
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
from pytest_scrub.extras.baselines.limits import FIGURES
from pytest_scrub.extras.baselines.text import conclusion_lines, figure_text


def comparison_summary(comparison: Comparison, room: int) -> str:
    """Markdown of at most `room` bytes: what it comes to, and a row for each claim, those that fail
    first; empty where there is no room for the former. The table is HTML, in which nothing but
    HTML's own signs can be syntax."""
    told = [html.escape(visible(line)) for _, line in conclusion_lines(comparison)]
    named = html.escape(comparison.name)
    head = f"## Compared with the baseline {named}\n\n<pre>{chr(10).join(told)}</pre>\n\n"
    used = [
        figure for figure in FIGURES if any(figure in _by_name(one) for one in comparison.claims)
    ]
    titles = "".join(f"<th>{title}</th>" for title in ("claim", "outcome", *used))
    start, end = f"<table>\n<tr>{titles}</tr>\n", "</table>\n\n"
    note = (
        "In bold: what fails the run. In italics: what moved further than its intervals allow, or "
        "is not there any more, and is only shown.\n\n"
    )
    rows = sorted(comparison.claims, key=lambda claim: not claim.fails)
    left = room - sum(len(part.encode()) for part in (head, start, end, note)) - 100
    kept = []
    for row in (_row(claim, used) for claim in rows):
        if (left := left - len(row.encode())) < 0:
            break
        kept.append(row)
    missing = len(rows) - len(kept)
    more = f"{missing} more rows are left out, as GitHub shows no more.\n\n" if missing else ""
    text = f"{head}{start}{''.join(kept)}{end}{note}{more}"
    return text if len(text.encode()) <= room else ""


def _by_name(claim: ClaimComparison) -> dict[str, FigureChange]:
    return {change.figure: change for change in claim.figures}


def _row(claim: ClaimComparison, figures: list[str]) -> str:
    cells = [f"<code>{html.escape(visible(claim.claim))}</code>", _outcome(claim)]
    cells += [_cell(_by_name(claim).get(figure)) for figure in figures]
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _outcome(claim: ClaimComparison) -> str:
    was, now = html.escape(claim.was), html.escape(claim.now)
    told = now if was == now else f"{was} → {now}"
    if was != now and not claim.by_search:
        told = f"<b>{told}</b>"
    return "<br>".join([told, *_notes(claim)])


def _notes(claim: ClaimComparison) -> Iterator[str]:
    for text in filter(None, (claim.incomparable, *claim.objections.values())):
        yield f"<b>{html.escape(visible(text))}</b>"
    yield from (html.escape(visible(text)) for text in claim.changed)


def _cell(change: FigureChange | None) -> str:
    if change is None:
        return ""
    old, new = (figure_text(value) or "-" for value in (change.old, change.new))
    told = new if change.verdict == UNCHANGED else f"{old} → {new}"
    if change.verdict not in (MOVED, VANISHED):
        return told
    return f"<b>{told}</b>" if change.gates else f"<i>{told}</i>"
