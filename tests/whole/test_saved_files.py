"""Files that an earlier version wrote are read for ever: baselines, counterexamples, verdicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_scrub.adversaries import saved
from pytest_scrub.extras.baselines.files import load
from pytest_scrub.verdict import Verdict
from tests.places import SAVED

BASELINE = SAVED / "baseline"
COUNTEREXAMPLES = sorted((SAVED / "counterexamples").glob("*.json"))
CLAIMS = json.loads((SAVED / "claims.json").read_text())["claims"]
LATER = {  # fields that came after these files were written: what they are read as
    **dict.fromkeys(("null", "null_reason", "explained", "explained_reason", "min_within")),
    "confidence": 0.95,
    **dict.fromkeys(("pointwise", "outcome", "bound", "of_null", "interval", "longer")),
    "fixed": False,
    "exact": False,
    "unknowing": None,
    "says_nothing": False,
    "silent": [],
    "made_up_by": [],
    "functions": [],
    "metric_worse": "higher",
    **dict.fromkeys(("indirect", "picture", "own_picture", "donor_picture")),
    **dict.fromkeys(("own_output", "donor_output")),
    "attention": [],
    "bounds": [],
    "remedy": None,
    **dict.fromkeys(("predicted", "predicts", "label", "min_gap", "accuracy", "edited")),
}


def as_then(now: Any, then: Any) -> Any:
    """A record as it was written then, where what came later says nothing."""
    if isinstance(now, dict):
        later = now.keys() - then.keys()
        assert {name: now[name] for name in later} == {name: LATER[name] for name in later}
        return {name: as_then(value, then[name]) for name, value in now.items() if name in then}
    if isinstance(now, list):
        return [as_then(*each) for each in zip(now, then, strict=True)]
    return now


def test_every_shape_of_a_file_is_there() -> None:
    assert {claim["outcome"] for claim in CLAIMS} == {
        "held", "refuted", "undecided", "untested", "weak", "failed",
    }  # fmt: skip
    records = [json.loads(path.read_text("utf-8")) for path in COUNTEREXAMPLES]
    assert {record["worst"]["adversary"] for record in records} == {
        "the claim's own draws", "which donors", "which refinement", "which inputs",
    }  # fmt: skip
    assert {record["worst"]["pointwise"] for record in records} == {True, False}
    assert any("inputs" in row for record in records for row in record["rows"])


def test_a_baseline_is_read_and_written_as_it_was() -> None:
    found = load(BASELINE)
    assert len(found) == len([claim for claim in CLAIMS if claim["verdict"]])
    for path in BASELINE.glob("*.json"):
        then = json.loads(path.read_text("utf-8"))
        assert as_then(json.loads(found[then["claim"]].to_json()), then) == then
    for claim in CLAIMS:
        if claim["verdict"]:
            assert found[claim["test"]].outcome == claim["outcome"]


@pytest.mark.parametrize("path", COUNTEREXAMPLES, ids=lambda path: path.name)
def test_a_counterexample_is_read_and_written_as_it_was(tmp_path: Path, path: Path) -> None:
    saved.save(tmp_path / path.name, saved.load(path))
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["test"])
def test_a_verdict_is_read_and_says_the_same(claim: dict[str, Any]) -> None:
    if claim["verdict"] is not None:
        verdict = Verdict.from_json(json.dumps(claim["verdict"]))
        assert as_then(json.loads(verdict.to_json()), claim["verdict"]) == claim["verdict"]
        said, *story = str(verdict).splitlines()
        if verdict.word == "fell":  # other words for the same
            assert "claim holds on average and falls to the adversary: " in claim["message"]
            assert said.startswith("claim held on average, fell to the search: ")
            assert f"{verdict.deciding.gap.mean:.4g} for allowed swaps" in claim["message"]
        else:
            assert said.startswith("claim held") if verdict.held else said in claim["message"]
        assert not [line for line in story if line.startswith(("null:", "explained:"))]
