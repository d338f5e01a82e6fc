"""SAEs that SAELens wrote: the same codes and the same decoding as SAELens's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_scrub import Dictionary, ModelError, load_dictionary
from pytest_scrub.network.encoders import NORMS
from tests.extras.dictionaries.written import SAES, SAVED, seen

CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def scale_of(dictionary: Dictionary, x: torch.Tensor) -> torch.Tensor | float:
    """What its codes hold beside SAELens's: what normalising divided by."""
    divided_by = NORMS[dictionary.encoder.norm](x)[1]
    return 1.0 if divided_by is None else divided_by


@pytest.mark.parametrize("name", SAES)
def test_codes_rows_and_error_are_those_of_the_package(name: str) -> None:
    dictionary, theirs = load_dictionary(SAVED / name), seen(name)
    x = theirs["x"]
    codes = dictionary.encode(x)
    scale = scale_of(dictionary, x)
    torch.testing.assert_close(codes, theirs["codes"] * scale, **CLOSE)
    assert codes.count_nonzero()
    if dictionary.at == dictionary.reads:
        units = theirs["codes"] @ load_file(SAVED / name / "sae_weights.safetensors")["W_dec"]
        if "rescaled" not in name:
            torch.testing.assert_close(
                dictionary.decode(codes) - dictionary.constant, units * scale
            )
    place = torch.randn_like(x)
    torch.testing.assert_close(dictionary.decode(codes) + dictionary.error(x, place), place)
    if dictionary.constant.any() or name == "topk":  # else SAELens adds the bias times the scale
        torch.testing.assert_close(dictionary.decode(codes), theirs["decoded"], **CLOSE)


@pytest.mark.parametrize("name", ["standard", "gated", "topk_rescaled", "jumprelu"])
def test_some_units_have_the_codes_that_they_have_among_all(name: str) -> None:
    dictionary, x = load_dictionary(SAVED / name), seen(name)["x"]
    units = torch.tensor([1, 4, 9])
    some = dictionary.only(units)
    torch.testing.assert_close(some.codes(x), dictionary.encode(x)[..., units])
    assert (some.encoder is dictionary.encoder) == (name == "topk_rescaled")


def test_where_it_stands_and_what_it_reads() -> None:
    sae, transcoder = load_dictionary(SAVED / "gated"), load_dictionary(SAVED / "transcoder")
    assert (str(sae.at), str(sae.reads)) == ("resid_pre.1", "resid_pre.1")
    assert (str(transcoder.at), str(transcoder.reads)) == ("mlp_out.1", "mlp_stream.1")
    assert sae.made_for == "a small network"
    moved = load_dictionary(SAVED / "gated", at="blocks.0.hook_mlp_out")
    assert str(moved.at) == "mlp_out.0"


def changed(tmp_path: Path, name: str = "standard", **fields: Any) -> Path:
    """A saved SAE with other fields in its configuration."""
    folder = tmp_path / name
    shutil.copytree(SAVED / name, folder)
    config = json.loads((folder / "cfg.json").read_text())
    config["metadata"] |= fields.pop("metadata", {})
    config = {name: value for name, value in {**config, **fields}.items() if value is not ...}
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_an_average_norm_that_is_not_known_is_asked_for(tmp_path: Path) -> None:
    folder = changed(tmp_path, normalize_activations="expected_average_only_in")
    with pytest.raises(
        ModelError, match=r"times a factor that its cfg.json does not hold; say sca"
    ):
        load_dictionary(folder)
    x = seen("standard")["x"]
    plain, scaled = load_dictionary(SAVED / "standard"), load_dictionary(folder, scale=2.0)
    # what was trained on twice the activations encodes and decodes those
    torch.testing.assert_close(scaled.encode(x), plain.encode(2 * x), **CLOSE)
    torch.testing.assert_close(
        2 * scaled.decode(scaled.encode(x)), plain.decode(plain.encode(2 * x))
    )
    with pytest.raises(ModelError, match="was not trained on scaled activations; leave scale= out"):
        load_dictionary(SAVED / "standard", scale=2.0)


def test_configurations_of_older_versions(tmp_path: Path) -> None:
    """`hook_point`, a bool for the norm, `activation_fn_str`, everything at the top."""
    folder = changed(
        tmp_path, "topk", architecture=..., k=..., metadata={"hook_name": None},
        hook_point="blocks.0.hook_resid_post", normalize_activations=False,
        activation_fn_str="topk", activation_fn_kwargs={"k": 3},
    )  # fmt: skip
    config = json.loads((folder / "cfg.json").read_text())
    del config["metadata"]
    (folder / "cfg.json").write_text(json.dumps(config))
    found = load_dictionary(folder)
    assert str(found.at) == "resid_post.0"
    torch.testing.assert_close(found.encode(seen("topk")["x"]), seen("topk")["codes"], **CLOSE)


def test_an_sae_of_what_heads_hand_on(tmp_path: Path) -> None:
    folder = changed(tmp_path, metadata={"hook_name": "blocks.1.attn.hook_z"})
    found = load_dictionary(folder)
    assert (str(found.at), found.at, found.place) == ("z.1", found.reads, "attn1")


def test_a_finetuned_factor_of_codes_is_in_the_rows(tmp_path: Path) -> None:
    folder = changed(tmp_path, finetuning_scaling_factor=True)
    own = load_file(folder / "sae_weights.safetensors")
    factor = torch.arange(1.0, 11.0)
    save_file({**own, "scaling_factor": factor}, folder / "sae_weights.safetensors")
    found = load_dictionary(folder)
    torch.testing.assert_close(found.rows, own["W_dec"] * factor[:, None])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown architecture": ({"architecture": "temporal"}, "architecture 'temporal', of which"),
    "another's tensors": ({"architecture": "gated"}, "lacks b_gate, b_mag, r_mag and has b_enc"),
    "one head": ({"metadata": {"hook_head_index": 3}}, "stands at head 3 of blocks.1.hook_resid"),
    "no hook": ({"metadata": {"hook_name": None}}, "does not say at which hook it reads; say rea"),
    "no place": (
        {"metadata": {"hook_name": "ln_final.hook_normalized"}},
        "stands at ln_final.hook_normalized, where no dictionary can stand; those of hook_resid",
    ),
    "a norm": ({"normalize_activations": "layernorm"}, "not 'layernorm'; did you mean 'layer_norm"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(case: str, tmp_path: Path) -> None:
    fields, message = REFUSED[case]
    with pytest.raises(ModelError, match=message):
        load_dictionary(changed(tmp_path, **fields))


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"has neither cfg.json \(SAELens\) nor config.yaml or lay"
    ):
        load_dictionary(tmp_path)
    folder = changed(tmp_path)
    (folder / "sae_weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ModelError, match=r"is no \.safetensors file that can be read"):
        load_dictionary(folder)
    (folder / "cfg.json").write_text("[")
    with pytest.raises(ModelError, match=r"cfg.json cannot be read \(Expecting value"):
        load_dictionary(folder)
    with pytest.raises(ModelError, match="not from a dict; Dictionary"):
        load_dictionary({})
