"""A program that sorts, one that does not, and every list they can be given."""

from __future__ import annotations

import pytest

from example_circuits.pitfalls.sorting import data
from example_circuits.pitfalls.sorting.programs import merge_sort as sorting_program
from example_circuits.pitfalls.specific.programs import forgetful as forgetful_program
from pytest_scrub import Dataset, load_model


@pytest.fixture(scope="session")
def merge_sort():
    return load_model(sorting_program())


@pytest.fixture(scope="session")
def forgetful():
    return load_model(forgetful_program())


@pytest.fixture
def scrub_model(request):
    """One of the programs, by the name that a test is parametrised with."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def scrub_data():
    numbers = data.lists()
    return Dataset(
        {"numbers": numbers},
        features={
            "content": data.as_one(data.content(numbers)),
            "left": data.left(numbers),
            "right": data.right(numbers),
            "numbers": data.as_one(numbers),
        },
        show=lambda row: " ".join(map(str, row["numbers"].tolist())),
        name=f"lists of {data.LENGTH} numbers",
    )
