"""Swap sets: what is allowed, drawn, counted, listed and refused, against loops over all rows."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from scipy import stats

from pytest_scrub import meaning
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.swaps import space as space_module
from pytest_scrub.swaps.slots import REFERENCE, Slot, slots_of
from pytest_scrub.swaps.space import SwapSet, SwapSpace, drawn_alike
from pytest_scrub.swaps.swap_set import joined
from pytest_scrub.tree.join import join
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Agreement, Node, head, module, output
from pytest_scrub.tree.paths import node_paths, readers, with_changes

FEATURES = ("f", "g")


def refuses(kind: type[Exception], sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- any hypothesis on any small dataset ----------------------------------------------------------


@st.composite
def datasets(draw: st.DrawFn, split: bool = True) -> Dataset:
    """2 to 6 rows, some of equal content; sometimes not every row is a reference, or a donor."""
    rows = draw(st.integers(2, 6))
    contents = draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    columns = {
        name: draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)) for name in FEATURES
    }
    some_rows = st.lists(st.integers(0, rows - 1), min_size=1, unique=True)
    chosen = {
        name: draw(some_rows) for name in ("references", "donors") if split and draw(st.booleans())
    }
    if len(chosen.get("donors", ())) == rows:  # no row would be left for a reference
        chosen.setdefault("references", [0])
    return Dataset(torch.tensor(contents)[:, None], features=columns, **chosen)


AGREEMENTS = st.sampled_from(
    [ANYTHING, EXACT, *(Agreement(names) for names in [("f",), ("g",), ("f", "g")])]
)


def leaves(name: str) -> st.SearchStrategy[Node]:
    return st.builds(lambda agreement: module(name, agrees_on=agreement), AGREEMENTS)


@st.composite
def children(draw: st.DrawFn, depth: int) -> tuple[Node, ...]:
    found: list[Node] = []
    for name in draw(st.sampled_from(["a", "ab", "ab", "abc"] if depth else ["a", "ab"])):
        node = draw(leaves(name))
        if depth and draw(st.booleans()):
            node = replace(node, reads=draw(children(depth - 1)), rest=draw(AGREEMENTS))
        found.append(node)
    if len(found) > 1 and draw(st.booleans()):
        owner, sharer, *others = draw(st.permutations(found))
        owner = replace(owner, name="owner")
        # Who shares a donor may stand before or after the sibling that takes it.
        return (replace(sharer, shares="owner", agrees_on=owner.agrees_on), *others, owner)
    return tuple(found)


@st.composite
def hypotheses(draw: st.DrawFn, depth: int = 1) -> Node:
    agrees_on = draw(st.one_of(st.none(), AGREEMENTS))
    if draw(st.integers(0, 7)) == 5:
        return output(agrees_on=agrees_on)
    root = Node(("output",), agrees_on, draw(children(depth)), rest=draw(AGREEMENTS))
    return draw(sharing_apart(root)) if draw(st.booleans()) else root


@st.composite
def sharing_apart(draw: st.DrawFn, root: Node) -> Node:
    """Two nodes that are no siblings with one donor, and what is between made to settle it."""
    above = readers(root)
    free = {path: node for path, node, _ in node_paths(root) if not (node.name or node.shares)}
    pairs = [
        (one, other)
        for one in free
        for other in free
        if above[one] != above[other] and one != "output" != other
    ]
    if not pairs:
        return root
    owner, sharer = draw(st.sampled_from(pairs))
    agreement = free[owner].agrees_on
    assert agreement is not None
    common = [path for path in above[owner] if path in above[sharer]]
    between = {*above[owner], *above[sharer]} - {*common}

    def change(path: str, node: Node) -> Node:
        if path == owner:
            return replace(node, name="far owner")
        if path == sharer:
            return replace(node, shares="far owner", agrees_on=agreement)
        if path in between:
            return replace(node, agrees_on=(node.agrees_on or ANYTHING) | agreement)
        return node

    changed = with_changes(root, change)
    try:
        slots_of(changed)
    except HypothesisError:  # one between shares a donor itself, and now agrees on more
        return root
    return changed


def agree(dataset: Dataset, agreement: Agreement, row: int, other: int) -> bool:
    if agreement.exact:
        return row == other
    return all(
        dataset.feature(name)[row] == dataset.feature(name)[other] for name in agreement.features
    )


def allowed_by_hand(dataset: Dataset, slot: Slot, own: int) -> list[int]:
    """The rows that may stand in for the parent's own input, whoever shares their donor."""
    return sorted(meaning.agreeing(dataset, slot.agrees_on, own))


def swaps_by_hand(space: SwapSpace) -> Iterator[tuple[int, tuple[int, ...], float]]:
    """Every reference with every allowed swap of every slot, and the probability that one draw
    gives it."""
    references = space.dataset.reference_rows.tolist()
    for reference in references:
        for donors, weight in _expanded(space, reference, {}):
            yield (
                reference,
                tuple(donors[i] for i in range(len(space.slots))),
                weight / len(references),
            )


def _expanded(
    space: SwapSpace, reference: int, donors: dict[int, int]
) -> Iterator[tuple[dict[int, int], float]]:
    ready = [
        i
        for i, slot in enumerate(space.slots)
        if i not in donors
        and slot.parent in (REFERENCE, *donors)
        and slot.shares in (None, *donors)
    ]
    if not ready:
        yield donors, 1.0
        return
    i = ready[0]
    slot = space.slots[i]
    own = reference if slot.parent == REFERENCE else donors[slot.parent]
    if slot.shares is not None:
        choices = [donors[slot.shares]]
    else:
        choices = [own] if slot.path in space.frozen else allowed_by_hand(space.dataset, slot, own)
    for choice in choices:
        for found, weight in _expanded(space, reference, {**donors, i: choice}):
            yield found, weight / len(choices)


SPACES = st.builds(SwapSpace, hypotheses(), datasets())


@st.composite
def restricted_spaces(draw: st.DrawFn, depth: int = 1) -> SwapSpace:
    space = SwapSpace(draw(hypotheses(depth)), draw(datasets()))
    if not space.paths or draw(st.booleans()):
        return space
    return space.keep(draw(st.lists(st.sampled_from(space.paths), unique=True)))


# --- drawing --------------------------------------------------------------------------------------


@given(restricted_spaces(depth=2), st.integers(0, 3))
def test_what_is_drawn_is_allowed(space: SwapSpace, seed: int) -> None:
    drawn = space.draw(20, generator(seed))
    assert space.check(drawn) == []
    assert set(drawn.references.tolist()) <= set(space.dataset.reference_rows.tolist())
    parents = space.parents(drawn)
    for i, slot in enumerate(space.slots):
        for own, donor in zip(parents[i].tolist(), drawn.donors[i].tolist(), strict=True):
            assert donor in allowed_by_hand(space.dataset, slot, own)
            assert donor == own or slot.path not in space.frozen
        if slot.shares is not None:
            assert drawn.donors[i].tolist() == drawn.donors[slot.shares].tolist()


def test_references_can_be_given() -> None:
    space = SwapSpace(output(module("a", agrees_on="f")), FOUR)
    references = np.array([3, 0, 3])
    drawn = space.draw(3, generator(), references)
    assert drawn.references.tolist() == [3, 0, 3]
    assert space.check(drawn) == []
    assert space.unswapped(references) == SwapSet(
        [3, 0, 3], [[3, 0, 3]] * 2, space.paths, FOUR.digest()
    )


FOUR = Dataset(
    torch.tensor([[0], [1], [2], [3]]),
    features={"f": [0, 0, 1, 1], "g": [0, 1, 0, 1], "all": [0, 0, 0, 0]},
)
UNEVEN = Dataset(
    torch.arange(6)[:, None], features={"f": [0, 0, 0, 1, 1, 2], "g": [0, 1, 1, 1, 0, 0]}
)
SPLIT = Dataset(
    torch.arange(6)[:, None],
    features={"f": [0, 0, 0, 1, 1, 2], "g": [0, 1, 1, 1, 0, 0]},
    donors=[1, 2, 4],
)


@pytest.mark.parametrize("dataset", [UNEVEN, SPLIT])
def test_draws_are_uniform_and_independent(dataset: Dataset) -> None:
    # The joint distribution of references and all donors says all: uniform references, uniform
    # allowed donors whatever the parent's is, and no slot that depends on a sibling but one that
    # shares its donor.
    space = SwapSpace(
        output(
            module("a", agrees_on="f", reads=[module("x", agrees_on="g")], name="owner"),
            module("b", agrees_on="f", shares="owner"),
            rest=EXACT,
        ),
        dataset,
    )
    expected = {(reference, *donors): weight for reference, donors, weight in swaps_by_hand(space)}
    assert sum(expected.values()) == pytest.approx(1)
    n = 200 * len(expected)
    drawn = space.draw(n, generator(7))
    seen = Counter(map(tuple, np.vstack([drawn.references, drawn.donors]).T.tolist()))
    assert set(seen) <= set(expected)
    counts = [seen[column] for column in expected]
    assert stats.chisquare(counts, [n * weight for weight in expected.values()]).pvalue > 1e-6


def test_a_seed_is_all_the_randomness_there_is() -> None:
    space = SwapSpace(output(module("a", agrees_on="f"), agrees_on="g"), UNEVEN)
    first = space.draw(50, generator(3))
    np.random.seed(0)  # the global generators are neither read ...
    torch.manual_seed(0)
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]
    assert space.draw(50, generator(3)) == first
    assert space.draw(50, generator(4)) != first
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # type: ignore[index]  # ... nor advanced
    assert torch.equal(torch.get_rng_state(), torch_before)


@given(SPACES, st.data())
def test_what_one_slot_draws_does_not_depend_on_which_others_are_kept(
    space: SwapSpace, data: st.DataObject
) -> None:
    kept = data.draw(st.sets(st.sampled_from(space.paths))) if space.paths else set()
    everything, some = space.draw(10, generator()), space.keep(kept).draw(10, generator())
    np.testing.assert_array_equal(everything.references, some.references)
    same_parent, same_donor = (
        space.parents(everything) == space.parents(some),
        everything.donors == some.donors,
    )
    for i, slot in enumerate(space.slots):
        # and below a frozen slot there is another own input
        if slot.path in kept and slot.shares is None:
            assert same_donor[i][same_parent[i]].all()


# --- allowed, count, support ----------------------------------------------------------------------


@given(restricted_spaces(), st.data())
def test_allowed_donors_are_those_found_by_hand(space: SwapSpace, data: st.DataObject) -> None:
    rows = np.array(
        data.draw(st.lists(st.integers(0, len(space.dataset) - 1), max_size=4)), dtype=np.int64
    )
    for slot in space.slots:
        found = space.allowed(slot.path, rows)
        assert all(part.dtype == np.int64 for part in found)
        frozen = slot.path in space.frozen
        expected = [
            [own] if frozen else allowed_by_hand(space.dataset, slot, own) for own in rows.tolist()
        ]
        assert [part.tolist() for part in found] == expected


def any_swaps(draw: st.DrawFn, hypothesis: Node, dataset: Dataset) -> SwapSet:
    """Two references with arbitrary donors, half of which are what some slot allows."""
    space = SwapSpace(hypothesis, dataset)
    swap_set = space.draw(2, generator(draw(st.integers(0, 100))))
    rows, bools = st.integers(0, len(dataset) - 1), st.sampled_from([False, False, True])
    change = np.reshape([draw(bools) for _ in range(swap_set.donors.size)], swap_set.donors.shape)
    return replace(swap_set, donors=np.where(change, draw(rows), swap_set.donors))


@given(hypotheses(depth=2), datasets(), st.data())
def test_what_is_allowed_is_what_a_claim_means(
    hypothesis: Node, dataset: Dataset, data: st.DataObject
) -> None:
    space = SwapSpace(hypothesis, dataset)
    swap_set = any_swaps(data.draw, hypothesis, dataset)
    parents = space.parents(swap_set)
    for column, is_allowed in enumerate(space.allows(swap_set)):
        rows = meaning.allowed(hypothesis, dataset, swap_set, column)
        assert set(rows) == set(space.paths)
        donors = swap_set.donors[:, column].tolist()
        assert is_allowed == all(
            donor in rows[path] for path, donor in zip(space.paths, donors, strict=True)
        )
        violated = {v.slot for v in space.check(swap_set) if v.column == column}
        assert violated == {
            path for path, donor in zip(space.paths, donors, strict=True) if donor not in rows[path]
        }
        for i, slot in enumerate(space.slots):
            if slot.shares is None:
                assert space.allowed(slot.path, parents[i, [column]])[0].tolist() == sorted(
                    rows[slot.path]
                )


@given(hypotheses(depth=2), datasets())
def test_a_sample_is_as_likely_as_a_claim_means(hypothesis: Node, dataset: Dataset) -> None:
    space = SwapSpace(hypothesis, dataset)
    for reference, donors, weight in islice(swaps_by_hand(space), 50):
        swap_set = SwapSet([reference], np.reshape(donors, (-1, 1)), space.paths, dataset.digest())
        assert meaning.chance(hypothesis, dataset, swap_set, 0) == pytest.approx(weight)


@given(st.lists(AGREEMENTS, min_size=8, max_size=8), datasets(), st.data())
def test_joined_claims_allow_in_every_slot_what_both_do(
    agreements: list[Agreement], dataset: Dataset, data: st.DataObject
) -> None:
    def claim(own: Agreement, child: Agreement, rest: Agreement, roots_rest: Agreement) -> Node:
        return output(
            module("a", agrees_on=own, reads=[module("x", agrees_on=child)], rest=rest),
            rest=roots_rest,
        )

    first, second = claim(*agreements[:4]), claim(*agreements[4:])
    both = join(first, second)
    assert isinstance(both, Node)
    swap_set = any_swaps(data.draw, both, dataset)
    rows, *others = (
        meaning.allowed(claimed, dataset, swap_set, 0) for claimed in (both, first, second)
    )
    assert rows == {path: others[0][path] & others[1][path] for path in rows}


@given(restricted_spaces())
def test_counts_are_of_the_allowed_donors(space: SwapSpace) -> None:
    references = space.dataset.reference_rows
    assert [support.slot for support in space.support()] == list(space.paths)
    for support in space.support():
        allowed = space.allowed(support.slot, references)
        assert support.donors.tolist() == [len(rows) for rows in allowed]


@given(restricted_spaces())
def test_support_is_judged_by_content(space: SwapSpace) -> None:
    references, content = space.dataset.reference_rows, space.dataset.inputs["tokens"][:, 0].numpy()
    for slot, support in zip(space.slots, space.support(), strict=True):
        allowed = space.allowed(slot.path, references)
        has_other = [
            (content[rows] != content[own]).any()
            for rows, own in zip(allowed, references, strict=True)
        ]
        assert support.share == pytest.approx(np.mean(has_other))


def test_repeated_content_is_no_support() -> None:
    repeated = Dataset(torch.tensor([[1], [1], [2]]), features={"f": [0, 0, 1]})
    space = SwapSpace(output(module("a", agrees_on="f"), rest=EXACT), repeated)
    rest, a = space.support()
    assert (a.donors.tolist(), a.share) == ([2, 2, 1], 0.0)
    assert (rest.donors.tolist(), rest.share) == ([1, 1, 1], 0.0)
    moved = space.moved(SwapSet([0, 0, 2], [[0, 0, 0], [1, 2, 2]], space.paths, repeated.digest()))
    assert moved.tolist() == [[False, False, True], [False, True, False]]


def test_moved_compares_with_the_parents_own_input() -> None:
    tree = output(module("a", agrees_on=ANYTHING, reads=[module("b", agrees_on=ANYTHING)]))
    space = SwapSpace(tree, FOUR)
    assert space.paths == ("output/rest", "output/a", "output/a/rest", "output/a/b")
    swap_set = SwapSet([0, 0], [[0, 1], [2, 2], [2, 0], [0, 2]], space.paths, FOUR.digest())
    assert space.moved(swap_set).tolist() == [
        [False, True],
        [True, True],
        [False, True],
        [True, False],
    ]
    assert space.parents(swap_set).tolist() == [[0, 0], [0, 0], [2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("arguments", "references", "allowed_for_row_0"),
    [
        ({}, [0, 1, 2, 3], [0, 1]),
        ({"donors": [1, 2]}, [0, 3], [0, 1]),
        ({"donors": [2, 3]}, [0, 1], [0]),
        ({"references": [2]}, [2], [0, 1]),
        ({"references": [True, False, False, True], "donors": [0, 2]}, [0, 3], [0]),
    ],
)
def test_references_and_donors_may_come_from_different_rows(
    arguments: dict[str, Any], references: list[int], allowed_for_row_0: list[int]
) -> None:
    dataset = Dataset(torch.arange(4)[:, None], features={"f": [0, 0, 1, 1]}, **arguments)
    space = SwapSpace(output(module("a", agrees_on="f")), dataset)
    assert space.allowed("output/a", np.array([0]))[0].tolist() == allowed_for_row_0
    drawn = space.draw(200, generator())
    assert sorted(set(drawn.references.tolist())) == references
    assert len(space.support()[0].donors) == len(references)


# --- checking -------------------------------------------------------------------------------------


@given(restricted_spaces(), st.data())
def test_check_finds_exactly_what_is_not_allowed(space: SwapSpace, data: st.DataObject) -> None:
    rows = st.integers(0, len(space.dataset) - 1)
    references = data.draw(st.lists(rows, min_size=1, max_size=3))
    donors = [[data.draw(rows) for _ in references] for _ in space.paths]
    swap_set = SwapSet(
        references,
        np.array(donors).reshape(-1, len(references)),
        space.paths,
        space.dataset.digest(),
    )
    expected = set()
    for i, slot in enumerate(space.slots):
        for column, own in enumerate(space.parents(swap_set)[i].tolist()):
            shared = slot.shares is not None and donors[i][column] != donors[slot.shares][column]
            allowed = (
                [own] if slot.path in space.frozen else allowed_by_hand(space.dataset, slot, own)
            )
            if (shared and slot.path not in space.frozen) or donors[i][column] not in allowed:
                expected.add((slot.path, column, donors[i][column], own))
    found = {(v.slot, v.column, v.donor, v.parent) for v in space.check(swap_set)}
    assert found == expected


VIOLATED = Dataset(
    torch.arange(4)[:, None], features={"f": [0, 0, 1, 1], "g": [0, 1, 0, 1]}, donors=[0, 1, 2]
)
SHARING = output(
    module("a", agrees_on=["f", "g"]),
    module("b", agrees_on="f", name="owner"),
    module("c", agrees_on="f", shares="owner"),
    rest=EXACT,
)


@pytest.mark.parametrize(
    ("kept", "reference", "donors", "sentences"),
    [
        (None, 0, (0, 0, 1, 1), []),
        (
            None,
            0,
            (0, 1, 1, 1),
            ["output/a: row 1 may not stand in for row 0: they do not agree on f and g"],
        ),
        (
            None,
            1,
            (0, 1, 1, 1),
            ["output/rest: row 0 may not stand in for row 1: they do not agree on EXACT"],
        ),
        (
            None,
            2,
            (2, 2, 3, 3),
            [
                "output/owner: row 3 may not stand in for row 2: it is not among the dataset's "
                "donors",
                "output/c: row 3 may not stand in for row 2: it is not among the dataset's donors",
            ],
        ),
        (
            None,
            0,
            (0, 0, 0, 1),
            [
                "output/c: row 1 may not stand in for row 0: it shares the donor of owner, which "
                "takes another"
            ],
        ),
        (
            None,
            0,
            (0, 3, 0, 0),
            [
                "output/a: row 3 may not stand in for row 0: they do not agree on f and g",
                "output/a: row 3 may not stand in for row 0: it is not among the dataset's donors",
            ],
        ),
        (
            ["output/a"],
            0,
            (0, 0, 1, 1),
            [
                "output/owner: row 1 may not stand in for row 0: this slot is not swapped here",
                "output/c: row 1 may not stand in for row 0: this slot is not swapped here",
            ],
        ),
    ],
)
def test_check_says_which_donor_and_why(
    kept: list[str] | None, reference: int, donors: tuple[int, ...], sentences: list[str]
) -> None:
    space = SwapSpace(SHARING, VIOLATED)
    space = space if kept is None else space.keep(kept)
    assert space.paths == ("output/rest", "output/a", "output/owner", "output/c")
    swap_set = SwapSet(
        [3, reference], [[3, donor] for donor in donors], space.paths, VIOLATED.digest()
    )
    violations = space.check(swap_set)
    assert [str(violation) for violation in violations] == sentences
    assert all((v.column, v.parent) == (1, reference) for v in violations)


def test_the_row_itself_is_allowed_though_it_is_no_donor() -> None:
    space = SwapSpace(SHARING, VIOLATED)
    assert space.check(space.unswapped(np.array([3]))) == []


def test_swap_sets_of_another_tree_or_dataset_are_refused() -> None:
    space = SwapSpace(output(module("a", agrees_on="f")), FOUR)
    slots = list(space.paths)
    drawn = space.draw(2, generator())
    with refuses(
        DataError, f"the swap set has slots {slots}, the hypothesis has ['output/rest', 'output/b']"
    ):
        SwapSpace(output(module("b", agrees_on="f")), FOUR).check(drawn)
    other = Dataset(torch.arange(1, 5)[:, None], features={"f": [0, 0, 1, 1]})
    with refuses(
        DataError, "the swap set belongs to a dataset of other content; draw it again on this one"
    ):
        SwapSpace(output(module("a", agrees_on="f")), other).check(drawn)
    for references, donors, name in ([[4], [[0], [0]], "reference"], [[0], [[0], [-1]], "donor"]):
        with refuses(DataError, f"the swap set names a {name} row outside 0 to 3"):
            space.check(SwapSet(references, donors, space.paths, FOUR.digest()))
    assert space.check(SwapSet([], np.empty((2, 0)), space.paths, FOUR.digest())) == []


# --- enumerating ----------------------------------------------------------------------------------


def feeding(space: SwapSpace) -> list[int]:
    """The slots whose donor's activations are read: leaves, rests, and what a frozen or sharing
    node takes over.

    Any other own input of a non-leaf only says what its children and its rest must agree with.
    """
    found = []
    for i, slot in enumerate(space.slots):
        taken_over = any(other.parent == i and other.path in space.frozen for other in space.slots)
        shared = any(other.shares == i for other in space.slots)
        if slot.is_rest or slot.node.is_leaf or taken_over or shared:
            found.append(i)
    return found


@pytest.mark.parametrize("apart", [False, True])
@given(space=restricted_spaces(depth=2))
def test_enumerating_lists_every_swap_with_its_probability(space: SwapSpace, apart: bool) -> None:
    slots = [*range(len(space.slots))] if apart else feeding(space)
    expected: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for n, (reference, donors, weight) in enumerate(swaps_by_hand(space)):
        assume(n < 20_000)  # a large tree on rows that all agree
        expected[(reference, *(donors[i] for i in slots))] += weight
    found: defaultdict[tuple[int, ...], float] = defaultdict(float)
    for swap_set, weights in space.enumerate(apart=apart):
        assert space.check(swap_set) == []
        for column in range(len(swap_set)):
            donors = swap_set.donors[slots, column].tolist()
            found[(int(swap_set.references[column]), *donors)] += weights[column]
    assert found == pytest.approx(expected)


def test_a_donor_that_a_leaf_shares_is_listed_whatever_it_does_for_its_owner() -> None:
    # The owner's own input would only say what x agrees with, and all rows would do as well; but b
    # is a leaf.
    owner = module("a", agrees_on="all", reads=[module("x", agrees_on="all")], name="owner")
    space = SwapSpace(output(owner, module("b", agrees_on="all", shares="owner")), FOUR)
    listed = {
        row
        for swap_set, _ in space.enumerate()
        for row in swap_set.donors[space.index["output/b"]].tolist()
    }
    assert listed == {0, 1, 2, 3}


def test_each_swap_is_listed_once() -> None:
    tree = output(module("a", agrees_on="f"), module("b", agrees_on=ANYTHING), rest=EXACT)
    columns = [
        column
        for swap_set, _ in SwapSpace(tree, UNEVEN).enumerate()
        for column in map(tuple, np.vstack([swap_set.references, swap_set.donors]).T.tolist())
    ]
    assert len(columns) == len(set(columns)) == (9 + 4 + 1) * 6


def test_a_long_list_comes_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SwapSpace(output(module("a", agrees_on="f"), module("b", agrees_on=ANYTHING)), UNEVEN)
    whole = [column for swap_set, _ in space.enumerate() for column in swap_set.donors.T.tolist()]
    monkeypatch.setattr("pytest_scrub.swaps.space.ENUMERATION_CHUNK", 10)
    chunks = list(space.enumerate())
    assert max(len(swap_set) for swap_set, _ in chunks) <= 10
    assert sum(weights.sum() for _, weights in chunks) == pytest.approx(1)
    assert sorted(
        column for swap_set, _ in chunks for column in swap_set.donors.T.tolist()
    ) == sorted(whole)


# --- restricting ----------------------------------------------------------------------------------


def test_keep_freezes_all_but_the_named_slots() -> None:
    tree = output(
        module("a", agrees_on=ANYTHING, reads=[module("b", agrees_on="all")]), agrees_on="all"
    )
    space = SwapSpace(tree, FOUR).keep(["output/a"])
    assert space.frozen == {"output", "output/rest", "output/a/rest", "output/a/b"}
    drawn = space.draw(100, generator())
    rows = dict(zip(space.paths, drawn.donors.tolist(), strict=True))
    references = drawn.references.tolist()
    assert rows["output"] == rows["output/rest"] == references
    assert rows["output/a"] != references
    assert rows["output/a/rest"] == rows["output/a/b"] == rows["output/a"]
    assert space.keep(["output/a/b"]).frozen == set(space.paths)  # what is frozen stays so
    assert {support.slot: support.donors.tolist() for support in space.support()} == {
        path: [4] * 4 if path == "output/a" else [1] * 4 for path in space.paths
    }


@pytest.mark.parametrize("kept", ["output/owner", "output/c"])
def test_a_shared_donor_is_kept_for_all_who_share_it(kept: str) -> None:
    space = SwapSpace(SHARING, FOUR).keep([kept])
    assert space.frozen == {"output/rest", "output/a"}
    assert SwapSpace(SHARING, FOUR).keep(["output/a"]).frozen == {
        "output/rest",
        "output/owner",
        "output/c",
    }


def test_an_unknown_slot_is_refused_with_the_nearest() -> None:
    space = SwapSpace(output(head(1, 0, agrees_on="f")), FOUR)
    with refuses(
        HypothesisError,
        "the hypothesis has no slot 'output/head1.1'; did you mean 'output/head1.0'?",
    ):
        space.keep(["output/head1.1"])


A, B = module("a", agrees_on="f"), module("b", agrees_on=ANYTHING)


@pytest.mark.parametrize(
    "other", [output(replace(A, agrees_on=Agreement(("g",)))), ANYTHING, output(A, B)]
)
def test_a_space_can_be_joined(other: Node | Agreement) -> None:
    space = SwapSpace(output(A, B), FOUR)
    assert space.join(other).hypothesis == join(space.hypothesis, other)
    assert space.join(other).frozen == frozenset()


def test_what_is_frozen_stays_where_it_is_when_joined() -> None:
    # In the other hypothesis b lies in the rest, so the rest has to stay where b does.
    space = SwapSpace(output(A, B, rest=ANYTHING), FOUR).keep(["output/rest", "output/a"])
    joined = space.join(output(A))
    rows = dict(zip(joined.paths, joined.draw(50, generator()).donors, strict=True))
    assert joined.paths == ("output/rest", "output/a")
    np.testing.assert_array_equal(rows["output/rest"], joined.draw(50, generator()).references)
    assert not np.array_equal(rows["output/a"], rows["output/rest"])


def test_joined_with_exact_nothing_is_swapped() -> None:
    joined = SwapSpace(output(A, B), FOUR).join(EXACT)
    assert joined.frozen == set(joined.paths) == {"output/rest", "output/a", "output/b"}


def test_a_computed_node_keeps_its_features_when_frozen_and_joined() -> None:
    def compute(values: Any) -> Any:
        return values

    computed = output(module("a", agrees_on="f", computed_by=compute), B)
    joined = SwapSpace(computed, FOUR).keep(["output/b"]).join(computed)
    assert joined.frozen >= {"output/a", "output/rest"}
    assert joined.hypothesis.reads[0].agrees_on == Agreement(("f",))


# --- counting all swap sets -----------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True])
@given(space=restricted_spaces(depth=2))
def test_combinations_are_the_columns_that_are_enumerated(space: SwapSpace, apart: bool) -> None:
    rows = np.arange(len(space.dataset))  # a row that is no reference may be asked for as well
    counts = space.combinations(rows, apart=apart)
    assert counts.dtype == np.float64
    assume(counts.sum() < 50_000)
    listed = np.zeros(len(rows))
    for swap_set, _ in space.enumerate(rows, apart=apart):
        np.add.at(listed, swap_set.references, 1)
    np.testing.assert_array_equal(counts, listed)
    some = rows[::2]
    np.testing.assert_array_equal(space.combinations(some, apart=apart), counts[some])


def test_combinations_by_hand() -> None:
    # Rows 0, 1, 2 agree on f, and 3, 4; c follows owner, and x is chosen for whichever row owner
    # takes.
    tree = output(
        module("b", agrees_on="f", name="owner", reads=[module("x", agrees_on="g")], rest=EXACT),
        module("c", agrees_on="f", shares="owner"),
        rest=EXACT,
    )
    # By g there are rows 0, 4, 5 and rows 1, 2, 3.
    assert SwapSpace(tree, UNEVEN).combinations(np.array([0, 3, 5])).tolist() == [
        3 + 3 + 3,
        3 + 3,
        3,
    ]
    # Of the donors 1, 2 and 4, and the own input, which always is one.
    split = SwapSpace(tree, SPLIT).combinations(np.array([0, 3, 5]))
    assert split.tolist() == [(1 + 1) + 2 + 2, (1 + 2) + 1, 1 + 1]
    frozen = SwapSpace(tree, UNEVEN).keep(["output/owner/x"])
    assert frozen.combinations(np.array([0, 3, 5])).tolist() == [3, 3, 3]


def test_deep_trees_have_very_many_combinations() -> None:
    rows = Dataset(torch.arange(1000)[:, None], features={"f": [0] * 1000})
    tree = output(
        *(module(name, agrees_on="f") for name in "abcdefghijklmnopqrstuvwxyz"), rest=EXACT
    )
    assert SwapSpace(tree, rows).combinations(np.array([0, 7])).tolist() == pytest.approx(
        [1e78, 1e78]
    )


@given(restricted_spaces(), st.data())
def test_swaps_of_some_references_can_be_enumerated(space: SwapSpace, data: st.DataObject) -> None:
    everything = space.enumerate()
    references = np.array(
        data.draw(st.lists(st.sampled_from(space.reference_rows.tolist()), min_size=1, unique=True))
    )
    whole: Counter[tuple[int, ...]] = Counter()
    for swap_set, weights in everything:
        for column, weight in zip(
            np.vstack([swap_set.references, swap_set.donors]).T.tolist(), weights, strict=True
        ):
            whole[tuple(column)] += weight
    found: Counter[tuple[int, ...]] = Counter()
    for swap_set, weights in space.enumerate(references):
        for column, weight in zip(
            np.vstack([swap_set.references, swap_set.donors]).T.tolist(), weights, strict=True
        ):
            found[tuple(column)] += weight
    share = len(space.reference_rows) / len(references)
    assert found == pytest.approx(
        {key: weight * share for key, weight in whole.items() if key[0] in references}
    )


# --- which references have allowed donors ---------------------------------------------------------


@given(restricted_spaces(depth=2), st.data())
def test_allows_agrees_with_check(space: SwapSpace, data: st.DataObject) -> None:
    rows = st.integers(0, len(space.dataset) - 1)
    drawn = space.draw(4, generator(data.draw(st.integers(0, 9))))
    donors = drawn.donors.copy()
    for column in range(1, 4):  # the first one stays allowed
        for slot in (
            data.draw(st.lists(st.integers(0, len(space.slots) - 1), max_size=2))
            if space.slots
            else ()
        ):
            donors[slot, column] = data.draw(rows)
    swap_set = space.swap_set(drawn.references, donors)
    allowed = space.allows(swap_set)
    assert allowed.dtype == np.bool_
    assert allowed[0]
    violated = {violation.column for violation in space.check(swap_set)}
    assert np.flatnonzero(~allowed).tolist() == sorted(violated)


# --- a part of the rows ---------------------------------------------------------------------------


@given(restricted_spaces(depth=2), st.data())
def test_within_a_part_only_its_rows_are_drawn(space: SwapSpace, data: st.DataObject) -> None:
    def some(rows: np.ndarray) -> np.ndarray:
        return np.array(
            data.draw(st.lists(st.sampled_from(rows.tolist()), min_size=1, unique=True))
        )

    references, donors = some(space.reference_rows), some(space.donor_rows)
    part = space.within(references, donors)
    assert part.frozen == space.frozen
    drawn = part.draw(30, generator())
    assert set(drawn.references.tolist()) <= set(references.tolist())
    own = np.isin(drawn.donors, donors) | (drawn.donors == part.parents(drawn))
    assert own.all()
    assert part.check(drawn) == space.check(drawn) == []
    assert part.hypothesis is space.hypothesis
    # All that the whole space allows of these rows is allowed in the part.
    everything = islice(swaps_by_hand(space), 2000)
    columns = [
        (ref, *rows)
        for ref, rows, _ in everything
        if ref in references and set(rows) <= {*donors.tolist()}
    ]
    table = np.array(columns, dtype=np.int64).reshape(-1, 1 + len(space.slots)).T
    assert part.allows(part.swap_set(table[0], table[1:])).all()


def test_a_part_without_an_agreeing_donor_leaves_the_input_itself() -> None:
    space = SwapSpace(output(module("a", agrees_on="f"), rest=EXACT), UNEVEN)
    part = space.within(np.array([0, 5]), np.array([1, 3]))
    rows = dict(zip(part.paths, part.draw(100, generator()).donors, strict=True))
    assert set(rows["output/a"].tolist()) == {1, 5, 0}
    assert part.combinations(np.array([0, 5])).tolist() == [2, 1]


# --- refining -------------------------------------------------------------------------------------


def says_only(root: Node, paths: Collection[str], extra: Agreement) -> Node:
    """The same tree, agreeing on nothing but `extra` at these paths."""

    def agreement(path: str, now: Agreement | None) -> Agreement | None:
        return None if now is None else extra if path in paths else ANYTHING

    def walk(node: Node, path: str) -> Node:
        below = [
            (child, child_path) for child_path, child, parent in node_paths(root) if parent == path
        ]
        return replace(
            node,
            agrees_on=agreement(path, node.agrees_on),
            reads=tuple(walk(child, child_path) for child, child_path in below),
            rest=agreement(f"{path}/rest", node.rest),
        )

    return walk(root, "output")


def columns_of(space: SwapSpace, paths: Sequence[str]) -> set[tuple[int, ...]]:
    """Every allowed swap of every reference: the reference, and the donors of the slots that give
    activations."""
    slots = [space.index[path] for path in paths]
    return {
        (reference, *(donors[i] for i in slots)) for reference, donors, _ in swaps_by_hand(space)
    }


@given(restricted_spaces(depth=2), st.data())
def test_refined_is_joined_with_the_claim_that_says_only_this(
    space: SwapSpace, data: st.DataObject
) -> None:
    assume(space.paths)
    slots = data.draw(st.lists(st.sampled_from(space.paths), min_size=1, max_size=3, unique=True))
    # Who shares a donor is named by its owner.
    slots = [
        space.paths[i]
        for path in slots
        for i in [space.slots[space.index[path]].shares or space.index[path]]
    ]
    extra = data.draw(
        st.sampled_from([Agreement(("f",)), Agreement(("g",)), Agreement(("f", "g")), EXACT])
    )
    refined = space.refine(slots, extra)
    sharing = {
        s.path for s in space.slots if s.shares is not None and space.paths[s.shares] in slots
    }
    try:
        joined = space.join(says_only(space.hypothesis, {*slots, *sharing}, extra))
    except DataError as error:  # what is above a shared donor does not settle the extra feature
        assert "has to settle" in str(error)  # noqa: PT017
        reject()
    assert set(refined.paths) == set(space.paths) == set(joined.paths)
    assert refined.frozen == space.frozen
    assume(space.combinations(space.reference_rows).sum() < 2000)
    found = columns_of(refined, space.paths)
    assert found == columns_of(joined, space.paths)
    assert found <= columns_of(space, space.paths)
    for one in (refined, joined):
        np.testing.assert_array_equal(one.reference_rows, space.reference_rows)


def test_refining_names_slots_and_keeps_rows_and_what_is_frozen() -> None:
    space = SwapSpace(SHARING, VIOLATED).keep(["output/a", "output/owner"])
    space = space.within(np.array([0, 3]), np.array([0, 1]))
    refined = space.refine(["output/owner"], Agreement(("g",)))
    agreements = {slot.path: str(slot.agrees_on) for slot in refined.slots}
    assert agreements == {
        "output/rest": "EXACT", "output/a": "f and g", "output/owner": "f and g",
        "output/c": "f and g",
    }  # fmt: skip
    assert refined.frozen == {"output/rest"}
    assert (refined.reference_rows.tolist(), refined.donor_rows.tolist()) == ([0, 3], [0, 1])
    assert {str(slot.agrees_on) for slot in space.refine(["output/a"], EXACT).slots} == {
        "EXACT",
        "f",
    }


def test_a_computed_node_is_not_refined() -> None:
    computed = output(module("a", agrees_on="f", computed_by=lambda values: values), B)
    refined = SwapSpace(computed, FOUR).refine(["output/a", "output/b"], Agreement(("g",)))
    assert [str(slot.agrees_on) for slot in refined.slots] == ["ANYTHING", "f", "g"]


# --- several spaces at once -----------------------------------------------------------------------


@given(restricted_spaces(depth=2), st.data())
def test_spaces_are_drawn_together_as_they_are_alone(space: SwapSpace, data: st.DataObject) -> None:
    """Parts of a space that differ in what is kept and what agrees."""
    paths = st.lists(st.sampled_from(space.paths), unique=True) if space.paths else st.just([])
    some = [
        space.keep(data.draw(paths)).refine(data.draw(paths), Agreement((name,)))
        for name in data.draw(st.lists(st.sampled_from(FEATURES), min_size=1, max_size=4))
    ]
    together = drawn_alike(some, 7, seed=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(space_module, "ROWS_AT_ONCE", data.draw(st.integers(0, 30)))
        assert drawn_alike(iter(some), 7, seed=3) == together
    assert together == joined([one.draw(7, generator(3)) for one in some])
    for nth, one in enumerate(some):
        assert one.check(together[np.arange(7 * nth, 7 * nth + 7)]) == []


def test_the_tree_of_a_refinement_of_a_refinement_says_both() -> None:
    space = SwapSpace(output(A, B), FOUR)
    finer = space.refine(["output/a"], Agreement(("f",))).refine(["output/a"], Agreement(("g",)))
    own = {slot.path: slot.agrees_on for slot in SwapSpace(finer.hypothesis, FOUR).slots}
    assert {slot.path: slot.agrees_on for slot in finer.slots} == own
    assert own["output/a"] == Agreement(("f", "g"))
    assert space.slots[space.index["output/a"]].agrees_on != own["output/a"]


# --- choosing donors one by one -------------------------------------------------------------------


@given(restricted_spaces(), st.data())
def test_chances_pick_the_allowed_donors_in_equal_parts(
    space: SwapSpace, data: st.DataObject
) -> None:
    row = data.draw(st.integers(0, len(space.dataset) - 1))
    for i, slot in enumerate(space.slots):
        allowed = allowed_by_hand(space.dataset, slot, row)
        parts = (np.arange(len(allowed)) + data.draw(st.floats(0.01, 0.99))) / len(allowed)
        assert sorted(space.pick(i, np.full(len(allowed), row), parts).tolist()) == allowed
        ends = np.array([0.0, np.nextafter(1.0, 0.0)])
        assert set(space.pick(i, np.array([row, row]), ends).tolist()) <= set(allowed)


@given(restricted_spaces(depth=2), st.data())
def test_filling_asks_for_every_free_slot_after_its_parent(
    space: SwapSpace, data: st.DataObject
) -> None:
    drawn = space.draw(5, generator(data.draw(st.integers(0, 9))))
    asked: list[int] = []

    def choose(i: int, parents: np.ndarray, settled: np.ndarray) -> np.ndarray:
        parent = space.slots[i].parent
        expected = drawn.references if parent == REFERENCE else drawn.donors[parent]
        np.testing.assert_array_equal(parents, expected)
        for j in asked:
            np.testing.assert_array_equal(settled[j], drawn.donors[j])
        asked.append(i)
        return drawn.donors[i]

    assert space.fill(drawn.references, choose) == drawn
    free = [
        i
        for i, slot in enumerate(space.slots)
        if slot.shares is None and slot.path not in space.frozen
    ]
    assert sorted(asked) == free


def test_filling_lets_frozen_slots_and_sharers_follow() -> None:
    space = SwapSpace(SHARING, FOUR).keep(["output/owner"])
    filled = space.fill(np.array([0, 2]), lambda i, parents, settled: parents + 1)
    assert filled.donors.tolist() == [[0, 2], [0, 2], [1, 3], [1, 3]]


def test_filling_is_asked_after_the_sharer_above_has_followed() -> None:
    below = module("c", agrees_on=EXACT)
    root = output(
        module("a", agrees_on="f", name="owner"),
        module("b", agrees_on="f", shares="owner", reads=[below]),
    )
    data = Dataset(torch.arange(6)[:, None], features={"f": [0, 1] * 3})
    space = SwapSpace(root, data)
    drawn = space.draw(50, generator())
    assert space.check(drawn) == []
    owner, sharer, exact = (
        space.index[path] for path in ("output/owner", "output/b", "output/b/c")
    )
    assert (drawn.donors[owner] != drawn.references).any()
    assert drawn.donors[sharer].tolist() == drawn.donors[owner].tolist()
    assert drawn.donors[exact].tolist() == drawn.donors[owner].tolist()


def test_more_combinations_than_a_float_can_count_are_infinitely_many() -> None:
    node = module("a", agrees_on=ANYTHING)
    for _ in range(120):
        node = module("a", agrees_on=ANYTHING, reads=[node])
    space = SwapSpace(output(node), Dataset(torch.arange(500)[:, None]))
    assert np.isposinf(space.combinations(space.reference_rows)).all()


@given(SPACES)
def test_rows_agree_where_their_codes_are_equal(space: SwapSpace) -> None:
    for i, slot in enumerate(space.slots):
        codes, rows = space.agree(i), range(len(space.dataset))
        for row in rows:
            for other in rows:
                assert (codes[row] == codes[other]) == agree(
                    space.dataset, slot.agrees_on, row, other
                )


def test_swap_sets_of_a_space_know_their_hypothesis() -> None:
    space = SwapSpace(output(A, B), FOUR)
    drawn = space.draw(4, generator())
    rows = np.array([0, 1])
    made = [
        drawn, drawn[:2], space.unswapped(rows),
        space.fill(rows, lambda i, parents, settled: parents),
        space.swap_set(rows, np.zeros((3, 2))), next(space.enumerate())[0],
        space.keep(["output/a"]).unswapped(rows),
    ]  # fmt: skip
    assert all(swap_set.hypothesis is space.hypothesis for swap_set in made)
    unknown = SwapSet(drawn.references, drawn.donors, drawn.slots, drawn.dataset)
    assert unknown.hypothesis is None
    assert unknown == drawn
    assert hash(unknown) == hash(drawn)
