"""What a hypothesis allows: the space of swap sets, which draws, counts, checks and enumerates
them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import compress, islice
from operator import not_
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_scrub.data.columns import Places, joint_codes, row_codes
from pytest_scrub.errors import DataError, HypothesisError, did_you_mean, located_at
from pytest_scrub.swaps.each import codes_at, is_there, length_of, require_one_value, rows_at
from pytest_scrub.swaps.predicted import PredictedLabels
from pytest_scrub.swaps.slots import REFERENCE, Slot, owners_first, slots_of, with_agreement
from pytest_scrub.swaps.swap_set import Mask, Numbers, Rows, SwapSet, joined
from pytest_scrub.tree.join import join
from pytest_scrub.tree.nodes import ANYTHING, EXACT, ROOT, Agreement, Node

if TYPE_CHECKING:
    from pytest_scrub.data.dataset import Dataset

_Parts = tuple[Agreement, Agreement, Places | None, int]
_Chance = Callable[[Rows, Rows], Numbers]
MOST_SHORT = (1 << 16) - 1
ROWS_AT_ONCE = 1 << 21  # of the classes of spaces that are drawn from together: some 40 MB
ENUMERATION_CHUNK = 1 << 18  # swap-set columns held at once; a few dozen MB for a deep tree


@dataclass(frozen=True)
class Violation:
    """One donor that a hypothesis does not allow."""

    column: int
    slot: str
    donor: int
    parent: int
    why: str

    def __str__(self) -> str:
        return f"{self.slot}: row {self.donor} may not stand in for row {self.parent}: {self.why}"


@dataclass(frozen=True)
class Support:
    """How far one slot can be tested on the references of a dataset.

    - `donors`: int64 `[references]`, allowed donors, the row itself included.
    - `other`: bool `[references]`, those with an allowed donor of other content.
    """

    slot: str
    donors: Rows
    other: Mask

    @property
    def share(self) -> float:
        """Share of references with an allowed donor of other content."""
        return float(self.other.mean())


@dataclass(frozen=True, eq=False)
class Unknowing:
    """Features that know nothing: those of some slots have the values of other rows.

    - `rows`: int64 `[rows]`, the row whose values each row has instead.
    - `places`: by how many positions there are, int64 `[positions * rows]`: the row and position,
      `row + rows * position`, whose values each has instead where donors come from any of them.
    - `features`: slot path to the features that do. A computed node, which reads the values of its
      donor, takes any donor instead.
    """

    rows: Rows
    features: Mapping[str, Agreement]
    places: Mapping[int, Rows] = field(default_factory=dict)


@dataclass(frozen=True)
class _Classes:
    """Donor rows sorted by agreement class, so that drawing and listing are index arithmetic.

    Of slots whose donors come from any position it is of all rows at the first, then all at the
    next, one for all slots of a node; each counts from its own position on.
    """

    codes: Rows  # [rows]
    order: Rows  # donor rows, grouped by code
    start: Rows  # [classes]
    size: Rows  # [classes]
    # [rows]: not a donor row itself, and so one more allowed donor of its own
    outside: Mask
    several: int = 1  # that are stacked
    turn: int = 0  # rows before those at the slot's own position

    @classmethod
    def of(cls, codes: Rows, donor_rows: Rows) -> _Classes:
        most = int(codes.max())
        # numbers of 16 bits are sorted in linear time
        keys = codes[donor_rows].astype(np.uint16 if most <= MOST_SHORT else np.int64)
        order = donor_rows[np.argsort(keys, kind="stable")]
        size = np.bincount(codes[donor_rows], minlength=most + 1)
        outside = np.ones(len(codes), dtype=np.bool_)
        outside[donor_rows] = False
        return cls(codes, order, np.cumsum(size) - size, size, outside)

    @classmethod
    def stacked(cls, several: Sequence[_Classes]) -> _Classes:
        """Several as one: row r of the nth is its row `n * rows + r`."""
        if len(several) == 1:
            return replace(several[0], turn=0)
        numbers = np.cumsum([0, *(len(one.size) for one in several)])
        places = np.cumsum([0, *(len(one.order) for one in several)])
        codes = [one.codes + first for one, first in zip(several, numbers, strict=False)]
        start = [one.start + first for one, first in zip(several, places, strict=False)]
        return cls(
            np.concatenate(codes),
            np.concatenate([one.order for one in several]),
            np.concatenate(start),
            np.concatenate([one.size for one in several]),
            np.concatenate([one.outside for one in several]),
            len(several),
        )

    def count(self, rows: Rows) -> Rows:
        rows = rows + self.turn if self.turn else rows
        return self.size[self.codes[rows]] + self.outside[rows]

    def pick(self, rows: Rows, nth: Rows) -> Rows:
        """The nth allowed donor of each row, `nth < count(rows)`, of one slot or of several that
        have the same rows."""
        rows = rows + self.turn if self.turn else rows
        code = self.codes[rows]
        listed, place = nth < self.size[code], self.start[code] + nth
        if listed.all():
            own: Rows = self.order[place]
        else:
            own = np.broadcast_to(rows % (len(self.codes) // self.several), nth.shape).copy()
            own[listed] = self.order[place[listed]]
        return (own - self.turn) % len(self.codes) if self.turn else own


class SwapSpace:
    """The swap sets that a hypothesis allows on a dataset.

    An allowed donor of a slot is a donor row that agrees, as the hypothesis says, with the parent's
    own input; that input itself is always allowed.

    **Arguments**

    - `hypothesis`: the root of a tree, as `output(...)` makes it.
    - `dataset`: gives rows, features, and which rows may be references and donors.
    - `frozen`: paths of slots that are not swapped.
    - `references`, `donors`: int64 rows, instead of the dataset's own; see `within`.
    - `unknowing`: what of the agreements is with the values of other rows; see `Null`.
    - `derived`: made of a claim that was held against the dataset, of whose swaps it may say less.

    `predicted`: the labels that its swaps lead to, None where they are to stay the reference's own.

    **Raises** `DataError` for a feature that the dataset lacks or cannot compute, or that has a
    value for each position where donors agree as a whole, and where what a shared donor agrees on
    does not follow from what lies above those that share it.
    """

    def __init__(
        self,
        hypothesis: Node,
        dataset: Dataset,
        *,
        frozen: Collection[str] = (),
        references: Rows | None = None,
        donors: Rows | None = None,
        unknowing: Unknowing | None = None,
        derived: bool = False,
    ) -> None:
        if hypothesis.components != (ROOT,):
            with located_at(hypothesis):
                raise HypothesisError(
                    f"a hypothesis starts at output(...), not at {hypothesis.component}"
                )
        self._hypothesis: Node | None = hypothesis
        self._coarser: tuple[SwapSpace, list[str], Agreement] | None = None
        self.dataset = dataset
        self.reference_rows = dataset.reference_rows if references is None else references
        self.donor_rows = dataset.donor_rows if donors is None else donors
        self.slots = slots_of(hypothesis, partial(length_of, dataset))
        self.predicted = PredictedLabels.of(hypothesis, dataset, self.slots)
        self.paths = tuple(slot.path for slot in self.slots)
        self.order = owners_first(self.slots)
        # every parent with the slots below it that share no donor, those above first
        self._by_parent: dict[int, list[int]] = {}
        self._sharers: dict[int, list[int]] = {}  # by the slot whose donor they take
        for i in self.order:
            parent, shared = self.slots[i].parent, self.slots[i].shares
            if shared is None:
                self._by_parent.setdefault(parent, []).append(i)
            else:
                self._sharers.setdefault(shared, []).append(i)
        self._freeze(frozen)
        self.unknowing = unknowing
        self._there = {
            whole: is_there(dataset, whole, self.slots[at[0]].node, len(at))
            for whole, at in self.wholes.items()
            if self.slots[at[0]].at is not None
        }
        self.shifts = max((slot.shifts for slot in self.slots), default=1)
        self._known_classes: dict[_Parts, _Classes] = {}
        self._known_codes: dict[tuple[int, int], tuple[_Classes, Rows]] = {}
        self._classes = [self._classes_of(slot) for slot in self.slots]
        for slot in () if derived else self.slots:
            require_one_value(dataset, slot)
            if slot.through:
                self._require_determined(slot)

    def _require_determined(self, slot: Slot) -> None:
        """**Raises** `DataError` where a node above a slot whose donor is shared takes inputs that
        differ in what the donor agrees on."""
        rows = np.union1d(self.reference_rows, self.donor_rows)
        for above in (self.slots[i] for i in slot.through):
            known, asked = (self.dataset.codes(s.agrees_on)[rows] for s in (above, slot))
            _, first, kind = np.unique(known, return_index=True, return_inverse=True)
            alike = first[kind.reshape(-1)]
            unlike = np.flatnonzero(asked != asked[alike])
            if len(unlike):
                pair = rows[alike[unlike[0]]], rows[unlike[0]]
                with located_at(slot.node, above.node):
                    raise DataError(
                        f"{slot.path} takes a donor with nodes elsewhere, so what is above it has "
                        f"to settle {slot.agrees_on}, but {above.path} agrees on "
                        f"{above.agrees_on}, on which rows {pair[0]} and {pair[1]} agree as well; "
                        f"let {above.path} agree on {slot.agrees_on} too"
                    )

    @property
    def hypothesis(self) -> Node:
        """The tree whose slots these are."""
        if self._hypothesis is None:  # of a refinement; most are only drawn from
            assert self._coarser is not None
            coarser, paths, extra = self._coarser
            self._hypothesis = with_agreement(coarser.hypothesis, paths, extra)
        return self._hypothesis

    def _classes_of(self, slot: Slot) -> _Classes:
        part = self._parts(slot)
        if part not in self._known_classes:
            donors = self._at_shifts(self.donor_rows, slot.shifts)
            self._known_classes[part] = _Classes.of(self._codes(slot), donors)
        known = self._known_classes[part]
        return replace(known, turn=(slot.at or 0) * len(self.dataset)) if slot.shifts > 1 else known

    def _at_shifts(self, rows: Rows, shifts: int) -> Rows:
        """The numbers of rows as donors, at each of so many positions; see `SwapSet`."""
        return (rows + len(self.dataset) * np.arange(shifts)[:, None]).reshape(-1)

    @property
    def is_padded(self) -> bool:
        """Whether a node with a donor for each position has some that are padded."""
        return any(there is not None for there in self._there.values())

    def under(self, unknowing: Unknowing) -> SwapSpace:
        """The same where the features of some slots know nothing."""
        same = copy(self)
        same.unknowing, same._classes, same._known_classes = unknowing, [*self._classes], {}
        same._known_codes = {}
        before = () if self.unknowing is None else self.unknowing.features
        for i in sorted(self.index[path] for path in {*unknowing.features, *before}):
            same._classes[i] = same._classes_of(self.slots[i])
        return same

    def against(self, rival: str) -> SwapSpace:
        """The same with the labels that a rival of its prediction gives."""
        assert self.predicted is not None
        said = self.predicted.said.against(rival)
        same = copy(self)
        same._hypothesis = replace(self.hypothesis, predicts=said)
        same.predicted = replace(self.predicted, said=said)
        return same

    def _like(self, hypothesis: Node, **changed: Any) -> SwapSpace:
        """The same but for this."""
        own = {
            "frozen": self.frozen,
            "references": self.reference_rows,
            "donors": self.donor_rows,
            "unknowing": self.unknowing,
            "derived": True,
        }
        return SwapSpace(hypothesis, self.dataset, **{**own, **changed})

    def _parts(self, slot: Slot) -> _Parts:
        """What a slot agrees on with the values of the rows themselves, with those of others, at
        which position, and which mask says where rows are."""
        at = slot.places, id(self._there.get(slot.whole))
        if self.unknowing is None or slot.agrees_on.exact:
            return slot.agrees_on, ANYTHING, *at
        other = self.unknowing.features.get(slot.path, ANYTHING)
        own = (name for name in slot.agrees_on.features if name not in other.features)
        computed = slot.node.computed_by is not None and not slot.is_rest
        return Agreement(tuple(own)), ANYTHING if computed else other, *at

    def _freeze(self, frozen: Collection[str]) -> None:
        """Not to be swapped; a slot that shares a donor moves with its owner."""
        owners = [i if slot.shares is None else slot.shares for i, slot in enumerate(self.slots)]
        swapped = [self.paths[owner] not in frozen for owner in owners]
        self.frozen = frozenset(compress(self.paths, map(not_, swapped)))
        self.swapped = np.array(swapped, dtype=np.bool_)  # [slots]

    def _codes(self, slot: Slot) -> Rows:
        own, other, places, _ = self._parts(slot)
        there = self._there_at(slot)
        with located_at(slot.node):
            try:
                codes = self.dataset.codes(own, places)
                if self.unknowing is not None and other != ANYTHING:
                    rows = self.unknowing.rows
                    rows = rows if slot.shifts == 1 else self.unknowing.places[slot.shifts]
                    permuted = self.dataset.codes(other, places)[rows_at(rows, there)]
                    known = [] if own == ANYTHING else [codes]
                    codes = row_codes(len(codes), [permuted, *known]) if known else permuted
            except DataError as error:
                raise DataError(f"{slot.path}: {error}") from error
        return codes_at(codes, there)

    def is_there(self, rows: Rows) -> Mask:
        """bool `[slots, R]`: whether rows `[slots, R]` are not padded at the slots' positions."""
        found = np.ones(rows.shape, dtype=np.bool_)
        for i, slot in enumerate(self.slots):
            mask = None if slot.at is None else self._there[slot.whole]
            if mask is not None:
                found[i] = mask[rows[i], slot.at]
        return found

    def _there_at(self, slot: Slot) -> Mask | None:
        """bool `[rows]`: which are not padded at a slot's position, or `[positions * rows]` at all
        from which its donors come; None where none are."""
        there = None if slot.at is None else self._there[slot.whole]
        if there is None or slot.shifts == 1:
            return None if there is None else there[:, slot.at]
        found: Mask = there.T.reshape(-1)
        return found

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Slot path to row of `SwapSet.donors`."""
        return {path: i for i, path in enumerate(self.paths)}

    @cached_property
    def wholes(self) -> Mapping[str, list[int]]:
        """What tables and searches over nodes call a node or a rest, and its slots."""
        found: dict[str, list[int]] = {}
        for i, slot in enumerate(self.slots):
            found.setdefault(slot.whole, []).append(i)
        return found

    def _paths(self, nodes: Collection[str]) -> list[str]:
        """The slots of nodes, which may be named as a whole or position by position."""
        for path in nodes:
            if path not in self.index and path not in self.wholes:
                names = [*dict.fromkeys([*self.wholes, *self.paths])]
                raise HypothesisError(
                    f"the hypothesis has no slot {path!r}{did_you_mean(path, names)}"
                )
        return [self.paths[i] for n in nodes for i in self.wholes.get(n) or [self.index[n]]]

    def keep(self, nodes: Collection[str]) -> SwapSpace:
        """Only these slots are swapped; every other takes its parent's own input (EXACT)."""
        nodes = self._paths(nodes)
        kept = set(nodes)
        for path in nodes:
            owner = self.slots[self.index[path]].shares
            kept |= set() if owner is None else {self.paths[owner]}
        same = copy(self)  # what the classes are does not depend on what is frozen
        same._freeze(self.frozen | (set(self.paths) - kept))
        return same

    def within(self, references: Rows, donors: Rows) -> SwapSpace:
        """The swap sets on these references with donors among these; both int64 rows of the
        dataset."""
        return self._like(self.hypothesis, references=references, donors=donors)

    def refine(self, slots: Collection[str], extra: Agreement) -> SwapSpace:
        """The swap sets in which these slots, and those that share their donors, agree on `extra`
        as well: what `join` gives for the claim that says only this. What is shared agrees on it
        with the input that it agrees with anyway."""
        owners = [i if slot.shares is None else slot.shares for i, slot in enumerate(self.slots)]
        asked = {owners[self.index[path]] for path in self._paths(slots)}
        finer = {i: slot for i, slot in enumerate(self.slots) if owners[i] in asked}
        same = copy(self)
        same._hypothesis, same._classes = None, [*self._classes]
        same._known_classes = {**self._known_classes}  # what is made for it goes with it
        same._known_codes = {**self._known_codes}
        same._coarser = self, [slot.whole for slot in finer.values()], extra
        for i, slot in finer.items():
            # a computed node takes no activation, and needs the features it is computed from
            if slot.is_rest or slot.node.computed_by is None:
                finer[i] = replace(slot, agrees_on=slot.agrees_on | extra)
                same._classes[i] = same._classes_of(finer[i])
        same.slots = tuple(finer.get(i, slot) for i, slot in enumerate(self.slots))
        return same

    def join(self, other: Node | Agreement) -> SwapSpace:
        """The swap sets that also `other` allows; see `pytest_scrub.join`."""
        # What is frozen may end in a rest of the other's, which then has to stay where it is.
        at = {whole: {self.paths[i] for i in slots} for whole, slots in self.wholes.items()}
        frozen = {whole for whole, paths in at.items() if paths <= self.frozen}
        both = join(with_agreement(self.hypothesis, frozen, EXACT), other)
        if isinstance(both, Agreement):
            return self.keep(())
        paths = {slot.path for slot in slots_of(both, partial(length_of, self.dataset))}
        for whole in at.keys() - frozen:
            if not at[whole] & self.frozen <= paths:
                raise HypothesisError(
                    f"cannot join: only some positions of {whole} are swapped, and it is no node "
                    "of what both claim; join before keep()"
                )
        return self._like(both, frozen=self.frozen & paths, derived=False)

    def draw(self, n: int, rng: np.random.Generator, references: Rows | None = None) -> SwapSet:
        """`n` independent samples: a uniform reference, and for every slot a uniform allowed donor.

        **Arguments**

        - `n`: number of samples.
        - `rng`: the only source of randomness.
        - `references`: int64 `[n]` to use instead of drawing them.
        """
        if references is None:
            references = rng.choice(self.reference_rows, size=n, replace=True)
        # Drawn for every slot, frozen or not: what one slot draws must not depend on which others
        # are kept.
        chances = rng.random((len(self.slots), len(references)))
        return drawn_in([self], [len(references)], references, chances)

    def fill(self, references: Rows, choose: Callable[[int, Rows, Rows], Rows]) -> SwapSet:
        """The swap set whose donors are chosen slot by slot, parents before children.

        **Arguments**

        - `references`: int64 `[R]`.
        - `choose`:
          `(slot index, parents' own inputs [R], donors settled so far [slots, R]) -> donors [R]`,
          asked for every slot that neither shares a donor nor is frozen.
        """

        def each(slots: list[int], parents: Rows, donors: Rows) -> None:
            for i in slots:
                donors[i] = choose(i, parents, donors)

        return self.settled(references, each, self.swapped[:, None])

    def settled(
        self,
        references: Rows,
        settle: Callable[[list[int], Rows, Rows], None],
        swapped: Mask,
    ) -> SwapSet:
        """The same, where `settle` puts in the donors of all slots with one parent at once.

        `swapped`: bool `[slots, 1 or R]`, where they are and do not take their parent's own input.
        """
        donors = np.empty((len(self.slots), len(references)), dtype=np.int64)
        some: list[bool] = np.any(swapped, axis=1).tolist()
        every: list[bool] = np.all(swapped, axis=1).tolist()
        for parent, slots in self._by_parent.items():
            parents = references if parent == REFERENCE else donors[parent]
            free = [i for i in slots if some[i]]
            if free:
                settle(free, parents, donors)
            if frozen := [i for i in slots if not every[i]]:
                donors[frozen] = np.where(swapped[frozen], donors[frozen], parents)
            for i in slots if self._sharers else ():
                donors[self._sharers.get(i, [])] = donors[i]
        return self.swap_set(references, donors)

    def swap_set(self, references: Rows, donors: Rows) -> SwapSet:
        """These donors, int64 `[slots, R]`, as a swap set of this hypothesis and dataset; not
        checked."""
        return SwapSet(
            references, donors, self.paths, self.dataset.digest(), self.hypothesis,
            len(self.dataset),
        )  # fmt: skip

    def pick(self, slot: int, parents: Rows, chances: Numbers) -> Rows:
        """Uniform allowed donors of the slot with this index, for uniform `chances` in [0, 1)."""
        count = self._classes[slot].count(parents)
        return self._classes[slot].pick(parents, (chances * count).astype(np.int64))

    def agree(self, slot: int) -> Rows:
        """int64 `[donors]`: equal exactly where two rows agree as the slot with this index asks;
        what can be no donor of it, but of slots whose donors come from any position, agrees with
        none."""
        classes = self._classes[slot]
        if self.shifts == 1:
            return classes.codes
        key = id(classes.codes), classes.turn
        if key not in self._known_codes:
            missing = len(self.content) - len(classes.codes)
            codes = classes.codes
            if self.slots[slot].shifts > 1:
                codes = self._twice_of(classes)[classes.turn : classes.turn + len(codes)]
            if missing:
                codes = np.concatenate([codes, int(codes.max()) + 1 + np.arange(missing)])
            self._known_codes[key] = classes, codes
        return self._known_codes[key][1]

    def _twice_of(self, classes: _Classes) -> Rows:
        """The codes and once more from the first, so that those from any position on are one
        stretch of them."""
        key = id(classes.codes), -1
        if key not in self._known_codes:
            self._known_codes[key] = classes, np.concatenate([classes.codes, classes.codes])
        return self._known_codes[key][1]

    def codes(self, slot: int, agreement: Agreement) -> Rows:
        """int64 `[donors]`: equal exactly where two donors of a slot agree on anything else, by
        what the dataset itself says."""
        of, rows = self.slots[slot], len(self.dataset)
        codes = self.dataset.codes(agreement, of.places)
        return codes if of.shifts == 1 else np.roll(codes, -(of.at or 0) * rows)

    @cached_property
    def content(self) -> Rows:
        """int64 `[donors]`: equal exactly where two rows have the same inputs and, as donors from
        other positions, are as many positions further on."""
        content = self.dataset.content
        further = np.arange(self.shifts)[:, None] * (int(content.max()) + 1)
        found: Rows = (content + further).reshape(-1)
        return found

    def rows_of(self, donors: Rows) -> Rows:
        """The rows of the dataset that donors are, wherever they are read."""
        return donors % len(self.dataset) if self.shifts > 1 else donors

    def unswapped(self, references: Rows) -> SwapSet:
        """The swap set in which every donor is the reference itself."""
        donors = np.broadcast_to(references, (len(self.slots), len(references)))
        return self.swap_set(references, donors)

    def require_own(self, swap_set: SwapSet) -> None:
        """**Raises** `DataError` where the swap set is of another tree or dataset, or names rows
        that do not exist."""
        if swap_set.slots != self.paths:
            raise DataError(
                f"the swap set has slots {list(swap_set.slots)}, the hypothesis has "
                f"{list(self.paths)}"
            )
        if swap_set.dataset != self.dataset.digest():
            raise DataError(
                "the swap set belongs to a dataset of other content; draw it again on this one"
            )
        rows, own = len(self.dataset), swap_set.donors
        further = most = np.zeros(1)
        if self.shifts > 1:  # how many positions further on
            further, own = np.divmod(own, rows)
            most = np.array([slot.shifts - 1 for slot in self.slots])[:, None]
        for name, given in (("reference", swap_set.references), ("donor", own)):
            if given.size and not 0 <= given.min() <= given.max() < rows:
                raise DataError(f"the swap set names a {name} row outside 0 to {rows - 1}")
        if not np.all((further >= 0) & (further <= most)):
            raise DataError(
                "the swap set names a donor at a position from which its slot takes none"
            )

    def parents(self, swap_set: SwapSet) -> Rows:
        """int64 `[slots, R]`: the input with which each slot's donor has to agree."""
        rows = np.vstack([swap_set.donors, swap_set.references])  # `REFERENCE` is the last
        return rows[[slot.parent for slot in self.slots]]

    def parents_of(self, slot: int, references: Rows, donors: Rows) -> Rows:
        """int64 `[R]`: the same for the slot with this index alone, from all `donors`."""
        parent = self.slots[slot].parent
        return references if parent == REFERENCE else donors[parent]

    def moved(self, swap_set: SwapSet) -> Mask:
        """bool `[slots, R]`: the donor's content differs from that of the parent's own input."""
        content = self.content
        return np.not_equal(content[swap_set.donors], content[self.parents(swap_set)])

    def allowed(self, slot: str, parents: Rows) -> list[Rows]:
        """For each parent's own input, the rows that may be donors of `slot`, in ascending
        order."""
        i = self.index[slot]
        if slot in self.frozen:
            return [np.array([row], dtype=np.int64) for row in parents]
        counts = self._classes[i].count(parents)
        listed = self._classes[i].pick(np.repeat(parents, counts), _within(counts))
        return [np.sort(part) for part in np.split(listed, np.cumsum(counts))[:-1]]

    def check(self, swap_set: SwapSet) -> list[Violation]:
        """Every donor that is not allowed, and why; empty where the swap set is allowed."""
        self.require_own(swap_set)
        found: list[Violation] = []
        parents = self.parents(swap_set)
        for i, reasons in enumerate(self._violated(swap_set, parents)):
            for bad, why in reasons:
                found += [
                    Violation(
                        int(r), self.paths[i], int(swap_set.donors[i, r]), int(parents[i, r]), why
                    )
                    for r in np.flatnonzero(bad)
                ]
        return found

    def allows(self, swap_set: SwapSet) -> Mask:
        """bool `[R]`: which references have allowed donors in every slot."""
        allowed = np.ones(len(swap_set), dtype=np.bool_)
        for reasons in self._violated(swap_set, self.parents(swap_set)):
            for bad, _ in reasons:
                allowed &= ~bad
        return allowed

    def _violated(self, swap_set: SwapSet, parents: Rows) -> Iterator[list[tuple[Mask, str]]]:
        """For every slot, each way not to be allowed: the references that take it, and the way in
        words."""
        for i, slot in enumerate(self.slots):
            donor, own = swap_set.donors[i], parents[i]
            if slot.path in self.frozen:
                yield [(np.not_equal(donor, own), "this slot is not swapped here")]
                continue
            codes = self.agree(i)
            ways = [
                (codes[donor] != codes[own], f"they do not agree on {slot.agrees_on}"),
                (~self.is_donor[donor] & (donor != own), "it is not among the dataset's donors"),
            ]
            if slot.shares is not None:
                other = np.not_equal(donor, swap_set.donors[slot.shares])
                ways.append(
                    (other, f"it shares the donor of {slot.node.shares}, which takes another")
                )
            yield ways

    def is_read(self, slot: int) -> bool:
        """Whether anything depends on the donor of the slot with this index itself: an activation
        that is taken from it, or the label that is predicted. Others only say what those below
        them may take."""
        is_source = self.predicted is not None and slot in self.predicted.read
        return is_source or self.slots[slot].is_rest or self.slots[slot].node.is_leaf

    @cached_property
    def is_donor(self) -> Mask:
        """bool `[donors]`: the rows that may stand in for others, at any position."""
        rows = np.zeros(len(self.content), dtype=np.bool_)
        rows[self.donors] = True
        return rows

    @cached_property
    def donors(self) -> Rows:
        """int64: the numbers of all donors, of all positions from which some slot takes them."""
        return self._at_shifts(self.donor_rows, self.shifts)

    def count(self) -> dict[str, Rows]:
        """Slot path to int64 `[references]`: allowed donors, the row itself included, where the
        parent's own input is the reference."""
        return {one.slot: one.donors for one in self.support()}

    def support(self) -> list[Support]:
        """For every slot, how many donors the references have, and which have one of other content,
        where the parent's own input is the reference."""
        content, references = self.content, self.reference_rows
        found = []
        for slot, classes in zip(self.slots, self._classes, strict=True):
            if slot.path in self.frozen:
                own = np.ones_like(references)
                found.append(Support(slot.path, own, np.zeros(own.shape, dtype=np.bool_)))
                continue
            ranked, rows = content[classes.order], references + classes.turn
            filled = classes.size > 0
            low = np.full(len(classes.size), -1)
            high = np.full(len(classes.size), -1)
            if len(ranked):
                low[filled] = np.minimum.reduceat(ranked, classes.start[filled])
                high[filled] = np.maximum.reduceat(ranked, classes.start[filled])
            code = classes.codes[rows]
            other = filled[code] & ((low[code] != content[rows]) | (high[code] != content[rows]))
            found.append(Support(slot.path, classes.count(references), other))
        return found

    @np.errstate(over="ignore")  # infinitely many, where not even a float can count them
    def combinations(self, references: Rows, *, apart: bool = False) -> Numbers:
        """For every reference, how many columns `enumerate` gives: a float, for deep trees have
        very many."""
        # For each slot, by the row that is its donor: the choices of the slots below it and of
        # those that share it.
        below = np.ones((len(self.slots), len(self.dataset)))
        total = np.ones(len(self.dataset))
        for i in reversed(self.order):
            slot = self.slots[i]
            if slot.shares is not None:
                below[slot.shares] *= below[i]
                continue
            choices = below[i]
            if slot.at is not None:  # nothing is below it
                choices = np.ones(len(self.dataset))
                if slot.path not in self.frozen:
                    choices = self._classes[i].count(np.arange(len(self.dataset))).astype(float)
            elif slot.path not in self.frozen:
                classes, _ = self._representatives(i, apart)
                sums = np.bincount(
                    classes.codes[classes.order], choices[classes.order], len(classes.size)
                )
                choices = sums[classes.codes] + np.where(classes.outside, choices, 0.0)
            if slot.parent == REFERENCE:
                total *= choices
            else:
                below[slot.parent] *= choices
        found: Numbers = total[references]
        return found

    def enumerate(
        self, references: Rows | None = None, *, apart: bool = False
    ) -> Iterator[tuple[SwapSet, Numbers]]:
        """Every allowed swap set of the references, by default all, in chunks, with the probability
        that one draw gives each column.

        Own inputs of non-leaves feed nothing, so those that leave the same choices to their
        children and rest are visited once, with their joint probability, unless they are to be kept
        `apart`. The probabilities of all chunks sum to 1.
        """
        references = self.reference_rows if references is None else references
        weights = np.full(len(references), 1 / len(references))
        yield from self._expand(
            0, references, np.empty((0, len(references)), dtype=np.int64), weights, apart
        )

    def _expand(
        self,
        settled: int,
        references: Rows,
        donors: Rows,
        weights: Numbers,
        apart: bool,
    ) -> Iterator[tuple[SwapSet, Numbers]]:
        """`donors`: int64 `[settled, columns]` of the first slots of `order`."""
        place = np.argsort(self.order)
        if settled == len(self.slots):
            yield self.swap_set(references, donors[place]), weights
            return
        i = self.order[settled]
        slot = self.slots[i]
        parents = references if slot.parent == REFERENCE else donors[place[slot.parent]]
        if slot.shares is not None or slot.path in self.frozen:
            fixed = parents if slot.shares is None else donors[place[slot.shares]]
            yield from self._expand(
                settled + 1, references, np.vstack([donors, fixed]), weights, apart
            )
            return
        classes, chance = self._representatives(i, apart)
        counts = classes.count(parents)
        ends = np.cumsum(counts)
        first = 0
        while first < len(parents):
            done = ends[first - 1] if first else 0
            last = max(
                first + 1, int(np.searchsorted(ends, done + ENUMERATION_CHUNK, side="right"))
            )
            columns = np.repeat(np.arange(first, last), counts[first:last])
            picked = classes.pick(parents[columns], _within(counts[first:last]))
            weight = weights[columns] * chance(parents[columns], picked)
            yield from self._expand(
                settled + 1,
                references[columns],
                np.vstack([donors[:, columns], picked]),
                weight,
                apart,
            )
            first = last

    def _representatives(self, i: int, apart: bool) -> tuple[_Classes, _Chance]:
        """The donors of slot i to visit, and how probable each is given its parent's own input."""
        classes = self._classes[i]
        below = [(j, other) for j, other in enumerate(self.slots) if other.parent == i]
        # A donor that is shared, or that a frozen child takes over, feeds something itself.
        feeds = apart or self.is_read(i) or any(other.path in self.frozen for _, other in below)
        if feeds or classes.outside.any() or any(other.shares == i for other in self.slots):
            return classes, lambda own, _: 1 / classes.count(own)
        codes = [classes.codes, *(self.agree(j)[: len(classes.codes)] for j, _ in below)]
        kind = joint_codes(codes)
        _, first, alike = np.unique(kind, return_index=True, return_counts=True)
        mass = np.zeros(len(kind))
        mass[first] = alike
        # Every class has a representative, so no row needs to stand in for itself.
        few = replace(
            _Classes.of(classes.codes, first), outside=np.zeros(len(kind), dtype=np.bool_)
        )
        return few, lambda own, picked: mass[picked] / classes.count(own)


def drawn_in(
    spaces: Sequence[SwapSpace],
    sizes: Sequence[int],
    references: Rows,
    chances: Numbers,
) -> SwapSet:
    """Uniform allowed donors in several spaces with the same slots, so many columns in each, one
    after the other.

    **Arguments**

    - `references`: int64 `[R]`.
    - `chances`: float64 `[slots, R]`, uniform in [0, 1).
    """
    first, of_column = spaces[0], np.repeat(np.arange(len(spaces)), sizes)
    stacks: dict[tuple[int, ...], tuple[_Classes, Rows]] = {}
    lists = {id(space._classes): space._classes for space in spaces}  # many differ in what is kept
    keys = [tuple([id(one.codes) for one in each]) for each in zip(*lists.values(), strict=True)]
    numbers = {of: nth for nth, of in enumerate(lists)}
    of_space = np.array([numbers[id(space._classes)] for space in spaces])

    def stacked(i: int) -> tuple[_Classes, Rows]:
        """The classes of a slot in all spaces, and where the rows of each column's own begin."""
        distinct = {id(those[i].codes): those[i] for those in lists.values()}
        place = {of: nth * len(first._classes[i].codes) for nth, of in enumerate(distinct)}
        starts = np.array([place[of] for of in keys[i]])[of_space[of_column]]
        return _Classes.stacked([*distinct.values()]), starts

    def pick(slots: list[int], parents: Rows, donors: Rows) -> None:
        alike: dict[tuple[int, ...], list[int]] = {}  # most slots agree on the same
        for i in slots:
            if keys[i] not in stacks:
                stacks[keys[i]] = stacked(i)
            alike.setdefault(keys[i], []).append(i)
        for key, those in alike.items():
            classes, starts = stacks[key]
            turn = np.array([[first._classes[i].turn] for i in those])
            own = parents + starts
            own = own + turn if turn.any() else own  # else the same for all of them
            nth = (chances[those] * classes.count(own)).astype(np.int64)
            found = classes.pick(own, nth)
            if turn.any():
                found = (found - turn) % (len(classes.codes) // classes.several)
            donors[those] = found

    swapped = np.stack([space.swapped for space in spaces], axis=1)
    return first.settled(references, pick, swapped if len(spaces) == 1 else swapped[:, of_column])


def at_once(space: SwapSpace) -> int:
    """How many spaces, each with classes of its own, are drawn from together."""
    return max(1, ROWS_AT_ONCE // len(space.content))


def drawn_alike(spaces: Iterable[SwapSpace], n: int, seed: int) -> SwapSet:
    """What `draw` gives for several spaces with the same slots and references, one after the other,
    with the same random numbers: what differs is what they allow."""
    each, parts = iter(spaces), list[SwapSet]()
    for first in each:
        rng, some = np.random.default_rng(seed), [first]
        some += islice(each, at_once(first) - 1)
        references = rng.choice(first.reference_rows, size=n, replace=True)
        chances = rng.random((len(first.slots), n))
        times = len(some)
        parts.append(
            drawn_in(some, [n] * times, np.tile(references, times), np.tile(chances, times))
        )
    return joined(parts)


def _within(counts: Rows) -> Rows:
    """0, 1, .. counts[0]-1, 0, 1, .. counts[1]-1, ..."""
    ends = np.cumsum(counts)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) - np.repeat(ends - counts, counts)
