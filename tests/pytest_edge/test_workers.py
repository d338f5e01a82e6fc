"""A process that dies in the middle of a search: a clear failure of its claim, and right figures of
all others."""

from __future__ import annotations

import json

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

# The network itself kills the process that runs it, in the search of one claim.
DYING = """
    import os, pathlib, signal
    from pytest_scrub import Metric

    class Counted:
        evaluations = 0

    def loss(output, batch):
        Counted.evaluations += len(output)
        if Counted.evaluations > 3000 and os.environ.get("DIE") == "always":
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.nn.functional.cross_entropy(output, batch.labels, reduction="none")

    dying = Metric("dying", loss, lower=0.0, upper=5.0)

    @claim(tolerance=0.5, metric=dying)
    def test_dies():
        return output(module("A", agrees_on="a"), rest="a")

    @pytest.mark.parametrize("nth", range(4))
    @claim(tolerance=0.5)
    def test_lives(nth):
        return output(module("A", agrees_on="a"), rest="a")

    @claim(tolerance=0.5)
    def test_refuted():
        return output(module("B", agrees_on="b"))
"""
OPTIONS = ("--scrub-samples=400", "--scrub-json=verdicts.json", "--scrub-html=report.html")


@only_in_full
def test_a_worker_that_dies_in_a_search_fails_its_claim_alone(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(DYING)
    whole = suite.run("-n", "2", "--scrub-cache=0", *OPTIONS, alone=True, adversary="default")
    assert whole.verdicts["test_dies"].outcome == "held"
    suite.forget()
    monkeypatch.setenv("DIE", "always")
    ran = suite.run("-n", "2", "--scrub-cache=0", *OPTIONS, alone=True, adversary="default")
    assert ran.result.ret == 1
    assert "crashed while running 'test_claims.py::test_dies'" in ran.text
    assert ran.outcomes["failed"] == 2  # it, and the one that is refuted
    assert "test_dies" not in ran.verdicts
    assert ran.verdicts == {
        name: verdict for name, verdict in whole.verdicts.items() if name != "test_dies"
    }
    (crashed,) = [line for line in ran.text.splitlines() if line.startswith("failed ")]
    assert "test_dies: worker 'gw" in crashed
    claims = {
        one["test"]: one
        for one in json.loads((suite.pytester.path / "verdicts.json").read_text())["claims"]
    }
    assert claims["test_claims.py::test_dies"]["result"] == "failed"
    assert "crashed" in claims["test_claims.py::test_dies"]["message"]
    lines = (suite.pytester.path / "test_claims.py").read_text().splitlines()
    assert "metric=dying" in lines[claims["test_claims.py::test_dies"]["line"] - 1]
    assert len(claims) == len(whole.verdicts)


@only_in_full
def test_a_baseline_of_a_run_with_a_dead_worker_keeps_its_old_figures(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(DYING)
    suite.run("--scrub-save", *OPTIONS)
    folder = suite.pytester.path / ".scrub" / "baselines" / "main"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setenv("DIE", "always")
    ran = suite.run("-n", "2", "--scrub-compare", *OPTIONS, alone=True, adversary="default")
    assert ran.result.ret == 1
    assert "test_dies: was held and is failed" in ran.text
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
