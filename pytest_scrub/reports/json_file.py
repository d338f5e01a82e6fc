"""`--scrub-json FILE`: all claims of a run as one JSON document, whose schema is published in
`schema/`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from pytest_scrub.common.records import as_plain_dict, fields_of
from pytest_scrub.reports.run import Entry, Run, RunFacts
from pytest_scrub.verdict import SCHEMA_VERSION

SCHEMA_ID = f"urn:pytest-scrub:verdicts-{SCHEMA_VERSION}"


@dataclass(frozen=True)
class Document:
    """What pytest-scrub found out in one run of pytest.

    - `schema_version`: another one for whatever a reader of this one would not understand.
    - `run`: the run; `claims`: its claims, in the order of their ids.
    """

    schema_version: Literal[1]
    run: RunFacts
    claims: tuple[Entry, ...]


def to_json(run: Run) -> str:
    """The document, in ASCII, so that whatever is in a string survives."""
    claims = tuple(Entry(**fields_of(Entry, one)) for one in run.claims)
    document = Document(SCHEMA_VERSION, RunFacts(**fields_of(RunFacts, run)), claims)
    fields = {"$schema": SCHEMA_ID, **as_plain_dict(document)}
    return json.dumps(fields, indent=2, allow_nan=False) + "\n"
