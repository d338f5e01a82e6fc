"""Transformers, by the hooks of TransformerLens's bridges, one row at a time.

A component is only ever recomputed by the network itself: a hook forces the residual stream where
the component reads it, and its activation is read off.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import torch

from pytest_scrub.meaning import Change, Run
from pytest_scrub.tree.nodes import ROOT
from tests.reference.functions import longer
from tests.reference.latents import Slow, dictionary_of, place_of

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_scrub.data.dataset import Dataset

Hook = tuple[str, Callable[..., Any]]
Replace = Callable[["Tensor"], "Tensor"]
# takes note that these components read this stream
Read = Callable[[Sequence[str], "Tensor"], None]
# from what is written, and its sum, to a sum
Written = Callable[[dict[str, "Tensor"], "Tensor"], "Tensor"]
KINDS = ("attn", "mlp")
SLOTS = {
    "head": ("q", "k", "v", "mask", "pattern"),
    "attn": ("q", "k", "v", "mask"),
    "pattern": ("q", "k", "mask"),
}


class Values(dict[str, "Tensor"]):
    """The activations of a run; those of neurons are what its hidden units add, once asked for, and
    those of dictionaries what these make of their places.

    - `stands`: by place, what stands there before anything is replaced, and what it reads; by the
      names of dictionaries what else they stand at.
    - `crossing`: what was replaced of units that write at several layers, `[P, layers, d]`;
      `between`: by layer, of those of the stream between attention and MLP.
    """

    def __init__(self, network: BridgeNetwork) -> None:
        super().__init__()
        self.network, self.hidden = network, dict[int, "Tensor"]()
        self.stands = dict[str, tuple["Tensor", "Tensor"]]()
        self.crossing = list["Tensor"]()
        self.between = dict[int, "Tensor"]()

    def __missing__(self, name: str) -> Tensor:
        if dictionary_of(name):
            return self.network.made_by(name, *self.standing(name))
        return self.network.added_by(name, self.hidden[_layer(name)])

    def standing(self, name: str) -> tuple[Tensor, Tensor]:
        """What stands where a component's dictionary does, and what its place reads."""
        return self.stands.get(dictionary_of(name), self.stands[place_of(name)])


class BridgeNetwork:
    """A `TransformerBridge` whose blocks add to one residual stream, normalised and scaled or
    not."""

    via = "direct"

    def __init__(self, bridge: Any, dataset: Dataset, dictionaries: Sequence[Slow] = ()) -> None:
        self.bridge, self.dataset = bridge, dataset
        self.dictionaries = {own.name: own for own in dictionaries}
        self.tokens = dataset.inputs["tokens"]
        self.mask = dataset.inputs.get("attention_mask")
        self.n_pos = self.tokens.shape[1]
        self._depth = 0
        self.n_heads: int = bridge.cfg.n_heads
        self.dtype = next(bridge.parameters()).dtype
        self.has_mlps = "blocks.0.mlp.hook_out" in bridge.hook_dict
        layers = range(bridge.cfg.n_layers)
        self._kept: dict[Hashable, Tensor] = {}
        # what each block adds before it is normalised or scaled, and the stream before and after
        self._points = {
            (kind, layer): self._of_block(kind, layer) for layer in layers for kind in KINDS
        }
        self._value_biases = [self._value_bias(layer) for layer in layers]
        self._mlp_biases = [self._mlp_bias(layer) for layer in layers if self.has_mlps]
        self._apart = {own.name for own in dictionaries if self._is_apart(own)}
        self.clean = cache(partial(self._run, replace={}))

    def after(self, said: Sequence[int]) -> BridgeNetwork:
        data = longer(self.dataset, said)
        return BridgeNetwork(self.bridge, data, [*self.dictionaries.values()]) if said else self

    def _is_apart(self, own: Slow) -> bool:
        """Whether a dictionary stands at something else than the sum of its block: at that as it is
        added to the stream."""
        kind = own.place.rstrip("0123456789")
        if kind not in KINDS or own.level in ("raw", "z"):
            return False
        out, added = self._points[kind, _layer(own.place)][0], own.hooks["at"]
        return not torch.equal(self._shown(out, 0, {}), self._shown(added, 0, {}))

    def slots(self, component: str) -> Sequence[str]:
        return SLOTS.get(re.split(r"\d", place_of(component))[0], ("stream",))

    def writes(self, child: str, parent: str, slot: str) -> bool:
        alone = "mask" if child == "mask" else "pattern" if child.startswith("pattern") else None
        return alone == (slot if slot in ("mask", "pattern") else None)

    def run(self, row: int, replace: Mapping[str, Replace]) -> Run:
        return self._run(row, replace) if replace else self.clean(row)

    def recompute(
        self, component: str, runs: Mapping[str, Run], changes: Mapping[str, Sequence[Change]]
    ) -> Tensor:
        streams = {
            slot: run.reads[place_of(component).partition("[")[0]]
            + self._added(component, run, changes.get(slot, ()))
            for slot, run in runs.items()
            if slot not in ("mask", "pattern")
        }
        row = next(iter(runs.values())).row
        if component == ROOT:
            return self._shown(ROOT, row, {"ln_final.hook_in": streams["stream"]})
        if dictionary_of(component):
            place, name = place_of(component), dictionary_of(component)
            stream = streams["q"] if place.startswith("attn") else streams["stream"]
            if name.startswith("z_"):
                visible = runs["mask"].values["mask"]
                visible = visible + sum(change for _, change in changes.get("mask", ()))
                z = self._mixed(_layer(place), row, streams, visible)
                return self.made_by(component, z.flatten(1), stream)
            stands = self.recompute(place, runs, changes) + self._constant(place)
            if name in self._apart:
                out = self._points[place.rstrip("0123456789"), _layer(place)][0]
                stands = self._shown(self.dictionaries[name].hooks["at"], row, {out: stands})
            return self.made_by(component, stands, stream)
        if component.startswith(("stream", "mid")):
            return streams["stream"]
        if component.startswith("mlp"):
            return self._mlp(int(component.removeprefix("mlp")), row, streams["stream"])
        if component.startswith("neurons"):
            return self.added_by(component, self._hidden(component, row, streams["stream"]))
        visible = runs["mask"].values["mask"]
        visible = visible + sum(change for _, change in changes.get("mask", ()))
        if component.startswith("attn"):
            return self._attn(int(component.removeprefix("attn")), row, streams, visible)
        layer, head = map(int, re.findall(r"\d+", component))
        if component.startswith("pattern"):
            return self._patterns(layer, row, streams, visible)[head]
        z = self._mixed(layer, row, streams, visible)
        if claimed := changes.get("pattern", ()):  # all of this head's, at several queries
            own = runs["pattern"].values[claimed[0][0]]
            pattern = own + torch.stack([change for _, change in claimed]).sum(0)
            z = self._attended(layer, row, streams["v"], pattern)
        return self._head_value(layer, head, z)

    def _added(self, parent: str, run: Run, changes: Sequence[Change]) -> Tensor | int:
        """What changed activations add to the residual stream of a run that a component reads.

        Those of one block change its sum, and the network itself says what becomes of that.
        """
        total: Tensor | int = 0
        sums: dict[tuple[str, int], Tensor] = {}
        for component, change in changes:
            name = place_of(component)
            if component.startswith("clt"):  # what it wrote at the MLPs before
                end = self.bridge.cfg.n_layers if parent == ROOT else _layer(place_of(parent))
                for layer in range(_layer(name), end):
                    sums["mlp", layer] = sums.get(("mlp", layer), 0) + change[:, layer]
                continue
            is_added = dictionary_of(component) in self._apart
            if is_added or name.startswith(("embed", "pos_embed", "stream", "mid")):
                total = total + change
                continue
            kind, layer = "mlp" if name.startswith(("mlp", "neurons")) else "attn", _layer(name)
            sums[kind, layer] = sums.get((kind, layer), 0) + change
        for block, change in sums.items():
            own = run.reads[f"{block[0]}{block[1]} adds"]
            now, before = (self._after(run.row, block, summed) for summed in (own + change, own))
            total = total + now - before
        return total

    def _after(self, row: int, block: tuple[str, int], summed: Tensor) -> Tensor:
        """The stream after a block that is made to add this."""
        out, _, after = self._points[block]
        return self._shown(after, row, {out: summed})

    def _of_block(self, kind: str, layer: int) -> tuple[str, str, str]:
        """Hook points of what a block adds as it is, of what it reads, and of the stream that
        follows."""
        bridge, prefix = self.bridge, f"blocks.{layer}."
        block = bridge.blocks[layer]
        out = block.hook_aliases.get(f"hook_{kind}_out", "")
        out = out if out in ("attn.o.hook_out", "mlp.out.hook_out") else f"{kind}.hook_out"
        mid = block.hook_aliases.get("hook_resid_mid") if self.has_mlps else None
        reads = "hook_in" if kind == "attn" or mid is None else mid
        after = "hook_out" if kind == "mlp" or mid is None else mid
        return prefix + out, prefix + reads, prefix + after

    def _visible(self, row: int) -> Tensor:
        """`[P]`: 1 where a key may be attended to."""
        return torch.ones(self.n_pos) if self.mask is None else self.mask[row].float()

    def _run(self, row: int, replace: Mapping[str, Replace]) -> Run:
        """A run in which each component is replaced as soon as it is computed; all else follows."""
        run = Run(row, values := Values(self))

        def written(parts: dict[str, Tensor], total: Tensor) -> Tensor:
            """What is added to the residual stream where these components wrote `total`."""
            for name, now in parts.items():
                run.values[name] = replace[name](now) if name in replace else now
                total = total + run.values[name] - now
            return total

        def read(names: Sequence[str], stream: Tensor) -> None:
            run.reads.update(dict.fromkeys(names, stream))

        written({"mask": self._visible(row)}, torch.zeros(self.n_pos))
        embedding = "embed_ln" if "embed_ln.hook_out" in self.bridge.hook_dict else "embed"
        hooks = [_at(f"{embedding}.hook_out", lambda value: written({"embed": value}, value))]
        if "pos_embed.hook_out" in self.bridge.hook_dict:
            hooks.append(
                _at("pos_embed.hook_out", lambda value: written({"pos_embed": value}, value))
            )

        def stream(layer: int, point: str) -> Hook:
            name = f"stream{layer}"

            def before(value: Tensor) -> Tensor:
                value = value + values.between.pop(layer - 1, 0)
                read([name], value)
                values.stands[name] = value, value
                return written({name: value, **self._made_of(name, replace, values)}, value)

            return _at(point, before)

        for layer in range(self.bridge.cfg.n_layers):
            hooks.append(stream(layer, f"blocks.{layer}.hook_in"))
            hooks += self._attention_hooks(layer, replace, values, read, written)
            if self.has_mlps:
                hooks += self._mlp_hooks(layer, replace, values, read, written)
            hooks += [
                self._added_hook(name, replace, values, written)
                for name in self._apart
                if _layer(place_of(f"{name}.error")) == layer
            ]
            for kind in KINDS if self.has_mlps else ("attn",):  # seen after it is replaced
                out = self._points[kind, layer][0]
                hooks.append(_at(out, partial(read, [f"{kind}{layer} adds"])))
        hooks.append(stream(self.bridge.cfg.n_layers, "ln_final.hook_in"))
        hooks.append(_at("ln_final.hook_in", partial(read, [ROOT])))
        run.values[ROOT] = self._forward(row, run.values["mask"], hooks)
        return run

    def _added_hook(
        self, name: str, replace: Mapping[str, Replace], values: Values, written: Written
    ) -> Hook:
        """Of a dictionary of what a block adds once it is normalised or scaled."""

        def added(total: Tensor) -> Tensor:
            values.stands[name] = total, values.stands[self.dictionaries[name].place][1]
            return written(self._made_by(name, replace, values), total)

        return _at(self.dictionaries[name].hooks["at"], added)

    def _attention_hooks(
        self, layer: int, replace: Mapping[str, Replace], values: Values, read: Read,
        written: Written,
    ) -> list[Hook]:  # fmt: skip
        attn = f"blocks.{layer}.attn"
        names = [f"head{layer}.{head}" for head in range(self.n_heads)]
        mixed: dict[str, Tensor] = {}

        def after(total: Tensor) -> Tensor:
            z = mixed[f"{attn}.o.hook_in"]
            heads = {name: self._head_value(layer, h, z) for h, name in enumerate(names)}
            total = written(heads, total)
            # all that it adds, heads as they are in this run, but for the constant
            name = f"attn{layer}"
            values.stands[name] = total, total
            values.stands[f"z_{name}"] = z.flatten(1), total
            made = self._made_of(name, replace, values)
            return written({name: total - self._constant(name), **made}, total)

        def attended(each: Tensor) -> None:
            # read by its own head alone, so that nothing follows but what that computes
            written(dict(zip(patterns, each, strict=True)), torch.zeros(()))

        patterns = [f"pattern{layer}.{head}" for head in range(self.n_heads)]
        readers = [*names, *patterns, f"attn{layer}"]
        return [
            _at(self._points["attn", layer][1], partial(read, readers)),
            _at(f"{attn}.hook_pattern", attended),
            _record(f"{attn}.o.hook_in", mixed),
            _at(self._points["attn", layer][0], after),
        ]

    def _mlp_hooks(
        self, layer: int, replace: Mapping[str, Replace], values: Values, read: Read,
        written: Written,
    ) -> list[Hook]:  # fmt: skip
        name, hidden = f"mlp{layer}", values.hidden
        neurons = [name for name in replace if name.startswith(f"neurons{layer}[")]

        def after(total: Tensor) -> Tensor:
            values.stands[name] = total, values.stands[name][1]
            made = self._made_of(name, replace, values)
            total = written({name: total - self._mlp_biases[layer]}, total)
            # each set of units changes what the MLP adds by what it adds more
            made |= {name: self.added_by(name, hidden[layer]) for name in neurons}
            for crossing in [name for name in made if name.startswith("clt")]:
                now = made.pop(crossing)
                values.crossing.append(written({crossing: now}, torch.zeros_like(now)))
            total = total + sum(change[:, layer] for change in values.crossing)
            return written(made, total)

        def reads(stream: Tensor) -> Tensor:
            between = f"mid{layer}"
            read([between], stream)
            values.stands[between] = stream, stream
            made = self._made_of(between, replace, values)
            now = written({between: stream, **made}, stream)
            values.between[layer] = now - stream  # of what goes on beside the MLP as well
            read([name, f"neurons{layer}"], now)
            values.stands[name] = now, now
            return now

        last = f"blocks.{layer}.mlp.out.hook_in"
        has_one = last in self.bridge.hook_dict  # experts have several
        units = [_at(last, lambda value: hidden.update({layer: value}))] if has_one else []
        points = self._points["mlp", layer]
        return [_at(points[1], reads), *units, _at(points[0], after)]

    def _made_of(
        self, place: str, replace: Mapping[str, Replace], values: Values
    ) -> dict[str, Tensor]:
        """What dictionaries make of a place in a run, of which something is replaced."""
        some = {name: None for name in map(dictionary_of, replace) if name not in self._apart}
        found: dict[str, Tensor] = {}
        for name in some:
            if name and self.dictionaries[name].place == place:
                found |= self._made_by(name, replace, values)
        return found

    def _made_by(
        self, own: str, replace: Mapping[str, Replace], values: Values
    ) -> dict[str, Tensor]:
        """What one dictionary makes in a run, of what is replaced."""
        some = [name for name in replace if dictionary_of(name) == own]
        return {name: self.made_by(name, *values.standing(name)) for name in some}

    def made_by(self, component: str, stands: Tensor, stream: Tensor) -> Tensor:
        """What a component of a dictionary adds where this stands at its place and its place reads
        this stream."""
        own = self.dictionaries[dictionary_of(component)]
        read = {"own": stands, "stream": stream}.get(own.reads)
        made = own.of(component, stands, self._normed(own.place, stream) if read is None else read)
        if own.level == "z":  # what the output weights make of it
            layer, z = _layer(own.place), made.view(self.n_pos, self.n_heads, -1)
            return self._write_all(layer, z) - self._write_all(layer, torch.zeros_like(z))
        return made

    def _normed(self, place: str, stream: Tensor) -> Tensor:
        """What the MLP itself reads where its block reads this stream."""
        layer = _layer(place)
        return self._shown(f"blocks.{layer}.mlp.hook_in", 0, self._read_by_mlp(layer, stream))

    def _constant(self, place: str) -> Tensor | int:
        """What stands at a place beside the component's activation."""
        if place.startswith(("stream", "mid")):
            return 0
        layer = _layer(place)
        if place.startswith("mlp"):
            return self._mlp_biases[layer]
        return self._write_all(layer, self._value_biases[layer])

    def _mixed(
        self, layer: int, row: int, streams: Mapping[str, Tensor], visible: Tensor
    ) -> Tensor:
        """The mixed values of a layer, `[P, heads, d_head]`, on these streams into q, k and v, and
        with these keys visible.

        The whole layer reads the streams and the mask; of what it computes only what is claimed is
        looked at. Queries, keys and values are exchanged before rotation, which depends on nothing
        but the position.
        """
        return self._of_attention(layer, row, streams, visible, "o.hook_in")

    def _attn(self, layer: int, row: int, streams: Mapping[str, Tensor], visible: Tensor) -> Tensor:
        """What all heads of a layer add, `[P, d_model]`."""
        z = self._mixed(layer, row, streams, visible)
        return self._write_all(layer, z) - self._write_all(layer, self._value_biases[layer])

    def _mlp(self, layer: int, row: int, stream: Tensor) -> Tensor:
        """An MLP's activation `[P, d_model]` on this stream."""
        out = self._points["mlp", layer][0]
        return self._shown(out, row, self._read_by_mlp(layer, stream)) - self._mlp_biases[layer]

    def _read_by_mlp(self, layer: int, stream: Tensor) -> dict[str, Tensor]:
        return {self._points["mlp", layer][1]: stream}

    def _patterns(
        self, layer: int, row: int, streams: Mapping[str, Tensor], visible: Tensor
    ) -> Tensor:
        """The attention of a layer's heads, `[heads, queries, keys]`, on these streams into q and
        k, and with these keys visible."""
        return self._of_attention(layer, row, streams, visible, "hook_pattern")

    def _of_attention(
        self, layer: int, row: int, streams: Mapping[str, Tensor], visible: Tensor, hook: str
    ) -> Tensor:
        """What a hook of a layer's attention shows on these streams into queries, keys and values,
        and with these keys visible."""
        attn = f"blocks.{layer}.attn"
        names = {f"{attn}.{slot}.hook_out": stream for slot, stream in streams.items()}
        projected = {
            name: self._shown(name, row, {f"blocks.{layer}.hook_in": stream}, visible)
            for name, stream in names.items()
        }
        return self._shown(f"{attn}.{hook}", row, projected, visible)

    def _attended(self, layer: int, row: int, stream: Tensor, pattern: Tensor) -> Tensor:
        """The mixed values of a layer, `[P, heads, d_head]`, if every head attended like this."""
        name, forced = f"blocks.{layer}.attn.v.hook_out", {f"blocks.{layer}.hook_in": stream}
        shown = self._shown(name, row, forced)
        values = shown.reshape(self.n_pos, -1, self.bridge.cfg.d_head)
        values = values.repeat_interleave(self.n_heads // values.shape[1], dim=1)
        return torch.einsum("qk,khe->qhe", pattern, values)

    def _hidden(self, component: str, row: int, stream: Tensor) -> Tensor:
        """What all hidden units of an MLP hold on this stream, `[P, units]`."""
        layer = _layer(component)
        return self._shown(f"blocks.{layer}.mlp.out.hook_in", row, self._read_by_mlp(layer, stream))

    def added_by(self, component: str, hidden: Tensor) -> Tensor:
        """What some hidden units, `neurons1[0:4,7]`, add to what their MLP does."""
        project = self.bridge.blocks[_layer(component)].mlp.out.original_component
        only, silent = torch.zeros_like(hidden), torch.zeros_like(hidden)
        for unit in units_of(component, hidden.shape[-1]):
            only[:, unit] = hidden[:, unit]
        added: Tensor = project(only) - project(silent)
        return added

    def _shown(
        self, name: str, row: int, forced: Mapping[str, Tensor], visible: Tensor | None = None
    ) -> Tensor:
        """What a hook shows, or the logits, in a pass in which these are put in. Kept, as many
        donors make the same of a row."""
        visible = self._visible(row) if visible is None else visible
        given = (visible, *forced.values())
        key = name, row, *forced, *(tensor.contiguous().numpy().tobytes() for tensor in given)
        if key not in self._kept:
            seen: dict[str, Tensor] = {}
            hooks = [_force(hook, value) for hook, value in forced.items()]
            logits = self._forward(
                row, visible, hooks if name == ROOT else [*hooks, _record(name, seen)]
            )
            self._kept[key] = seen.get(name, logits)
        return self._kept[key]

    def _forward(self, row: int, visible: Tensor, hooks: Sequence[Hook]) -> Tensor:
        self._depth += 1
        # Position ids are passed because the bridge would otherwise count visible keys only.
        logits: Tensor = self.bridge.run_with_hooks(
            self.tokens[row : row + 1],
            fwd_hooks=[(name, self._of_this_pass(function)) for name, function in hooks],
            attention_mask=visible[None].long(),
            position_ids=torch.arange(self.n_pos)[None],
        )
        self._depth -= 1
        return logits[0]

    def _of_this_pass(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """A hook may make a pass of its own, in which those of the pass around it say nothing."""
        depth = self._depth

        def called(value: Tensor, hook: Any) -> Any:
            return function(value, hook=hook) if self._depth == depth else None

        return called

    def _head_value(self, layer: int, head: int, z: Tensor) -> Tensor:
        """What one head adds to the stream, given the mixed values of its layer; without biases."""
        return self._write(layer, head, z) - self._write(layer, head, self._value_biases[layer])

    def _write(self, layer: int, head: int, z: Tensor) -> Tensor:
        project = self.bridge.blocks[layer].attn.o.original_component
        only = torch.zeros_like(z)
        only[:, head] = z[:, head]
        written: Tensor = project(only.flatten(1)) - project(torch.zeros_like(z).flatten(1))
        return written

    def _write_all(self, layer: int, z: Tensor) -> Tensor:
        """What the output projection makes of mixed values, its bias included, `[P, d_model]`."""
        written: Tensor = self.bridge.blocks[layer].attn.o.original_component(z.flatten(1))
        return written

    def _value_bias(self, layer: int) -> Tensor:
        """What mixed values hold whatever is attended to, `[P, heads, d_head]`: the values of
        zeros.

        Attention sums to one, so this part of a head's activation is the same on every input. Where
        a sink takes a share of it, no part is.
        """
        zeros = torch.zeros(self.n_pos, self.bridge.cfg.d_model, dtype=self.dtype)
        forced = {f"blocks.{layer}.attn.hook_in": zeros}
        shown = self._shown(f"blocks.{layer}.attn.v.hook_out", 0, forced)
        bias = shown.repeat_interleave(self.n_heads // shown.shape[1], dim=1)
        has_sinks = hasattr(self.bridge.blocks[layer].attn.original_component, "sinks")
        return torch.zeros_like(bias) if has_sinks else bias

    def _mlp_bias(self, layer: int) -> Tensor:
        """What an MLP adds to the stream when its neurons are silent, `[P, d_model]`."""
        seen: dict[str, Tensor] = {}
        out = self._points["mlp", layer][0]
        if f"blocks.{layer}.mlp.out.hook_in" not in self.bridge.hook_dict:  # experts
            return torch.zeros(())
        hooks = [_at(f"blocks.{layer}.mlp.out.hook_in", torch.zeros_like), _record(out, seen)]
        self._forward(0, self._visible(0), hooks)
        return seen[out]


def _layer(component: str) -> int:
    return int(re.findall(r"\d+", component)[0])


def units_of(component: str, count: int) -> set[int]:
    """The numbers in `neurons1[0:4,7]`."""
    found: set[int] = set()
    for piece in component.partition("[")[2].rstrip("]").split(","):
        first, *more = (int(number) if number else None for number in piece.split(":"))
        found |= set(range(count)[slice(first, *more)] if more else [first or 0])
    return found


def _at(name: str, see: Callable[[Tensor], Tensor | None]) -> Hook:
    """A hook that shows what passes (one row, no batch axis) to `see`, and puts in what that
    returns."""

    def hook(value: Tensor, **_: object) -> Tensor | None:
        instead = see(value[0].clone())
        return None if instead is None else instead[None].clone()

    return name, hook


def _force(name: str, value: Tensor) -> Hook:
    return _at(name, lambda _: value)


def _record(name: str, into: dict[str, Tensor]) -> Hook:
    return _at(name, lambda value: into.update({name: value}))
