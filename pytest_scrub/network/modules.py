"""Any `torch.nn.Module`: its named modules are the components, and children are read along every
path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.data.dataset import Positions
from pytest_scrub.errors import ModelError, hides_scrub_errors
from pytest_scrub.network.graph import (
    Clean,
    Component,
    Edit,
    Edits,
    Inputs,
    ModelGraph,
    Reader,
    Site,
    captured,
    patched,
    recomputing,
    same_numbers,
)
from pytest_scrub.network.vocabulary import ids_required
from pytest_scrub.tree.nodes import ROOT

__tracebackhide__ = hides_scrub_errors

LONE_INPUT = "tokens"  # what a dataset calls its input when it was given one tensor and no name


Hook = Callable[[str, Any], Tensor | None]


class _Computed(Exception):
    """Ends a forward pass as soon as the wanted module has its output, which it carries."""


class Module(Component):
    """A named module, or the output.

    - `turn`: its place in the order in which modules finish, once one batch was run.
    - `problem`: why it cannot be claimed, and what to do.
    """

    turn: int | None = None
    problem: str | None = None

    def slots(self, child: Module, anywhere: bool) -> tuple[str, ...]:
        self.require_fit()
        child.require_fit()
        if self.turn is None or child.turn is None:
            raise ModelError(
                "a torch module has to be run on a batch of the dataset before claims can be "
                "checked"
            )
        return ("in",) if child.turn < self.turn and anywhere else ()

    def require_fit(self) -> None:
        """**Raises** `ModelError` where it cannot be claimed."""
        if self.problem is not None:
            raise ModelError(self.problem)

    def unclaimable(self, reason: str) -> str:
        return f"module {self.name!r} {reason}, so it cannot be claimed; claim a module in it"


class ModuleGraph(ModelGraph):
    """A torch module whose named submodules are the components.

    The order in which modules finish on a first batch says what can read what: a parent can read
    what was computed before it. A module that is called twice, or does not return a tensor, cannot
    be claimed.

    **Arguments**

    - `module`: called with the dataset's lone tensor, or with its named inputs as keywords.
    - `output`: picks the tensor of interest from what the module returns; by default the tensor
      itself, or its `.logits`.
    """

    reads_directly = False

    def __init__(self, module: nn.Module, output: Callable[[Any], Tensor] | None = None) -> None:
        if scripted := [
            n for n, child in module.named_modules() if isinstance(child, torch.jit.ScriptModule)
        ]:
            raise ModelError(
                f"{f'the module {scripted[0]!r}' if scripted[0] else 'the model'} was compiled by "
                "torch.jit, so nobody "
                "can look into it; give the torch module that it was compiled from"
            )
        refuse_dropout(module)
        if lazy := [
            name for name, weight in module.named_parameters() if nn.parameter.is_lazy(weight)
        ]:
            raise ModelError(
                f"the weight {lazy[0]} has no shape yet; run the network once on a batch before"
            )
        self.module = module
        self.source = f"torch module {type(module).__name__}"
        self._output = output
        self._modules = {name: child for name, child in module.named_modules() if name}
        self.parts: dict[str, Module] = {name: Module(name) for name in (*self._modules, ROOT)}

    @property
    def device(self) -> torch.device:
        return next((tensor.device for _, tensor in self.tensors()), torch.device("cpu"))

    def run(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return self._forward(inputs)

    def _forward(self, inputs: Inputs) -> Tensor:
        returned = (
            self.module(inputs[LONE_INPUT])
            if set(inputs) == {LONE_INPUT}
            else self.module(**inputs)
        )
        out = self._output(returned) if self._output else getattr(returned, "logits", returned)
        if not isinstance(out, Tensor):
            raise ModelError(
                f"{self.source} returns {type(out).__name__}, not a tensor; say which with "
                "ModuleGraph(module, output=...)"
            )
        if kind := _unusual(out):
            raise ModelError(
                f"{self.source} returns a tensor that is {kind}; return an ordinary one of real "
                "numbers, or say which with ModuleGraph(module, output=...)"
            )
        if out.ndim == 0 or len(out) != _rows_of(inputs):
            raise ModelError(
                f"{self.source} returns {list(out.shape)} for {_rows_of(inputs)} inputs; the first "
                "dimension of its output has to be that of the inputs"
            )
        return out

    @contextmanager
    def _hooked(self, names: Iterable[str], hook: Hook) -> Iterator[None]:
        """`hook` is called with the name and the output of these modules, and may exchange it."""
        handles = [
            self._modules[name].register_forward_hook(
                lambda _m, _i, out, name=name: hook(name, out)
            )
            for name in names
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def run_with(
        self, inputs: Inputs, names: Iterable[str], hook: Hook, last: str = ROOT
    ) -> Tensor:
        """The value of `last` in a run with a hook on these modules, which ends as soon as it is
        computed.

        **Raises** `ModelError` for a module that does not give one tensor, as it did on the first
        batch.
        """
        rows, fired = _rows_of(inputs), set[str]()
        names = {*names, last} - {ROOT}

        def once(name: str, out: Any) -> Tensor | None:
            reason = None
            if name in fired:
                reason = f"is called more than once on {rows} inputs"
            elif not isinstance(out, Tensor):
                reason = f"returns {type(out).__name__}, not a tensor"
            elif kind := _unusual(out):
                reason = f"returns a tensor that is {kind}"
            elif out.ndim == 0 or len(out) != rows:
                reason = f"returns {list(out.shape)} for {rows} inputs, not one value for each"
            if reason is not None:
                raise ModelError(self.parts[name].unclaimable(reason))
            fired.add(name)
            if name == last:
                raise _Computed(out)
            return hook(name, out)

        for name in sorted(names):
            self.parts[name].require_fit()
        try:
            with self._hooked(names, once):
                value = self._forward(inputs)
        except _Computed as computed:
            value = computed.args[0]
        if missing := sorted(names - fired):
            reason = f"is not called on {rows} inputs"
            raise ModelError(self.parts[missing[0]].unclaimable(reason))
        return value

    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        seen: dict[str, Tensor] = {}

        def keep(name: str, out: Tensor) -> None:
            # what follows may change it in place: relu(inplace=True), out += identity
            seen[name] = out.clone()

        names = {name for site in sites for name in site.names}
        with torch.no_grad():
            seen[ROOT] = self.run_with(inputs, names, keep)
        return captured(seen, sites)

    def reader(self, component: str, edits: Sequence[Edit], where: Positions | None) -> Reader:
        if not edits:
            return self.unchanged(component, where)
        what = (f"the network up to {component}",)
        compute = partial(self._recomputed, component)
        return recomputing(compute, edits, recomputes=what, reruns=True)

    def _recomputed(self, component: str, clean: Clean, carrier: Tensor, edits: Edits) -> Tensor:
        names = [name for edit, _ in edits for name in edit.components]
        replace = partial(patched, edits=edits, rows=carrier)
        return self.run_with(clean.inputs(carrier), names, replace, component)

    def require_usable(self, inputs: Inputs) -> None:
        """**Raises** `ModelError` for token ids that its embeddings do not know; else whatever it
        takes will do."""
        one = {name: tensor[:1].clone() for name, tensor in inputs.items()}
        with torch.no_grad(), ids_required(self.module, one, inputs):
            self._forward(one)

    def prove(self, inputs: Inputs) -> None:
        """Learns the order of the modules, and **raises** `ModelError` where two clean runs
        differ."""
        refuse_dropout(self.module)
        calls: list[str] = []
        for part in self.parts.values():
            part.problem = part.unclaimable("is not called by the forward pass")

        def note(name: str, out: Any) -> None:
            part = self.parts[name]
            part.turn, part.problem = len(calls), None
            if name in calls:
                part.problem = part.unclaimable("is called more than once in one forward pass")
            elif not isinstance(out, Tensor):
                part.problem = part.unclaimable(f"returns {type(out).__name__}, not a tensor")
            calls.append(name)

        with torch.no_grad(), self._hooked(self._modules, note):
            first = self._forward(inputs)
        self.parts[ROOT].turn, self.parts[ROOT].problem = len(calls), None
        if not same_numbers(first, self.run(inputs)):
            raise ModelError(
                f"{self.source}: two clean runs on the same inputs differ; make it deterministic "
                "(eval mode)"
            )

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        return chain(self.module.named_parameters(), self.module.named_buffers())

    def text(self) -> Sequence[str]:
        return (repr(self.module),)

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        return self.module.named_parameters()

    def computed_by_objects(self) -> tuple[Any, ...]:
        return type(self), self.module, self._output

    def rebuilt(self) -> ModuleGraph:
        return ModuleGraph(self.module, self._output)


def _unusual(value: Tensor) -> str | None:
    """What makes a tensor one that cannot be gathered, compared and replaced row by row; None where
    nothing does."""
    if value.is_meta:
        return "on the meta device, without numbers"
    if value.layout != torch.strided or value.is_nested:
        return "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
    if value.ndim and len(value) and not value.numel():
        return f"empty, {list(value.shape)}"
    # float8, which torch hardly computes with
    is_narrow = value.is_floating_point() and value.element_size() == 1
    return (
        str(value.dtype).removeprefix("torch.")
        if value.is_quantized or value.is_complex() or is_narrow
        else None
    )


def _rows_of(inputs: Inputs) -> int:
    return len(next(iter(inputs.values())))


def refuse_dropout(module: nn.Module) -> None:
    """**Raises** `ModelError` where a module in train mode would drop activations at random, or
    norm over the batch."""
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            if child.training:
                raise ModelError(
                    f"the model is in train mode and {name or 'it'} normalises over the batch; "
                    "call model.eval()"
                )
            if child.running_mean is None:
                raise ModelError(
                    f"{name or 'the model'} normalises over the batch, in eval mode too; make it "
                    "with track_running_stats=True"
                )
        if (
            child.training
            and "dropout" in type(child).__name__.lower()
            and getattr(child, "p", 0) > 0
        ):
            raise ModelError(
                f"the model is in train mode and {name or 'it'} drops activations at random; call "
                "model.eval()"
            )
