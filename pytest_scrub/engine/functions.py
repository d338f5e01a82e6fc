"""What the functions of a hypothesis compute, of which it says but their names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pytest_scrub.network.code import spelled
from pytest_scrub.tree.nodes import Node
from pytest_scrub.tree.paths import node_paths
from pytest_scrub.tree.predictions import NO_CHANGE
from pytest_scrub.verdict import Function


def functions_of(hypothesis: Node) -> tuple[Function, ...]:
    """Each with a digest."""
    found = []
    for what, function in _functions(hypothesis):
        said = spelled([function])
        found.append(Function(what, None if said is None else said.digest))
    return tuple(found)


def _functions(hypothesis: Node) -> Iterator[tuple[str, Callable[..., Any]]]:
    for path, node, _ in node_paths(hypothesis):
        if node.computed_by is not None:
            yield f"computed_by= of {path}", node.computed_by
        if node.predicts is not None:
            yield node.predicts.what, node.predicts.function
            for name, function in node.predicts.rivals:
                if name != NO_CHANGE:  # which is our own
                    yield node.predicts.against(name).what, function
