"""Workers that evaluate."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def executor(cluster: str) -> Any:
    from pytest_scrub.extras.ray.executor import RayExecutor

    return RayExecutor()
