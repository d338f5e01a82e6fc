"""Digests of weights, and whether they were changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def digest_of(parameters: Iterable[tuple[str, Tensor]], *extra: str) -> str:
    """Hex digest of named tensors, whatever their order, and of some text."""
    total = hashlib.blake2b("\0".join(extra).encode(), digest_size=16)
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


Version = tuple[tuple[int, int], ...]


def version_of(parameters: Iterable[tuple[str, Tensor]]) -> Version:
    """Changes whenever one of the tensors is changed in place or exchanged; costs next to nothing."""
    # torch counts changes in place; tensors made in inference mode cannot be changed and have no count.
    return tuple((tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version) for _, tensor in parameters)
