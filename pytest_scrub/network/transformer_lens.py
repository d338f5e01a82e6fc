"""TransformerLens networks taken apart: `TransformerBridge` (4.x) and `HookedTransformer` (2.x and
3.x).

TransformerLens itself is never imported here: a model that is one has brought it along. What is not
known to be a sum of parts is refused by name; the numeric proof is
`pytest_scrub.network.residual`'s.
"""

from __future__ import annotations

import inspect
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.errors import ModelError, NotASumError, UnknownFamilyError, first_line
from pytest_scrub.network.adapter import PLAIN_MODULE, TOKENS, Transformer
from pytest_scrub.network.blocks import names_of
from pytest_scrub.network.bridge import Bridge
from pytest_scrub.network.graph import ModelGraph, same_numbers
from pytest_scrub.network.hooked import Hooked
from pytest_scrub.network.hooks import HookGraph, unwrapped
from pytest_scrub.network.packed import packed_in
from pytest_scrub.network.placement import first_kept_elsewhere, home_of
from pytest_scrub.network.precision import PROOF_TOLERANCE
from pytest_scrub.network.residual import ResidualGraph
from pytest_scrub.network.wrapping import (
    BRIDGE,
    LIBRARY,
    along_every_path,
    bridge_of,
    library_classes,
    take_out,
)

FEW = 8  # tokens on which a bridge is seen to be the model that it is made of
LONGEST = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")  # by configuration
SEEN = 8  # positions on which a network is seen to be a sum of parts, before there are data


def require_library(what: str) -> None:
    """**Raises** `ModelError` where TransformerLens, which `what` needs, is not installed."""
    if find_spec(LIBRARY) is None:
        raise ModelError(
            f"{what} needs TransformerLens, which is not installed: pip install "
            "'pytest-scrub[transformer-lens]'"
        )


def graph_of(model: nn.Module) -> ModelGraph | None:
    """A transformer as a graph of heads and MLPs: around one residual stream where its parts sum to
    it, else by its hooks. None where it is none that is known."""
    if is_transformer_lens(model):
        return _graph_of_bridge(model, getattr(model, "original_model", None))
    if not is_hugging_face(model):
        return None
    require_library(
        f"a graph of the heads and MLPs of {type(model).__name__} (ModuleGraph(model) is one of "
        "its modules)"
    )
    before = None if BRIDGE in vars(model) else _of_a_few_tokens(model)  # compared once
    try:
        bridge = bridge_of(model)
    except UnknownFamilyError as error:
        names = names_of(model)
        if names is None or any(library_classes(part) for part in model.modules()):
            raise
        return HookGraph(model, names, str(error).partition(" (")[0])
    return _graph_of_bridge(bridge, model, before)


def bridged(model: nn.Module, tokenizer: Any) -> nn.Module:
    """A Hugging Face model in a TransformerLens bridge, or by itself where there is none or that
    computes something else: then nobody takes one for the other."""
    before = _of_a_few_tokens(model)
    try:
        bridge = bridge_of(model, tokenizer)
    except UnknownFamilyError:
        return model
    if isinstance(before, str) or _difference(before, model):
        take_out(model)
        return model
    return bridge


def _graph_of_bridge(
    bridge: Any, network: nn.Module | None, before: Tensor | str | None = None
) -> ModelGraph:
    """`before`: what the network gave for a few tokens without the bridge's parts in it."""
    try:
        if network is not None and bridge.original_model is not network:
            raise NotASumError(f"TransformerLens knows the base of {_kind(network)} only")
        if reason := _unread(network or bridge):
            raise NotASumError(f"this {_kind(network or bridge)} {reason}")
        if isinstance(before, str):
            raise NotASumError(f"nothing shows that its bridge is this {_kind(network)}: {before}")
        if different := _difference(before, network):
            raise NotASumError(
                f"the bridge that TransformerLens makes of this {_kind(network)} {different}"
            )
        graph = ResidualGraph(parts_of(bridge))
        _prove_sums(graph)
    except NotASumError as error:
        if network is None:
            raise
        found = along_every_path(network, bridge, error.reason)
        if different := _difference(before, network):
            raise ModelError(
                f"this {_kind(network)}, since TransformerLens looked into it, {different}; load "
                "it anew and use ModuleGraph(model)"
            ) from error
        return found
    return graph


def _unread(network: nn.Module) -> str | None:
    """Why weights cannot be read head by head, though the network can be run."""
    if name := first_kept_elsewhere(network):
        return f"has weights that are fetched only while their module is run ({unwrapped(name)})"
    for name, layer in packed_in(network).items():
        kind = type(layer).__name__
        return f"has weights that are packed and cannot be read ({unwrapped(name)}, a {kind})"
    return None


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
    return bool(library_classes(model) & {"TransformerBridge", "HookedTransformer"})


def is_hugging_face(model: object) -> bool:
    """Whether a model is a transformer as the transformers library makes them."""
    return any(
        cls.__module__.partition(".")[0] == "transformers" and cls.__name__ == "PreTrainedModel"
        for cls in type(model).__mro__
    )


def _kind(network: object) -> str:
    return type(network).__name__


def _of_a_few_tokens(model: Any) -> Tensor | str | None:
    """The output of a Hugging Face model for a few tokens, of which the last or the first of some
    are hidden and not looked at; in words why there is none, and None where it reads something
    else than tokens, or is not the same twice."""
    if model.main_input_name != "input_ids":
        return None
    # whatever a network makes of tokens alone
    try:
        given = _a_few_tokens(model)
        with torch.no_grad():
            first, second = (model(**given)[0] for _ in range(2))
    except Exception as error:
        return f"it cannot be run on a few tokens alone ({first_line(error)})"
    seen = first[:, 1:-1] if first.ndim > 2 else first
    return seen if seen.numel() and same_numbers(first, second) else None


def _a_few_tokens(model: Any) -> dict[str, Tensor]:
    config = model.config
    told = (getattr(config, name, None) or FEW for name in LONGEST)
    # some say -1 where nothing limits them
    known = model.get_input_embeddings().num_embeddings
    length = min(FEW, *(longest if longest > 0 else FEW for longest in told))
    tokens = (torch.arange(3 * length, device=home_of(model)) % known).view(3, length)
    given = {"input_ids": tokens}
    if config.is_encoder_decoder:
        given["decoder_input_ids"] = tokens
    if "attention_mask" in inspect.signature(model.forward).parameters:
        given["attention_mask"] = torch.ones_like(tokens)
        given["attention_mask"][1, -1] = given["attention_mask"][2, 0] = 0
    return given


def _difference(before: Tensor | str | None, network: nn.Module | None) -> str | None:
    """How a model computes something else than before, in words; None where rounding may be all,
    or nothing was seen before."""
    if not isinstance(before, Tensor):
        return None
    after = _of_a_few_tokens(network)
    if isinstance(after, str):
        return f"is broken: {after}"
    if after is None:
        return "is not the same twice"
    # what sees no key, on the last row, is no number in some: refused where the data have such rows
    known = ~before.isnan()
    known[-1] &= ~after[-1].isnan()
    off = float((after - before)[known].abs().max() / before[known].abs().max())
    if off <= PROOF_TOLERANCE.get(before.dtype, 0.0):
        return None
    return (
        f"computes something else than the model itself, by {off:.1e} of its scale on a few tokens"
    )


def parts_of(model: nn.Module) -> Transformer:
    """Takes a TransformerLens model apart; nothing is folded, copied or changed.

    **Arguments**

    - `model`: a `TransformerBridge` (native, or around a Hugging Face model) or a
      `HookedTransformer`.

    **Raises** `ModelError` where the model is not known to be a sum of parts.
    """
    classes = library_classes(model)
    if "TransformerBridge" in classes:
        return Bridge(model)
    if "HookedTransformer" in classes:
        return Hooked(model)
    raise ModelError(
        f"{type(model).__name__} is not a TransformerBridge or HookedTransformer, so it cannot be "
        f"taken apart into heads and MLPs; {PLAIN_MODULE}"
    )
