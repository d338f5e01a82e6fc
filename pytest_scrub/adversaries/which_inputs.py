"""*Which inputs*: donors that are in no dataset, drawn from the strategy that the dataset came
from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pytest_scrub.adversaries.search import Found, Spending
from pytest_scrub.adversaries.which_donors import WhichDonors
from pytest_scrub.errors import DataError
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

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The swap set with the worst fresh donors found for each reference; see `Adversary`."""
        dataset, evaluator = space.dataset, spending.evaluator
        if dataset.source is None:
            return Found(
                self.name,
                "not searched: the data come from no strategy (see Dataset.from_strategy)",
            )
        count = min(MOST_FRESH, spending.left // EVALUATIONS_PER_INPUT)
        if not count:
            return Found(self.name, f"not searched: {spending.why_none}")
        draws = dataset.source.draws(count, int(rng.integers(1 << 31)), spending.deadline)
        if not draws or not spending.left:
            why = (
                "the strategy gives no fresh input that fits the data"
                if spending.left
                else spending.why_none
            )
            return Found(self.name, f"not searched: {why}")
        try:
            extended = dataset.extend(*dataset.source.batch(draws))
            there = evaluator.on(extended)
            fresh = np.arange(len(dataset), len(extended))
            wider = SwapSpace(
                space.hypothesis,
                extended,
                frozen=space.frozen,
                references=space.reference_rows,
                donors=fresh,
            )
        except DataError as error:
            return Found(self.name, f"not searched: {error}")
        inner = Spending(there, spending.left, spending.deadline)
        found = WhichDonors().search(wider, inner, rng)
        spending.take_over(inner)
        if found.swap_set is None:
            return replace(found, adversary=self.name)
        how = f"{len(fresh)} fresh inputs; {found.how}"
        return replace(
            found,
            adversary=self.name,
            how=how,
            exhaustive=False,
            evaluator=there,
            fresh=tuple(draws),
        )
