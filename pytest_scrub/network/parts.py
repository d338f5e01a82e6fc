"""What the engine needs from a transformer, whatever library or architecture it comes from.

A residual stream is a sum, so a transformer whose parts are known one by one can be recomposed from
them: the embeddings, every head's `z @ W_O`, the output biases and the MLPs add up to what the
final norm reads. Where a block normalises or scales what it adds, that function of the sum of its
parts is added.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    Norm = Callable[[Tensor], Tensor]  # [..., d_model] -> [..., d_model]

    class Rotate(Protocol):
        """Turns `x [..., pos, d_head]` as position ids say."""

        def __call__(self, x: Tensor, ids: Tensor, length: int | None = None) -> Tensor:
            """`length`: of the whole input, where the ids are not those of all its positions."""


@dataclass(frozen=True, eq=False)
class HeadNorm:
    """What normalises the projected queries or keys, before they are rotated.

    - `apply`: `[..., heads, d_head]` -> the same.
    - `each_alone`: whether it treats every head by itself, and all alike; else it needs all of
      them.
    """

    apply: Norm
    each_alone: bool


@dataclass(frozen=True)
class Scale:
    """Multiplies what a block adds."""

    factor: float

    def __call__(self, summed: Tensor) -> Tensor:
        return summed * self.factor


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention layer: `z = softmax(rotate(q) @ rotate(k).T * scale, capped, biased, masked) @
    v`.

    With `x = norm(residual stream)`: `q = norm_q(x @ W_Q + b_Q)`, and so on. Query head `h` reads
    key and value head `h * kv_heads // heads`. Weights are views of the model's own wherever its
    layout allows a view.
    """

    norm: Norm
    W_Q: Tensor  # [heads, d_model, d_head]
    W_K: Tensor  # [kv_heads, d_model, d_head]
    W_V: Tensor  # [kv_heads, d_model, d_head]
    W_O: Tensor  # [heads, d_head, d_model]
    b_Q: Tensor | None  # [heads, d_head]
    b_K: Tensor | None  # [kv_heads, d_head]
    b_V: Tensor | None  # [kv_heads, d_head]
    b_O: Tensor | None  # [d_model]
    scale: float  # a factor, not a divisor
    softcap: float | None  # scores become softcap * tanh(scores / softcap)
    # position ids [pos] or [..., pos], which broadcast; None without rotary embeddings
    rotate: Rotate | None
    norm_q: HeadNorm | None = None
    norm_k: HeadNorm | None = None
    window: int | None = None  # how many keys a query sees at most, its own the last; None: all
    # of a count of keys, what is added to the scores of each, [heads, keys] (ALiBi)
    bias: Callable[[int], Tensor] | None = None
    after: Norm | None = None  # of the sum of all that it adds; None: it is added as it is

    @property
    def text(self) -> str:
        """What it does beside what its weights say, in words; empty where that is nothing."""
        norms = [norm and norm.each_alone for norm in (self.norm_q, self.norm_k)]
        more = {
            "window": self.window,
            "soft cap": self.softcap,
            "norms of queries and keys": norms if norms != [None, None] else None,
            "bias": self.bias and "of positions",
            "after": self.after,
        }
        said = [f"{what} {how}" for what, how in more.items() if how is not None]
        return ", ".join([f"scale {self.scale}", *said]) if said else ""

    @property
    def constant(self) -> Tensor:
        """What it adds whatever it attends to, the biases of values and of the output, `[d_model]`:
        attention weights sum to one."""
        total = self.W_O.new_zeros(self.W_O.shape[-1]) if self.b_O is None else self.b_O
        if self.b_V is not None:
            b_V = self.b_V.repeat_interleave(len(self.W_O) // len(self.b_V), 0)
            total = total + torch.einsum("he,hed->d", b_V, self.W_O)
        return total


@dataclass(frozen=True, eq=False)
class Mlp:
    """One MLP layer, which adds `after(apply(norm(residual stream)))`."""

    norm: Norm
    apply: Callable[[Tensor], Tensor]  # [..., d_model] -> [..., d_model], output bias included
    bias: Tensor | None  # [d_model], the output bias; None without one, and with experts
    after: Norm | None = None
    # what its hidden units hold, [..., d_model] -> [..., units], as `apply` goes on with them, and
    # what each adds, [units, d_model]; None where it is not known to have any, as with experts
    hidden: Callable[[Tensor], Tensor] | None = None
    W_out: Tensor | None = None
