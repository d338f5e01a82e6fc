"""In what numbers a network is computed, and where."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_scrub.network.graph import ModelGraph

NARROW = (torch.float16, torch.bfloat16)
# Relative to the largest value of the tensor compared. float64 networks may still normalise in
# float32 (RMSNorm in Hugging Face and TransformerLens does), so their bound is float32's.
PROOF_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 2e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}


def widened(value: Tensor) -> Tensor:
    """For sums of many terms: float32 of a 16-bit type, which keeps two or three digits."""
    return value.float() if value.dtype in NARROW else value


def off_by(mine: Tensor, theirs: Tensor) -> float:
    """By how much a tensor that was recomputed differs from the network's own, relative to its
    largest value; 0 where rounding may be all."""
    scale = theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny)
    off = float(((mine - theirs).abs().max() / scale).nan_to_num(nan=float("inf")))
    return off if off > PROOF_TOLERANCE.get(theirs.dtype, 0.0) else 0.0


def _types(graph: ModelGraph) -> set[torch.dtype]:
    return {weight.dtype for _, weight in graph.weights() if weight.is_floating_point()}


def rounding_of(graph: ModelGraph, output: Tensor) -> float:
    """How far off a metric of this network may be, as a share of it.

    Eight units of the last place, as sums of many terms are; of a 16-bit type the rounding of a
    single number, as what is summed is float32. The coarsest type counts, of the weights and of the
    output.
    """
    coarsest = max({output.dtype, *_types(graph)}, key=lambda dtype: torch.finfo(dtype).eps)
    return torch.finfo(coarsest).eps * (0.5 if coarsest in NARROW else 8)


def precision_of(graph: ModelGraph) -> str:
    """The number types of a network's weights, of sums where that is another one, and the device,
    in words."""
    types = _types(graph)
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types)) or "no"
    sums = ", sums of contributions in float32" if graph.adds and types & set(NARROW) else ""
    device = graph.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{names} weights{sums}, on {where}"
