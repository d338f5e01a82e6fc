"""Dictionaries of transformers that are read along every path: what they make of a value in a run
of the network's own modules, and what proves that this value is what their hooks show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.columns import Ints
from pytest_scrub.network.dictionaries import Dictionary
from pytest_scrub.network.graph import Basis
from pytest_scrub.network.kinds.latents import in_pieces
from pytest_scrub.network.modules import Module
from pytest_scrub.network.places import Place, Point
from pytest_scrub.network.precision import off_by

Made = Callable[[Tensor], Tensor]


class Coded(NamedTuple):
    """What a dictionary makes of a value, and adds there.

    - `stands`: where the value is; `made`: of `[..., d]` the same.
    """

    stands: Place
    made: Made

    @property
    def point(self) -> Point:
        return self.stands.point

    @property
    def call(self) -> int:
        return self.stands.call

    def value(self, passing: Any) -> Any:
        """What is made of what passes; None where nothing of that kind does."""
        value = self.stands.value(passing)
        return self.made(value) if isinstance(value, Tensor) else value

    def exchanged(self, passing: Any, new: Tensor, was: Tensor) -> Any:
        """The same with something else in the place of what was made."""
        value = self.stands.value(passing)
        return self.stands.exchanged(passing, value + (new - was), value)


class HookedLatents(Module):
    """Some units of a dictionary at a place of a run, or its error.

    - `standing`: the dictionary there.
    """

    standing: HookedStanding

    @property
    def writers(self) -> frozenset[str]:
        return self.standing.part.writers

    @property
    def title(self) -> str:
        assert self.units is not None  # it is some
        told = self.standing.own.told(self.units)
        return super().title if told is None else f"{self.basis}[{told}]"


@dataclass(frozen=True)
class HookedStanding:
    """A dictionary at a place of a run.

    - `own`: the dictionary in the network's numbers.
    - `part`: the component that it is a basis of, or whose heads' z it is one of; `place`: where
      what it reads is; `turn`: when.
    """

    name: str
    own: Dictionary
    part: Module
    place: Place
    turn: int

    @property
    def basis(self) -> Basis:
        """All of its units, of which claims name some."""

        def some(name: str, units: Ints) -> HookedLatents:
            chosen = self.own.only(torch.from_numpy(units).to(self.own.rows.device))
            return self._component(name, units, lambda x: chosen.codes(x) @ chosen.rows)

        return Basis(self.own.units, some)

    @property
    def error(self) -> HookedLatents:
        """What it leaves."""
        units = np.array([self.own.units])  # the number after the last, so that it is none of these
        return self._component(f"{self.name}.error", units, lambda x: self.own.error(x, x))

    def _component(self, name: str, units: Ints, of: Made) -> HookedLatents:
        def made(x: Tensor) -> Tensor:  # layers may be on several devices
            return in_pieces(of, x.to(self.own.rows.device)).to(x)

        part = HookedLatents(
            name, Coded(self.place, made), self.turn, self.part.level, self.part.layer
        )
        part.standing, part.basis, part.units = self, self.name, units
        part.jumps = self.own.encoder.jumps
        return part

    def prove(self, stands: Tensor, shown: Tensor | None) -> None:
        """**Raises** `ModelError` where what stands there is not what the hook of its name shows,
        or where units and error do not add up to it.

        - `shown`: what that hook showed; None where nothing did.
        """
        own, hook = self.own, self.own.hook
        if stands.shape[-1] != own.width or own.width != own.encoder.width:
            raise own.misfit(
                self.name,
                f"reads {own.encoder.width} numbers and has rows of {own.width}, but what stands "
                f"at {hook} of this network has {stands.shape[-1]}",
            )
        if shown is None and self.own.at.kind in ("attn_out", "mlp_out"):
            raise own.misfit(
                self.name,
                f"stands at {hook}, which nothing shows to be what {self.part.name} adds; take a "
                "dictionary of hook_resid_pre",
            )
        if shown is not None and (off := off_by(stands, shown.reshape(stands.shape))):
            raise own.misfit(
                self.name,
                f"stands at {hook}, which shows something else than {self.part.name}, by {off:.1e} "
                "of its scale; take a dictionary of hook_resid_pre",
            )
        x = stands.to(own.rows.device)
        again = in_pieces(lambda some: own.decode(own.encode(some)) + own.error(some, some), x)
        if not again.isfinite().all() or off_by(again.to(stands), stands):
            raise own.misfit(
                self.name,
                f"does not give {hook} back with its error added; its codes are too large",
            )
