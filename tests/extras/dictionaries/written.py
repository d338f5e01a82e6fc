"""Dictionaries that SAELens and circuit-tracer wrote, with what they say of some activations.

The files lie in `tests/saved/dictionaries`. `python -m tests.extras.dictionaries.written` writes
them anew where SAELens is installed (`make compat` makes such an environment); those of
circuit-tracer only where it is installed too.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.places import ROOT

SAVED = ROOT / "tests/saved/dictionaries"
SEEN = "seen.safetensors"  # x, and what the package makes of it: codes, decoded
D_IN, UNITS = 6, 10
HOOK, HOOK_OUT = "blocks.1.hook_resid_pre", "blocks.1.hook_mlp_out"
HOOK_Z, HOOK_MID = "blocks.1.attn.hook_z", "blocks.1.hook_resid_mid"
# by folder: SAELens's architecture, and what its configuration says
SAES: dict[str, tuple[str, dict[str, Any]]] = {
    "standard": ("standard", {}),
    "standard_as_it_is": ("standard", {"apply_b_dec_to_input": False}),
    "standard_layer_norm": ("standard", {"normalize_activations": "layer_norm"}),
    "gated": ("gated", {}),
    "gated_constant_norm": ("gated", {"normalize_activations": "constant_norm_rescale"}),
    "topk": ("topk", {"k": 3}),
    "topk_rescaled": ("topk", {"k": 3, "rescale_acts_by_decoder_norm": True}),
    "jumprelu": ("jumprelu", {}),
    "transcoder": ("transcoder", {"d_out": D_IN, "apply_b_dec_to_input": False}),
    "skip_transcoder": ("skip_transcoder", {"d_out": D_IN, "apply_b_dec_to_input": False}),
    "jumprelu_transcoder": ("jumprelu_transcoder", {"d_out": D_IN, "apply_b_dec_to_input": False}),
}


def seen(name: str) -> dict[str, Tensor]:
    return load_file(SAVED / name / SEEN)


def made_by_sae_lens(
    name: str, width: int = D_IN, dtype: str = "float32", seed: int = 0, at: str = HOOK
) -> Any:
    """An SAE of SAELens, with random weights."""
    import sae_lens
    from sae_lens.registry import get_sae_class
    from sae_lens.saes.sae import SAEMetadata

    assert sae_lens
    architecture, options = SAES[name]
    made, config = get_sae_class(architecture)
    hooks = {"hook_name": at, "model_name": "a small network"}
    if "transcoder" in architecture:
        options = {**options, "d_out": width}
        hooks |= {"hook_name": "blocks.1.hook_mlp_in", "hook_name_out": HOOK_OUT}
    if at == HOOK_Z:  # it lays what each head hands on side by side
        options = {**options, "reshape_activations": "hook_z"}
    metadata = SAEMetadata(**hooks)
    sae = made(config(d_in=width, d_sae=UNITS, dtype=dtype, metadata=metadata, **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in sae.named_parameters():
            drawn = 0.5 * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.copy_(drawn.abs() if key == "threshold" else drawn)
    return sae


def write() -> None:
    for name in SAES:
        folder = SAVED / name
        sae = made_by_sae_lens(name)
        sae.save_model(folder)
        x = torch.randn(4, 3, D_IN, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            codes = sae.encode(x)
            save_file({"x": x, "codes": codes, "decoded": sae.decode(codes)}, folder / SEEN)
    with contextlib.suppress(ImportError):
        _write_transcoders(SAVED / "circuit_tracer")
        _write_cross_layer(SAVED / "cross_layer")


def _write_transcoders(folder: Path) -> None:
    """A layer with thresholds, and one with a skip term."""
    from circuit_tracer.transcoder.activation_functions import JumpReLU
    from circuit_tracer.transcoder.single_layer_transcoder import SingleLayerTranscoder

    folder.mkdir(exist_ok=True)
    fields = {"hook_resid_mid": "feature_input_hook", "hook_mlp_out": "feature_output_hook"}
    lines = ["model_kind: transcoder_set", "model_name: a small network"]
    lines += [f"{field}: {hook}" for hook, field in fields.items()]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    generator, found = torch.Generator().manual_seed(0), {}
    for layer in range(2):
        threshold = torch.rand(UNITS, generator=generator)
        activation = JumpReLU(threshold) if layer == 0 else torch.nn.functional.relu
        made = SingleLayerTranscoder(
            D_IN, UNITS, activation, layer, skip_connection=layer == 1,
            device=torch.device("cpu"), dtype=torch.float32,
        )  # fmt: skip
        with torch.no_grad():
            for key, tensor in made.named_parameters():
                if not key.endswith("threshold"):
                    tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
            made.to_safetensors(str(folder / f"layer_{layer}.safetensors"))
            x = torch.randn(4, 3, D_IN, generator=generator)
            codes = made.encode(x)
            skip = made.compute_skip(x) if layer == 1 else 0.0
            found |= {f"x{layer}": x, f"codes{layer}": codes}
            found |= {f"decoded{layer}": made.decode(codes, x) - skip}
    save_file(found, folder / SEEN)


def _write_cross_layer(folder: Path) -> None:
    """A cross-layer transcoder of two layers."""
    from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder

    made = CrossLayerTranscoder(
        2, UNITS, D_IN, activation_function="jump_relu", lazy_decoder=False,
        device=torch.device("cpu"), dtype=torch.float32,
    )  # fmt: skip
    generator, found = torch.Generator().manual_seed(0), {}
    with torch.no_grad():
        for tensor in made.parameters():
            tensor.copy_(0.5 * torch.randn(tensor.shape, generator=generator))
        threshold = torch.rand(2, 1, UNITS, generator=generator)
        made.activation_function.threshold.copy_(threshold)
        made.to_safetensors(str(folder))
        for layer in range(2):
            x = torch.randn(12, D_IN, generator=generator)
            codes = made.encode_layer(x, layer)
            found |= {f"x{layer}": x, f"codes{layer}": codes}
        # what all units write at each layer, without the bias
        both = torch.stack([found["codes0"], found["codes1"]])
        found["written"] = made.decode(both) - made.b_dec[:, None]
    lines = ["model_kind: cross_layer_transcoder", "model_name: a small network"]
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")
    save_file(found, folder / SEEN)


if __name__ == "__main__":
    sys.exit(write())
