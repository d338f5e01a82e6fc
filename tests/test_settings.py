"""What a claim can be told stands in one file, and everything that shows it follows."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import pytest_scrub
from pytest_scrub import check, claim
from pytest_scrub.pytest_edge.session import Scrub
from pytest_scrub.settings import SETTINGS, CheckOptions, ClaimOptions, ScrubOptions, Settings
from tests.sizes import only_in_full

TAKES = {claim: ClaimOptions, check: CheckOptions, Scrub.check: ScrubOptions}


@pytest.mark.parametrize(("function", "options"), TAKES.items())
def test_signature_and_help_show_what_is_taken(function, options):
    shown = {
        name: one
        for name, one in inspect.signature(function).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
    assert list(shown) == [name for name in SETTINGS if name in options.__annotations__]
    assert all(f"- `{name}`: {SETTINGS[name].help}." in function.__doc__ for name in shown)


@pytest.mark.parametrize("options", TAKES.values())
def test_types_are_those_of_the_table(options):
    types = {one.name: one.type for one in fields(Settings)}
    for name, hint in options.__annotations__.items():
        is_open = types[name].endswith(" | None")
        optional = " | None" * (SETTINGS[name].none_is_unset and not is_open)
        assert hint.__forward_arg__ == f"{types[name]}{optional}"


def test_flags_are_off_by_default():
    """One that is not given is off: a default that is on would be off in every run of pytest."""
    assert not any(one.default for one in SETTINGS.values() if one.read is bool)


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        Settings(tolerance=1.0).samples = 3


ADDED = {
    "    deadline: float | None = _setting(\n": """
    patience: int = _setting(
        3, "how often to try again", _whole_from("a number of times", 0), read=whole(0),
        none_is_unset=True,
    )
    on_weak: str = _setting(
        FAIL, "what a claim does that says too little", _ACTION, read=_word(ACTIONS),
        in_figures=False, at_collection=True,
    )
""",
    "    budget: int | None\n": "    patience: int | None\n    on_weak: str\n",
}
SHOWS = """
import inspect
import pytest
import torch
from pytest_scrub import Dataset, FunctionGraph, HypothesisError, check, claim, module, output
from pytest_scrub.pytest_edge.session import Scrub

@claim(tolerance=1, patience=5)
def test_claimed():
    raise AssertionError("run")

def test_shown():
    for function, default in ((claim, None), (check, 3), (Scrub.check, None)):
        assert inspect.signature(function).parameters["patience"].default == default
        assert "- `patience`: how often to try again." in function.__doc__
    with pytest.raises(HypothesisError, match="^patience= is a number of times, not 'many'$"):
        check(output(module("A", agrees_on="a")), None, None, tolerance=1, patience="many")

def test_told(scrub_session):
    said = {"tolerance": 1, "min_moved": None}
    assert scrub_session.settings(said).patience == 7
    assert scrub_session.settings({**said, "patience": None}).patience == 7
    assert scrub_session.settings({**said, "patience": 5}).patience == 5
    assert scrub_session.settings(said).on_weak == "xfail"
    assert scrub_session.settings({**said, "on_weak": "fail"}).on_weak == "fail"

@pytest.fixture(scope="session")
def scrub_model():
    return FunctionGraph(a=lambda x: x, b=lambda y: y, output=lambda a, b: a + 0 * b)

@pytest.fixture(scope="session")
def scrub_data():
    x = torch.arange(40.0) % 2
    return Dataset({"x": x, "y": torch.arange(40.0)}, features={"x": x})

def first(output, batch):
    return output

@claim(tolerance=1, metric=first, adversaries=[], min_power=1, on_weak="warn")
def test_lets_weak_pass():
    return output(module("b", agrees_on="x"))
"""


@only_in_full
def test_an_option_is_added_in_one_file(tmp_path):
    """In a copy of the package: two entries more, and signatures, help, the command line, its twin
    in the ini file, the listing and what figures depend on know it."""
    package = shutil.copytree(
        Path(pytest_scrub.__file__).parent,
        tmp_path / "pytest_scrub",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    text = (package / "settings.py").read_text()
    for before, added in ADDED.items():
        assert text.count(before) == 1
        text = text.replace(before, f"{added}{before}")
    (package / "settings.py").write_text(text)
    (tmp_path / "test_claims.py").write_text(SHOWS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nscrub_patience = 7\nscrub_on_weak = xfail\n")

    def ran(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "--scrub-patience=X    how often to try again (default 3)" in ran("--help")
    assert "tolerance=1, patience=5" in ran("--scrub-list")
    assert "3 passed, 1 deselected, 1 warning" in ran(
        "-k", "shown or told or weak", "--scrub-json=claims.json"
    )
    run = json.loads((tmp_path / "claims.json").read_text())["run"]
    assert run["options"] == ["--scrub-seed=0", "--scrub-patience=7"]


def test_the_error_is_shared_among_as_many_adversaries_as_there_are() -> None:
    """The settings count them without knowing them."""
    from pytest_scrub.adversaries.in_turn import ALL_ADVERSARIES
    from pytest_scrub.settings import DEFAULT_ADVERSARIES

    assert len(ALL_ADVERSARIES) == DEFAULT_ADVERSARIES


def test_a_run_that_only_shows_what_is_found_is_as_sure_as_one_that_gates() -> None:
    gating, shown = Settings(tolerance=1), Settings(tolerance=1, effort="report")
    assert (shown.gates, shown.would_gate, shown.searches) == (False, True, True)
    assert (shown.routes, shown.evaluations) == (gating.routes, gating.evaluations)
    own = Settings(tolerance=1, adversary="report")
    assert (own.gates, own.routes) == (False, 1)
