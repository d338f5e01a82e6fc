"""The fixtures that claims and users' own tests ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pytest_scrub.options import EFFORT, FOLDER, option

if TYPE_CHECKING:
    from pytest_scrub.data import Dataset
    from pytest_scrub.session import Scrub, Session


@pytest.fixture(scope="session")
def scrub_session(pytestconfig: pytest.Config) -> Session:
    """What all claims of this session share: options and clean activations."""
    from pytest_scrub.replaying import replayed
    from pytest_scrub.reports.progress import shown_on_terminal
    from pytest_scrub.session import Session

    return Session(
        seed=int(option(pytestconfig, "seed")),
        samples=int(option(pytestconfig, "samples")),
        effort=EFFORT[str(option(pytestconfig, "adversary"))],
        deadline=float(option(pytestconfig, "deadline") or 0) or None,
        folder=pytestconfig.rootpath / FOLDER,
        replay=replayed(pytestconfig),
        on_undecided=str(option(pytestconfig, "on-undecided")),
        on_untested=str(option(pytestconfig, "on-untested")),
        mutate=bool(option(pytestconfig, "mutate")),
        controls=bool(option(pytestconfig, "controls")),
        show_progress=shown_on_terminal(pytestconfig),
    )


def _share_cores(config: pytest.Config) -> None:
    """In a worker of pytest-xdist, torch gets its part of the cores: threads that wait for one another are slow."""
    worker = getattr(config, "workerinput", None)
    if worker is not None:
        import torch

        torch.set_num_threads(max(1, torch.get_num_threads() // int(worker["workercount"])))


@pytest.fixture(scope="session")
def scrub_model() -> Any:
    """The network that claims speak of; override it in a conftest.py, a module or a class."""
    pytest.fail(
        "no network: define a fixture scrub_model that returns load_model(...), or name one with @claim(model=...)",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def scrub_data() -> Dataset:
    """The Dataset that claims are tested on; override it in a conftest.py, a module or a class."""
    pytest.fail(
        "no data: define a fixture scrub_data that returns a Dataset(...), or name one with @claim(data=...)",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def scrub_seed(scrub_session: Session) -> int:
    """The session's seed, `--scrub-seed`."""
    return scrub_session.seed


@pytest.fixture(scope="session")
def scrub_device(pytestconfig: pytest.Config) -> str:
    """The torch device to load networks and data on, `--scrub-device`."""
    return str(option(pytestconfig, "device"))


@pytest.fixture
def scrub(request: pytest.FixtureRequest, scrub_session: Session, scrub_model: Any, scrub_data: Dataset) -> Scrub:
    """Check, explain and evaluate hypotheses inside any test."""
    from pytest_scrub.session import Scrub

    return Scrub(scrub_session, scrub_model, scrub_data, request.node.nodeid)
