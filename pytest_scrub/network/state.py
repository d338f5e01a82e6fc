"""Whether a network still is what it was, however it was changed."""

from __future__ import annotations

import hashlib
from itertools import chain
from typing import Any

import torch
from torch.nn.modules import module as torch_module

from pytest_scrub.network.changes import changes
from pytest_scrub.network.code import Spelled, spelled
from pytest_scrub.network.digests import address_of, bytes_of, loaded, version_of
from pytest_scrub.network.graph import ModelGraph


def described(graph: ModelGraph) -> Spelled | None:
    """Attributes, hooks and code, and the weights beside them; None where the code cannot be
    seen."""
    return None if graph.computed_by_objects() is None else spelled(graph, _computing)


def _computing(graph: ModelGraph) -> list[Any]:
    after = torch_module._global_forward_hooks.values()
    before = torch_module._global_forward_pre_hooks.values()
    return [*(graph.computed_by_objects() or ()), "hooks", *after, "pre-hooks", *before]


class State:
    """What a network computes with when this is made: weights, buffers, attributes, hooks, code.

    - `digest`: None where the code cannot be seen. It means nothing in another process.
    """

    def __init__(self, graph: ModelGraph) -> None:
        self._graph, self._spelled = graph, described(graph)
        self._version, self._learned = graph.version(), version_of(graph.weights())
        self.digest = None if self._spelled is None else _digest(self._spelled)

    def is_current(self) -> bool:
        """Whether the network computes with the same now; never where the code cannot be seen.

        Reads the numbers of every weight once. Objects that are the very same and hold the very
        same are not spelled out again.
        """
        if self._spelled is None:
            return False
        if self._spelled.is_current():
            return _digest(self._spelled) == self.digest
        now = State(self._graph)
        is_equal = now.digest == self.digest
        if is_equal:
            self._spelled, self._version = now._spelled, now._version
            self._learned = now._learned
        return is_equal

    def is_untouched(self) -> bool:
        """Whether nothing was exchanged or written to since, as far as torch and the objects
        themselves tell, which costs next to nothing; also where the code cannot be seen."""
        return self._spelled is None or (
            self._spelled.is_current() and self._version == self._graph.version()
        )

    def has_other_weights(self) -> bool:
        """Whether learned weights were written to, or exchanged."""
        return self._learned != version_of(self._graph.weights())

    def change(self) -> str:
        """The first thing that is not what it was, in words."""
        assert self._spelled is not None  # nothing is said of what cannot be seen
        tensors = (
            f"the weight or buffer {name!r}"
            for (name, _), then, now in zip(
                self._graph.tensors(), self._version, self._graph.version(), strict=False
            )
            if then != now
        )
        parts = self._graph.computed_by_objects() or ()
        found = chain(tensors, changes(self._spelled, parts))
        return next(found, "something that it computes with")


def _digest(found: Spelled) -> str:
    """Hex digest of what was spelled, of all weights' numbers, and of what torch computes in."""
    settings = (
        torch.get_default_dtype(),
        torch.get_float32_matmul_precision(),
        torch.is_autocast_enabled(),
    )
    # the fastest that is good enough
    total = hashlib.sha1(f"{found.digest} {settings}".encode(), usedforsecurity=False)
    seen: dict[tuple[Any, ...], int] = {}
    for tensor in found.weights:
        where = address_of(tensor)
        # tied weights are read once
        is_new = where not in seen
        nth = seen.setdefault(where, len(seen))
        told = (nth, type(tensor), tensor.dtype, tensor.shape, tensor.device)
        total.update(repr(told).encode())
        if is_new:
            total.update(bytes_of(loaded(tensor, found.fetched), "weights").data)
    return total.hexdigest()
