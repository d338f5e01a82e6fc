"""The evaluator and its store: figures that depend on nothing but the swap set, at the cost of what
is asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import DataError, HypothesisError, ModelError
from pytest_scrub.metrics import Metric, cross_entropy, kl_to_clean, next_token_loss, zero_one_error
from pytest_scrub.network import FunctionGraph, ResidualGraph, as_graph
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import (
    ANYTHING,
    EXACT,
    Node,
    embed,
    group,
    head,
    mask,
    mlp,
    module,
    output,
)
from tests.engine.counting import OUT, REPEATED, counting, drawn, swaps
from tests.reference.generate import Architecture, build

FEATURE: dict[str, Any] = {"agrees_on": "first"}
LENGTH, D_MODEL, CLASSES = 4, 8, 5
TOKENS = torch.randint(5, (12, LENGTH), generator=torch.Generator().manual_seed(0))
MASK = torch.ones_like(TOKENS)
MASK[::3, -1] = 0
COLUMNS = {
    "first": TOKENS[:, 0] % 2,
    "where": TOKENS[:, 1] % LENGTH,
    # two or three positions
    "marked": [[i < 2 + row % 2 for i in range(LENGTH)] for row in range(12)],
    "marks": [2 + row % 2 for row in range(12)],
}


def dataset(**options: Any) -> Dataset:
    return Dataset(
        {"tokens": TOKENS, "attention_mask": MASK},
        **{"labels": TOKENS[:, 0], "label_pos": -1, "features": COLUMNS, **options},
    )


DATA = dataset()


@pytest.fixture(scope="session")
def bridge() -> Any:
    """Two layers of two heads and an MLP, with learned positions, in float64."""
    small = Architecture(
        n_layers=2, d_head=4, d_model=D_MODEL, n_ctx=LENGTH, attn_only=False, norm="LN"
    )
    return build(small).bridge


@pytest.fixture(scope="session")
def transformer(bridge: Any) -> ResidualGraph:
    graph = as_graph(bridge)
    assert isinstance(graph, ResidualGraph)
    return graph


DEEP = output(
    head(
        1,
        0,
        **FEATURE,
        reads=[head(0, 0, **FEATURE, into="k"), embed(**FEATURE, into="q"), mask(**FEATURE)],
    ),
    mlp(1, **FEATURE, reads=[head(1, 1, agrees_on=ANYTHING)]),
    group(["head0.1", "mlp0"], agrees_on=EXACT, name="pair"),
)
EVERY_PATH = output(head(0, 0, **FEATURE, via="any"), head(1, 0, **FEATURE))


def refuses(kind: type[Exception], sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


def network_logits(bridge: Any, rows: Any) -> Tensor:
    positions = torch.arange(LENGTH).expand(len(rows), -1)
    with torch.no_grad():
        logits: Tensor = bridge(TOKENS[rows], attention_mask=MASK[rows], position_ids=positions)
    return logits


# --- figures depend on the swap set alone ---------------------------------------------------------


@pytest.mark.parametrize("root", [DEEP, EVERY_PATH])
def test_the_batch_size_does_not_change_figures(transformer: ResidualGraph, root: Node) -> None:
    evaluator = Evaluator(transformer, DATA, root)
    swap_set = drawn(evaluator)
    figures = evaluator.evaluate(swap_set)
    assert len(set(figures.round(6).tolist())) > 5
    for batch_size in (1, 7, 100):
        other = Evaluator(transformer, DATA, root, batch_size=batch_size)
        np.testing.assert_allclose(other.evaluate(swap_set), figures, rtol=0, atol=1e-12)
        torch.testing.assert_close(
            other.outputs(swap_set), evaluator.outputs(swap_set), rtol=0, atol=1e-12
        )
    one_by_one = [evaluator.evaluate(swap_set[i : i + 1]) for i in range(len(swap_set))]
    np.testing.assert_allclose(np.concatenate(one_by_one), figures, rtol=0, atol=1e-12)
    order = np.random.default_rng(0).permutation(len(swap_set))
    np.testing.assert_allclose(
        evaluator.evaluate(swap_set[order]), figures[order], rtol=0, atol=1e-12
    )


def test_figures_do_not_depend_on_how_rows_are_captured(
    transformer: ResidualGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = Evaluator(transformer, DATA, DEEP)
    swap_set = drawn(evaluator)
    figures = evaluator.evaluate(swap_set)
    monkeypatch.setattr("pytest_scrub.engine.store.CAPTURE_BATCH", 2)
    np.testing.assert_allclose(
        Evaluator(transformer, DATA, DEEP).evaluate(swap_set), figures, rtol=0, atol=1e-12
    )


def test_an_empty_swap_set_has_no_figures(transformer: ResidualGraph) -> None:
    evaluator = Evaluator(transformer, DATA, DEEP)
    assert evaluator.evaluate(drawn(evaluator, 0)).shape == (0,)
    assert evaluator.unscrubbed(np.empty(0, dtype=np.int64)).shape == (0,)


def test_a_swap_set_of_another_hypothesis_or_dataset_is_refused(transformer: ResidualGraph) -> None:
    evaluator, other = (Evaluator(transformer, DATA, root) for root in (DEEP, EVERY_PATH))
    with pytest.raises(
        DataError,
        match=r"^the swap set has slots \['output/rest', 'output/head0.0', 'output/head1.0'\]",
    ):
        evaluator.evaluate(drawn(other))
    elsewhere = Evaluator(transformer, dataset(labels=TOKENS[:, 1]), DEEP)
    with refuses(
        DataError, "the swap set belongs to a dataset of other content; draw it again on this one"
    ):
        evaluator.evaluate(drawn(elsewhere))


# --- the untouched network ------------------------------------------------------------------------


def test_unscrubbed_is_the_networks_own_loss(bridge: Any, transformer: ResidualGraph) -> None:
    rows = np.array([3, 0, 3, 11])
    found = Evaluator(transformer, DATA, DEEP).unscrubbed(rows)
    expected = F.cross_entropy(
        network_logits(bridge, rows)[:, -1], TOKENS[rows, 0], reduction="none"
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.dtype == np.float64
    found = Evaluator(transformer, DATA, DEEP, next_token_loss()).unscrubbed(rows)
    losses = F.cross_entropy(
        network_logits(bridge, rows)[:, :-1].transpose(1, 2), TOKENS[rows, 1:], reduction="none"
    )
    np.testing.assert_allclose(found, losses.mean(1), atol=1e-12)


@pytest.mark.parametrize("root", [DEEP, EVERY_PATH, output(agrees_on=ANYTHING), output()])
def test_where_nothing_is_swapped_nothing_changes(transformer: ResidualGraph, root: Node) -> None:
    evaluator = Evaluator(transformer, DATA, root)
    rows = DATA.reference_rows
    unswapped = evaluator.evaluate(evaluator.space.unswapped(rows))
    np.testing.assert_allclose(unswapped, evaluator.unscrubbed(rows), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pos", [None, -1, slice(1, 3), "where"])
def test_kl_to_clean_is_zero_where_nothing_is_swapped(transformer: ResidualGraph, pos: Any) -> None:
    evaluator = Evaluator(transformer, dataset(labels=None, label_pos=None), DEEP, kl_to_clean(pos))
    rows = DATA.reference_rows
    np.testing.assert_allclose(evaluator.evaluate(evaluator.space.unswapped(rows)), 0, atol=1e-12)
    np.testing.assert_allclose(evaluator.unscrubbed(rows), 0, atol=1e-12)
    figures = evaluator.evaluate(drawn(evaluator))
    assert (figures >= -1e-12).all()
    assert figures.max() > 0.01


def test_kl_to_clean_is_against_the_reference(bridge: Any, transformer: ResidualGraph) -> None:
    evaluator = Evaluator(transformer, DATA, output(agrees_on=ANYTHING), kl_to_clean())
    swap_set = SwapSet([0, 5], [[7, 5]], ("output",), DATA.digest())
    clean, swapped = (
        network_logits(bridge, rows)[:, -1].log_softmax(-1) for rows in ([0, 5], [7, 5])
    )
    expected = (clean.exp() * (clean - swapped)).sum(-1)
    np.testing.assert_allclose(evaluator.evaluate(swap_set), expected, atol=1e-12)


# --- positions at the output ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "slot"),
    [(output(agrees_on=ANYTHING), "output"), (output(head(1, 0, agrees_on=EXACT)), "output/rest")],
)
def test_the_output_is_read_at_the_donors_position_and_judged_by_the_references_label(
    bridge: Any, transformer: ResidualGraph, root: Node, slot: str
) -> None:
    # Donors with other positions than their references; head 1.0, where it is claimed, is put in at
    # the same column.
    references, donors = np.array([0, 1, 2, 3, 4]), np.array([3, 4, 5, 9, 4])
    where = COLUMNS["where"].numpy()
    assert (where[references] != where[donors]).any()
    evaluator = Evaluator(transformer, dataset(label_pos="where"), root)
    space = evaluator.space
    rows = [donors if path == slot else references for path in space.paths]
    swap_set = SwapSet(references, rows, space.paths, evaluator.dataset.digest())
    found = evaluator.evaluate(swap_set)
    if slot == "output":
        logits = network_logits(bridge, donors)[torch.arange(5), where[donors]]
        expected = F.cross_entropy(logits, TOKENS[references, 0], reduction="none")
        np.testing.assert_allclose(found, expected, atol=1e-12)
    else:
        swapped = Evaluator(
            transformer,
            dataset(label_pos=None),
            root,
            Metric("all", lambda o, b: o.flatten(1).sum(1)),
        )
        everywhere = swapped.outputs(
            SwapSet(references, rows, space.paths, swapped.dataset.digest())
        )
        logits = everywhere[torch.arange(5), where[donors]]  # the output's carrier is its rest
        expected = F.cross_entropy(logits, TOKENS[references, 0], reduction="none")
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_a_mask_of_output_positions_is_averaged(bridge: Any, transformer: ResidualGraph) -> None:
    labels = TOKENS[:, :3]  # for each of at most three positions
    data = dataset(label_pos="marked", labels=labels)
    evaluator = Evaluator(transformer, data, output(agrees_on="marks"))
    swap_set = SwapSet([0, 1], [[2, 3]], ("output",), data.digest())
    logits = network_logits(bridge, [2, 3])
    expected = [
        F.cross_entropy(logits[0, :2], labels[0, :2]).item(),
        F.cross_entropy(logits[1, :3], labels[1, :3]).item(),
    ]
    np.testing.assert_allclose(evaluator.evaluate(swap_set), expected, atol=1e-12)
    assert evaluator.outputs(swap_set).shape == (2, 3, CLASSES)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("root", "label_pos", "reader"),
    [
        (lambda swapped: output(head(1, 0, agrees_on=ANYTHING, reads=[swapped])), 0, "head1.0"),
        (lambda swapped: output(replace(swapped, via="any")), -1, "output"),
        (
            lambda swapped: output(
                head(1, 0, agrees_on=ANYTHING, reads=[replace(swapped, via="any")])
            ),
            -1,
            "head1.0",
        ),
    ],
    ids=["directly", "along every path", "by a head along every path"],
)
def test_a_mask_that_hides_every_key_of_a_query_is_refused(
    causal: bool, root: Callable[[Node], Node], label_pos: int, reader: str
) -> None:
    """Its output would be NaN, of which some metrics, such as 0-1 error, make a number."""
    small = Architecture(
        n_layers=2,
        d_head=4,
        d_model=D_MODEL,
        n_ctx=LENGTH,
        attn_only=False,
        norm="LN",
        causal=causal,
    )
    visible = torch.ones_like(TOKENS)
    # of odd rows, whose hidden position 2 is put in at position 0 of even ones
    visible[1::2, 2:] = 0
    if not causal:
        visible[::2, 1:] = 0
    data = Dataset(
        {"tokens": TOKENS, "attention_mask": visible},
        labels=TOKENS[:, 0], label_pos=label_pos, features={"spot": [0, 2] * 6},
    )  # fmt: skip
    hypothesis = root(mask(agrees_on=ANYTHING, pos="spot"))
    evaluator = Evaluator(as_graph(build(small).bridge), data, hypothesis, zero_one_error())
    slots, rest = evaluator.space.paths, 4  # an even row, with an odd row's mask put in
    donors = [[1 if slot.endswith("mask@spot") else rest] for slot in slots]
    with refuses(
        ModelError,
        f"{reader}: a mask swapped at some positions only leaves a query of row 4 without a key "
        "that it sees; claim all positions of the mask, or let it agree on which keys are visible",
    ):
        evaluator.evaluate(evaluator.space.swap_set([0], donors))
    evaluator.evaluate(evaluator.space.swap_set([0], [[rest]] * len(slots)))


def test_output_masks_with_other_counts_are_refused(transformer: ResidualGraph) -> None:
    data = dataset(label_pos="marked", labels=TOKENS[:, :3])
    evaluator = Evaluator(transformer, data, output(agrees_on=ANYTHING))
    with refuses(
        DataError,
        "the output: its position mask has 2 positions on row 4 and 3 on row 1, which is to stand "
        "in for it; let them agree on a feature that counts the positions",
    ):
        evaluator.evaluate(SwapSet([0, 4], [[2, 1]], ("output",), data.digest()))


def test_masks_of_a_node_with_other_counts_are_refused(transformer: ResidualGraph) -> None:
    evaluator = Evaluator(
        transformer,
        DATA,
        output(head(0, 0, agrees_on=ANYTHING, pos="marked", via="any"), rest=EXACT),
    )
    paths = ("output/rest", "output/head0.0@marked")
    assert evaluator.space.paths == paths
    evaluator.evaluate(SwapSet([0], [[0], [2]], paths, DATA.digest()))
    with refuses(
        DataError,
        "output/head0.0@marked: its position mask has 2 positions on row 0 and 3 on row 1, which "
        "is to stand in for it; let them agree on a feature that counts the positions",
    ):
        evaluator.evaluate(SwapSet([0], [[0], [1]], paths, DATA.digest()))


def test_one_position_has_no_dimension(transformer: ResidualGraph) -> None:
    def shape(pos: Any) -> list[int]:
        evaluator = Evaluator(transformer, dataset(label_pos=None), DEEP, kl_to_clean(pos))
        return list(evaluator.outputs(drawn(evaluator, 3)).shape)

    assert shape(None) == [3, LENGTH, CLASSES]
    assert shape(2) == shape("where") == [3, CLASSES]
    assert shape(slice(2, 3)) == [3, 1, CLASSES]
    assert shape("marked") == [3, 3, CLASSES]


# --- computed nodes -------------------------------------------------------------------------------


def vectors(first: Any) -> Any:
    return np.asarray(first)[:, None] + np.arange(D_MODEL) / 10.0


@pytest.mark.parametrize("pos", [None, -1, slice(1, None), "where"])
def test_a_computed_value_may_leave_the_position_out(transformer: ResidualGraph, pos: Any) -> None:
    def at_every_position(first: Any) -> Any:
        return np.repeat(vectors(first)[:, None], LENGTH, 1)

    figures = [
        Evaluator(
            transformer, DATA, output(mlp(0, **FEATURE, pos=pos, via="any", computed_by=function))
        )
        for function in (vectors, at_every_position)
    ]
    one, other = (evaluator.evaluate(drawn(evaluator)) for evaluator in figures)
    np.testing.assert_allclose(one, other, atol=1e-12)
    assert one.std() > 0


def test_a_computed_value_of_another_shape_is_refused(transformer: ResidualGraph) -> None:
    def too_wide(first: Any) -> Any:
        return np.ones((len(first), D_MODEL + 1))

    evaluator = Evaluator(transformer, DATA, output(mlp(0, **FEATURE, computed_by=too_wide)))
    with refuses(
        HypothesisError,
        "output/mlp0: computed_by= has to return [3, 1, 8], one value per position, or the same "
        "without the position, not [3, 9]",
    ):
        evaluator.evaluate(drawn(evaluator, 3))


@pytest.mark.parametrize(
    ("causal", "hidden", "remedy"),
    [
        (True, slice(0, 1), "pad on the right, since attention is causal"),
        (False, slice(None), "unmask at least one token"),
    ],
)
def test_a_row_whose_queries_see_nothing_is_named_wherever_it_stands(
    causal: bool, hidden: slice, remedy: str
) -> None:
    """Also beyond the rows that the arithmetic is proved on."""
    architecture = Architecture(causal=causal, n_ctx=4)
    tokens = torch.zeros((40, 4), dtype=torch.int64)
    visible = torch.ones_like(tokens)
    visible[33, hidden] = 0
    with refuses(ModelError, f"on row 33 a query sees no key at all: {remedy}"):
        ActivationStore(
            as_graph(build(architecture).bridge),
            Dataset({"tokens": tokens, "attention_mask": visible}),
        )


def test_evaluating_leaves_no_graph_behind(transformer: ResidualGraph) -> None:
    evaluator = Evaluator(transformer, DATA, DEEP)
    assert not evaluator.outputs(drawn(evaluator, 2)).requires_grad
    assert evaluator.slopes(drawn(evaluator, 2))
    assert not any(slope.gradient.requires_grad for slope in evaluator.slopes(drawn(evaluator, 2)))


# --- what a donor would give ----------------------------------------------------------------------


@pytest.mark.parametrize("pos", [None, 1, slice(1, 3), "where", "marked"])
def test_a_leaf_gathers_clean_activations(transformer: ResidualGraph, pos: Any) -> None:
    evaluator = Evaluator(
        transformer, dataset(label_pos=None), output(head(1, 0, **FEATURE, pos=pos)), kl_to_clean()
    )
    donors = DATA.donor_rows[[4, 0, 4]]
    assert not DATA.donor_rows.flags.writeable  # torch would warn of such an array
    slot = evaluator.space.paths[1]
    site = transformer.value_site(("head1.0",), None)
    whole = transformer.capture([site], DATA.batch(donors))[site]
    rows, where = torch.arange(3)[:, None], torch.arange(LENGTH).expand(3, -1)
    if pos is not None:
        where = evaluator.checked.positions[slot].index  # type: ignore[union-attr]
        where = torch.tensor(
            np.broadcast_to(where if where.ndim == 1 else where[donors], (3, where.shape[-1]))
        )
    torch.testing.assert_close(evaluator.gathered(slot, donors), whole[rows, where.clamp(min=0)])


def test_a_leaf_gathers_what_an_evaluation_reads(transformer: ResidualGraph) -> None:
    # Only at the position that the output is read at, and summed over a group.
    evaluator = Evaluator(transformer, DATA, DEEP)
    assert evaluator.gathered("output/pair", np.arange(3)).shape == (3, 1, D_MODEL)
    single = [
        Evaluator(transformer, DATA, output(node))
        for node in (head(0, 1, **FEATURE), mlp(0, **FEATURE))
    ]
    parts = [one.gathered(one.space.paths[1], np.arange(3)) for one in single]
    parts[0] = parts[0] @ transformer.parts["head0.1"].output_weights  # a head alone gives its z
    torch.testing.assert_close(evaluator.gathered("output/pair", np.arange(3)), sum(parts))


def test_only_leaves_gather_one_activation(transformer: ResidualGraph) -> None:
    evaluator = Evaluator(transformer, DATA, DEEP)
    for slot in ("output/rest", "output/head1.0", "output/nothing"):
        assert evaluator.gathered(slot, np.arange(2)) is None


# --- numbers that are none, and progress ----------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_an_activation_that_is_no_number_names_site_and_row(bad: float) -> None:
    graph = FunctionGraph(A=lambda a: torch.where(a == 3, bad, a), output=lambda A, a: A + a)
    evaluator = Evaluator(graph, REPEATED, output(module("A", agrees_on="f")), OUT)
    sentence = (
        "the value of A is NaN or infinite on row 4 (a=3.); take the row out, or mend the weights"
    )
    with refuses(ModelError, sentence):
        evaluator.evaluate(swaps(evaluator, [0, 0], A=[1, 5]))
    # rows that are not asked for do no harm
    assert evaluator.evaluate(swaps(evaluator, [0], A=[6])).tolist() == [4]


def test_a_transformer_of_no_numbers_is_refused(bridge: Any) -> None:
    broken = build(Architecture(seed=3)).bridge
    weights = next(
        parameter for name, parameter in broken.named_parameters() if parameter.ndim == 2
    )
    before = weights.data.clone()
    try:
        weights.data[0] = float("nan")
        rows = Dataset(
            torch.tensor([[1, 1, 1], [1, 0, 1]]), labels=torch.zeros(2), features={"first": [0, 0]}
        )
        with pytest.raises(
            ModelError, match="embed is NaN or infinite on row 1; take the row out, or "
        ):
            ActivationStore(as_graph(broken), rows)
    finally:
        weights.data.copy_(before)  # the generator gives everybody the same object


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_scrub.engine.store.CAPTURE_BATCH", 2)
    told: list[tuple[str, int, int]] = []
    evaluator = Evaluator(
        counting(), REPEATED, output(module("A", agrees_on="f")), OUT, batch_size=4,
        progress=lambda what, done, total, _: told.append((what, done, total)),
    )  # fmt: skip
    swap_set = swaps(evaluator, [0] * 7, A=list(range(7)))
    evaluator.evaluate(swap_set)
    assert told == [
        ("clean activations", 2, 5),
        ("clean activations", 4, 5),
        ("clean activations", 5, 5),
        ("scrubbed evaluations", 4, 7),
        ("scrubbed evaluations", 7, 7),
    ]
    told.clear()
    evaluator.evaluate(swap_set)  # all is known
    assert {what for what, _, _ in told} == {"scrubbed evaluations"}


# --- devices --------------------------------------------------------------------------------------


def test_data_on_another_device_is_refused(transformer: ResidualGraph) -> None:
    with refuses(
        DataError,
        "the data is on meta and the model on cpu; move one of them, for instance with "
        "Dataset.to('cpu')",
    ):
        Evaluator(transformer, DATA.to("meta"), output(head(1, 0, **FEATURE)))


# --- metrics that read more -----------------------------------------------------------------------


def test_a_metric_is_given_the_references(transformer: ResidualGraph) -> None:
    seen: list[tuple[Any, Any]] = []

    def look(out: Tensor, batch: Any) -> Tensor:
        seen.append((batch.rows.tolist(), batch.labels.tolist()))
        with pytest.raises(DataError, match=r"needs_clean=True"):
            _ = batch.clean
        return out[:, 0]

    evaluator = Evaluator(transformer, DATA, output(agrees_on=ANYTHING), look)
    evaluator.evaluate(SwapSet([4, 0], [[1, 2]], ("output",), DATA.digest()))
    assert seen[0] == ([4, 0], TOKENS[[4, 0], 0].tolist())


def test_another_metric_reads_the_same_output(transformer: ResidualGraph) -> None:
    loss, error = (
        Evaluator(transformer, DATA, DEEP, metric) for metric in (cross_entropy(), zero_one_error())
    )
    swap_set = drawn(loss)
    logits = loss.outputs(swap_set)
    labels = TOKENS[swap_set.references.copy(), 0]
    np.testing.assert_allclose(
        loss.evaluate(swap_set), F.cross_entropy(logits, labels, reduction="none"), atol=1e-12
    )
    np.testing.assert_array_equal(error.evaluate(swap_set), (logits.argmax(-1) != labels).double())
