"""Networks as model graphs: transformers around a residual stream, any torch module, graphs of
functions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

import pytest_scrub
from pytest_scrub.errors import ModelError, hides_scrub_errors
from pytest_scrub.network.dictionaries import Dictionary
from pytest_scrub.network.graph import ModelGraph
from pytest_scrub.network.modules import ModuleGraph
from pytest_scrub.network.placement import require_placed
from pytest_scrub.network.plain import FunctionGraph
from pytest_scrub.network.residual import ResidualGraph

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from pytest_scrub.network.loading import Config

__tracebackhide__ = hides_scrub_errors

# Kinds of component that a network which is read along every path may have, which it learns from
# data: by then its dictionaries have names.
LATER_KINDS = {
    "attn", "embed", "head", "mask", "mlp", "neurons", "output", "pattern", "pos_embed", "stream",
    "mid",  # between attention and MLP, where a dictionary stands there
}  # fmt: skip

__all__ = [
    "FunctionGraph",
    "ModelGraph",
    "ModuleGraph",
    "ResidualGraph",
    "as_graph",
    "load_model",
    "with_dictionaries",
]


def as_graph(model: Any) -> ModelGraph:
    """A network that is in memory as a model graph.

    A TransformerLens model, or a transformer of Hugging Face, becomes a graph of heads and MLPs,
    read directly where its parts sum and along every path where not; any other module a graph of
    its named submodules. `ModuleGraph(module)` makes the latter of any module.

    **Raises** `ModelError` where it is no network, or one that cannot be taken apart.
    """
    if isinstance(model, ModelGraph):
        return model
    if isinstance(model, nn.Module):
        from pytest_scrub.network.transformer_lens import graph_of

        require_placed(model)
        return graph_of(model) or ModuleGraph(model)
    raise ModelError(
        f"the model is a {type(model).__name__}, not a network; return what load_model(...) gives, "
        "a torch module or a FunctionGraph"
    )


def load_model(
    source: nn.Module | str | Path,
    *,
    config: Config = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> ModelGraph:
    """A network from a file, a folder, the hub or memory, as a model graph.

    **Arguments**

    - `source`: a `.safetensors` file with its config beside it, a HookedTransformer state dict
      (`.pt`), a local Hugging Face folder, a hub name, or a ready module.
    - `config`: fields of the TransformerBridge config, or a JSON file of them, where none lies
      beside the weights.
    - `device`, `dtype`: where to, and as what.

    **Raises** `ModelError` for whatever cannot be loaded, trusted or taken apart, with the remedy.
    """
    from pytest_scrub.network.loading import load_raw

    return as_graph(load_raw(source, config=config, device=device, dtype=dtype))


def with_dictionaries(model: Any, **dictionaries: Any) -> ModelGraph:
    """A network with dictionaries at its places, whose units and errors claims name.

    **Arguments**

    - `model`: as for `load_model`, or what that gives.
    - `dictionaries`: by the name that claims call each by, a `Dictionary`, or what
      `load_dictionary` takes: a folder or an SAE.

    **Raises** `ModelError` where one does not fit the network, or the network is no transformer.
    """
    graph = as_graph(model)
    found: dict[str, Dictionary] = {}
    kinds = {name.rstrip("0123456789.") for name in (*graph.parts, *graph.bases)} | LATER_KINDS
    for name, given in dictionaries.items():
        if name in graph.bases or name.rstrip("0123456789") in kinds:
            raise ModelError(
                f"{name} is what claims call something else of a network; call the dictionary "
                "otherwise"
            )
        # a format of others is an extra
        is_one = isinstance(given, Dictionary)
        found[name] = given if is_one else pytest_scrub.load_dictionary(given)
    return graph.having(found)
