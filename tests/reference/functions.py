"""Networks of functions of named inputs and of one another, one row at a time."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.meaning import Change, Run


def longer(dataset: Dataset, said: Sequence[int]) -> Dataset:
    """The same rows, each with these tokens after its own."""
    inputs = {}
    for name, given in dataset.inputs.items():
        more = torch.tensor([said] * len(given)).reshape(len(given), -1)
        more = torch.ones_like(more) if name == "attention_mask" else more
        inputs[name] = torch.cat([given, more.to(given.dtype)], dim=1)
    return Dataset(inputs)


class FunctionNetwork:
    """Functions by name, one of them `output`; all other names are inputs of the dataset."""

    via = "direct"

    def __init__(self, functions: Mapping[str, Callable[..., Tensor]], dataset: Dataset) -> None:
        self.functions, self.dataset, self.inputs = functions, dataset, dataset.inputs

    def after(self, said: Sequence[int]) -> FunctionNetwork:
        return FunctionNetwork(self.functions, longer(self.dataset, said))

    def slots(self, component: str) -> Sequence[str]:
        return tuple(inspect.signature(self.functions[component]).parameters)

    def writes(self, child: str, parent: str, slot: str) -> bool:
        return child == slot

    def run(self, row: int, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Run:
        run = Run(row)

        def value(name: str) -> Tensor:
            if name not in run.values:
                read = (
                    [value(argument) for argument in self.slots(name)]
                    if name in self.functions
                    else []
                )
                now = self._call(name, read) if name in self.functions else self.inputs[name][row]
                run.values[name] = replace[name](now) if name in replace else now
            return run.values[name]

        for name in (*self.functions, *self.inputs):
            value(name)
        return run

    def recompute(
        self, component: str, runs: Mapping[str, Run], changes: Mapping[str, Sequence[Change]]
    ) -> Tensor:
        read = []
        for slot, run in runs.items():
            read.append(run.values[slot] + sum(change for _, change in changes.get(slot, ())))
        return self._call(component, read)

    def _call(self, name: str, read: Sequence[Tensor]) -> Tensor:
        return self.functions[name](*(argument[None] for argument in read))[0]
