"""What would mend a claim that was refuted, from what the search measured."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

import numpy as np

from pytest_scrub.adversaries.search import Distribution, Spending, fits, swapped_nodes
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import EXACT, Agreement
from pytest_scrub.verdict import Mend

MOST_MENDS = 5
MOST_EXACT = 2  # nodes made EXACT: with more of them a claim says little


def repairs_on_average(tried: Iterable[Distribution], tolerance: float) -> list[Mend]:
    """The smallest additions to a claim under which its mean gap came within the tolerance,
    smallest first.

    Measured on the half of the rows that the search chose on: a hint, to be tested as a claim of
    its own.
    """
    mending = [
        one
        for one in tried
        if abs(one.gap) <= tolerance
        and len(one.exact) <= MOST_EXACT
        and (one.exact or one.features)
    ]
    return [
        Mend(
            one.name if one.features else f"{', '.join(one.exact)} made EXACT",
            one.gap,
            "on average",
        )
        for one in sorted(mending, key=_size)[:MOST_MENDS]
    ]


def _size(one: Distribution) -> tuple[int, int, float]:
    """A feature is less than two, and two are less than the whole input."""
    return len(one.exact or one.refined), len(one.features) or 3, abs(one.gap)


def repairs_of(spending: Spending, swap_set: SwapSet, tolerance: float) -> list[Mend]:
    """The smallest additions to a claim that rule out enough of this swap set to bring its gap
    within the tolerance.

    A donor that the addition rules out is put back to its parent's own input. Other swap sets may
    still break the claim.
    """
    space = spending.evaluator.space
    usable = [name for name in space.dataset.feature_names if space.dataset.covers(name)]
    extras = [*(Agreement((name,)) for name in usable), EXACT]
    mends = []
    for extra, node in product(extras, swapped_nodes(space)):
        if not spending.left:
            break
        mended = _without(spending, swap_set, node, extra)
        gap = float(spending.changes(mended).mean())
        if abs(gap) <= tolerance and mended != swap_set:
            added = "made EXACT" if extra.exact else f"agrees also on {extra}"
            mend = Mend(f"{node} {added}", gap, "for this very swap set")
            mends.append((extra.exact, abs(gap), mend))
    return [mend for *_, mend in sorted(mends, key=lambda entry: entry[:2])][:MOST_MENDS]


def _without(spending: Spending, swap_set: SwapSet, node: str, extra: Agreement) -> SwapSet:
    """The swap set without the donors that this node could not take if it agreed on `extra` as
    well; below it, what does not agree any more goes as well."""
    space = spending.evaluator.space
    finer = space.refine([node], extra)
    return space.fill(
        swap_set.references,
        lambda i, parents, _settled: np.where(
            fits(finer, i, swap_set.donors[i], parents), swap_set.donors[i], parents
        ),
    )
