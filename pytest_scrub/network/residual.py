"""Transformers whose components add to one residual stream.

A directly read child changes its parent's input by a difference of contributions, so nothing
between child and parent is run (Elhage et al., "A Mathematical Framework for Transformer Circuits",
2021). Reading along every path reruns the layers in between. The arithmetic is proved against the
network's own hooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pytest_scrub.errors import ModelError
from pytest_scrub.network.adapter import Transformer
from pytest_scrub.network.attention import (
    constant,
    kv_head,
    mix,
    project,
    projection,
    replaced_keys,
    require_a_key,
    rotated,
    seen_keys,
    visible_keys,
)
from pytest_scrub.network.digests import Version, digest_of, version_of
from pytest_scrub.network.graph import (
    Clean,
    Edit,
    Inputs,
    Site,
    Where,
    at_rows,
    blend,
    select,
)
from pytest_scrub.network.precision import widened
from pytest_scrub.network.vocabulary import require_ids
from pytest_scrub.tree.nodes import HEAD_SLOTS, ROOT

if TYPE_CHECKING:
    from typing_extensions import Self

# Relative to the largest value of the tensor compared. float64 networks may still normalise in
# float32 (RMSNorm in Hugging Face and TransformerLens does), so their bound is float32's.
PROOF_TOLERANCE = {
    torch.float64: 1e-5,
    torch.float32: 2e-4,
    torch.float16: 3e-2,
    torch.bfloat16: 1e-1,
}
OUTPUT_STAGE = 1 << 30
MASK = "mask"
EMBEDDINGS = ("embed", "pos_embed")


@dataclass(frozen=True)
class _Place:
    """Where a component sits: what it is, its layer and head, and its order of computation."""

    kind: str
    layer: int
    head: int
    stage: int


class ResidualStream:
    """A transformer around one residual stream: its components, what is captured of them, and the
    arithmetic of each. `ResidualGraph` adds how they are read.

    **Arguments**

    - `parts`: the network taken apart, see `pytest_scrub.network.adapter`.
    """

    reads_directly = True
    adds = True

    def __init__(self, parts: Transformer) -> None:
        self.parts = parts
        self.source, self.weights = parts.source, parts.parameters
        self._places = self._lay_out()
        self.components = tuple(self._places)

    @property
    def device(self) -> torch.device:
        return self.parts.device

    def _lay_out(self) -> dict[str, _Place]:
        parts, places = self.parts, {MASK: _Place(MASK, 0, 0, 0), "embed": _Place("embed", 0, 0, 0)}
        if parts.has_pos_embed:
            places["pos_embed"] = _Place("pos_embed", 0, 0, 0)
        for layer in range(len(parts.attention)):
            for head in range(parts.n_heads):
                places[f"head{layer}.{head}"] = _Place("head", layer, head, 2 * layer + 1)
            if parts.mlps:
                stage = 2 * layer + (1 if parts.parallel else 2)
                places[f"mlp{layer}"] = _Place("mlp", layer, 0, stage)
        places[ROOT] = _Place(ROOT, len(parts.attention), 0, OUTPUT_STAGE)
        return places

    def slots(self, parent: str, child: str, anywhere: bool) -> tuple[str, ...]:
        above, below = self._places[parent], self._places[child]
        if below.kind == MASK:
            if above.kind == "head":
                return (MASK,) if not anywhere else (*HEAD_SLOTS, MASK)
            return ("in",) if anywhere and above.stage > 1 else ()
        if below.stage >= above.stage:
            return ()
        return HEAD_SLOTS if above.kind == "head" else ("in",)

    def width(self, component: str) -> int | None:
        return None if component in (MASK, ROOT) else self.parts.d_model

    def value_site(self, components: tuple[str, ...], positions: tuple[int, ...] | None) -> Site:
        kind = (
            "z" if len(components) == 1 and self._places[components[0]].kind == "head" else "value"
        )
        return Site(kind, components, None if components == (MASK,) else positions)

    def run(self, inputs: Inputs) -> Tensor:
        return self.parts.run(dict(inputs))

    def digest(self) -> str:
        return digest_of(
            self.parts.parameters(), self.source, str(self.parts.causal), str(self.components)
        )

    def version(self) -> Version:
        return version_of(self.parts.parameters())

    def computing(self) -> tuple[Any, ...] | None:
        return type(self), type(self.parts), self.parts.model

    def again(self) -> Self:
        return type(self)(self.parts.again())

    # Clean activations ----------------------------------------------------------------------------

    def _hooks(self, site: Site) -> set[str]:
        if site.kind == "stream":
            return {f"resid_{site.names[0]}"}
        if site.kind == "z":
            return {f"z.{self._places[site.names[0]].layer}"}
        if site.kind in HEAD_SLOTS:
            return {f"resid_pre.{self._places[site.names[0]].layer}"}
        names = (self._places[name] for name in site.names if name != MASK)
        return {
            {"head": f"z.{p.layer}", "mlp": f"mlp_out.{p.layer}", ROOT: "logits"}.get(
                p.kind, p.kind
            )
            for p in names
        }

    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        names = sorted(set[str]().union(*(self._hooks(site) for site in sites)))
        seen = self.parts.capture(dict(inputs), names) if names else {}
        captured: dict[Site, Tensor] = {}
        for site in sites:
            where = (
                None if site.positions is None else torch.tensor(site.positions, device=self.device)
            )
            captured[site] = self._activation(site, seen, inputs, where)
        return captured

    def _activation(
        self, site: Site, seen: dict[str, Tensor], inputs: Inputs, where: Where
    ) -> Tensor:
        if site.kind == "stream":
            return select(seen[f"resid_{site.names[0]}"], where)
        if site.kind in HEAD_SLOTS:
            place = self._places[site.names[0]]
            normed = self.normed(site.names[0], select(seen[f"resid_pre.{place.layer}"], where))
            return self.project(site.names[0], site.kind, normed, where)
        if site.kind == "z":
            return self._z(site.names[0], seen, where)
        if site.names == (MASK,):
            return visible_keys(inputs)
        return torch.stack([self._contribution(name, seen, where) for name in site.names]).sum(0)

    def _contribution(self, name: str, seen: dict[str, Tensor], where: Where) -> Tensor:
        place = self._places[name]
        if place.kind == "head":
            return self._z(name, seen, where) @ self.output_weights(name)
        if place.kind == "mlp":
            out, bias = (
                select(seen[f"mlp_out.{place.layer}"], where),
                self.parts.mlps[place.layer].bias,
            )
            return out if bias is None else out - bias
        return select(seen["logits" if name == ROOT else name], where)

    def _z(self, head: str, seen: dict[str, Tensor], where: Where) -> Tensor:
        place = self._places[head]
        attention = self.parts.attention[place.layer]
        z = select(seen[f"z.{place.layer}"], where)[:, :, place.head]
        return z if attention.b_V is None else z - attention.b_V[kv_head(attention, place.head)]

    @cached_property
    def _constants(self) -> list[Tensor]:
        """Per layer, what attention adds whatever it attends to, `[d_model]`."""
        return [constant(attention) for attention in self.parts.attention]

    # Reading --------------------------------------------------------------------------------------

    def stream_before(self, component: str) -> str:
        """The point of the residual stream that a component reads."""
        place = self._places[component]
        if place.kind == ROOT:
            return f"post.{place.layer - 1}"
        return (
            f"{'mid' if place.kind == 'mlp' and not self.parts.parallel else 'pre'}.{place.layer}"
        )

    def stream_site(self, component: str, positions: tuple[int, ...] | None) -> Site:
        return Site("stream", (self.stream_before(component),), positions)

    def apply(self, component: str, stream: Tensor) -> Tensor:
        """An MLP (without its output bias) or the output, from the residual stream it reads."""
        if component == ROOT:
            return self.parts.unembed(self.parts.final_norm(stream))
        mlp = self.parts.mlps[self._places[component].layer]
        out = mlp.apply(mlp.norm(stream))
        return out if mlp.bias is None else out - mlp.bias

    def normed(self, head: str, stream: Tensor) -> Tensor:
        """What a head projects, `[B, K, d_model]`, from the residual stream before it."""
        return self.parts.attention[self._places[head].layer].norm(stream)

    def project(self, head: str, slot: str, normed: Tensor, where: Where) -> Tensor:
        """A head's q, k or v at `where`, `[B, K, d_head]`, from the normed stream there."""
        place = self._places[head]
        return project(self.parts.attention[place.layer], place.head, slot, normed, where)

    def reads_unnormed(self, head: str) -> bool:
        """Whether a head projects the residual stream as it is."""
        return isinstance(self.parts.attention[self._places[head].layer].norm, torch.nn.Identity)

    def project_product(
        self, head: str, slot: str, z: Tensor, weights: Tensor, where: Where
    ) -> Tensor:
        """What `z @ weights` in the stream adds to a head's q, k or v at `where`; it reads the
        stream as it is."""
        place = self._places[head]
        attention = self.parts.attention[place.layer]
        added = z @ (weights @ projection(attention, place.head, slot).to(weights.dtype))
        return added if slot == "v" else rotated(attention, added, where)

    def output_weights(self, head: str) -> Tensor:
        """A head's `W_O`, `[d_head, d_model]`."""
        place = self._places[head]
        return self.parts.attention[place.layer].W_O[place.head]

    def attend(
        self, head: str, qkv: tuple[Tensor, Tensor, Tensor], visible: Tensor, where: Where
    ) -> Tensor:
        """A head's z of queries at `where`, `[B, K, d_head]`."""
        attention = self.parts.attention[self._places[head].layer]
        return mix(attention, qkv, seen_keys(visible, where, qkv[0], self.parts.causal))

    def _projected(self, head: str, stream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        normed = self.normed(head, stream)
        q, k, v = (self.project(head, slot, normed, None) for slot in HEAD_SLOTS)
        return q, k, v

    def first_changed_layer(self, edits: Sequence[Edit]) -> int:
        return min(self.first_layer(name) for edit in edits for name in edit.components)

    def first_layer(self, component: str) -> int:
        """The first layer that can see a component's value."""
        return self._places[component].layer

    def rerun(
        self,
        clean: Clean,
        carrier: Tensor,
        edits: Sequence[tuple[Edit, Tensor]],
        stop: str,
        wanted: set[str],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The residual stream `[B, P, d_model]` before `stop` in a run on `carrier` in which the
        edited components are replaced as soon as they are computed; and the run's own values of
        `wanted`."""
        first = self.first_changed_layer([edit for edit, _ in edits])
        stream = clean.take(Site("stream", (f"pre.{first}",)), carrier, None)
        visible = clean.take(Site("value", (MASK,)), carrier, None)
        values: dict[str, Tensor] = {}

        def settle(name: str, value: Tensor) -> Tensor:
            """The component's value in this run, replaced where it is edited."""
            for edit, new in edits:
                if name in edit.components:
                    value = blend(value, new, at_rows(edit.at, carrier), edit.subspace)
            if name in wanted:
                values[name] = value
            return value

        of_interest = wanted.union(*(edit.components for edit, _ in edits))
        for edit, new in edits:
            if MASK in edit.components:
                visible = replaced_keys(visible, new, at_rows(edit.at, carrier))
        if any(MASK in edit.components for edit, _ in edits):
            require_a_key(seen_keys(visible, None, stream, self.parts.causal), carrier, stop)
        for name in EMBEDDINGS:
            if name in of_interest:
                value = clean.take(Site("value", (name,)), carrier, None)
                stream = stream + (settle(name, value) - value)
        for layer in range(first, len(self.parts.attention)):
            if self._places[stop].stage <= 2 * layer + 1:
                return stream, values
            after = widened(stream) + self._constants[layer]
            for head in range(self.parts.n_heads):
                name = f"head{layer}.{head}"
                z = self.attend(name, self._projected(name, stream), visible, None)
                after = after + settle(name, z @ self.output_weights(name))
            after = after.to(stream.dtype)
            if stop == f"mlp{layer}":
                return after, values
            if self.parts.mlps:
                name = f"mlp{layer}"
                value = self.apply(name, stream if self.parts.parallel else after)
                bias = self.parts.mlps[layer].bias
                after = after + settle(name, value) + (0 if bias is None else bias)
            stream = after
        return stream, values

    # Proof ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def prove(self, inputs: Inputs) -> None:
        """Two clean runs agree; the parts sum to the stream; recomputed parts are the network's
        own.

        `inputs` are the dataset's first rows, so that a row can be named.

        **Raises** `ModelError` naming the first part that differs, relative to the output's scale.
        """
        layers = range(len(self.parts.attention))
        names = [
            "embed",
            "logits",
            *(f"{n}.{i}" for i in layers for n in ("resid_pre", "resid_post", "z")),
        ]
        names += ["pos_embed"] if self.parts.has_pos_embed else []
        names += (
            [f"{n}.{i}" for i in layers for n in ("resid_mid", "mlp_out")]
            if self.parts.mlps
            else []
        )
        if self.parts.parallel:
            names = [name for name in names if not name.startswith("resid_mid")]
        seen = self.parts.capture(dict(inputs), names)
        for name in names:
            if not seen[name].isfinite().all():
                row = int((~seen[name].isfinite()).flatten(1).any(1).nonzero()[0])
                raise ModelError(
                    f"{self.source}: {name} is NaN or infinite on row {row}; take the row out, or "
                    "mend the weights"
                )
        again = self.run(inputs)
        if not torch.equal(seen["logits"], again):
            self._same(
                "two clean runs on the same inputs",
                seen["logits"],
                again,
                "make it deterministic (eval mode)",
            )
        self._prove_sums(seen)
        for name, place in self._places.items():
            if place.kind == "head":
                projected = self._projected(name, seen[f"resid_pre.{place.layer}"])
                mine = self.attend(
                    name, projected, visible_keys(inputs), None
                ) @ self.output_weights(name)
            elif place.kind in ("mlp", ROOT):
                mine = self.apply(name, seen[f"resid_{self.stream_before(name)}"])
            else:
                continue
            self._same(
                f"{name}, recomputed from what it reads,",
                mine,
                self._contribution(name, seen, None),
            )

    def _prove_sums(self, seen: dict[str, Tensor]) -> None:
        stream = seen["embed"] + (seen["pos_embed"] if self.parts.has_pos_embed else 0)
        for layer in range(len(self.parts.attention)):
            self._same(f"the stream before layer {layer}", stream, seen[f"resid_pre.{layer}"])
            heads = [
                self._contribution(f"head{layer}.{head}", seen, None)
                for head in range(self.parts.n_heads)
            ]
            stream = stream + self._constants[layer] + torch.stack(heads).sum(0)
            if self.parts.mlps:
                if not self.parts.parallel:
                    self._same(f"the stream before mlp{layer}", stream, seen[f"resid_mid.{layer}"])
                stream = stream + seen[f"mlp_out.{layer}"]
            self._same(f"the stream after layer {layer}", stream, seen[f"resid_post.{layer}"])

    def _same(self, what: str, mine: Tensor, theirs: Tensor, remedy: str = "") -> None:
        scale = theirs.abs().max().clamp(min=torch.finfo(theirs.dtype).tiny)
        off = float(((mine - theirs).abs().max() / scale).nan_to_num(nan=float("inf")))
        if off > PROOF_TOLERANCE.get(theirs.dtype, 0.0):
            raise ModelError(
                f"{self.source}: {what} differs from the network's own by {off:.1e} of its scale, "
                "so this network is not the sum of parts that a claim needs; "
                f"{remedy or 'wrap it as a plain torch module instead'}"
            )

    def require_usable(self, inputs: Inputs) -> None:
        """**Raises** `ModelError` for token ids that the network does not know, and where a query
        sees no key at all: attention is then not defined."""
        require_ids("tokens", inputs["tokens"], self.parts.model.embed.W_E.shape[0])
        visible = visible_keys(inputs)
        empty = ~visible[:, 0] if self.parts.causal else ~visible.any(1)
        if empty.any():
            raise ModelError(
                f"on row {int(empty.nonzero()[0])} a query sees no key at all: "
                + (
                    "pad on the right, since attention is causal"
                    if self.parts.causal
                    else "unmask at least one token"
                )
            )
