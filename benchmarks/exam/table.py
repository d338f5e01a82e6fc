"""The exam's result to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from benchmarks.exam.claims import APART, FALSE, TRUE
from benchmarks.exam.judging import Answer

STAGES = (
    "held", "average", "which nodes", "which refinement", "which swaps", "which donors",
    "which inputs", "weak", "undecided", "untested", "misstated",
)  # fmt: skip


def tables(answers: Sequence[Answer]) -> str:
    """By truth, by network and by kind: how many came to which stage."""
    stages = [
        *(stage for stage in STAGES if any(one.stage == stage for one in answers)),
        *sorted({one.stage for one in answers} - set(STAGES)),
    ]
    parts = []
    for truth in (TRUE, FALSE, APART):
        of = [one for one in answers if one.question.truth == truth]
        if of:
            parts += [
                "",
                _table(f"{truth}, by network", of, stages, lambda one: one.question.ground.name),
            ]
        if of and truth != TRUE:
            parts += ["", _table(f"{truth}, by kind", of, stages, lambda one: one.question.kind)]
    return "\n".join([*parts, ""])


def _table(
    title: str, answers: Sequence[Answer], stages: Sequence[str], row_of: Callable[[Answer], str]
) -> str:
    rows = list(dict.fromkeys(row_of(one) for one in answers))
    counts = {
        **{row: Counter(one.stage for one in answers if row_of(one) == row) for row in rows},
        "all": Counter(one.stage for one in answers),
    }
    seen = [stage for stage in stages if counts["all"][stage]]
    lines = [f"| {title} | claims | {' | '.join(seen)} |", f"| --- {'| ---: ' * (len(seen) + 1)}|"]
    for row, found in counts.items():
        cells = [str(found[stage] or "") for stage in seen]
        lines.append(f"| {row} | {found.total()} | {' | '.join(cells)} |")
    return "\n".join(lines)
