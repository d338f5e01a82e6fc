"""Networks whose weights are 16-bit numbers: nearly the figures of float32, and the verdict says
which they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pytest_scrub import ANYTHING, Dataset, check, head, mlp, output
from pytest_scrub.network import as_graph
from pytest_scrub.network.precision import precision_of
from pytest_scrub.verdict import Verdict
from tests.reference.generate import Architecture, build
from tests.sizes import only_in_full


def judged(architecture: Architecture, via: str, dtype: torch.dtype | None = None) -> Verdict:
    bridge = build.__wrapped__(architecture).bridge
    tokens = torch.tensor(np.random.default_rng(0).integers(0, 5, size=(200, 3)))
    data = Dataset(tokens, labels=tokens[:, 0], label_pos=-1, features={"first": tokens[:, 0]})
    claim = output(
        head(
            1,
            1,
            agrees_on="first",
            reads=[head(0, 0, agrees_on="first", via=via), mlp(0, agrees_on=ANYTHING)],
        )
    )
    return check(claim, bridge.to(dtype), data, tolerance=0.5, samples=400, adversaries=())


@pytest.mark.parametrize("kind", ["native", pytest.param("gpt2", marks=only_in_full), "llama"])
@pytest.mark.parametrize("via", ["direct", "any"])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_figures_are_nearly_those_of_float32(
    kind: str, via: str, dtype: torch.dtype, digits: float
) -> None:
    architecture = Architecture(kind=kind, n_layers=2, attn_only=False, norm="LN")
    wide, narrow = judged(architecture, via, torch.float32), judged(architecture, via, dtype)
    scale = max(wide.unscrubbed, wide.absolute_change)
    assert narrow.unscrubbed == pytest.approx(wide.unscrubbed, abs=digits * scale)
    assert narrow.gap.mean == pytest.approx(wide.gap.mean, abs=digits * scale)
    assert wide.precision == "float32 weights, on cpu"
    name = str(dtype).removeprefix("torch.")
    rounded = {torch.bfloat16: "0.39%", torch.float16: "0.05%"}[dtype]
    assert narrow.precision == (
        f"{name} weights, sums of contributions in float32, outputs rounded to {rounded} of "
        "themselves, on cpu"
    )


def test_two_types_of_weights_are_both_named() -> None:
    bridge = build.__wrapped__(Architecture(attn_only=False)).bridge.to(torch.float32)
    graph = as_graph(bridge)
    bridge.blocks[0].mlp.to(torch.float64)
    assert precision_of(graph).startswith("float32 and float64 weights, on ")
