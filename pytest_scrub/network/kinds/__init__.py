"""The kinds of component that a transformer has, one module each."""

from collections.abc import Iterator

from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.kinds.embedding import Embedding
from pytest_scrub.network.kinds.head import Head
from pytest_scrub.network.kinds.mask import Mask
from pytest_scrub.network.kinds.mlp import Mlp
from pytest_scrub.network.kinds.output import Output
from pytest_scrub.network.kinds.part import Part


def components_of(transformer: Transformer) -> Iterator[Part]:
    """Every component of a transformer, in order of computation."""
    yield Mask(transformer)
    yield Embedding(transformer, "embed")
    if transformer.has_pos_embed:
        yield Embedding(transformer, "pos_embed")
    for layer in range(len(transformer.attention)):
        yield from (Head(transformer, layer, head) for head in range(transformer.n_heads))
        if transformer.mlps:
            yield Mlp(transformer, layer)
    yield Output(transformer)
