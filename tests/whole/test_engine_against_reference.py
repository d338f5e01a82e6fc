"""The engine against `pytest_scrub.meaning`, on random small networks of every kind, hypotheses and
swap sets."""

from __future__ import annotations

import ast
import re
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_scrub import ANYTHING, Dataset, embed, head, mask, meaning, mlp, output, pattern
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError, ModelError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import as_graph
from tests.places import ROOT
from tests.reference import generate_plain
from tests.reference.bridges import BridgeNetwork
from tests.reference.families import FAMILIES, AllFloat64
from tests.reference.generate import (
    Architecture,
    Waves,
    build,
    datasets,
    hypotheses,
    positions,
    small_transformers,
    swap_sets,
)
from tests.reference.generate_plain import function_graphs, hooked_graphs, module_graphs
from tests.sizes import few_in_quick, only_in_full, sized


def outputs_as_metric(pos):
    return Metric("output", lambda output, batch: output.flatten(1).sum(1), pos)


# Normalised blocks with windows and caps, normalised queries, biases for distance, parallel blocks.
IN_BOTH = ("gemma2", "qwen3", "bloom", "cohere")
MOST_IN_FULL = [
    pytest.param(kind, marks=() if kind in IN_BOTH else only_in_full) for kind in FAMILIES
]
CASES = sized(
    {
        "native": 20,
        "gpt2": 6,
        "llama": 6,
        "families": 3,
        "functions": 40,
        "modules": 25,
        "hooks": 10,
    },
    {
        "native": 1000,
        "gpt2": 300,
        "llama": 300,
        "families": 250,
        "functions": 300,
        "modules": 300,
        "hooks": 200,
    },
)


@pytest.fixture(scope="module", autouse=True)
def columns_are_told_apart_below_every_node():
    """As where nodes gather more than those of small networks do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytest_scrub.engine.alike.FEWEST_BYTES", 1)
        yield


# native ones: test_fast_paths
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_engine_and_reference_agree(kind):
    settings(max_examples=CASES[kind])(given(data=st.data())(engine_and_reference_agree))(
        kind=kind, store_of=lambda graph, dataset: None
    )


@pytest.mark.parametrize("kind", MOST_IN_FULL)
def test_engine_and_reference_agree_on_a_family(kind):
    with AllFloat64():
        settings(max_examples=CASES["families"])(given(data=st.data())(engine_and_reference_agree))(
            kind=kind, store_of=lambda graph, dataset: None
        )


def engine_and_reference_agree(kind, store_of, data):
    model = data.draw(small_transformers(kind))
    dataset = data.draw(datasets(model))
    root = data.draw(hypotheses(model, dataset))
    swap_set = data.draw(swap_sets(root, dataset))
    metric_pos = data.draw(positions(dataset))
    graph = as_graph(model.bridge)
    batch_size = data.draw(st.sampled_from([None, 1]))
    try:
        evaluator = Evaluator(
            graph,
            dataset,
            root,
            outputs_as_metric(metric_pos),
            store=store_of(graph, dataset),
            batch_size=batch_size,
        )
    except ModelError as error:
        assert kind == "gpt_neo" and "a query of padding sees no key" in str(error), error  # noqa: PT017, PT018
        return
    except HypothesisError as error:
        # What is put where nobody looks is refused; everything else the generator makes is valid.
        assert "would change nothing" in str(error), error  # noqa: PT017  # valid trees raise nothing at all
        event("refused: nobody looks there")
        return
    event(f"{sum(1 for _ in evaluator.plan.walk())} nodes")
    mine = evaluator.outputs(swap_set).double()
    theirs = meaning.outputs(
        BridgeNetwork(model.bridge, dataset), root, dataset, swap_set, metric_pos
    )
    assert_same(mine, theirs, model.tolerance)


def assert_same(mine, theirs, tolerance):
    scale = max(float(torch.stack([out.abs().max() for out in theirs]).max()), 1e-6)
    for got, expected in zip(mine, theirs, strict=True):
        torch.testing.assert_close(
            got.reshape(expected.shape), expected, rtol=0, atol=tolerance * scale, check_dtype=False
        )


def test_the_meaning_shares_no_code_with_the_engine():
    own = Path(meaning.__file__).parent
    imports = {path: imported(path) for path in own.parent.rglob("*.py")}
    mine = {path for path in imports if own in path.parents}
    known = {"data.dataset", "data.feature_values", "swaps.swap_set"}
    known |= {"tree.nodes", "tree.paths", "tree.predictions"}
    known |= {f"meaning.{path.stem}" for path in mine}
    read = set().union(*(imports[path] for path in mine))
    assert {name for name in read if name.startswith("pytest_scrub")} == {
        f"pytest_scrub.{k}" for k in known - {"meaning.__init__"}
    }
    for path in imports.keys() - mine:
        assert not any(name.startswith("pytest_scrub.meaning") for name in imports[path]), path


def test_the_meaning_can_be_read():
    """Each rule is found by its number, each name that the docs give is there, no file is long."""
    files = {path.stem: path.read_text() for path in Path(meaning.__file__).parent.glob("*.py")}
    assert max(len(text.splitlines()) for text in files.values()) < 250
    docs = (ROOT / "docs" / "meaning.md").read_text()
    rules = re.findall(r"^(\d+)\. ", docs.partition("## Exactly")[2].partition("\n## ")[0], re.M)
    table = re.findall(r"^\| ([\d, to]+?): .*\| (.*) \|$", docs, re.M)
    listed = set()
    for numbers, where in table:
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", numbers):
            listed |= set(range(int(first), int(last or first) + 1))
        for file, name in re.findall(r"`(\w+)\.(\w+(?:\.\w+)?)`", where):
            attrgetter(name)(getattr(meaning, file))
    assert listed == set(map(int, rules))


def imported(path):
    """The modules that a file imports from, and what it imports from them, by full name."""
    found = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.ImportFrom):
            found.add(statement.module)
            found |= {
                f"pytest_scrub.{alias.name}"
                for alias in statement.names
                if statement.module == "pytest_scrub"
            }
        elif isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
    return found


@pytest.mark.parametrize("kind", ["functions", "modules", "hooks"])
def test_engine_and_reference_agree_without_a_residual_stream(kind):
    kinds = {"functions": function_graphs, "modules": module_graphs, "hooks": hooked_graphs}
    networks = kinds[kind]()
    with AllFloat64():  # some families' softmax, too
        settings(max_examples=CASES[kind])(
            given(networks, st.data())(engine_and_reference_agree_on_plain)
        )()


def engine_and_reference_agree_on_plain(plain, data):
    root = data.draw(generate_plain.hypotheses(plain))
    swap_set = data.draw(swap_sets(root, plain.dataset))
    places = st.sampled_from([None, *generate_plain.POSITIONS])
    metric_pos = data.draw(places) if plain.has_positions("output") else None
    store = plain.store
    evaluator = Evaluator(
        store.graph, plain.dataset, root, outputs_as_metric(metric_pos), store=store
    )
    event(f"{sum(1 for _ in evaluator.plan.walk())} nodes")
    theirs = meaning.outputs(plain.network, root, plain.dataset, swap_set, metric_pos)
    assert_same(evaluator.outputs(swap_set), theirs, 1e-9)


@few_in_quick(1)
@pytest.mark.parametrize("via", ["direct", "any"])
def test_masks_with_different_counts_match_kth_to_kth(via):
    """Rows have one, two or three positions; donors only ever have as many as the row they stand in
    for."""
    model = build(Architecture(n_layers=2, attn_only=False, norm="LN", n_ctx=5, causal=False))
    rng = np.random.default_rng(0)
    count = rng.integers(1, 4, size=12)
    marked = np.array([rng.permuted(np.arange(5) < n) for n in count])
    dataset = Dataset(
        torch.tensor(rng.integers(0, 5, size=(12, 5))),
        labels=np.zeros(12, dtype=int),
        label_pos="marked",
        features={"marked": marked, "count": count},
    )
    below = [
        embed(agrees_on="count", pos="marked", into="k"),
        mlp(0, agrees_on="count", pos="marked", into="v"),
    ]
    root = output(
        head(1, 0, agrees_on="count", pos="marked", via=via, reads=below, rest="count"),
        mlp(1, agrees_on="count", pos="marked"),
        rest="count",
    )
    evaluator = Evaluator(as_graph(model.bridge), dataset, root, Metric("output", last_logit))
    swap_set = evaluator.space.draw(sized(8, 40), rng)
    mine = evaluator.evaluate(swap_set)
    network = BridgeNetwork(model.bridge, dataset)
    theirs = [
        float(out[:, -1].mean())
        for out in meaning.outputs(network, root, dataset, swap_set, "marked")
    ]
    assert mine == pytest.approx(theirs, rel=1e-9)


@few_in_quick(1)
@pytest.mark.parametrize("via", ["direct", "any"])
def test_a_head_sees_the_keys_of_its_mask_child(via):
    model = build(Architecture(n_layers=2, attn_only=False, norm="LN", n_ctx=5, causal=False))
    rng = np.random.default_rng(1)
    visible = np.arange(5) < rng.integers(1, 6, size=12)[:, None]
    inputs = {
        "tokens": torch.tensor(rng.integers(0, 5, size=(12, 5))),
        "attention_mask": torch.tensor(visible),
    }
    dataset = Dataset(inputs, labels=np.zeros(12, dtype=int), label_pos=0)
    root = output(head(1, 0, agrees_on=ANYTHING, reads=[mask(agrees_on=ANYTHING, via=via)]))
    evaluator = Evaluator(
        as_graph(model.bridge), dataset, root, Metric("output", lambda output, batch: output[:, -1])
    )
    swap_set = evaluator.space.draw(sized(8, 40), rng)
    network = BridgeNetwork(model.bridge, dataset)
    theirs = [float(out[0, -1]) for out in meaning.outputs(network, root, dataset, swap_set, 0)]
    assert evaluator.evaluate(swap_set) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("via", ["direct", "any"])
@pytest.mark.parametrize("kind", ["native", "gpt2"])
def test_a_pattern_that_is_computed_counts_as_it_is(kind, via):
    """Also where it is no probability: the bias of the values then counts for more, or for less."""
    model = build(Architecture(kind=kind, n_layers=1, d_head=4, n_ctx=3, attn_only=False))
    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(0, 5, size=(8, 3)))
    dataset = Dataset(tokens, features={"first": tokens[:, 0]})
    below = pattern(0, 0, agrees_on="first", computed_by=Waves(3, None))
    root = output(head(0, 0, agrees_on=ANYTHING, reads=[below], via=via), rest=ANYTHING)
    evaluator = Evaluator(as_graph(model.bridge), dataset, root, outputs_as_metric(None))
    assert model.bridge.blocks[0].attn.b_V.abs().max() > 1e-3
    swap_set = evaluator.space.draw(8, rng)
    theirs = meaning.outputs(BridgeNetwork(model.bridge, dataset), root, dataset, swap_set, None)
    assert_same(evaluator.outputs(swap_set).double(), theirs, model.tolerance)


@pytest.mark.parametrize(
    "kind",
    ["gemma2", *(pytest.param(kind, marks=only_in_full) for kind in ("olmo2", "granite"))],
)
def test_heads_of_one_block_are_replaced_together(kind):
    """Beside one of another block, a part of a head, and in a run along every path."""
    small = Architecture(
        kind=kind, n_layers=2, d_head=4, n_ctx=4, attn_only=False, score_cap=3.0, logit_cap=3.0
    )
    rng = np.random.default_rng(0)
    tokens = torch.tensor(rng.integers(0, 5, size=(12, 4)))
    dataset = Dataset(tokens, labels=np.zeros(12, dtype=int), label_pos=-1)
    half = np.eye(8)[:, :3]
    root = output(
        head(1, 0, agrees_on=ANYTHING, via="any"),
        head(1, 1, agrees_on=ANYTHING, subspace=half),
        head(0, 0, agrees_on=ANYTHING),
        head(0, 1, agrees_on=ANYTHING),
        mlp(0, agrees_on=ANYTHING),
    )
    apart = output(*root.reads[1:])
    with AllFloat64():
        model = build(small)
        network = BridgeNetwork(model.bridge, dataset)
        for tree in (root, apart):
            evaluator = Evaluator(as_graph(model.bridge), dataset, tree, Metric("out", last_logit))
            swap_set = evaluator.space.draw(sized(8, 40), rng)
            mine = evaluator.outputs(swap_set)
            theirs = meaning.outputs(network, tree, dataset, swap_set, -1)
            assert_same(mine, theirs, 1e-9)


def last_logit(output, batch):
    return (output[:, :, -1] * batch.valid).sum(1) / batch.valid.sum(1)
