"""A network without what it learned: the same architecture, its weights shuffled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from pytest_scrub.network.graph import ModelGraph


@contextmanager
def shuffled(graph: ModelGraph, rng: np.random.Generator) -> Iterator[ModelGraph | None]:
    """While it lasts, the numbers inside each of the network's weights are permuted; then they are
    put back.

    In place, because networks with hooks cannot always be copied. Nobody else may use the network
    meanwhile.

    **Yields** the graph of the shuffled network, or None where it has no weights.
    """
    weights = [
        tensor for _, tensor in graph.weights() if tensor.is_floating_point() and tensor.numel() > 1
    ]
    if not weights:
        yield None
        return
    originals = [tensor.detach().clone() for tensor in weights]
    try:
        for tensor, original in zip(weights, originals, strict=True):
            order = torch.from_numpy(rng.permutation(original.numel())).to(original.device)
            # Through .data the tensor's count of changes stays: after this it is what it was.
            tensor.data.copy_(original.flatten()[order].view_as(original))
        yield graph.rebuilt()
    finally:
        for tensor, original in zip(weights, originals, strict=True):
            tensor.data.copy_(original)
