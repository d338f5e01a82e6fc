"""`--scrub-over PATTERN`: the claims once for each checkpoint of a training, and never for one
network that passes for several."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

# See conftest.py: what an inner run would be the first to import.
importlib.import_module("pytest_scrub.extras.html.page")

# A network that learns to use `a`: what is in a file is how far it has got.
TRAINING = """
    @pytest.fixture(scope="session")
    def scrub_model(scrub_checkpoint):
        return network(float(scrub_checkpoint.read_text()) if scrub_checkpoint else 2)
"""
CLAIMS = """
    @claim(tolerance=0.2)
    def test_held():
        return output(module("A", agrees_on="a"))

    @claim(tolerance=1)
    def test_needless():
        return output(module("A", agrees_on=ANYTHING))
"""
OVER = "--scrub-over=steps/*.txt"
SHARPNESS = {"step2.txt": 0.8, "step10.txt": 4.0, "step9.txt": 1.2}
ORDER = ("step2.txt", "step9.txt", "step10.txt")


@pytest.fixture
def training(suite: Suite) -> Suite:
    """Two claims, and three checkpoints of a network."""
    suite.extend_conftest(TRAINING)
    suite.write(CLAIMS)
    write(suite.pytester.path / "steps", SHARPNESS)
    return suite


def write(folder: Path, given: dict[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, sharpness in given.items():
        (folder / name).write_text(str(sharpness))


def table(text: str) -> list[str]:
    """The lines about checkpoints, without what is in them of figures."""
    lines = text.partition("= over ")[2].splitlines()[1:]
    end = next((i for i, line in enumerate(lines) if line.startswith("=")), len(lines))
    return [line.partition("  gap ")[0].rstrip() for line in lines[:end]]


TABLE = [
    "test_claims.py::test_held",
    "  step2.txt   held",
    "  step9.txt   held",
    "  step10.txt  held",
    "test_claims.py::test_needless",
    "  step2.txt   held",
    "  step9.txt   held",
    "  step10.txt  refuted",
]


def test_each_claim_is_run_for_each_checkpoint(training: Suite) -> None:
    ran = training.run(OVER)
    assert table(ran.text) == TABLE
    # a network is loaded once, and the steps go up
    assert list(ran.verdicts) == [
        f"{test}[{step}]" for step in ORDER for test in ("test_held", "test_needless")
    ]
    gaps = [ran.verdicts[f"test_needless[{step}]"].gap.mean for step in ORDER]
    assert gaps == sorted(gaps)
    assert gaps[0] > 0
    assert 2 * gaps[1] < gaps[2]
    shown = next(line for line in ran.text.splitlines() if line.startswith("  step10.txt  refuted"))
    assert f"gap {ran.verdicts['test_needless[step10.txt]'].gap}" in shown
    assert ran.outcomes == {"passed": 5, "failed": 1}


def test_lists_and_reports_have_step9_before_step10(training: Suite) -> None:
    listed = training.pytester.runpytest_inprocess(OVER, "--scrub-list", "-q")
    tests = [line.split()[0] for line in listed.outlines if line.startswith("test_claims.py::")]
    expected = [
        f"test_claims.py::{test}[{step}]"
        for test in ("test_held", "test_needless")
        for step in ORDER
    ]
    assert tests == expected
    training.run(OVER, "--scrub-json=all.json")
    found = json.loads((training.pytester.path / "all.json").read_text())
    assert [one["test"] for one in found["claims"]] == expected


def test_without_the_option_there_is_no_checkpoint(training: Suite) -> None:
    ran = training.run()
    assert list(ran.verdicts) == ["test_held", "test_needless"]
    assert "= over " not in ran.text


@only_in_full
def test_workers_make_the_same_table(training: Suite) -> None:
    ran = training.run(OVER, "-n2", alone=True)
    assert table(ran.text) == TABLE
    assert ran.result.ret == pytest.ExitCode.TESTS_FAILED


@pytest.mark.parametrize("arguments", [("--scrub-over=nothing/*.txt",), ()])
def test_a_pattern_without_a_match_is_refused(training: Suite, arguments: tuple[str, ...]) -> None:
    """Nothing would be run, or everything once."""
    training.pytester.makeini("[pytest]\nscrub_over = nothing/*.txt")
    result = training.pytester.runpytest_inprocess(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in result.stderr.lines if line]
    name = "--scrub-over" if arguments else "scrub_over"
    assert line.startswith(f"ERROR: {name}: nothing matches 'nothing/*.txt', as seen from ")


def test_a_claim_that_takes_no_checkpoint_is_refused(training: Suite) -> None:
    """It would be measured on one network, and pass for one about the training."""
    training.write("""
        @pytest.fixture(scope="session")
        def other():
            return network()

        @claim(tolerance=0.5, model="other")
        def test_other():
            return output(module("A", agrees_on="a"))

        def test_ordinary():
            pass

        @pytest.mark.parametrize("scrub_model", [network()])
        @claim(tolerance=0.5)
        def test_given():
            return output(module("A", agrees_on="a"))
    """)
    ran = training.run(OVER)
    assert ran.outcomes["passed"] == 1
    assert "test_other" in ran.messages
    for message in ran.messages.values():
        assert message.startswith(
            "Misstated: no fixture of this claim takes a checkpoint, so it says nothing over those "
            "of --scrub-over; let the fixture of its network take scrub_checkpoint"
        )
    assert "= over " not in ran.text
    assert training.run("-k", "other or ordinary").outcomes["passed"] == 2


def test_a_fixture_that_takes_no_notice_fails_the_run(training: Suite) -> None:
    """Everything passes, and is about one network."""
    training.write("""
        @pytest.fixture(scope="session")
        def scrub_model(scrub_checkpoint):
            return network()

        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))
    """)
    ran = training.run(OVER)
    assert ran.outcomes == {"passed": 3}
    assert ran.result.ret == pytest.ExitCode.TESTS_FAILED
    said = "ERROR: 1 claim was measured on one network whatever the checkpoint, so this run fails; "
    assert said in ran.text
    assert training.run(OVER, "-k", "step2").result.ret == 0  # of one, nothing can be said


def test_a_copy_of_a_checkpoint_is_named(training: Suite) -> None:
    write(training.pytester.path / "steps", {"last.txt": 4.0})
    ran = training.run(OVER, "-k", "held")
    said = "last.txt and step10.txt are identical: no weight of the network differs between them"
    assert ran.text.count(said) == 1
    assert ran.result.ret == 0


def test_asking_too_late_is_refused(training: Suite) -> None:
    """pytest would not know that there is something to parametrize."""
    training.write("""
        @pytest.fixture
        def scrub_model(request):
            return network(float(request.getfixturevalue("scrub_checkpoint").read_text()))

        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))
    """)
    (message,) = training.run(OVER).messages.values()
    assert "scrub_checkpoint is asked for while the test runs, too late for --scrub-over" in message


def test_other_parameters_and_names_of_any_letters(training: Suite) -> None:
    """A claim with other parameters is another claim, at the same checkpoints."""
    training.write("""
        @pytest.mark.parametrize("tolerance", [1, 2], ids=["x-[1]", "é"])
        @claim(tolerance=0.5)
        def test_it(tolerance):
            return output(module("A", agrees_on="a"))
    """)
    for step, sharpness in (("1", 4.0), ("ü-1", 2.0)):
        write(training.pytester.path / "runs" / step, {"it.txt": sharpness})
    ran = training.run("--scrub-over=runs/*/it.txt")
    assert table(ran.text) == [
        "test_claims.py::test_it[\\xe9]",
        "  1/it.txt    held",
        "  ü-1/it.txt  held",
        "test_claims.py::test_it[x-[1]]",
        "  1/it.txt    held",
        "  ü-1/it.txt  held",
    ]


def test_what_shows_claims_shows_each(training: Suite) -> None:
    listed = training.run(OVER, "--scrub-list", "-k", "held").text
    assert [line.strip() for line in listed.splitlines() if "scrub_checkpoint=" in line] == [
        f"parameters: scrub_checkpoint={step}" for step in ORDER
    ]
    collected = training.run(OVER, "--collect-only", "-q", "-k", "held").text
    assert [line for line in collected.splitlines() if "::" in line] == [
        f"test_claims.py::test_held[{step}]" for step in ORDER
    ]


def test_the_page_has_curves_and_a_command_runs_one_again(training: Suite) -> None:
    page = training.pytester.path / "report.html"
    training.run(OVER, f"--scrub-html={page}")
    text = page.read_text(encoding="utf-8")
    section = text.partition('<section aria-label="over checkpoints">')[2].partition("</section>")[
        0
    ]
    assert section.count("<h3") == 2
    assert section.count("<b>Gap</b> by checkpoint") == 2
    assert section.count("3: step10.txt") == 2
    rerun = "test_claims.py::test_held[step10.txt]&#39; --scrub-seed=0 --scrub-samples=200"
    assert rerun in text
    again = training.run("test_claims.py::test_held[step10.txt]", OVER)
    assert list(again.verdicts) == ["test_held[step10.txt]"]
    training.run(f"--scrub-html={page}")
    assert "over checkpoints" not in page.read_text(encoding="utf-8")
