"""Which keys are visible. Heads alone read it, in a slot of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_scrub.data.columns import Ints
from pytest_scrub.data.dataset import Dataset, Positions
from pytest_scrub.data.names import MASK as MASK_INPUT
from pytest_scrub.data.names import TOKENS
from pytest_scrub.errors import ModelError
from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.graph import (
    Edits,
    FixedPositions,
    Inputs,
    Site,
    Where,
    patched,
    position_ids,
)
from pytest_scrub.network.kinds.part import MASK, VISIBLE, Part, first_stage
from pytest_scrub.tree.nodes import Node


class Mask(Part):
    """The visible keys, bool `[B, P]`."""

    adds = False
    hint = "only heads read the mask directly; use via='any' for all of them below it"

    def __init__(self, transformer: Transformer) -> None:
        super().__init__(transformer, MASK, "embeddings")

    def ways_into(self, parent: Part, anywhere: bool) -> tuple[str, ...]:
        is_seen = anywhere and (parent.beside or parent.stage > first_stage(0))
        return (*parent.streams, *parent.beside) if is_seen else parent.beside

    def site(self, positions: FixedPositions) -> Site:
        return VISIBLE

    def clean(self, kind: str, seen: Inputs, where: Where) -> Tensor:
        return visible_keys(seen)

    def refusal(self, node: Node, dataset: Dataset) -> str | None:
        if MASK_INPUT not in dataset.inputs:
            return (
                f"the inputs have no {MASK_INPUT!r}, so every key is visible and mask swaps nothing"
            )
        if node.edited is not None:
            return "mask says which keys are visible, to which no vector can be added; swap it"
        if node.reads or node.subspace is not None or node.computed_by is not None:
            return "mask is a leaf of visible keys; leave reads=, subspace= and computed_by= out"
        return None

    def can_be_swapped_at(self, at: Positions | None, dataset: Dataset, rows: Ints) -> bool:
        """The first key stays visible, which every query sees."""
        first = dataset.inputs[MASK_INPUT].bool()[rows.tolist(), 0]
        return at is not None and at.static and bool(first.all())


def visible_keys(inputs: Inputs) -> Tensor:
    """bool `[B, P]`: the keys that attention may see."""
    mask = inputs.get(MASK_INPUT)
    return torch.ones_like(inputs[TOKENS], dtype=torch.bool) if mask is None else mask.bool()


def seen_keys(
    visible: Tensor, where: Where, queries: Tensor, causal: bool, window: int | None = None
) -> Tensor:
    """Which keys queries at `where` see, `[B, 1 or K, P]`, from the visible keys `[B, P]`.

    **Arguments**

    - `window`: how many keys a query sees at most, its own the last.
    """
    seen = visible.unsqueeze(1)
    if not causal:
        return seen
    at = position_ids(where, queries).unsqueeze(-1)
    keys = torch.arange(visible.shape[1], device=visible.device)
    seen = seen & (keys <= at)
    return seen if window is None else seen & (keys > at - window)


def sees_nothing(visible: Tensor, causal: bool, window: int | None) -> Tensor:
    """bool `[B]`: whether some query of a row sees no key, of the visible keys `[B, P]`."""
    if not causal:
        return ~visible.any(1)
    seen = visible.int().cumsum(1)
    if window is not None:
        seen[:, window:] -= seen[:, :-window].clone()
    return (seen == 0).any(1)


def replaced_keys(visible: Tensor, edits: Edits, carrier: Tensor) -> Tensor:
    """bool `[B, P]`: the carrier's visible keys with what replaces them put in."""
    return patched(MASK, visible.float(), edits, carrier) > 0 if edits else visible


def require_a_key(seen: Tensor, carrier: Tensor, reader: str) -> None:
    """**Raises** `ModelError` where a query sees no key, which the network's own masks never do to
    it.

    **Arguments**

    - `seen`: as `seen_keys` gives it, of the queries that are computed.
    - `carrier`: the dataset's rows `[B]` that they are of; `reader`: the component they are
      computed for.
    """
    blind = ~seen.any(-1).all(-1)
    if blind.any():
        raise ModelError(
            f"{reader}: a mask swapped at some positions only leaves a query of row "
            f"{int(carrier[blind][0])} without a key that it sees; claim all positions of the "
            "mask, or let it agree on which keys are visible"
        )
