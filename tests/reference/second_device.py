"""A second device for machines that have none: one written in Python, for networks on two.

Its tensors hold others on the processor, and every operation is refused whose tensors are not all
on one device, as a GPU's are. There is no leaving it: only for processes of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, attach_execution_device_hook
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils import backend_registration as registration

NAME = "second"
# operations that take positions from the processor, or move
MIXED = ("aten::index", "aten::_to_copy", "aten::copy_")

# of a kind that is no part of what computes a network
_counts = threading.local()


def ran() -> Counter[tuple[str, str]]:
    """How often each operation ran on each device."""
    vars(_counts).setdefault("ran", Counter())
    counts: Counter[tuple[str, str]] = _counts.ran
    return counts


class Second(Tensor):
    """A tensor there."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> Any:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            raw.size(),
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            layout=raw.layout,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:  # fmt: skip
        return _run(func, *args, **(kwargs or {}))


def _run(func: Any, *args: Any, **kwargs: Any) -> Any:
    tensors = [each for each in pytree.tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    # a number of no dimension may come from the processor
    devices = {each.device for each in tensors if each.ndim or each.device.type == NAME}
    if func._schema.name.startswith(MIXED):
        devices = {tensors[0].device}
    if len(devices) > 1:
        raise RuntimeError(f"expected all tensors of {func} to be on the same device")
    target = torch.device(kwargs.get("device") or next(iter(devices)))
    ran()[str(func._schema.name), target.type] += 1
    out = func(*pytree.tree_map(_inner, args), **pytree.tree_map(_inner, kwargs))
    if target.type != NAME:
        return out
    same = {id(each.raw): each for each in tensors if isinstance(each, Second)}  # in place
    return pytree.tree_map_only(
        Tensor, lambda raw: same[id(raw)] if id(raw) in same else Second(raw), out
    )


def _inner(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.raw if isinstance(value, Second) else value


class _Module(registration._DummyBackendModule):
    def is_available(self) -> bool:
        return False  # nothing is put there by itself


def register() -> list[torch.library.Library]:
    """Make the device known, before anything is differentiated; lasts as long as what is given."""
    registration._setup_privateuseone_for_python_backend(NAME, _Module())
    anything, some = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    anything.fallback(_run, "PrivateUse1")
    for overload in ("default", "start", "start_step"):  # which else resize what was made
        operation = getattr(torch.ops.aten.arange, overload)
        name = "arange" if overload == "default" else f"arange.{overload}"
        some.impl(name, partial(_run, operation), "PrivateUse1")
    return [anything, some]


def spread(network: nn.Module, device_map: Mapping[str, str]) -> nn.Module:
    """A Hugging Face network placed as `device_map` says, by accelerate's own hooks."""
    for name, device in device_map.items():
        part = network.get_submodule(name)
        for module in part.modules():
            for held in (module._parameters, module._buffers):
                for key, tensor in held.items():
                    if tensor is not None:
                        moved = tensor.detach().to(device)
                        is_learned = held is module._parameters
                        held[key] = nn.Parameter(moved, False) if is_learned else moved
        add_hook_to_module(part, AlignDevicesHook(execution_device=torch.device(device)))
        attach_execution_device_hook(part, torch.device(device))
    root = AlignDevicesHook(execution_device=torch.device("cpu"), io_same_device=True)
    add_hook_to_module(network, root)
    return network
