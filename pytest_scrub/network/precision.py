"""In what numbers a network is computed, and where."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.network.packed import types_in

LARGEST = 1e4  # outputs beyond are masks, which a metric adds to nothing
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


def off_by(
    mine: Tensor,
    theirs: Tensor,
    largest: Tensor | None = None,
    tolerance: Mapping[torch.dtype, float] = PROOF_TOLERANCE,
) -> float:
    """By how much a tensor that was recomputed differs from the network's own, relative to its
    largest value, or to what is given, of each channel or of all; 0 where rounding may be all."""
    scale = theirs.abs().max() if largest is None else largest
    scale = scale.clamp(min=torch.finfo(theirs.dtype).tiny)
    off = float(((mine - theirs).abs() / scale).max().nan_to_num(nan=float("inf")))
    return off if off > tolerance.get(theirs.dtype, 0.0) else 0.0


def _types(graph: ModelGraph) -> set[torch.dtype]:
    learned = {weight.dtype for _, weight in graph.weights() if weight.is_floating_point()}
    return learned | types_in(graph.packed().values())


def rounding_of(kind: torch.dtype) -> float:
    """How far off a metric may be that is computed in such numbers, as a share of it, and at least:
    large outputs may be far off for what a metric makes of them.

    Eight units of the last place, as sums of many terms are; of a 16-bit type the rounding of a
    single number, as what is summed is float32.
    """
    return torch.finfo(kind).eps * (0.5 if kind in NARROW else 8)


def coarsest(graph: ModelGraph, output: Tensor) -> torch.dtype:
    """The number type that rounds most, of the weights and of the output."""
    return max({output.dtype, *_types(graph)}, key=lambda dtype: torch.finfo(dtype).eps)


def a_unit_off(output: Tensor, unit: float) -> Tensor:
    """An output with each number larger or smaller by that share of it, by chance, but the same
    every time."""
    signs = torch.randint(2, output.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return output * (1 + unit * signs).to(output)


def last_digits_of(output: Tensor) -> float:
    """How far off a metric may be, in its own unit, as float64 has so many digits.

    Whatever it computes in float64 of numbers as large as the outputs may be off by the last places
    of those, however small the metric itself is: a cross-entropy of 0.001 is a difference of
    logits. Eight units, as of sums.
    """
    return 8 * torch.finfo(torch.float64).eps * largest_of(output)


def largest_of(output: Tensor) -> float:
    """The largest number of an output, or the largest that is no mask."""
    finite = output.double().nan_to_num(0.0, 0.0, 0.0)
    return min(float(finite.abs().max()), LARGEST) if len(output) else 0.0


def precision_of(graph: ModelGraph) -> str:
    """The number types of a network's weights, of sums where that is another one, and the device,
    in words."""
    types = _types(graph)
    names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in types)) or "no"
    if kinds := {type(layer).__name__ for layer in graph.packed().values()}:
        names += f" and packed ({', '.join(sorted(kinds))})"
    sums = ", sums of contributions in float32" if graph.adds and types & set(NARROW) else ""
    # what a metric is computed from
    narrow = max((torch.finfo(dtype).eps / 2 for dtype in types if dtype in NARROW), default=0)
    sums += f", outputs rounded to {narrow:.2%} of themselves" if narrow else ""
    where = " and ".join(dict.fromkeys(map(_called, graph.devices)))
    return f"{names} weights{sums}, on {where}"


def _called(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
