"""In what numbers a network is computed, and where."""

from __future__ import annotations

import torch
from torch import Tensor

from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.network.packed import types_in

NARROW = (torch.float16, torch.bfloat16)


def widened(value: Tensor) -> Tensor:
    """For sums of many terms: float32 of a 16-bit type, which keeps two or three digits."""
    return value.float() if value.dtype in NARROW else value


def _types(graph: ModelGraph) -> set[torch.dtype]:
    learned = {weight.dtype for _, weight in graph.weights() if weight.is_floating_point()}
    return learned | types_in(graph.packed().values())


def rounding_of(graph: ModelGraph, output: Tensor) -> float:
    """How far off a metric of this network may be, as a share of it, and at least: large outputs
    may be far off for what a metric makes of them.

    Eight units of the last place, as sums of many terms are; of a 16-bit type the rounding of a
    single number, as what is summed is float32. The coarsest type counts, of the weights and of the
    output.
    """
    kind = coarsest(graph, output)
    return torch.finfo(kind).eps * (0.5 if kind in NARROW else 8)


def coarsest(graph: ModelGraph, output: Tensor) -> torch.dtype:
    """The number type that rounds most, of the weights and of the output."""
    return max({output.dtype, *_types(graph)}, key=lambda dtype: torch.finfo(dtype).eps)


def a_unit_off(output: Tensor, unit: float) -> Tensor:
    """An output with each number larger or smaller by that share of it, by chance, but the same
    every time."""
    signs = torch.randint(2, output.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return output * (1 + unit * signs).to(output)


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
