"""What one run of pytest found out about claims, in plain values: what files and pages are made
of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from pytest_scrub.verdict import Outcome, Verdict

PASSED: Final = "passed"
FAILED: Final = "failed"
ERROR: Final = "error"
SKIPPED: Final = "skipped"
XFAILED: Final = "xfailed"
XPASSED: Final = "xpassed"
INTERRUPTED: Final = "interrupted"
Result = Literal["passed", "failed", "error", "skipped", "xfailed", "xpassed", "interrupted"]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One claim.

    - `test`: its id; `file`: relative to pytest's root, where it is stated; `line`: the line there,
      from 1.
    - `result`: what pytest made of it; `"interrupted"`, where the run ended while it was checked.
    - `outcome`: the verdict's, or what pytest made of a claim without one.
    - `seconds`: with its fixtures.
    - `message`: the first line of its failure, or why it was skipped; None where it passed.
    - `rerun`: the command that runs it again, with the same figures.
    - `verdict`: None for a claim that has none: misstated, skipped, interrupted, or broken before
      it was checked.
    """

    test: str
    file: str
    line: int
    result: Result
    outcome: Literal[Outcome, Result]
    seconds: float
    message: str | None
    rerun: str
    verdict: Verdict | None


@dataclass(frozen=True, kw_only=True)
class Claimed(Entry):
    """A claim with what only some reports ask for.

    - `is_marked`: whether a mark skipped it, as whoever wrote it wants, and not what happened when
      it was run.
    - `at`: file and line that its failure is about, where that is not the claim's own line but that
      of a node.
    """

    is_marked: bool = False
    at: tuple[str, int] | None = None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The run of pytest that the claims were checked in.

    - `started`: ISO 8601, UTC; `seconds`: the whole run.
    - `options`: what makes the figures what they are, as on a command line.
    - `versions`: of Python, the platform and the packages that figures depend on.
    - `interrupted`: whether it ended early, so that claims may be missing.
    """

    started: str
    seconds: float
    options: tuple[str, ...]
    versions: dict[str, str]
    interrupted: bool


@dataclass(frozen=True, kw_only=True)
class Run(RunFacts):
    """All claims of a run, in the order of their ids."""

    claims: tuple[Claimed, ...]

    @property
    def judged(self) -> tuple[Verdict, ...]:
        """The verdicts there are."""
        return tuple(claimed.verdict for claimed in self.claims if claimed.verdict is not None)
