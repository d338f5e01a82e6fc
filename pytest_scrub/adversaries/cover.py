"""Every donor once: what no ranking finds.

A gradient says nothing of a donor that is far away, or is read through a unit that is off. So
before references are searched each donor stands in once, everywhere it may, for some reference: one
that matters for a share of the references is found with that chance. What is found is tried for
all. Where donors are too many, the odd ones come first, by what the dataset knows: the label or a
feature has a value that is rare among the rows that agree, and common elsewhere.
"""

from __future__ import annotations

import numpy as np

from pytest_scrub.adversaries.search import Found, Spending
from pytest_scrub.data.columns import row_codes
from pytest_scrub.statistics.intervals import Numbers
from pytest_scrub.swaps.slots import REFERENCE
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows
from pytest_scrub.tree.nodes import Agreement

AT_ONCE = 1024  # evaluations between two looks at a deadline
MOST_LOOKED_AT = 1 << 20  # donors of which it is found out how odd they are
KEPT = 8  # of the worst swaps, for each class of a child of the root


def cover(
    space: SwapSpace, spending: Spending, references: Rows, most: int, rng: np.random.Generator
) -> Found | None:
    """The worst swaps that are found while each donor is tried once; None where none is worse than
    nothing swapped.

    **Arguments**

    - `references`: int64, in random order; the first of them are swapped.
    - `most`: donors that are tried, and evaluations.
    - `rng`: orders what is as odd.
    """
    in_turn: dict[int, Rows] = {}  # by what a slot agrees on, which many share

    def choose(i: int, parents: Rows, _: Rows) -> Rows:
        codes = space.agree(i)
        if id(codes) not in in_turn:
            shifts = space.slots[i].shifts
            donors = space.donors if shifts > 1 else space.donor_rows
            if most < len(donors):  # those of all positions of a node are as many as of another
                donors = rng.permutation(donors)[: MOST_LOOKED_AT // shifts]
                donors = donors[np.argsort(_usual(space, codes, donors), kind="stable")]
            in_turn[id(codes)] = donors[np.argsort(codes[donors], kind="stable")]
        return _next(codes, in_turn[id(codes)], parents)

    swap_set = space.fill(references[:most], choose)
    parts = []
    for start in range(0, len(swap_set), AT_ONCE):
        if spending.left:
            parts.append(spending.changes(swap_set[start : start + AT_ONCE]))
    if not parts:
        return None
    changes = np.concatenate(parts)
    tried = swap_set[: len(changes)]
    worth, noise = spending.sign * changes, spending.rounding(tried, changes)
    worst_first = np.argsort(in_order(worth, noise))
    kept = np.zeros(len(worth), dtype=np.bool_)
    for i, slot in enumerate(space.slots):
        if slot.parent == REFERENCE:
            classes = space.agree(i)[tried.references[worst_first]]
            kept[worst_first[_nth_of_its_kind(classes) < KEPT]] = True
    kept &= worth > noise
    return Found("every donor once", tried[kept], changes[kept]) if kept.any() else None


def in_order(worth: Numbers, noise: Numbers) -> Rows:
    """The place of each when the worst comes first; what differs by noise alone is as bad, and
    stays in order."""
    quantum = float(noise.max(initial=0.0))
    steps = np.round(worth / quantum) if quantum else worth
    place = np.empty(len(worth), dtype=np.int64)
    place[np.argsort(-steps, kind="stable")] = np.arange(len(worth))
    return place


def _next(codes: Rows, donors: Rows, parents: Rows) -> Rows:
    """For each parent's own input the next of the donors that agree with it, from the first again
    where they are too few. `donors`: class by class."""
    size = np.bincount(codes[donors], minlength=int(codes.max()) + 1)
    start, own = np.cumsum(size) - size, codes[parents]
    at = start[own] + _nth_of_its_kind(own) % np.maximum(size[own], 1)
    found: Rows = np.where(size[own] > 0, donors[np.minimum(at, len(donors) - 1)], parents)
    return found


def _nth_of_its_kind(codes: Rows) -> Rows:
    """How many before each have the same code."""
    order = np.argsort(codes, kind="stable")
    _, first, counts = np.unique(codes[order], return_index=True, return_counts=True)
    nth = np.empty(len(codes), dtype=np.int64)
    nth[order] = np.arange(len(codes)) - np.repeat(first, counts)
    return nth


def _usual(space: SwapSpace, codes: Rows, donors: Rows) -> Numbers:
    """How often the label or a feature of each donor goes with its class, as a multiple of how
    often it would if it had nothing to do with it; the least of them all."""
    dataset = space.dataset
    names = filter(dataset.covers, dataset.feature_names)
    columns = [dataset.codes(Agreement((name,))) for name in names]
    if dataset.labels is not None:
        columns.append(row_codes(len(dataset), [dataset.labels.cpu().numpy()]))
    own = codes[donors]
    of_class, least = np.bincount(own)[own], np.full(len(donors), np.inf)
    for column in columns:
        values = column[space.rows_of(donors)]
        pairs = own * (int(values.max()) + 1) + values
        _, pair, alike = np.unique(pairs, return_inverse=True, return_counts=True)
        expected = of_class * (np.bincount(values)[values] / len(donors))
        least = np.minimum(least, alike[pair.reshape(-1)] / expected)
    return least
