"""Claims as gates: what undecided, untested and weak ones do, and what a run says of how much its
claims say."""

from __future__ import annotations

import pytest

from tests.pytest_edge.conftest import Suite

LUKEWARM = """
@claim(tolerance=1, samples=20{undecided})
def test_undecided():
    return output(module("B", agrees_on="b"))

@claim(tolerance=0.5{untested})
def test_untested():
    return output(module("A", agrees_on="row"))

@claim(tolerance=0.5)
def test_refuted():
    return output(module("B", agrees_on="b"))
"""


def lukewarm(suite: Suite, undecided: str = "", untested: str = "") -> Suite:
    suite.write(LUKEWARM.format(undecided=undecided, untested=untested))
    return suite


@pytest.mark.parametrize(
    ("options", "outcomes"),
    [
        ((), {"failed": 3}),
        (("--scrub-on-undecided=xfail",), {"failed": 2, "xfailed": 1}),
        (("--scrub-on-undecided=warn",), {"failed": 2, "passed": 1, "warnings": 1}),
        (("--scrub-on-untested=xfail",), {"failed": 2, "xfailed": 1}),
        (
            ("--scrub-on-untested=warn", "--scrub-on-undecided=warn"),
            {"failed": 1, "passed": 2, "warnings": 2},
        ),
    ],
)
def test_what_undecided_and_untested_do_is_a_setting(
    suite: Suite, options: tuple[str, ...], outcomes: dict[str, int]
) -> None:
    ran = lukewarm(suite).run(*options)
    assert ran.outcomes == outcomes
    assert [verdict.outcome for verdict in ran.verdicts.values()] == [
        "undecided",
        "untested",
        "refuted",
    ]
    assert len(ran.summary) == 3  # whatever they do, they are told


def test_the_claim_comes_before_the_option_and_the_ini_file(suite: Suite) -> None:
    suite.pytester.makeini("[pytest]\nscrub_on_undecided = warn\nscrub_on_untested = warn")
    assert lukewarm(suite).run().outcomes == {"failed": 1, "passed": 2, "warnings": 2}
    assert suite.run("--scrub-on-untested=fail").outcomes == {
        "failed": 2,
        "passed": 1,
        "warnings": 1,
    }
    ran = lukewarm(suite, ", on_undecided='fail'", ", on_untested='xfail'").run()
    assert ran.outcomes == {"failed": 2, "xfailed": 1}


def test_a_warning_stands_on_the_claim_and_can_be_an_error(suite: Suite) -> None:
    lukewarm(suite)
    ran = suite.run("--scrub-on-undecided=warn", "-k", "undecided")
    ran.result.stdout.fnmatch_lines(["*test_claims.py:*: ScrubWarning: claim undecided: gap *"])
    error = suite.run(
        "--scrub-on-undecided=warn", "-k", "undecided", "-W", "error::pytest_scrub.ScrubWarning"
    )
    assert error.outcomes == {"failed": 1, "deselected": 2}


def test_an_xfail_says_why(suite: Suite) -> None:
    ran = lukewarm(suite).run("--scrub-on-untested=xfail", "-rx")
    ran.result.stdout.fnmatch_lines(
        ["XFAIL *test_untested - *claim untested: too little is swapped at output/A"]
    )


def test_a_published_refutation_is_not_excused(suite: Suite) -> None:
    suite.write("""
        @pytest.mark.xfail(raises=Refuted, strict=True)
        @claim(tolerance=1, samples=20)
        def test_published():
            return output(module("B", agrees_on="b"))
    """)
    assert suite.run().outcomes == {"failed": 1}  # undecided is another class


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("on_undecided='skip'", "on_undecided= is one of fail, xfail, warn, not 'skip'"),
        ("direction='down'", "direction= is 'either' or 'worse', not 'down'"),
    ],
)
def test_a_word_that_is_none_is_an_error_at_collection(
    suite: Suite, options: str, message: str
) -> None:
    suite.write(f"""
        @claim(tolerance=1, {options})
        def test_it():
            return output(module("B", agrees_on="b"))
    """)
    ran = suite.run()
    assert ran.outcomes == {"errors": 1}
    assert message in ran.text


@pytest.mark.parametrize("option", ["on-undecided", "on-untested"])
def test_an_option_that_is_none_is_refused(suite: Suite, option: str) -> None:
    result = lukewarm(suite).pytester.runpytest_inprocess(f"--scrub-{option}=ignore")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        [f"ERROR: --scrub-{option} is one of fail, xfail, warn, not 'ignore'"]
    )


SAYS_LITTLE = """
@claim(tolerance=0.5)
def test_says_something():
    return output(module("A", agrees_on="a"))

@claim(tolerance=3)
def test_says_nothing():
    return output(module("B", agrees_on="b"), rest=EXACT)
"""


def test_mutants_are_judged_on_request(suite: Suite) -> None:
    suite.write(SAYS_LITTLE)
    plain = suite.run()
    assert [verdict.power for verdict in plain.verdicts.values()] == [None, None]
    assert "power" not in plain.text
    ran = suite.run("--scrub-mutate", "--scrub-on-weak=warn")
    assert ran.outcomes == {"passed": 2, "warnings": 1}  # to look is not to gate
    something, nothing = (
        ran.verdicts[name].power for name in ("test_says_something", "test_says_nothing")
    )
    assert something is not None
    assert nothing is not None
    assert something.refuted > 0 == nothing.refuted
    ran.result.stdout.fnmatch_lines([
        "test_claims.py::test_says_nothing",
        f"  power: 0 of {len(nothing.mutants)} false claims made from it are refuted (0%; * "
        "equivalent ones left out)",
        "    held, gap *: the claim does not depend on B: it would hold without it",
    ])  # fmt: skip


def test_the_ini_file_can_ask_for_mutants_and_controls(suite: Suite) -> None:
    suite.write(SAYS_LITTLE)
    suite.pytester.makeini("[pytest]\nscrub_mutate = true\nscrub_controls = true")
    ran = suite.run()
    assert all(verdict.power is not None for verdict in ran.verdicts.values())
    assert {len(verdict.controls) for verdict in ran.verdicts.values()} == {2}
    nothing = (
        "control, features permuted among rows: held, gap *; it holds there too, so it says nothing"
    )
    ran.result.stdout.fnmatch_lines([nothing])
    assert ran.verdicts["test_says_nothing"].outcome == "weak"
    assert ran.messages["test_says_nothing"].startswith(
        "Weak: claim weak: it held, but it would hold as well with features permuted (gap "
    )


def test_a_claim_without_the_power_it_asks_for_fails_as_weak(suite: Suite) -> None:
    suite.write("""
        from pytest_scrub import Weak

        @claim(tolerance=0.5, min_power=0.2)
        def test_strong():
            return output(module("A", agrees_on="a"))

        @pytest.mark.xfail(raises=Weak, strict=True)
        @claim(tolerance=0.5, min_power=0.9)
        def test_published_as_weak():
            return output(module("A", agrees_on="a"), module("B", agrees_on="b"))

        @claim(tolerance=0.5, min_power=0.9)
        def test_weak():
            return output(module("A", agrees_on="a"), module("B", agrees_on="b"))
    """)
    ran = suite.run()
    assert ran.outcomes == {"passed": 1, "xfailed": 1, "failed": 1}
    assert ran.messages["test_weak"].splitlines()[0] == (
        "Weak: claim weak: it held, but 60% of the false claims made from it are refuted, where "
        "90% are asked for"
    )
    assert "it would hold without it" in ran.reports["test_weak"]
    ran.result.stdout.fnmatch_lines(["test_claims.py::test_weak", "weak * 3/5"])


def test_the_worst_slice_is_named(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=1.5, by="a", slice_tolerance=0.001)
        def test_slices():
            return output(module("B", agrees_on="b"), rest=EXACT)
    """)
    ran = suite.run("--scrub-samples=2000")
    assert ran.verdicts["test_slices"].outcome in {"refuted", "undecided"}
    assert " where a = " in ran.messages["test_slices"]
    assert (
        "by a (each within 0.001; intervals corrected for 2 slices):" in ran.reports["test_slices"]
    )
