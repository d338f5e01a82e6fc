"""Clean activations of dataset rows, captured once and gathered many times.

Rows of equal content share one place, and only rows that are asked for are ever captured.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.memory import CachedSite, Memory, Places
from pytest_scrub.engine.row_independence import (
    ProvedSizes,
    difference_in_words,
    relative_difference,
)
from pytest_scrub.engine.stateless import require_stateless
from pytest_scrub.errors import DataError, ModelError, NotASumError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import as_graph
from pytest_scrub.network.graph import ModelGraph, Site, Where
from pytest_scrub.network.state import State
from pytest_scrub.swaps.swap_set import Mask, Numbers, Rows, SwapSet
from pytest_scrub.tree.nodes import Node

Progress = Callable[[str, int, int, str], None]
"""Called with (what, done, total, how it stands) while something long runs."""

# Rows of one forward pass; larger ones gain nothing on CPU and cost memory.
CAPTURE_BATCH = 256
# Rows that are run again for a later claim, to see whether the network still computes what is kept.
PROBE_ROWS = 8
# Rows of a batch that are run again beside other rows.
RERUN_ROWS = 8
# About how many tensors as large as its largest activation a forward pass has at the same time.
COPIES_OF_A_RUN = 4
# Seconds of capturing after which processes that share a disk cache look what the others have.
EXCHANGE_EVERY = 0.5
# Seconds of capturing that are worth a file.
FEWEST_SECONDS = 0.05

Fresh = Callable[[Sequence[Site], Places], dict[Site, Tensor]]
"""Captures sites anew at a few places, to compare what a disk cache has with what the network
computes."""


class DiskCache(Protocol):
    """Where the activations of one network on one dataset outlive the store."""

    def load(
        self, have: Mapping[Site, Mask], fresh: Fresh
    ) -> Iterator[tuple[Site, Places, Tensor]]:
        """What can be trusted of some sites, piece by piece, beyond the places where they are
        filled."""
        ...

    def keep(self, found: Mapping[Site, CachedSite]) -> None:
        """Keep these, the last used last. Never raises for what the file system cannot do."""
        ...


class Executor(Protocol):
    """Others who take work off this process. They do pieces of it in any order, and give what they
    came to in the order of the pieces.

    What a piece raises here it raises there: `ScrubError`s of the network, the data and the claim
    reach the caller as themselves.
    """

    def scrubbed(self, evaluator: Evaluates, shards: Sequence[SwapSet]) -> Iterator[Numbers]:
        """The scrubbed metric of the references of each shard; the store has their clean
        activations."""
        ...

    def unscrubbed(self, evaluator: Evaluates, shards: Sequence[Rows]) -> Iterator[Numbers]:
        """The clean metric of the references of each shard; the store has their clean
        activations."""
        ...

    def captured(
        self, store: ActivationStore, batches: Sequence[tuple[Sequence[Site], Places]]
    ) -> Iterator[dict[Site, Tensor]]:
        """The clean activations of each batch: these sites at these places of the store."""
        ...


class Evaluates(Protocol):
    """What an executor has to know of an evaluator to make another like it."""

    store: ActivationStore
    dataset: Dataset
    hypothesis: Node
    metric: Metric
    batch_size: int | None

    @property
    def sites(self) -> tuple[Site, ...]:
        """The clean activations that the scrubbed metric reads."""
        ...

    @property
    def clean_sites(self) -> tuple[Site, ...]:
        """Those that the clean metric reads."""
        ...


class ActivationStore:
    """The clean activations of one network on one dataset.

    **Arguments**

    - `graph`, `dataset`: the network, which is proved on the first rows, and the inputs.
    - `memory`: what activations may take there, together with those of other stores; by default
      there is no limit.
    - `disk_cache`: makes the disk cache where they are looked up before they are captured; by
      default there is none.
    - `turn`: which of how many processes this is that capture at the same time and share the disk
      cache.
    - `executor`: who captures many of them, and evaluates many swaps; by default this process does.

    **Raises** `DataError` where they are on different devices, `ModelError` where the proof fails.
    """

    def __init__(
        self,
        graph: ModelGraph,
        dataset: Dataset,
        memory: Memory | None = None,
        disk_cache: Callable[[ModelGraph, Dataset, int], DiskCache | None] | None = None,
        turn: tuple[int, int] = (0, 1),
        executor: Executor | None = None,
    ) -> None:
        self.graph, self.dataset, self.executor = graph, dataset, executor
        self.memory = memory or Memory()
        self._turn = turn
        self._model: Any = graph  # what was seen to be this network
        kinds = dataset.device.type, graph.device.type
        if kinds != ("cpu", "cpu") and dataset.device != graph.device:
            raise DataError(
                f"the data is on {dataset.device} and the model on {graph.device}; move one of "
                f"them, for instance with Dataset.to({str(graph.device)!r})"
            )
        _, self._row_of_place, place_of_row = np.unique(
            dataset.content, return_index=True, return_inverse=True
        )
        self._place_of_row = torch.from_numpy(place_of_row).to(dataset.device)
        self._is_row_its_place = bool((place_of_row == np.arange(len(place_of_row))).all())
        self._looked_up: tuple[Tensor, Tensor] | None = None
        self._kept: dict[Site, CachedSite] = {}
        self.examples: dict[Site, Tensor] = {}  # of the first row, for their shapes and types
        # of the sites that were last asked for, the places where all of them are
        self._there: tuple[Sequence[Site], Mask] | None = None
        self._version = graph.version()
        graph.require_usable(dataset.inputs)
        self._bytes_of_a_run = self._proved()
        # after a run, at which some networks make what they keep
        self._state = State(graph)
        self._proved_sizes: defaultdict[Site, ProvedSizes] = defaultdict(ProvedSizes)
        self._unshared = 0.0  # seconds of capturing that no other process knows of
        self._disk_cache = (
            None if disk_cache is None else disk_cache(graph, dataset, len(self._row_of_place))
        )

    @classmethod
    def of(cls, graph: ModelGraph, dataset: Dataset, *more: Any, **named: Any) -> ActivationStore:
        """The store of a network that is read along every path where its parts do not sum on the
        dataset's rows; `more` as above."""
        try:
            return cls(graph, dataset, *more, **named)
        except NotASumError as error:
            return cls(graph.along_every_path(error), dataset, *more, **named)

    def for_dataset(self, graph: ModelGraph, dataset: Dataset) -> ActivationStore:
        """A store of another network or other data that shares this one's memory and executor."""
        return ActivationStore(graph, dataset, self.memory, executor=self.executor)

    def _proved(self) -> int:
        """Prove the graph's arithmetic. **Returns** the bytes of the largest activation of a row
        that was seen."""
        sizes, rows = [0], self.graph.proof_rows(self.dataset.inputs)

        def see(module: Any, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                sizes.append(output.numel() * output.element_size())

        with torch.no_grad(), register_module_forward_hook(see):
            self.graph.prove(self.dataset.batch(rows), rows)
        return max(sizes) // len(rows)

    @cached_property
    def multiplications_of_a_run(self) -> float:
        """How many numbers a clean forward pass of one input multiplies in matrix products."""
        from pytest_scrub.engine.multiplications import multiplications_of

        inputs = self.dataset.batch(np.zeros(1, dtype=np.int64))
        # Plain functions may multiply no matrices: then one operation for every component and
        # number of the input.
        numbers = sum(tensor[0].numel() for tensor in self.dataset.inputs.values())
        multiplied = multiplications_of(lambda: self.graph.run(inputs))
        return multiplied or float(numbers * len(self.graph.components))

    # Whether the network is what it was -----------------------------------------------------------

    @cached_property
    def digest(self) -> str:
        """The graph's, taken once: where a claim begins the network is what it was, or has another
        store."""
        return self.graph.digest()

    def current(self, model: Any, dataset: Dataset) -> ActivationStore:
        """This store where the network is as it was, or else an empty one of the network as it is.

        A network that was seen to be this one is not taken apart again while it is as it was.

        **Raises** `ModelError` or `DataError` where it is the store of another network or of other
        data.
        """
        if dataset is not self.dataset:
            raise DataError(
                "store= has activations of another dataset; leave store= out, or give the one it "
                "is of"
            )
        is_stale = self.is_stale()
        if model is self._model and not is_stale:
            return self
        graph = as_graph(model)
        parts = graph.computed_by_objects()
        if graph is not self.graph and (parts is None or parts != self.graph.computed_by_objects()):
            raise ModelError(
                "store= has activations of another network; leave store= out, or give the one it "
                "is of"
            )
        self._model = model
        if not is_stale:
            return self
        return self.of(graph.rebuilt(), dataset, self.memory, executor=self.executor)

    def is_stale(self) -> bool:
        """Whether the network is another one than when this store was made, however it was changed.

        Reads the weights once, and runs a few of the rows of which there are activations, since
        what cannot be seen may have been changed too. Costs more than a claim's batches, less than
        its captures.
        """
        if not self._state.is_current():
            return True
        there = np.flatnonzero(np.logical_or.reduce([kept.filled for kept in self._kept.values()]))
        if not len(there):
            return False
        places = there[evenly_spread(len(there), PROBE_ROWS)]
        sites = [site for site, kept in self._kept.items() if kept.filled[places].any()]
        for site, values in self.run(sites, places).items():
            at = self._kept[site].filled[places]
            index = torch.from_numpy(places[at]).to(self.dataset.device)
            own = self._kept[site].gather(index)
            if relative_difference(values[at], own, own, jumps=self.graph.jumps(site)):
                return True
        return False

    def require_stateless(self) -> None:
        """**Raises** `ModelError` where the network keeps something of its runs since this store
        was made; costs next to nothing where it holds what it held."""
        require_stateless(self.graph, self.dataset, self._state)

    def _weights_changed(self) -> bool:
        """Whether torch noticed that a weight was changed since, even where it is what it was
        again."""
        return self.graph.version() != self._version

    # What evaluators take -------------------------------------------------------------------------

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        """The model inputs of int64 `[B]` rows."""
        return self.dataset.batch(rows)

    @property
    def input_names(self) -> Collection[str]:
        """What the model inputs are called."""
        return self.dataset.inputs.keys()

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        """The site's activation on rows that `ensure` has seen, at `where` if the site keeps all
        positions; `[B, K]` rows give one position each."""
        if self._looked_up is None or rows is not self._looked_up[0]:
            # many sites are taken on the very same rows
            self._looked_up = rows, self._places(rows)
        at = where if site.positions is None else None
        if rows.ndim == 2 and site.positions is not None:
            kept = site.where(rows.device)
            assert kept is not None
            assert where is not None
            at = (where.unsqueeze(-1) == kept).int().argmax(-1)
        return self._kept[site].gather(self._looked_up[1], at)

    def _places(self, rows: Tensor) -> Tensor:
        if self._is_row_its_place:
            return rows
        of_row = self._place_of_row
        return of_row.index_select(0, rows) if rows.ndim == 1 else of_row[rows]

    def site_cache(self, site: Site) -> CachedSite:
        """What there is of a site that `ensure` has seen."""
        return self._kept[site]

    def bytes(self) -> int:
        """What the kept activations take."""
        return sum(kept.bytes for kept in self._kept.values())

    def bytes_per_row(self, site: Site) -> int:
        """What one row of a captured site takes."""
        return self._kept[site].bytes_per_place

    # Capturing ------------------------------------------------------------------------------------

    def ensure(self, sites: Sequence[Site], rows: Rows, progress: Progress | None = None) -> None:
        """Capture what is missing of `sites` on `rows`, in as few forward passes as possible.

        **Raises** `ModelError` where they are not finite, or have no room.
        """
        places = self._place_of_row.cpu().numpy()[rows]
        there = self._there if self.memory.limit is None else None  # then it stays where it is
        if there is not None and there[0] is sites and there[1][places].all():
            return
        wanted = np.zeros(len(self._row_of_place), dtype=np.bool_)
        wanted[places] = True
        todo = self._missing(sites, wanted)
        if len(todo):
            self._load(sites)
            todo = self._missing(sites, wanted)
        total, sized = len(todo), False
        self.memory.need([self._kept[site] for site in sites if site in self._kept])
        while len(todo):
            for places, captured in self._captured(sites, todo):
                self._require_finite(captured, places)
                self._prove_alone(captured, places)
                if not sized:
                    self._require_room(captured, total)
                sized = True
                for site, values in captured.items():
                    self._put(site, places, values)
                if progress is not None:
                    left = len(self._missing(sites, wanted))
                    progress("clean activations", total - left, total, "")
            if self._share(EXCHANGE_EVERY):
                self._load(sites)
            todo = self._missing(sites, wanted)
        self._share(FEWEST_SECONDS)
        everywhere = np.ones(len(self._row_of_place), dtype=np.bool_)
        self._there = sites, np.logical_and.reduce([everywhere, *map(self._filled, sites)])

    def _require_room(self, captured: Mapping[Site, Tensor], rows: int) -> None:
        each = {site: bytes_of_a_row(values) for site, values in captured.items()}
        largest = max(each, key=each.__getitem__, default=None)
        what = f"the clean activations of {rows} rows (most of them the {largest})"
        self.memory.require_room(rows * sum(each.values()), what, self.dataset.device)

    def _filled(self, site: Site) -> Mask:
        """`[places]`: where a site is there."""
        if site in self._kept:
            return self._kept[site].filled
        return np.zeros(len(self._row_of_place), dtype=np.bool_)

    def _missing(self, sites: Sequence[Site], wanted: Mask) -> Places:
        """Places that are wanted and where not all sites are there, ascending."""
        return np.flatnonzero(wanted & ~np.logical_and.reduce([*map(self._filled, sites)]))

    def _incomplete(self, sites: Sequence[Site], places: Places) -> list[Site]:
        return [site for site in sites if not self._filled(site)[places].all()]

    def _captured(
        self, sites: Sequence[Site], todo: Places
    ) -> Iterable[tuple[Places, dict[Site, Tensor]]]:
        """Batches of what is to do, as they are captured: all of them where an executor does it, or
        the next one."""
        if self.executor is not None and len(todo) > CAPTURE_BATCH:
            batches = np.split(todo, range(CAPTURE_BATCH, len(todo), CAPTURE_BATCH))
            asked = [(self._incomplete(sites, places), places) for places in batches]
            return zip(batches, self.executor.captured(self, asked), strict=True)
        size, (nth, of) = self._rows_at_once(sites), self._turn
        # Processes that share a disk cache begin at different places.
        start = len(todo) // size * nth // of * size
        places = todo[start : start + size]
        started = time.monotonic()
        captured = self._capture(sites, places)
        self._unshared += time.monotonic() - started
        return [(places, captured)]

    def _capture(self, sites: Sequence[Site], places: Places) -> dict[Site, Tensor]:
        return self.run(self._incomplete(sites, places), places)

    def run(self, sites: Sequence[Site], places: Places) -> dict[Site, Tensor]:
        """The sites' activations at some places, computed anew."""
        with torch.no_grad():
            return self.graph.capture(sites, self.dataset.batch(self._row_of_place[places]))

    def _rows_at_once(self, sites: Sequence[Site]) -> int:
        if self.memory.limit is None:
            return CAPTURE_BATCH
        known = [self.bytes_per_row(site) for site in sites if site in self._kept]
        largest = max([self._bytes_of_a_run, *known])
        unknown = (len(sites) - len(known)) * max(known, default=largest)
        per_row = max(1, COPIES_OF_A_RUN * largest + sum(known) + unknown)
        return max(1, min(CAPTURE_BATCH, self.memory.batch_bytes(self.graph.device) // per_row))

    def _require_finite(self, captured: Mapping[Site, Tensor], places: Places) -> None:
        for site, values in captured.items():
            if values.is_floating_point() and not values.isfinite().all():
                bad = int((~values.isfinite().reshape(len(values), -1).all(1)).nonzero()[0])
                row = int(self._row_of_place[places[bad]])
                raise ModelError(
                    f"the {site} is NaN or infinite on row {row} ({self.dataset.show(row)}); take "
                    "the row out, or mend the weights"
                )

    def _prove_alone(self, captured: Mapping[Site, Tensor], places: Places) -> None:
        """Rows of a captured batch have the same activations alone, and among few, in another order
        and number.

        One row may be like the mean of all; two, and a mean that counts one more often, are not.
        Once for each site, and for batches that are smaller or larger. **Raises** `ModelError`
        naming the site.
        """
        size = len(places)
        sites = [site for site in captured if size not in self._proved_sizes[site]]
        if not sites:
            return
        few = evenly_spread(size, RERUN_ROWS)[::-1].copy()
        most = few[: max(1, len(few) - 2)]
        last = np.arange(len(self._row_of_place))[-len(few) - 1 :]
        another = np.setdiff1d(last, places[few])[-1:]
        others = [*another, *np.repeat(places[few[:1]], len(few) - len(most))]
        for some, beside in ((few[:1], []), (few[-1:], []), (most, others)):
            again = self.run(sites, np.array([*places[some], *beside]))
            for site in sites:
                mine, whole = again[site][: len(some)], captured[site]
                off = (
                    relative_difference(mine, whole[some], whole, jumps=self.graph.jumps(site))
                    if len(whole) == size
                    else math.inf
                )
                if off:
                    self._refuse_dependence(site, places, len(some) + len(beside), off)
        for site in sites:
            self._proved_sizes[site].add(size)

    def _refuse_dependence(self, site: Site, places: Places, few: int, off: float) -> NoReturn:
        once, again = (self.run([site], places)[site] for _ in range(2))
        if relative_difference(once, again, again):
            raise ModelError(
                f"{self.graph.source}: the {site} differs between two runs on the same inputs; "
                "make it deterministic"
            )
        raise ModelError(
            f"{self.graph.source}: the {site} of a row depends on the rows beside it: in a batch "
            f"of {len(places)} it differs {difference_in_words(off)} from a batch of {few}; let "
            "the network compute each row by itself (no mean, sort or norm over the batch, nothing "
            "that depends on its size)"
        )

    def _put(self, site: Site, places: Places, values: Tensor) -> None:
        """Keep what is not there yet; what is there stays: no figure changes on the way."""
        kept = self._kept.get(site)
        if kept is None or not len(kept.values):
            like = values.to(self.dataset.device)
            kept = self._kept[site] = self.memory.new(len(self._row_of_place), like)
        if kept.values.shape[1:] != values.shape[1:]:
            raise ModelError(
                f"the {site} has another shape on row {int(self._row_of_place[places[0]])} than on "
                "the rows before it"
            )
        missing = ~kept.filled[places]
        kept.put(places[missing], values[missing])

    # What outlives the store ----------------------------------------------------------------------

    def keep(self) -> None:
        """Put into the disk cache what was captured since, unless the network or the data were
        changed."""
        if self._disk_cache is None or self._weights_changed() or self.dataset.is_changed:
            return
        last_used_last = sorted(self._kept.items(), key=lambda entry: entry[1].used)
        new = {site: kept for site, kept in last_used_last if (kept.filled & ~kept.on_disk).any()}
        if new and self._state.is_current():
            self._disk_cache.keep(new)

    def _share(self, seconds: float) -> bool:
        """Put into the disk cache what took longer than this to capture, for processes that share
        it."""
        if self._turn[1] == 1 or self._unshared < seconds:
            return False
        self.keep()
        self._unshared = 0.0
        return True

    def _load(self, sites: Sequence[Site]) -> None:
        if self._disk_cache is None or self._weights_changed():
            return
        have = {site: self._filled(site) for site in sites}
        for site, places, values in self._disk_cache.load(have, self._fresh):
            self._put(site, places, values)
            self._kept[site].on_disk[places] = True

    def _fresh(self, sites: Sequence[Site], places: Places) -> dict[Site, Tensor]:
        batches = np.split(places, range(CAPTURE_BATCH, len(places), CAPTURE_BATCH))
        parts = [self.run(sites, some) for some in batches]
        return {site: torch.cat([part[site] for part in parts]) for site in sites}


def bytes_of_a_row(values: Tensor) -> int:
    """What each row of activations takes."""
    return values.numel() * values.element_size() // max(1, len(values))


def evenly_spread(count: int, most: int) -> Places:
    """At most `most` of the numbers below `count`, the first and the last among them, ascending."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.intp))
