"""Two ways to sort, written as networks: the same names for their parts, the same output for every
list.

Lists are tensors `[batch, length]`; places behind the end of a shorter list hold `FILL`, which is
above every number. Each program is a tree of modules `first`, `second` and `combine`, so that the
same claims can be made of both.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from example_circuits.pitfalls.sorting.data import FILL, LENGTH


class Merge(nn.Module):
    """Two sorted lists in one: again and again the smaller of their first numbers."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        width = first.shape[1] + second.shape[1]
        end = first.new_full((len(first), 1), FILL)
        queues = [torch.cat([first, end], dim=1), torch.cat([second, end], dim=1)]
        taken = [torch.zeros(len(first), 1, dtype=torch.long) for _ in queues]
        merged = []
        for _ in range(width):
            heads = [queue.gather(1, place) for queue, place in zip(queues, taken, strict=True)]
            from_first = heads[0] <= heads[1]
            merged.append(torch.where(from_first, *heads))
            # A list that is used up keeps showing its end.
            taken = [
                (taken[0] + from_first).clamp(max=first.shape[1]),
                (taken[1] + ~from_first).clamp(max=second.shape[1]),
            ]
        return torch.cat(merged, dim=1)


class Join(nn.Module):
    """The smaller numbers, the pivot, the larger numbers, one after another without the empty
    places between."""

    def forward(self, first: Tensor, pivot: Tensor, second: Tensor) -> Tensor:
        return close_up(torch.cat([first, pivot, second], dim=1))[:, : second.shape[1] + 1]


class MergeSort(nn.Module):
    """Sorts the left half and the right half, each by merging as well or as `halves` does, and
    merges them."""

    def __init__(self, length: int, halves: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        self.half = length // 2
        if length > 1:
            part = MergeSort if halves is None else halves
            self.first, self.second, self.combine = (
                part(self.half),
                part(length - self.half),
                Merge(),
            )

    def forward(self, numbers: Tensor) -> Tensor:
        if numbers.shape[1] == 1:
            return numbers
        left, right = numbers[:, : self.half], numbers[:, self.half :]
        return self.combine(self.first(left), self.second(right))


class QuickSort(nn.Module):
    """Sorts what lies below the first number and what does not, and puts them on either side of
    it."""

    def __init__(self, length: int) -> None:
        super().__init__()
        if length > 1:
            self.first, self.second, self.combine = (
                QuickSort(length - 1),
                QuickSort(length - 1),
                Join(),
            )

    def forward(self, numbers: Tensor) -> Tensor:
        if numbers.shape[1] == 1:
            return numbers
        pivot, others = numbers[:, :1], numbers[:, 1:]
        smaller, larger = others.where(others < pivot, FILL), others.where(others >= pivot, FILL)
        return self.combine(self.first(close_up(smaller)), pivot, self.second(close_up(larger)))


class Program(nn.Module):
    """A list of whole numbers in, the list that `sort` makes of it out."""

    def __init__(self, sort: nn.Module) -> None:
        super().__init__()
        self.sort = sort

    def forward(self, numbers: Tensor) -> Tensor:
        return self.sort(numbers.float())


def merge_sort() -> Program:
    return Program(MergeSort(LENGTH))


def merge_of_quick_sorts() -> Program:
    """A merge sort at the top, which leaves its halves to a quicksort."""
    return Program(MergeSort(LENGTH, halves=QuickSort))


def quick_sort() -> Program:
    return Program(QuickSort(LENGTH))


def close_up(numbers: Tensor) -> Tensor:
    """The same numbers in the same order, the empty places last."""
    return numbers.gather(1, (numbers == FILL).int().argsort(dim=1, stable=True))
