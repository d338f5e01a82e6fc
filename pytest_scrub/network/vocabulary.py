"""Token ids that a network does not know: torch raises from inside for some, and counts from the
end for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from pytest_scrub.errors import ModelError


def require_ids(name: str, ids: Tensor, known: int) -> None:
    """**Raises** `ModelError` naming a row that has something else than ids from 0 to
    `known - 1`."""
    if ids.is_floating_point() or ids.is_complex():
        kind = str(ids.dtype).removeprefix("torch.")
        raise ModelError(
            f"input {name!r} holds {kind} numbers, but the network reads token ids; give integers"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < known:
        table = ids.reshape(len(ids), -1)
        outside = (table < 0) | (table >= known)
        row = int(outside.any(1).nonzero()[0])
        raise ModelError(
            f"input {name!r} holds the token id {int(table[row][outside[row]][0])} on row {row}, "
            f"but the network knows {known} tokens, 0 to {known - 1}; mend the tokenizer, or give "
            "padding an id that exists"
        )


class ids_required(TorchFunctionMode):
    """While a network is run on `batch`, a part of `inputs`, what is looked up of it in a table is
    looked at in all of `inputs`. **Raises** `ModelError` as `require_ids` does.

    Not what an embedding is called with: one of positions may read no more of that than its shape.
    """

    def __init__(self, batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._batch, self._inputs = batch, inputs

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.embedding:
            ids, table = args[:2]
            for name, part in self._batch.items():
                if ids.data_ptr() == part.data_ptr():
                    require_ids(name, self._inputs[name], len(table))
        return func(*args, **kwargs or {})
