"""What would mend a claim that was refuted, from what the search measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from pytest_scrub.adversaries.search import Arm, Found, Spending, swapped_slots
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.tree.nodes import EXACT, Agreement
from pytest_scrub.verdict import Mend

MOST_MENDS = 5
MOST_EXACT = 2  # nodes made EXACT: with more of them a claim says little


def mends_on_average(found: Iterable[Found], tolerance: float) -> list[Mend]:
    """The smallest additions to a claim under which its mean gap came within the tolerance,
    smallest first.

    Measured on the half of the rows that the search chose on: a hint, to be tested as a claim of
    its own.
    """
    arms = [
        arm
        for one in found
        for arm in one.arms
        if abs(arm.gap) <= tolerance and len(arm.exact) <= MOST_EXACT
    ]
    mending = sorted((arm for arm in arms if arm.exact or arm.features), key=_size)
    return [Mend(_said(arm), arm.gap, "on average") for arm in mending[:MOST_MENDS]]


def _size(arm: Arm) -> tuple[int, int, float]:
    """A feature is less than two, and two are less than the whole input."""
    return len(arm.exact or arm.refined), len(arm.features) if arm.features else 3, abs(arm.gap)


def _said(arm: Arm) -> str:
    return arm.name if arm.features else f"{', '.join(arm.exact)} made EXACT"


def mends_of(
    space: SwapSpace, spending: Spending, swap_set: SwapSet, tolerance: float
) -> list[Mend]:
    """The smallest additions to a claim that rule out enough of this swap set to bring its gap
    within the tolerance.

    A donor that the addition rules out is put back to its parent's own input. Other swap sets may
    still break the claim.
    """
    nodes = [space.paths[i] for i in swapped_slots(space)]
    usable = [name for name in space.dataset.feature_names if space.dataset.covers(name)]
    extras: list[Agreement] = [Agreement((name,)) for name in usable] + [EXACT]
    mends = []
    for extra in extras:
        for node in nodes:
            if not spending.left:
                break
            mended = _without(space, swap_set, [node], extra)
            gap = float(spending.changes(mended).mean())
            if abs(gap) <= tolerance and mended != swap_set:
                added = "made EXACT" if extra.exact else f"agrees also on {extra}"
                mends.append(
                    (extra.exact, abs(gap), Mend(f"{node} {added}", gap, "for this very swap set"))
                )
    return [mend for *_, mend in sorted(mends, key=lambda entry: entry[:2])][:MOST_MENDS]


def _without(
    space: SwapSpace, swap_set: SwapSet, nodes: Sequence[str], extra: Agreement
) -> SwapSet:
    """The swap set without the donors that these nodes could not take if they agreed on `extra` as
    well; below them, what does not agree any more goes as well."""
    finer = space.refine(nodes, extra)

    def choose(i: int, parents: Rows, _settled: Rows) -> Rows:
        donors = swap_set.donors[i]
        is_donor = space.is_donor[donors] | (donors == parents)
        codes = finer.agree(i)
        return np.where((codes[donors] == codes[parents]) & is_donor, donors, parents)

    return space.fill(swap_set.references, choose)
