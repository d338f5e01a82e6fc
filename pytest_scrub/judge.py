"""Checking one claim: draw swap sets, evaluate them, estimate the gap, decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest_scrub
from pytest_scrub.adversaries.worst import search
from pytest_scrub.common.calls import short_repr
from pytest_scrub.common.records import fields_of
from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.functions import functions_of
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import DataError, HypothesisError
from pytest_scrub.metrics import as_metric
from pytest_scrub.network import as_graph
from pytest_scrub.network.precision import precision_of
from pytest_scrub.power.controls import controls_of, predicts_a_change
from pytest_scrub.power.null import AgainstNull, against_null
from pytest_scrub.power.refuted import power_of, says_too_little
from pytest_scrub.settings import CheckOptions, Settings, with_options_of
from pytest_scrub.statistics.average import Measured, measure, with_gaps
from pytest_scrub.statistics.sampling import References
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import (
    HELD,
    NO_ROOM,
    REFUTED,
    TOO_FEW,
    UNDECIDED,
    UNTESTED,
    WEAK,
    Bound,
    Control,
    Outcome,
    Power,
    Search,
    Verdict,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


@with_options_of(CheckOptions, of_run=False)
def check(hypothesis: Node, model: Any, data: Dataset, **options: Unpack[CheckOptions]) -> Verdict:
    """Whether a hypothesis predicts rightly that the swaps it allows leave the metric alone.

    **Arguments**

    - `hypothesis`: the root of a tree, `output(...)`.
    - `model`: a model graph, or anything `load_model` takes that is already in memory.
    - `data`: the `Dataset`.
    - `options`: [what a claim can be told](writing-claims.md#options); `help(check)` lists it.

    **Returns** a `Verdict`; this function never raises for a refuted claim.

    **Raises** `ScrubError` for anything that cannot be given a meaning.
    """
    # None is for claims, which may leave something to the run; here it is refused
    settings = Settings(**options)  # type: ignore[arg-type]
    if settings.progress is not None:
        return judged(hypothesis, model, data, settings)
    with pytest_scrub.shown_in_notebook() as progress:
        return judged(hypothesis, model, data, replace(settings, progress=progress))


def judged(hypothesis: Node, model: Any, data: Dataset, settings: Settings) -> Verdict:
    """The same for settings that were made before."""
    _require_usable(hypothesis, data)
    metric = as_metric(settings.metric)
    store = _store_of(settings.store, model, data)
    evaluator = Evaluator(
        store.graph, data, hypothesis, metric, store=store, progress=settings.progress
    )
    average = measure(evaluator, References.of(evaluator, settings), settings)
    _require_recoverable(average)
    searched = search(average) if average.outcome != UNTESTED and settings.searches else None
    against = against_null(average, searched)
    power: Power | None = None
    controlled: tuple[Control, ...] = ()
    if average.outcome == HELD:
        if settings.mutate or settings.min_power is not None:
            power = power_of(average, searched)
        if settings.controls if settings.controls is not None else predicts_a_change(average):
            controlled = controls_of(average)
    # nothing is said of data that were changed meanwhile, such as by a metric, nor of a network
    data.require_unchanged()
    store.require_stateless()
    return _verdict(average, searched, against, power, controlled)


def _outcome(
    average: Measured,
    searched: Search | None,
    against: AgainstNull,
    power: Power | None,
    controls: Sequence[Control],
) -> Outcome:
    if searched is not None and searched.gates and searched.refutes:
        return REFUTED
    if average.undecided == NO_ROOM:
        return WEAK
    if average.outcome == HELD and searched is not None and searched.gates and searched.undecided:
        return UNDECIDED
    is_weak = not against.tells or says_too_little(power, controls)
    return WEAK if average.outcome == HELD and is_weak else average.outcome


def _verdict(
    average: Measured,
    searched: Search | None,
    against: AgainstNull,
    power: Power | None,
    controlled: tuple[Control, ...],
) -> Verdict:
    evaluator, settings = average.evaluator, average.settings
    return Verdict(**{
        **fields_of(Verdict, average, settings, against),
        "claim": settings.name,
        "outcome": _outcome(average, searched, against, power, controlled),
        "average": average.outcome,
        "hypothesis": str(evaluator.hypothesis),
        "metric": evaluator.metric.name,
        "metric_worse": evaluator.metric.worse,
        "budget": settings.samples,
        "nodes": with_gaps(average),
        "model": evaluator.graph.source,
        "model_digest": evaluator.store.digest,
        "indirect": evaluator.graph.indirect,
        "precision": precision_of(evaluator.graph),
        "dataset": evaluator.dataset.name or "dataset",
        "dataset_digest": evaluator.dataset.digest(),
        "circuit": circuit_of(evaluator.hypothesis, evaluator.graph),
        "functions": functions_of(evaluator.hypothesis, evaluator.metric),
        "bounds": tuple(Bound(*one) for one in settings.bounds.items()),
        "search": searched,
        "power": power,
        "controls": controlled,
    })  # fmt: skip


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
                f"one, not {short_repr(store)}"
            )
        return made
    data.require_unchanged()
    return (
        ActivationStore.of(as_graph(model).rebuilt(), data)
        if store is None
        else store.current(model, data)
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


def _require_recoverable(average: Measured) -> None:
    """**Raises** `DataError` where a share is to be recovered, and nothing was lost."""
    is_judged = average.recovered_reason is None or average.undecided == TOO_FEW
    if average.settings.min_recovered is not None and not is_judged:
        raise DataError(
            f"min_recovered= cannot be judged: {average.recovered_reason}; give tolerance= instead"
        )
