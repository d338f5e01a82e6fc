"""On GitHub Actions: annotations in the output, and the summary of the step; nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

THREE = """
    @claim(tolerance=0.5)
    def test_held():
        return output(module("A", agrees_on="a"))

    @claim(tolerance=0.5)
    def test_refuted():
        return output(module("B", agrees_on="b"))

    @claim(tolerance=0.5, on_untested="xfail")
    def test_untested():
        return output(module("A", agrees_on="row"))
"""


@pytest.fixture
def step(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file for the summary, on a runner whose checkout is the folder above pytest's root."""
    suite.write(THREE)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.pytester.path.parent))
    path = suite.pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path))
    return path


def commands(text: str) -> list[str]:
    return re.findall(r"^::(?:error|warning) .*$", text, re.MULTILINE)


@pytest.mark.parametrize("workers", ["-n0", pytest.param("-n2", marks=only_in_full)])
def test_claims_are_annotated_once_at_their_lines(suite: Suite, step: Path, workers: str) -> None:
    ran = suite.run(workers, alone=workers != "-n0")
    lines = (suite.pytester.path / "test_claims.py").read_text().splitlines()
    line = {name: lines.index(f"def {name}():") for name in ("test_refuted", "test_untested")}
    error, warning = commands(ran.text)
    file = f"{suite.pytester.path.name}/test_claims.py"
    assert error.startswith(
        f"::error file={file},line={line['test_refuted']},title=refuted%3A test_refuted::"
    )
    assert "claim refuted: gap" in error
    assert error.endswith(
        "%0Apytest test_claims.py::test_refuted --scrub-seed=0 --scrub-samples=200 "
        "--scrub-adversary=none"
    )
    assert warning.startswith(
        f"::warning file={file},line={line['test_untested']},title=untested (xfailed)%3A "
    )
    summary = step.read_text()
    assert summary.startswith("## Claims: 1 refuted; 1 untested; 1 held\n")
    assert summary.count("```mermaid") == 3
    assert summary.count("<table>") == 1


def test_a_checkout_elsewhere_leaves_files_as_pytest_names_them(
    suite: Suite, step: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(suite.pytester.path / "not" / "above"))
    assert "file=test_claims.py," in commands(suite.run("-k", "refuted").text)[0]


@pytest.mark.parametrize("value", ["", "false", None])
def test_nothing_is_annotated_elsewhere(
    suite: Suite, step: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    if value is None:
        monkeypatch.delenv("GITHUB_ACTIONS")
    else:
        monkeypatch.setenv("GITHUB_ACTIONS", value)
    assert commands(suite.run().text) == []


def test_a_run_without_claims_says_nothing(suite: Suite, step: Path) -> None:
    suite.write("def test_ordinary():\n    raise ValueError('::error file=a::b')\n", "test_claims")
    ran = suite.run()
    assert ran.outcomes == {"failed": 1}
    assert commands(ran.text) == []
    assert not step.exists()


def test_two_runs_of_a_step_share_its_summary(suite: Suite, step: Path) -> None:
    suite.run("-k", "held")
    once = step.read_text()
    suite.run("-k", "refuted")
    assert step.read_text().startswith(once)
    assert step.read_text().count("## Claims: ") == 2


def test_what_is_there_already_counts(suite: Suite, step: Path) -> None:
    """GitHub shows nothing of a summary that is larger than 1 MiB."""
    step.write_text("x" * (1024**2 - 6000))
    suite.run()
    assert 1024**2 - 6000 < step.stat().st_size < 1024**2
    assert "Left out, as GitHub shows no more: " in step.read_text()


def test_names_from_the_suite_cannot_give_commands(suite: Suite, step: Path) -> None:
    suite.write("""
        @pytest.mark.parametrize("node", ["B"], ids=["x\\n::error::y%0A::z,a`|<b>"])
        @claim(tolerance=0.5)
        def test_it(node):
            return output(module(node, agrees_on="b"))
    """)
    (error,) = commands(suite.run().text)
    assert error.startswith("::error file=")
    assert "%250A" in error
    assert "<b>" not in step.read_text().split("<details>")[0].replace("<b>refuted</b>", "")


def test_a_summary_that_cannot_be_written_fails_the_run(
    suite: Suite, step: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.pytester.path / "no" / "folder"))
    assert suite.run("-k", "held").result.ret == pytest.ExitCode.TESTS_FAILED


def test_a_misstated_claim_is_annotated_at_the_node(suite: Suite, step: Path) -> None:
    path = suite.write("""
        NODE = module("C", agrees_on="a")

        @claim(tolerance=0.5)
        def test_it():
            return output(NODE)

        @claim(tolerance=0.5)
        def test_no_node():
            return 3
    """)
    lines = path.read_text().splitlines()
    node = next(i for i, line in enumerate(lines, 1) if line.startswith("NODE = "))
    of_node, of_claim = commands(suite.run().text)
    assert f"/test_claims.py,line={node},title=" in of_node
    assert f"/test_claims.py,line={lines.index('def test_no_node():')},title=" in of_claim
