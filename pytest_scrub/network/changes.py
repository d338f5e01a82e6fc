"""What of a network is another than it was, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import takewhile
from types import FunctionType
from typing import Any

from torch import nn

from pytest_scrub.network.code import HELD, Spelled, computing_names, reader_of, spelled

DEEPEST = 5  # so deep in what an attribute holds is looked for what changed

Changed = Mapping[int, Sequence[Any]]
"""By id of what holds something else by now, what it held."""


def changes(was: Spelled, parts: Collection[Any]) -> Iterator[str]:
    """What is another than it was spelled: the attributes of modules among what a network is
    computed by, and what their functions read."""
    changed: Changed = {id(value): held for value, held in was.changed()}
    for root in parts:
        for path, module in root.named_modules() if isinstance(root, nn.Module) else ():
            of = f"module {path!r}" if path else "the network itself"
            yield from (f"{name!r} of {of}" for name in _attributes(module, changed))
    for holder, held in was.held():
        if any(id(part) in changed for part in held):
            yield from _elsewhere(holder, changed)


def _attributes(module: nn.Module, changed: Changed) -> Iterator[str]:
    """Those that are new, or hold something else."""
    now = {name: value for name, value in vars(module).items() if name not in HELD}
    held = changed.get(id(module), [None, *now])[1:]
    # the first value is whether it is in training, and no text
    old = [*takewhile(lambda part: isinstance(part, str), held)]
    then = dict(zip(old, held[len(old) :], strict=False))
    kind: Any = type(module)
    for name in computing_names(kind, tuple(now)):
        same = name in old and not any(id(part) in changed for part in _within(now[name]))
        if not same or _digest(then.get(name, now[name])) != _digest(now[name]):
            yield name


def _elsewhere(holder: Any, changed: Changed) -> Iterator[str]:
    if isinstance(holder, FunctionType):
        yield f"something that the function {holder.__qualname__!r} closes over"
    # names that a function reads, and where it finds them
    kept = holder[1] if isinstance(holder, tuple) else holder
    what = "global" if isinstance(holder, tuple) else "class attribute"
    for name, value in [*kept.items()] if isinstance(kept, Mapping) else ():
        if id(value) in changed:
            yield f"the {what} {name!r}"


def _within(value: Any, depth: int = 0) -> Iterator[Any]:
    """An object, and what it holds, but for modules and what these hold."""
    yield value
    read = None if isinstance(value, nn.Module) or depth == DEEPEST else reader_of(value)
    for part in () if read is None else read(value):
        yield from _within(part, depth + 1)


def _digest(value: Any) -> str | None:
    found = spelled([value])
    return None if found is None else found.digest
