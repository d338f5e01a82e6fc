"""Clean activations that outlive a session, and that processes share: a few files for each network,
dataset and site.

What cannot be told from weights, code and data is caught by a run on a few rows: what a file says
of them has to be what the network computes now. Nothing is locked: a file is written as a whole,
under a name of its own, and never changed; whoever has taken in several small ones writes them
again as one.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.memory import Kept
from pytest_scrub.engine.store import Fresh
from pytest_scrub.extras.disk_cache.bounded import BoundedFolder
from pytest_scrub.network.code import attributes_digest, code_digest
from pytest_scrub.network.digests import digest_of
from pytest_scrub.network.graph import ModelGraph, Site

FORMAT = 3  # of the files; another number and they are not read
PACKAGES = ("pytest-scrub", "torch", "transformer-lens", "transformers")
SUFFIX = ".safetensors"
HEADER = 4096  # bytes of a file that are neither values nor which rows they are of
# of one file at most, unless one row takes more: what is read or written is in memory at once
FILE_BYTES = 1 << 25
FEW_FILES = 8  # small ones of a site, before they are written again as one
COMPARED = 64  # rows of all files together, about, on which the network is run again
MOST_COMPARED, FEWEST_COMPARED = 16, 2  # of one file
# Relative to the largest value. The same row differs in its last digits with the batch that it is
# in.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
UNREADABLE = (SafetensorError, OSError, KeyError, ValueError, TypeError)

Places = npt.NDArray[np.intp]
Filled = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Header:
    """What a file says that it holds: a site at some places, ascending."""

    site: Site
    places: Places
    checksum: str


class ActivationShelf:
    """What is kept of one network on one dataset.

    **Arguments**

    - `folder`: where the files are.
    - `places`: how many different rows the dataset has.
    - `parts`: what the activations depend on, see `key_parts`.
    """

    def __init__(
        self,
        folder: BoundedFolder,
        graph: ModelGraph,
        dataset: Dataset,
        places: int,
        parts: Mapping[str, str],
    ) -> None:
        self.folder, self.graph, self.device, self.places = folder, graph, dataset.device, places
        self.parts = dict(parts)
        self.key = blake2b(_as_json(self.parts).encode(), digest_size=16).hexdigest()
        # what was loaded or written, and which places it holds
        self._files: dict[Path, Places] = {}
        # None for what is no file of this network, or not believed
        self._headers: dict[Path, _Header | None] = {}

    def paths(self, site: Site) -> list[Path]:
        """The files of a site."""
        return sorted(self.folder.path.glob(f"{self._stem(site)}-*{SUFFIX}"))

    def _stem(self, site: Site) -> str:
        return f"{self.key}-{blake2b(_site_text(site).encode(), digest_size=12).hexdigest()}"

    def load(
        self, have: Mapping[Site, Filled | None], fresh: Fresh
    ) -> Iterator[tuple[Site, Places, Tensor]]:
        new = [path for site in have for path in self.paths(site) if path not in self._files]
        if any(path not in self._headers for path in new):
            self._compare(fresh)
        for path in new:
            header = self._headers.get(path)
            if header is None:
                continue
            filled = have[header.site]
            if filled is not None and filled[header.places].all():
                self._files[path] = header.places
            elif (values := self._whole(path, header)) is not None:
                self._files[path] = header.places
                self.folder.touch(path)
                yield header.site, header.places, values

    def keep(self, found: Mapping[Site, Kept]) -> None:
        if not self._is_unchanged():
            return
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
            room -= sum(len(piece) for piece in pieces) * kept.bytes_per_place
            if len(written) == len(pieces) and all(written):
                for path in small:
                    del self._files[path]
                    with suppress(OSError):
                        path.unlink()

    def _small(self, site: Site) -> list[Path]:
        """Files of a site that are better written again as one."""
        found = []
        for path in self.paths(site):
            with suppress(OSError):
                if path in self._files and path.stat().st_size < FILE_BYTES // 2:
                    found.append(path)
        return found if len(found) >= FEW_FILES else []

    def _is_unchanged(self) -> bool:
        """Whether the network is what it was when the key was made: weights may be exchanged behind
        torch's back."""
        parts = self.graph.computing()
        if parts is None or self.graph.digest() != self.parts["network"]:
            return False
        unchanged = attributes_digest(parts) == self.parts["attributes"]
        if not unchanged:
            self.folder.notes.append(
                f"activations of {self.graph.source} are not kept for the next run: attributes of "
                "its modules, or its hooks, were changed while claims ran"
            )
        return unchanged

    def _write(self, site: Site, kept: Kept, places: Places) -> bool:
        values = kept.gather(torch.from_numpy(places).to(kept.values.device)).cpu().contiguous()
        checksum = self._checksum(site, places, values)
        metadata = {"parts": _as_json(self.parts), "site": _site_text(site), "checksum": checksum}
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

    def _compare(self, fresh: Fresh) -> None:
        """Believe this network's files where the network computes what they say, on a few rows of
        each."""
        paths = [
            path
            for path in self.folder.path.glob(f"{self.key}-*{SUFFIX}")
            if path not in self._headers
        ]
        new = {path: self._read(path) for path in paths if path not in self._files}
        found = {path: header for path, header in new.items() if header is not None}
        self._headers |= new
        if not found:
            return
        most = max(FEWEST_COMPARED, min(MOST_COMPARED, COMPARED // len(found)))
        chosen = {path: _spread(len(header.places), most) for path, header in found.items()}
        together = np.unique(
            np.concatenate([found[path].places[at] for path, at in chosen.items()])
        )
        computed = fresh(list(dict.fromkeys(header.site for header in found.values())), together)
        for path, header in found.items():
            index = np.searchsorted(together, header.places[chosen[path]])
            own, said = (
                computed[header.site][torch.from_numpy(index).to(self.device)],
                _some(path, chosen[path]),
            )
            if said is None or _agree(own, said):
                continue
            # as it was written, so it is the network that has changed
            if self._whole(path, header) is not None:
                self._headers |= dict.fromkeys(found)
                return self._discard(found, header.site)
            self._headers[path] = None

    def _discard(self, paths: Iterable[Path], site: Site) -> None:
        self.folder.notes.append(
            f"activations of {self.graph.source} that an earlier run has kept are not used: the "
            f"{site} is another one now, though weights, data and the code that can be seen are "
            "the same; they are captured anew"
        )
        for path in paths:
            with suppress(OSError):
                path.unlink()

    def _read(self, path: Path) -> _Header | None:
        """What a file says of itself; None for one that is not there, or not ours. Its values are
        checked when read."""
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata() or {}
                kind, names, positions = json.loads(metadata["site"])
                site = Site(kind, tuple(names), None if positions is None else tuple(positions))
                places = file.get_tensor("places").numpy().copy()
                is_ours = (
                    metadata["parts"] == _as_json(self.parts)
                    and path in self.paths(site)
                    and places.dtype == np.intp
                    and [*places.shape] == file.get_slice("values").get_shape()[:1]
                    and len(places) > 0
                    and bool((np.diff(places) > 0).all())
                    and int(places[0]) >= 0
                    and int(places[-1]) < self.places
                )
                return _Header(site, places, metadata["checksum"]) if is_ours else None
        except UNREADABLE:
            return None

    def _whole(self, path: Path, header: _Header) -> Tensor | None:
        """A file's values; None where they, or what its header said before, are not what was
        written.

        What is checked is a copy: beneath the file's own tensor the file may change.
        """
        try:
            with safe_open(path, "pt") as file:
                values: Tensor = file.get_tensor("values").clone()
        except UNREADABLE:
            return None
        return (
            values
            if self._checksum(header.site, header.places, values) == header.checksum
            else None
        )

    def _checksum(self, site: Site, places: Places, values: Tensor) -> str:
        """Of all that is read of a file and in which order; zlib's is several times as fast as
        those of hashlib."""
        described = _as_json([self.parts, _site_text(site), str(values.dtype), [*values.shape]])
        data = values.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return (
            f"{zlib.crc32(data, zlib.crc32(places.tobytes(), zlib.crc32(described.encode()))):08x}"
        )


def _some(path: Path, some: Places) -> Tensor | None:
    """Rows of what a file holds, as they are; None where it is gone."""
    try:
        with safe_open(path, "pt") as file:
            rows = file.get_slice("values")
            return torch.cat([rows[int(i) : int(i) + 1] for i in some])
    except UNREADABLE:
        return None


def shelf_of(
    folder: BoundedFolder, graph: ModelGraph, dataset: Dataset, places: int
) -> ActivationShelf | None:
    """What a folder has of a network on a dataset of so many different rows; None where its code is
    not known."""
    parts = key_parts(graph, dataset)
    return None if parts is None else ActivationShelf(folder, graph, dataset, places, parts)


def key_parts(graph: ModelGraph, dataset: Dataset) -> dict[str, str] | None:
    """All that activations depend on; None where the code that computes them is not known."""
    computing = graph.computing()
    if computing is None:
        return None
    code, attributes = code_digest(computing), attributes_digest(computing)
    if code is None or attributes is None:
        return None
    return {
        "format": str(FORMAT),
        "network": graph.digest(),
        "code": code,
        "attributes": attributes,
        # not its own digest: labels do not matter, and it may be given
        "data": digest_of(dataset.inputs.items()),
        "python": sys.version,
        **{name: _version(name) for name in PACKAGES},
        "device": graph.device.type,
        "dtype": str(torch.get_default_dtype()),
        "matmul": torch.get_float32_matmul_precision(),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def _as_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _site_text(site: Site) -> str:
    return json.dumps([site.kind, site.names, site.positions])


def _spread(count: int, most: int) -> Places:
    """At most so many of `count`, evenly spread; places are sorted by content, so that these are of
    all kinds."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.intp))


def _agree(computed: Tensor, said: Tensor) -> bool:
    if computed.shape != said.shape or computed.dtype != said.dtype:
        return False
    computed = computed.to(said.device)
    if not said.is_floating_point() or not said.numel():
        return torch.equal(computed, said)
    tolerance = TOLERANCE.get(said.dtype, 0.0) * float(said.abs().max())
    return bool(((computed - said).abs() <= tolerance).all())
