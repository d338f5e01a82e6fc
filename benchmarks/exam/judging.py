"""What becomes of each claim, and the figures of all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.exam.claims import APART, FALSE, TRUE, Question
from pytest_scrub import ScrubError, Verdict, check
from pytest_scrub.verdict import HELD, REFUTED

MISSTATED = "misstated"
AVERAGE = "average"


@dataclass(frozen=True)
class Answer:
    """What was said of one claim.

    - `outcome`: of its verdict, or that it was refused as misstated.
    - `stage`: what refuted it, the average or the first adversary that did; otherwise the outcome.
    - `figures`: in words.
    """

    question: Question
    outcome: str
    stage: str
    figures: str
    evaluations: int
    seconds: float

    @property
    def held(self) -> bool:
        return self.outcome == HELD

    @property
    def is_right(self) -> bool:
        """What is true should be held, what is false refuted, and what stands apart not held."""
        expected = {TRUE: self.held, FALSE: self.outcome == REFUTED, APART: not self.held}
        return expected[self.question.truth]


def answer(question: Question, **options: Any) -> Answer:
    """One claim, judged at the default settings."""
    started = time.process_time()
    ground = question.ground
    told = {**question.told, **options}
    try:
        verdict = check(question.says, ground.model, ground.data, **told)
    except ScrubError as error:
        seconds = time.process_time() - started
        return Answer(question, MISSTATED, MISSTATED, str(error).split("\n")[0], 0, seconds)
    seconds = time.process_time() - started
    return Answer(
        question, verdict.outcome, stage_of(verdict), figures_of(verdict), spent(verdict), seconds
    )


def stage_of(verdict: Verdict) -> str:
    """What refuted the claim first, or what else became of it."""
    if verdict.outcome != REFUTED:
        return verdict.outcome
    if verdict.average == REFUTED or verdict.search is None:
        return AVERAGE
    return next(one.adversary for one in verdict.search.attempts if one.refutes)


def figures_of(verdict: Verdict) -> str:
    found = f"{verdict.gap.mean:.3g} of {verdict.tolerance:.3g}"
    if verdict.search is not None and verdict.search.worst is not None:
        found += f", worst {verdict.search.worst.found:.3g}"
    if verdict.null is not None:
        found += f", null {verdict.null.gap.mean:.3g}"
        if verdict.null.worst is not None:
            found += f", worst {verdict.null.worst.gap.mean:.3g}"
    if verdict.undecided is not None:
        found += f", {verdict.undecided}"
    return found


def spent(verdict: Verdict) -> int:
    """Scrubbed evaluations: of the claim's draws, the null's, and the search's."""
    searched = [] if verdict.search is None else verdict.search.attempts
    of_null = 0 if verdict.null is None else verdict.null.samples
    return verdict.samples + of_null + sum(one.evaluations for one in searched)


# All of them --------------------------------------------------------------------------------------


def record_of(answers: Sequence[Answer]) -> dict[str, Any]:
    """The figures of the exam, as one JSON object."""
    of = {
        truth: [one for one in answers if one.question.truth == truth]
        for truth in (TRUE, FALSE, APART)
    }
    held = {truth: sum(one.held for one in found) for truth, found in of.items()}
    refuted = sum(one.outcome == REFUTED for one in of[FALSE])
    both = held[TRUE] + held[FALSE]
    return {
        "true": len(of[TRUE]),
        "true_held": held[TRUE],
        "false": len(of[FALSE]),
        "false_held": held[FALSE],
        "apart": len(of[APART]),
        "apart_held": held[APART],
        "evaluations": sum(one.evaluations for one in answers),
        "cpu_seconds": round(sum(one.seconds for one in answers), 1),
        "p_true_given_held": _share(held[TRUE], both),
        "p_refuted_given_false": _share(refuted, len(of[FALSE])),
        "false_by_outcome": dict(Counter(one.outcome for one in of[FALSE])),
        "false_by_stage": dict(Counter(one.stage for one in of[FALSE])),
        "true_by_stage": dict(Counter(one.stage for one in of[TRUE])),
        "apart_by_stage": dict(Counter(one.stage for one in of[APART])),
        "misses": {one.question.id: one.stage for one in answers if not one.is_right},
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
