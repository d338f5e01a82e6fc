"""A Hugging Face model in a TransformerLens bridge, and out of it again.

A bridge puts its own parts into the model that it is made around.
"""

from __future__ import annotations

import sys
from itertools import chain
from typing import Any, cast

import torch
from torch import nn

from pytest_scrub.errors import ModelError
from pytest_scrub.network.code import is_bookkeeping
from pytest_scrub.network.hooks import WRAPPED, HookGraph

LIBRARY = "transformer_lens"
# where a Hugging Face model keeps the bridge whose parts are now in it
BRIDGE = "_pytest_scrub_bridge"


def library_classes(model: object) -> set[str]:
    """The classes of TransformerLens that an object is of, by name."""
    return {c.__name__ for c in type(model).__mro__ if c.__module__.partition(".")[0] == LIBRARY}


def bridge_of(model: nn.Module) -> nn.Module:
    """A Hugging Face model in a TransformerLens bridge, always the same one; its weights are
    shared.

    A bridge puts its own parts into the model, so that a second one around it would wrap the parts
    of the first.

    **Raises** `ModelError` where TransformerLens does not know the architecture, and where somebody
    else's bridge is there.
    """
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    name = type(model).__name__
    if BRIDGE in vars(model):
        known: nn.Module = vars(model)[BRIDGE]
        return known.train(model.training)
    if any(library_classes(part) for part in model.modules()):
        raise ModelError(
            f"this {name} is inside a TransformerBridge already; load the bridge instead of the "
            "model in it"
        )
    try:
        around = model if name in SUPPORTED_ARCHITECTURES else _around_base(model) or model
        bridge: nn.Module = build_bridge_from_module(
            around, architecture=type(around).__name__, hf_config=model.config
        )
    except (ValueError, RuntimeError) as error:
        said, first = "does not know", ""
        if isinstance(error, RuntimeError):
            said, first = "cannot wrap this", "load it anew and "
        raise ModelError(
            f"TransformerLens {said} {name} ({str(error).splitlines()[0]}); for claims about its "
            f"modules {first}use ModuleGraph(model)"
        ) from error
    vars(model)[BRIDGE] = bridge  # not an attribute: a submodule would be part of the model's state
    return bridge.train(model.training)


def is_in(network: object, bridge: nn.Module) -> bool:
    """Whether a bridge is the one that we have put into this model."""
    return isinstance(network, nn.Module) and vars(network).get(BRIDGE) is bridge


def along_every_path(network: nn.Module, bridge: Any, reason: str) -> HookGraph:
    """The graph of what hooks show.

    A bridge that we have put into a Hugging Face model is taken out of it again: the network itself
    is run, whatever the bridge does in ways of its own. It stays where the user has hung hooks on
    its parts, which are the model's own to them.
    """
    if is_in(network, bridge) and not _is_hooked(network):
        _unwrap(network)
        del vars(network)[BRIDGE]
    return HookGraph(network, bridge, reason)


def _is_hooked(network: nn.Module) -> bool:
    """Whether hooks that are not a bridge's own hang on parts of one."""
    parts = (part for part in network.modules() if library_classes(part))
    hooks = ((*part._forward_hooks.values(), *part._forward_pre_hooks.values()) for part in parts)
    return not all(map(is_bookkeeping, chain.from_iterable(hooks)))


def _unwrap(module: nn.Module) -> None:
    if getattr(vars(module).get("forward"), "__module__", "").startswith(LIBRARY):
        del vars(module)["forward"]  # the class has its own
    for name, child in module.named_children():
        inner = child
        while WRAPPED in inner._modules:
            inner = cast(nn.Module, inner._modules[WRAPPED])
        if isinstance(inner, nn.ModuleList):  # the bridge's own, which it keeps
            inner = nn.ModuleList(inner).train(inner.training)
        module._modules[name] = inner
        _unwrap(inner)


def _around_base(model: Any) -> nn.Module | None:
    """A model that TransformerLens knows with the base of this one in it, such as BertForMaskedLM
    for a BertModel; what else it has has no numbers, and is never run. None where there is none."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    base, prefix = model.base_model, type(model).base_model_prefix
    for kind in vars(sys.modules[type(base).__module__]).values():
        if getattr(kind, "__name__", None) in SUPPORTED_ARCHITECTURES and isinstance(kind, type):
            with torch.device("meta"):
                around: nn.Module = kind(model.config)
            if prefix and type(getattr(around, prefix, None)) is type(base):
                setattr(around, prefix, base)
                return around.train(model.training)
            if _has_all(around, base):
                around._modules.update(base._modules)
                return around.train(model.training)
    return None


def _has_all(around: nn.Module, base: nn.Module) -> bool:
    """Whether what a base model consists of has the same names there (T5)."""
    parts = base._modules.items()
    return all(type(around._modules.get(name)) is type(part) for name, part in parts)
