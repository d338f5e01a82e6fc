"""*Which inputs*: donors that are in no dataset, drawn from the strategy that the dataset came
from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from pytest_scrub.adversaries.search import Found, NotSearched, Spending
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.errors import DataError
from pytest_scrub.swaps.slots import REFERENCE
from pytest_scrub.swaps.space import SwapSpace

MOST_FRESH = 1024
EVALUATIONS_PER_INPUT = 8  # fewer than these, and a fresh input is hardly ever tried


@dataclass(frozen=True)
class WhichInputs:
    """Fresh inputs that agree on the features become donors; then the search is that of *which
    donors*.

    Only for a `Dataset.from_strategy`, and claims whose features are functions.
    """

    name: str = "which inputs"
    pointwise: ClassVar[bool] = True

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The swap set with the worst fresh donors found for each reference; see `Adversary`."""
        dataset = space.dataset
        if space.shifts > 1:
            raise NotSearched(
                "not searched: donors come from any position (with_shift=True), and fresh inputs "
                "are not tried there"
            )
        if dataset.source is None:
            raise NotSearched(
                "not searched: the data come from no strategy (see Dataset.from_strategy)"
            )
        count = min(MOST_FRESH, spending.left // EVALUATIONS_PER_INPUT)
        if not count:
            raise spending.exhausted()
        draws = dataset.source.draws(count, int(rng.integers(1 << 31)), spending.deadline)
        if not spending.left:
            raise spending.exhausted()
        if not draws:
            raise NotSearched("not searched: the strategy gives no fresh input that fits the data")
        try:
            extended = dataset.extend(*dataset.source.batch(draws))
            fresh = SwapSpace(
                space.hypothesis,
                extended,
                frozen=space.frozen,
                references=space.reference_rows,
                donors=np.arange(len(dataset), len(extended)),
            )
            if fresh.predicted is not None:  # by what fresh inputs may have no value of
                first = np.full((len(fresh.slots) + 1, 1), len(dataset))
                first[REFERENCE] = space.reference_rows[0]
                fresh.predicted.labels(first)
            spending.extend(extended)
        except DataError as error:
            raise NotSearched(f"not searched: {error}") from error
        found = WhichDonors().search(fresh, spending, rng)
        how = f"{len(draws)} fresh inputs; {found.how}"
        return replace(found, how=how, exhaustive=False, fresh=tuple(draws))
