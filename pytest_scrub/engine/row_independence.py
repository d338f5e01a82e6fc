"""What is computed of a row may not depend on the rows beside it in a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Relative to an activation's root mean square, and to the number itself: the same row differs in
# its last digits with the batch that it is in, since matrices of other shapes are multiplied in
# another order. float64 networks may compute some of it in float32.
ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


# Of activations that may jump where the network differs in its last digits, such as codes that are
# zero below a threshold: of those at all positions of a few rows at most this share does.
JUMPING = 0.02


@dataclass
class ProvedSizes:
    """The sizes of batches in which rows were proved to be independent: all from the smallest to
    the largest that was looked at."""

    least: float = math.inf
    most: float = 0

    def __contains__(self, size: int) -> bool:
        return self.least <= size <= self.most

    def add(self, size: int) -> None:
        self.least, self.most = min(size, self.least), max(size, self.most)


def relative_difference(
    mine: Tensor, theirs: Tensor, scale_of: Tensor, *, jumps: bool = False
) -> float:
    """How far two computations of the same rows are apart, in root mean squares of the finite
    numbers of `scale_of`; 0 within rounding, infinite where they cannot be compared.

    Where they may jump, one or a few of the vectors at all positions may be anything.
    """
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return math.inf
    if not theirs.is_floating_point() or not theirs.numel():
        return 0.0 if mine.equal(theirs) else math.inf
    rounding = ROUNDING.get(theirs.dtype, 0.0)
    mine, theirs = mine.double(), theirs.double()
    scale = float(scale_of.double().nan_to_num(0.0, 0.0, 0.0).square().mean().sqrt())
    apart = ~mine.isclose(theirs, rtol=rounding, atol=rounding * scale, equal_nan=True)
    if jumps and apart.ndim > 1:
        vectors = apart.flatten(0, -2).any(-1)
        if vectors.sum() <= max(1, JUMPING * len(vectors)) < len(vectors):
            return 0.0
    if not apart.any():
        return 0.0
    off = float((mine - theirs)[apart].abs().max() / scale)
    return math.inf if math.isnan(off) else off


def difference_in_words(off: float) -> str:
    """How far, in words."""
    return "in shape or altogether" if off == math.inf else f"by {off:.2g} of its root mean square"
