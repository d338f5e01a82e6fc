"""Others who take work off an evaluator: the seam to machines beside this one. Who they are is not
known here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_scrub.engine.evaluator import Evaluator
    from pytest_scrub.engine.store import ActivationStore
    from pytest_scrub.network.graph import Site
    from pytest_scrub.swaps.swap_set import Rows, SwapSet

# References in one piece of work. The last digits of a figure depend on what is computed together,
# so a piece has one size, however many there are to do them. Handing one over costs about two
# milliseconds: a few hundred sums of cached activations take longer, and so does a handful of
# reruns of a network.
SHARD = 256
SHARD_OF_RERUNS = 32


class Crew(Protocol):
    """Does pieces of work in any order, and gives what they came to in the order of the pieces.

    What a piece raises here it raises there: `ScrubError`s of the network, the data and the claim
    reach the caller as themselves.
    """

    def scrubbed(
        self, evaluator: Evaluator, shards: Sequence[SwapSet]
    ) -> Iterator[npt.NDArray[np.float64]]:
        """The scrubbed metric of the references of each shard; the store has their clean
        activations."""
        ...

    def unscrubbed(
        self, evaluator: Evaluator, shards: Sequence[Rows]
    ) -> Iterator[npt.NDArray[np.float64]]:
        """The clean metric of the references of each shard; the store has their clean
        activations."""
        ...

    def captured(
        self, store: ActivationStore, batches: Sequence[tuple[Sequence[Site], npt.NDArray[np.intp]]]
    ) -> Iterator[dict[Site, Tensor]]:
        """The clean activations of each batch: these sites at these places of the store."""
        ...
