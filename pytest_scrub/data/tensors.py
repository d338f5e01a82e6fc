"""Inputs and labels as tensors: what may be given, and what it is identified by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_scrub.data.names import LABELS, TOKENS
from pytest_scrub.data.unchanged import bytes_of
from pytest_scrub.errors import DataError, hides_scrub_errors

if TYPE_CHECKING:
    from torch import Tensor

__tracebackhide__ = hides_scrub_errors


def input_text(name: str) -> str:
    """How errors call an input."""
    return f"input {name!r}"


def feature_text(name: str) -> str:
    """How errors call a feature."""
    return f"feature {name!r}"


def require_names(what: str, names: Iterable[Any]) -> None:
    """**Raises** `DataError` where a name is no string."""
    for name in names:
        if not isinstance(name, str):
            raise DataError(
                f"{what} the name {name!r}, of type {type(name).__name__}; names are strings"
            )


def _tensor(what: str, value: Any) -> Tensor:
    import torch

    if np.ma.is_masked(value):
        raise DataError(
            f"{what} has masked values, of which there is nothing to read; fill them or leave the "
            "rows out"
        )
    try:
        # arrays are copied: they may be read-only, which torch does not know
        is_array = hasattr(value, "__array__") and not isinstance(value, torch.Tensor)
        tensor = torch.as_tensor(np.array(value) if is_array else value).detach()
    except (TypeError, ValueError, RuntimeError, RecursionError) as error:
        raise DataError(
            f"{what} is no tensor ({error}); give numbers, in rows of one length"
        ) from None  # the sentence has what it says
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        kind = f"{tensor.dtype} {tensor.layout}".replace("torch.", "")
        raise DataError(
            f"{what} is a tensor whose numbers cannot be read row by row ({kind}); give a dense one"
        )
    if tensor.ndim == 0:
        raise DataError(f"{what} is a single number; its first dimension has to be the rows")
    return tensor.resolve_conj().resolve_neg()


def _with_numbers(what: str, tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        raise DataError(f"{what} is on the device meta, which keeps no numbers; load it on another")
    return tensor


def named_inputs(inputs: Any) -> dict[str, Any]:
    """What was given as inputs, by name: something that has none is the tokens."""
    named = dict(inputs) if isinstance(inputs, Mapping) else {TOKENS: inputs}
    require_names("the inputs have", named)
    return named


def input_tensors(named: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inputs as tensors with as many rows each, at least one, on one device."""
    tensors = {name: _tensor(input_text(name), value) for name, value in named.items()}
    sizes = ", ".join(f"{name} {len(tensor)}" for name, tensor in tensors.items())
    if len({len(tensor) for tensor in tensors.values()}) > 1:
        raise DataError(
            f"the inputs differ in their number of rows ({sizes}); give as many of each"
        )
    if not any(map(len, tensors.values())):
        raise DataError("the dataset has no rows; give at least one")
    devices = sorted({str(tensor.device) for tensor in tensors.values()})
    if len(devices) > 1:
        raise DataError(
            f"the inputs are on several devices ({', '.join(devices)}); move them to one"
        )
    return {name: _with_numbers(input_text(name), tensor) for name, tensor in tensors.items()}


def label_tensor(labels: Any, rows: int, device: Any) -> Tensor:
    """Labels as int64 or floats, one for each row."""
    tensor = _with_numbers(LABELS, _tensor(LABELS, labels)).to(device)
    if len(tensor) != rows:
        raise DataError(f"there are {len(tensor)} labels for {rows} rows; give one per row")
    if tensor.is_complex():
        raise DataError(
            "labels= are complex numbers, which no metric compares; give integers or floats"
        )
    return tensor if tensor.is_floating_point() else tensor.long()


def joined(old: dict[str, Tensor], fresh: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old rows and fresh ones of the same names, types and row shapes."""
    import torch

    has, needs = (
        ", ".join(f"{name} {t.dtype} {['rows', *t.shape[1:]]}" for name, t in sorted(some.items()))
        for some in (fresh, old)
    )
    if has != needs:
        raise DataError(
            f"extend() got {has}, but the dataset has {needs or 'none'}; make names, types and "
            "shapes fit"
        )
    return {name: torch.cat([tensor, fresh[name]]) for name, tensor in old.items()}


def hash_of(*named: Mapping[str, Tensor]) -> str:
    """Hex digest of named tensors, with their types and shapes."""
    # 128 bits: no two rows of any real dataset collide
    digest = blake2b(digest_size=16)
    for name, tensor in (item for tensors in named for item in sorted(tensors.items())):
        digest.update(repr((name, str(tensor.dtype), tuple(tensor.shape))).encode())
        digest.update(bytes_of(tensor).data)
    return digest.hexdigest()
