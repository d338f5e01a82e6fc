"""The kinds of component that a transformer has, one module each."""

from pytest_scrub.network.kinds.embedding import Embedding, PositionEmbedding
from pytest_scrub.network.kinds.head import Head
from pytest_scrub.network.kinds.mask import Mask
from pytest_scrub.network.kinds.mlp import Mlp
from pytest_scrub.network.kinds.output import Output
from pytest_scrub.network.kinds.part import Part

# Another kind is another line; of one stage, components are listed in this order.
KINDS: tuple[type[Part], ...] = (Mask, Embedding, PositionEmbedding, Head, Mlp, Output)
