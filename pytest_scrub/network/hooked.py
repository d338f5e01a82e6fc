"""A `HookedTransformer` (TransformerLens 2.x and 3.x) taken apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_scrub.network.adapter import (
    MASK,
    Hooks,
    Transformer,
    cap,
    flat,
    hidden_of,
    view,
    weights,
)
from pytest_scrub.network.parts import Attention, Mlp
from pytest_scrub.network.rotary import rotate_hooked

if TYPE_CHECKING:
    from pytest_scrub.network.parts import Norm


class Hooked(Transformer):
    """A `HookedTransformer` of TransformerLens 2.x or 3.x."""

    source = "HookedTransformer"

    def _inspect(self) -> None:
        cfg = self.model.cfg
        kind = cfg.positional_embedding_type
        if kind not in ("standard", "rotary"):
            raise self.error(f"has position embeddings of a kind that is not taken apart ({kind})")
        reasons = {
            "use_normalization_before_and_after": "normalises what is added to the residual stream "
            "(post-norm blocks)",
            "use_qk_norm": "has normalised queries and keys",
            "clip_qkv": "has clipped queries, keys and values",
            "use_attention_sinks": "has attention sinks",
            "use_logn_attn": "has queries scaled by position",
            "use_dynamic_ntk_rope": "has rotary embeddings that depend on the length or layer",
            "load_in_4bit": "has quantised weights",
        }
        for name, reason in reasons.items():
            if getattr(cfg, name, None):
                raise self.error(f"{reason} ({name})")
        self._refuse_no_layers()
        # OLMo 2 and 3, which are post-norm as well
        if getattr(self.model.blocks[0].attn, "q_norm", None) is not None:
            raise self.error("has normalised queries and keys")
        self.has_pos_embed = kind == "standard"
        self.causal = cfg.attention_dir == "causal"
        self.parallel = bool(cfg.parallel_attn_mlp)

    def _attention(self, layer: int, block: Any) -> Attention:
        attn = block.attn

        def weight(name: str) -> Any:
            # Grouped queries: W_K is a repeated copy of the parameter _W_K, and so on.
            return getattr(attn, f"_{name}" if f"_{name}" in attn._parameters else name)

        return Attention(
            norm=block.ln1,
            scale=1 / float(attn.attn_scale),
            softcap=cap(getattr(self.model.cfg, "attn_scores_soft_cap", None)),
            rotate=None if self.has_pos_embed else rotate_hooked(attn),
            window=int(self.model.cfg.window_size)
            if getattr(attn, "attn_type", "global") == "local"
            else None,
            **weights(weight),
        )

    def _mlp(self, block: Any) -> Mlp | None:
        if self.model.cfg.attn_only:
            return None
        apply, W_out = flat(block.mlp), view(getattr(block.mlp, "W_out", None))
        has_units = W_out is not None and W_out.ndim == 2 and hasattr(block.mlp, "hook_post")
        return Mlp(
            norm=block.ln2,
            apply=apply,
            bias=view(getattr(block.mlp, "b_out", None)),
            hidden=hidden_of(apply, block.mlp.hook_post) if has_units else None,
            W_out=W_out if has_units else None,
        )

    def _point(self, kind: str, layer: str) -> str:
        return "mlp.hook_post" if kind == "hidden" else super()._point(kind, layer)

    def _final_norm(self) -> Norm:
        final: Norm = (
            self.model.ln_final if self.model.cfg.normalization_type is not None else nn.Identity()
        )
        return final

    def _unembed(self) -> Callable[[Tensor], Tensor]:
        model = self.model
        most = cap(getattr(model.cfg, "output_logits_soft_cap", None))

        def unembed(normed: Tensor) -> Tensor:
            logits: Tensor = model.unembed(normed.contiguous())
            return logits if most is None else most * torch.tanh(logits / most)

        return unembed

    def parameters(self) -> Iterable[tuple[str, Tensor]]:
        # Not the state dict: its rotary buffers grow with the inputs.
        yield from self.model.named_parameters()

    def _forward(self, tokens: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        if mask is not None:
            # Its own attention_mask argument moves position ids, and does nothing where attention
            # is bidirectional; so hidden keys are hidden at the scores, as the paren checker's
            # authors do.
            hidden = ~mask.bool()[:, None, None, :]

            def hide(scores: Tensor, hook: Any) -> Tensor:
                return scores.masked_fill(hidden, float("-inf"))

            layers = range(len(self.model.blocks))
            points = (f"blocks.{layer}.attn.hook_attn_scores" for layer in layers)
            hooks = [*((point, hide) for point in points), *hooks]
        options = {}
        tokenizer = getattr(self.model, "tokenizer", None)
        if getattr(tokenizer, "padding_side", None) == "left":
            # or it derives a mask, and from it position ids
            options[MASK] = torch.ones_like(tokens)
        logits: Tensor = self.model.run_with_hooks(
            tokens, fwd_hooks=hooks, return_type="logits", **options
        )
        return logits
