"""The claim of four nodes as people evaluate it today: a run of the network for every node, patched
by hooks.

The network is small enough that hooks express the claim exactly: nothing lies between head 0.3 and
head 1.0, so a run in which 0.3 is patched and only 1.0 is kept reads it directly; and what goes
directly from the embedding to the output is the last residual stream's summand.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.peers_small import rows_of
from pytest_scrub import Dataset
from pytest_scrub.swaps.swap_set import SwapSet

LOWER, UPPER = 3, 0  # head 0.3 and head 1.0


def losses(bridge, data: Dataset, swaps: SwapSet, batch: int) -> Tensor:
    """The cross-entropy of every reference, float64 `[R]`."""
    return torch.cat(
        [_batch(bridge, data, swaps, slice(i, i + batch)) for i in range(0, len(swaps), batch)]
    )


@torch.no_grad()
def _batch(bridge, data: Dataset, swaps: SwapSet, at: slice) -> Tensor:
    def tokens(slot: str | None) -> Tensor:
        rows = swaps.references if slot is None else rows_of(swaps, slot)
        return data.inputs["tokens"][torch.from_numpy(rows[at].copy())]

    z0, z1, stream = "blocks.0.attn.hook_z", "blocks.1.attn.hook_z", "blocks.1.hook_resid_post"
    _, donor = bridge.run_with_cache(tokens("output/head1.0/head0.3"), names_filter=[z0])
    _, exact = bridge.run_with_cache(tokens("output/embed"), names_filter=["hook_embed"])
    kept = {}

    def patch_lower(z: Tensor, hook: object) -> Tensor:
        z[:, :, LOWER] = donor[z0][:, :, LOWER]
        return z

    def keep_upper(z: Tensor, hook: object) -> None:
        kept["upper"] = z[:, -1, UPPER].clone()

    bridge.run_with_hooks(
        tokens("output/head1.0/rest"), fwd_hooks=[(z0, patch_lower), (z1, keep_upper)]
    )

    def keep_embedding(value: Tensor, hook: object) -> None:
        kept["embed"] = value[:, -1].clone()

    def patch_upper(z: Tensor, hook: object) -> Tensor:
        z[:, -1, UPPER] = kept["upper"]
        return z

    def patch_embedding(value: Tensor, hook: object) -> Tensor:
        value[:, -1] += exact["hook_embed"][:, -1] - kept["embed"]
        return value

    hooks = [("hook_embed", keep_embedding), (z1, patch_upper), (stream, patch_embedding)]
    logits = bridge.run_with_hooks(tokens("output/rest"), fwd_hooks=hooks)[:, -1]
    labels = data.labels[torch.from_numpy(swaps.references[at].copy())]
    return F.cross_entropy(logits.double(), labels, reduction="none")
