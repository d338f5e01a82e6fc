"""The XOR, the two trained networks, sequences that neither has seen, and those that one of them
has memorised.

`PITFALL_WEIGHTS` names a folder with other networks, which `train --seed 1 --out FOLDER` wrote.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from example_circuits.pitfalls.cancellation import data
from pytest_scrub import Dataset, FunctionGraph, load_model

ROWS, SEED = 20_000, 100
WEIGHTS = Path(os.environ.get("PITFALL_WEIGHTS", Path(__file__).parent))


@pytest.fixture(scope="session")
def xor():
    def answer(z1, z2):
        return torch.stack([z1 == z2, z1 != z2], dim=-1).float()  # logits of 0 and 1

    return FunctionGraph(output=answer)


@pytest.fixture(scope="session")
def bits():
    z1, z2 = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    return Dataset({"z1": z1, "z2": z2}, labels=z1, features={"z1": z1, "z2": z2}, name="two bits")


@pytest.fixture(scope="session")
def memoriser():
    return load_model(WEIGHTS / "memoriser.safetensors")


@pytest.fixture(scope="session")
def learner():
    return load_model(WEIGHTS / "learner.safetensors")


@pytest.fixture(scope="session")
def fresh_sequences():
    return dataset(*data.sequences(ROWS, np.random.default_rng(SEED)), name="fresh sequences")


@pytest.fixture(scope="session")
def memorised_sequences():
    memorised = load_file(WEIGHTS / "memorised.safetensors")
    return dataset(
        memorised["tokens"].long().numpy(), memorised["labels"].numpy(), name="memorised sequences"
    )


def dataset(tokens, labels, name):
    return Dataset(
        tokens,
        labels=labels,
        label_pos=-1,
        features={"marker": lambda batch: data.marker(batch["tokens"].numpy())},
        show=lambda row: data.show(row["tokens"].numpy()),
        name=name,
    )
