"""The plugin's options, and their twins in the ini file."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import pytest

from pytest_scrub.errors import ScrubError, did_you_mean
from pytest_scrub.extras.baselines.limits import allowed, parsed
from pytest_scrub.pytest_edge.amounts import amount
from pytest_scrub.pytest_edge.first_files import KINDS, kind_of
from pytest_scrub.settings import COMMAND_LINE_OPTIONS, Option, error_of_a_run, whole

FOLDER = ".scrub"  # under pytest's root: one file for each claim that was refuted
# that of every report of a claim, whether it comes to a verdict or not: the test's id
CLAIM_PROPERTY = "scrub_claim"
# the property of a test report that carries its verdict, as JSON
VERDICT_PROPERTY = "scrub_verdict"
# what a worker of pytest-xdist gives back where it left out some of what it collected
DESELECTED = "scrub_deselected"

MEMORY = "25%"  # of what is free when the first claim runs
BASELINE = "main"  # the baseline without a name


def _name(text: str) -> str:
    first = "a test to run comes before the option"
    if not re.fullmatch(r"\w[\w.-]{0,99}", text):
        raise ValueError(
            f"takes a name of up to 100 letters, digits, dots and dashes, not {text!r}; {first}"
        )
    if text.endswith(".py") or (text != BASELINE and os.path.exists(text)):
        raise ValueError(f"takes a name, not the file or folder {text!r}; {first}")
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r"local|auto|[\w.\-\[\]:]+:\d+", text):
        raise ValueError(f"takes local, auto, or the HOST:PORT of a Ray cluster, not {text!r}")
    return text


def _needing(package: str, installed_by: str, read: Callable[[str], str]) -> Callable[[str], str]:
    """For an extra, which needs a package that the core does without."""

    def read_where_installed(text: str) -> str:
        if find_spec(package) is None:
            raise ValueError(f"needs {package}, which is not installed: pip install {installed_by}")
        return read(text)

    return read_where_installed


def _file(text: str) -> str:
    if text.endswith(("/", "\\")):
        raise ValueError(f"takes a file, not the folder {text!r}")
    return text


def _device(text: str) -> str:
    """A device on which this machine can compute; torch is only asked for another one than the
    CPU."""
    if text == "cpu":
        return text
    import torch

    try:
        device = torch.device(text)
    except RuntimeError:
        raise ValueError(f"takes a torch device such as cpu or cuda:0, not {text!r}") from None
    kind: Any = getattr(torch, device.type, None)
    if not hasattr(kind, "device_count"):  # such as meta, whose tensors hold no numbers
        raise ValueError(f"takes a torch device that computes, such as cpu or cuda, not {text!r}")
    count = int(kind.device_count())
    if (device.index or 0) >= count:
        raise ValueError(
            f"is {text!r}, but torch finds {count or 'no'} {device.type} "
            f"device{'s' * (count != 1)} here"
        )
    return text


def _amount(text: str) -> str:
    amount(text, 0)
    return text


OPTIONS = (
    *COMMAND_LINE_OPTIONS.values(),
    Option(
        "suite-error",
        error_of_a_run,
        "how likely any verdict of the run may be wrong, such as 0.05: shared among its claims, "
        "instead of a confidence for each",
    ),
    Option(
        "over",
        str,
        "a pattern of checkpoints, such as 'checkpoints/*.pt': each claim is run for each of them, "
        "which the fixture scrub_checkpoint gives",
    ),
    Option("replay", _file, "a saved counterexample to evaluate alone, such as .scrub/NAME.json"),
    Option(
        "html",
        _needing("jinja2", "jinja2", _file),
        "a file for the report, one page that needs nothing else",
    ),
    Option("json", _file, "a file for all verdicts as JSON"),
    Option(
        "init",
        kind_of,
        f"write a folder of claims that runs, and run nothing: {', '.join(KINDS)}",
        bare=next(iter(KINDS)),
    ),
    Option("list", bool, "show the claims with their options and fixtures, and run nothing"),
    Option(
        "save",
        _name,
        f"keep the figures as the baseline of this name, {BASELINE!r} without one",
        bare=BASELINE,
    ),
    Option(
        "compare",
        _name,
        f"compare the figures with the baseline of this name, {BASELINE!r} without",
        bare=BASELINE,
    ),
    Option(
        "compare-fail",
        parsed,
        "how far figures may move beyond their intervals, such as gap:10%%,worst:0.05 or all:0; "
        "others are only shown",
        "gap:0,accuracy:0",
    ),
    Option(
        "compare-allow",
        allowed,
        "what may be another than in the baseline: acceptance (which is easier to meet now), data, "
        "missing (claims that are not there any more)",
    ),
    Option(
        "cache",
        whole(0),
        "MiB of activations that pytest's cache keeps for later runs; 0 keeps none",
        "2048",
    ),
    Option(
        "memory",
        _amount,
        "what activations may take in memory, such as 4GiB; the others lie in files",
        MEMORY,
    ),
    Option(
        "ray",
        _needing("ray", "pytest-scrub[ray]", _address),
        "the Ray cluster that computes: HOST:PORT, auto, or local to start one here",
    ),
    Option("device", _device, "what the fixture scrub_device gives, such as cpu or cuda", "cpu"),
)


def option(config: pytest.Config, name: str) -> Any:
    """An option of the command line, else of the ini file, else its default; None for one that is
    off. **Raises** `pytest.UsageError` where it is malformed."""
    known = _known(name)
    try:
        text = text_of(config, known)
        if text or known.default or known.read is bool:
            return known.read(text)
        return None
    except ValueError as error:
        raise pytest.UsageError(f"{named(config, name)} {error}") from None


@contextmanager
def as_usage_error() -> Iterator[None]:
    """What ends the run before anything is collected, as pytest tells it."""
    try:
        yield
    except ScrubError as error:
        raise pytest.UsageError(str(error)) from None


def require_known(config: pytest.Config) -> None:
    """**Raises** `pytest.UsageError` for an option of the ini file, or of `-o`, that would be ours.

    pytest only warns of what is misspelt, and not where warnings are switched off.
    """
    ours = [known.dest for known in OPTIONS]
    overriding = config.getoption("override_ini") or ()
    with warnings.catch_warnings():  # pytest means to take `inicfg` away, and has nothing like it
        warnings.simplefilter("ignore", pytest.PytestDeprecationWarning)
        in_file = getattr(config, "inicfg", ())
    for name in (*in_file, *(text.partition("=")[0] for text in overriding)):
        if name.startswith("scrub") and name not in ours:
            near = did_you_mean(name.replace("-", "_"), ours)
            raise pytest.UsageError(f"the ini file has no option {name}{near}")


def text_of(config: pytest.Config, known: Option) -> str:
    """What its user wrote; of a flag, empty where it is off. **Raises** `ValueError` for what is no
    text."""
    given = config.getoption(known.dest)
    if given == "":
        raise ValueError(
            "was given no value; leave it out, or turn off what the ini file says: -o "
            f"{known.dest}="
        )
    try:
        value = config.getini(known.dest) if given is None else given
    # pytest's own, for what is no truth value, or a number where TOML needs quotes
    except (TypeError, ValueError):
        takes = "true or false" if known.read is bool else "a text in quotes"
        raise ValueError(f"takes {takes}") from None
    if known.read is bool:
        return "on" if value else ""
    if not isinstance(value, str):
        raise ValueError(f"takes one value, not {value!r}")
    return value


def named(config: pytest.Config, name: str) -> str:
    """An option as its user wrote it: `--scrub-json`, or `scrub_json` of the ini file."""
    dest = _known(name).dest
    return dest if config.getoption(dest) is None else f"--scrub-{name}"


def _known(name: str) -> Option:
    return next(known for known in OPTIONS if known.name == name)
