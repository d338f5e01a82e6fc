"""A counterexample, some of whose donors are in no dataset."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_scrub.adversaries.saved import (
    Saved,
)
from pytest_scrub.data.dataset import Dataset
from tests.adversaries.counterexamples import drawn, saved_of, tokens


@pytest.fixture
def example() -> Saved:
    """Five references, two of whose donors are in no dataset."""
    dataset = Dataset(tokens())
    extended = dataset.extend(tokens(2, seed=1) + 100)
    swap_set = drawn(extended)
    donors = swap_set.donors.copy()
    donors[1, 0], donors[2, 3] = 6, 7
    return saved_of(extended, replace(swap_set, donors=donors), known=len(dataset))
