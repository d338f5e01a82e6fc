"""What all TransformerLens networks have in common: `cfg`, `blocks`, and hooks by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from pytest_scrub.errors import ModelError, NotASumError, hides_scrub_errors
from pytest_scrub.network.packed import is_packed
from pytest_scrub.network.parts import Attention, Mlp
from pytest_scrub.network.placement import home_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from pytest_scrub.network.graph import ModelGraph
    from pytest_scrub.network.parts import Norm

__tracebackhide__ = hides_scrub_errors

Hooks = list[tuple[str, Callable[..., Any]]]  # hook point, function of (value, hook)
# within a layer, those that are not called after what they show
WITHIN = {
    "z": "attn.hook_z",
    "normalized": "ln2.hook_normalized",
    "attn_added": "hook_attn_out",
    "mlp_added": "hook_mlp_out",
}
TOKENS, MASK = "tokens", "attention_mask"
PLAIN_MODULE = "wrap it as a plain torch module instead"
# Of fewer rows the last digits of products differ; of smaller weights there is nothing to gain.
FEWEST_TURNED, LARGE = 32, 1 << 22


class Transformer(ABC):
    """A transformer in parts, and the real network beside them: what a bridge and a
    `HookedTransformer` have in common.

    Inputs are `{"tokens": int [batch, pos], "attention_mask": [batch, pos]}`; the mask may be left
    out, and its ones are the keys that can be seen. Positions that have embeddings are those that
    the network itself derives from its inputs; others are the column numbers 0 to pos - 1.

    **Arguments**

    - `model`: has `cfg`, `blocks`, and hooks by name.

    **Raises** `ModelError` where the model is not known to be a sum of parts.
    """

    source: str  # for messages, e.g. "TransformerBridge (GPT2LMHeadModel)"
    has_pos_embed: bool
    causal: bool
    parallel: bool  # attention and MLP of a layer read the same residual stream
    can_drop: bool = False  # whether there is any dropout
    # whether positions are counted along the visible keys only, so that a gap in them is none
    counts_visible: bool = False
    # whether rows may be padded on the left: positions are then the network's own, or the same but
    # for their origin, and queries of padding, which see no key, attend to all alike
    pads_left: bool = False
    # whether a query that sees no key attends to something else than to all keys alike
    blind_is_unknown: bool = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self._inspect()
        self._refuse_dropout()
        blocks = list(model.blocks)
        self.attention = tuple(self._attention(layer, block) for layer, block in enumerate(blocks))
        self._refuse_uneven()
        # empty in an attention-only model, else one per layer
        self.mlps = tuple(mlp for block in blocks if (mlp := self._mlp(block)))
        # [..., d_model] -> [..., d_model], and that -> [..., d_vocab_out]
        self.final_norm = partial(_back, self._final_norm())
        self.unembed = partial(_back, self._unembed())
        self._points = frozenset(model.hook_dict)
        weight = self.attention[0].W_Q
        self.n_heads, self.d_model, self.d_head = weight.shape
        self.dtype = weight.dtype
        # what parts give is brought together here, wherever they compute it
        self.device = home_of(getattr(model, "original_model", model))

    def rebuilt(self) -> Self:
        """The transformer as its weights are now."""
        return type(self)(self.model)

    def along_every_path(self, error: NotASumError) -> ModelGraph:
        """Its graph where parts do not sum on the dataset's rows. **Raises** that error where there
        is none."""
        raise error

    @abstractmethod
    def parameters(self) -> Iterable[tuple[str, Tensor]]:
        """Everything learned, by name."""

    @abstractmethod
    def _inspect(self) -> None:
        """Sets the attributes above; **raises** `ModelError` naming what is known not to be a sum
        of parts."""

    @abstractmethod
    def _attention(self, layer: int, block: Any) -> Attention: ...

    @abstractmethod
    def _mlp(self, block: Any) -> Mlp | None: ...

    @abstractmethod
    def _final_norm(self) -> Norm: ...

    @abstractmethod
    def _unembed(self) -> Callable[[Tensor], Tensor]: ...

    @abstractmethod
    def _forward(self, tokens: Tensor, mask: Tensor | None, hooks: Hooks) -> Tensor:
        """The real network on `tokens [B, P]`."""

    # Running the real network ---------------------------------------------------------------------

    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits `[batch, pos, d_vocab_out]`, in the caller's grad mode."""
        tokens, mask = self._inputs(inputs)
        return self._forward(tokens, mask, []).to(self.device)

    def called(self, inputs: Mapping[str, Tensor]) -> Tensor | None:
        """What the model gives where its user calls it, if that may be something else than a run of
        it here; None where it is the same."""
        return None

    @torch.no_grad()
    def capture(self, inputs: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
        """One pass without gradients, read out by the network's own hooks.

        **Arguments**

        - `names`: "embed", "pos_embed", "resid_pre.L", "resid_mid.L", "resid_post.L", "attn_out.L",
          "mlp_out.L" `[batch, pos, d_model]`, "z.L" `[batch, pos, heads, d_head]`, "hidden.L"
          `[batch, pos, units]` of MLPs, "normalized.L" before them, "logits". What attention and
          MLP add is as it is before it is normalised or scaled as a whole; after that it is
          "attn_added.L", "mlp_added.L".
        """
        tokens, mask = self._inputs(inputs)
        seen: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor, hook: Any) -> None:
            if name.startswith("z."):
                value = value.reshape(*value.shape[:2], -1, self.d_head)
            elif name.startswith("hidden."):  # some MLPs are given all positions in one dimension
                value = value.reshape(*tokens.shape, -1)
            seen[name] = value.expand(len(tokens), *value.shape[1:]).to(self.device)

        hooked = [name for name in names if name != "logits"]
        hooks: Hooks = [(self._hook_point(name), partial(keep, name)) for name in hooked]
        seen["logits"] = self._forward(tokens, mask, hooks).to(self.device)
        for name in hooked:
            if name not in seen:  # a hook that is not on the path must not pass for an activation
                raise self.error(f"has a hook for {name} that never fired")
        return {name: seen[name] for name in names}

    def _hook_point(self, name: str) -> str:
        kind, _, layer = name.partition(".")
        block = f"blocks.{layer}." if layer else ""
        point = block + (WITHIN.get(kind) or self._point(kind, layer))
        if point not in self._points:
            raise self.error(f"has no hook point {point}")
        return point

    def _point(self, kind: str, layer: str) -> str:
        """The hook point of an activation that has a name of its own, within its layer if it is in
        one."""
        return f"hook_{kind}"

    def require_names(self, inputs: Mapping[str, Tensor]) -> None:
        """**Raises** `ModelError` for inputs that are called otherwise than here."""
        unknown = sorted(set(inputs) - {TOKENS, MASK})
        if unknown or TOKENS not in inputs:
            raise ModelError(
                f"{self.source} reads the inputs {TOKENS!r} and, if there is one, {MASK!r}, not "
                f"{', '.join(map(repr, unknown)) or 'neither of them'}; rename the inputs of the "
                "dataset"
            )

    def _inputs(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        self.require_names(inputs)
        self._refuse_dropout()
        self._refuse_length(inputs[TOKENS].shape[-1])
        mask = inputs.get(MASK)
        return inputs[TOKENS].to(self.device), None if mask is None else mask.to(self.device)

    # Refusing -------------------------------------------------------------------------------------

    def _refuse_dropout(self) -> None:
        if self.can_drop and (self.model.training or self.model.original_model.training):
            raise self.error("is in train mode and has dropout", "call its eval()")

    def _refuse_length(self, length: int) -> None:
        most = self.model.cfg.n_ctx
        if self.has_pos_embed and length > most:
            raise self.error(
                f"has {most} positions, but the inputs have {length}", "shorten the inputs"
            )

    def _refuse_no_layers(self) -> None:
        if not len(self.model.blocks):
            raise self.error("has no layers", "use a model with at least one attention layer")

    def _refuse_uneven(self) -> None:
        for layer, a in enumerate(self.attention):
            heads, d_model, d_head = a.W_Q.shape
            kv_heads = a.W_K.shape[0]
            fits = (
                a.W_Q.is_floating_point()
                and a.W_Q.shape == self.attention[0].W_Q.shape
                and a.W_K.shape == a.W_V.shape == (kv_heads, d_model, d_head)
                and a.W_O.shape == (heads, d_head, d_model)
                and heads % kv_heads == 0
                and d_head == int(self.model.cfg.d_head)
                and d_model == int(self.model.cfg.d_model)
            )
            if not fits:
                raise self.error(
                    f"has attention weights in layer {layer} that are not split evenly into heads"
                )
            if len({weight.device for weight in (a.W_Q, a.W_K, a.W_V, a.W_O)}) > 1:
                raise self.error(
                    f"has the attention of layer {layer} on several devices",
                    "let device_map= keep each layer on one",
                )

    def error(self, reason: str, remedy: str | None = None) -> ModelError:
        """Without a remedy: it is no sum of parts."""
        if remedy is None:
            return NotASumError(f"{self.source} {reason}; {PLAIN_MODULE}")
        return ModelError(f"{self.source} {reason}; {remedy}")


def turned(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """A linear layer. Where its weights are large and its rows many it is multiplied the other way
    round, which with MKL gives the same numbers to the last bit a fifth sooner."""

    def apply(x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        if len(rows) < FEWEST_TURNED or not _is_plain(layer, x):
            given: Tensor = layer(x)
            return given
        weight, bias = layer.weight, layer.bias
        product = weight @ rows.T if bias is None else torch.addmm(bias[:, None], weight, rows.T)
        return product.T.contiguous().view(*x.shape[:-1], -1)

    return apply


def _is_plain(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Linear]:
    """Whether all that a layer does is one large product of float32 numbers on a processor: no
    hooks, nothing packed or fetched, no gradient."""
    everywhere = (torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks)
    is_watched = any((layer._forward_hooks, layer._forward_pre_hooks, *everywhere))
    if type(layer) is not nn.Linear or "forward" in vars(layer) or is_watched:
        return False
    are_numbers = all(t.dtype == torch.float32 and t.is_cpu for t in (layer.weight, x))
    is_large = layer.weight.numel() >= LARGE
    return are_numbers and is_large and not torch.is_grad_enabled() and not is_packed(layer)


def _back(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a function gives, brought back to where its argument is."""
    return function(x).to(x.device)


def weights(get: Callable[[str], Any]) -> dict[str, Any]:
    """The projections and biases of an attention layer, as `Attention` names them."""
    return {
        name: view(get(name)) for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
    }


def view(weight: Any) -> Tensor | None:
    """The model's own storage, outside of autograd."""
    return weight.detach() if isinstance(weight, Tensor) else None


def cap(softcap: float | None) -> float | None:
    """A soft cap, None where it is switched off (None, 0 or -1)."""
    return float(softcap) if softcap is not None and softcap > 0 else None


def hidden_of(mlp: Callable[[Tensor], Tensor], last: nn.Module) -> Callable[[Tensor], Tensor]:
    """What the hidden units of an MLP hold: what its last module, or one on the way to it, is
    called with."""

    def hidden(x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        with last.register_forward_pre_hook(lambda _module, given: seen.append(given[0])):
            mlp(x)
        return seen[0].reshape(*x.shape[:-1], -1)

    return hidden


def rows_of(last: object) -> Tensor | None:
    """What each input of a linear module adds to what it returns, `[in, out]`; None of another kind
    of module, and where its weights are packed."""
    is_read = isinstance(last, nn.Module) and not is_packed(last)
    weight = view(getattr(last, "weight", None)) if is_read else None
    if weight is None or not weight.is_floating_point() or weight.ndim != 2:
        return None
    return {"Linear": weight.T, "Conv1D": weight}.get(type(last).__name__)


def flat(mlp: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    """The MLP on any leading shape: mixtures of experts, and some versions, insist on
    `[batch, pos, d_model]`."""

    def apply(x: Tensor) -> Tensor:
        out = mlp(x.reshape(1, -1, x.shape[-1]))
        # experts return their router's scores as well
        value: Tensor = out[0] if isinstance(out, tuple) else out
        return value.reshape(x.shape)

    return apply
