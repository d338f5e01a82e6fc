"""Random dictionaries, and what they make of activations, written out for the slow reference.

A dictionary's name says its place: `sae_stream1`, `sae_attn0`, `sae_mlp0`, `tc_mlp0`; `raw_mlp0` is
one of what the MLP gives before its block normalises or scales it, `z_attn0` of what heads hand to
their output weights. Some of its units are `sae_mlp0[0:3,5]`, its error is `sae_mlp0.error`.
`clt_mlp0` is the layer of a cross-layer transcoder that stands there, whose activations are `[P,
layers, d]`: what is written at each MLP.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from pytest_scrub import Dictionary
from pytest_scrub.network.encoders import Gated, Rectified, TopK

KINDS = ("relu", "jumprelu", "topk", "gated", "opaque")
NORMS = ("none", "none", "layer_norm", "constant_norm_rescale")
NAMED = re.compile(r"((?:sae|tc|clt|raw|z)_(\w+\d+))(\[(.*)\]|\.error)")
READS = {"stream": "hook_resid_mid", "normed": "mlp.hook_in"}


def dictionary_of(component: str) -> str:
    """The dictionary that a component is of; empty where it is of none."""
    found = NAMED.fullmatch(component)
    return found[1] if found else ""


def place_of(component: str) -> str:
    """The component that it is a part of; itself where it is none of a dictionary's."""
    found = NAMED.fullmatch(component)
    return found[2] if found else component


@dataclass(frozen=True)
class Slow:
    """A dictionary of tensors, one position and one unit at a time."""

    name: str
    kind: str
    norm: str
    reads: str  # "own", "stream" or "normed": what stands at its place, or what an MLP reads
    tensors: dict[str, Any] = field(compare=False, repr=False)

    @property
    def place(self) -> str:
        return self.name.partition("_")[2]

    @property
    def level(self) -> str:
        return self.name.partition("_")[0]

    def of(self, component: str, stands: Tensor, read: Tensor) -> Tensor:
        """What a component adds, `[P, d]`, where this stands at the place and this is read."""
        if self.crosses:
            codes = torch.stack([self._codes(x) for x in read])
            chosen = sorted(units_of(component, codes.shape[1]))
            wrote = torch.einsum("pu,uld->pld", codes[:, chosen], self.tensors["W_dec"][chosen])
            before = wrote.new_zeros(
                len(wrote), int(self.place.removeprefix("mlp")), wrote.shape[2]
            )
            return torch.cat([before, wrote], 1)
        rows = torch.stack([self._parts(x) for x in read])  # [P, units, d]
        if component.endswith(".error"):
            constant = 0 if self._undoes() else self.tensors["b_dec"]
            return stands - rows.sum(1) - constant
        return rows[:, sorted(units_of(component, rows.shape[1]))].sum(1)

    def _undoes(self) -> bool:
        return self.norm != "none" and self.reads == "own"

    @property
    def crosses(self) -> bool:
        return self.name.startswith("clt")

    def _parts(self, x: Tensor) -> Tensor:
        """What each unit adds at one position, `[units, d]`."""
        return self._codes(x)[:, None] * self.tensors["W_dec"]

    def _codes(self, x: Tensor) -> Tensor:
        """What each unit holds at one position, `[units]`."""
        t, factor = self.tensors, torch.ones((), dtype=x.dtype)
        if self.norm == "layer_norm":
            centred = x - x.mean()
            factor = (centred.square().sum() / (len(x) - 1)).sqrt()
            x = centred / (factor + 1e-5)
        elif self.norm == "constant_norm_rescale":
            factor = x.square().sum().sqrt() / len(x) ** 0.5
            x = x / factor
        if t["centred"]:
            x = x - t["b_dec"]
        before = [x @ t["W_enc"][:, unit] + t["b_enc"][unit] for unit in range(len(t["W_dec"]))]
        largest = sorted(before, reverse=True)[t["k"] - 1]
        codes = []
        for unit, value in enumerate(before):
            code = value.clamp(min=0)
            if self.kind == "jumprelu":
                code = code if value > t["threshold"][unit] else 0 * code
            elif self.kind == "topk":
                code = code if value >= largest else 0 * code
            elif self.kind == "gated":
                product = value - t["b_enc"][unit]
                code = (product * t["gain"][unit] + t["b_enc"][unit]).clamp(min=0)
                code = code if product + t["b_gate"][unit] > 0 else 0 * code
            codes.append(code)
        return torch.stack(codes) * (factor if self._undoes() else 1)

    @property
    def hooks(self) -> dict[str, str | None]:
        kind, layer = re.fullmatch(r"(\w+?)(\d+)", self.place).groups()
        within = {
            "stream": "hook_resid_pre",
            "mid": "hook_resid_mid",
            "attn": "hook_attn_out",
            "mlp": "hook_mlp_out",
        }[kind]
        within = {"raw": f"{kind}.hook_out", "z": "attn.hook_z"}.get(self.level, within)
        at = f"blocks.{layer}.{within}"
        return {"at": at, "reads": READS.get(self.reads) and f"blocks.{layer}.{READS[self.reads]}"}

    def fast(self, layers: int, stack: str = "blocks") -> Dictionary:
        """The same for the engine, in a network whose blocks are called so."""
        t, hooks = self.tensors, self.hooks
        hooks["at"] = str(hooks["at"]).replace("blocks", stack)
        if self.place == f"stream{layers}":
            hooks["at"] = f"blocks.{layers - 1}.hook_resid_post"
        if self.kind == "opaque":
            return Dictionary.of(Coder(t), width=len(t["b_dec"]), **hooks)
        reading = {
            "W_enc": t["W_enc"],
            "b_enc": t["b_enc"],
            "centre": t["b_dec"] if t["centred"] else None,
            "norm": self.norm,
            "undone": self.reads == "own",
        }
        encoder: Rectified
        if self.kind == "topk":
            encoder = TopK(**reading, k=t["k"])
        elif self.kind == "gated":
            encoder = Gated(**reading, b_gate=t["b_gate"], gain=t["gain"])
        else:
            has = self.kind == "jumprelu"
            encoder = Rectified(**reading, threshold=t["threshold"] if has else None)
        part_of = "clt" if self.crosses else None
        return Dictionary(encoder, None, t["W_dec"], t["b_dec"], part_of=part_of, **hooks)


class Coder:
    """A dictionary of somebody else."""

    def __init__(self, tensors: dict[str, Any]) -> None:
        self.t = tensors
        self.weight = tensors["W_enc"]

    def encode(self, x: Tensor) -> Tensor:
        centred = x - self.t["b_dec"] if self.t["centred"] else x
        return (centred @ self.t["W_enc"] + self.t["b_enc"]).relu()

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.t["W_dec"] + self.t["b_dec"]


def units_of(component: str, count: int) -> set[int]:
    """The numbers in `sae_mlp1[0:4,7]`."""
    found: set[int] = set()
    for piece in component.partition("[")[2].rstrip("]").split(","):
        first, *more = (int(number) if number else None for number in piece.split(":"))
        found |= set(range(count)[slice(first, *more)] if more else [first or 0])
    return found


def have_common(one: str, other: str) -> bool:
    """Whether two components of one dictionary have a unit, or its error, in common."""
    if one.endswith(".error") or other.endswith(".error"):
        return one == other
    return bool(units_of(one, 10**4) & units_of(other, 10**4))


@st.composite
def dictionaries(
    draw: st.DrawFn, places: list[str], d_model: int, *, has_mid: bool, z: int, crossing: bool
) -> tuple[Slow, ...]:
    """One to three at these places; those of MLPs may be layers of a cross-layer transcoder, where
    `crossing` allows it. `z`: how wide that of all heads of a layer is."""
    found = []
    mlps = [place for place in places if place.startswith("mlp")]
    layers, is_layer = len(mlps), has_mid and crossing and draw(st.booleans())
    some = st.sampled_from(mlps if is_layer else places)
    for place in draw(st.lists(some, min_size=1, max_size=3, unique=True)):
        is_mlp = place.startswith("mlp") and has_mid
        read = ["stream", "normed"] if is_layer else ["own", "stream", "normed"]
        reads = draw(st.sampled_from(read)) if is_mlp else "own"
        kind = draw(st.sampled_from(KINDS[:-1] if is_layer else KINDS))
        level = "clt" if is_layer else "sae" if reads == "own" else "tc"
        if level == "sae" and not place.startswith("stream"):
            levels = ["sae", "raw", "z"] if place.startswith("attn") else ["sae", "raw"]
            level = draw(st.sampled_from(levels))
        width = z if level == "z" else d_model
        norm = "none" if kind == "opaque" else draw(st.sampled_from(NORMS))
        units = draw(st.integers(2, 12))
        generator = torch.Generator().manual_seed(draw(st.integers(0, 10)))

        def drawn(*shape: int, seeded: torch.Generator = generator) -> Tensor:
            return torch.randn(shape, generator=seeded, dtype=torch.float64)

        tensors = {
            "W_enc": drawn(width, units),
            "b_enc": drawn(units),
            "W_dec": drawn(units, layers - int(place.removeprefix("mlp")), d_model)
            if is_layer
            else drawn(units, width),
            "b_dec": drawn(width),
            "threshold": drawn(units).abs(),
            "b_gate": drawn(units),
            "gain": drawn(units).exp(),
            "k": draw(st.integers(1, units)),
            "centred": draw(st.booleans()),
        }
        found.append(Slow(f"{level}_{place}", kind, norm, reads, tensors))
    return tuple(found)
