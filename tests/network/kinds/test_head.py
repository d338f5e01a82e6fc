"""What a head computes with is put side by side, and kept where it is small: is it the same as when
it is made for every batch anew?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import Dataset, attn, head, output
from pytest_scrub.network.kinds import head as kind_of_head
from pytest_scrub.network.kinds import reading
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node
from tests.network.kinds.conftest import LENGTH, ROWS, F, Same, Small

BELOW = head(0, 1, **F)
TREES = {
    "a head": output(head(2, 0, **F, reads=[head(1, 1, **F, reads=[BELOW])])),
    "its queries": output(head(2, 1, **F, reads=[head(1, 0, **F, into="q")])),
    "heads of one layer": output(attn(2, **F, reads=[attn(1, **F, reads=[BELOW])])),
    "along every path": output(head(2, 0, **F, reads=[head(0, 0, **F, via="any")])),
}
Inputs = dict[str, Tensor]


def on(small: Small, inputs: Inputs) -> Small:
    tokens = inputs["tokens"]
    return replace(
        small, data=Dataset(inputs, labels=tokens[:, 0], features={"first": tokens[:, 0]})
    )


def outputs(small: Small, root: Node) -> Tensor:
    """Of three swap sets, one after the other."""
    slots, evaluator = tuple(slot.path for slot in slots_of(root)), small.evaluator(root)
    rng, digest = np.random.default_rng(2), small.data.digest()
    tables = [rng.integers(0, ROWS, (len(slots), ROWS)) for _ in range(3)]
    swap_sets = [SwapSet(np.arange(ROWS), table, slots, digest) for table in tables]
    return torch.cat([evaluator.outputs(swap_set) for swap_set in swap_sets]).double()


@pytest.mark.parametrize("root", TREES.values(), ids=TREES)
def test_what_is_kept_is_what_would_be_made_anew(
    small: Small, root: Node, same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = small.data.inputs["tokens"]
    bare = outputs(on(small, {"tokens": tokens}), root)
    # a mask that hides nothing is read for every batch
    same(
        bare,
        outputs(on(small, {"tokens": tokens, "attention_mask": torch.ones_like(tokens)}), root),
    )
    monkeypatch.setattr(reading, "MOST_KEPT_BYTES", -1)
    same(bare, outputs(on(small, {"tokens": tokens}), root))
    # sums over few keys side by side, and each by itself
    assert kind_of_head.FEWEST_KEYS > LENGTH
    monkeypatch.setattr(kind_of_head, "FEWEST_KEYS", 0)
    same(bare, outputs(on(small, {"tokens": tokens}), root))


def test_only_what_is_small_is_kept(native: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    computed = kind_of_head.Head.weights

    def counted(self: kind_of_head.Head, slots: list[str]) -> kind_of_head.Weights:
        made.append(len(slots))
        return computed(self, slots)

    root = output(head(2, 0, **F, reads=[BELOW]))
    native.store  # noqa: B018  # proved before anything is counted
    monkeypatch.setattr(kind_of_head.Head, "weights", counted)
    native.evaluator(root)
    made.clear()
    outputs(native, root)
    kept, made[:] = [*made], []
    monkeypatch.setattr(reading, "MOST_KEPT_BYTES", -1)
    outputs(native, root)
    # keys and values together, and queries, where they are wanted
    assert sorted(kept) == [1, 2]
    assert sorted(made) == [1, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("root", TREES.values(), ids=TREES)
def test_where_nothing_is_swapped_it_is_the_network(small: Small, root: Node, same: Same) -> None:
    # some rows are padded, others not
    own, slots = np.arange(ROWS), tuple(slot.path for slot in slots_of(root))
    nothing = SwapSet(own, np.tile(own, (len(slots), 1)), slots, small.data.digest())
    same(small.evaluator(root).outputs(nothing).double(), small.clean())
