"""`--scrub-list`: the claims with their options and fixtures, and nothing is run.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import inspect
import os
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pytest_scrub.common.visible import visible
from pytest_scrub.settings import FIXTURES, SETTINGS

CLAIM = "claim"  # the marker
OURS = {"request", "scrub_session"}  # what every claim takes
MOST_SHOWN = 80  # characters of one value


class Listing:
    """Takes the place of the run. Only registered where claims are to be listed."""

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Only claims are left, so that a selection without any ends as one without tests."""
        others = [item for item in items if item.get_closest_marker(CLAIM) is None]
        if others:
            config.hook.pytest_deselected(items=others)
            items[:] = [item for item in items if item.get_closest_marker(CLAIM) is not None]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Shows what was collected. Errors of the collection are pytest's to report, so its loop
        goes on, but empty."""
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        is_short = session.config.get_verbosity() < 0
        if reporter is not None:
            reporter.ensure_newline()
            for line in listed(session.items, session.config, is_short=is_short):
                reporter.write_line(line)
        session.items = []


def start(config: pytest.Config) -> None:
    """Before workers of pytest-xdist are started: the claims are collected here, and none is run
    anywhere."""
    for name, value in {"numprocesses": 0, "dist": "no", "distload": False}.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    config.pluginmanager.register(Listing(), "scrub-listing")


def listed(
    items: Sequence[pytest.Item], config: pytest.Config, *, is_short: bool = False
) -> Iterator[str]:
    """Every claim by file and line: one line, or also its fixtures, parameters and markers."""
    if not items:
        yield "no claims were collected"
    by_line = sorted(items, key=lambda item: (item.location[0], item.location[1] or 0, item.nodeid))
    for file, claims in groupby(by_line, key=lambda item: item.location[0]):
        if not is_short:
            yield visible(file)
        for item in claims:
            line = (item.location[1] or 0) + 1
            if is_short:
                yield visible(f"{item.nodeid}  {_options(item)}")
                continue
            yield visible(f"  {line:>4}  {item.nodeid.partition('::')[2]}")
            yield from (f"{'':8}{visible(text)}" for text in _about(item, config))


def _about(item: pytest.Item, config: pytest.Config) -> Iterator[str]:
    yield _options(item)
    given, parameters = _given(item), _parameters(item)
    named = {role: str(given.get(role, SETTINGS[role].default)) for role in FIXTURES}
    for role, fixture in named.items():
        where = "parametrized" if fixture in parameters else _where(item, fixture, config)
        yield f"{role}: {fixture} ({where})"
    others = [
        name for name in _arguments(item) if name not in {*OURS, *named.values(), *parameters}
    ]
    if others:
        yield f"fixtures: {', '.join(others)}"
    if parameters:
        shown = (f"{name}={_shown(value)}" for name, value in parameters.items())
        yield f"parameters: {', '.join(shown)}"
    for marker in item.iter_markers():
        if marker.name not in (CLAIM, "parametrize"):
            yield f"marked: {marker.name}{_called(marker)}"


def _given(item: pytest.Item) -> Mapping[str, Any]:
    marker = item.get_closest_marker(CLAIM)
    assert marker is not None
    return marker.kwargs


def _options(item: pytest.Item) -> str:
    return ", ".join(
        f"{name}={_shown(value)}" for name, value in _given(item).items() if name not in FIXTURES
    )


def _parameters(item: pytest.Item) -> Mapping[str, Any]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params


def _arguments(item: pytest.Item) -> Sequence[str]:
    function = getattr(item, "function", None)
    return (
        []
        if function is None
        else [name for name in inspect.signature(function).parameters if name != "self"]
    )


def _called(marker: pytest.Mark) -> str:
    said = [_shown(value) for value in marker.args]
    said += [f"{name}={_shown(value)}" for name, value in marker.kwargs.items()]
    return f"({', '.join(said)})" if said else ""


def _shown(value: Any) -> str:
    """A metric, an adversary, a function or a class by its name, what is long shortened."""
    if isinstance(value, (list, tuple)):
        inner = ", ".join(_shown(one) for one in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, (str, bytes, int, float)) or value is None:
        return _short(repr(value))
    for name in ("name", "__name__"):
        if isinstance(known := getattr(value, name, None), str):
            return _short(known)
    return _short(reprlib.repr(value))


def _short(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."


def _where(item: pytest.Item, fixture: str, config: pytest.Config) -> str:
    """File and line of a fixture's function, where one of that name stands in the class, the
    module, a `conftest.py` above it or a plugin, nearest first."""
    for holder in _holders(item, config):
        found = inspect.getattr_static(holder, fixture, None)
        code = (
            getattr(inspect.unwrap(found), "__code__", None)
            if hasattr(found, "__wrapped__")
            else None
        )
        if code is None:
            continue
        if str(found.__module__).startswith("pytest_scrub."):
            return "not defined"
        return f"{_relative(Path(code.co_filename), config.rootpath)}:{code.co_firstlineno}"
    return "defined elsewhere"


def _holders(item: pytest.Item, config: pytest.Config) -> Iterator[object]:
    yield from (
        found for name in ("cls", "module") if (found := getattr(item, name, None)) is not None
    )
    plugins = config.pluginmanager.get_plugins()
    folders = {
        Path(file).parent: plugin for plugin in plugins if (file := _conftest(plugin)) is not None
    }
    yield from (folders[folder] for folder in item.path.parents if folder in folders)
    yield from (plugin for plugin in plugins if _conftest(plugin) is None)


def _conftest(plugin: object) -> str | None:
    file = getattr(plugin, "__file__", None)
    return file if isinstance(file, str) and Path(file).name == "conftest.py" else None


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else os.fspath(file)
