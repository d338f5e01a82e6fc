"""Clean activations on disk, for later sessions and other processes: a few files for each network,
dataset and site.

Only networks of installed code have files: the versions of its packages, its attributes, its
weights and the data make the key. What these do not say is caught by a run on a few rows: what a
file says of them has to be what the network computes now. Nothing is locked: a file is written as a
whole, under a name of its own, and never changed; whoever has read several small ones writes them
again as one.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from msgspec import MsgspecError
from msgspec.json import decode, encode
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pytest_scrub import Dataset
from pytest_scrub.engine.memory import CachedSite
from pytest_scrub.engine.row_independence import relative_difference
from pytest_scrub.engine.store import Fresh
from pytest_scrub.extras.disk_cache.folder import BoundedFolder
from pytest_scrub.network.digests import digest_of
from pytest_scrub.network.graph import ModelGraph, Site
from pytest_scrub.network.state import described

FORMAT = 5  # of the files; another number and they are not read
SUFFIX = ".safetensors"
HEADER = 4096  # bytes of a file beside its values and places, at most
# of one file at most, unless one row takes more: what is read or written is in memory at once
FILE_BYTES = 1 << 25
FEW_FILES = 8  # small ones of a site, before they are written again as one
COMPARED = 64  # rows of all files together, about, on which the network is run again
MOST_COMPARED, FEWEST_COMPARED = 16, 2  # of one file
# RuntimeError: torch opens a file once more, which another process may have deleted meanwhile
UNREADABLE = (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError, MsgspecError)

Places = npt.NDArray[np.intp]
Filled = npt.NDArray[np.bool_]
NOWHERE: Places = np.empty(0, dtype=np.intp)

_Read = TypeVar("_Read")


class _File(NamedTuple):
    """What a file says that it holds: a site at some places, ascending."""

    path: Path
    site: Site
    places: Places
    checksum: str


class ActivationFiles:
    """The files of one network on one dataset.

    **Arguments**

    - `folder`: where they are.
    - `source`: what the network is called.
    - `places`: how many different rows the dataset has.
    - `parts`: what the activations depend on, see `key_parts`.
    """

    def __init__(
        self, folder: BoundedFolder, source: str, places: int, parts: Mapping[str, str]
    ) -> None:
        self.folder, self.source, self.places = folder, source, places
        self.parts = json.dumps(parts, sort_keys=True)
        self.key = blake2b(self.parts.encode(), digest_size=16).hexdigest()
        # what was seen or written, and which of its places were read
        self._files: dict[Path, Places] = {}
        self._unread: dict[Path, _File] = {}

    def _stem(self, site: Site) -> str:
        """How the names of a site's files begin."""
        return f"{self.key}-{blake2b(_as_text(site).encode(), digest_size=12).hexdigest()}-"

    def load(
        self, have: Mapping[Site, Filled | None], fresh: Fresh
    ) -> Iterator[tuple[Site, Places, Tensor]]:
        new = sorted(set(self._paths()) - self._files.keys())
        self._files |= dict.fromkeys(new, NOWHERE)
        self._compare([file for path in new if (file := self._described(path)) is not None], fresh)
        for file in [file for file in self._unread.values() if file.site in have]:
            del self._unread[file.path]
            if (values := self._values(file)) is not None:
                self._files[file.path] = file.places
                self.folder.touch(file.path)
                yield file.site, file.places, values

    def keep(self, found: Mapping[Site, CachedSite]) -> None:
        room = self.folder.limit
        for site in reversed(list(found)):  # what was used last is wanted most
            kept, small = found[site], self._small(site)
            is_wanted = kept.filled & ~kept.on_disk
            for path in small:
                is_wanted[self._files[path]] = True
            places = np.flatnonzero(is_wanted & kept.filled)
            step = max(1, FILE_BYTES // max(1, kept.bytes_per_place))
            pieces = [places[start : start + step] for start in range(0, len(places), step)]
            written = [
                len(piece) * kept.bytes_per_place <= room and self._write(site, kept, piece)
                for piece in pieces
            ]
            room -= len(places) * kept.bytes_per_place
            if all(written):
                for path in small:
                    del self._files[path]
                    self.folder.delete(path)

    def _paths(self) -> Iterator[Path]:
        return self.folder.path.glob(f"{self.key}-*{SUFFIX}")

    def _small(self, site: Site) -> list[Path]:
        """Files of a site that are better written again as one."""
        found = []
        for path, places in self._files.items():
            with suppress(OSError):  # another run may have deleted it
                is_of_site = path.name.startswith(self._stem(site))
                if is_of_site and len(places) and path.stat().st_size < FILE_BYTES // 2:
                    found.append(path)
        return found if len(found) >= FEW_FILES else []

    def _write(self, site: Site, kept: CachedSite, places: Places) -> bool:
        values = kept.gather(torch.from_numpy(places).to(kept.device)).cpu().contiguous()
        checksum = self._checksum(site, places, values)
        metadata = {"parts": self.parts, "site": _as_text(site), "checksum": checksum}
        tensors = {"values": values, "places": torch.from_numpy(places)}
        path = self.folder.path / f"{self._stem(site)}{token_hex(6)}{SUFFIX}"
        written = self.folder.write(
            path,
            lambda temporary: save_file(tensors, temporary, metadata),
            values.nbytes + places.nbytes + HEADER,
        )
        if written:
            self._files[path] = places
            kept.on_disk[places] = True
        return written

    # Reading --------------------------------------------------------------------------------------

    def _compare(self, files: list[_File], fresh: Fresh) -> None:
        """Run the network on a few rows of each file; those that say what it computes are read
        later."""
        if not files:
            return
        most = max(FEWEST_COMPARED, min(MOST_COMPARED, COMPARED // len(files)))
        chosen = [_spread(len(file.places), most) for file in files]
        together = np.unique(
            np.concatenate([f.places[at] for f, at in zip(files, chosen, strict=True)])
        )
        computed = fresh(list(dict.fromkeys(file.site for file in files)), together)
        for file, some in zip(files, chosen, strict=True):
            at = np.searchsorted(together, file.places[some])
            stored = _read(file.path, partial(_rows, some))
            if stored is not None and not relative_difference(
                computed[file.site].cpu()[at], stored, stored
            ):
                self._unread[file.path] = file
            # as it was written, so it is the network that has changed
            elif self._values(file) is not None:
                self.folder.notes.append(
                    f"activations of {self.source} that an earlier run has kept are not used: the "
                    f"{file.site} is another one now, though weights, attributes, data and "
                    "versions are the same; they are captured anew"
                )
                self._unread.clear()
                for path in self._paths():
                    self.folder.delete(path)
                return

    def _described(self, path: Path) -> _File | None:
        """What a file says of itself; None for one that is not there, or not ours. Its values are
        checked when read."""

        def read(opened: Any) -> _File | None:
            metadata = opened.metadata()
            site = decode(metadata["site"], type=Site)
            places = opened.get_tensor("places").numpy().copy()
            is_ours = (
                metadata["parts"] == self.parts
                and path.name.startswith(self._stem(site))
                and places.dtype == np.intp
                and [*places.shape] == opened.get_slice("values").get_shape()[:1]
                and len(places) > 0
                # ascending, and all of them places of the dataset
                and bool((np.diff(places, prepend=-1, append=self.places) > 0).all())
            )
            return _File(path, site, places, metadata["checksum"]) if is_ours else None

        return _read(path, read)

    def _values(self, file: _File) -> Tensor | None:
        """A file's values; None where they, or what its header stored before, are not what was
        written.

        What is checked is a copy: beneath the file's own tensor the file may change.
        """
        values: Tensor | None = _read(file.path, lambda opened: opened.get_tensor("values").clone())
        if values is None or self._checksum(file.site, file.places, values) != file.checksum:
            return None
        return values

    def _checksum(self, site: Site, places: Places, values: Tensor) -> str:
        """Of all that is read of a file and in which order; zlib's is several times as fast as
        those of hashlib."""
        header = json.dumps([self.parts, _as_text(site), str(values.dtype), values.shape])
        found = zlib.crc32(places.tobytes(), zlib.crc32(header.encode()))
        return f"{zlib.crc32(values.reshape(-1).view(torch.uint8).numpy().data, found):08x}"


def _read(path: Path, read: Callable[[Any], _Read]) -> _Read | None:
    """What is read of a file; None where it is gone, or damaged."""
    try:
        with safe_open(path, "pt") as opened:
            return read(opened)
    except UNREADABLE:
        return None


def _rows(some: Places, opened: Any) -> Tensor:
    rows = opened.get_slice("values")
    return torch.cat([rows[i : i + 1] for i in some.tolist()])


def activation_files(
    folder: BoundedFolder, graph: ModelGraph, dataset: Dataset, places: int
) -> ActivationFiles | None:
    """What a folder has of a network on a dataset of so many different rows; None where its code is
    not known by the versions of packages."""
    parts = key_parts(graph, dataset)
    return None if parts is None else ActivationFiles(folder, graph.source, places, parts)


def key_parts(graph: ModelGraph, dataset: Dataset) -> dict[str, str] | None:
    """All that activations depend on; None where some code that computes them is of no installed
    package."""
    found = described(graph)
    if found is None or not found.packages:
        return None
    versions = {
        f"version of {name}": _versions(name) for name in found.packages - sys.stdlib_module_names
    }
    if not all(versions.values()):
        return None
    return {
        **versions,
        "format": str(FORMAT),
        "network": graph.digest(),
        "attributes": found.digest,
        # not its own digest: labels do not matter, and it may be given
        "data": digest_of(dataset.inputs.items()),
        "python": sys.version,
        "device": " ".join(sorted({device.type for device in graph.devices})),
        "dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
    }


def _versions(package: str) -> str:
    """Of the distributions that a package is from; empty where there are none."""
    try:
        return version(package)
    except PackageNotFoundError:  # some are called otherwise, which takes a second to find out
        return " ".join(map(version, packages_distributions().get(package, ())))


def _as_text(site: Site) -> str:
    return encode(site).decode()


def _spread(count: int, most: int) -> Places:
    """At most so many of `count`, evenly spread; places are sorted by content, so that these are of
    all kinds."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.intp))
