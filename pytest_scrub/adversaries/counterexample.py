"""A counterexample as a person reads it: which inputs, where they differ, and what the network
makes of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.verdict import Counterexample, Swap

TOP = 3  # outputs that are shown
MOST_PLACES = 8  # places in which two inputs differ


def described(evaluator: Evaluator, swap_set: SwapSet, found_by: str) -> Counterexample:
    """A swap set of one reference in words and numbers."""
    space, dataset = evaluator.space, evaluator.dataset
    reference = int(swap_set.references[0])
    moved, parents = space.moved(swap_set)[:, 0], space.parents(swap_set)[:, 0]
    swaps = []
    for i in np.flatnonzero(moved).tolist():
        slot, own, donor = space.slots[i], int(parents[i]), int(swap_set.donors[i, 0])
        swaps.append(
            Swap(
                slot=slot.path,
                agrees_on=str(slot.agrees_on),
                own=dataset.show(own),
                donor=dataset.show(donor),
                also=tuple(
                    n for n in _equal(dataset, own, donor) if n not in slot.agrees_on.features
                ),
                differs=_places(dataset, own, donor),
            )
        )
    scrubbed, clean = (
        float(evaluator.evaluate(swap_set)[0]),
        float(evaluator.unscrubbed(swap_set.references)[0]),
    )
    return Counterexample(
        found_by=found_by,
        reference=dataset.show(reference),
        swaps=tuple(swaps),
        unscrubbed=clean,
        scrubbed=scrubbed,
        gap=scrubbed - clean,
        clean_output=_top(evaluator.clean_outputs(swap_set.references)[0]),
        scrubbed_output=_top(evaluator.outputs(swap_set)[0]),
    )


def _equal(dataset: Dataset, first: int, second: int) -> list[str]:
    found = []
    for name in dataset.feature_names:
        try:
            values = dataset.feature(name)
        except DataError:  # a column, which fresh inputs have no value of
            continue
        if np.array_equal(values[first], values[second]):
            found.append(name)
    return found


def _places(dataset: Dataset, first: int, second: int) -> str:
    found = []
    for name, tensor in dataset.inputs.items():
        differs = tensor[first] != tensor[second]
        if not bool(differs.any()):
            continue
        if differs.ndim == 0:
            found.append(f"{name} {tensor[first].item():g} against {tensor[second].item():g}")
            continue
        places = differs.reshape(len(differs), -1).any(1).nonzero()[:, 0].tolist()
        more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
        found.append(f"{name} at {', '.join(map(str, places[:MOST_PLACES]))}{more}")
    return "; ".join(found)


def _top(output: Tensor) -> str:
    """The largest entries of the last dimension, at the last position where there are several."""
    output = output.detach().double().cpu()
    if output.ndim == 0:
        return f"{output.item():.4g}"
    at = ""
    while output.ndim > 1:
        at, output = " at the last position", output[-1]
    values, places = torch.topk(output, min(TOP, len(output)))
    return (
        ", ".join(f"{p} ({v:.3g})" for p, v in zip(places.tolist(), values.tolist(), strict=True))
        + at
    )
