"""Mutants: false claims made from a claim, each by one change. What survives of them is what the
claim leaves open.

Mutation testing (DeMillo, Lipton and Sayward 1978) of hypotheses instead of programs. Nothing is
evaluated here: a mutant is a tree and a dataset, judged like any claim.
"""

from __future__ import annotations

from collections import ChainMap, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, combinations, zip_longest
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from pytest_scrub.data.columns import Ints, Places, how_parted, value_codes
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.checks import CheckedHypothesis, check_hypothesis
from pytest_scrub.errors import ScrubError
from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.network.shuffled import MOST
from pytest_scrub.swaps.each import length_of
from pytest_scrub.swaps.slots import Slot, slots_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import ANYTHING, ROOT, Agreement, Node, natural_key
from pytest_scrub.tree.paths import donor_owners, node_paths, predicted_from, with_changes
from pytest_scrub.tree.units import named, shown, text_of

MERGED, PERMUTED = "values merged in pairs", "permuted among rows"
OPEN = "the claim does not depend on "
WORDS = {  # by kind: the change, and what the claim does not depend on where the mutant survives
    "dropped": ("{node} may agree on anything", "{node}: it would hold without it"),
    "coarsened": ("{node} agrees on {new}", "how finely {node} agrees: {new} would do as well"),
    "permuted": (
        "{node} agrees on {old}, its values permuted among rows",
        "{old} at {node}: noise would do as well",
    ),
    "component": (
        "{node}: {new} instead of {old}",
        "which component {node} is: {new} in place of {old} would do as well",
    ),
    "slot": (
        "{node} into {new} instead of {old}",
        "{node} going into {old}: {new} would do as well",
    ),
    "position": (
        "{node} at position {new} instead of {old}",
        "{node} being at position {old}: {new} would do as well",
    ),
    "exchanged": ("{node} and {new} exchange {old}", "which of {node} and {new} does what"),
}
BELOW = f"{ROOT}/"  # what sentences leave out of a path
# other components tried for one node: of a hundred heads, a few say what all would say
MOST_COMPONENTS = 3
MOST_ALIKE = 5  # other units that are about as often active, of which one is drawn
ROWS_OF_ACTIVE = 64  # on which that is seen


@dataclass(frozen=True)
class Mutant:
    """One false claim made from a true one.

    - `kind`: one of `WORDS`.
    - `node`: slot path of the node that was changed, in the claim's tree.
    - `what`: the change in words.
    - `means`: what it says of the claim where the mutant survives.
    - `hypothesis`: the changed tree; `dataset`: the claim's own, with one more column where the
      mutant needs it.
    """

    kind: str
    node: str
    what: str
    means: str
    hypothesis: Node
    dataset: Dataset


@dataclass(frozen=True)
class Mutants:
    """The mutants of one claim.

    - `equivalent`: how many more allow nothing that the claim does not allow, so they are not
      false.
    - `left_out`: how many more there are.
    """

    mutants: tuple[Mutant, ...]
    equivalent: int
    left_out: int


def mutants(
    graph: ModelGraph,
    dataset: Dataset,
    hypothesis: Node,
    metric_pos: Any,
    rng: np.random.Generator,
    most: int = 50,
) -> Mutants:
    """Every mutant of a claim, or a spread of `most` of them over kinds and nodes.

    **Arguments**

    - `graph`, `dataset`, `hypothesis`, `metric_pos`: as for `check`, which accepts the claim.
    - `rng`: permutes features, and chooses components and mutants where there are too many.

    **Raises** `HypothesisError` or `DataError` where the claim itself is misstated.
    """
    maker = _Maker(graph, dataset, hypothesis, metric_pos, rng)
    comparison = _Comparison(dataset, hypothesis)
    found: dict[object, Mutant] = {}
    trees, equivalent = {hypothesis}, 0
    kinds = (maker.dropped, maker.features, maker.component, maker.places, maker.exchanged)
    for mutant in chain.from_iterable(kind() for kind in kinds):
        if mutant.hypothesis in trees:
            continue
        trees.add(mutant.hypothesis)
        if comparison.allows_no_more(mutant):
            equivalent += 1
        else:
            found.setdefault(comparison.key(mutant), mutant)
    chosen = _spread(list(found.values()), most, rng)
    return Mutants(chosen, equivalent, len(found) - len(chosen))


def permuted_everywhere(
    dataset: Dataset, hypothesis: Node, rng: np.random.Generator
) -> Iterator[tuple[Node, Dataset]]:
    """The claim with the feature values of other rows, at every node and rest, again and again;
    none where it names no feature.

    All features move together: every row gets those of one other row.
    """
    slots = slots_of(hypothesis, partial(length_of, dataset))
    features = sorted({name for slot in slots for name in slot.agrees_on.features})
    names = {name: _fresh_name(dataset, f"{name}, {PERMUTED}") for name in features}

    def renamed(of: Agreement | None) -> Agreement | None:
        return of and Agreement(tuple(names[name] for name in of.features), of.exact)

    def permuted(_: str, node: Node) -> Node:
        return replace(node, agrees_on=renamed(node.agrees_on), rest=renamed(node.rest))

    while features:
        rows = rng.permutation(len(dataset))
        yield (
            with_changes(hypothesis, permuted),
            dataset.with_features({names[name]: dataset.feature(name)[rows] for name in features}),
        )


def with_other_units(
    graph: ModelGraph,
    dataset: Dataset,
    hypothesis: Node,
    metric_pos: Any,
    rng: np.random.Generator,
) -> Iterator[Node]:
    """The claim about other units everywhere, each about as often active as the one in whose place
    it stands, as often as may be; none where it names none, or there are no others."""
    maker = _Maker(graph, dataset, hypothesis, metric_pos, rng)
    for _ in range(MOST):
        if edits := dict(_elsewhere(maker)):  # of few units the others may be its own again
            yield _edited(hypothesis, edits)


def _elsewhere(maker: _Maker) -> Iterator[tuple[str, Node]]:
    """The nodes about units, by path, with others that are drawn."""
    for path, node in maker.nodes.items():
        others = [(maker.other_units(path, old), old) for old in node.components]
        members = [found[0][1] if found else old for found, old in others]
        if set(members) != set(node.components):
            yield path, replace(node, components=tuple(sorted(members, key=natural_key)))


def _edited(root: Node, edits: Mapping[str, Node]) -> Node:
    """The tree with other nodes, and all below them, at these paths."""
    nodes = node_paths(root)

    def settle(path: str, node: Node) -> Node:
        if path in edits:
            return edits[path]
        return replace(
            node, reads=tuple(settle(p, child) for p, child, parent in nodes if parent == path)
        )

    return settle(ROOT, root)


def _bare(root: Node) -> Node:
    """The tree without what it agrees on."""

    def bare(_: str, node: Node) -> Node:
        own, rest = node.agrees_on and ANYTHING, node.rest and ANYTHING
        return replace(node, agrees_on=own, rest=rest)

    return with_changes(root, bare)


def _fresh_name(dataset: Dataset, name: str) -> str:
    while name in dataset.feature_names:
        name += "'"
    return name


def _pairs(values: NDArray[Any]) -> NDArray[Any]:
    """The column with neighbouring values merged two by two.

    Each pair goes by its first value, which a function of the feature understands. The last of an
    odd number joins the pair before it; of three it stays alone, or nothing would be told apart.
    """
    first, inverse = np.unique(value_codes(values), return_index=True, return_inverse=True)[1:]
    distinct = values[first].tolist()
    try:
        order = sorted(range(len(distinct)), key=lambda i: distinct[i])
    except TypeError:  # text beside numbers
        order = sorted(range(len(distinct)), key=lambda i: repr(distinct[i]))
    pair = np.argsort(order) // 2
    if len(order) > 3:
        pair = np.minimum(pair, len(order) // 2 - 1)
    return values[first[order][2 * pair][inverse.reshape(-1)]]


def _following(reads: Sequence[Node], old: str, new: str) -> tuple[Node, ...]:
    """What a component reads once it is another one: of the pattern of a head that of the other."""
    mine, other = (name.replace("head", "pattern") for name in (old, new))
    return tuple(
        replace(child, components=(other,))
        if child.components == (mine,) and mine != old
        else child
        for child in reads
    )


class _OneRow:
    """A graph whose activations on the dataset's first row, all that static checks look at, are
    captured once."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph, self._seen = graph, dict[Any, Any]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._graph, name)

    def capture(self, sites: Sequence[Any], inputs: Any) -> dict[Any, Any]:
        if any(site not in self._seen for site in sites):
            self._seen.update(self._graph.capture(sites, inputs))
        return {site: self._seen[site] for site in sites}


class _Maker:
    """Makes the mutants of one claim that the static checks accept, kind by kind."""

    def __init__(
        self,
        graph: ModelGraph,
        dataset: Dataset,
        claim: Node,
        metric_pos: Any,
        rng: np.random.Generator,
    ) -> None:
        self.graph = cast(ModelGraph, _OneRow(graph))
        self.dataset, self.claim, self.metric_pos, self.rng = dataset, claim, metric_pos, rng
        self.checked = check_hypothesis(self.graph, dataset, claim, metric_pos)
        self._columns: dict[tuple[str, str], tuple[str, Dataset]] = {}
        self.rows = np.union1d(dataset.reference_rows, dataset.donor_rows)
        # By path, so that what is drawn does not depend on the order of siblings.
        places = sorted(node_paths(claim), key=lambda place: place[0])
        self.nodes = {path: node for path, node, _ in places}
        self.parents = {path: parent for path, _, parent in places if parent is not None}
        self.owners = donor_owners(claim)

    def siblings(self, path: str) -> list[str]:
        return [
            other
            for other, above in self.parents.items()
            if above == self.parents.get(path) and other != path
        ]

    def sharing(self, path: str) -> list[str]:
        """The nodes that take the node's donor."""
        return [other for other, owner in self.owners.items() if owner == path]

    def dropped(self) -> Iterator[Mutant]:
        """A node, with all below it, does not matter."""
        for path in self.parents:
            node = self.nodes[path]
            gone = replace(
                node, agrees_on=ANYTHING, reads=(), rest=None, computed_by=None, shares=None
            )
            if node.edited is None and not (node.is_leaf and node.agrees_on == ANYTHING):
                dropped = [p for p in self.nodes if f"{p}/".startswith(f"{path}/")]
                heirs = (self._heirs(each, dropped) for each in dropped)
                yield from self._made("dropped", path, {path: gone, **ChainMap(*heirs)})

    def _heirs(self, path: str, dropped: Sequence[str]) -> dict[str, Node]:
        """Those that take the node's donor and stay, with a common donor of their own."""
        heirs = [heir for heir in self.sharing(path) if heir not in dropped]
        if not heirs:
            return {}
        first, *others = (self.nodes[heir] for heir in heirs)
        name = first.name or (first.component if others else None)  # its label stays what it was
        settled = [
            replace(first, shares=None, name=name),
            *(replace(other, shares=name) for other in others),
        ]
        return dict(zip(heirs, settled, strict=True))

    def features(self) -> Iterator[Mutant]:
        """One feature that a node agrees on left out, merged in pairs of values, or permuted among
        rows."""
        for path, node in self.nodes.items():
            if node.shares is not None or node.agrees_on is None:
                continue
            features, together = node.agrees_on.features, [path, *self.sharing(path)]
            # A function gets all of its arguments, so of a computed node none can be left out.
            is_computed = any(self.nodes[other].computed_by is not None for other in together)
            for i, feature in enumerate(features):
                before, after = features[:i], features[i + 1 :]
                now, dataset = self.column(feature, MERGED, node.is_each)
                is_one = not dataset.codes(Agreement((now,))).any()
                others = (*before, *after)
                if is_computed or not (others or is_one):
                    agree = self._agree(together, (*before, now, *after))
                    new = f"{feature} with pairs of values merged"
                else:
                    agree, dataset = self._agree(together, others), self.dataset
                    new = f"{' and '.join(others)} without {feature}" if others else "anything"
                yield from self._made("coarsened", path, agree, feature, new, dataset)
                now, dataset = self.column(feature, PERMUTED)
                agree = self._agree(together, (*before, now, *after))
                yield from self._made("permuted", path, agree, feature, dataset=dataset)

    def _agree(self, paths: Sequence[str], features: tuple[str, ...]) -> dict[str, Node]:
        """Not sorted: a function gets a changed column in the place of the one that it stands
        for."""
        return {path: replace(self.nodes[path], agrees_on=Agreement(features)) for path in paths}

    def column(self, feature: str, how: str, each: bool = False) -> tuple[str, Dataset]:
        """The name of the feature with its values `PERMUTED` or `MERGED`, and a dataset that has
        it, made once. `each`: where it has a value for each position, these are merged."""
        by_position = each and how == MERGED
        said = f"{how} by position" if by_position else how
        if (feature, said) not in self._columns:
            values = self.dataset.feature(feature)
            name = _fresh_name(self.dataset, f"{feature}, {said}")
            if how == PERMUTED:
                column = values[self.rng.permutation(len(values))]
            elif by_position:
                column = _pairs(values.reshape(-1)).reshape(values.shape)
            else:
                column = _pairs(values)
            self._columns[feature, said] = name, self.dataset.with_features({name: column})
        return self._columns[feature, said]

    def component(self) -> Iterator[Mutant]:
        """The same claim about another component of the same kind."""
        for path in self.parents:
            node, made = self.nodes[path], 0
            for old, new in self._exchanges(path):
                members = tuple(sorted({*node.components, new} - {old}, key=natural_key))
                if made < MOST_COMPONENTS and self._is_alike(old, new):
                    now = replace(node, components=members, reads=_following(node.reads, old, new))
                    found = [*self._made("component", path, {path: now}, shown(old), shown(new))]
                    made += len(found)
                    yield from found

    def _exchanges(self, path: str) -> list[tuple[str, str]]:
        """Members of a node and what may take their place: heads of the same layer first, all else
        by chance."""
        node, graph, above = self.nodes[path], self.graph, self.nodes[self.parents[path]].component
        claimed = {ROOT, *node.components}.union(
            *(self.nodes[other].components for other in self.siblings(path))
        )
        read = [
            name
            for name in graph.components
            if graph.slots(above, name, self.checked.is_anywhere(node))
        ]
        free = [name for name in read if name not in claimed]
        choices = []
        for old in node.components:
            kin = [new for new in free if type(graph.parts[new]) is type(graph.parts[old])]
            choices.append(
                [(old, kin[i]) for i in self.rng.permutation(len(kin))]
                or self.other_units(path, old)
            )
        return sorted(_in_turn(choices), key=lambda pair: not self._are_near(*pair))

    def other_units(self, path: str, old: str) -> list[tuple[str, str]]:
        """As many units of the same basis, of those that nobody claims where there are enough."""
        part = self.graph.parts[old]
        if part.units is None:
            return []
        claimed = [
            self.graph.parts[name].units
            for other in self.siblings(path)
            for name in self.nodes[other].components
            if self.graph.parts[name].basis == part.basis
        ]
        count = self.graph.bases[part.basis].count
        free = np.setdiff1d(np.arange(count), np.concatenate([part.units, *claimed]))
        if len(free) < len(part.units):  # some of its own among them
            free = np.setdiff1d(np.arange(count), np.concatenate([[], *claimed]))
        drawn = (self._units_like(part.units, free, part.basis) for _ in range(MOST_COMPONENTS))
        return [(old, named(part.basis, text_of(np.sort(units).tolist()))) for units in drawn]

    def _units_like(self, own: Ints, free: Ints, basis: str) -> Ints:
        """As many of those that are free, each about as often active as one of a node's own where
        not all always are: what is rarely active says little whatever it is."""
        free = self.rng.permutation(free)
        often = self._active(basis)
        if often is None:
            return free[: len(own)]
        chosen: list[int] = []
        for unit in own.tolist():
            # of the error, which is no unit, any
            off = np.abs(often[free] - often[unit]) if unit < len(often) else np.zeros(len(free))
            nearest = np.argsort(off, kind="stable")[:MOST_ALIKE]
            chosen.append(int(free[taken := self.rng.choice(nearest)]))
            free = np.delete(free, taken)
        return np.array(chosen)

    @cache  # noqa: B019  # of one claim
    def _active(self, basis: str) -> Ints | None:
        active = self.graph.bases[basis].active
        return active and active(self.dataset.batch(self.rows[:ROWS_OF_ACTIVE]))

    def _are_near(self, old: str, new: str) -> bool:
        return self.graph.parts[old].layer == self.graph.parts[new].layer

    def _is_alike(self, old: str, new: str) -> bool:
        """Whether both activations have the same shape and type, as all have that add to one
        stream."""
        if self.graph.parts[old].adds:
            return True
        try:
            mine, other = self.checked.example(old), self.checked.example(new)
        except ScrubError:  # a module without one tensor as its activation
            return False
        return mine.shape == other.shape and mine.dtype == other.dtype

    def places(self) -> Iterator[Mutant]:
        """The same claim about another slot of the parent, or the position before or after."""
        for path, parent in self.parents.items():
            node, above = self.nodes[path], self.nodes[parent].component
            anywhere = self.checked.is_anywhere(node)
            slots = self.graph.slots(above, node.components[0], anywhere) if node.into else ()
            for into in slots:
                if into != node.into and self.graph.parts[above].exchanges(into):
                    now = {path: replace(node, into=into)}
                    yield from self._made("slot", path, now, node.into, into)
            for step in (-1, 1) if isinstance(node.pos, int) else ():
                pos = cast(int, node.pos) + step
                if (pos < 0) == (pos - step < 0):  # -1 is the last position, not the one before 0
                    now = {path: replace(node, pos=pos)}
                    yield from self._made("position", path, now, node.pos, pos)

    def exchanged(self) -> Iterator[Mutant]:
        """Two siblings with each other's claim; components, slots, positions and subspaces stay."""
        for first, second in combinations(self.parents, 2):
            a, b = self.nodes[first], self.nodes[second]
            # what has a donor for each position is a leaf that takes one, and an edit takes none
            takes_all = not any(
                n.edited or (n.is_each and (m.reads or m.computed_by)) for n, m in ((a, b), (b, a))
            )
            if self.parents[first] == self.parents[second] and takes_all:
                claims = ("agrees_on", "reads", "rest", "computed_by")
                edits = {
                    path: replace(n, **{name: getattr(m, name) for name in claims})
                    for path, n, m in ((first, a, b), (second, b, a))
                }
                what = "what they agree on" + " and read" * (not (a.is_leaf and b.is_leaf))
                yield from self._made("exchanged", first, edits, what, second.removeprefix(BELOW))

    def _made(
        self, kind: str, path: str, edits: Mapping[str, Node], old: Any = None, new: Any = None,
        dataset: Dataset | None = None,
    ) -> Iterator[Mutant]:  # fmt: skip
        """The mutant, where it has a meaning; else nothing."""
        root, dataset = _edited(self.claim, edits), dataset or self.dataset
        if kind in ("slot", "exchanged") and not all(map(self._fits, edits.values())):
            return
        try:
            slots_of(root, partial(length_of, dataset))
            predicted_from(root)  # which may read a node that is gone
            if self.owners:
                SwapSpace(root, dataset)  # what is above a shared donor has to settle it still
            checked = check_hypothesis(self.graph, dataset, root, self.metric_pos)
        except ScrubError:
            return
        if self._counts_stay(root, dataset, checked) and self._can_be_swapped(root, checked):
            what, means = (
                text.format(node=path.removeprefix(BELOW), old=old, new=new) for text in WORDS[kind]
            )
            yield Mutant(kind, path, what, OPEN + means, root, dataset)

    def _fits(self, node: Node) -> bool:
        """Whether a changed node can be computed: what has children can read, and computed values
        fit anywhere."""
        for _, below, _ in node_paths(node):
            component = below.components[0]
            reads = any(self.graph.slots(component, other, True) for other in self.graph.components)
            if not below.is_leaf and (len(below.components) > 1 or not reads):
                return False
            if below.computed_by is not None and below.agrees_on is not None:
                features = (self.dataset.feature(name)[[0]] for name in below.agrees_on.features)
                # One value for each of the positions that a node has now would not do in another
                # place.
                shape = np.shape(below.computed_by(*features))[1:]
                whole = tuple(self.checked.example(component).shape)
                if tuple(shape) not in (whole[1:], whole[2:] or whole[1:]):
                    return False
        return True

    def _counts_stay(self, root: Node, dataset: Dataset, checked: CheckedHypothesis) -> bool:
        """Whether rows only stand in for rows with as many positions, wherever a column says
        where."""
        slots = slots_of(root, partial(length_of, dataset))
        agreements = {slot.path: slot.agrees_on for slot in slots}
        for path, _, parent in node_paths(root):
            positions = checked.output if parent is None else checked.positions[path]
            if positions is None or positions.static or positions.index.shape[1] == 1:
                continue
            counts = (positions.index >= 0).sum(axis=1)
            for carrier in {path, f"{path}/rest", f"{parent}/rest"} & agreements.keys():
                if not _is_finer(dataset.codes(agreements[carrier]), counts, self.rows):
                    return False
        return True

    def _can_be_swapped(self, root: Node, checked: CheckedHypothesis) -> bool:
        """Whether what is swapped at some positions only leaves something to compute from, or what
        the claim itself leaves."""
        nodes = {path: node for path, node, _ in node_paths(root)}
        for path, node, parent in node_paths(root):
            if parent is None or node.pos is None or node.is_each:
                continue
            above = self.nodes.get(parent)
            if self.nodes.get(path) == node and above and above.rest == nodes[parent].rest:
                continue  # as the claim has it
            at = checked.positions[path]
            for name in node.components:
                if not self.graph.parts[name].can_be_swapped_at(at, self.dataset, self.rows):
                    return False
        return True


def _is_finer(fine: Ints, coarse: Ints, rows: Ints) -> bool:
    """Whether rows that are alike in `fine` are alike in `coarse`."""
    pairs = fine[rows] * (int(coarse.max()) + 1) + coarse[rows]
    return len(np.unique(pairs)) == len(np.unique(fine[rows]))


class _Comparison:
    """What mutants allow, beside the claim they were made from."""

    def __init__(self, dataset: Dataset, claim: Node) -> None:
        self.dataset, self.bare = dataset, _bare(claim)
        self.slots = slots_of(claim, partial(length_of, dataset))
        self.rows = np.union1d(dataset.reference_rows, dataset.donor_rows)
        self.repeats = len(np.unique(dataset.content[self.rows])) < len(self.rows)
        self._parts: dict[tuple[Agreement, Places | None], bytes] = {}

    def allows_no_more(self, mutant: Mutant) -> bool:
        """Whether every swap set that it allows is, by content, one that the claim allows."""
        theirs = slots_of(mutant.hypothesis, partial(length_of, mutant.dataset))
        if _bare(mutant.hypothesis) != self.bare or [s.path for s in theirs] != [
            s.path for s in self.slots
        ]:
            return False
        return all(
            self._is_within(new, mutant.dataset, old)
            for new, old in zip(theirs, self.slots, strict=True)
        )

    def _is_within(self, new: Slot, dataset: Dataset, old: Slot) -> bool:
        # takes no donor, only its features, which agree with the parent's
        if new.node.computed_by is not None:
            its = [dataset.feature(name)[self.rows] for name in new.agrees_on.features]
            mine = [dataset.feature(name)[self.rows] for name in old.agrees_on.features]
            return len(its) == len(mine) and all(map(np.array_equal, its, mine))
        fine = dataset.codes(new.agrees_on, new.places)
        coarse = self.dataset.codes(old.agrees_on, old.places)
        rows = (self.rows + len(dataset) * np.arange(old.shifts)[:, None]).reshape(-1)
        if new.agrees_on == old.agrees_on or _is_finer(fine, coarse, rows):
            return True
        if old.shifts > 1:
            return False
        # The row of a non-leaf says more than its content: what those below it agree on.
        gives_activation = (new.is_rest or new.node.is_leaf) and self.bare.predicts is None
        return self.repeats and gives_activation and self._holds_contents(fine, coarse)

    def _holds_contents(self, fine: Ints, coarse: Ints) -> bool:
        """Whether the donors of every row have, by `fine`, no content that they do not have by
        `coarse`."""
        donors, contents = self.dataset.donor_rows, self.dataset.content
        of_fine, of_coarse = defaultdict[int, set[int]](set), defaultdict[int, set[int]](set)
        for a, b, content in np.stack(
            [fine[donors], coarse[donors], contents[donors]], axis=1
        ).tolist():
            of_fine[a].add(content)
            of_coarse[b].add(content)
        pairs = np.stack([fine[self.rows], coarse[self.rows]], axis=1).tolist()
        return all(of_fine[a] <= of_coarse[b] for a, b in {tuple(pair) for pair in pairs})

    def key(self, mutant: Mutant) -> object:
        """Equal for mutants that are one tree and part the rows alike at every slot."""
        parts = [
            (s.path, s.node.computed_by and s.agrees_on, self._parted(s, mutant.dataset))
            for s in slots_of(mutant.hypothesis, partial(length_of, mutant.dataset))
        ]
        return _bare(mutant.hypothesis), tuple(parts)

    def _parted(self, slot: Slot, dataset: Dataset) -> bytes:
        key = slot.agrees_on, slot.places
        if key not in self._parts:
            self._parts[key] = how_parted(dataset.codes(*key))
        return self._parts[key]


def _spread(found: Sequence[Mutant], most: int, rng: np.random.Generator) -> tuple[Mutant, ...]:
    """At most this many, in their order: all that drop a node, then kinds in turn, and nodes within
    a kind."""
    if len(found) <= most:
        return tuple(found)
    queues: dict[str, dict[str, list[int]]] = {kind: defaultdict(list) for kind in WORDS}
    for i in rng.permutation(len(found)).tolist():
        queues[found[i].kind][found[i].node].append(i)
    first, *others = (_in_turn(by_node.values()) for by_node in queues.values())
    chosen = [*first, *_in_turn(others)][:most]
    return tuple(found[i] for i in sorted(chosen))


def _in_turn(queues: Iterable[Sequence[Any]]) -> list[Any]:
    """The first of each, then the second of each, and so on."""
    return [i for turn in zip_longest(*queues) for i in turn if i is not None]
