"""The JSON schema of `--scrub-json`, made from the dataclasses that are written:
`python -m tests.published_schema`."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

import pytest_scrub.reports
from pytest_scrub import verdict
from pytest_scrub.reports import json_file, run
from pytest_scrub.statistics import intervals
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    SCHEMA_VERSION,
    UNDECIDED,
    UNKNOWN_ENDS,
    UNTESTED,
    WEAK,
)

PUBLISHED = (
    Path(pytest_scrub.reports.__file__).parent / "schema" / f"verdicts-{SCHEMA_VERSION}.json"
)
DIALECT = "https://json-schema.org/draft/2020-12/schema"

RESULTS = [
    run.PASSED,
    run.FAILED,
    run.ERROR,
    run.SKIPPED,
    run.XFAILED,
    run.XPASSED,
    run.INTERRUPTED,
]
OUTCOMES = [HELD, REFUTED, UNDECIDED, UNTESTED, WEAK]
ON_AVERAGE = [HELD, REFUTED, UNDECIDED, UNTESTED]
# Words that are fixed, by class and property.
WORDS = {
    ("Entry", "result"): RESULTS,
    ("Entry", "outcome"): [*OUTCOMES, *RESULTS],
    ("Verdict", "outcome"): OUTCOMES,
    ("Verdict", "average"): ON_AVERAGE,
    ("Verdict", "direction"): ["either", "worse"],
    ("Search", "worse"): ["higher", "lower", "either"],
    ("Slice", "outcome"): [HELD, REFUTED, UNDECIDED, None],
    ("MutantReport", "outcome"): ON_AVERAGE,
    ("Control", "outcome"): [*ON_AVERAGE, None],
}


def described(kind: type) -> tuple[str, dict[str, str]]:
    """What a class is, and what its fields are, from a docstring with a list of them.

    A description ends where that of the next field begins, be it in a line of its own or after a
    semicolon. A field without one is what the clause says that mentions it first.
    """
    whole, _, listed = (inspect.getdoc(kind) or "").partition("\n\n- ")
    whole, fields = " ".join(whole.split()), {}
    parts, names = (
        [
            part
            for one in f"\n- {listed}".split("\n- ")[1:]
            for part in " ".join(one.split()).split("; ")
        ],
        [],
    )
    for part in parts:
        stated = re.match(r"(`\w+`(?:, `\w+`)*): (.*)", part)
        names = names if stated is None else re.findall(r"`(\w+)`", stated[1])
        for name in names:
            fields[name] = (
                f"{fields[name]}; {as_json(part)}" if stated is None else as_json(stated[2])
            )
    for part in (whole, *parts):
        for name in re.findall(r"`(\w+)`", part):
            fields.setdefault(name, as_json(part))
    return as_json(whole), fields


def as_json(text: str) -> str:
    return re.sub(r"\bNone\b", "null", text.rstrip("."))


def make() -> dict[str, Any]:
    """Every property is there, no other one is, and all have a description where their class gives
    one."""
    schema = TypeAdapter(json_file.Document).json_schema(mode="serialization")
    kinds = schema.pop("$defs")
    for name, part in [("Document", schema), *kinds.items()]:
        complete(name, part)
    for end in UNKNOWN_ENDS:
        kinds["Estimate"]["properties"][end] |= {"type": ["number", "null"]}
    schema["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    kinds["Verdict"]["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    own = {"const": json_file.SCHEMA_ID, "description": "the id of this schema"}
    schema["properties"] = {"$schema": own, **schema["properties"]}
    schema["required"].insert(0, "$schema")
    return {"$schema": DIALECT, "$id": json_file.SCHEMA_ID, **schema, "$defs": kinds}


def complete(name: str, part: dict[str, Any]) -> None:
    """Nothing but the fields of the class, with what its docstring says of them."""
    kind = next(
        vars(module)[name] for module in (json_file, verdict, intervals) if name in vars(module)
    )
    part["description"], says = described(kind)
    part["additionalProperties"] = False
    part["required"] = list(part["properties"])
    for field, about in part["properties"].items():
        about.pop("title", None)
        about.pop("default", None)
        if (name, field) in WORDS:
            about.clear()
            about["enum"] = WORDS[name, field]
        if field in says:
            about["description"] = says[field]


def text() -> str:
    return json.dumps(make(), indent=2) + "\n"


if __name__ == "__main__":
    PUBLISHED.parent.mkdir(exist_ok=True)
    PUBLISHED.write_text(text())
