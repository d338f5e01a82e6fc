"""Set-up for the whole repository: threads, Hypothesis profiles, and the folder of the published
bracket network."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.sizes import sized

# Under pytest-xdist two workers share two cores; by hand one thread keeps timings and figures
# steady.
torch.set_num_threads(1)

pytest_plugins = ["pytester"]

_COMMON = {
    "deadline": None,  # models are run
    "max_examples": sized(25, 100),
    "suppress_health_check": [
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ],
    "derandomize": True,
    "print_blob": False,
    "database": None,
}
settings.register_profile("scrub", **_COMMON)
settings.load_profile("scrub")

LONGEST = ("example_circuits/", "tests/whole/", "tests/power/")  # seconds for one test


@pytest.hookimpl(trylast=True)  # after pytest-randomly has thrown its dice
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first: at the end one worker would be left alone with it."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: nobody needs to look through it again."""
    gc.collect()
    gc.freeze()
