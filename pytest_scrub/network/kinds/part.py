"""What the components of a transformer have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from types import MappingProxyType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Component, Edit, Inputs, Site, Where, select
from pytest_scrub.network.precision import widened

if TYPE_CHECKING:
    from pytest_scrub.network.parts import Norm

MASK, PATTERN = "mask", "pattern"
VISIBLE = Site("value", (MASK,))
INPUT_STAGE = -1  # of what is there before the first layer


def stage_before(layer: int) -> int:
    """That of the residual stream before a layer."""
    return 4 * layer


def first_stage(layer: int) -> int:
    """That of a layer's attention; where its MLP reads what attention adds, the stream between them
    has the next one, and the MLP the one after it."""
    return stage_before(layer) + 1


class Running(Protocol):
    """A run of some layers, as far as it came: a `Rerun`.

    - `values`: of parts whose values in it are asked for; `sums`: of blocks, with what is replaced.
    - `stream`: what the parts of the present stage read; `visible`: the keys that attention sees.
    """

    values: dict[str, Tensor]
    sums: dict[str, Tensor]
    stream: Tensor
    visible: Tensor


class Part(Component):
    """A component of a transformer.

    - `adds`: whether the residual stream is a sum of such values.
    - `stage`: when it is computed. Parts of one stage read the same residual stream, and what they
      add to it is read by those of later ones.
    - `hook`: the network's own activation that its clean value is taken from.
    - `after`: what its block does to the sum of its parts before it is added; None where they are
      added as they are. `block`: the network's own activation that is that sum.
    - `streams`: its slots that read the residual stream; `point`: where they read it.
    - `beside`: its slot that reads the mask, where it has one.
    - `single`: whether it is one of the parts that a block is the sum of, or stands alone; else
      its value is made of those of others.
    - `members`: the parts whose values it is made of in a run; `follows`: the block of whose sum
      it is made there.
    - `writes`: of what `crosses` layers, whose value is what its rows at each are multiplied with,
      these rows, by block.
    """

    layer: int = 0
    adds = True
    divisible = True
    stage = INPUT_STAGE
    hook = ""
    block = ""
    after: Norm | None = None
    streams: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    point = ""
    single = True
    members: tuple[Part, ...] = ()
    follows = ""
    writes: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, transformer: Transformer, name: str, level: str) -> None:
        super().__init__(name, level)
        self.transformer, self.width = transformer, transformer.d_model if self.adds else None

    @property
    def sum(self) -> str:
        return "" if self.after is None else self.block

    @property
    def constant(self) -> Tensor | float:
        """What is added to the stream beside its value, whatever it reads, `[d_model]`."""
        return 0.0

    def slots(self, child: Part, anywhere: bool) -> tuple[str, ...]:
        return child.ways_into(self, anywhere) if child.stage < self.stage else ()

    def ways_into(self, parent: Part, anywhere: bool) -> tuple[str, ...]:
        """The slots of a later component through which it is read."""
        return parent.streams

    def exchanges(self, slot: str) -> bool:
        return slot in self.streams

    def reads_in_place(self, slot: str) -> bool:
        return True

    def hook_of(self, kind: str) -> str:
        """The network's own activation that what a site of this kind keeps of it is taken from;
        empty where it is not taken from one."""
        return f"resid_{self.point}" if kind in self.streams else self.hook

    def hooks_of(self, kind: str) -> Sequence[str]:
        """All that `clean` looks at of a run."""
        return (self.hook_of(kind),)

    def in_run(self, run: Running, where: Where) -> Tensor:
        """Where it is not `single`, its value at `where` in a run before anything is put in its
        place: from the values of its members there, or from what its block reads."""
        raise NotImplementedError

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        """What a site of this kind keeps of it, from its hook and the network's inputs."""
        return select(seen[self.hook_of(kind)], where)

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        """Its value from the stream that it reads at all positions, `[B, P, d_model]`, and the
        visible keys `[B, P]`."""
        raise NotImplementedError

    def together(
        self,
        parts: Sequence[Part],
        apart: Collection[str],
        stream: Tensor,
        visible: Tensor,
        where: Where,
    ) -> Iterator[tuple[str, Tensor]]:
        """The values at `where` of parts of this kind that read the same stream, by name; those
        that are not to be told `apart` may come as one sum, under no name.

        Position by position, where a kind does not say otherwise.
        """
        here = select(stream, where)
        for part in parts:
            yield part.name, part.computed(here, visible)

    def as_read_by(self, part: Part) -> Part:
        """This part as what a later one reads directly."""
        return self

    @property
    def output_weights(self) -> Tensor:
        """What turns what is kept of it, where that is not its value, into its value."""
        raise NotImplementedError


def in_stages(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in order of computation, those of one stage together."""
    return (list(stage) for _, stage in groupby(parts, key=lambda part: part.stage))


def in_blocks(stage: Iterable[Part]) -> Iterator[list[Part]]:
    """Those of a stage that add to the residual stream, those of one block together."""
    adding = (part for part in stage if part.adds)
    return (list(block) for _, block in groupby(adding, key=lambda part: part.block))


def total(block: Sequence[Part], values: Iterable[Tensor]) -> Tensor:
    """The sum of a block's parts, whose values these are, with what belongs to none of them."""
    first, *others = map(widened, values)
    return sum(others, first) + sum(part.constant for part in block)


def added(part: Part, summed: Tensor, dtype: torch.dtype) -> Tensor:
    """What the block of a part adds to the stream, from the sum of its parts."""
    if part.after is None:
        return summed
    return widened(part.after(summed.to(dtype)).to(summed.device))


def stream_before(parts: Mapping[str, Part], layer: int) -> Site:
    """Where the stream before a layer is kept, or that after all of them."""
    return parts[f"stream{layer}"].site(None)


def first_changed_layer(parts: Mapping[str, Part], edits: Iterable[Edit]) -> int:
    """The first layer that can see that something is replaced."""
    return min(parts[name].layer for edit in edits for name in edit.components)
