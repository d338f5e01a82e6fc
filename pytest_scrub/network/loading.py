"""Networks from files, folders and the Hugging Face hub. Nothing is ever unpickled."""

from __future__ import annotations

import inspect
import json
import pickle
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from pytest_scrub.errors import ModelError, did_you_mean, first_line, hides_scrub_errors
from pytest_scrub.network.transformer_lens import bridged, require_library

if TYPE_CHECKING:
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

__tracebackhide__ = hides_scrub_errors

Config = Mapping[str, Any] | str | Path | None

SAFETENSORS = ".safetensors"
STATE_DICT_SUFFIXES = (".pt", ".pth")
HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
HUB_TIMEOUT = 10  # seconds for the hub's first answer, its library's own default for downloads
# configuration, weights, tokenizer
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "tokenizer.model")
REQUIRED_FIELDS = ("d_model", "d_head", "n_layers", "n_ctx", "d_vocab")
SHOWN = 3  # names of weights in a message
# Not the network's function: where it is, how it was initialised, what its config sets by itself.
PASSING_FIELDS = (
    "device",
    "dtype",
    "seed",
    "init_weights",
    "init_mode",
    "initializer_range",
    "split_attention_weights",
)
# What the native network would silently do without.
NOT_NATIVE = (
    "parallel_attn_mlp",
    "use_local_attn",
    "use_qk_norm",
    "scale_attn_by_inverse_layer_idx",
    "post_embedding_ln",
    "use_normalization_before_and_after",
    "num_experts",
    "use_NTK_by_parts_rope",
    "load_in_4bit",
    "rmsnorm_uses_offset",
    "scale_embedding",
)
# Fields that only HookedTransformerConfig has (2.18 and 3.9): those that must be off, and those
# that then mean nothing.
HOOKED_SWITCHES = (
    "clip_qkv",
    "use_logn_attn",
    "use_dynamic_ntk_rope",
    "rotary_base_local",
    "quantization_method",
    "use_yarn_rope",
    "use_attention_sinks",
)
HOOKED_DETAILS = (
    "train_seq_length",
    "ungroup_grouped_query_attention",
    "rotary_scaling_factor",
    "NTK_original_ctx_len",
    "yarn_factor",
    "yarn_attention_factor",
    "yarn_beta_fast",
    "yarn_beta_slow",
    "yarn_original_max_position_embeddings",
    "yarn_truncate",
    "yarn_global_attn_only",
    "norm_topk_prob",
)


def load_raw(
    source: nn.Module | str | Path,
    *,
    config: Config = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Loads a network, in eval mode.

    **Arguments**

    - `source`: one of
        - a `.safetensors` file of a native TransformerLens network, as `save_native` writes it;
        - a `.pt` file with the state dict of a `HookedTransformer` (TransformerLens 2.x and 3.x);
        - a folder that Hugging Face's `save_pretrained` has written;
        - the name of a model on the Hugging Face hub;
        - a module, which is returned as it is.
    - `config`: for files only: the fields of a `TransformerBridgeConfig`, or the JSON file that has
      them. By default the JSON file of the same name, or `config.json` in the same folder.
    - `device`: where to put what is loaded.
    - `dtype`: by default what the file has, and float32 for Hugging Face models.

    **Returns** the module: a `TransformerBridge` around everything that is loaded here but a
    Hugging Face model that is no causal language model, or that a bridge computes something else
    than, which is itself.

    **Raises** `ModelError` where the source is missing, damaged, of another kind, or for another
    config.
    """
    if isinstance(source, nn.Module):
        if config is not None or dtype is not None:
            raise ModelError(
                f"a ready {type(source).__name__} takes no config and no dtype; convert it before "
                "with its to()"
            )
        return source
    given: Any = source
    if not isinstance(given, (str, Path)):
        made = isinstance(given, type) and issubclass(given, nn.Module)
        raise ModelError(
            "load_model takes a module, a file, a folder or a name on the hub, not "
            + (
                f"the class {given.__name__}; make one of it, and load its weights"
                if made
                else f"a {type(given).__name__}; load_state_dict() weights into their module and "
                "give that"
            )
        )
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"there is no GPU for device {str(device)!r} here; use device='cpu'")
    require_library("load_model()")
    path = Path(source).expanduser()
    if path.is_file():
        return _from_file(path, config, device, dtype)
    if not path.is_dir() and (isinstance(source, Path) or not _may_be_on_hub(source)):
        raise ModelError(f"there is no file or folder {str(source)!r}{_nearby(path)}")
    if config is not None:
        raise ModelError(
            f"{str(source)!r} brings its own config; leave out config=, which is for single files"
        )
    return _from_folder(path if path.is_dir() else _from_hub(str(source)), device, dtype)


def save_native(bridge: TransformerBridge, path: str | Path) -> None:
    """Writes a native network's weights to `path` (`.safetensors`) and its config beside it
    (`.json`).

    **Raises** `ModelError` where the network is not native or the file is not named so.
    """
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != SAFETENSORS:
        raise ModelError(
            f"weights are saved as safetensors; name the file {path.with_suffix(SAFETENSORS).name}"
        )
    if type(bridge.original_model).__name__ != "NativeModel":
        raise ModelError(
            "only a native network (TransformerBridge.boot_native) is saved like this; use "
            "bridge.original_model.save_pretrained(folder) for a Hugging Face one"
        )
    weights: dict[str, Tensor] = bridge.state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    path.with_suffix(".json").write_text(json.dumps(_fields_to_save(bridge.cfg), indent=2) + "\n")


# Finding the source -------------------------------------------------------------------------------


def _may_be_on_hub(name: str) -> bool:
    suffixes = (SAFETENSORS, *STATE_DICT_SUFFIXES, ".bin", ".json")
    return HUB_NAME.fullmatch(name) is not None and not name.endswith(suffixes)


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {str(path.parent)!r} either"
    return (
        did_you_mean(path.name, [other.name for other in path.parent.iterdir()])
        or "; check the path"
    )


def _from_hub(name: str) -> Path:
    """The folder of a hub model: downloaded, or from the cache where the hub cannot be reached."""
    from huggingface_hub import errors, snapshot_download
    from transformer_lens.supported_models import MODEL_ALIASES

    full_name = next(
        (official for official, aliases in MODEL_ALIASES.items() if name in aliases), name
    )
    try:
        return Path(
            snapshot_download(full_name, allow_patterns=HUB_FILES, etag_timeout=HUB_TIMEOUT)
        )
    except errors.LocalEntryNotFoundError:
        folder = full_name.rpartition("/")[2]
        raise ModelError(
            f"there is no folder {name!r} and the Hugging Face hub cannot be reached; where it "
            f"can, run 'hf download {full_name} --local-dir {folder}', bring that folder here, and "
            "load the folder"
        ) from None  # theirs says the same in a thousand lines
    except errors.GatedRepoError:
        raise ModelError(
            f"the Hugging Face hub gives {name!r} only to those who accepted its terms; accept "
            "them and run 'hf auth login'"
        ) from None
    except (errors.RepositoryNotFoundError, errors.HFValidationError):
        raise ModelError(
            f"there is no folder {name!r}, and no such model on the Hugging Face hub; check the "
            "name"
        ) from None


# Single files -------------------------------------------------------------------------------------


def _from_file(
    path: Path, config: Config, device: str | torch.device, dtype: torch.dtype | None
) -> nn.Module:
    is_state_dict = path.suffix in STATE_DICT_SUFFIXES
    if path.suffix != SAFETENSORS and not is_state_dict:
        raise ModelError(
            f"{path.name} cannot be loaded: weights are read from .safetensors, or from the .pt of "
            "a HookedTransformer state dict, and nothing is unpickled; save it with "
            "safetensors.torch.save_file"
        )
    weights = _read_state_dict(path) if is_state_dict else _read_safetensors(path)
    given = _fields(path, config)
    is_hooked = is_state_dict and any(name.endswith(".attn.W_Q") for name in weights)
    made = _bridge_config(path, _native_fields(given) if is_hooked else given)
    if is_hooked:
        from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

        with _or_error(f"{path.name} does not fit its config"):
            weights = convert_tl_checkpoint(weights, made)
    return _native(path, weights, made, device, dtype)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path.name} is damaged or not a safetensors file ({error}); copy it again"
        ) from error


def _read_state_dict(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path.name} is damaged, or holds more than tensors and is not unpickled; save "
            "model.state_dict() alone"
        ) from error
    # whatever torch makes of bytes that happen to look like the beginning of a file of its own
    except Exception as error:
        raise ModelError(f"{path.name} is damaged or not a torch file; copy it again") from error
    if not isinstance(state, Mapping):
        raise ModelError(
            f"{path.name} holds a {type(state).__name__}, not a state dict; save model.state_dict()"
        )
    if others := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        raise ModelError(
            f"{path.name} holds {others[0]!r}, which is not a tensor; save model.state_dict() alone"
        )
    return dict(state)


def _native(
    path: Path,
    weights: dict[str, Tensor],
    config: TransformerBridgeConfig,
    device: str | torch.device,
    dtype: torch.dtype | None,
) -> nn.Module:
    """A native network of that config, filled with exactly these weights."""
    from transformer_lens.model_bridge import TransformerBridge

    if dtype is None:
        dtype = next((w.dtype for w in weights.values() if w.is_floating_point()), torch.float32)
    # layers draw initial weights
    with torch.random.fork_rng(devices=[]), _or_error(_cannot_be_built(path)):
        bridge: nn.Module = TransformerBridge.boot_native(config, device=device, dtype=dtype)
    expected = bridge.state_dict()
    # the native head has none of its own, so a file may leave it out
    if "unembed.bias" in expected:
        weights.setdefault("unembed.bias", torch.zeros(expected["unembed.bias"].shape))
    _refuse_unfit(path, expected, weights)
    bridge.load_state_dict(weights)
    return bridge.eval()


def _refuse_unfit(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    unfit = {
        "lacks": sorted(expected.keys() - found.keys()),
        "has the unknown": sorted(found.keys() - expected.keys()),
        "has other shapes for": [
            f"{name} {list(found[name].shape)} instead of {list(own.shape)}"
            for name, own in expected.items()
            if name in found and found[name].shape != own.shape
        ],
    }
    reasons = [f"{what} {_some(names)}" for what, names in unfit.items() if names]
    if reasons:
        raise ModelError(
            f"{path.name} is not for its config: it {', '.join(reasons)}; give the config it was "
            "made with"
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# Configs ------------------------------------------------------------------------------------------


def _fields(path: Path, config: Config) -> dict[str, Any]:
    """The config fields that are given, or lie beside the weights."""
    if isinstance(config, Mapping):
        return dict(config)
    if hasattr(config, "d_model"):  # a config object
        return dict(vars(config))
    beside = (path.with_suffix(".json"), path.parent / "config.json")
    candidates = beside if config is None else (Path(config),)
    file = next((f for f in candidates if f.is_file()), None)
    if file is None:
        raise ModelError(
            f"{path.name} has no config: there is no {' or '.join(f.name for f in candidates)}; "
            "write one with the "
            f"network's {', '.join(REQUIRED_FIELDS)} and act_fn, or pass them as config={{...}}; "
            "of a module of your own, load_state_dict() the file into it and give the module"
        )
    try:
        given = json.loads(file.read_text())
    except ValueError as error:
        raise ModelError(f"{file.name} is not JSON: {first_line(error)}") from error
    if not isinstance(given, dict):
        raise ModelError(
            f"{file.name} has to be a JSON object with config fields, not a {type(given).__name__}"
        )
    return given


def _native_fields(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a `HookedTransformer` config as they are for the native network of the same
    function."""
    switches = [name for name in HOOKED_SWITCHES if given.get(name)]
    if given.get("positional_embedding_type") == "rotary":
        # halves here, adjacent pairs there
        switches.append("positional_embedding_type='rotary'")
    if given.get("use_attn_scale") is False:
        switches.append("use_attn_scale=False")
    if switches:
        raise ModelError(
            f"a HookedTransformer with {switches[0]} has no native counterpart; pass the "
            "HookedTransformer itself instead of its state dict"
        )
    if given.get("act_fn") is None and not given.get("attn_only"):
        raise ModelError("the config of a HookedTransformer needs its act_fn; add it")
    left_out = (*HOOKED_SWITCHES, *HOOKED_DETAILS)
    return {name: value for name, value in given.items() if name not in left_out}


def _bridge_config(path: Path, given: dict[str, Any]) -> TransformerBridgeConfig:
    """**Raises** `ModelError` for unknown, missing and impossible fields."""
    from transformer_lens.config import TransformerBridgeConfig

    if missing := [name for name in REQUIRED_FIELDS if name not in given]:
        raise ModelError(
            f"the config of {path.name} lacks {', '.join(missing)}; add what the network was made "
            "with"
        )
    known = _config_fields()
    if unknown := next((name for name in given if name not in known), None):
        raise ModelError(
            f"the config of {path.name} has an unknown field "
            f"{unknown!r}{did_you_mean(unknown, known)}"
        )
    if extra := next((name for name in NOT_NATIVE if given.get(name)), None):
        raise ModelError(
            f"the config of {path.name} has {extra}={given[extra]!r}, which a native network does "
            "not do; pass the model itself instead of a file"
        )
    lasting = {name: value for name, value in given.items() if name not in PASSING_FIELDS}
    with _or_error(_cannot_be_built(path)):
        return TransformerBridgeConfig(**lasting, device="cpu", init_weights=False)


def _config_fields() -> set[str]:
    from transformer_lens.config import TransformerBridgeConfig

    own = inspect.signature(TransformerBridgeConfig).parameters.values()
    named = (parameter.name for parameter in own if parameter.kind is not parameter.VAR_KEYWORD)
    inherited = (field.name for field in fields(TransformerBridgeConfig))
    return {*named, *inherited, *PASSING_FIELDS}


def _fields_to_save(config: TransformerBridgeConfig) -> dict[str, Any]:
    """The fields of a native network's config that are required or not at their defaults."""
    required = {
        name: getattr(config, name) for name in (*REQUIRED_FIELDS, "n_heads", "d_mlp", "act_fn")
    }
    plain = vars(type(config)(**required, device="cpu"))
    passing = (*PASSING_FIELDS, "architecture", "model_name")
    changed = {
        name: value
        for name, value in vars(config).items()
        if name not in passing and name in plain and value != plain[name]
    }
    return required | changed


@contextmanager
def _or_error(sentence: str) -> Iterator[None]:
    """Raises TransformerLens's complaint about a config as a `ModelError`."""
    try:
        yield
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError, AssertionError) as error:
        raise ModelError(f"{sentence}: {first_line(error)}") from error


def _cannot_be_built(path: Path) -> str:
    return f"the config of {path.name} cannot be built"


# Hugging Face folders -----------------------------------------------------------------------------


def _from_folder(folder: Path, device: str | torch.device, dtype: torch.dtype | None) -> nn.Module:
    """A Hugging Face model, a causal one in a bridge, without asking the hub for anything."""
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{str(folder)!r} is not a Hugging Face model: it has no config.json; write it with "
            "save_pretrained"
        )
    import transformers
    from safetensors import SafetensorError

    other = _other_kind(folder)
    try:
        loaded: Any = getattr(transformers, other or "AutoModelForCausalLM").from_pretrained(
            folder,
            dtype=dtype or torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        tokenizer = None
        if any((folder / name).is_file() for name in TOKENIZER_FILES):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"{str(folder)!r} cannot be loaded: {first_line(error)}; write it again"
        ) from error
    model, report = loaded
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if report[what]:
            names = sorted(map(str, report[what]))
            raise ModelError(
                f"the weights in {str(folder)!r} are not for its config.json "
                f"({what.replace('_', ' ')}: {_some(names)}); write the folder again"
            )
    model = model.to(device).eval()
    return cast(nn.Module, model) if other is not None else bridged(model, tokenizer)


def _other_kind(folder: Path) -> str | None:
    """The class of transformers that a folder says it holds, where that is no causal language
    model."""
    import transformers

    try:
        kind = str(json.loads((folder / "config.json").read_text())["architectures"][0])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    known, is_causal = getattr(transformers, kind, None), "ForCausalLM" in kind or "LMHead" in kind
    is_model = isinstance(known, type) and issubclass(known, transformers.PreTrainedModel)
    return kind if is_model and not is_causal else None
