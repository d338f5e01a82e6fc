"""Networks whose weights are 16-bit numbers: nearly the figures of float32, and the verdict says
which they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from pytest_scrub import ANYTHING, EXACT, Dataset, attn, check, embed, head, mlp, output
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import NotASumError
from pytest_scrub.network import ResidualGraph, as_graph
from pytest_scrub.network.precision import last_digits_of, precision_of
from pytest_scrub.verdict import Verdict
from tests.reference.generate import Architecture, build
from tests.sizes import few_in_quick, only_in_full


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


@few_in_quick(3)
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


@few_in_quick(1)
@pytest.mark.parametrize("via", [None, "any"])
def test_all_that_there_is_suffices_by_construction_whatever_rounding_does(via: Any) -> None:
    """What is recomputed of the same parts beside another rest differs in the last digits, which
    are a hundredth of bfloat16 numbers: no change of the output, which the rest does not reach."""
    data = Dataset(TOKENS, labels=TOKENS[:, -1], label_pos=-1)
    kept = {"agrees_on": EXACT} if via is None else {"agrees_on": EXACT, "via": via}
    parts = [part(layer, **kept) for layer in range(3) for part in (attn, mlp)]
    graph = as_graph(llama(torch.bfloat16, outlier=300.0))
    options = {"tolerance": 0.02, "samples": 50, "adversaries": ()}
    assert check(output(embed(**kept), *parts), graph, data, **options).outcome == "untested"
    some = check(output(parts[-1]), graph, data, **options)
    assert some.average != "untested"


def test_masks_are_no_numbers_whose_last_digits_count() -> None:
    own = 8 * np.finfo(np.float64).eps
    logits = torch.tensor([[8.0, -2.0], [0.5, 1.0]])
    assert last_digits_of(logits) == 8 * own
    for mask in (-1e9, float("-inf"), float(torch.finfo(torch.float32).min)):
        masked = logits.clone()
        masked[1, 0] = mask
        assert last_digits_of(masked) <= 1e4 * own


def llama(dtype: torch.dtype, logits: float = 1.0, outlier: float = 1.0) -> Any:
    """Of bfloat16 numbers, computed in any type, with logits so many times as large, and one
    channel of the stream."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4, num_key_value_heads=2, use_cache=False, initializer_range=0.15,
        )
    ).eval()  # fmt: skip
    model = model.to(torch.bfloat16)
    with torch.no_grad():
        model.lm_head.weight *= logits
        model.model.layers[0].mlp.down_proj.weight[3] *= outlier
    return model.to(dtype)


TOKENS = torch.randint(50, (60, 8), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_part_is_found_beside_channels_that_hold_a_thousand_times_more(
    dtype: torch.dtype,
) -> None:
    """Massive activations, as large networks have them: beside the largest number of the stream
    what is added to all others is nothing."""
    model = llama(dtype, outlier=3000.0)
    graph = as_graph(model)
    assert isinstance(graph, ResidualGraph)
    inputs = {"tokens": TOKENS[:4]}
    graph.prove(inputs)
    stream = graph.transformer.capture(inputs, ["resid_post.1"])["resid_post.1"]
    usual = stream.abs().amax((0, 1)).median()
    assert stream.abs().max() > 300 * usual
    model.model.layers[1].register_forward_hook(lambda _, given, out: out + 0.2 * usual)
    with pytest.raises(NotASumError, match=r"the stream .* differs"):
        graph.prove(inputs)


@pytest.mark.parametrize("logits", [1.0, 20.0])
def test_the_rounding_that_is_told_is_what_sixteen_bits_do_to_a_gap(logits: float) -> None:
    with torch.no_grad():
        labels = llama(torch.float32)(TOKENS).logits[:, -1].argmax(-1)
    data = Dataset(TOKENS, labels=labels, label_pos=-1, features={"first": TOKENS[:, 0] % 3})
    claim = output(head(1, 1, agrees_on="first", via="any"), rest=EXACT)
    wide, narrow = (
        Evaluator(as_graph(llama(dtype, logits)), data, claim)
        for dtype in (torch.float32, torch.bfloat16)
    )
    swaps = wide.space.draw(60, np.random.default_rng(0))
    gaps = [each.evaluate(swaps) - each.unscrubbed(swaps.references) for each in (wide, narrow)]
    clean = narrow.unscrubbed(swaps.references)
    told = narrow.rounding * np.maximum(np.abs(clean), np.abs(clean + gaps[1])).mean()
    assert abs(gaps[0].mean() - gaps[1].mean()) < told
    if logits > 1:  # far more than the rounding of one number
        assert narrow.rounding > 10 * torch.finfo(torch.bfloat16).eps
