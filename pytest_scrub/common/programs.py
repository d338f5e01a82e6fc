"""Functions that read one another by the names of their arguments: networks, and causal models."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pytest_scrub.common.calls import short_repr
from pytest_scrub.errors import ScrubError


class Program:
    """What each of some functions reads, and the order in which they can be called.

    - `arguments`: name to the names that it reads.
    - `order`: all names, each after what it reads; `given`: those that are no function.

    **Arguments**

    - `functions`: name to function.
    - `what`, `reads`: what a function is, and what its arguments are, as errors call them.

    **Raises** `kind` for what is no Python function, for parameters that are not plain names, or
    for a circle.
    """

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        *,
        what: str,
        reads: str,
        kind: type[ScrubError],
    ) -> None:
        self.arguments: Mapping[str, tuple[str, ...]] = {
            name: _parameters(f"{what} {name!r}", function, reads, kind)
            for name, function in functions.items()
        }
        try:
            self.order = tuple(TopologicalSorter(self.arguments).static_order())
        except CycleError as error:
            circle = error.args[1]
            raise kind(
                f"the {what} {circle[0]!r} reads itself; call it otherwise than what it is made of"
                if len(circle) == 2
                else f"the {what}s {' -> '.join(circle)} read one another in a circle"
            ) from error
        self.given = tuple(name for name in self.order if name not in functions)


def _parameters(
    name: str, function: Callable[..., Any], reads: str, kind: type[ScrubError]
) -> tuple[str, ...]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # no function, or one written in C
        raise kind(
            f"{name} has to be a Python function of the {reads} it reads, not "
            f"{short_repr(function)}"
        ) from None
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) for p in parameters):
        raise kind(f"{name} has to name its arguments after the {reads} that it reads")
    return tuple(p.name for p in parameters)
