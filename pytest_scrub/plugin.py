"""The pytest plugin: options, fixtures and the summary. Thin, and free of torch until a claim runs.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
from typing import Any

import pytest

# Registered as fixtures by being here.
from pytest_scrub.pytest_edge.fixtures import (  # noqa: F401
    scrub,
    scrub_data,
    scrub_device,
    scrub_model,
    scrub_seed,
    scrub_session,
)
from pytest_scrub.pytest_edge.ids import id_of
from pytest_scrub.pytest_edge.options import CLAIM_PROPERTY, OPTIONS, option, require_known
from pytest_scrub.pytest_edge.replaying import only_replayed


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option has an ini twin: --scrub-seed and scrub_seed."""
    group = parser.getgroup("scrub", "pytest-scrub: interpretability hypotheses as tests")
    for option_ in OPTIONS:
        flag = f"--scrub-{option_.name}"
        if option_.read is bool:
            group.addoption(
                flag, dest=option_.dest, action="store_true", default=None, help=option_.help
            )
            parser.addini(option_.dest, help=option_.help, type="bool", default=False)
            continue
        default = option_.default.replace("%", "%%")
        text = f"{option_.help} (default {default})" if default else option_.help
        bare = {} if option_.bare is None else {"nargs": "?", "const": option_.bare}
        group.addoption(flag, dest=option_.dest, default=None, help=text, metavar="X", **bare)
        parser.addini(option_.dest, help=text, default=option_.default)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """With --scrub-list, claims are shown and none is run."""
    if option(config, "list"):
        from pytest_scrub.pytest_edge.listing import start

        start(config)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker, and refuses options that are malformed or misspelt before anything is
    collected."""
    config.addinivalue_line(
        "markers", "claim: a hypothesis about a network, checked by pytest-scrub"
    )
    require_known(config)
    for option_ in OPTIONS:
        option(config, option_.name)
    if not hasattr(config, "workerinput"):
        from pytest_scrub.pytest_edge.reporting import Reporting

        config.pluginmanager.register(Reporting(config), "scrub-reporting")
    if address := option(config, "ray"):
        from pytest_scrub.pytest_edge.ray import RayHooks

        config.pluginmanager.register(RayHooks(config, str(address)), "scrub-ray")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the reports of claims as such; with --scrub-replay, nothing but that counterexample's
    claim is run."""
    for item in items:
        # a report's own keywords are also names and parameters
        if item.get_closest_marker("claim") is not None:
            item.user_properties.append((CLAIM_PROPERTY, id_of(item)))
    only_replayed(config, items)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """On GitHub Actions, annotations below everything else; its runner reads them from the
    output."""
    reporting = config.pluginmanager.get_plugin("scrub-reporting")
    if reporting is not None and os.environ.get("GITHUB_ACTIONS") == "true":
        reporting.annotate(terminalreporter)
