"""`pos=EACH`: a donor of its own for every position, held against leaves at one position each,
against what a claim means, and against the ways in which a false claim could pass."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pytest_scrub import (
    ANYTHING,
    EACH,
    EXACT,
    FunctionGraph,
    WhichDonors,
    WhichInputs,
    WhichNodes,
    WhichRefinement,
    WhichSwaps,
    check,
    group,
    head,
    join,
    meaning,
    module,
    output,
    squared_error,
)
from pytest_scrub.adversaries.saved import DamagedFile, load, save
from pytest_scrub.adversaries.saved_rows import ClaimChanged, resolve
from pytest_scrub.adversaries.search import swapped_nodes
from pytest_scrub.data.columns import Places
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.explain import explain
from pytest_scrub.engine.gradients import first_order
from pytest_scrub.engine.memory import CachedSite
from pytest_scrub.engine.moved import moved_leaves, read_at
from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import as_graph
from pytest_scrub.power.mutants import mutants
from pytest_scrub.swaps.each import rows_at
from pytest_scrub.swaps.null import null_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import Agreement, Node
from tests.adversaries.counterexamples import saved_of
from tests.reference.generate import Architecture, build
from tests.sizes import only_in_full

LENGTH = 4
X = np.random.default_rng(0).integers(0, 6, size=(120, LENGTH))
LENGTHS = np.random.default_rng(1).integers(1, LENGTH + 1, size=120)
# The output at a position is half of what stands there and a tenth of what stood before it, and
# next to nothing of whether it is odd.
GRAPH = FunctionGraph(
    here=lambda x: (x // 2).double() + 0.001 * (x % 2),
    before=lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1).double() / 10,
    output=lambda here, before: here + before,
)
FEATURES = {"half": X // 2, "odd": X % 2, "value": X, "first": X[:, 0] // 2, "row": np.arange(120)}
TARGET = GRAPH.run({"x": torch.tensor(X)})


def data(padded: bool = False, **more: Any) -> Dataset:
    inputs = {"x": torch.tensor(X)}
    if padded:
        inputs["attention_mask"] = torch.tensor(np.arange(LENGTH) < LENGTHS[:, None])
    features = {**FEATURES, **more.pop("features", {})}
    return Dataset(inputs, labels=TARGET, features=features, **more)


def error(positions: Any = None) -> Metric:
    """The squared error at each position, against the label there."""

    def measured(out: torch.Tensor, batch: Any) -> torch.Tensor:
        target = batch.labels if positions is None else batch.labels[:, positions]
        return (out - target).square().reshape(len(out), -1).mean(1)

    return Metric("error", measured, positions)


def transformer() -> tuple[Any, torch.Tensor]:
    """What the output reads it reads in place."""
    size = Architecture(n_layers=1, norm="LN", n_ctx=LENGTH, attn_only=True, causal=True, d_vocab=6)
    return build(size).bridge, torch.tensor(X)


def claimed(agrees_on: Any = "half", name: str = "here", **options: Any) -> Node:
    return output(module(name, agrees_on=agrees_on, pos=EACH), **{"rest": EXACT, **options})


def judged(root: Node, dataset: Dataset | None = None, **options: Any) -> Any:
    options = {"metric": error(), "tolerance": 0.02, "seed": 0, "adversaries": (), **options}
    return check(root, GRAPH, dataset or data(), **options)


# --- what is allowed ------------------------------------------------------------------------------


@st.composite
def claims_on_data(draw: st.DrawFn) -> tuple[Node, Dataset]:
    """A leaf with a donor for each of 1 to 3 positions, below the root or below another node, on 2
    to 5 rows; sometimes padded, sometimes not every row a reference or a donor."""
    rows, length = draw(st.integers(2, 5)), draw(st.integers(1, 3))
    shape = (rows, length)
    few = arrays(np.int64, shape, elements=st.integers(0, 1), fill=st.nothing())
    inputs = {"x": torch.tensor(draw(few))}
    if draw(st.booleans()):
        inputs["attention_mask"] = torch.tensor(draw(few))
    numbers = st.lists(st.integers(0, 1), min_size=rows, max_size=rows)
    some = st.lists(st.integers(0, rows - 1), min_size=1, unique=True)
    chosen = {name: draw(some) for name in ("references", "donors") if draw(st.booleans())}
    if len(chosen.get("donors", ())) == rows:  # no row would be left for a reference
        chosen.setdefault("references", [0])
    dataset = Dataset(
        inputs, features={"e": draw(few), "g": draw(few), "r": draw(numbers)}, **chosen
    )
    agree = st.sampled_from([ANYTHING, EXACT, "e", ["e", "g"], ["e", "r"], "r"])
    agrees_on = draw(agree)
    shifted = agrees_on is not EXACT and draw(st.booleans())
    leaf = module("a", agrees_on=agrees_on, pos=EACH(with_shift=shifted))
    plain = st.sampled_from([ANYTHING, EXACT, "r"])
    if draw(st.booleans()):
        shared = draw(st.booleans())
        more = replace(leaf, components=("b",), shares="one") if shared else None
        leaf = replace(leaf, name="one") if shared else leaf
        reads = [leaf, *([more] if more else [])]
        leaf = module("c", agrees_on=draw(plain), reads=reads, rest=draw(plain))
    return output(leaf, rest=draw(plain), agrees_on=draw(st.sampled_from([None, "r"]))), dataset


@given(claims_on_data(), st.integers(0, 99))
def test_what_is_allowed_is_what_a_claim_means(claim: tuple[Node, Dataset], seed: int) -> None:
    root, dataset = claim
    space = SwapSpace(root, dataset)
    rng = np.random.default_rng(seed)
    drawn = space.draw(4, rng)
    most = [[slot.shifts * len(dataset)] for slot in space.slots]
    anything = space.swap_set(
        rng.choice(dataset.reference_rows, 4), rng.integers(0, most, (len(space.slots), 4))
    )
    assert not space.check(drawn)
    for swap_set in (drawn, anything):
        parents, allows = space.parents(swap_set), space.allows(swap_set)
        for column in range(4):
            means = meaning.allowed(root, dataset, swap_set, column)
            own = dict(zip(space.paths, swap_set.donors[:, column].tolist(), strict=True))
            assert allows[column] == all(own[path] in rows for path, rows in means.items())
            for i, slot in enumerate(space.slots):
                if slot.shares is None:
                    (rows,) = space.allowed(slot.path, parents[i, [column]])
                    assert {*rows.tolist()} == means[slot.path]


@given(claims_on_data())
def test_enumerating_gives_every_swap_as_likely_as_it_means(claim: tuple[Node, Dataset]) -> None:
    root, dataset = claim
    space = SwapSpace(root, dataset)
    if space.combinations(space.reference_rows).sum() > 300:
        return
    total = 0.0
    for swap_set, weights in space.enumerate(apart=True):
        total += weights.sum()
        for column in range(0, len(swap_set), 7):
            assert weights[column] == pytest.approx(meaning.chance(root, dataset, swap_set, column))
    assert total == pytest.approx(1)


def test_each_position_has_a_donor_of_its_own_that_agrees_there() -> None:
    space = SwapSpace(claimed(), data())
    assert space.paths == ("output/rest", *(f"output/here@each/{at}" for at in range(LENGTH)))
    drawn = space.draw(2000, np.random.default_rng(0))
    donors, half = drawn.donors[1:], FEATURES["half"]
    for at in range(LENGTH):
        assert np.array_equal(half[donors[at], at], half[drawn.references, at])
        others = np.delete(np.arange(LENGTH), at)
        assert (half[donors[at]][:, others] != half[drawn.references][:, others]).any(0).all()
    assert all((donors[a] != donors[b]).mean() > 0.9 for a in range(4) for b in range(a))


def test_padded_positions_take_no_donor_and_are_none() -> None:
    space = SwapSpace(claimed(ANYTHING), data(padded=True))
    drawn = space.draw(3000, np.random.default_rng(0))
    for at in range(LENGTH):
        donors = drawn.donors[1 + at]
        swapped = donors != drawn.references
        assert np.array_equal(np.unique(LENGTHS[drawn.references[swapped]] > at), [True])
        assert (LENGTHS[donors[swapped]] > at).all()
        padded = np.flatnonzero(LENGTHS[donors] <= at)
        swaps = drawn.with_donors({1 + at: np.full(len(drawn), int(np.argmin(LENGTHS)))})
        if at >= LENGTHS.min():
            assert not space.allows(swaps)[LENGTHS[drawn.references] > at].any()
        assert np.array_equal(donors[padded], drawn.references[padded])


def test_at_every_position_it_is_a_leaf_at_that_position() -> None:
    """The same draws, and the same outputs to the last digit."""
    each = Evaluator(GRAPH, data(), claimed(rest=ANYTHING), error())
    leaves = [
        module("here", agrees_on=f"half at {at}", pos=at, name=f"here {at}") for at in range(LENGTH)
    ]
    columns = {f"half at {at}": FEATURES["half"][:, at] for at in range(LENGTH)}
    apart = Evaluator(GRAPH, data(features=columns), output(*leaves), error())
    drawn, same = (e.space.draw(500, np.random.default_rng(0)) for e in (each, apart))
    assert np.array_equal(drawn.donors, same.donors)
    assert np.array_equal(each.evaluate(drawn), apart.evaluate(same))
    assert np.array_equal(np.stack([*moved_leaves(each, drawn).moved.values()]),
                          np.stack([*moved_leaves(apart, same).moved.values()]))  # fmt: skip
    for at in range(LENGTH):
        one, other = (e.slopes(s) for e, s in ((each, drawn), (apart, same)))
        mine = next(s for s in one if s.slot == 1 + at)
        theirs = next(s for s in other if s.slot == 1 + at)
        assert torch.equal(mine.gradient, theirs.gradient)
    nulls = [null_of(e.space) for e in (each, apart)]
    drawn, same = (n.draw(drawn.references, np.random.default_rng(3), 40) for n in nulls if n)
    assert np.array_equal(drawn.donors, same.donors)


def test_exact_at_each_position_is_exact() -> None:
    for dataset in (data(), data(padded=True)):
        for agrees_on in (EXACT, "row"):
            evaluator = Evaluator(GRAPH, dataset, claimed(agrees_on), error())
            drawn = evaluator.space.draw(200, np.random.default_rng(0))
            assert np.array_equal(drawn.donors[1:], np.tile(drawn.references, (LENGTH, 1)))
            assert np.array_equal(evaluator.evaluate(drawn), evaluator.unscrubbed(drawn.references))
    assert judged(claimed(EXACT, rest=EXACT)).outcome == judged(
        output(module("here", agrees_on=EXACT), rest=EXACT)
    ).outcome  # fmt: skip


def test_activations_in_files_are_gathered_alike(tmp_path: Path) -> None:
    values = torch.randn(5, 4, 3)
    kept = CachedSite(values, np.ones(5, dtype=bool), torch.device("cpu"))
    places, where = torch.tensor([[0, 4, 2], [3, 3, 1]]), torch.tensor([3, 0, 2])
    by_hand = torch.stack([values[places[:, k], where[k]] for k in range(3)], dim=1)
    assert torch.equal(kept.gather(places, where), by_hand)
    kept.to_file(tmp_path)
    assert torch.equal(kept.gather(places, where), by_hand)


# --- no false claim passes ------------------------------------------------------------------------


def test_a_claim_holds_or_falls_by_what_stands_at_each_position() -> None:
    held = judged(claimed("half"))
    assert held.outcome == "held"
    assert 0 < held.gap.mean < 1e-6
    assert judged(claimed("odd")).outcome == "refuted"
    # as a whole hardly two rows agree, so the claim could not be tested at all
    assert judged(output(module("here", agrees_on="row"), rest=EXACT)).outcome == "untested"


def test_a_claim_that_is_wrong_at_one_position_falls() -> None:
    wrong = FEATURES["half"].copy()
    wrong[:, 2] = FEATURES["odd"][:, 2]
    dataset = data(features={"wrong": wrong})
    assert judged(claimed("wrong"), dataset).outcome == "refuted"
    last = judged(claimed("wrong"), dataset, metric=error(3))
    assert last.outcome == "held"  # nobody looks at position 2


def test_positions_that_nobody_looks_at_do_not_count_as_swapped() -> None:
    """At the last one, which the metric reads, every row is alone in what it agrees on."""
    alone = np.zeros((120, LENGTH), dtype=int)
    alone[:, -1] = np.arange(120)
    network, tokens = transformer()
    root = output(head(0, 0, agrees_on="alone", pos=EACH), rest=EXACT)
    dataset = Dataset(tokens, labels=np.zeros(120, dtype=int), features={"alone": alone})

    def verdict_at(pos: int | None) -> Any:
        first = Metric("first", lambda out, batch: out.reshape(len(out), -1)[:, 0], pos)
        return check(root, network, dataset, metric=first, tolerance=9.0, seed=0, adversaries=())

    verdict = verdict_at(-1)
    (node,) = [node for node in verdict.nodes if not node.is_rest]
    assert (verdict.outcome, node.moved, node.with_other) == ("untested", 0.0, 0.0)
    (node,) = [node for node in verdict_at(None).nodes if not node.is_rest]
    assert node.with_other == 0.75  # of the positions that are read, all but the last
    assert 0.6 < node.moved < 0.75


def test_padded_positions_do_not_count_as_swapped() -> None:
    """Only rows that are padded at a position agree with others there."""
    there = np.arange(LENGTH) < LENGTHS[:, None]
    alone = np.where(there, np.arange(120)[:, None], 0)
    verdict = judged(claimed("alone"), data(padded=True, features={"alone": alone}))
    assert verdict.outcome == "untested"
    assert judged(claimed("alone"), data(features={"alone": alone})).outcome != "untested"


def test_one_position_that_is_swapped_does_not_test_all() -> None:
    """Of the sixteen that are read, rows agree at the first alone."""
    tokens = np.random.default_rng(0).integers(0, 6, size=(120, 16))
    alone = np.tile(np.arange(120)[:, None], (1, 16))
    alone[:, 0] = 0
    graph = FunctionGraph(here=lambda x: x.double(), output=lambda here: here + 0)
    dataset = Dataset({"x": torch.tensor(tokens)}, labels=tokens, features={"alone": alone})
    verdict = check(
        claimed("alone"), graph, dataset, metric=error(), tolerance=9.0, seed=0, adversaries=()
    )
    (node,) = [node for node in verdict.nodes if not node.is_rest]
    assert verdict.outcome == "untested"
    assert node.with_other == pytest.approx(1 / 16)
    assert 0 < node.moved < 1 / 16


def test_donors_that_give_the_same_at_a_position_do_not_count_as_swapped() -> None:
    """They are other rows, and differ elsewhere; what is read of them does not."""
    verdict = judged(claimed("value"))
    (node,) = [node for node in verdict.nodes if not node.is_rest]
    assert node.fixed
    assert node.moved == 0
    assert verdict.outcome == "untested"  # nothing else is swapped


def test_only_what_is_read_is_looked_at_where_each_row_has_its_own_position() -> None:
    where = np.random.default_rng(5).integers(0, LENGTH, size=120)
    network, tokens = transformer()
    dataset = Dataset(tokens, features={"where": where})
    root = output(head(0, 0, agrees_on=ANYTHING, pos=EACH), rest=EXACT)
    metric = Metric("first", lambda out, batch: out[:, 0], "where")
    evaluator = Evaluator(as_graph(network), dataset, root, metric)
    drawn = evaluator.space.draw(300, np.random.default_rng(0))
    read = read_at(evaluator, drawn)
    assert read[0].all()
    assert np.array_equal(read[1:], np.arange(LENGTH)[:, None] == where[drawn.references])
    moved = np.stack([*moved_leaves(evaluator, drawn).moved.values()])
    assert not (moved & ~read[1:]).any()
    assert moved.any(axis=0).mean() > 0.5
    # what nobody reads changes nothing
    own = np.where(read, drawn.donors, drawn.references)
    kept = evaluator.space.swap_set(drawn.references, own)
    assert np.array_equal(evaluator.evaluate(kept), evaluator.evaluate(drawn))


# --- one node for all who speak of nodes ----------------------------------------------------------


def test_tables_pictures_and_searches_over_nodes_know_one_node() -> None:
    root = output(
        module("here", agrees_on="half", pos=EACH), module("before", agrees_on=ANYTHING), rest=EXACT
    )
    verdict = judged(root, tolerance=1.0, adversaries=[WhichNodes(), WhichRefinement()])
    assert [node.slot for node in verdict.nodes] == [
        "output/rest",
        "output/here@each",
        "output/before",
    ]
    assert all(node.alone is not None for node in verdict.nodes)
    (here,) = [node for node in verdict.circuit.nodes if node.components == ("here",)]
    assert (here.path, here.positions) == ("output/here@each", "each")
    evaluator = Evaluator(GRAPH, data(), root, error())
    assert swapped_nodes(evaluator.space) == ["output/here@each", "output/before"]
    assert [slot.slot for slot in explain(evaluator).slots] == [
        "output/rest", "output/here@each", "output/before",
    ]  # fmt: skip
    kept = evaluator.space.keep(["output/here@each"]).draw(200, np.random.default_rng(0))
    assert (kept.donors[1 : 1 + LENGTH] != kept.references).any(axis=1).all()
    assert np.array_equal(kept.donors[1 + LENGTH], kept.references)
    one = evaluator.space.keep(["output/here@each/2"]).draw(200, np.random.default_rng(0))
    assert [bool((donors != one.references).any()) for donors in one.donors] == [
        at == 3 for at in range(len(one.slots))
    ]
    refined = evaluator.space.refine(["output/here@each"], EXACT)
    assert np.array_equal(
        refined.draw(50, np.random.default_rng(0)).donors[1:5],
        np.tile(refined.draw(50, np.random.default_rng(0)).references, (4, 1)),
    )


@only_in_full
def test_searches_find_the_position_at_which_a_claim_is_wrong() -> None:
    """At one position the feature knows nothing."""
    wrong = FEATURES["half"].copy()
    wrong[:, 1] = 0
    dataset = data(features={"wrong": wrong})
    # on average 1/3, and for the worst donors of all references 2/3
    verdict = judged(claimed("wrong"), dataset, tolerance=0.5, adversaries=[WhichDonors()])
    assert (verdict.average, verdict.outcome) == ("held", "refuted")
    assert verdict.search.counterexample is not None
    assert {swap.slot for swap in verdict.search.counterexample.swaps} == {"output/here@each/1"}
    (attempt,) = verdict.search.attempts
    halves = FEATURES["half"][:, 1]
    worst = (np.maximum(halves, halves.max() - halves) ** 2 / LENGTH).mean()
    assert attempt.found == pytest.approx(worst, rel=0.1)
    signed = Metric("signed", lambda out, batch: (out - batch.labels).mean(1))
    options = {"metric": signed, "tolerance": 0.06, "adversaries": [WhichSwaps()]}
    verdict = judged(claimed("wrong"), dataset, **options)
    assert verdict.outcome == "refuted"  # cancels on average
    told = "the reference's half and that of the donor at output/here@each/1 are 0 and 2"
    assert told in verdict.search.attempts[0].how


def test_saved_swaps_are_found_again() -> None:
    dataset = data(padded=True)
    drawn = SwapSpace(claimed(), dataset).draw(5, np.random.default_rng(0))
    saved = saved_of(dataset, drawn)
    assert resolve(saved, saved.worst, dataset, claimed())[1] == drawn
    assert "output/here@each/0 <- row" in repr(replace(drawn, hypothesis=claimed()))


def test_joined_it_agrees_on_both_at_each_position() -> None:
    both = join(claimed("half"), claimed("odd"))
    assert isinstance(both, Node)
    assert both == claimed(["half", "odd"])
    one, other, joint = (SwapSpace(t, data()) for t in (claimed("half"), claimed("odd"), both))
    drawn = one.draw(2000, np.random.default_rng(0))
    assert np.array_equal(joint.allows(drawn), one.allows(drawn) & other.allows(drawn))


def test_donors_are_shared_position_by_position() -> None:
    root = output(
        module("here", agrees_on="half", pos=EACH, name="h"),
        module("before", agrees_on="half", pos=EACH, shares="h"),
    )
    drawn = SwapSpace(root, data()).draw(50, np.random.default_rng(0))
    assert np.array_equal(drawn.donors[1:5], drawn.donors[5:9])


def test_a_group_takes_one_donor_at_each_position() -> None:
    root = output(group(["here", "before"], agrees_on="half", pos=EACH), rest=EXACT)
    evaluator = Evaluator(GRAPH, data(), root, error())
    drawn = evaluator.space.draw(100, np.random.default_rng(0))
    out = TARGET.numpy()
    by_hand = np.stack([out[drawn.donors[1 + at], at] for at in range(LENGTH)], axis=1)
    assert np.allclose(evaluator.outputs(drawn).numpy(), by_hand)


def test_mutants_of_it_are_false_by_position() -> None:
    found = mutants(GRAPH, data(), claimed(["half", "odd"]), None, np.random.default_rng(0)).mutants
    merged = [m for m in found if "merged" in m.what or "merged" in m.means]
    for mutant in found:
        SwapSpace(mutant.hypothesis, mutant.dataset)
    assert {m.kind for m in found} >= {"dropped", "coarsened", "permuted"}
    one = mutants(GRAPH, data(), claimed("value"), None, np.random.default_rng(0)).mutants
    (merged,) = [m for m in one if m.kind == "coarsened"]
    (feature,) = [name for name in merged.dataset.feature_names if "merged" in name]
    # neighbouring values at each position, not neighbouring rows
    assert np.array_equal(merged.dataset.feature(feature), X // 2 * 2)


# --- donors from any position ---------------------------------------------------------------------

SHIFTED = EACH(with_shift=True)
# What is added at a position is a multiple of the position, whatever else stands there.
BY_POSITION = FunctionGraph(
    here=lambda x: (x // 2).double() * torch.arange(1, 1 + x.shape[1]),
    output=lambda here: here + 0,
)


def shifted(agrees_on: Any = "half", name: str = "here", **options: Any) -> Node:
    return output(module(name, agrees_on=agrees_on, pos=SHIFTED), **{"rest": EXACT, **options})


def read_from_where(space: SwapSpace, drawn: Any) -> tuple[Any, Any]:
    """The row and the position of every donor of `here`, `[positions, R]`."""
    further, rows = np.divmod(drawn.donors[1 : 1 + LENGTH], len(space.dataset))
    return rows, (np.arange(LENGTH)[:, None] + further) % LENGTH


def test_shifted_donors_come_from_any_position_that_agrees() -> None:
    for padded in (False, True):
        space = SwapSpace(shifted(), data(padded=padded))
        assert space.paths == SwapSpace(claimed(), data()).paths
        drawn = space.draw(4000, np.random.default_rng(0))
        assert not space.check(drawn)
        rows, places = read_from_where(space, drawn)
        half = FEATURES["half"]
        own = half[drawn.references].T
        assert np.array_equal(half[rows, places], own)
        moved = (rows != drawn.references) | (places != np.arange(LENGTH)[:, None])
        there = np.arange(LENGTH)[:, None] < LENGTHS[drawn.references] if padded else True
        assert (places < LENGTHS[rows])[moved].all() or not padded
        assert not (moved & ~np.broadcast_to(there, moved.shape)).any()
        # as often from every position as something there agrees
        agree = half == 1
        agree &= (np.arange(LENGTH) < LENGTHS[:, None]) if padded else True
        seen = np.bincount(places[:, :][(own == 1) & there], minlength=LENGTH)
        expected = agree.sum(0) / agree.sum() * seen.sum()
        assert np.abs(seen - expected).max() < 5 * np.sqrt(expected.max())


def test_what_a_shifted_donor_gives_is_what_it_has_there() -> None:
    network, tokens = transformer()
    dataset = Dataset(tokens, features={"half": X // 2})
    for graph, with_data, name in ((GRAPH, data(), "here"), (as_graph(network), dataset, None)):
        leaf = module("here", agrees_on=ANYTHING, pos=SHIFTED)
        leaf = leaf if name else head(0, 0, agrees_on=ANYTHING, pos=SHIFTED)
        root = output(leaf, rest=EXACT)
        for pos in (None, -1, 1):
            metric = Metric("first", lambda out, batch: out.reshape(len(out), -1)[:, 0], pos)
            evaluator = Evaluator(graph, with_data, root, metric)
            drawn = evaluator.space.draw(40, np.random.default_rng(0))
            rows, places = read_from_where(evaluator.space, drawn)
            # a leaf at one position, whose donor has there what the shifted one has elsewhere
            for at in range(LENGTH) if pos is None else [pos % LENGTH]:
                one = evaluator.space.keep([f"output/{leaf.label}/{at}"])
                chosen = drawn.donors
                alone = one.fill(drawn.references, lambda i, *_, chosen=chosen: chosen[i])
                assert (alone.donors != drawn.references).any(axis=1).sum() == 1
                got = evaluator.outputs(alone)
                if graph is GRAPH:
                    expected = TARGET[torch.tensor(drawn.references)].clone()
                    here = X // 2 + 0.001 * (X % 2)
                    change = here[rows[at], places[at]] - here[drawn.references, at]
                    expected[:, at] += torch.tensor(change)
                    expected = expected if pos is None else expected[:, pos]
                    assert torch.allclose(got, expected)


def test_a_shifted_claim_holds_or_falls_by_what_stands_at_each_position() -> None:
    held = judged(shifted("half"))
    assert held.outcome == "held"
    assert 0 < held.gap.mean < 1e-6
    assert judged(shifted("odd")).outcome == "refuted"
    target = BY_POSITION.run({"x": torch.tensor(X)})
    dataset = Dataset({"x": torch.tensor(X)}, labels=target, features=FEATURES)
    options = {"metric": error(), "tolerance": 0.02, "seed": 0, "adversaries": ()}
    # what it writes depends on where it stands, which only a claim without a shift may leave out
    assert check(claimed(), BY_POSITION, dataset, **options).outcome == "untested"  # never moves
    assert check(shifted(), BY_POSITION, dataset, **options).outcome == "refuted"


def test_a_shifted_claim_knows_its_own_position_only_where_it_says_so() -> None:
    """Agreeing on the position as well is the claim without the shift."""
    where = np.tile(np.arange(LENGTH), (120, 1))
    dataset = data(features={"where": where})
    both = SwapSpace(shifted(["half", "where"]), dataset)
    drawn = both.draw(500, np.random.default_rng(0))
    assert np.array_equal(drawn.donors, SwapSpace(claimed(), dataset).draw(
        500, np.random.default_rng(0)).donors)  # fmt: skip


def test_the_null_of_a_shifted_claim_knows_no_position() -> None:
    """Permuted among rows alone, a feature that is the position would know all it knew."""
    where = np.tile(np.arange(LENGTH), (120, 1))
    for padded in (False, True):
        dataset = data(padded=padded, features={"where": where})
        null = null_of(SwapSpace(shifted("where"), dataset))
        assert null is not None
        assert null.spaces(10**9) is None
        space = null.space(np.random.default_rng(0))
        codes = space.agree(1).reshape(LENGTH, -1)
        there = (np.arange(LENGTH) < LENGTHS[:, None]).T if padded else np.ones((LENGTH, 120), bool)
        first = np.isin(np.arange(120), dataset.first_of_content)
        own = np.bincount(where.T[there & first])
        now = np.unique(codes[there & first], return_counts=True)[1]
        assert sorted(own) == sorted(now)  # as many values of the same frequencies
        for at in range(LENGTH):
            assert len(np.unique(codes[at][there[at] & first])) > 1
        drawn = null.draw(dataset.reference_rows, np.random.default_rng(1), 40)
        rows, places = read_from_where(space, drawn)
        swapped = drawn.donors[1:] != drawn.references
        assert (places < LENGTHS[rows])[swapped].all() or not padded
        assert (places != np.arange(LENGTH)[:, None]).mean() > 0.3
    verdict = judged(shifted(), min_explained=0.9, tolerance=None)
    assert verdict.outcome == "held"


def test_every_shifted_donor_is_ranked_as_what_it_gives() -> None:
    """The metric is linear, so the first order is all there is."""
    linear = Metric("linear", lambda out, batch: (out * torch.arange(1, 1 + LENGTH)).sum(1))
    evaluator = Evaluator(GRAPH, data(), shifted(ANYTHING), linear)
    space, donors = evaluator.space, np.arange(120 * LENGTH)
    references = np.array([3, 50])
    evaluator.ensure(evaluator.sites, donors)
    base = space.unswapped(references)
    slopes = evaluator.slopes(base)
    for i in range(1, 1 + LENGTH):
        scores = first_order(evaluator.store, slopes, [i], donors)
        assert scores is not None
        for nth, reference in enumerate(references):
            tried = space.unswapped(np.full(len(donors), reference)).with_donors({i: donors})
            exact = evaluator.evaluate(tried) - evaluator.unscrubbed(references)[nth]
            gained = (scores[nth] - scores[nth, reference]).numpy()
            assert np.allclose(gained, exact, atol=1e-9)


def test_searches_find_the_worst_shifted_donors_and_say_where_they_are_read() -> None:
    signed = Metric("signed", lambda out, batch: (out - batch.labels).mean(1))
    dataset = data(features={"nothing": np.zeros((120, LENGTH), dtype=int)})
    options = {"metric": signed, "tolerance": 0.3, "min_gap": None}
    options.pop("min_gap")
    verdict = judged(
        shifted("nothing"), dataset, **options,
        adversaries=[WhichDonors(), WhichSwaps(), WhichNodes(), WhichRefinement(), WhichInputs()],
    )  # fmt: skip
    assert (verdict.average, verdict.outcome) == ("held", "refuted")
    found = {attempt.adversary: attempt for attempt in verdict.search.attempts}
    # the largest of all halves in place of each, a little less where another is as odd
    halves = FEATURES["half"]
    worst = ((halves.max() - halves).mean() + halves.mean()) / 2  # either way
    assert abs(found["which donors"].found) == pytest.approx(worst, rel=0.12)
    assert "with_shift=True" in found["which inputs"].how
    counterexample = verdict.search.counterexample
    assert counterexample is not None
    assert all(swap.slot.startswith("output/here@each/") for swap in counterexample.swaps)
    assert any("read at position" in swap.differs for swap in counterexample.swaps)


def test_shifted_swaps_are_saved_and_found_again(tmp_path: Path) -> None:
    for padded in (False, True):
        dataset = data(padded=padded)
        drawn = SwapSpace(shifted(), dataset).draw(5, np.random.default_rng(0))
        save(tmp_path / "saved.json", saved_of(dataset, drawn))
        saved = load(tmp_path / "saved.json")
        assert saved == saved_of(dataset, drawn)
        again = resolve(saved, saved.worst, dataset, shifted())[1]
        content = SwapSpace(shifted(), dataset).content  # some rows are twice in the data
        assert np.array_equal(content[again.donors], content[drawn.donors])
        assert padded or not np.array_equal(content[again.donors], content[again.donors % 120])
        with pytest.raises(ClaimChanged, match="positions from which it takes none"):
            resolve(saved, saved.worst, dataset, claimed())
    assert "positions on" in repr(replace(drawn, hypothesis=shifted()))
    plain = saved_of(dataset, SwapSpace(claimed(), dataset).draw(5, np.random.default_rng(0)))
    save(tmp_path / "plain.json", plain)
    assert "further" not in (tmp_path / "plain.json").read_text()
    text = (tmp_path / "saved.json").read_text().replace('"further": {', '"further": {"x": [1],')
    (tmp_path / "saved.json").write_text(text)
    with pytest.raises(DamagedFile, match="the positions of its donors"):
        load(tmp_path / "saved.json")


def test_a_donor_from_another_position_is_refused_where_none_is_claimed() -> None:
    root = output(
        module("here", agrees_on=ANYTHING, pos=SHIFTED),
        module("before", agrees_on=ANYTHING, pos=EACH),
    )
    evaluator = Evaluator(GRAPH, data(), root, error())
    drawn = evaluator.space.draw(3, np.random.default_rng(0))
    for slot in ("output/rest", "output/before@each/2"):
        wrong = drawn.with_donors({evaluator.space.index[slot]: drawn.references + 120})
        with pytest.raises(DataError, match="at a position from which its slot takes none"):
            evaluator.evaluate(wrong)
    too_far = drawn.with_donors({evaluator.space.index["output/here@each/1"]: np.full(3, 480)})
    with pytest.raises(DataError, match="at a position from which its slot takes none"):
        evaluator.evaluate(too_far)


def test_shifted_and_other_nodes_are_searched_side_by_side() -> None:
    """One with donors from anywhere, one with a donor for each position, one with one."""
    graph = FunctionGraph(
        here=lambda x: (x // 2).double(),
        before=lambda x: torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1).double(),
        last=lambda x: x[:, -1:].double(),
        output=lambda here, before, last: here + before + last,
    )
    before = np.concatenate([np.zeros((120, 1), dtype=int), X[:, :-1]], axis=1)
    dataset = Dataset(
        {"x": torch.tensor(X)}, labels=graph.run({"x": torch.tensor(X)}),
        features={**FEATURES, "before": before, "last": X[:, -1]},
    )  # fmt: skip
    root = output(
        module("here", agrees_on="half", pos=SHIFTED),
        module("before", agrees_on="before", pos=EACH),
        module("last", agrees_on="last"),
        rest=EXACT,
    )
    verdict = check(
        root, graph, dataset, metric=error(), tolerance=1e-6, seed=0,
        adversaries=[WhichDonors(), WhichNodes(), WhichRefinement(), WhichSwaps()],
    )  # fmt: skip
    assert verdict.outcome == "untested"  # what is read never differs
    wrong = replace(root, reads=(*root.reads[:2], module("last", agrees_on="first")))
    for adversary in (WhichDonors(), WhichNodes(), WhichRefinement(), WhichSwaps()):
        found = check(
            wrong, graph, dataset, metric=error(), tolerance=9.0, seed=0, adversaries=[adversary]
        )
        (attempt,) = found.search.attempts
        assert attempt.found > 1


def test_mutants_of_a_shifted_claim_are_made() -> None:
    made = mutants(GRAPH, data(), shifted(["half", "odd"]), None, np.random.default_rng(0)).mutants
    for mutant in made:
        SwapSpace(mutant.hypothesis, mutant.dataset)
    assert {m.kind for m in made} >= {"dropped", "coarsened", "permuted"}


def test_a_shifted_claim_is_joined_with_its_like() -> None:
    both = join(shifted("half"), shifted("odd"))
    assert both == shifted(["half", "odd"])
    # of both is what both allow: from the same position alone
    for one, other in ((shifted("half"), claimed("odd")), (claimed("odd"), shifted("half"))):
        assert join(one, other) == claimed(["half", "odd"])


# --- the null -------------------------------------------------------------------------------------


def test_the_null_permutes_what_is_there_at_each_position() -> None:
    for padded in (False, True):
        dataset = data(padded=padded)
        null = null_of(SwapSpace(claimed(), dataset))
        assert null is not None
        space = null.space(np.random.default_rng(0))
        there = np.arange(LENGTH) < LENGTHS[:, None] if padded else np.ones_like(X, dtype=bool)
        for at in range(LENGTH):
            rows = dataset.first_of_content
            rows = rows[there[rows, at]]
            own = np.unique(FEATURES["half"][rows, at], return_counts=True)[1]
            now = np.unique(space.agree(1 + at)[rows], return_counts=True)[1]
            assert sorted(own) == sorted(now)  # as many values of the same frequencies
        drawn = null.draw(dataset.reference_rows, np.random.default_rng(1), 40)
        half = FEATURES["half"]
        unlike = [
            half[drawn.donors[1 + at], at] != half[drawn.references, at] for at in range(LENGTH)
        ]
        assert np.mean(unlike[0]) > 0.3
        for at in range(LENGTH):
            donors = drawn.donors[1 + at]
            assert there[donors[donors != drawn.references], at].all()
        assert null.of_one("output/here@each").permuted == null.permuted
        assert (null.spaces(10**9) is None) or not padded
    verdict = judged(claimed(), min_explained=0.9, tolerance=None)
    assert verdict.outcome == "held"
    (here,) = [node for node in verdict.nodes if not node.is_rest]
    assert here.unknowing is not None
    assert here.unknowing.mean > 0.1


@given(st.permutations(range(6)), st.lists(st.booleans(), min_size=6, max_size=6))
def test_what_stands_in_for_padded_rows_is_a_permutation_of_the_others(
    order: list[int], there: list[bool]
) -> None:
    rows, mask = np.array(order), np.array(there)
    found = rows_at(rows, mask)
    assert sorted(found[mask].tolist()) == np.flatnonzero(mask).tolist()
    assert all(found[i] == rows[i] for i in range(6) if mask[i] and mask[rows[i]])


AS_ONE = {"halves": X[:, None] // 2, "pair": X[:, :2] // 2}  # one value for a row


def test_values_of_a_row_that_are_one_agree_as_a_whole() -> None:
    space = SwapSpace(output(module("here", agrees_on="halves"), rest=EXACT), data(features=AS_ONE))
    half = space.dataset.feature("half")
    drawn = space.draw(200, np.random.default_rng(0))
    donors = drawn.donors[space.index["output/here"]]
    assert np.array_equal(half[donors], half[drawn.references])


def test_the_table_says_what_agrees_as_a_whole() -> None:
    def told(**says: Any) -> list[str]:
        claimed = output(module("here", **says), rest=EXACT)
        options = {"metric": Metric("first", lambda out, batch: out[:, 0]), "adversaries": ()}
        dataset = data(features=AS_ONE)
        verdict = check(claimed, GRAPH, dataset, tolerance=1.0, samples=50, **options)
        return [node.agrees_on for node in verdict.nodes if not node.is_rest]

    assert told(agrees_on="halves") == ["halves (all 4 values of halves at once)"]
    assert told(agrees_on="pair") == ["pair (all 2 values of pair at once)"]
    assert told(agrees_on="half", pos=EACH) == ["half"]
    assert told(agrees_on="first") == ["first"]


NEXT = FunctionGraph(here=lambda x: GRAPH.run({"x": x.roll(-1, 1)}), output=lambda here: here + 0)


def test_agreement_as_a_whole_is_no_agreement_at_each_position() -> None:
    """What stands at a position is made of what stands at others, so at each the feature there does
    not settle it; whoever left pos=EACH out by mistake would see the claim hold."""
    x = {"x": torch.tensor(X)}
    dataset = Dataset(x, labels=NEXT.run(x), features={**FEATURES, **AS_ONE})
    options = {"metric": error(), "tolerance": 0.02, "seed": 0, "adversaries": ()}

    def found(**says: Any) -> str:
        return check(output(module("here", **says), rest=EXACT), NEXT, dataset, **options).outcome

    assert found(agrees_on="half", pos=EACH) == "refuted"
    assert found(agrees_on="halves") == "held"
    with pytest.raises(DataError, match=r"'half' \[120, 4\] has a value for each of 4 positions"):
        found(agrees_on="half")


@pytest.mark.parametrize("as_given", [list, lambda v: np.array(v).astype(str), lambda v: [
    tuple(map(str, row)) for row in v]], ids=["lists", "text", "tuples of text"])  # fmt: skip
def test_values_for_each_position_are_refused_in_whatever_form(as_given: Any) -> None:
    """And where the whole row is told apart, taken, each of them by one more dimension."""
    values = as_given((X // 2).tolist())
    dataset = data(features={"form": values, "whole": np.array(values)[:, None]})
    with pytest.raises(DataError, match=r"'form'.*values\[:, None\]"):
        SwapSpace(output(module("here", agrees_on="form")), dataset)
    space = SwapSpace(output(module("here", agrees_on="whole")), dataset)
    same = (X[:, None] // 2 == X // 2).all(2)  # [rows, rows]
    assert np.array_equal(space.count()["output/here"], same.sum(1))


def test_one_position_is_the_whole_row() -> None:
    dataset = Dataset({"x": torch.tensor(X[:, :1])}, features={"f": X[:, :1] // 2})
    assert (
        SwapSpace(output(module("here", agrees_on="f")), dataset).count()["output/here"].max() > 1
    )


@pytest.mark.parametrize("how", [EACH, SHIFTED], ids=["same position", "any position"])
def test_what_is_one_value_for_a_row_stands_beside_values_for_each_position(how: Any) -> None:
    """Searches ask at every position for what the claim does not name."""
    three = {"nothing": np.zeros((120, LENGTH), dtype=int), "three": X[:, :3], **AS_ONE}
    for name in ("half", "nothing"):
        root = output(module("here", agrees_on=name, pos=how), rest=EXACT)
        searches = [WhichDonors(), WhichSwaps(), WhichNodes(), WhichRefinement(), WhichInputs()]
        verdict = judged(root, data(features=three), tolerance=0.3, adversaries=searches)
        found = {tried.adversary for tried in verdict.search.attempts if tried.gap is not None}
        assert found >= {"which donors", "which swaps", "which refinement"}
    codes = data(features=three).codes(Agreement(("halves",)), Places(range(1, 3), LENGTH))
    assert np.array_equal(codes[:120], codes[120:])
    assert np.array_equal(codes[:120] == codes[0], (X[0] // 2 == X // 2).all(1))


# --- what it cannot mean --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (
            lambda: module("here", agrees_on="half", pos=EACH, reads=[module("x", agrees_on="a")]),
            "here has pos=EACH and reads=, but only a leaf that takes activations has a donor of "
            "its own for each position; claim the positions one by one",
        ),
        (
            lambda: module("here", agrees_on="half", pos=EACH, computed_by=len),
            "here has pos=EACH and computed_by=, but only a leaf that takes activations has a "
            "donor of its own for each position; claim the positions one by one",
        ),
        (
            lambda: SwapSpace(output(module("here", agrees_on="half")), data()),
            "output/here: feature 'half' [120, 4] has a value for each of 4 positions; give the "
            "node pos=EACH for a donor at each of them that agrees there, or give the feature as "
            "[rows, 1, 4], values[:, None], where a donor agrees on the whole row at once",
        ),
        (
            lambda: SwapSpace(output(module("here", agrees_on="first"), rest="odd"), data()),
            "output/rest: feature 'odd' [120, 4] has a value for each of 4 positions; give a leaf "
            "pos=EACH for a donor at each of them that agrees there, or give the feature as "
            "[rows, 1, 4], values[:, None], where a donor agrees on the whole row at once",
        ),
        (
            lambda: Evaluator(GRAPH, data(features={"f": X[:, :3]}), claimed("f")),
            "output/here@each: pos=EACH has a donor for each of 3 positions, as what it agrees on "
            "has, but here has 4 positions",
        ),
        (
            lambda: Evaluator(
                FunctionGraph(a=lambda x: x.double().sum(1), output=lambda a: 1 * a),
                data(), claimed(name="a")),
            "pos= of output/a@each: a has no positions, one number for each input; leave pos= out",
        ),
        (
            lambda: SwapSpace(claimed(["half", "f"]), data(features={"f": X[:, :3]})),
            "output/here@each: feature 'f' has 3 positions and feature 'half' has 4; give pos=EACH "
            "one value for each position",
        ),
        (
            lambda: SwapSpace(claimed("f"), data(features={"f": np.zeros((120, 4, 2))})),
            "output/here@each: feature 'f' has several values for each row, but no array [rows, "
            "positions] of them; give pos=EACH one value for each position",
        ),
        (
            lambda: SwapSpace(claimed("f"), data(features={"f": [["a"] * 4] * 120})),
            "output/here@each: feature 'f' has several values for each row, but no array [rows, "
            "positions] of them; give pos=EACH one value for each position",
        ),
        (
            lambda: SwapSpace(claimed("n"), Dataset(torch.arange(4), features={"n": [0, 0, 1, 1]})),
            "output/here@each: the inputs have no positions; give pos=EACH a feature [rows, "
            "positions]",
        ),
        (
            lambda: SwapSpace(claimed("f"), data(padded=True, features={"f": X[:, :3]})),
            "output/here@each: pos=EACH has 3 positions, but 'attention_mask' has (4,), so it does "
            "not say which are padded; claim the positions one by one",
        ),
        (
            lambda: SwapSpace(
                output(module("here", agrees_on="half", pos=EACH, name="h"),
                       module("before", agrees_on="half", shares="h")), data()),
            "output/before and output/h@each share donors, but only some have them for each "
            "position; give all of them pos=EACH, or none",
        ),
        (
            lambda: module("here", agrees_on=EXACT, pos=SHIFTED),
            "here has pos=EACH(with_shift=True) and agrees_on=EXACT, which is its own position of "
            "its own input; name a feature, or leave with_shift= out",
        ),
        (
            lambda: EACH(shift=True),
            "EACH is given as it is, pos=EACH, or called with with_shift= alone, "
            "pos=EACH(with_shift=True), not with shift=; did you mean 'with_shift'?",
        ),
        (
            lambda: EACH(True),
            "EACH is given as it is, pos=EACH, or called with with_shift= alone, "
            "pos=EACH(with_shift=True), not with True",
        ),
        (
            EACH,
            "EACH is given as it is, pos=EACH, or called with with_shift= alone, "
            "pos=EACH(with_shift=True), not with nothing",
        ),
        (
            lambda: EACH(with_shift="yes"),  # type: ignore[arg-type]
            "with_shift= of EACH is True or False, not 'yes'",
        ),
        (
            lambda: SwapSpace(
                output(module("here", agrees_on="half", pos=SHIFTED, name="h"),
                       module("before", agrees_on="half", pos=EACH, shares="h")), data()),
            "output/before@each and output/h@each share donors, but only some have them from any "
            "position; give all of them EACH(with_shift=True), or none",
        ),
        (
            lambda: Dataset(torch.tensor(X), labels=X, label_pos=EACH),
            "label_pos= takes an int, a slice or the name of a feature, not each; for several give "
            "a feature with a mask",
        ),
        (
            lambda: Evaluator(
                GRAPH, data(), output(module("here", agrees_on="half", pos=EACH),
                                      module("here", agrees_on="first", pos=2))),
            "output/here@each and output/here@2 claim the same edge into output twice; join them "
            "into one node, or part them by into=, pos= or orthogonal subspaces",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_mean_is_one_sentence(make: Any, sentence: str) -> None:
    with pytest.raises(
        (HypothesisError, DataError), match=rf"^{re.escape(sentence)}(\nsaid at .*)?$"
    ):
        make()


def test_a_squared_error_reads_it_like_any_other() -> None:
    verdict = judged(claimed("odd"), metric=squared_error())
    assert verdict.outcome == "refuted"
