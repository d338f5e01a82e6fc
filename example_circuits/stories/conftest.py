"""A story-telling network of 260,000 weights that others trained, in the folder that SCRUB_NETWORKS
names, and 2,000 prompts in its own tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from example_circuits.stories import data
from pytest_scrub import load_model
from pytest_scrub.network.loading import load_raw

ROWS, SEED = 2_000, 1
FOLDER = "SCRUB_NETWORKS"


@pytest.fixture(scope="session")
def stories():
    """**Skips** where no folder is named; one that is named and cannot be read is an error."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"{FOLDER} is not set; name the folder in which stories260K lies")
    return load_raw(Path(folder) / "stories260K")


@pytest.fixture(scope="session")
def scrub_model(stories):
    return load_model(stories)


@pytest.fixture(scope="session")
def scrub_data(stories):
    encode = stories.tokenizer.encode
    return data.dataset(
        data.prompts(ROWS, SEED), lambda word: encode(word, add_special_tokens=False)
    )
