"""What happens in a worker process: tasks, and what is kept between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from torch import Tensor

from pytest_scrub import Dataset, Evaluator, ModelError, SwapSet
from pytest_scrub.engine.store import ActivationStore, Progress
from pytest_scrub.extras.ray.packed import Packed, pack_data, unpack
from pytest_scrub.network.graph import ModelGraph, Site, Where
from pytest_scrub.swaps.swap_set import Rows

VERSIONS = tuple((package, version(package)) for package in ("pytest-scrub", "torch"))
NETWORKS = 2  # as many as a session keeps the activations of
# of a network that stay compiled: a claim and its baseline take turns, and so do a few mutants
CLAIMS = 8

Metrics = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """Where a network and its data are in the object store: a `ModelGraph` and a `Dataset`.

    - `dtype`, `versions`: torch's default type, and packages, in the process that they come from.
    """

    network: ray.ObjectRef
    data: ray.ObjectRef
    dtype: torch.dtype
    versions: tuple[tuple[str, str], ...] = VERSIONS


@dataclass(frozen=True)
class Claim:
    """Where in the object store is what a claim is evaluated with.

    - `claim`: (dataset, hypothesis, metric, batch size), the first with features that the source
      may lack.
    - `chunks`: `{Site: references to chunks}`, as they were when the task was made; a chunk is
      `(places [B], values [B, ...])`.
    """

    source: Source
    claim: ray.ObjectRef
    chunks: ray.ObjectRef


class SharedStore(ActivationStore):
    """The clean activations that another process has captured, read where they are in shared
    memory."""

    def __init__(self, graph: ModelGraph, dataset: Dataset) -> None:
        super().__init__(graph, dataset)
        self._chunks: ray.ObjectRef | None = None
        self._refs_of_site: dict[Site, tuple[ray.ObjectRef, ...]] = {}
        self._opened: dict[tuple[ray.ObjectRef, ...], _SiteInChunks] = {}
        self.evaluator = lru_cache(maxsize=CLAIMS)(self._compiled)

    def _proved(self) -> int:
        """Whoever sent the network has proved it, with the same versions of everything: a large one
        takes minutes."""
        return 0

    def _compiled(self, claim: ray.ObjectRef) -> Evaluator:
        dataset, hypothesis, metric, batch_size = _unpacked(
            claim, known_objects(self.graph, self.dataset)
        )
        return Evaluator(self.graph, dataset, hypothesis, metric, store=self, batch_size=batch_size)

    def read_from(self, chunks: ray.ObjectRef) -> None:
        """Use these chunks from now on; those that are no longer among them are let go."""
        if chunks == self._chunks:
            return
        self._chunks, self._refs_of_site = chunks, ray.get(chunks)
        now = set(self._refs_of_site.values())
        self._opened = {refs: found for refs, found in self._opened.items() if refs in now}

    def ensure(self, sites: Sequence[Site], rows: Rows, progress: Progress | None = None) -> None:
        """Whoever made the task has captured them."""

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        found, places = self._find(site), self._place_of_row.index_select(0, rows)
        chunks, index = found.chunk[places], found.index[places]
        if (chunks < 0).any():
            raise RuntimeError(
                f"the {site} was not captured on all rows that a task gathers it from"
            )
        at = (
            None
            if site.positions is not None or where is None
            else where.clamp(min=0).expand(len(rows), -1)
        )
        order, parts = [], []
        for number in np.unique(chunks.numpy()).tolist():
            here = (chunks == number).nonzero()[:, 0]
            values, of_row = found.values[number], index[here]
            order.append(here)
            parts.append(
                values.index_select(0, of_row) if at is None else values[of_row[:, None], at[here]]
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts)[torch.cat(order).argsort()]

    def bytes_per_row(self, site: Site) -> int:
        return self._find(site).values[0][0].nbytes

    def _find(self, site: Site) -> _SiteInChunks:
        refs = self._refs_of_site[site]
        if refs not in self._opened:
            self._opened[refs] = _SiteInChunks(refs, len(self._row_of_place))
        return self._opened[refs]


class _SiteInChunks:
    """A site in its chunks: for each place which of them has it, or -1, and where in it."""

    def __init__(self, refs: tuple[ray.ObjectRef, ...], places: int) -> None:
        self.values: list[Tensor] = []
        self.chunk, self.index = torch.full((places,), -1), torch.zeros(places, dtype=torch.int64)
        for number, packed in enumerate(ray.get(list(refs))):
            there, values = unpack(packed)
            at = torch.from_numpy(there.copy())
            self.chunk[at], self.index[at] = number, torch.arange(len(at))
            self.values.append(values)


# Tasks --------------------------------------------------------------------------------------------


def scrubbed(claim: Claim, swap_set: SwapSet) -> Metrics:
    """The scrubbed metric of every reference."""
    return _evaluator(claim).evaluate(swap_set)


def unscrubbed(claim: Claim, rows: Rows) -> Metrics:
    """The clean metric of every reference."""
    return _evaluator(claim).unscrubbed(rows)


def captured(source: Source, sites: Sequence[Site], places: npt.NDArray[np.intp]) -> Packed:
    """The clean activations of some sites at some places."""
    found = _store_of(source).run(sites, places)
    # A view would bring along all that it is a view of.
    return pack_data({site: values.clone() for site, values in found.items()})


def _evaluator(claim: Claim) -> Evaluator:
    store = _store_of(claim.source)
    store.read_from(claim.chunks)
    return store.evaluator(claim.claim)


def _store_of(source: Source) -> SharedStore:
    """The store of a network and its data, in a process that computes as the one they come from."""
    torch.set_num_threads(1)  # a task has one core
    torch.set_default_dtype(source.dtype)
    return _store(source)


@lru_cache(maxsize=NETWORKS)
def _store(source: Source) -> SharedStore:
    """**Raises** `ModelError` where this machine would compute something else than the one that
    asks."""
    for (package, theirs), (_, ours) in zip(source.versions, VERSIONS, strict=True):
        if ours != theirs:
            raise ModelError(
                f"a Ray worker has {package} {ours}, this process {theirs}; install the same "
                "everywhere"
            )
    return SharedStore(_network(source.network), _unpacked(source.data))


@lru_cache(maxsize=NETWORKS)
def _network(network: ray.ObjectRef) -> ModelGraph:
    graph: ModelGraph = _unpacked(network)
    return graph


def _unpacked(packed: ray.ObjectRef, known: dict[str, Any] | None = None) -> Any:
    """**Raises** `ModelError` where this machine lacks a package."""
    try:
        return unpack(ray.get(packed), known)
    except ImportError as error:
        raise ModelError(
            f"a Ray worker cannot import what a network, its data or a claim is made of ({error}); "
            "install the same packages everywhere"
        ) from None


def known_objects(graph: ModelGraph, dataset: Dataset) -> dict[str, Any]:
    """What a claim may hold of a network and its data that is not sent with it again."""
    return {"network": graph, "data": dataset, "inputs": dataset.inputs, "labels": dataset.labels}
