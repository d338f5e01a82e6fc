"""TransformerLens networks taken apart: `TransformerBridge` (4.x) and `HookedTransformer` (2.x and 3.x).

TransformerLens itself is never imported here: a model that is one has brought it along. What is not known to
be a sum of parts is refused by name; the numeric proof is `pytest_scrub.models.residual`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_scrub.errors import ModelError
from pytest_scrub.models.parts import Attention, Mlp, Parts

if TYPE_CHECKING:
    from pytest_scrub.models.parts import Norm, Rotate

Hooks = list[tuple[str, Callable[..., Any]]]  # hook point, function of (value, hook)
TOKENS, MASK = "tokens", "attention_mask"
BRIDGE_COMPONENTS = {"embed", "pos_embed", "rotary_emb", "blocks", "ln_final", "unembed"}
NEEDED_COMPONENTS = ("embed", "blocks", "ln_final", "unembed")
BLOCK_COMPONENTS = {"ln1", "attn", "ln2", "mlp"}
# Hugging Face rotary types whose frequencies are the same whatever the length of the input.
FIXED_ROTARY_TYPES = {"default", "linear", "llama3", "yarn"}
# Where a pre-norm block reads and adds to the residual stream. An adapter that says otherwise knows why.
USUAL_HOOKS = {
    "hook_attn_out": "attn.hook_out",
    "hook_mlp_out": "mlp.hook_out",
    "hook_resid_mid": "ln2.hook_in",
}
PLAIN_MODULE = "wrap it as a plain torch module instead"


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
    """A Hugging Face model in a TransformerLens bridge; its weights are shared.

    **Raises** `ModelError` where TransformerLens does not know the architecture.
    """
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    name = type(model).__name__
    try:
        bridge: nn.Module = build_bridge_from_module(model, architecture=name, hf_config=model.config)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ModelError(
            f"TransformerLens does not know {name} ({reason}); for claims about its modules use ModuleGraph(model)"
        ) from error
    return bridge.train(model.training)


def parts_of(model: nn.Module) -> Parts:
    """Takes a TransformerLens model apart; nothing is folded, copied or changed.

    **Arguments**

    - `model`: a `TransformerBridge` (native, or around a Hugging Face model) or a `HookedTransformer`.

    **Returns** its `Parts`.

    **Raises** `ModelError` where the model is not known to be a sum of parts.
    """
    classes = _library_classes(model)
    if "TransformerBridge" in classes:
        return _Bridge(model).parts()
    if "HookedTransformer" in classes:
        return _Hooked(model).parts()
    raise ModelError(
        f"{type(model).__name__} is not a TransformerBridge or HookedTransformer, so it cannot be taken apart into "
        f"heads and MLPs; {PLAIN_MODULE}"
    )


def _library_classes(model: object) -> set[str]:
    return {c.__name__ for c in type(model).__mro__ if c.__module__.partition(".")[0] == "transformer_lens"}


class _Transformer(ABC):
    """What a bridge and a `HookedTransformer` have in common: `cfg`, `blocks`, and hooks by name."""

    source: str
    has_pos_embed: bool
    causal: bool
    parallel: bool
    window: int | None  # how far back the most short-sighted layer looks; None: all the way
    can_drop: bool = False  # whether there is any dropout

    def __init__(self, model: Any) -> None:
        self.model = model

    def parts(self) -> Parts:
        """**Raises** `ModelError`."""
        self.inspect()
        self._refuse_dropout()
        cfg, blocks = self.model.cfg, list(self.model.blocks)
        attention = tuple(self.attention(layer, block) for layer, block in enumerate(blocks))
        self._refuse_uneven(attention)
        self._points = frozenset(self.model.hook_dict)
        weight = attention[0].W_Q
        return Parts(
            attention=attention,
            mlps=tuple(self.mlp(block) for block in blocks if self.has_mlp(block)),
            unembed=self.unembed(),
            has_pos_embed=self.has_pos_embed,
            causal=self.causal,
            parallel=self.parallel,
            n_heads=weight.shape[0],
            d_model=int(cfg.d_model),
            d_head=weight.shape[2],
            dtype=weight.dtype,
            device=weight.device,
            run=self.run,
            capture=self.capture,
            parameters=self.parameters,
            source=self.source,
        )

    @abstractmethod
    def inspect(self) -> None:
        """Sets the attributes above; **raises** `ModelError` naming what is known not to be a sum of parts."""

    @abstractmethod
    def attention(self, layer: int, block: Any) -> Attention: ...

    @abstractmethod
    def mlp(self, block: Any) -> Mlp: ...

    @abstractmethod
    def has_mlp(self, block: Any) -> bool: ...

    @abstractmethod
    def unembed(self) -> Callable[[Tensor], Tensor]: ...

    @abstractmethod
    def parameters(self) -> Iterable[tuple[str, Tensor]]: ...

    @abstractmethod
    def forward(self, tokens: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        """The real network on `tokens [B, P]`, with position ids 0 to P - 1."""

    # Running the real network ----------------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        tokens, mask = self._inputs(inputs)
        return self.forward(tokens, mask, [])

    @torch.no_grad()
    def capture(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        tokens, mask = self._inputs(inputs)
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Callable[..., None]:
            def hook(value: Tensor, hook: Any) -> None:
                if name.startswith("z."):
                    value = value.reshape(*value.shape[:2], -1, int(self.model.cfg.d_head))
                seen[name] = value.expand(len(tokens), *value.shape[1:])

            return hook

        hooks: Hooks = [(self._hook_point(name), keep(name)) for name in names if name != "logits"]
        logits = self.forward(tokens, mask, hooks)
        if "logits" in names:
            seen["logits"] = logits
        for name in names:
            if name not in seen:  # a hook that is not on the path must not pass for an activation
                raise self.error(f"has a hook for {name} that never fired")
        return {name: seen[name] for name in names}

    def _hook_point(self, name: str) -> str:
        kind, _, layer = name.partition(".")
        block = f"blocks.{layer}." if layer else ""
        point = f"{block}attn.hook_z" if kind == "z" else f"{block}hook_{kind}"
        if point not in self._points:
            raise self.error(f"has no hook point {point}")
        return point

    def _inputs(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        unknown = sorted(set(inputs) - {TOKENS, MASK})
        if unknown or TOKENS not in inputs:
            raise ModelError(
                f"{self.source} reads the inputs {TOKENS!r} and, if there is one, {MASK!r}, not "
                f"{', '.join(map(repr, unknown)) or 'neither of them'}; rename the inputs of the dataset"
            )
        self._refuse_dropout()
        self._refuse_length(inputs[TOKENS].shape[-1])
        device = self.model.embed.W_E.device
        mask = inputs.get(MASK)
        return inputs[TOKENS].to(device), None if mask is None else mask.to(device)

    # Refusing --------------------------------------------------------------------------------------------

    def _refuse_dropout(self) -> None:
        if self.can_drop and (self.model.training or self.model.original_model.training):
            raise self.error("is in train mode and has dropout", "call its eval()")

    def _refuse_length(self, length: int) -> None:
        most = self.model.cfg.n_ctx
        if self.has_pos_embed and length > most:
            raise self.error(f"has {most} positions, but the inputs have {length}", "shorten the inputs")
        if self.window is not None and length > self.window:
            reason = f"has layers that look back {self.window} tokens only, but the inputs have {length}"
            raise self.error(reason, "shorten the inputs")

    def _refuse_no_layers(self) -> None:
        if not len(self.model.blocks):
            raise self.error("has no layers", "use a model with at least one attention layer")

    def _refuse_uneven(self, attention: tuple[Attention, ...]) -> None:
        for layer, a in enumerate(attention):
            heads, d_model, d_head = a.W_Q.shape
            kv_heads = a.W_K.shape[0]
            fits = (
                a.W_Q.is_floating_point()
                and a.W_Q.shape == attention[0].W_Q.shape
                and a.W_K.shape == a.W_V.shape == (kv_heads, d_model, d_head)
                and a.W_O.shape == (heads, d_head, d_model)
                and heads % kv_heads == 0
                and d_head == int(self.model.cfg.d_head)
                and d_model == int(self.model.cfg.d_model)
            )
            if not fits:
                raise self.error(f"has attention weights in layer {layer} that are not split evenly into heads")

    def error(self, reason: str, remedy: str = PLAIN_MODULE) -> ModelError:
        return ModelError(f"{self.source} {reason}; {remedy}")


class _Bridge(_Transformer):
    """A `TransformerBridge`: its components wrap those of the model it was built around."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        architecture = str(model.cfg.architecture)
        self.native = type(model.original_model).__name__ == "NativeModel"
        self.source = f"TransformerBridge ({'native' if self.native else architecture})"

    def inspect(self) -> None:
        cfg, components = self.model.cfg, set(self.model.adapter.component_mapping)
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
        self.window = self._look_back()
        modules = {*self.model.modules(), *self.model.original_model.modules()}
        self.can_drop = any(_dropout(module) > 0 for module in modules)

    def _refuse_block(self, layer: int, block: Any) -> None:
        name = type(block).__name__
        present = {n for n, c in block.submodules.items() if getattr(c, "original_component", None) is not None}
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
                raise self.error(f"has layers that are wired in a way that is not taken apart ({hook})")

    def _look_back(self) -> int | None:
        config = getattr(self.model.original_model, "config", None)
        if self.native or config is None:
            return None
        kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
        if unknown := sorted(kinds - {"full_attention", "sliding_attention"}):
            raise self.error(f"has attention of a kind that is not taken apart ({unknown[0]})")
        window = getattr(config, "sliding_window", None) if "sliding_attention" in kinds else None
        return None if window is None else int(window)

    def attention(self, layer: int, block: Any) -> Attention:
        attn = block.attn
        original, name = attn.original_component, type(attn).__name__
        if (name, type(original).__name__) == ("AttentionBridge", "NativeAttention"):
            scale, softcap = 1 / original.scale, original.attn_scores_soft_cap
            rotate = None if original.rotary is None else _rotate_native(original.rotary)
        elif name == "JointQKVAttentionBridge" and self.model.cfg.positional_embedding_type == "standard":
            by_layer = getattr(self.model.cfg, "scale_attn_by_inverse_layer_idx", False)
            scale, softcap = attn.W_Q.shape[-1] ** -0.5 / (layer + 1 if by_layer else 1), None
            rotate = None
        elif name == "JointQKVPositionEmbeddingsAttentionBridge":
            scale, softcap, rotate = attn.W_Q.shape[-1] ** -0.5, None, self._rotate_huggingface()
        elif name == "PositionEmbeddingsAttentionBridge":
            self._refuse_llama_extras(attn)
            scale = getattr(original, "scaling", original.head_dim**-0.5)
            softcap, rotate = getattr(original, "attn_logit_softcapping", None), self._rotate_huggingface()
        else:
            raise self.error(f"has attention of a kind that is not taken apart ({type(original).__name__})")
        return Attention(
            norm=block.ln1.original_component,
            scale=float(scale),
            softcap=_cap(softcap),
            rotate=rotate,
            **_weights(lambda name: getattr(attn, name)),
        )

    def _refuse_llama_extras(self, attn: Any) -> None:
        """What this kind of attention does in some architectures between its projections and its heads' output."""
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
        for extra, there in extras.items():
            if there:
                raise self.error(f"has {extra}")

    def _rotate_huggingface(self) -> Rotate:
        cfg, rotary = self.model.cfg, self.model.rotary_emb.original_component
        kind = getattr(rotary, "rope_type", None)
        if kind not in FIXED_ROTARY_TYPES:
            raise self.error(f"has rotary embeddings that depend on the length or layer ({kind})")
        if getattr(cfg, "rotary_adjacent_pairs", False) or getattr(cfg, "rotary_interleaved_cos_sin", False):
            raise self.error("has rotary embeddings in an order that is not taken apart (adjacent pairs)")

        def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
            cos, sin = rotary(x, ids.reshape(-1, ids.shape[-1]))
            return cos.view(*ids.shape, -1), sin.view(*ids.shape, -1)

        return _rotation(table, _turn_halves)

    def has_mlp(self, block: Any) -> bool:
        return "mlp" in block._modules

    def mlp(self, block: Any) -> Mlp:
        # Where both read the stream through one norm (Phi, GPT-J), there is no ln2.
        norm = block.ln2 if "ln2" in block._modules else block.ln1
        out = block.mlp._modules.get("out")
        return Mlp(
            norm=norm.original_component,
            apply=_flat(block.mlp.original_component),
            bias=_view(getattr(out, "bias", None)),
        )

    def unembed(self) -> Callable[[Tensor], Tensor]:
        final, head = self.model.ln_final.original_component, self.model.unembed.original_component
        transform = self.model.adapter.apply_output_logits_transform  # soft cap or scale, where there is one

        def unembed(stream: Tensor) -> Tensor:
            logits: Tensor = transform(head(final(stream)))
            return logits

        return unembed

    def parameters(self) -> Iterable[tuple[str, Tensor]]:
        parameters: Iterable[tuple[str, Tensor]] = self.model.state_dict().items()
        return parameters

    def forward(self, tokens: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        # Without explicit ids the bridge derives them from the mask.
        ids = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
        options: dict[str, Any] = {} if self.native else {"use_cache": False}
        if mask is not None:
            options[MASK] = mask.long()
        logits: Tensor = self.model.run_with_hooks(
            tokens, fwd_hooks=hooks, return_type="logits", position_ids=ids, **options
        )
        return logits


class _Hooked(_Transformer):
    """A `HookedTransformer` of TransformerLens 2.x or 3.x."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.source = "HookedTransformer"

    def inspect(self) -> None:
        cfg = self.model.cfg
        kind = cfg.positional_embedding_type
        if kind not in ("standard", "rotary"):
            raise self.error(f"has position embeddings of a kind that is not taken apart ({kind})")
        reasons = {
            "use_normalization_before_and_after": "normalises what is added to the residual stream (post-norm blocks)",
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
        if getattr(self.model.blocks[0].attn, "q_norm", None) is not None:  # OLMo 2 and 3, which are post-norm as well
            raise self.error("has normalised queries and keys")
        self.has_pos_embed = kind == "standard"
        self.causal = cfg.attention_dir == "causal"
        self.parallel = bool(cfg.parallel_attn_mlp)
        local = any(getattr(block.attn, "attn_type", "global") == "local" for block in self.model.blocks)
        self.window = int(cfg.window_size) if local else None

    def attention(self, layer: int, block: Any) -> Attention:
        attn = block.attn

        def weight(name: str) -> Any:
            # Grouped queries: W_K is a repeated copy of the parameter _W_K, and so on.
            return attn._parameters[f"_{name}"] if f"_{name}" in attn._parameters else getattr(attn, name)

        return Attention(
            norm=block.ln1,
            scale=1 / float(attn.attn_scale),
            softcap=_cap(getattr(self.model.cfg, "attn_scores_soft_cap", None)),
            rotate=None if self.has_pos_embed else _rotate_hooked(attn),
            **_weights(weight),
        )

    def has_mlp(self, block: Any) -> bool:
        return not self.model.cfg.attn_only

    def mlp(self, block: Any) -> Mlp:
        return Mlp(norm=block.ln2, apply=_flat(block.mlp), bias=_view(getattr(block.mlp, "b_out", None)))

    def unembed(self) -> Callable[[Tensor], Tensor]:
        model = self.model
        cap = _cap(getattr(model.cfg, "output_logits_soft_cap", None))
        final: Norm = model.ln_final if model.cfg.normalization_type is not None else nn.Identity()

        def unembed(stream: Tensor) -> Tensor:
            logits: Tensor = model.unembed(final(stream).contiguous())
            return logits if cap is None else cap * torch.tanh(logits / cap)

        return unembed

    def parameters(self) -> Iterable[tuple[str, Tensor]]:
        # Not the state dict: its rotary buffers grow with the inputs.
        parameters: Iterable[tuple[str, Tensor]] = self.model.named_parameters()
        return parameters

    def forward(self, tokens: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        hiding: Hooks = []
        if mask is not None:
            # Its own attention_mask argument moves position ids, and does nothing where attention is
            # bidirectional; so hidden keys are hidden at the scores, as the paren checker's authors do.
            hidden = ~mask.bool()[:, None, None, :]

            def hide(scores: Tensor, hook: Any) -> Tensor:
                return scores.masked_fill(hidden, float("-inf"))

            hiding = [(f"blocks.{layer}.attn.hook_attn_scores", hide) for layer in range(len(self.model.blocks))]
        options = {}
        tokenizer = getattr(self.model, "tokenizer", None)
        if getattr(tokenizer, "padding_side", None) == "left":
            options[MASK] = torch.ones_like(tokens)  # or it derives a mask, and from it position ids
        logits: Tensor = self.model.run_with_hooks(tokens, fwd_hooks=[*hiding, *hooks], return_type="logits", **options)
        return logits


def _weights(get: Callable[[str], Any]) -> dict[str, Any]:
    return {name: _view(get(name)) for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")}


def _view(weight: Any) -> Tensor | None:
    """The model's own storage, outside of autograd."""
    return weight.detach() if isinstance(weight, Tensor) else None


def _cap(softcap: float | None) -> float | None:
    """A soft cap, None where it is switched off (None, 0 or -1)."""
    return float(softcap) if softcap is not None and softcap > 0 else None


def _is_causal(attn: Any) -> bool:
    return bool(getattr(attn.original_component, "causal", attn.is_causal))


def _dropout(module: nn.Module) -> float:
    """The largest dropout probability a module holds, whether as a layer or as a number it applies itself."""
    if "Dropout" in type(module).__name__:
        return float(getattr(module, "p", 0.0))
    found = (value for name, value in vars(module).items() if "dropout" in name and isinstance(value, float))
    return max(found, default=0.0)


def _flat(mlp: nn.Module) -> Callable[[Tensor], Tensor]:
    """The MLP on any leading shape: mixtures of experts, and some versions, insist on `[batch, pos, d_model]`."""

    def apply(x: Tensor) -> Tensor:
        out = mlp(x.reshape(1, -1, x.shape[-1]))
        if isinstance(out, tuple):  # experts return their router's scores as well
            out = out[0]
        result: Tensor = out.reshape(x.shape)
        return result

    return apply


# Rotary embeddings ---------------------------------------------------------------------------------------

# x, position ids -> cos, sin [..., pos, rotary_dim]
Table = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _rotation(table: Table, turn: Callable[[Tensor], Tensor]) -> Rotate:
    """Rotates the first `rotary_dim` of the last dimension and passes the others on (Su et al. 2021)."""

    def rotate(x: Tensor, ids: Tensor) -> Tensor:
        cos, sin = table(x, ids)
        width = cos.shape[-1]
        turned = x[..., :width] * cos + turn(x[..., :width]) * sin
        return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)

    return rotate


def _turn_halves(x: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def _turn_pairs(x: Tensor) -> Tensor:
    return torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)


def _rotate_native(rotary: Any) -> Rotate:
    def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return rotary.cos_cached[ids].to(x.dtype), rotary.sin_cached[ids].to(x.dtype)

    return _rotation(table, _turn_pairs)


def _rotate_hooked(attn: Any) -> Rotate:
    def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        # Looked up at each call: the buffers are replaced by longer ones when a longer input is run.
        return attn.rotary_cos[ids], attn.rotary_sin[ids]

    return _rotation(table, _turn_pairs if attn.cfg.rotary_adjacent_pairs else _turn_halves)
