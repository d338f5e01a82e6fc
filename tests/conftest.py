"""For whoever asks: a Ray cluster of two workers, and a Python that starts at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest

from tests.sizes import FULL
from tests.warm_python import warm_python


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a cluster that this process has joined; its tests share one worker of
    pytest-xdist."""
    from pytest_scrub.extras.ray.cluster import QUIET, SETTINGS

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("RAY_worker_niceness", "0")  # or other tests would hold its workers up
    import ray

    import pytest_scrub.extras.ray.executor
    import pytest_scrub.pytest_edge.ray  # noqa: F401  # a run in this process forgets what it was first to import

    ray.init("local", num_cpus=2, object_store_memory=1 << 28, include_dashboard=False, **QUIET)
    yield str(ray.get_runtime_context().gcs_address)
    ray.shutdown()


@pytest.fixture(scope="session")
def python() -> Iterator[str]:
    """A Python, with pytest in its folder, for processes that this one starts."""
    if FULL or not hasattr(os, "fork"):
        yield sys.executable
    else:
        with warm_python() as path:
            yield path


@pytest.fixture
def warm(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that this test starts have imported torch already."""
    monkeypatch.setattr(sys, "executable", python)
