"""Progress of long claims, on a terminal and in a notebook, and nowhere else."""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from pytest_scrub.engine.store import Progress
    from pytest_scrub.pytest_edge.session import ShowProgress

PATIENCE = 2.0  # seconds after which the progress of a claim is shown
BETWEEN = 0.1  # seconds from one display in a notebook to the next, each of which is a message
NOTEBOOK_WIDTH = 100  # characters
NOTEBOOK_FORMAT = '<pre style="margin: 0; line-height: normal">{code}</pre>'


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
        from rich.console import Console

        # the terminal is that of a console which is made while pytest does not capture
        with uncaptured():
            bars = _bars(Console(stderr=True))

        def refresh() -> None:
            with uncaptured():
                if not bars.live.is_started:
                    bars.console.line()  # below pytest's own
                    bars.start()
                bars.refresh()

        try:
            yield _advancing(bars, refresh)
        finally:
            with uncaptured():
                bars.stop()

    return show


def shown_in_notebook() -> AbstractContextManager[Progress | None]:
    """The same below the cell of a notebook, until the claim is checked; silent in any other
    Python."""
    # a kernel has imported it; nothing else needs it
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return nullcontext() if getattr(shell, "kernel", None) is None else _below_the_cell()


@contextmanager
def _below_the_cell() -> Iterator[Progress]:
    """Rich's own display of what changes asks for ipywidgets there, and leaves its last state."""
    from IPython.display import display
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        record=True,
        width=NOTEBOOK_WIDTH,
        color_system="truecolor",
        force_terminal=True,
        force_jupyter=False,
    )
    bars = _bars(console)
    handle: Any = None
    last = -math.inf

    def refresh() -> None:
        nonlocal handle, last
        if time.monotonic() - last < BETWEEN:
            return
        last = time.monotonic()
        console.print(bars.get_renderable())
        shown = {
            "text/plain": console.export_text(clear=False),
            "text/html": console.export_html(inline_styles=True, code_format=NOTEBOOK_FORMAT),
        }
        if handle is None:
            handle = display(shown, raw=True, display_id=True)
        else:
            handle.update(shown, raw=True)

    try:
        yield _advancing(bars, refresh)
    finally:
        if handle is not None:
            handle.update({"text/html": "", "text/plain": ""}, raw=True)


def _advancing(bars: Bars, refresh: Callable[[], None]) -> Progress:
    """What a claim calls as it gets on; nothing is shown of one that does not take long."""
    started = time.monotonic()
    tasks: dict[str, TaskID] = {}

    def advance(what: str, done: int, total: int, stands: str) -> None:
        if time.monotonic() - started < PATIENCE:
            return
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total, stands="")
        bars.update(tasks[what], completed=done, total=total, stands=stands)
        refresh()

    return advance


def rate(speed: float | None, remaining: float) -> str:
    """How fast something goes, and how long what remains of it takes at that speed."""
    if not speed:
        return ""
    number = f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s"
    return f"{number}, {timedelta(seconds=round(remaining / speed))} left" if remaining else number


def _bars(console: Console) -> Bars:
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
        console=console,
        transient=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
