"""Transcoders as circuit-tracer keeps them on disk, one file for each layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytest_scrub import Dictionary, ModelError
from pytest_scrub.extras.dictionaries.tensors import read_tensors
from pytest_scrub.network.encoders import Rectified

CONFIG = "config.yaml"
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
    if kind != "transcoder_set" or (folder / "W_enc_0.safetensors").is_file():
        raise ModelError(
            f"{folder} holds a cross-layer transcoder, whose units write at several layers, and "
            "claims about those are not made; take a set of transcoders, one for each layer"
        )
    listed = config.get("transcoders")
    count = len(list(folder.glob("layer_*.safetensors")) if listed is None else listed)
    if layer is None or not 0 <= layer < count:
        raise ModelError(
            f"{folder} holds {count} transcoders, one for each layer; say which, layer=0"
            f"{f' to {count - 1}' if count > 1 else ''}, not {layer!r}"
        )
    name = f"layer_{layer}.safetensors" if listed is None else str(listed[layer])
    if "://" in name:
        raise ModelError(f"{folder / CONFIG} names {name}; download it, and name the file there")
    hooks = {"at": at, "reads": reads}
    for option, field in (("at", "feature_output_hook"), ("reads", "feature_input_hook")):
        within = config.get(field)
        if hooks[option] is None and within is None:
            raise ModelError(
                f"{folder / CONFIG} does not say {field}; say {option}='blocks.{layer}."
                f"{'hook_mlp_out' if option == 'at' else 'hook_resid_mid'}' or whichever it is"
            )
        hooks[option] = hooks[option] or f"blocks.{layer}.{within}"
    return _dictionary(folder / name, names=names, made_for=config.get("model_name"), **hooks)


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
    if threshold is not None and threshold.min() < 0:
        raise ModelError(
            f"{path} has thresholds below zero, where its codes are negative, which no unit's are"
        )
    # its encoder's rows are the units
    encoder = Rectified(own["W_enc"].T, own["b_enc"], threshold=threshold)
    return Dictionary(encoder, None, own["W_dec"], own["b_dec"], **options)
