"""Objects for Ray's object store, with their large arrays and tensors as arrays that all processes
of a machine read in place.

Ray keeps arrays as they are, once for each machine, but turns a tensor into bytes that every
process copies.
"""

from __future__ import annotations

import io
import pickle
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from os.path import dirname, isabs
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ray import cloudpickle
from torch import TypedStorage

from pytest_scrub import ScrubError

# Smaller ones travel inside the pickle, so every process has a copy that may be written to:
# counters and running means of a network are of this kind, its weights are not.
LEAST_SHARED = 1 << 16
PACKAGE = __name__.partition(".")[0]
STANDARD = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib")}

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Packed:
    """A pickled object, and the arrays that it is a view of."""

    payload: bytes
    arrays: tuple[Bytes, ...]


def pack(
    value: Any,
    what: str,
    known: Mapping[str, Any] | None = None,
    parts: Mapping[str, Any] | None = None,
) -> Packed:
    """An object as bytes and arrays, with the code of modules that are not installed.

    **Arguments**

    - `what`: how errors call it.
    - `known`: objects that whoever unpacks it has already; only their names are packed.
    - `parts`: which of its parts may be to blame where it cannot be pickled, by how errors call
      them.

    **Raises** `ScrubError` where it cannot be pickled.
    """
    try:
        with _own_modules_by_value():
            return pack_data(value, known)
    except Exception as error:  # whatever an object's own __reduce__ raises
        for name, part in (parts or {}).items():
            pack(part, name, known)
        raise ScrubError(
            f"{what} cannot be sent to Ray's workers ({type(error).__name__}: {error}); let it "
            "hold no open files, locks or connections, or leave --scrub-ray out"
        ) from error


def pack_data(value: Any, known: Mapping[str, Any] | None = None) -> Packed:
    """An object without code of its own as bytes and arrays."""
    file = io.BytesIO()
    packer = _Packer(file, known or {})
    packer.dump(value)
    return Packed(file.getvalue(), tuple(packer.arrays))


def unpack(packed: Packed, known: Mapping[str, Any] | None = None) -> Any:
    """The object, whose large arrays and tensors are views of `packed.arrays`."""
    return _Unpacker(packed, known or {}).load()


class _Packer(cloudpickle.CloudPickler):  # type: ignore[misc]
    """Keeps large buffers in `arrays`; the other end has the `known` objects already."""

    def __init__(self, file: io.BytesIO, known: Mapping[str, Any]) -> None:
        super().__init__(file, protocol=5, buffer_callback=self._is_small)
        self.arrays: list[Bytes] = []
        self._names = {id(value): name for name, value in known.items() if value is not None}
        # pickle writes an array once only where it sees the same object again
        self._of_storage: dict[tuple[int, int], Bytes] = {}

    def _is_small(self, buffer: pickle.PickleBuffer) -> bool:
        array = np.frombuffer(buffer.raw(), dtype=np.uint8)
        if array.nbytes >= LEAST_SHARED:
            self.arrays.append(array)
        return array.nbytes < LEAST_SHARED

    def persistent_id(self, value: Any) -> str | None:
        return self._names.get(id(value))

    def reducer_override(self, value: Any) -> Any:
        """The numbers of a tensor as an array, so that views of one storage stay views; torch
        pickles the rest of it."""
        # untyped() is the same, with a warning that torch will do without this class
        storage = value._untyped_storage if isinstance(value, TypedStorage) else None
        if storage is None or storage.device.type != "cpu":
            return super().reducer_override(value)
        at = storage.data_ptr(), storage.nbytes()
        if at not in self._of_storage:
            self._of_storage[at] = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        return _storage, (self._of_storage[at], value.dtype)


def _storage(array: Bytes, dtype: torch.dtype) -> TypedStorage:
    with warnings.catch_warnings():
        # that arrays of Ray's cannot be written to, and that this class is torch's own
        warnings.simplefilter("ignore", UserWarning)
        return TypedStorage(  # type: ignore[no-untyped-call]
            wrap_storage=torch.from_numpy(array).untyped_storage(), dtype=dtype
        )


class _Unpacker(pickle.Unpickler):
    def __init__(self, packed: Packed, known: Mapping[str, Any]) -> None:
        super().__init__(io.BytesIO(packed.payload), buffers=packed.arrays)
        self._known = known

    def persistent_load(self, name: str) -> Any:
        return self._known[name]


@contextmanager
def _own_modules_by_value() -> Iterator[None]:
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
    if not isinstance(file, str) or getattr(module, "__name__", None) != name:
        return False
    return name.partition(".")[0] != PACKAGE and isabs(file) and not _is_installed(file)


@cache  # asked of every module whenever something is packed
def _is_installed(path: str) -> bool:
    """Whether it lies in the standard library, or where pip or another installer puts packages."""
    folder = dirname(path)
    if folder == path:
        return False
    return folder in STANDARD or any(Path(folder).glob("*.dist-info")) or _is_installed(folder)
