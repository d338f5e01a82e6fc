"""Token ids that a network does not know: torch raises from inside for some, and counts from the
end for others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

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


@contextmanager
def ids_required(
    module: nn.Module, batch: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
) -> Iterator[None]:
    """While the module is run on `batch`, a part of `inputs`, what its embeddings read of it is
    looked at in all of `inputs`. **Raises** `ModelError` as `require_ids` does."""

    def look(embedding: Any, arguments: tuple[Any, ...]) -> None:
        for name, part in batch.items():
            if (
                arguments
                and isinstance(arguments[0], Tensor)
                and arguments[0].data_ptr() == part.data_ptr()
            ):
                require_ids(name, inputs[name], embedding.num_embeddings)

    handles = [
        part.register_forward_pre_hook(look)
        for part in module.modules()
        if isinstance(part, nn.Embedding)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
