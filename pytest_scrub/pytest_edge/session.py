"""What the claims of one test session share: options, and clean activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pytest_scrub.pytest_edge.amounts import amount
from pytest_scrub.pytest_edge.options import MEMORY
from pytest_scrub.settings import CheckOptions, ScrubOptions, Settings, set_options, with_options_of

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from typing_extensions import Unpack

    from pytest_scrub.adversaries.saved import Saved
    from pytest_scrub.data.dataset import Dataset
    from pytest_scrub.engine.evaluator import Evaluator
    from pytest_scrub.engine.explain import Explanation
    from pytest_scrub.engine.memory import Memory
    from pytest_scrub.engine.store import ActivationStore, Executor, Progress
    from pytest_scrub.extras.disk_cache.folder import BoundedFolder
    from pytest_scrub.network import ModelGraph
    from pytest_scrub.pytest_edge.suite_error import SuiteError
    from pytest_scrub.swaps.space import SwapSpace
    from pytest_scrub.swaps.swap_set import SwapSet
    from pytest_scrub.tree.nodes import Node
    from pytest_scrub.verdict import Verdict

STORES_KEPT = 2  # for claims that are parametrised by a few networks or datasets, in turn

ShowProgress = Callable[[str], AbstractContextManager["Progress | None"]]


@dataclass
class Session:
    """Runs claims with the session's options, sharing clean activations between those on the same
    network and data.

    - `for_all`: settings of all claims, where a claim does not say its own.
    - `shared`: the error of the run that its claims share, `--scrub-suite-error`, or None.
    - `folder`: where counterexamples of claims are kept; None keeps none.
    - `replay`: the saved counterexample that is evaluated alone, `--scrub-replay`.
    - `cache`: where activations outlive the session; None keeps none.
    - `executor`: who captures and evaluates, `--scrub-ray`; by default this process does.
    - `memory`: `--scrub-memory`, what activations may take there: the share of each of the
      processes of a run.
    - `turn`: which of how many processes this is.
    - `show_progress`: opens a progress display for one claim.
    """

    for_all: Mapping[str, Any]
    shared: SuiteError | None = None
    folder: Path | None = None
    replay: Saved | None = None
    cache: BoundedFolder | None = None
    executor: Executor | None = None
    memory: str = MEMORY
    turn: tuple[int, int] = (0, 1)
    show_progress: ShowProgress = lambda _: nullcontext()
    # the last used last; graphs are those that networks were taken apart into
    _stores: dict[tuple[int, int], tuple[Any, Dataset, ModelGraph, ActivationStore]] = field(
        default_factory=dict
    )
    _memories: dict[str, Memory] = field(default_factory=dict)

    def store(self, model: Any, data: Dataset) -> ActivationStore:
        """The clean activations of a network on a dataset; the two last used are kept.

        Those of a network that was changed since, however it was done, are forgotten. **Raises**
        `DataError` where the data were.
        """
        from pytest_scrub.engine.store import ActivationStore
        from pytest_scrub.extras.disk_cache.activations import activation_files

        data.require_unchanged()
        key = (id(model), id(data))
        *_, graph, store = self._stores.pop(key, (None, None))
        if graph is None or store is None or store.is_stale():
            # a graph that was made before may hold what its weights were then
            graph = self._taken_apart(model).rebuilt()
            disk_cache = None if self.cache is None else partial(activation_files, self.cache)
            memory = self._memory(graph.device)
            store = ActivationStore.of(graph, data, memory, disk_cache, self.turn, self.executor)
        # network and data live as long as their entry, so that its key is never that of others
        self._stores[key] = model, data, graph, store
        while len(self._stores) > STORES_KEPT:
            *_, dropped = self._stores.pop(next(iter(self._stores)))
            dropped.keep()
        return store

    def _taken_apart(self, model: Any) -> ModelGraph:
        """The graph of a network, made once for all data as long as the network is what it was."""
        from pytest_scrub.network import as_graph

        for other, _, graph, store in self._stores.values():
            # of what does not sum on the rows of other data only, another graph was made there
            if other is model and store.graph is graph and not store.is_stale():
                return graph
        return as_graph(model)

    def _memory(self, device: torch.device) -> Memory:
        """What all stores on a device share."""
        from pytest_scrub.engine.memory import Memory, free_bytes

        if device.type not in self._memories:
            most = amount(self.memory, free_bytes(device))
            self._memories[device.type] = Memory(most // self.turn[1])
        return self._memories[device.type]

    def close(self) -> tuple[str, ...]:
        """Keep the activations for later runs. **Returns** warnings about that."""
        for *_, store in self._stores.values():
            store.keep()
        return () if self.cache is None else tuple(dict.fromkeys(self.cache.notes))

    def settings(self, options: Mapping[str, Any], **beside: Any) -> Settings:
        """A claim's options, and those of the run where it has none of its own.

        **Raises** `HypothesisError` for a value that has no meaning, and where the claim is less
        sure than an error allows that the claims of the run share.
        """
        settings = Settings(**{**self.for_all, **set_options(options), **beside})
        if self.shared is not None:
            self.shared.require_enough(settings.confidence)
        return settings

    @with_options_of(CheckOptions, of_run=True)
    def check(
        self, hypothesis: Any, *, model: Any, data: Any, **options: Unpack[CheckOptions]
    ) -> Verdict:
        """`pytest_scrub.check` with the session's settings."""
        return self.judged(hypothesis, self.settings(options), model=model, data=data)

    def judged(self, hypothesis: Any, settings: Settings, *, model: Any, data: Any) -> Verdict:
        """The verdict, on clean activations that claims share."""
        from pytest_scrub.judge import judged

        with self.show_progress(settings.name) as progress:
            settings = replace(settings, store=self.store, progress=progress)
            return judged(hypothesis, model, data, settings)

    def evaluator(
        self, hypothesis: Node, metric: Any = None, *, model: Any, data: Dataset
    ) -> Evaluator:
        """The evaluator of a hypothesis, on clean activations that claims share."""
        from pytest_scrub.engine.evaluator import Evaluator

        store = self.store(model, data)
        return Evaluator(store.graph, data, hypothesis, metric, store=store)


@dataclass(frozen=True)
class Scrub:
    """The fixture `scrub`: the engine for tests of one's own, with the same network, data and seed
    as a claim.

    - `session`, `model`, `data`, `name`: what a claim in this test would use.
    """

    session: Session
    model: Any
    data: Dataset
    name: str

    @with_options_of(ScrubOptions, of_run=True)
    def check(self, hypothesis: Node, **options: Unpack[ScrubOptions]) -> Verdict:
        """The verdict on a hypothesis; `options` as for `pytest_scrub.check`. Nothing is raised
        where it is refuted."""
        return self.session.check(
            hypothesis, model=self.model, data=self.data, name=self.name, **options
        )

    def evaluator(self, hypothesis: Node, metric: Any = None) -> Evaluator:
        """The evaluator of a hypothesis, sharing this session's clean activations."""
        return self.session.evaluator(hypothesis, metric, model=self.model, data=self.data)

    def space(self, hypothesis: Node) -> SwapSpace:
        """The swap sets a hypothesis allows on this data."""
        return self.evaluator(hypothesis).space

    def gap(
        self, swap_set: SwapSet, hypothesis: Node | None = None, metric: Any = None
    ) -> npt.NDArray[np.float64]:
        """Scrubbed minus unscrubbed metric of every reference of a swap set, float64 `[R]`.

        The hypothesis is the one that the swap set was made for, where it is not given.

        **Raises** `HypothesisError` where neither says it.
        """
        from pytest_scrub.errors import HypothesisError

        hypothesis = hypothesis or swap_set.hypothesis
        if hypothesis is None:
            raise HypothesisError(
                "this swap set does not say which hypothesis it is of; give gap(swap_set, "
                "hypothesis)"
            )
        evaluator = self.evaluator(hypothesis, metric)
        gap = evaluator.evaluate(swap_set) - evaluator.unscrubbed(swap_set.references)
        self.data.require_unchanged()
        evaluator.store.require_stateless()
        return gap

    def explain(self, hypothesis: Node, metric: Any = None) -> Explanation:
        """Slots, donors, and what would be cached and recomputed; print it. No swap is
        evaluated."""
        from pytest_scrub.engine.explain import explain

        return explain(self.evaluator(hypothesis, metric))
