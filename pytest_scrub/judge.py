"""Checking one claim: draw swap sets, evaluate them, estimate the gap, decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_scrub.adversaries.worst import GATE, SearchOptions, search
from pytest_scrub.common.calls import is_number, is_whole, shown, well_called
from pytest_scrub.common.seeds import stream
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore, Progress
from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.metrics import Batch, Metric, as_metric
from pytest_scrub.network import as_graph
from pytest_scrub.network.precision import precision_of
from pytest_scrub.power.controls import controls_of
from pytest_scrub.power.refuted import power_of, says_too_little
from pytest_scrub.statistics.deciding import EITHER, Acceptance
from pytest_scrub.statistics.measuring import (
    LEAST_MOVED,
    LEAST_WITH_OTHER,
    Criteria,
    Measured,
    measure,
    percentiles,
    with_gaps,
)
from pytest_scrub.statistics.sampling import References
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    TOO_FEW,
    UNTESTED,
    WEAK,
    Control,
    Power,
    Search,
    Verdict,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_scrub.adversaries.search import Adversary

MOST_SEED = 2**128  # as many streams as a name and a seed are told apart by
DEFAULT_SAMPLES = 4000  # a standard error of 1.6 % of the per-reference standard deviation


@well_called
def check(
    hypothesis: Node,
    model: Any,
    data: Dataset,
    *,
    tolerance: float | None = None,
    min_recovered: float | None = None,
    direction: str = EITHER,
    metric: Metric | Callable[[Tensor, Batch], Tensor] | None = None,
    samples: int = DEFAULT_SAMPLES,
    generalize: bool = False,
    min_with_other: float = LEAST_WITH_OTHER,
    min_moved: float = LEAST_MOVED,
    by: str | None = None,
    slice_tolerance: float | None = None,
    adversaries: Sequence[Adversary] | None = None,
    adversarial_tolerance: float | None = None,
    adversary: str = GATE,
    budget: int | None = None,
    deadline: float | None = None,
    mutate: bool = False,
    min_power: float | None = None,
    controls: bool = False,
    seed: int = 0,
    name: str = "claim",
    folder: Path | None = None,
    anew: bool = False,
    store: ActivationStore | Callable[[Any, Dataset], ActivationStore] | None = None,
    progress: Progress | None = None,
) -> Verdict:
    """Whether a hypothesis predicts rightly that the swaps it allows leave the metric alone.

    **Arguments**

    - `hypothesis`: the root of a tree, `output(...)`.
    - `model`: a model graph, or anything `load_model` takes that is already in memory.
    - `data`: the `Dataset`.
    - `tolerance`: the largest mean gap, in the metric's unit.
    - `min_recovered`: the least share recovered: a tolerance of
      `(1 - min_recovered) * (baseline - unscrubbed)`, with the baseline's sampling error in the
      decision. With both, the stricter one counts.
    - `direction`: `"either"`, or `"worse"` where a metric that gets better is no objection.
    - `metric`: cross-entropy by default.
    - `samples`: the most references drawn, each with one swap of every slot; fewer where that
      decides the claim.
    - `generalize`: let the interval speak of the distribution that the rows were drawn from, and
      not of these rows: every reference of other content counts once. Donors stay those of the
      dataset.
    - `min_with_other`, `min_moved`: a node is untested where fewer references than this share have
      a donor of other content, or fewer of the drawn donors differ from what they stand in for.
    - `by`: a feature by whose values the gap is shown; with `slice_tolerance` each of them has to
      stay within it.
    - `adversaries`: what searches for the allowed swaps that make the claim look worst; the whole
      ladder by default, nothing where empty.
    - `adversarial_tolerance`: the largest mean gap of a swap set that is found; by default the
      claim's own, and `math.inf` only shows what is found.
    - `adversary`: `"gate"`, or `"report"` to show what is found without refuting.
    - `budget`: evaluations for all adversaries together; twenty times the samples by default.
    - `deadline`: seconds after which the search ends early, and says so.
    - `mutate`: judge false claims made from this one as well, where it holds on average.
    - `min_power`: the least share of them that has to be refuted, or the claim is weak; they are
      judged then.
    - `controls`: judge the claim on a network with shuffled weights, and with feature values
      permuted among the rows.
    - `seed`, `name`: the random streams are derived from both.
    - `folder`: where a counterexample is saved, and tried first the next time; None keeps none.
    - `anew`: search even where a saved counterexample still breaks the claim; the worst that is
      found then depends on nothing but the seed.
    - `store`: clean activations shared with other claims about the same network and data, or what
      gives them for both.
    - `progress`: called with (what, done, total, how it stands).

    **Returns** a `Verdict`; this function never raises for a refuted claim.

    **Raises** `ScrubError` for anything that cannot be given a meaning.
    """
    _require_usable(hypothesis, data)
    _require_options(
        min_power,
        seed,
        name,
        folder,
        progress,
        generalize=generalize,
        mutate=mutate,
        controls=controls,
        anew=anew,
    )
    metric = as_metric(metric)
    criteria = Criteria(
        Acceptance(metric, tolerance, min_recovered, direction), samples, generalize,
        min_with_other, min_moved, by,
        slice_tolerance,
    )  # fmt: skip
    options = SearchOptions(
        adversaries, adversarial_tolerance, adversary, budget, deadline, folder, anew
    )
    store = _store_of(store, model, data)
    evaluator = Evaluator(store.graph, data, hypothesis, metric, store=store, progress=progress)
    references = References.of(evaluator, samples, seed=seed, name=name, generalize=generalize)
    average = measure(evaluator, references, criteria, seed=seed, name=name)
    if min_recovered is not None and average.reason is not None and average.undecided != TOO_FEW:
        raise DataError(
            f"min_recovered= cannot be judged: {average.reason}; give tolerance= instead"
        )
    searched = None
    if average.outcome != UNTESTED and (adversaries is None or len(adversaries)):
        searched = search(average, options, seed=seed, name=name)
    power: Power | None = None
    controlled: tuple[Control, ...] = ()
    if average.outcome == HELD and (mutate or min_power is not None):
        power = power_of(average, searched, options, seed=seed, name=name, required=min_power)
    if controls and average.outcome == HELD:
        controlled = controls_of(average, seed=seed, name=name)
    outcome = average.outcome
    if searched is not None and searched.gates and searched.refutes:
        outcome = REFUTED
    elif outcome == HELD and says_too_little(power, controlled):
        outcome = WEAK
    # nothing is said of data that were changed meanwhile, such as by a metric
    data.require_unchanged()
    return _verdict(average, outcome, searched, power, controlled, seed=seed, name=name)


def _verdict(
    average: Measured,
    outcome: str,
    searched: Search | None,
    power: Power | None,
    controlled: tuple[Control, ...],
    *,
    seed: int,
    name: str,
) -> Verdict:
    drawn, evaluator, criteria = average.sample, average.evaluator, average.criteria
    nodes, metric = with_gaps(average, stream(seed, name, "alone")), criteria.acceptance.metric
    return Verdict(
        claim=name,
        outcome=outcome,
        average=average.outcome,
        hypothesis=str(evaluator.hypothesis),
        metric=metric.name,
        tolerance=average.tolerance,
        direction=criteria.acceptance.direction,
        unscrubbed=drawn.mean(drawn.unscrubbed),
        scrubbed=drawn.mean(drawn.scrubbed),
        gap=average.gap,
        absolute_change=drawn.mean(np.abs(drawn.changes)),
        share_worse=average.share_worse,
        share=average.share,
        baseline=average.baseline,
        recovered=average.recovered,
        recovered_reason=average.reason,
        samples=len(drawn),
        budget=criteria.samples,
        generalize=criteria.generalize,
        seed=seed,
        nodes=nodes,
        min_with_other=criteria.min_with_other,
        min_moved=criteria.min_moved,
        model=evaluator.graph.source,
        model_digest=evaluator.store.digest,
        precision=precision_of(evaluator.graph),
        dataset=evaluator.dataset.name or "dataset",
        dataset_digest=evaluator.dataset.digest(),
        interval_kind=average.interval_kind,
        circuit=circuit_of(evaluator.hypothesis, evaluator.graph),
        changes=percentiles(drawn.changes),
        looks=average.looks,
        search=searched,
        slices=average.slices,
        power=power,
        controls=controlled,
        rounding=average.rounding,
        undecided=average.undecided,
    )


def _store_of(
    store: ActivationStore | Callable[[Any, Dataset], ActivationStore] | None,
    model: Any,
    data: Dataset,
) -> ActivationStore:
    """Clean activations of the network as it is now. **Raises** `DataError` where the data were
    changed."""
    if store is not None and not isinstance(store, ActivationStore):
        if not callable(store) or not isinstance(made := store(model, data), ActivationStore):
            raise HypothesisError(
                "store= is an ActivationStore, or a function of network and data that returns "
                f"one, not {shown(store)}"
            )
        return made
    data.require_unchanged()
    return (
        ActivationStore(as_graph(model).again(), data)
        if store is None
        else store.current(as_graph(model), data)
    )


def _require_usable(hypothesis: object, data: object) -> None:
    if not isinstance(hypothesis, Node):
        raise HypothesisError(
            f"the claim returned {type(hypothesis).__name__}, not a hypothesis; return output(...) "
            "with what it reads"
        )
    if not isinstance(data, Dataset):
        raise DataError(
            f"the data is a {type(data).__name__}, not a Dataset; wrap it in "
            "pytest_scrub.Dataset(...)"
        )


def _require_options(
    min_power: object,
    seed: object,
    name: object,
    folder: object,
    progress: object,
    **switches: object,
) -> None:
    """**Raises** `HypothesisError` for an option that is not of its kind, and that nobody else
    looks at."""
    if min_power is not None and not is_number(min_power, 0, 1):
        raise HypothesisError(
            f"min_power= is a share from 0 to 1, such as 0.8, not {shown(min_power)}"
        )
    if not is_whole(seed, -MOST_SEED, MOST_SEED):
        raise HypothesisError(f"seed= is a whole number, not {shown(seed)}")
    if not isinstance(name, str):
        raise HypothesisError(f"name= is a text, not {shown(name)}")
    if folder is not None and not isinstance(folder, Path):
        raise HypothesisError(f"folder= is a pathlib.Path, not {shown(folder)}")
    if progress is not None and not callable(progress):
        raise HypothesisError(
            f"progress= is a function of (what, done, total, how it stands), not {shown(progress)}"
        )
    for switch, value in switches.items():
        if not isinstance(value, bool):
            raise HypothesisError(f"{switch}= is True or False, not {shown(value)}")
