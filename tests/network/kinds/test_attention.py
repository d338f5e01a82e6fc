"""`attn(layer)`: is it all heads of the layer and nothing else, and is a false claim about it
refuted?"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import Dataset, Metric, attn, embed, group, head, mask, mlp, output
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network import as_graph
from pytest_scrub.power.mutants import mutants
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node
from tests.network.kinds.conftest import F, many_rows
from tests.reference.generate import Architecture, build
from tests.sizes import few_in_quick

LENGTH, D_MODEL, ROWS, HEADS = 4, 8, 24, 4
TOKENS = torch.randint(5, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
VISIBLE = torch.ones_like(TOKENS)
VISIBLE[::3, -1] = 0
DATA = Dataset(
    {"tokens": TOKENS, "attention_mask": VISIBLE},
    labels=TOKENS[:, 0],
    features={"first": TOKENS[:, 0], "where": TOKENS[:, 1] % LENGTH, "parity": TOKENS.sum(1) % 2},
)
SOME = np.eye(D_MODEL)[:, :3]
NETWORKS = {
    "learned positions": Architecture(n_layers=3, n_heads=HEADS, attn_only=False, norm="LN"),
    "no norm": Architecture(n_layers=3, n_heads=HEADS, n_kv_heads=HEADS),
    "grouped queries, rotary": Architecture(
        n_layers=3, n_heads=HEADS, attn_only=False, norm="RMS", positions="rotary", causal=False
    ),
    "gpt2": Architecture("gpt2", n_layers=3, n_heads=HEADS, attn_only=False, norm="LN"),
}


@pytest.fixture(params=NETWORKS, scope="module")
def bridge(request: pytest.FixtureRequest) -> Any:
    kind = NETWORKS[request.param]
    return build(replace(kind, n_ctx=LENGTH, d_model=D_MODEL, n_kv_heads=_keys(kind))).bridge


def _keys(kind: Architecture) -> int:
    return 2 if kind.positions == "rotary" else HEADS


def heads(layer: int) -> list[Node]:
    return [head(layer, nth) for nth in range(HEADS)]


OUTPUT = Metric("output", lambda out, batch: out.flatten(1).sum(1), None)


def evaluated(bridge: Any, root: Node, donors: dict[str, Any]) -> Tensor:
    """The outputs when every slot whose path ends so takes these donors."""
    slots = tuple(slot.path for slot in slots_of(root))
    table = np.stack([donors[slot.rpartition("/")[2].partition("#")[0]] for slot in slots])
    rows, store = SwapSet(np.arange(ROWS), table, slots, DATA.digest()), store_of(bridge)
    return Evaluator(store.graph, DATA, root, OUTPUT, store=store).outputs(rows).double()


@cache
def store_of(bridge: Any) -> ActivationStore:
    return ActivationStore(as_graph(bridge), DATA)


def assert_equal(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * float(other.abs().max()))


@few_in_quick(10)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pos": -1},
        {"pos": "where"},
        {"subspace": SOME},
        {"via": "any"},
        {"via": "any", "pos": slice(1, 3), "subspace": SOME},
    ],
    ids=str,
)
def test_it_is_the_group_of_all_heads(bridge: Any, options: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    donors = {name: rng.integers(0, ROWS, ROWS) for name in ("rest", "it", "first")}
    options = {**options, **F, "name": "it"}

    def trees(into: str | None) -> tuple[Node, Node]:
        def above(node: Node) -> Node:
            return head(2, 1, **F, name="first", reads=[node]) if into else node

        place = {"into": into} if into else {}
        group_ = group(heads(1), **options, **place)
        return output(above(attn(1, **options, **place))), output(above(group_))

    for into in (None, "k"):
        for one, other in [trees(into)]:
            labels = {
                key + suffix: value for key, value in donors.items()
                for suffix in ("", f"[{into}]", f"@{options.get('pos')}",
                               f"[{into}]@{options.get('pos')}", "@1:3", f"[{into}]@1:3")
            }  # fmt: skip
            changed = evaluated(bridge, one, labels)
            assert_equal(changed, evaluated(bridge, other, labels))
            still = {key: np.arange(ROWS) for key in labels}
            assert not torch.allclose(changed, evaluated(bridge, one, still))


@few_in_quick(10)
@pytest.mark.parametrize("via", ["direct", "any"])
@pytest.mark.parametrize("into", [None, "q", "k", "v"])
def test_what_it_reads_all_heads_read(bridge: Any, into: str | None, via: str) -> None:
    rng = np.random.default_rng(2)
    names = ("rest", "it", "below", "hidden")
    donors = {name: rng.integers(0, ROWS, ROWS) for name in names}
    donors |= {f"below[{into}]": donors["below"]}
    below = [
        embed(**F, into=into, via=via, name="below", pos=slice(0, 3)),
        mask(**F, name="hidden"),
    ]
    donors |= {"below@0:3": donors["below"], f"below[{into}]@0:3": donors["below"]}
    whole = output(attn(1, **F, name="it", reads=below))
    each = output(*(replace(node, **_claimed(node, below)) for node in heads(1)))
    assert_equal(evaluated(bridge, whole, donors), evaluated(bridge, each, donors))


def _claimed(node: Node, below: list[Node]) -> dict[str, Any]:
    claimed = head(1, 0, **F, name="it", reads=below)
    return {**vars(claimed), "components": node.components}


def test_a_sibling_that_is_read_in_the_same_run(bridge: Any) -> None:
    """Along every path at one position, directly at another: its own value is that of the run."""
    rng = np.random.default_rng(3)
    donors = {name: rng.integers(0, ROWS, ROWS) for name in ("rest", "run", "it", "above")}
    donors |= {"it@1": donors["it"]}

    def tree(*nodes: Node) -> Node:
        first = embed(**F, via="any", name="run")
        return output(mlp(2, **F, reads=[first, *nodes], name="above"))

    if "blocks.2.mlp.hook_out" not in bridge.hook_dict:
        pytest.skip("has no MLP")
    one = tree(attn(1, **F, pos=1, name="it"))
    other = tree(group(heads(1), **F, pos=1, name="it"))
    assert_equal(evaluated(bridge, one, donors), evaluated(bridge, other, donors))


# --- claims ---------------------------------------------------------------------------------------


@few_in_quick(1)
@pytest.mark.parametrize("via", ["direct", "any"])
def test_a_false_claim_is_refuted_and_a_true_one_is_not(via: str) -> None:
    many = many_rows(n_heads=HEADS, n_kv_heads=HEADS)

    def outcome(on: str) -> str:
        return many.outcome(output(attn(0, agrees_on=on, via=via), rest="first two"))

    assert {on: outcome(on) for on in many.data.feature_names} == {
        "first": "refuted",
        "second": "refuted",
        "first two": "held",
    }


def test_a_mutant_of_it_is_the_attention_of_another_layer() -> None:
    small = Architecture(n_layers=3, n_heads=HEADS, n_ctx=LENGTH, attn_only=False, norm="LN")
    graph, root = as_graph(build(small).bridge), output(attn(1, agrees_on="parity"))
    rng = np.random.default_rng(0)
    made = mutants(graph, DATA, root, None, rng).mutants
    kin = {one.hypothesis.reads[0].component for one in made if one.kind == "component"}
    assert kin == {"attn0", "attn2"}


def test_it_is_drawn_with_the_heads_of_its_layer() -> None:
    small = Architecture(n_layers=3, n_heads=HEADS, n_ctx=LENGTH, attn_only=False, norm="LN")
    drawn = circuit_of(output(attn(1, **F), head(1, 0, **F)), as_graph(build(small).bridge))
    levels = {node.components[0]: drawn.levels[node.level] for node in drawn.nodes}
    assert levels["attn1"] == levels["head1.0"] == "attention 1"
