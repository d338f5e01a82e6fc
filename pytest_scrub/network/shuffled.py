"""A network without what it learned: the same architecture, its weights shuffled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.network.graph import ModelGraph

# How many are drawn where a claim should not hold, shuffled networks among them, at least and at
# most. A claim that would hold on half of them passes seven in one case of 128. If any did as well
# as its own, that would be the best of twenty in one case of twenty.
FEWEST, MOST = 7, 19


def why_not_shuffled(graph: ModelGraph) -> str | None:
    """Why the numbers inside a network's weights cannot all be permuted; None where they can."""
    if not _learned(graph):
        return f"{graph.source} has no weights"
    if graph.packed():
        return f"{graph.source} has packed weights, which are not shuffled"
    if graph.fetched():
        return f"{graph.source} has weights that are not in memory, which are not shuffled"
    return None


@contextmanager
def shuffled(graph: ModelGraph, rng: np.random.Generator) -> Iterator[ModelGraph]:
    """While it lasts, the numbers inside each of the network's weights are permuted; then they are
    put back.

    In place and by the inverse permutations, since networks with hooks cannot always be copied, and
    large ones have no room for a copy. Nobody else may use the network meanwhile.

    **Yields** the graph of the shuffled network.
    """
    done: list[tuple[Tensor, dict[str, Any]]] = []
    try:
        for tensor in _learned(graph):
            done.append((tensor, deepcopy(dict(rng.bit_generator.state))))
            # Through .data the tensor's count of changes stays: after this it is what it was.
            tensor.data.copy_(permuted(tensor, rng))
        yield graph.rebuilt()
    finally:
        after = rng.bit_generator.state
        for tensor, before in reversed(done):  # of tied weights the last first
            rng.bit_generator.state = before
            original = torch.empty_like(tensor).flatten()
            original[_order(tensor, rng)] = tensor.flatten()
            tensor.data.copy_(original.view_as(tensor))
        rng.bit_generator.state = after


def permuted(tensor: Tensor, rng: np.random.Generator) -> Tensor:
    """The same numbers, each somewhere."""
    return tensor.flatten()[_order(tensor, rng)].view_as(tensor)


def _learned(graph: ModelGraph) -> list[Tensor]:
    found = (tensor.detach() for _, tensor in graph.weights())
    return [tensor for tensor in found if tensor.is_floating_point() and tensor.numel() > 1]


def _order(tensor: Tensor, rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.permutation(tensor.numel())).to(tensor.device)
