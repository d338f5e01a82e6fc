"""Digests of weights, and whether they were changed."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_scrub.data import unchanged
from pytest_scrub.errors import ModelError
from pytest_scrub.network.placement import Fetch


def digest_of(
    parameters: Iterable[tuple[str, Tensor]],
    *extra: str,
    fetched: Mapping[int, Fetch] | None = None,
) -> str:
    """Hex digest of named tensors, whatever their order, and of some text.

    **Arguments**

    - `fetched`: what gets the numbers of tensors that are not in memory, by their ids.
    """
    total = hashlib.blake2b("\0".join(extra).encode(), digest_size=16)
    for name, tensor in sorted(parameters, key=lambda item: item[0]):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        total.update(bytes_of(loaded(tensor, fetched), name).data)
    return total.hexdigest()


def loaded(tensor: Tensor, fetched: Mapping[int, Fetch] | None) -> Tensor:
    """The tensor with its numbers, where something gets them."""
    fetch = (fetched or {}).get(id(tensor))
    return tensor if fetch is None else fetch()


def bytes_of(tensor: Tensor, name: str) -> npt.NDArray[np.uint8]:
    """A tensor's numbers, of a dense one in memory without a copy. **Raises** `ModelError` where it
    has none."""
    if tensor.is_meta:
        raise ModelError(
            f"the weight {name or 'of the network'} is on the meta device, so it has no numbers; "
            "load it"
        )
    if hasattr(tensor, "__tensor_flatten__"):  # made of others, packed or in shards
        inner, context = tensor.__tensor_flatten__()
        parts = [bytes_of(getattr(tensor, part), name) for part in inner]
        return np.concatenate([*parts, np.frombuffer(repr(context).encode(), np.uint8)])
    return unchanged.bytes_of(
        tensor if tensor.layout == torch.strided else tensor.detach().to_dense()
    )


def address_of(tensor: Tensor) -> tuple[Hashable, ...]:
    """Where a tensor's numbers are, the same for tied weights; what has no place in memory is only
    itself."""
    place = tensor.data_ptr() if tensor.layout == torch.strided else 0
    return (place, tensor.shape, tensor.stride()) if place else (id(tensor),)


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
