"""Hypothesis strategies: small transformers, datasets for them, valid hypotheses about them, swap
sets.

Everything shrinks towards one layer, few rows and a root with one leaf. What is drawn is valid by
the static rules; swap sets are arbitrary, since an evaluator evaluates any of them, allowed or not.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache
from itertools import combinations, starmap
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import boot
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.network.wrapping import bridge_of
from pytest_scrub.swaps.each import length_of
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.edits import VectorEdit
from pytest_scrub.tree.nodes import (
    EACH,
    EXACT,
    ROOT,
    Agreement,
    Node,
    Span,
    Subspace,
    error,
    is_attn,
    is_head,
    latents,
    natural_key,
    neurons,
)
from pytest_scrub.tree.paths import node_paths
from tests.reference.bridges import units_of
from tests.reference.families import FAMILIES
from tests.reference.latents import Slow, dictionary_of, have_common, place_of

FULL_HEADS = ("gpt_neo", "bloom")  # without fewer key and value heads
PARALLEL = ("cohere",)  # whose MLPs read what the attention of their layer reads
FEATURES = ("parity", "first", "total")  # small ints, functions of a row's content
EACH_FEATURES = ("low", "sum before")  # and of each position
# one position per row; a mask with as many positions in every row
POSITION, POSITIONS = "where", "places"
WIDTH = (3, 2, 1)  # children of a node, at most, by level below the root
DEPTH = len(WIDTH)
MANY = 1000  # more units than any MLP here has
MOST_LAYERS = 12


@dataclass(frozen=True)
class Architecture:
    """What determines a small transformer, its weights included; the defaults are what drawing
    shrinks to.

    `kind` is `native`, `gpt2`, `llama` or one of `FAMILIES`; the fields from `norm` to `logit_cap`
    are choices of native models.
    """

    kind: str = "native"
    n_layers: int = 1
    n_heads: int = 2
    n_kv_heads: int = 2
    d_head: int = 2
    d_model: int = 8
    n_ctx: int = 3
    d_vocab: int = 5
    d_vocab_out: int = 5
    norm: str | None = None
    positions: str = "standard"
    rotary_dim: int = 2
    act: str = "gelu"
    gated: bool = False
    attn_only: bool = True
    causal: bool = True
    final_rms: bool = False
    score_cap: float = 0.0
    logit_cap: float = 0.0
    biases: bool = False  # llama: attention and MLP biases
    scale_by_layer: bool = False  # gpt2: scores are divided by the number of the layer
    window: int = 2  # of families with windows
    seed: int = 0


@dataclass(frozen=True)
class SmallTransformer:
    """A bridge in float64, in eval mode, all of whose weights matter."""

    architecture: Architecture
    bridge: Any = field(repr=False, compare=False)
    dictionaries: tuple[Slow, ...] = ()

    @property
    def tolerance(self) -> float:
        """How far two exact evaluations may differ, relative to the output: some norms compute in
        float32."""
        return 1e-5 if computes_in_float32(self.architecture) else 1e-9

    @property
    def components(self) -> tuple[str, ...]:
        """Everything that writes to the residual stream, in the order in which it does; all of a
        layer's heads after them."""
        a = self.architecture
        has_positions = a.kind in ("gpt2", "gpt_neo") or (
            a.kind == "native" and a.positions == "standard"
        )
        found = ["embed", "pos_embed"] if has_positions else ["embed"]
        for layer in range(a.n_layers):
            found += [f"stream{layer}"]
            found += [f"head{layer}.{head}" for head in range(a.n_heads)]
            found += [f"attn{layer}"]
            found += [] if a.attn_only else [f"mlp{layer}"]
        return *found, f"stream{a.n_layers}"

    @property
    def hidden_units(self) -> int:
        """Of each of its MLPs; none of experts."""
        if self.architecture.attn_only:
            return 0
        if not hasattr(self.bridge, "blocks"):  # not built yet, as trees are drawn first
            return (4 if self.architecture.kind == "gpt2" else 2) * self.architecture.d_model
        out = getattr(self.bridge.blocks[0].mlp, "out", None)
        return 0 if out is None else max(out.original_component.weight.shape)


def computes_in_float32(architecture: Architecture) -> bool:
    """Whether the model's own norms drop to float32, whatever the dtype of its weights."""
    return (
        architecture.kind == "llama"
        or architecture.norm not in (None, "LN")
        or architecture.final_rms
    )


@lru_cache(maxsize=256)
def build(architecture: Architecture) -> SmallTransformer:
    """The transformer, the same object every time."""
    makers = {"native": _native, "gpt2": _gpt2, "llama": _llama}
    makers |= dict.fromkeys(FAMILIES, _of_family)
    with torch.random.fork_rng(devices=[]):
        bridge = makers[architecture.kind](architecture)
    bridge = bridge.double().eval().requires_grad_(False)
    _scramble(bridge, torch.Generator().manual_seed(architecture.seed))
    return SmallTransformer(architecture, bridge)


def _native(a: Architecture) -> Any:
    config = TransformerBridgeConfig(
        d_model=a.d_model,
        d_head=a.d_head,
        n_layers=a.n_layers,
        n_ctx=a.n_ctx,
        n_heads=a.n_heads,
        n_key_value_heads=a.n_kv_heads,
        d_mlp=2 * a.d_model,
        d_vocab=a.d_vocab,
        d_vocab_out=a.d_vocab_out,
        act_fn=a.act,
        normalization_type=a.norm,
        positional_embedding_type=a.positions,
        rotary_dim=a.rotary_dim,
        gated_mlp=a.gated,
        attn_only=a.attn_only,
        attention_dir="causal" if a.causal else "bidirectional",
        final_rms=a.final_rms,
        attn_scores_soft_cap=a.score_cap,
        output_logits_soft_cap=a.logit_cap,
    )
    return boot(config)


def _gpt2(a: Architecture) -> Any:
    config = GPT2Config(
        vocab_size=a.d_vocab,
        n_positions=a.n_ctx,
        n_embd=a.n_heads * a.d_head,
        n_layer=a.n_layers,
        n_head=a.n_heads,
        scale_attn_by_inverse_layer_idx=a.scale_by_layer,
        bos_token_id=0,
        eos_token_id=0,
    )
    module = GPT2LMHeadModel(config)
    return bridge_of(module)


def _llama(a: Architecture) -> Any:
    config = LlamaConfig(
        vocab_size=a.d_vocab,
        hidden_size=a.d_model,
        intermediate_size=2 * a.d_model,
        num_hidden_layers=a.n_layers,
        num_attention_heads=a.n_heads,
        num_key_value_heads=a.n_kv_heads,
        head_dim=a.d_head,
        max_position_embeddings=a.n_ctx,
        attention_bias=a.biases,
        mlp_bias=a.biases,
        bos_token_id=0,
        eos_token_id=0,
    )
    module = LlamaForCausalLM(config)
    return bridge_of(module)


def _of_family(a: Architecture) -> Any:
    config, kind = FAMILIES[a.kind]
    module = kind(config(a))
    if hasattr(module, "set_experts_implementation"):
        module.set_experts_implementation("eager")  # others have no kernel for float64
    return bridge_of(module)


def _scramble(bridge: Any, generator: torch.Generator) -> None:
    """Weights such that attention is neither flat nor one-hot, and no bias or norm is neutral."""
    seen: set[int] = set()
    for name, parameter in sorted(bridge.original_model.named_parameters()):
        if id(parameter) in seen:  # GPT-2 ties its embedding to its unembedding
            continue
        seen.add(id(parameter))
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if parameter.ndim == 1:
            # one-dimensional weights are a norm's
            drawn = noise / 2 + (1 if name.endswith("weight") else 0)
        else:
            drawn = 1.2 * noise / min(parameter.shape) ** 0.5
        parameter.data.copy_(drawn)


@st.composite
def architectures(draw: st.DrawFn, kind: str) -> Architecture:
    n_heads = draw(st.integers(2, 4))
    common = Architecture(
        kind=kind,
        n_layers=draw(st.integers(1, 3)),
        n_heads=n_heads,
        n_kv_heads=n_heads,
        d_head=draw(st.sampled_from([2, 4])),
        n_ctx=draw(st.integers(3, 5)),
        seed=draw(st.integers(0, 3)),
    )
    if common.kind == "gpt2":
        common = replace(common, d_model=n_heads * common.d_head, attn_only=False, norm="LN")
        return replace(common, scale_by_layer=draw(st.booleans()))
    common = replace(
        common,
        d_model=draw(st.sampled_from([8, 12, 16])),
        n_kv_heads=draw(st.sampled_from([kv for kv in range(n_heads, 0, -1) if n_heads % kv == 0])),
    )
    if common.kind in FAMILIES:
        caps = st.sampled_from([0.7, 3.0])
        return replace(
            common,
            # the width of all heads together, where a config insists on it
            d_model=n_heads * common.d_head,
            attn_only=False,
            n_kv_heads=n_heads if common.kind in FULL_HEADS else common.n_kv_heads,
            window=draw(st.integers(1, 3)),
            score_cap=draw(caps),
            logit_cap=draw(caps),
        )
    if common.kind == "llama":
        common = replace(common, d_model=4 * n_heads)  # its config wants a multiple of the heads
        return replace(
            common, attn_only=False, norm="RMS", positions="rotary", biases=draw(st.booleans())
        )
    return replace(
        common,
        norm=draw(st.sampled_from([None, "LN", "RMS", "LNPre", "RMSPre"])),
        positions=draw(st.sampled_from(["standard", "rotary"])),
        rotary_dim=draw(st.sampled_from([2, common.d_head])),
        attn_only=draw(st.sampled_from([True, False, False])),
        gated=draw(st.booleans()),
        act=draw(st.sampled_from(["gelu", "relu", "silu"])),
        causal=draw(st.sampled_from([True, False])),
        d_vocab_out=draw(st.sampled_from([5, 2])),
        final_rms=draw(st.sampled_from([False, False, True])),
        score_cap=draw(st.sampled_from([0.0, 0.0, 3.0])),
        logit_cap=draw(st.sampled_from([0.0, 0.0, 3.0])),
    )


def small_transformers(kind: str) -> st.SearchStrategy[SmallTransformer]:
    """Bridges of 1 to 3 layers in float64, `native`, `gpt2` or `llama`; the same draw gives the
    same object."""
    return architectures(kind).map(build)


@st.composite
def datasets(draw: st.DrawFn, model: SmallTransformer) -> Dataset:
    """6 to 12 rows of random tokens, some of them repeated, sometimes padded on the right.

    Columns: the small ints `FEATURES`, a position per row, a mask of as many positions in every
    row. All are functions of a row's content. Labels are classes.
    """
    a = model.architecture
    n_pos = draw(st.integers(min(3, a.n_ctx), a.n_ctx))
    rows = draw(st.integers(6, 12))
    tokens = draw(
        arrays(np.int64, (rows, n_pos), elements=st.integers(0, a.d_vocab - 1), fill=st.nothing())
    )
    inputs: dict[str, torch.Tensor] = {}
    lengths = np.full(rows, n_pos)
    if draw(st.booleans()):
        lengths = draw(arrays(np.int64, rows, elements=st.integers(1, n_pos), fill=st.nothing()))
    repeated = draw(st.integers(0, rows // 2))
    tokens[rows - repeated :], lengths[rows - repeated :] = tokens[:repeated], lengths[:repeated]
    inputs["tokens"] = torch.tensor(tokens)
    if (lengths < n_pos).any():
        visible = np.arange(n_pos) < lengths[:, None]
        inputs["attention_mask"] = torch.tensor(visible).to(
            draw(st.sampled_from([torch.int64, torch.bool]))
        )
    total = tokens.sum(axis=1) + lengths
    places = (total[:, None] + np.arange(draw(st.integers(1, n_pos - 1)))) % n_pos
    features: dict[str, npt.NDArray[Any]] = {
        "parity": total % 2,
        "first": tokens[:, 0],
        "total": total % 4,
        # counted from the left or from the end
        POSITION: total % n_pos - draw(st.sampled_from([0, n_pos])),
        POSITIONS: (np.arange(n_pos) == places[..., None]).any(axis=1),
        "low": tokens < 2,
        "sum before": tokens.cumsum(axis=1) % 3,
    }
    labels = torch.tensor((tokens * np.arange(1, n_pos + 1)).sum(axis=1) % a.d_vocab_out)
    return Dataset(inputs, labels=labels, features=features)


def attends(component: str) -> bool:
    """Whether it reads by queries, keys and values."""
    return is_head(component) or is_attn(place_of(component))


def overlap(one: str, other: str) -> bool:
    """Whether two components are the same, one is a part of the other, or they have a part in
    common."""
    if dictionary_of(one) and dictionary_of(one) == dictionary_of(other):
        return have_common(one, other)
    if is_crossing(one) and is_crossing(other):  # layers of one transcoder
        return False
    for crossing, beside in ((one, other), (other, one)):
        if is_crossing(crossing):
            at = range(layer_of(place_of(crossing)), MOST_LAYERS)
            return any(overlap(f"mlp{layer}", beside) for layer in at)
    one, other = place_of(one), place_of(other)
    return one == other or any(map(holds, (one, other), (other, one)))


def is_crossing(component: str) -> bool:
    """Whether it writes at several layers."""
    return component.startswith("clt")


def holds(one: str, other: str) -> bool:
    if is_attn(one):
        return other.startswith(one.replace("attn", "head") + ".")
    if one.startswith("stream"):
        return other.startswith("stream") or layer_of(other) < layer_of(one)
    if one.startswith("neurons"):
        same = layer_of(one) == layer_of(other)
        if other.startswith("neurons"):
            return same and bool(units_of(one, MANY) & units_of(other, MANY))
        return same and other.startswith("mlp")
    return False


def layer_of(component: str) -> int:
    """Its layer, -1 of what comes before them."""
    return int(re.findall(r"\d+|$", component)[0] or -1)


def n_positions(dataset: Dataset) -> int:
    return int(dataset.inputs["tokens"].shape[1])


@st.composite
def spans(draw: st.DrawFn, n_pos: int) -> Span:
    """A slice of at least one position."""
    start = draw(st.integers(0, n_pos - 1))
    stop = draw(st.integers(start + 1, n_pos))
    shown = draw(
        st.sampled_from([(start, stop), (start - n_pos, None if stop == n_pos else stop - n_pos)])
    )
    return Span(*shown, draw(st.sampled_from([None, 2])))


def positions(dataset: Dataset) -> st.SearchStrategy[int | Span | str | None]:
    """Every kind of `pos=`; also what a metric can be read at."""
    n_pos = n_positions(dataset)
    return st.one_of(
        st.none(),
        st.integers(-n_pos, n_pos - 1),
        st.sampled_from([POSITION, POSITIONS]),
        spans(n_pos),
    )


@cache
def rotation(d_model: int) -> npt.NDArray[np.float64]:
    """Orthonormal columns `[d_model, d_model]` from which all subspaces are taken."""
    q, _ = np.linalg.qr(np.random.default_rng(d_model).normal(size=(d_model, d_model)))
    return np.asarray(q)


@dataclass(frozen=True)
class Waves:
    """A `computed_by=`: a function of the features, `[B, d_model]`, or `[B, n_pos, d_model]` given
    n_pos."""

    d_model: int
    n_pos: int | None

    def __call__(self, *features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        seed = sum(
            (i + 2) * np.asarray(column, dtype=np.float64) for i, column in enumerate(features)
        )
        shape = (self.d_model,) if self.n_pos is None else (self.n_pos, self.d_model)
        frequencies = np.arange(1, np.prod(shape) + 1).reshape(shape)
        column = np.asarray(seed).reshape(-1, *(1 for _ in shape))
        return np.asarray(np.sin(frequencies * (column + 1)))


def edited(node: Node, width: int, *, is_added: bool) -> Node:
    """The node as an edit, which takes no donor."""
    vector = np.cos(np.arange(width) + 1.0)
    return replace(node, agrees_on=EXACT, edited=VectorEdit(vector, is_added=is_added))


@st.composite
def hypotheses(draw: st.DrawFn, model: SmallTransformer, dataset: Dataset) -> Node:
    """Valid trees of at most `DEPTH` levels below the root, with everything that a claim can
    say."""
    return _Trees(draw, model, dataset).root()


@dataclass(frozen=True)
class _Trees:
    draw: st.DrawFn
    model: SmallTransformer
    dataset: Dataset

    @property
    def d_model(self) -> int:
        return int(self.model.bridge.cfg.d_model)

    @property
    def n_pos(self) -> int:
        return n_positions(self.dataset)

    def rarely(self) -> bool:
        """One in four: not the last one, since Hypothesis is fond of bounds."""
        return self.draw(st.integers(0, 3)) == 2

    def root(self) -> Node:
        agrees_on = self.agreement() if self.draw(st.booleans()) else None
        root = Node((ROOT,), agrees_on)
        return root if self.rarely() else self.reading(root, level=0)

    def agreement(self, more: Sequence[str] = ()) -> Agreement:
        features = st.sampled_from([*FEATURES, *more])
        names = self.draw(st.lists(features, max_size=2, unique=True))
        return EXACT if self.rarely() else Agreement(tuple(sorted(names)))

    def reading(self, node: Node, level: int) -> Node:
        """The node as a non-leaf; without children, as `join` makes them, it is its rest's
        donor's."""
        reads = (
            ()
            if self.rarely() and self.draw(st.booleans())
            else self.children(node.component, level)
        )
        return replace(node, reads=reads, rest=self.agreement())

    def children(self, parent: str, level: int) -> tuple[Node, ...]:
        """Siblings that claim no edge twice."""
        siblings: list[Node] = []
        for _ in range(self.draw(st.integers(1, WIDTH[level]))):
            child = self.child(parent, level, siblings)
            if child is not None:
                siblings.append(child)
        return tuple(siblings)

    def child(self, parent: str, level: int, siblings: list[Node]) -> Node | None:
        """One more child; None where everything is claimed already."""
        draw = self.draw
        divisible = self.divisible(siblings)
        if len(divisible) > 0 and draw(st.booleans()):
            return self.other_part(draw(st.sampled_from(divisible)), siblings)
        if is_head(parent) and not siblings and self.rarely():
            return self.pattern(parent, level)
        into = draw(st.sampled_from(self.slots(parent, siblings)))
        if into != "v" and self.may_claim_mask(parent, siblings) and self.rarely():
            return self.mask(parent)
        shared = [
            sibling for sibling in siblings if None in (into, sibling.into) or sibling.into == into
        ]
        taken = {name for sibling in shared for name in sibling.components}
        free = [name for name in self.some_of(parent) if not any(overlap(name, t) for t in taken)]
        if not free:
            return None
        components = [draw(st.sampled_from(free))]
        if len(free) > 1 and self.rarely():
            several = st.lists(st.sampled_from(free), min_size=2, max_size=3, unique=True)
            components = draw(
                several.filter(lambda names: not any(starmap(overlap, combinations(names, 2))))
            )
        node = Node(
            tuple(sorted(components, key=natural_key)),
            self.agreement(),
            into=into,
            pos=draw(positions(self.dataset)),
            subspace=self.subspace(0) if self.rarely() else None,
            via=draw(st.sampled_from([None, "direct", "any"])),
        )
        if any(map(is_crossing, components)):
            node = replace(node, subspace=None)
        if self.rarely():
            each = draw(st.sampled_from([EACH, EACH(with_shift=True)]))
            node = replace(node, pos=each, agrees_on=self.agreement(EACH_FEATURES))
        return self.furnished(node, level, siblings)

    def readable(self, parent: str) -> list[str]:
        """What writes to the residual stream before a component reads it."""
        components = list(self.model.components)
        if parent == ROOT:
            return components
        parent = place_of(parent)
        # the heads of one layer do not read each other
        layer, parent = layer_of(parent), re.sub(r"neurons(\d+)\[.*", r"mlp\1", parent)
        is_beside = self.model.architecture.kind in PARALLEL and f"mlp{layer}" == parent
        is_mixing = attends(parent) or parent.startswith("pattern")
        first = f"head{layer}.0" if is_mixing or is_beside else parent
        return components[: components.index(first)]

    def some_of(self, parent: str) -> list[str]:
        """What it can read; of a network with dictionaries often units of these alone."""
        units = self.some_units(parent)
        is_alone = bool(self.model.dictionaries and units) and self.draw(st.booleans())
        return units if is_alone else [*self.readable(parent), *units]

    def some_units(self, parent: str) -> list[str]:
        """Sets of units, and errors, of the places that it can read."""
        found, readable = self.some_neurons(parent), set(self.readable(parent))
        for own in self.model.dictionaries:
            if own.place in readable:
                count = len(own.tensors["W_dec"])
                unit = st.integers(0, count - 1)
                some = self.draw(st.lists(unit, min_size=1, max_size=count, unique=True))
                found += latents(own.name, some).components
                found += () if own.crosses else error(own.name).components
        return found

    def some_neurons(self, parent: str) -> list[str]:
        """A set of hidden units of one of the MLPs that it can read."""
        mlps = [name for name in self.readable(parent) if name.startswith("mlp")]
        if not mlps or not self.model.hidden_units or not self.draw(st.booleans()):
            return []
        unit = st.integers(0, self.model.hidden_units - 1)
        some = st.one_of(
            unit,
            st.lists(unit, min_size=1, max_size=12, unique=True),
            st.builds(slice, st.sampled_from([None, 0, 3]), st.none(), st.sampled_from([None, 2])),
        )
        return [*neurons(layer_of(self.draw(st.sampled_from(mlps))), self.draw(some)).components]

    def slots(self, parent: str, siblings: list[Node]) -> list[str | None]:
        """What into= may say; where the pattern is claimed, only the values are left."""
        if parent.startswith("pattern"):
            return [None, "q", "k"]
        if any(sibling.component.startswith("pattern") for sibling in siblings):
            return ["v"]
        return [None, "q", "k", "v"] if attends(parent) else [None]

    def pattern(self, parent: str, level: int) -> Node:
        """The attention of the parent, which reads it directly; at positions that are the same for
        all rows."""
        fixed = st.one_of(st.none(), st.integers(-self.n_pos, self.n_pos - 1), spans(self.n_pos))
        node = Node(
            (parent.replace("head", "pattern"),),
            self.agreement(),
            pos=self.draw(fixed),
            via=self.draw(st.sampled_from([None, "direct"])),
        )
        if self.rarely():
            node = replace(node, pos=EACH, agrees_on=self.agreement(EACH_FEATURES))
        return self.furnished(node, level, [])

    def furnished(self, node: Node, level: int, siblings: list[Node]) -> Node:
        """The node with a name, another's donor, children of its own or a computation, or none of
        these."""
        draw = self.draw
        if draw(st.booleans()):
            node = replace(node, name=f"sibling{len(siblings)}")
        lenders = [
            sibling
            for sibling in siblings
            if sibling.name
            and not sibling.shares
            and (sibling.is_each, sibling.is_shifted) == (node.is_each, node.is_shifted)
            and not sibling.edited
        ]
        if lenders and draw(st.integers(0, 2)) == 1:
            lender = draw(st.sampled_from(lenders))
            node = replace(node, shares=lender.name, agrees_on=lender.agrees_on)
        if node.is_each:
            return node
        is_group = len(node.components) > 1
        is_recomputable = not is_group and (
            attends(node.component)
            or node.component.startswith(
                ("mlp", "stream", "neurons", "pattern", "sae", "tc", "clt", "raw", "z_")
            )
        )
        if is_recomputable and level + 1 < DEPTH and draw(st.integers(0, 3)) > 0:
            return self.reading(node, level + 1)
        # A group is computed as a sum, so its members must be read as one: not those of blocks that
        # are normalised or scaled as a whole.
        is_one = node.via != "any" and self.model.architecture.kind not in FAMILIES
        crosses = any(map(is_crossing, node.components))
        is_computable = (
            node.agrees_on is not None
            and node.agrees_on.features
            and (is_one or not is_group)
            and not crosses
        )
        if is_computable and draw(st.booleans()):
            width = self.n_pos if node.component.startswith("pattern") else self.d_model
            return replace(
                node, computed_by=Waves(width, draw(st.sampled_from([None, self.n_pos])))
            )
        is_editable = not (is_group or node.subspace or node.shares or crosses)
        if is_editable and not node.component.startswith("pattern") and self.rarely():
            return edited(node, self.d_model, is_added=draw(st.booleans()))
        return node

    def subspace(self, half: int) -> Subspace:
        """Some directions of the first or the second half of one basis; the halves are
        orthogonal."""
        start = half * self.d_model // 2
        width = self.draw(st.integers(1, self.d_model // 2))
        return Subspace(rotation(self.d_model)[:, start : start + width])

    def divisible(self, siblings: list[Node]) -> list[Node]:
        """Siblings that leave some of their component, other positions or directions, to one more
        child."""
        claimed = Counter(name for sibling in siblings for name in sibling.components)
        partial = [
            sibling for sibling in siblings if isinstance(sibling.pos, int) or sibling.subspace
        ]
        return [
            node for node in partial if claimed[node.component] == 1 and node.component != "mask"
        ]

    def other_part(self, sibling: Node, siblings: list[Node]) -> Node:
        """A child that reads the same component into the same slot along the same paths, but other
        parts."""
        pos, subspace = sibling.pos, sibling.subspace
        if subspace is not None:
            subspace = self.subspace(1)
        else:
            assert isinstance(pos, int)
            pos = (pos + self.draw(st.integers(1, self.n_pos - 1))) % self.n_pos
        part = Node(sibling.components, self.agreement(), into=sibling.into, via=sibling.via)
        return self.furnished(replace(part, pos=pos, subspace=subspace), DEPTH, siblings)

    def may_claim_mask(self, parent: str, siblings: list[Node]) -> bool:
        is_mixing = attends(parent) or parent.startswith("pattern")
        reaches = is_mixing or any(map(attends, self.readable(parent)))
        is_free = all("mask" not in sibling.components for sibling in siblings)
        return "attention_mask" in self.dataset.inputs and reaches and is_free

    def mask(self, parent: str) -> Node:
        """Only heads read it directly. Fixed positions keep the first key visible, which never is
        padding."""
        fixed = st.one_of(st.none(), st.integers(-self.n_pos, self.n_pos - 1), spans(self.n_pos))
        is_mixing = attends(parent) or parent.startswith("pattern")
        via = st.sampled_from([None, "direct", "any"] if is_mixing else ["any"])
        return Node(("mask",), self.agreement(), pos=self.draw(fixed), via=self.draw(via))


@st.composite
def swap_sets(draw: st.DrawFn, root: Node, dataset: Dataset) -> SwapSet:
    """1 to 3 references with arbitrary donors for every slot, allowed or not."""
    slots: list[str] = []
    shifts: dict[str, int] = {}
    for path, node, _ in node_paths(root):
        count = length_of(dataset, path, node) if node.is_each else 0
        shifts |= {f"{path}/{at}": count for at in range(count) if node.is_shifted}
        places = [f"/{at}" for at in range(count)] if node.is_each else [""]
        slots += [path + at for at in places] if node.agrees_on is not None else []
        slots += [] if node.rest is None else [f"{path}/rest"]
    rows = st.integers(0, len(dataset) - 1)
    references = np.array(draw(st.lists(rows, min_size=1, max_size=3)), dtype=np.int64)
    donors = draw(arrays(np.int64, (len(slots), len(references)), elements=rows, fill=st.nothing()))
    for i, slot in enumerate(slots):
        if slot in shifts:
            further = st.integers(0, shifts[slot] - 1)
            donors[i] += len(dataset) * np.array([draw(further) for _ in references])
    return SwapSet(references, donors, tuple(slots), dataset.digest(), rows=len(dataset))
