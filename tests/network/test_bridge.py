"""Are the parts of a bridge the network's own, is the network left alone, and is all else
refused?"""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from pytest_scrub import Dataset
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import ModelError
from pytest_scrub.network import adapter, as_graph, wrapping
from pytest_scrub.network.graph import Site
from pytest_scrub.network.residual import ResidualGraph
from pytest_scrub.network.transformer_lens import is_transformer_lens, parts_of
from tests.reference.configurations import GPT2, GROUPED, SMALL
from tests.sizes import few_in_quick, only_in_full

EXACT = 1e-10  # of the largest value, in float64
# these normalise (RMSNorm), mask or rotate in float32 even where all else is float64
FLOAT32 = 1e-5

TOKENS = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))
MASKS = {
    "no mask": None,
    "right padded": torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7]),
    "bool": torch.tensor([[1] * 9, [1] * 6 + [0] * 3, [1] * 2 + [0] * 7]).bool(),
    "with gaps": torch.tensor([[1] * 9, [1, 0, 0] + [1] * 6, [1, 1, 0] * 3]),
}
LLAMA3_ROTARY = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


def stir(module: nn.Module) -> None:
    """Moves every weight: biases and norms begin at 0 and 1, where mistakes would hide."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(
                0.2 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
            )


def native(dtype: torch.dtype = torch.float64, **options: Any) -> TransformerBridge:
    plain = {
        "d_model": 16,
        "d_head": 4,
        "n_heads": 4,
        "n_layers": 2,
        "n_ctx": 12,
        "d_vocab": 20,
        "d_mlp": 24,
        "act_fn": "relu",
    }
    config = TransformerBridgeConfig(**{**plain, "seed": 0, **options})
    bridge = TransformerBridge.boot_native(config, dtype=dtype)
    stir(bridge)
    return bridge.eval()


def around(config: Any, kind: type[Any], dtype: torch.dtype = torch.float64) -> TransformerBridge:
    model = kind(config).to(dtype)
    stir(model)
    return build_bridge_from_module(model, architecture=kind.__name__, hf_config=config).eval()


def compatible(make: Callable[[], TransformerBridge]) -> TransformerBridge:
    bridge = make()
    bridge.enable_compatibility_mode(disable_warnings=True)
    return bridge


def gpt2(**options: Any) -> TransformerBridge:
    return around(hf.GPT2Config(**{**GPT2, **options}), hf.GPT2LMHeadModel)


def llama(**options: Any) -> TransformerBridge:
    return around(hf.LlamaConfig(**{**GROUPED, **options}), hf.LlamaForCausalLM)


NATIVE: dict[str, Callable[[], TransformerBridge]] = {
    "native": native,
    "native bidirectional": partial(native, attention_dir="bidirectional", d_vocab_out=2),
    "native attention only": partial(native, attn_only=True, normalization_type=None),
    "native gated, soft caps": partial(
        native, gated_mlp=True, attn_scores_soft_cap=2.0, output_logits_soft_cap=3.0
    ),
    "native rotary": partial(native, positional_embedding_type="rotary", n_key_value_heads=2),
    "native partly rotary": partial(native, positional_embedding_type="rotary", rotary_dim=2),
    "native solu_ln": partial(native, act_fn="solu_ln"),
}
EXACT_ONES: dict[str, Callable[[], TransformerBridge]] = {
    **NATIVE,
    "native compatible": partial(compatible, native),
    "GPT-2": gpt2,
    "GPT-2 scaled by layer": partial(gpt2, scale_attn_by_inverse_layer_idx=True),
    "GPT-2 compatible": partial(compatible, gpt2),
    "Pythia": partial(around, hf.GPTNeoXConfig(**SMALL, rotary_pct=0.5), hf.GPTNeoXForCausalLM),
    "Pythia sequential": partial(
        around, hf.GPTNeoXConfig(**SMALL, use_parallel_residual=False), hf.GPTNeoXForCausalLM
    ),
    "BigCode": partial(around, hf.GPTBigCodeConfig(**GPT2), hf.GPTBigCodeForCausalLM),
}
FLOAT32_ONES: dict[str, Callable[[], TransformerBridge]] = {
    "native RMS": partial(native, normalization_type="RMS", final_rms=True),
    "native LNPre": partial(native, normalization_type="LNPre"),
    "Llama": llama,
    "Llama 3, biases": partial(
        llama, attention_bias=True, mlp_bias=True, rope_parameters=LLAMA3_ROTARY
    ),
    "Llama yarn": partial(
        llama, rope_parameters={"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    ),
    "Llama linear": partial(
        llama, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    ),
    "Llama compatible": partial(compatible, llama),
    "Mistral": partial(around, hf.MistralConfig(**GROUPED), hf.MistralForCausalLM),
    "Qwen 2": partial(around, hf.Qwen2Config(**GROUPED), hf.Qwen2ForCausalLM),
    "Gemma 1": partial(around, hf.GemmaConfig(**GROUPED, head_dim=4), hf.GemmaForCausalLM),
    "Phi, one norm for both": partial(around, hf.PhiConfig(**SMALL), hf.PhiForCausalLM),
    "Phi 3": partial(around, hf.Phi3Config(**SMALL, pad_token_id=0), hf.Phi3ForCausalLM),
    "StarCoder 2": partial(around, hf.Starcoder2Config(**GROUPED), hf.Starcoder2ForCausalLM),
    "OLMo": partial(around, hf.OlmoConfig(**SMALL), hf.OlmoForCausalLM),
    "Mixtral, experts": partial(
        around,
        hf.MixtralConfig(**GROUPED, num_local_experts=4),
        hf.MixtralForCausalLM,
        torch.float32,
    ),
}
# Norms of queries and keys, windows, post-norm blocks, scaled blocks, adjacent pairs, ALiBi, ...
MIXED = ["sliding_attention", "full_attention"]
NO_TOKENS = {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
FAMILIES: dict[str, Callable[[], TransformerBridge]] = {
    "Qwen 3": partial(around, hf.Qwen3Config(**GROUPED, head_dim=4), hf.Qwen3ForCausalLM),
    "Qwen 3, experts": partial(
        around,
        hf.Qwen3MoeConfig(
            **GROUPED,
            head_dim=4,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=8,
        ),
        hf.Qwen3MoeForCausalLM,
        torch.float32,
    ),
    "Mistral, a window": partial(
        around, hf.MistralConfig(**GROUPED, sliding_window=7), hf.MistralForCausalLM
    ),
    "Qwen 2, a window from layer 1": partial(
        around,
        hf.Qwen2Config(**GROUPED, sliding_window=7, use_sliding_window=True, max_window_layers=1),
        hf.Qwen2ForCausalLM,
    ),
    "Gemma 2": partial(
        around,
        hf.Gemma2Config(
            **GROUPED,
            head_dim=4,
            sliding_window=7,
            attn_logit_softcapping=0.5,
            final_logit_softcapping=2.0,
        ),
        hf.Gemma2ForCausalLM,
    ),
    "Gemma 3": partial(
        around,
        hf.Gemma3TextConfig(**GROUPED, head_dim=4, sliding_window=7, layer_types=MIXED),
        hf.Gemma3ForCausalLM,
    ),
    "OLMo 2": partial(around, hf.Olmo2Config(**SMALL), hf.Olmo2ForCausalLM),
    "OLMo 3": partial(
        around, hf.Olmo3Config(**SMALL, sliding_window=7, layer_types=MIXED), hf.Olmo3ForCausalLM
    ),
    "OLMoE": partial(
        around,
        hf.OlmoeConfig(**SMALL, num_experts=4, num_experts_per_tok=2),
        hf.OlmoeForCausalLM,
        torch.float32,
    ),
    "GPT-OSS": partial(
        around,
        hf.GptOssConfig(
            **GROUPED,
            head_dim=4,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=7,
            layer_types=["sliding_attention", "full_attention"],
        ),
        hf.GptOssForCausalLM,
        torch.float32,
    ),
    "HunYuan": partial(
        around,
        hf.HunYuanDenseV1Config(**GROUPED, head_dim=4, **NO_TOKENS),
        hf.HunYuanDenseV1ForCausalLM,
    ),
    "XGLM": partial(
        around,
        hf.XGLMConfig(
            vocab_size=20,
            d_model=16,
            ffn_dim=24,
            num_layers=2,
            attention_heads=4,
            max_position_embeddings=32,
        ),
        hf.XGLMForCausalLM,
        torch.float32,
    ),
    "Granite": partial(
        around,
        hf.GraniteConfig(
            **GROUPED,
            residual_multiplier=0.5,
            embedding_multiplier=3.0,
            attention_multiplier=0.3,
            logits_scaling=2.0,
        ),
        hf.GraniteForCausalLM,
    ),
    "GPT-J": partial(around, hf.GPTJConfig(**GPT2, rotary_dim=2), hf.GPTJForCausalLM),
    "CodeGen": partial(
        around, hf.CodeGenConfig(**GPT2, n_ctx=12, rotary_dim=2), hf.CodeGenForCausalLM
    ),
    "Cohere": partial(
        around, hf.CohereConfig(**SMALL, logit_scale=0.3, **NO_TOKENS), hf.CohereForCausalLM
    ),
    "Cohere, norms of queries and keys": partial(
        around, hf.CohereConfig(**GROUPED, use_qk_norm=True, **NO_TOKENS), hf.CohereForCausalLM
    ),
    "Cohere 2": partial(
        around,
        hf.Cohere2Config(**GROUPED, sliding_window=7, layer_types=MIXED, **NO_TOKENS),
        hf.Cohere2ForCausalLM,
    ),
    "EXAONE 4": partial(
        around,
        hf.Exaone4Config(**GROUPED, sliding_window=7, layer_types=MIXED, **NO_TOKENS),
        hf.Exaone4ForCausalLM,
    ),
    "SmolLM 3": partial(
        around,
        hf.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0], **NO_TOKENS),
        hf.SmolLM3ForCausalLM,
    ),
    "GLM 4": partial(around, hf.Glm4Config(**GROUPED, head_dim=4, **NO_TOKENS), hf.Glm4ForCausalLM),
    "StableLM": partial(
        around,
        hf.StableLmConfig(
            **SMALL, num_key_value_heads=4, qk_layernorm=True, use_parallel_residual=True
        ),
        hf.StableLmForCausalLM,
    ),
    "GPT-Neo": partial(
        around,
        hf.GPTNeoConfig(
            vocab_size=20,
            hidden_size=16,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=7,
            max_position_embeddings=12,
        ),
        hf.GPTNeoForCausalLM,
    ),
    "OPT": partial(
        around,
        hf.OPTConfig(
            vocab_size=20,
            hidden_size=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=12,
            word_embed_proj_dim=16,
        ),
        hf.OPTForCausalLM,
    ),
    "BLOOM": partial(
        around,
        hf.BloomConfig(vocab_size=20, hidden_size=16, n_layer=2, n_head=4),
        hf.BloomForCausalLM,
    ),
    "MPT": partial(
        around,
        hf.MptConfig(
            vocab_size=20, d_model=16, n_layers=2, n_heads=4, max_seq_len=12, expansion_ratio=2
        ),
        hf.MptForCausalLM,
    ),
    "Phi 3, long": partial(
        around,
        hf.Phi3Config(
            **{**SMALL, "max_position_embeddings": 64},
            original_max_position_embeddings=32,
            pad_token_id=0,
            rope_parameters={
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "short_factor": [1.0, 1.1],
                "long_factor": [2.0, 3.0],
            },
        ),
        hf.Phi3ForCausalLM,
    ),
    "Llama dynamic": partial(
        llama, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 8.0}
    ),
}
PARALLEL = {
    "Pythia",
    "Phi, one norm for both",
    "GPT-J",
    "CodeGen",
    "Cohere",
    "Cohere, norms of queries and keys",
    "Cohere 2",
    "StableLM",
}


def inputs_of(mask: Tensor | None) -> dict[str, Tensor]:
    return {"tokens": TOKENS} if mask is None else {"tokens": TOKENS, "attention_mask": mask}


@few_in_quick(28)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", EXACT_ONES)
def test_parts_are_the_networks_own(name: str, mask: Tensor | None, differences: Any) -> None:
    parts = parts_of(EXACT_ONES[name]())
    assert max(differences(parts, inputs_of(mask)).values()) < EXACT
    assert parts.parallel == (name in PARALLEL)
    assert parts.causal == (name != "native bidirectional")


@few_in_quick(15)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", FLOAT32_ONES)
def test_parts_are_the_networks_own_to_float32(
    name: str, mask: Tensor | None, differences: Any
) -> None:
    parts = parts_of(FLOAT32_ONES[name]())
    assert max(differences(parts, inputs_of(mask)).values()) < FLOAT32
    assert parts.parallel == (name in PARALLEL)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("name", ["native", "native bidirectional", "GPT-2", "Llama", "Pythia"])
def test_the_run_is_the_wrapped_models(name: str, mask: Tensor | None) -> None:
    bridge = {**EXACT_ONES, **FLOAT32_ONES}[name]()
    parts, inputs = parts_of(bridge), inputs_of(mask)
    columns = torch.arange(9).expand(3, 9)
    given = {} if mask is None else {"attention_mask": mask.long()}
    theirs = bridge.original_model(TOKENS, position_ids=columns, **given)
    theirs = theirs if isinstance(theirs, Tensor) else theirs.logits
    assert torch.equal(parts.run(inputs), theirs)
    assert torch.equal(parts.capture(inputs, ["z.1", "logits"])["logits"], theirs)


@pytest.mark.parametrize("name", ["GPT-2", "Llama", "Pythia"])
def test_the_run_is_hugging_faces(name: str) -> None:
    """The bridge rewrites attention; compare with a model that was never in a bridge."""
    config, kind = {
        "GPT-2": (hf.GPT2Config(**GPT2), hf.GPT2LMHeadModel),
        "Llama": (hf.LlamaConfig(**GROUPED), hf.LlamaForCausalLM),
        "Pythia": (hf.GPTNeoXConfig(**SMALL), hf.GPTNeoXForCausalLM),
    }[name]
    model = kind(config).double().eval()
    stir(model)
    untouched = copy.deepcopy(model)
    bridge = build_bridge_from_module(model, architecture=kind.__name__, hf_config=config).eval()
    mask = MASKS["with gaps"]
    assert mask is not None
    theirs = untouched(
        TOKENS, attention_mask=mask, position_ids=torch.arange(9).expand(3, 9)
    ).logits
    mine = parts_of(bridge).run(inputs_of(mask))
    torch.testing.assert_close(mine[mask.bool()], theirs[mask.bool()], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [native, gpt2])
def test_position_ids_are_columns_whatever_the_mask(make: Callable[[], TransformerBridge]) -> None:
    bridge = make()
    left_padded = MASKS["right padded"].flip(-1)  # type: ignore[union-attr]
    seen = parts_of(bridge).capture(inputs_of(left_padded), ["pos_embed"])["pos_embed"]
    assert torch.equal(seen, bridge.W_pos[:9].expand(3, 9, 16))


@pytest.mark.parametrize("make", [llama, partial(native, positional_embedding_type="rotary")])
def test_rotary_position_ids_are_columns_whatever_the_mask(
    make: Callable[[], TransformerBridge],
) -> None:
    """A gap in the mask leaves the distance between its two sides as it is: attention only
    renormalises."""
    bridge, gap = make(), torch.tensor([[1, 1, 0, 0, 1, 1, 1, 1, 1]]).expand(3, 9)
    scores: list[Tensor] = []
    hooks = [("blocks.0.attn.hook_pattern", lambda value, hook: scores.append(value))]
    parts = parts_of(bridge)
    for mask in (None, gap):
        with bridge.hooks(fwd_hooks=hooks):
            parts.run(inputs_of(mask))
    unmasked = scores[0].masked_fill(~gap.bool()[:, None, None], 0)
    torch.testing.assert_close(
        scores[1][:, :, 4:], (unmasked / unmasked.sum(-1, keepdim=True))[:, :, 4:]
    )


@pytest.mark.parametrize("name", ["native", "native rotary", "GPT-2", "Llama", "Pythia"])
def test_every_hook_is_on_the_path(name: str) -> None:
    """What is read at a hook is what the network goes on with: moving it moves the logits."""
    bridge = {**EXACT_ONES, **FLOAT32_ONES}[name]()
    parts = parts_of(bridge)
    clean = parts.run(inputs_of(None))
    points = [
        "hook_embed",
        "blocks.1.hook_resid_pre",
        "blocks.0.hook_resid_post",
        "blocks.0.attn.hook_z",
    ]
    points += ["blocks.1.hook_mlp_out"] + (["hook_pos_embed"] if parts.has_pos_embed else [])
    points += [] if parts.parallel else ["blocks.0.hook_resid_mid"]
    for point in points:
        with bridge.hooks(fwd_hooks=[(point, lambda value, hook: value + value.flip(-1))]):
            assert not torch.allclose(parts.run(inputs_of(None)), clean), point


@pytest.mark.parametrize("name", ["native", "native rotary", "GPT-2", "GPT-2 compatible", "Llama"])
def test_weights_are_the_models_own_storage(name: str) -> None:
    bridge = {**EXACT_ONES, **FLOAT32_ONES}[name]()
    own = {p.untyped_storage().data_ptr() for p in bridge.parameters()}
    for attention in parts_of(bridge).attention:
        weights = [attention.W_Q, attention.W_K, attention.W_V, attention.W_O]
        weights += [
            b for b in (attention.b_Q, attention.b_K, attention.b_V, attention.b_O) if b is not None
        ]
        assert all(weight.untyped_storage().data_ptr() in own for weight in weights)
        assert not any(weight.requires_grad for weight in weights)


def test_grouped_queries_keep_their_fewer_keys_and_values() -> None:
    parts = parts_of(llama())
    assert parts.attention[0].W_Q.shape == (4, 16, 4)
    assert parts.attention[0].W_K.shape == parts.attention[0].W_V.shape == (2, 16, 4)
    assert (parts.n_heads, parts.d_model, parts.d_head) == (4, 16, 4)


@pytest.mark.parametrize("make", [native, gpt2, llama])
def test_nothing_of_the_model_is_changed(make: Callable[[], TransformerBridge]) -> None:
    bridge = make()
    weights = {name: tensor.clone() for name, tensor in bridge.state_dict().items()}
    config, modules = dict(vars(bridge.cfg)), {name for name, _ in bridge.named_modules()}
    logits = bridge(TOKENS)
    with bridge.hooks(fwd_hooks=[("hook_embed", lambda value, hook: None)]):
        parts = parts_of(bridge)
        parts.run(inputs_of(MASKS["right padded"]))
        parts.capture(inputs_of(None), ["embed", "resid_mid.0", "logits"])
        parts.unembed(parts.mlps[0].apply(parts.mlps[0].norm(torch.ones(2, 16, dtype=parts.dtype))))
        assert len(bridge.hook_dict["hook_embed"].fwd_hooks) == 1
    assert all(torch.equal(tensor, weights[name]) for name, tensor in bridge.state_dict().items())
    assert dict(vars(bridge.cfg)) == config
    assert {name for name, _ in bridge.named_modules()} == modules
    assert not any(point.fwd_hooks for point in bridge.hook_dict.values())
    assert torch.equal(bridge(TOKENS), logits)


@pytest.mark.parametrize("name", ["native", "native solu_ln", "GPT-2", "Llama", "Mixtral, experts"])
def test_parts_take_any_leading_shape(name: str) -> None:
    parts = parts_of({**EXACT_ONES, **FLOAT32_ONES}[name]())
    x = torch.randn(2, 3, 5, parts.d_model, dtype=parts.dtype)
    for part in (
        parts.mlps[0].norm,
        parts.mlps[0].apply,
        parts.attention[0].norm,
        parts.final_norm,
        parts.unembed,
    ):
        flat = part(x.reshape(1, -1, parts.d_model))
        torch.testing.assert_close(part(x).reshape(flat.shape), flat)
        torch.testing.assert_close(part(x.transpose(0, 2)).transpose(0, 2), part(x))


@pytest.mark.parametrize("make", [llama, partial(native, positional_embedding_type="rotary")])
def test_rotation_takes_position_ids_per_row(make: Callable[[], TransformerBridge]) -> None:
    rotate = parts_of(make()).attention[0].rotate
    assert rotate is not None
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    ids = torch.tensor([[0, 5, 2], [7, 1, 1]])
    one_by_one = torch.stack([rotate(x[row], ids[row]) for row in range(2)])
    torch.testing.assert_close(rotate(x, ids), one_by_one)
    torch.testing.assert_close(rotate(x[:, None], ids[:, None])[:, 0], one_by_one)


def test_capturing_keeps_no_graph_and_running_does() -> None:
    parts = parts_of(native())
    assert not parts.capture(inputs_of(None), ["logits"])["logits"].requires_grad
    assert parts.run(inputs_of(None)).requires_grad


def test_parameters_name_everything_learned() -> None:
    bridge = gpt2()
    before = {name: tensor.clone() for name, tensor in parts_of(bridge).parameters()}
    with torch.no_grad():
        for parameter in bridge.parameters():
            parameter.add_(1)
    after = dict(parts_of(bridge).parameters())
    assert "blocks.1.attn.q.weight" in after
    assert [name for name in after if torch.equal(after[name], before[name])] == ["unembed.bias"]


@pytest.mark.parametrize("make", [gpt2, partial(llama, attention_dropout=0.1)])
def test_train_mode_with_dropout_is_refused(make: Callable[[], TransformerBridge]) -> None:
    bridge = make()
    parts = parts_of(bridge)
    bridge.train()
    for attempt in (lambda: parts_of(bridge), lambda: parts.run(inputs_of(None))):
        with pytest.raises(
            ModelError, match=r"is in train mode and has dropout; call its eval\(\)"
        ):
            attempt()


@pytest.mark.parametrize(
    "make", [native, llama, partial(gpt2, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)]
)
def test_train_mode_without_dropout_is_fine(make: Callable[[], TransformerBridge]) -> None:
    parts_of(make().train()).run(inputs_of(None))


@pytest.mark.parametrize("name", FAMILIES)
def test_parts_of_other_families_are_the_networks_own(name: str, differences: Any) -> None:
    """All keys visible, and padding that leaves every query a key within the window."""
    parts = parts_of(FAMILIES[name]())
    for mask in (None, torch.tensor([[1] * 9, [1] * 8 + [0], [1] * 5 + [0] * 4])):
        assert max(differences(parts, inputs_of(mask)).values()) < FLOAT32
    assert parts.parallel == (name in PARALLEL)


@pytest.mark.parametrize(
    ("name", "windows"),
    [
        ("Mistral, a window", [7, 7]),
        ("Qwen 2, a window from layer 1", [None, 7]),
        ("Gemma 2", [7, None]),
        ("GPT-Neo", [None, 7]),
        ("Qwen 3", [None, None]),
    ],
)
def test_every_layer_has_its_own_window(name: str, windows: list[int | None]) -> None:
    assert [attention.window for attention in parts_of(FAMILIES[name]()).attention] == windows


WITHOUT = {
    "Qwen 3": "norm_q",
    "OLMo 2": "norm_k",
    "Cohere, norms of queries and keys": "norm_k",
    "Mistral, a window": "window",
    "GPT-Neo": "window",
    "Gemma 2": "softcap",
    "Granite": "after",
    "Gemma 3": "after",
    "MPT": "bias",
    "GPT-J": "rotate",
    "GPT-OSS": "sinks",
    "HunYuan": "norm_k",
}


@pytest.mark.parametrize("name", WITHOUT)
def test_the_proof_misses_what_a_family_does(name: str) -> None:
    """Each of these is noticed where it is left out."""
    graph = ResidualGraph(parts_of(FAMILIES[name]()))
    graph.prove({"tokens": TOKENS})
    transformer = graph.transformer
    transformer.attention = tuple(
        replace(attention, **{WITHOUT[name]: None}) for attention in transformer.attention
    )
    graph = ResidualGraph(transformer)
    with pytest.raises(ModelError, match="differs from the network's own by"):
        graph.prove({"tokens": TOKENS})


def test_the_proof_knows_when_queries_are_normalised() -> None:
    graph = ResidualGraph(parts_of(FAMILIES["HunYuan"]()))
    attention = graph.transformer.attention[0]
    early = replace(attention, norm_q=replace(attention.norm_q, after_rotation=False))
    graph.transformer.attention = (early, *graph.transformer.attention[1:])
    with pytest.raises(ModelError, match=r"head0\.0, recomputed from what it reads, differs"):
        ResidualGraph(graph.transformer).prove({"tokens": TOKENS})


@pytest.mark.parametrize(
    "name", ["Qwen 3", "Gemma 2", "BLOOM", "MPT", "Cohere", "OLMo 2", "GPT-OSS"]
)
def test_left_padding_is_the_networks_own(name: str) -> None:
    """Queries of padding see no key: they attend to all alike, here as there."""
    bridge = FAMILIES[name]().float()
    inputs = inputs_of(torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [0] * 7 + [1] * 2]))
    graph = ResidualGraph(parts_of(bridge))
    graph.require_usable(inputs)
    graph.prove(inputs)


@pytest.mark.parametrize("name", ["native rotary", "native"])
def test_left_padding_of_native_networks_is_refused(name: str) -> None:
    graph = ResidualGraph(parts_of(EXACT_ONES[name]()))
    with pytest.raises(ModelError, match="on row 1 a query sees no key at all: pad on the right"):
        graph.require_usable(inputs_of(torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1] * 9])))


PADDED = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1, 1, 0, 1, 1, 1, 1, 0, 0]])


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "XGLM", "Qwen 3"])
def test_positions_are_those_that_the_model_itself_derives_from_a_mask(name: str) -> None:
    """GPT-2's are columns; OPT's count what is visible."""
    model = {**EXACT_ONES, **FAMILIES}[name]().float().original_model
    wrapping._unwrap(model)
    model.set_attn_implementation("eager")
    inputs = inputs_of(PADDED)
    with torch.no_grad():
        own = model(TOKENS, attention_mask=PADDED, use_cache=False).logits
        ids = torch.arange(9)[None]
        columns = model(TOKENS, attention_mask=PADDED, position_ids=ids, use_cache=False).logits
    graph = as_graph(model)
    assert isinstance(graph, ResidualGraph)
    torch.testing.assert_close(graph.run(inputs), own)
    graph.require_usable(inputs)
    graph.prove(inputs)
    assert torch.allclose(own, columns, atol=1e-5) == (name != "OPT")


@pytest.mark.parametrize(
    ("name", "refused"),
    [("GPT-2", [1, 2]), ("OPT", []), ("XGLM", [1, 2]), ("Qwen 3", [2]), ("BLOOM", [])],
)
def test_a_bridge_that_counts_otherwise_than_its_model_is_refused(
    name: str, refused: list[int]
) -> None:
    """Where it is called by itself it derives positions from the mask."""
    bridge = {**EXACT_ONES, **FAMILIES}[name]().float()
    bridge.original_model.set_attn_implementation("eager")
    graph = ResidualGraph(parts_of(bridge))
    for row in (1, 2) if name != "BLOOM" else (1,):
        mask = torch.ones_like(PADDED)
        mask[row] = PADDED[row]
        if row in refused:
            with pytest.raises(
                ModelError,
                match=f"on rows such as {row} the mask hides tokens before others, and this bridge "
                "counts positions without them .*; give the Hugging Face model itself",
            ):
                graph.require_usable(inputs_of(mask))
        else:
            graph.require_usable(inputs_of(mask))


@pytest.mark.parametrize(
    ("name", "mask", "reason"),
    [
        ("BLOOM", [1, 1, 0, 1, 1, 1, 1, 1, 1], "hides tokens between others.*at the ends only"),
        ("BLOOM", [0, 1, 0, 1, 1, 1, 1, 1, 1], "hides tokens between others.*at the ends only"),
        ("GPT-Neo", [1] * 1 + [0] * 8, "no key within its window of 7.*shorten the padding"),
    ],
)
def test_masks_under_which_a_family_does_something_else_are_refused(
    name: str, mask: list[int], reason: str
) -> None:
    graph = ResidualGraph(parts_of(FAMILIES[name]()))
    graph.require_usable(inputs_of(torch.tensor([[1] * 9, [1] * 8 + [0], [1] * 7 + [0] * 2])))
    with pytest.raises(ModelError, match=f"on row 1 .*{reason}"):
        graph.require_usable(inputs_of(torch.tensor([[1] * 9, mask, [1] * 9])))


def test_what_padding_attends_to_is_proved_where_there_is_some() -> None:
    """In float64 the network's softmax, in float32, takes the mask for infinite."""
    graph = ResidualGraph(parts_of(FAMILIES["Qwen 3"]()))
    tokens = torch.zeros((40, 9), dtype=torch.long)
    mask = torch.ones_like(tokens)
    graph.require_usable({"tokens": tokens, "attention_mask": mask})
    mask[33, :4] = 0
    with pytest.raises(ModelError, match="is NaN or infinite on row 33; take the row out"):
        graph.require_usable({"tokens": tokens, "attention_mask": mask})


@pytest.mark.parametrize("option", [{"sliding_window": 5}, {"attn_logit_softcapping": 9.0}, {}])
def test_the_digest_is_of_what_a_layer_does_too(option: dict[str, Any]) -> None:
    sizes = {**GROUPED, "head_dim": 4, "sliding_window": 7}
    both = [
        ResidualGraph(parts_of(around(hf.Gemma2Config(**config), hf.Gemma2ForCausalLM)))
        for config in (sizes, {**sizes, **option})
    ]
    with torch.no_grad():
        for mine, other in zip(
            *(graph.transformer.model.parameters() for graph in both), strict=True
        ):
            other.copy_(mine)
    assert (both[0].digest() == both[1].digest()) == (not option)


@pytest.mark.parametrize("name", ["Llama dynamic", "Phi 3, long"])
@pytest.mark.parametrize("length", [9, 40])
def test_rotation_that_depends_on_the_length_is_that_of_the_inputs(name: str, length: int) -> None:
    """Below and above the length it was made for, 32; also where a few positions are read."""
    graph = ResidualGraph(parts_of(FAMILIES[name]()))
    tokens = torch.randint(20, (2, length), generator=torch.Generator().manual_seed(0))
    graph.prove({"tokens": tokens})
    few = torch.tensor([3, 7])
    sites = [Site("q", ("head1.0",)), Site("q", ("head1.0",), (3, 7))]
    every, some = graph.capture(sites, {"tokens": tokens}).values()
    torch.testing.assert_close(some, every[:, few])


def test_a_window_that_no_layer_uses_is_none() -> None:
    config = hf.Qwen2Config(**GROUPED, sliding_window=4, use_sliding_window=False)
    parts_of(around(config, hf.Qwen2ForCausalLM)).run({"tokens": TOKENS})


def test_inputs_longer_than_the_model_are_refused() -> None:
    with pytest.raises(
        ModelError, match="has 8 positions, but the inputs have 9; shorten the inputs"
    ):
        parts_of(gpt2(n_positions=8)).run({"tokens": TOKENS})


@pytest.mark.parametrize("inputs", [{"ids": TOKENS}, {"tokens": TOKENS, "mask": TOKENS}, {}])
def test_inputs_of_other_names_are_refused(inputs: dict[str, Tensor]) -> None:
    with pytest.raises(
        ModelError, match="reads the inputs 'tokens' and, if there is one, 'attention_mask'"
    ):
        parts_of(native()).run(inputs)
    if inputs:
        with pytest.raises(ModelError, match="reads the inputs 'tokens'"):
            ActivationStore(as_graph(native()), Dataset(inputs))


def test_what_cannot_be_captured_is_refused() -> None:
    with pytest.raises(ModelError, match=r"has no hook point blocks\.0\.hook_resid_mid"):
        parts_of(native(attn_only=True)).capture(inputs_of(None), ["resid_mid.0"])
    with pytest.raises(ModelError, match="pos_embed"):
        parts_of(llama()).capture(inputs_of(None), ["pos_embed"])


REFUSED: dict[str, tuple[Callable[[], TransformerBridge], str]] = {
    "OLMo clipped": (
        partial(around, hf.OlmoConfig(**SMALL, clip_qkv=0.1), hf.OlmoForCausalLM),
        "clipped queries",
    ),
    "OPT post-LN": (
        partial(
            around,
            hf.OPTConfig(
                vocab_size=20,
                hidden_size=16,
                ffn_dim=24,
                num_hidden_layers=2,
                num_attention_heads=4,
                word_embed_proj_dim=16,
                do_layer_norm_before=False,
            ),
            hf.OPTForCausalLM,
        ),
        "normalises the residual stream itself",
    ),
    "Falcon alibi": (
        partial(
            around,
            hf.FalconConfig(
                vocab_size=20,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=4,
                alibi=True,
            ),
            hf.FalconForCausalLM,
        ),
        "a bias for positions that its bridge adds twice",
    ),
    "BERT": (partial(around, hf.BertConfig(**SMALL), hf.BertForMaskedLM), "mlm_head"),
    "T5": (
        partial(
            around,
            hf.T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4),
            hf.T5ForConditionalGeneration,
        ),
        "encoder-decoder",
    ),
    "Mamba": (
        partial(
            around,
            hf.MambaConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2),
            hf.MambaForCausalLM,
        ),
        "position embeddings",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sum_of_known_parts_is_refused(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(
        ModelError,
        match=rf"^TransformerBridge \(\w+\) .*{reason}.*; wrap it as a plain torch module",
    ):
        parts_of(make())


def test_models_without_layers_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"TransformerBridge \(native\) has no layers; use a model with"
    ):
        parts_of(native(n_layers=0, init_weights=False))


def test_plain_modules_are_refused_and_told_apart() -> None:
    linear = nn.Linear(2, 2)
    assert is_transformer_lens(native())
    assert not is_transformer_lens(linear)
    with pytest.raises(ModelError, match="Linear is not a TransformerBridge or HookedTransformer"):
        parts_of(linear)


@only_in_full
def test_telling_them_apart_does_not_import_transformer_lens() -> None:
    code = (
        "import sys, torch\n"
        "from pytest_scrub.network.transformer_lens import is_transformer_lens\n"
        "assert not is_transformer_lens(torch.nn.Linear(2, 2))\n"
        "assert not {'transformer_lens', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- large unembeddings ---------------------------------------------------------------------------


class Own(nn.Linear):
    """A layer that does more than its class."""


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[nn.Linear, Tensor]]:
    """A layer that counts as large, and rows for it; whoever calls it gets a zero."""
    monkeypatch.setattr(adapter, "LARGE", 1)

    def made(kind: type[nn.Linear] = nn.Linear, bias: bool = True, rows: int = 40) -> Any:
        torch.manual_seed(0)
        return kind(48, 600, bias=bias), torch.randn(rows, 48)

    return made


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(40,), (2, 20), (4, 5, 2)])
def test_a_large_layer_is_multiplied_the_other_way_round(
    large: Any, bias: bool, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = large(bias=bias)
    x = x.view(*shape, -1)
    with torch.no_grad():
        expected = layer(x)
        monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x.new_zeros(()))
        found = adapter.turned(layer)(x)
    assert found.is_contiguous()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


WATCHED: dict[str, Callable[[nn.Linear], Any]] = {
    "a hook": lambda layer: layer.register_forward_hook(lambda *_: None),
    "a hook before": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "another forward": lambda layer: setattr(layer, "forward", layer.forward),
    "a hook of all": lambda _: nn.modules.module.register_module_forward_hook(lambda *_: None),
    "float64": lambda layer: layer.double(),
    "packed": lambda layer: layer.register_buffer("weight_packed", torch.ones(1).to(torch.int8)),
}


@pytest.mark.parametrize("why", [*WATCHED, "few rows", "a gradient", "its own class", "small"])
def test_what_is_more_than_a_large_product_is_called(
    large: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer, x = large(
        Own if why == "its own class" else nn.Linear, rows=31 if why == "few rows" else 40
    )
    if why == "small":
        monkeypatch.setattr(adapter, "LARGE", 1 << 20)
    monkeypatch.setattr(nn.Linear, "forward", lambda self, x: x.new_full((), 7.0))
    handle = WATCHED.get(why, lambda _: None)(layer)
    x = x.to(layer.weight.dtype)
    try:
        with torch.set_grad_enabled(why == "a gradient"):
            assert adapter.turned(layer)(x).item() == 7.0
    finally:
        if why == "a hook of all":
            handle.remove()
