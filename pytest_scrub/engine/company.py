"""What is computed of a row may not depend on the rows beside it."""

from __future__ import annotations

import math

from torch import Tensor, bfloat16, float16, float32, float64

# Relative to an activation's root mean square, and to the number itself: the same row differs in
# its last digits with the batch that it is in, since matrices of other shapes are multiplied in
# another order. float64 networks may compute some of it in float32.
ROUNDING = {float64: 1e-6, float32: 1e-4, float16: 1e-2, bfloat16: 5e-2}


Sizes = tuple[float, float]
"""From which size of a batch to which rows were proved to be independent."""

UNPROVED: Sizes = (math.inf, 0)


def is_among(size: int, sizes: Sizes) -> bool:
    """Whether a batch is neither smaller nor larger than those that were looked at."""
    return sizes[0] <= size <= sizes[1]


def with_size(size: int, sizes: Sizes) -> Sizes:
    """These sizes and one more."""
    return min(size, sizes[0]), max(size, sizes[1])


def off_by(mine: Tensor, theirs: Tensor, scale_of: Tensor) -> float:
    """How far two computations of the same rows are apart, in root mean squares of `scale_of`; 0
    within rounding."""
    if mine.shape != theirs.shape or mine.dtype != theirs.dtype:
        return float("inf")
    if not theirs.is_floating_point() or not theirs.numel():
        return 0.0 if mine.equal(theirs) else float("inf")
    rounding = ROUNDING.get(theirs.dtype, 0.0)
    mine, theirs = mine.double(), theirs.double()
    scale = scale_of.double().square().mean().sqrt()
    apart = (mine - theirs).abs()
    within = (
        (apart <= rounding * (scale + theirs.abs()))
        | (mine == theirs)
        | (mine.isnan() & theirs.isnan())
    )
    return (
        0.0 if within.all() else float((apart[~within].max() / scale).nan_to_num(nan=float("inf")))
    )


def amount_off(off: float) -> str:
    """How far, in words."""
    return (
        "in shape or altogether" if off == float("inf") else f"by {off:.2g} of its root mean square"
    )
