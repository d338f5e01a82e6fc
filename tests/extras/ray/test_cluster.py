"""Joining a cluster: one that is there, one that is not, and one without processors."""

from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from pytest_scrub.errors import ScrubError
from tests.sizes import only_in_full

pytestmark = pytest.mark.xdist_group("ray")


@pytest.fixture
def outside(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this process had joined nothing."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.usefixtures("outside")
def test_an_address_where_nobody_listens() -> None:
    from pytest_scrub.extras.ray.cluster import Cluster

    with socket.socket() as taken:
        taken.bind(("", 0))  # and does not listen
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ScrubError) as raised:
            Cluster(address).require()
    assert time.monotonic() - started < 10
    assert str(raised.value).startswith(f"the Ray cluster at {address} cannot be joined (")
    assert "\n" not in str(raised.value)


@only_in_full
@pytest.mark.usefixtures("outside")
def test_an_address_where_something_else_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytest_scrub.extras.ray import cluster as module_

    monkeypatch.setattr(module_, "JOINED", 4)
    with socket.create_server(("", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ScrubError, match="what answers there is no Ray cluster"):
            module_.Cluster(address).require()


@pytest.mark.usefixtures("outside")
def test_a_cluster_that_is_there(cluster: str) -> None:
    from pytest_scrub.extras.ray.cluster import Cluster

    Cluster(cluster).require()


def test_a_process_that_has_joined_stays_where_it_is(cluster: str) -> None:
    import ray

    from pytest_scrub.extras.ray.cluster import Cluster

    own = Cluster("local")
    assert own.join() == cluster
    own.leave()
    assert ray.is_initialized()


@only_in_full
def test_a_cluster_without_processors(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from pytest_scrub.extras.ray.cluster import Cluster

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"memory": 1.0})
    with pytest.raises(ScrubError, match="has no processors; add a node that has some"):
        Cluster(cluster).join()


@pytest.mark.usefixtures("outside")
def test_a_cluster_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from pytest_scrub.extras.ray.cluster import Cluster

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room in /dev/shm.\nA long story.")

    monkeypatch.setattr(ray, "init", fails)
    with pytest.raises(
        ScrubError,
        match=r"^a Ray cluster cannot be started on this machine \(no room in /dev/shm\)$",
    ):
        Cluster("local").join()
