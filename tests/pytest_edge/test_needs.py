"""The core runs where what its extras need is not installed; an option that needs it says so."""

from __future__ import annotations

import pytest

from tests.pytest_edge.conftest import FOUR_OUTCOMES, Suite

BLOCKED = """
import sys
sys.modules |= dict.fromkeys(["jinja2", "markupsafe", "matplotlib", "ray"])
sys.modules |= dict.fromkeys(["transformer_lens", "transformers", "datasets"])
"""
SHOWN = """
def test_a_verdict_in_a_notebook(scrub):
    found = scrub.check(output(module("A", agrees_on="a")), tolerance=0.5)
    assert found._repr_html_() is None
    assert "claim held" in str(found)
"""


@pytest.fixture
def bare(suite: Suite) -> Suite:
    suite.pytester.makepyfile(blocked=BLOCKED)
    return suite


def test_claims_are_judged_and_reported(bare: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    path = bare.pytester.path
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(path / "summary.md"))
    bare.write(FOUR_OUTCOMES + SHOWN)
    options = ("--scrub-json=verdicts.json", "--scrub-save", "-p", "blocked")
    ran = bare.run(*options, alone=True)
    outcomes = {name: verdict.outcome for name, verdict in ran.verdicts.items()}
    assert outcomes == {
        "test_held": "held",
        "test_refuted": "refuted",
        "test_undecided": "undecided",
        "test_untested": "untested",
    }
    assert ran.outcomes == {"passed": 2, "failed": 4}
    assert "wrote verdicts.json" in ran.text
    assert "```mermaid" in (path / "summary.md").read_text()
    again = bare.run("--scrub-compare", "-p", "blocked", alone=True)
    assert "compared with the baseline main" in again.text


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            "--scrub-html=report.html",
            "--scrub-html needs jinja2, which is not installed: pip install jinja2",
        ),
        (
            "--scrub-ray=local",
            "--scrub-ray needs ray, which is not installed: pip install pytest-scrub[ray]",
        ),
        (
            "-oscrub_ray=auto",
            "scrub_ray needs ray, which is not installed: pip install pytest-scrub[ray]",
        ),
    ],
)
def test_an_option_says_what_it_needs(bare: Suite, given: str, says: str) -> None:
    bare.write("raise AssertionError('collected')")
    ran = bare.run(given, "-p", "blocked", alone=True)
    assert ran.result.ret == pytest.ExitCode.USAGE_ERROR
    (said,) = [line for line in ran.result.errlines if line.strip()]
    assert said == f"ERROR: {says}"
