"""The trained bracket checker, and 4,000 strings that no analysis of it has looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_circuits.brackets import data
from pytest_scrub import Dataset, load_model

ROWS, SEED = 4_000, 2


@pytest.fixture(scope="session")
def scrub_model():
    return load_model(Path(__file__).with_name("brackets.safetensors"))


@pytest.fixture(scope="session")
def scrub_data():
    ids, mask = data.tokens(data.strings(ROWS, SEED))
    return Dataset(
        {"tokens": ids, "attention_mask": mask},
        labels=data.balanced(ids),
        label_pos=0,
        features={name: feature(ids) for name, feature in data.FEATURES.items()},
        show=lambda row: data.show(row["tokens"].numpy()),
        name="bracket strings",
    )
