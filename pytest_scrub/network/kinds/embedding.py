"""The embeddings of tokens and, learned, of positions: what the residual stream begins with."""

from __future__ import annotations

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.kinds.part import Part


class Embedding(Part):
    """The token embedding, or the learned position embedding, which rotary models do not have."""

    def __init__(self, transformer: Transformer, name: str) -> None:
        super().__init__(transformer, name, "embeddings")
        self.hook = name
