"""The evaluator: the metric of a swap set, as a pure function of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pytest_scrub.common.calls import as_plain, is_whole, shown
from pytest_scrub.common.user_code import called
from pytest_scrub.data.dataset import Dataset, Positions
from pytest_scrub.engine.checks import check, require_floating
from pytest_scrub.engine.company import UNPROVED, amount_off, is_among, off_by, with_size
from pytest_scrub.engine.plan import Step, compile_plan
from pytest_scrub.engine.slopes import Slope, Take, WatchedStore, joined
from pytest_scrub.engine.store import ActivationStore, Progress
from pytest_scrub.errors import DataError, HypothesisError, ModelError, said_at
from pytest_scrub.metrics import Batch, Metric, as_metric, is_real, kind_of
from pytest_scrub.network.graph import Clean, ModelGraph, Site, Stages, Where, at_rows, select
from pytest_scrub.network.precision import rounding_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ROOT, Node

# References in one piece of work for a crew. The last digits of a figure depend on what is computed
# together, so a piece has one size, however many there are to do them. Handing one over costs about
# two milliseconds: a few hundred sums of cached activations take longer, and so does a handful of
# reruns of a network.
SHARD = 256
SHARD_OF_RERUNS = 32
FLOAT64_BYTES = 8
Result = TypeVar("Result")
COPIES = 8  # a value, its difference, its sum, its norm, ...: how many of each are alive at once
MOST_COLUMNS = 8192
CACHE_BYTES = 1 << 25  # a batch is faster where it stays in a processor's caches, about
# but not where large weights, such as an unembedding, are read for a few references only
FEWEST_COLUMNS = 128
COLUMNS_OF_A_RERUN = 256  # a rerun network holds far more than the values that a claim names


@dataclass(frozen=True)
class _Swaps:
    """One batch of a swap set on the device."""

    references: Tensor
    donors: Tensor
    takes: list[Take] | None = None  # what is gathered, where its gradient is wanted

    def rows(self, slot: int | None) -> Tensor:
        return self.references if slot is None else self.donors[slot]


class Evaluator:
    """Evaluates the swap sets of one hypothesis on one network, dataset and metric.

    Any swap set of its slots and rows is evaluated; `space.check` says whether the claim allows it.
    Kept while the network is changed, it goes on with what it captured before: make a new one.

    **Arguments**

    - `graph`: the network.
    - `dataset`: inputs, labels and features.
    - `hypothesis`: the root of the tree.
    - `metric`: a `Metric`, a function of (output, batch), or None for cross-entropy.
    - `store`: clean activations to share with other evaluators of the same network and dataset.
    - `batch_size`: columns evaluated at once; by default what fits in memory. Figures do not depend
      on it.
    - `progress`: called with (what, done, total).

    **Raises** `HypothesisError`, `DataError` or `ModelError` for what static checks can find.
    """

    def __init__(
        self,
        graph: ModelGraph,
        dataset: Dataset,
        hypothesis: Node,
        metric: Metric | Callable[[Tensor, Batch], Tensor] | None = None,
        *,
        store: ActivationStore | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        batch_size = as_plain(batch_size)
        if batch_size is not None and not is_whole(batch_size, 1, math.inf):
            raise HypothesisError(
                f"batch_size= is a whole number of at least 1, not {shown(batch_size)}"
            )
        self.graph, self.dataset, self.hypothesis = graph, dataset, hypothesis
        self.metric = as_metric(metric)
        self.space = SwapSpace(hypothesis, dataset)
        self.store = ActivationStore(graph, dataset) if store is None else store
        if self.store.graph is not graph:
            raise ModelError(
                "store= has activations of another graph; make the evaluator of store.graph"
            )
        self.checked = check(graph, dataset, hypothesis, self.metric.pos)
        self.plan = compile_plan(hypothesis, self.checked)
        self._clean = graph.reader(ROOT, (), self.checked.output)
        self.batch_size, self.progress = batch_size, progress
        self._alone = UNPROVED
        self._read = np.zeros(int(dataset.content.max()) + 1, dtype=np.bool_)  # by content

    def on(self, dataset: Dataset) -> Evaluator:
        """The evaluator of the same hypothesis on other data."""
        return Evaluator(
            self.graph,
            dataset,
            self.hypothesis,
            self.metric,
            store=self.store.beside(self.graph, dataset),
        )

    def allowing(self, space: SwapSpace) -> Evaluator:
        """The same where other swaps of the same slots are allowed."""
        other = copy(self)
        other.space = space
        return other

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The clean activations that evaluating caches."""
        steps = [site for step in self.plan.walk() for site in step.sites]
        read = [site for step in self.plan.walk() if step.reader for site in step.reader.sites]
        return tuple(
            dict.fromkeys([*steps, *read, *(self.clean_sites if self.metric.needs_clean else ())])
        )

    @property
    def clean_sites(self) -> tuple[Site, ...]:
        """The clean activations that the unscrubbed metric reads."""
        return self._clean.sites

    @cached_property
    def carriers(self) -> tuple[int | None, ...]:
        """The slots whose rows are read; None = the references."""
        slots = {step.carrier for step in self.plan.walk() if step.node.computed_by is None}
        return tuple(slots | ({None} if self.metric.needs_clean else set()))

    # What swap sets give --------------------------------------------------------------------------

    def evaluate(self, swap_set: SwapSet) -> npt.NDArray[np.float64]:
        """The scrubbed metric of every reference, float64 `[R]`.

        **Raises** `DataError` where the swap set is not one of this hypothesis and dataset.
        """
        crew, size = self.store.crew, SHARD_OF_RERUNS if self._reruns else SHARD
        if crew is not None and len(swap_set) > size:  # a lone shard is done here as soon as there
            self._prepare(swap_set)
            shards = [swap_set[start : start + size] for start in range(0, len(swap_set), size)]
            return self._joined(crew.scrubbed(self, shards), len(swap_set), "scrubbed evaluations")
        parts = self._each_batch(swap_set, lambda swaps: self._scrubbed(swaps).cpu())
        return np.concatenate([part.numpy() for part in parts]) if parts else np.empty(0)

    def outputs(self, swap_set: SwapSet) -> Tensor:
        """The scrubbed output of every reference at the metric's positions, `[R, (K,) ...]`."""
        return torch.cat(self._each_batch(swap_set, self._output))

    def clean_outputs(self, references: npt.NDArray[np.int64]) -> Tensor:
        """The untouched network's output at the metric's positions, `[R, (K,) ...]`."""
        self.ensure(self._clean.sites, references)
        with torch.no_grad():
            return self._clean_output(torch.tensor(references, device=self.dataset.device))

    def unscrubbed(self, references: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The metric of the untouched network, float64 `[R]`; each distinct reference is computed
        once."""
        if not len(references):
            return np.empty(0)
        rows, back = np.unique(references, return_inverse=True)
        self.ensure(self._clean.sites, rows)
        crew = self.store.crew
        if crew is not None and len(rows) > SHARD:
            shards = [rows[start : start + SHARD] for start in range(0, len(rows), SHARD)]
            return self._joined(crew.unscrubbed(self, shards), len(rows), "unscrubbed evaluations")[
                back
            ]
        values = []
        size = self._columns(self._clean.sites)
        with torch.no_grad():
            for start in range(0, len(rows), size):
                batch = torch.from_numpy(rows[start : start + size]).to(self.dataset.device)
                values.append(self._metric(batch, self._clean_output(batch)).cpu().numpy())
        found: npt.NDArray[np.float64] = np.concatenate(values)[back]
        return found

    @cached_property
    def rounding(self) -> float:
        """How far off the metric may be, as a share of it."""
        return rounding_of(self.graph, self.clean_outputs(self.space.reference_rows[:1]))

    def slopes(self, swap_set: SwapSet) -> list[Slope]:
        """How the metric would change, to first order, with every clean activation that is
        gathered.

        A metric's stand-in, where it has one, is differentiated instead of it. Empty where nothing
        that is gathered has a gradient.

        **Raises** `ModelError` where a function overwrites what its gradient needs.
        """

        def differentiate(swaps: _Swaps) -> list[Slope]:
            watched = replace(swaps, takes=[])
            assert watched.takes is not None
            with torch.enable_grad():
                output = self._output(watched)
                total = self._metric(swaps.references, output, self.metric.to_rank_by).sum()
                if not total.requires_grad:
                    return []
                gradients = self._gradients(total, [take.value for take in watched.takes])
            return [
                take.slope(gradient)
                for take, gradient in zip(watched.takes, gradients, strict=True)
            ]

        batches = self._each_batch(swap_set, differentiate)
        return [joined(parts) for parts in zip(*batches, strict=True)] if all(batches) else []

    def _gradients(self, total: Tensor, values: Sequence[Tensor]) -> tuple[Tensor, ...]:
        try:
            return torch.autograd.grad(total, values, materialize_grads=True)
        except RuntimeError as error:
            if "inplace operation" not in str(error):
                raise
            raise ModelError(
                f"donors are ranked by a gradient, but {self.graph.source} or the metric "
                f"{self.metric.name} overwrites a tensor that its gradient needs; let it change a "
                "clone() instead, or leave WhichDonors() out"
            ) from error

    def gathered(self, slot: str, rows: npt.NDArray[np.int64]) -> Tensor | None:
        """What a leaf takes from each row, `[rows, (K,) ...]`; None for a slot that is no leaf,
        gives several activations, or is read where its parent's carrier says."""
        step = next((step for step in self.plan.walk() if step.path == slot), None)
        if step is None or len(step.sites) != 1:
            return None
        at = step.positions
        if (
            at is None
            and step.same
            and not (self.checked.output is None or self.checked.output.static)
        ):
            return None
        self.ensure(step.sites, rows)
        index = torch.tensor(rows, device=self.dataset.device)
        return self.store.take(step.sites[0], index, at_rows(at, index))

    @cached_property
    def stages(self) -> Stages | None:
        """How the output is made of a sum of contributions, where it is, at the same positions for
        every row."""
        fixed = all(step.positions is None or step.positions.static for step in self.plan.walk())
        fixed &= self.checked.output is None or self.checked.output.static
        return self.plan.reader.stages if self.plan.reader is not None and fixed else None

    def streams(self, swap_set: SwapSet) -> Tensor:
        """What the output is computed from, `[R, K, d_model]`; only where there are `stages`."""
        stages = self.stages
        assert stages is not None

        def stream(swaps: _Swaps) -> Tensor:
            carrier = swaps.rows(self.plan.carrier)
            where = at_rows(self.checked.output, carrier)
            return stages.stream(self.store, carrier, where, self._below(self.plan, swaps, where))

        return torch.cat(self._each_batch(swap_set, stream))

    def ranked(self, references: npt.NDArray[np.int64], output: Tensor) -> Tensor:
        """What candidates are ranked by, `[R]`: the metric, or its stand-in, of outputs that
        `unembed` gave."""
        rows = torch.tensor(references, device=self.dataset.device)
        return self._metric(rows, self._as_output(output), self.metric.to_rank_by)

    @property
    def rows_read(self) -> int:
        """How many different inputs this evaluator has read clean activations of, cached or not."""
        return int(self._read.sum())

    def ensure(self, sites: Sequence[Site], rows: npt.NDArray[np.int64]) -> None:
        """Have the clean activations of these sites and rows at hand."""
        self._read[self.dataset.content[rows]] = True
        self.store.ensure(sites, rows, self.progress)

    # The tree -------------------------------------------------------------------------------------

    def _prepare(self, swap_set: SwapSet) -> None:
        """Have the clean activations that a swap set gathers. **Raises** `DataError` where it is
        not one of ours."""
        self.space.require_own(swap_set)
        used = np.zeros(len(self.dataset), dtype=np.bool_)
        for slot in self.carriers:
            used[swap_set.references if slot is None else swap_set.donors[slot]] = True
        self.ensure(self.sites, np.flatnonzero(used))

    def _joined(
        self, parts: Iterator[npt.NDArray[np.float64]], total: int, what: str
    ) -> npt.NDArray[np.float64]:
        """What a crew gives, one after another, as one."""
        found: list[npt.NDArray[np.float64]] = []
        for part in parts:
            found.append(part)
            if self.progress is not None:
                self.progress(what, sum(map(len, found)), total, "")
        return np.concatenate(found)

    def _each_batch(self, swap_set: SwapSet, function: Callable[[_Swaps], Result]) -> list[Result]:
        self._prepare(swap_set)
        if not len(swap_set):
            return []
        results = []
        references = torch.from_numpy(swap_set.references.copy()).to(self.dataset.device)
        donors = torch.from_numpy(swap_set.donors.copy()).to(self.dataset.device)
        size = self.batch_size or self._columns(self.sites)
        with torch.no_grad():
            for start in range(0, len(references), size):
                batch = _Swaps(references[start : start + size], donors[:, start : start + size])
                results.append(function(batch))
                if self.progress is not None:
                    self.progress(
                        "scrubbed evaluations",
                        min(start + size, len(references)),
                        len(references),
                        "",
                    )
        return results

    def _columns(self, sites: Sequence[Site]) -> int:
        """How many references fit into one batch."""
        per_column = COPIES * (
            sum(self.store.bytes_per_row(site) for site in sites) + self._output_bytes
        )
        most = COLUMNS_OF_A_RERUN if self._reruns else MOST_COLUMNS
        if self.graph.device.type == "cpu":
            most = min(most, max(FEWEST_COLUMNS, CACHE_BYTES // max(per_column, 1)))
        return max(
            1, min(most, self.store.memory.batch_bytes(self.graph.device) // max(per_column, 1))
        )

    @cached_property
    def _reruns(self) -> bool:
        """Whether every evaluation reruns whole layers."""
        return any(step.reader is not None and step.reader.reruns for step in self.plan.walk())

    @cached_property
    def _output_bytes(self) -> int:
        """What one reference's output takes as the metric sees it, in float64."""
        clean, positions = self.checked.example(ROOT), self.checked.output
        read = 1.0 if positions is None else positions.index.shape[-1] / clean.shape[1]
        return int(read * clean[0].numel()) * FLOAT64_BYTES

    def _scrubbed(self, swaps: _Swaps) -> Tensor:
        self._require_as_many(
            "the output", self.checked.output, swaps.references, swaps.rows(self.plan.carrier)
        )
        output = self._output(swaps)
        values, size = self._metric(swaps.references, output), len(output)
        if size > 1 and not is_among(size, self._alone):
            self._prove_alone(swaps, output, values)
            self._alone = with_size(size, self._alone)
        return values

    def _prove_alone(self, swaps: _Swaps, output: Tensor, values: Tensor) -> None:
        """Columns of a batch give the same alone, and as two in another order. **Raises**
        `ModelError`."""
        # The very same numbers: those of a run on fewer rows may differ in the last digits, which a
        # divergence shows.
        clean = self._clean_output(swaps.references) if self.metric.needs_clean else None
        for some in ([-1], [-1, 0]):
            few = _Swaps(swaps.references[some], swaps.donors[:, some])
            off = off_by(self._output(few), output[some], output)
            if off:
                raise ModelError(
                    f"{self.graph.source}: the scrubbed output of a row depends on the rows beside "
                    f"it: in a batch of {len(output)} it differs {amount_off(off)} from a batch of "
                    f"{len(some)}; let the network, and each computed_by=, compute every row by "
                    "itself, whatever the size of the batch"
                )
            alone = self._metric(
                few.references, output[some], clean=None if clean is None else clean[some]
            )
            nothing = 1e-12 * max(1.0, float(output.abs().max()))
            if not torch.allclose(alone, values[some], rtol=1e-6, atol=nothing, equal_nan=True):
                raise DataError(
                    f"the metric {self.metric.name} of a reference depends on the references "
                    "beside it; compute one "
                    "number for each from its own output, without a mean or a norm over the batch"
                )

    def _output(self, swaps: _Swaps) -> Tensor:
        where = at_rows(self.checked.output, swaps.rows(self.plan.carrier))
        return self._as_output(self._values(self.plan, swaps, where)[0])

    def _clean_output(self, rows: Tensor) -> Tensor:
        return self._as_output(
            self._clean.value(self.store, rows, at_rows(self.checked.output, rows), ())
        )

    def _as_output(self, output: Tensor) -> Tensor:
        """What the metric gets: floating point, and no dimension for a position that an int
        names."""
        require_floating(output, self.graph.source)
        return output[:, 0] if self._one_position else output

    @cached_property
    def _one_position(self) -> bool:
        spec = self.dataset.label_pos if self.metric.pos is None else self.metric.pos
        return isinstance(spec, int) or (
            isinstance(spec, str) and self.dataset.feature(spec).ndim == 1
        )

    def _metric(
        self,
        references: Tensor,
        output: Tensor,
        metric: Metric | None = None,
        clean: Tensor | None = None,
    ) -> Tensor:
        labels = None if self.dataset.labels is None else self.dataset.labels[references]
        if clean is None and self.metric.needs_clean:
            clean = self._clean_output(references)
        positions = at_rows(self.checked.output, references)
        # else all batches have the same tensor
        positions = None if positions is None else positions.clone()
        return (metric or self.metric)(
            output, Batch(self.dataset, references.clone(), labels, positions, clean)
        )

    def _values(self, step: Step, swaps: _Swaps, inherited: Where) -> list[Tensor]:
        """The activations a step gives its parent, one for each of its parts."""
        carrier = swaps.rows(step.carrier)
        where = inherited if step.positions is None else at_rows(step.positions, carrier)
        clean = self._clean_rows(step, swaps, where)
        if step.node.computed_by is not None:
            with said_at(step.node):
                return [self._computed(step, swaps.rows(step.donor), where)]
        if step.reader is None:
            return [clean.take(site, carrier, where) for site in step.sites]
        return [step.reader.value(clean, carrier, where, self._below(step, swaps, where))]

    def _below(self, step: Step, swaps: _Swaps, where: Where) -> list[Tensor]:
        """The activations of a step's children."""
        values: list[Tensor] = []
        for child in step.children:
            with said_at(child.node):
                self._require_as_many(
                    child.path, child.positions, swaps.rows(step.carrier), swaps.rows(child.carrier)
                )
            values += self._values(child, swaps, where if child.same else None)
        return values

    def _clean_rows(self, step: Step, swaps: _Swaps, where: Where) -> Clean:
        if swaps.takes is None:
            return self.store
        own = self.checked.output if step is self.plan else step.positions
        others = tuple(
            (part, child.positions)
            for child in step.children
            for part in child.parts
            if child.positions is not None and not child.positions.static
        )
        return WatchedStore(self.store, step.carrier, own, where, others, swaps.takes)

    def _require_as_many(
        self, path: str, positions: Positions | None, here: Tensor, there: Tensor
    ) -> None:
        """**Raises** `DataError` where two carriers have masks with different counts of
        positions."""
        if positions is None or positions.static or positions.index.shape[1] == 1:
            return
        counts = [(_at(positions, rows) >= 0).sum(1) for rows in (here, there)]
        if not torch.equal(*counts):
            at = int((counts[0] != counts[1]).nonzero()[0])
            raise DataError(
                f"{path}: its position mask has {int(counts[0][at])} positions on row "
                f"{int(here[at])} and {int(counts[1][at])} on row {int(there[at])}, which is to "
                "stand in for it; let them agree on a feature that counts the positions"
            )

    def _computed(self, step: Step, rows: Tensor, where: Where) -> Tensor:
        """What `computed_by=` gives for the feature values of the donors, laid out like the
        activation."""
        assert step.node.computed_by is not None
        assert step.node.agrees_on is not None
        features = [
            self.dataset.feature(name)[rows.cpu().numpy()] for name in step.node.agrees_on.features
        ]
        clean = self.checked.example(step.node.components[0])
        what = f"{step.path}: computed_by="
        value = _computed_value(
            what, called(what, step.node.computed_by, *features, kind=HypothesisError), clean, rows
        )
        whole, shape, as_many = clean.shape[1:], value.shape[1:], value.shape[:1] == (len(rows),)
        if as_many and shape == whole:
            return select(value, where)
        wanted = whole if where is None else (where.shape[-1], *whole[1:])
        if as_many and shape == wanted:
            return value
        if as_many and len(wanted) > 1 and shape == wanted[1:]:
            # as documented: the same at every position
            return value[:, None].expand(-1, wanted[0], *wanted[1:])
        raise HypothesisError(
            f"{step.path}: computed_by= has to return {[len(rows), *wanted]}, one value per "
            f"position, or the same without the position, not {list(value.shape)}"
        )


def _computed_value(what: str, given: Any, clean: Tensor, rows: Tensor) -> Tensor:
    """What a function of features gave, as numbers like an activation's."""
    try:
        value = torch.as_tensor(given, device=rows.device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise HypothesisError(
            f"{what} returns {type(given).__name__}, of which no tensor can be made ({error}); "
            "return a tensor"
        ) from error
    if not is_real(value):
        raise HypothesisError(
            f"{what} returns a {kind_of(value)} tensor; return one of real numbers, all of them "
            "there"
        )
    value = value.to(clean.dtype)
    if value.shape[:1] == rows.shape and not value.isfinite().all():
        row = int(rows[int((~value.isfinite().reshape(len(rows), -1).all(1)).nonzero()[0])])
        raise HypothesisError(
            f"{what} is NaN or infinite for the donor row {row}, or too large for "
            f"{kind_of(value)}; mend the function"
        )
    return value


def _at(positions: Positions, rows: Tensor) -> Tensor:
    where = at_rows(positions, rows)
    assert where is not None  # there are positions
    return where
