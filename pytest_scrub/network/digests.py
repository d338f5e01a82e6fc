"""Digests of weights, and whether they were changed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_scrub.data import unchanged
from pytest_scrub.errors import ModelError


def digest_of(parameters: Iterable[tuple[str, Tensor]], *extra: str) -> str:
    """Hex digest of named tensors, whatever their order, and of some text."""
    total = hashlib.blake2b("\0".join(extra).encode(), digest_size=16)
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(bytes_of(tensor, name).data)
    return total.hexdigest()


def bytes_of(tensor: Tensor, name: str) -> npt.NDArray[np.uint8]:
    """A tensor's numbers, of a dense one in memory without a copy. **Raises** `ModelError` where it
    has none."""
    if tensor.is_meta:
        raise ModelError(
            f"the weight {name or 'of the network'} is on the meta device, so it has no numbers; "
            "load it"
        )
    return unchanged.bytes_of(
        tensor if tensor.layout == torch.strided else tensor.detach().to_dense()
    )


Version = tuple[tuple[int, int], ...]


def version_of(parameters: Iterable[tuple[str, Tensor]]) -> Version:
    """Changes when torch notices that one of the tensors is changed in place or exchanged; costs
    next to nothing."""
    # Tensors made in inference mode cannot be changed and have no count of changes.
    return tuple(
        (
            tensor.data_ptr() if tensor.layout == torch.strided else id(tensor),
            0 if tensor.is_inference() else tensor._version,
        )
        for _, tensor in parameters
    )
