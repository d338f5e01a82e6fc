"""The trained bracket checker with an SAE and a transcoder of it, and the 4,000 strings that claims
about the checker are tested on, with features of every position."""

from __future__ import annotations

from pathlib import Path

import pytest

from example_circuits.brackets import data
from example_circuits.brackets.conftest import ROWS, SEED
from example_circuits.brackets.train import WEIGHTS
from example_circuits.latents.claims import NAMES
from pytest_scrub import Dataset, load_dictionary, load_model, with_dictionaries

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def scrub_model():
    return with_dictionaries(
        load_model(WEIGHTS),
        **{name: load_dictionary(HERE / name, names=names) for name, names in NAMES.items()},
    )


@pytest.fixture(scope="session")
def scrub_data():
    ids, mask = data.tokens(data.strings(ROWS, SEED))
    # `bracket` and `suffix` are of every position: what stands there, and how many more ( than )
    # the string holds from there on.
    return Dataset(
        {"tokens": ids, "attention_mask": mask},
        labels=data.balanced(ids),
        label_pos=0,
        features={
            **{name: feature(ids) for name, feature in data.FEATURES.items()},
            "bracket": ids,
            "suffix": data.suffixes(ids),
        },
        show=lambda row: data.show(row["tokens"].numpy()),
        name="bracket strings",
    )
