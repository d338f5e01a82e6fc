"""Torch modules, by plain forward hooks, one row at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Optional
from unittest import mock

import torch
from torch import Tensor, nn

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.meaning import Change, Run
from pytest_scrub.tree.nodes import ROOT
from tests.reference.functions import longer

plain_softmax = nn.functional.softmax


@dataclass(frozen=True)
class Spot:
    """Where a component is in a pass.

    - `read`: whether it is in what the module is called with, not in what it returns; None for in
      both, a pair.
    - `call`: at which of its calls.
    - `get`, `put`: the tensor `[1, ...]` in that, and the same with another tensor there.
    - `is_term`: of what passes before anything is put in, to which `put` adds what it is more.
    """

    path: str
    read: bool | None = False
    call: int = 0
    get: Callable[[Any], Any] = lambda out: out
    put: Callable[[Any, Tensor], Any] = lambda out, new: new
    is_term: bool = False


def column(path: str, head: int, heads: int) -> Spot:
    """One of equal parts of the last dimension of a module's input."""

    def part(value: Tensor) -> slice:
        width = value.shape[-1] // heads
        return slice(head * width, (head + 1) * width)

    def put(given: tuple[Any, ...], new: Tensor) -> tuple[Any, ...]:
        value = given[0].clone()
        value[..., part(value)] = new
        return value, *given[1:]

    return Spot(path, True, get=lambda given: given[0][..., part(given[0])], put=put)


SOFTMAX = "softmax"  # in place of a path: the calls of torch's function, which is no module


def probabilities(call: int, head: int) -> Spot:
    """Those of one head, in one of the calls of the softmax."""

    def put(each: Tensor, new: Tensor) -> Tensor:
        other = each.clone()
        other[:, head] = new
        return other

    return Spot(SOFTMAX, call=call, get=lambda each: each[:, head], put=put)


def hidden_units(path: str, units: Sequence[int], rows: Tensor) -> Spot:
    """What some inputs of a linear module add, each times its row, to what it returns."""

    def added(pair: tuple[Tensor, Tensor]) -> Tensor:
        total = torch.zeros_like(pair[1])
        for unit in units:
            total = total + pair[0][..., unit, None] * rows[unit]
        return total

    return Spot(path, None, get=added, put=lambda pair, new: (pair[0], pair[1] - added(pair) + new))


class ModuleNetwork:
    """A module that is called with the dataset's inputs.

    What a submodule reads is no tensor of its own (it may read several, and may itself contain what
    is replaced), so it is recomputed by the run in which it is read.

    - `spots`: component to where it is; by default every module that returns a tensor.
    - `pick`: the tensor that the output is, of what the module returns.
    """

    via = "any"

    def __init__(
        self,
        module: nn.Module,
        dataset: Dataset,
        spots: Mapping[str, Spot] | None = None,
        pick: Callable[[Any], Tensor] = lambda out: out,
    ) -> None:
        self.module, self.dataset, self.pick = module, dataset, pick
        self.inputs = dataset.inputs
        named = {name: Spot(name) for name, _ in module.named_modules() if name}
        self.spots = named if spots is None else spots
        self.clean = cache(partial(self._run, replace={}))

    def after(self, said: Sequence[int]) -> ModuleNetwork:
        return ModuleNetwork(self.module, longer(self.dataset, said), self.spots, self.pick)

    def slots(self, component: str) -> Sequence[str]:
        return ("in",)

    def writes(self, child: str, parent: str, slot: str) -> bool:
        return False

    def run(self, row: int, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Run:
        return self._run(row, replace) if replace else self.clean(row)

    def _run(self, row: int, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Run:
        run = Run(row)
        calls = Counter[tuple[str, Optional[bool]]]()

        def passes(path: str, read: bool | None, what: Any) -> Any:
            before = what
            for name, spot in self.spots.items():
                if (spot.path, spot.read, spot.call) == (path, read, calls[path, read]):
                    value = spot.get(before if spot.is_term else what)
                    if isinstance(value, Tensor):
                        run.values[name] = value[0].clone()
                        if name in replace:
                            run.values[name] = replace[name](value[0].clone())
                            # What follows may change it in place.
                            new = run.values[name][None].clone()
                            what = spot.put(what, new - value if spot.is_term else new)
            calls[path, read] += 1
            return what if replace else None

        def before(path: str, _module: nn.Module, given: Any) -> Any:
            return passes(path, True, given)

        def after(path: str, _module: nn.Module, _given: Any, out: Any) -> Any:
            return passes(path, False, out)

        def around(path: str, _module: nn.Module, given: Any, out: Any) -> Any:
            pair = passes(path, None, (given[0], out))
            return None if pair is None else pair[1]

        def softmax(*given: Any, **named: Any) -> Any:
            # below a TorchFunctionMode torch calls what has this name once more
            with mock.patch.object(nn.functional, SOFTMAX, plain_softmax):
                each = plain_softmax(*given, **named)
            new = passes(SOFTMAX, False, each)
            return each if new is None else new

        handles = []
        for path, read in {(spot.path, spot.read): None for spot in self.spots.values()}:
            if path != SOFTMAX:
                child = self.module.get_submodule(path)
                handles.append(
                    child.register_forward_pre_hook(partial(before, path))
                    if read
                    else child.register_forward_hook(
                        partial(around if read is None else after, path)
                    )
                )
        one = {name: tensor[row : row + 1] for name, tensor in self.inputs.items()}
        given = [one.pop("tokens")] if set(one) == {"tokens"} else []
        with torch.no_grad(), mock.patch.object(nn.functional, SOFTMAX, softmax):
            run.values[ROOT] = self.pick(self.module(*given, **one))[0]
        for handle in handles:
            handle.remove()
        return run

    def recompute(
        self, component: str, runs: Mapping[str, Run], changes: Mapping[str, Sequence[Change]]
    ) -> Tensor:
        assert not changes
        return runs["in"].values[component]
