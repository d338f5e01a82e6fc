"""A `TransformerBridge` (TransformerLens 4.x) taken apart: native, or around a Hugging Face
model."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_scrub.errors import hides_scrub_errors
from pytest_scrub.network.adapter import MASK, Hooks, Transformer, cap, flat, view, weights
from pytest_scrub.network.parts import Attention, Mlp
from pytest_scrub.network.rotary import rotate_native, rotation, turn_halves

if TYPE_CHECKING:
    from pytest_scrub.network.parts import Norm, Rotate

__tracebackhide__ = hides_scrub_errors

BRIDGE_COMPONENTS = {"embed", "pos_embed", "rotary_emb", "blocks", "ln_final", "unembed"}
NEEDED_COMPONENTS = ("embed", "blocks", "ln_final", "unembed")
BLOCK_COMPONENTS = {"ln1", "attn", "ln2", "mlp"}
# Hugging Face rotary types whose frequencies are the same whatever the length of the input.
FIXED_ROTARY_TYPES = {"default", "linear", "llama3", "yarn"}
# Where a pre-norm block reads and adds to the residual stream. An adapter that says otherwise knows
# why.
USUAL_HOOKS = {
    "hook_attn_out": "attn.hook_out",
    "hook_mlp_out": "mlp.hook_out",
    "hook_resid_mid": "ln2.hook_in",
}


class Bridge(Transformer):
    """A `TransformerBridge`: its components wrap those of the model it was built around."""

    def _inspect(self) -> None:
        cfg, components = self.model.cfg, set(self.model.adapter.component_mapping)
        self.native = type(self.model.original_model).__name__ == "NativeModel"
        self.source = f"TransformerBridge ({'native' if self.native else cfg.architecture})"
        if any(name.startswith(("encoder", "decoder")) for name in components):
            raise self.error("is an encoder-decoder")
        if missing := [name for name in NEEDED_COMPONENTS if name not in components]:
            raise self.error(f"has no {missing[0]}")
        if unknown := sorted(components - BRIDGE_COMPONENTS):
            raise self.error(f"has a component that is not taken apart ({unknown[0]})")
        kind = cfg.positional_embedding_type
        if kind not in ("standard", "rotary") or getattr(cfg, "alibi", False):
            raise self.error(f"has position embeddings of a kind that is not taken apart ({kind})")
        self.has_pos_embed = "pos_embed" in components
        self._refuse_no_layers()
        for layer, block in enumerate(self.model.blocks):
            self._refuse_block(layer, block)
        self.parallel = type(self.model.blocks[0]).__name__ == "ParallelBlockBridge"
        kinds = {_is_causal(block.attn) for block in self.model.blocks}
        if len(kinds) > 1:
            raise self.error("has both causal and bidirectional layers")
        self.causal = kinds.pop()
        self.window = self._window()
        modules = {*self.model.modules(), *self.model.original_model.modules()}
        self.can_drop = any(dropout(module) > 0 for module in modules)

    def _refuse_block(self, layer: int, block: Any) -> None:
        name = type(block).__name__
        present = {
            n
            for n, c in block.submodules.items()
            if getattr(c, "original_component", None) is not None
        }
        if name == "ScaledResidualBlockBridge":
            raise self.error("scales what is added to the residual stream")
        if present & {"ln1_post", "ln2_post"} or block.mlp_reads_resid_directly:
            raise self.error("normalises what is added to the residual stream (post-norm blocks)")
        if name not in ("BlockBridge", "ParallelBlockBridge"):
            raise self.error(f"has blocks of a kind that is not taken apart ({name})")
        if unknown := sorted(present - BLOCK_COMPONENTS):
            raise self.error(f"has a component that is not taken apart ({unknown[0]})")
        if missing := sorted({"ln1", "attn"} - present):
            raise self.error(f"has no {missing[0]} in layer {layer}")
        for hook, place in USUAL_HOOKS.items():
            if block.hook_aliases.get(hook, place) != place:
                raise self.error(
                    f"has layers that are wired in a way that is not taken apart ({hook})"
                )

    def _window(self) -> int | None:
        config = getattr(self.model.original_model, "config", None)
        if self.native or config is None:
            return None
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
        if unknown := sorted(kinds - {"full_attention", "sliding_attention"}):
            raise self.error(f"has attention of a kind that is not taken apart ({unknown[0]})")
        window = getattr(config, "sliding_window", None) if "sliding_attention" in kinds else None
        return None if window is None else int(window)

    def _attention(self, layer: int, block: Any) -> Attention:
        attn = block.attn
        original, name = attn.original_component, type(attn).__name__
        if (name, type(original).__name__) == ("AttentionBridge", "NativeAttention"):
            scale, softcap = 1 / original.scale, original.attn_scores_soft_cap
            rotate = None if original.rotary is None else rotate_native(original.rotary)
        elif (
            name == "JointQKVAttentionBridge"
            and self.model.cfg.positional_embedding_type == "standard"
        ):
            by_layer = getattr(self.model.cfg, "scale_attn_by_inverse_layer_idx", False)
            scale, softcap = attn.W_Q.shape[-1] ** -0.5 / (layer + 1 if by_layer else 1), None
            rotate = None
        elif name == "JointQKVPositionEmbeddingsAttentionBridge":
            scale, softcap, rotate = attn.W_Q.shape[-1] ** -0.5, None, self._rotate_huggingface()
        elif name == "PositionEmbeddingsAttentionBridge":
            self._refuse_llama_extras(attn)
            scale = getattr(original, "scaling", original.head_dim**-0.5)
            softcap, rotate = (
                getattr(original, "attn_logit_softcapping", None),
                self._rotate_huggingface(),
            )
        else:
            raise self.error(
                f"has attention of a kind that is not taken apart ({type(original).__name__})"
            )
        return Attention(
            norm=block.ln1.original_component,
            scale=float(scale),
            softcap=cap(softcap),
            rotate=rotate,
            **weights(lambda name: getattr(attn, name)),
        )

    def _refuse_llama_extras(self, attn: Any) -> None:
        """What this kind of attention does in some architectures between its projections and its
        heads' output."""
        original, cfg = attn.original_component, self.model.cfg
        config = getattr(original, "config", None)
        rope = getattr(config, "rope_parameters", None) or {}
        extras = {
            "normalised queries and keys": bool({"q_norm", "k_norm"} & set(attn._modules)),
            "gated attention": "gate" in attn._modules or bool(getattr(cfg, "gated_q_proj", False)),
            "attention sinks": getattr(original, "sinks", None) is not None,
            "scaled keys": getattr(original, "key_multiplier", None) is not None,
            "clipped queries, keys and values": getattr(config, "clip_qkv", None) is not None,
            "queries scaled by position": rope.get("llama_4_scaling_beta") is not None,
        }
        if extra := next((name for name, has in extras.items() if has), None):
            raise self.error(f"has {extra}")

    def _rotate_huggingface(self) -> Rotate:
        cfg, rotary = self.model.cfg, self.model.rotary_emb.original_component
        kind = getattr(rotary, "rope_type", None)
        if kind not in FIXED_ROTARY_TYPES:
            raise self.error(f"has rotary embeddings that depend on the length or layer ({kind})")
        if getattr(cfg, "rotary_adjacent_pairs", False) or getattr(
            cfg, "rotary_interleaved_cos_sin", False
        ):
            raise self.error(
                "has rotary embeddings in an order that is not taken apart (adjacent pairs)"
            )

        def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            cos, sin = rotary(x, ids.reshape(-1, ids.shape[-1]))
            return cos.view(*ids.shape, -1), sin.view(*ids.shape, -1)

        return rotation(table, turn_halves)

    def _has_mlp(self, block: Any) -> bool:
        return "mlp" in block._modules

    def _mlp(self, block: Any) -> Mlp:
        # Where both read the stream through one norm (Phi, GPT-J), there is no ln2.
        norm = block.ln2 if "ln2" in block._modules else block.ln1
        out = block.mlp._modules.get("out")
        return Mlp(
            norm=norm.original_component,
            apply=flat(block.mlp.original_component),
            bias=view(getattr(out, "bias", None)),
        )

    def _final_norm(self) -> Norm:
        final: Norm = self.model.ln_final.original_component
        return final

    def _unembed(self) -> Callable[[Tensor], Tensor]:
        head = self.model.unembed.original_component
        # soft cap or scale, where there is one
        transform = self.model.adapter.apply_output_logits_transform
        return lambda normed: transform(head(normed))

    def parameters(self) -> Iterable[tuple[str, Tensor]]:
        return dict(self.model.state_dict()).items()

    def _forward(self, tokens: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        # Without explicit ids the bridge derives them from the mask.
        ids = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        options: dict[str, Any] = {} if self.native else {"use_cache": False}
        if mask is not None:
            options[MASK] = mask.long()
        logits: Tensor = self.model.run_with_hooks(
            tokens, fwd_hooks=hooks, return_type="logits", position_ids=ids, **options
        )
        return logits


def _is_causal(attn: Any) -> bool:
    return bool(getattr(attn.original_component, "causal", attn.is_causal))


def dropout(module: nn.Module) -> float:
    """The largest dropout probability a module holds, whether as a layer or as a number it applies
    itself."""
    if "Dropout" in type(module).__name__:
        return float(getattr(module, "p", 0.0))
    found = (
        value
        for name, value in vars(module).items()
        if "dropout" in name and isinstance(value, float)
    )
    return max(found, default=0.0)
