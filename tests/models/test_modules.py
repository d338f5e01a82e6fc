"""Torch modules as graphs of their submodules, against plain hooks on one row at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_scrub.data import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import DataError, ModelError
from pytest_scrub.hypothesis_tree import ANYTHING, Agreement, Node, Span, Subspace, group, module, output
from pytest_scrub.metrics import Metric
from pytest_scrub.models import as_graph
from pytest_scrub.models.modules import ModuleGraph
from pytest_scrub.slots import node_paths, slots_of
from pytest_scrub.swaps import SwapSet

TOTAL = Metric("total", lambda out, batch: out.flatten(1).sum(1))
F: dict[str, Any] = {"agrees_on": "f"}
WIDTH, LENGTH, ROWS = 4, 3, 5


def refuses(sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(ModelError, match=rf"^{re.escape(sentence)}$")


# --- networks --------------------------------------------------------------------------------------------


class Block(nn.Module):
    """A small residual block whose relu and sum are done in place, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = nn.Linear(WIDTH, WIDTH), nn.ReLU(inplace=True), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out = self.down(self.act(self.up(x)))
        out += x
        return out


class Residual(nn.Module):
    """Tokens embedded, two blocks, mixed over positions, and logits at every position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, WIDTH)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.mix, self.head = nn.Linear(LENGTH, LENGTH), nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(x + self.mix(x.transpose(1, 2)).transpose(1, 2))


class Convolution(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2))


class Encoder(nn.Module):
    """A torch transformer, which takes a fused path where nobody looks."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(tokens))


def built(kind: Callable[[], nn.Module]) -> nn.Module:
    """In float64, with weights that are the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind().double().eval()


COLUMNS = {
    "f": [0] * ROWS,
    "where": [0, 2, 1, 1, -1],
    "two": np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1]], dtype=bool),
}
NOISE = torch.Generator().manual_seed(0)
TOKENS = Dataset(torch.randint(6, (ROWS, LENGTH), generator=NOISE), features=COLUMNS)
IMAGES = Dataset(torch.randn(ROWS, 1, 3, 3, generator=NOISE, dtype=torch.float64), features=COLUMNS)
VECTORS = Dataset(torch.randn(ROWS, LENGTH, WIDTH, generator=NOISE, dtype=torch.float64), features=COLUMNS)
BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))[0]


@dataclass(frozen=True)
class Case:
    """A network, data for it, and which of its modules can be read, in order of computation."""

    network: nn.Module
    data: Dataset
    readable: Sequence[str]
    has_positions: bool


BLOCK_PARTS = [f"blocks.{i}{part}" for i in range(2) for part in (".up", ".act", ".down", "")]
LAYER_PARTS = [
    f"encoder.layers.{i}{part}" for i in range(2) for part in (".norm1", ".linear1", ".linear2", ".norm2", "")
]
CASES = {
    "residual": Case(built(Residual), TOKENS, ["embed", *BLOCK_PARTS, "head"], True),
    "convolution": Case(built(Convolution), IMAGES, ["0", "1", "2", "3"], False),
    "encoder": Case(built(Encoder), VECTORS, [*LAYER_PARTS, "encoder", "head"], True),
}


# --- by hand: hooks, one row at a time --------------------------------------------------------------------


class ByHand:
    """One reference of a swap set; nothing is shared with the graph but the network."""

    def __init__(self, case: Case, root: Node, swap_set: SwapSet, column: int) -> None:
        self.case, self.nodes = case, node_paths(root)
        self.rows = {path: int(swap_set.donors[i, column]) for i, path in enumerate(swap_set.slots)}
        self.reference = int(swap_set.references[column])

    def output(self) -> Tensor:
        return self.value(*self.nodes[0][:2])["output"]

    def value(self, path: str, node: Node) -> dict[str, Tensor]:
        """The activations `[...]` of a node's components."""
        if node.is_leaf:
            return self.run(self.rows.get(path, self.reference), [], node.components)
        carrier = self.rows[f"{path}/rest"]
        children = [(p, child, self.value(p, child)) for p, child, parent in self.nodes if parent == path]
        return self.run(carrier, children, node.components)

    def run(
        self, row: int, edits: Sequence[tuple[str, Node, dict[str, Tensor]]], wanted: Sequence[str]
    ) -> dict[str, Tensor]:
        """One forward pass on one row, in which each edit is made as soon as its module is done."""
        seen: dict[str, Tensor] = {}
        handles = []

        def hook(name: str) -> Callable[..., Tensor]:
            def replace_(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
                now = out[0].clone()
                for path, child, value in edits:
                    if name in child.components:
                        now = self.blend(now, value[name], path, child, row)
                seen[name] = now.clone()
                return now[None]

            return replace_

        modules = dict(self.case.network.named_modules())
        for name in dict.fromkeys([*(n for _, child, _ in edits for n in child.components), *wanted]):
            if name != "output":
                handles.append(modules[name].register_forward_hook(hook(name)))
        with torch.no_grad():
            seen["output"] = self.case.network(self.case.data.inputs["tokens"][row : row + 1])[0]
        for handle in handles:
            handle.remove()
        return {name: seen[name] for name in wanted}

    def blend(self, now: Tensor, value: Tensor, path: str, child: Node, carrier: int) -> Tensor:
        own = self.rows[f"{path}/rest"] if child.rest is not None else self.rows[path]
        put, take = self.positions(child.pos, carrier), self.positions(child.pos, own)
        difference = torch.zeros_like(now)
        difference[put] = value[take] - now[put]
        if child.subspace is not None:
            basis = torch.from_numpy(child.subspace.basis.copy())
            difference = difference @ basis @ basis.T
        return now + difference

    def positions(self, pos: Any, row: int) -> Any:
        if pos is None:
            return slice(None)
        if isinstance(pos, str):
            place = COLUMNS[pos][row]
            return np.flatnonzero(place).tolist() if isinstance(place, np.ndarray) else [place % LENGTH]
        return [pos] if isinstance(pos, int) else pos.slice


def random_swaps(root: Node, data: Dataset, seed: int, columns: int = 3) -> SwapSet:
    rng, slots = np.random.default_rng(seed), slots_of(root)
    donors = rng.integers(0, ROWS, (len(slots), columns))
    return SwapSet(rng.integers(0, ROWS, columns), donors, tuple(s.path for s in slots), data.digest())


def agrees_with_hooks(case: Case, root: Node, seed: int = 0) -> Tensor:
    swap_set = random_swaps(root, case.data, seed)
    found = Evaluator(as_graph(case.network), case.data, root, TOTAL).outputs(swap_set)
    expected = torch.stack([ByHand(case, root, swap_set, column).output() for column in range(len(swap_set))])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    return found


@st.composite
def hypotheses(draw: st.DrawFn, case: Case) -> Node:
    return reading(draw, case, Node(("output",), draw(st.sampled_from([None, ANYTHING]))), len(case.readable), 0)


def reading(draw: st.DrawFn, case: Case, node: Node, below: int, level: int) -> Node:
    """The node with children among the first `below` readable modules; a module may be inside another."""
    children: list[Node] = []
    for place in sorted(draw(st.sets(st.integers(0, below - 1), max_size=3))):
        child = Node((case.readable[place],), Agreement(("f",)))
        if level < 2 and place > 0 and draw(st.booleans()):
            child = reading(draw, case, child, place, level + 1)
        elif place + 1 < below and draw(st.integers(0, 3)) == 2:
            child = replace(child, components=(*child.components, case.readable[place + 1]))
        if {*child.components} & {name for other in children for name in other.components}:
            continue
        kinds = ["whole", "position", "two positions", "subspace", "two subspaces"] if case.has_positions else ["whole"]
        kind = draw(st.sampled_from(kinds))
        wide = any(name.endswith(("linear1", "head")) for name in child.components)  # not of the width of BASIS
        if "position" in kind:
            places = [0, -1, Span(1, None, None), "where", "two"] if kind == "position" else [0, 1]
            child = replace(child, pos=draw(st.sampled_from(places)))
        if "subspace" in kind and not wide:
            child = replace(child, subspace=Subspace(BASIS[:, :1]))
        children.append(child)
        if kind == "two positions":
            children.append(replace(child, pos=2, name="there, too"))
        if kind == "two subspaces" and not wide:
            children.append(replace(child, subspace=Subspace(BASIS[:, 1:]), name="the rest of it"))
    names = [f"{child.name} {i}" if child.name else None for i, child in enumerate(children)]
    named = tuple(replace(child, name=name) for child, name in zip(children, names, strict=True))
    return replace(node, reads=named, rest=ANYTHING)


@pytest.mark.parametrize("name", CASES)
@given(data=st.data(), seed=st.integers(0, 100))
def test_any_hypothesis_is_what_hooks_say(name: str, data: st.DataObject, seed: int) -> None:
    case = CASES[name]
    agrees_with_hooks(case, data.draw(hypotheses(case)), seed)


# --- single cases, each of which changes something --------------------------------------------------------


@pytest.mark.parametrize(
    "reads",
    [
        [module("blocks.0", **F)],
        [module("blocks.0", **F, pos=1)],
        [module("blocks.0", **F, pos="where"), module("blocks.1", **F, pos="two")],
        [module("blocks.0", **F, pos=0), module("blocks.0", **F, pos=2)],
        [module("blocks.0", **F, subspace=BASIS[:, :2])],
        [
            module("blocks.0", **F, subspace=part, name=name)
            for part, name in ((BASIS[:, :2], "2"), (BASIS[:, 2:], "3"))
        ],
        [group(["blocks.0", "blocks.1.act"], **F)],
        [module("blocks.0", **F), module("blocks.1.up", **F)],  # together in one run
        [module("blocks.1.act", **F), module("blocks.1", **F, pos=0)],  # one inside the other
        [module("blocks.1", **F, reads=[module("blocks.1.up", **F), module("embed", **F, pos=0)])],
        [module("head", **F, reads=[module("blocks.1", **F, reads=[module("blocks.0", **F)])])],
    ],
)
def test_a_hypothesis_is_what_hooks_say(reads: list[Node]) -> None:
    case = CASES["residual"]
    scrubbed = agrees_with_hooks(case, output(*reads))
    rests = random_swaps(output(*reads), TOKENS, 0).donors[0]  # the output's own rest comes first
    with torch.no_grad():
        clean = case.network(TOKENS.inputs["tokens"][rests.copy()])
    assert not torch.allclose(scrubbed, clean)


def test_the_whole_output_can_be_another_rows() -> None:
    agrees_with_hooks(CASES["residual"], output(agrees_on=ANYTHING))


def test_a_module_done_in_place_is_captured_before() -> None:
    # blocks.0.up is overwritten by its relu, and blocks.0.down by adding x.
    case = CASES["residual"]
    graph, inputs = as_graph(case.network), TOKENS.batch([0, 1])
    up, down = (graph.value_site((f"blocks.0.{name}",), None) for name in ("up", "down"))
    captured = graph.capture([up, down], inputs)
    block = case.network.get_submodule("blocks.0")
    with torch.no_grad():
        embedded = case.network.get_submodule("embed")(inputs["tokens"])
        expected = block.up(embedded)
        torch.testing.assert_close(captured[up], expected)
        assert (captured[up] < 0).any()
        torch.testing.assert_close(captured[down], block.down(block.act(expected)))


def test_a_computed_module_is_what_the_function_says() -> None:
    case = CASES["residual"]

    def compute(f: Any) -> Any:
        return np.arange(WIDTH)[None] + f[:, None]

    root = output(module("blocks.1", **F, computed_by=compute))
    evaluator = Evaluator(as_graph(case.network), TOKENS, root, TOTAL)
    found = evaluator.outputs(evaluator.space.draw(2, np.random.default_rng(0)))
    network = case.network
    x = torch.arange(WIDTH, dtype=torch.float64).expand(2, LENGTH, WIDTH)
    with torch.no_grad():
        mixed = network.get_submodule("mix")(x.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(found, network.get_submodule("head")(x + mixed))


def test_a_run_ends_where_the_claim_does() -> None:
    # A non-leaf is recomputed without what comes after it.
    case, calls = CASES["residual"], []
    root = output(module("blocks.0", **F, reads=[module("embed", **F)]))
    evaluator = Evaluator(as_graph(case.network), TOKENS, root, TOTAL)
    swap_set = evaluator.space.draw(2, np.random.default_rng(0))
    evaluator.evaluate(swap_set)  # nothing is left to capture
    handles = [
        case.network.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.append(name))
        for name in ("blocks.0", "blocks.1", "head")
    ]
    evaluator.evaluate(swap_set)
    for handle in handles:
        handle.remove()
    assert calls == ["blocks.0", "blocks.0", "blocks.1", "head"]


def test_no_hook_stays_behind() -> None:
    case = CASES["residual"]
    root = output(module("blocks.0", **F, reads=[module("embed", **F)]))
    agrees_with_hooks(case, root)
    evaluator = Evaluator(as_graph(case.network), TOKENS, root, Metric("bad", lambda out, batch: 1 / 0))
    with pytest.raises(DataError, match="ZeroDivisionError"):
        evaluator.evaluate(evaluator.space.draw(2, np.random.default_rng(0)))
    assert all(not child._forward_hooks for child in case.network.modules())


# --- how the network is called ----------------------------------------------------------------------------


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor, *, scale: Tensor) -> Any:
        return self.returned(self.layer(x) * scale)

    def returned(self, out: Tensor) -> Any:
        return out


PAIRS = Dataset(
    {"x": torch.arange(6.0, dtype=torch.float64).view(3, 2), "scale": torch.tensor([[1.0], [2], [3]]).double()},
    features={"f": [0] * 3},
)


def test_named_inputs_are_keywords() -> None:
    network = built(Named)
    evaluator = Evaluator(ModuleGraph(network), PAIRS, output(module("layer", **F)), TOTAL)
    swap_set = SwapSet([0], [[2], [1]], evaluator.space.paths, PAIRS.digest())
    with torch.no_grad():
        torch.testing.assert_close(
            evaluator.outputs(swap_set), network.get_submodule("layer")(PAIRS.inputs["x"][1:2]) * 3
        )


def test_a_lone_input_with_a_name_of_its_own_is_a_keyword() -> None:
    class Pixels(nn.Module):
        def forward(self, *, pixels: Tensor) -> Tensor:
            return 2 * pixels

    data = Dataset({"pixels": torch.ones(2, 3)})
    assert ModuleGraph(Pixels()).run(data.batch([0])).tolist() == [[2, 2, 2]]


@pytest.mark.parametrize(
    ("returned", "pick"),
    [
        (lambda out: out, None),
        (lambda out: type("Output", (), {"logits": out})(), None),
        (lambda out: {"scores": out}, lambda returned: returned["scores"]),
        (lambda out: (None, out), lambda returned: returned[1]),
    ],
)
def test_the_tensor_of_interest_is_picked(returned: Any, pick: Any) -> None:
    network = built(Named)
    network.returned = returned  # type: ignore[assignment]
    graph = ModuleGraph(network, output=pick)
    out = graph.run(PAIRS.batch([1]))
    with torch.no_grad():
        torch.testing.assert_close(out, network.get_submodule("layer")(PAIRS.inputs["x"][1:2]) * 2)
    site = graph.value_site(("output",), None)
    torch.testing.assert_close(graph.capture([site], PAIRS.batch([1]))[site], out)


def test_what_is_no_tensor_is_refused() -> None:
    network = built(Named)
    network.returned = lambda out: (out, out)  # type: ignore[method-assign,assignment,return-value]
    with refuses("torch module Named returns tuple, not a tensor; say which with ModuleGraph(module, output=...)"):
        ActivationStore(ModuleGraph(network), PAIRS)


# --- modules that cannot be claimed -----------------------------------------------------------------------


class Awkward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never, self.fine = nn.Linear(WIDTH, WIDTH), nn.Linear(1, 1), nn.Linear(WIDTH, WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.twice(self.twice(self.fine(tokens)))
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("twice", "is called more than once in one forward pass"),
        ("never", "is not called by the forward pass"),
        ("attention", "returns tuple, not a tensor"),
        ("attention.out_proj", "is not called by the forward pass"),
    ],
)
def test_a_module_that_cannot_be_claimed_says_why(name: str, why: str) -> None:
    network = built(Awkward)
    sentence = f"module {name!r} {why}, so it cannot be claimed; claim a module in it"
    for root in (output(module(name, **F)), output(module(name, **F, reads=[module("fine", **F)]))):
        with refuses(sentence):
            Evaluator(ModuleGraph(network), VECTORS, root, TOTAL)
    agrees_with_hooks(Case(network, VECTORS, ["fine"], True), output(module("fine", **F)))


def test_order_is_learnt_from_a_run() -> None:
    with refuses("a torch module has to be run on a batch of the dataset before claims can be checked"):
        ModuleGraph(built(Residual)).slots("output", "embed", True)
    graph = as_graph(built(Residual))
    ActivationStore(graph, TOKENS)
    assert graph.slots("output", "blocks.1", True) == ("in",)
    assert graph.slots("blocks.1", "blocks.1.up", True) == ("in",)  # a module reads its own parts
    assert graph.slots("blocks.1.up", "blocks.1", True) == ()
    assert graph.slots("blocks.0", "blocks.1.up", True) == ()
    assert graph.slots("output", "blocks.1", False) == ()  # never directly


class Dropping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.layer = nn.Dropout(0.5), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layer(self.drop(tokens))


def test_a_network_in_train_mode_is_refused() -> None:
    with refuses("the model is in train mode and drop drops activations at random; call model.eval()"):
        as_graph(built(Dropping).train())
    with refuses("the model is in train mode and it drops activations at random; call model.eval()"):
        as_graph(nn.Dropout(0.5))
    as_graph(built(Dropping))
    as_graph(built(Residual).train())  # nothing is dropped at random


def test_a_network_that_differs_from_run_to_run_is_refused() -> None:
    class Noisy(nn.Module):
        def forward(self, tokens: Tensor) -> Tensor:
            return tokens + torch.rand(())

    with refuses("torch module Noisy: two clean runs on the same inputs differ; make it deterministic (eval mode)"):
        ActivationStore(ModuleGraph(Noisy()), VECTORS)


# --- digests and devices ----------------------------------------------------------------------------------


def test_a_digest_is_of_the_weights() -> None:
    one, same, other = built(Residual), built(Residual), built(Residual)
    with torch.no_grad():
        other.get_submodule("head").bias += 1  # type: ignore[operator]
    assert ModuleGraph(one).digest() == ModuleGraph(same).digest() != ModuleGraph(other).digest()
    running = [nn.BatchNorm1d(3).eval() for _ in range(2)]
    running[1].running_mean += 1  # type: ignore[operator]  # buffers count as well
    assert ModuleGraph(running[0]).digest() != ModuleGraph(running[1]).digest()


def test_a_network_without_weights_is_on_the_cpu() -> None:
    assert ModuleGraph(nn.ReLU()).device == torch.device("cpu")
    assert ModuleGraph(nn.Linear(2, 2, device="meta")).device == torch.device("meta")
