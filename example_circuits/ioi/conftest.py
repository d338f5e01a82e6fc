"""GPT-2 small, from the folder that SCRUB_GPT2 names or from the hub, and 1,200 prompts in its own
tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from example_circuits.ioi import data
from pytest_scrub import ModelError, load_model

ROWS, SEED = 1_200, 1
FOLDER = "SCRUB_GPT2"
NAME = "gpt2"


def loaded() -> Any:
    """The network in a bridge. **Skips** where it has to come from the hub and the hub cannot be
    reached."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    from pytest_scrub.network.loading import load_raw

    folder = os.environ.get(FOLDER)
    if folder:
        return load_raw(Path(folder))
    try:
        return load_raw(NAME)
    except ModelError as error:
        # Only what is not there is skipped; weights that are there and cannot be used are an error.
        if isinstance(error.__context__, LocalEntryNotFoundError):
            pytest.skip(f"{error}, as {FOLDER}=/folder")
        raise


@pytest.fixture(scope="session")
def gpt2() -> Any:
    return loaded()


@pytest.fixture(scope="session")
def scrub_model(gpt2: Any) -> Any:
    return load_model(gpt2)


@pytest.fixture(scope="session")
def scrub_data(gpt2: Any) -> Any:
    tokenizer = gpt2.tokenizer
    if tokenizer is None:
        raise ModelError(
            f"the folder of {FOLDER} has no tokenizer; save GPT-2's beside the weights"
        )
    return data.dataset(
        data.prompts(ROWS, SEED), lambda piece: tokenizer.encode(piece, add_special_tokens=False)
    )
