"""Is every family read as its own hooks say, does the page say so, and would a mistake be seen?"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.families import PAGE
from tests.reference.family_hooks import FamilyHooks
from tests.reference.family_networks import FAMILIES, HEADS, twins
from tests.reference.family_table import (
    DIRECTLY,
    EVERY_PATH,
    REFUSED,
    TOLERANCE,
    examine,
    off_where_hidden,
    row,
    told,
)
from tests.sizes import few_in_quick, only_in_full

# One of each sort: learned positions; grouped and normalised queries; windows, caps and normalised
# blocks; blocks that read the stream as it is; biases for distance; post-norm; two sequences; no
# attention
FEW = ("GPT-2", "Qwen 3", "Gemma 2", "OLMo 2", "BLOOM", "BERT", "T5", "Mamba")
NAMES = [pytest.param(name, marks=() if name in FEW else only_in_full) for name in FAMILIES]


@few_in_quick(4)
@pytest.mark.parametrize("name", NAMES)
def test_a_family_is_read_as_its_own_hooks_say(name):
    found = examine(FAMILIES[name])
    wrong = {claim: off for claim, off in found.off.items() if not off <= TOLERANCE}
    assert not wrong
    assert found.read == REFUSED or len(found.off) > 0
    assert found.read != DIRECTLY or not found.said
    page = PAGE.read_text().splitlines()
    for line in [row(name, FAMILIES[name], found), *told(name, found)]:
        assert line in page, f"run make families: {line}"


@pytest.mark.parametrize("name", NAMES)
def test_the_hooks_stand_where_the_residual_stream_is_written(name):
    """What they take for the contributions of attention and MLPs is all that the stream gains."""
    family = FAMILIES[name]
    if family.mixers or family.wiring.final is None:
        pytest.skip("has no sum")
    hooks = FamilyHooks(family.build(), family.wiring, HEADS, family.inputs())
    assert max(map(hooks.unexplained, range(2))) < 1e-12


@few_in_quick(2)
@pytest.mark.parametrize(
    ("change", "claims"),
    [
        ({"scale": 0.5}, ["head", "head of a head", "MLP", "attention", "position"]),
        ({"reads": ("post_attention_layernorm",)}, ["head of a head"]),
        ({"key": "self_attn.v_proj"}, ["keys of a head"]),
        ({"mlp_reads": ("input_layernorm",)}, ["MLP of a head"]),
        ({"o": "self_attn.q_proj"}, ["head", "every path", "every path, position"]),
    ],
    ids=str,
)
def test_a_hook_in_the_wrong_place_is_seen(change, claims):
    family = FAMILIES["Arcee"]
    hooks = FamilyHooks(twins(family)[1], replace(family.wiring, **change), HEADS, family.inputs())
    found = examine(family, hooks, claims)
    assert {claim for claim, off in found.off.items() if off > TOLERANCE} == {*claims}


def test_a_bridge_that_is_another_network_is_not_believed():
    """Grouped queries of Falcon's new decoder, whose rows TransformerLens 4.3 takes in another
    order: the model itself is read, without the bridge."""
    falcon = FAMILIES["Falcon, new decoder"]
    found = examine(replace(falcon, options={**falcon.options, "multi_query": False}))
    assert found.read == EVERY_PATH
    theirs = "the bridge that TransformerLens makes of this FalconForCausalLM"
    assert f"{theirs} computes something else" in found.why
    assert found.off
    assert max(found.off.values()) <= TOLERANCE


@pytest.mark.parametrize(
    "name",
    ["GPT-2", *(pytest.param(one, marks=only_in_full) for one in ("OPT", "XGLM", "gpt-oss"))],
)
def test_rows_padded_on_the_left_are_read_as_the_model_has_them(name):
    """Where positions are learned they depend on the mask, or do not, as the model has it."""
    family = replace(FAMILIES[name], dtype=torch.float32)  # what sees nothing is NaN in float64
    found = off_where_hidden(family, family.mask().flip(1))
    assert len(found) == 9
    assert not {claim: off for claim, off in found.items() if not off <= TOLERANCE}


def test_the_page_has_every_family_once():
    named = [line.split(" | ")[0] for line in PAGE.read_text().splitlines() if line.count("|") > 10]
    assert named[2:] == [f"| {name}" for name in FAMILIES]
    assert len(FAMILIES) > 50
