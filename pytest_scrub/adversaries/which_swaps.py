"""*Which swaps*: swapped only where it pays, by the values of a feature on the reference and on the
donor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise, product
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pytest_scrub.adversaries.distributions import FEWEST_REPORTED, each_once, halves
from pytest_scrub.adversaries.drawing import LEAST_SWAPPED, DrawSequence
from pytest_scrub.adversaries.search import (
    Distribution,
    Drawable,
    Draws,
    Found,
    NotSearched,
    Spending,
    is_computed,
    is_swapped,
    swapped_slots,
)
from pytest_scrub.common.visible import shortened
from pytest_scrub.data.columns import Places, values_at
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.statistics.intervals import Numbers, confidence_sequence
from pytest_scrub.statistics.slices import said
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.tree.nodes import Agreement

CHOSEN_BY = 1000  # draws, which are not reported
FEWEST_OF_A_CELL = 20  # draws
FEWEST_CONTENTS = 5  # of references, and of donors, of a cell: fewer are cases and no rule
MOST_VALUES = 6  # of a feature, so that most pairs of them are drawn often enough
MOST_TOGETHER = 20  # nodes whose values are told apart together; more have hardly a draw for each
MOST_SHOWN = 3  # pairs
LONGEST_VALUE = 40  # characters
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class WhichSwaps:
    """Swapped only where it pays: shows effects that cancel between references.

    Where it pays is said by pairs, a feature's value on the reference and on the donor of one node,
    or of all; outside of them nothing of the sample is swapped. At least 5 % of the references are.
    Pairs with few draws are taken together, and so are values of a feature that has many: numbers
    in as many ranges, others where they are rare.
    """

    name: str = "which swaps"
    pointwise: ClassVar[bool] = False

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The pairs with the largest mean gap either way; see `Adversary`."""
        if not swapped_slots(space):
            raise NotSearched("not searched: no slot has a choice of donors")
        # half of what there is, at most, where each draw is evaluated once, or twice; see _chosen
        draws = min(CHOSEN_BY, spending.left // (4 if is_computed(space) else 2))
        if draws < FEWEST_REPORTED:
            raise spending.exhausted()
        first, second, planned = space, space, None
        if spending.acceptance.generalize:
            # half of the contents choose, and the others are drawn, each once
            first, second = halves(space, rng)
            planned = each_once(second, rng)
        chosen = _chosen(draws, first, spending, rng)
        if spending.left < FEWEST_REPORTED:
            raise spending.exhausted("not searched to the end")
        until_decided = spending.by_draws or DrawSequence().run
        swap_set, changes = until_decided(_anew(chosen.of(second), rng, planned), spending)
        if len(changes) < FEWEST_REPORTED:
            raise spending.exhausted("not searched to the end")
        spending.stands_at(float(changes.mean()))
        there = _gap_there(swap_set, changes, spending)
        how = f"{chosen.name}{there}, chosen by {draws} other draws"
        return Found(how, swap_set, changes)


def _anew(of: Drawable, rng: np.random.Generator, planned: Rows | None) -> Draws:
    """Draws of what was chosen: of any references, or of those that are planned as long as there
    are any."""

    def draw(n: int) -> SwapSet:
        nonlocal planned
        if planned is None:
            return of.draw(n, rng)
        now, planned = planned[:n], planned[n:]
        return of.draw(len(now), rng, now)

    return draw


def _gap_there(swap_set: SwapSet, changes: Numbers, spending: Spending) -> str:
    """The gap where anything was swapped, in words."""
    acceptance, on = spending.acceptance, is_swapped(swap_set)
    if not on.any():
        return ""
    gap = confidence_sequence(changes[on], acceptance.largest_change, acceptance.confidence)
    return f": gap {gap} on {on.mean():.0%} of the references"


# Where it pays ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Values:
    """A few values of a feature: `of_row`, int64 `[rows]`, or `[donors]` where these are read at
    other positions too, the place of each one's in `names`."""

    feature: str
    of_row: Rows
    names: Sequence[str]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of values of one feature: on the reference, and on the donors of some slots.

    - `given`: values of another feature on the reference, one of them with each pair, or None.
    - `cells`: int64 `[cells]`, those that are told apart, ascending; see `drawn`.
    - `kept`: bool `[cells + 1]`, where it is swapped; the last is that of all other pairs.
    - `worth`: float64 `[cells + 1]`, by which they are told of.
    """

    values: _Values
    given: _Values | None
    slots: Sequence[int]
    cells: Rows
    kept: Mask = field(default_factory=lambda: np.zeros(1, np.bool_))
    worth: Numbers = field(default_factory=lambda: np.zeros(1))

    def drawn(self, swap_set: SwapSet) -> Rows:
        """int64 `[R]`: each pair as a number whose digits are its values."""
        found = np.zeros(len(swap_set), dtype=np.int64)
        if self.given is not None:
            found += self.given.of_row[swap_set.references]
        for rows in (swap_set.references, *swap_set.donors[list(self.slots)]):
            of_row = self.values.of_row
            found = found * MOST_VALUES + of_row[rows % len(of_row)]
        return found

    def which(self, swap_set: SwapSet) -> Rows:
        """int64 `[R]`: the cell of each reference; as many as there are cells for all others."""
        pairs = self.drawn(swap_set)
        at = np.searchsorted(self.cells, pairs)
        told = np.append(self.cells, -1)[at] == pairs
        found: Rows = np.where(told, at, len(self.cells))
        return found

    def said(self, space: SwapSpace) -> str:
        """In the user's words."""
        paths = [space.paths[i] for i in self.slots]
        donors = "that of the donor" if len(paths) == 1 else "those of the donors"
        most_first = np.argsort(-self.worth[:-1], kind="stable")
        cells = self.cells[most_first[self.kept[most_first]]].tolist()
        shown = len(cells) if len(cells) <= MOST_SHOWN + 1 else MOST_SHOWN
        pairs = [self._said(cell) for cell in cells[:shown]]
        pairs += [f"one of {len(cells) - shown} more pairs"] if shown < len(cells) else []
        pairs += ["a rare pair"] if self.kept[-1] else []
        return (
            f"swapped only where the reference's {self.values.feature} and {donors} at "
            f"{', '.join(paths)} are {', or '.join(pairs)}"
        )

    def _said(self, pair: int) -> str:
        names = []
        for _ in range(1 + len(self.slots)):
            pair, at = divmod(pair, MOST_VALUES)
            names.append(self.values.names[at])
        said = " and ".join(reversed(names))
        if self.given is None:
            return said
        return f"{said} where its {self.given.feature} is {self.given.names[pair]}"


@dataclass(frozen=True, eq=False)
class _Switched:
    """The swaps of a space in some cells; elsewhere every donor is the reference itself."""

    space: SwapSpace
    pairs: _Pairs

    def draw(self, n: int, rng: np.random.Generator, references: Rows | None = None) -> SwapSet:
        drawn = self.space.draw(n, rng, references)
        on = self.pairs.kept[self.pairs.which(drawn)]
        return replace(drawn, donors=np.where(on, drawn.donors, drawn.references))


def _chosen(
    draws: int, space: SwapSpace, spending: Spending, rng: np.random.Generator
) -> Distribution:
    """The pairs outside of which nothing is swapped, by a fixed number of draws of all swaps; all
    swaps where no pairs pay more."""
    drawn = space.draw(draws, rng)
    changes = _known(drawn, spending)
    without = np.zeros(len(drawn))
    if is_computed(space):
        without = _known(space.unswapped(drawn.references), spending)
    if not spending.left:
        raise spending.exhausted("not searched to the end")
    acceptance, swapped = spending.acceptance, is_swapped(drawn)
    signs = [sign for sign, counts in zip((1, -1), acceptance.sides, strict=True) if counts]
    best, most = None, acceptance.badness(float(changes.mean()))
    for told in _told_apart(space, drawn):
        which = told.which(drawn)
        for sign in signs:
            paying = _Paying(which, sign * (changes - without), swapped, len(told.cells) + 1)
            found = acceptance.badness(float(without.mean()) + sign * paying.gain)
            on = paying.kept[which]
            if found > most and on.any() and not on.all():
                best, most = replace(told, kept=paying.kept, worth=paying.worth), found
    if best is None:
        return Distribution("everything swapped, as no part of it is worse", lambda whole: whole)
    return Distribution(best.said(space), partial(_Switched, pairs=best))


def _known(swap_set: SwapSet, spending: Spending) -> Numbers:
    """The change of each reference; what rounding may have done is none, so that it chooses
    nothing."""
    changes = spending.changes(swap_set)
    return np.where(np.abs(changes) > spending.rounding(swap_set, changes), changes, 0.0)


def _told_apart(space: SwapSpace, drawn: SwapSet) -> Iterator[_Pairs]:
    """For each feature, each node and all of them, the pairs that were drawn often enough: wherever
    they were, or beside a value of a feature that the claim names."""
    slots = swapped_slots(space)
    places = [[i] for i in slots] + ([slots] if 1 < len(slots) <= MOST_TOGETHER else [])
    named = {name for slot in space.slots for name in slot.agrees_on.features}
    usable = [name for name in space.dataset.feature_names if space.dataset.covers(name)]
    values_of = cache(partial(_values, space.dataset))
    givens = [None, *(name for name in usable if name in named)]
    for name, given, place in product(usable, givens, places):
        if given != name:
            there = {(space.slots[i].place, space.slots[i].places) for i in place}
            # at one position a feature that has a value for each is its value there
            own, all_places = there.pop() if len(there) == 1 else (None, None)
            known = None if given is None else values_of(given, own)
            values = values_of(name, all_places)
            if own is not None and all_places != own:
                # counted from its own position on
                turned = np.roll(values.of_row, -own.at.start * len(space.dataset))
                values = replace(values, of_row=turned)
            every = _Pairs(values, known, place, np.empty(0, np.int64))
            yield replace(every, cells=_often_enough(space, drawn, every))


def _often_enough(space: SwapSpace, drawn: SwapSet, pairs: _Pairs) -> Rows:
    """The pairs with enough draws, and enough contents on each side."""
    content = space.content
    kinds = int(content.max()) + 1
    cells, of_draw = np.unique(pairs.drawn(drawn), return_inverse=True)
    enough = np.bincount(of_draw) >= FEWEST_OF_A_CELL
    for rows in (drawn.references, *drawn.donors[list(pairs.slots)]):
        contents = np.unique(of_draw * kinds + content[rows])
        enough &= np.bincount(contents // kinds, minlength=len(cells)) >= FEWEST_CONTENTS
    found: Rows = cells[enough]
    return found


@dataclass(frozen=True, eq=False)
class _Paying:
    """Which cells pay.

    - `which`: the cell of each draw; `gains`: what swapping it changes the way that counts;
      `swapped`: whether anything was.
    """

    which: Rows
    gains: Numbers
    swapped: Mask
    cells: int

    @property
    def worth(self) -> Numbers:
        """Float64 `[cells]`: what swapping there gains over all draws."""
        return np.bincount(self.which, self.gains, self.cells).astype(np.float64)

    @property
    def kept(self) -> Mask:
        """bool `[cells]`: those whose mean is above one standard error and, where there is one, the
        next best until enough references are swapped."""
        which, gains, cells = self.which, self.gains, self.cells
        draws = np.maximum(np.bincount(which, minlength=cells), 1)
        means = np.bincount(which, gains, cells) / draws
        spread = np.bincount(which, (gains - means[which]) ** 2, cells) / np.maximum(draws - 1, 1)
        kept: Mask = (means > np.sqrt(spread / draws)) & (draws >= FEWEST_OF_A_CELL)
        if kept.any():
            best_first = np.argsort(-means, kind="stable")
            reached = np.cumsum(np.bincount(which, self.swapped, cells)[best_first]) / len(which)
            kept[best_first[: int(np.searchsorted(reached, LEAST_SWAPPED)) + 1]] = True
        return kept

    @property
    def gain(self) -> float:
        """What it is worth where half of the draws choose the cells and the others measure, and the
        other way round."""
        first = np.arange(len(self.which)) % 2 == 0
        gained = 0.0
        for choose, tell in ((first, ~first), (~first, first)):
            half = replace(
                self, which=self.which[choose], gains=self.gains[choose],
                swapped=self.swapped[choose],
            )  # fmt: skip
            gained += float(self.gains[tell][half.kept[self.which[tell]]].sum())
        return gained / len(self.which)


# Values of a feature ------------------------------------------------------------------------------


def _values(dataset: Dataset, name: str, places: Places | None = None) -> _Values:
    """A few values of a feature: its own, ranges of numbers, or the most frequent ones."""
    codes, values = dataset.codes(Agreement((name,)), places), dataset.feature(name)
    values = values_at(values, places)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if len(first) <= MOST_VALUES:
        return _Values(name, codes, [shortened(said(values[row]), LONGEST_VALUE) for row in first])
    if values.ndim == 1 and values.dtype.kind in "iuf":
        parts = np.arange(1, MOST_VALUES) / MOST_VALUES
        ends = np.unique(np.quantile(values, parts, method="inverted_cdf"))
        names = [f"{end:.4g}" for end in ends.tolist()]
        between = [f"above {low} to {high}" for low, high in pairwise(names)]
        ranges = [f"at most {names[0]}", *between, f"above {names[-1]}"]
        return _Values(name, np.searchsorted(ends, values).astype(np.int64), ranges)
    frequent = np.argsort(-counts, kind="stable")[: MOST_VALUES - 1]
    place = np.full(len(first), len(frequent))
    place[frequent] = np.arange(len(frequent))
    names = [shortened(said(values[row]), LONGEST_VALUE) for row in first[frequent]]
    return _Values(name, place[codes], [*names, "another"])
