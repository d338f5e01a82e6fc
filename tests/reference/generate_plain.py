"""Hypothesis strategies: small networks without a residual stream, rows for them, valid hypotheses
about them.

As in `generate`, everything shrinks towards little, what is drawn is valid by the static rules, and
swap sets are arbitrary.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from inspect import Parameter, Signature
from typing import Any, NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.meaning import Network
from pytest_scrub.network import FunctionGraph, as_graph, with_dictionaries
from pytest_scrub.network.wrapping import along_every_path, bridge_of
from pytest_scrub.tree.nodes import EACH, EXACT, ROOT, Agreement, Node, Span, Subspace
from tests.reference import hooked
from tests.reference.functions import FunctionNetwork
from tests.reference.generate import Waves, edited, rotation
from tests.reference.hooked import FAMILIES
from tests.reference.latents import dictionary_of, place_of
from tests.reference.modules import ModuleNetwork, Spot, column
from tests.sizes import sized

ROWS, LENGTH, WIDTH = 6, 3, 4
FEATURES = ("g", "h")
COLUMNS: Mapping[str, Any] = {
    "f": [0] * ROWS,
    "g": [0, 1, 0, 1, 0, 1],
    "h": [0, 0, 1, 1, 2, 2],
    "where": [0, 2, 1, 1, -1, -3],
    "each": np.arange(ROWS * LENGTH).reshape(ROWS, LENGTH) // 2 % 3,
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
    def store(self) -> ActivationStore:
        """What its evaluators share: it is proved once."""
        return ActivationStore(as_graph(self.source), self.dataset)

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


class Pair(NamedTuple):
    """What a module may return beside a tensor."""

    said: str
    value: Tensor


@dataclass
class Found:
    value: Tensor
    half: Tensor


class Returning(nn.Module):
    """The input twice or half, in a container."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer = kind, nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Any:
        x, half = self.layer(x), torch.tanh(x)
        kinds = {
            "tuple": lambda: (None, x, half),
            "named tuple": lambda: Pair("a", x + half),
            "list": lambda: [x, half],
            "dictionary": lambda: {"said": "a", "value": x, "half": half},
            "dataclass": lambda: Found(x, half),
        }
        return kinds[self.kind]()


class Awkward(nn.Module):
    """One module called three times, others that return more than a tensor, torch's attention."""

    def __init__(self, attention: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.again = nn.Linear(WIDTH, WIDTH)
        self.pair, self.named, self.list = map(Returning, ("tuple", "named tuple", "list"))
        self.found, self.data = map(Returning, ("dictionary", "dataclass"))
        self.attention, self.head = attention(), nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = tokens + torch.tanh(self.again(tokens))
        _, one, two = self.pair(x)
        x = x + one * two
        x = x + torch.tanh(self.again(x))
        x = x + self.named(x).value
        one, two = self.list(x)
        x = x + one * two
        x = x + self.attention(x, x, torch.tanh(x))[0]
        x = x + torch.tanh(self.again(x))
        found = self.found(x)
        x = x + found["value"] * found["half"]
        data = self.data(x)
        return self.head(x + data.value * data.half)


class ByHand(nn.Module):
    """Torch's attention, whose output projection is called as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.in_proj = nn.Linear(WIDTH, 3 * WIDTH)
        self.out_proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        rows, bias = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        mixed = []
        for part in (slice(0, WIDTH // 2), slice(WIDTH // 2, WIDTH)):
            one, two, three = (
                x @ w[part].T + b[part] for x, w, b in zip((q, k, v), rows, bias, strict=True)
            )
            scores = one @ two.transpose(1, 2) / (WIDTH // 2) ** 0.5
            mixed.append(scores.softmax(-1) @ three)
        return self.out_proj(torch.cat(mixed, -1)), None


def torch_attention() -> nn.Module:
    return nn.MultiheadAttention(WIDTH, 2, batch_first=True)


def by_hand(network: nn.Module) -> nn.Module:
    """The same with attention by hand."""
    other = Awkward(ByHand).double().eval()
    names = {"attention.in_proj_weight": "attention.in_proj.weight"}
    names["attention.in_proj_bias"] = "attention.in_proj.bias"
    weights = {names.get(name, name): tensor for name, tensor in network.state_dict().items()}
    other.load_state_dict(weights)
    return other


def named(path: str, key: Any) -> Spot:
    """An item of what a module returns, by hand for each kind."""

    def put(out: Any, new: Tensor) -> Any:
        if isinstance(out, Pair):
            return Pair(out.said, new)
        if isinstance(out, Found):
            return Found(**{**vars(out), key: new})
        if isinstance(out, dict):
            return {**out, key: new}
        return type(out)(new if i == key else x for i, x in enumerate(out))

    def get(out: Any) -> Any:
        return vars(out)[key] if isinstance(out, Found) else out[key]

    return Spot(path, get=get, put=put)


AWKWARD: Sequence[Mapping[str, Spot]] = (
    {"again(call=0)": Spot("again")},
    {"pair.layer": Spot("pair.layer")},
    {"pair": named("pair", 1), "pair(item=2)": named("pair", 2)},
    {"again(call=1)": Spot("again", call=1)},
    {"named": named("named", 1)},
    {"list": named("list", 0), "list(item=1)": named("list", 1)},
    {f"attention(head={h})": column("attention.out_proj", h, 2) for h in range(2)},
    {"attention": named("attention", 0)},
    {"again(call=2)": Spot("again", call=2)},
    {"found": named("found", "value"), "found(item=half)": named("found", "half")},
    {"data": named("data", "value"), "data(item=half)": named("data", "half")},
    {"head": Spot("head")},
)


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
    if kind == "awkward":
        network = built(lambda: Awkward(torch_attention), seed)
        return of_spots(network, by_hand(network), VECTORS, AWKWARD)
    parts = [f"encoder.layers.{i}{part}" for i in range(size) for part in LAYER_PARTS]
    return of_modules(built(lambda: Encoder(size), seed), VECTORS, [*parts, "encoder", "head"])


def of_modules(network: nn.Module, dataset: Dataset, readable: Sequence[str]) -> Plain:
    """With the modules that can be read, in order of computation; a module may be inside
    another."""
    above = {name: readable[:i] for i, name in enumerate([*readable, ROOT])}
    return Plain(network, ModuleNetwork(network, dataset), dataset, {}, above)


def of_spots(
    source: Any,
    other: nn.Module,
    dataset: Dataset,
    spots: Sequence[Mapping[str, Spot]],
    pick: Callable[[Any], Tensor] = lambda out: out,
) -> Plain:
    """With what is computed together in one of the `spots`, in order of computation; `other` is the
    same network for the reference."""
    above: dict[str, Sequence[str]] = {}
    for i, together in enumerate([*spots, {ROOT: None}]):
        below = [name for before in spots[:i] for name in before]
        above |= dict.fromkeys(together, below)
    everything = {name: spot for together in spots for name, spot in together.items()}
    return Plain(source, ModuleNetwork(other, dataset, everything, pick), dataset, {}, above)


@lru_cache(maxsize=16)
def hooked_graph(family: str, seed: int) -> Plain:
    known, (network, other) = FAMILIES[family], hooked.built(family, seed)
    bridge = bridge_of(network)
    graph = along_every_path(network, bridge, "of a test")
    spots, stack = hooked.spots_of(family, other), "blocks"
    if "decoder_blocks" in bridge._modules:
        stack = "decoder_blocks"
    there = {dictionary_of(name) for together in spots for name in together}
    own = [own for own in hooked.dictionaries_of(family) if own.name in there]
    graph = with_dictionaries(graph, **{one.name: one.fast(hooked.LAYERS, stack) for one in own})
    dataset = Dataset(known.inputs(), features=COLUMNS)
    plain = of_spots(graph, other, dataset, spots, known.pick)
    return replace(
        plain,
        above={
            name: [other for other in below if alone(other) in ("", name)]
            for name, below in plain.above.items()
        },
    )


def alone(component: str) -> str:
    """What alone reads it, the head of a pattern; empty for all else."""
    return component.replace("pattern", "head") if "pattern" in component else ""


def hooked_graphs() -> st.SearchStrategy[Plain]:
    return st.builds(hooked_graph, st.sampled_from(sorted(FAMILIES)), st.integers(0, sized(0, 1)))


def module_graphs() -> st.SearchStrategy[Plain]:
    kinds = st.sampled_from(["residual", "convolution", "encoder", "awkward"])
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
            taken |= self.edges(node.component, child)
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
        edges = self.edges(parent, child)
        is_twice = len({name for name, _ in edges}) < sum(map(len, map(self.writers, components)))
        return None if edges & taken or is_twice else child

    def edges(self, parent: str, child: Node) -> set[tuple[str, str | None]]:
        """What writes a child's value, with the slots that read it."""
        slots = self.slots(parent, child)
        return {(w, slot) for c in child.components for w in self.writers(c) for slot in slots}

    def writers(self, component: str) -> Sequence[str]:
        """The heads of an attention, or what is made of it; anything else itself."""
        component = place_of(component)
        parts = re.fullmatch(r"(\w+\.)?(attn|stream|mlp)(\d+)", component)
        if parts is None or not isinstance(self.plain.network, ModuleNetwork):
            return [component]
        side, kind, layer = parts[1] or "", parts[2], int(parts[3])
        if kind == "mlp":  # beside what else a hidden unit that is in no set here may be
            units = f"{side}neurons{layer}["
            return [component, *(name for name in self.plain.shapes if name.startswith(units))]
        if kind == "attn":
            return [n for n in self.plain.shapes if n.startswith(f"{side}head{layer}.")]
        # all streams of a side have the embeddings in common
        before = [
            name
            for name in self.plain.shapes
            if (found := re.fullmatch(r"(\w+\.)?(?:head|mlp|neurons)(\d+)(\W.*)?", name))
            and (found[1] == "encoder.") == bool(side)
            and int(found[2]) < layer
        ]
        return [f"{side}embeddings", *before]

    def furnished(self, node: Node, level: int, siblings: Sequence[Node]) -> Node:
        """The node with a name, another's donor, children of its own or a computation, or none of
        these."""
        draw, shape = self.draw, self.plain.shapes[node.components[0]]
        if draw(st.booleans()):
            node = replace(node, name=f"sibling{len(siblings)}")
        lenders = [s for s in siblings if s.name and not s.shares and not s.edited]
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
        is_editable = len(node.components) == 1 and not alone(node.component)
        if is_editable and not node.shares and len(shape) < 3 and self.rarely():
            return edited(node, shape[-1], is_added=draw(st.booleans()))
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
            kinds += [] if node.edited else ["subspace", "two subspaces"]
            if any(map(alone, node.components)):  # the same queries for all rows
                kinds = ["whole", "two positions"]
        is_bare = node.is_leaf and not (node.computed_by or node.edited or node.shares or node.name)
        if is_bare and all(map(self.plain.has_positions, node.components)):
            kinds.append("each")
        kind = draw(st.sampled_from(kinds))
        other = replace(
            node, reads=(), rest=None, computed_by=None, edited=None, shares=None, name=name
        )
        if kind == "each":
            assert node.agrees_on is not None
            agrees_on = draw(st.sampled_from([Agreement(("each",)), Agreement(("each", "g"))]))
            each = draw(st.sampled_from([EACH, EACH(with_shift=True)]))
            return [replace(node, pos=each, agrees_on=agrees_on)]
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
