"""*Which nodes* and *which refinement*: other distributions of allowed swap sets than the claim's
own.

Both compare many distributions on one half of the references and donors, and report the worst on
the other half, drawn anew: what was chosen for looking bad is measured where it was not chosen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import combinations, islice

import numpy as np

from pytest_scrub.adversaries.search import Arm, Found, Spending, swapped_slots
from pytest_scrub.statistics.intervals import estimate
from pytest_scrub.swaps.slots import Slot
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Rows
from pytest_scrub.tree.nodes import Agreement

ALL_SUBSETS_UP_TO = 10  # nodes
RESTARTS = 3  # of the greedy choice of nodes, beside all and each alone
REPORT_SHARE = 0.25  # of the budget: what the interval of the worst distribution is drawn with
FEWEST_DRAWS = 8  # of one distribution, to choose it
# of the chosen one: with fewer, a mean is no normal distribution and its interval means nothing
FEWEST_REPORTED = 30
LEAST_CONTENTS = 4  # references of different content that can be halved


@dataclass(frozen=True)
class _Choice:
    """One distribution that may be tried."""

    arm: Arm
    space: Callable[[SwapSpace], SwapSpace]


class _Halves:
    """A swap space cut in two, rows of equal content together."""

    def __init__(self, space: SwapSpace, rng: np.random.Generator) -> None:
        content = space.dataset.content
        first = np.zeros(len(content), dtype=np.bool_)
        of_references = np.unique(content[space.reference_rows])
        of_donors = np.setdiff1d(content[space.donor_rows], of_references)
        for kinds in (rng.permutation(of_references), rng.permutation(of_donors)):
            first[np.isin(content, kinds[: len(kinds) // 2])] = True
        # A reference that is also a donor keeps the side its content has.
        self.search, self.report = (
            space.within(
                space.reference_rows[side[space.reference_rows]],
                space.donor_rows[side[space.donor_rows]],
            )
            for side in (first, ~first)
        )
        self.usable = all(len(np.unique(content[half.reference_rows])) * 2 >= LEAST_CONTENTS
                          and len(half.donor_rows) for half in (self.search,
                          self.report))  # fmt: skip


@dataclass(frozen=True)
class WhichNodes:
    """Only some of the nodes swapped, the others EXACT: shows effects that cancel between nodes.

    All subsets up to ten nodes (rests count as nodes); above, each alone and a greedy choice with
    restarts.
    """

    name: str = "which nodes"

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The subset with the largest mean gap either way; see `Adversary`."""
        nodes = [space.paths[i] for i in swapped_slots(space)]
        if len(nodes) <= 1:
            return Found(
                self.name,
                "not searched: at most one node is swapped, so no subset differs from the claim",
            )
        if len(nodes) <= ALL_SUBSETS_UP_TO:
            subsets = [
                kept for size in range(1, len(nodes) + 1) for kept in combinations(nodes, size)
            ]
            return _halving(self.name, f"all {len(subsets)} subsets of nodes", space, spending, rng,
                            [_only(kept, nodes) for kept in subsets])  # fmt: skip
        return _greedy(self.name, space, spending, rng, nodes)


@dataclass(frozen=True)
class WhichRefinement:
    """Donors that agree on more than the claim asks: join(H, H') for H' from the dataset's own
    features.

    One feature or a pair of them, at one node or at all.
    """

    name: str = "which refinement"

    def search(self, space: SwapSpace, spending: Spending, rng: np.random.Generator) -> Found:
        """The refinement with the largest mean gap either way; see `Adversary`."""
        nodes = [space.paths[i] for i in swapped_slots(space)]
        # The others are columns that a part of the data lacks; the claim does not use them.
        names = [name for name in space.dataset.feature_names if space.dataset.covers(name)]
        if not spending.left:
            return Found(self.name, f"not searched: {spending.why_none}")
        # No more than can be tried once: there are as many as pairs of features.
        made = _while_affordable(spending, _refinements(space, nodes, names))
        choices = list(islice(made, spending.left // FEWEST_DRAWS + 1))
        if not choices and spending.late:
            return Found(self.name, f"not searched: {spending.why_none}")
        if not choices:
            return Found(
                self.name, "not searched: no feature of the dataset says more than the claim does"
            )
        first = "the first " if spending.late or next(made, None) is not None else ""
        how = f"{first}{len(choices)} refinements by {len(names)} features"
        return _halving(self.name, how, space, spending, rng, choices)


def _only(kept: Sequence[str], nodes: Sequence[str]) -> _Choice:
    exact = tuple(path for path in nodes if path not in kept)
    arm = Arm(f"only {', '.join(kept)} swapped", 0.0, exact=exact)
    return _Choice(arm, lambda space: space.keep(kept))


def _refinements(space: SwapSpace, nodes: Sequence[str], names: Sequence[str]) -> Iterator[_Choice]:
    """Refinements that leave a slot fewer donors, none of them twice; each is made as it is asked
    for."""
    extras = (
        Agreement(tuple(sorted(pair))) for size in (1, 2) for pair in combinations(names, size)
    )
    places = [(path,) for path in nodes] + ([tuple(nodes)] if len(nodes) > 1 else [])
    numbers: dict[bytes, int] = {}

    @cache
    def part(agreement: Agreement) -> int:
        """How the rows are parted: a number for each way, whatever the agreement is called."""
        return numbers.setdefault(_parted(space.dataset.codes(agreement)), len(numbers))

    owners = [_owner(space, slot) for slot in space.slots]
    seen: set[frozenset[tuple[int, int]]] = {frozenset()}
    for extra in extras:
        for place in places:
            refined = (
                (i, slot.agrees_on) for i, slot in enumerate(space.slots) if owners[i] in place
            )
            key = frozenset(
                (i, part(own | extra)) for i, own in refined if part(own | extra) != part(own)
            )
            if key in seen:
                continue
            seen.add(key)
            where = "every node" if len(place) > 1 else place[0]
            arm = Arm(
                f"{where} agrees also on {extra}", 0.0, refined=place, features=extra.features
            )
            yield _Choice(arm, partial(SwapSpace.refine, slots=place, extra=extra))


def _while_affordable(spending: Spending, choices: Iterator[_Choice]) -> Iterator[_Choice]:
    """The choices that were made before the deadline."""
    while spending.left and (choice := next(choices, None)) is not None:
        yield choice


def _owner(space: SwapSpace, slot: Slot) -> str | None:
    """The path of the slot whose donor this one takes, by default its own; None where a function
    stands in for it."""
    if slot.node.computed_by is not None:
        return None
    return slot.path if slot.shares is None else space.paths[slot.shares]


def _parted(codes: Rows) -> bytes:
    """Equal for codes that are equal between the same rows."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return first[inverse].tobytes()


def _halving(
    name: str,
    how: str,
    space: SwapSpace,
    spending: Spending,
    rng: np.random.Generator,
    choices: Sequence[_Choice],
) -> Found:
    """Successive halving (Jamieson and Talwalkar 2016) on one half of the data, the winner drawn
    anew on the other."""
    halves = _Halves(space, rng)
    if not halves.usable:
        return Found(
            name,
            "not searched: too few different inputs to choose on one half and report on the other",
        )
    left = list(choices)
    rounds = max(1, int(np.ceil(np.log2(len(left)))))
    budget = int(spending.left * (1 - REPORT_SHARE))
    sums, counts = np.zeros(len(left)), np.zeros(len(left))
    order = list(range(len(left)))
    for _ in range(rounds):
        draws = max(FEWEST_DRAWS, budget // (rounds * len(order)))
        seed = rng.integers(1 << 62)  # the same draws for all: what differs is what they swap
        for i in order:
            if spending.left < draws + FEWEST_REPORTED:
                break
            sums[i] += _total(
                choices[i], halves.search, spending, draws, np.random.default_rng(seed)
            )
            counts[i] += draws
        ranked = sorted(
            (i for i in order if counts[i]),
            key=lambda i: -spending.badness(float(sums[i] / counts[i])),
        )
        order = ranked[: max(1, len(ranked) // 2)]
        if not order:
            return Found(name, f"not searched: {spending.why_none}")
        spending.stands_at(float(sums[order[0]] / counts[order[0]]))
    arms = tuple(
        replace(choice.arm, gap=float(sums[i] / counts[i]))
        for i, choice in enumerate(choices)
        if counts[i]
    )
    return replace(_reported(name, how, choices[order[0]], halves.report, spending, rng), arms=arms)


def _total(
    choice: _Choice, space: SwapSpace, spending: Spending, draws: int, rng: np.random.Generator
) -> float:
    return float(spending.changes(choice.space(space).draw(draws, rng)).sum())


def _reported(
    name: str,
    how: str,
    choice: _Choice,
    report: SwapSpace,
    spending: Spending,
    rng: np.random.Generator,
) -> Found:
    if spending.left < FEWEST_REPORTED:
        return Found(name, f"not searched to the end: {spending.why_none}")
    worst = choice.space(report).draw(spending.left, rng)
    changes = spending.changes(worst)
    spending.stands_at(float(changes.mean()))
    return Found(name, f"{how}: {choice.arm.name}", worst, changes, estimate(changes))


def _greedy(
    name: str, space: SwapSpace, spending: Spending, rng: np.random.Generator, nodes: Sequence[str]
) -> Found:
    """Each node alone and all of them, then from several starts the one change of the subset that
    helps most."""
    halves = _Halves(space, rng)
    if not halves.usable:
        return Found(
            name,
            "not searched: too few different inputs to choose on one half and report on the other",
        )
    tried: dict[tuple[str, ...], tuple[_Choice, float]] = {}
    budget = int(spending.left * (1 - REPORT_SHARE))
    draws = max(FEWEST_DRAWS, budget // (len(nodes) * (2 + len(nodes)) * (RESTARTS + 1)))
    seed = rng.integers(1 << 62)
    floor = max(spending.left - budget, FEWEST_REPORTED)
    if spending.left < (len(nodes) + 1) * draws + FEWEST_REPORTED:
        return Found(name, f"not searched: {spending.why_none}")

    def gap(kept: Sequence[str]) -> float:
        key = tuple(path for path in nodes if path in kept)
        if key not in tried and not spending.left:
            return -math.inf  # the deadline: what was not tried is chosen by nobody
        if key not in tried:
            choice = _only(key, nodes)
            total = _total(choice, halves.search, spending, draws, np.random.default_rng(seed))
            tried[key] = (choice, total / draws)
            spending.stands_at(max((mean for _, mean in tried.values()), key=spending.badness))
        return spending.badness(tried[key][1])

    starts: list[list[str]] = [list(nodes), *([path] for path in nodes)]
    starts = sorted(starts, key=lambda kept: -gap(kept))[:1]
    starts += [
        [path for path in nodes if rng.random() < 0.5] or [nodes[0]] for _ in range(RESTARTS)
    ]
    for start in starts:
        kept, improved = start, True
        while improved and spending.left - floor >= (len(nodes) + 1) * draws:
            flips = [[p for p in nodes if (p in kept) != (p == path)] for path in nodes]
            best = max((flip for flip in flips if flip), key=gap)
            improved = gap(best) > gap(kept)
            kept = best if improved else kept
    choice, _ = max(tried.values(), key=lambda entry: spending.badness(entry[1]))
    arms = tuple(replace(entry.arm, gap=mean) for entry, mean in tried.values())
    how = f"{len(tried)} subsets of {len(nodes)} nodes, chosen greedily"
    return replace(_reported(name, how, choice, halves.report, spending, rng), arms=arms)
