"""`--scrub-json FILE`: all claims of a run as one JSON document, whose schema is published in
`schema/`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from pytest_scrub.common.records import written
from pytest_scrub.reports.run import Run
from pytest_scrub.verdict import SCHEMA_VERSION, Verdict

SCHEMA_ID = f"urn:pytest-scrub:verdicts-{SCHEMA_VERSION}"


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Entry:
    """One claim.

    - `test`: its id; `file`: relative to pytest's root, where it is stated; `line`: the line there,
      from 1.
    - `result`: what pytest made of it.
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
    result: str
    outcome: str
    seconds: float
    message: str | None
    rerun: str
    verdict: Verdict | None


@dataclass(frozen=True)
class Document:
    """What pytest-scrub found out in one run of pytest.

    - `schema_version`: another one for whatever a reader of this one would not understand.
    - `run`: the run; `claims`: its claims, in the order of their ids.
    """

    schema_version: int
    run: RunFacts
    claims: tuple[Entry, ...]


def to_json(run: Run) -> str:
    """The document, in ASCII, so that whatever is in a string survives."""
    facts = RunFacts(run.started, run.seconds, run.options, run.versions, run.interrupted)
    claims = tuple(
        Entry(
            test=one.test, file=one.file, line=one.line, result=one.result, outcome=one.outcome,
            seconds=one.seconds,
            message=one.message, rerun=run.rerun(one), verdict=one.verdict,
        )
        for one in run.claims
    )  # fmt: skip
    fields = {"$schema": SCHEMA_ID, **written(Document(SCHEMA_VERSION, facts, claims))}
    return json.dumps(fields, indent=2, allow_nan=False) + "\n"
