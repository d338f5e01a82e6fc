"""What a module returned, and keeps or returned elsewhere as well, where others may read it.

A swap of what it returns has to reach them: what is read from there would seem not to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.network.code import HELD, UNREAD
from pytest_scrub.network.places import Item, items_of, with_item


def keeps(module: nn.Module, returned: Any) -> bool:
    """Whether it, or a part of it, has a hold of what it has just returned."""
    return any(_kept(module, returned))


def keep_instead(module: nn.Module, returned: Any, now: Any) -> Callable[[], None]:
    """What it keeps becomes what comes in place of what it returned.

    **Returns** what puts back what was there, which may be no result, but a table that it returned.
    """
    new, done = items_of(now), list[tuple[Any, Any, Tensor, Tensor]]()
    for holder, key, item in list(_kept(module, returned)):
        was, other = holder[key], new[item]
        if isinstance(other, Tensor) and other.numel() == was.numel():
            holder[key] = other.reshape(was.shape)
            done.append((holder, key, was, holder[key]))

    def put_back() -> None:
        for holder, key, was, other in done:
            there = dict(_pairs(holder)).get(key)
            if there is other:  # and nothing was kept there since
                holder[key] = was

    return put_back


def everywhere(returned: Any, now: Any) -> Any:
    """What is exchanged in what a module returned, put also where else the same tensor stands in
    it."""
    then, new = items_of(returned), items_of(now)
    exchanged = {_address(was): new[item] for item, was in then.items() if new[item] is not was}
    exchanged.pop(None, None)
    return _with(now, exchanged)


def _with(passing: Any, exchanged: Mapping[Any, Tensor]) -> Any:
    if isinstance(passing, Tensor):
        new = exchanged.get(_address(passing))
        return (
            passing if new is None or new.numel() != passing.numel() else new.reshape(passing.shape)
        )
    for item, part in items_of(passing).items():
        other = _with(part, exchanged)
        if other is not part:
            passing = with_item(passing, item, other)
    return passing


def _kept(module: nn.Module, returned: Any) -> Iterator[tuple[Any, Any, Item]]:
    """Attributes of it and of its parts, and what stands in lists and dictionaries that these are,
    which are the very tensors, or see the same numbers."""
    items = {_address(value): item for item, value in items_of(returned).items()}
    items.pop(None, None)
    for part in module.modules():
        own = {key: value for key, value in vars(part).items() if key not in {*HELD, *UNREAD}}
        for holder in (own, *own.values()):
            for key, value in list(_pairs(holder)):
                if (address := _address(value)) in items:
                    yield vars(part) if holder is own else holder, key, items[address]


def _pairs(holder: Any) -> Iterable[tuple[Any, Any]]:
    """What a dictionary or a list holds, and where."""
    if isinstance(holder, dict):
        return holder.items()
    return enumerate(holder) if isinstance(holder, list) else ()


def _address(value: Any) -> tuple[torch.device, int] | None:
    """Where the numbers of a tensor begin; None of what has none."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        return None
    return (value.device, value.data_ptr()) if value.numel() else None
