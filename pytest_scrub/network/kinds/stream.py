"""The residual stream before a layer, or after all of them: the sum of all that was added to it
until then, constants too."""

from __future__ import annotations

from torch import Tensor

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import FixedPositions, Site, Where, select
from pytest_scrub.network.kinds.part import Running, first_stage, stage_before
from pytest_scrub.network.kinds.reading import ReadingPart


class Stream(ReadingPart):
    """The stream before layer `layer`.

    **Arguments**

    - `before`: the parts that add to it.
    """

    single = is_drawn = False

    def __init__(self, transformer: Transformer, layer: int, before: frozenset[str]) -> None:
        name, last = f"stream{layer}", len(transformer.attention)
        super().__init__(transformer, name, in_words(layer, last))
        self.layer, self.stage, self.block = layer, stage_before(layer), name
        self.point = f"pre.{layer}" if layer < last else f"post.{last - 1}"
        self.hook, self.written_by = f"resid_{self.point}", before

    def site(self, positions: FixedPositions) -> Site:
        return Site("stream", (self.point,), positions)

    def apply(self, stream: Tensor) -> Tensor:
        return stream

    def in_run(self, run: Running, where: Where) -> Tensor:
        return select(run.stream, where)


class Between(Stream):
    """The stream between the attention and the MLP of a layer, where a dictionary stands there.

    **Arguments**

    - `before`: the parts that add to it.
    """

    def __init__(self, transformer: Transformer, layer: int, before: frozenset[str]) -> None:
        super().__init__(transformer, layer, before)
        self.name = self.block = f"mid{layer}"
        self.level = f"stream between attention and MLP {layer}"
        self.stage, self.point = first_stage(layer) + 1, f"mid.{layer}"
        self.hook = f"resid_{self.point}"


def in_words(layer: int, layers: int) -> str:
    """The stream before a layer of so many."""
    return f"stream before layer {layer}" if layer < layers else "stream after all layers"
