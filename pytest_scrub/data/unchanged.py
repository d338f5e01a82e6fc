"""Noticing that data were changed after a dataset was made of them: one number for what a value
holds."""

from __future__ import annotations

import io
import pickle
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def bytes_of(tensor: Tensor) -> NDArray[np.uint8]:
    """All of a tensor's bytes, row by row; of one that is laid out so in this machine's memory it
    is a view."""
    import torch

    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    # A lone number may keep the stride of what it was taken from, with which it has no bytes for
    # torch.
    return flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy()


def mark_of(value: Any) -> int:
    """Another number once a tensor, an array, or what nested lists hold, is another; costs one fast
    read."""
    if hasattr(value, "detach"):
        return crc32(bytes_of(value).data, crc32(repr((value.dtype, tuple(value.shape))).encode()))
    array = np.asanyarray(value) if hasattr(value, "__array__") else None
    if array is not None and array.dtype != object:
        return crc32(array.tobytes(), crc32(repr((array.dtype, array.shape)).encode()))
    parts = [
        part.tolist() if hasattr(part, "tolist") else part
        for part in (value if array is None else array)
    ]
    file = io.BytesIO()
    pickler = pickle.Pickler(file, protocol=pickle.HIGHEST_PROTOCOL)
    # without notes of which equal parts are one object: only what they hold counts
    pickler.fast = True
    pickler.dump(parts)
    return crc32(file.getbuffer())


def still_is(value: Any, mark: int | None) -> bool:
    """Whether a value has this mark. What lost its numbers, with .to("meta"), cannot be run on, so
    it counts as what it was."""
    try:
        return getattr(value, "is_meta", False) or mark_of(value) == mark
    # what it holds now is no data
    except (TypeError, ValueError, AttributeError, RuntimeError, pickle.PicklingError):
        return False
