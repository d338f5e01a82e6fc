"""Clean activations of dataset rows, captured once and gathered many times.

Rows of equal content share one place, and only rows that are asked for are ever captured.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.modules.module import register_module_forward_hook

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.company import UNPROVED, Sizes, amount_off, is_among, off_by, with_size
from pytest_scrub.engine.memory import Kept, Memory, Places
from pytest_scrub.errors import DataError, ModelError
from pytest_scrub.metrics import Metric
from pytest_scrub.network.graph import ModelGraph, Site, Where
from pytest_scrub.network.state import State
from pytest_scrub.swaps.swap_set import Rows, SwapSet
from pytest_scrub.tree.nodes import Node

Progress = Callable[[str, int, int, str], None]
"""Called with (what, done, total, how it stands) while something long runs."""

CAPTURE_BATCH = 256  # rows of one forward pass; larger ones gain nothing on CPU and cost memory
PROOF_ROWS = 16  # rows on which a graph's arithmetic is proved against the network
# rows that are run again for a later claim, to see whether the network still computes what is kept
PROBED = 8
COMPANIONS = 8  # rows of a batch that are run again in other company
COPIES_OF_A_RUN = 4  # of its largest activation that a forward pass has at the same time, about
# seconds of capturing after which processes that share a shelf look what the others have
EXCHANGE_EVERY = 0.5
FEWEST_SECONDS = 0.05  # of capturing that are worth a file

Filled = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.float64]
Fresh = Callable[[Sequence[Site], Places], dict[Site, Tensor]]
"""Captures sites anew at a few places, to compare what a shelf has with what the network
computes."""


class Shelf(Protocol):
    """Where the activations of one network on one dataset outlive the store."""

    def load(
        self, have: Mapping[Site, Filled | None], fresh: Fresh
    ) -> Iterator[tuple[Site, Places, Tensor]]:
        """What can be trusted of some sites, piece by piece, beyond the places where they are
        filled."""
        ...

    def keep(self, found: Mapping[Site, Kept]) -> None:
        """Keep these, the last used last. Never raises for what the file system cannot do."""
        ...


class Crew(Protocol):
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
        self, store: ActivationStore, batches: Sequence[tuple[Sequence[Site], npt.NDArray[np.intp]]]
    ) -> Iterator[dict[Site, Tensor]]:
        """The clean activations of each batch: these sites at these places of the store."""
        ...


class Evaluates(Protocol):
    """What a crew has to know of an evaluator to make another like it."""

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
    - `shelf`: makes the shelf where they are looked up before they are captured; by default there
      is none.
    - `turn`: which of how many processes this is that capture at the same time and share the shelf.
    - `crew`: who captures many of them, and evaluates many swaps; by default this process does.

    **Raises** `DataError` where they are on different devices, `ModelError` where the proof fails.
    """

    def __init__(
        self,
        graph: ModelGraph,
        dataset: Dataset,
        memory: Memory | None = None,
        shelf: Callable[[ModelGraph, Dataset, int], Shelf | None] | None = None,
        turn: tuple[int, int] = (0, 1),
        crew: Crew | None = None,
    ) -> None:
        self.graph, self.dataset, self.memory, self.crew = graph, dataset, memory or Memory(), crew
        self._turn = turn
        if (
            graph.device != dataset.device and graph.device.type != "cpu"
        ) or dataset.device.type != graph.device.type:
            raise DataError(
                f"the data is on {dataset.device} and the model on {graph.device}; move one of "
                f"them, for instance with Dataset.to({str(graph.device)!r})"
            )
        content = dataset.content
        self._row_of_place = np.unique(content, return_index=True)[1]
        self._place_of_row = torch.from_numpy(np.searchsorted(np.unique(content), content)).to(
            dataset.device
        )
        self._kept: OrderedDict[Site, Kept] = OrderedDict()
        self._version = graph.version()
        graph.require_usable(dataset.inputs)
        self._bytes_of_a_run = self._proved()
        self._state = State(graph)  # after a run, at which some networks make what they keep
        self._alone: dict[Site, Sizes] = {}
        self._unshared = 0.0  # seconds of capturing that no other process knows of
        self._shelf = None if shelf is None else shelf(graph, dataset, len(self._row_of_place))

    def beside(self, graph: ModelGraph, dataset: Dataset) -> ActivationStore:
        """A store of another network or other data that shares this one's memory and crew."""
        return ActivationStore(graph, dataset, self.memory, crew=self.crew)

    def _proved(self) -> int:
        """Prove the graph's arithmetic. **Returns** the bytes of the largest activation of a row
        that was seen."""
        largest, rows = 0, np.arange(min(PROOF_ROWS, len(self.dataset)))

        def see(module: Any, inputs: Any, output: Any) -> None:
            nonlocal largest
            if isinstance(output, Tensor):
                largest = max(largest, output.numel() * output.element_size())

        with torch.no_grad(), register_module_forward_hook(see):
            self.graph.prove(self.dataset.batch(rows))
        return largest // len(rows)

    @cached_property
    def digest(self) -> str:
        """The graph's, taken once: where a claim begins the network is what it was, or has another
        store."""
        return self.graph.digest()

    def current(self, graph: ModelGraph, dataset: Dataset) -> ActivationStore:
        """This store where the network is as it was, or else an empty one of the network as it is.

        **Raises** `ModelError` or `DataError` where it is the store of another network or of other
        data.
        """
        if dataset is not self.dataset:
            raise DataError(
                "store= has activations of another dataset; leave store= out, or give the one it "
                "is of"
            )
        parts = graph.computing()
        if graph is not self.graph and (parts is None or parts != self.graph.computing()):
            raise ModelError(
                "store= has activations of another network; leave store= out, or give the one it "
                "is of"
            )
        return self if not self.is_stale() else self.beside(self.graph.again(), dataset)

    def is_stale(self) -> bool:
        """Whether the network is another one than when this store was made, however it was changed.

        Reads the weights once; costs more than a claim's batches, less than its captures.
        """
        return not (self._state.is_current() and self._computes_what_is_kept())

    def _computes_what_is_kept(self) -> bool:
        """Whether a run on a few rows gives what is kept of them: what cannot be seen may have been
        changed too."""
        filled = [kept.filled for kept in self._kept.values()]
        there = (
            np.flatnonzero(np.logical_or.reduce(filled)) if filled else np.empty(0, dtype=np.intp)
        )
        if not len(there):
            return True
        places = np.unique(there[np.linspace(0, len(there) - 1, PROBED).astype(np.intp)])
        sites = [site for site, kept in self._kept.items() if kept.filled[places].any()]
        for site, values in self.run(sites, places).items():
            at = np.flatnonzero(self._kept[site].filled[places])
            own = self._kept[site].gather(torch.from_numpy(places[at]).to(self.dataset.device))
            if off_by(values[torch.from_numpy(at).to(values.device)], own, own):
                return False
        return True

    def _is_touched(self) -> bool:
        """Whether torch noticed that a weight was changed since, even where it is what it was
        again."""
        return self.graph.version() != self._version

    def inputs(self, rows: Tensor) -> dict[str, Tensor]:
        """The model inputs of int64 `[B]` rows."""
        return {name: tensor[rows] for name, tensor in self.dataset.inputs.items()}

    def take(self, site: Site, rows: Tensor, where: Where) -> Tensor:
        """The site's activation on rows that `ensure` has seen, at `where` if the site keeps all
        positions."""
        places = self._place_of_row.index_select(0, rows)
        if site.positions is not None or where is None:
            return self._kept[site].gather(places)
        return self._kept[site].gather(places, where if where.ndim == 1 else where.clamp(min=0))

    def kept(self, site: Site) -> Kept:
        """What there is of a site that `ensure` has seen."""
        return self._kept[site]

    def ensure(
        self, sites: Sequence[Site], rows: npt.NDArray[np.int64], progress: Progress | None = None
    ) -> None:
        """Capture what is missing of `sites` on `rows`, in as few forward passes as possible.

        **Raises** `ModelError` where they are not finite, or have no room.
        """
        wanted = np.zeros(len(self._row_of_place), dtype=np.bool_)
        wanted[self._place_of_row.cpu().numpy()[rows]] = True
        todo = self._missing(sites, wanted)
        if len(todo):
            self._look_up(sites)
            todo = self._missing(sites, wanted)
        total = len(todo)
        self.memory.need([self._use(site) for site in sites if site in self._kept])
        for places, captured in self._captured(sites, todo):
            self._require_finite(captured, places)
            self._prove_alone(captured, places)
            self._put_in(captured, places)
            if progress is not None:
                progress("clean activations", total - len(self._missing(sites, wanted)), total, "")
        self._share(sites, FEWEST_SECONDS)

    def _use(self, site: Site) -> Kept:
        self._kept.move_to_end(site)
        return self._kept[site]

    def _missing(self, sites: Sequence[Site], wanted: Filled) -> Places:
        """Places that are wanted and not there, ascending."""
        there = [
            self._kept[site].filled if site in self._kept else np.zeros_like(wanted)
            for site in sites
        ]
        return (
            np.flatnonzero(wanted & ~np.logical_and.reduce(there))
            if there
            else np.empty(0, dtype=np.intp)
        )

    def _captured(
        self, sites: Sequence[Site], todo: Places
    ) -> Iterator[tuple[Places, dict[Site, Tensor]]]:
        """Batches of what is to do, as they are captured; what others capture meanwhile is left to
        them."""
        size = CAPTURE_BATCH if self.crew is not None else self._rows_at_once(sites)
        batches = deque(todo[start : start + size] for start in range(0, len(todo), size))
        if self.crew is not None and len(batches) > 1:
            runs = self.crew.captured(
                self, [(self._incomplete(sites, places), places) for places in batches]
            )
            yield from zip(batches, runs, strict=True)
            return
        nth, of = self._turn
        # those that share a shelf begin at different ends
        batches.rotate(-(len(batches) * nth // of))
        while batches:
            places, size = batches.popleft(), self._rows_at_once(sites)
            if len(places) > size:  # known only once something was captured
                batches.appendleft(places[size:])
                places = places[:size]
            started = time.monotonic()
            yield places, self._capture(sites, places)
            self._unshared += time.monotonic() - started
            if self._share(sites, EXCHANGE_EVERY):
                self._look_up(sites)
                there = np.logical_and.reduce([self._kept[site].filled for site in sites])
                batches = deque(left for places in batches if len(left := places[~there[places]]))

    def _rows_at_once(self, sites: Sequence[Site]) -> int:
        if self.memory.limit is None:
            return CAPTURE_BATCH
        known = [self.bytes_per_row(site) for site in sites if site in self._kept]
        largest = max([self._bytes_of_a_run, *known])
        unknown = (len(sites) - len(known)) * (max(known) if known else largest)
        per_row = COPIES_OF_A_RUN * largest + sum(known) + unknown
        return max(
            1, min(CAPTURE_BATCH, self.memory.batch_bytes(self.graph.device) // max(1, per_row))
        )

    def _share(self, sites: Sequence[Site], seconds: float) -> bool:
        """Put on the shelf what took longer than this to capture, for processes that share it."""
        if self._turn[1] == 1 or self._unshared < seconds:
            return False
        self.keep(sites)
        self._unshared = 0.0
        return True

    def keep(self, sites: Sequence[Site] | None = None) -> None:
        """Put on the shelf what was captured since, of these sites or of all, unless the network or
        the data were changed."""
        if self._shelf is None or self._is_touched() or self.dataset.is_changed:
            return
        some = [site for site in self._kept if sites is None or site in sites]
        new = {
            site: self._kept[site]
            for site in some
            if (self._kept[site].filled & ~self._kept[site].shelved).any()
        }
        if new and self._state.is_current():
            self._shelf.keep(new)

    def _look_up(self, sites: Sequence[Site]) -> None:
        if self._shelf is None or self._is_touched():
            return
        have = {site: self._kept[site].filled if site in self._kept else None for site in sites}
        for site, places, values in self._shelf.load(have, self._fresh):
            kept = self._room_for(site, values)
            new = ~kept.filled[places]
            kept.put(places[new], values[torch.from_numpy(new)])
            kept.shelved[places] = True

    def _fresh(self, sites: Sequence[Site], places: Places) -> dict[Site, Tensor]:
        parts = [
            self.run(sites, places[at : at + CAPTURE_BATCH])
            for at in range(0, len(places), CAPTURE_BATCH)
        ]
        return {site: torch.cat([part[site] for part in parts]) for site in sites}

    def run(self, sites: Sequence[Site], places: Places) -> dict[Site, Tensor]:
        """The sites' activations at some places, computed anew."""
        with torch.no_grad():
            return self.graph.capture(sites, self.dataset.batch(self._row_of_place[places]))

    def _incomplete(self, sites: Sequence[Site], places: Places) -> list[Site]:
        return [
            site
            for site in sites
            if site not in self._kept or not self._kept[site].filled[places].all()
        ]

    def _capture(self, sites: Sequence[Site], places: Places) -> dict[Site, Tensor]:
        return self.run(self._incomplete(sites, places), places)

    def _require_finite(self, captured: Mapping[Site, Tensor], places: Places) -> None:
        rows = self._row_of_place[places]
        for site, values in captured.items():
            if values.is_floating_point() and not values.isfinite().all():
                bad = int((~values.isfinite().reshape(len(values), -1).all(1)).nonzero()[0])
                raise ModelError(
                    f"the {site} is NaN or infinite on row {int(rows[bad])} "
                    f"({self.dataset.show(int(rows[bad]))}); take the row out, or mend the weights"
                )

    def _prove_alone(self, captured: Mapping[Site, Tensor], places: Places) -> None:
        """Rows of a captured batch have the same activations alone, and among few, in another order
        and number.

        One row may be like the mean of all; two, and a mean that counts one more often, are not.
        Once for each site, and for batches that are smaller or larger. **Raises** `ModelError`
        naming the site.
        """
        sites = [
            site for site in captured if not is_among(len(places), self._alone.get(site, UNPROVED))
        ]
        if not sites:
            return
        few = np.unique(
            np.linspace(0, len(places) - 1, min(COMPANIONS, len(places))).astype(np.intp)
        )[::-1]
        stranger = np.setdiff1d(np.arange(len(self._row_of_place)), places[few])[-1:]
        first, last, most = few[:1], few[-1:], few[: max(1, len(few) - 2)]
        company = np.concatenate([stranger, np.repeat(places[first], len(few) - len(most))])
        for some, beside in ((first, stranger[:0]), (last, stranger[:0]), (most, company)):
            again = self.run(sites, np.concatenate([places[some], beside]))
            for site in sites:
                index = torch.from_numpy(some.copy()).to(captured[site].device)
                values, whole = again[site][: len(some)], captured[site]
                off = (
                    off_by(values.to(whole.device), whole[index], whole)
                    if len(whole) == len(places)
                    else math.inf
                )
                if off:
                    self._raise_in_company(site, places, len(some) + len(beside), off)
        self._alone |= {
            site: with_size(len(places), self._alone.get(site, UNPROVED)) for site in sites
        }

    def _raise_in_company(self, site: Site, places: Places, few: int, off: float) -> NoReturn:
        source = self.graph.source
        once, again = (self.run([site], places)[site] for _ in range(2))
        if off_by(once, again, again):
            raise ModelError(
                f"{source}: the {site} differs between two runs on the same inputs; make it "
                "deterministic"
            )
        raise ModelError(
            f"{source}: the {site} of a row depends on the rows beside it: in a batch of "
            f"{len(places)} it differs {amount_off(off)} from a batch of {few}; let the network "
            "compute each row by itself (no mean, sort or norm over the batch, nothing that "
            "depends on its size)"
        )

    def _put_in(self, captured: Mapping[Site, Tensor], places: Places) -> None:
        rows = self._row_of_place[places]
        for site, values in captured.items():
            kept = self._room_for(site, values)
            if kept.values.shape[1:] != values.shape[1:]:
                raise ModelError(
                    f"the {site} has another shape on row {int(rows[0])} than on the rows before it"
                )
            missing = ~kept.filled[places]  # what is there stays: no figure changes on the way
            kept.put(places[missing], values[torch.from_numpy(missing).to(values.device)])

    def _room_for(self, site: Site, like: Tensor) -> Kept:
        kept = self._kept.get(site)
        if kept is None or not len(kept.values):
            kept = self._kept[site] = self.memory.new(
                len(self._row_of_place), like.to(self.dataset.device)
            )
        return kept

    def bytes(self) -> int:
        """What the kept activations take."""
        return sum(kept.bytes for kept in self._kept.values())

    def bytes_per_row(self, site: Site) -> int:
        """What one row of a captured site takes."""
        return self._kept[site].bytes_per_place
