"""Transcoders that circuit-tracer wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_scrub import ModelError, load_dictionary
from tests.extras.dictionaries.written import SAVED, seen

FOLDER = SAVED / "circuit_tracer"


@pytest.mark.parametrize("layer", [0, 1])
def test_codes_rows_and_error_are_those_of_the_package(layer: int) -> None:
    found, theirs = load_dictionary(FOLDER, layer=layer), seen("circuit_tracer")
    x = theirs[f"x{layer}"]
    torch.testing.assert_close(found.encode(x), theirs[f"codes{layer}"])
    # without the skip term, which belongs to the error
    torch.testing.assert_close(found.decode(found.encode(x)), theirs[f"decoded{layer}"])
    assert (str(found.at), str(found.reads)) == (f"mlp_out.{layer}", f"resid_mid.{layer}")
    assert found.made_for == "a small network"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER, tmp_path / "transcoders"))


def test_files_that_the_configuration_lists(folder: Path) -> None:
    (folder / "layer_1.safetensors").rename(folder / "there.safetensors")
    with (folder / "config.yaml").open("a") as config:
        config.write("transcoders: [hf://a/b/c.safetensors, there.safetensors]\n")
    assert load_dictionary(folder, layer=1).units == 10
    with pytest.raises(ModelError, match=r"names hf://a/b/c.safetensors; download it"):
        load_dictionary(folder, layer=0)


@pytest.mark.parametrize("layer", [None, 2, -1])
def test_a_layer_is_to_be_named(layer: int | None) -> None:
    with pytest.raises(ModelError, match=f"holds 2 transcoders.*layer=0 to 1, not {layer}"):
        load_dictionary(FOLDER, layer=layer)


def test_hooks_that_it_does_not_say(folder: Path) -> None:
    (folder / "config.yaml").unlink()
    with pytest.raises(ModelError, match=r"does not say feature_output_hook; say at='blocks.1"):
        load_dictionary(folder, layer=1)
    found = load_dictionary(
        folder, layer=1, at="blocks.1.hook_mlp_out", reads="blocks.1.ln2.hook_normalized"
    )
    assert str(found.reads) == "normalized.1"


def test_what_is_not_understood_is_refused(folder: Path) -> None:
    path = folder / "layer_0.safetensors"
    own = load_file(path)
    save_file({**own, "W_more": own["W_enc"].clone()}, path)
    with pytest.raises(ModelError, match="has W_more, of which nothing is known"):
        load_dictionary(folder, layer=0)
    save_file({**own, "activation_function.threshold": torch.full((10,), -1.0)}, path)
    with pytest.raises(ModelError, match="thresholds below zero"):
        load_dictionary(folder, layer=0)
    config = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(config.replace("transcoder_set", "another"))
    with pytest.raises(ModelError, match=r"config.yaml says 'another', of which nothing is known"):
        load_dictionary(folder, layer=0)
    (folder / "config.yaml").write_text("- a list\n")
    with pytest.raises(ModelError, match="holds no fields of a configuration"):
        load_dictionary(folder, layer=0)


CROSS = SAVED / "cross_layer"


def test_layers_of_a_cross_layer_transcoder_are_those_of_the_package() -> None:
    theirs = seen("cross_layer")
    found = [load_dictionary(CROSS, layer=layer) for layer in (0, 1)]
    codes = [own.encode(theirs[f"x{layer}"]) for layer, own in enumerate(found)]
    for layer, own in enumerate(found):
        torch.testing.assert_close(codes[layer], theirs[f"codes{layer}"])
        assert (str(own.at), str(own.reads)) == (f"mlp_out.{layer}", f"resid_mid.{layer}")
        assert own.crosses
        assert own.part_of == str(CROSS.resolve())
    here = codes[0] @ found[0].rows
    after = codes[0] @ found[0].later[:, 0] + codes[1] @ found[1].rows
    torch.testing.assert_close(torch.stack([here, after]), theirs["written"])
    assert found[1].later.shape[1] == 0


def test_what_is_no_cross_layer_transcoder_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(CROSS, tmp_path / "clt"))
    with pytest.raises(ModelError, match=r"holds 2 transcoders.*layer=0 to 1, not 2"):
        load_dictionary(folder, layer=2)
    encoding, writing = folder / "W_enc_0.safetensors", folder / "W_dec_0.safetensors"
    own, rows = load_file(encoding), load_file(writing)
    save_file({**own, "kan_0": own["b_enc_0"].clone()}, encoding)
    with pytest.raises(ModelError, match="they have kan_0, of which nothing is known"):
        load_dictionary(folder, layer=0)
    save_file({name: tensor for name, tensor in own.items() if name != "b_enc_0"}, encoding)
    with pytest.raises(ModelError, match="they lack b_enc_0"):
        load_dictionary(folder, layer=0)
    save_file({**own, "threshold_0": -own["threshold_0"]}, encoding)
    with pytest.raises(ModelError, match="thresholds below zero"):
        load_dictionary(folder, layer=0)
    save_file(own, encoding)
    save_file({"W_dec_0": rows["W_dec_0"][:, :1].clone()}, writing)
    with pytest.raises(
        ModelError, match=r"has rows of shape \[10, 1, 6\], not \[units, 2, d_model\]"
    ):
        load_dictionary(folder, layer=0)
