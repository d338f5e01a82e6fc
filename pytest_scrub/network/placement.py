"""Where a network's weights are: on one device, on several, or elsewhere until a module is run.

Hugging Face's `device_map` hangs one of accelerate's hooks on each module: it moves what the module
is called with to the module's device, and fetches weights that are kept elsewhere, on a disk or in
memory, for as long as the module runs. Nothing else is known of what lies on several devices, so
without such hooks it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.errors import ModelError

HOOK = "_hf_hook"  # where accelerate keeps a module's hook

Fetch = Callable[[], Tensor]


def hooks_of(module: nn.Module) -> Iterator[Any]:
    """Accelerate's hooks on a module; several may be in one."""
    hook = vars(module).get(HOOK)
    yield from () if hook is None else getattr(hook, "hooks", (hook,))


def _placing(module: nn.Module) -> Iterator[Any]:
    """Those that say where it is."""
    return (hook for hook in hooks_of(module) if hasattr(hook, "offload"))


def home_of(network: nn.Module) -> torch.device:
    """Where inputs have to be, and where activations are brought together."""
    for hook in _placing(network):
        if hook.execution_device is not None:
            return torch.device(hook.execution_device)
    first = next(network.parameters(), next(network.buffers(), None))
    return torch.device("cpu") if first is None else first.device


def devices_of(network: nn.Module) -> tuple[torch.device, ...]:
    """All that it computes on."""
    hooks = (hook for module in network.modules() for hook in _placing(module))
    told = {
        torch.device(hook.execution_device) for hook in hooks if hook.execution_device is not None
    }
    there = {weight.device for weight in network.parameters() if not weight.is_meta}
    return tuple(sorted(told | there, key=str)) or (home_of(network),)


def kept_elsewhere(network: nn.Module) -> dict[int, Fetch]:
    """What gets the numbers of each weight that is fetched when its module is run, by the id of
    what stands in its place; after a run something else does."""
    return {
        id(tensor): partial(hook.weights_map.__getitem__, name)
        for module in network.modules()
        for hook in _placing(module)
        if hook.offload
        for name, tensor in _tensors_of(module, recurse=hook.place_submodules)
        if tensor.is_meta
    }


def _tensors_of(module: nn.Module, *, recurse: bool) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters(recurse=recurse)
    yield from module.named_buffers(recurse=recurse)


def first_kept_elsewhere(network: nn.Module) -> str | None:
    """The name of the first weight that is not in memory; None where all are."""
    names = (name for name, weight in network.named_parameters() if weight.is_meta)
    return next(names, None)


def require_placed(network: nn.Module) -> None:
    """**Raises** `ModelError` where weights are on several devices and nothing moves what is
    computed between them, and where numbers are nowhere."""
    weights = dict(network.named_parameters())
    if not any(HOOK in vars(module) for module in network.modules()):
        devices = {str(weight.device): name for name, weight in weights.items()}
        if len(devices) > 1:
            where = " and ".join(f"{name} on {device}" for device, name in sorted(devices.items()))
            raise ModelError(
                f"the weights of the {type(network).__name__} are on several devices ({where}); "
                "load it onto one, or let Hugging Face place it with device_map="
            )
        return
    fetched = kept_elsewhere(network)
    for name, weight in weights.items():
        if weight.is_meta and id(weight) not in fetched:
            raise ModelError(
                f"the weight {name} is on the meta device and nothing fetches its numbers; load "
                "the network with device_map=, or onto one device"
            )
