"""The programs, and every list they can be given."""

from __future__ import annotations

import pytest

from example_circuits.pitfalls.sorting import data, programs
from pytest_scrub import Dataset, load_model


@pytest.fixture(scope="session")
def merge_sort():
    return load_model(programs.merge_sort())


@pytest.fixture(scope="session")
def merge_of_quick_sorts():
    return load_model(programs.merge_of_quick_sorts())


@pytest.fixture(scope="session")
def quick_sort():
    return load_model(programs.quick_sort())


@pytest.fixture
def scrub_model(request):
    """One of the programs, by the name that a test is parametrised with."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def scrub_data():
    numbers = data.lists()
    return Dataset(
        {"numbers": numbers},
        labels=data.content(numbers),
        features={name: feature(numbers) for name, feature in data.FEATURES.items()},
        show=lambda row: " ".join(map(str, row["numbers"].tolist())),
        name=f"lists of {data.LENGTH} numbers",
    )
