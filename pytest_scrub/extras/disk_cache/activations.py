"""Clean activations that outlive a session, and that processes share: a few files for each network,
dataset and site.

Kept is what a network of installed code has computed: its packages' versions, its attributes,
weights and data make the key. What these do not say is caught by a run on a few rows: what a file
says of them has to be what the network computes now. Nothing is locked: a file is written as a
whole, under a name of its own, and never changed; whoever has taken in several small ones writes
them again as one.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pytest_scrub import Dataset
from pytest_scrub.engine.company import off_by
from pytest_scrub.engine.memory import Kept
from pytest_scrub.engine.store import Fresh
from pytest_scrub.extras.disk_cache.bounded import BoundedFolder
from pytest_scrub.network.digests import digest_of
from pytest_scrub.network.graph import ModelGraph, Site
from pytest_scrub.network.state import described

FORMAT = 4  # of the files; another number and they are not read
SUFFIX = ".safetensors"
HEADER = 4096  # bytes of a file that are neither values nor which rows they are of
# of one file at most, unless one row takes more: what is read or written is in memory at once
FILE_BYTES = 1 << 25
FEW_FILES = 8  # small ones of a site, before they are written again as one
COMPARED = 64  # rows of all files together, about, on which the network is run again
MOST_COMPARED, FEWEST_COMPARED = 16, 2  # of one file
# RuntimeError: torch, which opens a file once more, of one that has been deleted meanwhile
UNREADABLE = (SafetensorError, OSError, RuntimeError, KeyError, ValueError, TypeError)

Places = npt.NDArray[np.intp]
Filled = npt.NDArray[np.bool_]
NOWHERE: Places = np.empty(0, dtype=np.intp)


class _File(NamedTuple):
    """What a file says that it holds: a site at some places, ascending."""

    path: Path
    site: Site
    places: Places
    checksum: str


class ActivationShelf:
    """What is kept of one network on one dataset.

    **Arguments**

    - `folder`: where the files are.
    - `source`, `device`: what the network is called, and where it computes.
    - `places`: how many different rows the dataset has.
    - `parts`: what the activations depend on, see `key_parts`.
    """

    def __init__(
        self,
        folder: BoundedFolder,
        source: str,
        device: torch.device,
        places: int,
        parts: Mapping[str, str],
    ) -> None:
        self.folder, self.source, self.device, self.places = folder, source, device, places
        self.parts = _as_json(parts)
        self.key = blake2b(self.parts.encode(), digest_size=16).hexdigest()
        # what was seen or written, and which of its places were taken in
        self._files: dict[Path, Places] = {}
        self._unread: dict[Path, _File] = {}

    def paths(self, site: Site) -> list[Path]:
        """The files of a site."""
        return sorted(self.folder.path.glob(f"{self._stem(site)}-*{SUFFIX}"))

    def _stem(self, site: Site) -> str:
        return f"{self.key}-{blake2b(_site_text(site).encode(), digest_size=12).hexdigest()}"

    def load(
        self, have: Mapping[Site, Filled | None], fresh: Fresh
    ) -> Iterator[tuple[Site, Places, Tensor]]:
        seen = self.folder.path.glob(f"{self.key}-*{SUFFIX}")
        new = [path for path in sorted(seen) if path not in self._files]
        self._files |= dict.fromkeys(new, NOWHERE)
        self._believe([file for path in new if (file := self._read(path)) is not None], fresh)
        for file in [file for file in self._unread.values() if file.site in have]:
            del self._unread[file.path]
            filled = have[file.site]
            if filled is not None and filled[file.places].all():
                self._files[file.path] = file.places
            elif (values := self._whole(file)) is not None:
                self._files[file.path] = file.places
                self.folder.touch(file.path)
                yield file.site, file.places, values

    def keep(self, found: Mapping[Site, Kept]) -> None:
        room = self.folder.limit
        for site in reversed(list(found)):  # what was used last is wanted most
            kept = found[site]
            small = self._small(site)
            others = [self._files[path] for path in small]
            places = np.unique(
                np.concatenate([np.flatnonzero(kept.filled & ~kept.shelved), *others])
            )
            places = places[kept.filled[places]]
            step = max(1, FILE_BYTES // max(1, kept.bytes_per_place))
            pieces = [places[start : start + step] for start in range(0, len(places), step)]
            written = [
                self._write(site, kept, piece)
                for piece in pieces
                if len(piece) * kept.bytes_per_place <= room
            ]
            room -= len(places) * kept.bytes_per_place
            if len(written) == len(pieces) and all(written):
                for path in small:
                    del self._files[path]
                self._delete(small)

    def _small(self, site: Site) -> list[Path]:
        """Files of a site that are better written again as one."""
        found = []
        for path in self.paths(site):
            with suppress(OSError):
                known = self._files.get(path, NOWHERE)
                if len(known) and path.stat().st_size < FILE_BYTES // 2:
                    found.append(path)
        return found if len(found) >= FEW_FILES else []

    def _delete(self, paths: Iterable[Path]) -> None:
        for path in paths:
            with suppress(OSError):
                path.unlink()

    def _write(self, site: Site, kept: Kept, places: Places) -> bool:
        values = kept.gather(torch.from_numpy(places).to(kept.device)).cpu().contiguous()
        checksum = self._checksum(site, places, values)
        metadata = {"parts": self.parts, "site": _site_text(site), "checksum": checksum}
        tensors = {"values": values, "places": torch.from_numpy(places)}
        path = self.folder.path / f"{self._stem(site)}-{token_hex(6)}{SUFFIX}"
        size = values.numel() * values.element_size() + places.nbytes + HEADER
        written = self.folder.write(
            path, lambda temporary: save_file(tensors, temporary, metadata), size
        )
        if written:
            self._files[path] = places
            kept.shelved[places] = True
        return written

    # Reading --------------------------------------------------------------------------------------

    def _believe(self, files: list[_File], fresh: Fresh) -> None:
        """Those of a network that computes what they say, on a few rows of each."""
        if not files:
            return
        most = max(FEWEST_COMPARED, min(MOST_COMPARED, COMPARED // len(files)))
        chosen = [file.places[_spread(len(file.places), most)] for file in files]
        together = np.unique(np.concatenate(chosen))
        computed = fresh(list(dict.fromkeys(file.site for file in files)), together)
        for file, some in zip(files, chosen, strict=True):
            at = torch.from_numpy(np.searchsorted(together, some)).to(self.device)
            said = _some(file, np.searchsorted(file.places, some))
            if said is not None and not off_by(computed[file.site][at].to(said.device), said, said):
                self._unread[file.path] = file
            # as it was written, so it is the network that has changed
            elif self._whole(file) is not None:
                self.folder.notes.append(
                    f"activations of {self.source} that an earlier run has kept are not used: the "
                    f"{file.site} is another one now, though weights, attributes, data and "
                    "versions are the same; they are captured anew"
                )
                self._unread.clear()
                return self._delete(self.folder.path.glob(f"{self.key}-*{SUFFIX}"))

    def _read(self, path: Path) -> _File | None:
        """What a file says of itself; None for one that is not there, or not ours. Its values are
        checked when read."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                kind, names, positions = json.loads(metadata["site"])
                site = Site(kind, tuple(names), None if positions is None else tuple(positions))
                places = file.get_tensor("places").numpy().copy()
                is_ours = (
                    metadata["parts"] == self.parts
                    and path in self.paths(site)
                    and places.dtype == np.intp
                    and [*places.shape] == file.get_slice("values").get_shape()[:1]
                    and len(places) > 0
                    and bool((np.diff(places) > 0).all())
                    and int(places[0]) >= 0
                    and int(places[-1]) < self.places
                )
                return _File(path, site, places, metadata["checksum"]) if is_ours else None
        except UNREADABLE:
            return None

    def _whole(self, file: _File) -> Tensor | None:
        """A file's values; None where they, or what its header said before, are not what was
        written.

        What is checked is a copy: beneath the file's own tensor the file may change.
        """
        try:
            with safe_open(file.path, "pt") as opened:
                values: Tensor = opened.get_tensor("values").clone()
        except UNREADABLE:
            return None
        is_whole = self._checksum(file.site, file.places, values) == file.checksum
        return values if is_whole else None

    def _checksum(self, site: Site, places: Places, values: Tensor) -> str:
        """Of all that is read of a file and in which order; zlib's is several times as fast as
        those of hashlib."""
        described = _as_json([self.parts, _site_text(site), str(values.dtype), [*values.shape]])
        data = values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return (
            f"{zlib.crc32(data, zlib.crc32(places.tobytes(), zlib.crc32(described.encode()))):08x}"
        )


def _some(file: _File, some: Places) -> Tensor | None:
    """Rows of what a file holds, as they are; None where it is gone."""
    try:
        with safe_open(file.path, "pt") as opened:
            rows = opened.get_slice("values")
            return torch.cat([rows[int(i) : int(i) + 1] for i in some])
    except UNREADABLE:
        return None


def shelf_of(
    folder: BoundedFolder, graph: ModelGraph, dataset: Dataset, places: int
) -> ActivationShelf | None:
    """What a folder has of a network on a dataset of so many different rows; None where its code is
    not known by the versions of packages."""
    parts = key_parts(graph, dataset)
    if parts is None:
        return None
    return ActivationShelf(folder, graph.source, dataset.device, places, parts)


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
        "device": graph.device.type,
        "dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
    }


def _versions(package: str) -> str:
    """Of the distributions that a package is from; empty where there are none."""
    try:
        return version(package)
    except PackageNotFoundError:  # some are called otherwise, which takes a second to find out
        return " ".join(map(version, packages_distributions().get(package, ())))


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _site_text(site: Site) -> str:
    return json.dumps([site.kind, site.names, site.positions])


def _spread(count: int, most: int) -> Places:
    """At most so many of `count`, evenly spread; places are sorted by content, so that these are of
    all kinds."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.intp))
