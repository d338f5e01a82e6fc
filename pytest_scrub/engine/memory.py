"""How much memory clean activations may take, and the files that hold what has no room."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from pathlib import Path
from typing import BinaryIO
from weakref import WeakSet, finalize

import numpy as np
import numpy.typing as npt
import psutil
import torch
from torch import Tensor

from pytest_scrub.errors import ModelError
from pytest_scrub.swaps.swap_set import Mask

Places = npt.NDArray[np.intp]

# Share of a limit for activations; the rest is for what is computed from them.
CACHED = 3 / 4
# Share of a limit for one batch, and of the free memory where there is no limit.
BATCH, BATCH_OF_FREE = 1 / 8, 1 / 16
# What the tensors of one batch may take together; more gains no speed.
BATCH_BYTES = 1 << 29
# What makes a claim smaller.
SMALLER = "name positions with pos=, claim fewer nodes, or take fewer rows"
# Zeros written at once where the system cannot reserve space for a file.
ZEROS = 1 << 22


def free_bytes(device: torch.device) -> int:
    """Bytes that can be had on a device; memory that only caches files counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


@dataclass(eq=False)
class CachedSite:
    """The activations of one site, in memory or in a file.

    - `values`: `[places, ...]`; places are the rows of different content. On torch's meta device,
      where they lie in a file.
    - `filled`: `[places]`, those that are there.
    - `on_disk`: `[places]`, those that the disk cache has.
    - `device`: where they are used.
    - `used`: when they were last needed.
    """

    values: Tensor
    filled: Mask
    device: torch.device
    used: int = 0
    on_disk: Mask = field(init=False)
    _file: BinaryIO | None = None

    def __post_init__(self) -> None:
        self.on_disk = np.zeros_like(self.filled)

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
        if self._file is None:
            self.values[places] = values.to(self.values.device)
        else:
            for place, record in zip(places.tolist(), _records(values.cpu()), strict=True):
                self._file.seek(place * len(record))
                self._file.write(record)
        self.filled[places] = True

    def gather(self, places: Tensor, where: Tensor | None = None) -> Tensor:
        """`[B, ...]` of int64 `[B]` places, at positions `[K]` or `[B, K]` where they are given;
        absent ones (-1) repeat position 0 and mean nothing. Places `[B, K]` give one of them
        each."""
        if where is not None:
            where = where.clamp(min=0)
        if self._file is not None:
            return self._read(self._file, places, where).to(self.device)
        if where is None:
            return self.values.index_select(0, places)
        return self.values[places if places.ndim > 1 else places[:, None], where]

    def _read(self, file: BinaryIO, places: Tensor, where: Tensor | None) -> Tensor:
        index, (_, *shape) = places.cpu(), self.values.shape
        if where is not None:
            positions, *shape = shape
            index = (index if index.ndim > 1 else index[:, None]) * positions + where.cpu()
        found = torch.empty((index.numel(), *shape), dtype=self.values.dtype)
        for number, record in zip(index.flatten().tolist(), _records(found), strict=True):
            file.seek(number * len(record))
            file.readinto(record)  # type: ignore[attr-defined]
        return found.view(*index.shape, *shape)

    def to_file(self, folder: Path | None) -> None:
        """Move the values to a file, which vanishes with them. **Raises** `OSError` where the disk
        has no room."""
        file = tempfile.TemporaryFile(dir=folder, prefix="pytest-scrub-")  # noqa: SIM115
        finalize(self, file.close)
        _reserve(file, self.bytes)
        values, self.values, self._file = self.values, self.values.to("meta"), file
        for place in np.flatnonzero(self.filled)[:, None]:
            self.put(place, values[place])

    def empty(self) -> None:
        """Forget all values."""
        if self._file is not None:
            self._file.close()
        self.values, self._file = self.values.new_empty((0, *self.values.shape[1:])), None
        self.filled[:] = self.on_disk[:] = False


def _records(values: Tensor) -> npt.NDArray[np.uint8]:
    """`[B, ...]` on a CPU as bytes, `[B, bytes of one]`; the same memory where it is contiguous."""
    return values.unsqueeze(-1).flatten(1).contiguous().view(torch.uint8).numpy()


def _reserve(file: BinaryIO, size: int) -> None:
    """**Raises** `OSError` where the disk has no room: better now than when the file is filled."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for start in range(0, size, ZEROS):
        file.write(bytes(min(ZEROS, size - start)))


def in_units(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / 2**30:.3g} GiB" if size >= 2**30 else f"{size / 2**20:.3g} MiB"


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
        self._all: WeakSet[CachedSite] = WeakSet()
        self._clock = count(1)
        self._needed_since = 0

    @property
    def held(self) -> int:
        """Bytes of activations in memory."""
        return sum(kept.bytes for kept in self._all if not kept.in_file)

    def _idle(self, *, in_file: bool) -> list[CachedSite]:
        """What is not needed now and lies there, that which was not needed for longest first."""
        idle = (
            kept
            for kept in self._all
            if kept.used < self._needed_since and kept.in_file is in_file and kept.bytes
        )
        return sorted(idle, key=lambda kept: kept.used)

    def need(self, those: list[CachedSite]) -> None:
        """Note that these are needed now, together."""
        self._needed_since = next(self._clock)
        for kept in those:
            kept.used = next(self._clock)

    def new(self, places: int, like: Tensor) -> CachedSite:
        """Room for so many activations like those of `like [B, ...]`; what was not needed for
        longest makes way.

        **Raises** `ModelError` where neither memory nor disk has room.
        """
        values = torch.empty((places, *like.shape[1:]), dtype=like.dtype, device="meta")
        filled = np.zeros(places, dtype=np.bool_)
        kept = CachedSite(values, filled, like.device, next(self._clock))
        if self._makes_room(kept.bytes):
            kept.values = torch.empty_like(values, device=like.device)
        else:
            self._to_file(kept)
        self._all.add(kept)
        return kept

    @property
    def _most(self) -> float:
        """What activations may take in memory."""
        return math.inf if self.limit is None else int(self.limit * CACHED)

    def require_room(self, size: int, what: str, device: torch.device) -> None:
        """**Raises** `ModelError` where so much more cannot be had in memory, and nothing says what
        is to lie in files: better now than when most of it was captured."""
        free = free_bytes(device)
        if self.limit is None and size > free:
            raise ModelError(
                f"{what} take {in_units(size)}, but {in_units(free)} are free; {SMALLER}, or give "
                "--scrub-memory, beyond which they lie in files"
            )

    def where(self, size: int, device: torch.device) -> tuple[bool, str]:
        """Whether activations of so many bytes would have room, all of them at once, and where, in
        words."""
        most, folder = min(self._most, free_bytes(device)), self.folder or tempfile.gettempdir()
        if size <= most:
            return True, f"in memory, where {in_units(most)} are for them"
        disk = shutil.disk_usage(folder).free
        if self.limit is not None and size <= disk:
            return True, f"in files in {folder}, where {in_units(disk)} are free"
        beside = f" and {in_units(disk)} in {folder}" if self.limit is not None else ""
        return False, f"they do not fit: {in_units(most)} are there in memory{beside}; {SMALLER}"

    def _makes_room(self, size: int) -> bool:
        if self.limit is None:  # of many sites, what all take is long to sum for each
            return True
        most, movable = self._most, self._idle(in_file=False)
        if self.held - sum(kept.bytes for kept in movable) + size > most:
            return False
        while self.held + size > most:
            self._to_file(movable.pop(0))
        return True

    def _to_file(self, kept: CachedSite) -> None:
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
