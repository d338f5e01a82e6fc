"""Torch modules, by plain forward hooks, one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.meaning import Change, Run
from pytest_scrub.tree.nodes import ROOT


class ModuleNetwork:
    """A module that is called with the dataset's tokens and returns a tensor.

    What a submodule reads is no tensor of its own (it may read several, and may itself contain what
    is replaced), so it is recomputed by the run in which it is read.
    """

    via = "any"

    def __init__(self, module: nn.Module, dataset: Dataset) -> None:
        self.module = module
        self.tokens = dataset.inputs["tokens"]

    def slots(self, component: str) -> Sequence[str]:
        return ("in",)

    def writes(self, child: str, parent: str, slot: str) -> bool:
        return False

    def run(self, row: int, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Run:
        run = Run(row)

        def hook(name: str, _module: nn.Module, _inputs: Any, out: Any) -> Tensor | None:
            if not isinstance(out, Tensor):
                return None
            run.values[name] = replace[name](out[0].clone()) if name in replace else out[0].clone()
            # What follows may change it in place.
            return run.values[name][None].clone() if name in replace else None

        named = [(name, child) for name, child in self.module.named_modules() if name]
        handles = [child.register_forward_hook(partial(hook, name)) for name, child in named]
        with torch.no_grad():
            run.values[ROOT] = self.module(self.tokens[row : row + 1])[0]
        for handle in handles:
            handle.remove()
        return run

    def recompute(
        self, component: str, runs: Mapping[str, Run], changes: Mapping[str, Sequence[Change]]
    ) -> Tensor:
        assert not changes
        return runs["in"].values[component]
