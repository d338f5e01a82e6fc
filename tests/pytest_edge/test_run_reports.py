"""What people read: the failure of a claim, the summary, and nothing else in a pipe."""

from __future__ import annotations

import os
import re
import sys

import pytest

from pytest_scrub.pytest_edge.progress import rate
from tests.pytest_edge.conftest import FOUR_OUTCOMES, Suite
from tests.sizes import few_in_quick, only_in_full

ESCAPE = "\x1b"


def test_the_failure_tells_the_whole_story(four: Suite) -> None:
    ran = four.run("test_claims.py::test_refuted")
    verdict = ran.verdicts["test_refuted"]
    text = ran.reports["test_refuted"]
    gap = f"{verdict.gap.mean:.4g} [{verdict.gap.low:.4g}, {verdict.gap.high:.4g}]"
    headline = f"claim refuted: gap {gap} in cross-entropy, tolerance 0.5"
    assert text.splitlines()[0] == headline
    assert ran.messages["test_refuted"].splitlines()[0] == f"Refuted: {headline}"
    words = " ".join(text.split())
    assert f"within 0.5 of the unscrubbed {verdict.unscrubbed:.4g}" in words
    assert f"scrubbed {verdict.scrubbed:.4g}, gap {gap}" in words
    assert f"{verdict.share_worse:.1%} of samples got worse" in words
    assert f"mean absolute change {verdict.absolute_change:.4g}" in words
    assert f"random baseline {verdict.baseline:.4g}" in words
    assert "the cross-entropy rises by more than the tolerance allows" in words
    assert f"200 samples, seed 0; {verdict.interval_kind}" in words
    assert verdict.hypothesis in text  # the tree, as the claim states it
    assert "B agrees on b" in verdict.hypothesis
    assert text in ran.text
    assert verdict.gap.low < verdict.gap.mean < verdict.gap.high


def test_the_failure_has_a_table_of_the_nodes(four: Suite) -> None:
    ran = four.run("test_claims.py::test_refuted")
    nodes = {node.slot: node for node in ran.verdicts["test_refuted"].nodes}
    assert list(nodes) == ["output/rest", "output/B"]
    lines = ran.reports["test_refuted"].splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("node "))
    assert re.split(r"\s{2,}", lines[header]) == [
        "node", "agrees on", "donors (min/median/max)", "references with another donor",
        "gap alone in cross-entropy", "gap if it knew nothing",
    ]  # fmt: skip
    rows = {line.split()[0]: re.split(r"\s{2,}", line) for line in lines[header + 1 : header + 3]}
    b, rest = nodes["output/B"], nodes["output/rest"]
    assert rows["output/B"] == [
        "output/B",
        "b",
        f"{b.donors[0]}/{b.donors[1]:g}/{b.donors[2]}",
        "100%",
        str(b.alone),
        f"{b.unknowing}, so it says nothing",
    ]
    assert rows["output/rest"] == ["output/rest", "ANYTHING", "64/64/64", "100%", str(rest.alone)]
    # The rest moves the label's own evidence, B next to nothing.
    assert abs(b.alone.mean) < 0.1 < 0.5 < rest.alone.mean
    assert b.donors[2] < 64


def test_a_better_metric_refutes_as_well_and_says_so(suite: Suite) -> None:
    """The network is wrong about half of the rows, so that noise is an improvement."""
    suite.write("""
        @pytest.fixture
        def scrub_data():
            a = torch.arange(64) % 2
            return rows(labels=1 - a)

        @claim(tolerance=0.1)
        def test_better():
            return output(module("B", agrees_on="b"))
    """)
    ran = suite.run()
    assert ran.verdicts["test_better"].outcome == "refuted"
    assert ran.verdicts["test_better"].gap.high < -0.1
    assert "the cross-entropy falls by more than the tolerance allows" in ran.reports["test_better"]
    assert "recovered: not defined" in ran.reports["test_better"]


def test_undecided_and_untested_say_what_to_change(four: Suite) -> None:
    reports = four.run().reports
    assert "samples= of the claim or --scrub-samples above 20" in reports["test_undecided"]
    wanting = "(none has, for instance, with row = 0; with row = 1; with row = 2)"
    assert (
        f"add rows that share row but differ elsewhere {wanting}, or agree on less"
        in reports["test_untested"]
    )
    assert (
        "output/A has a donor of other content for 0.0% of the references"
        in reports["test_untested"]
    )


@pytest.mark.parametrize("style", ["auto", "long", "short", "line", "native"])
def test_no_traceback_style_shows_our_frames(four: Suite, style: str) -> None:
    path = four.pytester.path / "test_claims.py"
    line = 1 + path.read_text().splitlines().index("def test_refuted():") - 1
    ran = four.run(f"--tb={style}", "test_claims.py::test_refuted")
    assert "claim refuted: gap" in ran.text
    assert "pytest_scrub/" not in ran.text
    assert "raise error" not in ran.text
    assert ran.crash("test_refuted").lineno == line
    if style == "line":
        ran.result.stdout.fnmatch_lines([f"{path}:{line}: Refuted: claim refuted: gap *"])


def test_the_short_summary_names_the_claim_and_the_outcome(four: Suite) -> None:
    four.run("-rf").result.stdout.fnmatch_lines([
        "FAILED test_claims.py::test_refuted - Refuted: claim refuted: gap *",
        "FAILED test_claims.py::test_undecided - Undecided: claim undecided: gap *",
        "FAILED test_claims.py::test_untested - Untested: claim untested: *",
        "FAILED test_claims.py::test_misstated - Misstated: output/C: the network has no component "
        "'C'*",
    ])  # fmt: skip


@pytest.mark.parametrize("where", ["here", "on CI"])
@pytest.mark.parametrize("flag", ["-rf", "-vv"])
def test_the_story_is_told_once(
    four: Suite, monkeypatch: pytest.MonkeyPatch, where: str, flag: str
) -> None:
    """On CI, and with -vv, pytest repeats all of a failure's message in its short summary."""
    if where == "on CI":
        monkeypatch.setenv("CI", "true")
    ran = four.run(flag)
    headline, *_ = ran.reports["test_refuted"].splitlines()
    assert ran.text.count("predicted: swapping what the claim allows") == 3  # of as many failures
    _, _, below = ran.text.partition("short test summary info")
    failures = [line for line in below.splitlines()[1:] if not line.startswith("=")]
    names = [line.split(" - ")[0].rpartition("::")[2] for line in failures]
    assert names == ["test_refuted", "test_undecided", "test_untested", "test_misstated"]
    if where == "on CI":
        assert f"FAILED test_claims.py::test_refuted - Refuted: {headline}" in failures


# The summary --------------------------------------------------------------------------------------


def test_one_line_for_every_claim_in_the_order_they_ran(suite: Suite) -> None:
    suite.write(FOUR_OUTCOMES, name="test_b")
    suite.write(
        FOUR_OUTCOMES.replace("def test_", "def test_z_").replace("z_untested", "a_untested"),
        name="test_a",
    )
    ran = suite.run("test_b.py", "test_a.py")
    assert [[line.split()[0], line.split()[-1]] for line in ran.summary] == [
        ["held", "test_b.py::test_held"], ["refuted", "test_b.py::test_refuted"],
        ["undecided", "test_b.py::test_undecided"], ["untested", "test_b.py::test_untested"],
        ["held", "test_a.py::test_z_held"], ["refuted", "test_a.py::test_z_refuted"],
        ["undecided", "test_a.py::test_z_undecided"], ["untested", "test_a.py::test_a_untested"],
    ]  # fmt: skip
    refuted = ran.summary[5]
    verdict = ran.verdicts["test_z_refuted"]
    assert f"{verdict.gap.mean:.3g}" in refuted
    assert f"{verdict.recovered:.1%}" in refuted
    assert " 0.5" in refuted  # what the claim allows


def test_power_is_told_in_the_order_in_which_claims_ran(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=0.5)
        def test_z():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_a():
            return output(module("A", agrees_on="a"))
    """)
    lines = suite.run("--scrub-mutate").text.splitlines()
    assert [line for line in lines if line.startswith("test_claims.py::")] == [
        "test_claims.py::test_z", "test_claims.py::test_a",
    ]  # fmt: skip


def test_figures_have_a_unit(suite: Suite) -> None:
    suite.write(FOUR_OUTCOMES)
    assert "\nfigures in cross-entropy\n" in suite.run().text
    suite.write("""
    @claim(tolerance=0.5, metric=zero_one_error())
    def test_in_errors():
        return output(module("A", agrees_on="a"))
    """, name="test_more")  # fmt: skip
    both = suite.run()
    assert "figures in" not in both.text
    names = [line for line in both.summary if "test_in_errors" in line or "test_held" in line]
    assert [line.rpartition(", in ")[2] for line in names] == ["cross-entropy", "0-1 error"]


def test_no_summary_without_a_claim(suite: Suite) -> None:
    suite.write("def test_ordinary():\n    pass\n\n@claim(tolerance=1)\ndef test_unused(): ...\n")
    ran = suite.run("-k", "ordinary")
    assert ran.outcomes == {"passed": 1, "deselected": 1}
    assert not [line for line in ran.text.splitlines() if line.strip("= ") == "claims"]


@pytest.mark.parametrize("columns", ["80", "100", "200"])
def test_the_summary_fits_the_width(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    suite.write("""
        class TestTheCircuitOfTheSecondLayerThatLooksAtTheHorizonAndCountsWhatIsOpen:
            @pytest.mark.parametrize("node", ["A", "B"])
            @claim(tolerance=0.5)
            def test_of_a_node_with_a_name_that_no_terminal_has_room_for(self, node):
                return output(module(node, agrees_on=node.lower()))
    """)
    ran = suite.run()
    assert len(ran.summary) == len(ran.as_it_ran) == 2
    started = next(
        i for i, line in enumerate(ran.text.splitlines()) if line.startswith("collected")
    )
    printed = [line for line in ran.text.splitlines()[started:] if "FAILED" not in line]
    title = next(i for i, line in enumerate(printed) if line.strip("= ") == "claims")
    of_claims = [*ran.as_it_ran, *printed[title:]]
    assert max(map(len, of_claims)) <= int(columns)
    for lines in (ran.summary, ran.as_it_ran):
        for line, node in zip(lines, "AB", strict=True):
            assert f"[{node}]" in line  # what tells them apart is not what is cut


@pytest.mark.parametrize("length", [44, 57])
def test_a_name_is_whole_where_there_is_room_for_it(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    """In the summary it goes above the figures first, as it runs the figures go out of line."""
    monkeypatch.setenv("COLUMNS", "110")
    name = "test_" + "x" * (length - len("test_"))
    suite.write(f"""
        @claim(tolerance=0.5)
        def {name}():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_no_component_of_this_name_is_there_at_all():
            return output(module("left", agrees_on="a"))
    """)
    ran = suite.run()
    assert [line.split()[-1] for line in ran.as_it_ran] == [name]
    assert [line.split()[-1] for line in ran.summary] == [f"test_claims.py::{name}"]
    lines = ran.text.splitlines()
    above = lines.index("test_claims.py::test_no_component_of_this_name_is_there_at_all")
    assert lines[above + 1].startswith("failed     Misstated: output/left: the network has no ")


def test_a_line_for_every_claim_as_it_runs(four: Suite) -> None:
    four.write("def test_ordinary():\n    pass\n", name="test_others")
    ran = four.run()
    assert [(line.split()[0], line.split()[-1]) for line in ran.as_it_ran] == [
        ("held", "test_held"), ("refuted", "test_refuted"), ("undecided", "test_undecided"),
        ("untested", "test_untested"),
    ]  # fmt: skip
    verdict = ran.verdicts["test_refuted"]
    assert f"{verdict.gap.mean:.3g} ± {verdict.gap.around:.2g} of 0.5" in ran.as_it_ran[1]
    lines = ran.text.splitlines()
    # of the misstated one, not glued to the line
    assert lines[lines.index(ran.as_it_ran[-1]) + 1].split()[0] == "F"
    assert any(line.startswith("test_others.py .") for line in lines)


def test_a_verbose_line_says_what_was_measured_and_the_short_summary_is_pytests_own(
    four: Suite,
) -> None:
    ran = four.run("-v", "-rA")
    gap = ran.verdicts["test_refuted"].gap
    ran.result.stdout.fnmatch_lines([
        f"test_claims.py::test_refuted FAILED refuted {gap.mean:.3g} ± {gap.around:.2g} of 0.5 *",
        "test_claims.py::test_misstated FAILED *",
    ])  # fmt: skip
    assert "\nFAILED test_claims.py::test_refuted - Refuted: claim refuted" in ran.text
    assert "\nPASSED test_claims.py::test_held\n" in ran.text


def test_a_quiet_run_has_dots(four: Suite) -> None:
    ran = four.run("-q")
    assert ran.as_it_ran == []
    assert any(line.startswith(".FFFF") for line in ran.text.splitlines())


def test_a_test_that_is_called_after_claims_is_none(four: Suite) -> None:
    four.write("""
        @pytest.mark.parametrize("what", ["claim"])
        def test_claim(what):
            pass
    """, name="test_claim")  # fmt: skip
    assert "test_claim.py::" not in four.run().text.partition(" claims ")[2]


@pytest.mark.parametrize("workers", ["-n0", pytest.param("-n2", marks=only_in_full)])
def test_a_claim_without_a_verdict_is_in_the_summary_as_well(four: Suite, workers: str) -> None:
    text = four.run(workers, alone=workers == "-n2").text
    assert (
        "\nfailed     test_claims.py::test_misstated: Misstated: output/C: the network has no "
        "component" in text
    )


def test_a_fixture_that_is_not_there_is_named_in_the_summary(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5, model="scrub_modle")
        def test_of_another_network():
            return output(module("A", agrees_on="a"))
    """)
    line = "error      test_claims.py::test_of_another_network: fixture 'scrub_modle' not found"
    assert f"\n{line}\n" in suite.run().text


@few_in_quick(2)
@pytest.mark.parametrize("flag", ["-q", "-v", "-vv", "-qq"])
def test_quiet_and_verbose_runs_have_the_same_summary(four: Suite, flag: str) -> None:
    assert four.run(flag).summary == four.run().summary != []


@pytest.mark.parametrize("flag", ["-q", "-v"])
def test_the_captured_output_of_a_claim_is_its_own(suite: Suite, flag: str) -> None:
    suite.write("""
        @claim(tolerance=0.5)
        def test_held():
            print("said by the claim")
            return output(module("A", agrees_on="a"))
    """)
    quiet = suite.run(flag)
    assert "said by the claim" not in quiet.text
    assert quiet.result.stderr.str().strip() == ""
    assert "said by the claim" in suite.run(flag, "-rA").text


@pytest.mark.parametrize("where", ["in the claim", "while it is evaluated"])
def test_control_c_leaves_the_verdicts_so_far(suite: Suite, where: str) -> None:
    in_claim = where == "in the claim"
    suite.write(f"""
        def interrupting(output, batch):
            raise KeyboardInterrupt

        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_refuted():
            return output(module("B", agrees_on="b"))

        @claim(tolerance=0.5{"" if in_claim else ", metric=interrupting"})
        def test_stopped():
            {"raise KeyboardInterrupt" if in_claim else 'return output(module("B", agrees_on="b"))'}

        @claim(tolerance=0.5)
        def test_never_reached():
            return output(module("A", agrees_on="a"))
    """)
    ran = suite.run(no_reraise_ctrlc=True)
    assert ran.result.ret == pytest.ExitCode.INTERRUPTED
    assert [[line.split()[0], line.split()[-1]] for line in ran.summary] == [
        ["held", "test_claims.py::test_held"], ["refuted", "test_claims.py::test_refuted"],
    ]  # fmt: skip
    assert "KeyboardInterrupt" in ran.text


# Terminals and pipes ------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--color=auto", "-v", "-s"])
def test_a_pipe_gets_neither_colours_nor_progress(
    four: Suite, monkeypatch: pytest.MonkeyPatch, flag: str
) -> None:
    monkeypatch.setattr("pytest_scrub.pytest_edge.progress.PATIENCE", 0.0)
    ran = four.run(flag)
    assert len(ran.summary) == 4
    assert ran.result.stderr.lines == []
    assert ESCAPE not in ran.text
    assert "\r" not in ran.text
    assert "clean activations" not in ran.text
    assert "\u2501" not in ran.text  # what a bar is drawn with


def test_colours_where_they_are_asked_for(four: Suite) -> None:
    lines = four.run("--color=yes").result.stdout.lines
    found = [
        re.search(rf"{ESCAPE}\[(\d+)m(held|refuted|undecided|untested) ", line) for line in lines
    ]
    colours = {match[2]: match[1] for match in found if match}
    assert colours == {"held": "32", "refuted": "31", "undecided": "33", "untested": "33"}


@pytest.mark.parametrize(
    ("speed", "remaining", "shown"),
    [
        (None, 100, ""),
        (1234.5, 0, "1,234/s"),
        (35.0, 3500, "35/s, 0:01:40 left"),
        (0.04, 90, "0.04/s, 0:37:30 left"),  # rows of a large network
    ],
)
def test_progress_says_how_fast_it_goes_and_how_long_it_takes(
    speed: float | None, remaining: float, shown: str
) -> None:
    assert rate(speed, remaining) == shown


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
@pytest.mark.parametrize("flag", ["-v", pytest.param("-q", marks=only_in_full)])
def test_a_terminal_gets_progress_unless_it_is_quiet(four: Suite, flag: str) -> None:
    import pty

    four.extend_conftest("""
        import pytest_scrub.pytest_edge.progress
        pytest_scrub.pytest_edge.progress.PATIENCE = 0.0
    """)
    ours, theirs = pty.openpty()
    process = four.pytester.popen(
        [
            sys.executable, "-m", "pytest", "-p", "no:randomly", "--scrub-adversary=none", flag,
            "test_claims.py::test_held",
        ],
        stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other end is closed
            part = b""
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.wait() == 0
    assert ("scrubbed evaluations" in shown.decode()) == (flag == "-v")
    if flag == "-v":
        # bars are drawn below pytest's line, not over it
        assert b"test_claims.py::test_held \r\n" in shown
