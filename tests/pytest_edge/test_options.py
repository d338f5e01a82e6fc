"""Options of the command line, their twins in the ini file, and the fixtures that give them."""

from __future__ import annotations

import warnings

import pytest
import torch

from pytest_scrub.pytest_edge.options import require_known
from tests.pytest_edge.conftest import FEW, Suite

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
def test_malformed_options_are_refused_before_anything_is_collected(
    suite: Suite, given: str, message: str
) -> None:
    suite.write("raise AssertionError('collected')")
    if not given.startswith("--"):
        suite.pytester.makeini(f"[pytest]\n{given}")
    result = suite.pytester.runpytest_inprocess(*([given] if given.startswith("--") else []))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.stderr.lines if line] == [f"ERROR: {message}"]


@pytest.mark.parametrize("arguments", [(), ("-n", "1"), ("--collect-only",)])
@pytest.mark.parametrize(
    ("ini", "said"),
    [
        ("scrub_sampels = 10", "scrub_sampels; did you mean 'scrub_samples'?"),
        ("scrub-compare = main", "scrub-compare; did you mean 'scrub_compare'?"),
        ("scrub_zzzzzzzzzzzzzzzz = 1", "scrub_zzzzzzzzzzzzzzzz"),
    ],
)
def test_a_misspelt_option_of_the_ini_file_is_no_option_that_is_left_out(
    suite: Suite, ini: str, said: str, arguments: tuple[str, ...]
) -> None:
    suite.write(HELD)
    suite.pytester.makeini(f"[pytest]\n{ini}")
    alone = "-n" in arguments
    run = suite.pytester.runpytest_subprocess if alone else suite.pytester.runpytest_inprocess
    result = run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert f"ERROR: the ini file has no option {said}" in [*result.stderr.lines, *result.outlines]


def test_reading_the_ini_file_is_silent_where_pytest_deprecates_how(
    pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deprecated(config: pytest.Config) -> dict[str, str]:
        warnings.warn("config.inicfg is deprecated", pytest.PytestDeprecationWarning, stacklevel=2)
        return {"testpaths": "tests"}

    monkeypatch.setattr(pytest.Config, "inicfg", property(deprecated))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_known(pytestconfig)


@pytest.mark.parametrize("given", ["ini", "-o"])
@pytest.mark.parametrize(
    "off", [("-Wignore",), ("-p", "no:warnings"), ("-ofilterwarnings=ignore",)]
)
def test_a_misspelt_option_is_an_error_where_warnings_are_off(
    suite: Suite, off: tuple[str, ...], given: str
) -> None:
    """A gate that is only warned of would stay open."""
    suite.write(HELD)
    if given == "ini":
        suite.pytester.makeini("[pytest]\nscrub_comparee = main")
    options = () if given == "ini" else ("-o", "scrub_comparee=main")
    result = suite.pytester.runpytest_inprocess(*off, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    said = "ERROR: the ini file has no option scrub_comparee; did you mean 'scrub_compare'?"
    assert said in result.stderr.lines


def test_limits_without_a_baseline_gate_nothing(suite: Suite) -> None:
    suite.write(HELD)
    result = suite.pytester.runpytest_inprocess("--scrub-compare-fail=gap:10%")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: --scrub-compare-fail says what may change *with --scrub-compare"]
    )


def test_an_unknown_option_of_another_plugin_is_left_to_pytest(suite: Suite) -> None:
    suite.write(HELD)
    suite.pytester.makeini("[pytest]\nother_option = 1")
    suite.run().result.assert_outcomes(passed=1)


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


def test_a_flag_that_a_claim_has_off_stays_off(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=0.5, controls=False)
        def test_own():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_default():
            return output(module("A", agrees_on="a"))

        def test_scrub(scrub):
            claimed = output(module("A", agrees_on="a"))
            on, off = (scrub.check(claimed, tolerance=0.5, **{"mutate": m}) for m in (True, False))
            assert (on.power is None, off.power is None) == (False, True)
    """)
    ran = suite.run("--scrub-controls", "--scrub-mutate")
    assert ran.outcomes["passed"] >= 1
    assert (ran.verdicts["test_own"].controls, len(ran.verdicts["test_default"].controls)) == (
        (),
        2,
    )
    assert "test_scrub" not in ran.messages


@pytest.mark.parametrize("ini", [True, False])
def test_the_device_is_given_as_it_is(suite: Suite, ini: bool) -> None:
    suite.write(HELD)
    suite.pytester.makeini("[pytest]\nscrub_device = cpu:0" if ini else "")
    ran = suite.run("-s", *([] if ini else ["--scrub-device=cpu:0"]))
    ran.result.stdout.fnmatch_lines(["*given: seed 0, device 'cpu:0'"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--scrub-json="],
            "--scrub-json was given no value; leave it out, or turn off what the ini file says: -o",
        ),
        (
            ["--scrub-samples="],
            "--scrub-samples was given no value; leave it out, or turn off what the ini file says",
        ),
        (
            ["--scrub-save="],
            "--scrub-save was given no value; leave it out, or turn off what the ini file says",
        ),
        (["-o", "scrub_samples="], "scrub_samples takes a whole number, not ''"),
        (["-o", "scrub_mutate=perhaps"], "scrub_mutate takes true or false"),
        (
            ["--scrub-json=."],
            "--scrub-json: {here} cannot be written (it is a folder); name another one, or make "
            "room",
        ),
        (["--scrub-html=out/"], "--scrub-html takes a file, not the folder 'out/'"),
        (["-o", "scrub_html=out/"], "scrub_html takes a file, not the folder 'out/'"),
        (
            ["--scrub-json=/dev/null"],
            "--scrub-json: /dev/null cannot be written (it is no ordinary file); name another",
        ),
        (
            ["--scrub-json=taken/a.json"],
            "--scrub-json: {here}/taken/a.json cannot be written (Not a directory); name",
        ),
        (
            ["-o", "scrub_html=taken/a"],
            "scrub_html: {here}/taken/a cannot be written (Not a directory); name another",
        ),
        (
            ["--scrub-html=a", "--scrub-json=./a"],
            "--scrub-html and --scrub-json name the same file {here}/a; give each",
        ),
        (
            ["--scrub-replay=no.json"],
            "--scrub-replay: {here}/no.json cannot be read (No such file or directory); name",
        ),
        (
            ["--scrub-replay=."],
            "--scrub-replay: {here} cannot be read (Is a directory); name a file of .scrub",
        ),
        ([f"--scrub-json={'a' * 300}"], "cannot be written (File name too long); name another one"),
        (
            [f"--scrub-save={'a' * 300}"],
            "--scrub-save takes a name of up to 100 letters, digits, dots and dashes, not",
        ),
        (
            [f"--scrub-compare={'a' * 300}"],
            "--scrub-compare takes a name of up to 100 letters, digits, dots and",
        ),
    ],
)
def test_files_that_cannot_be_are_told_before_anything_is_run(
    suite: Suite, options: list[str], said: str
) -> None:
    suite.write(HELD)
    here = suite.pytester.path
    (here / "taken").write_text("a file")
    before = sorted(here.iterdir())
    result = suite.pytester.runpytest_inprocess(*options, "-p", "no:cacheprovider")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if line]
    assert line.startswith("ERROR: ")
    assert said.format(here=here) in line
    assert "collected" not in result.stdout.str()
    assert sorted(here.iterdir()) == before


def test_a_number_in_a_toml_file_is_no_text(suite: Suite) -> None:
    suite.write(HELD)
    suite.pytester.makepyprojecttoml("[tool.pytest.ini_options]\nscrub_samples = [100, 200]")
    result = suite.pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: scrub_samples takes one value, not *100*"])


def test_a_report_lies_where_the_run_began(suite: Suite) -> None:
    suite.write(f"""{HELD}
    def test_moves(tmp_path):
        import os
        os.chdir(tmp_path)
    """)
    suite.run("--scrub-json=claims.json")
    assert (suite.pytester.path / "claims.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
@pytest.mark.parametrize("ini", [True, False])
@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("cuda", "is 'cuda', but torch finds no cuda devices here"),
        ("cuda:99", "is 'cuda:99', but torch finds no cuda devices here"),
        ("cpu:1", "is 'cpu:1', but torch finds 1 cpu device here"),
        ("gpu", "takes a torch device such as cpu or cuda:0, not 'gpu'"),
        ("cuda:-1", "takes a torch device such as cpu or cuda:0, not 'cuda:-1'"),
        ("meta", "takes a torch device that computes, such as cpu or cuda, not 'meta'"),
    ],
)
def test_a_device_that_is_not_there_is_refused(
    suite: Suite, device: str, said: str, ini: bool
) -> None:
    """Also where no fixture asks for it: the figures would be those of the CPU."""
    suite.write(HELD)
    options = ["-o", f"scrub_device={device}"] if ini else [f"--scrub-device={device}"]
    result = suite.pytester.runpytest_inprocess(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert [line for line in result.stderr.lines if line] == [
        f"ERROR: {'scrub_' if ini else '--scrub-'}device {said}"
    ]


def test_help_lists_the_options_with_their_defaults(pytester: pytest.Pytester) -> None:
    lines = pytester.runpytest_inprocess("--help").stdout
    lines.re_match_lines([r"\s+--scrub-seed=X", r"\s+--scrub-samples=X", r"\s+--scrub-device=X"])
    text = " ".join(lines.str().split())
    assert "(default 4000)" in text
    assert "scrub_samples (string)" in text
