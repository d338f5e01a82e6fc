"""`HookedTransformer`s of TransformerLens 2.x and 3.x, taken apart.

Not collected with the other tests, which run on TransformerLens 4.x: `make compat` runs this file
in an environment of its own.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import ANYTHING, EXACT, Dataset, Evaluator, head, output
from pytest_scrub.errors import ModelError
from pytest_scrub.network import as_graph
from pytest_scrub.network.residual import ResidualGraph
from pytest_scrub.network.transformer_lens import is_transformer_lens, parts_of

transformer_lens = pytest.importorskip("transformer_lens")
if int(version("transformer-lens").split(".")[0]) >= 4:
    pytest.skip("TransformerLens 4 has no HookedTransformer", allow_module_level=True)

PLAIN: dict[str, Any] = {
    "n_layers": 2,
    "d_model": 16,
    "n_ctx": 12,
    "d_head": 4,
    "n_heads": 4,
    "d_mlp": 24,
    "d_vocab": 20,
    "act_fn": "relu",
    "dtype": torch.float64,
}
KINDS: dict[str, dict[str, Any]] = {
    "LN": {},
    "no norm, attention only": {"normalization_type": None, "attn_only": True, "d_vocab_out": 3},
    "LNPre, bidirectional": {"normalization_type": "LNPre", "attention_dir": "bidirectional"},
    "RMS, rotary halves, grouped queries, gated": {
        "normalization_type": "RMS",
        "final_rms": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 4,
        "n_key_value_heads": 2,
        "gated_mlp": True,
        "act_fn": "silu",
    },
    "parallel, rotary pairs, partial": {
        "parallel_attn_mlp": True,
        "positional_embedding_type": "rotary",
        "rotary_dim": 2,
        "rotary_adjacent_pairs": True,
    },
    "scaled by layer, soft caps": {
        "scale_attn_by_inverse_layer_idx": True,
        "attn_scores_soft_cap": 2.0,
        "output_logits_soft_cap": 3.0,
    },
}
TOKENS = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))
RIGHT_PADDED = torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7])
WITH_GAPS = torch.tensor([[1] * 9, [1, 0, 0] + [1] * 6, [1, 1, 0] * 3])


def model_of(**options: Any) -> Any:
    config = transformer_lens.HookedTransformerConfig(**{**PLAIN, **options})
    model = transformer_lens.HookedTransformer(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # biases and norms begin at 0 and 1, where mistakes would hide
        for parameter in model.parameters():
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            )
    return model


def inputs_of(mask: Tensor | None) -> dict[str, Tensor]:
    return {"tokens": TOKENS} if mask is None else {"tokens": TOKENS, "attention_mask": mask}


@pytest.mark.parametrize(
    "mask", [None, RIGHT_PADDED, WITH_GAPS], ids=["all visible", "right padded", "gaps"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_the_networks_own(kind: str, mask: Tensor | None, differences: Any) -> None:
    parts = parts_of(model_of(**KINDS[kind]))
    assert max(differences(parts, inputs_of(mask)).values()) < 1e-10
    assert parts.parallel == ("parallel" in kind)
    assert parts.causal == ("bidirectional" not in kind)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_as_the_model_does_by_itself(kind: str) -> None:
    model = model_of(**KINDS[kind])
    parts = parts_of(model)
    assert torch.equal(parts.run(inputs_of(None)), model(TOKENS))
    if parts.causal:  # where it is bidirectional, HookedTransformer ignores the mask
        own, mine = model(TOKENS, attention_mask=RIGHT_PADDED), parts.run(inputs_of(RIGHT_PADDED))
        visible = RIGHT_PADDED.bool()
        torch.testing.assert_close(mine[visible], own[visible], rtol=0, atol=1e-12)


def test_a_hidden_key_is_never_read_and_positions_stay() -> None:
    parts = parts_of(model_of(attention_dir="bidirectional"))
    changed = {
        **inputs_of(WITH_GAPS),
        "tokens": torch.where(WITH_GAPS.bool(), TOKENS, (TOKENS + 1) % 20),
    }
    visible = WITH_GAPS.bool()
    torch.testing.assert_close(
        parts.run(changed)[visible], parts.run(inputs_of(WITH_GAPS))[visible]
    )
    seen = parts.capture(inputs_of(WITH_GAPS), ["pos_embed"])["pos_embed"]
    assert torch.equal(seen[0], seen[1])


def test_a_tokenizer_that_pads_on_the_left_moves_no_positions() -> None:
    class Tokenizer:
        padding_side = "left"
        pad_token_id = bos_token_id = int(TOKENS[0, 0])

    model = model_of()
    parts = parts_of(model)
    without = parts.run(inputs_of(None))
    model.tokenizer = Tokenizer()
    torch.testing.assert_close(parts.run(inputs_of(None)), without)


def test_hooks_of_others_stay_and_ours_go() -> None:
    model = model_of()
    seen: list[str] = []
    model.add_hook("blocks.0.attn.hook_z", lambda value, hook: seen.append(hook.name))
    parts_of(model).capture(inputs_of(RIGHT_PADDED), ["z.0", "mlp_out.1"])
    model(TOKENS)
    assert len(seen) == 2
    left = {
        name: len(point.fwd_hooks) for name, point in model.hook_dict.items() if point.fwd_hooks
    }
    assert left == {"blocks.0.attn.hook_z": 1}


def test_weights_are_the_models_own_storage() -> None:
    model = model_of(n_key_value_heads=2)
    parts = parts_of(model)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    for attention in parts.attention:
        assert attention.W_K.shape == (2, 16, 4)
        for weight in (attention.W_Q, attention.W_K, attention.W_V, attention.W_O, attention.b_K):
            assert weight is not None
            assert weight.untyped_storage().data_ptr() in own
    assert dict(parts.parameters()).keys() == dict(model.named_parameters()).keys()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"positional_embedding_type": "shortformer"}, "shortformer"),
        ({"positional_embedding_type": "alibi"}, "alibi"),
        ({"normalization_type": "RMS", "use_normalization_before_and_after": True}, "post-norm"),
        ({"use_qk_norm": True}, "normalised queries and keys"),
    ],
)
def test_refuses_what_is_no_sum_of_parts(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=rf"^HookedTransformer .*{reason}.*; wrap it"):
        parts_of(model_of(**options))


def test_local_attention_has_its_window(differences: Any) -> None:
    local = {"use_local_attn": True, "window_size": 3, "attn_types": ["global", "local"]}
    parts = parts_of(model_of(**local))
    assert [attention.window for attention in parts.attention] == [None, 3]
    assert max(differences(parts, {"tokens": TOKENS}).values()) < 1e-10


def test_other_models_of_the_library_are_refused() -> None:
    config = transformer_lens.HookedTransformerConfig(**PLAIN, device="cpu")
    encoder = transformer_lens.HookedEncoder(config)
    assert is_transformer_lens(model_of())
    assert not is_transformer_lens(encoder)
    with pytest.raises(
        ModelError, match="HookedEncoder is not a TransformerBridge or HookedTransformer"
    ):
        parts_of(encoder)


@pytest.mark.parametrize(
    "mask", [None, RIGHT_PADDED, WITH_GAPS], ids=["all visible", "right padded", "gaps"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_of_its_parts_proves_itself(kind: str, mask: Tensor | None) -> None:
    ResidualGraph(parts_of(model_of(**KINDS[kind]))).prove(inputs_of(mask))


def test_a_claim_is_evaluated_as_by_the_models_own_cache() -> None:
    """Head 1.2 read directly by the output, exchanged between rows, by hand from
    `run_with_cache`."""
    model = model_of()
    dataset = Dataset(TOKENS, labels=TOKENS[:, 0], label_pos=-1)
    evaluator = Evaluator(
        as_graph(model), dataset, output(head(1, 2, agrees_on=ANYTHING), rest=EXACT)
    )
    swap_set = evaluator.space.draw(20, np.random.default_rng(0))
    _, cache = model.run_with_cache(TOKENS)
    written = cache["blocks.1.attn.hook_z"][:, -1, 2] @ model.W_O[1, 2]
    donors = swap_set.donors[evaluator.space.index["output/head1.2"]].copy()
    references = swap_set.references.copy()
    stream = (
        cache["blocks.1.hook_resid_post"][references, -1] + written[donors] - written[references]
    )
    expected = model.unembed(model.ln_final(stream[:, None]))[:, 0]
    torch.testing.assert_close(evaluator.outputs(swap_set), expected.detach())
