"""The null of a claim: the swaps it would allow if its features knew nothing.

What a claim explains is measured against it: a claim that holds just as well when the values of its
features are permuted says nothing of what its components compute. Features that know nothing have
as many values of the same frequencies; dropping them instead would reward a feature for leaving few
donors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product

import numpy as np

from pytest_scrub.swaps.slots import REFERENCE, Slot
from pytest_scrub.swaps.space import SwapSpace, Unknowing, at_once, drawn_in
from pytest_scrub.swaps.swap_set import Rows, SwapSet, joined
from pytest_scrub.tree.nodes import ANYTHING, EXACT, ROOT, Agreement, Node
from pytest_scrub.tree.paths import node_paths, with_changes


@dataclass(frozen=True, eq=False)
class Null:
    """What a claim would be if its features knew nothing.

    - `claimed`: the swaps that the claim allows.
    - `what`: how the null differs from the claim, in words.
    - `hypothesis`: its tree, with the same slots, and behind them those that a prediction reads.
    - `permuted`: slot path to the features whose values are permuted there; empty where what was
      `EXACT` becomes `ANYTHING` instead.
    """

    claimed: SwapSpace
    what: str
    hypothesis: Node
    permuted: Mapping[str, Agreement]

    def space(self, rng: np.random.Generator) -> SwapSpace:
        """The swaps that it allows, under one permutation for the whole tree.

        The values of features are permuted among the contents of the dataset, so rows that are
        equal keep equal values; where donors come from any position, among all of these.
        """
        first, content = self._contents
        rows = first[rng.permutation(len(first))][content]
        places = {}
        for count in sorted({slot.shifts for slot in self.known.slots} - {1}):
            at = np.arange(count)[:, None]
            every = (first + len(content) * at).reshape(-1)
            of_place = (content + len(first) * at).reshape(-1)
            places[count] = every[rng.permutation(len(every))][of_place]
        return self.known.under(Unknowing(rows, self.permuted, places))

    def spaces(self, most: int) -> list[SwapSpace] | None:
        """Those of all permutations, each as likely as any other; None where there are more than
        `most`, where contents are padded at different positions, so that what a permutation
        allows depends on more than the values it gives, and where positions are permuted too.

        Permutations that give every content the same values allow the same.
        """
        if self.permuted and (self.known.is_padded or self.known.shifts > 1):
            return None
        names = sorted({name for on in self.permuted.values() for name in on.features})
        if not names:
            return [self.known]
        first, content = self._contents
        codes = self.known.dataset.codes(Agreement(tuple(names)))[first]
        _, example, kinds, counts = np.unique(
            codes, return_index=True, return_inverse=True, return_counts=True
        )
        # a multinomial coefficient, which may have any number of digits
        log = math.lgamma(len(first) + 1) - sum(math.lgamma(n + 1) for n in counts.tolist())
        if log > math.log(max(most, 1)) + 1e-6:
            return None
        return [
            self.known.under(Unknowing(first[example[order]][content], self.permuted))
            for order in _arrangements(kinds.reshape(-1).tolist())
        ]

    def draw(self, references: Rows, rng: np.random.Generator, together: int) -> SwapSet:
        """One swap that it allows for each reference, int64 `[R]`; every `together` of them have a
        permutation of their own."""
        return drawn_of([self], references, rng, together)

    @property
    def _contents(self) -> tuple[Rows, Rows]:
        """A row of each content, and which content each row has."""
        return self.claimed.dataset.first_of_content, self.claimed.dataset.content

    @cached_property
    def known(self) -> SwapSpace:
        """The swaps that its tree allows where all features know what they know."""
        claimed = self.claimed
        if self.hypothesis is claimed.hypothesis:
            return claimed
        return SwapSpace(
            self.hypothesis,
            claimed.dataset,
            frozen=claimed.frozen,
            references=claimed.reference_rows,
            donors=claimed.donor_rows,
            derived=True,
        )

    def of_one(self, path: str) -> Null:
        """The same where only the features of one node know nothing."""
        return replace(self, permuted={p: self.permuted[p] for p in self.slots_of_one(path)})

    def slots_of_one(self, path: str) -> list[str]:
        """The slots of a node or a rest whose features it permutes."""
        slots = self.claimed.slots
        return [slots[i].path for i in self.claimed.wholes[path] if slots[i].path in self.permuted]


def drawn_of(
    nulls: Sequence[Null], references: Rows, rng: np.random.Generator, together: int
) -> SwapSet:
    """What `Null.draw` gives for several nulls of one claim, one after the other."""
    parts, each = list[SwapSet](), product(nulls, range(0, len(references), together))
    while some := list(islice(each, at_once(nulls[0].claimed))):
        spaces, rows, chances = list[SwapSpace](), [], []
        for null, start in some:
            rows.append(references[start : start + together])
            spaces.append(null.space(rng))
            chances.append(rng.random((len(spaces[0].slots), len(rows[-1]))))
        sizes, every = [*map(len, rows)], np.concatenate(chances, axis=1)
        parts.append(drawn_in(spaces, sizes, np.concatenate(rows), every))
    return joined(parts)


def null_of(space: SwapSpace) -> Null | None:
    """The null of the claim whose swaps these are; None where it names nothing that could know
    anything.

    What predicts the label that swaps lead to reads another draw of the same swaps. Where nothing
    does, features of nodes below the root are permuted. Where none names one, nodes that are
    `EXACT` beside a rest that is not become `ANYTHING` ("this suffices" against "nothing is kept");
    where there are none, the features of rests are permuted; where there are none, the root's. All
    else stays. A computed node takes any donor, and computes from its true values.
    """
    if space.predicted is not None and space.predicted.read:
        apart = replace(space.predicted.said, apart=True)
        return Null(
            space, "the label predicted from another draw",
            replace(space.hypothesis, predicts=apart), {},
        )  # fmt: skip
    own = [slot for slot in space.slots if not slot.is_rest and slot.path != ROOT]
    if permuted := _features(own):
        return Null(space, "features permuted", space.hypothesis, permuted)
    dropped = _dropped(space)
    if dropped != space.hypothesis:
        return Null(space, "nothing kept EXACT", dropped, {})
    if permuted := _features([slot for slot in space.slots if slot.is_rest]):
        return Null(space, "features of rests permuted", space.hypothesis, permuted)
    if permuted := _features([slot for slot in space.slots if slot.parent == REFERENCE]):
        return Null(space, "features of the output permuted", space.hypothesis, permuted)
    return None


def _arrangements(kinds: list[int]) -> Iterator[list[int]]:
    """Every order of these, each once (Knuth, "The Art of Computer Programming", 7.2.1.2,
    algorithm L)."""
    order = sorted(kinds)
    while True:
        yield [*order]
        rises = [i for i in range(len(order) - 1) if order[i] < order[i + 1]]
        if not rises:
            return
        i = rises[-1]
        j = max(j for j in range(i + 1, len(order)) if order[j] > order[i])
        order[i], order[j] = order[j], order[i]
        order[i + 1 :] = order[:i:-1]


def _features(slots: list[Slot]) -> dict[str, Agreement]:
    return {
        slot.path: slot.agrees_on
        for slot in slots
        if slot.agrees_on.features and not slot.agrees_on.exact
    }


def _dropped(space: SwapSpace) -> Node:
    """The tree in which nodes that are EXACT beside a rest that is swapped agree on nothing, and
    what takes their donor."""
    parents = {path: above for path, _, above in node_paths(space.hypothesis)}
    beside = {
        slot.path.removesuffix("/rest")
        for slot in space.slots
        if slot.is_rest and not slot.agrees_on.exact
    }
    loose = {
        i if slot.shares is None else slot.shares
        for i, slot in enumerate(space.slots)
        if not slot.is_rest
        and slot.agrees_on == EXACT
        and parents[slot.whole] in beside
        and slot.node.edited is None
    }
    paths = {s.whole for i, s in enumerate(space.slots) if {i, s.shares} & loose}

    return with_changes(
        space.hypothesis,
        lambda path, node: replace(node, agrees_on=ANYTHING) if path in paths else node,
    )
