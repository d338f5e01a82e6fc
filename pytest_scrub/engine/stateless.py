"""What a network computes of a row may not depend on what it was run on before."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.errors import ModelError
from pytest_scrub.network.graph import Inputs, ModelGraph
from pytest_scrub.network.state import State

# Networks that keep something, and what: one that has seen all rows changes no more.
_keeping: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


@torch.no_grad()
def require_stateless(graph: ModelGraph, dataset: Dataset, state: State) -> None:
    """**Raises** `ModelError` where a network keeps something of earlier runs, and for good where
    it did: answers that it remembers no swap changes, and after some runs it may compute something
    else.

    - `state`: of the network after its proof, which mostly ends with a run on the same inputs.

    What it keeps of its last run alone, and of inputs of another length or number, is no memory of
    what it was run on.
    """
    modules = [part for part in graph.computed_by_objects() or () if isinstance(part, nn.Module)]
    for said in filter(None, map(_keeping.get, modules)):
        raise ModelError(said)
    if state.is_untouched():
        return
    inputs = dataset.batch(graph.proof_rows(dataset.inputs))
    graph.run(inputs)
    if state.is_current():
        return
    if not state.has_other_weights() and _keeps_nothing_of(graph, inputs, _mixed(inputs, dataset)):
        return
    said = (
        f"{graph.source}: {state.change()} is another after the runs of this claim, and what it "
        "computes may depend on that; let it keep nothing of earlier runs (no results, no counts), "
        "call eval(), and load it anew"
    )
    _keeping.update(dict.fromkeys(modules, said))
    raise ModelError(said)


def _keeps_nothing_of(graph: ModelGraph, inputs: Inputs, others: Inputs | None) -> bool:
    """Whether a run on other inputs of the same sizes leaves it what it was after one on these."""
    if others is None:
        return False
    before = State(graph)
    try:
        graph.run(others)
    except Exception:  # whatever it makes of inputs that nobody gave it
        return False
    graph.run(inputs)
    return before.is_current()


def _mixed(inputs: Inputs, dataset: Dataset) -> dict[str, Tensor] | None:
    """Inputs that are in no dataset, of the same sizes; None where there are none."""
    mixed = {}
    for name, tensor in inputs.items():
        mixed[name], before = tensor, tensor.roll(1, 0)
        if tensor.is_floating_point():
            mixed[name] = tensor.lerp(before, 0.37)
        elif "mask" not in name and tensor.dtype != torch.bool and tensor.ndim > 1:
            every_second = torch.arange(tensor.shape[1], device=tensor.device) % 2 == 0
            kept = every_second.view(1, -1, *[1] * (tensor.ndim - 2))
            mixed[name] = torch.where(kept, tensor, before)
    content = dataset.extend(mixed).content
    known, found = np.split(content, [len(dataset)])
    return None if np.isin(found, known).all() else mixed
