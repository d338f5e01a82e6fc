"""A network as it is: two states are equal where nothing that it computes with was changed, however
it was done."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from pytest_scrub.network.code import Spelled, spelled
from pytest_scrub.network.digests import bytes_of
from pytest_scrub.network.graph import ModelGraph


def described(graph: ModelGraph) -> Spelled | None:
    """Attributes, hooks and code, and the weights beside them; None where the code cannot be
    seen."""
    parts = graph.computing()
    if parts is None:
        return None
    hooks = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    return spelled((*parts, *(list(those.values()) for those in hooks)))


def state_of(graph: ModelGraph) -> str | None:
    """Hex digest of weights, buffers, attributes, hooks and code; None where the code cannot be
    seen.

    It means nothing in another process. The numbers of every weight are read once.
    """
    found = described(graph)
    if found is None:
        return None
    settings = (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled(),
    )
    total = hashlib.sha1(
        f"{found.digest} {settings}".encode(), usedforsecurity=False
    )  # the fastest that is good enough
    seen: dict[tuple[Any, ...], int] = {}  # tied weights are read once
    for tensor in found.weights:
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
