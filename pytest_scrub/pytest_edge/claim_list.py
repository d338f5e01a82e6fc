"""`--scrub-list`: the claims with their options and fixtures, and nothing is run.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import inspect
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from pytest_scrub.common.visible import natural, shortened, visible
from pytest_scrub.pytest_edge.items import arguments_of, is_claim
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
        config.hook.pytest_deselected(items=[item for item in items if not is_claim(item)])
        items[:] = filter(is_claim, items)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Shows what was collected. Errors of the collection are pytest's to report, so its loop
        goes on, but empty."""
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.ensure_newline()
            for line in _listed(session.items, session.config):
                reporter.write_line(visible(line))
        session.items = []


def start(config: pytest.Config) -> None:
    """Before workers of pytest-xdist are started: the claims are collected here, and none is run
    anywhere."""
    for name, value in {"numprocesses": 0, "dist": "no", "distload": False}.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    config.pluginmanager.register(Listing(), "scrub-listing")


def _listed(items: Sequence[pytest.Item], config: pytest.Config) -> Iterator[str]:
    """Every claim by file and line: one line, or also its fixtures, parameters and markers."""
    if not items:
        yield "no claims were collected"
    is_short = config.get_verbosity() < 0
    by_line = sorted(
        items, key=lambda item: (item.location[0], item.location[1] or 0, natural(item.nodeid))
    )
    for file, claims in groupby(by_line, key=lambda item: item.location[0]):
        if not is_short:
            yield file
        for item in claims:
            if is_short:
                yield f"{item.nodeid}  {_options_shown(item)}"
                continue
            line = (item.location[1] or 0) + 1
            yield f"  {line:>4}  {item.nodeid.partition('::')[2]}"
            yield from (f"{'':8}{text}" for text in _about(item, config))


def _about(item: pytest.Item, config: pytest.Config) -> Iterator[str]:
    yield _options_shown(item)
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    roles = {role: str(_claim_options(item).get(role, SETTINGS[role].default)) for role in FIXTURES}
    for role, fixture in roles.items():
        where = (
            "parametrized" if fixture in parameters else _place_of_fixture(item, fixture, config)
        )
        yield f"{role}: {fixture} ({where})"
    shown = {"self", *OURS, *roles.values(), *parameters}
    if others := [name for name in arguments_of(item) if name not in shown]:
        yield f"fixtures: {', '.join(others)}"
    if parameters:
        yield f"parameters: {', '.join(_as_keywords(parameters))}"
    for marker in item.iter_markers():
        if marker.name not in (CLAIM, "parametrize"):
            said = ", ".join([*map(_value_shown, marker.args), *_as_keywords(marker.kwargs)])
            yield f"marked: {marker.name}" + (f"({said})" if said else "")


def _claim_options(item: pytest.Item) -> Mapping[str, Any]:
    marker = item.get_closest_marker(CLAIM)
    return {} if marker is None else marker.kwargs


def _options_shown(item: pytest.Item) -> str:
    return ", ".join(
        _as_keywords({k: v for k, v in _claim_options(item).items() if k not in FIXTURES})
    )


def _as_keywords(values: Mapping[str, Any]) -> list[str]:
    return [f"{name}={_value_shown(value)}" for name, value in values.items()]


def _value_shown(value: Any) -> str:
    """A metric, an adversary, a function or a class by its name, what is long shortened."""
    if isinstance(value, (list, tuple)):
        inner = ", ".join(map(_value_shown, value))
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, (str, bytes, int, float)) or value is None:
        text = repr(value)
    else:
        names = (getattr(value, name, None) for name in ("name", "__name__"))
        text = next((name for name in names if isinstance(name, str)), reprlib.repr(value))
    return shortened(text, MOST_SHOWN)


def _place_of_fixture(item: pytest.Item, fixture: str, config: pytest.Config) -> str:
    """File and line of a fixture's function, where one of that name stands in the class, the
    module, a `conftest.py` above it or a plugin, nearest first."""
    for holder in _holders(item, config):
        found = inspect.getattr_static(holder, fixture, None)
        code = getattr(inspect.unwrap(found), "__code__", None)
        if code is None or not hasattr(found, "__wrapped__"):
            continue
        if str(found.__module__).startswith("pytest_scrub."):
            return "not defined"
        file, root = Path(code.co_filename), config.rootpath
        shown = file.relative_to(root).as_posix() if file.is_relative_to(root) else file
        return f"{shown}:{code.co_firstlineno}"
    return "defined elsewhere"


def _holders(item: pytest.Item, config: pytest.Config) -> Iterator[object]:
    yield from (getattr(item, "cls", None), getattr(item, "module", None))
    plugins = config.pluginmanager.get_plugins()
    conftests = {Path(one.__file__).parent: one for one in plugins if _is_conftest(one)}
    yield from (conftests[folder] for folder in item.path.parents if folder in conftests)
    yield from (plugin for plugin in plugins if not _is_conftest(plugin))


def _is_conftest(plugin: Any) -> bool:
    return Path(getattr(plugin, "__file__", None) or "").name == "conftest.py"
