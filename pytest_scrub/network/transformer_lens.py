"""TransformerLens networks taken apart: `TransformerBridge` (4.x) and `HookedTransformer` (2.x and
3.x).

TransformerLens itself is never imported here: a model that is one has brought it along. What is not
known to be a sum of parts is refused by name; the numeric proof is
`pytest_scrub.network.residual`'s.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, cast

import torch
from torch import Tensor, nn

from pytest_scrub.errors import ModelError, NotASumError
from pytest_scrub.network.adapter import PLAIN_MODULE, TOKENS, Transformer
from pytest_scrub.network.bridge import Bridge
from pytest_scrub.network.graph import ModelGraph, same_numbers
from pytest_scrub.network.hooked import Hooked
from pytest_scrub.network.hooks import WRAPPED, HookGraph
from pytest_scrub.network.precision import PROOF_TOLERANCE
from pytest_scrub.network.residual import ResidualGraph

LIBRARY = "transformer_lens"
FEW = 8  # tokens on which a bridge is seen to be the model that it is made of
LONGEST = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")  # by configuration
# where a Hugging Face model keeps the bridge whose parts are now in it
BRIDGE = "_pytest_scrub_bridge"
SEEN = 8  # positions on which a network is seen to be a sum of parts, before there are data


def graph_of(model: nn.Module) -> ModelGraph | None:
    """A transformer as a graph of heads and MLPs: around one residual stream where its parts sum to
    it, else by its hooks. None where it is none that is known."""
    if is_transformer_lens(model):
        return _graph_of_bridge(model, getattr(model, "original_model", None))
    if not is_hugging_face(model):
        return None
    before = None if BRIDGE in vars(model) else _of_a_few_tokens(model)  # compared once
    return _graph_of_bridge(bridge_of(model), model, before)


def _graph_of_bridge(
    bridge: Any, network: nn.Module | None, before: Tensor | None = None
) -> ModelGraph:
    """`before`: what the network gave for a few tokens without the bridge's parts in it."""
    try:
        if network is not None and bridge.original_model is not network:
            raise NotASumError(f"TransformerLens knows the base of {type(network).__name__} only")
        if off := _off(before, network):
            raise NotASumError(
                f"the bridge that TransformerLens makes of this {type(network).__name__} computes "
                f"something else than the model itself, by {off:.1e} of its scale on a few tokens"
            )
        graph = ResidualGraph(parts_of(bridge))
        _prove_sums(graph)
    except NotASumError as error:
        if network is None:
            raise
        found = along_every_path(network, bridge, str(error).partition(";")[0])
        if off := _off(before, network):
            raise ModelError(
                f"this {type(network).__name__} computes something else since TransformerLens "
                f"looked into it, by {off:.1e} of its scale on a few tokens; load it anew and use "
                "ModuleGraph(model)"
            ) from error
        return found
    return graph


def along_every_path(network: nn.Module, bridge: Any, reason: str) -> HookGraph:
    """The graph of what hooks show.

    A bridge that we have put into a Hugging Face model is taken out of it again: the network itself
    is run, whatever the bridge does in ways of its own.
    """
    if vars(network).get(BRIDGE) is bridge:
        _unwrap(network)
        del vars(network)[BRIDGE]
    return HookGraph(network, bridge, reason)


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


def _prove_sums(graph: ResidualGraph) -> None:
    """**Raises** `NotASumError` where parts do not sum on a few tokens; what else is wrong is said
    of the dataset's rows, once there are some."""
    cfg, known = graph.transformer.model.cfg, graph.transformer.model.embed.W_E.shape[0]
    shape = 2, min(SEEN, int(cfg.n_ctx or SEEN))
    tokens = torch.randint(known, shape, generator=torch.Generator().manual_seed(0))
    try:
        graph.prove({TOKENS: tokens.to(graph.device)})
    except NotASumError:
        raise
    except ModelError:
        return


def is_transformer_lens(model: object) -> bool:
    """Whether a model is one of TransformerLens's transformers (of any version)."""
    return bool(_library_classes(model) & {"TransformerBridge", "HookedTransformer"})


def is_hugging_face(model: object) -> bool:
    """Whether a model is a transformer as the transformers library makes them."""
    return any(
        cls.__module__.partition(".")[0] == "transformers" and cls.__name__ == "PreTrainedModel"
        for cls in type(model).__mro__
    )


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
    if any(_library_classes(part) for part in model.modules()):
        raise ModelError(
            f"this {name} is inside a TransformerBridge already; load the bridge instead of the "
            "model in it"
        )
    try:
        around = model if name in SUPPORTED_ARCHITECTURES else _around_base(model) or model
        bridge: nn.Module = build_bridge_from_module(
            around, architecture=type(around).__name__, hf_config=model.config
        )
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"TransformerLens does not know {name} ({reason}); for claims about its modules use "
            "ModuleGraph(model)"
        ) from error
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"TransformerLens cannot wrap this {name} ({reason}); for claims about its modules "
            "load it anew and use ModuleGraph(model)"
        ) from error
    vars(model)[BRIDGE] = bridge  # not an attribute: a submodule would be part of the model's state
    return bridge.train(model.training)


def _of_a_few_tokens(model: Any) -> Tensor | None:
    """The output of a Hugging Face model for a few tokens, of which the last of some are hidden and
    not looked at; None where it reads something else, or is not the same twice."""
    if model.main_input_name != "input_ids":
        return None
    config = model.config
    longest = (getattr(config, name, None) or FEW for name in LONGEST)
    known, length = model.get_input_embeddings().num_embeddings, min(FEW, *longest)
    tokens = (torch.arange(2 * length, device=model.device) % known).view(2, length)
    given = {"input_ids": tokens}
    if config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens
    if "attention_mask" in inspect.signature(model.forward).parameters:
        given["attention_mask"] = torch.ones_like(tokens)
        given["attention_mask"][1, -1] = 0
    with torch.no_grad():
        first, second = (model(**given)[0] for _ in range(2))
    seen = first[:, :-1] if first.ndim > 2 else first
    return seen if same_numbers(first, second) else None


def _off(before: Tensor | None, network: nn.Module | None) -> float:
    """By how much a model computes something else than before, relative to its scale; 0 where
    rounding may be all."""
    after = None if before is None else _of_a_few_tokens(network)
    if before is None or after is None:
        return 0.0
    off = float((after - before).abs().max() / before.abs().max())
    return 0.0 if off <= PROOF_TOLERANCE.get(before.dtype, 0.0) else off


def _around_base(model: Any) -> nn.Module | None:
    """A model that TransformerLens knows with the base of this one in it, such as BertForMaskedLM
    for a BertModel; its own head has no numbers, and is never run. None where there is none."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

    base, prefix = model.base_model, type(model).base_model_prefix
    for kind in vars(sys.modules[type(base).__module__]).values():
        if getattr(kind, "__name__", None) in SUPPORTED_ARCHITECTURES and isinstance(kind, type):
            with torch.device("meta"):
                around: nn.Module = kind(model.config)
            if prefix and type(getattr(around, prefix, None)) is type(base):
                setattr(around, prefix, base)
                return around.train(model.training)
    return None


def parts_of(model: nn.Module) -> Transformer:
    """Takes a TransformerLens model apart; nothing is folded, copied or changed.

    **Arguments**

    - `model`: a `TransformerBridge` (native, or around a Hugging Face model) or a
      `HookedTransformer`.

    **Raises** `ModelError` where the model is not known to be a sum of parts.
    """
    classes = _library_classes(model)
    if "TransformerBridge" in classes:
        return Bridge(model)
    if "HookedTransformer" in classes:
        return Hooked(model)
    raise ModelError(
        f"{type(model).__name__} is not a TransformerBridge or HookedTransformer, so it cannot be "
        f"taken apart into heads and MLPs; {PLAIN_MODULE}"
    )


def _library_classes(model: object) -> set[str]:
    return {c.__name__ for c in type(model).__mro__ if c.__module__.partition(".")[0] == LIBRARY}
