"""Dictionaries: a second basis for one place of a network, such as the latents of an SAE.

A place is the sum of its units, each its code times its decoder row, of the dictionary's bias,
which belongs to nobody, and of what is left, the error (Bricken et al., "Towards Monosemanticity",
2023; Marks et al., "Sparse Feature Circuits", 2024).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pytest_scrub.common.calls import short_repr
from pytest_scrub.data.columns import Ints
from pytest_scrub.errors import ModelError, first_line, hides_scrub_errors
from pytest_scrub.network.encoders import Encoder, Opaque, Rectified, TopK

__tracebackhide__ = hides_scrub_errors

# Decoder rows that are worked out at once.
ROWS_AT_ONCE = 1024
MOST_TITLED = 6  # units of a set that pictures call by their names
# What another's encode and decode may differ from their parts by, relative to the largest number.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}
ROUGH = 3e-2  # of 16-bit numbers


class Spot(NamedTuple):
    """An activation of a network as a hook names it: one of `KINDS`, the layer, and the stack of
    blocks that has it."""

    kind: str
    layer: int
    stack: str = "blocks"

    @property
    def of_the_sum(self) -> Spot:
        """The same, where what attention or an MLP gives is added as it is."""
        return self._replace(kind=self.kind.replace("_alone", "_out"))

    def __str__(self) -> str:
        return f"{self.kind}.{self.layer}"


# Of hooks, by the rest of their names within a layer.
KINDS = {
    "hook_resid_pre": "resid_pre",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    # what attention and MLP give, before their block normalises or scales it
    "attn.hook_out": "attn_alone",
    "mlp.hook_out": "mlp_alone",
    # what heads hand to their output weights, side by side
    "attn.hook_z": "z",
    # what an MLP reads: the stream, and that normalised
    "hook_resid_mid": "resid_mid",
    "hook_mlp_in": "mlp_stream",
    "mlp.hook_in": "mlp_in",
    "ln2.hook_out": "mlp_in",
    "ln2.hook_normalized": "normalized",
}
# The component that holds each, in a layer or before it.
PLACES = {
    "resid_pre": "stream",
    "resid_post": "stream",
    "resid_mid": "mid",
    "attn_out": "attn",
    "attn_alone": "attn",
    "z": "attn",
    "mlp_out": "mlp",
    "mlp_alone": "mlp",
}
READ_ONLY = ("mlp_stream", "mlp_in", "normalized")
TWICE = ("ln2.hook_out",)  # what another name stands for too


def spot_of(hook: object, what: str) -> Spot:
    """Where a hook is, by its name. **Raises** `ModelError` where a dictionary cannot stand
    there."""
    found = re.fullmatch(r"(\w*blocks)\.(\d+)\.(.+)", hook) if isinstance(hook, str) else None
    if found is not None and found[3] in KINDS:
        return Spot(KINDS[found[3]], int(found[2]), found[1])
    raise ModelError(
        f"{what} {hook if isinstance(hook, str) else short_repr(hook)}, where no dictionary can "
        f"stand; those of {', '.join(name for name in KINDS if name not in TWICE)} can, as in "
        "blocks.0.hook_resid_pre"
    )


@dataclass(frozen=True, eq=False)
class Latents:
    """Some units of a dictionary: how their codes are computed, and their rows.

    - `encoder`: of these units alone, or of all where codes compete, and then `picked` says which.
    - `rows`: `[k, d]`; `later`: those with which they write at later layers, `[k, layers, d]`.
    """

    encoder: Encoder
    picked: Tensor | None
    rows: Tensor
    later: Tensor

    def codes(self, x: Tensor) -> Tensor:
        """Their codes of what the dictionary reads, `[..., k]`, in the rows' numbers."""
        codes = self.encoder(x)
        return (codes if self.picked is None else codes[..., self.picked]).to(self.rows.dtype)


class Dictionary:
    """A basis of one place of a network: codes of what is read, and a row for each unit.

    **Arguments**

    - `W_enc`: `[d_in, n]`, `b_enc`: `[n]`; or in place of `W_enc` an `Encoder`.
    - `W_dec`: `[n, d]`, the units' rows; `b_dec`: `[d]`, which belongs to no unit. Of one layer of
      a cross-layer transcoder `[n, layers, d]`: what its units write at the MLP of the layer where
      it stands, of the next one, and so on.
    - `at`: the hook that it stands at, such as `"blocks.8.hook_resid_pre"`.
    - `reads`: the hook that it reads, where that is another, as a transcoder's.
    - `threshold`: `[n]`, below which a code is zero (JumpReLU); `k`: how many are not (top-k).
    - `names`: what pictures and tables call units, by number.
    - `made_for`: the network that it was trained on, as messages are to call it.
    - `part_of`: of a layer of a cross-layer transcoder, what that is called: units of all its
      layers are terms of one sum.

    - `crosses`: whether its units write at several layers; `later`: their rows after the first.

    **Raises** `ModelError` for tensors that do not fit one another, and for hooks at which no
    dictionary can stand.
    """

    def __init__(
        self,
        W_enc: Tensor | Encoder,
        b_enc: Tensor | None,
        W_dec: Tensor,
        b_dec: Tensor | None = None,
        *,
        at: str,
        reads: str | None = None,
        threshold: Tensor | None = None,
        k: int | None = None,
        names: Mapping[int, str] | None = None,
        made_for: str | None = None,
        part_of: str | None = None,
    ) -> None:
        self.made_for, self.part_of = made_for, part_of
        self.rows, self.later = _rows(W_dec)
        self.crosses = isinstance(W_dec, Tensor) and W_dec.ndim == 3
        units, width = self.rows.shape
        zeros = self.rows.new_zeros
        self.bias = zeros(width) if b_dec is None else _tensor("b_dec", b_dec, width)
        if isinstance(W_enc, Encoder):
            assert (b_enc, threshold, k) == (None,) * 3  # it has its own
            self.encoder = W_enc
        else:
            if threshold is not None and k is not None:
                raise ModelError(
                    "threshold= and k= are two ways in which codes are zero; give the one that the "
                    "dictionary was trained with"
                )
            encoding: dict[str, Any] = {
                "W_enc": _tensor("W_enc", W_enc, 2),
                "b_enc": zeros(units) if b_enc is None else _tensor("b_enc", b_enc, units),
                "threshold": None if threshold is None else _tensor("threshold", threshold, units),
            }
            self.encoder = Rectified(**encoding) if k is None else TopK(**encoding, k=k)
        self._require_fits()
        self.hook, self.at = at, spot_of(at, "the dictionary stands at")
        self.reads = self.at if reads is None else spot_of(reads, "the dictionary reads")
        if self.at.kind in READ_ONLY:
            raise ModelError(
                f"the dictionary stands at {at}, which an MLP reads; say what it writes with at=, "
                f"such as blocks.{self.at.layer}.hook_mlp_out, and reads={at!r}"
            )
        if self.crosses and (self.at.of_the_sum.kind != "mlp_out" or self.reads == self.at):
            raise ModelError(
                f"W_dec has rows for several layers, as a cross-layer transcoder's, which stands "
                f"at blocks.N.hook_mlp_out and reads what that MLP reads, not at {at}; say both "
                "with at= and reads="
            )
        self.names = dict(names or {})
        for unit in self.names:
            if unit not in range(units):
                raise ModelError(
                    f"names= has a name for unit {unit!r}, but the dictionary has units 0 to "
                    f"{units - 1}"
                )

    def _require_fits(self) -> None:
        units = len(self.rows)
        if not isinstance(self.encoder, Rectified):
            return
        if self.encoder.W_enc.shape[-1] != units:
            raise ModelError(
                f"W_enc gives {self.encoder.W_enc.shape[-1]} codes, but W_dec has {units} rows"
            )
        if isinstance(self.encoder, TopK) and not 0 < self.encoder.k <= units:
            raise ModelError(f"k= is from 1 to the {units} units, not {self.encoder.k!r}")

    @classmethod
    def of(
        cls,
        given: Any,
        *,
        width: int,
        at: str,
        reads: str | None = None,
        names: Mapping[int, str] | None = None,
    ) -> Dictionary:
        """The dictionary of any object with `encode`, `[..., width]` to codes `[..., n]`, and
        `decode`, which adds up codes times rows; other arguments as for a dictionary of tensors.

        **Raises** `ModelError` where the object is none, or decodes otherwise.
        """
        if not all(callable(getattr(given, name, None)) for name in ("encode", "decode")):
            raise ModelError(
                "a dictionary is a Dictionary, or an object with encode and decode, not "
                f"{short_repr(given)}"
            )
        encoder = Opaque(given.encode, given, width)
        with torch.no_grad():
            rows, bias = _decoded(encoder, given)
        return cls(encoder, None, rows, bias, at=at, reads=reads, names=names)

    @property
    def place(self) -> str:
        """The component that holds what it stands at, by its name in a network of one stack."""
        kind, layer, _ = self.at
        return f"{PLACES[kind]}{layer + (kind == 'resid_post')}"

    @property
    def units(self) -> int:
        return len(self.rows)

    @property
    def width(self) -> int:
        """The d of the place."""
        return self.rows.shape[1]

    def encode(self, x: Tensor) -> Tensor:
        """Codes `[..., n]` of what is read, `[..., d_in]`: what the rows are multiplied with."""
        return self.encoder(x)

    def decode(self, codes: Tensor) -> Tensor:
        """What the units and the bias add up to, `[..., d]`."""
        return codes.to(self.rows.dtype) @ self.rows + self.constant

    def error(self, x: Tensor, place: Tensor) -> Tensor:
        """What is left of the place, `[..., d]`, where this is read."""
        return place - self.decode(self.encode(x)).to(place.dtype)

    @property
    def constant(self) -> Tensor:
        """What belongs to nobody; where decoding undoes a norm nothing does, as the bias is then
        multiplied too and is part of the error."""
        undone = isinstance(self.encoder, Rectified) and self.encoder.undone
        normed = undone and getattr(self.encoder, "norm", "none") != "none"
        return torch.zeros_like(self.bias) if normed else self.bias

    def only(self, units: Tensor) -> Latents:
        """Some units, by number."""
        alone = self.encoder.only(units)
        rows = self.rows[units], self.later[units]
        if alone is None:
            return Latents(self.encoder, units, *rows)
        return Latents(alone, None, *rows)

    def told(self, units: Ints) -> str | None:
        """Some units as pictures call them; None where these have no names, or are too many."""
        if len(units) > MOST_TITLED or not self.names.keys() & {*units.tolist()}:
            return None
        names = (f"{unit} {self.names.get(unit, '')}".rstrip() for unit in units.tolist())
        return ", ".join(names)

    def misfit(self, name: str, reason: str) -> ModelError:
        """What is wrong with it at a network, where claims call it so."""
        return ModelError(
            f"{name} {reason}" + ("" if self.made_for is None else f"; it is of {self.made_for}")
        )

    def to(self, device: torch.device, dtype: torch.dtype) -> Dictionary:
        """The same there, computed in numbers at least as wide as these."""
        wide = torch.promote_types(self.rows.dtype, dtype)
        moved = object.__new__(type(self))
        vars(moved).update(vars(self))
        moved.encoder = self.encoder.to(device, dtype)
        moved.rows, moved.later, moved.bias = (
            tensor.detach().to(device, wide) for tensor in (self.rows, self.later, self.bias)
        )
        return moved

    def refresh(self) -> None:
        """Take rows anew from another's object, which may be another one by now."""
        if isinstance(self.encoder, Opaque):
            with torch.no_grad():
                self.rows, self.bias = _decoded(self.encoder, self.encoder.owner)

    # What it is -----------------------------------------------------------------------------------

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """All that it computes with, by name."""
        yield from (("W_dec", self.rows), ("b_dec", self.bias), *self.encoder.tensors())
        if self.crosses:
            yield "W_dec of later layers", self.later

    @property
    def text(self) -> str:
        """How they are combined."""
        of = f", part of {self.part_of}" if self.part_of is not None else ""
        return f"dictionary at {self.at} of {self.reads}, {self.encoder.text}{of}"


def tensors_of_all(dictionaries: Mapping[str, Dictionary]) -> Iterator[tuple[str, Tensor]]:
    """All that these compute with, by name."""
    for name, dictionary in dictionaries.items():
        yield from ((f"{name}: {what}", tensor) for what, tensor in dictionary.tensors())


def _rows(W_dec: Tensor) -> tuple[Tensor, Tensor]:
    """A unit's row where it stands, and those at later layers, `[n, layers, d]`."""
    if not isinstance(W_dec, Tensor) or W_dec.ndim != 3 or not W_dec.shape[1]:
        rows = _tensor("W_dec", W_dec, 2)
        return rows, rows.new_zeros(len(rows), 0, rows.shape[1])
    _tensor("W_dec", W_dec.flatten(1), 2)
    return W_dec[:, 0].detach(), W_dec[:, 1:].detach()


def _tensor(name: str, given: object, shape: int) -> Tensor:
    """One of a dictionary's tensors: a matrix where `shape` is 2 and nothing else is known, or so
    many numbers. **Raises** `ModelError` for anything else."""
    is_matrix = name.startswith("W")
    meant = "a matrix" if is_matrix else f"{shape} numbers, one dimension"
    if not isinstance(given, Tensor):
        raise ModelError(f"{name} of a dictionary is a tensor, not {short_repr(given)}")
    fits = given.ndim == 2 if is_matrix else tuple(given.shape) == (shape,)
    if not (fits and given.is_floating_point() and given.numel()):
        raise ModelError(
            f"{name} of a dictionary is {meant}, floating-point numbers, not "
            f"{str(given.dtype).removeprefix('torch.')} of shape {list(given.shape)}"
        )
    if not given.isfinite().all():
        raise ModelError(f"{name} of a dictionary is NaN or infinite somewhere; mend the weights")
    return given.detach()


def _decoded(encoder: Opaque, given: Any) -> tuple[Tensor, Tensor]:
    """Rows `[n, d]` and bias `[d]` of what an object decodes: what it gives for one code alone,
    less what it gives for none.

    **Raises** `ModelError` where it cannot, or where several codes give something else than the
    sum.
    """
    what, width = type(given).__name__, encoder.width
    probe = encoder.like().new_zeros(1, width)
    try:
        codes = encoder(probe)
        units, none = codes.shape[-1], torch.zeros_like(codes)
        bias = given.decode(none)[0]
        parts = [
            given.decode(torch.nn.functional.one_hot(some, units).to(codes)) - bias
            for some in torch.split(torch.arange(units, device=codes.device), ROWS_AT_ONCE)
        ]
        few = torch.rand(3, units, generator=torch.Generator().manual_seed(0)).to(codes)
        together = given.decode(few)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(
            f"encode and decode of a {what} cannot be called on {width} numbers and on the "
            f"codes of these ({first_line(error)}); is width= what it reads?"
        ) from error
    rows = torch.cat(parts)
    mine = few @ rows + bias
    scale = mine.abs().max().clamp(min=torch.finfo(mine.dtype).tiny)
    if not (mine - together).abs().max() / scale <= TOLERANCE.get(mine.dtype, ROUGH):
        raise ModelError(
            f"decode of a {what} does not add up what it gives for single codes, so its units have "
            "no rows; make a Dictionary of its tensors"
        )
    return rows, bias
