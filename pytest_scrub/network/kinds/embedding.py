"""The embeddings of tokens and, learned, of positions: what the residual stream begins with."""

from __future__ import annotations

from collections.abc import Iterator

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.kinds.part import Part, Run


class Embedding(Part):
    """The token embedding."""

    hook = "embed"

    def __init__(self, transformer: Transformer) -> None:
        super().__init__(transformer, self.hook, "embeddings")

    @classmethod
    def all_of(cls, transformer: Transformer) -> Iterator[Embedding]:
        yield cls(transformer)

    def restart(self, run: Run) -> None:
        value = run.clean.take(self.site(None), run.carrier, None)
        settled = run.settled(self, value)
        run.stream, run.values[self.name] = run.stream + (settled - value), settled


class PositionEmbedding(Embedding):
    """The learned position embedding; rotary models have none."""

    hook = "pos_embed"

    @classmethod
    def all_of(cls, transformer: Transformer) -> Iterator[Embedding]:
        if transformer.has_pos_embed:
            yield cls(transformer)
