"""Workers that evaluate."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def crew(cluster: str) -> Any:
    from pytest_scrub.extras.ray.crew import RayCrew

    return RayCrew()
