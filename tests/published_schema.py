"""The JSON schema of `--scrub-json`, made from the dataclasses that are written:
`python -m tests.published_schema`."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import msgspec

import pytest_scrub.reports
from pytest_scrub import verdict
from pytest_scrub.reports import json_file, run

PUBLISHED = (
    Path(pytest_scrub.reports.__file__).parent
    / "schema"
    / f"verdicts-{verdict.SCHEMA_VERSION}.json"
)
DIALECT = "https://json-schema.org/draft/2020-12/schema"


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
    kinds = msgspec.json.schema(json_file.Document)["$defs"]
    for name, part in kinds.items():
        complete(name, part)
    schema = kinds.pop("Document")
    own = {"const": json_file.SCHEMA_ID, "description": "the id of this schema"}
    schema["properties"] = {"$schema": own, **schema["properties"]}
    schema["required"].insert(0, "$schema")
    return {"$schema": DIALECT, "$id": json_file.SCHEMA_ID, **schema, "$defs": kinds}


def complete(name: str, part: dict[str, Any]) -> None:
    """Nothing but the fields of the class, with what its docstring says of them."""
    kind = next(vars(module)[name] for module in (json_file, run, verdict) if name in vars(module))
    part["description"], says = described(kind)
    part["additionalProperties"] = False
    part["required"] = list(part["properties"])
    for field, about in part["properties"].items():
        about.pop("default", None)
        if field in says:
            about["description"] = says[field]


def text() -> str:
    return json.dumps(make(), indent=2) + "\n"


if __name__ == "__main__":
    PUBLISHED.write_text(text())
