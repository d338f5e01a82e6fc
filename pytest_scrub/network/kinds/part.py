"""What the components of a transformer have in common."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Component, Edit, Inputs, Site, Where, select

MASK = "mask"
VISIBLE = Site("value", (MASK,))
INPUT_STAGE = 0  # of what is there before the first layer


def first_stage(layer: int) -> int:
    """That of a layer's attention; its MLP has the next one, where it reads what attention adds."""
    return 2 * layer + 1


class Part(Component):
    """A component of a transformer.

    - `adds`: whether the residual stream is a sum of such values.
    - `stage`: when it is computed. Parts of one stage read the same residual stream, and what they
      add to it is read by those of later ones.
    - `hook`: the network's own activation that its clean value is taken from.
    - `streams`: its slots that read the residual stream; `point`: where they read it.
    - `beside`: its slot that reads the mask, where it has one.
    """

    layer: int = 0
    adds = True
    divisible = True
    stage = INPUT_STAGE
    hook = ""
    streams: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    point = ""

    def __init__(self, transformer: Transformer, name: str, level: str) -> None:
        super().__init__(name, level)
        self.transformer, self.width = transformer, transformer.d_model if self.adds else None

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
        that are not to be told `apart` may come as one sum, under no name."""
        for part in parts:
            yield part.name, select(part.computed(stream, visible), where)

    @property
    def output_weights(self) -> Tensor:
        """What turns what is kept of it, where that is not its value, into its value."""
        raise NotImplementedError


def in_stages(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in order of computation, those of one stage together."""
    return (list(stage) for _, stage in groupby(parts, key=lambda part: part.stage))


def first_changed_layer(parts: Mapping[str, Part], edits: Iterable[Edit]) -> int:
    """The first layer that can see that something is replaced."""
    return min(parts[name].layer for edit in edits for name in edit.components)
