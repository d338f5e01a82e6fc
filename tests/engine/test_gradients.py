"""Slopes: what donors would change to first order, against what they do change and against numeric
differences."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pytest_scrub.data.dataset import Dataset, Positions
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.gradients import ActivationGradient, first_order, sizes
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import HypothesisError
from pytest_scrub.metrics import Metric, cross_entropy, kl_to_clean, zero_one_error
from pytest_scrub.network import FunctionGraph, ModelGraph, as_graph
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import (
    ANYTHING,
    EXACT,
    Node,
    attn,
    embed,
    group,
    head,
    mask,
    mlp,
    module,
    output,
)
from tests.reference.families import FAMILIES, AllFloat64
from tests.reference.generate import (
    POSITION,
    POSITIONS,
    Architecture,
    build,
    computes_in_float32,
    datasets,
    hypotheses,
    positions,
    small_transformers,
)
from tests.sizes import few_in_quick, only_in_full, sized

Rows = npt.NDArray[np.int64]
ANY: dict[str, Any] = {"agrees_on": ANYTHING}


def rows_of(evaluator: Evaluator) -> Rows:
    return np.arange(len(evaluator.dataset))


def arbitrary(
    evaluator: Evaluator, n: int = 4, seed: int = 0, rows: Sequence[int] | None = None
) -> SwapSet:
    """Any donors, allowed or not: an evaluation asks for no agreement."""
    rng = np.random.default_rng(seed)
    rows = rows_of(evaluator).tolist() if rows is None else rows
    references, donors = rng.choice(rows, n), rng.choice(rows, (len(evaluator.space.slots), n))
    for i, slot in enumerate(evaluator.space.slots):
        donors[i] = donors[i] if slot.shares is None else donors[slot.shares]
    return evaluator.space.swap_set(references, donors)


def together(evaluator: Evaluator, path: str) -> list[int]:
    """The slot with this path and those that share its donor."""
    i = evaluator.space.index[path]
    return [i, *(j for j, slot in enumerate(evaluator.space.slots) if slot.shares == i)]


def with_donor(
    evaluator: Evaluator, swap_set: SwapSet, slots: Sequence[int], donor: Any
) -> SwapSet:
    donors = swap_set.donors.copy()
    donors[slots] = donor
    return evaluator.space.swap_set(swap_set.references, donors)


def figures(
    evaluator: Evaluator, swap_set: SwapSet, slots: Sequence[int], donors: Rows
) -> npt.NDArray[np.float64]:
    """`[R, donors]`: the metric with each donor in these slots."""
    return np.stack(
        [evaluator.evaluate(with_donor(evaluator, swap_set, slots, donor)) for donor in donors],
        axis=1,
    )


def estimates(
    evaluator: Evaluator, swap_set: SwapSet, slots: Sequence[int], donors: Rows
) -> npt.NDArray[np.float64]:
    evaluator.store.ensure(evaluator.sites, donors)
    found = first_order(evaluator.store, evaluator.slopes(swap_set), slots, donors)
    assert found is not None
    assert found.dtype == torch.float64
    return found.numpy()


def assert_exact(
    evaluator: Evaluator, swap_set: SwapSet, path: str, donors: Rows | None = None
) -> None:
    """Differences between donors are those of the metric, for every reference."""
    donors = rows_of(evaluator) if donors is None else donors
    slots = together(evaluator, path)
    true, found = (of(evaluator, swap_set, slots, donors) for of in (figures, estimates))
    assert np.ptp(true, axis=1).min() > 1e-3  # or there would be nothing to compare
    np.testing.assert_allclose(found - found[:, :1], true - true[:, :1], rtol=0, atol=1e-9)


# --- exact where the metric is linear in what a slot gives: graphs of functions -------------------


VALUES = {
    name: torch.tensor(np.random.default_rng(ord(name)).normal(size=(8, 3))) for name in "abc"
}
FUNCTIONS = Dataset(VALUES, labels=torch.arange(8.0), features={"f": [0] * 8, "row": range(8)})


def products() -> FunctionGraph:
    """Linear in each of its values by itself, so that slopes depend on all others' donors."""
    return FunctionGraph(
        A=lambda a, b: 2 * a + a * b,
        B=lambda b: 3 * b,
        output=lambda A, B, c: (A * B * torch.tensor([1.0, -2.0, 0.5]) + c * A + B).sum(1),
    )


OUT = Metric("out", lambda out, batch: out * (1 + batch.labels))


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (output(module("A", **ANY), module("B", **ANY)), "output/A"),
        (output(module("A", **ANY), module("B", **ANY)), "output/B"),
        (output(module("A", **ANY), module("B", **ANY)), "output/rest"),  # gives c alone
        (output(module("A", **ANY), module("B", agrees_on=EXACT)), "output/A"),
        (output(module("A", **ANY, reads=[module("a", **ANY)])), "output/A/a"),
        (output(module("A", **ANY, reads=[module("a", **ANY)])), "output/A/rest"),  # gives b alone
        (
            output(module("A", **ANY, reads=[module("a", **ANY, subspace=np.eye(3)[:, :2])])),
            "output/A/a",
        ),
        (output(module("A", **ANY, subspace=np.eye(3)[:, 1:])), "output/A"),
        (output(module("a", **ANY, via="any")), "output/a"),
        (output(agrees_on="f"), "output"),
    ],
)
def test_changes_of_a_linear_graph_are_exact(root: Node, path: str) -> None:
    evaluator = Evaluator(products(), FUNCTIONS, root, OUT)
    assert_exact(evaluator, arbitrary(evaluator), path)


@pytest.mark.parametrize("path", ["output/a", "output/rest"])
def test_changes_of_a_linear_graph_that_is_run_again_are_exact(path: str) -> None:
    graph = FunctionGraph(
        A=lambda a, b: 2 * a - b,
        output=lambda A, c: (A * torch.tensor([1.0, -2.0, 0.5]) + c).sum(1),
    )
    evaluator = Evaluator(graph, FUNCTIONS, output(module("a", **ANY, via="any")), OUT)
    swap_set = arbitrary(evaluator)
    assert_exact(evaluator, swap_set, path)
    # inputs of the row that is run
    assert {slope.source for slope in evaluator.slopes(swap_set)} >= {"a", "b", "c"}


def test_a_shared_donor_changes_all_that_share_it() -> None:
    graph = FunctionGraph(
        A=lambda a: 2 * a, B=lambda b: 3 * b, output=lambda A, B, c: (A - B * c.cos()).sum(1)
    )
    root = output(module("A", **ANY, name="owner"), module("B", **ANY, shares="owner"), rest=EXACT)
    evaluator = Evaluator(graph, FUNCTIONS, root, OUT)
    swap_set = arbitrary(evaluator)
    assert_exact(evaluator, swap_set, "output/owner")
    alone = estimates(
        evaluator, swap_set, together(evaluator, "output/owner")[:1], rows_of(evaluator)
    )
    both = estimates(evaluator, swap_set, together(evaluator, "output/owner"), rows_of(evaluator))
    assert not np.allclose(alone, both)


def test_what_is_not_linear_is_estimated_where_the_donors_are_now() -> None:
    # out = A * B, so along A it changes by the B of the present donor, whatever the others could
    # be.
    graph = FunctionGraph(A=lambda a: a, B=lambda b: b, output=lambda A, B: A * B)
    data = Dataset(
        {"a": torch.tensor([1.0, 2, 4]), "b": torch.tensor([3.0, 5, 7])}, features={"f": [0] * 3}
    )
    evaluator = Evaluator(
        graph, data, output(module("A", **ANY), module("B", **ANY), rest=EXACT), lambda o, batch: o
    )
    swap_set = evaluator.space.swap_set(np.array([0, 1]), np.array([[0, 1], [1, 1], [2, 0]]))
    assert estimates(evaluator, swap_set, [1], rows_of(evaluator)).tolist() == [
        [7, 14, 28],
        [3, 6, 12],
    ]
    assert estimates(evaluator, swap_set, [2], rows_of(evaluator)).tolist() == [
        [6, 10, 14],
        [6, 10, 14],
    ]
    # Two slots at once are the sum of both, not the product.
    assert estimates(evaluator, swap_set, [1, 2], np.array([0])).tolist() == [[7 + 6], [3 + 6]]


# --- exact where the metric is linear in what a slot gives: transformers --------------------------


LENGTH, CLASSES = 4, 5
TOKENS = torch.randint(5, (12, LENGTH), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(TOKENS)
MASK[::3, -1] = 0
COLUMNS = {
    "first": TOKENS[:, 0] % 2,
    "where": TOKENS[:, 1] % LENGTH,
    "elsewhere": TOKENS[:, 2] % LENGTH,
    # two positions in every row
    "marked": [list(np.roll([True, True, False, False], row)) for row in range(12)],
    # two or three positions
    "uneven": [[i < 2 + row % 2 for i in range(LENGTH)] for row in range(12)],
}


def transformer(norm: str | None = None) -> ModelGraph:
    """Two layers of two heads and an MLP; without a norm its logits are linear in all that the
    output reads."""
    small = Architecture(n_layers=2, d_head=4, n_ctx=LENGTH, attn_only=False, norm=norm)
    return as_graph(build(small).bridge)


def dataset(label_pos: Any) -> Dataset:
    return Dataset(
        {"tokens": TOKENS, "attention_mask": MASK},
        labels=TOKENS[:, 0],
        label_pos=label_pos,
        features=COLUMNS,
    )


STORES: dict[str, ActivationStore] = {}


def on_transformer(
    norm: str | None, label_pos: Any, root: Node, metric: Any = None, **options: Any
) -> Evaluator:
    """Evaluators of one network on the same rows share a store: it is proved once."""
    store = STORES.get(key := f"{norm}, {label_pos}")
    if store is None:
        store = STORES[key] = ActivationStore(transformer(norm), dataset(label_pos))
    return Evaluator(store.graph, store.dataset, root, metric, store=store, **options)


def weighed(out: Tensor, batch: Any) -> Tensor:
    """Another weight for each position and class, so that no two of them can be mistaken."""
    out = out if out.ndim == 3 else out[:, None]
    valid = 1 if batch.valid is None else batch.valid[..., None]
    weights = 1 + torch.arange(out.shape[1] * CLASSES, dtype=out.dtype).reshape(out.shape[1:])
    return (out * weights.sin() * valid).sum((1, 2))


LINEAR = Metric("weighed logits", weighed)


@pytest.mark.parametrize("pos", [None, 1, slice(1, 3), "where", "marked"])
@pytest.mark.parametrize("label_pos", [None, slice(1, None), "where", "marked"])
def test_positions_are_the_donors_own_or_those_of_who_reads(pos: Any, label_pos: Any) -> None:
    evaluator = on_transformer(None, label_pos, output(head(1, 0, **ANY, pos=pos)), LINEAR)
    slot = evaluator.space.paths[1]
    swap_set = arbitrary(evaluator, 8)
    here = estimates(evaluator, swap_set, [1], rows_of(evaluator))
    true = figures(evaluator, swap_set, [1], rows_of(evaluator))
    np.testing.assert_allclose(here - here[:, :1], true - true[:, :1], rtol=0, atol=1e-9)
    assert np.ptp(true, axis=1).max() > 1e-3  # now and then nobody looks where the node is put
    at = {
        type(slope.at)
        for slope in evaluator.slopes(swap_set)
        if slope.slot == evaluator.space.index[slot]
    }
    if pos in ("where", "marked"):
        assert at == {Positions}  # the donor's own
    elif pos is None and label_pos in ("where", "marked"):
        assert at == {Tensor}  # those of the row that the output is of now


@pytest.mark.parametrize("label_pos", ["where", "marked"])
def test_a_rest_is_read_where_the_donor_says(label_pos: str) -> None:
    evaluator = on_transformer(None, label_pos, output(agrees_on=ANYTHING), LINEAR)
    assert_exact(evaluator, arbitrary(evaluator), "output")


def test_positions_that_a_row_does_not_have_count_for_nothing() -> None:
    evaluator = on_transformer(None, "uneven", output(head(1, 0, **ANY)), LINEAR)
    # references and rests with two positions, beside others with three
    even = list(range(0, 12, 2))
    swap_set = with_donor(evaluator, arbitrary(evaluator, rows=even), [1], [1, 3, 4, 5])
    assert_exact(evaluator, swap_set, "output/head1.0")
    slope = next(slope for slope in evaluator.slopes(swap_set) if slope.slot == 1)
    assert isinstance(slope.at, Tensor)
    assert (slope.at == torch.tensor([[0, 1, -1]] * 4)).all()


@pytest.mark.parametrize(
    ("root", "path"),
    [
        (output(group(["head0.1", "mlp1"], **ANY, name="pair")), "output/pair"),
        (output(head(1, 0, **ANY, subspace=np.eye(8)[:, :3]), head(0, 0, **ANY)), "output/head1.0"),
        (output(head(1, 0, **ANY), mlp(1, **ANY)), "output/rest"),
        (output(attn(1, **ANY), head(0, 0, **ANY)), "output/attn1"),
        (
            output(head(1, 0, **ANY, name="owner"), mlp(1, **ANY, shares="owner", pos=-1)),
            "output/owner",
        ),
        (
            output(head(1, 0, **ANY, name="owner", pos="where"), mlp(1, **ANY, shares="owner")),
            "output/owner@where",
        ),
        (
            output(head(1, 0, **ANY, reads=[head(0, 0, **ANY, into="v")])),
            "output/head1.0/head0.0[v]",
        ),
    ],
)
def test_changes_of_a_linear_readout_are_exact(root: Node, path: str) -> None:
    evaluator = on_transformer(None, None, root, LINEAR)
    assert_exact(evaluator, arbitrary(evaluator), path)


# --- numeric differences, on whatever can be claimed ----------------------------------------------


STEP = 1e-5
SLOTS_OF_A_TREE = 3


def bent(out: Tensor, batch: Any) -> Tensor:
    """Not linear in the output, and another weight for each number."""
    flat = out.flatten(1)
    return (torch.tanh(flat / 3) * (1 + torch.arange(flat.shape[1], dtype=flat.dtype)).cos()).sum(1)


@dataclass(frozen=True)
class Move:
    """What slots take moves from their donor's to another's, which is read at the same
    positions."""

    slots: Sequence[int]
    present: int
    other: int


def slopes_by_differences(
    d_vocab: int, evaluator: Evaluator, swap_set: SwapSet, moves: Sequence[Move]
) -> list[float]:
    """The change of the metric per step of each move.

    For each a row is added whose activations are a mixture of both donors'; all else it has is the
    present donor's.
    """
    data, present = evaluator.dataset, [move.present for move in moves]
    inputs = {name: torch.cat([rows, rows[present]]) for name, rows in data.inputs.items()}
    inputs["tokens"][len(data) :] = unseen(data.inputs["tokens"], d_vocab, len(moves))
    features = {
        name: np.append(data.feature(name), data.feature(name)[present], 0)
        for name in data.feature_names
    }
    labels = torch.cat([data.labels, data.labels[:1].expand(len(moves))])
    mixed = Dataset(inputs, labels=labels, label_pos=data.label_pos, features=features)
    there = Evaluator(evaluator.graph, mixed, evaluator.hypothesis, evaluator.metric)
    store = there.store
    store.ensure(there.sites, np.arange(len(mixed)))
    found = []
    for row, move in enumerate(moves, start=len(data)):
        place = store._place_of_row[[move.present, move.other, row]]
        moved = with_donor(there, swap_set, move.slots, row)
        ends = []
        for step in (STEP, -STEP):
            for kept in map(store.site_cache, there.sites):
                now, then = kept.values[place[0]], kept.values[place[1]]
                is_number = kept.values.is_floating_point()
                kept.values[place[2]] = (1 - step) * now + step * then if is_number else now
            ends.append(there.evaluate(moved)[0])
        found.append(float(ends[0] - ends[1]) / (2 * STEP))
    return found


def unseen(tokens: Tensor, d_vocab: int, count: int) -> Tensor:
    """Rows of tokens that are not among these."""
    seen = set(map(tuple, tokens.tolist()))
    rows = (row for row in np.ndindex(*[d_vocab] * tokens.shape[1]) if row not in seen)
    return torch.tensor([*islice(rows, count)]).reshape(count, tokens.shape[1])


@few_in_quick(1)
@pytest.mark.parametrize(
    "kind",
    ["native", "gemma2", *(pytest.param(kind, marks=only_in_full) for kind in ("gpt2", "olmo2"))],
)
def test_slopes_are_difference_quotients(kind: str) -> None:
    with AllFloat64() if kind in FAMILIES else nullcontext():
        slopes_are_difference_quotients(kind, sized(4 if kind in FAMILIES else 6, 60))


def slopes_are_difference_quotients(kind: str, examples: int) -> None:
    compared: list[float] = []

    @settings(max_examples=examples)
    @given(st.data())
    def agree(data: st.DataObject) -> None:
        models = small_transformers(kind)
        model = data.draw(models.filter(lambda model: not computes_in_float32(model.architecture)))
        rows = data.draw(datasets(model))
        root = data.draw(hypotheses(model, rows))
        metric = Metric("bent", bent, data.draw(positions(rows)))
        try:
            evaluator = Evaluator(as_graph(model.bridge), rows, root, metric)
        except HypothesisError as error:
            assert "would change nothing" in str(error), error  # noqa: PT017
            return
        swap_set = arbitrary(evaluator, 1, seed=data.draw(st.integers(0, 999)))
        owners = [slot.path for slot in evaluator.space.slots if slot.shares is None]
        moves = []
        for path in data.draw(st.permutations(owners))[:SLOTS_OF_A_TREE]:
            slots = together(evaluator, path)
            present = int(swap_set.donors[slots[0], 0])
            if others := like(rows, present):
                moves.append(Move(slots, present, data.draw(st.sampled_from(others))))
        slopes = evaluator.slopes(swap_set)
        expected = slopes_by_differences(model.architecture.d_vocab, evaluator, swap_set, moves)
        for move, by_differences in zip(moves, expected, strict=True):
            both = np.array([move.present, move.other])
            evaluator.store.ensure(evaluator.sites, both)
            found = first_order(evaluator.store, slopes, move.slots, both)
            slope = 0.0 if found is None else float(found[0, 1] - found[0, 0])
            assert slope == pytest.approx(by_differences, rel=1e-4, abs=1e-6)
        compared.extend(expected)

    agree()
    assert sum(abs(slope) > 1e-3 for slope in compared) > sized(2, 20)


def like(rows: Dataset, present: int) -> list[int]:
    """Rows of other content that are read at the same positions."""
    same = [(rows.feature(name) == rows.feature(name)[present]) for name in (POSITION, POSITIONS)]
    return np.flatnonzero(
        same[0] & same[1].all(1) & (rows.content != rows.content[present])
    ).tolist()


DEEP = output(
    head(
        1,
        0,
        **ANY,
        reads=[
            head(0, 0, **ANY, into="k"),
            embed(**ANY, into="q"),
            mask(**ANY),
            mlp(0, **ANY, into="v"),
        ],
    ),
    mlp(1, **ANY, reads=[head(1, 1, **ANY), head(0, 1, **ANY, via="any")]),
    group(["head0.1", "mlp0"], **ANY, name="pair"),
)
WHOLE = output(attn(1, **ANY, reads=[attn(0, **ANY, into="v"), embed(**ANY, into="k")]))
SLOTS = [
    "output/rest", "output/head1.0/rest", "output/head1.0/head0.0[k]", "output/head1.0/embed[q]",
    "output/head1.0/mlp0[v]", "output/mlp1/rest", "output/mlp1/head1.1", "output/mlp1/head0.1",
    "output/pair",
]  # fmt: skip


@few_in_quick(11)
@pytest.mark.parametrize(
    ("root", "path"),
    [
        *((DEEP, path) for path in SLOTS),
        (WHOLE, "output/attn1/rest"),
        (WHOLE, "output/attn1/attn0[v]"),
    ],
)
@pytest.mark.parametrize("label_pos", [None, -1])
def test_queries_keys_values_and_rests_have_slopes(root: Node, path: str, label_pos: Any) -> None:
    evaluator = on_transformer("LN", label_pos, root, Metric("bent", bent))
    slots, donors = together(evaluator, path), np.arange(4, 9)
    swap_set = with_donor(evaluator, arbitrary(evaluator, 1, seed=3), slots, donors[0])
    found = estimates(evaluator, swap_set, slots, donors)
    moves = [Move(slots, int(donors[0]), donor) for donor in donors[1:].tolist()]
    expected = slopes_by_differences(CLASSES, evaluator, swap_set, moves)
    assert max(np.abs(expected)) > 1e-4
    np.testing.assert_allclose(found[0, 1:] - found[0, 0], expected, rtol=1e-5, atol=1e-8)


# --- what has no slope ----------------------------------------------------------------------------


def test_integers_and_masks_have_no_slope() -> None:
    evaluator = on_transformer("LN", -1, DEEP)
    swap_set = arbitrary(evaluator)
    slopes = evaluator.slopes(swap_set)
    masked = evaluator.space.index["output/head1.0/mask"]
    assert {slope.slot for slope in slopes} == {evaluator.space.index[path] for path in SLOTS}
    assert first_order(evaluator.store, slopes, [masked], rows_of(evaluator)) is None

    graph = FunctionGraph(A=lambda a, b: a * b, output=lambda A, a: A + a)
    data = Dataset(
        {"a": torch.arange(5), "b": torch.arange(5.0).sin().double()}, features={"f": [0] * 5}
    )
    evaluator = Evaluator(
        graph, data, output(module("a", **ANY), module("A", **ANY)), lambda out, batch: out
    )
    swap_set = arbitrary(evaluator)
    slots = [evaluator.space.index[path] for path in ("output/rest", "output/a", "output/A")]
    found = [
        first_order(evaluator.store, evaluator.slopes(swap_set), [i], rows_of(evaluator))
        for i in slots
    ]
    # the rest's A is replaced, and so has slope zero
    assert [one is None for one in found] == [False, True, False]
    assert not found[0].any()  # type: ignore[union-attr]
    assert_exact(evaluator, swap_set, "output/A")


def test_slots_that_give_no_activation_have_no_slope() -> None:
    def computed(values: Any) -> Any:
        return np.asarray(values, dtype=float)[:, None] * np.ones((1, 8))

    root = output(
        head(1, 0, **ANY, reads=[head(0, 0, **ANY)]),
        mlp(1, agrees_on="first", computed_by=computed),
    )
    evaluator = on_transformer("LN", -1, root)
    slopes = evaluator.slopes(arbitrary(evaluator))
    for path in ("output/head1.0", "output/mlp1"):
        slot = [evaluator.space.index[path]]
        assert first_order(evaluator.store, slopes, slot, rows_of(evaluator)) is None
        assert sizes(slopes, slot) == 0


def test_a_metric_without_a_gradient_has_no_slopes() -> None:
    larger = Metric("larger", lambda out, batch: (out[:, 0] > out[:, 1]).double())
    evaluator = on_transformer("LN", -1, DEEP, larger)
    assert evaluator.slopes(arbitrary(evaluator)) == []
    constant = Metric(
        "constant", lambda out, batch: torch.ones(len(batch.rows), dtype=torch.float64)
    )
    assert on_transformer("LN", -1, DEEP, constant).slopes(arbitrary(evaluator)) == []
    integers = Dataset({"a": torch.arange(5)}, features={"f": [0] * 5})
    graph = FunctionGraph(A=lambda a: a + 1, output=lambda A: A.double())
    evaluator = Evaluator(graph, integers, output(module("A", **ANY)), lambda out, batch: out)
    assert evaluator.slopes(arbitrary(evaluator)) == []


def test_no_references_have_no_slopes() -> None:
    evaluator = on_transformer("LN", -1, DEEP)
    assert evaluator.slopes(arbitrary(evaluator, 0)) == []


def test_slopes_are_of_the_stand_in() -> None:
    root = output(head(1, 0, **ANY), mlp(1, **ANY))
    loss = on_transformer("LN", -1, root, cross_entropy())
    swap_set = arbitrary(loss)
    odds = on_transformer("LN", -1, root, replace(loss.metric.to_rank_by, name="log-odds"))
    error = on_transformer("LN", -1, root, zero_one_error())
    plain = on_transformer("LN", -1, root, replace(cross_entropy(), stand_in=None))
    expected = odds.slopes(swap_set)
    for one, other, third, fourth in zip(
        expected, loss.slopes(swap_set), error.slopes(swap_set), plain.slopes(swap_set), strict=True
    ):
        assert torch.equal(one.gradient, other.gradient)
        assert torch.equal(one.gradient, third.gradient)
        assert not torch.allclose(one.gradient, fourth.gradient)


def test_slopes_are_taken_against_the_reference_where_the_metric_asks_for_it() -> None:
    evaluator = on_transformer(None, -1, output(head(1, 0, **ANY)), kl_to_clean())
    rows = np.array([1, 4, 7])
    # A divergence is least where nothing is swapped.
    assert (
        max(
            float(slope.gradient.abs().max())
            for slope in evaluator.slopes(evaluator.space.unswapped(rows))
        )
        < 1e-12
    )
    assert (
        max(float(slope.gradient.abs().max()) for slope in evaluator.slopes(arbitrary(evaluator)))
        > 1e-3
    )


# --- batches --------------------------------------------------------------------------------------


PLACED = output(
    head(
        1,
        0,
        **ANY,
        pos="where",
        reads=[head(0, 0, **ANY, pos="elsewhere", into="q"), embed(**ANY, into="k")],
    ),
    head(1, 1, **ANY, pos="elsewhere"),
    mlp(1, **ANY, reads=[head(0, 1, **ANY)]),
)


@pytest.mark.parametrize(
    ("root", "label_pos"),
    [(DEEP, -1), (DEEP, "where"), (DEEP, "marked"), (PLACED, None), (PLACED, "marked")],
)
def test_slopes_do_not_depend_on_the_batch_size(root: Node, label_pos: Any) -> None:
    swap_set = None
    found: list[list[ActivationGradient]] = []
    for batch_size in (None, 1, 3):
        evaluator = on_transformer(
            "LN", label_pos, root, Metric("bent", bent), batch_size=batch_size
        )
        swap_set = apart(evaluator) if swap_set is None else swap_set
        found.append(evaluator.slopes(swap_set))
    for first, *others in zip(*found, strict=True):
        for other in others:
            assert (first.slot, first.source, type(first.at)) == (
                other.slot,
                other.source,
                type(other.at),
            )
            if isinstance(first.at, Tensor):
                assert torch.equal(first.at, other.at)
            elif isinstance(first.at, Positions):
                np.testing.assert_array_equal(first.at.index, other.at.index)
            torch.testing.assert_close(first.gradient, other.gradient, rtol=0, atol=1e-12)
    assert all(len(slope.gradient) == len(swap_set) for slope in found[0])


def apart(evaluator: Evaluator) -> SwapSet:
    """Any donors of which each has its positions apart from one another."""
    columns = [evaluator.dataset.feature(name) for name in ("where", "elsewhere")]
    return arbitrary(evaluator, 8, rows=np.flatnonzero(columns[0] != columns[1]).tolist())


@pytest.mark.parametrize(
    "row",
    [
        int(np.flatnonzero(COLUMNS["where"] != COLUMNS["elsewhere"])[0]),
        int(np.flatnonzero(COLUMNS["where"] == COLUMNS["elsewhere"])[0]),
    ],
)
def test_what_a_rest_gives_is_read_where_each_child_is_put(row: int) -> None:
    """Also on a row on which two of these positions happen to be the same."""
    root = output(head(1, 0, **ANY, pos="where"), head(1, 1, **ANY, pos="elsewhere"))
    evaluator = on_transformer(None, None, root, LINEAR)
    slopes = evaluator.slopes(evaluator.space.unswapped(np.array([row])))
    at = {
        str(slope.source): slope.at
        for slope in slopes
        if slope.slot == evaluator.space.index["output/rest"]
    }
    for component, path in (
        ("head1.0", "output/head1.0@where"),
        ("head1.1", "output/head1.1@elsewhere"),
    ):
        assert at[f"z of {component}"] is evaluator.checked.positions[path]


# --- groups of references and donors --------------------------------------------------------------


@pytest.mark.parametrize("label_pos", [-1, "where"])
def test_only_what_is_in_a_group_is_estimated(label_pos: Any) -> None:
    evaluator = on_transformer("LN", label_pos, DEEP)
    swap_set, donors = arbitrary(evaluator, 5), np.array([0, 2, 3, 7, 8, 11])
    evaluator.store.ensure(evaluator.sites, donors)
    slopes = evaluator.slopes(swap_set)
    groups = [
        (np.array([0, 3]), np.array([1, 2, 5])),
        (np.array([1]), np.array([0])),
        (np.array([4]), np.arange(6)),
    ]
    among = np.zeros((5, 6), dtype=bool)
    for references, allowed in groups:
        among[np.ix_(references, allowed)] = True
    for path in ("output/pair", "output/rest", "output/head1.0/rest"):
        slots = [evaluator.space.index[path]]
        whole = first_order(evaluator.store, slopes, slots, donors)
        some = first_order(evaluator.store, slopes, slots, donors, groups)
        assert whole is not None
        assert some is not None
        np.testing.assert_allclose(some, np.where(among, whole, 0), rtol=0, atol=1e-12)


def test_sizes_are_the_numbers_that_are_multiplied() -> None:
    evaluator = on_transformer(None, None, output(head(1, 0, **ANY), mlp(1, **ANY, pos=1)), LINEAR)
    slopes = evaluator.slopes(arbitrary(evaluator))
    by_path = {path: sizes(slopes, [i]) for i, path in enumerate(evaluator.space.paths)}
    # The rest gives the stream, and what of it the two nodes replace; a head gives its z.
    assert by_path == {
        "output/rest": 8 * 4 + 4 * 4 + 8,
        "output/head1.0": 4 * 4,
        "output/mlp1@1": 8,
    }
    assert sizes(slopes, [1, 2]) == 4 * 4 + 8


# --- the output in stages, and what leaves take from rows -----------------------------------------


@pytest.mark.parametrize("label_pos", [None, -1, slice(1, 3)])
def test_the_stages_make_the_output(label_pos: Any) -> None:
    evaluator = on_transformer("LN", label_pos, DEEP_DIRECT, Metric("bent", bent))
    swap_set = arbitrary(evaluator)
    stages = evaluator.stages
    assert stages is not None
    with torch.no_grad():
        made = stages.unembed(stages.norm(evaluator.streams(swap_set)))
        found = evaluator.ranked(swap_set, made)
    np.testing.assert_allclose(found, evaluator.evaluate(swap_set), rtol=0, atol=1e-12)


DEEP_DIRECT = output(
    head(1, 0, **ANY, reads=[head(0, 0, **ANY, into="k"), mlp(0, **ANY, via="any")]),
    mlp(1, **ANY),
    rest=ANYTHING,
)


def test_outputs_are_ranked_by_the_stand_in() -> None:
    evaluator = on_transformer("LN", -1, DEEP_DIRECT, zero_one_error())
    logits = torch.randn(
        3, 1, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    rows = np.array([2, 0, 5])
    chance = logits[:, 0].softmax(-1)[torch.arange(3), TOKENS[rows, 0]]
    found = evaluator.ranked(evaluator.space.unswapped(rows), logits)
    torch.testing.assert_close(found, -torch.logit(chance))


@pytest.mark.parametrize(
    ("root", "label_pos"),
    [
        (output(head(0, 0, **ANY, via="any")), -1),  # layers are run again
        (DEEP, "where"),
        (output(head(1, 0, **ANY, pos="where")), None),
        (output(head(1, 0, **ANY, reads=[embed(**ANY, pos="marked")])), -1),
    ],
)
def test_there_are_stages_only_of_sums_at_positions_that_stay(root: Node, label_pos: Any) -> None:
    assert on_transformer("LN", label_pos, root).stages is None


@pytest.mark.parametrize("kind", ["gemma2", "granite"])
def test_there_are_no_stages_where_a_block_normalises_or_scales_what_it_adds(kind: str) -> None:
    """What one head adds there depends on what the others of its layer do."""
    caps = {"score_cap": 3.0, "logit_cap": 3.0}
    small = Architecture(kind=kind, n_layers=2, d_head=4, n_ctx=LENGTH, attn_only=False, **caps)
    model = build(small)
    graph = as_graph(model.bridge)
    for children in ([head(1, 0, **ANY), head(1, 1, **ANY)], [mlp(1, **ANY)]):
        evaluator = Evaluator(graph, dataset(-1), output(*children), Metric("out", weighed))
        assert evaluator.stages is None
    embedded = output(embed(**ANY))
    assert Evaluator(graph, dataset(-1), embedded, Metric("out", weighed)).stages is not None


def test_a_donor_that_gives_the_same_is_the_same() -> None:
    evaluator = on_transformer("LN", -1, output(embed(**ANY, pos=-1), head(1, 0, **ANY)))
    embedded = evaluator.gathered("output/embed@-1", rows_of(evaluator))
    assert embedded is not None
    row, other = next(
        (i, j) for i in range(12) for j in range(i) if torch.equal(embedded[i], embedded[j])
    )
    assert not torch.equal(TOKENS[row], TOKENS[other])
    slot, swap_set = [evaluator.space.index["output/embed@-1"]], arbitrary(evaluator)
    same = [
        evaluator.evaluate(with_donor(evaluator, swap_set, slot, donor)) for donor in (row, other)
    ]
    np.testing.assert_array_equal(*same)
    assert not np.allclose(same[0], evaluator.evaluate(swap_set))


def test_nothing_is_gathered_that_a_row_alone_does_not_give() -> None:
    parts = on_transformer(
        None,
        -1,
        output(group(["head0.0", "mlp0"], **ANY, via="any", name="pair")),
    )
    assert parts.gathered("output/pair", np.arange(2)) is None  # several activations
    placed = on_transformer(None, "where", output(head(1, 0, **ANY)))
    # it is read where the output's row says
    assert placed.gathered("output/head1.0", np.arange(2)) is None
    masked = on_transformer(None, -1, DEEP).gathered("output/head1.0/mask", np.arange(4))
    assert masked is not None
    assert masked.tolist() == MASK[:4].bool().tolist()
