"""The JSON document of a run, and the schema that is published for it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import torch

from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.judge import check
from pytest_scrub.network.plain import FunctionGraph
from pytest_scrub.reports.json_file import to_json
from pytest_scrub.reports.run import ERROR, FAILED, PASSED, SKIPPED, Claimed, Run
from pytest_scrub.tree.nodes import ANYTHING, module, output
from pytest_scrub.verdict import HELD, REFUTED, UNDECIDED, UNTESTED, WEAK, Estimate, Verdict
from tests import published_schema
from tests.example_verdicts import claimed as example
from tests.example_verdicts import run

SCHEMA = json.loads(published_schema.PUBLISHED.read_text())


def valid(document: Any) -> Any:
    jsonschema.Draft202012Validator(SCHEMA).validate(document)
    return document


def a_run(*claims: Claimed, **facts: Any) -> Run:
    return run(*claims, options=("--scrub-seed=0",), **facts)


def claimed(verdict: Verdict | None, result: str = PASSED, message: str | None = None) -> Claimed:
    test = "test_a.py::test_it"
    rerun = f"pytest {test} --scrub-seed=0"
    return example(verdict, test, result=result, message=message, rerun=rerun)


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    """One of every outcome, with all that a verdict may hold."""
    a = torch.arange(64) % 2
    b = torch.randn(64, generator=torch.Generator().manual_seed(0))
    data = Dataset(
        {"a": a.float(), "b": b}, labels=a, features={"a": a, "b": b > 0, "row": range(64)},
        name="rows"
    )  # fmt: skip
    network = FunctionGraph(
        A=lambda a: 2 * (2 * a - 1),
        B=lambda b: b / 4,
        output=lambda A, B: torch.stack([-(A + B), A + B], -1) / 2,
    )
    about = {
        HELD: (
            output(module("A", agrees_on="a"), module("B", agrees_on=ANYTHING)),
            {"tolerance": 0.5, "by": "b"},
        ),
        REFUTED: (
            output(module("B", agrees_on="b")),
            {"tolerance": 0.5, "by": "a", "slice_tolerance": 0.5},
        ),
        UNDECIDED: (
            output(module("B", agrees_on="b")),
            {"tolerance": 1, "samples": 20, "adversaries": ()},
        ),
        UNTESTED: (output(module("A", agrees_on="row")), {"tolerance": 0.5}),
        WEAK: (output(module("A", agrees_on="a")), {"tolerance": 100, "min_power": 0.9}),
    }
    usual: dict[str, Any] = {"samples": 200, "adversaries": (WhichDonors(),), "budget": 2000}
    judged = {
        outcome: check(
            claim, network, data, seed=0, name=outcome, **{**usual, "controls": True, **options}
        )
        for outcome, (claim, options) in about.items()
    }
    assert {outcome: verdict.outcome for outcome, verdict in judged.items()} == {
        name: name for name in about
    }
    return judged


def test_the_published_schema_is_that_of_the_dataclasses() -> None:
    assert published_schema.PUBLISHED.read_text() == published_schema.text(), (
        "run python -m tests.published_schema"
    )


def test_the_schema_is_one_and_leaves_nothing_open() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for name, kind in [("document", SCHEMA), *SCHEMA["$defs"].items()]:
        assert kind["additionalProperties"] is False, name
        assert kind["required"] == list(kind["properties"]), name
        undescribed = [
            field for field, about in kind["properties"].items() if not about.get("description")
        ]
        assert not undescribed, name


def test_the_figures_of_every_outcome_are_valid(verdicts: dict[str, Verdict]) -> None:
    assert verdicts[HELD].controls
    assert verdicts[REFUTED].search is not None
    assert verdicts[REFUTED].search.counterexample is not None
    assert verdicts[WEAK].power is not None
    document = valid(json.loads(to_json(a_run(*map(claimed, verdicts.values())))))
    read = [Verdict.from_json(json.dumps(one["verdict"])) for one in document["claims"]]
    assert read == list(verdicts.values())


@pytest.mark.parametrize("result", [FAILED, ERROR, SKIPPED])
def test_a_claim_without_a_verdict(result: str) -> None:
    one = valid(json.loads(to_json(a_run(claimed(None, result, "why")))))["claims"][0]
    assert (one["verdict"], one["result"], one["outcome"], one["message"]) == (
        None,
        result,
        result,
        "why",
    )
    assert one["rerun"] == "pytest test_a.py::test_it --scrub-seed=0"


def test_an_end_of_an_interval_that_is_not_known_is_null(verdicts: dict[str, Verdict]) -> None:
    wide = replace(verdicts[UNDECIDED], gap=Estimate(0.5, -math.inf, math.inf))
    text = to_json(a_run(claimed(wide)))
    gap = valid(json.loads(text))["claims"][0]["verdict"]["gap"]
    assert gap == {"mean": 0.5, "low": None, "high": None, "exact": False}
    assert Verdict.from_json(wide.to_json()) == wide
    assert "Infinity" not in text


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_is_never_written(verdicts: dict[str, Verdict], number: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json(a_run(claimed(replace(verdicts[HELD], scrubbed=number))))


def test_any_text_survives(verdicts: dict[str, Verdict]) -> None:
    hostile = "a\ud800 \u202e<script>\x1b[31m\n\x00 ü 🎉"
    one = claimed(replace(verdicts[HELD], metric=hostile), FAILED, hostile)
    text = to_json(a_run(replace(one, test=hostile)))
    one = valid(json.loads(text.encode("utf-8")))["claims"][0]
    assert (one["test"], one["message"], one["verdict"]["metric"]) == (hostile, hostile, hostile)


def test_it_is_stable_and_ends_with_a_newline(verdicts: dict[str, Verdict]) -> None:
    whole = a_run(*map(claimed, verdicts.values()))
    assert to_json(whole) == to_json(whole)
    assert list(json.loads(to_json(whole))) == ["$schema", "schema_version", "run", "claims"]
    assert to_json(whole).endswith("}\n")


def objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        yield from objects(part)


def test_no_object_may_have_another_field_or_lack_one(verdicts: dict[str, Verdict]) -> None:
    document = json.loads(to_json(a_run(*(claimed(verdict) for verdict in verdicts.values()))))
    validator = jsonschema.Draft202012Validator(SCHEMA)
    parts = [part for part in objects(document) if part != document["run"]["versions"]]
    assert len(parts) > 80
    for part in parts[:: len(parts) // 40]:
        part["surprise"] = 1
        assert not validator.is_valid(document)
        del part["surprise"]
        name, value = part.popitem()
        assert not validator.is_valid(document), name
        part[name] = value
    valid(document)


@pytest.mark.parametrize(
    ("field", "value"),
    [("outcome", "confirmed"), ("gap", None), ("samples", "200"), ("samples", 1.5), ("changes", {}),
    ("recovered", "1"),
     ("schema_version", 2), ("circuit", None), ("direction", "better")],
)  # fmt: skip
def test_a_wrong_value_is_refused(verdicts: dict[str, Verdict], field: str, value: object) -> None:
    document = json.loads(to_json(a_run(claimed(verdicts[HELD]))))
    document["claims"][0]["verdict"][field] = value
    with pytest.raises(jsonschema.ValidationError):
        valid(document)
