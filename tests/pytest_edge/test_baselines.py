"""`--scrub-save` and `--scrub-compare`: what is kept of a run, and when another one is not as it
was."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_scrub.engine.functions import functions_of
from pytest_scrub.metrics import Metric, cross_entropy, logit_difference
from pytest_scrub.tree.nodes import module, output
from tests.pytest_edge.conftest import TORCH_CLAIMS, Suite
from tests.sizes import few_in_quick, only_in_full

CLAIMS = """
    @claim(tolerance=0.5)
    def test_held():
        return output(module("A", agrees_on="a"))

    @pytest.mark.xfail(raises=Refuted, strict=True)
    @claim(tolerance=0.5)
    def test_refuted():
        return output(module("B", agrees_on="b"))
"""
OTHER_WEIGHTS = """
    @pytest.fixture(scope="session")
    def scrub_model():
        return network({sharpness})
"""
OK, FAILED, INTERRUPTED, USAGE = (
    pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED,
    pytest.ExitCode.USAGE_ERROR,
)  # fmt: skip
MODES = pytest.mark.parametrize(
    ("mode", "alone"),
    [
        (("-n0",), False),
        (("-n2",), True),
        pytest.param(("-x",), False, marks=only_in_full),
        pytest.param(("-p", "randomly", "--randomly-seed=3"), False, marks=only_in_full),
    ],
    ids=["n0", "n2", "x", "random"],
)


@pytest.fixture
def two(suite: Suite) -> Suite:
    suite.write(CLAIMS)
    return suite


def files(suite: Suite, name: str = "main") -> dict[str, str]:
    folder = suite.pytester.path / ".scrub" / "baselines" / name
    return {path.name: path.read_text() for path in sorted(folder.glob("*"))}


def records(suite: Suite, name: str = "main") -> dict[str, dict[str, Any]]:
    found = (json.loads(text) for text in files(suite, name).values())
    return {one["claim"].partition("::")[2]: one for one in found}


def sharpen(suite: Suite, sharpness: float) -> None:
    suite.extend_conftest(OTHER_WEIGHTS.format(sharpness=sharpness))


def compared(text: str) -> str:
    """What is said of the baseline, without the padding between columns."""
    lines = text.partition("compared with the baseline")[2].splitlines()[1:]
    end = next((i for i, line in enumerate(lines) if line.startswith(("===", "!!!"))), len(lines))
    return "\n".join(" ".join(line.split()) for line in lines[:end])


@few_in_quick(1)
@MODES
def test_an_unchanged_suite_is_as_it_was_in_every_mode(
    two: Suite, mode: tuple[str, ...], alone: bool
) -> None:
    ran = two.run("--scrub-save", "--scrub-mutate", adversary="default")
    assert ran.result.ret == OK
    ran.result.stdout.fnmatch_lines(["wrote the figures of 2 claims to .scrub?baselines?main"])
    before = files(two)
    ran = two.run(
        "--scrub-compare", "--scrub-save", "--scrub-mutate", *mode, alone=alone, adversary="default"
    )
    assert ran.result.ret == OK
    assert "2 claims compared: no outcome changed" in compared(ran.text)
    assert "moved\n" not in compared(ran.text)
    # a counterexample, which would end the second search: one that is compared begins anew
    assert two.saved
    assert files(two) == before


@MODES
def test_a_perturbed_weight_fails_in_every_mode(
    two: Suite, mode: tuple[str, ...], alone: bool
) -> None:
    two.run("--scrub-save")
    old = two.run("--scrub-compare").verdicts["test_refuted"].gap.mean
    sharpen(two, 4)
    ran = two.run("--scrub-compare", "--scrub-compare-fail=all:0", *mode, alone=alone)
    assert ran.outcomes == {"passed": 1, "xfailed": 1}
    assert ran.result.ret == FAILED
    new = ran.verdicts["test_refuted"].gap.mean
    said = compared(ran.text)
    assert "2 of 2 claims not as in the baseline 'main':" in said
    # its gap did not move, but what it would cost if it knew nothing
    assert "test_held: null moved by +" in said
    assert f"test_refuted: gap moved by {new - old:+.3g} from {old:.4g} to {new:.4g}" in said
    assert "the network's weights changed" in said
    assert "if that is meant, save the new figures with --scrub-save=main" in said


def test_the_exit_code_is_ones_own_where_every_test_passes(two: Suite) -> None:
    """A gate that stays open would not be seen among failures."""
    two.run("--scrub-save", adversary="default")
    sharpen(two, 1.9)
    only = ("--scrub-compare", "-k", "held")
    # of a network that was trained again, whose worst is another
    ran = two.run(*only, adversary="default")
    assert ran.result.ret == OK
    assert "1 figure moved that is only shown" in compared(ran.text)
    only = (*only, "--scrub-compare-fail=worst:0")
    for alone, mode in ((False, "-n0"), (True, "-n2")):
        ran = two.run(*only, mode, alone=alone, adversary="default")
        assert ran.outcomes.keys() <= {"passed", "deselected"}
        assert ran.result.ret == FAILED
        assert "test_held: worst moved by +" in compared(ran.text)
    limited = (*only[:-1], "--scrub-compare-fail=worst:50%")
    assert two.run(*limited, adversary="default").result.ret == OK


LATER = """
    import os, signal, time

    @claim(tolerance=9)
    def test_first():
        return output(module("B", agrees_on="b"))

    @claim(tolerance=9)
    def test_later():
        if {interrupts}:
            if not {of_parent}:
                raise KeyboardInterrupt
            time.sleep(2)  # until the first claim's report has come in
            os.kill(int(os.environ["CONTROLLER"]), signal.SIGINT)
            time.sleep(3)
        return output(module("B", agrees_on="b"))
"""


@pytest.mark.parametrize(
    ("mode", "alone"), [("-n0", False), pytest.param("-n1", True, marks=only_in_full)]
)
def test_what_was_decided_before_an_interrupt_is_saved_and_compared(
    suite: Suite, mode: str, alone: bool
) -> None:
    # a process in the background may have been told to ignore interrupts, and so its children
    if alone:
        suite.extend_conftest("""
            import os, signal
            signal.signal(signal.SIGINT, signal.default_int_handler)
            def pytest_configure(config):
                if not hasattr(config, "workerinput"):  # its workers inherit it
                    os.environ["CONTROLLER"] = str(os.getpid())
        """)
    suite.write(LATER.format(interrupts=False, of_parent=False))
    suite.run("--scrub-save")
    before = files(suite)
    suite.write(LATER.format(interrupts=True, of_parent=alone))
    sharpen(suite, 4)
    own = {} if alone else {"no_reraise_ctrlc": True}
    ran = suite.run("--scrub-compare", "--scrub-save", mode, alone=alone, **own)
    assert ran.result.ret == INTERRUPTED
    said = compared(ran.text)
    assert "1 of 1 claim not as in the baseline 'main':" in said
    assert "test_first: gap moved by +" in said
    assert "test_later: in the baseline, but not in this run" in said
    after = files(suite)
    assert [name for name in before if before[name] != after[name]] == [
        name for name in before if "first" in name
    ]
    ran.result.stdout.fnmatch_lines(
        ["wrote * 1 claim to *; 1 more of its files, of claims that *, stay as they are"]
    )


def test_what_is_in_a_file(two: Suite) -> None:
    ran = two.run("--scrub-save=first.one", "--scrub-mutate", "--scrub-seed=3", adversary="default")
    found, verdict = records(two, "first.one")["test_held"], ran.verdicts["test_held"]
    assert list(found) == sorted(found)
    figures = found["figures"]
    for name in ("unscrubbed", "scrubbed", "baseline", "recovered"):
        assert figures[name] == pytest.approx(getattr(verdict, name), rel=1e-5)
    assert figures["gap"]["low"] == pytest.approx(verdict.gap.low, abs=1e-6)
    assert (found["outcome"], found["seed"], found["samples"]) == ("held", 3, 200)
    assert verdict.power is not None
    assert figures["power"] == {"refuted": verdict.power.refuted, "of": len(verdict.power.mutants)}
    assert verdict.search is not None
    assert verdict.search.worst is not None
    assert figures["worst"]["gap"] == pytest.approx(verdict.search.worst.gap, rel=1e-5)
    assert figures["worst"]["by"] == verdict.search.worst.adversary
    assert found["hypothesis"] == verdict.hypothesis.split("\n")
    assert {"python", "torch", "pytest-scrub"} <= found["versions"].keys()
    assert "platform" not in found["versions"]
    text = next(text for name, text in files(two, "first.one").items() if "held" in name)
    assert "└── A agrees on a" in text  # a diff is read by people
    assert all(
        len(digits.split(".")[-1]) <= 8
        for digits in text.replace(",", "").split()
        if digits[:2] == "0."
    )


def test_claims_without_a_verdict_are_not_saved(four: Suite) -> None:
    four.run("--scrub-save")
    assert set(records(four)) == {"test_held", "test_refuted", "test_undecided", "test_untested"}
    four.write(
        "@claim(tolerance=0.5)\ndef test_new():\n    return output(module('A', agrees_on='a'))",
        "test_new",
    )
    ran = four.run("test_new.py", "--scrub-save")
    assert set(records(four)) == {
        "test_held",
        "test_refuted",
        "test_undecided",
        "test_untested",
        "test_new",
    }
    ran.result.stdout.fnmatch_lines(["wrote the figures of 1 claim to *; 4 more of its files, *"])


@only_in_full
def test_another_seed_is_no_movement(two: Suite) -> None:
    two.run("--scrub-save", adversary="default")
    for seed in range(1, 6):
        ran = two.run("--scrub-compare", f"--scrub-seed={seed}", adversary="default")
        assert ran.result.ret == OK, ran.text
        assert "not compared: another seed" in compared(ran.text)


def test_a_worst_of_some_references_is_compared_by_its_interval(suite: Suite) -> None:
    """With the same seed: another one tries other donors for all of them."""
    suite.extend_conftest("""
        @pytest.fixture(scope="session")
        def scrub_data():
            return rows(4000)
    """)
    suite.write("""
        @claim(tolerance=0.9, adversaries=[WhichDonors()])
        def test_it():
            return output(module("A", agrees_on="a"))
    """)
    searched = {"adversary": "default"}
    verdict = suite.run("--scrub-save", **searched).verdicts["test_it"]
    assert verdict.search is not None
    assert verdict.search.worst is not None
    assert verdict.search.worst.interval is not None
    assert verdict.search.worst.interval.around > 0
    ran = suite.run("--scrub-compare", **searched)
    assert ran.result.ret == OK, ran.text
    assert re.search(r"\nworst 0\.\d+ 0\.\d+ .* (unchanged|within)\n", compared(ran.text))
    ran = suite.run("--scrub-compare", "--scrub-seed=1", **searched)
    assert ran.result.ret == OK, ran.text
    assert "not compared: another seed" in compared(ran.text)
    sharpen(suite, 1)
    ran = suite.run("--scrub-compare", "--scrub-compare-fail=worst:0", **searched)
    assert ran.outcomes == {"passed": 1}
    assert ran.result.ret == FAILED
    assert "worst moved by +" in compared(ran.text)


def test_a_run_of_another_confidence_is_compared_by_its_own_intervals(two: Suite) -> None:
    two.run("--scrub-save", "--scrub-confidence=0.99")
    assert {one["confidence"] for one in records(two).values()} == {0.99}
    ran = two.run("--scrub-compare", "--scrub-seed=1")
    assert ran.result.ret == OK
    assert "the interval: 99 % asymptotic" in compared(ran.text)


def test_an_outcome_that_changed_fails_whatever_the_limits(two: Suite) -> None:
    # of one that names no feature, whose null is no objection where it is held
    claims = CLAIMS.replace(
        'module("B", agrees_on="b")', 'module("A", agrees_on=ANYTHING), rest=EXACT'
    )
    two.write(claims)
    two.run("--scrub-save")
    first, second = claims.split("@pytest.mark", 1)
    second = second.replace("tolerance=0.5", "tolerance=5").replace("strict=True", "strict=False")
    two.write(f"{first}@pytest.mark{second}")
    ran = two.run("--scrub-compare", "--scrub-compare-fail=gap:inf,worst:inf,power:inf")
    assert ran.outcomes == {"passed": 1, "xpassed": 1}
    assert ran.result.ret == FAILED
    said = compared(ran.text)
    assert "test_refuted: was refuted and is held" in said
    assert "the tolerance: 0.5 -> 5" in said
    assert "1 of 2 claims not as in the baseline" in said


def test_a_verdict_that_is_gone_fails(two: Suite) -> None:
    """An xfail without `raises=` excuses a claim that has lost its meaning."""
    two.run("--scrub-save")
    two.write(CLAIMS.replace("raises=Refuted, strict=True", "").replace('"B"', '"C"'))
    ran = two.run("--scrub-compare")
    assert ran.outcomes == {"passed": 1, "xfailed": 1}
    assert ran.result.ret == FAILED
    assert "test_refuted: was refuted and is xfailed" in compared(ran.text)


def test_a_skipped_claim_does_not_fail(two: Suite) -> None:
    two.run("--scrub-save")
    two.write(CLAIMS.replace("xfail(raises=Refuted, strict=True)", 'skip(reason="slow")'))
    ran = two.run("--scrub-compare")
    assert ran.result.ret == OK
    assert "test_refuted: in the baseline, but skipped by its mark" in compared(ran.text)


@few_in_quick(1)
@MODES
def test_a_claim_that_skips_itself_fails(two: Suite, mode: tuple[str, ...], alone: bool) -> None:
    """Such as for weights that are not there: nobody said that this claim is not to be judged."""
    two.run("--scrub-save")
    two.write(
        CLAIMS.replace(
            'return output(module("B"',
            'pytest.skip("no weights")\n        return output(module("B"',
        )
    )
    ran = two.run("--scrub-compare", *mode, alone=alone)
    assert ran.outcomes == {"passed": 1, "skipped": 1}
    assert ran.result.ret == FAILED
    assert "test_refuted: was refuted and is skipped" in compared(ran.text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('module("A", agrees_on="a")', 'module("A", agrees_on="b")', "its hypothesis has changed"),
        (
            "tolerance=0.5",
            "tolerance=0.5, metric=zero_one_error()",
            "its metric was cross-entropy and is",
        ),
    ],
)
def test_another_claim_cannot_be_compared(two: Suite, old: str, new: str, said: str) -> None:
    two.run("--scrub-save")
    two.write(CLAIMS.replace(old, new, 1).replace("raises=Refuted, strict=True", ""))
    ran = two.run("--scrub-compare", "-k", "held")
    assert ran.result.ret == FAILED
    assert f"it is another claim by now: {said}" in compared(ran.text)
    assert "--scrub-save=main" in compared(ran.text)


def test_changed_data_are_named(two: Suite) -> None:
    two.run("--scrub-save", adversary="default")
    two.extend_conftest("""
        @pytest.fixture(scope="session")
        def scrub_data():
            return rows(66)
    """)
    ran = two.run("--scrub-compare", "-k", "held", adversary="default")
    assert ran.result.ret == FAILED
    assert "test_held: the data changed (rows, labels or features)" in compared(ran.text)
    assert "weights" not in compared(ran.text)
    assert "not compared: other data" in compared(ran.text)
    allowing = ("--scrub-compare", "-k", "held", "--scrub-compare-allow=data")
    ran = two.run(*allowing, adversary="default")
    assert ran.result.ret == OK
    assert "the data changed" in compared(ran.text)


@few_in_quick(1)
@MODES
def test_a_claim_that_accepts_more_fails_unless_that_is_allowed(
    two: Suite, mode: tuple[str, ...], alone: bool
) -> None:
    """All of its tests pass."""
    two.run("--scrub-save")
    two.write(CLAIMS.replace("tolerance=0.5", "tolerance=0.6", 1))
    ran = two.run("--scrub-compare", *mode, alone=alone)
    assert ran.outcomes == {"passed": 1, "xfailed": 1}
    assert ran.result.ret == FAILED
    said = compared(ran.text)
    assert "test_held: it is easier to be held than when it was saved: tolerance= was 0.5" in said
    assert "or compare with --scrub-compare-allow=acceptance" in said
    two.pytester.makeini("[pytest]\nscrub_compare_allow = acceptance,data")
    ran = two.run("--scrub-compare", *mode, alone=alone)
    assert ran.result.ret == OK
    assert "tolerance= was 0.5 and is 0.6" in compared(ran.text)


def test_a_search_that_is_not_made_any_more_fails(two: Suite) -> None:
    two.run("--scrub-save", "-k", "held", adversary="default")
    ran = two.run("--scrub-compare", "-k", "held")  # which searches nothing in these tests
    assert ran.outcomes["passed"] == 1
    assert ran.result.ret == FAILED
    assert "adversary= was gate and is report" in compared(ran.text)
    only = ("--scrub-compare", "-k", "held", "--scrub-compare-allow=acceptance")
    assert two.run(*only).result.ret == OK
    ran = two.run(*only, "--scrub-compare-fail=worst:9")
    assert ran.result.ret == FAILED
    assert "and is not there any more (searched then alone)" in compared(ran.text)


def test_a_metric_of_one_s_own_has_a_digest_of_what_it_computes() -> None:
    """Its name says nothing of it; that of one of ours says all, unless it was given something."""
    claimed = output(module("A", agrees_on="a"))

    def digest(metric: Metric) -> str | None:
        (found,) = functions_of(claimed, metric)
        assert found.what == "metric="
        return found.digest

    def times(factor: int) -> Metric:
        return Metric("mine", lambda output, batch: factor * output[:, 0], lower=0, upper=2)

    assert digest(times(1)) == digest(times(1))
    given = [times(1), times(2), replace(times(1), upper=3), logit_difference("a")]
    given += [logit_difference("b"), logit_difference("a", pos=-1)]
    assert len({digest(one) for one in given}) == len(given)
    assert functions_of(claimed, cross_entropy()) == ()


def test_other_versions_are_named_once(two: Suite) -> None:
    two.run("--scrub-save")
    for path in (two.pytester.path / ".scrub/baselines/main").glob("*.json"):
        record = json.loads(path.read_text())
        record["versions"] |= {"torch": "1.0", "gone": "2"}
        path.write_text(json.dumps(record))
    said = compared(two.run("--scrub-compare").text)
    assert said.count("torch 1.0 -> ") == 1
    assert "gone 2 -> none" in said
    assert "numpy" not in said


ELSEWHERE = """
    @claim(tolerance=0.5)
    def test_elsewhere():
        return output(module("A", agrees_on="a"))
"""


@pytest.fixture
def renamed(two: Suite) -> Suite:
    """A suite in which one claim is not what it was called, and one file is gone."""
    two.write(ELSEWHERE, "test_other")
    two.run("--scrub-save")
    (two.pytester.path / "test_other.py").unlink()
    two.write(CLAIMS.replace("test_refuted", "test_renamed"))
    return two


@few_in_quick(1)
@MODES
def test_a_claim_that_is_not_there_any_more_fails(
    renamed: Suite, mode: tuple[str, ...], alone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of another name is held against nothing, whatever it says."""
    summary = renamed.pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    ran = renamed.run("--scrub-compare", *mode, alone=alone)
    assert ran.outcomes == {"passed": 1, "xfailed": 1}
    assert ran.result.ret == FAILED
    said = compared(ran.text)
    assert "test_claims.py::test_renamed: not in the baseline" in said
    assert "2 claims of the baseline 'main' not there any more" in said
    for text in (said, summary.read_text()):
        assert re.search(r"test_claims.py::test_refuted \(in \S+test_refuted\S+.json\)", text)
        assert re.search(r"test_other.py::test_elsewhere \(in \S+.json\)", text)
        assert "compare with --scrub-compare-allow=missing" in text
    assert (
        "ERROR: 2 claims were in the baseline 'main' and not in this run, so it fails" in ran.text
    )
    allowed = renamed.run("--scrub-compare", "--scrub-compare-allow=missing", *mode, alone=alone)
    assert allowed.result.ret == OK
    said = compared(allowed.text)
    assert "test_claims.py::test_refuted: in the baseline, but not in this run" in said
    assert "test_other.py::test_elsewhere: in the baseline, but not in this run" in said


@pytest.mark.parametrize(
    ("narrowed", "mode"),
    [
        ("-k=held", "-n0"),
        ("test_claims.py::test_held", "-n0"),
        ("--deselect=test_claims.py::test_renamed", "-n0"),
        ("--ignore=elsewhere", "-n0"),
        ("-m=not slow", "-n0"),
        ("--lf", "-n0"),
        pytest.param("-k=held", "-n2", marks=only_in_full),
    ],
)
def test_a_run_of_some_claims_misses_none(renamed: Suite, narrowed: str, mode: str) -> None:
    claims = CLAIMS.replace("test_refuted", "test_renamed")
    renamed.write(claims.replace("    @claim", "    @pytest.mark.slow\n    @claim", 1))
    renamed.pytester.makeini("[pytest]\nmarkers = slow")
    if narrowed == "--lf":
        renamed.write("def test_fails(): assert 0", "test_other")
        assert renamed.run().result.ret == FAILED
    ran = renamed.run(narrowed, "--scrub-compare", mode, alone=mode == "-n2")
    is_compared = narrowed not in ("-m=not slow", "--lf")  # which run none of the baseline
    assert ("nothing to compare" in ran.text) != is_compared
    assert ran.result.ret == (OK if is_compared else FAILED)
    assert "any more" not in ran.text


def test_a_claim_of_a_file_that_was_not_to_be_run_is_not_missed(two: Suite) -> None:
    two.write(ELSEWHERE, "test_other")
    two.run("--scrub-save")
    ran = two.run("test_claims.py", "--scrub-compare")
    assert ran.result.ret == OK
    assert "test_elsewhere" not in compared(ran.text)


def test_a_file_that_skips_itself_as_it_is_collected_does_not_hide_its_claims(two: Suite) -> None:
    two.write(ELSEWHERE, "test_other")
    two.run("--scrub-save")
    two.write("\n    pytest.importorskip('there_is_no_such_package')" + ELSEWHERE, "test_other")
    ran = two.run("--scrub-compare")
    assert ran.outcomes == {"passed": 1, "xfailed": 1, "skipped": 1}
    assert ran.result.ret == FAILED
    assert "1 claim of the baseline 'main' not there any more" in compared(ran.text)


def test_a_quiet_run_tells_what_fails(two: Suite) -> None:
    two.run("--scrub-save")
    sharpen(two, 4)
    ran = two.run("--scrub-compare", "-q", "--scrub-compare-fail=null:9")
    assert "test_held: held" not in compared(ran.text)
    assert "test_refuted: gap moved by" in compared(ran.text)


def test_limits_in_the_ini_file(two: Suite) -> None:
    two.run("--scrub-save")
    sharpen(two, 4)
    two.pytester.makeini("[pytest]\nscrub_compare = main\nscrub_compare_fail = gap:300%,null:2")
    assert two.run().result.ret == OK
    assert two.run("--scrub-compare-fail=gap:10%,null:2").result.ret == FAILED
    assert two.run("--scrub-compare-fail=all:0,gap:300%").result.ret == FAILED
    assert two.run("--scrub-compare-fail=gap:300%").result.ret == OK


# Bad input ----------------------------------------------------------------------------------------


def stderr(suite: Suite, *args: str) -> str:
    """What is said before anything is run."""
    ran = suite.run(*args)
    assert ran.result.ret == USAGE
    assert not ran.verdicts
    return " ".join(ran.result.stderr.str().split())


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            "gaps:1",
            "knows the figures gap, accuracy, null, explained, worst, power, and all of them, not "
            "'gaps'",
        ),
        ("gap", "does not say how far 'gap' may move; write gap:0.05 or gap:10%"),
        ("gap:ten", "takes a number of zero or more for 'gap', or a percentage, not 'ten'"),
        ("gap:-1", "takes a number of zero or more for 'gap', or a percentage, not '-1'"),
        ("gap:nan", "takes a number of zero or more for 'gap', or a percentage, not 'nan'"),
        ("power:%", "takes a number of zero or more for 'power', or a percentage, not '%'"),
        ("gap:1,worst:2,gap:3", "has two limits for 'gap'"),
    ],
)
def test_malformed_limits(two: Suite, limits: str, said: str) -> None:
    assert f"--scrub-compare-fail {said}" in stderr(two, f"--scrub-compare-fail={limits}")
    two.pytester.makeini(f"[pytest]\nscrub_compare_fail = {limits}")
    assert f"scrub_compare_fail {said}" in stderr(two)


@pytest.mark.parametrize("given", ["tolerance", "data,", "all"])
def test_malformed_allowances(two: Suite, given: str) -> None:
    word = given.removeprefix("data,")
    said = f"takes acceptance, data, missing, one or more of them, not {word!r}"
    assert said in stderr(two, "--scrub-compare", f"--scrub-compare-allow={given}")


@pytest.mark.parametrize("option", ["--scrub-compare-fail=gap:1", "--scrub-compare-allow=data"])
def test_what_may_change_needs_a_comparison(two: Suite, option: str) -> None:
    name = option.partition("=")[0]
    assert f"{name} says what may change since a baseline; name the baseline" in stderr(two, option)


def test_a_baseline_that_is_not_there(two: Suite) -> None:
    assert "there is no baseline 'main' in" in stderr(two, "--scrub-compare")
    two.run("--scrub-save=published")
    assert "did you mean 'published'?; make one with --scrub-save=publishd" in stderr(
        two, "--scrub-compare=publishd"
    )
    ran = two.run("--collect-only", "--scrub-compare=publishd")
    assert ran.result.ret == OK


@pytest.mark.parametrize("name", ["../main", "a/b", "/tmp/x", ".hidden", ".."])
def test_a_name_with_path_parts(two: Suite, name: str) -> None:
    for given in ("save", "compare"):
        assert "takes a name of up to 100 letters, digits, dots and dashes" in stderr(
            two, f"--scrub-{given}={name}"
        )
    assert not (two.pytester.path / ".scrub").exists()


def test_a_name_that_is_a_test_to_run(two: Suite) -> None:
    two.pytester.mkdir("tests")
    for name in ("test_claims.py", "tests"):
        assert "a test to run comes before the option" in stderr(two, "--scrub-save", name)
    assert not (two.pytester.path / ".scrub").exists()
    two.pytester.mkdir("main")
    assert two.run("test_claims.py", "--scrub-save").result.ret == OK


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "it is no JSON"),
        (lambda text: "<<<<<<< HEAD\n" + text, "it is no JSON"),
        (
            lambda text: text.replace('"schema_version": 1', '"schema_version": 2'),
            "its schema is 2, not 1",
        ),
        (
            lambda text: text.replace('\n  "samples": 200', '\n  "samples": "many"'),
            "Expected `int`, got `str` - at `$.samples`",
        ),
        (
            lambda text: text.replace('\n  "samples": 200', '\n  "samples": true'),
            "Expected `int`, got `bool` - at `$.samples`",
        ),
        (lambda text: text.replace('"samples"', '"sample"'), "missing required field `samples`"),
        (lambda text: text.replace("test_held", "test_other"), "belongs into another file"),
        (lambda text: "[]", "its schema is None"),
        (lambda text: "[" * 100_000, "no part of a baseline"),
    ],
)
def test_a_damaged_file_is_told_before_anything_runs(two: Suite, damage: Any, said: str) -> None:
    two.run("--scrub-save", "-k", "held")
    (path,) = (two.pytester.path / ".scrub/baselines/main").iterdir()
    path.write_text(damage(path.read_text()))
    found = stderr(two, "--scrub-compare")
    assert said in found
    assert path.name in found
    assert "--scrub-save=main" in found


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_run(two: Suite) -> None:
    (two.pytester.path / ".scrub").write_text("a file")
    assert "cannot be written (Not a directory)" in stderr(two, "--scrub-save")
    assert (two.pytester.path / ".scrub").read_text() == "a file"


def test_comparing_writes_nothing(two: Suite) -> None:
    two.run("--scrub-save")
    folder = two.pytester.path / ".scrub"

    def state() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}

    before = state()
    two.run("--scrub-compare")
    assert state() == before


def test_a_name_of_any_kind_is_saved_and_found(suite: Suite) -> None:
    suite.write("""
        from pytest_scrub.metrics import Metric

        def loss(output, batch):
            return torch.nn.functional.cross_entropy(output, batch.labels, reduction="none")

        @pytest.mark.parametrize("way", ["../up", "a b", "\\u202e\\u00e4", "A", "a"])
        @claim(tolerance=0.5, metric=Metric("loss\\ud800\\x1b[31m \\u202e<&", loss))
        def test_held(way):
            return output(module("A", agrees_on="a"))
    """)
    suite.run("--scrub-save")
    found = files(suite)
    assert len(found) == 5
    assert all(text.isascii() or "└" in text for text in found.values())
    assert "\u202e" not in "".join(found.values())
    ran = suite.run("--scrub-compare")
    assert ran.result.ret == OK
    assert "5 claims compared" in compared(ran.text)


@only_in_full
def test_torch_modules_in_another_order_are_as_they_were(suite: Suite) -> None:
    """The last digits of their activations depend on what else is in a batch."""
    suite.write(TORCH_CLAIMS)
    suite.run("--scrub-save")
    for seed in (1, 2):
        ran = suite.run("--scrub-compare", "-p", "randomly", f"--randomly-seed={seed}")
        assert "4 claims compared: no outcome changed" in compared(ran.text)
        assert " within" not in compared(ran.text)


PREDICTED = """
    {helper}
    @claim(tolerance=1, metric=zero_one_error(), on_weak="warn", on_untested="warn")
    def test_predicted():
        swapped = module("A", agrees_on=ANYTHING, name="it")
        return output(swapped, predicts={function}, rest=EXACT)
"""
MADE = 'def made(by):\n        return lambda it: it["a"] * by'
SAME = 'lambda it: it["a"]'


@few_in_quick(2)
@pytest.mark.parametrize(
    ("helper", "function", "is_same"),
    [
        ("", SAME, True),
        ("\n\n    # further down", SAME, True),
        ("", 'lambda it: 1 - it["a"]', False),
        (MADE, "made(1)", False),
    ],
)
def test_two_functions_of_one_name_are_two_claims(
    suite: Suite, helper: str, function: str, is_same: bool
) -> None:
    suite.write(PREDICTED.format(helper="", function=SAME))
    suite.run("--scrub-save")
    (record,) = records(suite).values()
    assert 0 <= record["figures"]["accuracy"]["share"] <= 1
    assert [one["what"] for one in record["functions"]] == ["predicts="]
    suite.write(PREDICTED.format(helper=helper, function=function))
    ran = suite.run("--scrub-compare", alone=True)  # a process of its own has the same digest
    assert (ran.result.ret == OK) is is_same, ran.text
    assert ("predicts= computes something else" in compared(ran.text)) is not is_same
    assert ("accuracy" in compared(ran.text)) is is_same


@only_in_full
def test_what_a_function_closes_over_is_part_of_it(suite: Suite) -> None:
    suite.write(PREDICTED.format(helper=MADE, function="made(1)"))
    suite.run("--scrub-save")
    suite.write(PREDICTED.format(helper=MADE, function="made(0)"))
    assert suite.run("--scrub-compare", alone=True).result.ret == FAILED


def test_a_summary_on_github_has_old_against_new(
    two: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    two.run("--scrub-save")
    sharpen(two, 4)
    summary = two.pytester.path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    assert two.run("--scrub-compare").result.ret == FAILED
    text = summary.read_text()
    assert text.startswith("## Compared with the baseline main\n")
    assert re.search(r"test_refuted</code></td><td>refuted.*?</td><td><b>[\d.]+ → [\d.]+</b>", text)
    assert "## Claims: " in text
