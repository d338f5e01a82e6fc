"""Checking one claim: draw swap sets, evaluate them, estimate the gap, decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_scrub.data import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore, Progress
from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.hypothesis_tree import ANYTHING, Node, output
from pytest_scrub.metrics import Batch, Metric, as_metric
from pytest_scrub.models import as_graph
from pytest_scrub.searching import GATE, Average, SearchOptions, search
from pytest_scrub.seeds import stream
from pytest_scrub.swap_set import Rows, SwapSet
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    UNTESTED,
    NodeReport,
    Numbers,
    Verdict,
    decide,
    estimate,
    recovered,
    require_tolerance,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_scrub.adversaries.search import Adversary

DEFAULT_SAMPLES = 4000  # a standard error of 1.6 % of the per-reference standard deviation
MOST_SAMPLES_PER_NODE = 2000  # the table node by node is for reading, not for deciding


def check(
    hypothesis: Node,
    model: Any,
    data: Dataset,
    *,
    tolerance: float | None = None,
    min_recovered: float | None = None,
    metric: Metric | Callable[[Tensor, Batch], Tensor] | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    name: str = "claim",
    adversaries: Sequence[Adversary] | None = None,
    adversarial_tolerance: float | None = None,
    adversary: str = GATE,
    budget: int | None = None,
    deadline: float | None = None,
    folder: Path | None = None,
    store: ActivationStore | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Whether a hypothesis predicts rightly that the swaps it allows leave the metric alone.

    **Arguments**

    - `hypothesis`: the root of a tree, `output(...)`.
    - `model`: a model graph, or anything `load_model` takes that is already in memory.
    - `data`: the `Dataset`.
    - `tolerance`: the largest mean gap either way, in the metric's unit.
    - `min_recovered`: the least share recovered; the same as a tolerance of
      `(1 - min_recovered) * (baseline - unscrubbed)`. With both, the stricter one counts.
    - `metric`: cross-entropy by default.
    - `samples`: references drawn, each with one swap of every slot.
    - `seed`, `name`: the random stream is derived from both.
    - `adversaries`: what searches for the allowed swaps that make the claim look worst; the whole ladder by
      default, nothing where empty.
    - `adversarial_tolerance`: the largest mean gap of a swap set that is found; by default the claim's own.
    - `adversary`: `"gate"`, or `"report"` to show what is found without refuting.
    - `budget`: evaluations for all adversaries together; twenty times the samples by default.
    - `deadline`: seconds after which the search ends early, and says so.
    - `folder`: where a counterexample is saved, and tried first the next time; None keeps none.
    - `store`: clean activations shared with other claims about the same network and data.
    - `progress`: called with (what, done, total).

    **Returns** a `Verdict`; this function never raises for a refuted claim.

    **Raises** `ScrubError` for anything that cannot be given a meaning.
    """
    require_tolerance(tolerance, min_recovered)
    _require_usable(hypothesis, data, samples)
    options = SearchOptions(adversaries, adversarial_tolerance, adversary, budget, deadline, folder)
    metric = as_metric(metric)
    if store is None:
        store = ActivationStore(as_graph(model), data)
    evaluator = Evaluator(store.graph, data, hypothesis, metric, store=store, progress=progress)
    swap_set = evaluator.space.draw(samples, stream(seed, name, "draw"))
    scrubbed, unscrubbed = evaluator.evaluate(swap_set), evaluator.unscrubbed(swap_set.references)
    changes = scrubbed - unscrubbed
    gap = estimate(changes)
    anything = Evaluator(store.graph, data, output(agrees_on=ANYTHING), metric, store=store, progress=progress)
    unrelated = anything.space.draw(samples, stream(seed, name, "baseline"))
    lost, kept = anything.evaluate(unrelated), anything.unscrubbed(unrelated.references)
    baseline, clean, room = float(lost.mean()), float(kept.mean()), estimate(lost - kept)
    share, reason = recovered(gap.mean, baseline, clean, metric.worse, room.high - room.mean)
    accepted = _accepted(tolerance, min_recovered, abs(baseline - clean), reason)
    nodes = _nodes(evaluator, swap_set)
    average = decide(gap, accepted, nodes)
    searched = None
    if average != UNTESTED and (adversaries is None or len(adversaries)):
        half = Average(evaluator, swap_set, changes, average, accepted)
        searched = search(half, options, seed=seed, name=name)
    outcome = REFUTED if searched is not None and searched.gates and searched.refutes else average
    if outcome != HELD:
        nodes = _with_gaps(nodes, evaluator, swap_set.references, unscrubbed, stream(seed, name, "alone"))
    return Verdict(
        claim=name,
        outcome=outcome,
        average=average,
        hypothesis=str(hypothesis),
        metric=metric.name,
        tolerance=accepted,
        unscrubbed=float(unscrubbed.mean()),
        scrubbed=float(scrubbed.mean()),
        gap=gap,
        absolute_change=float(np.abs(changes).mean()),
        share_worse=float((changes > 0 if metric.worse == "higher" else changes < 0).mean()),
        baseline=baseline,
        recovered=share,
        recovered_reason=reason,
        samples=samples,
        seed=seed,
        nodes=nodes,
        model=store.graph.source,
        model_digest=store.graph.digest(),
        dataset=data.name or "dataset",
        dataset_digest=data.digest(),
        interval_kind="95 % Student t interval over swaps drawn from this dataset",
        search=searched,
    )


def _require_usable(hypothesis: object, data: object, samples: object) -> None:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise HypothesisError(f"samples= is a whole number of at least 2, not {samples!r}")
    if not isinstance(hypothesis, Node):
        raise HypothesisError(
            f"the claim returned {type(hypothesis).__name__}, not a hypothesis; return output(...) with what it reads"
        )
    if not isinstance(data, Dataset):
        raise DataError(f"the data is a {type(data).__name__}, not a Dataset; wrap it in pytest_scrub.Dataset(...)")


def _accepted(tolerance: float | None, min_recovered: float | None, room: float, reason: str | None) -> float:
    if min_recovered is None:
        assert tolerance is not None  # one of them is required
        return float(tolerance)
    if reason is not None:
        raise DataError(f"min_recovered= cannot be judged: {reason}; give tolerance= instead")
    accepted = (1 - min_recovered) * room
    return accepted if tolerance is None else min(accepted, float(tolerance))


def _nodes(evaluator: Evaluator, swap_set: SwapSet) -> tuple[NodeReport, ...]:
    """Support of every slot, without the gaps."""
    space, moved = evaluator.space, evaluator.space.moved(swap_set)
    found = []
    for i, (slot, support) in enumerate(zip(space.slots, space.support(), strict=True)):
        computed = slot.node.computed_by is not None and not slot.is_rest
        found.append(
            NodeReport(
                slot=slot.path,
                agrees_on="its features, computed" if computed else str(slot.agrees_on),
                is_rest=slot.is_rest,
                donors=(int(support.donors.min()), float(np.median(support.donors)), int(support.donors.max())),
                # A computed node takes no activation from a donor: the function itself is put to the test.
                with_other=1.0 if computed else support.share,
                moved=float(moved[i].mean()),
                must_be_tested=not slot.is_rest and not slot.agrees_on.exact,
                alone=None,
            )
        )
    return tuple(found)


def _with_gaps(
    nodes: tuple[NodeReport, ...], evaluator: Evaluator, references: Rows, unscrubbed: Numbers, rng: np.random.Generator
) -> tuple[NodeReport, ...]:
    """The reports with the gap when only that slot is swapped, the others EXACT."""
    few = references[:MOST_SAMPLES_PER_NODE]
    found = []
    for node in nodes:
        alone = evaluator.space.keep([node.slot]).draw(len(few), rng, few)
        found.append(replace(node, alone=estimate(evaluator.evaluate(alone) - unscrubbed[: len(few)])))
    return tuple(found)
