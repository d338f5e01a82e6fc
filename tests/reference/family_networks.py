"""Tiny random networks of every family that is studied, and where their modules stand.

The wiring is read off the networks' modelling code in the transformers library, not off what
pytest_scrub makes of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn

from tests.reference.family_hooks import Wiring

VOCABULARY, LENGTH, ROWS, HEADS, WINDOW = 20, 7, 6, 4, 3
HIDDEN = 2  # inputs at the end of a padded row
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 32,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
GROUPED: dict[str, Any] = {**SMALL, "num_key_value_heads": 2}
HEADED: dict[str, Any] = {**GROUPED, "head_dim": 4}
# of four numbers of a head's, whose quarter would be one that cannot be turned
HALF_TURNED: dict[str, Any] = {**GROUPED, "partial_rotary_factor": 0.5}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": HEADS,
    "n_positions": 16,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
LOCAL: dict[str, Any] = {
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention"],
}

LLAMA = Wiring()
AT_Q_K_V = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
PARALLEL = replace(LLAMA, mlp_reads=("input_layernorm",))
GPT = Wiring(
    layers="transformer.h",
    o="attn.c_proj",
    reads=("ln_1",),
    mlp_reads=("ln_2",),
    key=None,
    final="transformer.ln_f",
)
GEMMA = replace(
    LLAMA,
    after="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    mlp_reads=("pre_feedforward_layernorm",),
)
NEOX = Wiring(
    layers="gpt_neox.layers",
    o="attention.dense",
    mlp_reads=("post_attention_layernorm",),
    key=None,
    final="gpt_neox.final_layer_norm",
)
POST_NORM = replace(
    LLAMA,
    after="post_attention_layernorm",
    mlp="post_feedforward_layernorm",
    reads=AT_Q_K_V,
    mlp_reads=("mlp",),
)
BERT = Wiring(
    layers="bert.encoder.layer",
    o="attention.output.dense",
    mlp="output.dense",
    reads=("attention.self.query", "attention.self.key", "attention.self.value"),
    mlp_reads=("intermediate.dense",),
    key="attention.self.key",
    final=None,
)
T5 = Wiring(
    layers="decoder.block",
    o="layer.0.SelfAttention.o",
    mlp="layer.2.DenseReluDense",
    reads=("layer.0.layer_norm",),
    mlp_reads=("layer.2.layer_norm",),
    key="layer.0.SelfAttention.k",
    final=None,
)
BART = Wiring(
    layers="model.decoder.layers",
    o="self_attn.out_proj",
    mlp="fc2",
    reads=AT_Q_K_V,
    mlp_reads=("fc1",),
    final=None,
)


@dataclass(frozen=True)
class Family:
    """One kind of network.

    - `kind`: its class; `options`: of its configuration.
    - `config`: the name of that, where it is not told by the class.
    - `reads`: what it reads, `tokens`, `images`, `two sequences` or `sounds` and tokens.
    - `mixers`: where a layer has no heads, what stands in their place.
    - `dtype`: of its weights; `pos`: a position of which all layers' outputs are read.
    """

    kind: str
    options: Mapping[str, Any]
    wiring: Wiring = LLAMA
    config: str | None = None
    reads: str = "tokens"
    mixers: str | None = None
    dtype: torch.dtype = torch.float64
    pos: int = 2

    def build(self) -> nn.Module:
        """The network with weights of which none is neutral, the same every time."""
        kind = getattr(hf, self.kind)
        config = kind.config_class if self.config is None else getattr(hf, self.config)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = kind(config(**self.options, attn_implementation="eager"))
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # others have no kernel for float64
        generator = torch.Generator().manual_seed(1)
        model = model.to(self.dtype).eval().requires_grad_(False)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((0.2 * noise).to(self.dtype))
        return model

    def inputs(self) -> dict[str, Tensor]:
        """What all rows read, by the names that the network has for it."""
        generator = torch.Generator().manual_seed(2)
        if self.reads == "images":
            return {"pixel_values": torch.randn(ROWS, 3, 8, 8, generator=generator).double()}
        sounds = {"input_features": torch.randn(ROWS, 4, 20, generator=generator).double()}
        names = {"tokens": ["input_ids"], "sounds": ["decoder_input_ids"]}
        return (sounds if self.reads == "sounds" else {}) | {
            name: torch.randint(1, VOCABULARY, (ROWS, LENGTH), generator=generator)
            for name in names.get(self.reads, ["input_ids", "decoder_input_ids"])
        }

    def mask(self) -> Tensor:
        """Visible inputs where the end of every row is hidden."""
        return torch.tensor([[1] * (LENGTH - HIDDEN) + [0] * HIDDEN] * ROWS)


def twins(family: Family) -> tuple[nn.Module, nn.Module]:
    """The network twice, for one side each."""
    model = family.build()
    return model, copy.deepcopy(model)


def _causal(name: str, options: Mapping[str, Any], wiring: Wiring = LLAMA, **more: Any) -> Family:
    return Family(f"{name}ForCausalLM", options, wiring, **more)


FAMILIES: dict[str, Family] = {
    "GPT-2": Family("GPT2LMHeadModel", GPT2, GPT),
    "GPT-2, scores scaled by layer": Family(
        "GPT2LMHeadModel", {**GPT2, "scale_attn_by_inverse_layer_idx": True}, GPT
    ),
    "GPT-BigCode": _causal("GPTBigCode", GPT2, GPT),
    "GPT-Neo": _causal(
        "GPTNeo",
        {
            "vocab_size": VOCABULARY, "hidden_size": 16, "num_layers": 2, "num_heads": HEADS,
            "attention_types": [[["global", "local"], 1]], "window_size": WINDOW,
            "max_position_embeddings": 32, "intermediate_size": 24, "bos_token_id": 0,
            "eos_token_id": 0,
        },
        replace(GPT, o="attn.attention.out_proj", key="attn.attention.k_proj"),
    ),
    "GPT-J": _causal(
        "GPTJ",
        {**GPT2, "rotary_dim": 2},
        replace(GPT, o="attn.out_proj", key="attn.k_proj", mlp_reads=("ln_1",)),
    ),
    "CodeGen": _causal(
        "CodeGen", {**GPT2, "rotary_dim": 2}, replace(GPT, o="attn.out_proj", mlp_reads=("ln_1",))
    ),
    "GPT-NeoX (Pythia)": _causal("GPTNeoX", {**SMALL, "rotary_pct": 0.5}, NEOX),
    "GPT-NeoX, one after the other": _causal(
        "GPTNeoX", {**SMALL, "use_parallel_residual": False}, NEOX
    ),
    "OPT": _causal(
        "OPT",
        {
            "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "ffn_dim": 24,
            "num_attention_heads": HEADS, "max_position_embeddings": 32, "word_embed_proj_dim": 16,
            "pad_token_id": 0,
        },
        Wiring(
            layers="model.decoder.layers", o="self_attn.out_proj", mlp="fc2",
            reads=("self_attn_layer_norm",), mlp_reads=("final_layer_norm",),
            final="model.decoder.final_layer_norm",
        ),
    ),
    "OPT, embeddings of another width": _causal(
        "OPT",
        {
            "vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 2, "ffn_dim": 24,
            "num_attention_heads": HEADS, "max_position_embeddings": 32, "word_embed_proj_dim": 8,
            "pad_token_id": 0, "do_layer_norm_before": False,
        },
        Wiring(
            layers="model.decoder.layers", o="self_attn.out_proj", mlp="fc2", reads=AT_Q_K_V,
            mlp_reads=("fc1",), final=None,
        ),
    ),
    "XGLM": _causal(
        "XGLM",
        {
            "vocab_size": VOCABULARY, "d_model": 16, "num_layers": 2, "ffn_dim": 24,
            "attention_heads": HEADS, "max_position_embeddings": 32, "pad_token_id": 0,
            "bos_token_id": 0, "eos_token_id": 0,
        },
        Wiring(
            o="self_attn.out_proj", mlp="fc2", reads=("self_attn_layer_norm",),
            mlp_reads=("final_layer_norm",), final="model.layer_norm",
        ),
        dtype=torch.float32,  # of transformers 5.23 it cannot be run in float64
    ),
    "BLOOM": _causal(
        "Bloom",
        {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": HEADS},
        Wiring(
            layers="transformer.h", o="self_attention.dense", mlp="mlp.dense_4h_to_h", key=None,
            final="transformer.ln_f",
        ),
    ),
    "MPT": _causal(
        "Mpt",
        {
            "vocab_size": VOCABULARY, "d_model": 16, "n_layers": 2, "n_heads": HEADS,
            "max_seq_len": 32,
        },
        Wiring(
            layers="transformer.blocks", o="attn.out_proj", mlp="ffn.down_proj", reads=("norm_1",),
            mlp_reads=("norm_2",), key=None, final="transformer.norm_f",
        ),
    ),
    "Falcon, parallel, one key": _causal(
        "Falcon",
        {**SMALL, "multi_query": True, "parallel_attn": True, "alibi": False},
        Wiring(
            layers="transformer.h", o="self_attention.dense", key=None, final="transformer.ln_f",
            mlp_reads=("input_layernorm",),
        ),
    ),
    "Falcon, new decoder": _causal(
        "Falcon",
        {**SMALL, "new_decoder_architecture": True, "num_kv_heads": 2, "alibi": False},
        Wiring(
            layers="transformer.h", o="self_attention.dense", key=None, final="transformer.ln_f",
            reads=("ln_attn",), mlp_reads=("ln_mlp",),
        ),
    ),
    "Falcon, ALiBi": _causal(
        "Falcon",
        {**SMALL, "multi_query": False, "parallel_attn": False, "alibi": True},
        Wiring(
            layers="transformer.h", o="self_attention.dense", key=None, final="transformer.ln_f",
        ),
    ),
    "Llama": _causal("Llama", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "Arcee": _causal("Arcee", GROUPED),
    "Mistral": _causal("Mistral", {**HEADED, "sliding_window": None}),
    "Mistral, sliding window": _causal("Mistral", {**HEADED, "sliding_window": WINDOW}),
    "Ministral 3": _causal("Ministral3", {**HEADED, "sliding_window": WINDOW}),
    "Mixtral": _causal("Mixtral", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "Qwen 2": _causal("Qwen2", GROUPED),
    "Qwen 2 MoE": _causal(
        "Qwen2Moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 8}
    ),
    "Qwen 3": _causal("Qwen3", HEADED),
    "Qwen 3 MoE": _causal("Qwen3Moe", {**HEADED, **EXPERTS}),
    "Gemma": _causal("Gemma", HEADED),
    "Gemma 2": _causal(
        "Gemma2",
        {
            **HEADED, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0,
            "query_pre_attn_scalar": 7, "sliding_window": WINDOW,
        },
        GEMMA,
    ),
    "Gemma 3": _causal(
        "Gemma3", {**HEADED, **LOCAL, "query_pre_attn_scalar": 7}, GEMMA,
        config="Gemma3TextConfig",
    ),
    "VaultGemma": _causal(
        "VaultGemma",
        {**HEADED, "query_pre_attn_scalar": 7, "sliding_window": WINDOW},
        replace(LLAMA, mlp_reads=("pre_feedforward_layernorm",)),
    ),
    "OLMo": _causal("Olmo", GROUPED),
    "OLMo 2": _causal("Olmo2", GROUPED, POST_NORM),
    "OLMo 3": _causal("Olmo3", {**GROUPED, **LOCAL}, POST_NORM),
    "OLMoE": _causal("Olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "FlexOLMo": _causal(
        "FlexOlmo",
        {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
        POST_NORM,
    ),
    "Phi": _causal(
        "Phi", HALF_TURNED,
        replace(PARALLEL, o="self_attn.dense", final="model.final_layernorm"),
    ),
    "Phi-3": _causal("Phi3", GROUPED, replace(LLAMA, key=None)),
    "Phi-3.5 MoE": _causal(
        "Phimoe", {**GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "Cohere": _causal("Cohere", {**GROUPED, "logit_scale": 0.5}, PARALLEL),
    "Cohere, normalised queries": _causal("Cohere", {**GROUPED, "use_qk_norm": True}, PARALLEL),
    "Cohere 2": _causal("Cohere2", {**HEADED, **LOCAL}, PARALLEL),
    "Granite": _causal(
        "Granite",
        {
            **GROUPED, "residual_multiplier": 0.5, "attention_multiplier": 0.3,
            "embedding_multiplier": 2.0, "logits_scaling": 3.0,
        },
        replace(LLAMA, scale=0.5),
    ),
    "Granite MoE": _causal(
        "GraniteMoe",
        {
            **GROUPED, "residual_multiplier": 0.5, "attention_multiplier": 0.3,
            "num_local_experts": 4, "num_experts_per_tok": 2,
        },
        replace(LLAMA, scale=0.5, mlp="block_sparse_moe"),
    ),
    "StableLM": _causal("StableLm", {**HALF_TURNED, "use_qkv_bias": True}),
    "StableLM, parallel": _causal(
        "StableLm", {**HALF_TURNED, "use_parallel_residual": True}, PARALLEL
    ),
    "Starcoder 2": _causal("Starcoder2", {**GROUPED, "use_bias": True}),
    "SmolLM 3": _causal("SmolLM3", {**GROUPED, "no_rope_layers": [1, 0]}),
    "GLM": _causal("Glm", {**HEADED, "partial_rotary_factor": 0.5}),
    "GLM 4": _causal(
        "Glm4",
        {**HEADED, "partial_rotary_factor": 0.5},
        replace(
            LLAMA, after="post_self_attn_layernorm", mlp="post_mlp_layernorm",
        ),
    ),
    "Nemotron": _causal("Nemotron", HEADED),
    "Hunyuan": _causal("HunYuanDenseV1", HEADED),
    "ERNIE 4.5": _causal("Ernie4_5", HEADED),
    "ERNIE 4.5 MoE": _causal(
        "Ernie4_5_Moe",
        {
            **GROUPED, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 8,
            "moe_num_shared_experts": 1, "moe_layer_start_index": 0, "moe_layer_interval": 1,
        },
    ),
    "Apertus": _causal(
        "Apertus",
        GROUPED,
        replace(LLAMA, reads=("attention_layernorm",), mlp_reads=("feedforward_layernorm",)),
    ),
    "Seed-OSS": _causal("SeedOss", HEADED),
    "EXAONE 4": _causal("Exaone4", {**HEADED, **LOCAL}, POST_NORM),
    "gpt-oss": _causal(
        "GptOss", {**HEADED, **LOCAL, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "DeepSeek V2": _causal(
        "DeepseekV2",
        {
            **SMALL, "num_key_value_heads": HEADS, "q_lora_rank": 8, "kv_lora_rank": 8,
            "qk_nope_head_dim": 4, "qk_rope_head_dim": 2, "v_head_dim": 4, "n_routed_experts": 4,
            "num_experts_per_tok": 2, "moe_intermediate_size": 8, "first_k_dense_replace": 1,
            "n_shared_experts": 1, "head_dim": 2,
        },
        replace(LLAMA, key=None),
    ),
    "ModernBERT decoder": _causal(
        "ModernBertDecoder",
        {**SMALL, "global_attn_every_n_layers": 2, "sliding_window": WINDOW},
        Wiring(
            layers="model.layers", o="attn.Wo", reads=("attn_norm",), mlp_reads=("mlp_norm",),
            key="attn.k_proj", final="model.final_norm",
        ),
    ),
    "GPT-1": Family(
        "OpenAIGPTLMHeadModel",
        {**GPT2, "vocab_size": VOCABULARY},
        Wiring(
            layers="transformer.h", o="attn.c_proj", mlp="mlp", reads=("attn",), mlp_reads=("mlp",),
            key=None, final=None,
        ),
    ),
    "BERT": Family("BertForMaskedLM", SMALL, BERT),
    "RoBERTa": Family("RobertaForMaskedLM", SMALL, replace(BERT, layers="roberta.encoder.layer")),
    "ViT": Family(
        "ViTForImageClassification",
        {
            "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
            "num_attention_heads": HEADS, "image_size": 8, "patch_size": 4, "num_labels": 5,
        },
        Wiring(
            layers="vit.layers", o="attention.o_proj", reads=("layernorm_before",),
            mlp_reads=("layernorm_after",), key="attention.k_proj", final="vit.layernorm",
        ),
        reads="images",
        pos=0,
    ),
    "DistilBERT": Family(
        "DistilBertForMaskedLM",
        {
            "vocab_size": VOCABULARY, "dim": 16, "n_layers": 2, "n_heads": HEADS, "hidden_dim": 24,
            "max_position_embeddings": 32,
        },
        Wiring(
            layers="distilbert.transformer.layer", o="attention.out_lin", mlp="ffn",
            reads=("attention.q_lin",), mlp_reads=("ffn",), final=None,
        ),
    ),
    "ELECTRA": Family(
        "ElectraForMaskedLM",
        {**SMALL, "embedding_size": 8},
        replace(BERT, layers="electra.encoder.layer"),
    ),
    "DeBERTa": Family(
        "DebertaV2ForMaskedLM",
        {**SMALL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        replace(
            BERT, layers="deberta.encoder.layer",
            reads=("attention.self.query_proj", "attention.self.key_proj"),
        ),
    ),
    "ESM": Family(
        "EsmForMaskedLM",
        {**SMALL, "mask_token_id": 3},
        replace(BERT, layers="esm.encoder.layer"),
    ),
    "CTRL": Family(
        "CTRLLMHeadModel",
        {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 2, "n_head": HEADS, "dff": 24},
        Wiring(
            layers="transformer.h", o="multi_head_attention.dense", mlp="ffn",
            reads=("layernorm1",), mlp_reads=("layernorm2",), final="transformer.layernorm",
        ),
    ),
    "CLIP, images": Family(
        "CLIPForImageClassification",
        {
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                "num_attention_heads": HEADS, "image_size": 8, "patch_size": 4,
            },
            "num_labels": 5,
        },
        Wiring(
            layers="vision_model.encoder.layers", o="self_attn.out_proj", reads=("layer_norm1",),
            mlp_reads=("layer_norm2",), final=None,
        ),
        reads="images",
    ),
    "DINOv2": Family(
        "Dinov2ForImageClassification",
        {
            "hidden_size": 16, "mlp_ratio": 2, "num_hidden_layers": 2,
            "num_attention_heads": HEADS, "image_size": 8, "patch_size": 4, "num_labels": 5,
        },
        Wiring(
            layers="dinov2.encoder.layer", o="attention.o_proj", after="layer_scale1",
            mlp="layer_scale2", reads=("norm1",), mlp_reads=("norm2",), final="dinov2.layernorm",
        ),
        reads="images",
        pos=0,
    ),
    "Whisper": Family(
        "WhisperForConditionalGeneration",
        {
            "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "num_mel_bins": 4,
            "max_source_positions": 10, "max_target_positions": 16, "pad_token_id": 0,
            "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0,
            "suppress_tokens": None, "begin_suppress_tokens": None,
        },
        BART,
        reads="sounds",
    ),
    "T5": Family(
        "T5ForConditionalGeneration",
        {
            "vocab_size": VOCABULARY, "d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2,
            "num_heads": HEADS, "decoder_start_token_id": 0,
        },
        T5,
        reads="two sequences",
    ),
    "BART": Family(
        "BartForConditionalGeneration",
        {
            "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS,
            "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
            "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0,
            "forced_eos_token_id": 0,
        },
        BART,
        reads="two sequences",
    ),
    "Mamba": _causal(
        "Mamba",
        {
            "vocab_size": VOCABULARY, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2,
            "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
        },
        replace(LLAMA, layers="backbone.layers"),
        mixers="mixer",
    ),
    "Mamba 2": _causal(
        "Mamba2",
        {
            "vocab_size": VOCABULARY, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2,
            "num_heads": 8, "head_dim": 4, "n_groups": 1, "bos_token_id": 0, "eos_token_id": 0,
            "pad_token_id": 0,
        },
        replace(LLAMA, layers="backbone.layers"),
        mixers="mixer",
    ),
}  # fmt: skip
