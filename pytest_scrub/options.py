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

    @property
    def dest(self) -> str:
        """Its name in the ini file and in pytest's namespace of options."""
        return f"scrub_{self.name.replace('-', '_')}"


FAIL, XFAIL, WARN = "fail", "xfail", "warn"
ACTIONS = (FAIL, XFAIL, WARN)  # what a claim does that did not hold and was not refuted either

# Evaluations for each sample; the default of a claim without budget=.
EFFORT = {"none": 0, "quick": 2, "default": 20, "thorough": 200}

OPTIONS = (
    Option("seed", "0", int, "seed from which every claim's random stream is derived"),
    Option("samples", "4000", int, "references drawn per claim, each with one swap of every node"),
    Option("adversary", "default", str, "none, quick, default or thorough: how long adversaries search each claim"),
    Option("deadline", "", str, "seconds after which the search of one claim ends early"),
    Option("replay", "", str, "a saved counterexample to evaluate alone, such as .scrub/NAME.json"),
    Option("on-undecided", "fail", str, "fail, xfail or warn: what an undecided claim does"),
    Option("on-untested", "fail", str, "fail, xfail or warn: what an untested claim does"),
    Option("mutate", "", bool, "judge false claims made from each claim that holds, and report how many are refuted"),
    Option("controls", "", bool, "judge each claim that holds on shuffled weights and on permuted features too"),
    Option("device", "cpu", str, "what the fixture scrub_device gives, such as cpu or cuda"),
)


def option(config: pytest.Config, name: str) -> int | str | bool:
    """An option of the command line, else of the ini file. **Raises** `pytest.UsageError` where it is malformed."""
    known = next(known for known in OPTIONS if known.name == name)
    given = config.getoption(known.dest)
    source, value = (f"--scrub-{name}", given) if given is not None else (known.dest, config.getini(known.dest))
    if known.kind is bool:
        return bool(value)
    try:
        parsed: int | str = known.kind(value or known.default)
    except ValueError:
        raise pytest.UsageError(f"{source} takes a whole number, not {value!r}") from None
    if name == "samples" and int(parsed) < 2:
        raise pytest.UsageError(f"{source} is at least 2, not {value}")
    choices = {"adversary": tuple(EFFORT), "on-undecided": ACTIONS, "on-untested": ACTIONS}.get(name)
    if choices is not None and parsed not in choices:
        raise pytest.UsageError(f"{source} is one of {', '.join(choices)}, not {value!r}")
    if name == "deadline" and parsed:
        try:
            positive = float(parsed) > 0
        except ValueError:
            positive = False
        if not positive:
            raise pytest.UsageError(f"{source} takes a number of seconds, not {value!r}")
    return parsed
