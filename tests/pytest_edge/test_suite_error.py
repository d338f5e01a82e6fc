"""`--scrub-suite-error`: one error for the whole run, shared among the claims that it judges."""

from __future__ import annotations

import json
import shlex

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import few_in_quick

FIVE = """
    @pytest.mark.parametrize("nth", range(4))
    @claim(tolerance=0.5)
    def test_one(nth):
        return output(module("A", agrees_on="a"), rest="a")

    @claim(tolerance=0.5)
    def test_last():
        return output(module("A", agrees_on="a"), rest="a")

    def test_that_is_no_claim():
        pass
"""
ERROR = "--scrub-suite-error=0.05"
SAID = "suite error 0.05, shared among {}: {} % confidence for each"


def confidences(ran) -> set[float]:
    return {verdict.confidence for verdict in ran.verdicts.values()}


@few_in_quick(1)
@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_the_claims_of_a_run_share_it(suite: Suite, arguments: tuple[str, ...]) -> None:
    suite.write(FIVE)
    ran = suite.run(*arguments, ERROR, "--scrub-json=run.json", alone=bool(arguments))
    assert confidences(ran) == {0.99}
    assert len(ran.verdicts) == 5
    assert SAID.format("5 claims", "99") in ran.text.splitlines()
    assert all("99 % asymptotic" in one.interval_kind for one in ran.verdicts.values())
    run = json.loads((suite.pytester.path / "run.json").read_text())
    assert run["run"]["options"][-1] == ERROR
    assert "--scrub-confidence" not in " ".join(run["run"]["options"])
    assert all("--scrub-confidence=0.99" in one["rerun"] for one in run["claims"])
    assert not any("suite-error" in one["rerun"] for one in run["claims"])


def test_claims_that_are_deselected_do_not_count(suite: Suite) -> None:
    suite.write(FIVE)
    few = suite.run(ERROR, "-k", "test_one and (0 or 1)")
    assert confidences(few) == {0.975}
    assert SAID.format("2 claims", "97.5") in few.text
    alone = suite.run(ERROR, "-k", "last")
    assert confidences(alone) == {0.95}
    assert SAID.format("1 claim", "95") in alone.text
    none = suite.run(ERROR, "-k", "no_claim")
    assert none.outcomes["passed"] == 1
    assert "suite error" not in none.text


def test_without_it_every_claim_has_its_own(suite: Suite) -> None:
    suite.write(FIVE)
    ran = suite.run()
    assert confidences(ran) == {0.95}
    assert "suite error" not in ran.text


def test_a_claim_that_is_skipped_counts(suite: Suite) -> None:
    """Which claims a fixture or a condition skips is known too late; the others are only surer."""
    suite.write(
        FIVE
        + """
    @pytest.mark.skip
    @claim(tolerance=0.5)
    def test_skipped():
        return output(module("A", agrees_on="a"), rest="a")
    """
    )
    ran = suite.run("--scrub-suite-error=0.06")
    assert confidences(ran) == {0.99}
    assert ran.outcomes["skipped"] == 1


def test_a_claim_may_be_surer_and_not_less_sure(suite: Suite) -> None:
    suite.write(
        """
    @claim(tolerance=0.5, confidence=0.9)
    def test_less():
        return output(module("A", agrees_on="a"), rest="a")

    @claim(tolerance=0.5, confidence=0.99)
    def test_more():
        return output(module("A", agrees_on="a"), rest="a")

    def test_by_hand(scrub):
        root = output(module("A", agrees_on="a"), rest="a")
        assert scrub.check(root, tolerance=0.5).confidence == 0.975
        with pytest.raises(Exception, match="confidence=0.5 is less than the 0.975"):
            scrub.check(root, tolerance=0.5, confidence=0.5)
    """
    )
    ran = suite.run(ERROR)
    assert ran.outcomes == {"passed": 2, "failed": 1}
    assert ran.verdicts["test_more"].confidence == 0.99
    assert (
        "confidence=0.9 is less than the 0.975 that each of 2 claims needs with "
        "--scrub-suite-error=0.05; leave it out (test_claims.py:" in ran.messages["test_less"]
    )


@pytest.mark.parametrize(
    ("ini", "line", "message"),
    [
        (
            "",
            [ERROR, "--scrub-confidence=0.99"],
            "--scrub-suite-error says how sure the run is and --scrub-confidence how sure each of "
            "its claims: leave one out",
        ),
        (
            "scrub_suite_error = 0.05\nscrub_confidence = 0.99",
            [],
            "scrub_suite_error says how sure the run is and scrub_confidence how sure each of its "
            "claims: leave one out",
        ),
        *(
            (
                "",
                [f"--scrub-suite-error={text}"],
                "--scrub-suite-error takes a probability above 0 and at most 0.5, such as 0.05, "
                f"not '{text}'",
            )
            for text in ("0", "0.6", "nan", "-1", "often")
        ),
    ],
)
def test_what_cannot_be_is_a_usage_error(
    suite: Suite, ini: str, line: list[str], message: str
) -> None:
    suite.write("raise AssertionError('collected')")
    if ini:
        suite.pytester.makeini(f"[pytest]\n{ini}")
    result = suite.pytester.runpytest_inprocess(*line)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [said for said in result.stderr.lines if said] == [f"ERROR: {message}"]


@few_in_quick(1)
@pytest.mark.parametrize("arguments", [(), ("-n", "2")])
def test_more_than_intervals_can_give_is_refused(suite: Suite, arguments: tuple[str, ...]) -> None:
    suite.write(FIVE)
    ran = suite.run("--scrub-suite-error=0.0004", *arguments, alone=bool(arguments))
    assert ran.result.ret == 1
    assert not ran.verdicts
    assert ran.outcomes == {"passed": 1, "errors": 5}
    said = (
        "--scrub-suite-error: 0.0004 shared among 5 claims asks for more than 0.9999 confidence "
        "of each; make it larger, or run fewer claims"
    )
    assert set(ran.reports.values()) == {said}


def test_the_command_line_comes_before_the_ini_file(suite: Suite) -> None:
    suite.write(FIVE)
    suite.pytester.makeini("[pytest]\nscrub_suite_error = 0.05\n")
    assert confidences(suite.run()) == {0.99}
    assert confidences(suite.run("--scrub-suite-error=0.1")) == {0.98}
    own = suite.run("--scrub-confidence=0.9")
    assert confidences(own) == {0.9}
    assert "suite error" not in own.text
    suite.pytester.makeini("[pytest]\nscrub_confidence = 0.9\n")
    assert confidences(suite.run(ERROR)) == {0.99}


def test_one_claim_is_run_again_with_the_same_figures(suite: Suite) -> None:
    suite.write(FIVE)
    suite.pytester.makeini("[pytest]\nscrub_suite_error = 0.07\n")
    before = suite.run("--scrub-json=run.json")
    (claim,) = (
        one
        for one in json.loads((suite.pytester.path / "run.json").read_text())["claims"]
        if one["test"].endswith("test_last")
    )
    _, *arguments = shlex.split(claim["rerun"])
    again = suite.run(*arguments)
    assert again.verdicts == {"test_last": before.verdicts["test_last"]}
