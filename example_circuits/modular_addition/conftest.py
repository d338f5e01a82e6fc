"""A network that adds modulo 113, trained by others, in the folder that SCRUB_NETWORKS names, and
all pairs of numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from example_circuits.modular_addition import data
from pytest_scrub import load_model
from pytest_scrub.network.loading import load_raw

FOLDER = "SCRUB_NETWORKS"
HIDDEN = "blocks.0.mlp.hook_post"


@pytest.fixture(scope="session")
def addition():
    """**Skips** where no folder is named; one that is named and cannot be read is an error."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"{FOLDER} is not set; name the folder in which modular_addition lies")
    return load_raw(Path(folder) / "modular_addition" / "modular_addition.safetensors")


@pytest.fixture(scope="session")
def by_frequency(addition):
    """Which neurons go by which frequency, seen on all pairs."""
    with torch.no_grad():
        _, seen = addition.run_with_cache(data.rows(), names_filter=lambda name: name == HIDDEN)
    return data.by_frequency(seen[HIDDEN][:, -1])


@pytest.fixture(scope="session")
def scrub_model(addition):
    return load_model(addition)


@pytest.fixture(scope="session")
def scrub_data(by_frequency):
    return data.dataset(list(by_frequency))
