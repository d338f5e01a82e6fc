"""Any `torch.nn.Module`: its named modules are the components, and children are read along every
path."""

from __future__ import annotations

import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from pytest_scrub.data.dataset import Positions
from pytest_scrub.errors import (
    ModelError,
    ScrubError,
    did_you_mean,
    first_line,
    hides_scrub_errors,
)
from pytest_scrub.network.graph import (
    Clean,
    Component,
    Edit,
    Edits,
    Inputs,
    ModelGraph,
    Parts,
    Reader,
    Recoding,
    Site,
    captured,
    count_rows,
    patched,
    recomputing,
    same_numbers,
)
from pytest_scrub.network.kept import everywhere, keep_instead, keeps
from pytest_scrub.network.packed import packed_in, scales_of
from pytest_scrub.network.placement import Fetch, devices_of, home_of, kept_elsewhere
from pytest_scrub.network.places import (
    HEADS,
    IN,
    OUT,
    SOFTMAX,
    AnyPlace,
    Item,
    Place,
    Point,
    every_module_called,
    items_of,
    seen,
    tensors_of,
)
from pytest_scrub.network.recoded import passing, recoded_around
from pytest_scrub.network.vocabulary import ids_required
from pytest_scrub.tree.nodes import ROOT, value_name

__tracebackhide__ = hides_scrub_errors

LONE_INPUT = "tokens"  # what a dataset calls its input when it was given one tensor and no name
PARTS = re.compile(r"(.+?)(?:\((.*)\))?")  # the path of a module, and which of its values is meant

Hook = Callable[[str, Tensor], "Tensor | None"]


class _Computed(Exception):
    """Ends a forward pass as soon as the wanted value is there, which it carries."""


class Module(Component):
    """A value of a named module, or the output.

    - `place`: where it is in a run.
    - `turn`: its place in the order in which values are computed, once one batch was run.
    - `only_for`: what alone reads it; empty where all that comes later does.
    """

    only_for = ""

    def __init__(
        self,
        name: str,
        place: AnyPlace | None = None,
        turn: int | None = None,
        level: str | None = None,
        layer: int | None = None,
    ) -> None:
        super().__init__(name, level)
        self.place: AnyPlace = place or Place(Point(name))
        self.turn, self.layer = turn, layer

    def slots(self, child: Module, anywhere: bool) -> tuple[str, ...]:
        if child.only_for not in ("", self.name):
            return ()
        if self.turn is None or child.turn is None:
            raise ModelError(
                "a torch module has to be run on a batch of the dataset before claims can be "
                "checked"
            )
        return ("in",) if child.turn < self.turn and anywhere else ()

    def value(self, passing: Any, rows: int) -> Tensor:
        """**Raises** `ModelError` where it is not one tensor with a value for each row, as it was
        on the first batch."""
        value = self.place.value(passing)
        if not isinstance(value, Tensor):
            reason = f"returns {type(value).__name__}, not a tensor"
        elif kind := _unusual(value):
            reason = f"returns a tensor that is {kind}"
        elif value.ndim == 0 or len(value) != rows:
            reason = f"returns {list(value.shape)} for {rows} inputs, not one value for each"
        else:
            return value
        raise ModelError(_unclaimable(self.name, reason))


class ModuleHead(Module):
    """What one head of torch's own attention hands to the output projection; a mutant puts heads
    in place of heads alone."""


def _unclaimable(name: str, reason: str) -> str:
    return f"module {name!r} {reason}, so it cannot be claimed; claim a module in it or around it"


class Call(NamedTuple):
    """What one call of a module gave on the first batch.

    - `turn`: its place in the order of calls; `kind`: the type of what came, in words.
    - `items`: those that are tensors; `sizes`: their first dimensions, 0 for a number.
    """

    turn: int
    kind: str
    items: tuple[Item, ...]
    sizes: tuple[int, ...]


class ModuleGraph(ModelGraph):
    """A torch module whose named submodules are the components.

    A run on a first batch says what there is: every module that is called and returns a tensor, or
    the first tensor in a tuple, a dictionary or a dataclass; of one that is called several times,
    or returns several tensors, every call and every item; the heads of `torch.nn`'s attention. The
    order in which they are computed says what can read what: a parent can read what was computed
    before it.

    **Arguments**

    - `module`: called with the dataset's lone tensor, or with its named inputs as keywords.
    - `output`: picks the tensor of interest from what the module returns; by default the tensor
      itself, its `.logits` or `.last_hidden_state`, or the only tensor in it.
    """

    reads_directly = False
    lone_input: str | None = None  # what a lone tensor is called there; None: it has no name

    def __init__(self, module: nn.Module, output: Callable[[Any], Tensor] | None = None) -> None:
        for name, child in module.named_modules():
            if isinstance(child, torch.jit.ScriptModule):
                raise ModelError(
                    f"{f'the module {name!r}' if name else 'the model'} was compiled by torch.jit, "
                    "so nobody can look into it; give the torch module that it was compiled from"
                )
        refuse_dropout(module)
        for name, weight in module.named_parameters():
            if nn.parameter.is_lazy(weight):
                raise ModelError(
                    f"the weight {name} has no shape yet; run the network once on a batch before"
                )
        self.module = module
        self.source = f"torch module {type(module).__name__}"
        self._output = output
        self._modules = self._named_modules()
        self._calls: dict[Point, list[Call]] = {}
        self._rows = 0  # of the first batch
        self._keeping: set[Point] = set()  # of modules that have a hold of what they returned
        self.parts: Parts[Module] = Parts(map(Module, (*self._modules, ROOT)))

    def _named_modules(self) -> dict[str, nn.Module]:
        return {name: child for name, child in self.module.named_modules() if name}

    @property
    def device(self) -> torch.device:
        return home_of(self.module)

    @property
    def devices(self) -> tuple[torch.device, ...]:
        return devices_of(self.module)

    def run(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            return self._forward(inputs)

    def _arguments(self, inputs: Inputs) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """What the module is called with, by position and by name."""
        if set(inputs) == {LONE_INPUT} and self.lone_input is None:
            return (inputs[LONE_INPUT],), {}
        names = {LONE_INPUT: self.lone_input or LONE_INPUT}
        return (), {names.get(name, name): tensor for name, tensor in inputs.items()}

    def _forward(self, inputs: Inputs) -> Tensor:
        given, named = self._arguments(inputs)
        with every_module_called():
            returned = self.module(*given, **named)
        out = self._output(returned) if self._output else _of_interest(returned)
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
        if out.ndim == 0 or len(out) != count_rows(inputs):
            raise ModelError(
                f"{self.source} returns {list(out.shape)} for {count_rows(inputs)} inputs; the "
                "first dimension of its output has to be that of the inputs"
            )
        return out.to(_device_of(inputs))

    def run_with(
        self, inputs: Inputs, names: Iterable[str], hook: Hook, last: str = ROOT
    ) -> Tensor:
        """The value of `last` in a run with a hook on these components, which ends as soon as it is
        computed.

        - `hook`: called with a name and its value, which it may exchange.

        **Raises** `ModelError` for what is not one tensor, as it was on the first batch.
        """
        rows, home, found = count_rows(inputs), _device_of(inputs), set[str]()
        names = {*names, last} - {ROOT}
        wanted: dict[Point, list[Module]] = {}
        # what is put in for a whole goes in before what is added there, of what passed first
        for name in sorted(names, key=lambda name: (bool(self.parts[name].basis), name)):
            wanted.setdefault(self.parts[name].place.point, []).append(self.parts[name])
        calls, put_back = Counter[Point](), list[Callable[[], None]]()

        def see(point: Point, passing: Any) -> Any:
            call, now, most = calls[point], passing, self._calls.get(point)
            calls[point] += 1
            if most is not None and call >= len(most):
                reason = f"is called {calls[point]} times on {rows} inputs, more than on the first"
                raise ModelError(_unclaimable(point.path, reason))
            for part in wanted[point]:
                if part.place.call == call:
                    value = part.value(passing, rows)
                    if part.name == last:
                        raise _Computed(value.to(home))
                    found.add(part.name)
                    new = hook(part.name, value.to(home))
                    if new is not None:
                        now = part.place.exchanged(now, new.to(value.device), value)
            if now is not passing and point.end == OUT:
                now = everywhere(passing, now)
            if now is not passing and point in self._keeping:
                put_back.append(keep_instead(self._modules[point.path], passing, now))
            return None if now is passing else now

        try:
            with seen(self._modules, wanted, see):
                value = self._forward(inputs)
        except _Computed as computed:
            value = computed.args[0]
        finally:
            for undo in reversed(put_back):
                undo()
        if missing := sorted(names - found - {last}):
            reason = f"is not called on {rows} inputs"
            raise ModelError(_unclaimable(missing[0], reason))
        return value

    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        return captured(self.values({name for site in sites for name in site.names}, inputs), sites)

    def values(self, names: Iterable[str], inputs: Inputs) -> dict[str, Tensor]:
        """The clean values of these components, and the output, from one run."""
        with torch.no_grad():
            return self._live(names, inputs)

    def _live(self, names: Iterable[str], inputs: Inputs) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def keep(name: str, value: Tensor) -> None:
            # what follows may change it in place: relu(inplace=True), out += identity
            found[name] = value.clone()

        found[ROOT] = self.run_with(inputs, names, keep)
        return found

    def recoding(self, names: Iterable[str], inputs: Inputs) -> Recoding | None:
        found = dict[str, None]()
        for name in names:
            if name in self.parts and self.parts[name].place.point.end in (OUT, IN):
                found |= dict.fromkeys(self._recoded_around(name, inputs))
        return (
            Recoding(nn.ModuleList(self._modules[path] for path in found), self._live)
            if found
            else None
        )

    def _recoded_around(self, name: str, inputs: Inputs) -> list[str]:
        point, call = self.parts[name].place.point, self.parts[name].place.call

        def turned(component: str, value: Tensor) -> Tensor | None:
            return value.roll(1, 0) if component == name else None

        with torch.no_grad():
            clean = passing(self._modules, lambda: self.run(inputs))
            other = passing(self._modules, lambda: self.run_with(inputs, [name], turned))
            others = {what: tensor.roll(1, 0) for what, tensor in inputs.items()}
            of_others = passing(self._modules, lambda: self.run(others))
        return recoded_around(point.path, point.end == OUT, call, clean, other, of_others)

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
        """**Raises** `ModelError` for inputs that it does not take, and for token ids that its
        embeddings do not know; else whatever it takes will do."""
        one = {name: tensor[:1].clone() for name, tensor in inputs.items()}
        self._require_names(one)
        try:
            with ids_required(one, inputs):
                self.run(one)
        except ScrubError:
            raise
        # whatever a network makes of what it is not made for
        except Exception as error:
            raise ModelError(
                f"{self.source} cannot be run on a row of the inputs {', '.join(inputs)} alone: "
                f"{first_line(error)}; give the dataset what it asks for (a call of the network "
                "itself on such a row says where)"
            ) from error

    def _require_names(self, inputs: Inputs) -> None:
        given, named = self._arguments(inputs)
        signature = inspect.signature(self.module.forward)
        try:
            signature.bind(*given, **named)
        except TypeError as error:
            takes = ", ".join(signature.parameters) or "nothing"
            raise ModelError(
                f"{self.source} cannot be called with the inputs {', '.join(inputs)} ({error}); it "
                f"takes {takes}, so name the inputs of the dataset like these"
            ) from None

    # What there is to claim -----------------------------------------------------------------------

    def prove(self, inputs: Inputs, rows: Sequence[int] | None = None) -> None:
        """Learns what there is and in which order, and **raises** `ModelError` where two clean runs
        differ."""
        refuse_dropout(self.module)
        calls: dict[Point, list[Call]] = {point: [] for point in self._points()}
        turns = count()

        def note(point: Point, passing: Any) -> None:
            items, found = tensors_of(passing), items_of(passing)
            sizes = tuple(len(found[item]) if found[item].ndim else 0 for item in items)
            calls[point].append(Call(next(turns), type(passing).__name__, items, sizes))
            if point.end == OUT and keeps(self._modules[point.path], passing):
                self._keeping.add(point)

        with torch.no_grad(), seen(self._modules, calls, note):
            first = self._forward(inputs)
        self._calls, self._rows = calls, count_rows(inputs)
        there = sorted(self._values(), key=lambda part: part.turn or 0)
        self.parts = Parts((*there, Module(ROOT, turn=next(turns))), self.bases)
        if any(point.end == SOFTMAX for point in calls):  # which is computed in another way
            first = self.run(inputs)
        if not same_numbers(first, self.run(inputs)):
            raise ModelError(
                f"{self.source}: two clean runs on the same inputs differ; make it deterministic "
                "(eval mode)"
            )

    def _points(self) -> list[Point]:
        """Where values may be."""
        ends = [Point(path) for path in self._modules]
        return ends + [Point(path, HEADS) for path in self._modules if self._heads_of(path)]

    def _heads_of(self, path: str) -> int:
        """How many heads a module has as torch's own attention does; 0 where it is none."""
        module = self._modules[path]
        return module.num_heads if isinstance(module, nn.MultiheadAttention) else 0

    def _values(self) -> Iterator[Module]:
        """All that one run showed, each under one name."""
        for point, calls in self._calls.items():
            heads = self._heads_of(point.path) if point.end == HEADS else 0
            for nth, call in enumerate(calls):
                which = nth if len(calls) > 1 else None
                for head in range(heads):
                    name = value_name(point.path, call=which, head=head)
                    place = Place(point, nth, part=(head, heads))
                    yield ModuleHead(name, place, call.turn, level=point.path)
                for item in call.items if point.end == OUT else ():
                    told = None if item == call.items[0] else item
                    name = value_name(point.path, call=which, item=told)
                    yield Module(name, Place(point, nth, item), call.turn)

    def problem(self, name: str) -> str | None:
        path, told = split_name(name)
        if name in self.parts or path not in self._modules:
            return None
        return next(self._problems(path, **told))

    def _problems(
        self, path: str, call: int | None = None, head: int | None = None, item: Item = None
    ) -> Iterator[str]:
        """What may be wrong with the name of a module's value that is not there."""
        module, heads = f"module {path!r}", self._heads_of(path)
        calls = self._calls.get(Point(path, OUT if head is None else HEADS), [])
        last = len(calls) - 1
        if head is not None and not heads:
            yield f"{module} is no torch.nn.MultiheadAttention, so it has no head=; leave it out"
        if head is not None and head >= heads:
            yield f"{module} has {heads} heads, so head= is 0 to {heads - 1}, not {head}"
        if not calls:
            yield _unclaimable(path, "is not called by the forward pass")
        if call is None and last > 0:
            yield (
                f"{module} is called {len(calls)} times in one forward pass; say which with call=, "
                f"0 to {last}"
            )
        if call is not None and not last:
            yield f"{module} is called once in a forward pass; leave call= out"
        if call is not None and call > last:
            yield (
                f"{module} is called {len(calls)} times in one forward pass, so call= is 0 to "
                f"{last}, not {call}"
            )
        items = calls[call or 0].items
        if item is None or not items:
            yield _unclaimable(path, f"returns {calls[call or 0].kind}, not a tensor")
        if items == (None,):
            yield f"{module} returns one tensor; leave item= out"
        if item == items[0]:
            yield f"{module} is claimed as its first tensor, item={item!r}; leave item= out"
        there = [str(other) for other in items]
        remedy = "; torch's attention gives its pattern where it is called with need_weights=True"
        yield (
            f"{module} returns {calls[call or 0].kind} without a tensor {item!r}"
            f"{did_you_mean(str(item), there) or ', but with ' + ', '.join(there)}"
            f"{remedy if heads and item == 1 else ''}"
        )

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        own = self.module.named_parameters(), self.module.named_buffers()
        return chain(*own, scales_of(self.module))

    def text(self) -> Sequence[str]:
        return (repr(self.module),)

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        return self.module.named_parameters()

    def fetched(self) -> Mapping[int, Fetch]:
        return kept_elsewhere(self.module)

    def packed(self) -> Mapping[str, Any]:
        return packed_in(self.module)

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


def _of_interest(returned: Any) -> Any:
    """What a network is about, of what it returns: itself where nothing says which tensor it is."""
    for name in ("logits", "last_hidden_state"):
        if isinstance(getattr(returned, name, None), Tensor):
            return getattr(returned, name)
    tensors = tensors_of(returned)
    return items_of(returned)[tensors[0]] if len(tensors) == 1 else returned


def split_name(name: str) -> tuple[str, dict[str, Any]]:
    """A component's name as the path of a module, and which of its values is meant."""
    path, told = PARTS.fullmatch(name).groups("")  # type: ignore[union-attr]  # of any text
    pairs = (pair.partition("=") for pair in (told or "").split(", ") if pair)
    return path, {key: int(value) if value.isdigit() else value for key, _, value in pairs}


def _device_of(inputs: Inputs) -> torch.device:
    """Where all that is read of a run is brought together."""
    return next(iter(inputs.values())).device


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
