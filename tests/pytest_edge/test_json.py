"""`--scrub-json` and the properties of JUnit files: what other programs read, with workers and
without."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from pytest_scrub.reports.json_file import SCHEMA_ID
from pytest_scrub.verdict import SCHEMA_VERSION, Verdict
from tests.published_schema import PUBLISHED
from tests.pytest_edge.conftest import Suite, assert_same_figures
from tests.sizes import only_in_full

WORKERS = pytest.mark.parametrize("workers", ["-n0", pytest.param("-n2", marks=only_in_full)])


def document(suite: Suite, name: str = "claims.json") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((suite.pytester.path / name).read_text())
    jsonschema.Draft202012Validator(json.loads(PUBLISHED.read_text())).validate(found)
    return found


def properties(path: Path) -> dict[str, dict[str, str]]:
    return {
        case.attrib["name"]: {
            one.attrib["name"]: one.attrib["value"] for one in case.iter("property")
        }
        for case in ElementTree.parse(path).iter("testcase")
    }


def timeless(found: Any) -> Any:
    """Without what differs between any two runs."""
    if isinstance(found, dict):
        return {
            name: timeless(part)
            for name, part in found.items()
            if name not in ("seconds", "started")
        }
    return [timeless(part) for part in found] if isinstance(found, list) else found


@only_in_full
def test_workers_change_nothing_in_a_valid_file(four: Suite) -> None:
    found = []
    for workers in ("-n0", "-n2"):
        four.forget()
        ran = four.run(
            workers,
            "--scrub-json=claims.json",
            "--scrub-mutate",
            "--scrub-samples=1500",
            alone=workers != "-n0",
            adversary="quick",
        )
        assert ran.result.ret == pytest.ExitCode.TESTS_FAILED
        found.append(document(four))
        claims = {one["test"].partition("::")[2]: one for one in found[-1]["claims"]}
        assert {name: one["outcome"] for name, one in claims.items()} == {
            "test_held": "held", "test_refuted": "refuted", "test_undecided": "undecided",
            "test_untested": "untested",
            "test_misstated": "failed",
        }  # fmt: skip
        for name, verdict in ran.verdicts.items():
            assert Verdict.from_json(json.dumps(claims[name]["verdict"])) == verdict
        assert claims["test_misstated"]["verdict"] is None
        assert "C" in claims["test_misstated"]["message"]
        assert claims["test_held"]["result"] == "passed"
        assert claims["test_held"]["verdict"]["power"]["mutants"]
        lines = (four.pytester.path / "test_claims.py").read_text().splitlines()
        assert lines[claims["test_refuted"]["line"] : claims["test_refuted"]["line"] + 1] == [
            "def test_refuted():"
        ]
        assert found[-1]["run"]["options"] == [
            "--scrub-seed=0", "--scrub-samples=1500", "--scrub-adversary=quick", "--scrub-mutate",
        ]  # fmt: skip
    assert_same_figures(*(timeless(one) for one in found))


def test_every_way_a_claim_can_end(suite: Suite) -> None:
    suite.write("""
        @pytest.fixture
        def broken():
            raise ValueError("no such thing")

        @pytest.mark.skip(reason="too slow")
        @claim(tolerance=0.5)
        def test_skipped():
            raise AssertionError

        @pytest.mark.xfail(raises=Refuted, strict=True)
        @claim(tolerance=0.5)
        def test_known():
            return output(module("B", agrees_on="b"))

        @pytest.mark.xfail(strict=False)
        @claim(tolerance=0.5)
        def test_mended():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_in_error(broken):
            return output(module("A", agrees_on="a"))

        def test_no_claim():
            pass
    """)
    suite.run("--scrub-json=out/of/the/way.json")
    claims = document(suite, "out/of/the/way.json")["claims"]
    assert {one["test"].partition("::")[2]: (one["result"], one["outcome"]) for one in claims} == {
        "test_skipped": ("skipped", "skipped"), "test_known": ("xfailed", "refuted"),
        "test_mended": ("xpassed", "held"), "test_in_error": ("error", "error"),
    }  # fmt: skip
    said = {one["test"].partition("::")[2]: one["message"] for one in claims}
    assert "too slow" in said["test_skipped"]
    assert said["test_in_error"] == "ValueError: no such thing"


def test_a_file_that_cannot_be_written_is_told_before_anything_is_run(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))
    """)
    (suite.pytester.path / "taken").write_text("a file")
    assert suite.run("--scrub-json=taken/claims.json").result.ret == pytest.ExitCode.USAGE_ERROR
    assert (suite.pytester.path / "taken").read_text() == "a file"


@WORKERS
def test_junit_has_every_figure(suite: Suite, workers: str) -> None:
    suite.write("""
        from pytest_scrub.metrics import Metric

        def loss(output, batch):
            return torch.nn.functional.cross_entropy(output, batch.labels, reduction="none")

        strange = Metric("loss\\ud800\\x1b \\u202e<&", loss)

        @claim(tolerance=0.5, metric=strange, by="b", slice_tolerance=1)
        def test_refuted():
            return output(module("B", agrees_on="b"))

        @claim(tolerance=0.5, controls=True)
        def test_held():
            return output(module("A", agrees_on="a"), module("B", agrees_on=ANYTHING))

        def test_no_claim():
            pass
    """)
    ran = suite.run(
        workers, "--scrub-mutate", "--scrub-seed=3", alone=workers != "-n0", adversary="default"
    )
    assert ran.outcomes == {"passed": 2, "failed": 1}
    found = properties(suite.pytester.path / "junit.xml")
    assert found["test_no_claim"] == {}
    for name in ("test_refuted", "test_held"):
        verdict, figures = ran.verdicts[name], found[name]
        for figure in (
            "tolerance",
            "unscrubbed",
            "scrubbed",
            "baseline",
            "absolute_change",
            "share_worse",
        ):
            assert float(figures[f"scrub_{figure}"]) == getattr(verdict, figure)
        assert figures["scrub_outcome"] == verdict.outcome
        assert [float(figures[f"scrub_gap{end}"]) for end in ("", "_low", "_high")] == [
            verdict.gap.mean, verdict.gap.low, verdict.gap.high,
        ]  # fmt: skip
        assert verdict.search is not None
        assert verdict.search.worst is not None
        assert float(figures["scrub_worst"]) == verdict.search.worst.gap
        assert figures["scrub_worst_by"] == verdict.search.worst.adversary
        assert int(figures["scrub_seed"]) == 3
        assert figures["scrub_dataset_digest"] == verdict.dataset_digest
        assert figures["scrub_model_digest"] == verdict.model_digest
        assert int(figures["scrub_schema_version"]) == SCHEMA_VERSION
    refuted, held = found["test_refuted"], found["test_held"]
    assert refuted["scrub_metric"].startswith("loss\\ud800")
    assert refuted["scrub_slices_by"] == "b"
    assert float(refuted["scrub_slice_tolerance"]) == 1
    assert "scrub_power" not in refuted
    power = ran.verdicts["test_held"].power
    assert power is not None
    assert (float(held["scrub_power"]), int(held["scrub_mutants"])) == (
        power.power,
        len(power.mutants),
    )
    assert int(held["scrub_controls"]) >= int(held["scrub_controls_passed"]) >= 1
    assert float(held["scrub_recovered"]) == ran.verdicts["test_held"].recovered
    assert "scrub_slices_by" not in held


def test_the_schema_says_which_it_is() -> None:
    assert json.loads(PUBLISHED.read_text())["$id"] == SCHEMA_ID
    assert PUBLISHED.name == f"verdicts-{SCHEMA_VERSION}.json"
