"""The evaluator: the metric of a swap set, as a pure function of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.common.calls import as_plain, is_whole, short_repr
from pytest_scrub.common.user_code import call_user_function
from pytest_scrub.data.dataset import Dataset, Positions
from pytest_scrub.engine.alike import Columns, kinds_below
from pytest_scrub.engine.checks import check_hypothesis, require_floating
from pytest_scrub.engine.continuation import Continuation
from pytest_scrub.engine.gradients import ActivationGradient, Gathered, WatchedStore, joined
from pytest_scrub.engine.plan import Step, compile_plan
from pytest_scrub.engine.row_independence import (
    ProvedSizes,
    difference_in_words,
    relative_difference,
)
from pytest_scrub.engine.store import ActivationStore, Progress
from pytest_scrub.errors import DataError, HypothesisError, ModelError, located_at
from pytest_scrub.metrics import Batch, Metric, as_metric, is_real, kind_of
from pytest_scrub.network.graph import (
    Clean,
    ModelGraph,
    Site,
    Stages,
    Where,
    at_rows,
    read_from,
    select,
)
from pytest_scrub.network.precision import (
    NARROW,
    a_unit_off,
    coarsest,
    last_digits_of,
    rounding_of,
)
from pytest_scrub.swaps.slots import REFERENCE
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import Numbers, Rows, SwapSet
from pytest_scrub.tree.nodes import ROOT, Node

# References in one piece of work for an executor. The last digits of a figure depend on what is
# computed together, so a piece has one size, however many there are to do them. Handing one over
# costs about two milliseconds: a few hundred sums of cached activations take longer, and so does a
# handful of reruns of a network.
SHARD = 256
SHARD_OF_RERUNS = 32
FLOAT64_BYTES = 8
# References on which it is seen how large outputs are, and what rounding them does to a metric.
ROUNDING_ROWS = 64
# A value, its difference, its sum, its norm, ...: how many of each are alive at once.
COPIES = 8
MOST_COLUMNS = 8192
# A batch is faster where it stays in a processor's caches, of about this size, but not where large
# weights, such as an unembedding, are read for a few references only.
CACHE_BYTES = 1 << 25
FEWEST_COLUMNS = 128
# A network that is rerun holds far more than the values that a claim names.
COLUMNS_OF_A_RERUN = 256
# What progress calls them.
SCRUBBED, UNSCRUBBED = "scrubbed evaluations", "unscrubbed evaluations"

Result = TypeVar("Result")


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
                f"batch_size= is a whole number of at least 1, not {short_repr(batch_size)}"
            )
        self.graph, self.dataset, self.hypothesis = graph, dataset, hypothesis
        self.metric = as_metric(metric)
        self.space = SwapSpace(hypothesis, dataset)
        self.store = ActivationStore(graph, dataset) if store is None else store
        if self.store.graph is not graph:
            raise ModelError(
                "store= has activations of another graph; make the evaluator of store.graph"
            )
        self.checked = check_hypothesis(
            graph, dataset, hypothesis, self.metric.pos, self.store.examples
        )
        self.plan = compile_plan(hypothesis, self.checked)
        self._clean = graph.reader(ROOT, (), self.checked.output)
        self._continued = (
            Continuation(self.checked, self.plan, self.metric) if self.metric.tokens else None
        )
        self.batch_size, self.progress = batch_size, progress
        self._proved_sizes = ProvedSizes()
        self._label_matters = False  # until it was seen that the metric reads it
        self._read = np.zeros(int(dataset.content.max()) + 1, dtype=np.bool_)  # by content

    def on(self, dataset: Dataset) -> Evaluator:
        """The evaluator of the same hypothesis on other data."""
        return Evaluator(
            self.graph,
            dataset,
            self.hypothesis,
            self.metric,
            store=self.store.for_dataset(self.graph, dataset),
        )

    def allowing(self, space: SwapSpace) -> Evaluator:
        """The same where other swaps of the same slots are allowed."""
        other = copy(self)
        other.space = space
        if space.paths != self.space.paths:
            other.hypothesis = space.hypothesis
        return other

    def against(self, rival: str) -> Evaluator:
        """The same with the labels that a rival of the claim's prediction gives."""
        other = self.allowing(self.space.against(rival))
        other.hypothesis, other._proved_sizes = other.space.hypothesis, ProvedSizes()
        return other

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """The clean activations that evaluating caches; those of leaves come first."""
        steps = sorted(self.plan.walk(), key=lambda step: step.reader is not None)
        scrubbed = [site for step in steps for site in step.sites]
        clean = self.clean_sites if self.metric.needs_clean else ()
        return tuple(dict.fromkeys([*scrubbed, *clean]))

    @property
    def passes(self) -> int:
        """Of the network, for what is said after the prompt of one swap; 0 of other metrics."""
        return 0 if self._continued is None else self._continued.passes

    @property
    def clean_sites(self) -> tuple[Site, ...]:
        """The clean activations that the unscrubbed metric reads."""
        return self._clean.sites

    @cached_property
    def carriers(self) -> list[int]:
        """The slots whose rows are read, `REFERENCE` among them where those of references are."""
        steps = [step for step in self.plan.walk() if step.node.computed_by is None]
        slots = {slot for step in steps for slot in step.each or (step.carrier,)}
        return [*slots, REFERENCE] if self.metric.needs_clean else [*slots]

    # What swap sets give --------------------------------------------------------------------------

    def evaluate(self, swap_set: SwapSet) -> Numbers:
        """The scrubbed metric of every reference, float64 `[R]`.

        **Raises** `DataError` where the swap set is not one of this hypothesis and dataset.
        """
        executor, size = self.store.executor, SHARD_OF_RERUNS if self._reruns else SHARD
        if (
            executor is not None and len(swap_set) > size
        ):  # a lone piece is done here as soon as there
            self._prepare(swap_set)
            pieces = [swap_set[start : start + size] for start in range(0, len(swap_set), size)]
            parts = self._collected(executor.scrubbed(self, pieces), size, len(swap_set), SCRUBBED)
        else:
            parts = self._each_batch(
                swap_set, lambda columns: self._scrubbed(columns).cpu().numpy()
            )
        return np.concatenate([np.empty(0), *parts])

    def outputs(self, swap_set: SwapSet) -> Tensor:
        """The scrubbed output of every reference at the metric's positions, `[R, (K,) ...]`."""
        return torch.cat(self._each_batch(swap_set, self._output))

    def labels(self, swap_set: SwapSet) -> Tensor | None:
        """The labels that scrubbed outputs are held against, `[R, ...]`: the references' own, or
        those that the claim predicts."""
        return self._labels(self._on_device(np.vstack([swap_set.donors, swap_set.references])))

    def clean_outputs(self, references: Rows) -> Tensor:
        """The untouched network's output at the metric's positions, `[R, (K,) ...]`."""
        self.ensure(self.clean_sites, references)
        with torch.no_grad():
            return self._clean_output(self._on_device(references))

    def unscrubbed(self, references: Rows) -> Numbers:
        """The metric of the untouched network, float64 `[R]`; each distinct reference is computed
        once."""
        if not len(references):
            return np.empty(0)
        rows, back = np.unique(references, return_inverse=True)
        self.ensure(self.clean_sites, rows)
        executor, size = self.store.executor, SHARD
        if executor is not None and len(rows) > size:
            results = executor.unscrubbed(self, np.split(rows, range(size, len(rows), size)))
        else:
            size = self._clean_columns
            batches = torch.split(self._on_device(rows), size)
            results = (
                self._metric(some, self._clean_output(some), labels=self._own_labels(some))
                .cpu()
                .numpy()
                for some in batches
            )
        found: Numbers = np.concatenate(self._collected(results, size, len(rows), UNSCRUBBED))[back]
        return found

    @property
    def rounding(self) -> float:
        """How far off the metric may be, as a share of it."""
        return self._rounding[0]

    @cached_property
    def _rounding(self) -> tuple[float, float]:
        """How far off the metric may be: as a share of it, a loss of large logits by more than they
        are, and at least, in its own unit."""
        references = self.space.reference_rows[:ROUNDING_ROWS]
        output, rows = self.clean_outputs(references), self._on_device(references)
        if self._continued is not None:  # tokens are exact, and what compares them is float64
            return 8 * torch.finfo(torch.float64).eps, 0.0
        kind = coarsest(self.graph, output)
        share = rounding_of(kind)
        if kind in NARROW:
            own, other = (
                self._metric(rows, values, labels=self._own_labels(rows))
                for values in (output, a_unit_off(output, torch.finfo(kind).eps))
            )
            off, size = float((other - own).abs().mean()) / 2, float(own.abs().mean())
            share = max(share, off / size) if math.isfinite(off) and size else share
        return share, last_digits_of(output)

    def rounding_of(self, values: Numbers) -> Numbers:
        """How far off metrics may be that have these values, in their unit."""
        share, digits = self._rounding
        found: Numbers = np.maximum(share * np.abs(values), digits)
        return found

    def slopes(self, swap_set: SwapSet) -> list[ActivationGradient]:
        """How the metric would change, to first order, with every clean activation that is
        gathered.

        A metric's stand-in, where it has one, is differentiated instead of it. Empty where nothing
        that is gathered has a gradient, and of what is said, which has none.

        **Raises** `ModelError` where a function overwrites what its gradient needs.
        """

        def differentiate(columns: Columns) -> list[ActivationGradient]:
            gathered: list[Gathered] = []
            with torch.enable_grad():
                output = self._output(columns, gathered)
                metric, labels = self.metric.to_rank_by, self._labels(columns.rows)
                total = self._metric(columns.of(REFERENCE), output, metric, labels).sum()
                if not total.requires_grad:
                    return []
                gradients = self._gradients(total, [value for value, _ in gathered])
            return [
                slope
                for (_, slopes), grad in zip(gathered, gradients, strict=True)
                for slope in slopes(grad)
            ]

        if self._continued is not None:
            return []
        batches = self._each_batch(swap_set, differentiate, differentiated=True)
        return [joined(parts) for parts in zip(*batches, strict=True)] if all(batches) else []

    def with_gradients(self, swap_set: SwapSet, metric: Metric) -> Tensor:
        """A metric of every reference, `[R]`, with the gradient of what the hypothesis and the
        network are made of."""
        rows = self._on_device(self._prepare(swap_set))
        with torch.enable_grad():
            output, labels = self._output(Columns(rows)), self._labels(rows)
            return self._metric(rows[REFERENCE], output, metric, labels)

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

    def gathered(self, slot: str, rows: Rows) -> Tensor | None:
        """What a leaf takes from each row, `[rows, (K,) ...]`; None for a slot that is no leaf,
        gives several activations, or is read where its parent's carrier says."""
        step = self._steps.get(slot)
        if step is None or step.each or step.reader is not None or len(step.sites) != 1:
            return None
        at = step.positions
        if at is None and step.same and not _is_static(self.checked.output):
            return None
        self.ensure(step.sites, rows)
        index = self._on_device(self.space.rows_of(rows))
        return self.store.take(step.sites[0], index, at_rows(at, index))

    @cached_property
    def _steps(self) -> dict[str, Step]:
        return {step.path: step for step in self.plan.walk()}

    @cached_property
    def stages(self) -> Stages | None:
        """How the output is made of a sum of contributions, where it is, at the same positions for
        every row."""
        assert self.plan.reader is not None  # the output has one
        fixed = all(_is_static(step.positions) for step in self.plan.walk())
        return self.plan.reader.stages if fixed and self._continued is None else None

    def streams(self, swap_set: SwapSet) -> Tensor:
        """What the output is computed from, `[R, K, d_model]`; only where there are `stages`."""
        stages = self.stages
        assert stages is not None

        def stream(columns: Columns) -> Tensor:
            carrier = columns.of(self.plan.carrier)
            where = at_rows(self.checked.output, carrier)
            return stages.stream(
                self.store, carrier, where, self._child_values(self.plan, columns, where)
            )

        return torch.cat(self._each_batch(swap_set, stream))

    def ranked(self, swap_set: SwapSet, output: Tensor) -> Tensor:
        """What candidates are ranked by, `[R]`: the metric, or its stand-in, of outputs that
        `unembed` gave."""
        rows, labels = self._on_device(swap_set.references), self.labels(swap_set)
        return self._metric(rows, self._as_output(output), self.metric.to_rank_by, labels)

    @property
    def rows_read(self) -> int:
        """How many different inputs this evaluator has read clean activations of, cached or not."""
        return int(self._read.sum())

    def ensure(self, sites: Sequence[Site], rows: Rows) -> None:
        """Have the clean activations of these sites and rows, or numbers of donors, at hand."""
        rows = self.space.rows_of(rows)
        self._read[self.dataset.content[rows]] = True
        those = self._captured if sites is self.sites else sites
        self.store.ensure(those, rows, self.progress)

    # Batches --------------------------------------------------------------------------------------

    def _prepare(self, swap_set: SwapSet) -> Rows:
        """Have the clean activations that a swap set gathers. **Returns** the donors of all slots
        and, last, at `REFERENCE`, the references: `[slots + 1, R]`. **Raises** `DataError` where
        the swap set is not one of ours."""
        self.space.require_own(swap_set)
        rows = np.vstack([swap_set.donors, swap_set.references])
        used = np.zeros(len(self.dataset), dtype=np.bool_)
        used[self.space.rows_of(rows[self.carriers])] = True
        self.ensure(self.sites, np.flatnonzero(used))
        return rows

    @cached_property
    def _captured(self) -> tuple[Site, ...]:
        """What is captured for `sites`: what unscrubbed metrics read too, where that is little
        beside them, as else the network runs twice on a row."""
        # each site takes several bytes of a row
        most = len(self.sites) if self.store.memory.limit is None else 0
        beside = self.clean_sites if self.checked.example(ROOT).nbytes <= most else ()
        return tuple(dict.fromkeys([*self.sites, *beside]))

    def _each_batch(
        self,
        swap_set: SwapSet,
        function: Callable[[Columns], Result],
        *,
        differentiated: bool = False,
    ) -> list[Result]:
        """What a function gives for each batch of columns; they may be told apart unless each is
        `differentiated` by itself."""
        rows = self._prepare(swap_set)
        if not len(swap_set):
            return []
        size = self.batch_size or (
            self._differentiated_columns if differentiated else self._scrubbed_columns
        )

        told = self._computes_below and not differentiated
        kinds = kinds_below(self.plan, rows, size, self._gathered) if told else {}
        there = self._on_device(rows)

        def columns(start: int) -> Columns:
            batch = slice(start, start + size)
            own = {path: those.within(batch) for path, those in kinds.items()}
            return Columns(there[:, batch], own)

        found = (function(columns(start)) for start in range(0, len(swap_set), size))
        return self._collected(found, size, len(swap_set), SCRUBBED)

    def _collected(
        self, results: Iterable[Result], size: int, total: int, what: str
    ) -> list[Result]:
        """The results of pieces of `size` references, as they are computed."""
        found = []
        with torch.no_grad():
            for result in results:
                found.append(result)
                if self.progress is not None:
                    self.progress(what, min(len(found) * size, total), total, "")
        return found

    def _on_device(self, rows: Rows) -> Tensor:
        return torch.tensor(rows, device=self.dataset.device)

    def _columns(self, sites: Sequence[Site]) -> int:
        """How many references fit into one batch."""
        return self.batch_of(self._bytes(sites))[0]

    def _bytes(self, sites: Iterable[Site]) -> int:
        return sum(map(self.store.bytes_per_row, sites))

    def _gathered(self, step: Step) -> int:
        """The bytes that a step gathers for one reference."""
        return self._bytes(step.sites)

    def batch_of(self, gathered: int) -> tuple[int, int]:
        """How many references fit into one batch where so many bytes are gathered for each, and
        about what the batch takes."""
        device, positions = self.dataset.device, self.checked.output
        clean = self.checked.example(ROOT)
        # the metric sees its positions of the output in float64
        read = 1.0 if positions is None else positions.index.shape[-1] / clean.shape[1]
        of_output = int(read * clean.numel()) * FLOAT64_BYTES
        per_column = max(1, COPIES * (gathered + of_output))
        most = COLUMNS_OF_A_RERUN if self._reruns else MOST_COLUMNS
        if device.type == "cpu":
            most = min(most, max(FEWEST_COLUMNS, CACHE_BYTES // per_column))
        fit = max(1, min(most, self.store.memory.batch_bytes(device) // per_column))
        return fit, fit * per_column

    def held(self, bytes_of: Callable[[Iterable[Site]], int]) -> int:
        """The bytes that evaluating a reference holds at once of what it gathers: a node's own once
        the values below are there, and of what is computed before it the values alone."""

        def most(step: Step) -> int:
            before = largest = 0
            for child in step.children:
                largest = max(largest, before + most(child))
                before += bytes_of(child.sites)
            return max(largest, before + bytes_of(step.sites))

        clean = self.clean_sites if self.metric.needs_clean else ()
        # some gather what is there already
        return min(most(self.plan) + bytes_of(clean), bytes_of(self.sites))

    # asked for with every batch, of sites that were captured

    @cached_property
    def _clean_columns(self) -> int:
        return self._columns(self.clean_sites)

    @cached_property
    def _scrubbed_columns(self) -> int:
        return self.batch_of(self.held(self._bytes))[0]

    @cached_property
    def _differentiated_columns(self) -> int:
        # all that is gathered is held until the last of it is differentiated
        return self._columns(self.sites)

    @cached_property
    def _computes_below(self) -> bool:
        """Whether anything is computed below the output."""
        return any(step.reader is not None for child in self.plan.children for step in child.walk())

    @cached_property
    def _reruns(self) -> bool:
        """Whether every evaluation reruns whole layers."""
        return self._continued is not None or any(
            step.reader is not None and step.reader.reruns for step in self.plan.walk()
        )

    # The tree -------------------------------------------------------------------------------------

    def _scrubbed(self, columns: Columns) -> Tensor:
        references, carrier = columns.of(REFERENCE), columns.of(self.plan.carrier)
        self._require_as_many("the output", self.checked.output, references, carrier)
        output, labels = self._output(columns), self._labels(columns.rows)
        values = self._metric(references, output, labels=labels)
        if self.space.predicted is not None:
            self._require_classes(references, output, labels)
            if not self._label_matters:
                self._require_label_matters(references, output, values)
        new = [size for size in columns.sizes if size > 1 and size not in self._proved_sizes]
        if new:
            if self.space.predicted is not None:
                self.space.predicted.prove_alone(columns.rows.cpu().numpy())
            self._prove_alone(columns.rows, output, values)
            for size in new:
                self._proved_sizes.add(size)
        return values

    def _prove_alone(self, rows: Tensor, output: Tensor, values: Tensor) -> None:
        """Columns of a batch give the same alone, and as two in another order. **Raises**
        `ModelError`."""
        # The very same numbers: those of a run on fewer rows may differ in the last digits, which a
        # divergence shows.
        clean = self._clean_output(rows[REFERENCE]) if self.metric.needs_clean else None
        for some in ([-1], [-1, 0]):
            few = rows[:, some]
            off = relative_difference(self._output(Columns(few)), output[some], output)
            if off:
                raise ModelError(
                    f"{self.graph.source}: the scrubbed output of a row depends on the rows beside "
                    f"it: in a batch of {len(output)} it differs {difference_in_words(off)} from a "
                    f"batch of {len(some)}; let the network, and each computed_by=, compute every "
                    "row by itself, whatever the size of the batch"
                )
            alone = self._metric(
                few[REFERENCE], output[some], labels=self._labels(few),
                clean=None if clean is None else clean[some],
            )  # fmt: skip
            finite = output.nan_to_num(0.0, 0.0, 0.0)
            nothing = 1e-12 * max(1.0, float(finite.abs().max()))
            if not torch.allclose(alone, values[some], rtol=1e-6, atol=nothing, equal_nan=True):
                raise DataError(
                    f"the metric {self.metric.name} of a reference depends on the references "
                    "beside it; compute one "
                    "number for each from its own output, without a mean or a norm over the batch"
                )

    @cached_property
    def _most_classes(self) -> int:
        """How many classes there are at least, if labels are classes."""
        labels = self.dataset.labels
        return 0 if labels is None or not labels.numel() else int(labels.max()) + 1

    def _require_classes(self, references: Tensor, output: Tensor, labels: Tensor | None) -> None:
        """**Raises** `HypothesisError` where a class is to become a negative number, such as -100,
        which metrics of others skip."""
        own = self._own_labels(references)
        assert own is not None  # as of whatever predicts one
        assert labels is not None
        is_index = output.shape[:-1] == own.shape and not own.is_floating_point()
        classes = output.shape[-1] if output.ndim else 0
        if self._continued is not None or not is_index or classes < max(2, self._most_classes):
            return  # they are no classes, and what they are is the metric's
        skipped = (own >= 0) & (labels < 0)
        if bool(skipped.any()):
            bad = int(labels[skipped][0])
            with located_at(self.hypothesis):
                raise HypothesisError(
                    f"predicts= gives the label {bad} in place of a class, but the network's go "
                    f"from 0 to {classes - 1}, and whether it answers so cannot be told; predict "
                    "one of them (labels that are no classes are floats)"
                )

    def _require_label_matters(self, references: Tensor, output: Tensor, values: Tensor) -> None:
        """**Raises** `HypothesisError` where a label is predicted that the metric does not
        read."""
        with suppress(DataError):
            without = self._metric(references, output, labels=None)
            if torch.equal(without, values):
                with located_at(self.hypothesis):
                    raise HypothesisError(
                        f"predicts= says what label a swap leads to, but the metric "
                        f"{self.metric.name} reads no label; take one that does, such as "
                        "cross_entropy(), zero_one_error() or logit_difference(against=...)"
                    )
        self._label_matters = True

    def _own_labels(self, references: Tensor) -> Tensor | None:
        return None if self.dataset.labels is None else self.dataset.labels[references]

    def _labels(self, rows: Tensor) -> Tensor | None:
        """What scrubbed outputs are held against, for rows `[slots + 1, B]`."""
        if self.space.predicted is None:
            return self._own_labels(rows[REFERENCE])
        return self.space.predicted.labels(rows.cpu().numpy())

    def _output(self, columns: Columns, gathered: list[Gathered] | None = None) -> Tensor:
        if self._continued is None:
            return self._as_output(self._values(self.plan, columns, None, gathered)[0])
        carrier = columns.of(self.plan.carrier)
        where, reader = at_rows(self.checked.output, carrier), self.plan.reader
        assert reader is not None  # the output has one
        below = self._child_values(self.plan, columns, where)
        first = self._as_output(reader.value(self.store, carrier, where, below))
        return self._continued.swapped(first, carrier, below)

    def _clean_output(self, rows: Tensor) -> Tensor:
        if self._continued is None:
            return self._clean_logits(rows)
        return self._continued.clean(rows, self._clean_logits)

    def _clean_logits(self, rows: Tensor) -> Tensor:
        where = at_rows(self.checked.output, rows)
        return self._as_output(self._clean.value(self.store, rows, where, ()))

    def _as_output(self, output: Tensor) -> Tensor:
        """What the metric gets: floating point, and no dimension for a position that an int
        names."""
        require_floating(output, self.graph.source)
        return output[:, 0] if self.checked.one_position else output

    def _metric(
        self,
        references: Tensor,
        output: Tensor,
        metric: Metric | None = None,
        labels: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> Tensor:
        if clean is None and self.metric.needs_clean:
            clean = self._clean_output(references)
        positions = at_rows(self.checked.output, references)
        # else all batches have the same tensor
        positions = None if positions is None else positions.clone()
        return (metric or self.metric)(
            output, Batch(self.dataset, references.clone(), labels, positions, clean)
        )

    def _values(
        self,
        step: Step,
        columns: Columns,
        inherited: Where,
        gathered: list[Gathered] | None = None,
    ) -> list[Tensor]:
        """The activations a step gives its parent, one for each of its parts."""
        carrier = columns.of(step.carrier)
        where = inherited if step.positions is None else at_rows(step.positions, carrier)
        if step.node.computed_by is not None:
            with located_at(step.node):
                return [self._computed(step, columns.of(step.donor), where)]
        if step.node.edited is not None:  # as the value is where it is read
            return [torch.empty(0, device=columns.rows.device)]
        if step.each:
            # where what reads it wants it, each position of a row of its own
            of_each = torch.stack([columns.of(slot) for slot in step.each], dim=1)
            carrier = of_each if where is None else select(of_each.unsqueeze(-1), where).squeeze(-1)
            where = torch.arange(len(step.each), device=carrier.device) if where is None else where
        clean: Clean = self.store
        if gathered is not None:
            clean = WatchedStore(self.store, step, where, gathered)
        if step.node.is_shifted and where is not None:
            carrier, where = read_from(carrier, where, len(self.dataset), len(step.each))
        if step.reader is None:
            return [clean.take(site, carrier, where) for site in step.sites]
        below = self._child_values(step, columns, where, gathered)
        return [step.reader.value(clean, carrier, where, below)]

    def _child_values(
        self, step: Step, columns: Columns, where: Where, gathered: list[Gathered] | None = None
    ) -> list[Tensor]:
        """The activations of a step's children."""
        values: list[Tensor] = []
        for child in step.children:
            if not _is_static(child.positions):
                here, there = columns.of(step.carrier), columns.of(child.carrier)
                with located_at(child.node):
                    self._require_as_many(child.path, child.positions, here, there)
            inherited, fewer = where if child.same else None, columns.below(child)
            if fewer is None:
                values += self._values(child, columns, inherited, gathered)
                continue
            some, at, like = fewer
            if inherited is not None and inherited.ndim > 1:
                inherited = inherited[at]
            found = self._values(child, some, inherited, gathered)
            values += [value.index_select(0, like) for value in found]
        return values

    def _require_as_many(
        self, path: str, positions: Positions | None, here: Tensor, there: Tensor
    ) -> None:
        """**Raises** `DataError` where two carriers have masks with different counts of
        positions."""
        if positions is None or positions.static or positions.index.shape[1] == 1:
            return
        rows = np.stack([here.cpu(), there.cpu()])
        mine, theirs = (positions.index[rows] >= 0).sum(-1)
        if (mine != theirs).any():
            at = int((mine != theirs).argmax())
            raise DataError(
                f"{path}: its position mask has {mine[at]} positions on row {rows[0, at]} and "
                f"{theirs[at]} on row {rows[1, at]}, which is to stand in for it; let them agree "
                "on a feature that counts the positions"
            )

    def _computed(self, step: Step, rows: Tensor, where: Where) -> Tensor:
        """What `computed_by=` gives for the feature values of the donors, laid out like the
        activation."""
        assert step.node.computed_by is not None
        assert step.node.agrees_on is not None
        features = [
            self.dataset.feature(name)[rows.cpu().numpy()] for name in step.node.agrees_on.features
        ]
        what, clean = f"{step.path}: computed_by=", self.checked.example(step.node.components[0])
        given = call_user_function(what, step.node.computed_by, *features, kind=HypothesisError)
        value = _computed_value(what, given, clean, rows)
        whole = (len(rows), *clean.shape[1:])
        wanted = whole if where is None else (len(rows), where.shape[-1], *whole[2:])
        if value.shape == whole:
            return select(value, where)
        if len(wanted) > 2 and value.shape == (len(rows), *wanted[2:]):
            # the same at every position, as documented
            return value[:, None].expand(wanted)
        if value.shape == wanted:
            return value
        raise HypothesisError(
            f"{what} has to return {list(wanted)}, one value per position, or the same without the "
            f"position, not {list(value.shape)}"
        )


def _is_static(positions: Positions | None) -> bool:
    """Whether every row has the same positions."""
    return positions is None or positions.static


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
