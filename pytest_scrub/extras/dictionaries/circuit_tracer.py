"""Transcoders as circuit-tracer keeps them on disk, one file for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_scrub import Dictionary, ModelError
from pytest_scrub.extras.dictionaries.tensors import read_tensors
from pytest_scrub.network.encoders import Rectified

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.yaml"
CROSS_LAYER = "cross_layer_transcoder"
CROSS_LAYER_HOOKS = {
    "feature_input_hook": "hook_resid_mid",
    "feature_output_hook": "hook_mlp_out",
}
THRESHOLD = "activation_function.threshold"
NEEDED = {"W_enc", "W_dec", "b_enc", "b_dec"}
KNOWN = NEEDED | {THRESHOLD, "W_skip"}


def is_folder(folder: Path) -> bool:
    """Whether a folder is one of circuit-tracer's."""
    names = (CONFIG, "layer_0.safetensors", "W_enc_0.safetensors")
    return any((folder / name).is_file() for name in names)


def of_folder(
    folder: Path,
    layer: int | None,
    *,
    at: str | None,
    reads: str | None,
    names: Mapping[int, str] | None,
) -> Dictionary:
    """The transcoder of one layer. **Raises** `ModelError` where it cannot be read."""
    config = _config(folder / CONFIG)
    kind = config.get("model_kind", "transcoder_set")
    if kind not in ("transcoder_set", CROSS_LAYER):
        raise ModelError(f"{folder / CONFIG} says {kind!r}, of which nothing is known")
    crosses = kind == CROSS_LAYER or (folder / "W_enc_0.safetensors").is_file()
    listed = None if crosses else config.get("transcoders")
    each = "W_enc_*.safetensors" if crosses else "layer_*.safetensors"
    count = len(list(folder.glob(each)) if listed is None else listed)
    if layer is None or not 0 <= layer < count:
        raise ModelError(
            f"{folder} holds {count} transcoders, one for each layer; say which, layer=0"
            f"{f' to {count - 1}' if count > 1 else ''}, not {layer!r}"
        )
    name = f"layer_{layer}.safetensors" if listed is None else str(listed[layer])
    if "://" in name:
        raise ModelError(f"{folder / CONFIG} names {name}; download it, and name the file there")
    hooks = {"at": at, "reads": reads}
    if crosses:  # what circuit-tracer takes where nothing is said
        config = {**CROSS_LAYER_HOOKS, **config}
    for option, field in (("at", "feature_output_hook"), ("reads", "feature_input_hook")):
        within = config.get(field)
        if hooks[option] is None and within is None:
            raise ModelError(
                f"{folder / CONFIG} does not say {field}; say {option}='blocks.{layer}."
                f"{'hook_mlp_out' if option == 'at' else 'hook_resid_mid'}' or whichever it is"
            )
        hooks[option] = hooks[option] or f"blocks.{layer}.{within}"
    options: dict[str, Any] = {"names": names, "made_for": config.get("model_name"), **hooks}
    if crosses:
        return _of_cross_layer(folder, layer, count, options)
    return _dictionary(folder / name, **options)


def _of_cross_layer(folder: Path, layer: int, count: int, options: dict[str, Any]) -> Dictionary:
    """One layer of a cross-layer transcoder. A skip term, where there is one, is nobody's."""
    encoding, writing = folder / f"W_enc_{layer}.safetensors", folder / f"W_dec_{layer}.safetensors"
    own = {**read_tensors(encoding), **read_tensors(writing)}
    names = {f"{name}_{layer}": name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")}
    lacking = sorted(names.keys() - own.keys() - {f"threshold_{layer}"})
    more = sorted(own.keys() - names.keys())
    if lacking or more:
        told = [f"lack {', '.join(lacking)}"] * bool(lacking)
        told += [f"have {', '.join(more)}, of which nothing is known"] * bool(more)
        raise ModelError(
            f"{encoding} and {writing.name} are no layer of a cross-layer transcoder: they "
            f"{' and '.join(told)}"
        )
    tensors = {names[name]: tensor for name, tensor in own.items()}
    rows, threshold = tensors["W_dec"], tensors.get("threshold")
    if rows.ndim != 3 or rows.shape[1] != count - layer:
        raise ModelError(
            f"{writing} has rows of shape {list(rows.shape)}, not [units, {count - layer}, "
            "d_model], one for each layer from its own on"
        )
    _require_positive(encoding, threshold)
    encoder = Rectified(tensors["W_enc"].T, tensors["b_enc"], threshold=threshold)
    return Dictionary(encoder, None, rows, part_of=str(folder.resolve()), **options)


def _config(path: Path) -> Mapping[str, Any]:
    """The fields of its configuration, none where there is none."""
    import yaml

    if not path.is_file():
        return {}
    try:
        config = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{path} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no fields of a configuration")
    return config


def _dictionary(path: Path, **options: Any) -> Dictionary:
    own = read_tensors(path)
    lacking, more = sorted(NEEDED - {*own}), sorted({*own} - KNOWN)
    if lacking or more:
        told = [f"lacks {', '.join(lacking)}"] * bool(lacking)
        told += [f"has {', '.join(more)}, of which nothing is known"] * bool(more)
        raise ModelError(f"{path} is no transcoder of circuit-tracer: it {' and '.join(told)}")
    threshold = own.get(THRESHOLD)
    _require_positive(path, threshold)
    # its encoder's rows are the units
    encoder = Rectified(own["W_enc"].T, own["b_enc"], threshold=threshold)
    return Dictionary(encoder, None, own["W_dec"], own["b_dec"], **options)


def _require_positive(path: Path, threshold: Tensor | None) -> None:
    if threshold is not None and threshold.min() < 0:
        raise ModelError(
            f"{path} has thresholds below zero, where its codes are negative, which no unit's are"
        )
