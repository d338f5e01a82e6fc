"""Options of the command line, their twins in the ini file, and the fixtures that give them."""

from __future__ import annotations

import pytest

from .conftest import FEW, Suite

HELD = """
    @claim(tolerance=0.5)
    def test_held(scrub_seed, scrub_device):
        print(f"given: seed {scrub_seed!r}, device {scrub_device!r}")
        return output(module("A", agrees_on="a"))
"""


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("--scrub-samples=abc", "--scrub-samples takes a whole number, not 'abc'"),
        ("--scrub-samples=1", "--scrub-samples is at least 2, not 1"),
        ("--scrub-samples=2.5", "--scrub-samples takes a whole number, not '2.5'"),
        ("--scrub-seed=one", "--scrub-seed takes a whole number, not 'one'"),
        ("scrub_samples=many", "scrub_samples takes a whole number, not 'many'"),
        ("scrub_samples=0", "scrub_samples is at least 2, not 0"),
        ("scrub_seed=x", "scrub_seed takes a whole number, not 'x'"),
    ],
)
def test_malformed_options_are_refused_before_anything_is_collected(suite: Suite, given: str, message: str) -> None:
    suite.write("raise AssertionError('collected')")
    if not given.startswith("--"):
        suite.pytester.makeini(f"[pytest]\n{given}")
    result = suite.pytester.runpytest_inprocess(*([given] if given.startswith("--") else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.stderr.lines if line] == [f"ERROR: {message}"]


@pytest.mark.parametrize(
    ("ini", "arguments", "samples", "seed"),
    [
        ("", (), 4000, 0),
        ("", ("--scrub-samples=50", "--scrub-seed=3"), 50, 3),
        ("scrub_samples = 60\nscrub_seed = 4", (), 60, 4),
        ("scrub_samples = 60\nscrub_seed = 4", ("--scrub-samples=50",), 50, 4),
        ("scrub_samples = 60\nscrub_seed = 4", ("--scrub-seed=0",), 60, 0),
        ("scrub_samples = no", ("--scrub-samples=50",), 50, 0),
    ],
)
def test_the_command_line_comes_before_the_ini_file(
    suite: Suite, ini: str, arguments: tuple[str, ...], samples: int, seed: int
) -> None:
    suite.write(HELD.replace("0.5", "0"))
    suite.pytester.makeini(f"[pytest]\n{ini}")
    result = suite.pytester.runpytest_inprocess(*arguments, "-p", "no:randomly")
    result.stdout.fnmatch_lines([f"given: seed {seed}, device 'cpu'"])
    result.stdout.fnmatch_lines([f"* of at most {samples} samples, seed {seed}; *"])


def test_the_claim_comes_before_the_command_line(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=0.5, samples=33)
        def test_own():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_default():
            return output(module("A", agrees_on="a"))
    """)
    verdicts = suite.run().verdicts
    assert FEW.endswith("=200")
    assert (verdicts["test_own"].samples, verdicts["test_default"].samples) == (33, 200)


@pytest.mark.parametrize("ini", [True, False])
def test_the_device_is_given_as_it_is(suite: Suite, ini: bool) -> None:
    suite.write(HELD)
    suite.pytester.makeini("[pytest]\nscrub_device = meta" if ini else "")
    ran = suite.run("-s", *([] if ini else ["--scrub-device=meta"]))
    ran.result.stdout.fnmatch_lines(["*given: seed 0, device 'meta'"])


def test_help_lists_the_options_with_their_defaults(pytester: pytest.Pytester) -> None:
    lines = pytester.runpytest_inprocess("--help").stdout
    lines.re_match_lines([r"\s+--scrub-seed=X", r"\s+--scrub-samples=X", r"\s+--scrub-device=X"])
    text = " ".join(lines.str().split())
    assert "(default 4000)" in text
    assert "scrub_samples (string)" in text
