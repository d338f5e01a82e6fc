"""A network as it is: two states are equal where nothing that it computes with was changed, however
it was done."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from pytest_scrub.network.code import attributes_and_weights
from pytest_scrub.network.digests import bytes_of
from pytest_scrub.network.graph import ModelGraph


def state_of(graph: ModelGraph) -> str | None:
    """Hex digest of weights, buffers, attributes, hooks and code; None where the code cannot be
    seen.

    It means nothing in another process. The numbers of every weight are read once.
    """
    parts = graph.computing()
    if parts is None:
        return None
    hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    found = attributes_and_weights((*parts, *(list(those.values()) for those in hooks)))
    if found is None:
        return None
    attributes, weights = found
    settings = (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled(),
    )
    total = hashlib.sha1(
        f"{attributes} {settings}".encode(), usedforsecurity=False
    )  # the fastest that is good enough
    seen: dict[tuple[Any, ...], int] = {}  # tied weights are read once
    for tensor in weights:
        where = (
            (tensor.data_ptr(), tensor.shape, tensor.stride())
            if tensor.layout == torch.strided
            else (id(tensor),)
        )
        new = where not in seen
        nth = seen.setdefault(where, len(seen))
        total.update(f"{nth} {tensor.dtype} {tensor.shape} {tensor.device}".encode())
        if new:
            total.update(bytes_of(tensor, "weights").data)
    return total.hexdigest()
