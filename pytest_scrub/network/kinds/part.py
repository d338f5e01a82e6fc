"""What the components of a transformer have in common, and a run of some of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import Clean, Component, Edit, Site, Where, at_rows, blend, select
from pytest_scrub.network.precision import widened

MASK = "mask"
VISIBLE = Site("value", (MASK,))
BELOW = 0  # the stage of what is there before the first layer


def first_stage(layer: int) -> int:
    """That of a layer's attention; its MLP has the next one, where it reads what attention adds."""
    return 2 * layer + 1


class Part(Component):
    """A component of a transformer.

    - `stage`: when it is computed. Parts of one stage read the same residual stream, and what they
      add to it is read by those of later ones.
    - `hook`: the network's own activation that its clean value is taken from.
    - `streams`: its slots that read the residual stream; `point`: where they read it.
    - `beside`: its slots that read something else, each named after that.
    - `writes`: whether the residual stream is a sum of such values.
    - `constant`: what is added to the stream beside its value, whatever it reads.
    """

    layer: int = 0
    adds = True
    divisible = True
    stage = BELOW
    hook = ""
    streams: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    point = ""
    writes = True
    constant: Tensor | None = None

    def __init__(self, transformer: Transformer, name: str, level: str) -> None:
        super().__init__(name, level)
        self.transformer, self.width = transformer, transformer.d_model

    @classmethod
    @abstractmethod
    def all_of(cls, transformer: Transformer) -> Iterator[Part]:
        """Those that a transformer has."""

    def slots(self, child: Part, anywhere: bool) -> tuple[str, ...]:
        return child.ways_into(self, anywhere) if child.stage < self.stage else ()

    def ways_into(self, parent: Part, anywhere: bool) -> tuple[str, ...]:
        """The slots of a later component through which it is read."""
        return parent.streams

    def exchanges(self, slot: str) -> bool:
        return slot in self.streams

    def reads_in_place(self, slot: str) -> bool:
        return True

    def hooks(self, kind: str) -> set[str]:
        """The network's own activations that what a site of this kind keeps of it is taken from."""
        return {self.hook}

    def clean(self, kind: str, seen: Mapping[str, Tensor], where: Where) -> Tensor:
        """What a site of this kind keeps of it, from its hooks and the network's inputs."""
        return select(seen[self.hook], where)

    def computed(self, stream: Tensor, visible: Tensor) -> Tensor:
        """Its value from the stream that it reads at all positions, `[B, P, d_model]`, and the
        visible keys `[B, P]`."""
        raise NotImplementedError

    def restart(self, run: Run) -> None:
        """Put what replaces it, which is there before the first layer, into a run."""
        raise NotImplementedError

    @property
    def output_weights(self) -> Tensor:
        """What turns what is kept of it, where that is not its value, into its value."""
        raise NotImplementedError


def in_stages(parts: Iterable[Part]) -> Iterator[list[Part]]:
    """Parts in order of computation, those of one stage together."""
    return (list(alike) for _, alike in groupby(parts, key=lambda part: part.stage))


def first_changed_layer(parts: Mapping[str, Part], edits: Iterable[Edit]) -> int:
    """The first layer that can see that something is replaced."""
    return min(parts[name].layer for edit in edits for name in edit.components)


class Run:
    """The layers below `stop` computed anew on the carriers, from the first that can see that some
    components are replaced.

    - `stream`: what the parts of a stage read, in the end what `stop` does, `[B, P, d_model]`.
    - `visible`: the keys that attention sees, `[B, P]`.
    - `values`: the run's own values of what is edited or `wanted`, as far as it computes them.
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        stop: Part,
        clean: Clean,
        carrier: Tensor,
        edits: Sequence[tuple[Edit, Tensor]],
    ) -> None:
        self.stop, self.clean, self.carrier, self.edits = stop, clean, carrier, edits
        self.first = first_changed_layer(parts, (edit for edit, _ in edits))
        self.stream = clean.take(Site("stream", (f"pre.{self.first}",)), carrier, None)
        self.visible = clean.take(VISIBLE, carrier, None)
        self.values: dict[str, Tensor] = {}
        for name in dict.fromkeys(name for edit, _ in edits for name in edit.components):
            if parts[name].stage == BELOW:
                parts[name].restart(self)

    def through(self, parts: Iterable[Part], wanted: set[str]) -> None:
        """Compute all that lies before the end; keep the values of `wanted`."""
        stages = (first_stage(self.first), self.stop.stage)
        above = (part for part in parts if stages[0] <= part.stage < stages[1] and part.writes)
        for alike in in_stages(above):
            after = widened(self.stream)
            for part in alike:
                if part.constant is not None:
                    after = after + part.constant
                value = self.settled(part, part.computed(self.stream, self.visible))
                after = after + value
                if part.name in wanted:
                    self.values[part.name] = value
            self.stream = after.to(self.stream.dtype)

    def edits_of(self, part: Part) -> list[tuple[Edit, Tensor]]:
        return [(edit, new) for edit, new in self.edits if part.name in edit.components]

    def settled(self, part: Part, value: Tensor) -> Tensor:
        """Its value in this run, replaced where it is edited."""
        for edit, new in self.edits_of(part):
            value = blend(value, new, at_rows(edit.at, self.carrier), edit.subspace)
        return value
