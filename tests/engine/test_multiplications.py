"""Multiplications are counted as torch counts them, without what takes long to import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from pytest_scrub.engine.multiplications import multiplications_of
from tests.sizes import only_in_full

X, W = torch.ones(3, 4, 8), torch.ones(8, 5)


@torch.inference_mode()
def inferred() -> Any:
    x = X.clone()
    return x @ W, F.linear(x, W.T), F.scaled_dot_product_attention(x, x, x)


RUNS: dict[str, tuple[float, Callable[[], Any]]] = {
    "a product": (3 * 4 * 8 * 5, lambda: X @ W),
    "with what is added": (3 * 4 * 8 * 5, lambda: F.linear(X, W.T, torch.ones(5))),
    "batches": (3 * 4 * 8 * 4, lambda: torch.einsum("bij,bkj->bik", X, X)),
    "a convolution": (3 * 2 * 6 * 4 * 3, lambda: nn.Conv1d(4, 6, 3, stride=3)(X)),
    "in inference mode": (2 * 3 * 4 * 8 * 5 + 2 * 3 * 4 * 8 * 4, inferred),
    "no matrices": (0, lambda: X + X * X.sum()),
}


@pytest.mark.parametrize(("expected", "run"), RUNS.values(), ids=list(RUNS))
def test_multiplications_are_those_that_torch_counts(
    expected: float, run: Callable[[], Any]
) -> None:
    theirs = FlopCounterMode(display=False)
    with theirs, torch.no_grad():
        run()
    assert multiplications_of(run) == theirs.get_total_flops() / 2 == expected


@only_in_full
def test_the_compiler_is_not_imported() -> None:
    code = (
        "import sys, torch\n"
        "from pytest_scrub.engine.multiplications import multiplications_of\n"
        "assert multiplications_of(lambda: torch.ones(2, 3) @ torch.ones(3, 2)) == 12\n"
        "assert 'torch.utils.flop_counter' in sys.modules\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
