"""All the swaps that there are to draw, where they are few enough to evaluate each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import SwapSet


def how_many(spaces: Sequence[SwapSpace], *, apart: bool = False) -> float:
    """How many swap sets these spaces allow on their references, all together."""
    return sum(
        float(space.combinations(space.reference_rows, apart=apart).sum()) for space in spaces
    )


def enumerated(spaces: Sequence[SwapSpace], *, apart: bool = False) -> tuple[SwapSet, Numbers]:
    """Every swap set that is drawn where first one of these spaces is, and how probable each
    column is, times how many columns there are: 1 in the mean."""
    chunks = [chunk for space in spaces for chunk in space.enumerate(apart=apart)]
    donors = np.concatenate([one.donors for one, _ in chunks], axis=1)
    references = np.concatenate([one.references for one, _ in chunks])
    chances = np.concatenate([chances for _, chances in chunks])
    # which sum to one for each space: by their mean, those that are all alike are exactly 1
    return replace(chunks[0][0], references=references, donors=donors), chances / chances.mean()
