"""Weights that are packed into fewer bits, and unpacked by the layer that has them when it is
called: those of bitsandbytes, GPTQ and their like. Such layers are called, never read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

WEIGHT = "weight"  # what buffers that hold packed weights have in their names
HELD = ("_parameters", "_buffers", "_modules")
DEEPEST = 4  # scales that are quantised themselves lie in an object in an object


def packed_in(network: nn.Module) -> dict[str, nn.Module]:
    """The layers whose weights are packed, by name."""
    return {name: module for name, module in network.named_modules() if is_packed(module)}


def is_packed(module: nn.Module) -> bool:
    """Whether the weights of a layer are packed."""
    own = (weight for weight in module._parameters.values() if weight is not None)
    held = (
        buffer for name, buffer in module._buffers.items() if buffer is not None and WEIGHT in name
    )
    return any(map(_is_narrow, (*own, *held)))


def _is_narrow(weight: Tensor) -> bool:
    """Whether a weight is no array of numbers to multiply with."""
    is_number = weight.is_floating_point() or weight.is_complex()
    return not is_number or weight.element_size() == 1 or hasattr(weight, "__tensor_flatten__")


def scales_of(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that packed layers compute with beside their parameters and buffers, by name:
    scales and tables that lie in attributes of the layer, or of the weight itself."""
    for name, module in packed_in(network).items():
        seen = {id(module)}
        attributes = {key: value for key, value in vars(module).items() if key not in HELD}
        yield from _tensors_in(name, {**attributes, **module._parameters}, seen, DEEPEST)


def _tensors_in(
    name: str, held: Mapping[str, Any], seen: set[int], depth: int
) -> Iterator[tuple[str, Tensor]]:
    for key, value in held.items():
        if id(value) in seen or isinstance(value, (nn.Module, type)):
            continue
        seen.add(id(value))
        inner = f"{name}.{key}"
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            yield inner, value
        if depth:
            below = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
            if isinstance(value, (list, tuple)):
                below = dict(enumerate(value))
            yield from _tensors_in(
                inner, {str(key): each for key, each in below.items()}, seen, depth - 1
            )


def types_in(layers: Iterable[nn.Module]) -> set[torch.dtype]:
    """The number types that packed layers say they compute in."""
    told = (value for layer in layers for value in vars(layer).values())
    return {value for value in told if isinstance(value, torch.dtype) and value.is_floating_point}
