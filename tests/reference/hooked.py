"""Small networks of families whose parts are not taken apart, and where their heads, MLPs and
attention blocks are, by Hugging Face's own names and written for each family alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from pytest_scrub.data.dataset import Dataset
from tests.reference.latents import Slow
from tests.reference.modules import ModuleNetwork, Spot, column, hidden_units, probabilities

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

    - `spots`: of a network, in order of computation; those that are computed together in one.
    - `inputs`: what the network is called with.
    """

    make: Callable[[Any], Any]
    spots: Callable[[nn.Module], Sequence[Mapping[str, Spot]]]
    inputs: Callable[[], dict[str, Tensor]]
    pick: Callable[[Any], Tensor]


def ids(name: str, seed: int, length: int = LENGTH) -> dict[str, Tensor]:
    return {
        name: torch.randint(1, 12, (ROWS, length), generator=torch.Generator().manual_seed(seed))
    }


def stream(name: str, path: str) -> Mapping[str, Spot]:
    """What a module is called with first."""
    return {
        name: Spot(path, True, get=lambda given: given[0], put=lambda given, new: (new, *given[1:]))
    }


def neurons(name: str, path: str, like: nn.Module) -> Mapping[str, Spot]:
    """Two sets of hidden units, of the module that gives what an MLP adds."""
    rows = like.get_submodule(path).weight.T
    return {
        f"{name}[0:3]": hidden_units(path, range(3), rows),
        f"{name}[4,7]": hidden_units(path, (4, 7), rows),
    }


def patterns(side: str, layer: int, call: int) -> Mapping[str, Spot]:
    """The probabilities of an attention's heads, by when they are computed."""
    return {f"{side}pattern{layer}.{h}": probabilities(call, h) for h in range(HEADS)}


def heads(side: str, layer: int, projection: str) -> list[Mapping[str, Spot]]:
    """The heads of an attention, which are computed together, and then what it adds."""
    each = {f"{side}head{layer}.{h}": column(projection, h, HEADS) for h in range(HEADS)}
    return [each, {f"{side}attn{layer}": Spot(projection)}]


def bert(like: nn.Module) -> list[Mapping[str, Spot]]:
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        layer = f"encoder.layer.{i}"
        found += [stream(f"stream{i}", layer), patterns("", i, i)]
        found += heads("", i, f"{layer}.attention.output.dense")
        found.append(neurons(f"neurons{i}", f"{layer}.output.dense", like))
        found.append({f"mlp{i}": Spot(f"{layer}.output.dense")})
    return [*found, {f"stream{LAYERS}": Spot(f"encoder.layer.{LAYERS - 1}")}]


def vit(like: nn.Module) -> list[Mapping[str, Spot]]:
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        found += [stream(f"stream{i}", f"layers.{i}"), patterns("", i, i)]
        found += heads("", i, f"layers.{i}.attention.o_proj")
        found.append(neurons(f"neurons{i}", f"layers.{i}.mlp.fc2", like))
        found.append({f"mlp{i}": Spot(f"layers.{i}.mlp.fc2")})
    return [*found, stream(f"stream{LAYERS}", "layernorm")]


def gemma(like: nn.Module) -> list[Mapping[str, Spot]]:
    """What is added is normalised before."""
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        found += [stream(f"stream{i}", layer), patterns("", i, i)]
        found.append(heads("", i, f"{layer}.self_attn.o_proj")[0])
        found.append({f"attn{i}": Spot(f"{layer}.post_attention_layernorm")})
        found.append(neurons(f"neurons{i}", f"{layer}.mlp.down_proj", like))
        found.append({f"mlp{i}": Spot(f"{layer}.post_feedforward_layernorm")})
    return [*found, stream(f"stream{LAYERS}", "model.norm")]


def t5_encoder(like: nn.Module) -> list[Mapping[str, Spot]]:
    found: list[Mapping[str, Spot]] = []
    for i in range(LAYERS):
        layer = f"encoder.block.{i}.layer"
        found += [stream(f"encoder.stream{i}", f"encoder.block.{i}"), patterns("encoder.", i, i)]
        found += heads("encoder.", i, f"{layer}.0.SelfAttention.o")
        found.append(neurons(f"encoder.neurons{i}", f"{layer}.1.DenseReluDense.wo", like))
        found.append({f"encoder.mlp{i}": Spot(f"{layer}.1.DenseReluDense.wo")})
    return [*found, stream(f"encoder.stream{LAYERS}", "encoder.final_layer_norm")]


def t5(like: nn.Module) -> list[Mapping[str, Spot]]:
    found = t5_encoder(like)
    for i in range(LAYERS):
        layer, call = f"decoder.block.{i}.layer", LAYERS + 2 * i
        found += [stream(f"stream{i}", f"decoder.block.{i}"), patterns("", i, call)]
        found += heads("", i, f"{layer}.0.SelfAttention.o")
        found.append(patterns("cross.", i, call + 1))
        found += heads("cross.", i, f"{layer}.1.EncDecAttention.o")
        found.append(neurons(f"neurons{i}", f"{layer}.2.DenseReluDense.wo", like))
        found.append({f"mlp{i}": Spot(f"{layer}.2.DenseReluDense.wo")})
    return [*found, stream(f"stream{LAYERS}", "decoder.final_layer_norm")]


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


def dictionary(name: str, nth: int) -> Slow:
    """One of five units, by the name of its place."""
    drawn = torch.Generator().manual_seed(nth)
    shapes = {"W_enc": (8, 5), "b_enc": (5,), "W_dec": (5, 8), "b_dec": (8,), "threshold": (5,)}
    tensors: dict[str, Any] = {
        name: torch.randn(shape, generator=drawn, dtype=torch.float64)
        for name, shape in shapes.items()
    }
    tensors |= {"k": 3, "centred": nth % 2 == 0}
    kind, norm = ("jumprelu", "topk", "relu")[nth % 3], ("none", "layer_norm")[nth % 2]
    return Slow(name, kind, norm, "own", tensors)


# At what an MLP adds only where a hook of the network shows that.
AT = {"Gemma2": ("sae_stream1", "z_attn0", "sae_mlp1")}


def dictionaries_of(family: str) -> list[Slow]:
    """Those of its network."""
    places = AT.get(family, ("sae_stream1", "z_attn0"))
    return [dictionary(name, nth) for nth, name in enumerate(places)]


def coded(spots: Sequence[Mapping[str, Spot]], own: Slow) -> Sequence[Mapping[str, Spot]]:
    """The same with what a dictionary makes of its place, where that is."""
    place = own.place if own.level != "z" else own.place.replace("attn", "head") + ".0"

    def at(spot: Spot) -> Spot:
        """All heads together are what one of them is a part of."""
        if own.level != "z":
            return spot
        return Spot(
            spot.path, True, get=lambda given: given[0], put=lambda given, new: (new, *given[1:])
        )

    def made(name: str, spot: Spot) -> Spot:
        return replace(
            spot,
            get=lambda what: own.of(name, spot.get(what)[0], spot.get(what)[0])[None],
            put=lambda what, more: spot.put(what, spot.get(what) + more),
            is_term=True,
        )

    names = [f"{own.name}{some}" for some in ("[0:2]", "[3]", ".error")]
    return [
        {**each, **{name: made(name, at(each[place])) for name in names}} if place in each else each
        for each in spots
    ]


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
    other = copy.deepcopy(model)
    other.set_attn_implementation("eager")  # which has a softmax that can be seen
    return model, other


def spots_of(family: str, other: nn.Module) -> Sequence[Mapping[str, Spot]]:
    """Where its parts are, and what dictionaries make of some."""
    spots = FAMILIES[family].spots(other)
    for own in dictionaries_of(family):
        spots = coded(spots, own)
    return spots


def network(family: str, seed: int, dataset: Dataset) -> ModuleNetwork:
    """The family's own hooks."""
    known, other = FAMILIES[family], built(family, seed)[1]
    spots = {name: spot for together in spots_of(family, other) for name, spot in together.items()}
    return ModuleNetwork(other, dataset, spots, known.pick)
