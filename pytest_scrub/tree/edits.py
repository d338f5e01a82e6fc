"""Edits: an activation changed as it is, by a vector that is added or projected out.

As steering and refusal directions do: Turner et al., "Steering Language Models With Activation
Engineering" (2023); Arditi et al., "Refusal in Language Models Is Mediated by a Single Direction"
(2024).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pytest_scrub.common.calls import as_doubles, short_repr
from pytest_scrub.errors import HypothesisError

if TYPE_CHECKING:
    from torch import Tensor


class VectorEdit:
    """A vector that is added to an activation, or whose direction is projected out of it.

    **Arguments**

    - `vector`: `[width]` real numbers.
    - `is_added`: whether it is added; else the activation keeps no part along it.

    **Raises** `HypothesisError` for what is no vector of finite numbers, or is zero.
    """

    def __init__(self, vector: Tensor | np.ndarray[Any, Any], *, is_added: bool) -> None:
        option = "add" if is_added else "project_out"
        try:
            numbers = as_doubles(vector)
        except (TypeError, ValueError) as error:
            raise HypothesisError(f"{option}= takes a vector [width] ({error})") from None
        if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
            what = f"one of shape {numbers.shape}" if numbers.ndim != 1 else short_repr(vector)
            raise HypothesisError(f"{option}= takes a vector [width] of finite numbers, not {what}")
        if not numbers.any():
            raise HypothesisError(
                f"{option}= takes a vector that is not zero, which changes nothing"
            )
        numbers.setflags(write=False)
        self.vector, self.is_added = numbers, is_added

    @property
    def width(self) -> int:
        """Of the activations that it is for."""
        return len(self.vector)

    def of(self, vector: np.ndarray[Any, Any]) -> VectorEdit:
        """The same edit by another vector."""
        return VectorEdit(vector, is_added=self.is_added)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, VectorEdit)
            and self.is_added == other.is_added
            and np.array_equal(self.vector, other.vector)
        )

    def __hash__(self) -> int:
        return hash((self.is_added, self.vector.tobytes()))

    def __str__(self) -> str:
        if self.is_added:
            return f"a vector of norm {np.linalg.norm(self.vector):.4g} added"
        return "a direction projected out"

    __repr__ = __str__
