"""Objects for Ray's object store: what is large in them is an array, which all processes of a
machine read in place.

Ray keeps arrays as they are, once for each machine, but turns a tensor into bytes that every
process copies.
"""

from __future__ import annotations

import io
import pickle
import sys
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from os.path import isabs
from pathlib import Path, PurePath
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from ray import cloudpickle
from torch import Tensor, nn

from pytest_scrub import ScrubError

# Smaller ones travel inside the pickle, so every process has a copy that may be written to:
# counters and running means of a network are of this kind, its weights are not.
LEAST_SHARED = 1 << 16
PROTOCOL = 5  # that in which arrays stay outside
PACKAGE = __name__.partition(".")[0]
STANDARD = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}

Bytes = npt.NDArray[np.uint8]
IsSmall = Callable[[pickle.PickleBuffer], bool]


@dataclass(frozen=True)
class Packed:
    """A pickled object, and the arrays that it is a view of."""

    payload: bytes
    arrays: tuple[Bytes, ...]

    @property
    def nbytes(self) -> int:
        """What it takes."""
        return len(self.payload) + sum(array.nbytes for array in self.arrays)


def pack(
    value: Any,
    what: str,
    known: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Packed:
    """An object as bytes and arrays. Code that is not installed, such as that of tests, is taken
    along.

    **Arguments**

    - `what`: how errors call it.
    - `known`: objects that whoever unpacks it has already; only their names are packed.
    - `parts`: what of it may be to blame where it cannot be pickled, by what errors call it.

    **Raises** `ScrubError` where it cannot be pickled.
    """
    try:
        with _code_taken_along():
            return pack_data(value, known)
    except Exception as error:  # whatever an object's own __reduce__ raises
        for name, part in (parts or {}).items():
            pack(part, name, known)
        raise ScrubError(
            f"{what} cannot be sent to Ray's workers ({type(error).__name__}: {error}); let it "
            "hold no open files, locks or connections, or leave --scrub-ray out"
        ) from error


def pack_data(value: Any, known: Mapping[str, Any] | None = None) -> Packed:
    """The same for an object that nobody wrote code for."""
    arrays: list[Bytes] = []

    def is_small(buffer: pickle.PickleBuffer) -> bool:
        array = np.frombuffer(buffer.raw(), dtype=np.uint8)
        if array.nbytes >= LEAST_SHARED:
            arrays.append(array)
        return array.nbytes < LEAST_SHARED

    file = io.BytesIO()
    _Packer(file, is_small, known or {}).dump(value)
    return Packed(file.getvalue(), tuple(arrays))


def unpack(packed: Packed, known: Mapping[str, Any] | None = None) -> Any:
    """The object, whose large arrays and tensors are views of `packed.arrays`."""
    return _Unpacker(packed, known or {}).load()


class _Packer(cloudpickle.CloudPickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, is_small: IsSmall, known: Mapping[str, Any]) -> None:
        super().__init__(file, protocol=PROTOCOL, buffer_callback=is_small)
        self._names = {id(value): name for name, value in known.items() if value is not None}
        self._storages: dict[int, Bytes] = {}  # one object for each, so that pickle knows it again

    def persistent_id(self, value: Any) -> str | None:
        return self._names.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        if type(value) in (Tensor, nn.Parameter) and _is_plain(value):
            return _as_tensor, self._reduced(value)
        return super().reducer_override(value)

    def _reduced(self, tensor: Tensor) -> tuple[Any, ...]:
        """Views of one storage stay views of one array."""
        storage = tensor.untyped_storage()
        at = storage.data_ptr()
        if at not in self._storages:
            self._storages[at] = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        view = _View(
            tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())
        )
        return (
            self._storages[at],
            view,
            tensor.requires_grad,
            isinstance(tensor, nn.Parameter),
            dict(tensor.__dict__),
        )


class _Unpacker(pickle.Unpickler):
    def __init__(self, packed: Packed, known: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(packed.payload), buffers=packed.arrays)
        self._known = known

    def persistent_load(self, name: str) -> Any:
        return self._known[name]


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is numbers in memory and nothing else; torch knows how to pickle the
    others."""
    strided = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return strided and not (tensor.is_conj() or tensor.is_neg() or tensor.is_quantized)


class _View(NamedTuple):
    """How a tensor lies in its storage; offset and strides count numbers."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int


def _as_tensor(
    array: Bytes, view: _View, requires_grad: bool, is_parameter: bool, attributes: dict[str, Any]
) -> Tensor:
    if array.nbytes:
        with warnings.catch_warnings():  # nobody writes to weights and activations
            warnings.filterwarnings("ignore", "The given buffer is not writable", UserWarning)
            tensor = torch.frombuffer(array, dtype=view.dtype).as_strided(
                view.shape, view.stride, view.offset
            )
    else:
        tensor = torch.empty(view.shape, dtype=view.dtype)
    tensor = (
        nn.Parameter(tensor, requires_grad)
        if is_parameter
        else tensor.requires_grad_(requires_grad)
    )
    tensor.__dict__.update(attributes)
    return tensor


@contextmanager
def _code_taken_along() -> Iterator[None]:
    """While it lasts, functions and classes of modules that no other machine has are pickled with
    their code."""
    before = cloudpickle.list_registry_pickle_by_value()
    own = [
        module
        for name, module in list(sys.modules.items())
        if name not in before and _is_own(name, module)
    ]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(name: str, module: ModuleType) -> bool:
    """Whether a module was not installed: a test, a conftest.py, a script."""
    file = getattr(module, "__file__", None)
    if (
        not isinstance(file, str)
        or getattr(module, "__name__", None) != name
        or name.partition(".")[0] == PACKAGE
    ):
        return False
    return isabs(file) and not _is_installed(file)


@cache  # there are thousands, and each is asked for again whenever something is packed
def _is_installed(file: str) -> bool:
    folders = PurePath(file).parents
    return any(PurePath(root) in folders for root in STANDARD) or any(
        map(_has_distributions, folders)
    )


@cache
def _has_distributions(folder: PurePath) -> bool:
    """Whether pip, or another installer, has put packages there."""
    return any(Path(folder).glob("*.dist-info"))
