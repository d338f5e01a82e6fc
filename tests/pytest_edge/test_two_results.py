"""To be refuted on average, and to hold on average and fall to the search, are two results, told
apart wherever a run tells of its claims; a refutation that a mark expects is no failure."""

from __future__ import annotations

import importlib
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import few_in_quick

# See conftest.py: what an inner run would be the first to import.
importlib.import_module("pytest_scrub.extras.html.page")

FELL = "held on average, fell to the search"
CLAIMS = """
    @claim(tolerance=0.5)
    def test_held():
        return output(module("A", agrees_on="a"))

    @claim(tolerance=0.5)
    def test_refuted():
        return output(module("B", agrees_on="b"))

    @claim(tolerance=0.05)
    def test_falls():
        return output(module("A", agrees_on="a"))

    @pytest.mark.xfail(raises=RefutedByAdversary, strict=True)
    @claim(tolerance=0.05)
    def test_known():
        return output(module("A", agrees_on="a"))

    @claim(tolerance=0.5, on_untested="xfail")
    def test_let_pass():
        return output(module("A", agrees_on="row"))
"""
COUNTS = f"1 refuted; 1 {FELL}; 1 untested; 1 held; 1 xfailed as expected"


@pytest.fixture
def two(suite: Suite) -> Suite:
    suite.write(CLAIMS)
    return suite


def test_the_terminal_tells_them_apart(two: Suite) -> None:
    ran = two.run("-n0", adversary="default")
    assert ran.outcomes == {"passed": 1, "failed": 2, "xfailed": 2}
    verdict = ran.verdicts["test_falls"]
    assert verdict.outcome == "refuted"
    assert verdict.search is not None
    worst = verdict.search.worst
    assert worst is not None
    running = {line.split()[-1]: line for line in ran.as_it_ran}
    found = f"{verdict.deciding.gap:.3g} of 0.05, found by which donors"
    assert running["test_falls"].startswith(f"  fell      {found} ")
    assert running["test_refuted"].startswith("  refuted   ")
    # what the average says is not what decided
    assert f"{verdict.gap.mean:.3g}" not in running["test_falls"]
    summary = {line.rpartition("::")[2]: line for line in ran.summary}
    assert summary["test_falls"].startswith("fell ")
    assert f" {worst.found:.3g} of 0.05 " in summary["test_falls"]
    assert summary["test_refuted"].startswith("refuted ")
    assert f"\n{COUNTS}\n" in ran.text
    assert ran.messages["test_falls"].startswith(f"RefutedByAdversary: claim {FELL}: ")
    assert FELL not in ran.messages["test_refuted"]


def test_a_verbose_line_has_the_words(two: Suite) -> None:
    ran = two.run("-v", "-k", "falls or refuted", adversary="default")
    lines = [line for line in ran.text.splitlines() if " FAILED " in line]
    assert f"FAILED {FELL}: 0." in lines[1]
    assert ", found by which donors" in lines[1]
    assert "FAILED refuted 1." in lines[0] or "FAILED refuted 0." in lines[0]


@few_in_quick(1)
@pytest.mark.parametrize("columns", ["80", "100", "200"])
def test_a_line_of_one_that_fell_fits_the_width(
    two: Suite, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    ran = two.run("-k", "falls or refuted", adversary="default")
    lines = ran.text.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if line.strip("= ") == "claims") :]
    of_claims = [*ran.as_it_ran, *(line for line in table if "FAILED" not in line)]
    assert max(map(len, of_claims)) <= int(columns)
    for name, line in zip(("test_refuted", "test_falls"), ran.as_it_ran, strict=True):
        assert f"  {name}" in line


def test_files_and_pages_tell_them_apart(
    two: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    page, document = tmp_path / "report.html", tmp_path / "claims.json"
    ran = two.run(f"--scrub-html={page}", f"--scrub-json={document}", adversary="default")

    properties = {
        case.get("name"): {one.attrib["name"]: one.attrib["value"] for one in case.iter("property")}
        for case in ElementTree.parse(two.pytester.path / "junit.xml").iter("testcase")
    }
    assert properties["test_falls"]["scrub_result"] == FELL
    assert properties["test_falls"]["scrub_outcome"] == "refuted"
    assert properties["test_refuted"]["scrub_result"] == "refuted"

    # whoever reads the JSON tells them apart by two fields
    claims = {
        one["test"].partition("::")[2]: one["verdict"]
        for one in json.loads(document.read_text())["claims"]
    }
    assert [claims["test_falls"][name] for name in ("outcome", "average")] == ["refuted", "held"]
    assert claims["test_refuted"]["average"] == "refuted"

    html = page.read_text()
    assert f"<title>5 claims: {COUNTS}</title>" in html
    assert f"<option>{FELL}</option>" in html
    rows = dict(
        re.findall(r'<tr data-outcome="([^"]*)".*?<a class="text"[^>]*>(.*?)</a>', html, re.DOTALL)
    )
    assert {word: name.replace("<wbr>", "") for word, name in rows.items()} == {
        "held": "test_held", "refuted": "test_refuted", FELL: "test_falls",
        "xfailed as expected": "test_known", "untested": "test_let_pass",
    }  # fmt: skip
    assert f'<span class="outcome fell">▼ {FELL}</span>' in html

    commands = [line for line in ran.text.splitlines() if line.startswith("::")]
    title = FELL.replace(",", "%2C")
    assert any(
        line.startswith("::error") and f"title={title}%3A test_falls" in line for line in commands
    )
    assert any("title=refuted%3A test_refuted" in line for line in commands)
    assert not any("test_known" in line for line in commands)  # as expected
    assert any("::warning" in line and "title=untested (xfailed)" in line for line in commands)
    text = summary.read_text()
    assert text.startswith(f"## Claims: {COUNTS}\n")
    assert f"<b>{FELL}</b>" in text
    assert f"{FELL} (xfailed as expected)" in text


def test_what_a_setting_lets_pass_was_expected_by_nobody(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=1, samples=20, adversaries=[])
        def test_undecided():
            return output(module("B", agrees_on="b"))

        @pytest.mark.xfail(raises=Undecided, strict=True)
        @claim(tolerance=1, samples=20, adversaries=[])
        def test_known():
            return output(module("B", agrees_on="b"))

        @pytest.mark.xfail
        @claim(tolerance=1)
        def test_misstated():
            return output(module("C", agrees_on="b"))
    """)
    ran = suite.run()
    assert "\n1 undecided; 1 xfailed; 1 xfailed as expected\n" in ran.text
    ran = suite.run("--scrub-on-undecided=xfail")
    assert ran.result.ret == 0
    # the setting comes first, and so nobody expected either
    assert "\n2 undecided; 1 xfailed\n" in ran.text


def test_a_test_that_fails_with_a_claim_that_held_counts_as_failed(suite: Suite) -> None:
    suite.write("""
        @pytest.mark.xfail(raises=Refuted, strict=True)
        @claim(tolerance=0.5)
        def test_mended():
            return output(module("A", agrees_on="a"))
    """)
    ran = suite.run()
    assert ran.outcomes == {"failed": 1}
    assert "\n1 held, but its test failed\n" in ran.text


def test_a_slice_that_decided_is_what_is_printed(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=9, by="a", slice_tolerance=0.1)
        def test_slices():
            return output(module("B", agrees_on="b"))
    """)
    ran = suite.run("--scrub-samples=2000")
    (line,) = ran.as_it_ran
    assert re.match(r"  refuted   \S+ \[\S+ \S+\] of 0\.1, where a = [01] ", line)
