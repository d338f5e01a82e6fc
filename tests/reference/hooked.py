"""Small networks of families whose parts are not taken apart, and where their heads, MLPs and
attention blocks are, by Hugging Face's own names and written for each family alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.data.dataset import Dataset
from tests.reference.modules import ModuleNetwork, Spot, column

LAYERS, HEADS, ROWS, LENGTH = 2, 2, 6, 3
SMALL: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 8,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 10,
    "initializer_range": 0.6,
}


@dataclass(frozen=True)
class Family:
    """How a network is made, and where its parts are.

    - `spots`: of a layer, in order of computation; those that are computed together in one tuple.
    - `inputs`: what the network is called with.
    """

    make: Callable[[Any], Any]
    spots: Callable[[], Sequence[Mapping[str, Spot]]]
    inputs: Callable[[], dict[str, Tensor]]
    pick: Callable[[Any], Tensor]


def ids(name: str, seed: int, length: int = LENGTH) -> dict[str, Tensor]:
    return {
        name: torch.randint(1, 12, (ROWS, length), generator=torch.Generator().manual_seed(seed))
    }


def heads(side: str, layer: int, projection: str) -> list[Mapping[str, Spot]]:
    """The heads of an attention, which are computed together, and then what it adds."""
    each = {f"{side}head{layer}.{h}": column(projection, h, HEADS) for h in range(HEADS)}
    return [each, {f"{side}attn{layer}": Spot(projection)}]


def bert() -> list[Mapping[str, Spot]]:
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        found += heads("", i, f"{layer}.attention.output.dense")
        found.append({f"mlp{i}": Spot(f"{layer}.output.dense")})
    return found


def vit() -> list[Mapping[str, Spot]]:
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        found += heads("", i, f"layers.{i}.attention.o_proj")
        found.append({f"mlp{i}": Spot(f"layers.{i}.mlp.fc2")})
    return found


def gemma() -> list[Mapping[str, Spot]]:
    """What is added is normalised before."""
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        found.append(heads("", i, f"{layer}.self_attn.o_proj")[0])
        found.append({f"attn{i}": Spot(f"{layer}.post_attention_layernorm")})
        found.append({f"mlp{i}": Spot(f"{layer}.post_feedforward_layernorm")})
    return found


def t5_encoder() -> list[Mapping[str, Spot]]:
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        layer = f"encoder.block.{i}.layer"
        found += heads("encoder.", i, f"{layer}.0.SelfAttention.o")
        found.append({f"encoder.mlp{i}": Spot(f"{layer}.1.DenseReluDense.wo")})
    return found


def t5() -> list[Mapping[str, Spot]]:
    found = t5_encoder()
    for i in range(LAYERS):
        layer = f"decoder.block.{i}.layer"
        found += heads("", i, f"{layer}.0.SelfAttention.o")
        found += heads("cross.", i, f"{layer}.1.EncDecAttention.o")
        found.append({f"mlp{i}": Spot(f"{layer}.2.DenseReluDense.wo")})
    return found


def make_bert(hf: Any) -> Any:
    return hf.BertModel(hf.BertConfig(**SMALL))


def make_vit(hf: Any) -> Any:
    return hf.ViTModel(hf.ViTConfig(**SMALL, image_size=(4, 8), patch_size=4))


def make_gemma(hf: Any) -> Any:
    config = {**SMALL, "num_key_value_heads": 1, "head_dim": 4, "sliding_window": 2}
    return hf.Gemma2ForCausalLM(hf.Gemma2Config(**config, pad_token_id=0))


def make_t5(hf: Any, kind: str = "T5ForConditionalGeneration") -> Any:
    config = {"d_model": 8, "d_kv": 4, "d_ff": 10, "num_layers": LAYERS, "num_heads": HEADS}
    return getattr(hf, kind)(
        hf.T5Config(**config, vocab_size=12, decoder_start_token_id=0, initializer_factor=2.0)
    )


def pixels() -> dict[str, Tensor]:
    noise = torch.Generator().manual_seed(0)
    return {"pixel_values": torch.randn(ROWS, 3, 4, 8, generator=noise, dtype=torch.float64)}


def last_hidden(out: Any) -> Tensor:
    found: Tensor = out.last_hidden_state
    return found


def logits(out: Any) -> Tensor:
    found: Tensor = out.logits
    return found


def two_sequences() -> dict[str, Tensor]:
    return {**ids("input_ids", 0), **ids("decoder_input_ids", 1)}


FAMILIES = {
    "BertModel": Family(make_bert, bert, lambda: ids("input_ids", 0), last_hidden),
    "ViTModel": Family(make_vit, vit, pixels, last_hidden),
    "Gemma2": Family(make_gemma, gemma, lambda: ids("input_ids", 0), logits),
    "T5": Family(make_t5, t5, two_sequences, logits),
    "T5Model": Family(lambda hf: make_t5(hf, "T5Model"), t5, two_sequences, last_hidden),
    "T5EncoderModel": Family(
        lambda hf: make_t5(hf, "T5EncoderModel"),
        t5_encoder,
        lambda: ids("input_ids", 0),
        last_hidden,
    ),
}


@lru_cache(maxsize=16)
def built(family: str, seed: int) -> tuple[nn.Module, nn.Module]:
    """A network in float64, and a copy of it that nothing is ever put into."""
    import transformers

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FAMILIES[family].make(transformers).double().eval()
    return model, copy.deepcopy(model)


def network(family: str, seed: int, dataset: Dataset) -> ModuleNetwork:
    """The family's own hooks."""
    known = FAMILIES[family]
    spots = {name: spot for together in known.spots() for name, spot in together.items()}
    return ModuleNetwork(built(family, seed)[1], dataset, spots, known.pick)
