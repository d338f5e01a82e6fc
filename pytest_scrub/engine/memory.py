"""How much memory cached activations may take, and the files that hold what has no room."""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass, field
from functools import cache
from math import prod
from pathlib import Path
from typing import IO
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from pytest_scrub.errors import ModelError

Places = npt.NDArray[np.intp]

CACHED = 3 / 4  # of a limit may be held by activations; the rest is for what is computed from them
BATCH = 1 / 8  # of a limit may be taken by one batch
BATCH_BYTES = 1 << 29  # what the tensors of one batch may take together; more gains no speed
# of the memory that is free may be taken by one batch, where there is no limit
BATCH_OF_FREE = 1 / 16
STEP_BYTES = 1 << 22  # of a file are mapped at a time
FAULT_BYTES = 1 << 16  # are mapped around each byte that is read


def free_bytes(device: torch.device) -> int:
    """Bytes that can be had on a device; memory that only caches files counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


@dataclass(eq=False)
class Kept:
    """The activations of one site, in memory or in a file.

    - `values`: `[places, ...]`; places are the rows of different content.
    - `filled`: `[places]`, those that are there.
    - `shelved`: `[places]`, those that a shelf has.
    - `device`: where they are used.
    - `used`: when they were last needed.
    """

    values: Tensor
    filled: npt.NDArray[np.bool_]
    device: torch.device
    used: int = 0
    shelved: npt.NDArray[np.bool_] = field(init=False)
    _file: mmap.mmap | None = None

    def __post_init__(self) -> None:
        self.shelved = np.zeros_like(self.filled)

    @property
    def in_file(self) -> bool:
        """Whether they lie in a file."""
        return self._file is not None

    @property
    def bytes(self) -> int:
        """What all places take."""
        return self.values.numel() * self.values.element_size()

    @property
    def bytes_per_place(self) -> int:
        """What one place takes."""
        return self.bytes // max(1, len(self.values))

    def put(self, places: Places, values: Tensor) -> None:
        """Keep `values [len(places), ...]`."""
        for part in self._steps(len(places)):
            index = torch.from_numpy(places[part]).to(self.values.device)
            self.values[index] = values[part].to(self.values.device)
            self._unmap()
        self.filled[places] = True

    def gather(self, places: Tensor, where: Tensor | None = None) -> Tensor:
        """`[B, ...]` of int64 `[B]` places, at positions `[K]` or `[B, K]` where they are given."""
        if self._file is None:
            return self._read(places, where)
        places, where = places.cpu(), None if where is None else where.cpu()
        found: Tensor | None = None
        for part in self._steps(len(places)):
            read = self._read(
                places[part], where if where is None or where.ndim == 1 else where[part]
            )
            found = read.new_empty((len(places), *read.shape[1:])) if found is None else found
            found[part] = read
            self._unmap()
        return (self._read(places, where) if found is None else found).to(self.device)

    def _read(self, places: Tensor, where: Tensor | None) -> Tensor:
        return (
            self.values.index_select(0, places)
            if where is None
            else self.values[places[:, None], where]
        )

    def to_file(self, folder: Path | None) -> None:
        """Move the values to a file, which vanishes with them. **Raises** `OSError` where the disk
        has no room."""
        with tempfile.TemporaryFile(dir=folder, prefix="pytest-scrub-") as file:
            _reserve(file, self.bytes)
            mapped = mmap.mmap(file.fileno(), self.bytes)
        old, places = self.values, np.flatnonzero(self.filled)
        self.values = torch.frombuffer(mapped, dtype=old.dtype).view(old.shape)
        self._file = mapped
        for part in self._steps(len(places)):
            self.put(places[part], old[torch.from_numpy(places[part]).to(old.device)])

    def empty(self) -> None:
        """Forget all values."""
        self.values, self._file = self.values.new_empty((0, *self.values.shape[1:])), None
        self.filled[:] = self.shelved[:] = False

    def _steps(self, count: int) -> list[slice]:
        if self._file is None:
            return [slice(0, count)]
        step = max(1, STEP_BYTES // max(FAULT_BYTES, self.bytes_per_place))
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def _unmap(self) -> None:
        """What was read or written of a file stays on disk, and in the system's cache, but not in
        this process."""
        if self._file is not None and hasattr(self._file, "madvise"):
            self._file.madvise(mmap.MADV_DONTNEED)


def _reserve(file: IO[bytes], size: int) -> None:
    """A file with holes kills whoever fills them on a full disk. **Raises** `OSError` where there
    is no room."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, STEP_BYTES):
        file.write(bytes(min(STEP_BYTES, size - start)))
    file.flush()


class Memory:
    """What the cached activations of all stores that share it may take; those not needed for
    longest go to files first.

    **Arguments**

    - `limit`: bytes for activations and for one batch of what is computed from them; None is no
      limit.
    - `folder`: where files are made; by default where the system has temporary ones.
    """

    def __init__(self, limit: int | None = None, folder: Path | None = None) -> None:
        self.limit, self.folder = limit, folder
        # in the order in which they were made
        self._all: WeakValueDictionary[int, Kept] = WeakValueDictionary()
        self._now = self._made = 0

    @property
    def held(self) -> int:
        """Bytes of activations in memory."""
        return sum(kept.bytes for kept in list(self._all.values()) if not kept.in_file)

    def _idle(self, *, in_file: bool) -> list[Kept]:
        """What is not needed now and lies there, that which was not needed for longest first."""
        those = [
            kept for kept in list(self._all.values()) if kept.in_file is in_file and kept.bytes
        ]
        return sorted((kept for kept in those if kept.used < self._now), key=lambda kept: kept.used)

    def need(self, those: list[Kept]) -> None:
        """Note that these are needed now, together."""
        self._now += 1
        for kept in those:
            kept.used = self._now

    def new(self, places: int, like: Tensor) -> Kept:
        """Room for so many activations like those of `like [B, ...]`; what was not needed for
        longest makes way.

        **Raises** `ModelError` where neither memory nor disk has room.
        """
        shape = (places, *like.shape[1:])
        size = prod(shape) * like.element_size()
        filled = np.zeros(places, dtype=np.bool_)
        if self._makes_room(size):
            kept = Kept(like.new_empty(shape), filled, like.device, self._now)
        else:
            # Pages of an empty tensor take no memory before they are written.
            kept = Kept(torch.empty(shape, dtype=like.dtype), filled, like.device, self._now)
            self._to_file(kept)
        self._made += 1
        self._all[self._made] = kept
        return kept

    def _makes_room(self, size: int) -> bool:
        if self.limit is None:
            return True
        most = int(self.limit * CACHED)
        if size > most:
            return False
        movable = self._idle(in_file=False)
        needed = self.held - sum(kept.bytes for kept in movable)
        if size > most - needed:
            return False
        while self.held + size > most:
            self._to_file(movable.pop(0))
        return True

    def _to_file(self, kept: Kept) -> None:
        while True:
            try:
                return kept.to_file(self.folder)
            except OSError as error:
                others = self._idle(in_file=True)
                if not others:
                    raise ModelError(
                        f"activations of {kept.bytes / 2**30:.2g} GiB have no room in memory and "
                        f"could not be put into {self.folder or tempfile.gettempdir()} ({error}); "
                        "raise --scrub-memory, or let TMPDIR name a folder on a larger disk"
                    ) from None
                others[0].empty()

    def batch_bytes(self, device: torch.device) -> int:
        """What the tensors of one batch may take."""
        return min(BATCH_BYTES, _of_free(device) if self.limit is None else int(BATCH * self.limit))


@cache
def _of_free(device: torch.device) -> int:
    """What a batch may take of what was free when this was first asked; asking takes as long as a
    small batch."""
    return int(BATCH_OF_FREE * free_bytes(device))
