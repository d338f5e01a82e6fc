"""Where a transformer that TransformerLens does not know has its heads, told by what its modules
are called, in a bridge's words as far as a `HookGraph` reads them.

Names only say where to look: the graph proves of every attention that equal parts of what it
projects are heads. Nothing would prove that a module is the MLP of its block, so there are none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from torch import nn

from pytest_scrub.tree.nodes import ENCODER

VALUES = ("v_proj", "value", "value_proj", "v_lin", "Wv")
# of the attention, or of the module around it (BERT's kin have attention.self beside
# attention.output)
OUTPUTS = ("o_proj", "out_proj", "out_lin", "dense", "output.dense")
DECODER, ONE_STACK = "decoder", "blocks"
SELF_AND_CROSS = ("attn", "cross_attn")  # in the order in which a decoder's block has them


@dataclass(frozen=True)
class Named:
    """A module, and those in it that have a name."""

    original_component: nn.Module
    submodules: Mapping[str, Any]


def names_of(model: Any) -> SimpleNamespace | None:
    """None where there is not one list of blocks with heads, or one for each side of an
    encoder-decoder."""
    sides = (ENCODER, DECODER) if getattr(model.config, "is_encoder_decoder", False) else ("",)
    stacks: dict[str, list[Named]] = {}
    for path, module in model.named_modules():
        blocks = _blocks(module)
        side = next((side for side in sides if side in ("", *path.split("."))), None)
        if not blocks:
            continue
        stack = f"{side}_{ONE_STACK}" if side else ONE_STACK
        most = len(SELF_AND_CROSS) if side == DECODER else 1
        if side is None or stack in stacks or max(len(b.submodules) for b in blocks) > most:
            return None
        stacks[stack] = blocks
    if len(stacks) != len(sides):
        return None
    heads = getattr(model.config, "num_attention_heads", 0)
    return SimpleNamespace(_modules=stacks, cfg=SimpleNamespace(n_heads=heads, d_head=None))


def _blocks(module: nn.Module) -> list[Named]:
    """Those of a list of blocks, of which some have heads; none where it is another module."""
    if not isinstance(module, nn.ModuleList):
        return []
    found = [
        Named(block, dict(zip(SELF_AND_CROSS, _attentions(block), strict=False)))
        for block in module
        if not any(isinstance(inner, nn.ModuleList) for inner in block.modules())
    ]
    return found if any(block.submodules for block in found) else []


def _attentions(block: nn.Module) -> Iterator[Named]:
    """The modules in a block that make values and hand them to a projection."""
    around = dict(block.named_modules())
    for path, module in around.items():
        made = [name for name in VALUES if name in module._modules]
        places = [path, path.rpartition(".")[0]] if path else [path]
        outputs = [f"{place}.{name}".strip(".") for place in places for name in OUTPUTS]
        projection = next((around[name] for name in outputs if name in around), None)
        if made and projection is not None:
            parts = {"v": module._modules[made[0]], "o": projection}
            yield Named(module, parts)
