"""Joining a Ray cluster, or starting one on this machine: within seconds, or with one sentence that
says why not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

from pytest_scrub import ScrubError

LOCAL, AUTO = "local", "auto"
REACHED = 5  # seconds in which a machine answers
JOINED = 30  # seconds in which a cluster is joined; that takes one or two

QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # a run of tests reports to nobody
    # by default a task that needs more memory than there is is tried for ever
    "RAY_task_oom_retries": "2",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # those of tasks whose result nobody waits for any longer
}
# Ray tries for minutes to join what is no cluster, and nothing inside its process can stop it.
PROBE = """
import sys, ray
from pytest_scrub import ScrubError
from pytest_scrub.extras.ray.cluster import QUIET
try:
    ray.init(sys.argv[1], **QUIET)
except Exception as error:
    sys.exit(f"because: {error}")
"""


class Cluster:
    """The Ray cluster of this process, from `join` to `leave`.

    **Arguments**

    - `address`: `HOST:PORT`, `auto` for the one that runs on this machine, or `local` to start one.
    - `seen`: whether another process on this machine has found that it can be joined.
    """

    def __init__(self, address: str, *, seen: bool = False) -> None:
        self.address, self._seen, self._joined = address, seen or address == LOCAL, False

    def require(self) -> None:
        """**Raises** `ScrubError` where nothing at the address can be joined."""
        if _ray().is_initialized() or self._seen:
            return
        if self.address != AUTO:
            self._require_answer()
        command = [sys.executable, "-c", PROBE, self.address]
        try:
            found = subprocess.run(
                command, capture_output=True, text=True, timeout=JOINED, check=False
            )
        except subprocess.TimeoutExpired:
            raise self._error("what answers there is no Ray cluster") from None
        if found.returncode:
            raise self._error(found.stderr.rpartition("because: ")[2])
        self._seen = True

    def join(self) -> str:
        """Join the cluster, or start it; a process that is in one already stays there.

        **Returns** the address at which others can join.

        **Raises** `ScrubError` where that cannot be.
        """
        ray = _ray()
        if not ray.is_initialized():
            self.require()
            try:
                ray.init(
                    self.address,
                    **QUIET,
                    **({"include_dashboard": False} if self.address == LOCAL else {}),
                )
            except Exception as error:  # of many kinds
                raise self._error(error) from None
            self._joined = True
        if not ray.cluster_resources().get("CPU"):
            raise ScrubError(
                f"the Ray cluster at {self.address} has no processors; add a node that has some"
            )
        return str(ray.get_runtime_context().gcs_address)

    def leave(self) -> None:
        """Leave the cluster, and end it where it was started here."""
        if self._joined:
            self._joined = False
            _ray().shutdown()

    def _require_answer(self) -> None:
        host, _, port = self.address.rpartition(":")
        if host in ("localhost", "127.0.0.1", "[::1]"):
            host = _ray().util.get_node_ip_address()  # as Ray reads it
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()
        except OSError as error:
            raise self._error(error) from None

    def _error(self, reason: object) -> ScrubError:
        first = next(
            (line.strip(" .") for line in str(reason).splitlines() if line.strip()),
            type(reason).__name__,
        )
        if self.address == LOCAL:
            return ScrubError(f"a Ray cluster cannot be started on this machine ({first})")
        return ScrubError(
            f"the Ray cluster at {self.address} cannot be joined ({first}); start one with `ray "
            "start --head`, or let --scrub-ray=local do so"
        )


def _ray() -> Any:
    """Ray, which reads some settings when it is imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import ray

    return ray
