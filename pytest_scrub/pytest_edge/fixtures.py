"""The fixtures that claims and users' own tests ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_scrub.pytest_edge.items import id_of
from pytest_scrub.pytest_edge.options import FOLDER, option
from pytest_scrub.pytest_edge.over import given
from pytest_scrub.settings import COMMAND_LINE_OPTIONS

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_scrub.data.dataset import Dataset
    from pytest_scrub.extras.disk_cache.folder import BoundedFolder
    from pytest_scrub.pytest_edge.session import Scrub, Session


@pytest.fixture(scope="session")
def scrub_session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """What all claims of this session share: options and clean activations."""
    from pytest_scrub.pytest_edge.claims import ScrubWarning
    from pytest_scrub.pytest_edge.progress import shown_on_terminal
    from pytest_scrub.pytest_edge.replay import replayed
    from pytest_scrub.pytest_edge.session import Session
    from pytest_scrub.pytest_edge.suite_error import shared_by

    ray = pytestconfig.pluginmanager.get_plugin("scrub-ray")
    for_all = {name: option(pytestconfig, twin.name) for name, twin in COMMAND_LINE_OPTIONS.items()}
    # a flag that is off leaves to claims what they do without it
    for_all = {name: given for name, given in for_all.items() if given is not False}
    # baselines need what depends on nothing but the seed
    for_all["anew"] = bool(option(pytestconfig, "save") or option(pytestconfig, "compare"))
    shared = shared_by(pytestconfig)
    if shared is not None:
        for_all["confidence"] = shared.confidence
    session = Session(
        for_all,
        shared=shared,
        folder=pytestconfig.rootpath / FOLDER,
        replay=replayed(pytestconfig),
        cache=_cache(pytestconfig),
        executor=None if ray is None else ray.executor,
        memory=option(pytestconfig, "memory"),
        turn=_turn(pytestconfig),
        show_progress=shown_on_terminal(pytestconfig),
    )
    yield session
    for note in session.close():
        warnings.warn(ScrubWarning(note), stacklevel=1)


def _turn(config: pytest.Config) -> tuple[int, int]:
    """The number of this process among those of pytest-xdist, from 0, and how many there are."""
    worker = getattr(config, "workerinput", {"workerid": "gw0", "workercount": 1})
    count = int(worker["workercount"])
    # a worker that replaces one that died has a number beyond the count
    return int(worker["workerid"].removeprefix("gw")) % count, count


def _cache(config: pytest.Config) -> BoundedFolder | None:
    """Where activations are kept between runs; None where pytest has no cache, or none is
    wanted."""
    from pytest_scrub.pytest_edge.claims import ScrubWarning

    cache, limit = getattr(config, "cache", None), int(option(config, "cache")) << 20
    if cache is None or not limit:  # it is not there with -p no:cacheprovider
        return None
    from pytest_scrub.extras.disk_cache.folder import BoundedFolder

    try:
        return BoundedFolder(cache.mkdir("scrub"), limit)
    except OSError as error:
        warnings.warn(
            ScrubWarning(f"activations cannot be kept in pytest's cache ({error})"), stacklevel=1
        )
        return None


def _missing(what: str, role: str, made: str) -> None:
    pytest.fail(
        f"no {what}: define a fixture scrub_{role} that returns {made}, or name one with "
        f"@claim({role}=...)",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def scrub_model() -> Any:
    """The network that claims speak of; override it in a conftest.py, a module or a class."""
    _missing("network", "model", "load_model(...)")


@pytest.fixture(scope="session")
def scrub_data() -> Any:
    """The Dataset that claims are tested on; override it in a conftest.py, a module or a class."""
    _missing("data", "data", "a Dataset(...)")


@pytest.fixture(scope="session")
def scrub_checkpoint(request: pytest.FixtureRequest) -> Path | None:
    """The checkpoint to load the network from, one after another of `--scrub-over`; None without
    it."""
    return given(request)


@pytest.fixture(scope="session")
def scrub_seed(scrub_session: Session) -> int:
    """The session's seed, `--scrub-seed`."""
    return int(scrub_session.for_all["seed"])


@pytest.fixture(scope="session")
def scrub_device(pytestconfig: pytest.Config) -> str:
    """The torch device to load networks and data on, `--scrub-device`."""
    return str(option(pytestconfig, "device"))


@pytest.fixture
def scrub(
    request: pytest.FixtureRequest, scrub_session: Session, scrub_model: Any, scrub_data: Dataset
) -> Scrub:
    """Check, explain and evaluate hypotheses inside any test."""
    from pytest_scrub.pytest_edge.session import Scrub

    return Scrub(scrub_session, scrub_model, scrub_data, id_of(request.node))
