"""Two networks that answer questions about bags of words, and bags that neither has seen.

`PITFALL_WEIGHTS` names a folder with other networks, which `train --seed 1 --out FOLDER` wrote.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from example_circuits.pitfalls.interference import data, train
from pytest_scrub import Dataset, load_model

ROWS, SEED = 20_000, 100
WEIGHTS = Path(os.environ.get("PITFALL_WEIGHTS", Path(__file__).parent))


@pytest.fixture(scope="session")
def crowded():
    return load_model(train.load("crowded", WEIGHTS))


@pytest.fixture(scope="session")
def roomy():
    return load_model(train.load("roomy", WEIGHTS))


@pytest.fixture(scope="session")
def scrub_data():
    bag, asked = data.bags(ROWS, np.random.default_rng(SEED))
    is_in = data.is_in(bag, asked)
    return Dataset(
        {"bag": bag, "asked": asked},
        labels=is_in,
        features={"asked": asked, "is_in": is_in},
        show=lambda row: data.show(row["bag"].numpy(), int(row["asked"])),
        name="bags of words",
    )
