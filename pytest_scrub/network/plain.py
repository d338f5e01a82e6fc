"""Plain computation graphs of Python functions: toy models, and networks written as programs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch
from torch import Tensor

from pytest_scrub.common.calls import shown
from pytest_scrub.common.user_code import called
from pytest_scrub.data.dataset import Positions
from pytest_scrub.errors import ModelError
from pytest_scrub.network.code import code_text, is_set
from pytest_scrub.network.digests import Version, digest_of
from pytest_scrub.network.graph import (
    Clean,
    Edit,
    Inputs,
    Reader,
    Site,
    Where,
    at_rows,
    blend,
    kept,
    same_numbers,
    select,
)
from pytest_scrub.tree.nodes import ROOT


class FunctionGraph:
    """A network given as functions of named inputs and of one another.

    ```python
    FunctionGraph(A=lambda a: 2 * a, B=lambda b: 3 * b, output=lambda A, B: A + B)
    ```

    Every function is called with tensors `[batch, ...]` and returns one; its parameters say what it
    reads. Names that are no node are inputs of the dataset. Reading is direct by default: only that
    argument is exchanged. As functions may call whatever they like, it is run anew for each claim.

    **Arguments**

    - `nodes`: name to function; one of them is called `output`.

    **Raises** `ModelError` without an `output`, for a cycle, or for parameters that are not plain
    names.
    """

    reads_directly = True
    adds = False
    source = "a graph of functions"

    def __init__(self, **nodes: Callable[..., Tensor]) -> None:
        if ROOT not in nodes:
            raise ModelError(
                f"a FunctionGraph needs a node called 'output'; it has {', '.join(nodes) or 'none'}"
            )
        self.nodes: Mapping[str, Callable[..., Tensor]] = nodes
        self.arguments = {name: self._parameters(name, node) for name, node in nodes.items()}
        try:
            order = list(TopologicalSorter(self.arguments).static_order())
        except CycleError as error:
            raise ModelError(
                f"the nodes {' -> '.join(error.args[1])} read one another in a circle"
            ) from error
        self.input_names = tuple(name for name in order if name not in nodes)
        self.components = (*tuple(name for name in order if name != ROOT), ROOT)
        self._above = {name: self._ancestors(name) for name in self.components}

    @staticmethod
    def _parameters(name: str, node: Callable[..., Tensor]) -> tuple[str, ...]:
        try:
            parameters = inspect.signature(node).parameters.values()
        except (TypeError, ValueError):  # no function, or one written in C
            raise ModelError(
                f"node {name!r} has to be a Python function of the nodes and inputs it reads, not "
                f"{shown(node)}"
            ) from None
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters):
            raise ModelError(
                f"node {name!r} has to name its arguments after the nodes and inputs that it reads"
            )
        return tuple(p.name for p in parameters)

    def _ancestors(self, name: str) -> frozenset[str]:
        direct = self.arguments.get(name, ())
        return frozenset(direct).union(*(self._ancestors(argument) for argument in direct))

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def slots(self, parent: str, child: str, anywhere: bool) -> tuple[str, ...]:
        reads = (
            child in self._above[parent] if anywhere else child in self.arguments.get(parent, ())
        )
        return (child,) if reads and not anywhere else self.arguments[parent] if reads else ()

    def width(self, component: str) -> int | None:
        return None

    def value_site(self, components: tuple[str, ...], positions: tuple[int, ...] | None) -> Site:
        return Site("value", components, positions)

    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        values = self._evaluate(inputs, {})
        return {
            site: select(
                sum_of(values, site),
                None if site.positions is None else torch.tensor(site.positions),
            )
            for site in sites
        }

    def _evaluate(
        self, inputs: Inputs, replaced: Mapping[str, Callable[[Tensor], Tensor]]
    ) -> dict[str, Tensor]:
        """All values of a run in which some are replaced as soon as they are computed."""
        values: dict[str, Tensor] = {}
        rows = len(next(iter(inputs.values())))
        for name in self.components:
            if name in self.nodes:
                value = self._call(name, values, rows)
            elif name in inputs:
                value = inputs[name]
            else:
                raise ModelError(
                    f"the dataset has no input {name!r}, which the graph reads; it has "
                    f"{sorted(inputs)}"
                )
            values[name] = replaced[name](value) if name in replaced else value
        return values

    def _call(self, name: str, reads: Mapping[str, Tensor], rows: int) -> Tensor:
        """What a node's function returns for copies of what it reads: what it changes in place is
        read by others too.

        **Raises** `ModelError`, also where the function does.
        """
        arguments = (reads[argument].clone() for argument in self.arguments[name])
        value = called(f"node {name!r}", self.nodes[name], *arguments, kind=ModelError)
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
            raise ModelError(
                f"node {name!r} has to return a tensor with one value for each of the {rows} rows"
            )
        return value

    def reader(self, component: str, edits: Sequence[Edit], where: Positions | None) -> Reader:
        edits = tuple(edits)
        arguments = self.arguments.get(component, ())
        by_run = [(i, edit) for i, edit in enumerate(edits) if edit.anywhere]
        by_hand = [(i, edit) for i, edit in enumerate(edits) if not edit.anywhere]
        if not edits:
            site = Site("value", (component,), kept(where))
            return Reader(
                (site,), (), lambda clean, rows, at, _: clean.take(site, rows, at), (), False
            )
        own = {name: Site("value", (name,)) for name in arguments}

        def replacements(
            rows: Tensor, values: Sequence[Tensor], which: Sequence[tuple[int, Edit]]
        ) -> Replacements:
            by_name: dict[str, list[Replacement]] = {}
            # one component may be claimed at several positions or in several subspaces
            for i, edit in which:
                for name in edit.components:
                    by_name.setdefault(name, []).append(
                        _blending(values[i], at_rows(edit.at, rows), edit)
                    )
            return {name: _in_turn(replacements) for name, replacements in by_name.items()}

        def value(clean: Clean, rows: Tensor, at: Where, values: Sequence[Tensor]) -> Tensor:
            plain = (
                {name: clean.take(own[name], rows, None) for name in arguments}
                if not by_run
                else {}
            )
            reads = {}
            for argument in arguments:
                run = [(i, edit) for i, edit in by_run if edit.into in (None, argument)]
                seen = (
                    self._evaluate(clean.inputs(rows), replacements(rows, values, run))
                    if run
                    else plain
                )
                reads[argument] = seen[argument] if seen else clean.take(own[argument], rows, None)
            for name, replace in replacements(rows, values, by_hand).items():
                reads[name] = replace(reads[name])
            return select(self._call(component, reads, len(rows)), at)

        return Reader(tuple(own.values()), tuple("all" for _ in edits), value, (component,), False)

    def run(self, inputs: Inputs) -> Tensor:
        return self._evaluate(inputs, {})[ROOT]

    def require_usable(self, inputs: Inputs) -> None:
        """Any inputs will do that the network itself takes."""

    def prove(self, inputs: Inputs) -> None:
        """**Raises** `ModelError` where two clean runs differ, or a node does not return one value
        per row."""
        first, second = self._evaluate(inputs, {}), self._evaluate(inputs, {})
        for name in self.nodes:
            if not same_numbers(first[name], second[name]):
                raise ModelError(
                    f"node {name!r} gave two different values on the same inputs; make it "
                    "deterministic"
                )

    def digest(self) -> str:
        """Of the functions' compiled code, and of the tensors and plain values that they close
        over."""
        tensors: dict[str, Tensor] = {}
        text: list[str] = []
        for name, node in sorted(self.nodes.items()):
            text += [name, *code_text(getattr(node, "__code__", None))]
            for i, cell in enumerate(getattr(node, "__closure__", None) or ()):
                if not is_set(cell):
                    continue
                if isinstance(cell.cell_contents, Tensor):
                    tensors[f"{name}.{i}"] = cell.cell_contents
                elif isinstance(cell.cell_contents, (bool, int, float, str)):
                    text.append(repr(cell.cell_contents))
        return digest_of(tensors.items(), *text)

    def version(self) -> Version:
        return ()  # functions are not changed in place

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        return ()  # nor are they learned

    def computing(self) -> tuple[Any, ...] | None:
        return None  # functions may call whatever they like

    def again(self) -> FunctionGraph:
        return type(self)(**self.nodes)


Replacement = Callable[[Tensor], Tensor]
Replacements = dict[str, Replacement]


def _blending(value: Tensor, at: Where, edit: Edit) -> Replacement:
    return lambda current: blend(current, value, at, edit.subspace)


def _in_turn(replacements: Sequence[Replacement]) -> Replacement:
    return lambda current: reduce(lambda value, replace: replace(value), replacements, current)


def sum_of(values: Mapping[str, Tensor], site: Site) -> Tensor:
    """The summed values of a site's components."""
    first, *others = (values[name] for name in site.names)
    return sum(others, first)
