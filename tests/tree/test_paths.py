"""One donor for nodes that are no siblings: what settles it, and what everything else makes of
it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import find

from pytest_scrub import (
    ANYTHING,
    EXACT,
    FunctionGraph,
    WhichDonors,
    check,
    join,
    meaning,
    module,
    output,
    squared_error,
)
from pytest_scrub.adversaries.saved_rows import resolve
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.power.mutants import mutants
from pytest_scrub.swaps.null import null_of
from pytest_scrub.swaps.slots import REFERENCE
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.strategies import swap_sets
from pytest_scrub.tree.nodes import Node
from tests.adversaries.counterexamples import saved_of
from tests.sizes import only_in_full

# Both halves read the whole number; the output is nothing but their difference, which is small
# for a number and large for the halves of two numbers.
NUMBERS = torch.arange(64)
GRAPH = FunctionGraph(
    number=lambda x: x.double(),
    up=lambda number: number + 1,
    down=lambda number: number - 1,
    output=lambda up, down: up - down,
)
DATA = Dataset(
    {"x": NUMBERS},
    labels=torch.full((64,), 2.0),
    features={
        "half": (NUMBERS >= 32).long(),
        "quarter": NUMBERS // 16,
        "odd": NUMBERS % 2,
    },
)


def two_heads(shared: Any = "half", up: Any = "quarter", down: Any = "quarter") -> Node:
    """What both heads read is one number."""
    number = module("number", agrees_on=shared)
    return output(
        module("up", agrees_on=up, reads=[replace(number, name="the number")]),
        module("down", agrees_on=down, reads=[replace(number, shares="the number")]),
    )


def judged(root: Node, **options: Any) -> Any:
    return check(root, GRAPH, DATA, metric=squared_error(), tolerance=0.5, seed=0, **options)


@only_in_full
def test_what_two_heads_read_may_come_from_one_input() -> None:
    apart = two_heads()
    left, right = apart.reads
    apart = replace(
        apart, reads=(left, replace(right, reads=(replace(right.reads[0], shares=None),)))
    )
    assert judged(apart).outcome == "refuted"  # two numbers of one half differ
    assert judged(two_heads()).outcome == "weak"  # a shared donor makes it true of any number


def test_the_donor_agrees_with_the_input_of_the_nearest_node_that_reads_all_of_it() -> None:
    root = output(module("top", agrees_on="half", reads=two_heads(shared="half").reads), rest=EXACT)
    space = SwapSpace(root, DATA)
    owner, sharer = (space.index[f"output/top/{p}"] for p in ("up/the number", "down/number"))
    top = space.index["output/top"]
    for i in (owner, sharer):
        assert space.slots[i].parent == top
    assert [space.paths[i] for i in space.slots[sharer].through] == ["output/top/down"]
    drawn = space.draw(500, np.random.default_rng(0))
    assert np.array_equal(drawn.donors[owner], drawn.donors[sharer])
    half = DATA.feature("half")
    assert np.array_equal(half[drawn.donors[owner]], half[drawn.donors[top]])
    # and so with the input of each that reads it
    for reader in ("up", "down"):
        own = drawn.donors[space.index[f"output/top/{reader}"]]
        assert np.array_equal(half[drawn.donors[owner]], half[own])
    for column in range(20):
        rows = meaning.allowed(root, DATA, drawn, column)
        assert all(int(drawn.donors[i, column]) in rows[p] for p, i in space.index.items())
    at_the_top = SwapSpace(two_heads(), DATA)
    for path in ("output/up/the number", "output/down/number"):
        assert at_the_top.slots[at_the_top.index[path]].parent == REFERENCE


@pytest.mark.parametrize(
    ("root", "path", "above", "on"),
    [
        (two_heads(down="odd"), "output/down/number", "output/down", "odd"),
        (two_heads(up=ANYTHING), "output/up/the number", "output/up", "ANYTHING"),
        (two_heads(shared=EXACT, up=EXACT), "output/down/number", "output/down", "quarter"),
        (two_heads(shared=["quarter", "odd"]), "output/up/the number", "output/up", "quarter"),
    ],
)
def test_what_is_above_has_to_settle_it(root: Node, path: str, above: str, on: str) -> None:
    with pytest.raises(DataError) as raised:
        SwapSpace(root, DATA)
    assert re.fullmatch(
        rf"{path} takes a donor with nodes elsewhere, so what is above it has to settle [\w ]+, "
        rf"but {above} agrees on {on}, on which rows \d+ and \d+ agree as well; let {above} agree "
        rf"on [\w ]+ too",
        str(raised.value).partition("\nsaid at")[0],
    ), raised.value


def test_it_is_settled_in_the_data_and_not_by_name() -> None:
    SwapSpace(two_heads(shared="half", up="quarter", down=["half", "odd"]), DATA)
    SwapSpace(two_heads(shared=EXACT, up=EXACT, down=EXACT), DATA)
    # rows that are neither references nor donors are no part of any claim
    few = np.flatnonzero(NUMBERS % 2 == NUMBERS // 32)
    features = {name: DATA.feature(name) for name in DATA.feature_names}
    some = Dataset({"x": NUMBERS}, features=features, references=few, donors=few)
    SwapSpace(two_heads(up="odd"), some)
    with pytest.raises(DataError, match="has to settle"):
        SwapSpace(two_heads(up="odd"), DATA)


def test_fresh_inputs_that_unsettle_it_are_no_donors() -> None:
    """What holds in the data need not hold of inputs that a strategy draws."""

    def tenth(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return inputs["x"] // 10

    def odd_or_large(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return (inputs["x"] % 2) * (inputs["x"] > 63)

    functions = {"half": odd_or_large, "quarter": tenth}
    data = Dataset({"x": NUMBERS}, features=functions)
    SwapSpace(two_heads(), data)
    with pytest.raises(DataError, match="has to settle"):
        SwapSpace(two_heads(), data.extend({"x": torch.arange(64, 80)}))


def test_a_name_is_looked_for_among_siblings_first() -> None:
    root = output(
        module("up", agrees_on="half", name="n", reads=[module("number", agrees_on="half")]),
        module(
            "down",
            agrees_on="half",
            reads=[
                module("number", agrees_on="half", name="n", into="a"),
                module("number", agrees_on="half", shares="n", into="b"),
            ],
        ),
    )
    space = SwapSpace(root, DATA)
    taker = space.slots[space.index["output/down/number[b]"]]
    assert taker.shares is not None
    assert space.paths[taker.shares] == "output/down/n[a]"


def test_searching_moves_all_who_share() -> None:
    """The worst swaps that a search finds are allowed ones: of one number, however far apart its
    readers are."""
    space = Evaluator(GRAPH, DATA, two_heads(), squared_error()).space
    # a search that moved one of them alone would find a gap
    assert judged(two_heads(), adversaries=[WhichDonors()]).outcome == "weak"
    kept = space.keep(["output/down/number"])
    drawn = kept.draw(100, np.random.default_rng(0))
    i, j = space.index["output/up/the number"], space.index["output/down/number"]
    assert np.array_equal(drawn.donors[i], drawn.donors[j])
    assert space.moved(drawn)[j].any()
    assert not space.check(drawn)


def test_swaps_of_it_can_be_saved_and_found_again() -> None:
    space = SwapSpace(two_heads(), DATA)
    drawn = space.draw(10, np.random.default_rng(0))
    saved = saved_of(DATA, drawn)
    assert resolve(saved, saved.worst, DATA, two_heads())[1] == drawn
    moved = drawn.with_donors({space.index["output/down/number"]: drawn.references})
    why = [v.why for v in space.check(moved)]
    assert why
    assert set(why) == {"it shares the donor of the number, which takes another"}


def test_strategies_give_it_one_donor() -> None:
    space = SwapSpace(two_heads(), DATA)
    i, j = space.index["output/up/the number"], space.index["output/down/number"]
    found = find(
        swap_sets(two_heads(), DATA),
        lambda swaps: bool((swaps.donors[i] != swaps.references).any()),
    )
    assert np.array_equal(found.donors[i], found.donors[j])


# --- the null, mutants, joining -------------------------------------------------------------------


def test_the_null_keeps_one_donor() -> None:
    space = SwapSpace(two_heads(shared="quarter"), DATA)
    null = null_of(space)
    assert null is not None
    rng = np.random.default_rng(0)
    drawn = null.draw(DATA.reference_rows, rng, 40)
    i, j = space.index["output/up/the number"], space.index["output/down/number"]
    assert np.array_equal(drawn.donors[i], drawn.donors[j])
    quarter = DATA.feature("quarter")
    assert (quarter[drawn.donors[i]] != quarter[drawn.references]).mean() > 0.5


def test_what_is_exact_beside_one_swapped_rest_is_dropped_for_all_who_take_the_donor() -> None:
    root = output(
        module("up", agrees_on=EXACT, rest=EXACT,
               reads=[module("number", agrees_on=EXACT, name="n")]),
        module("down", agrees_on=EXACT, rest=ANYTHING,
               reads=[module("number", agrees_on=EXACT, shares="n")]),
        rest=EXACT,
    )  # fmt: skip
    null = null_of(SwapSpace(root, DATA))
    assert null is not None
    agrees_on = {slot.path: slot.agrees_on for slot in null.space(np.random.default_rng()).slots}
    assert agrees_on["output/up/n"] == agrees_on["output/down/number"] == ANYTHING
    assert agrees_on["output/up"] == EXACT


def test_mutants_keep_one_donor_where_it_is_settled_still() -> None:
    found = mutants(GRAPH, DATA, two_heads(), None, np.random.default_rng(0)).mutants
    assert found
    for mutant in found:
        SwapSpace(mutant.hypothesis, mutant.dataset)  # settled, or no mutant
    changed = {mutant.node for mutant in found}
    assert {"output/up/the number", "output/down/number", "output/up", "output/down"} <= changed
    # what the owner's going leaves is a donor of its own for the one that took it
    gone = next(m for m in found if m.kind == "dropped" and m.node == "output/up")
    (number,) = gone.hypothesis.reads[1].reads
    assert (number.shares, str(number.agrees_on)) == (None, "half")


def test_joined_it_agrees_on_what_both_say() -> None:
    finer = two_heads(shared="odd", up=["odd", "half"], down=["odd", "quarter"])
    both = join(two_heads(), finer)
    assert isinstance(both, Node)
    space = SwapSpace(both, DATA)
    one, other = SwapSpace(two_heads(), DATA), SwapSpace(finer, DATA)
    for candidate in (
        one.draw(3000, np.random.default_rng(0)),
        space.draw(500, np.random.default_rng(1)),
    ):
        rows = replace(candidate, hypothesis=None)
        assert np.array_equal(space.allows(rows), one.allows(rows) & other.allows(rows))
    assert space.slots[space.index["output/down/number"]].shares is not None
    alone = output(module("up", agrees_on="half"), module("down", agrees_on="half"))
    with pytest.raises(HypothesisError, match="cannot join: output/down/number takes the donor of"):
        join(two_heads(), alone)
    with pytest.raises(HypothesisError, match="cannot join"):
        join(alone, two_heads())


def test_joined_with_independent_donors_it_is_settled_or_refused() -> None:
    apart = output(
        module("up", agrees_on="odd", reads=[module("number", agrees_on="odd", name="the number")]),
        module("down", agrees_on="odd", reads=[module("number", agrees_on=ANYTHING)]),
    )
    both = join(two_heads(), apart)
    assert isinstance(both, Node)
    space, one, other = (SwapSpace(tree, DATA) for tree in (both, two_heads(), apart))
    for drawn in (
        one.draw(2000, np.random.default_rng(0)),
        space.draw(500, np.random.default_rng(1)),
    ):
        assert np.array_equal(space.allows(drawn), one.allows(drawn) & other.allows(drawn))
    left, right = apart.reads
    unsettled = replace(apart, reads=(replace(left, agrees_on=ANYTHING), right))
    with pytest.raises(DataError, match="has to settle"):
        SwapSpace(two_heads(), DATA).join(unsettled)
