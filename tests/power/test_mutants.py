"""Mutants: which false claims are made from a claim, and that none of them is the claim itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.checks import check_hypothesis
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import HypothesisError
from pytest_scrub.metrics import Metric, squared_error
from pytest_scrub.network import FunctionGraph, ModelGraph, as_graph
from pytest_scrub.power.mutants import (
    Mutant,
    Mutants,
    mutants,
    permuted_everywhere,
    with_other_units,
)
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.tree.nodes import (
    ANYTHING,
    EXACT,
    Agreement,
    Node,
    embed,
    group,
    head,
    mask,
    mlp,
    module,
    neurons,
    output,
    pos_embed,
)
from pytest_scrub.tree.paths import node_paths
from tests.reference.generate import (
    Architecture,
    build,
    datasets,
    hypotheses,
    positions,
    small_transformers,
)
from tests.sizes import only_in_full, sized

LENGTH = 4
ROWS = 24
RNG = np.random.default_rng(0)
TOKENS = torch.tensor(RNG.integers(0, 5, size=(ROWS, LENGTH)))
NUMBERS = np.arange(ROWS)
MASKED = np.arange(LENGTH) < 2 + NUMBERS[:, None] % 3
FEATURES = {
    "two": NUMBERS % 2,
    "three": NUMBERS % 3,
    "four": NUMBERS % 4,
    "text": [["a", "b", 3][i % 3] for i in range(ROWS)],
    "constant": np.zeros(ROWS),
    "four again": [f"value {i % 4}" for i in range(ROWS)],
    "marked": MASKED,
    "how many": MASKED.sum(axis=1),
    "row": NUMBERS,
}
DATA = Dataset(
    {"tokens": TOKENS, "attention_mask": torch.tensor(MASKED)},
    labels=NUMBERS % 5,
    features=FEATURES,
)


@pytest.fixture(scope="session")
def transformer() -> ModelGraph:
    """Three layers of three heads and an MLP, with learned positions; every query sees all keys
    that are visible."""
    small = Architecture(
        n_layers=3, n_heads=3, n_kv_heads=3, n_ctx=LENGTH, attn_only=False, norm="LN", causal=False
    )
    return as_graph(build(small).bridge)


def made(
    graph: ModelGraph,
    root: Node,
    kind: str | None = None,
    data: Dataset = DATA,
    most: int = 10_000,
    seed: int = 0,
) -> list[Mutant]:
    """The mutants of one kind, all of which the static checks and the swap space accept."""
    found = mutants(graph, data, root, -1, np.random.default_rng(seed), most)
    for mutant in found.mutants:
        check_hypothesis(graph, mutant.dataset, mutant.hypothesis, -1)
        SwapSpace(mutant.hypothesis, mutant.dataset)
        assert mutant.node in {path for path, _, _ in node_paths(root)}
        assert mutant.means.startswith("the claim does not depend on ")
    return [mutant for mutant in found.mutants if kind in (None, mutant.kind)]


def trees(found: list[Mutant]) -> list[Node]:
    return [mutant.hypothesis for mutant in found]


def on(*features: str) -> Agreement:
    return Agreement(features)


# --- dropped --------------------------------------------------------------------------------------


def test_each_node_is_dropped_with_all_below_it(transformer: ModelGraph) -> None:
    below = head(0, 1, agrees_on="three", into="k", pos=1)
    above = head(1, 0, agrees_on="two", reads=[below], rest="four", pos=-1)
    other = mlp(2, agrees_on=EXACT, name="last")
    found = made(transformer, output(above, other, rest="two"), "dropped")
    assert {mutant.node: mutant.hypothesis for mutant in found} == {
        "output/head1.0@-1": output(head(1, 0, agrees_on=ANYTHING, pos=-1), other, rest="two"),
        "output/head1.0@-1/head0.1[k]@1": output(
            head(
                1,
                0,
                agrees_on="two",
                reads=[head(0, 1, agrees_on=ANYTHING, into="k", pos=1)],
                rest="four",
                pos=-1,
            ),
            other,
            rest="two",
        ),
        "output/last": output(above, mlp(2, agrees_on=ANYTHING, name="last"), rest="two"),
    }
    assert all(mutant.dataset is DATA for mutant in found)
    by_node = {mutant.node: mutant for mutant in found}
    assert by_node["output/last"].what == "last may agree on anything"
    assert (
        by_node["output/last"].means
        == "the claim does not depend on last: it would hold without it"
    )


def test_what_claims_nothing_is_not_dropped_but_what_reads_on_is(transformer: ModelGraph) -> None:
    idle = head(0, 0, agrees_on=ANYTHING)
    assert made(transformer, output(idle), "dropped") == []
    root = output(head(1, 0, agrees_on=ANYTHING, reads=[idle]))
    assert trees(made(transformer, root, "dropped")) == [output(head(1, 0, agrees_on=ANYTHING))]


def test_a_dropped_node_computes_nothing(transformer: ModelGraph) -> None:
    root = output(mlp(1, agrees_on="four", computed_by=lambda four: np.zeros((len(four), 8))))
    assert trees(made(transformer, root, "dropped")) == [output(mlp(1, agrees_on=ANYTHING))]


def test_whoever_shares_a_dropped_nodes_donor_keeps_one(transformer: ModelGraph) -> None:
    def shared(*nodes: Node) -> Node:
        return output(*nodes, mlp(2, agrees_on="two"))

    first, second = head(0, 0, agrees_on="four", name="a"), head(0, 1, agrees_on="four", shares="a")
    found = {
        mutant.node: mutant.hypothesis
        for mutant in made(transformer, shared(first, second), "dropped")
    }
    assert found["output/a"] == shared(
        head(0, 0, agrees_on=ANYTHING, name="a"), head(0, 1, agrees_on="four")
    )
    assert found["output/head0.1"] == shared(first, head(0, 1, agrees_on=ANYTHING))

    third = head(0, 2, agrees_on="four", shares="a")
    found = {
        mutant.node: mutant.hypothesis
        for mutant in made(transformer, shared(first, second, third), "dropped")
    }
    space = SwapSpace(found["output/a"], DATA)
    assert set(space.paths) == {
        "output/rest",
        "output/a",
        "output/head0.1",
        "output/head0.2",
        "output/mlp2",
    }
    donors = dict(zip(space.paths, space.draw(200, np.random.default_rng(0)).donors, strict=True))
    assert (donors["output/head0.1"] == donors["output/head0.2"]).all()
    assert (donors["output/head0.1"] != donors["output/a"]).any()


# --- coarsened ------------------------------------------------------------------------------------


def test_each_feature_of_several_is_left_out(transformer: ModelGraph) -> None:
    root = output(head(1, 0, agrees_on=["two", "three", "half"], reads=[embed(agrees_on=ANYTHING)]))
    data = Dataset(TOKENS, features={**FEATURES, "half": ROWS / 2 < NUMBERS})
    found = made(transformer, root, "coarsened", data)
    assert [mutant.hypothesis.reads[0].agrees_on for mutant in found] == [
        on("three", "two"),
        on("half", "two"),
        on("half", "three"),
    ]
    assert found[0].what == "head1.0 agrees on three and two without half"
    assert found[0].means == (
        "the claim does not depend on how finely head1.0 agrees: three and two without half would "
        "do as well"
    )
    assert all(mutant.dataset is data and mutant.hypothesis.reads[0].reads for mutant in found)


@pytest.mark.parametrize(
    ("column", "merged"),
    [
        ([3, 1, 2, 0, 3], [2, 0, 2, 0, 2]),
        ([4, 1, 3, 0, 2], [2, 0, 2, 0, 2]),  # the odd one out joins its neighbours
        ([2, 0, 1, 0, 2], [2, 0, 0, 0, 2]),  # of three it stays alone
        (["d", "a", "b", "c", "b"], ["c", "a", "a", "c", "a"]),
        ([(0, 9), (1, 0), (0, 2), (2, 2), (0, 2)], [(0, 2), (1, 0), (0, 2), (1, 0), (0, 2)]),
        ([1, "a", 2, "b", 1], [1, "a", 1, "a", 1]),  # by how they are written: 'a', 'b', 1, 2
        ([0.5, -1.5, 2.5, -0.0, 0.0], [0.5, -1.5, 0.5, -1.5, -1.5]),
    ],
)
def test_neighbouring_values_are_merged(column: list[Any], merged: list[Any]) -> None:
    data = Dataset({"a": torch.arange(5.0)}, labels=torch.zeros(5), features={"f": column})
    graph = FunctionGraph(output=lambda a: a)
    (mutant,
    ) = (m for m in mutants(graph, data, output(module("a", agrees_on="f")), None,
    np.random.default_rng(0))
                 .mutants if m.kind == "coarsened")  # fmt: skip
    assert mutant.hypothesis.reads[0].agrees_on == on("f, values merged in pairs")
    values = mutant.dataset.feature("f, values merged in pairs").tolist()
    assert [tuple(value) if isinstance(value, list) else value for value in values] == merged
    assert mutant.what == "a agrees on f with pairs of values merged"
    assert "f, values merged in pairs" not in data.feature_names


def test_what_is_below_a_coarsened_node_stays(transformer: ModelGraph) -> None:
    below = head(0, 1, agrees_on="four", into="q")
    root = output(head(1, 0, agrees_on="four", reads=[below], rest="four"))
    found = {
        mutant.node: mutant.hypothesis.reads[0] for mutant in made(transformer, root, "coarsened")
    }
    changed = found["output/head1.0"]
    assert changed.agrees_on == on("four, values merged in pairs")
    assert (changed.reads, changed.rest) == ((below,), on("four"))
    assert found["output/head1.0/head0.1[q]"].agrees_on == on("four")


def test_merging_two_values_is_dropping_a_leaf_but_not_a_non_leaf(transformer: ModelGraph) -> None:
    assert made(transformer, output(head(1, 0, agrees_on="two")), "coarsened") == []
    reads = [embed(agrees_on="two")]
    found = made(transformer, output(head(1, 0, agrees_on="two", reads=reads)), "coarsened")
    assert trees(found) == [output(head(1, 0, agrees_on=ANYTHING, reads=reads))]
    assert found[0].what == "head1.0 agrees on anything"


def test_the_roots_own_feature_is_weakened_too(transformer: ModelGraph) -> None:
    found = made(transformer, output(agrees_on="four"))
    assert [(mutant.kind, mutant.node) for mutant in found] == [
        ("coarsened", "output"),
        ("permuted", "output"),
    ]


def test_exact_and_anything_have_no_feature_to_weaken(transformer: ModelGraph) -> None:
    root = output(
        head(1, 0, agrees_on=EXACT, reads=[embed(agrees_on=ANYTHING)], rest="four"), rest="four"
    )
    assert {mutant.kind for mutant in made(transformer, root)} == {"dropped", "component"}


# --- permuted -------------------------------------------------------------------------------------


def test_each_feature_is_permuted_among_the_rows(transformer: ModelGraph) -> None:
    found = made(transformer, output(head(1, 0, agrees_on=["three", "four"])), "permuted")
    assert [mutant.hypothesis.reads[0].agrees_on for mutant in found] == [
        on("four, permuted among rows", "three"),
        on("four", "three, permuted among rows"),
    ]
    for mutant, name in zip(found, ("four", "three"), strict=True):
        column = mutant.dataset.feature(f"{name}, permuted among rows")
        assert sorted(column) == sorted(DATA.feature(name))
        assert (column != DATA.feature(name)).any()
        assert set(mutant.dataset.feature_names) - set(DATA.feature_names) == {
            f"{name}, permuted among rows"
        }


def test_nodes_that_share_a_donor_are_weakened_together(transformer: ModelGraph) -> None:
    root = output(head(0, 0, agrees_on="four", name="a"), head(0, 1, agrees_on="four", shares="a"))
    for kind in ("coarsened", "permuted"):
        (mutant,) = made(transformer, root, kind)
        first, second = mutant.hypothesis.reads
        assert first.agrees_on == second.agrees_on != on("four")
        assert second.shares == "a"


def shown(*columns: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Features next to one another, as a row's activation."""
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def test_a_function_gets_its_features_in_its_own_order() -> None:
    # "f, ..." is sorted behind "f (a)", in front of which "f" stands.
    data = Dataset(
        {"a": torch.zeros(ROWS, 2)},
        labels=torch.zeros(ROWS, 2),
        features={"f": NUMBERS % 4, "f (a)": 10 + NUMBERS % 4},
    )
    graph = FunctionGraph(A=lambda a: a, output=lambda A: A)
    root = output(module("A", agrees_on=["f", "f (a)"], computed_by=shown))
    found = made_plain(graph, root, data)
    assert [mutant.kind for mutant in found.mutants].count("permuted") == 2
    computed = [mutant for mutant in found.mutants if mutant.kind in ("permuted", "coarsened")]
    assert len(computed) == 4
    for mutant in [*computed, None]:
        if mutant is None:
            tree, with_column = next(permuted_everywhere(data, root, np.random.default_rng(0)))
        else:
            tree, with_column = mutant.hypothesis, mutant.dataset
        evaluator = Evaluator(graph, with_column, tree, squared_error())
        values = evaluator.outputs(evaluator.space.unswapped(NUMBERS)).numpy()
        assert (values[:, 0] < 10).all()
        assert (values[:, 1] >= 10).all()
        changed = [
            int((values[:, i] != data.feature(name)).any()) for i, name in enumerate(("f", "f (a)"))
        ]
        assert sum(changed) == (2 if mutant is None else 1)


def made_plain(graph: ModelGraph, root: Node, data: Dataset, seed: int = 0) -> Mutants:
    return mutants(graph, data, root, None, np.random.default_rng(seed), 10_000)


def test_a_changed_columns_name_is_new() -> None:
    data = Dataset(
        {"a": torch.tensor(NUMBERS)},
        features={"f": NUMBERS % 4, "f, permuted among rows": NUMBERS % 3},
    )
    found = made_plain(FunctionGraph(output=lambda a: a), output(module("a", agrees_on="f")), data)
    (mutant,) = (mutant for mutant in found.mutants if mutant.kind == "permuted")
    assert mutant.hypothesis.reads[0].agrees_on == on("f, permuted among rows'")


# --- component ------------------------------------------------------------------------------------


def components(found: list[Mutant]) -> set[str]:
    return {mutant.hypothesis.reads[0].component for mutant in found}


def test_a_head_is_exchanged_for_heads_of_its_layer_first(transformer: ModelGraph) -> None:
    found = made(transformer, output(head(1, 0, agrees_on="two")), "component")
    assert [mutant.hypothesis.reads[0].component for mutant in found][2][:5] in ("head0", "head2")
    assert components(found[:2]) == {"head1.1", "head1.2"}
    assert len(found) == 3
    # A head that a sibling claims is the sibling's, in another slot too.
    reads = [head(0, 0, agrees_on="two", into="k"), head(0, 1, agrees_on="two", into="v")]
    found = made(transformer, output(head(1, 0, agrees_on="two", reads=reads)), "component")
    assert [mutant.what for mutant in found if mutant.node != "output/head1.0"] == [
        "head1.0/head0.0[k]: head0.2 instead of head0.0",
        "head1.0/head0.1[v]: head0.2 instead of head0.1",
    ]


def test_only_what_the_parent_reads_and_what_reads_the_children_is_exchanged(
    transformer: ModelGraph,
) -> None:
    below = head(0, 0, agrees_on="three", into="k")
    root = output(head(1, 0, agrees_on="two", reads=[below]))
    found = made(transformer, root, "component")
    by_node = {
        node: [m.hypothesis for m in found if m.node == node] for node in {m.node for m in found}
    }
    assert {tree.reads[0].reads[0].component for tree in by_node["output/head1.0/head0.0[k]"]} == {
        "head0.1",
        "head0.2",
    }
    assert all(tree.reads[0].reads == (below,) for tree in by_node["output/head1.0"])
    assert not {tree.reads[0].component for tree in by_node["output/head1.0"]} & {
        "head0.1",
        "head0.2",
    }


def test_mlps_are_exchanged_and_embeddings_are_not(transformer: ModelGraph) -> None:
    root = output(mlp(1, agrees_on="two"), embed(agrees_on="two"), pos_embed(agrees_on="two"))
    assert components(made(transformer, root, "component")) == {"mlp0", "mlp2"}
    masked = output(head(1, 0, agrees_on="two", reads=[mask(agrees_on="two")]))
    assert {mutant.node for mutant in made(transformer, masked, "component")} == {"output/head1.0"}


def test_one_member_of_a_group_is_exchanged(transformer: ModelGraph) -> None:
    found = made(
        transformer, output(group(["head1.0", "mlp1"], agrees_on="two", name="pair")), "component"
    )
    assert len(found) == 3
    for mutant in found:
        (node,) = mutant.hypothesis.reads
        assert len(set(node.components) & {"head1.0", "mlp1"}) == 1
        assert sorted(name[:3] for name in node.components) == ["hea", "mlp"]
    assert {mutant.what for mutant in found} >= {
        "pair: head1.1 instead of head1.0",
        "pair: head1.2 instead of head1.0",
    }


def test_nodes_of_other_graphs_are_exchanged_where_their_shapes_are_the_same() -> None:
    graph = FunctionGraph(
        A=lambda a: a, B=lambda a: 2 * a, C=lambda a: a.sum(1), D=lambda a: a.round().long(),
        E=lambda a: -a,
        output=lambda A, B, C, D: A.sum(1) + B.sum(1) + C + D.sum(1),
    )  # fmt: skip
    data = Dataset({"a": torch.rand(ROWS, 3)}, labels=torch.zeros(ROWS), features=FEATURES)
    found = made_plain(graph, output(module("A", agrees_on="two")), data).mutants
    # C has another shape, D another type, E is not read, and a only by way of others.
    assert [m.hypothesis.reads[0].component for m in found if m.kind == "component"] == ["B"]
    found = made_plain(graph, output(module("A", agrees_on="two", via="any")), data).mutants
    assert {m.hypothesis.reads[0].component for m in found if m.kind == "component"} == {"a", "B"}


# --- slot and position ----------------------------------------------------------------------------


def test_a_node_goes_into_the_other_slots_that_are_free(transformer: ModelGraph) -> None:
    root = output(
        head(
            1,
            0,
            agrees_on="two",
            reads=[embed(agrees_on="two", into="q"), embed(agrees_on="four", into="v")],
        )
    )
    found = made(transformer, root, "slot")
    assert [(mutant.node, mutant.what) for mutant in found] == [
        ("output/head1.0/embed[q]", "head1.0/embed[q] into k instead of q"),
        ("output/head1.0/embed[v]", "head1.0/embed[v] into k instead of v"),
    ]
    assert found[0].hypothesis.reads[0].reads[0].into == "k"
    assert (
        made(
            transformer, output(head(1, 0, agrees_on="two", reads=[embed(agrees_on="two")])), "slot"
        )
        == []
    )
    seen = output(head(1, 0, agrees_on="two", reads=[mask(agrees_on="two", into="k", via="any")]))
    assert {
        mutant.hypothesis.reads[0].reads[0].into for mutant in made(transformer, seen, "slot")
    } == {"q", "v"}


@pytest.mark.parametrize(
    ("pos", "others"), [(1, {0, 2}), (0, {1}), (3, {2}), (-1, {-2}), (-4, {-3}), (-2, {-3, -1})]
)
def test_a_position_moves_by_one_and_never_round_the_end(
    transformer: ModelGraph, pos: int, others: set[int]
) -> None:
    root = output(head(1, 0, agrees_on="two", reads=[embed(agrees_on="two", into="v", pos=pos)]))
    found = made(transformer, root, "position")
    assert {mutant.hypothesis.reads[0].reads[0].pos for mutant in found} == others
    assert found[0].what.endswith(f"at position {min(others)} instead of {pos}")


def test_other_positions_are_left_alone(transformer: ModelGraph) -> None:
    marked = {"agrees_on": "how many", "pos": "marked", "into": "k"}
    root = output(head(1, 0, agrees_on="how many", rest="how many",
                       reads=[embed(**marked),
                       embed(agrees_on="two", pos=slice(1, 3), into="v")]))  # fmt: skip
    assert made(transformer, root, "position") == []
    # What is read at the last position only cannot be claimed elsewhere.
    assert made(transformer, output(head(1, 0, agrees_on="two", pos=-1)), "position") == []


# --- exchanged ------------------------------------------------------------------------------------


def test_siblings_exchange_claims_and_keep_their_places(transformer: ModelGraph) -> None:
    first = head(
        1, 0, agrees_on="two", reads=[embed(agrees_on="four", into="k")], rest="three", pos=-1
    )
    root = output(first, head(2, 1, agrees_on="four", name="x"))
    (mutant,) = made(transformer, root, "exchanged")
    other = head(
        2, 1, agrees_on="two", reads=[embed(agrees_on="four", into="k")], rest="three", name="x"
    )
    assert mutant.hypothesis == output(head(1, 0, agrees_on="four", pos=-1), other)
    assert mutant.node == "output/head1.0@-1"
    assert mutant.what == "head1.0@-1 and x exchange what they agree on and read"
    (mutant,) = made(
        transformer, output(mlp(1, agrees_on="two"), mlp(2, agrees_on="four")), "exchanged"
    )
    assert mutant.what == "mlp1 and mlp2 exchange what they agree on"


def test_only_siblings_that_say_something_else_and_can_are_exchanged(
    transformer: ModelGraph,
) -> None:
    reads = [head(1, 0, agrees_on="two", into="k")]
    for other in (
        head(2, 1, agrees_on="two", reads=reads),  # says the same
        head(1, 1, agrees_on="four"),  # cannot read head1.0
        embed(agrees_on="four"),  # reads nothing
        group(["head2.1", "mlp2"], agrees_on="four"),  # is a leaf
    ):
        assert (
            made(transformer, output(head(2, 0, agrees_on="two", reads=reads), other), "exchanged")
            == []
        )


def test_a_rest_goes_only_to_what_reads(transformer: ModelGraph) -> None:
    rests = Node(("head2.0",), on("two"), rest=ANYTHING)  # as join makes them
    assert made(transformer, output(rests, embed(agrees_on="four")), "exchanged") == []
    assert len(made(transformer, output(rests, mlp(1, agrees_on="four")), "exchanged")) == 1


def test_a_computed_value_is_exchanged_only_where_it_fits(transformer: ModelGraph) -> None:
    def one_position(four: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.zeros((len(four), 1, 8))

    def anywhere(four: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.zeros((len(four), 8))

    for function, count in ((one_position, 0), (anywhere, 1)):
        computed = embed(agrees_on="four", into="k", pos=0, computed_by=function)
        root = output(
            head(1, 0, agrees_on="two", reads=[computed, mlp(0, agrees_on="two", into="v")])
        )
        assert len(made(transformer, root, "exchanged")) == count


# --- what is left out -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("root", "equivalent"),
    [
        (output(head(1, 0, agrees_on="constant")), 2),  # dropped, permuted
        # without constant, and with it permuted
        (output(head(1, 0, agrees_on=["constant", "four"])), 2),
        # without either, or with noise beside the other
        (output(head(1, 0, agrees_on=["four", "four again"])), 4),
        (output(head(1, 0, agrees_on="row")), 1),  # permuted: every row is still alone
        (output(head(1, 0, agrees_on="four"), head(1, 1, agrees_on="four again")), 1),  # exchanged
        # exchanged they are the claim
        (output(head(1, 0, agrees_on="four"), head(1, 1, agrees_on="four")), 0),
        (output(mlp(1, agrees_on="constant", computed_by=lambda one: np.ones((len(one), 8)))), 2),
        (output(mlp(1, agrees_on="two", computed_by=lambda two: np.ones((len(two), 8)))), 0),
        (output(head(1, 0, agrees_on="four", reads=[embed(agrees_on="constant")])), 2),
    ],
)
def test_what_allows_no_more_than_the_claim_is_counted_apart(
    transformer: ModelGraph, root: Node, equivalent: int
) -> None:
    found = mutants(transformer, DATA, root, -1, np.random.default_rng(0), 10_000)
    assert found.equivalent == equivalent
    assert found.left_out == 0


def test_repeated_rows_are_one_content() -> None:
    rows = torch.arange(6).repeat_interleave(2)
    graph = FunctionGraph(A=lambda a: a, output=lambda A: A)
    columns = {"row": np.arange(12), "content": np.arange(12) // 2, "other": np.arange(12) % 4}
    data = Dataset({"a": rows}, labels=torch.zeros(12), features=columns)
    merged = made_plain(graph, output(module("A", agrees_on="row")), data)
    assert merged.equivalent == 2  # merged into rows of one content, and permuted
    assert [mutant.kind for mutant in merged.mutants] == ["dropped"]
    assert "coarsened" in {
        m.kind for m in made_plain(graph, output(module("A", agrees_on="content")), data).mutants
    }
    # What a non-leaf's own row says goes beyond its content.
    reading = output(module("A", agrees_on="row", reads=[module("a", agrees_on="other")]))
    nodes = {
        mutant.node
        for mutant in made_plain(graph, reading, data).mutants
        if mutant.kind == "coarsened"
    }
    assert "output/A" in nodes


def test_only_rows_that_can_be_drawn_count() -> None:
    graph = FunctionGraph(output=lambda a: a)
    column = [0, 0, 0, 0, 1, 2]
    data = Dataset(
        {"a": torch.arange(6.0)}, features={"f": column}, references=[0, 1], donors=[1, 2, 3]
    )
    dropped = [
        m
        for m in made_plain(graph, output(module("a", agrees_on="f")), data).mutants
        if m.kind == "dropped"
    ]
    assert dropped == []


def test_no_mutant_twice(transformer: ModelGraph) -> None:
    # Without two, only constant is left, and all rows agree on that: the node is dropped.
    found = made(transformer, output(head(1, 0, agrees_on=["constant", "two"])))
    assert [mutant.kind for mutant in found if mutant.kind != "component"] == [
        "dropped",
        "permuted",
    ]


def test_positions_that_columns_mark_stay_as_many(transformer: ModelGraph) -> None:
    marked = embed(agrees_on="how many", pos="marked", into="v")
    root = output(
        head(1, 0, agrees_on="how many", rest="how many", reads=[marked]), rest="how many"
    )
    nodes = {mutant.node for mutant in made(transformer, root, "dropped")}
    # rows with another number of positions cannot stand in for these
    assert nodes == {"output/head1.0"}


def test_a_mask_at_some_positions_is_changed_only_where_a_key_stays_visible(
    transformer: ModelGraph,
) -> None:
    partial = output(
        head(1, 0, agrees_on="two", reads=[mask(agrees_on="two", pos=1)]), mlp(2, agrees_on="two")
    )
    node = "output/head1.0/mask@1"
    assert node in {mutant.node for mutant in made(transformer, partial)}
    left = {"tokens": TOKENS, "attention_mask": torch.tensor(MASKED[:, ::-1].copy())}
    found = made(transformer, partial, data=Dataset(left, features=FEATURES))
    assert node not in {mutant.node for mutant in found}
    # where the claim itself is trusted
    assert {"output/head1.0", "output/mlp2"} <= {mutant.node for mutant in found}


# --- how many, and which --------------------------------------------------------------------------

WIDE = output(
    head(1, 0, agrees_on=["four", "three"], reads=[embed(agrees_on="four", into="k", pos=1),
                                                   embed(agrees_on="three", into="v", pos=2)]),
    head(1, 1, agrees_on="three"), head(2, 0, agrees_on="four"), mlp(1, agrees_on=["two", "three"]),
    rest="two",
)  # fmt: skip


def test_of_too_many_a_spread_is_kept(transformer: ModelGraph) -> None:
    rng = np.random.default_rng
    everything = mutants(transformer, DATA, WIDE, -1, rng(0), 10_000)
    some = mutants(transformer, DATA, WIDE, -1, rng(0), 20)
    assert len(some.mutants) == 20
    assert some.left_out == len(everything.mutants) - 20 > 0
    assert some.equivalent == everything.equivalent
    kinds = [mutant.kind for mutant in some.mutants]
    dropped = [mutant for mutant in everything.mutants if mutant.kind == "dropped"]
    assert kinds.count("dropped") == len(dropped) == 6
    assert set(kinds) == {
        "dropped",
        "coarsened",
        "permuted",
        "component",
        "slot",
        "position",
        "exchanged",
    }
    counts = [kinds.count(kind) for kind in set(kinds) - {"dropped"}]
    assert max(counts) - min(counts) <= 1
    nodes = [mutant.node for mutant in some.mutants if mutant.kind == "permuted"]
    assert len(set(nodes)) == len(nodes)
    few = mutants(transformer, DATA, WIDE, -1, rng(0), 3)
    assert [mutant.kind for mutant in few.mutants] == ["dropped"] * 3
    assert few.left_out == len(everything.mutants) - 3
    assert len(mutants(transformer, DATA, WIDE, -1, rng(0)).mutants) == min(
        50, len(everything.mutants)
    )


def described(found: Mutants) -> list[tuple[Any, ...]]:
    columns = [
        tuple(map(str, m.dataset.feature(name)))
        for m in found.mutants
        for name in m.dataset.feature_names[len(FEATURES) :]
    ]
    return [*((m.kind, m.node, m.what, m.means, m.hypothesis) for m in found.mutants), *columns]


@pytest.mark.parametrize("most", [20, 10_000])
def test_the_same_generator_gives_the_same_mutants_whatever_the_order_of_siblings(
    transformer: ModelGraph, most: int
) -> None:
    def of(root: Node, seed: int) -> list[tuple[Any, ...]]:
        return described(mutants(transformer, DATA, root, -1, np.random.default_rng(seed), most))

    turned = Node(WIDE.components, WIDE.agrees_on, WIDE.reads[::-1], rest=WIDE.rest)
    assert of(WIDE, 1) == of(WIDE, 1) == of(turned, 1)
    assert of(WIDE, 1) != of(WIDE, 2)


def test_a_misstated_claim_is_refused(transformer: ModelGraph) -> None:
    with pytest.raises(HypothesisError, match=r"no component 'head7\.0'"):
        mutants(
            transformer, DATA, output(head(7, 0, agrees_on="two")), -1, np.random.default_rng(0)
        )


# --- all features at once -------------------------------------------------------------------------


def test_every_row_gets_the_features_of_one_other_row() -> None:
    root = output(
        head(1, 0, agrees_on=["two", "row"], reads=[embed(agrees_on=EXACT)], rest="three"),
        agrees_on="four",
    )
    drawn = permuted_everywhere(DATA, root, np.random.default_rng(0))
    tree, data = next(drawn)
    node = tree.reads[0]
    rows = data.feature("row, permuted among rows")
    assert sorted(rows) == list(range(ROWS))
    assert (rows != NUMBERS).any()
    for name in ("two", "three", "four"):
        assert (data.feature(f"{name}, permuted among rows") == DATA.feature(name)[rows]).all()
    assert tree.agrees_on == on("four, permuted among rows")
    assert node.agrees_on == on("row, permuted among rows", "two, permuted among rows")
    assert node.rest == on("three, permuted among rows")
    assert (node.reads[0].agrees_on, tree.rest) == (EXACT, ANYTHING)
    other, again = next(drawn)
    assert other == tree
    assert (again.feature("row, permuted among rows") != rows).any()


def test_a_claim_without_features_has_nothing_to_permute() -> None:
    root = output(head(1, 0, agrees_on=EXACT), agrees_on=ANYTHING)
    assert list(permuted_everywhere(DATA, root, np.random.default_rng(0))) == []


# --- other units ----------------------------------------------------------------------------------


def test_other_units_are_drawn_again_and_again(transformer: ModelGraph) -> None:
    root = output(neurons(1, [0, 1], agrees_on="two"))
    drawn = [*with_other_units(transformer, DATA, root, -1, np.random.default_rng(0))]
    names = [tree.reads[0].component for tree in drawn]
    assert (len(drawn), len(set(names)) > 2) == (19, True)
    assert "neurons1[0:2]" not in names
    assert {tree.reads[0].agrees_on for tree in drawn} == {on("two")}


def test_of_few_units_others_may_be_its_own_again_and_are_left_out(
    transformer: ModelGraph,
) -> None:
    count = transformer.bases["neurons1"].count
    all_but_one = output(neurons(1, range(1, count), agrees_on="two"))
    drawn = [*with_other_units(transformer, DATA, all_but_one, -1, np.random.default_rng(0))]
    assert 0 < len(drawn) <= 19
    assert all(tree != all_but_one for tree in drawn)


def test_without_units_or_others_none_are_drawn(transformer: ModelGraph) -> None:
    everything = range(transformer.bases["neurons1"].count)
    for root in (output(mlp(1, agrees_on="two")), output(neurons(1, everything, agrees_on="two"))):
        assert [*with_other_units(transformer, DATA, root, -1, np.random.default_rng(0))] == []


# --- any claim ------------------------------------------------------------------------------------

EXAMPLES = sized(2, 400)


@pytest.mark.parametrize(
    "kind", ["native", *(pytest.param(kind, marks=only_in_full) for kind in ("gpt2", "llama"))]
)
def test_every_mutant_can_be_evaluated_and_is_not_the_claim(kind: str) -> None:
    settings(max_examples=EXAMPLES)(given(data=st.data())(mutants_are_sound))(kind=kind)


def mutants_are_sound(kind: str, data: st.DataObject) -> None:
    model = data.draw(small_transformers(kind))
    dataset = data.draw(datasets(model))
    root = data.draw(hypotheses(model, dataset))
    metric = Metric(
        "output", lambda output, batch: output.flatten(1).sum(1), data.draw(positions(dataset))
    )
    graph = as_graph(model.bridge)
    try:
        Evaluator(graph, dataset, root, metric)
    except HypothesisError:  # what is put where nobody looks
        event("refused")
        return
    found = mutants(graph, dataset, root, metric.pos, np.random.default_rng(0), 1000)
    event(f"{min(len(found.mutants) // 5 * 5, 30)} mutants or more")
    assert len({mutant.hypothesis for mutant in found.mutants} | {root}) == len(found.mutants) + 1
    for mutant in found.mutants:
        evaluator = Evaluator(graph, mutant.dataset, mutant.hypothesis, metric)
        swap_set = evaluator.space.draw(10, np.random.default_rng(1))
        assert np.isfinite(evaluator.evaluate(swap_set)).all()
        assert allows_something_new(SwapSpace(root, dataset), evaluator.space), mutant


def allows_something_new(claim: SwapSpace, mutant: SwapSpace) -> bool:
    """Whether a row has a donor that the claim does not give it; trees with other parts differ in
    more than that."""
    if mutant.paths != claim.paths or any(
        slot.node.computed_by for slot in (*claim.slots, *mutant.slots)
    ):
        return True
    rows = np.arange(len(claim.dataset))
    nodes = [
        [(slot.node.components, slot.node.into, slot.node.pos) for slot in s.slots]
        for s in (claim, mutant)
    ]
    if nodes[0] != nodes[1]:
        return True
    return any(
        set(mine) - set(its)
        for path in claim.paths
        for mine, its in zip(mutant.allowed(path, rows), claim.allowed(path, rows), strict=True)
    )
