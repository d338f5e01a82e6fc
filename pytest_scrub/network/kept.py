"""What a module returned and keeps as well, where others may read it.

A swap of what it returns has to reach them: what is read from there would seem not to matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.network.code import HELD, UNREAD
from pytest_scrub.network.places import Item, items_of


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
