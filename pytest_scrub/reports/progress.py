"""Progress of long claims, on a terminal and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_scrub.engine.store import Progress
    from pytest_scrub.session import ShowProgress

PATIENCE = 2.0  # seconds before a claim counts as long


def shown_on_terminal(config: pytest.Config) -> ShowProgress:
    """A display for one claim at a time; silent when piped, quiet, or in a worker of pytest-xdist."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty or reporter.verbosity < 0 or hasattr(config, "workerinput"):
        return lambda _: nullcontext()

    @contextmanager
    def show(name: str) -> Iterator[Progress]:
        from rich.console import Console
        from rich.progress import Progress as Bars

        capture = config.pluginmanager.get_plugin("capturemanager")
        bars = Bars(console=Console(stderr=True), transient=True)
        tasks, started = {}, time.monotonic()

        def advance(what: str, done: int, total: int) -> None:
            if time.monotonic() - started < PATIENCE:
                return
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                bars.start()
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total)
                bars.update(tasks[what], completed=done, total=total)
                bars.refresh()

        try:
            yield advance
        finally:
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                bars.stop()

    return show
