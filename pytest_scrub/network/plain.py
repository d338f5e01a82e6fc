"""Plain computation graphs of Python functions: toy models, and networks written as programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from pytest_scrub.common.programs import Program
from pytest_scrub.common.user_code import call_user_function
from pytest_scrub.data.dataset import Positions
from pytest_scrub.errors import ModelError
from pytest_scrub.network.code import closed_over, code_text
from pytest_scrub.network.graph import (
    Clean,
    Component,
    Edit,
    Edits,
    Inputs,
    ModelGraph,
    Parts,
    Reader,
    Site,
    captured,
    count_rows,
    patched,
    recomputing,
    same_numbers,
)
from pytest_scrub.tree.nodes import ROOT

PLAIN = (bool, int, float, str)


class FunctionNode(Component):
    """A function, or an input of the dataset.

    - `arguments`: what it reads; `above`: all that these depend on, too.
    """

    def __init__(self, name: str, reads: Sequence[FunctionNode]) -> None:
        super().__init__(name)
        self.arguments = tuple(node.name for node in reads)
        above: Iterable[frozenset[str]] = (node.above for node in reads)
        self.above: frozenset[str] = frozenset(self.arguments).union(*above)

    def slots(self, child: Component, anywhere: bool) -> tuple[str, ...]:
        if anywhere:
            return self.arguments if child.name in self.above else ()
        return (child.name,) if child.name in self.arguments else ()


class FunctionGraph(ModelGraph):
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
    source = "a graph of functions"

    def __init__(self, **nodes: Callable[..., Tensor]) -> None:
        if ROOT not in nodes:
            raise ModelError(
                f"a FunctionGraph needs a node called 'output'; it has {', '.join(nodes) or 'none'}"
            )
        self.nodes: Mapping[str, Callable[..., Tensor]] = nodes
        program = Program(nodes, what="node", reads="nodes and inputs", kind=ModelError)
        self.input_names = program.given
        self.parts: Parts[FunctionNode] = Parts()
        for name in program.order:
            reads = [self.parts[argument] for argument in program.arguments.get(name, ())]
            self.parts[name] = FunctionNode(name, reads)
        self.parts[ROOT] = self.parts.pop(ROOT)  # the last

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def capture(self, sites: Sequence[Site], inputs: Inputs) -> dict[Site, Tensor]:
        return captured(self.evaluate(inputs), sites)

    def evaluate(
        self,
        inputs: Inputs,
        replaced: Callable[[str, Tensor], Tensor] = lambda name, value: value,
    ) -> dict[str, Tensor]:
        """All values of a run in which each is replaced as soon as it is computed."""
        values: dict[str, Tensor] = {}
        rows = count_rows(inputs)
        for name in self.parts:
            if name in self.nodes:
                value = self.call(name, values, rows)
            elif name in inputs:
                value = inputs[name]
            else:
                raise ModelError(
                    f"the dataset has no input {name!r}, which the graph reads; it has "
                    f"{sorted(inputs)}"
                )
            values[name] = replaced(name, value)
        return values

    def call(self, name: str, reads: Mapping[str, Tensor], rows: int) -> Tensor:
        """What a node's function returns for copies of what it reads: what it changes in place is
        read by others too.

        **Raises** `ModelError`, also where the function does.
        """
        arguments = (reads[argument].clone() for argument in self.parts[name].arguments)
        value = call_user_function(f"node {name!r}", self.nodes[name], *arguments, kind=ModelError)
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != rows:
            raise ModelError(
                f"node {name!r} has to return a tensor with one value for each of the {rows} rows"
            )
        return value

    def reader(self, component: str, edits: Sequence[Edit], where: Positions | None) -> Reader:
        if not edits:
            return self.unchanged(component, where)
        sites = tuple(Site("value", (name,)) for name in self.parts[component].arguments)
        compute = partial(self._recomputed, component)
        return recomputing(compute, edits, sites=sites, recomputes=(component,))

    def _recomputed(self, component: str, clean: Clean, carrier: Tensor, edits: Edits) -> Tensor:
        direct: dict[str, list[tuple[Edit, Tensor]]] = {}
        for edit, new in edits:
            for name in () if edit.anywhere else edit.components:
                direct.setdefault(name, []).append((edit, new))
        anywhere = [(edit, new) for edit, new in edits if edit.anywhere]
        reads = {}
        for name in self.parts[component].arguments:
            own = direct.get(name, ())
            rerun = [(edit, new) for edit, new in anywhere if edit.into in (None, name)]
            # a gradient is asked for of what was there, too
            if len(own) == 1 and own[0][0].is_whole and not torch.is_grad_enabled():
                reads[name] = own[0][1]
                continue
            if rerun:
                replaced = partial(patched, edits=rerun, rows=carrier)
                value = self.evaluate(clean.inputs(carrier), replaced)[name]
            else:
                value = clean.take(Site("value", (name,)), carrier, None)
            reads[name] = patched(name, value, own, carrier)
        return self.call(component, reads, len(carrier))

    def run(self, inputs: Inputs) -> Tensor:
        return self.evaluate(inputs)[ROOT]

    def prove(self, inputs: Inputs, rows: Sequence[int] | None = None) -> None:
        """**Raises** `ModelError` where two clean runs differ, or a node does not return one value
        per row."""
        first, second = self.evaluate(inputs), self.evaluate(inputs)
        for name in self.nodes:
            if not same_numbers(first[name], second[name]):
                raise ModelError(
                    f"node {name!r} gave two different values on the same inputs; make it "
                    "deterministic"
                )

    def tensors(self) -> Iterable[tuple[str, Tensor]]:
        for name, node in self.nodes.items():
            for i, held in enumerate(closed_over(node)):
                if isinstance(held, Tensor):
                    yield f"{name}.{i}", held

    def text(self) -> Sequence[str]:
        """The functions' compiled code, and the plain values that they close over."""
        text: list[str] = []
        for name, node in sorted(self.nodes.items()):
            text += [name, *code_text(getattr(node, "__code__", None))]
            text += [repr(held) for held in closed_over(node) if isinstance(held, PLAIN)]
        return text

    def weights(self) -> Iterable[tuple[str, Tensor]]:
        return ()  # functions are not learned

    def rebuilt(self) -> FunctionGraph:
        return type(self)(**self.nodes)
