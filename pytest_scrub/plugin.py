"""The pytest plugin: options, fixtures and the summary. Thin, and free of torch until a claim runs.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

# Registered as fixtures by being here.
from pytest_scrub.fixtures import (  # noqa: F401
    scrub,
    scrub_data,
    scrub_device,
    scrub_model,
    scrub_seed,
    scrub_session,
)
from pytest_scrub.options import OPTIONS, VERDICT_PROPERTY, option

if TYPE_CHECKING:
    from pytest_scrub.verdict import Verdict

COLOURS = {"held": "green", "refuted": "red", "undecided": "yellow", "untested": "yellow", "weak": "yellow"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option has an ini twin: --scrub-seed and scrub_seed."""
    group = parser.getgroup("scrub", "pytest-scrub: interpretability hypotheses as tests")
    for option_ in OPTIONS:
        flag = f"--scrub-{option_.name}"
        if option_.kind is bool:
            group.addoption(flag, dest=option_.dest, action="store_true", default=None, help=option_.help)
            parser.addini(option_.dest, help=option_.help, type="bool", default=False)
            continue
        text = f"{option_.help} (default {option_.default})"
        group.addoption(flag, dest=option_.dest, default=None, help=text, metavar="X")
        parser.addini(option_.dest, help=text, default=option_.default)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker, and refuses malformed options before anything is collected."""
    config.addinivalue_line("markers", "claim: a hypothesis about a network, checked by pytest-scrub")
    for option_ in OPTIONS:
        option(config, option_.name)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --scrub-replay, nothing but that counterexample's claim is run."""
    if option(config, "replay"):
        from pytest_scrub.replaying import only_replayed

        only_replayed(config, items)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """One line per claim, in the order of the test ids; nothing where there was no claim."""
    verdicts = list(_verdicts(terminalreporter.stats))
    if verdicts:
        from pytest_scrub.reports.strength import strength_lines
        from pytest_scrub.reports.terminal import summary_lines

        terminalreporter.section("claims")
        for outcome, line in summary_lines(verdicts, terminalreporter.config.get_terminal_writer().fullwidth):
            terminalreporter.write_line(line, **{COLOURS.get(outcome, "bold"): True})
        told = {verdict.claim for verdict in _verdicts({"failed": terminalreporter.stats.get("failed", [])})}
        for line in strength_lines([verdict for verdict in verdicts if verdict.claim not in told]):
            terminalreporter.write_line(line)


def _verdicts(stats: dict[str, list[Any]]) -> Iterator[Verdict]:
    seen: set[str] = set()
    for report in (report for reports in stats.values() for report in reports):
        for name, value in getattr(report, "user_properties", ()):
            if name == VERDICT_PROPERTY and value not in seen:
                from pytest_scrub.verdict import Verdict

                seen.add(value)
                yield Verdict.from_json(value)
