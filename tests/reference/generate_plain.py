"""Hypothesis strategies: small networks without a residual stream, rows for them, valid hypotheses
about them.

As in `generate`, everything shrinks towards little, what is drawn is valid by the static rules, and
swap sets are arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from inspect import Parameter, Signature
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.meaning import Network
from pytest_scrub.network import FunctionGraph
from pytest_scrub.tree.nodes import EXACT, ROOT, Agreement, Node, Span, Subspace
from tests.reference.functions import FunctionNetwork
from tests.reference.generate import Waves, rotation
from tests.reference.modules import ModuleNetwork

ROWS, LENGTH, WIDTH = 6, 3, 4
FEATURES = ("g", "h")
COLUMNS: Mapping[str, Any] = {
    "f": [0] * ROWS,
    "g": [0, 1, 0, 1, 0, 1],
    "h": [0, 0, 1, 1, 2, 2],
    "where": [0, 2, 1, 1, -1, -3],
    "two": np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0], [0, 1, 1], [1, 0, 1]], dtype=bool),
}
POSITIONS = (0, -1, Span(1, None, None), "where", "two")
DEPTH = 3


@dataclass(frozen=True, eq=False)
class Plain:
    """A small network and rows for it, as the engine and as the reference takes it.

    - `source`: what the engine takes.
    - `reads`: non-leaf to what it reads directly, through a slot of that name.
    - `above`: non-leaf to what it reads along some path.
    """

    source: Any
    network: Network
    dataset: Dataset
    reads: Mapping[str, Sequence[str]]
    above: Mapping[str, Sequence[str]]

    @cached_property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Component to the shape of its activation."""
        return {name: value.shape for name, value in self.network.run(0, {}).values.items()}

    def has_positions(self, component: str) -> bool:
        return len(self.shapes[component]) > 1 and self.shapes[component][0] == LENGTH


# Graphs of functions ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A function of `[batch, LENGTH, WIDTH]` tensors in which every position and direction of each
    matters."""

    arguments: tuple[str, ...]
    seed: int

    @property
    def __signature__(self) -> Signature:
        return Signature(
            [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in self.arguments]
        )

    def __call__(self, *read: Tensor) -> Tensor:
        mixed = [
            weights(self.seed + i, LENGTH) @ x @ weights(self.seed + i, WIDTH)
            for i, x in enumerate(read)
        ]
        together = torch.stack(mixed)
        return torch.sin(together.sum(dim=0)) + torch.tanh((1 + together).prod(dim=0))


@cache
def weights(seed: int, width: int) -> Tensor:
    return torch.tensor(np.random.default_rng(seed).normal(size=(width, width)) / width**0.5)


@st.composite
def function_graphs(draw: st.DrawFn) -> Plain:
    """Two to four functions below the output, each of one to three inputs or functions before
    it."""
    names = ["a", "b", *"ABCD"[: draw(st.integers(2, 4))], ROOT]
    functions: dict[str, Function] = {}
    for i, name in enumerate(names[2:], start=2):
        arguments = draw(
            st.lists(st.sampled_from(names[i - 1 :: -1]), min_size=1, max_size=3, unique=True)
        )
        functions[name] = Function(tuple(arguments), draw(st.integers(0, 3)))
    return function_graph(tuple(functions.items()))


@lru_cache(maxsize=256)
def function_graph(functions: tuple[tuple[str, Function], ...]) -> Plain:
    reads = {name: function.arguments for name, function in functions}
    above: dict[str, Sequence[str]] = {}
    for name, arguments in reads.items():  # in order of computation
        above[name] = sorted(
            {*arguments}.union(*(above.get(argument, ()) for argument in arguments))
        )
    rng = np.random.default_rng(0)
    inputs = {name: torch.tensor(rng.normal(size=(ROWS, LENGTH, WIDTH))) for name in "ab"}
    dataset = Dataset(inputs, features=COLUMNS)
    return Plain(
        FunctionGraph(**dict(functions)),
        FunctionNetwork(dict(functions), dataset),
        dataset,
        reads,
        above,
    )


# Torch modules ------------------------------------------------------------------------------------


class Block(nn.Module):
    """A small residual block whose relu and sum are done in place, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act, self.down = (
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(inplace=True),
            nn.Linear(WIDTH, WIDTH),
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.down(self.act(self.up(x)))
        out += x
        return out


class Residual(nn.Module):
    """Tokens embedded, some blocks, mixed over positions, and logits at every position."""

    def __init__(self, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(blocks)])
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

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.encoder(tokens))


def built(kind: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """In float64, with weights that are the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind().double().eval()


NOISE = torch.Generator().manual_seed(0)
TOKENS = Dataset(torch.randint(6, (ROWS, LENGTH), generator=NOISE), features=COLUMNS)
IMAGES = Dataset(torch.randn(ROWS, 1, 3, 3, generator=NOISE, dtype=torch.float64), features=COLUMNS)
VECTORS = Dataset(
    torch.randn(ROWS, LENGTH, WIDTH, generator=NOISE, dtype=torch.float64), features=COLUMNS
)
BLOCK_PARTS = (".up", ".act", ".down", "")
LAYER_PARTS = (".norm1", ".linear1", ".linear2", ".norm2", "")


@lru_cache(maxsize=64)
def module_graph(kind: str, size: int, seed: int) -> Plain:
    if kind == "residual":
        parts = [f"blocks.{i}{part}" for i in range(size) for part in BLOCK_PARTS]
        return of_modules(built(lambda: Residual(size), seed), TOKENS, ["embed", *parts, "head"])
    if kind == "convolution":
        return of_modules(built(Convolution, seed), IMAGES, ["0", "1", "2", "3"])
    parts = [f"encoder.layers.{i}{part}" for i in range(size) for part in LAYER_PARTS]
    return of_modules(built(lambda: Encoder(size), seed), VECTORS, [*parts, "encoder", "head"])


def of_modules(network: nn.Module, dataset: Dataset, readable: Sequence[str]) -> Plain:
    """With the modules that can be read, in order of computation; a module may be inside
    another."""
    above = {name: readable[:i] for i, name in enumerate([*readable, ROOT])}
    return Plain(network, ModuleNetwork(network, dataset), dataset, {}, above)


def module_graphs() -> st.SearchStrategy[Plain]:
    kinds = st.sampled_from(["residual", "convolution", "encoder"])
    return st.builds(module_graph, kinds, st.integers(1, 3), st.integers(0, 3))


# Hypotheses ---------------------------------------------------------------------------------------


@st.composite
def hypotheses(draw: st.DrawFn, plain: Plain) -> Node:
    """Trees of at most `DEPTH` levels below the root, with everything that a claim can say of such
    a network."""
    trees = _Trees(draw, plain)
    root = Node((ROOT,), trees.agreement() if draw(st.booleans()) else None)
    return root if trees.rarely() else trees.reading(root, 0)


@dataclass(frozen=True)
class _Trees:
    draw: st.DrawFn
    plain: Plain

    def rarely(self) -> bool:
        """One in four: not the last one, since Hypothesis is fond of bounds."""
        return self.draw(st.integers(0, 3)) == 2

    def agreement(self) -> Agreement:
        names = self.draw(st.lists(st.sampled_from(FEATURES), max_size=2, unique=True))
        return EXACT if self.rarely() else Agreement(tuple(sorted(names)))

    def reading(self, node: Node, level: int) -> Node:
        """The node as a non-leaf, with children that claim no edge twice."""
        children: list[Node] = []
        taken: set[tuple[str, str | None]] = set()
        for _ in range(self.draw(st.integers(1, 3 - level))):
            child = self.child(node.component, taken)
            if child is None:
                continue
            taken |= {
                (name, slot)
                for name in child.components
                for slot in self.slots(node.component, child)
            }
            child = self.furnished(child, level, children)
            children += self.parts(child, f"part {len(children)}")
        return replace(node, reads=tuple(children), rest=self.agreement())

    def slots(self, parent: str, child: Node) -> Sequence[str | None]:
        """The slots of the parent in which it reads the child; modules have one, without a name."""
        reads = self.plain.reads.get(parent, (None,))
        return (
            [child.into]
            if child.into
            else child.components
            if child.via != "any" and reads != (None,)
            else reads
        )

    def child(self, parent: str, taken: set[tuple[str, str | None]]) -> Node | None:
        """A bare leaf; None where what was drawn is claimed already."""
        draw, reads = self.draw, self.plain.reads.get(parent, ())
        components = [draw(st.sampled_from(self.plain.above[parent]))]
        if self.rarely():
            components = draw(
                st.lists(
                    st.sampled_from(self.plain.above[parent]), min_size=1, max_size=2, unique=True
                )
            )
        child = Node(tuple(sorted(components)), self.agreement())
        if not reads:
            child = replace(child, via=draw(st.sampled_from([None, "any"])))
        elif {*components} <= {*reads}:
            child = replace(child, via=draw(st.sampled_from([None, "direct", "any"])))
        else:
            child = replace(child, via="any")
        if reads and child.via == "any":
            child = replace(child, into=draw(st.sampled_from([None, *reads])))
        edges = {(name, slot) for name in components for slot in self.slots(parent, child)}
        return None if edges & taken else child

    def furnished(self, node: Node, level: int, siblings: Sequence[Node]) -> Node:
        """The node with a name, another's donor, children of its own or a computation, or none of
        these."""
        draw, shape = self.draw, self.plain.shapes[node.components[0]]
        if draw(st.booleans()):
            node = replace(node, name=f"sibling{len(siblings)}")
        lenders = [sibling for sibling in siblings if sibling.name and not sibling.shares]
        if lenders and self.rarely():
            lender = draw(st.sampled_from(lenders))
            node = replace(node, shares=lender.name, agrees_on=lender.agrees_on)
        is_recomputable = (
            len(node.components) == 1 and self.plain.above.get(node.component) and level + 1 < DEPTH
        )
        if is_recomputable and draw(st.integers(0, 3)) > 0:
            return self.reading(node, level + 1)
        is_computable = (
            node.agrees_on
            and node.agrees_on.features
            and len(node.components) == 1
            and len(shape) < 3
        )
        if is_computable and draw(st.integers(0, 2)) == 1:
            n_pos = draw(st.sampled_from([None, LENGTH])) if len(shape) == 2 else None
            return replace(node, computed_by=Waves(shape[-1], n_pos))
        return node

    def parts(self, node: Node, name: str) -> list[Node]:
        """The node at all of its positions, at some, or in a subspace; perhaps another node at the
        others."""
        draw, shapes = self.draw, {self.plain.shapes[component] for component in node.components}
        kinds = ["whole"]
        if len(shapes) == 1:
            kinds += (
                ["position", "two positions"]
                if self.plain.has_positions(node.components[0])
                else []
            )
            kinds += ["subspace", "two subspaces"]
        kind = draw(st.sampled_from(kinds))
        other = replace(node, reads=(), rest=None, computed_by=None, shares=None, name=name)
        if kind == "position":
            return [replace(node, pos=draw(st.sampled_from(POSITIONS)))]
        if kind == "two positions":
            return [replace(node, pos=0), replace(other, pos=draw(st.integers(1, LENGTH - 1)))]
        if "subspace" in kind:
            basis = rotation(next(iter(shapes))[-1])
            first, second = (Subspace(half) for half in np.array_split(basis, 2, axis=1))
            nodes = [replace(node, subspace=first), replace(other, subspace=second)]
            return nodes if kind == "two subspaces" else nodes[:1]
        return [node]
