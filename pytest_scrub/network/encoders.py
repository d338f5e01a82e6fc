"""How dictionaries compute their codes from what they read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pytest_scrub.errors import ModelError, did_you_mean

if TYPE_CHECKING:
    from typing_extensions import Self

Normed = tuple[Tensor, Tensor | None]
"""What an encoder reads once it is normalised, and what that divided it by, `[..., 1]`; None where
codes are not to be multiplied by it."""

LAYER_NORM_EPS = 1e-5  # SAELens's


def _layer_norm(x: Tensor) -> Normed:
    """As SAELens has it: the deviation is that of a sample, and the small number is added to it."""
    centred = x - x.mean(-1, keepdim=True)
    deviation = centred.std(-1, keepdim=True)
    return centred / (deviation + LAYER_NORM_EPS), deviation


def _constant_norm(x: Tensor) -> Normed:
    factor = x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True)
    return x * factor, 1 / factor


NORMS: dict[str, Callable[[Tensor], Normed]] = {
    "none": lambda x: (x, None),
    "layer_norm": _layer_norm,
    "constant_norm_rescale": _constant_norm,
}


class Encoder(ABC):
    """Codes `[..., n]` of what is read, `[..., d_in]`.

    A code is what the unit's decoder row is multiplied with: where an encoder normalises what it
    reads and its decoder undoes that, it holds that factor too.

    - `competes`: whether a unit's code depends on those of others.
    - `jumps`: whether a code may be another altogether where what is read differs in its last
      digits.
    - `width`: d_in.
    """

    competes = True
    width: int

    @property
    def jumps(self) -> bool:
        return True

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """What it computes with, by name."""

    @abstractmethod
    def to(self, device: torch.device, dtype: torch.dtype) -> Encoder:
        """The same there, in numbers at least as wide as these."""

    def only(self, units: Tensor) -> Encoder | None:
        """One that gives the codes of these units alone; None where codes compete."""
        return None

    @property
    def text(self) -> str:
        """What it does beside what its tensors say."""
        return type(self).__name__


@dataclass(frozen=True, eq=False)
class Rectified(Encoder):
    """`relu(x @ W_enc + b_enc)`, and zero where that does not exceed the unit's threshold.

    - `W_enc`: `[d_in, n]`; `b_enc`, `threshold`: `[n]`.
    - `centre`: `[d_in]`, subtracted from what is read, after it is normalised.
    - `norm`: how what is read is normalised, one of `NORMS`; `undone`: whether decoding undoes it.
    """

    W_enc: Tensor
    b_enc: Tensor
    centre: Tensor | None = None
    norm: str = "none"
    undone: bool = True
    threshold: Tensor | None = None

    competes = False

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise ModelError(
                f"a dictionary's input is normalised by {' or '.join(NORMS)}, not {self.norm!r}"
                f"{did_you_mean(self.norm, NORMS)}"
            )

    @property
    def jumps(self) -> bool:
        return self.threshold is not None or type(self) is not Rectified

    @property
    def width(self) -> int:  # type: ignore[override]
        return int(self.W_enc.shape[0])

    def __call__(self, x: Tensor) -> Tensor:
        normed, divided_by = NORMS[self.norm](x.to(self.W_enc.dtype))
        if self.centre is not None:
            normed = normed - self.centre
        codes = self.activated(normed @ self.W_enc)
        return codes if divided_by is None or not self.undone else codes * divided_by

    def activated(self, product: Tensor) -> Tensor:
        """Codes from `x @ W_enc`."""
        before = product + self.b_enc
        codes = before.relu()
        return codes if self.threshold is None else codes * (before > self.threshold)

    def _map(self, change: Callable[[str, Tensor], Tensor]) -> Self:
        changed: dict[str, Any] = {name: change(name, own) for name, own in self.tensors()}
        return replace(self, **changed)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                yield field.name, value

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        wide = torch.promote_types(self.W_enc.dtype, dtype)
        return self._map(lambda _, tensor: tensor.detach().to(device, wide))

    def only(self, units: Tensor) -> Self | None:
        if self.competes:
            return None
        return self._map(lambda name, own: own if name == "centre" else own[..., units])

    @property
    def text(self) -> str:
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        told = [f"{name}={value}" for name, value in plain.items() if not _is_tensor(value)]
        return f"{type(self).__name__}({', '.join(told)})"


@dataclass(frozen=True, eq=False)
class Gated(Rectified):
    """A unit whose gate, `x @ W_enc + b_gate`, is open gives `relu(x @ W_enc * gain + b_enc)`.

    - `b_gate`, `gain`: `[n]`.
    """

    b_gate: Tensor | None = None
    gain: Tensor | None = None

    def activated(self, product: Tensor) -> Tensor:
        assert self.b_gate is not None
        assert self.gain is not None
        return (product * self.gain + self.b_enc).relu() * (product + self.b_gate > 0)


@dataclass(frozen=True, eq=False)
class TopK(Rectified):
    """Of `x @ W_enc + b_enc` the `k` largest at a position, where they are positive."""

    k: int = 1

    competes = True

    def activated(self, product: Tensor) -> Tensor:
        before = product + self.b_enc
        largest, units = before.topk(self.k, -1)
        return torch.zeros_like(before).scatter(-1, units, largest.relu())


class Opaque(Encoder):
    """A function of which nothing is known but what it gives, so that any code may depend on any.

    **Arguments**

    - `encode`: called with `[..., width]`; `owner`: what it is a method of.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], owner: Any, width: int) -> None:
        self.encode, self.owner, self.width = encode, owner, width

    def like(self) -> Tensor:
        """A tensor of the numbers that it computes in, where it does."""
        floats = (tensor for _, tensor in self.tensors() if tensor.is_floating_point())
        return next(floats, torch.zeros(()))

    def __call__(self, x: Tensor) -> Tensor:
        codes = self.encode(x.to(self.like().dtype))
        return codes.to_dense() if codes.layout != torch.strided else codes

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        if isinstance(self.owner, nn.Module):
            yield from self.owner.state_dict(keep_vars=True).items()
        else:
            held = vars(self.owner) if hasattr(self.owner, "__dict__") else {}
            yield from ((name, value) for name, value in held.items() if _is_tensor(value))

    @property
    def text(self) -> str:
        """What its class and its plain attributes are, and what it makes of some vectors, since
        tensors may be anywhere in it."""
        plain = vars(self.owner) if hasattr(self.owner, "__dict__") else {}
        told = (f"{name}={value!r}" for name, value in sorted(plain.items()) if _is_plain(value))
        like = self.like()
        probe = torch.arange(4.0 * self.width).sin().reshape(4, -1).to(like.device)
        with torch.no_grad():
            codes = self(probe).double().flatten()
        waves = torch.arange(float(len(codes)), device=codes.device).double().cos()
        seen = ", ".join(f"{float(number):.4g}" for number in (codes.abs().sum(), codes @ waves))
        kind = type(self.owner)
        return f"{kind.__module__}.{kind.__qualname__}({', '.join(told)}) to {seen}"

    def to(self, device: torch.device, dtype: torch.dtype) -> Encoder:
        for name, tensor in self.tensors():
            if tensor.device != device:
                raise ModelError(
                    f"{type(self.owner).__name__} has {name} on {tensor.device}, but the network "
                    f"is on {device}; move it there"
                )
        return self


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float | str | torch.dtype)
