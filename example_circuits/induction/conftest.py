"""The trained induction network, and 10,000 sequences that end in a copied segment."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_circuits.induction import data
from pytest_scrub import Dataset, load_model

ROWS, SEED = 10_000, 1


@pytest.fixture(scope="session")
def scrub_model():
    return load_model(Path(__file__).with_name("induction.safetensors"))


@pytest.fixture(scope="session")
def every_position(scrub_data):
    """The same with features of every position."""
    tokens = scrub_data.inputs["tokens"]
    return scrub_data.with_features(
        {"token": tokens, "token_before": data.token_before(tokens.numpy())}
    )


@pytest.fixture(scope="session")
def scrub_data():
    tokens = data.sequences(ROWS, SEED)
    return Dataset(
        tokens,
        labels=data.answer(tokens),
        label_pos=-1,
        features={
            "last_token": lambda batch: data.last_token(batch["tokens"].numpy()),
            "answer": lambda batch: data.answer(batch["tokens"].numpy()),
            "answer_position": lambda batch: data.answer_position(batch["tokens"].numpy()),
        },
        show=lambda row: data.show(row["tokens"].numpy()),
        name="induction sequences",
    )
