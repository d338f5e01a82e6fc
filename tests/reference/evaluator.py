"""What a hypothesis means, spelled out: one node and one reference at a time, by passes of the real network.

Nothing here is fast and nothing is shared with the engine. A component is only ever recomputed by the network
itself: a hook forces the residual stream where the component reads it, and its activation is read off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pytest_scrub.hypothesis_tree import ROOT, Node, Span
from pytest_scrub.slots import node_paths

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_scrub.data import Dataset
    from pytest_scrub.swaps import SwapSet

Hook = tuple[str, Callable[..., Any]]
Edit = Callable[["Tensor"], "Tensor"]  # from what a component computes to what is put in its place
Read = Callable[[Sequence[str], "Tensor"], None]  # takes note that these components read this stream
Written = Callable[[dict[str, "Tensor"], "Tensor"], "Tensor"]  # from what is written, and its sum, to a sum
Position = int | slice | Span | str | None


def reference_outputs(
    bridge: Any, root: Node, dataset: Dataset, swap_set: SwapSet, metric_pos: Position
) -> list[Tensor]:
    """The scrubbed output for every reference, at the metric's positions of the root's carrier.

    **Arguments**

    - `bridge`: a `TransformerBridge` with pre-norm blocks that run attention and MLP one after the other.
    - `root`: a valid hypothesis; nothing is checked.
    - `dataset`: gives inputs, and the columns that positions and `computed_by=` name.
    - `swap_set`: donors, allowed or not.
    - `metric_pos`: where the output is read, as `Node.pos`; None reads every position.

    **Returns** one float64 `[positions, d_vocab_out]` per reference.

    **Raises** `ValueError` where a node's positions in its donor and its parent's carrier differ in number.
    """
    meaning = _Meaning(_Network(bridge, dataset), dataset)
    outputs = []
    with torch.no_grad():
        for column in range(len(swap_set.references)):
            placed = _place(root, swap_set, column)
            where = meaning.positions(metric_pos, placed.carrier)
            outputs.append(meaning.activation(placed)[ROOT][where].double())
    return outputs


def reference_metric(
    bridge: Any,
    root: Node,
    dataset: Dataset,
    swap_set: SwapSet,
    metric_pos: Position,
    metric: Callable[[Tensor, int], float],
) -> npt.NDArray[np.float64]:
    """The metric of every reference, float64 `[R]`; arguments as for `reference_outputs`.

    `metric` gets the output at one position, float64 `[d_vocab_out]`, and the row of the reference, to which
    the label belongs. Several positions are averaged.
    """
    outputs = reference_outputs(bridge, root, dataset, swap_set, metric_pos)
    rows = [int(row) for row in swap_set.references]
    means = [np.mean([metric(at, row) for at in out]) for out, row in zip(outputs, rows, strict=True)]
    return np.array(means, dtype=np.float64)


@dataclass(frozen=True)
class _Placed:
    """A node with the rows that a swap set gives it for one reference."""

    node: Node
    own: int  # the node's own input
    rest: int  # what its rest comes from; of a leaf, its own input
    children: tuple[_Placed, ...]

    @property
    def carrier(self) -> int:
        return self.rest


def _place(root: Node, swap_set: SwapSet, column: int) -> _Placed:
    donors = {path: int(swap_set.donors[i, column]) for i, path in enumerate(swap_set.slots)}
    paths = node_paths(root)

    def place(path: str, node: Node) -> _Placed:
        # Only a root that names no feature has no donor: its input is the reference.
        own = donors.get(path, int(swap_set.references[column]))
        rest = own if node.rest is None else donors[f"{path}/rest"]
        below = [place(child_path, child) for child_path, child, parent in paths if parent == path]
        return _Placed(node, own, rest, tuple(below))

    return place(paths[0][0], root)


@dataclass(frozen=True)
class _Claim:
    """A child and its activation, by component (a group has several)."""

    child: _Placed
    activation: dict[str, Tensor]

    @property
    def node(self) -> Node:
        return self.child.node


class _Meaning:
    """The value of every node, by the rules."""

    def __init__(self, network: _Network, dataset: Dataset) -> None:
        self.network = network
        self.dataset = dataset

    def activation(self, placed: _Placed) -> dict[str, Tensor]:
        """Component to its activation on the node's carrier: `[P, d_model]`, the mask's `[P]`, or logits."""
        node = placed.node
        if node.computed_by is not None:
            return {node.component: self.computed(placed)}
        if node.rest is None:
            run = self.network.clean(placed.own)
            return {component: run.values[component] for component in node.components}
        return {node.component: self.recomputed(placed)}

    def computed(self, placed: _Placed) -> Tensor:
        node = placed.node
        assert node.computed_by is not None
        assert node.agrees_on is not None
        features = [self.dataset.feature(name)[[placed.own]] for name in node.agrees_on.features]
        value = torch.as_tensor(node.computed_by(*features))[0]
        return value.to(self.network.dtype).expand(self.network.n_pos, -1)  # no pos axis: the same everywhere

    def recomputed(self, placed: _Placed) -> Tensor:
        """A non-leaf: what its children give it, and otherwise its rest."""
        component, row = placed.node.component, placed.carrier
        claims = [_Claim(child, self.activation(child)) for child in placed.children]
        if layer_head := re.fullmatch(r"head(\d+)\.(\d+)", component):
            layer, head = map(int, layer_head.groups())
            streams = {slot: self.stream(component, row, claims, slot) for slot in ("q", "k", "v")}
            return self.network.head(layer, head, row, streams, self.visible(row, claims))
        stream = self.stream(component, row, claims, None)
        if component == ROOT:
            return self.network.output(row, stream)
        return self.network.mlp(int(component.removeprefix("mlp")), row, stream)

    def stream(self, component: str, row: int, claims: Sequence[_Claim], slot: str | None) -> Tensor:
        """The residual stream `[P, d_model]` that a non-leaf reads into one slot, its carrier being `row`."""
        claims = [claim for claim in claims if claim.node.into in (None, slot)]
        everywhere = [claim for claim in claims if claim.node.via == "any"]
        direct = [claim for claim in claims if claim.node.via != "any"]
        run = self.network.clean(row)
        if everywhere:
            edits: dict[str, list[Edit]] = {}
            for claim in everywhere:
                for name in claim.activation:
                    edits.setdefault(name, []).append(partial(self.blend, claim=claim, name=name, row=row))
            run = self.network.run(row, self.visible(row, everywhere), edits)
        stream = run.reads[component]
        for claim in direct:
            for name in claim.activation:
                if name != "mask":
                    # A computation for a whole group stands for the sum of its members.
                    members = claim.node.components if name == claim.node.component else (name,)
                    now = torch.stack([run.values[member] for member in members]).sum(dim=0)
                    stream = stream + self.blend(now, claim=claim, name=name, row=row) - now
        return stream

    def visible(self, row: int, claims: Sequence[_Claim]) -> Tensor:
        """bool `[P]`: the visible keys where `row` is the carrier, with what these claims say of the mask."""
        visible = self.network.visible(row)
        for claim in claims:
            if "mask" in claim.activation:
                visible = self.blend(visible, claim=claim, name="mask", row=row)
        return visible

    def blend(self, now: Tensor, *, claim: _Claim, name: str, row: int) -> Tensor:
        """`now`, computed on `row`, with the claimed activation put in at its positions, in its subspace."""
        put = self.positions(claim.node.pos, row)
        take = self.positions(claim.node.pos, claim.child.carrier)
        if len(put) != len(take):
            raise ValueError(f"{claim.node.label}: {len(take)} positions in its donor, {len(put)} in {row=}")
        value = claim.activation[name][take]
        if claim.node.subspace is not None:
            basis = torch.tensor(claim.node.subspace.basis, dtype=now.dtype)
            value = now[put] + (value - now[put]) @ basis @ basis.T
        blended = now.clone()
        blended[put] = value
        return blended

    def positions(self, pos: Position, row: int) -> list[int]:
        """The columns that `pos` means in this row, from the left."""
        every = list(range(self.network.n_pos))
        if pos is None:
            return every
        if isinstance(pos, int):
            return [every[pos]]
        if isinstance(pos, Span):
            return every[pos.slice]
        if isinstance(pos, slice):
            return every[pos]
        column = self.dataset.feature(pos)[row]
        if column.dtype == bool:
            return [int(p) for p in np.flatnonzero(column)]
        return [every[int(column)]]


@dataclass
class _Run:
    """What one pass of the network computed.

    - `values`: component to its activation `[P, d_model]`, as this run computes it, before it is replaced;
      the mask's is `[P]`, the output's `[P, d_vocab_out]`.
    - `reads`: component to the residual stream `[P, d_model]` that it reads.
    """

    values: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)


class _Network:
    """The real network on one row at a time, through its own hooks."""

    def __init__(self, bridge: Any, dataset: Dataset) -> None:
        self.bridge = bridge
        self.tokens = dataset.inputs["tokens"]
        self.mask = dataset.inputs.get("attention_mask")
        self.n_pos = self.tokens.shape[1]
        self.n_layers: int = bridge.cfg.n_layers
        self.n_heads: int = bridge.cfg.n_heads
        self.has_pos_embed = "pos_embed.hook_out" in bridge.hook_dict
        self.has_mlps = "blocks.0.mlp.hook_out" in bridge.hook_dict
        self.dtype = next(bridge.parameters()).dtype
        self._clean: dict[int, _Run] = {}
        layers = range(self.n_layers)
        self._value_biases = [self._value_bias(layer) for layer in layers]
        self._mlp_biases = [self._mlp_bias(layer) for layer in layers if self.has_mlps]

    def visible(self, row: int) -> Tensor:
        """bool `[P]`: the keys that may be attended to."""
        return torch.ones(self.n_pos, dtype=torch.bool) if self.mask is None else self.mask[row].bool()

    def clean(self, row: int) -> _Run:
        """The unscrubbed run on a row."""
        if row not in self._clean:
            self._clean[row] = self.run(row, self.visible(row), {})
        return self._clean[row]

    def run(self, row: int, visible: Tensor, edits: Mapping[str, Sequence[Edit]]) -> _Run:
        """A run in which each edited component is replaced as soon as it is computed; all else follows."""
        run = _Run(values={"mask": visible})

        def written(parts: dict[str, Tensor], total: Tensor) -> Tensor:
            """What is added to the residual stream where these components wrote `total`."""
            run.values.update(parts)
            for name, now in parts.items():
                for edit in edits.get(name, ()):
                    total = total + edit(now) - now
            return total

        def read(names: Sequence[str], stream: Tensor) -> None:
            run.reads.update(dict.fromkeys(names, stream))

        hooks = [_at("embed.hook_out", lambda value: written({"embed": value}, value))]
        if self.has_pos_embed:
            hooks.append(_at("pos_embed.hook_out", lambda value: written({"pos_embed": value}, value)))
        for layer in range(self.n_layers):
            hooks += self._attention_hooks(layer, read, written)
            if self.has_mlps:
                hooks += self._mlp_hooks(layer, read, written)
        hooks.append(_at("ln_final.hook_in", partial(read, [ROOT])))
        run.values[ROOT] = self._forward(row, visible, hooks)
        return run

    def _attention_hooks(self, layer: int, read: Read, written: Written) -> list[Hook]:
        attn = f"blocks.{layer}.attn"
        names = [f"head{layer}.{head}" for head in range(self.n_heads)]
        mixed: dict[str, Tensor] = {}

        def after(total: Tensor) -> Tensor:
            z = mixed[f"{attn}.o.hook_in"]
            return written({name: self._head_value(layer, h, z) for h, name in enumerate(names)}, total)

        return [
            _at(f"blocks.{layer}.hook_in", partial(read, names)),
            _record(f"{attn}.o.hook_in", mixed),
            _at(f"{attn}.hook_out", after),
        ]

    def _mlp_hooks(self, layer: int, read: Read, written: Written) -> list[Hook]:
        name = f"mlp{layer}"

        def after(total: Tensor) -> Tensor:
            return written({name: total - self._mlp_biases[layer]}, total)

        return [
            _at(f"blocks.{layer}.ln2.hook_in", partial(read, [name])),
            _at(f"blocks.{layer}.mlp.hook_out", after),
        ]

    def head(self, layer: int, head: int, row: int, streams: dict[str, Tensor], visible: Tensor) -> Tensor:
        """A head's activation `[P, d_model]` on these streams into q, k and v, and with these keys visible.

        The whole layer reads the streams and the mask; of what it computes only this head is looked at.
        Queries, keys and values are exchanged before rotation, which depends on nothing but the position.
        """
        attn = f"blocks.{layer}.attn"
        seen: dict[str, Tensor] = {}
        for slot, stream in streams.items():
            hooks = [_force(f"blocks.{layer}.hook_in", stream), _record(f"{attn}.{slot}.hook_out", seen)]
            self._forward(row, visible, hooks)
        forced = [_force(name, projected) for name, projected in seen.items()]
        self._forward(row, visible, [*forced, _record(f"{attn}.o.hook_in", seen)])
        return self._head_value(layer, head, seen[f"{attn}.o.hook_in"])

    def mlp(self, layer: int, row: int, stream: Tensor) -> Tensor:
        """An MLP's activation `[P, d_model]` on this stream."""
        seen: dict[str, Tensor] = {}
        out = f"blocks.{layer}.mlp.hook_out"
        hooks = [_force(f"blocks.{layer}.ln2.hook_in", stream), _record(out, seen)]
        self._forward(row, self.visible(row), hooks)
        return seen[out] - self._mlp_biases[layer]

    def output(self, row: int, stream: Tensor) -> Tensor:
        """The logits `[P, d_vocab_out]` on this stream."""
        return self._forward(row, self.visible(row), [_force("ln_final.hook_in", stream)])

    def _forward(self, row: int, visible: Tensor, hooks: Sequence[Hook]) -> Tensor:
        # Position ids are passed because the bridge would otherwise count visible keys only.
        logits: Tensor = self.bridge.run_with_hooks(
            self.tokens[row : row + 1],
            fwd_hooks=list(hooks),
            attention_mask=visible[None].long(),
            position_ids=torch.arange(self.n_pos)[None],
        )
        return logits[0]

    def _head_value(self, layer: int, head: int, z: Tensor) -> Tensor:
        """What one head adds to the stream, given the mixed values of its layer; without biases."""
        return self._write(layer, head, z) - self._write(layer, head, self._value_biases[layer])

    def _write(self, layer: int, head: int, z: Tensor) -> Tensor:
        project = self.bridge.blocks[layer].attn.o.original_component
        only = torch.zeros_like(z)
        only[:, head] = z[:, head]
        written: Tensor = project(only.flatten(1)) - project(torch.zeros_like(z).flatten(1))
        return written

    def _value_bias(self, layer: int) -> Tensor:
        """What mixed values hold whatever is attended to, `[P, heads, d_head]`: the values of zeros.

        Attention sums to one, so this part of a head's activation is the same on every input.
        """
        seen: dict[str, Tensor] = {}
        name = f"blocks.{layer}.attn.v.hook_out"
        zeros = torch.zeros(self.n_pos, self.bridge.cfg.d_model, dtype=self.dtype)
        hooks = [_force(f"blocks.{layer}.ln1.hook_out", zeros), _record(name, seen)]
        self._forward(0, self.visible(0), hooks)
        return seen[name].repeat_interleave(self.n_heads // seen[name].shape[1], dim=1)

    def _mlp_bias(self, layer: int) -> Tensor:
        """What an MLP adds to the stream when its neurons are silent, `[P, d_model]`."""
        seen: dict[str, Tensor] = {}
        out = f"blocks.{layer}.mlp.hook_out"
        hooks = [_at(f"blocks.{layer}.mlp.out.hook_in", torch.zeros_like), _record(out, seen)]
        self._forward(0, self.visible(0), hooks)
        return seen[out]


def _at(name: str, see: Callable[[Tensor], Tensor | None]) -> Hook:
    """A hook that shows what passes (one row, no batch axis) to `see`, and puts in what that returns."""

    def hook(value: Tensor, **_: object) -> Tensor | None:
        instead = see(value[0].clone())
        return None if instead is None else instead[None].clone()

    return name, hook


def _force(name: str, value: Tensor) -> Hook:
    return _at(name, lambda _: value)


def _record(name: str, into: dict[str, Tensor]) -> Hook:
    return _at(name, lambda value: into.update({name: value}))
