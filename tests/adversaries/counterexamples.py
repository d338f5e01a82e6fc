"""Counterexamples by hand."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub.adversaries.saved import (
    Saved,
    SavedSwaps,
    rows_of,
    written_by,
)
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.space import SwapSet, SwapSpace
from pytest_scrub.tree.nodes import ANYTHING, head, output

TWO = output(head(0, 0, agrees_on=ANYTHING), head(1, 0, agrees_on=ANYTHING))
SLOTS = tuple(slot.path for slot in slots_of(TWO))


def saved_of(
    dataset: Dataset, worst: SwapSet, minimal: SwapSet | None = None, known: int | None = None
) -> Saved:
    minimal = worst[:1] if minimal is None else minimal
    rows, places = rows_of(dataset, worst, minimal, known)

    def swaps(adversary: str, swap_set: SwapSet) -> SavedSwaps:
        clean = np.arange(float(len(swap_set)))
        return SavedSwaps.of(
            adversary,
            swap_set,
            places,
            clean=clean,
            scrubbed=clean + 2.5,
            pointwise=adversary == "which donors",
        )

    return Saved(
        written_by=written_by(),
        claim="tests/test_x.py::test_claim[a]",
        hypothesis=tuple(str(worst.hypothesis or TWO).split("\n")),
        slots=worst.slots,
        metric="cross_entropy",
        tolerance=0.1,
        worst=swaps("which donors", worst),
        minimal=swaps("which nodes", minimal),
        rows=rows,
        model="net",
        model_digest="ab",
        dataset_digest=dataset.digest(),
    )


def tokens(rows: int = 6, seed: int = 0) -> torch.Tensor:
    """Rows that all differ."""
    return torch.cat(
        [torch.arange(rows)[:, None], torch.randint(0, 5, (rows, 3), generator=seeded(seed))],
        dim=1,
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(dataset: Dataset, n: int = 5, hypothesis: Any = TWO) -> SwapSet:
    return SwapSpace(hypothesis, dataset).draw(n, np.random.default_rng(0))


def contents(dataset: Dataset, swap_set: SwapSet) -> list[list[str]]:
    lines = [swap_set.references, *swap_set.donors]
    return [[dataset.row_digest(row) for row in line.tolist()] for line in lines]


def refuses(kind: type[Exception], sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}$")
