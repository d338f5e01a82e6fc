"""Set-up for the whole repository: threads, Hypothesis profiles, and the folder of the published
bracket network."""

from __future__ import annotations

import gc
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.sizes import FULL, only_in_full, sized

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
    """What takes longest comes first: at the end one worker would be left alone with it. Of tests
    with many cases a few are tried, the same in every order."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
    if not FULL:
        tried = Counter[str]()
        for item in sorted(items, key=lambda item: item.nodeid):
            for mark in item.iter_markers("few_in_quick"):
                test = item.nodeid.partition("[")[0]
                tried[test] += 1
                if tried[test] > mark.args[0]:
                    item.add_marker(only_in_full)


def pytest_collection_finish() -> None:
    """What was imported and collected stays to the end: nobody needs to look through it again."""
    gc.collect()
    gc.freeze()
