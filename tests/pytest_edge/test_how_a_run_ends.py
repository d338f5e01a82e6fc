"""The last line of a run and its exit code: nothing that fails the run is left for somebody to
scroll up to."""

from __future__ import annotations

import json

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import few_in_quick, only_in_full

FAILED, INTERRUPTED = pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED

HELD = """
    @claim(tolerance=9)
    def test_held():
        return output(module("A", agrees_on=ANYTHING), rest=EXACT)
"""
SHARPER = """
    @pytest.fixture(scope="session")
    def scrub_model():
        return network(4)
"""
FULL = """
    import errno, os

    def pytest_sessionstart(session):
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        original = os.fsync
        session.config.add_cleanup(lambda: setattr(os, "fsync", original))
        os.fsync = full
"""
MODES = pytest.mark.parametrize(
    "mode",
    [
        (),
        pytest.param(("-n0", "-x"), marks=only_in_full),
        ("-n2", "-q"),
        ("--tb=no", "-qq"),
        ("-p", "no:terminal"),
    ],
    ids=" ".join,
)


def last_line(suite: Suite, *args: str) -> tuple[str, int]:
    """What stands last on the screen, and the exit code."""
    # Workers are processes of their own, and a terminal's reporter that is switched off stays so in
    # this one.
    ran = suite.run(*args, alone=not {"-n2", "no:terminal"}.isdisjoint(args))
    lines = [line for line in (*ran.result.outlines, *ran.result.errlines) if line.strip()]
    return lines[-1], int(ran.result.ret)


@few_in_quick(2)
@MODES
def test_a_figure_that_moved_is_said_last(suite: Suite, mode: tuple[str, ...]) -> None:
    suite.write(HELD)
    suite.run("--scrub-save")
    suite.extend_conftest(SHARPER)
    said = "ERROR: 1 claim was not as in the baseline 'main', so this run fails"
    assert last_line(suite, "--scrub-compare", *mode) == (said, FAILED)


@few_in_quick(2)
@MODES
def test_a_comparison_of_nothing_is_said_last(suite: Suite, mode: tuple[str, ...]) -> None:
    suite.write(HELD)
    suite.run("--scrub-save")
    suite.write(HELD.replace("test_held", "test_renamed"))
    line, code = last_line(suite, "--scrub-compare", *mode)
    assert line.startswith(
        "ERROR: no claim of the baseline 'main' was compared, so this run fails; run one that it "
        "has"
    )
    assert code == FAILED


@pytest.mark.parametrize(
    "args", [("--collect-only",), ("--scrub-list",), ("--fixtures",), ("no_such_file.py",)]
)
def test_a_run_without_claims_leaves_the_reports_of_another(
    suite: Suite, args: tuple[str, ...]
) -> None:
    suite.write(HELD)
    pages = [suite.pytester.path / name for name in ("a.json", "a.html")]
    given = ("--scrub-json=a.json", "--scrub-html=a.html")
    suite.run(*given)
    before = [page.read_text() for page in pages]
    ran = suite.run(*given, *args)
    assert [page.read_text() for page in pages] == before
    assert ("no claim was run, so a.json is not written" in ran.text) == (
        args == ("--collect-only",)
    )


@few_in_quick(2)
@MODES
def test_a_report_that_could_not_be_written_is_said_last(
    suite: Suite, mode: tuple[str, ...]
) -> None:
    suite.write(HELD)
    suite.extend_conftest(FULL)
    said = (
        f"ERROR: {suite.pytester.path / 'claims.json'} could not be written: No space left on "
        "device"
    )
    assert last_line(suite, "--scrub-json=claims.json", "-p", "no:cacheprovider", *mode) == (
        said,
        FAILED,
    )


def test_what_github_reads_is_no_reason_to_say_it_earlier(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite.write(HELD)
    suite.run("--scrub-save")
    suite.extend_conftest(SHARPER)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    line, code = last_line(suite, "--scrub-compare")
    assert (line.partition(":")[0], code) == ("ERROR", FAILED)


# A claim that was being checked -------------------------------------------------------------------

ENDED = f"""{HELD}
    @claim(tolerance=9)
    def test_running():
        import os, time
        {{how}}
        return output(module("B", agrees_on="b"))
"""
UNFINISHED = "ERROR: 1 claim was interrupted, so not every claim has a verdict"


def results(suite: Suite) -> dict[str, tuple[str, str]]:
    document = json.loads((suite.pytester.path / "claims.json").read_text())
    assert document["run"]["interrupted"]
    return {
        one["test"].partition("::")[2]: (one["result"], one["outcome"])
        for one in document["claims"]
    }


@few_in_quick(2)
@pytest.mark.parametrize(
    ("how", "code"),
    [
        ("raise KeyboardInterrupt", INTERRUPTED),
        ("pytest.exit('enough')", INTERRUPTED),
        ("pytest.exit('enough', returncode=7)", 7),
        # the claims that did not hold would otherwise pass
        ("pytest.exit('enough', returncode=0)", FAILED),
    ],
)
def test_a_claim_that_is_interrupted_did_not_pass(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, how: str, code: int
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(suite.pytester.path / "summary.md"))
    suite.write(ENDED.format(how=how))
    ran = suite.run("--scrub-json=claims.json", "--scrub-html=claims.html", alone=True)
    assert ran.result.ret == code
    assert UNFINISHED in ran.result.outlines
    assert results(suite) == {"test_held": ("passed", "held"), "test_running": ("interrupted",) * 2}
    if code != 7:  # pytest prints no summary then
        said = "interrupted test_claims.py::test_running: the run ended before it had a verdict"
        ran.result.stdout.fnmatch_lines(
            [said, "::warning file=test_claims.py,*title=interrupted*test_running::*"]
        )
    assert "## Claims: 1 held; 1 interrupted" in (suite.pytester.path / "summary.md").read_text()
    assert "interrupted" in (suite.pytester.path / "claims.html").read_text()


def test_a_claim_whose_worker_died_failed(suite: Suite) -> None:
    suite.write(ENDED.format(how="time.sleep(1); os._exit(9)"))
    ran = suite.run("--scrub-json=claims.json", "-n1", alone=True)
    assert ran.result.ret == FAILED
    found = json.loads((suite.pytester.path / "claims.json").read_text())["claims"]
    assert {one["test"].partition("::")[2]: one["result"] for one in found} == {
        "test_held": "passed", "test_running": "failed",
    }  # fmt: skip


@pytest.mark.parametrize("limit", ["-x", "--maxfail=1", "--stepwise"])
def test_a_run_that_stops_at_a_failure_says_that_claims_may_be_missing(
    suite: Suite, limit: str
) -> None:
    suite.write(ENDED.format(how="raise ValueError('stop')") + HELD.replace("held", "later"))
    assert suite.run("--scrub-json=claims.json", limit).result.ret != 0
    assert results(suite) == {"test_held": ("passed", "held"), "test_running": ("failed", "failed")}


def test_fixtures_alone_are_no_check(suite: Suite) -> None:
    suite.write(HELD)
    suite.run("--scrub-json=claims.json", "--setup-only")
    (one,) = json.loads((suite.pytester.path / "claims.json").read_text())["claims"]
    assert (one["result"], one["message"]) == ("skipped", "only its fixtures were set up")
