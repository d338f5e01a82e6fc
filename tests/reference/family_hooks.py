"""What claims mean on a Hugging Face transformer, by plain forward hooks on its own modules.

Written from the networks' own code and for nothing else: no bridge, and nothing of
`pytest_scrub.network`. One row at a time; of every family only where its modules stand is known
(`Wiring`), as its modelling code has it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Wiring:
    """Where the modules of a family stand; paths of a layer's are below its block.

    - `layers`: the list of blocks.
    - `o`: the projection that heads' mixed values go into, side by side.
    - `after`: what normalises what attention adds; `mlp`: what gives what the MLP adds.
    - `reads`: the modules that get the residual stream as this layer's attention reads it; its norm
      where it has one. `mlp_reads`: the same of the MLP.
    - `key`: what makes keys, where it makes nothing else.
    - `final`: the module that gets the residual stream after all layers; None where there is none.
    - `scale`: a factor on all that blocks add.
    """

    layers: str = "model.layers"
    o: str = "self_attn.o_proj"
    after: str | None = None
    mlp: str = "mlp"
    reads: tuple[str, ...] = ("input_layernorm",)
    mlp_reads: tuple[str, ...] = ("post_attention_layernorm",)
    key: str | None = "self_attn.k_proj"
    final: str | None = "model.norm"
    scale: float = 1.0


@dataclass(frozen=True)
class Clean:
    """A run on one row: what modules of each layer got, `[1, P, ...]`, and the output."""

    mixed: Sequence[Tensor]
    mlp: Sequence[Tensor]
    stream: Sequence[Tensor]
    output: Tensor


class FamilyHooks:
    """A network, its wiring and the inputs of all rows."""

    def __init__(
        self, model: nn.Module, wiring: Wiring, heads: int, inputs: Mapping[str, Tensor]
    ) -> None:
        self.model, self.wiring, self.heads, self.inputs = model, wiring, heads, inputs
        self.n_layers = len(model.get_submodule(wiring.layers))  # type: ignore[arg-type]
        self.clean = cache(self._clean)

    def _module(self, layer: int, path: str) -> nn.Module:
        return self.model.get_submodule(f"{self.wiring.layers}.{layer}.{path}")

    @torch.no_grad()
    def run(self, row: int) -> Tensor:
        """The output on one row, `[P, classes]`."""
        given = {name: tensor[row : row + 1] for name, tensor in self.inputs.items()}
        given |= {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        out: Tensor = self.model(**given).logits
        return out[0]

    def _clean(self, row: int) -> Clean:
        w, layers = self.wiring, range(self.n_layers)
        mixed, mlp, stream = ({} for _ in range(3))
        with (
            _all(entering(self._module(n, w.o), _keep(mixed, n)) for n in layers),
            _all(leaving(self._module(n, w.mlp), _keep(mlp, n)) for n in layers),
            _all(entering(self._module(n, w.reads[0]), _keep(stream, n)) for n in layers),
        ):
            output = self.run(row)
        return Clean(*([kept[n] for n in layers] for kept in (mixed, mlp, stream)), output)

    # What parts are -------------------------------------------------------------------------------

    def of_head(self, head: int, whole: Tensor, new: Tensor, pos: int | None) -> Tensor:
        """Mixed values `[1, P, heads * d_head]` with those of one head replaced."""
        replaced, width = whole.clone(), whole.shape[-1] // self.heads
        at = slice(None) if pos is None else slice(pos, pos + 1)
        part = (..., at, slice(head * width, (head + 1) * width))
        replaced[part] = new[part]
        return replaced

    @torch.no_grad()
    def added(self, layer: int, mixed: Tensor) -> Tensor:
        """What attention adds to the stream for these mixed values."""
        w = self.wiring
        value = self._module(layer, w.o).forward(mixed)
        if w.after is not None:
            value = self._module(layer, w.after).forward(value)
        total: Tensor = value * w.scale
        return total

    # Directly -------------------------------------------------------------------------------------

    def change_of_head(
        self, layer: int, head: int, row: int, new: Tensor, pos: int | None = None
    ) -> Tensor:
        """What more a layer's attention adds on a row when a head's mixed values are these."""
        own = self.clean(row).mixed[layer]
        return self.added(layer, self.of_head(head, own, new, pos)) - self.added(layer, own)

    def change_of_attn(self, layer: int, row: int, donor: int) -> Tensor:
        there, here = (self.clean(one).mixed[layer] for one in (donor, row))
        return self.added(layer, there) - self.added(layer, here)

    def change_of_mlp(self, layer: int, row: int, new: Tensor) -> Tensor:
        own = self.clean(row).mlp[layer]
        return (new - own).view_as(self.clean(row).stream[layer]) * self.wiring.scale

    def output_with(self, row: int, change: Tensor) -> Tensor:
        """The output when its norm gets this more."""
        assert self.wiring.final is not None
        with entering(self.model.get_submodule(self.wiring.final), lambda x: x + change):
            return self.run(row)

    def head_with(self, layer: int, row: int, change: Tensor, slot: str | None = None) -> Tensor:
        """The layer's mixed values when its attention, or its keys alone, read this more."""
        w = self.wiring
        found: dict[int, Tensor] = {}
        record = entering(self._module(layer, w.o), _keep(found, layer))
        if slot is None:
            reads = [entering(self._module(layer, p), lambda x: x + change) for p in w.reads]
        else:
            assert slot == "k"
            assert w.key is not None
            read = self.clean(row).stream[layer] + change
            if w.key not in w.reads:
                with torch.no_grad():
                    read = self._module(layer, w.reads[0]).forward(read)
            reads = [entering(self._module(layer, w.key), read.view_as)]
        with record, _all(reads):
            self.run(row)
        return found[layer]

    def mlp_with(self, layer: int, row: int, change: Tensor) -> Tensor:
        """What the layer's MLP adds when it reads this more."""
        w = self.wiring
        found: dict[int, Tensor] = {}
        reads = [
            entering(self._module(layer, path), lambda x: x + change.view_as(x))
            for path in w.mlp_reads
        ]
        with leaving(self._module(layer, w.mlp), _keep(found, layer)), _all(reads):
            self.run(row)
        return found[layer]

    # Along every path -----------------------------------------------------------------------------

    def head_replaced(
        self, layer: int, head: int, new: Tensor, pos: int | None = None
    ) -> AbstractContextManager[None]:
        """While a head hands over these mixed values."""
        return entering(
            self._module(layer, self.wiring.o), lambda own: self.of_head(head, own, new, pos)
        )

    def mixed_now(self, layer: int, row: int) -> Tensor:
        """The layer's mixed values in a run with whatever is replaced."""
        found: dict[int, Tensor] = {}
        with entering(self._module(layer, self.wiring.o), _keep(found, layer)):
            self.run(row)
        return found[layer]

    def mlp_now(self, layer: int, row: int) -> Tensor:
        """What the layer's MLP adds in a run with whatever is replaced."""
        found: dict[int, Tensor] = {}
        with leaving(self._module(layer, self.wiring.mlp), _keep(found, layer)):
            self.run(row)
        return found[layer]

    def output_of(self, path: str, row: int) -> Tensor:
        """What any module returns in a clean run."""
        found: dict[int, Tensor] = {}
        with leaving(self.model.get_submodule(path), _keep(found, 0)):
            self.run(row)
        return found[0]

    def replaced(self, layer: int, path: str, new: Tensor) -> AbstractContextManager[None]:
        """While a module of a layer returns this."""
        return leaving(self._module(layer, path), lambda _: new)

    def attn_replaced(self, layer: int, donor: int) -> AbstractContextManager[None]:
        """While all heads of a layer hand over a donor's mixed values."""
        new = self.clean(donor).mixed[layer]
        return entering(self._module(layer, self.wiring.o), lambda _: new)

    # Whether the wiring is right ------------------------------------------------------------------

    def unexplained(self, row: int) -> float:
        """How much of what the residual stream changes in the layers is not what attention and MLPs
        add, of its largest value."""
        w, clean = self.wiring, self.clean(row)
        last: dict[int, Tensor] = {}
        assert w.final is not None
        with entering(self.model.get_submodule(w.final), _keep(last, 0)):
            self.run(row)
        streams, worst = [*clean.stream, last[0]], 0.0
        for layer in range(self.n_layers):
            mine = streams[layer] + self.added(layer, clean.mixed[layer])
            mine = mine + clean.mlp[layer].view_as(mine) * w.scale
            off = (mine - streams[layer + 1]).abs().max() / streams[layer + 1].abs().max()
            worst = max(worst, float(off))
        return worst


@contextmanager
def entering(module: nn.Module, change: Change) -> Iterator[None]:
    """While what a module gets first is changed, or seen: what `change` returns for it."""

    def hook(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (change(given[0]), *given[1:]), named
        name = "hidden_states"
        return given, {**named, name: change(named[name])}

    handle = module.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def leaving(module: nn.Module, change: Change) -> Iterator[None]:
    """The same for what a module returns, or the first of what it returns."""

    def hook(_: nn.Module, __: tuple[Any, ...], out: Any) -> Any:
        return (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _keep(into: dict[int, Tensor], key: int) -> Change:
    def keep(value: Tensor) -> Tensor:
        into[key] = value.clone()  # some add to it in place
        return value

    return keep


@contextmanager
def _all(hooks: Iterable[AbstractContextManager[None]]) -> Iterator[None]:
    with ExitStack() as stack:
        for one in hooks:
            stack.enter_context(one)
        yield
