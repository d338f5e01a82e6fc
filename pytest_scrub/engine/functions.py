"""What the functions of a hypothesis and its metric compute, of which these say but their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pytest_scrub.metrics import Metric
from pytest_scrub.network.code import spelled
from pytest_scrub.tree.nodes import Node
from pytest_scrub.tree.paths import node_paths
from pytest_scrub.tree.predictions import NO_CHANGE
from pytest_scrub.verdict import Function

OURS = __name__.partition(".")[0]


def functions_of(hypothesis: Node, metric: Metric) -> tuple[Function, ...]:
    """Each with a digest. A metric of ours that was given nothing is what its name says."""
    found: list[tuple[str, list[Any]]] = [(what, [one]) for what, one in _functions(hypothesis)]
    given = [*_given(metric.function), metric.pos]
    if any(part is not None for part in given):
        bounds = (metric.lower, metric.upper, metric.worse, metric.needs_clean, metric.tokens)
        found.append(("metric=", [*given, *bounds]))
    spellings = ((what, spelled(parts)) for what, parts in found)
    return tuple(Function(what, None if said is None else said.digest) for what, said in spellings)


def _given(function: Callable[..., Any]) -> list[Any]:
    """A function of the user's; of one of ours what it was made with, as its code is another in
    every version."""
    if str(getattr(function, "__module__", "")).partition(".")[0] != OURS:
        return [function]
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    return [part for one in held for part in (_given(one) if callable(one) else [one])]


def _functions(hypothesis: Node) -> Iterator[tuple[str, Callable[..., Any]]]:
    for path, node, _ in node_paths(hypothesis):
        if node.computed_by is not None:
            yield f"computed_by= of {path}", node.computed_by
        if node.predicts is not None:
            yield node.predicts.what, node.predicts.function
            for name, function in node.predicts.rivals:
                if name != NO_CHANGE:  # which is our own
                    yield node.predicts.against(name).what, function
