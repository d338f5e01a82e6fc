"""The fixtures that claims and users' own tests ask for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pytest_scrub.pytest_edge.ids import id_of
from pytest_scrub.pytest_edge.options import FOLDER, option
from pytest_scrub.settings import TWINS

if TYPE_CHECKING:
    from pytest_scrub.data.dataset import Dataset
    from pytest_scrub.engine.store import Crew
    from pytest_scrub.extras.disk_cache.bounded import BoundedFolder
    from pytest_scrub.pytest_edge.session import Scrub, Session


@pytest.fixture(scope="session")
def scrub_session(pytestconfig: pytest.Config) -> Iterator[Session]:
    """What all claims of this session share: options and clean activations."""
    from pytest_scrub.pytest_edge.claims import ScrubWarning
    from pytest_scrub.pytest_edge.progress import shown_on_terminal
    from pytest_scrub.pytest_edge.replaying import replayed
    from pytest_scrub.pytest_edge.session import Session

    session = Session(
        for_all={
            **{name: option(pytestconfig, twin.name) for name, twin in TWINS.items()},
            # baselines need what depends on nothing but the seed
            "anew": bool(option(pytestconfig, "save") or option(pytestconfig, "compare")),
        },
        folder=pytestconfig.rootpath / FOLDER,
        replay=replayed(pytestconfig),
        cache=_cache(pytestconfig),
        crew=_crew(pytestconfig),
        memory=str(option(pytestconfig, "memory")),
        turn=_turn(pytestconfig),
        show_progress=shown_on_terminal(pytestconfig),
    )
    yield session
    for note in session.close():
        warnings.warn(ScrubWarning(note), stacklevel=1)


def _turn(config: pytest.Config) -> tuple[int, int]:
    """Which of how many processes this is, where pytest-xdist runs several at once."""
    worker = getattr(config, "workerinput", None)
    if worker is None:
        return 0, 1
    count = int(worker["workercount"])
    # one that replaces another counts on
    return int(worker["workerid"].removeprefix("gw")) % count, count


def _cache(config: pytest.Config) -> BoundedFolder | None:
    """Where activations are kept between runs; None where pytest has no cache, or none is
    wanted."""
    from pytest_scrub.pytest_edge.claims import ScrubWarning

    cache, limit = getattr(config, "cache", None), int(option(config, "cache")) << 20
    if cache is None or not limit:  # it is not there with -p no:cacheprovider
        return None
    from pytest_scrub.extras.disk_cache.bounded import BoundedFolder

    try:
        return BoundedFolder(cache.mkdir("scrub"), limit)
    except OSError as error:
        warnings.warn(
            ScrubWarning(f"activations cannot be kept in pytest's cache ({error})"), stacklevel=1
        )
        return None


def _crew(config: pytest.Config) -> Crew | None:
    """Who does the work with --scrub-ray."""
    hooks = config.pluginmanager.get_plugin("scrub-ray")
    return None if hooks is None else hooks.crew()


def _share_cores(config: pytest.Config) -> None:
    """In a worker of pytest-xdist, torch gets its part of the cores: threads that wait for one
    another are slow."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // int(worker["workercount"])))


@pytest.fixture(scope="session")
def scrub_model() -> Any:
    """The network that claims speak of; override it in a conftest.py, a module or a class."""
    pytest.fail(
        "no network: define a fixture scrub_model that returns load_model(...), or name one with "
        "@claim(model=...)",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def scrub_data() -> Dataset:
    """The Dataset that claims are tested on; override it in a conftest.py, a module or a class."""
    pytest.fail(
        "no data: define a fixture scrub_data that returns a Dataset(...), or name one with "
        "@claim(data=...)",
        pytrace=False,
    )


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
