"""What GitHub Actions shows of a run: annotations at the lines of claims and nodes, and a summary
of the step."""

from __future__ import annotations

import html
import posixpath
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from pytest_scrub import Verdict
from pytest_scrub.common.visible import visible, visible_lines
from pytest_scrub.extras.github.mermaid import flowchart
from pytest_scrub.reports.over import by_claim, same_networks
from pytest_scrub.reports.run import (
    ERROR,
    FAILED,
    INTERRUPTED,
    PASSED,
    XFAILED,
    Claimed,
    Run,
)
from pytest_scrub.reports.terminal import story, worst_found
from pytest_scrub.verdict import UNDECIDED, UNKNOWN, UNTESTED, WEAK, WHY_UNKNOWN

# bytes of a step's summary; GitHub shows nothing of one that is larger than 1 MiB
ROOM = 1024 * 1024 - 4096
NOTE = 300  # bytes for saying what is left out, and why an interval is not known
FAILURES = (FAILED, ERROR)
COLUMNS = ("claim", "verdict", "gap on average", "tolerance", "recovered", "worst found", "power")
OVER = ("checkpoint", "verdict", "gap on average", "accepted", "explained")


# Annotations --------------------------------------------------------------------------------------


def workflow_commands(run: Run, folder: str = "") -> list[str]:
    """An annotation for every claim that failed, and for one that says nothing and was let pass, or
    interrupted.

    `folder`: pytest's root, as seen from that of the repository; files are named from there.
    """
    leveled = [(level, one) for one in run.claims if (level := _level(one)) is not None]
    return [_command(level, one, folder) for level, one in leveled]


def _level(one: Claimed) -> str | None:
    if one.result in FAILURES:
        return "error"
    let_pass = one.result in (PASSED, XFAILED) and one.outcome in (UNDECIDED, UNTESTED, WEAK)
    return "warning" if (let_pass and not one.is_expected) or one.result == INTERRUPTED else None


def _command(level: str, one: Claimed, folder: str) -> str:
    named, line = one.at or (one.file, one.line)
    file = posixpath.normpath(posixpath.join(folder, named.replace("\\", "/")))
    title = f"{one.told}{one.beside}: {one.test.rpartition('::')[2]}"
    text = f"{visible(one.message or one.outcome)}\n{one.rerun}"
    where = f"file={_property(file)},line={line},title={_property(title)}"
    return f"::{level} {where}::{_escaped(visible_lines(text))}"


def _escaped(text: str) -> str:
    """As workflow commands have it: https://github.com/actions/toolkit, `command.ts`."""
    return text.replace("%", "%25").replace("\n", "%0A")


def _property(text: str) -> str:
    return _escaped(visible(text)).replace(":", "%3A").replace(",", "%2C")


# The summary of the step --------------------------------------------------------------------------


def step_summary(run: Run, room: int = ROOM) -> str:
    """Markdown: a table of all claims, and one for each that was run over checkpoints, the whole
    text of those that failed, and every circuit as a diagram.

    Where it would take more than `room` bytes, diagrams are left out first, then texts, then rows,
    and it says so; nothing is left where there is no room for that. The table is HTML, in which
    nothing but HTML's own signs can be syntax.
    """
    early = "\n\nThe run was interrupted: claims may be missing." if run.interrupted else ""
    parts: dict[str, list[str | None]] = {
        "rows of the table": [_row(one) for one in run.claims],
        "tables by checkpoint": [_over(*one) for one in by_claim(run).items()],
        "texts of failures": [_failure(one) for one in run.claims if one.result in FAILURES],
        "diagrams": [_diagram(one.test, one.verdict) for one in run.claims if one.verdict],
    }
    ungated = f"\n\n**{run.ungated}**" if run.ungated else ""
    same = "".join(f"\n\n<b>{html.escape(said)}</b>" for said in same_networks(run))
    head = f"## Claims: {run.told}{early}{ungated}{same}\n\n"
    room -= _size(head) + _size(_table(COLUMNS, [])) + NOTE
    if room < 0:
        return ""
    kept: dict[str, list[str]] = {kind: [] for kind in parts}
    left_out: Counter[str] = Counter()
    for kind, texts in parts.items():
        for text in texts:
            if text is not None and _size(text) <= room:
                kept[kind].append(text)
                room -= _size(text)
            else:
                left_out[kind] += 1
    rows, *others = kept.values()
    unknown = f"{UNKNOWN}: {WHY_UNKNOWN}.\n\n" if any(UNKNOWN in row for row in rows) else ""
    body = _table(COLUMNS, rows) + unknown + "".join(text for texts in others for text in texts)
    missing = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
    note = f"\nLeft out, as GitHub shows no more: {missing}.\n" if missing else ""
    return f"{head}{body}{note}\n"


def _size(text: str) -> int:
    return len(text.encode("utf-8", "backslashreplace"))


def _table(columns: Sequence[str], rows: Sequence[str]) -> str:
    header = "".join(f"<th>{name}</th>" for name in columns)
    return f"<table>\n<tr>{header}</tr>\n{''.join(rows)}</table>\n\n"


def _row(one: Claimed) -> str:
    # as a whole it is too wide
    name = "<br>".join(map(_code, filter(None, re.split("(?<=::)", one.test, maxsplit=1))))
    figures = [""] * 5 if one.verdict is None else _figures(one.verdict)
    return _cells(name, _outcome(one), *figures)


def _over(claim: str, claims: Sequence[Claimed]) -> str:
    """One claim over the checkpoints of a training."""
    return f"{_code(claim)}\n\n{_table(OVER, list(map(_at_checkpoint, claims)))}"


def _at_checkpoint(one: Claimed) -> str:
    assert one.over is not None
    figures = [""] * 3
    if (verdict := one.verdict) is not None:
        explained = "" if verdict.explained is None else f"{verdict.explained:.1%}"
        figures = [html.escape(str(verdict.gap)), _accepted(verdict), explained]
    return _cells(_code(one.over.checkpoint), _outcome(one), *figures)


def _outcome(one: Claimed) -> str:
    outcome = html.escape(f"{one.told}{one.beside}")
    return f"<b>{outcome}</b>" if _level(one) is not None else outcome


def _cells(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _accepted(verdict: Verdict) -> str:
    """The largest gap, or the least of a claim that swaps hurt."""
    return f"{'≥ ' if verdict.min_gap is not None else ''}{verdict.tolerance:.4g}"


def _figures(verdict: Verdict) -> Iterator[str]:
    search, power = verdict.search, verdict.power
    yield html.escape(str(verdict.gap))
    yield _accepted(verdict)
    yield "" if verdict.recovered is None else f"{verdict.recovered:.1%}"
    if search is None:
        yield ""
    elif (worst := search.worst) is None:
        yield f"- ({html.escape(visible(str(search.unsearched)))})"
    else:
        yield f"{worst_found(verdict)} by {_code(worst.adversary)}"
    yield "" if power is None else f"{power.refuted} of {len(power.mutants)}"


def _code(text: str) -> str:
    """Data in HTML; where it is code, GitHub makes no links, mentions or emojis of it."""
    return f"<code>{html.escape(visible(text))}</code>"


def _failure(one: Claimed) -> str:
    """Folded; fenced by more backticks than it has itself."""
    found = story(one.verdict) if one.verdict is not None else one.message or one.outcome
    if one.verdict is not None and one.verdict.held:
        found = f"{one.message or one.result}\n\n{found}"
    return _folded(
        f"{_code(one.test)}: {html.escape(one.told + one.beside)}",
        "text",
        f"{found}\n\n{one.rerun}",
    )


def _diagram(test: str, verdict: Verdict) -> str | None:
    chart = flowchart(verdict)
    return None if chart is None else _folded(f"circuit of {_code(test)}", "mermaid", chart)


def _folded(title: str, language: str, text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    block = f"{fence}{language}\n{visible_lines(text)}\n{fence}"
    return f"<details><summary>{title}</summary>\n\n{block}\n\n</details>\n\n"
