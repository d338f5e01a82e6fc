"""The pytest plugin: options, fixtures and the summary. Thin, and free of torch until a claim runs.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from pytest_scrub.pytest_edge.claim_list import start
from pytest_scrub.pytest_edge.first_files import write

# Registered as fixtures by being here.
from pytest_scrub.pytest_edge.fixtures import (  # noqa: F401
    scrub,
    scrub_checkpoint,
    scrub_data,
    scrub_device,
    scrub_model,
    scrub_seed,
    scrub_session,
)
from pytest_scrub.pytest_edge.items import id_of, is_claim, is_ours, tell_once
from pytest_scrub.pytest_edge.options import (
    CLAIM_PROPERTY,
    DESELECTED,
    OPTIONS,
    option,
    require_known,
)
from pytest_scrub.pytest_edge.over import FIXTURE, checkpoint_of, checkpoints, parametrize
from pytest_scrub.pytest_edge.replay import only_replayed
from pytest_scrub.pytest_edge.suite_error import asked, share


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option has an ini twin: --scrub-seed and scrub_seed."""
    group = parser.getgroup("scrub", "pytest-scrub: interpretability hypotheses as tests")
    for one in OPTIONS:
        is_flag = one.read is bool
        default = one.default.replace("%", "%%")
        text = f"{one.help} (default {default})" if default else one.help
        kind: dict[str, Any] = {"action": "store_true"} if is_flag else {"metavar": "X"}
        if one.bare is not None:
            kind |= {"nargs": "?", "const": one.bare}
        group.addoption(f"--scrub-{one.name}", dest=one.dest, default=None, help=text, **kind)
        parser.addini(one.dest, text, "bool" if is_flag else "string", default=one.default)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> pytest.ExitCode | None:
    """With --scrub-list, claims are shown and none is run; with --scrub-init, files are written and
    that is all."""
    if kind := option(config, "init"):
        write(config, kind)
        return pytest.ExitCode.OK
    if option(config, "list"):
        start(config)
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker, and refuses options that are malformed or misspelt before anything is
    collected."""
    config.addinivalue_line(
        "markers", "claim: a hypothesis about a network, checked by pytest-scrub"
    )
    require_known(config)
    for one in OPTIONS:
        option(config, one.name)
    asked(config)
    checkpoints(config)
    if not hasattr(config, "workerinput"):
        from pytest_scrub.pytest_edge.run_reports import Reporting

        config.pluginmanager.register(Reporting(config), "scrub-reporting")
    if address := option(config, "ray"):
        from pytest_scrub.pytest_edge.ray import RayHooks

        config.pluginmanager.register(RayHooks(config, address), "scrub-ray")


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """With --scrub-over, for each checkpoint, whose name is the last part of a test's id."""
    parametrize(metafunc)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the reports of claims as such; with --scrub-replay, nothing but that counterexample's
    claim is run."""
    for item in items:
        # a report's own keywords are also names and parameters
        if is_claim(item):
            item.user_properties.append((CLAIM_PROPERTY, id_of(item)))
            if (checkpoint := checkpoint_of(item)) is not None:
                item.user_properties.append((FIXTURE, checkpoint))
    only_replayed(config, items)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """A worker of pytest-xdist tells that it leaves out some of what it collected."""
    for item in items:
        getattr(item.config, "workeroutput", {})[DESELECTED] = True


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is left then is run: with --scrub-suite-error, its claims share that."""
    share(session.config, session.items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The mark of claims, put on a test by hand, would pass for a claim in reports."""
    if is_claim(item) and not is_ours(item):
        pytest.fail(
            "the mark claim checks nothing by itself; write @claim of pytest_scrub above the "
            "test, or take the mark away",
            pytrace=False,
        )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The story of a claim that fails is told once."""
    report = yield
    if report.failed and is_claim(item):
        tell_once(report)
    return report
