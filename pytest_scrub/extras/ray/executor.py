"""Claims on a Ray cluster: pieces of work as tasks, and weights and activations once for each
machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from pytest_scrub import Dataset, ModelError, ScrubError, SwapSet
from pytest_scrub.engine.memory import CachedSite
from pytest_scrub.engine.store import ActivationStore, Evaluates
from pytest_scrub.extras.ray import worker
from pytest_scrub.extras.ray.packed import pack, pack_data, unpack
from pytest_scrub.network.digests import Version
from pytest_scrub.network.graph import ModelGraph, Site
from pytest_scrub.swaps.swap_set import Rows

RETRIES = 2  # of a task whose worker died
# Tasks that are on their way at once: enough that no processor waits for this process, and that a
# cluster that grows on demand sees some. Where every task kills its worker, more of them would die
# one after another before the first has been tried often enough.
WAITING_PER_CPU = 2
# seconds without a result, after which the cluster is asked whether it still has a processor
PATIENCE = 30
CHUNK_BYTES = 1 << 30  # of activations in one object, at most
# A chunk with less than so many times the places of the next one is sent again as a part of it.
MERGED = 2

NOT_IMPORTED = "failed to import on the worker"  # Ray's words

Metrics = npt.NDArray[np.float64]
Chunks = list[tuple[npt.NDArray[np.intp], ray.ObjectRef]]
"""The activations of one site in the object store, and at which places each chunk of them is."""


class RayExecutor:
    """Does pieces of work as tasks on the Ray cluster that this process has joined.

    - `tasks`: how many of each kind were given out.
    """

    def __init__(self) -> None:
        options = {"num_cpus": 1, "max_retries": RETRIES, "retry_exceptions": False}
        self._remote = {
            task.__name__: ray.remote(**options)(task)
            for task in (worker.scrubbed, worker.unscrubbed, worker.captured)
        }
        self.tasks = dict.fromkeys(self._remote, 0)
        self._networks: WeakKeyDictionary[ModelGraph, tuple[Version, ray.ObjectRef]] = (
            WeakKeyDictionary()
        )
        self._stores: WeakKeyDictionary[ActivationStore, _SentStore] = WeakKeyDictionary()
        self._claims: WeakKeyDictionary[Evaluates, ray.ObjectRef] = WeakKeyDictionary()

    def scrubbed(self, evaluator: Evaluates, shards: Sequence[SwapSet]) -> Iterator[Metrics]:
        claim = self._claim(evaluator, evaluator.sites)
        # the claim has the hypothesis
        pieces = ((claim, replace(shard, hypothesis=None)) for shard in shards)
        return self._results("scrubbed", pieces)

    def unscrubbed(self, evaluator: Evaluates, shards: Sequence[Rows]) -> Iterator[Metrics]:
        claim = self._claim(evaluator, evaluator.clean_sites)
        return self._results("unscrubbed", ((claim, shard) for shard in shards))

    def captured(
        self, store: ActivationStore, batches: Sequence[tuple[Sequence[Site], npt.NDArray[np.intp]]]
    ) -> Iterator[dict[Site, Tensor]]:
        source = self._sent_store(store).source
        return map(unpack, self._results("captured", ((source, *batch) for batch in batches)))

    def _sent_store(self, store: ActivationStore) -> _SentStore:
        if store not in self._stores:
            own = store.dataset
            data = _put(pack(_sendable(own), "the dataset", parts=_functions(own)))
            source = worker.Source(self._network(store.graph), data, torch.get_default_dtype())
            self._stores[store] = _SentStore(source)
        return self._stores[store]

    def _network(self, graph: ModelGraph) -> ray.ObjectRef:
        if elsewhere := [str(device) for device in graph.devices if device.type != "cpu"]:
            raise ModelError(
                f"the network is on {' and '.join(elsewhere)}, but Ray's workers compute on "
                "processors; leave --scrub-ray out"
            )
        if graph.fetched():
            raise ModelError(
                "weights of the network are fetched while it is run, from where Ray's workers may "
                "not find them; load it into memory, or leave --scrub-ray out"
            )
        version = graph.version()
        if graph not in self._networks or self._networks[graph][0] != version:
            self._networks[graph] = (version, _put(pack(graph, f"the network ({graph.source})")))
        return self._networks[graph][1]

    def _claim(self, evaluator: Evaluates, sites: Sequence[Site]) -> worker.Claim:
        sent = self._sent_store(evaluator.store)
        if evaluator not in self._claims:
            self._claims[evaluator] = _sent_claim(evaluator)
        chunks = sent.chunks(evaluator.store, sites)
        return worker.Claim(sent.source, self._claims[evaluator], chunks)

    def _results(self, task: str, pieces: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        """What a task gives for each piece, in their order; some are on their way at any time.

        What is on its way when one fails is left to end by itself: a task that is cancelled just as
        it ends takes this process with it ("Tried to complete task that was not pending", Ray
        2.60).
        """
        most = max(1, WAITING_PER_CPU * _cpus())
        waiting: deque[ray.ObjectRef] = deque()
        left = iter(pieces)
        while True:
            for piece in islice(left, most - len(waiting)):
                waiting.append(self._remote[task].remote(*piece))
                self.tasks[task] += 1
            if not waiting:
                return
            yield _result(waiting.popleft())


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


class _SentStore:
    """What the object store has of one activation store: its network and data, its activations."""

    def __init__(self, source: worker.Source) -> None:
        self.source = source
        # by what the store has of a site: where it forgets that, the chunks are let go
        self._published: WeakKeyDictionary[CachedSite, tuple[Site, Chunks]] = WeakKeyDictionary()
        self._last_sent: dict[Site, tuple[ray.ObjectRef, ...]] | None = None

    def chunks(self, store: ActivationStore, sites: Sequence[Site]) -> ray.ObjectRef:
        """Where the activations are that the store has of these sites, and of others."""
        for site in sites:
            kept = store.site_cache(site)
            _publish(kept, self._published.setdefault(kept, (site, []))[1])
        now = {
            site: tuple(chunk for _, chunk in chunks) for site, chunks in self._published.values()
        }
        if now != self._last_sent:
            self._last_sent, self._chunks = now, _put(now)
        return self._chunks


def _publish(kept: CachedSite, chunks: Chunks) -> None:
    """Put what was captured since into the object store.

    A chunk takes in those before it that are not much larger, so there are few of them and each
    activation is sent a few times, whatever the steps in which it came to be there.
    """
    is_new = kept.filled.copy()
    for places, _ in chunks:
        is_new[places] = False
    new = np.flatnonzero(is_new)
    most = max(1, CHUNK_BYTES // max(1, kept.bytes_per_place))
    while chunks and len(chunks[-1][0]) < min(MERGED * len(new), most):
        if not kept.filled[chunks[-1][0]].all():  # the store has dropped them since
            break
        new = np.union1d(chunks.pop()[0], new)
    for start in range(0, len(new), most):
        places = new[start : start + most]
        values = kept.gather(torch.from_numpy(places))
        chunks.append((places, _put(pack_data((places, values)))))


def _sent_claim(evaluator: Evaluates) -> ray.ObjectRef:
    """What an evaluator is made of beside the network and the data."""
    store, own, metric = evaluator.store, evaluator.dataset, evaluator.metric
    dataset = own if own is store.dataset else _sendable(own)
    claim = (dataset, evaluator.hypothesis, metric, evaluator.batch_size)
    parts = {
        f"the metric {metric.name}": metric,
        "the hypothesis": evaluator.hypothesis,
        **_functions(own),
    }
    return _put(pack(claim, "the claim", worker.known_objects(store.graph, store.dataset), parts))


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
