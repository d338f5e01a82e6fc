"""How many numbers are multiplied in matrix products."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class _Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations of matrix products by torch's own table, as its `FlopCounterMode` does.
    That one has torch's compiler imported, which takes longer than most claims."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the compiler is imported to be told so

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            return func(*args, **named)
        with self:  # what it is made of, as in inference mode
            found = func.decompose(*args, **named)
        if found is not NotImplemented:
            return found
        found = func(*args, **named)
        count = flop_registry.get(func.overloadpacket)
        if count is not None:
            self.operations += count(*args, **named, out_val=found)
        return found


def multiplications_of(run: Callable[[], Any]) -> float:
    """How many numbers are multiplied in matrix products while something is run."""
    counter = _Products()
    with counter, torch.no_grad():
        run()
    return counter.operations / 2  # an operation is a multiplication or an addition
