"""Suites of claims about a network that is a few Python functions, run by pytest inside pytest.

A run in this process costs a tenth of a second; one in a process of its own has to import torch
again.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import itertools
import shutil
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_scrub.pytest_edge.options import FOLDER, VERDICT_PROPERTY
from pytest_scrub.verdict import OUTCOMES, Verdict

# A run in this process forgets the modules that it was first to import; importing these again for
# every run is slow, and crashes the interpreter for some of their kind.
for _module in (
    "rich.progress",
    "rich.tree",
    "scipy.stats",
    "torch._dynamo",  # by some of the networks
    "pytest_scrub.judge",
    "pytest_scrub.adversaries.in_turn",
    "pytest_scrub.pytest_edge.claims",
    "pytest_scrub.engine.explain",
    "pytest_scrub.pytest_edge.replay",
    "pytest_scrub.reports.counterexample",
    "pytest_scrub.pytest_edge.progress",
    "pytest_scrub.reports.terminal",
    "pytest_scrub.pytest_edge.session",
):
    importlib.import_module(_module)

VERSION = functools.cache(importlib.metadata.version)  # which reads a package's description

# Of 64 rows that all differ, `a` alone says the label and `b` is a small disturbance, so a claim
# about A holds and one about B is refuted; every row is the only one of its `row`.
CONFTEST = """
import pytest, torch
from pytest_scrub import Dataset, FunctionGraph

def network(sharpness=2):
    return FunctionGraph(
        A=lambda a: sharpness * (2 * a - 1),
        B=lambda b: b / 4,
        output=lambda A, B: torch.stack([-(A + B), A + B], -1) / 2,
    )

def rows(count=64, **options):
    a = torch.arange(count) % 2
    b = torch.randn(count, generator=torch.Generator().manual_seed(0))
    features = {"a": a, "b": (b > 0).long(), "row": range(count)}
    given = {"labels": a, "features": features, "name": "rows", **options}
    return Dataset({"a": a.float(), "b": b}, **given)

@pytest.fixture(scope="session")
def scrub_model():
    return network()

@pytest.fixture(scope="session")
def scrub_data():
    return rows()
"""

IMPORTS = """
import pytest, torch
from conftest import network, rows
from pytest_scrub import (
    ANYTHING, EXACT, Dataset, FunctionGraph, ModuleGraph, Refuted, RefutedByAdversary,
    Undecided, Untested, WhichDonors, claim, module, output, zero_one_error
)
"""

FOUR_OUTCOMES = """
@claim(tolerance=0.5)
def test_held():
    return output(module("A", agrees_on="a"))

@claim(tolerance=0.5)
def test_refuted():
    return output(module("B", agrees_on="b"))

@claim(tolerance=1, samples=20, adversary="report")
def test_undecided():
    return output(module("B", agrees_on="b"))

@claim(tolerance=0.5)
def test_untested():
    return output(module("A", agrees_on="row"))

@claim(tolerance=0.5)
def test_misstated():
    return output(module("C", agrees_on="a"))
"""

# The activations of a torch module depend, in their last digits, on what else is in a batch; with
# claims about several parts of the data, another order captures other batches first.
TORCH_CLAIMS = """
    from torch import nn

    @pytest.fixture(scope="module")
    def scrub_model():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3)
        )
        network[4].weight.data *= 10
        return ModuleGraph(network)

    @pytest.fixture(scope="module")
    def scrub_data(scrub_model):
        x = torch.randn(600, 12, generator=torch.Generator().manual_seed(1))
        labels = scrub_model.module(x).argmax(-1)
        return Dataset(x, labels=labels, features={"sign": x[:, 0] > 0, "label": labels})

    @claim(tolerance=0.02, samples=30)
    def test_a():
        return output(module("1", agrees_on="sign"))

    @claim(tolerance=0.02)
    def test_b():
        return output(module("3", agrees_on="label", reads=[module("1", agrees_on="sign")]))

    @claim(tolerance=0.02)
    def test_c():
        return output(module("0", agrees_on=["label", "sign"]), rest="sign")

    @claim(tolerance=0.02, samples=300)
    def test_d():
        return output(module("2", agrees_on=ANYTHING))
"""

FEW = "--scrub-samples=200"
WORDS = tuple(OUTCOMES)


@dataclass(frozen=True)
class Ran:
    """What a run of pytest left behind.

    - `verdicts`: name of the test to its verdict, as the JUnit file has it; in the order of the
      file.
    - `messages`, `reports`: name of the test to the message of its failure or error there, and to
      its full text.
    """

    result: pytest.RunResult
    verdicts: dict[str, Verdict]
    messages: dict[str, str]
    reports: dict[str, str]

    @property
    def text(self) -> str:
        return self.result.stdout.str()

    @property
    def outcomes(self) -> dict[str, int]:
        return self.result.parseoutcomes()

    @property
    def summary(self) -> list[str]:
        """What is said under "claims", one line for each claim: the figures, then the name."""
        lines = [line.rstrip() for line in self.text.splitlines()]
        titles = [i for i, line in enumerate(lines) if line.strip("= ") == "claims"]
        if not titles:
            return []
        section = lines[titles[0] + 1 :]
        end = next(
            (i for i, line in enumerate(section) if line.startswith(("=", "!"))), len(section)
        )
        found = []
        for above, line in itertools.pairwise(section[:end]):
            if line.startswith(WORDS):
                found.append(line if "::" in line else f"{line}  {above}")
        return found

    @property
    def as_it_ran(self) -> list[str]:
        """The lines that stand where a dot would, one for each claim."""
        return [
            line
            for line in self.text.splitlines()
            if line.startswith(tuple(f"  {word} " for word in WORDS))
        ]

    def crash(self, name: str) -> Any:
        """Where pytest says that a test failed: `path`, `lineno` and `message`; of runs in this
        process."""
        reports = self.result.reprec.getreports("pytest_runtest_logreport")  # type: ignore[attr-defined]
        failed = [
            report for report in reports if report.failed and report.nodeid.endswith(f"::{name}")
        ]
        assert len(failed) == 1, name
        return failed[0].longrepr.reprcrash


class Suite:
    """A folder with claims for an inner run of pytest."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester
        pytester.makeconftest(CONFTEST)

    def write(self, claims: str, name: str = "test_claims") -> Path:
        """A file of claims, which has the network, its rows and the public names at hand."""
        return self.pytester.makepyfile(**{name: IMPORTS + textwrap.dedent(claims)})

    def extend_conftest(self, text: str) -> None:
        path = self.pytester.path / "conftest.py"
        path.write_text(path.read_text() + textwrap.dedent(text))

    @property
    def saved(self) -> list[Path]:
        """The files in the folder of counterexamples."""
        return sorted((self.pytester.path / FOLDER).glob("*"))

    def forget(self) -> None:
        """Delete the counterexamples: a note says what became of one that was saved."""
        shutil.rmtree(self.pytester.path / FOLDER, ignore_errors=True)

    def run(
        self, *args: str, alone: bool = False, adversary: str | None = "none", **options: Any
    ) -> Ran:
        """Run pytest here, in this process or `alone` in its own; in the order of the file, with
        few samples.

        Claims are checked on average alone, unless `adversary` names a search; with None the ini
        file decides.
        """
        junit = self.pytester.path / "junit.xml"
        junit.unlink(missing_ok=True)
        start = self.pytester.runpytest_subprocess if alone else self.pytester.runpytest_inprocess
        given = ("-p", "no:randomly") if not any("random" in arg for arg in args) else ()
        if adversary is not None:
            given += (f"--scrub-adversary={adversary}",)
        result = start(f"--junitxml={junit}", FEW, *given, *args, **options)
        return Ran(result, *_from_junit(junit))


def _from_junit(path: Path) -> tuple[dict[str, Verdict], dict[str, str], dict[str, str]]:
    verdicts, messages, reports = {}, {}, {}
    for case in ElementTree.parse(path).iter("testcase") if path.exists() else ():
        name = case.get("name", "")  # a test that was interrupted has none
        for found in case.iter("property"):
            if found.attrib["name"] == VERDICT_PROPERTY:
                assert name not in verdicts
                verdicts[name] = Verdict.from_json(found.attrib["value"])
        for kind in ("failure", "error"):
            for problem in case.iter(kind):
                messages[name], reports[name] = problem.attrib["message"], problem.text or ""
    return verdicts, messages, reports


@pytest.fixture
def suite(pytester: pytest.Pytester, warm: None, monkeypatch: pytest.MonkeyPatch) -> Suite:
    for name in ("CI", "BUILD_NUMBER", "FORCE_COLOR", "PY_COLORS", "NO_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)  # they change what pytest prints
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr("pytest_scrub.pytest_edge.run_reports.version", VERSION)
    # Bytecode is kept by second and size: a file that is written again may be taken for the one it
    # was.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    return Suite(pytester)


@pytest.fixture
def four(suite: Suite) -> Suite:
    """A suite with one claim for every outcome, and one that has no meaning."""
    suite.write(FOUR_OUTCOMES)
    return suite


def assert_same_figures(one: Any, other: Any) -> None:
    """Equal to six digits all the way down, where the metric's own scale is one."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            if key == "changes":  # of single samples, whose last digits no mean has evened out
                assert value == pytest.approx(other[key], abs=3e-6)
            else:
                assert_same_figures(value, other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same_figures(*pair)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-6, abs=1e-7)
    else:
        assert one == other
