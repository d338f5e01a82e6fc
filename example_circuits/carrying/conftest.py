"""The trained adding network, and all 10,000 pairs of numbers, asked for one digit of the sum; and
one that others trained, in the folder that SCRUB_NETWORKS names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from example_circuits.carrying import data
from example_circuits.carrying import three_digits as of_three_digits
from pytest_scrub import Dataset, load_model

HERE = Path(__file__).parent
FOLDER = "SCRUB_NETWORKS"


@pytest.fixture(scope="session")
def scrub_model():
    return load_model(HERE / "carrying.safetensors")


def asked(position: int, **options: Any) -> Dataset:
    """The digit that is written at this position is the label."""
    tokens = data.sums(data.pairs())
    return Dataset(
        tokens,
        labels=data.answer(tokens)[:, position - data.HUNDREDS],
        label_pos=position,
        features={
            name: lambda batch, name=name: data.features(batch["tokens"].numpy())[name]
            for name in ("ones", "tens")
        },
        show=lambda row: data.show(row["tokens"].numpy()),
        name=f"pairs of numbers, asked at position {position}",
        **options,
    )


@pytest.fixture(scope="session")
def scrub_data():
    return asked(data.TENS)


@pytest.fixture(scope="session")
def hundreds():
    return asked(data.HUNDREDS)


@pytest.fixture(scope="session")
def nines():
    """Where the digits of the tens make nine, so that the hundreds are the carry."""
    tens = data.features(data.sums(data.pairs()))["tens"]
    return asked(data.HUNDREDS, references=tens == 9)


@pytest.fixture(scope="session")
def ones():
    return asked(data.ONES)


@pytest.fixture(scope="session")
def columns():
    """What align.py found, by place and variable."""
    return load_file(HERE / "aligned.safetensors")


@pytest.fixture(scope="session")
def of_others():
    """The network of three digits. **Skips** where no folder is named; one that is named and cannot
    be read is an error."""
    folder = os.environ.get(FOLDER)
    if not folder:
        pytest.skip(f"{FOLDER} is not set; name the folder in which addition lies")
    return load_model(Path(folder) / "addition")


@pytest.fixture(scope="session")
def three_digits():
    return of_three_digits.dataset()
