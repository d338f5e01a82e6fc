"""Transformers whose parts are not taken apart: heads, MLPs and attention blocks by the network's
own modules, and children read along every path.

TransformerLens's bridge says which module of the network is which part. Everything is computed by
the network itself; what is proved is that its hooks do what they should.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytest_scrub.data.columns import Ints
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import ModelError, did_you_mean
from pytest_scrub.network.adapter import rows_of
from pytest_scrub.network.coded import HookedStanding
from pytest_scrub.network.dictionaries import Dictionary, tensors_of_all
from pytest_scrub.network.graph import Basis, Inputs, count_rows, same_numbers
from pytest_scrub.network.kinds.neurons import no_neurons
from pytest_scrub.network.kinds.pattern import refused_pattern
from pytest_scrub.network.kinds.stream import in_words
from pytest_scrub.network.modules import Call, Module, ModuleGraph
from pytest_scrub.network.places import (
    BOTH,
    IN,
    SOFTMAX,
    Added,
    Attended,
    Place,
    Point,
    seen,
)
from pytest_scrub.tree.nodes import CROSS, ENCODER, ROOT, Node
from pytest_scrub.tree.units import split

# A bridge's lists of blocks, and whose heads and MLPs these have; the decoder's have no name before
# theirs, as those of a network with one stack.
STACKS = {"blocks": "", "decoder_blocks": "", "encoder_blocks": f"{ENCODER}."}
WRAPPED = "_original_component"  # where a bridge's module keeps the one that it stands for
HEADS_OF_A_MODULE = ("num_heads", "num_attention_heads", "n_heads", "n_head")
# Relative to the largest value compared: the same numbers take another way through the same layers.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
ROUGH = 5e-2  # of 16-bit numbers


# A mutant puts components of one class in place of one another.


class HookedHead(Module):
    """What a head hands to its attention's output projection."""


class HookedAttention(Module):
    """What a layer's attention adds: what its output projection returns, normalised where the block
    does so."""


class HookedMlp(Module):
    """What a layer's MLP adds."""


class HookedNeurons(Module):
    """What hidden units of a layer's MLP add to what its output projection returns."""

    def some(self, name: str, units: Ints) -> HookedNeurons:
        """Some of all of them."""
        assert isinstance(self.place, Added)
        part = copy(self)
        part.name, part.basis, part.units = name, self.name, units
        part.place = self.place.some(torch.from_numpy(units).to(self.place.rows.device))
        return part


class HookedStream(Module):
    """What a block is called with, or the final norm."""


class HookedPattern(Module):
    """The attention probabilities of a head, which it alone reads."""

    def refusal(self, node: Node, dataset: Dataset) -> str | None:
        return refused_pattern(node)


class _Attention(NamedTuple):
    """One attention of one layer, by its components.

    - `projection`: the path of the output projection, `value` of what makes its heads' values,
      `module` of all of it; each empty where there is no such module.
    """

    name: str
    layer: int
    level: str
    added: tuple[str, ...]
    projection: str
    value: str
    module: str
    heads: tuple[str, ...]

    @property
    def patterns(self) -> tuple[str, ...]:
        """One for each head."""
        return tuple(head.replace("head", "pattern") for head in self.heads)


class _Paths:
    """Where a bridge's modules, or those that they stand for, are in the network."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._path_of = {id(module): path for path, module in modules.items()}

    def of(self, module: Any) -> str:
        """Empty where it is not in the network."""
        inner = getattr(module, "original_component", None)
        return self._path_of.get(id(module)) or self._path_of.get(id(inner), "")

    def added(self, block: Any, part: Any, normalised: str) -> tuple[str, ...]:
        """Of the modules that may give what a part adds: the first that is called does. A part
        without a module of its own, whose layers lie in the block itself (OPT), is not the block.
        """
        inside, whole = part.submodules, self.of(block)
        modules = (block.submodules.get(normalised), inside.get("o", inside.get("out")), part)
        paths = (self.of(module) for module in modules)
        return tuple(path for path in paths if path not in ("", whole))


class HookGraph(ModuleGraph):
    """A transformer as a graph of what its hooks show: heads, MLPs and attention blocks by their
    numbers, and its modules by their names.

    Inputs are called as the network's `forward` calls them; a lone tensor is its main input.

    **Arguments**

    - `network`: what is run.
    - `names`: a bridge around it, or what else has its blocks in a bridge's words.
    - `indirect`: why it is not read directly.
    - `dictionaries`: by name, what else its places are sums of.

    **Raises** `ModelError` for a dictionary at a place that it cannot have.
    """

    def __init__(
        self,
        network: nn.Module,
        names: Any,
        indirect: str,
        dictionaries: Mapping[str, Dictionary] | None = None,
    ) -> None:
        super().__init__(network)
        self.dictionaries = dict(dictionaries or {})
        self.names, self.indirect = names, indirect
        self.source = f"{type(network).__name__} (along every path)"
        self.lone_input = getattr(network, "main_input_name", None)
        self._paths = _Paths(self._modules)
        blocks = list(self._blocks())
        self._attentions = [a for block in blocks for a in self._attentions_of(*block)]
        self._mlps: dict[str, tuple[int, str, tuple[str, ...]]] = {}
        self._hidden: dict[str, tuple[str, str]] = {}
        self._unnamed = set[str]()
        for side, layer, block in blocks:
            mlp, neurons = f"{side}mlp{layer}", f"{side}neurons{layer}"
            if "mlp" not in block.submodules:  # claims are told to name a module instead
                self._unnamed |= {mlp, neurons}
                continue
            part = block.submodules["mlp"]
            # of a stack that the network does not have nothing is found (T5's encoder alone)
            if added := self._paths.added(block, part, "ln2_post"):
                self._mlps[mlp] = layer, side, added
            if path := self._paths.of(part.submodules.get("out")):
                self._hidden[neurons] = mlp, path
        self._streams = dict(self._streams_of(blocks))
        self._embeddings = {
            name: self._paths.of(names._modules.get(name)) for name in ("embed", "pos_embed")
        }
        self._not_apart: dict[str, str] = {}
        self.bases: dict[str, Basis] = {}
        self._claimed_as: dict[Place, str] = {}
        self._standing: list[HookedStanding] = []
        for name, own in self.dictionaries.items():
            self._require_place(name, own)

    def _require_place(self, name: str, own: Dictionary) -> None:
        """**Raises** `ModelError` for a dictionary that no one place of such a network holds."""
        there = {*self._streams, *self._mlps, *(a.name for a in self._attentions)}
        if own.at.kind == "resid_mid":
            raise own.misfit(
                name,
                f"stands at {own.hook}, which no module is known to hold in a network that is read "
                "along every path; take one of hook_resid_pre",
            )
        if own.at.stack not in self.names._modules or self._place_of(own) not in there:
            raise own.misfit(name, f"stands at {own.hook}, which {self.source} does not have")
        if own.reads != own.at or own.crosses:
            raise own.misfit(
                name,
                f"reads {own.reads} and stands at {own.hook}, but of a network that is read along "
                "every path no hook is known to show both in one run; take an SAE",
            )
        if own.at.kind.endswith("_alone"):
            raise own.misfit(
                name,
                f"stands at {own.hook}, which is not known to be what {own.place} adds in a "
                "network that is read along every path; take one of hook_attn_out or hook_mlp_out",
            )

    def _place_of(self, own: Dictionary) -> str:
        return STACKS.get(own.at.stack, "") + own.place

    def _named_modules(self) -> dict[str, nn.Module]:
        """By the names that they have without a bridge."""
        found: dict[str, nn.Module] = {}
        for path, module in self.module.named_modules():
            name = unwrapped(path)
            if name and type(module).__name__ != "HookPoint":
                found.setdefault(name, module)
        return found

    def _streams_of(
        self, blocks: Sequence[tuple[str, int, Any]]
    ) -> Iterator[tuple[str, tuple[int, str, Point]]]:
        """Where each is: what a block is called with, and after the last one the final norm, or
        what it returns where there is none."""
        layers = Counter(side for side, _, _ in blocks)
        final = self._paths.of(self.names._modules.get("ln_final"))
        for side, layer, block in blocks:
            path, name = self._paths.of(block), f"{side}stream"
            if path:
                level = f"{_words(side)}{in_words(layer, layers[side])}"
                yield f"{name}{layer}", (layer, level, Point(path, IN))
            if path and layer + 1 == layers[side]:
                level = f"{_words(side)}{in_words(layer + 1, layer + 1)}"
                last = Point(final, IN) if final and not side else Point(path)
                yield f"{name}{layer + 1}", (layer + 1, level, last)

    # Which module is which part -------------------------------------------------------------------

    def _blocks(self) -> Iterator[tuple[str, int, Any]]:
        """What comes before the names of a block's parts, its layer, and the block."""
        for stack, side in STACKS.items():
            for layer, block in enumerate(self.names._modules.get(stack, ())):
                yield side, layer, block

    def _attentions_of(self, side: str, layer: int, block: Any) -> Iterator[_Attention]:
        for key, part in block.submodules.items():
            if "o" in part.submodules:
                whose = f"{CROSS}." if key == "cross_attn" else side
                o, v = (self._paths.of(part.submodules.get(name)) for name in "ov")
                numbers = range(self._n_heads(part.original_component) if o else 0)
                yield _Attention(
                    name=f"{whose}attn{layer}",
                    layer=layer,
                    level=f"{_words(whose)}attention {layer}",
                    added=self._paths.added(block, part, "ln1_post"),
                    projection=o,
                    value=v,
                    module=self._paths.of(part),
                    heads=tuple(f"{whose}head{layer}.{head}" for head in numbers),
                )

    def _n_heads(self, attention: Any) -> int:
        own = (getattr(attention, name, None) for name in HEADS_OF_A_MODULE)
        return next((n for n in own if isinstance(n, int)), int(self.names.cfg.n_heads))

    def _points(self) -> list[Point]:
        points = [Point(a.projection, IN) for a in self._attentions if a.projection]
        points += [Point(a.module, SOFTMAX) for a in self._attentions if a.module and a.heads]
        points += [Point(path, BOTH) for _, path in self._hidden.values()]
        points += [point for _, _, point in self._streams.values()]
        return [*dict.fromkeys([*super()._points(), *points])]

    def _values(self) -> Iterator[Module]:
        parts = {part.name: part for part in self._parts()}
        self._claimed_as = {
            part.place: name for name, part in parts.items() if isinstance(part.place, Place)
        }
        streams = [*self._whole_streams(parts)]
        places = {**parts, **{stream.name: stream for stream in streams}}
        self._standing = [*self._found(places)]
        self.bases = dict(self._bases_of(parts))
        self.bases |= {standing.name: standing.basis for standing in self._standing}
        errors = (standing.error for standing in self._standing)
        yield from (*parts.values(), *self._patterns(), *streams, *errors)
        for part in super()._values():
            if part.name not in parts and part.place not in self._claimed_as:
                yield part

    def _patterns(self) -> Iterator[Module]:
        for attention in self._attentions:
            point = Point(attention.module, SOFTMAX)
            for head, name in enumerate(attention.patterns):
                for call in self._once(point):
                    place = Attended(point, head)
                    part = HookedPattern(name, place, call.turn, attention.level, attention.layer)
                    part.only_for = attention.heads[head]
                    part.hint = f"only {part.only_for} reads it; put it under that head"
                    yield part

    def _whole_streams(self, parts: Mapping[str, Module]) -> Iterator[Module]:
        """What blocks are called with, and the final norm: the streams before it, and all that is
        known to be added on the way."""
        for name, (layer, level, point) in self._streams.items():
            side = name.partition("stream")[0]
            before = [
                part.writers
                for part in parts.values()
                if part.layer is None
                or (part.layer < layer and part.name.startswith(ENCODER) == bool(side))
            ]
            streams = frozenset(f"{side}stream{earlier}" for earlier in range(layer + 1))
            for call in self._once(point):
                part = HookedStream(name, Place(point, item=call.items[0]), call.turn, level, layer)
                part.written_by = streams.union(*before)
                yield part

    def _found(self, places: Mapping[str, Module]) -> Iterator[HookedStanding]:
        """Its dictionaries at their places. **Raises** `ModelError` where a run has no such one."""
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), None)
        for name, given in self.dictionaries.items():
            part = places.get(self._place_of(given))
            found = None if part is None else (part.place, part.turn)
            if given.at.kind == "z":
                entry = next(
                    Point(a.projection, IN)
                    for a in self._attentions
                    if a.name == self._place_of(given)
                )
                calls = self._once(entry)
                found = (Place(entry, item=calls[0].items[0]), calls[0].turn) if calls else None
            if part is None or found is None or not isinstance(found[0], Place):
                raise given.misfit(
                    name,
                    f"stands at {given.hook}, but {self.source} has no one module that is called "
                    "once and gives that for each row",
                )
            own = given.to(self.device, dtype or torch.get_default_dtype())
            yield HookedStanding(name, own, part, found[0], found[1] or 0)

    def _bases_of(self, parts: Mapping[str, Module]) -> Iterator[tuple[str, Basis]]:
        for basis, (mlp, path) in self._hidden.items():
            point, rows = Point(path, BOTH), rows_of(self._modules[path])
            for call in self._once(point):
                if rows is not None and mlp in parts:
                    like = HookedNeurons(basis, Added(point, rows), call.turn, parts[mlp].level)
                    like.layer, like.written_by = parts[mlp].layer, frozenset({mlp})
                    yield basis, Basis(len(rows), like.some)

    def _parts(self) -> Iterator[Module]:
        for attention in self._attentions:
            heads, entry = attention.heads, Point(attention.projection, IN)
            for head, name in enumerate(heads):
                for call in self._once(entry):
                    place = Place(entry, part=(head, len(heads)))
                    yield HookedHead(name, place, call.turn, attention.level, attention.layer)
            for place, turn in self._first_called(attention.added):
                level, layer = attention.level, attention.layer
                part = HookedAttention(attention.name, place, turn, level, layer)
                part.written_by = frozenset(heads)
                yield part
        for name, (layer, side, added) in self._mlps.items():
            for place, turn in self._first_called(added):
                yield HookedMlp(name, place, turn, f"{_words(side)}mlp {layer}", layer)
        for name, path in self._embeddings.items():
            for place, turn in self._first_called([path] if path else []):
                yield Module(name, place, turn)

    def _once(self, point: Point) -> list[Call]:
        """The call of a module that is called once, where its first tensor has a value for each
        row."""
        calls = self._calls.get(point, [])
        return calls if len(calls) == 1 and calls[0].sizes[:1] == (self._rows,) else []

    def _first_called(self, paths: Iterable[str]) -> list[tuple[Place, int]]:
        found = ((Point(path), call) for path in paths for call in self._once(Point(path)))
        return [(Place(point, item=call.items[0]), call.turn) for point, call in found][:1]

    def heads_of(self, attention: str) -> Sequence[str]:
        return next((a.heads for a in self._attentions if a.name == attention), ())

    def problem(self, name: str) -> str | None:
        name = (split(name) or (name,))[0]
        if problem := self._not_apart.get(name) or no_neurons(name, self):
            return problem
        place = Place(Point(name))
        if place in self._claimed_as:
            return f"module {name!r} is {self._claimed_as[place]}; claim it under that name"
        if name not in self.parts and f"{ENCODER}.{name}" in self.parts:
            return f"{self.source} has no {name} but its encoder's; say of={ENCODER!r}"
        if any(name in attention.patterns for attention in self._attentions):
            return (
                f"{self.source} computes the probabilities of {name} where no hook sees them; load "
                "it with attn_implementation='eager'"
            )
        known = {*self._mlps, *self._streams, *self._unnamed}
        known = known.union(*({a.name, *a.heads} for a in self._attentions))
        if name in known and name not in self.parts:
            return (
                f"{self.source} has no one module that is called once and gives {name} for each "
                "row; claim a module of it by its own name"
            )
        return super().problem(name)

    def _require_names(self, inputs: Inputs) -> None:
        known = list(inspect.signature(self.module.forward).parameters)
        for name in self._arguments(inputs)[1]:
            if name not in known:  # which a network with keywords of any name would not notice
                raise ModelError(
                    f"{self.source} takes no input {name!r}"
                    f"{did_you_mean(name, known) or ', but ' + ', '.join(known)}; rename the "
                    "inputs of the dataset"
                )

    # Proof ----------------------------------------------------------------------------------------

    def proof_rows(self, inputs: Inputs) -> Sequence[int]:
        """Two that differ among them, as hooks are proved on, where there are any."""
        return sorted({*super().proof_rows(inputs), *(_two(inputs) or ())})

    def prove(self, inputs: Inputs, rows: Sequence[int] | None = None) -> None:
        """That hooks do what they should, too, on two rows that differ.

        **Raises** `ModelError` where a hook that is given its own value changes the output, where
        heads are not what their attention reads, or where a part is off the network's path.
        """
        self._not_apart = {}
        super().prove(inputs)
        two = _two(inputs)
        if two is not None:
            with torch.no_grad():
                self._prove_hooks({name: tensor[two] for name, tensor in inputs.items()})
        if self._standing:
            with torch.no_grad():
                self._prove_dictionaries(inputs)

    def _prove_dictionaries(self, inputs: Inputs) -> None:
        """**Raises** `ModelError` where one is not at what its hook shows; see `HookedStanding`."""
        places: dict[tuple[str, bool], Place] = {}
        for one in self._standing:
            if one.part.name not in self.parts:
                why = self._not_apart[one.part.name]
                raise one.own.misfit(one.name, f"stands at {one.own.hook}, but {why}")
            places[one.name, False] = one.place
            shown = Point(self._shown_by(one.own))
            for call in self._once(shown):
                places[one.name, True] = Place(shown, item=call.items[0])
        found: dict[tuple[str, bool], Tensor] = {}

        def keep(point: Point, passing: Any) -> None:
            for name, place in places.items():
                if place.point == point:
                    found[name] = place.value(passing).clone()

        with seen(self._modules, {place.point for place in places.values()}, keep):
            self._forward(inputs)
        for one in self._standing:
            one.prove(found[one.name, False], found.get((one.name, True)))

    def _shown_by(self, own: Dictionary) -> str:
        """The path of the module whose output the hook of a dictionary is; empty where none is."""
        part = self.names._modules[own.at.stack][own.at.layer]
        alias = getattr(part, "hook_aliases", {}).get(own.hook.rpartition(".")[2])
        if not isinstance(alias, str):
            return ""
        for name in alias.removesuffix(".hook_out").split("."):
            part = getattr(part, "submodules", {}).get(name)
        return "" if part is None else self._paths.of(part)

    def _prove_hooks(self, two: Inputs) -> None:
        self._prove_units(two)
        names = [name for name in self._claimed_as.values() if name not in self._embeddings]
        clean = self.values(names, two)
        own = self._with(two, clean, ROOT)
        # and not only beside others with hooks: a clean run has none
        if not (_same(own, clean[ROOT]) and _same(own, self.run(two))):
            raise ModelError(
                f"{self.source}: its output changes where every part is given its own value, so "
                "its hooks are not to be trusted; use ModuleGraph(model)"
            )
        other = {name: value.flip(0) for name, value in clean.items()}
        for attention in self._attentions:
            if attention.name in clean and {*attention.heads} & {*clean}:
                heads = {head: other[head] for head in attention.heads}
                mixed = self._with(two, heads, attention.name)
                if not _same(mixed, other[attention.name]):
                    raise ModelError(
                        f"{self.source}: with all heads of another row {attention.name} does not "
                        "add what it adds there, so its hooks are not to be trusted; use "
                        "ModuleGraph(model)"
                    )
                self._prove_apart(attention, two, clean)
                if {*attention.heads} & {*self.parts}:
                    self._prove_patterns(attention, two, clean[attention.name])
        self._prove_streams(two, clean[ROOT])
        for name in (*(attention.name for attention in self._attentions), *self._mlps):
            if name not in clean or _same(clean[name], other[name]):
                continue
            moved = self._with(two, {name: other[name]}, ROOT)
            if same_numbers(moved, clean[ROOT]):
                raise ModelError(
                    f"{self.source}: its output is the same whatever {name} adds, so its hooks are "
                    "not to be trusted; use ModuleGraph(model)"
                )

    def _left_out(self, name: str, why: str, instead: str) -> None:
        """What is not shown to be what it should is no component."""
        self.parts.pop(name, None)
        self.bases.pop(name, None)
        self._not_apart[name] = f"{name} is not claimed in {self.source}: {why}; claim {instead}"

    def _with(self, two: Inputs, values: Mapping[str, Tensor], last: str) -> Tensor:
        """The value of `last` in a run in which these are put in."""
        return self.run_with(two, values, lambda name, _: values[name], last)

    def _prove_units(self, two: Inputs) -> None:
        """Hidden units are told apart where, times their rows, they are what is added."""
        found: dict[str, Any] = {}
        hidden = {path: basis for basis, (_, path) in self._hidden.items() if basis in self.bases}
        points = [Point(path, BOTH) for path in hidden]
        with seen(self._modules, points, lambda at, passing: found.update({at.path: passing})):
            self._forward(two)
        for path, (codes, out) in found.items():
            bias, rows = getattr(self._modules[path], "bias", None), rows_of(self._modules[path])
            if not _same(codes @ rows + (0 if bias is None else bias), out):
                mlp, _ = self._hidden[hidden[path]]
                self._left_out(hidden[path], f"its units do not sum to what {mlp} adds", mlp)

    def _prove_streams(self, two: Inputs, output: Tensor) -> None:
        """A stream is one where the output is another with that of another row."""
        clean = self.values([name for name in self._streams if name in self.parts], two)
        for name, own in clean.items():
            if name != ROOT:
                same, moved = (self._with(two, {name: own.roll(n, 0)}, ROOT) for n in (0, 1))
                is_read = not same_numbers(moved, same) or _same(own, own.flip(0))
                if not (is_read and _same(same, output)):
                    self._left_out(name, "the output does not depend on it", "what writes it")

    def _prove_patterns(self, attention: _Attention, two: Inputs, added: Tensor) -> None:
        """Probabilities are those of heads where they sum to one for every query, and with those of
        another row attention adds something else."""
        names, last = [n for n in attention.patterns if n in self.parts], attention.name
        clean = self.values(names, two)
        each = [clean[name] for name in names]
        own, moved = (
            self._with(two, {name: clean[name].roll(n, 0) for name in names}, last) for n in (0, 1)
        )
        is_shown = all(_same(p.sum(-1), torch.ones_like(p[..., 0])) for p in each)
        is_read = not same_numbers(own, moved) or all(_same(p, p.flip(0)) for p in each)
        if not (is_shown and is_read and _same(own, added)):
            for name, head in zip(attention.patterns, attention.heads, strict=True):
                self._left_out(name, "no softmax is shown to be its head's", head)

    def _prove_apart(self, attention: _Attention, two: Inputs, clean: Mapping[str, Tensor]) -> None:
        """Equal parts of what is projected are heads where other values of the first change those
        that read them and no other; else they are no components.

        Where values cannot be put in, they are if they are as wide as heads are said to be."""
        heads, width = attention.heads, clean[attention.heads[0]].shape[-1]
        if self._attending(attention, two) not in (None, len(heads)):
            is_apart = False  # each of these is several, or a part of one
        elif attention.value in self.parts and self._once(Point(attention.value)):
            is_apart = self._is_apart(attention, width, two, clean)
        else:
            config = getattr(self.module, "config", None)
            is_apart = width in (self.names.cfg.d_head, getattr(config, "v_head_dim", None))
        for name, pattern in () if is_apart else zip(heads, attention.patterns, strict=True):
            self._left_out(pattern, f"{name} is not", attention.name)
            why = f"equal parts of what {attention.name} projects are not shown to be heads"
            self._left_out(name, why, f"{attention.name} as a whole")

    def _attending(self, attention: _Attention, two: Inputs) -> int | None:
        """How many heads have probabilities of their own; None where no softmax shows it."""
        point, found = Point(attention.module, SOFTMAX), list[torch.Size]()
        if self._once(point):
            with seen(self._modules, [point], lambda _, passing: found.append(passing.shape)):
                self._forward(two)
        # [rows, heads, queries, keys]
        return next((shape[1] for shape in found if len(shape) == 4), None)

    def _is_apart(
        self, attention: _Attention, width: int, two: Inputs, clean: Mapping[str, Tensor]
    ) -> bool:
        values = self.values([attention.value], two)[attention.value]
        kv_heads, rest = divmod(values.shape[-1], width)
        if rest or not kv_heads or len(attention.heads) % kv_heads:
            return False
        found: dict[str, Tensor] = {}

        def hook(name: str, value: Tensor) -> Tensor | None:
            if name == attention.value:
                return torch.cat([2 * value[..., :width] + 1, value[..., width:]], -1)
            found[name] = value.clone()
            return None

        self.run_with(two, (*attention.heads, attention.value), hook)
        first = attention.heads[: len(attention.heads) // kv_heads]
        return all(
            not same_numbers(found[name], clean[name])
            if name in first
            else _same(found[name], clean[name])
            for name in attention.heads
        )

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        return chain(super().tensors(), tensors_of_all(self.dictionaries))

    def text(self) -> Sequence[str]:
        # whose softmax is seen depends on it, and so does what there is to claim
        implementation = getattr(getattr(self.module, "config", None), "_attn_implementation", None)
        beside = (f"{name}: {own.text}" for name, own in self.dictionaries.items())
        return *super().text(), self.source, str(implementation), *beside

    def computed_by_objects(self) -> tuple[Any, ...]:
        return type(self), self.module, None, *self.dictionaries.items()

    def rebuilt(self) -> HookGraph:
        for dictionary in self.dictionaries.values():
            dictionary.refresh()
        return self.having({})

    def having(self, dictionaries: Mapping[str, Dictionary]) -> HookGraph:
        every = {**self.dictionaries, **dictionaries}
        return HookGraph(self.module, self.names, str(self.indirect), every)


def unwrapped(path: str) -> str:
    """A module's path as it is without a bridge."""
    return path.replace(f"{WRAPPED}.", "").removesuffix(f".{WRAPPED}")


def _words(side: str) -> str:
    return side.replace(".", " ")


def _two(inputs: Inputs) -> list[int] | None:
    """The first row, and the first that differs from it, in more than masks where there is such a
    one: beside the same tokens these may change nothing. None where all are alike."""
    beside_masks = [tensor for name, tensor in inputs.items() if "mask" not in name]
    for tensors in (beside_masks, [*inputs.values()]):
        for row in range(1, count_rows(inputs)):
            if any(not torch.equal(tensor[0], tensor[row]) for tensor in tensors):
                return [0, row]
    return None


def _same(first: Tensor, second: Tensor) -> bool:
    scale = float(second.abs().max()) or 1.0
    return float((first - second).abs().max()) <= TOLERANCE.get(second.dtype, ROUGH) * scale
