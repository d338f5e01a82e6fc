"""Networks that bitsandbytes and torchao have packed, on a processor.

Not collected with the other tests, whose environment is without it: `make compat` runs this file
in one of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from pytest_scrub import ANYTHING, EXACT, Dataset, Evaluator, check, head, output, pattern
from pytest_scrub.errors import HypothesisError, ModelError
from pytest_scrub.network import as_graph

pytest.importorskip("bitsandbytes")
torchao = pytest.importorskip("torchao.quantization")

SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
    "initializer_range": 0.2,
}
WIDTH = 16  # of a head
FOUR: dict[str, Any] = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.float32}
TWICE: dict[str, Any] = {"bnb_4bit_use_double_quant": True}
KINDS: dict[str, dict[str, Any]] = {
    "nf4": {**FOUR, "bnb_4bit_quant_type": "nf4"},
    "fp4": {**FOUR, "bnb_4bit_quant_type": "fp4"},
    "nf4, its scales too": {**FOUR, **TWICE, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
    "torchao, int8": {},
}
TOKENS = torch.randint(0, 50, (200, 6), generator=torch.Generator().manual_seed(0))
DATA = Dataset(TOKENS, labels=TOKENS[:, -1], label_pos=-1, features={"first": TOKENS[:, 0] % 3})
HEAD = output(head(1, 2, agrees_on=ANYTHING), rest=EXACT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES)
    transformers.LlamaForCausalLM(config).save_pretrained(path)
    return path


def packed(folder: Any, **options: Any) -> Any:
    if not options:
        plain = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
        torchao.quantize_(plain.model, torchao.Int8WeightOnlyConfig())
        return plain
    how = transformers.BitsAndBytesConfig(**options)
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=how, dtype=torch.float32, device_map="cpu"
    ).eval()


def with_another_rows_head(model: Any, row: int, donor: int) -> Tensor:
    """The last logits of a row with head 1.2 of another, by plain hooks."""
    projection, found = model.model.layers[1].self_attn.o_proj, []

    def put(_: Any, given: tuple[Tensor]) -> tuple[Tensor]:
        mixed = given[0].clone()
        mixed[..., 2 * WIDTH : 3 * WIDTH] = found[0][..., 2 * WIDTH : 3 * WIDTH]
        return (mixed,)

    with torch.no_grad():
        handle = projection.register_forward_pre_hook(lambda _, given: found.append(given[0]))
        model(TOKENS[donor][None])
        handle.remove()
        handle = projection.register_forward_pre_hook(put)
        logits: Tensor = model(TOKENS[row][None]).logits[0, -1]
        handle.remove()
    return logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_is_what_the_networks_own_hooks_say(kind: str, folder: Any) -> None:
    model = packed(folder, **KINDS[kind])
    evaluator = Evaluator(as_graph(model), DATA, HEAD)
    swaps = evaluator.space.draw(16, np.random.default_rng(0))
    donors = swaps.donors[swaps.slots.index("output/head1.2")]
    rows = list(zip(swaps.references.tolist(), donors.tolist(), strict=True))
    wanted = torch.stack([with_another_rows_head(model, *pair) for pair in rows])
    found = evaluator.outputs(swaps).flatten(1)[:, -wanted.shape[1] :]
    torch.testing.assert_close(found, wanted.to(found), rtol=1e-4, atol=1e-4)
    clean = torch.stack([with_another_rows_head(model, row, row) for row, _ in rows])
    assert float((wanted - clean).abs().max()) > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_claim_says_what_is_packed(kind: str, folder: Any) -> None:
    model = packed(folder, **KINDS[kind])
    layer = type(model.model.layers[0].self_attn.q_proj).__name__
    reads = [pattern(1, 2, agrees_on="first")]
    claim = output(head(1, 2, agrees_on="first", reads=reads, rest=EXACT), rest=EXACT)
    verdict = check(claim, model, DATA, tolerance=5, samples=100, budget=200)
    assert f"packed ({layer}) weights" in str(verdict.precision)
    assert verdict.gap is not None
    assert verdict.gap.mean != 0
    direct = output(head(1, 2, agrees_on="first", via="direct"), rest=EXACT)
    reason = f"packed and cannot be read .model.layers.0.self_attn.q_proj, a {layer}."
    with pytest.raises(HypothesisError, match=reason):
        check(direct, model, DATA, tolerance=5)


def test_what_is_scaled_otherwise_is_another_network(folder: Any) -> None:
    model = packed(folder, **KINDS["nf4"])
    before = as_graph(model).digest()
    model.model.layers[1].mlp.up_proj.weight.quant_state.absmax[0] *= 2
    assert as_graph(model).digest() != before


def test_outliers_that_depend_on_the_rows_beside_are_refused(folder: Any) -> None:
    """By default 8-bit layers treat a column by what the other rows of a batch hold."""
    model = packed(folder, load_in_8bit=True)
    with pytest.raises(ModelError, match="depends on the rows beside it"):
        check(HEAD, model, DATA, tolerance=5, samples=200, adversaries=[])
