"""A program that was meant to sort and does not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from example_circuits.pitfalls.sorting.data import LENGTH
from example_circuits.pitfalls.sorting.programs import MergeSort, Program


class Append(nn.Module):
    """The second list behind the first: what is left of a merge that was forgotten."""

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return torch.cat([first, second], dim=1)


def forgetful() -> Program:
    """Sorts both halves of a list and never merges them."""
    sort = MergeSort(LENGTH)
    sort.combine = Append()
    return Program(sort)
