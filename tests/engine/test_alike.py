"""What is the same below a node is computed once, and gives what computing each gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub.data.columns import joint_codes
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine import alike
from pytest_scrub.engine.alike import Kinds
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import ModelError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import FunctionGraph, as_graph
from pytest_scrub.network.graph import Site
from pytest_scrub.swaps.swap_set import SwapSet, joined
from pytest_scrub.tree.nodes import EACH, Node, embed, head, mlp, module, output
from tests.reference.generate import Architecture, build

ROWS, LENGTH = 30, 4
TOKENS = torch.randint(5, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
FEATURES: dict[str, Any] = {
    "all": [0] * ROWS,
    "where": TOKENS[:, 1] % LENGTH,
    "first": TOKENS[:, 0] % 2,
}
DATA = Dataset(TOKENS, labels=TOKENS[:, 0], label_pos="where", features=FEATURES)
LINE = Dataset(
    {"a": torch.arange(ROWS).double()}, labels=torch.zeros(ROWS), features={"f": [0] * ROWS}
)
OUT = Metric("out", lambda out, batch: out)


def one_slot_at_a_time(evaluator: Evaluator, references: int = 6) -> SwapSet:
    """Drawn swap sets, and each of them with every slot changed by itself."""
    rng = np.random.default_rng(1)
    start = evaluator.space.draw(references, rng)
    others = evaluator.space.draw(references, rng, start.references)
    slots = range(len(start.slots))
    return joined([start, *(start.with_donors({i: others.donors[i]}) for i in slots)])


def chain(seen: list[int], also: Any = lambda value: 0.0) -> tuple[FunctionGraph, Node]:
    """Nodes each of which reads the one before; the rows that the middle one is called with."""

    def middle(n1: torch.Tensor) -> torch.Tensor:
        seen.append(len(n1))
        return 3 * n1 + also(n1)

    graph = FunctionGraph(
        n0=lambda a: a + 1, n1=lambda n0: 2 * n0, n2=middle, n3=lambda n2: n2 - 5,
        output=lambda n3: n3,
    )  # fmt: skip
    claim = module("n0", agrees_on="f")
    for level in range(1, 4):
        claim = module(f"n{level}", agrees_on="f", reads=[claim])
    return graph, output(claim)


@pytest.fixture(scope="module")
def network() -> Any:
    small = Architecture(n_layers=2, d_head=4, d_model=8, n_ctx=LENGTH, attn_only=False, norm="LN")
    return as_graph(build(small).bridge)


BELOW = embed(agrees_on="first")
CLAIMS = {
    "a chain": output(
        head(1, 0, agrees_on="first", reads=[head(0, 1, agrees_on="all", reads=[BELOW])])
    ),
    # the positions at which mlp0 is computed are those of the row that mlp1 is computed on
    "positions of the row above": output(
        mlp(1, pos="where", agrees_on="all", reads=[mlp(0, agrees_on="all", reads=[BELOW])])
    ),
    "positions of the output": output(
        mlp(1, agrees_on="all", reads=[mlp(0, agrees_on="all", reads=[BELOW])])
    ),
    "siblings": output(
        head(1, 0, agrees_on="all", reads=[head(0, 0, agrees_on="all", reads=[BELOW], into="q")]),
        mlp(1, agrees_on="first", reads=[head(0, 1, agrees_on="first", reads=[BELOW])]),
    ),
    "a donor for each position": output(
        head(
            1, 1, agrees_on="first",
            reads=[mlp(0, agrees_on="all", reads=[embed(agrees_on="first", pos=EACH)])],
        )
    ),
    "along every path": output(
        head(1, 0, agrees_on="first", via="any", reads=[mlp(0, agrees_on="all", reads=[BELOW])])
    ),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_figures_are_those_of_computing_each_column(
    network: Any, claim: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alike, "FEWEST_BYTES", 1)
    evaluator = Evaluator(network, DATA, claim)
    swap_set = one_slot_at_a_time(evaluator)
    fewer = list[int]()
    kinds_of = Kinds.of

    def seen(codes: Any) -> Kinds | None:
        kinds = kinds_of(codes)
        fewer.append(len(swap_set) if kinds is None else len(kinds.first))
        return kinds

    monkeypatch.setattr(Kinds, "of", seen)
    figures = evaluator.evaluate(swap_set)
    assert min(fewer) < 0.7 * len(swap_set)
    monkeypatch.setattr(Kinds, "of", lambda codes: None)
    each = evaluator.evaluate(swap_set)
    assert len(set(each.round(9).tolist())) > 10
    np.testing.assert_allclose(figures, each, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [None, 25, 7])
def test_a_node_is_computed_once_for_what_is_the_same_below(
    size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once in each batch; the last one may have fewer columns."""
    monkeypatch.setattr(alike, "FEWEST_BYTES", 1)
    seen = list[int]()
    evaluator = Evaluator(*swapped(chain(seen)), metric=OUT, batch_size=size)
    start = evaluator.space.draw(10, np.random.default_rng(0))
    few = start[np.arange(10) // 2]  # each twice, one after the other
    top = evaluator.space.index["output/n3/rest"]
    many = joined([few.with_donors({top: np.full(10, row)}) for row in range(8)])
    evaluator.ensure(evaluator.sites, np.arange(ROWS))
    seen.clear()
    figures = evaluator.evaluate(many)
    assert max(seen) <= 5
    alone = Evaluator(*swapped(chain([])), metric=OUT, batch_size=1)
    np.testing.assert_array_equal(figures, alone.evaluate(many))
    assert len(set(figures.tolist())) > 3


def swapped(made: tuple[FunctionGraph, Node]) -> tuple[FunctionGraph, Dataset, Node]:
    return made[0], LINE, made[1]


def test_columns_are_told_apart_where_little_is_computed_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    evaluator = Evaluator(*swapped(chain([])), metric=OUT)
    swap_set = one_slot_at_a_time(evaluator)
    told = list[int]()
    monkeypatch.setattr(Kinds, "of", lambda codes: told.append(len(codes)))
    evaluator.evaluate(swap_set)
    assert not told  # 8 bytes a node
    monkeypatch.setattr(alike, "FEWEST_BYTES", 20)
    evaluator.evaluate(swap_set)
    assert told == [4]  # the rows of the leaf and of three nodes, and no further


def test_a_node_that_depends_on_how_many_are_beside_it_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alike, "FEWEST_BYTES", 1)
    made = chain([], lambda value: float(len(value) == 10))
    evaluator = Evaluator(*swapped(made), metric=OUT)
    few = evaluator.space.draw(10, np.random.default_rng(0))
    apart = evaluator.space.draw(40, np.random.default_rng(1))
    top = evaluator.space.index["output/n3/rest"]
    evaluator.evaluate(apart)  # of batches of 40 nothing is wrong
    many = joined([few.with_donors({top: np.full(10, row)}) for row in range(4)])
    with pytest.raises(ModelError, match="depends on the rows beside it"):
        evaluator.evaluate(many)


@pytest.mark.parametrize("salt", [alike.SALT, np.zeros_like(alike.SALT)])
def test_kinds_are_exact(salt: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where all numbers are mixed to one."""
    monkeypatch.setattr(alike, "SALT", salt)
    rng = np.random.default_rng(0)
    for codes in (
        rng.integers(0, 3, (3, 200)),
        np.repeat(rng.integers(0, 1 << 40, (2, 40)), 5, axis=1),
        rng.integers(0, 2, (1, 50)),
    ):
        kinds = Kinds.of(list(codes))
        assert kinds is not None
        expected = joint_codes(list(codes))
        assert len(kinds.first) == expected.max() + 1
        assert (np.diff(kinds.first) > 0).all()
        assert (codes[:, kinds.first[kinds.of_column]] == codes).all()
        for kind, first in enumerate(kinds.first):
            assert first == np.flatnonzero(kinds.of_column == kind)[0]


def test_columns_that_all_differ_have_no_kinds() -> None:
    assert Kinds.of([np.arange(20)]) is None


def test_what_is_held_at_once_does_not_grow_with_the_depth_of_a_chain() -> None:
    def held(siblings: int, depth: int) -> int:
        nodes = {
            f"n{i}_{level}": module_of(f"n{i}_{level - 1}" if level else "a")
            for i in range(siblings)
            for level in range(depth)
        }
        tops = [f"n{i}_{depth - 1}" for i in range(siblings)]
        graph = FunctionGraph(**nodes, output=module_of(*tops))
        claims = []
        for i in range(siblings):
            claim = module(f"n{i}_0", agrees_on="f")
            for level in range(1, depth):
                claim = module(f"n{i}_{level}", agrees_on="f", reads=[claim])
            claims.append(claim)
        evaluator = Evaluator(graph, LINE, output(*claims), OUT)

        def bytes_of(sites: Any) -> int:
            return sum(isinstance(site, Site) for site in sites)

        return evaluator.held(bytes_of)

    assert held(1, 3) == held(1, 30)
    assert (held(10, 1), held(20, 1)) == (10, 20)


def module_of(*names: str) -> Any:
    space: dict[str, Any] = {}
    exec(f"def function({', '.join(names)}): return {' + '.join(names)}", space)
    return space["function"]
