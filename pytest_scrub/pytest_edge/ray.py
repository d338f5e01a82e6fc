"""`--scrub-ray` in a run of pytest: when the cluster is joined, by whom, and when it is left.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from pytest_scrub.errors import ScrubError
from pytest_scrub.extras.ray.cluster import LOCAL, Cluster
from pytest_scrub.pytest_edge.options import option

if TYPE_CHECKING:
    from pytest_scrub.extras.ray.crew import RayCrew

ADDRESS = "scrub_ray"  # what the controller of pytest-xdist tells its workers


class RayHooks:
    """Joins the cluster before the first claim; with pytest-xdist, every worker joins that of the
    controller."""

    def __init__(self, config: pytest.Config, address: str) -> None:
        told = getattr(config, "workerinput", {}).get(ADDRESS)
        self.config, self.cluster = config, Cluster(told or address, seen=told is not None)
        self._crew: RayCrew | None = None
        self._told = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """What prevents joining is told once, before any claim is run. Where no claim is run,
        nobody joins."""
        runs_none = self.config.option.collectonly or option(self.config, "list")
        if not runs_none and any(_is_ours(item) for item in session.items):
            self.crew()

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """The controller has no items, and cannot know whether there are claims."""
        if not self._told:
            self._told = _asked(self.cluster.join if self.cluster.address == LOCAL else self._seen)
        node.workerinput[ADDRESS] = self._told

    def _seen(self) -> str:
        self.cluster.require()
        return self.cluster.address

    def crew(self) -> RayCrew:
        """Who does the work; joins the cluster if that was not done yet. **Raises**
        `pytest.UsageError`."""
        if self._crew is None:
            _asked(self.cluster.join)
            from pytest_scrub.extras.ray.crew import RayCrew

            self._crew = RayCrew()
        return self._crew

    def pytest_unconfigure(self) -> None:
        """Leave the cluster, and end it where it was started here."""
        self.cluster.leave()


def _is_ours(item: pytest.Item) -> bool:
    return "scrub_session" in getattr(item, "fixturenames", ())


def _asked(join: Callable[[], str]) -> str:
    try:
        return join()
    except ScrubError as error:
        raise pytest.UsageError(str(error)) from None
