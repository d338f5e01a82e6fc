"""What would mend a claim that was refuted, from what the search measured."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import numpy as np

from pytest_scrub.adversaries.search import Distribution, Spending, fits, swapped_nodes
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.tree.nodes import EXACT, Agreement
from pytest_scrub.verdict import Mend

MOST_MENDS = 5
# of all additions; where they are more, they are first looked at on fewer references
MOST_EVALUATIONS, FEWEST_REFERENCES = 20_000, 20
AT_ONCE = 4096  # between two looks at a deadline
MOST_EXACT = 2  # nodes made EXACT: with more of them a claim says little


def repairs_on_average(tried: Iterable[Distribution], tolerance: float) -> list[Mend]:
    """The smallest additions to a claim under which its mean gap came within the tolerance,
    smallest first.

    Measured on the half of the rows that the search chose on: a hint, to be tested as a claim of
    its own.
    """
    mends = []
    for one in sorted(tried, key=_size):
        is_addition = bool(one.features) or 0 < len(one.exact) <= MOST_EXACT
        if abs(one.gap) <= tolerance and is_addition:
            what = one.name if one.features else f"{', '.join(one.exact)} made EXACT"
            mends.append(Mend(what, one.gap, "on average"))
    return mends[:MOST_MENDS]


def _size(one: Distribution) -> tuple[int, int, float]:
    """A feature is less than two, and two are less than the whole input."""
    return len(one.exact or one.refined), len(one.features) or 3, abs(one.gap)


def repairs_of(spending: Spending, swap_set: SwapSet, tolerance: float) -> list[Mend]:
    """The smallest additions to a claim that rule out enough of this swap set to bring its gap
    within the tolerance.

    A donor that the addition rules out is put back to its parent's own input. Other swap sets may
    still break the claim.
    """
    space, number = spending.evaluator.space, len(swap_set)
    usable = [name for name in space.dataset.feature_names if space.dataset.covers(name)]
    extras = [*(Agreement((name,)) for name in usable), EXACT]
    computed = {s.whole for s in space.slots if s.node.computed_by is not None and not s.is_rest}
    nodes = [node for node in swapped_nodes(space) if node not in computed]
    asked = list(product(extras, nodes))
    # where they are many, some of the references tell which are worth a look at all
    few = max(FEWEST_REFERENCES, MOST_EVALUATIONS // max(1, len(asked)))
    if number > few:
        gaps = [gap for gap, _ in _mended(spending, swap_set[:few], asked)]
        best = np.argsort(np.abs(gaps), kind="stable")[: MOST_MENDS * (1 + len(extras))]
        asked = [asked[nth] for nth in np.sort(best)]
    mends = []
    mended = _mended(spending, swap_set, asked)
    for (extra, node), (gap, changed) in zip(asked, mended, strict=False):
        if abs(gap) <= tolerance and changed:
            added = "made EXACT" if extra.exact else f"agrees also on {extra}"
            mend = Mend(f"{node} {added}", gap, "for this very swap set")
            mends.append((extra.exact, abs(gap), mend))
    return [mend for *_, mend in sorted(mends, key=lambda entry: entry[:2])][:MOST_MENDS]


_Asked = tuple[Agreement, str]  # what a node or a rest has to agree on as well


def _mended(
    spending: Spending, swap_set: SwapSet, asked: Sequence[_Asked]
) -> Iterator[tuple[float, bool]]:
    """For each addition the mean gap without the donors that it rules out, and whether there are
    any; not all of them after a deadline."""
    number = len(swap_set)
    step = max(1, AT_ONCE // number)
    for start in range(0, len(asked), step):
        if not spending.left:
            break
        some = asked[start : start + step]
        mended = _without(spending.evaluator.space, swap_set, some)
        gaps = spending.changes(mended).reshape(len(some), number).mean(1)
        donors = mended.donors.reshape(-1, len(some), number)
        changed = (donors != swap_set.donors[:, None]).any((0, 2))
        yield from zip(gaps.tolist(), changed.tolist(), strict=True)


def _without(space: SwapSpace, swap_set: SwapSet, asked: Sequence[_Asked]) -> SwapSet:
    """For each addition the swap set without the donors that the node could not take with it; below
    it, what does not agree any more goes as well."""
    times = len(asked)
    present = np.tile(swap_set.donors, times)

    def choose(i: int, parents: Rows, _settled: Rows) -> Rows:
        fit = fits(space, i, present[i], parents).reshape(times, -1)
        for nth, (extra, node) in enumerate(asked):
            if node == space.slots[i].whole:
                own, donor = parents.reshape(times, -1)[nth], swap_set.donors[i]
                codes = space.codes(i, extra)
                fit[nth] &= np.equal(codes[donor], codes[own]) | np.equal(donor, own)
        return np.where(fit.reshape(-1), present[i], parents)

    return space.fill(np.tile(swap_set.references, times), choose)
