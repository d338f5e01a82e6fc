"""A counterexample as a person reads it: which inputs, where they differ, and what the network
makes of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.data.names import MASK
from pytest_scrub.data.pictures import opaque_where
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import Attention, Counterexample, Swap

TOP = 3  # outputs that are shown
MOST_PLACES = 8  # places in which two inputs differ
ATTENDS = re.compile(r"(attn|head|pattern)\d")  # components that are attention
MOST_HEADS = 4  # whose attention is drawn
MOST_POSITIONS = 128  # of what is drawn of it


def described(evaluator: Evaluator, swap_set: SwapSet, found_by: str) -> Counterexample:
    """A swap set of one reference in words and numbers."""
    space, references = evaluator.space, swap_set.references
    dataset = space.dataset
    moved, parents = space.moved(swap_set)[:, 0], space.parents(swap_set)[:, 0]
    clean, scrubbed = evaluator.unscrubbed(references)[0], evaluator.evaluate(swap_set)[0]
    predicted = None if space.predicted is None else evaluator.labels(swap_set)
    own = None if predicted is None else dataset.labels
    return Counterexample(
        found_by=found_by,
        reference=dataset.show(int(references[0])),
        swaps=tuple(
            _swap(evaluator, i, int(parents[i]), int(swap_set.donors[i, 0]))
            for i in np.flatnonzero(moved).tolist()
        ),
        unscrubbed=float(clean),
        scrubbed=float(scrubbed),
        gap=float(scrubbed) - float(clean),
        clean_output=_top(dataset, evaluator.clean_outputs(references)[0]),
        scrubbed_output=_top(dataset, evaluator.outputs(swap_set)[0]),
        picture=dataset.picture(int(references[0])),
        predicted=None if predicted is None else _shown(predicted[0]),
        label=None if own is None else _shown(own[int(references[0])]),
    )


def _shown(label: Tensor) -> str:
    return str(label.tolist()) if label.ndim else f"{label.item():.4g}"


def _swap(evaluator: Evaluator, i: int, own: int, donor: int) -> Swap:
    space = evaluator.space
    dataset, slot, also = space.dataset, space.slots[i], []
    further, donor = divmod(donor, len(dataset))
    differs = [*_places(dataset, own, donor)]
    if further and slot.at is not None:
        there = (slot.at + further) % slot.shifts
        differs.insert(0, f"read at position {there} in place of position {slot.at}")
    for name in dataset.feature_names:
        with suppress(DataError):  # a column, which fresh inputs have no value of
            values = dataset.feature(name)
            if name not in slot.agrees_on.features and np.array_equal(values[own], values[donor]):
                also.append(name)
    return Swap(
        slot=slot.path,
        agrees_on=str(slot.agrees_on),
        own=dataset.show(own),
        donor=dataset.show(donor),
        also=tuple(also),
        differs="; ".join(differs),
        own_picture=dataset.picture(own),
        donor_picture=dataset.picture(donor),
        own_output=_output(evaluator, own),
        donor_output=_output(evaluator, donor),
        attention=tuple(_attention(evaluator, slot.node, own, donor)),
    )


def _output(evaluator: Evaluator, row: int) -> str | None:
    """Of a row that is no reference perhaps, of which it may not be known where it is read."""
    try:
        return _top(evaluator.dataset, evaluator.clean_outputs(np.array([row]))[0])
    except DataError:
        return None


def _attention(evaluator: Evaluator, node: Node, own: int, donor: int) -> Iterator[Attention]:
    """Where the heads that a node is look on two inputs, where the network tells."""
    graph, dataset, rows = evaluator.graph, evaluator.dataset, [own, donor]
    attends = [name for name in node.components if ATTENDS.match(name)]
    heads = chain.from_iterable(graph.heads_of(name) for name in attends)
    patterns = [head.replace("head", "pattern") for head in islice(heads, MOST_HEADS)]
    sites = [graph.parts[name].site(None) for name in patterns if name in graph.components]
    if not sites:
        return
    with torch.no_grad():
        captured = graph.capture(sites, dataset.batch(rows))
    mask = dataset.inputs.get(MASK)
    for site in sites:
        looks = [shares.double().cpu().numpy() for shares in captured[site]]
        if mask is not None:
            seen = [mask[row].bool().cpu().numpy() for row in rows]
            looks = [shares[at][:, at] for shares, at in zip(looks, seen, strict=True)]
        if max(len(shares) for shares in looks) <= MOST_POSITIONS:
            (name,), (at_own, at_donor) = site.names, map(opaque_where, looks)
            words = dataset.words(own), dataset.words(donor)
            yield Attention(name.replace("pattern", "head"), at_own, at_donor, *words)


def _places(dataset: Dataset, first: int, second: int) -> Iterator[str]:
    for name, tensor in dataset.inputs.items():
        differs = tensor[first] != tensor[second]
        if not bool(differs.any()):
            continue
        if differs.ndim == 0:
            yield f"{name} {tensor[first].item():g} against {tensor[second].item():g}"
            continue
        places = differs.reshape(len(differs), -1).any(1).nonzero()[:, 0].tolist()
        more = f" and {len(places) - MOST_PLACES} more" if len(places) > MOST_PLACES else ""
        yield f"{name} at {', '.join(map(str, places[:MOST_PLACES]))}{more}"


def _top(dataset: Dataset, output: Tensor) -> str:
    """The largest entries of the last dimension, at the last position where there are several; by
    their words, where they are tokens of the dataset's tokenizer. Of what is said the tokens."""
    if not output.is_floating_point():
        return f"tokens {' '.join(map(str, output.tolist()))}"
    output = output.detach().double().cpu()
    if output.ndim == 0:
        return f"{output.item():.4g}"
    at = " at the last position" if output.ndim > 1 else ""
    last = output.reshape(-1, output.shape[-1])[-1]
    known = dataset.vocabulary
    is_token = known is not None and len(last) >= known
    values, places = torch.topk(last, min(TOP, len(last)))
    names = [repr(dataset.word(n)) if is_token else str(n) for n in places.tolist()]
    shown = zip(names, values.tolist(), strict=True)
    return ", ".join(f"{name} ({value:.3g})" for name, value in shown) + at
