"""A Ray cluster of two workers, for whoever asks for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def cluster() -> Iterator[str]:
    """The address of a cluster that this process has joined; its tests share one worker of
    pytest-xdist."""
    from pytest_scrub.extras.ray.cluster import QUIET, SETTINGS

    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    import pytest_scrub.extras.ray.crew
    import pytest_scrub.pytest_edge.ray  # noqa: F401  # a run in this process forgets what it was first to import

    ray.init("local", num_cpus=2, object_store_memory=1 << 28, include_dashboard=False, **QUIET)
    yield str(ray.get_runtime_context().gcs_address)
    ray.shutdown()
