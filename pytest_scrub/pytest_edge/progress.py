"""Progress of long claims, on a terminal and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from pytest_scrub.engine.store import Progress
    from pytest_scrub.pytest_edge.session import ShowProgress

PATIENCE = 2.0  # seconds after which the progress of a claim is shown


def shown_on_terminal(config: pytest.Config) -> ShowProgress:
    """A display for one claim at a time; silent when piped, quiet, or in a worker of
    pytest-xdist, which has no terminal."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not reporter.isatty or reporter.verbosity < 0:
        return lambda _: nullcontext()

    capture = config.pluginmanager.get_plugin("capturemanager")
    uncaptured = capture.global_and_fixture_disabled if capture else nullcontext

    @contextmanager
    def show(name: str) -> Iterator[Progress]:
        started = time.monotonic()
        tasks: dict[str, TaskID] = {}
        with uncaptured():
            bars = _bars()

        def advance(what: str, done: int, total: int, stands: str) -> None:
            if time.monotonic() - started < PATIENCE:
                return
            with uncaptured():
                if not bars.live.is_started:
                    bars.console.line()  # below pytest's own
                    bars.start()
                if what not in tasks:
                    tasks[what] = bars.add_task(what, total=total, stands="")
                bars.update(tasks[what], completed=done, total=total, stands=stands)
                bars.refresh()

        try:
            yield advance
        finally:
            with uncaptured():
                bars.stop()

    return show


def rate(speed: float | None, remaining: float) -> str:
    """How fast something goes, and how long what remains of it takes at that speed."""
    if not speed:
        return ""
    number = f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"
    return f"{number}, {timedelta(seconds=round(remaining / speed))} left" if remaining else number


def _bars() -> Bars:
    """Bars on the terminal, which is one for a console that is made while pytest does not
    capture."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(rate(task.finished_speed or task.speed, task.remaining or 0))

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        Rate(),
        TextColumn("{task.fields[stands]}", markup=False),
        console=Console(stderr=True),
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
