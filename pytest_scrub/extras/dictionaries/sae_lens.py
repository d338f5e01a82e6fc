"""SAEs and transcoders as SAELens keeps them, in memory or on disk; SAELens is not needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pytest_scrub import Dictionary, ModelError
from pytest_scrub.extras.dictionaries.tensors import read_tensors
from pytest_scrub.network.encoders import Encoder, Gated, Rectified, TopK

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
COMMON = {"W_enc", "W_dec", "b_dec"}
# the tensors that each has beside those
ARCHITECTURES = {
    "standard": {"b_enc"},
    "gated": {"b_gate", "r_mag", "b_mag"},
    "topk": {"b_enc"},
    "jumprelu": {"b_enc", "threshold"},
    "transcoder": {"b_enc"},
    "skip_transcoder": {"b_enc", "W_skip"},
    "jumprelu_transcoder": {"b_enc", "threshold"},
    "jumprelu_skip_transcoder": {"b_enc", "threshold", "W_skip"},
}
SCALED = "expected_average_only_in"
# Of versions before 6.
OLD_NAMES = {"hook_point": "hook_name", "activation_fn_str": "activation_fn"}


def is_sae(source: object) -> bool:
    """Whether it is an SAE of SAELens, by what its class comes from."""
    return any(
        cls.__module__.partition(".")[0] == "sae_lens" and cls.__name__ == "SAE"
        for cls in type(source).__mro__
    )


def of_object(sae: Any, **options: Any) -> Dictionary:
    """The dictionary of an SAE in memory."""
    what = type(sae).__name__
    return _dictionary(what, sae.cfg.to_dict(), dict(sae.state_dict(keep_vars=True)), **options)


def of_folder(folder: Path, **options: Any) -> Dictionary:
    """The dictionary in a folder. **Raises** `ModelError` where it cannot be read."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} holds no fields of a configuration")
    return _dictionary(str(folder), config, read_tensors(folder / WEIGHTS), **options)


def _dictionary(
    what: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    *,
    at: str | None,
    reads: str | None,
    scale: float | None,
    names: Mapping[int, str] | None,
) -> Dictionary:
    config = _up_to_date(config)
    own = {name: tensor.detach() for name, tensor in tensors.items()}
    own = _finetuned(what, config, own)
    architecture = config["architecture"]
    _require_tensors(what, architecture, own)
    own = _scaled(what, config, own, scale)
    metadata = {**config, **(config.get("metadata") or {})}
    if metadata.get("hook_head_index") is not None:
        raise ModelError(
            f"{what} stands at head {metadata['hook_head_index']} of {metadata.get('hook_name')} "
            "alone, which is no place of the residual stream; take a dictionary of hook_attn_out"
        )
    is_transcoder = "transcoder" in architecture
    read = reads or metadata.get("hook_name")
    stands = at or metadata.get("hook_name_out" if is_transcoder else "hook_name")
    for option, hook in (("reads", read), ("at", stands)):
        if hook is None:
            raise ModelError(
                f"{what} does not say at which hook it {'stands' if option == 'at' else 'reads'}; "
                f"say {option}='blocks.0.hook_mlp_out', with the right layer and hook"
            )
    rows, encoder = _parts(config, own, is_transcoder)
    return Dictionary(
        encoder,
        None,
        rows,
        own["b_dec"],
        at=str(stands),
        reads=str(read) if is_transcoder or reads else None,
        names=names,
        made_for=metadata.get("model_name"),
    )


def _up_to_date(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields under today's names, with what older versions left out."""
    now = {OLD_NAMES.get(name, name): value for name, value in config.items()}
    now.setdefault("architecture", "standard")
    if now.get("activation_fn") == "topk":
        now.update(architecture="topk", k=(now.get("activation_fn_kwargs") or {}).get("k"))
    normalize = now.get("normalize_activations")
    if isinstance(normalize, bool):
        normalize = SCALED if normalize else None
    now["normalize_activations"] = normalize or "none"
    return now


def _finetuned(
    what: str, config: Mapping[str, Any], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Without the factor of each code that older versions multiplied rows with."""
    factor = tensors.pop("finetuning_scaling_factor", tensors.pop("scaling_factor", None))
    if factor is None or torch.equal(factor, torch.ones_like(factor)):
        return tensors
    if not config.get("finetuning_scaling_factor"):
        raise ModelError(f"{what} has a scaling_factor that its {CONFIG} does not speak of")
    return {**tensors, "W_dec": tensors["W_dec"] * factor[:, None]}


def _require_tensors(what: str, architecture: object, tensors: Mapping[str, Tensor]) -> None:
    """**Raises** `ModelError` for an architecture that is not known, and where tensors lack or are
    too many: what is not understood may matter."""
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{what} is of the architecture {architecture!r}, of which the codes are not known; "
            f"known are {', '.join(ARCHITECTURES)}"
        )
    needed = COMMON | ARCHITECTURES[str(architecture)]
    if needed != {*tensors}:
        lacking, more = sorted(needed - {*tensors}), sorted({*tensors} - needed)
        told = [f"lacks {', '.join(lacking)}"] * bool(lacking)
        told += [f"has {', '.join(more)}, of which nothing is known"] * bool(more)
        raise ModelError(f"{what} is said to be {architecture}, but {' and '.join(told)}")


def _scaled(
    what: str, config: dict[str, Any], tensors: dict[str, Tensor], scale: float | None
) -> dict[str, Tensor]:
    """With the factor of what is read in the weights."""
    if config["normalize_activations"] != SCALED:
        if scale is not None:
            raise ModelError(f"{what} was not trained on scaled activations; leave scale= out")
        return tensors
    if scale is None:
        raise ModelError(
            f"{what} was trained on activations times a factor that its {CONFIG} does not hold; "
            "say scale=, or 1.0 where the factor is in the weights"
        )
    config["normalize_activations"] = "none"
    return {
        **tensors,
        "W_enc": tensors["W_enc"] * scale,
        "W_dec": tensors["W_dec"] / scale,
        "b_dec": tensors["b_dec"] / scale,
    }


def _parts(
    config: Mapping[str, Any], own: Mapping[str, Tensor], is_transcoder: bool
) -> tuple[Tensor, Encoder]:
    """The rows, and the encoder."""
    rows, weights, bias = own["W_dec"], own["W_enc"], own.get("b_enc", own.get("b_mag"))
    assert bias is not None
    if config.get("rescale_acts_by_decoder_norm"):
        length = rows.norm(dim=-1)
        rows, weights, bias = rows / length[:, None], weights * length, bias * length
    is_centred = not is_transcoder and config.get("apply_b_dec_to_input", True)
    reading: dict[str, Any] = {
        "W_enc": weights,
        "b_enc": bias,
        "centre": own["b_dec"] if is_centred else None,
        "norm": config["normalize_activations"],
        "undone": not is_transcoder,
    }
    if config["architecture"] == "gated":
        return rows, Gated(**reading, b_gate=own["b_gate"], gain=own["r_mag"].exp())
    if config["architecture"] == "topk":
        return rows, TopK(**reading, k=config["k"])
    return rows, Rectified(**reading, threshold=own.get("threshold"))
