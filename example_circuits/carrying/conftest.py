"""The trained adding network, and all 10,000 pairs of numbers, asked for one digit of the sum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from example_circuits.carrying import data
from pytest_scrub import Dataset, load_model

HERE = Path(__file__).parent


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
