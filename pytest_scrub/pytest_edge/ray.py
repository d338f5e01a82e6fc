"""`--scrub-ray` in a run of pytest: when the cluster is joined, by whom, and when it is left.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import pytest

from pytest_scrub.extras.ray.cluster import LOCAL, Cluster
from pytest_scrub.pytest_edge.items import is_ours
from pytest_scrub.pytest_edge.options import as_usage_error, option

if TYPE_CHECKING:
    from pytest_scrub.extras.ray.executor import RayExecutor

ADDRESS = "scrub_ray"  # what the controller of pytest-xdist tells its workers


class RayHooks:
    """Joins the cluster before the first claim; with pytest-xdist, every worker joins that of the
    controller."""

    def __init__(self, config: pytest.Config, address: str) -> None:
        told = getattr(config, "workerinput", {}).get(ADDRESS)
        self.config, self.cluster = config, Cluster(told or address, seen=told is not None)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """What prevents joining is told once, before any claim is run. Where no claim is run,
        nobody joins."""
        runs_none = self.config.option.collectonly or option(self.config, "list")
        if not runs_none and any(map(is_ours, session.items)):
            _ = self.executor

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """The controller has no items, and cannot know whether there are claims."""
        node.workerinput[ADDRESS] = self._for_workers

    @cached_property
    def _for_workers(self) -> str:
        """The address that workers join; a cluster on this machine is started for them."""
        with as_usage_error():
            if self.cluster.address == LOCAL:
                return self.cluster.join()
            self.cluster.require()
        return self.cluster.address

    @cached_property
    def executor(self) -> RayExecutor:
        """Who does the work; joins the cluster. **Raises** `pytest.UsageError`."""
        with as_usage_error():
            self.cluster.join()
        from pytest_scrub.extras.ray.executor import RayExecutor

        return RayExecutor()

    def pytest_unconfigure(self) -> None:
        """Leave the cluster, and end it where it was started here."""
        self.cluster.leave()
