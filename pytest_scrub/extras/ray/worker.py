"""What happens in a worker process: tasks, and what is kept between them."""

from __future__ import annotations

from collections import OrderedDict
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
from pytest_scrub.engine.memory import Kept
from pytest_scrub.engine.store import ActivationStore, Progress
from pytest_scrub.extras.ray.packing import Packed, pack_data, unpack
from pytest_scrub.network.graph import ModelGraph, Site, Where
from pytest_scrub.swaps.swap_set import Rows

VERSIONS = tuple((package, version(package)) for package in ("pytest-scrub", "torch"))
NETWORKS = 2  # as many as a session keeps the activations of
CLAIMS = 8  # a claim and its baseline take turns, and so do a few mutants

Metrics = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Source:
    """Where a network and its data are in the object store: a `ModelGraph` and a `Dataset`.

    - `dtype`: torch's default type where they come from.
    - `versions`: of the packages there.
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
    - `chunks`: `{Site: references to chunks}`, as they were when the task was made.
    """

    source: Source
    claim: ray.ObjectRef
    chunks: ray.ObjectRef


@dataclass(frozen=True)
class Chunk:
    """The activations of one site at some places: `values [len(places), ...]`."""

    places: npt.NDArray[np.intp]
    values: Tensor


class _Found:
    """A site as it lies in chunks: which of them has a place, and where in it."""

    def __init__(self, chunks: dict[ray.ObjectRef, Chunk], places: int) -> None:
        self.chunks = tuple(chunks)
        self.kept = [
            Kept(c.values, np.ones(len(c.places), dtype=np.bool_), c.values.device)
            for c in chunks.values()
        ]
        self.chunk, self.index = torch.full((places,), -1), torch.zeros(places, dtype=torch.int64)
        for number, chunk in enumerate(chunks.values()):
            at = torch.from_numpy(chunk.places.copy())
            self.chunk[at], self.index[at] = number, torch.arange(len(at))


class SharedStore(ActivationStore):
    """The clean activations that another process has captured, read where they are in shared
    memory."""

    def __init__(self, graph: ModelGraph, dataset: Dataset) -> None:
        super().__init__(graph, dataset)
        self._chunks: ray.ObjectRef | None = None
        self._of_site: dict[Site, tuple[ray.ObjectRef, ...]] = {}
        self._found: dict[Site, _Found] = {}
        self._evaluators: OrderedDict[ray.ObjectRef, Evaluator] = OrderedDict()

    def _proved(self) -> int:
        """Whoever sent the network has proved it, with the same versions of everything: a large one
        takes minutes."""
        return 0

    def evaluator(self, claim: ray.ObjectRef) -> Evaluator:
        """That of a claim, compiled when it is first asked for; those last used are kept."""
        if claim not in self._evaluators:
            dataset, hypothesis, metric, batch_size = _unpacked(
                claim, known_of(self.graph, self.dataset)
            )
            made = Evaluator(
                self.graph, dataset, hypothesis, metric, store=self, batch_size=batch_size
            )
            self._evaluators[claim] = made
            if len(self._evaluators) > CLAIMS:
                self._evaluators.popitem(last=False)
        self._evaluators.move_to_end(claim)
        return self._evaluators[claim]

    def read_from(self, chunks: ray.ObjectRef) -> None:
        """Use these chunks from now on; those that are no longer among them are let go."""
        if chunks == self._chunks:
            return
        self._chunks, self._of_site = chunks, ray.get(chunks)
        self._found = {
            site: found
            for site, found in self._found.items()
            if self._of_site.get(site) == found.chunks
        }

    def ensure(self, sites: Sequence[Site], rows: Rows, progress: Progress | None = None) -> None:
        """Whoever made the task has captured them."""

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        found, places = self._find(site), self._place_of_row.index_select(0, rows)
        chunks = found.chunk[places]
        numbers: list[int] = np.unique(chunks.numpy()).tolist()
        if numbers[0] < 0:
            raise RuntimeError(
                f"the {site} was not captured on all rows that a task gathers it from"
            )
        at = None if site.positions is not None or where is None else where.clamp(min=0)
        if len(numbers) == 1:
            return found.kept[numbers[0]].gather(found.index[places], at)
        whole: Tensor | None = None
        for number in numbers:
            here = (chunks == number).nonzero()[:, 0]
            part = found.kept[number].gather(
                found.index[places[here]], at if at is None or at.ndim == 1 else at[here]
            )
            whole = part.new_empty(len(rows), *part.shape[1:]) if whole is None else whole
            whole[here] = part
        assert whole is not None
        return whole

    def bytes_per_row(self, site: Site) -> int:
        return self._find(site).kept[0].bytes_per_place

    def _find(self, site: Site) -> _Found:
        if site not in self._found:
            chunks = {ref: unpack(packed) for ref, packed in _all_of(self._of_site[site])}
            self._found[site] = _Found(chunks, len(self._row_of_place))
        return self._found[site]


def _all_of(refs: Sequence[ray.ObjectRef]) -> list[tuple[ray.ObjectRef, Packed]]:
    return list(zip(refs, ray.get(list(refs)), strict=True))


# Tasks --------------------------------------------------------------------------------------------


def scrubbed(claim: Claim, swap_set: SwapSet) -> Metrics:
    """The scrubbed metric of every reference."""
    return _evaluator(claim).evaluate(swap_set)


def unscrubbed(claim: Claim, rows: Rows) -> Metrics:
    """The clean metric of every reference."""
    return _evaluator(claim).unscrubbed(rows)


def captured(source: Source, sites: Sequence[Site], places: npt.NDArray[np.intp]) -> Packed:
    """The clean activations of some sites at some places."""
    found = _ready(source).run(sites, places)
    # A view would bring along all that it is a view of.
    return pack_data({site: values.clone() for site, values in found.items()})


def _evaluator(claim: Claim) -> Evaluator:
    store = _ready(claim.source)
    store.read_from(claim.chunks)
    return store.evaluator(claim.claim)


def _ready(source: Source) -> SharedStore:
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


def known_of(graph: ModelGraph, dataset: Dataset) -> dict[str, Any]:
    """What a claim may hold of a network and its data that is not sent with it again."""
    return {"network": graph, "data": dataset, "inputs": dataset.inputs, "labels": dataset.labels}
