"""Which claims pass, with which exit code, in every way of running pytest; and how they stand with
xfail."""

from __future__ import annotations

import dataclasses

import pytest

from tests.pytest_edge.conftest import FEW, FOUR_OUTCOMES, TORCH_CLAIMS, Suite, assert_same_figures
from tests.sizes import only_in_full

MODES = {
    "plain": (),
    "n0": ("-n", "0"),
    "stop at first": ("-x",),
    "no cache": ("-p", "no:cacheprovider"),
    "no terminal": ("-p", "no:terminal"),
    "file order": ("-p", "no:randomly"),
    "random order": ("--randomly-seed=5",),
}


EXIT_CODES = {"held": 0, "refuted": 1, "undecided": 1, "untested": 1, "misstated": 1}


@pytest.mark.parametrize(
    ("outcome", "mode"),
    [
        # in every way of running pytest one that fails, and plainly each
        pytest.param(
            outcome, mode, marks=() if mode == "plain" or outcome == "refuted" else only_in_full
        )
        for outcome in EXIT_CODES
        for mode in MODES
    ],
)
def test_exit_code_of_each_outcome(four: Suite, outcome: str, mode: str) -> None:
    result = four.pytester.runpytest_inprocess(FEW, *MODES[mode], f"test_claims.py::test_{outcome}")
    assert result.ret == EXIT_CODES[outcome]


def test_each_outcome_is_said_and_only_held_passes(four: Suite) -> None:
    ran = four.run()
    assert ran.outcomes == {"passed": 1, "failed": 4}
    assert {name: verdict.outcome for name, verdict in ran.verdicts.items()} == {
        "test_held": "held", "test_refuted": "refuted", "test_undecided": "undecided",
        "test_untested": "untested",
    }  # fmt: skip
    kinds = {name: message.split(":")[0] for name, message in ran.messages.items()}
    assert kinds == {
        "test_refuted": "Refuted", "test_undecided": "Undecided", "test_untested": "Untested",
        "test_misstated": "Misstated",
    }  # fmt: skip


@only_in_full
def test_two_workers_say_what_one_says(four: Suite) -> None:
    four.write(TORCH_CLAIMS, name="test_torch")
    one, two = four.run(), four.run("-n", "2", alone=True)
    assert two.result.ret == 1
    assert two.outcomes == one.outcomes
    assert two.messages == one.messages
    assert two.verdicts.keys() == one.verdicts.keys()
    for name, verdict in one.verdicts.items():
        assert_same_figures(dataclasses.asdict(verdict), dataclasses.asdict(two.verdicts[name]))
    assert two.summary == one.summary
    assert "\x1b" not in two.text + two.result.stderr.str()  # both went to a pipe
    assert len(two.summary) == 8


@only_in_full
def test_two_workers_pass_where_all_claims_hold(suite: Suite) -> None:
    suite.write("""
        @pytest.mark.parametrize("tolerance", range(2))
        @claim(tolerance=0.5)
        def test_held_too(tolerance):
            return output(module("A", agrees_on="a"))

        @pytest.mark.xfail(raises=Refuted, strict=True)
        @claim(tolerance=0.5)
        def test_published():
            return output(module("B", agrees_on="b"))
    """)
    ran = suite.run("-n", "2", alone=True)
    assert ran.result.ret == 0
    assert ran.outcomes == {"passed": 2, "xfailed": 1}
    assert [v.outcome for v in ran.verdicts.values()].count("held") == 2
    assert ran.verdicts["test_published"].outcome == "refuted"


def test_stopping_at_the_first_failure(four: Suite) -> None:
    ran = four.run("-x")
    assert ran.outcomes == {"passed": 1, "failed": 1}
    assert list(ran.verdicts) == ["test_held", "test_refuted"]
    assert len(ran.summary) == 2


def test_a_figure_that_leaves_the_process_is_plain(four: Suite) -> None:
    """numpy numbers in a property would end a worker of pytest-xdist with exit code 0."""
    verdict = four.run().verdicts["test_refuted"]

    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for part in value.values() for leaf in leaves(part)]
        return (
            [leaf for part in value for leaf in leaves(part)]
            if isinstance(value, (list, tuple))
            else [value]
        )

    four.extend_conftest("""
        def pytest_runtest_logreport(report):
            for name, value in report.user_properties:
                assert type(name) is str and type(value) in (str, int, float, bool)
    """)
    assert four.run().outcomes == {"passed": 1, "failed": 4}
    assert {type(leaf) for leaf in leaves(dataclasses.asdict(verdict))} <= {
        str,
        int,
        float,
        bool,
        type(None),
    }


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        ("refuted", {"xfailed": 1}),
        ("held", {"failed": 1}),
        ("undecided", {"failed": 1}),
        ("untested", {"failed": 1}),
        ("misstated", {"failed": 1}),
    ],
)
def test_only_a_refuted_claim_is_an_expected_refutation(
    suite: Suite, outcome: str, expected: dict[str, int]
) -> None:
    suite.write(
        FOUR_OUTCOMES.replace("@claim", "@pytest.mark.xfail(raises=Refuted, strict=True)\n@claim")
    )
    ran = suite.run(f"test_claims.py::test_{outcome}", "-rxX")
    assert ran.outcomes == expected
    assert ran.result.ret == (0 if outcome == "refuted" else 1)
    if outcome == "held":
        assert "XPASS(strict)" in ran.text
    if outcome != "misstated":
        assert ran.verdicts[f"test_{outcome}"].outcome == outcome  # xfail does not hide the figures
        assert len(ran.summary) == 1


@pytest.mark.parametrize(
    ("error", "outcome"), [("Undecided", "undecided"), ("Untested", "untested")]
)
def test_other_outcomes_can_be_expected_too(suite: Suite, error: str, outcome: str) -> None:
    suite.write(
        FOUR_OUTCOMES.replace("@claim", f"@pytest.mark.xfail(raises={error}, strict=True)\n@claim")
    )
    assert suite.run(f"test_claims.py::test_{outcome}").outcomes == {"xfailed": 1}
    assert suite.run("test_claims.py::test_refuted").outcomes == {"failed": 1}


def test_no_outcome_passes_with_runxfail_but_what_warns(four: Suite) -> None:
    """With which pytest.xfail() does nothing."""
    options = ("-oscrub_on_undecided=xfail", "-oscrub_on_untested=warn")
    assert four.run(*options).outcomes == {"passed": 2, "failed": 2, "xfailed": 1, "warnings": 1}
    ran = four.run(*options, "--runxfail")
    assert ran.outcomes == {"passed": 2, "failed": 3, "warnings": 1}
    assert "test_undecided" in ran.messages


def test_an_error_in_the_claim_itself_is_shown_with_its_line(suite: Suite) -> None:
    path = suite.write("""
        @claim(tolerance=1)
        def test_broken():
            return output(module("A", agrees_on=1 / 0))
    """)
    ran = suite.run()
    assert ran.outcomes == {"failed": 1}
    assert not ran.verdicts
    crash = ran.crash("test_broken")
    assert (crash.path, "ZeroDivisionError" in crash.message) == (str(path), True)
    assert "1 / 0" in path.read_text().splitlines()[crash.lineno - 1]
    assert "pytest_scrub/" not in ran.text
