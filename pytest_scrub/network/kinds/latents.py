"""Dictionaries at places of a transformer: latents, which are some units of one, and its error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.columns import Ints
from pytest_scrub.errors import ModelError, hides_scrub_errors
from pytest_scrub.network.dictionaries import Dictionary
from pytest_scrub.network.graph import Basis, Component, Inputs, Where, select
from pytest_scrub.network.kinds.attention import Attn
from pytest_scrub.network.kinds.part import Part, Running, added
from pytest_scrub.network.kinds.pointwise import Mlp
from pytest_scrub.network.kinds.reading import Batch, ReadingPart
from pytest_scrub.network.kinds.units import Units
from pytest_scrub.network.precision import off_by
from pytest_scrub.tree.nodes import Node

if TYPE_CHECKING:
    from pytest_scrub.data.dataset import Dataset

__tracebackhide__ = hides_scrub_errors

# of what an MLP reads, as hooks call it
STREAM, NORMED = ("resid_pre", "resid_mid", "mlp_stream"), ("mlp_in", "normalized")
VECTORS_AT_ONCE = 512  # of which all codes are computed: 64 MiB for 32,768 units


class Standing:
    """A dictionary at its place in a network.

    **Arguments**

    - `name`: what claims call it.
    - `parts`: those of the network.

    - `place`: the part whose value it is a basis of, but for constants; `is_z`: of its heads' z,
      before their output weights; `is_added`: of what its block makes of that before it is added.
    - `own`: the dictionary in the network's numbers.
    - `at`, `reads_at`: where it stands and what it reads, as hooks of this network are told apart:
      where a block adds what it gives as it is, the hooks before and after that are one.

    **Raises** `ModelError` where it does not fit the network.
    """

    def __init__(self, name: str, dictionary: Dictionary, parts: Mapping[str, Part]) -> None:
        self.name, self.dictionary = name, dictionary
        self.place = self._place(parts)
        normalised = self.place.after is not None
        self.at, self.reads_at = (
            spot if normalised else spot.of_the_sum for spot in (dictionary.at, dictionary.reads)
        )
        self.is_z = self.at.kind == "z"
        self.is_added = normalised and self.at.kind in ("attn_out", "mlp_out")
        transformer = self.place.transformer
        self.own = dictionary.to(transformer.device, transformer.dtype)
        self.places = [self.place, *self._later(parts)]
        self._require_fits()

    def _place(self, parts: Mapping[str, Part]) -> ReadingPart:
        _, layer, stack = self.dictionary.at
        place = parts.get(self.dictionary.place) if stack == "blocks" else None
        if place is None:
            layers = len(next(iter(parts.values())).transformer.attention)
            lacks = {"mlp": " and no MLPs", "mid": " and no stream between attention and MLP"}.get(
                self.dictionary.place.rstrip("0123456789") if layer < layers else "", ""
            )
            raise self._error(
                f"stands at {self.dictionary.hook}, which a network of {layers} layers, counted "
                f"from 0,{lacks} does not have"
            )
        assert isinstance(place, ReadingPart)  # as all of these are
        return place

    def _later(self, parts: Mapping[str, Part]) -> Iterator[Part]:
        """The MLPs after its own at which its units write too."""
        for further in range(1, 1 + self.own.later.shape[1]):
            name = f"mlp{self.place.layer + further}"
            if name not in parts:
                raise self._error(
                    f"has rows for {1 + self.own.later.shape[1]} layers from "
                    f"{self.dictionary.hook} on, but this network has no {name}"
                )
            yield parts[name]

    def _require_fits(self) -> None:
        given, place, width = self.dictionary, self.place, self.place.transformer.d_model
        if self.is_z:
            width = place.transformer.n_heads * place.transformer.d_head
        if given.width != width or given.encoder.width != width:
            raise self._error(
                f"reads {given.encoder.width} numbers and has rows of {given.width}, but what "
                f"stands at {given.hook} of this network has {width}"
            )
        for one in self.places if self.own.crosses else ():
            if one.after is not None:
                raise self._error(
                    f"writes at several layers, but this network normalises or scales what "
                    f"{one.name} adds; take a transcoder of one layer"
                )
        if self.reads_at == self.at:
            return
        layer = given.reads.layer
        streams = (place.point, f"stream.{layer}") if layer == place.layer else ()
        reads = str(given.reads).removeprefix("resid_").removeprefix("mlp_")
        if not isinstance(place, Mlp) or not (
            reads in streams or (given.reads.kind in NORMED and layer == place.layer)
        ):
            raise self._error(
                f"reads {given.reads}, but stands at {given.hook}; a dictionary reads what stands "
                f"there, or what an MLP whose output it is reads, resid_{place.point}"
            )

    def _error(self, reason: str) -> ModelError:
        return self.dictionary.misfit(self.name, reason)

    # What it reads --------------------------------------------------------------------------------

    @cached_property
    def constant(self) -> Tensor | float:
        """What stands at the place beside the part's value, or beside its z."""
        if self.is_z:
            assert isinstance(self.place, Attn)
            return self.place.value_bias
        own: Tensor | float = sum(part.constant for part in (self.place, *self.place.members))
        return own

    @cached_property
    def hooks(self) -> tuple[str, ...]:
        """The network's own activations of what stands there, and of the stream that it reads."""
        place = self.place
        stands = place.block if isinstance(place, Attn) and not self.is_z else place.hook
        if self.is_added:
            stands = stands.replace("_out.", "_added.")
        return stands, f"resid_{place.point}"

    def in_run(self, seen: Inputs) -> tuple[Tensor, Callable[[], Tensor]]:
        """What it reads in a clean run, and what stands there."""
        stands, stream = (seen[hook] for hook in self.hooks)
        stands = stands.flatten(2)  # z has a dimension of heads
        return self.reads(stream, lambda: stands), lambda: stands

    def stands(self, value: Tensor) -> Tensor:
        """What stands there, from the value of its place, or of that its z."""
        return self.after(value + self.constant)

    def after(self, summed: Tensor) -> Tensor:
        """The same from what its place's block is a sum of."""
        if not self.is_added:
            return summed
        return added(self.place, summed, summed.dtype).to(summed.dtype)

    def stands_in(self, run: Running, where: Where) -> Tensor:
        """What stands there in a run, before anything of it is replaced."""
        place = self.place
        if self.is_added:
            return self.after(run.sums[place.block])
        if not isinstance(place, Attn):
            return self.stands(place.apply(select(run.stream, where)))
        in_run = place.mixed_in_run if self.is_z else place.in_run
        return self.stands(in_run(run, where))

    def written(self, there: Tensor) -> Tensor:
        """What is at its place as it is added to others of its block."""
        if not self.is_z:
            return there
        return there @ self.place.output_weights.to(there.dtype)

    def reads(self, stream: Tensor, stands: Callable[[], Tensor]) -> Tensor:
        """What it reads, from the stream that its place reads and what stands there."""
        if self.reads_at == self.at:
            return stands()
        if self.reads_at.kind in NORMED:
            assert isinstance(self.place, Mlp)
            return self.place.mlp.norm(stream)
        return stream

    # Its parts ------------------------------------------------------------------------------------

    @property
    def basis(self) -> Basis:
        """All of its units, of which claims name some."""
        kind = CrossLayer if self.own.crosses else Latents
        return Basis(self.own.units, lambda name, units: kind(self, name, units), self._active)

    @torch.no_grad()
    def _active(self, inputs: Inputs) -> Ints:
        x, _ = self.in_run(self.place.transformer.capture(inputs, self.hooks))

        def count(some: Tensor) -> Tensor:
            return (self.own.encode(some) != 0).sum(0, keepdim=True)

        found: Ints = in_pieces(count, x).sum(0).cpu().numpy()
        return found

    @property
    def error(self) -> Iterator[Remainder]:
        """What it leaves of its place; of several places each is the work of several layers."""
        if not self.own.crosses:
            yield Remainder(self, f"{self.name}.error")

    def prove(self, seen: Inputs, source: str) -> None:
        """**Raises** `ModelError` where what it reads is not what its hook says, or where its
        units and its error do not add up to what stands there."""
        x, stands = self.in_run(seen)
        named = f"normalized.{self.place.layer}"
        if named in seen and (off := off_by(x, seen[named])):
            raise self._error(
                f"reads blocks.{self.place.layer}.ln2.hook_normalized, which differs by "
                f"{off:.1e} of its scale from what {self.place.name} of {source} reads, since the "
                "norm's weights come after it; fold them into the MLP (fold_ln)"
            )
        if self.own.crosses:
            if not in_pieces(self.own.encode, x).isfinite().all():
                raise self._error("has codes that are too large for the network's numbers")
            return
        error = in_pieces(self.own.error, x, stands())
        units = in_pieces(lambda some: self.own.decode(self.own.encode(some)), x)
        if not error.isfinite().all() or off_by(units + error, stands()):
            raise self._error(
                f"does not give {self.dictionary.hook} of {source} back with its error added; its "
                "codes are too large for the network's numbers"
            )

    @property
    def proof_hooks(self) -> Sequence[str]:
        more = (str(self.dictionary.reads),) * (self.dictionary.reads.kind == "normalized")
        return *self.hooks, *more


class OfDictionary(Units):
    """What a dictionary makes of its place: it reads what the place reads."""

    def __init__(self, standing: Standing, name: str, units: Ints) -> None:
        super().__init__(standing.place, name, standing.name, units)
        self.standing = standing
        place = standing.place
        self.streams, self.beside = place.streams, place.beside
        self.jumps = standing.own.encoder.jumps
        self.hook = standing.hooks[0]
        if standing.is_added:  # a term of the stream by itself, once its block is done
            self.follows, self.after = place.block, None
            self.block = f"{place.block} added"
        elif not standing.is_z:
            self.members = place.members

    def of(self, x: Tensor, stands: Callable[[], Tensor]) -> Tensor:
        """What is kept of it, from what the dictionary reads and what stands at its place."""
        raise NotImplementedError

    def codes(self, stream: Tensor) -> Tensor:
        raise NotImplementedError  # of attention, which has three

    def clean_codes(self, seen: Inputs) -> Tensor:
        raise NotImplementedError

    def hooks_of(self, kind: str) -> Sequence[str]:
        return self.place.hooks_of(kind) if kind in self.streams else self.standing.hooks

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        if kind in self.streams:
            return self.place.clean(kind, seen, where)
        here = {hook: select(seen[hook], where) for hook in self.standing.hooks}
        kept = self.of(*self.standing.in_run(here))
        is_codes = self.keeps_codes and kind == "value"
        return kept @ self.output_weights if is_codes else kept

    def is_linear(self, slot: str) -> bool:
        return self._read_place.is_linear(slot)

    def reads_in_place(self, slot: str) -> bool:
        return self.place.reads_in_place(slot)

    def start(self, batch: Batch, slot: str, nth: int) -> Tensor:
        return self._read_place.start(batch, slot, nth)

    @property
    def _read_place(self) -> ReadingPart:
        return self.standing.place

    def read(self, batch: Batch) -> Tensor:
        place, standing = self._read_place, self.standing
        if isinstance(place, Attn):
            z = place.read(batch)
            value = z if standing.is_z else z @ place.output_weights
            return self._made(value, lambda: standing.stands(value))
        stream = batch.stream(self.streams[0])
        return self._made(stream, lambda: standing.stands(place.apply(stream)))

    def in_run(self, run: Running, where: Where) -> Tensor:
        made = self.kept_in_run(run, where)
        return made @ self.output_weights if self.keeps_codes else made

    def kept_in_run(self, run: Running, where: Where) -> Tensor:
        """What is kept of it in a run."""
        stream = select(run.stream, where)
        return self._made(stream, lambda: self.standing.stands_in(run, where))

    def _made(self, stream: Tensor, stands: Callable[[], Tensor]) -> Tensor:
        """What is kept of it, where its place reads this stream and this stands there."""
        return self.of(self.standing.reads(stream, stands), stands)


class Latents(OfDictionary):
    """Some units of a dictionary, each its code times its row."""

    def __init__(self, standing: Standing, name: str, units: Ints) -> None:
        super().__init__(standing, name, units)
        numbers = torch.from_numpy(units).to(standing.own.rows.device)
        self.some = standing.own.only(numbers)
        self.rows = standing.written(self.some.rows).to(self.transformer.dtype)

    @property
    def title(self) -> str:
        assert self.units is not None  # it is some
        told = self.standing.own.told(self.units)
        return super().title if told is None else f"{self.basis}[{told}]"

    @property
    def output_weights(self) -> Tensor:
        return self.rows

    def of(self, x: Tensor, stands: Callable[[], Tensor]) -> Tensor:
        codes = in_pieces(self.some.codes, x).to(self.rows.dtype)
        return codes if self.keeps_codes else codes @ self.rows


class CrossLayer(Latents):
    """Some units of one layer of a cross-layer transcoder, which write at later layers too. Its
    value is their codes, from which what reads them takes what was written before it."""

    crosses = True

    def __init__(self, standing: Standing, name: str, units: Ints) -> None:
        super().__init__(standing, name, units)
        self.keeps_codes = True
        rows = torch.cat([self.rows[:, None], self.some.later.to(self.rows.dtype)], 1)
        self.writes = {place.block: rows[:, nth] for nth, place in enumerate(standing.places)}

    @property
    def writers(self) -> frozenset[str]:
        return frozenset[str]().union(*(place.writers for place in self.standing.places))

    @property
    def sum(self) -> str:
        return self.name  # of no sum with others: its codes are no term of the stream

    def common(self, other: Component) -> str:
        if isinstance(other, CrossLayer) and other.basis != self.basis:
            one, its = (part.standing.dictionary.part_of for part in (self, other))
            if one is not None and one == its:  # terms of one sum at every place
                return ""
        return super().common(other)

    def as_read_by(self, part: Part) -> CrossLayer:
        """Directly: what it wrote before a part reads the stream."""
        read = copy(self)
        before = (one.block for one in self.standing.places if one.stage < part.stage)
        read.rows = torch.stack([self.writes[block] for block in before]).sum(0)
        return read

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        return super().clean("z" if kind == "value" else kind, seen, where)

    def in_run(self, run: Running, where: Where) -> Tensor:
        return self.kept_in_run(run, where)

    def refusal(self, node: Node, dataset: Dataset) -> str | None:
        for option in ("subspace", "computed_by"):
            if getattr(node, option) is not None:
                return (
                    f"{self.name} writes at several layers, and {option}= says of one activation "
                    f"what it is; leave {option}= out"
                )
        if node.edited is not None:
            return (
                f"{self.name} writes at several layers, and an edit changes one activation by its "
                "vector; edit stream or mlp of a layer"
            )
        return None


def no_error(name: str, standing: Sequence[Standing]) -> str | None:
    """Why a network has no error of this name."""
    for one in standing:
        if one.own.crosses and name == f"{one.name}.error":
            return (
                f"{one.name} is a layer of a cross-layer transcoder, of which several leave "
                f"something of an MLP together, so it has no error; claim {one.place.name}"
            )
    return None


class Remainder(OfDictionary):
    """The error of a dictionary: what its units, and its bias, leave of its place."""

    def __init__(self, standing: Standing, name: str) -> None:
        # the number after the last unit, so that it is none of these
        super().__init__(standing, name, np.array([standing.own.units]))
        self.keeps_codes = False

    @property
    def output_weights(self) -> Tensor:
        raise NotImplementedError

    def of(self, x: Tensor, stands: Callable[[], Tensor]) -> Tensor:
        error = in_pieces(self.standing.own.error, x, stands())
        return self.standing.written(error).to(self.transformer.dtype)


def in_pieces(function: Callable[..., Tensor], *given: Tensor) -> Tensor:
    """A function of vectors, `[n, d]`, of some of `[..., d]` at a time, as all codes of many take
    much room. It gives something for each, in the same shape, or for all of them together."""
    shape = given[0].shape[:-1]
    flat = (tensor.reshape(-1, tensor.shape[-1]) for tensor in given)
    pieces = zip(*(torch.split(tensor, VECTORS_AT_ONCE) for tensor in flat), strict=True)
    together = torch.cat([function(*some) for some in pieces])
    if len(together) != shape.numel():
        return together
    return together.reshape(*shape, together.shape[-1])
