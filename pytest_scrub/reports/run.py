"""What one run of pytest found out about claims, in plain values: what files and pages are made
of."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pytest_scrub.verdict import Verdict

PASSED, FAILED, ERROR, SKIPPED, XFAILED, XPASSED = (
    "passed",
    "failed",
    "error",
    "skipped",
    "xfailed",
    "xpassed",
)
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Claimed:
    """One claim of a run.

    - `test`: its id; `file` (relative to pytest's root) and `line` (from 1): where it is stated.
    - `result`: what pytest made of it: `"passed"`, `"failed"`, `"error"`, `"skipped"`, `"xfailed"`
      or `"xpassed"`; or `"interrupted"`, where the run ended while it was being checked.
    - `seconds`: with its fixtures.
    - `verdict`: None for a claim that has none: misstated, skipped, interrupted, or broken before
      it was checked.
    - `message`: the first line of its failure, or why it was skipped.
    - `is_marked`: whether a mark skipped it, as whoever wrote it wants, and not what happened when
      it was run.
    - `at`: file and line that its failure is about, where that is not the claim's own line but that
      of a node.
    """

    test: str
    file: str
    line: int
    result: str
    seconds: float
    verdict: Verdict | None
    message: str | None
    is_marked: bool = False
    at: tuple[str, int] | None = None

    @property
    def outcome(self) -> str:
        """The verdict's, or what pytest made of a claim without one."""
        return self.result if self.verdict is None else self.verdict.outcome


@dataclass(frozen=True)
class Run:
    """All claims of a run, in the order of their ids.

    - `options`: what makes the figures what they are, as on a command line: `--scrub-seed=0`, ...
    - `versions`: of Python, the platform and the packages that figures depend on.
    - `started`: ISO 8601, UTC; `seconds`: the whole run.
    - `interrupted`: whether it ended early, so that claims may be missing.
    """

    claims: tuple[Claimed, ...]
    options: tuple[str, ...]
    versions: dict[str, str]
    started: str
    seconds: float
    interrupted: bool

    @property
    def judged(self) -> tuple[Verdict, ...]:
        """The verdicts there are."""
        return tuple(claimed.verdict for claimed in self.claims if claimed.verdict is not None)

    def rerun(self, claimed: Claimed) -> str:
        """The command that runs one claim again, with the same figures."""
        return shlex.join(["pytest", claimed.test, *self.options])
