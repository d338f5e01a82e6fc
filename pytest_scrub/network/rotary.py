"""Rotary position embeddings as TransformerLens's networks compute them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pytest_scrub.network.parts import Rotate

# x, position ids -> cos, sin [..., pos, rotary_dim]
Table = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def rotation(
    table: Table, turn: Callable[[Tensor], Tensor], depends_on_length: bool = False
) -> Rotate:
    """Rotates the first `rotary_dim` of the last dimension and passes the others on (Su et al.
    2021).

    **Arguments**

    - `depends_on_length`: whether the table is another one for inputs of another length, which is
      told by the positions that it is asked for.
    """

    def rotate(x: Tensor, ids: Tensor, length: int | None = None) -> Tensor:
        if depends_on_length and length is not None:
            every = torch.arange(length, device=ids.device)
            cos, sin = (values[ids] for values in table(x, every))
        else:
            cos, sin = table(x, ids)
        cos, sin = cos.to(x.device), sin.to(x.device)
        width = cos.shape[-1]
        turned = (x[..., :width] * cos).add_(turn(x[..., :width]) * sin)
        return turned if width == x.shape[-1] else torch.cat([turned, x[..., width:]], -1)

    return rotate


def turn_halves(x: Tensor) -> Tensor:
    """A quarter turn that pairs the two halves, as Hugging Face does."""
    first, second = x.chunk(2, -1)
    return torch.cat([-second, first], -1)


def turn_pairs(x: Tensor) -> Tensor:
    """A quarter turn that pairs neighbours."""
    return torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)


def rotate_native(rotary: Any) -> Rotate:
    """By the tables of a native bridge."""

    def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return rotary.cos_cached[ids].to(x.dtype), rotary.sin_cached[ids].to(x.dtype)

    return rotation(table, turn_pairs)


def rotate_by_table(attn: Any) -> Rotate:
    """By the table of sines and cosines that an attention keeps (GPT-J)."""

    def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        both = attn.embed_positions[ids].to(x.dtype).chunk(2, -1)
        sin, cos = (half.repeat_interleave(2, -1) for half in both)
        return cos, sin

    return rotation(table, turn_pairs)


def rotate_hooked(attn: Any) -> Rotate:
    """By the tables of a `HookedTransformer`'s attention."""

    def table(x: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        # Looked up at each call: the buffers are replaced by longer ones when a longer input is
        # run.
        return attn.rotary_cos[ids], attn.rotary_sin[ids]

    return rotation(table, turn_pairs if attn.cfg.rotary_adjacent_pairs else turn_halves)
