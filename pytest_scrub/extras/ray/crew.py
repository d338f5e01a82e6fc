"""Claims on a cluster: pieces of work as Ray tasks, weights and activations once for each
machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.memory import Kept
from pytest_scrub.engine.store import ActivationStore, Evaluates
from pytest_scrub.errors import ModelError, ScrubError
from pytest_scrub.extras.ray import worker
from pytest_scrub.extras.ray.packing import pack, pack_data, unpack
from pytest_scrub.network.digests import Version
from pytest_scrub.network.graph import ModelGraph, Site
from pytest_scrub.swaps.swap_set import Rows, SwapSet

RETRIES = 2  # of a task whose worker died
# Tasks that are on their way at once: nobody waits for this process, and a cluster that grows on
# demand sees some. More would die one after another where every one of them kills its worker,
# before the first has been tried often enough.
WAITING_PER_CPU = 2
# seconds without a result, after which the cluster is asked whether it still has a processor
PATIENCE = 30
CHUNK_BYTES = 1 << 30  # more are never put into one object
MERGED = 2  # times as many places as the next chunk has: chunks are few, and nothing is sent often

NOT_IMPORTED = "failed to import on the worker"  # Ray's words

Piece = TypeVar("Piece")


class RayCrew:
    """Does pieces of work as tasks on the Ray cluster that this process has joined.

    - `tasks`: how many of each kind were given out.
    """

    def __init__(self) -> None:
        self.tasks = dict.fromkeys(("scrubbed", "unscrubbed", "captured"), 0)
        self._networks: WeakKeyDictionary[ModelGraph, tuple[Version, ray.ObjectRef]] = (
            WeakKeyDictionary()
        )
        self._shared: WeakKeyDictionary[ActivationStore, _Shared] = WeakKeyDictionary()
        self._claims: WeakKeyDictionary[Evaluates, ray.ObjectRef] = WeakKeyDictionary()
        options = {"num_cpus": 1, "max_retries": RETRIES, "retry_exceptions": False}
        self._scrubbed, self._unscrubbed, self._captured = (
            ray.remote(**options)(task)
            for task in (worker.scrubbed, worker.unscrubbed, worker.captured)
        )

    def scrubbed(
        self, evaluator: Evaluates, shards: Sequence[SwapSet]
    ) -> Iterator[npt.NDArray[np.float64]]:
        claim = self._claim(evaluator, evaluator.sites)
        plain = [replace(shard, hypothesis=None) for shard in shards]  # the claim has it
        return self._each("scrubbed", lambda shard: self._scrubbed.remote(claim, shard), plain)

    def unscrubbed(
        self, evaluator: Evaluates, shards: Sequence[Rows]
    ) -> Iterator[npt.NDArray[np.float64]]:
        claim = self._claim(evaluator, evaluator.clean_sites)
        return self._each("unscrubbed", lambda shard: self._unscrubbed.remote(claim, shard), shards)

    def captured(
        self, store: ActivationStore, batches: Sequence[tuple[Sequence[Site], npt.NDArray[np.intp]]]
    ) -> Iterator[dict[Site, Tensor]]:
        source = self._of(store).source
        found = self._each("captured", lambda batch: self._captured.remote(source, *batch), batches)
        return map(unpack, found)

    def _of(self, store: ActivationStore) -> _Shared:
        if store not in self._shared:
            data = _put(
                pack(_sendable(store.dataset), "the dataset", parts=_functions(store.dataset))
            )
            self._shared[store] = _Shared(
                worker.Source(self._network(store.graph), data, torch.get_default_dtype())
            )
        return self._shared[store]

    def _network(self, graph: ModelGraph) -> ray.ObjectRef:
        if graph.device.type != "cpu":
            raise ModelError(
                f"the network is on {graph.device}, but Ray's workers compute on processors; leave "
                "--scrub-ray out"
            )
        version = graph.version()
        if graph not in self._networks or self._networks[graph][0] != version:
            self._networks[graph] = (version, _put(pack(graph, f"the network ({graph.source})")))
        return self._networks[graph][1]

    def _claim(self, evaluator: Evaluates, sites: Sequence[Site]) -> worker.Claim:
        shared = self._of(evaluator.store)
        if evaluator not in self._claims:
            self._claims[evaluator] = shared.put_claim(evaluator)
        return worker.Claim(
            shared.source, self._claims[evaluator], shared.chunks(evaluator.store, sites)
        )

    def _each(
        self, what: str, start: Callable[[Piece], ray.ObjectRef], pieces: Sequence[Piece]
    ) -> Iterator[Any]:
        """The results of all pieces in their order, some of which are on their way at any time.

        What is on its way when one fails is left to end by itself: a task that is cancelled just as
        it ends takes this process with it ("Tried to complete task that was not pending", Ray
        2.60).
        """
        most = max(1, WAITING_PER_CPU * _cpus())
        waiting: deque[ray.ObjectRef] = deque()
        left = iter(pieces)
        for _ in pieces:
            while len(waiting) < most and (piece := next(left, None)) is not None:
                waiting.append(start(piece))
                self.tasks[what] += 1
            yield _result(waiting[0])
            waiting.popleft()


def _result(task: ray.ObjectRef) -> Any:
    """What a task gave. **Raises** what it raised, or `ScrubError` where Ray could not get it
    done."""
    while not ray.wait([task], timeout=PATIENCE)[0]:
        if not _cpus():
            raise ScrubError(
                "the Ray cluster has no processor left; look at `ray status`, or leave --scrub-ray "
                "out"
            )
    try:
        return ray.get(task)
    except RayTaskError as error:
        cause = error.cause
        if not isinstance(cause, Exception):
            raise
        if isinstance(cause, ScrubError):
            raise cause from None
        if isinstance(cause, RuntimeError) and NOT_IMPORTED in str(cause):
            raise ScrubError(
                "Ray's workers cannot import pytest_scrub; install it on every machine"
            ) from None
        raise cause from error  # which has the traceback of the worker
    except RayError as error:
        reason = " ".join(str(error).split("\n", 1)[0].split()).rstrip(".")
        raise ScrubError(
            f"Ray gave up a task that was tried {1 + RETRIES} times ({reason}); leave --scrub-ray "
            "out to see what it dies of, and where that works give workers more memory, and let "
            "the network write to none of its weights"
        ) from None


def _put(value: Any) -> ray.ObjectRef:
    try:
        return ray.put(value)
    except RayError as error:
        reason = str(error).split("\n", 1)[0]
        raise ScrubError(
            f"Ray's object store has no room, in memory or on disk ({reason}); give it more"
        ) from None


def _cpus() -> int:
    return int(ray.cluster_resources().get("CPU", 0))


@dataclass
class _Published:
    """What workers have of one site: chunks, the largest first, and which places are in them."""

    kept: ref[Kept]
    filled: npt.NDArray[np.bool_]
    chunks: list[tuple[npt.NDArray[np.intp], ray.ObjectRef]] = field(default_factory=list)

    def add(self, kept: Kept) -> bool:
        """Put what was captured since into the object store. **Returns** whether there was
        anything.

        A chunk takes in those before it that are not much larger, so there are few of them and each
        activation is sent a few times, whatever the steps in which it came to be there.
        """
        new = np.flatnonzero(kept.filled & ~self.filled)
        if not len(new):
            return False
        self.filled[new] = True
        most = max(1, CHUNK_BYTES // max(1, kept.bytes_per_place))
        while self.chunks and len(self.chunks[-1][0]) < min(MERGED * len(new), most):
            if not kept.filled[self.chunks[-1][0]].all():  # the store has dropped them since
                break
            new = np.union1d(self.chunks.pop()[0], new)
        for start in range(0, len(new), most):
            places = new[start : start + most]
            chunk = worker.Chunk(places, kept.gather(torch.from_numpy(places)))
            self.chunks.append((places, _put(pack_data(chunk))))
        return True


@dataclass
class _Shared:
    """What the object store has of one activation store: its network, its data, its activations."""

    source: worker.Source
    _sites: dict[Site, _Published] = field(default_factory=dict)
    _chunks: ray.ObjectRef | None = None

    def put_claim(self, evaluator: Evaluates) -> ray.ObjectRef:
        """What an evaluator is made of beside the network and the data."""
        store, own, metric = evaluator.store, evaluator.dataset, evaluator.metric
        dataset = own if own is store.dataset else _sendable(own)
        claim = (dataset, evaluator.hypothesis, metric, evaluator.batch_size)
        parts = {
            f"the metric {metric.name}": metric,
            "the hypothesis": evaluator.hypothesis,
            **_functions(own),
        }
        return _put(pack(claim, "the claim", worker.known_of(store.graph, store.dataset), parts))

    def chunks(self, store: ActivationStore, sites: Sequence[Site]) -> ray.ObjectRef:
        """Where the activations are that the store has of these sites, and of others."""
        forgotten = [site for site, published in self._sites.items() if published.kept() is None]
        for site in forgotten:
            del self._sites[site]
        changed = self._chunks is None or bool(forgotten)
        for site in sites:
            kept = store.kept(site)
            if site not in self._sites or self._sites[site].kept() is not kept:
                self._sites[site] = _Published(ref(kept), np.zeros_like(kept.filled))
            changed |= self._sites[site].add(kept)
        if changed:
            chunks = {
                site: tuple(at for _, at in published.chunks)
                for site, published in self._sites.items()
            }
            self._chunks = _put(chunks)
        return self._chunks


def _sendable(dataset: Dataset) -> Dataset:
    """The same rows without what makes more of them, which only searches here ask for."""
    sent = copy(dataset)
    sent.source = None
    return sent


def _functions(dataset: Dataset) -> dict[str, Any]:
    """What of a dataset is its owner's code, as errors call it."""
    features = {
        f"the feature {name!r} of the dataset": source for name, source in dataset._features.items()
    }
    return {**features, "show= of the dataset": dataset._show}
