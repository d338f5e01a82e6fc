"""A `TransformerBridge` (TransformerLens 4.x) taken apart: native, or around a Hugging Face
model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_scrub.errors import hides_scrub_errors
from pytest_scrub.network.adapter import (
    MASK,
    TOKENS,
    Hooks,
    Transformer,
    cap,
    flat,
    hidden_of,
    rows_of,
    turned,
    view,
    weights,
)
from pytest_scrub.network.parts import Attention, HeadNorm, Mlp, Scale
from pytest_scrub.network.rotary import (
    rotate_by_table,
    rotate_native,
    rotation,
    turn_halves,
    turn_pairs,
)
from pytest_scrub.network.wrapping import along_every_path, bridge_of, is_in

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_scrub.errors import NotASumError
    from pytest_scrub.network.graph import ModelGraph
    from pytest_scrub.network.parts import Norm, Rotate

__tracebackhide__ = hides_scrub_errors

BRIDGE_COMPONENTS = {
    *("embed", "embed_ln", "pos_embed", "rotary_emb"),
    *("blocks", "ln_final", "unembed"),
}
POSITIONS, IDS = "pos_embed", "position_ids"
NEEDED_COMPONENTS = ("embed", "blocks", "ln_final", "unembed")
BLOCK_COMPONENTS = {"ln1", "attn", "ln1_post", "ln2", "mlp", "ln2_post"}
# Bridges that run a Hugging Face block as it is.
BLOCKS = {
    *("BlockBridge", "ParallelBlockBridge", "ScaledResidualBlockBridge"),
    *("BloomBlockBridge", "_OptBlockBridge"),
}
# Hugging Face rotary types whose frequencies are the same whatever the length of the input, and
# those that depend on it.
FIXED_ROTARY_TYPES = {"default", "linear", "llama3", "yarn"}
ROTARY_TYPES_BY_LENGTH = {"dynamic", "longrope"}
# Where a block shows what attention and MLP add, before a norm of it, and what its MLP reads.
# An adapter that says otherwise knows why.
POINTS = {
    "hook_attn_out": {"attn.hook_out", "attn.o.hook_out"},
    "hook_mlp_out": {"mlp.hook_out", "mlp.out.hook_out"},
    "hook_resid_mid": {"ln2.hook_in", "mlp.hook_in"},
}
AFTER = {"hook_attn_out": "ln1_post", "hook_mlp_out": "ln2_post"}
# Attention that TransformerLens computes anew from rotated queries and keys.
ROTARY = {
    "PositionEmbeddingsAttentionBridge",
    # these leave some layers unrotated
    *("_Cohere2AttentionBridge", "_Exaone4AttentionBridge", "_SmolLM3AttentionBridge"),
}
# Attention whose scores have a bias for each key, and the functions that make it.
ALIBI = {
    "BloomAttentionBridge": "build_alibi_tensor",
    "MPTALiBiAttentionBridge": "build_mpt_alibi_tensor",
}


class Bridge(Transformer):
    """A `TransformerBridge`: its components wrap those of the model it was built around."""

    def rebuilt(self) -> Self:
        # our bridge may have been taken out of the model since, to read it along every path
        return type(self)(bridge_of(self.model.original_model) if self.is_ours else self.model)

    def along_every_path(self, error: NotASumError) -> ModelGraph:
        reason = f"on the dataset's rows {error.reason}"
        return along_every_path(self.model.original_model, self.model, reason)

    def _inspect(self) -> None:
        self.is_ours = is_in(self.model.original_model, self.model)
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
        if kind not in ("standard", "rotary", "alibi"):
            raise self.error(f"has position embeddings of a kind that is not taken apart ({kind})")
        self._positions = None if "pos_embed" in components else self._sinusoids()
        self.has_pos_embed = "pos_embed" in components or self._positions is not None
        if self.has_pos_embed != (kind == "standard"):
            raise self.error("has position embeddings that are no component of their own")
        if "embed_ln" in components and self.has_pos_embed:
            raise self.error("normalises the sum of its embeddings")
        self._refuse_no_layers()
        for layer, block in enumerate(self.model.blocks):
            self._refuse_block(layer, block)
        self.parallel = type(self.model.blocks[0]).__name__ == "ParallelBlockBridge"
        kinds = {_is_causal(block.attn) for block in self.model.blocks}
        if len(kinds) > 1:
            raise self.error("has both causal and bidirectional layers")
        self.causal = kinds.pop()
        self.pads_left = not self.native
        self.blind_is_unknown = any(map(_is_local, self.model.blocks))
        attentions = {type(block.attn).__name__ for block in self.model.blocks}
        self.counts_visible = "BloomAttentionBridge" in attentions
        if "ALiBiJointQKVAttentionBridge" in attentions:  # once with the scores, once in the mask
            raise self.error("has a bias for positions that its bridge adds twice (Falcon's ALiBi)")
        modules = {*self.model.modules(), *self.model.original_model.modules()}
        self.can_drop = any(dropout(module) > 0 for module in modules)

    def _sinusoids(self) -> nn.Module | None:
        """What gives embeddings of positions that are not learned, and no component of the bridge
        (XGLM)."""
        base = getattr(self.model.original_model, "base_model", None)
        found: nn.Module | None = getattr(base, "embed_positions", None)
        return found

    @torch.no_grad()
    def capture(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        if self._positions is None or POSITIONS not in names:
            return super().capture(inputs, names)
        seen: list[Tensor] = []
        handle = self._positions.register_forward_hook(lambda _, given, out: seen.append(out))
        try:
            found = super().capture(inputs, [name for name in names if name != POSITIONS])
        finally:
            handle.remove()
        if len(seen) != 1:
            raise self.error(f"computes its position embeddings {len(seen)} times in one pass")
        found[POSITIONS] = seen[0].expand(len(inputs[TOKENS]), *seen[0].shape[1:])
        return {name: found[name] for name in names}

    @property
    def _config(self) -> Any:
        """Of the network itself, not the bridge's; None of a native one."""
        return None if self.native else getattr(self.model.original_model, "config", None)

    def _refuse_block(self, layer: int, block: Any) -> None:
        name, present = type(block).__name__, _present(block)
        if name not in BLOCKS:
            raise self.error(f"has blocks of a kind that is not taken apart ({name})")
        if unknown := sorted(present - BLOCK_COMPONENTS):
            raise self.error(f"has a component that is not taken apart ({unknown[0]})")
        if "attn" not in present or not present & {"ln1", "ln1_post"}:
            missing = "ln1" if "attn" in present else "attn"
            raise self.error(f"has no {missing} in layer {layer}")
        if getattr(self._config, "do_layer_norm_before", True) is False:
            raise self.error("normalises the residual stream itself (post-LN)")
        for hook, places in POINTS.items():
            place = block.hook_aliases.get(hook)
            after = AFTER.get(hook)
            is_known = place is None or place in places
            if not is_known and not (after in present and place == f"{after}.hook_out"):
                raise self.error(
                    f"has layers that are wired in a way that is not taken apart ({hook})"
                )

    def _point(self, kind: str, layer: str) -> str:
        if kind == "hidden":
            return "mlp.out.hook_in"
        known, hook = POINTS.get(f"hook_{kind}"), f"hook_{kind}"
        if not layer or known is None or kind == "resid_mid":
            return hook
        place = self.model.blocks[int(layer)].hook_aliases.get(hook)
        return place if place in known else f"{kind.removesuffix('_out')}.hook_out"

    def _after(self, block: Any, norm: str) -> Norm | None:
        """What is done to the sum of what attention or MLP adds, before it is added."""
        if norm in _present(block):
            after: Norm = block.submodules[norm].original_component
            return after
        scale = getattr(block, "residual_contribution_scale", 1.0)
        return None if scale == 1 else Scale(float(scale))

    def _window(self, layer: int, attn: Any) -> int | None:
        """How many keys a query of a layer sees at most."""
        config = self._config
        if _is_local(self.model.blocks[layer]):
            return int(config.window_size)
        kinds = getattr(config, "layer_types", None)
        kind = "sliding_attention" if kinds is None else kinds[layer]
        if kind not in ("full_attention", "sliding_attention"):
            raise self.error(f"has attention of a kind that is not taken apart ({kind})")
        window = getattr(config, "sliding_window", None)
        if window is None or kind == "full_attention":
            return None
        if not self.causal:
            raise self.error("has a window of keys on both sides of a query")
        return int(window)

    def _attention(self, layer: int, block: Any) -> Attention:
        attn, kind = block.attn, self.model.cfg.positional_embedding_type
        original, name = attn.original_component, type(attn).__name__
        rotate, scale, more = None, int(self.model.cfg.d_head) ** -0.5, dict[str, Any]()
        softcap = None
        if (name, type(original).__name__) == ("AttentionBridge", "NativeAttention"):
            scale, softcap = 1 / original.scale, original.attn_scores_soft_cap
            rotate = None if original.rotary is None else rotate_native(original.rotary)
        elif name == "JointQKVAttentionBridge" and kind == "standard":
            by_layer = getattr(self.model.cfg, "scale_attn_by_inverse_layer_idx", False)
            scale /= layer + 1 if by_layer else 1
        elif name == "JointQKVPositionEmbeddingsAttentionBridge":
            rotate = self._rotate_huggingface(layer)
        elif name in ROTARY:
            self._refuse_llama_extras(attn)
            scale = getattr(original, "scaling", original.head_dim**-0.5)
            softcap = getattr(original, "attn_logit_softcapping", None)
            rotate = self._rotate_huggingface(layer) if _is_rotated(attn) else None
            more = {"norm_q": _head_norm(attn, "q_norm"), "norm_k": _head_norm(attn, "k_norm")}
            more["sinks"] = view(getattr(original, "sinks", None))
        elif name in ALIBI:
            scale = getattr(original, "softmax_scale", None) or scale
            more = {"bias": self._alibi(attn)}
        elif name == "CodeGenAttentionBridge" or type(original).__name__ == "GPTJAttention":
            scale, rotate = 1 / float(original.scale_attn), rotate_by_table(original)
        elif type(original).__name__ in ("OPTAttention", "GPTNeoSelfAttention", "XGLMAttention"):
            scale = getattr(original, "scaling", 1.0)  # GPT-Neo's scores are not scaled
        else:
            raise self.error(
                f"has attention of a kind that is not taken apart ({type(original).__name__})"
            )
        ln1 = block.submodules["ln1"] if "ln1" in _present(block) else None
        return Attention(
            norm=nn.Identity() if ln1 is None else ln1.original_component,
            scale=float(scale),
            softcap=cap(softcap),
            rotate=rotate,
            window=self._window(layer, attn),
            after=self._after(block, "ln1_post"),
            **more,
            **self._weights(layer, attn),
        )

    def _weights(self, layer: int, attn: Any) -> dict[str, Any]:
        found = weights(lambda name: getattr(attn, name, None))
        if missing := next(
            (name for name in found if name[0] == "W" and found[name] is None), None
        ):
            raise self.error(
                f"has projections in layer {layer} without weights to read ({missing})"
            )
        return found

    def _refuse_llama_extras(self, attn: Any) -> None:
        """What this kind of attention does in some architectures between its projections and its
        heads' output."""
        original, cfg = attn.original_component, self.model.cfg
        config = getattr(original, "config", None)
        rope = getattr(config, "rope_parameters", None) or {}
        norms = (_head_norm(attn, "q_norm"), _head_norm(attn, "k_norm"))
        extras = {
            "queries and keys of several heads that are normalised together after rotation": (
                _norms_late(attn) and not all(norm is None or norm.each_alone for norm in norms)
            ),
            "gated attention": "gate" in attn._modules or bool(getattr(cfg, "gated_q_proj", False)),
            "scaled keys": getattr(original, "key_multiplier", None) is not None,
            "clipped queries, keys and values": getattr(config, "clip_qkv", None) is not None,
            "queries scaled by position": rope.get("llama_4_scaling_beta") is not None,
        }
        if extra := next((name for name, has in extras.items() if has), None):
            raise self.error(f"has {extra}")

    def _alibi(self, attn: Any) -> Callable[[int], Tensor]:
        """What is added to the scores of each key, by the network's own function."""
        if getattr(attn, "_clip_qkv", None):
            raise self.error("has clipped queries, keys and values")
        name, heads, dtype = type(attn).__name__, int(attn.W_Q.shape[0]), attn.W_Q.dtype
        build = getattr(sys.modules[type(attn.original_component).__module__], ALIBI[name])

        def bias(keys: int) -> Tensor:
            if name == "MPTALiBiAttentionBridge":
                built: Tensor = build(heads, keys, device=attn.W_Q.device)
            else:
                visible = torch.ones(1, keys, dtype=torch.long, device=attn.W_Q.device)
                built = build(visible, heads, dtype)
            return built.reshape(heads, keys)

        return bias

    def _rotate_huggingface(self, layer: int) -> Rotate:
        cfg, rotary = self.model.cfg, self.model.rotary_emb.original_component
        kind, options = getattr(rotary, "rope_type", None), dict[str, Any]()
        if isinstance(kind, dict):  # of each kind of layer
            options = {"layer_type": self._config.layer_types[layer]}
            kind = kind[options["layer_type"]]
        if kind not in FIXED_ROTARY_TYPES | ROTARY_TYPES_BY_LENGTH:
            raise self.error(f"has rotary embeddings of a kind that is not taken apart ({kind})")
        is_interleaved = getattr(cfg, "rotary_interleaved_cos_sin", False)
        is_paired = getattr(cfg, "rotary_adjacent_pairs", False)
        frequencies = getattr(rotary, "inv_freq", ())

        def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            both = rotary(x, ids.reshape(-1, ids.shape[-1]), **options)
            if both[0].shape[-1] == len(frequencies):  # each once (GPT-OSS)
                both = (torch.cat([t, t], -1) for t in both)
            if is_paired and not is_interleaved:  # halves, each frequency twice
                both = (t[..., : t.shape[-1] // 2].repeat_interleave(2, -1) for t in both)
            cos, sin = (t.view(*ids.shape, -1) for t in both)
            return cos, sin

        turn = turn_pairs if is_interleaved or is_paired else turn_halves
        return rotation(table, turn, kind in ROTARY_TYPES_BY_LENGTH)

    def _mlp(self, block: Any) -> Mlp | None:
        if "mlp" not in block._modules:
            return None
        present, mlp = _present(block), block.mlp
        # Where both read the stream through one norm (Phi, GPT-J), there is no ln2.
        reads = "ln2" if "ln2" in present else "ln1" if self.parallel else None
        out = mlp._modules.get("out")
        apply = flat(self._without_container(block) if mlp.name is None else _alone(mlp))
        last: Any = getattr(out, "original_component", None)
        rows = rows_of(last)
        return Mlp(
            norm=nn.Identity() if reads is None else block.submodules[reads].original_component,
            apply=apply,
            bias=view(getattr(out, "bias", None)),
            after=self._after(block, "ln2_post"),
            hidden=None if rows is None else hidden_of(apply, last),
            W_out=rows,
        )

    def _without_container(self, block: Any) -> Callable[[Tensor], Tensor]:
        """An MLP whose layers lie in the block itself (OPT)."""
        first, last = (block.mlp._modules[name].original_component for name in ("in", "out"))
        act = getattr(block.original_component, "activation_fn", None)
        if act is None:
            raise self.error("has MLPs without a module of their own")
        return lambda x: last(act(first(x)))

    def _final_norm(self) -> Norm:
        final: Norm = self.model.ln_final.original_component
        return final

    def _unembed(self) -> Callable[[Tensor], Tensor]:
        head = turned(self.model.unembed.original_component)
        # soft cap or scale, where there is one
        transform = self.model.adapter.apply_output_logits_transform
        return lambda normed: transform(head(normed))

    def called(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        if self.native or self.is_ours:
            return None
        tokens, mask = self._inputs(inputs)
        logits: Tensor = self.model(tokens, attention_mask=mask, return_type="logits")
        return logits

    def parameters(self) -> Iterable[tuple[str, Tensor]]:
        return dict(self.model.state_dict()).items()

    def _forward(self, tokens: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        options: dict[str, Any] = {} if self.native else {"use_cache": False}
        # those of the model in it, not what the bridge would derive
        ids = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        options[IDS] = ids if self.native else None
        if mask is not None:
            options[MASK] = mask.long()
        logits: Tensor = self.model.run_with_hooks(
            tokens, fwd_hooks=hooks, return_type="logits", **options
        )
        return logits


def _present(block: Any) -> set[str]:
    """The components that a block has."""
    components = block.submodules.items()
    return {n for n, c in components if getattr(c, "original_component", None) is not None}


def _is_local(block: Any) -> bool:
    """Whether a layer hides keys beyond a window by a mask of its own (GPT-Neo)."""
    return getattr(block.attn.original_component, "attention_type", None) == "local"


def _is_rotated(attn: Any) -> bool:
    """Whether this layer's queries and keys are, where some layers' are not."""
    is_left_out = getattr(attn, "_is_nope_layer", None)
    if is_left_out is not None:
        return not is_left_out()
    return bool(getattr(attn.original_component, "use_rope", True))


def _head_norm(attn: Any, name: str) -> HeadNorm | None:
    """What normalises queries or keys, as the bridge calls it."""
    if name not in attn.submodules or name not in attn._modules:
        return None
    norm, d_head = attn.submodules[name].original_component, attn.W_Q.shape[-1]
    weight = getattr(norm, "weight", None)
    if attn._qk_norm_phase == "pre_reshape":
        return HeadNorm(lambda x: norm(x.flatten(-2)).view_as(x), each_alone=False)
    if attn._qk_norm_per_head:
        return HeadNorm(norm, each_alone=False)
    if weight is not None and weight.shape == (d_head,):
        return HeadNorm(norm, each_alone=True, after_rotation=_norms_late(attn))
    # [batch, heads, pos, d_head]
    return HeadNorm(lambda x: norm(x.transpose(1, 2)).transpose(1, 2), each_alone=False)


def _norms_late(attn: Any) -> bool:
    """Whether queries and keys are normalised after they are rotated (HunYuan)."""
    return bool(getattr(attn.config, "qk_norm_after_rope", False))


def _alone(mlp: Any) -> Callable[..., Tensor]:
    """An MLP without the residual stream, where it adds to it by itself (Bloom, MPT)."""
    original = mlp.original_component
    if "residual" not in inspect.signature(original.forward).parameters:
        plain: Callable[..., Tensor] = original
        return plain
    return lambda x: original(x, torch.zeros_like(x))


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
