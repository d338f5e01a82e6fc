"""Is what is loaded the network that was saved, and is everything else one clear sentence?"""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module

from pytest_scrub import ANYTHING, Dataset, Evaluator, head, load_model, output
from pytest_scrub.errors import ModelError
from pytest_scrub.network import ModuleGraph, as_graph
from pytest_scrub.network.loading import load_raw, save_native
from pytest_scrub.network.transformer_lens import parts_of
from tests.reference.configurations import GPT2, GROUPED
from tests.sizes import only_in_full

FIELDS: dict[str, Any] = {
    "d_model": 8,
    "d_head": 4,
    "n_heads": 2,
    "n_layers": 2,
    "n_ctx": 6,
    "d_vocab": 5,
    "d_mlp": 12,
    "act_fn": "relu",
}
OTHERS: dict[str, Any] = {
    "attention_dir": "bidirectional",
    "d_vocab_out": 2,
    "normalization_type": "RMS",
    "positional_embedding_type": "rotary",
    "rotary_dim": 2,
    "n_key_value_heads": 1,
    "gated_mlp": True,
    "act_fn": "silu",
    "attn_scores_soft_cap": 5.0,
    "eps": 1e-6,
}
TOKENS = torch.randint(5, (3, 6), generator=torch.Generator().manual_seed(0))
BRACKETS: dict[str, Any] = {
    "n_layers": 3,
    "n_heads": 2,
    "d_head": 28,
    "d_model": 56,
    "d_mlp": 56,
    "d_vocab": 5,
    "d_vocab_out": 2,
    "n_ctx": 42,
    "act_fn": "relu",
    "attention_dir": "bidirectional",
    "normalization_type": "LN",
}


def native(**options: Any) -> TransformerBridge:
    bridge = TransformerBridge.boot_native(
        TransformerBridgeConfig(**{**FIELDS, "seed": 0, **options})
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in bridge.state_dict().values():  # the head's bias is a buffer
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    return bridge.eval()


def hooked_state(bridge: TransformerBridge) -> dict[str, Tensor]:
    """The state dict of the `HookedTransformer` (2.x) that computes the same as an ungrouped,
    ungated bridge."""
    state = {name: tensor.clone() for name, tensor in bridge.state_dict().items()}
    heads: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
        "q.weight": ("W_Q", lambda w: w.reshape(2, 4, 8).transpose(1, 2)),
        "k.weight": ("W_K", lambda w: w.reshape(2, 4, 8).transpose(1, 2)),
        "v.weight": ("W_V", lambda w: w.reshape(2, 4, 8).transpose(1, 2)),
        "o.weight": ("W_O", lambda w: w.T.reshape(2, 4, 8)),
        "q.bias": ("b_Q", lambda b: b.reshape(2, 4)),
        "k.bias": ("b_K", lambda b: b.reshape(2, 4)),
        "v.bias": ("b_V", lambda b: b.reshape(2, 4)),
        "o.bias": ("b_O", lambda b: b),
        "mlp.in.weight": ("mlp.W_in", lambda w: w.T),
        "mlp.in.bias": ("mlp.b_in", lambda b: b),
        "mlp.out.weight": ("mlp.W_out", lambda w: w.T),
        "mlp.out.bias": ("mlp.b_out", lambda b: b),
        "unembed.weight": ("unembed.W_U", lambda w: w.T),
        "unembed.bias": ("unembed.b_U", lambda b: b),
        "pos_embed.weight": ("pos_embed.W_pos", lambda w: w),
        "embed.weight": ("embed.W_E", lambda w: w),
        "weight": ("w", lambda w: w),
        "bias": ("b", lambda b: b),
    }
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        end = next(end for end in heads if name.endswith(end))
        renamed[name.removesuffix(end) + heads[end][0]] = heads[end][1](tensor).contiguous()
    for layer in range(2):
        renamed[f"blocks.{layer}.attn.mask"] = torch.ones(6, 6).tril().bool()
        renamed[f"blocks.{layer}.attn.IGNORE"] = torch.tensor(-1e5)
    return renamed


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_native(native(), path)
    return path


@pytest.fixture(params=["gpt2", "llama"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A Hugging Face folder without a tokenizer."""
    model = {
        "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2)),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)),
    }[request.param]()
    model.save_pretrained(tmp_path / request.param)
    return tmp_path / str(request.param)


def refused(pattern: str, source: Any, **options: Any) -> None:
    with pytest.raises(ModelError, match=pattern) as caught:
        load_raw(source, **options)
    assert "\n" not in str(caught.value)


# Native networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"attn_only": True, "normalization_type": None}, {"normalization_type": "LNPre"}, OTHERS],
    ids=["plain", "attention only", "LNPre", "others"],
)
def test_a_native_network_comes_back(options: dict[str, Any], tmp_path: Path) -> None:
    bridge = native(**options)
    save_native(bridge, tmp_path / "net.safetensors")
    loaded = load_raw(tmp_path / "net.safetensors")
    assert torch.equal(loaded(TOKENS), bridge(TOKENS))
    assert not any(module.training for module in loaded.modules())
    assert parts_of(loaded).causal == parts_of(bridge).causal


def test_the_config_may_be_anywhere(saved: Path, tmp_path: Path) -> None:
    logits = load_raw(saved)(TOKENS)
    config = saved.with_suffix(".json")
    given = json.loads(config.read_text())
    assert torch.equal(load_raw(saved, config=given)(TOKENS), logits)
    assert torch.equal(load_raw(str(saved), config=native().cfg)(TOKENS), logits)
    config.rename(tmp_path / "config.json")
    assert torch.equal(load_raw(saved)(TOKENS), logits)
    (tmp_path / "config.json").rename(tmp_path / "elsewhere.json")
    assert torch.equal(load_raw(saved, config=tmp_path / "elsewhere.json")(TOKENS), logits)


def test_the_config_that_is_written_says_no_more_than_needed(saved: Path) -> None:
    assert json.loads(saved.with_suffix(".json").read_text()) == {**FIELDS, "d_vocab_out": 5}


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64])
def test_dtype_is_the_files_unless_given(dtype: torch.dtype | None, tmp_path: Path) -> None:
    bridge = native().to(torch.float64)
    save_native(bridge, tmp_path / "net.safetensors")
    loaded = load_raw(tmp_path / "net.safetensors", dtype=dtype)
    assert {p.dtype for p in loaded.state_dict().values()} == {dtype or torch.float64}


def test_loading_draws_no_random_numbers(saved: Path) -> None:
    state = torch.get_rng_state()
    load_raw(saved)
    assert torch.equal(torch.get_rng_state(), state)


def test_only_native_networks_are_saved_as_such(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only a native network"):
        save_native(load_raw(folder), tmp_path / "net.safetensors")
    with pytest.raises(ModelError, match=r"name the file net\.safetensors"):
        save_native(native(), tmp_path / "net.pt")


def test_a_module_is_returned_as_it_is() -> None:
    module = nn.Linear(2, 2)
    assert load_raw(module) is module
    assert module.training
    refused("a ready Linear takes no config and no dtype", module, dtype=torch.float64)


# What is wrong with a file ------------------------------------------------------------------------


def test_missing_files(saved: Path) -> None:
    refused(
        r"no file or folder '.*smal\.safetensors'; did you mean 'small\.safetensors'\?",
        saved.with_stem("smal"),
    )
    refused("there is no folder '.*nowhere' either", saved.parent / "nowhere" / "net.safetensors")
    refused("no file or folder 'weights.safetensors'; check the path", "weights.safetensors")
    refused("no file or folder './gpt2'", "./gpt2")


@pytest.mark.parametrize("length", [0, 4, 100, -10])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_truncated_files(suffix: str, length: int, saved: Path) -> None:
    path = saved.with_suffix(suffix)
    if suffix == ".pt":
        torch.save(hooked_state(native()), path)
    path.write_bytes(path.read_bytes()[:length])
    refused(rf"small\{suffix} is damaged", path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_of_something_else(suffix: str, saved: Path) -> None:
    path = saved.with_suffix(suffix)
    path.write_text("hello " * 100)
    refused(rf"small\{suffix} is damaged", path)


@pytest.mark.parametrize("name", ["model.bin", "model.pkl", "model.ckpt", "model"])
def test_other_files_are_not_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"anything")
    refused(
        f"{name} cannot be loaded: .* nothing is unpickled; save it with safetensors",
        tmp_path / name,
    )


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def test_pickles_are_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"weights": Bomb()}, "zipped.pt")
    Path("plain.pt").write_bytes(pickle.dumps({"weights": Bomb()}))
    for name in ("zipped.pt", "plain.pt"):
        refused("holds more than tensors and is not unpickled", Path(name), config=FIELDS)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"model": {"w": torch.ones(2)}, "step": 3}, "holds 'model', which is not a tensor"),
        (torch.ones(2), "holds a Tensor, not a state dict"),
        ([torch.ones(2)], "holds a list, not a state dict"),
    ],
)
def test_files_with_more_or_less_than_a_state_dict(
    content: Any, reason: str, tmp_path: Path
) -> None:
    torch.save(content, tmp_path / "net.pt")
    refused(reason, tmp_path / "net.pt", config=FIELDS)


def test_weights_for_another_config(saved: Path) -> None:
    layers = (
        r"it lacks blocks\.2\.attn\.k\.bias, blocks\.2\.attn\.k\.weight, "
        r"blocks\.2\.attn\.o\.bias and 13 more; give"
    )
    refused(layers, saved, config={**FIELDS, "n_layers": 3})
    refused(
        r"it has the unknown blocks\.1\.attn\.k\.bias, .* and 13 more",
        saved,
        config={**FIELDS, "n_layers": 1},
    )
    refused(
        r"other shapes for embed\.weight \[5, 8\] instead of \[7, 8\]",
        saved,
        config={**FIELDS, "d_vocab": 7},
    )
    weights = load_file(saved)
    weights["blocks.0.attn.Q.weight"] = weights.pop("blocks.0.attn.q.weight")
    save_file(weights, saved)
    both = r"it lacks blocks\.0\.attn\.q\.weight, has the unknown blocks\.0\.attn\.Q\.weight;"
    refused(both, saved)


def test_a_file_without_the_heads_bias_is_fine(saved: Path) -> None:
    bridge = load_raw(saved)
    bridge.unembed.original_component.bias.zero_()
    weights = load_file(saved)
    del weights["unembed.bias"]
    save_file(weights, saved)
    assert torch.equal(load_raw(saved)(TOKENS), bridge(TOKENS))


def test_weights_alone_are_no_network(saved: Path) -> None:
    weights: Any = load_file(saved)
    refused(r"load_model takes a module, a file, a folder or .*, not a dict; load_state_", weights)


# What is wrong with a config ----------------------------------------------------------------------


def test_missing_configs(saved: Path) -> None:
    saved.with_suffix(".json").unlink()
    refused(
        r"small\.safetensors has no config: there is no small\.json or config\.json; write one "
        r"with.*; of a module of your own, load_state_dict\(\) the file into it and give the ",
        saved,
    )
    refused(r"there is no other\.json; write one", saved, config=saved.with_name("other.json"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"d_model": 8,', r"small\.json is not JSON"),
        ("[8]", r"small\.json has to be a JSON object with config fields, not a list"),
        (
            '{"d_model": 8}',
            r"the config of small\.safetensors lacks d_head, n_layers, n_ctx, d_vocab; add",
        ),
    ],
)
def test_damaged_configs(text: str, reason: str, saved: Path) -> None:
    saved.with_suffix(".json").write_text(text)
    refused(reason, saved)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n_head": 2}, r"unknown field 'n_head'; did you mean 'n_heads'\?"),
        ({"act_fn": "rleu"}, r"cannot be built: Unsupported act_fn='rleu'"),
        ({"d_model": "eight"}, "cannot be built"),
        ({"n_heads": 0}, "cannot be built"),
        (
            {"positional_embedding_type": "alibi"},
            "cannot be built: Unsupported positional_embedding_type",
        ),
        (
            {"parallel_attn_mlp": True},
            "has parallel_attn_mlp=True, which a native network does not do",
        ),
        ({"use_qk_norm": True}, "has use_qk_norm=True, which a native network does not do"),
    ],
)
def test_impossible_configs(fields: dict[str, Any], reason: str, saved: Path) -> None:
    refused(rf"^the config of small\.safetensors .*{reason}", saved, config={**FIELDS, **fields})


# HookedTransformer state dicts --------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{}, {"attention_dir": "bidirectional", "d_vocab_out": 2}],
    ids=["plain", "bidirectional"],
)
def test_hooked_transformer_state_dicts(options: dict[str, Any], tmp_path: Path) -> None:
    bridge = native(**options)
    torch.save(hooked_state(bridge), tmp_path / "net.pt")
    loaded = load_raw(tmp_path / "net.pt", config={**FIELDS, **options})
    assert loaded.unembed.b_U.abs().min() > 0
    torch.testing.assert_close(loaded(TOKENS), bridge(TOKENS))
    (tmp_path / "net.json").write_text(json.dumps({**FIELDS, **options}))
    assert torch.equal(load_raw(tmp_path / "net.pt")(TOKENS), loaded(TOKENS))


def test_a_native_state_dict_may_be_in_a_pt_file(tmp_path: Path) -> None:
    bridge = native()
    torch.save(bridge.state_dict(), tmp_path / "net.pt")
    assert torch.equal(load_raw(tmp_path / "net.pt", config=FIELDS)(TOKENS), bridge(TOKENS))


def test_whole_hooked_transformer_configs_are_understood(tmp_path: Path) -> None:
    bridge = native()
    torch.save(hooked_state(bridge), tmp_path / "net.pt")
    dumped = {
        **FIELDS,
        "attn_scale": 2.0,
        "device": "cuda",
        "dtype": "torch.float32",
        "init_mode": "gpt2",
        "use_yarn_rope": False,
        "yarn_factor": 1.0,
        "clip_qkv": None,
        "rotary_scaling_factor": 1.0,
        "ungroup_grouped_query_attention": False,
        "seed": 7,
    }
    torch.testing.assert_close(load_raw(tmp_path / "net.pt", config=dumped)(TOKENS), bridge(TOKENS))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"n_heads": 1, "d_head": 8}, r"net\.pt does not fit its config: .*W_Q"),
        ({"n_layers": 3}, "it lacks blocks.2"),
        ({"act_fn": None}, "needs its act_fn"),
        (
            {"positional_embedding_type": "rotary"},
            "with positional_embedding_type='rotary' has no native counterpart",
        ),
        ({"use_attn_scale": False}, "with use_attn_scale=False has no native counterpart"),
        ({"use_attention_sinks": True}, "with use_attention_sinks has no native counterpart"),
        ({"d_hed": 4}, r"unknown field 'd_hed'; did you mean 'd_head'\?"),
    ],
)
def test_hooked_transformer_configs_that_do_not_fit(
    fields: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    torch.save(hooked_state(native()), tmp_path / "net.pt")
    refused(reason, tmp_path / "net.pt", config={**FIELDS, **fields})


@only_in_full
def test_the_paren_checker_gives_its_published_loss(differences: Any) -> None:
    """Chan et al. 2022's network; loss and accuracy were measured with its own code (see the docs
    on references)."""
    data = os.environ.get("SCRUB_BRACKETS")
    if not data:
        pytest.skip("set SCRUB_BRACKETS to the folder with the paren checker's weights and strings")
    parts = parts_of(load_raw(Path(data) / "brackets_model_state_dict.pt", config=BRACKETS))
    strings = json.loads((Path(data) / "brackets_data.json").read_text())[:20_000]
    tokens = torch.ones(len(strings), 42, dtype=torch.int64)
    for row, (text, _) in enumerate(strings):
        ids = [0, *({"(": 3, ")": 4}[c] for c in text), 2]
        tokens[row, : len(ids)] = torch.tensor(ids)
    labels = torch.tensor([int(balanced) for _, balanced in strings])
    with torch.no_grad():
        batches = [
            parts.run({"tokens": t, "attention_mask": t != 1})[:, 0] for t in tokens.split(2_000)
        ]
    logits = torch.cat(batches).double()
    assert float(cross_entropy(logits, labels)) == pytest.approx(0.000253, abs=5e-7)
    assert float((logits.argmax(-1) == labels).double().mean()) == pytest.approx(0.9999, abs=5e-5)
    few = {"tokens": tokens[:50], "attention_mask": tokens[:50] != 1}
    assert max(differences(parts, few).values()) < 1e-5


# Hugging Face folders -----------------------------------------------------------------------------


def test_folders_that_hugging_face_wrote(folder: Path) -> None:
    loaded = load_raw(folder)
    assert not any(module.training for module in loaded.original_model.modules())
    theirs = hf.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)(TOKENS).logits
    torch.testing.assert_close(loaded(TOKENS), theirs, rtol=1e-4, atol=1e-5)
    assert parts_of(load_raw(str(folder), dtype=torch.float64)).dtype == torch.float64


def test_a_model_in_memory_may_be_loaded_again(folder: Path) -> None:
    """A fixture gives the module itself to claims on two datasets: a second bridge would spoil both
    graphs."""
    module = hf.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    data = Dataset(TOKENS, labels=TOKENS[:, 0], label_pos=-1, features={"row": torch.arange(3)})
    graphs = [load_model(module), load_model(module)]
    graphs.append(load_model(copy.deepcopy(module)))
    assert list(module.state_dict()) == list(load_raw(folder).original_model.state_dict())
    evaluators = [
        Evaluator(graph, data, output(head(1, 0, agrees_on=ANYTHING))) for graph in graphs
    ]
    swaps = evaluators[0].space.draw(20, np.random.default_rng(0))
    first, second, of_copy = (one.evaluate(swaps) for one in evaluators)
    assert (first == second).all()
    assert (first == of_copy).all()


def test_a_folder_is_its_model_where_the_bridge_is_another_network(tmp_path: Path) -> None:
    """Grouped queries of Falcon's new decoder, whose rows TransformerLens takes in another order:
    the network that is read is the one in the folder."""
    sizes = {"vocab_size": 5, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    heads = {"num_kv_heads": 2, "new_decoder_architecture": True, "multi_query": False}
    config = hf.FalconConfig(**sizes, **heads, initializer_range=0.3)
    hf.FalconForCausalLM(config).save_pretrained(tmp_path)
    graph = load_model(tmp_path)
    assert not graph.reads_directly
    assert "computes something else than the model itself" in str(graph.indirect)
    with torch.no_grad():
        own = hf.AutoModelForCausalLM.from_pretrained(tmp_path)(TOKENS).logits
    torch.testing.assert_close(graph.run({"tokens": TOKENS}), own)


def test_a_model_in_a_foreign_bridge_is_refused(folder: Path) -> None:
    load_model(load_raw(folder).original_model)  # in a bridge that was made here
    inside = hf.AutoModelForCausalLM.from_pretrained(folder)
    build_bridge_from_module(inside, architecture=type(inside).__name__, hf_config=inside.config)
    with pytest.raises(
        ModelError,
        match=f"this {type(inside).__name__} is inside a TransformerBridge already; load",
    ):
        load_model(inside)


def test_half_precision_folders_are_loaded_in_float32(folder: Path) -> None:
    hf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert parts_of(load_raw(folder)).dtype == torch.float32


def test_folders_that_are_none(tmp_path: Path) -> None:
    refused(
        "is not a Hugging Face model: it has no config.json; write it with save_pretrained",
        tmp_path,
    )


def test_damaged_folders(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole, config = weights.read_bytes(), (folder / "config.json").read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    refused("cannot be loaded: .*; write it again", folder)
    weights.unlink()
    torch.save({}, folder / "pytorch_model.bin")
    refused("cannot be loaded: .*no file named model.safetensors", folder)
    weights.write_bytes(whole)
    (folder / "config.json").write_text("{")
    refused("cannot be loaded: ", folder)
    for change in ({"n_layer": 1, "num_hidden_layers": 1}, {"n_layer": 3, "num_hidden_layers": 3}):
        (folder / "config.json").write_text(json.dumps({**json.loads(config), **change}))
        refused(
            r"the weights in '.*' are not for its config.json \((missing|unexpected) keys: .*; "
            r"write",
            folder,
        )
    refused("brings its own config; leave out config=", folder, config=FIELDS)


def test_folders_with_other_models(tmp_path: Path) -> None:
    config = hf.T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=4)
    hf.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    loaded = load_raw(tmp_path)
    assert type(loaded).__name__ == "T5ForConditionalGeneration"
    assert not loaded.training
    assert as_graph(loaded).source == "T5ForConditionalGeneration (along every path)"
    xlnet = hf.XLNetConfig(vocab_size=20, d_model=16, d_inner=24, n_layer=1, n_head=4)
    hf.XLNetLMHeadModel(xlnet).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="TransformerLens does not know XLNetLMHeadModel"):
        load_model(tmp_path)


# The hub ------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub that cannot be reached, and its cache."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("name", ["gpt2", "EleutherAI/pythia-70m"])
def test_a_hub_that_cannot_be_reached_says_what_to_bring(name: str, hub: Path) -> None:
    command = rf"'hf download \S*{re.escape(name)} --local-dir {name.rpartition('/')[2]}'"
    refused(
        rf"there is no folder '{name}' and the Hugging Face hub cannot be reached; where it can, "
        rf"run {command}",
        name,
    )
    with pytest.raises(ModelError) as told:
        load_model(name)
    assert told.value.__suppress_context__  # no thousand lines of the hub's


def test_what_the_hub_has_sent_before_needs_no_hub(hub: Path, folder: Path) -> None:
    cached = hub / "models--me--mine"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    assert torch.equal(load_raw("me/mine")(TOKENS), load_raw(folder)(TOKENS))


def test_names_that_cannot_be_on_the_hub_are_paths() -> None:
    for name in ("a/b/c", "no such thing", "net.pt", "../gpt2"):
        refused("there is no file or folder", name)


def test_what_is_no_network() -> None:
    refused("not the class Linear; make one of it, and load its weights", torch.nn.Linear)
    refused("takes a module, a file, a folder or a name on the hub, not a NoneType", None)


def test_devices_that_are_not_there(saved: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    refused("there is no GPU for device 'cuda:1' here; use device='cpu'", saved, device="cuda:1")


def test_without_transformer_lens_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = hf.GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=5, n_positions=4)
    model = hf.GPT2LMHeadModel(config).eval()
    monkeypatch.setitem(sys.modules, "transformer_lens", None)
    install = r"pip install 'pytest-scrub\[transformer-lens\]'"
    with pytest.raises(ModelError, match=f"heads and MLPs of GPT2LMHeadModel .* {install}"):
        as_graph(model)
    with pytest.raises(ModelError, match=rf"load_model\(\) needs TransformerLens.* {install}"):
        load_model(tmp_path / "weights.safetensors")
    assert "transformer.h.0" in ModuleGraph(model).components
