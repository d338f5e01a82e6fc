"""The plugin's options, and their twins in the ini file."""

from __future__ import annotations

from typing import NamedTuple

import pytest

FOLDER = ".scrub"  # under pytest's root: one file for each claim that was refuted
VERDICT_PROPERTY = "scrub_verdict"  # the property of a test report that carries its verdict, as JSON


class Option(NamedTuple):
    """One option: --scrub-`name`, and `scrub_name` in the ini file."""

    name: str
    default: str
    kind: type
    help: str


# Evaluations for each sample; the default of a claim without budget=.
EFFORT = {"none": 0, "quick": 2, "default": 20, "thorough": 200}

OPTIONS = (
    Option("seed", "0", int, "seed from which every claim's random stream is derived"),
    Option("samples", "4000", int, "references drawn per claim, each with one swap of every node"),
    Option("adversary", "default", str, "none, quick, default or thorough: how long adversaries search each claim"),
    Option("deadline", "", str, "seconds after which the search of one claim ends early"),
    Option("replay", "", str, "a saved counterexample to evaluate alone, such as .scrub/NAME.json"),
    Option("device", "cpu", str, "what the fixture scrub_device gives, such as cpu or cuda"),
)


def option(config: pytest.Config, name: str) -> int | str:
    """An option of the command line, else of the ini file. **Raises** `pytest.UsageError` where it is malformed."""
    _, default, kind, _ = next(known for known in OPTIONS if known.name == name)
    given = config.getoption(f"scrub_{name}")
    source, value = (
        (f"--scrub-{name}", given) if given is not None else (f"scrub_{name}", config.getini(f"scrub_{name}"))
    )
    try:
        parsed: int | str = kind(value or default)
    except ValueError:
        raise pytest.UsageError(f"{source} takes a whole number, not {value!r}") from None
    if name == "samples" and int(parsed) < 2:
        raise pytest.UsageError(f"{source} is at least 2, not {value}")
    if name == "adversary" and parsed not in EFFORT:
        raise pytest.UsageError(f"{source} is one of {', '.join(EFFORT)}, not {value!r}")
    if name == "deadline" and parsed:
        try:
            positive = float(parsed) > 0
        except ValueError:
            positive = False
        if not positive:
            raise pytest.UsageError(f"{source} takes a number of seconds, not {value!r}")
    return parsed
