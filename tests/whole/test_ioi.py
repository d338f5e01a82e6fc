"""The indirect-object example without GPT-2's weights: its prompts, its trees on small random
networks, its loading."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from example_circuits.ioi import claims, data
from example_circuits.ioi.conftest import FOLDER, ROWS, SEED
from pytest_scrub import DataError, Evaluator, SwapSpace, logit_difference, meaning
from pytest_scrub.network import as_graph
from pytest_scrub.settings import Settings
from pytest_scrub.tree.paths import node_paths
from tests.reference.bridges import BridgeNetwork
from tests.reference.generate import Architecture, build
from tests.sizes import only_in_full, sized

EXAMPLE = Path(data.__file__).parent
METRIC = logit_difference(against="s")
ENCODE = data.word_ids()
PROMPTS = data.prompts(ROWS, SEED)
TREES = {
    "writers": claims.writers,
    "ten writers": claims.ten_writers,
    "first name only": lambda: claims.writers(agrees_on="order"),
    "others": lambda: claims.writers(claims.OTHERS),
    "two levels": claims.two_levels,
    "only which": lambda: claims.two_levels(["s"]),
    "only where": lambda: claims.two_levels(["order"]),
    "copied tokens": claims.copied_tokens,
    "circuit": claims.circuit,
    "duplicate token heads": claims.duplicate_token_heads,
}
CLAIMS = len(TREES)  # in the example: one for each tree


@pytest.fixture(scope="module")
def dataset():
    return data.dataset(PROMPTS, ENCODE)


@pytest.fixture(scope="module")
def small():
    """12 layers of 12 heads like GPT-2 small, 48 wide, in float64, with weights that all matter."""
    shape = Architecture(
        "gpt2", n_layers=12, n_heads=12, n_kv_heads=12, d_head=4, d_model=48, n_ctx=24, d_vocab=128
    )
    return build(shape).bridge


# Prompts ------------------------------------------------------------------------------------------


def test_prompts_are_different_and_follow_from_their_seed():
    assert len({prompt.text for prompt in PROMPTS}) == ROWS
    assert data.prompts(ROWS, SEED) == PROMPTS
    assert len({*PROMPTS} & {*data.prompts(ROWS, SEED + 1)}) < ROWS / 100  # of a million and more


def test_every_template_order_name_place_and_thing_comes_up():
    for field, values in {
        "template": range(len(data.TEMPLATES)), "order": data.ORDERS, "io": data.NAMES,
        "s": data.NAMES,
        "place": data.PLACES, "thing": data.THINGS,
    }.items():  # fmt: skip
        counts = Counter(getattr(prompt, field) for prompt in PROMPTS)
        assert counts.keys() == {*values}
        assert min(counts.values()) > ROWS / len(values) / 2


def test_a_prompt_is_its_template_with_the_subject_twice_and_the_indirect_object_once():
    for prompt in PROMPTS:
        first, second = (prompt.io, prompt.s) if prompt.order == "ABBA" else (prompt.s, prompt.io)
        whole = data.TEMPLATES[prompt.template].format(
            first=first, second=second, s2=prompt.s, place=prompt.place, thing=prompt.thing
        )
        assert prompt.text == whole
        words = Counter(whole.replace(",", "").replace(".", "").split())
        named = {name: words[name] for name in data.NAMES if words[name]}
        assert named == {prompt.s: 2, prompt.io: 1}
        assert whole.endswith(" to")


def test_positions_are_where_the_names_are(dataset):
    tokens = dataset.inputs["tokens"].numpy()
    rows = np.arange(ROWS)

    def at(name):
        return tokens[rows, dataset.feature(name)]

    position, io, s = dataset.feature, dataset.feature("io"), dataset.feature("s")
    assert (io == dataset.labels.numpy()).all()
    assert (io != s).all()
    assert (at("io_at") == io).all()
    assert (at("s1_at") == s).all()
    assert (at("s2_at") == s).all()
    assert ((tokens == io[:, None]).sum(1) == 1).all()
    assert ((tokens == s[:, None]).sum(1) == 2).all()
    assert (position("after_s1") == position("s1_at") + 1).all()
    assert (position("after_s1") < position("s2_at")).all()
    assert (position("io_at") < position("s2_at")).all()
    assert (position("s2_at") < position("end")).all()
    assert (at("end") == ENCODE(" to")[0]).all()
    assert ((tokens != data.PAD).sum(1) == position("end") + 1).all()
    assert ((position("io_at") < position("s1_at")) == (position("order") == "ABBA")).all()
    assert len({*position("s2_at").tolist()}) > 2  # a fixed position would do for none of them


def test_rows_are_shown_as_text(dataset):
    assert [dataset.show(row) for row in range(20)] == [prompt.text for prompt in PROMPTS[:20]]


def test_positions_count_the_tokens_of_longer_words():
    """All words but names are two tokens: position p becomes 2p, less one for every name before
    it."""
    words = data.dataset(PROMPTS, ENCODE)
    longer = data.dataset(
        PROMPTS, lambda piece: list(ENCODE(piece)) * (1 if piece[1:] in data.NAMES else 2)
    )
    names_before = {
        "io_at": words.feature("order") == "BABA",
        "s1_at": words.feature("order") == "ABBA",
        "s2_at": 2,
    }
    for name, before in names_before.items():
        assert (longer.feature(name) == 2 * words.feature(name) - before).all()
    assert (longer.feature("end") == 2 * words.feature("end") + 1 - 3).all()


# Claims -------------------------------------------------------------------------------------------


def components(tree):
    return [node.component for _, node, _ in node_paths(tree) if node.component.startswith("head")]


def test_the_circuit_has_26_heads():
    assert len({*claims.CIRCUIT}) == len(claims.CIRCUIT) == 26
    assert {*components(claims.circuit())} == {
        f"head{layer}.{which}" for layer, which in claims.CIRCUIT
    }
    assert len(components(claims.ten_writers())) == 10
    assert not {*claims.OTHERS} & {*claims.CIRCUIT}
    assert Counter(layer for layer, _ in claims.OTHERS) == Counter(
        layer for layer, _ in claims.WRITERS
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("two levels", marks=only_in_full),
        pytest.param("copied tokens", marks=only_in_full),
        pytest.param("circuit", marks=only_in_full),
        "duplicate token heads",
    ],
)
def test_engine_and_reference_agree(name, small, dataset):
    """On a tree of some size, with keys, queries and values of their own and positions that differ
    by row."""
    tree = TREES[name]()
    evaluator = Evaluator(as_graph(small), dataset, tree, METRIC)
    swap_set = evaluator.space.draw(sized(1, 2), np.random.default_rng(0))
    io, s = (dataset.feature(name)[swap_set.references] for name in ("io", "s"))
    logits = torch.cat(
        meaning.outputs(BridgeNetwork(small, dataset), tree, dataset, swap_set, "end")
    ).numpy()
    theirs = np.diag(logits[:, io] - logits[:, s])
    mine = evaluator.evaluate(swap_set)
    assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-9)
    # the swaps were no small matter
    assert abs(mine - evaluator.unscrubbed(swap_set.references)).min() > 1e-3


@pytest.mark.parametrize("name", TREES)
def test_every_node_has_donors(name, dataset):
    """None would be untested, and by far: both of a claim's own thresholds."""
    space = SwapSpace(TREES[name](), dataset)
    swapped = [i for i, slot in enumerate(space.slots) if not slot.agrees_on.exact]
    moved = space.moved(space.draw(400, np.random.default_rng(0))).mean(1)
    assert min(space.support()[i].share for i in swapped) > 0.9 > Settings.min_with_other
    assert min(moved[i] for i in swapped) > 0.5 > Settings.min_moved


# Loading ------------------------------------------------------------------------------------------


def save_network(folder: Path, merged: bool) -> None:
    """A small GPT-2 with a tokenizer of GPT-2's kind: of whole words, or of bytes alone where not
    `merged`."""
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(
        [prompt.text for prompt in PROMPTS], vocab_size=2_000 if merged else 257,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
    )  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=12, n_head=12, n_embd=48, vocab_size=len(tokenizer), n_positions=64,
        initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(folder)


@pytest.fixture
def example(pytester, warm, monkeypatch):
    """The example in a folder of its own, where its run leaves nothing behind; a function runs
    it."""
    package = pytester.path / "example_circuits"
    shutil.copytree(EXAMPLE, package / "ioi", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(EXAMPLE.parent / "__init__.py", package)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(pytester.path / "hub"))
    monkeypatch.delenv(FOLDER, raising=False)
    common = ("-p", "no:randomly", "-n0", "example_circuits/ioi", "-rs")
    return lambda *args: pytester.runpytest_subprocess(*common, *args)


@only_in_full
def test_all_claims_run_on_a_folder(example, pytester, monkeypatch):
    save_network(pytester.path / "small", merged=True)
    monkeypatch.setenv(FOLDER, str(pytester.path / "small"))
    # The largest tree has a test of its own above: node by node it is evaluated 269 times.
    result = example("--scrub-json=verdicts.json", "--scrub-adversary=none", "-k", "not 26")
    assert not result.parseoutcomes().keys() & {"skipped", "errors", "error"}
    found = json.loads((pytester.path / "verdicts.json").read_text())["claims"]
    assert len(found) == CLAIMS - 1
    nodes = [node for one in found for node in one["verdict"]["nodes"] if node["must_be_tested"]]
    assert nodes
    assert all(node["is_tested"] for node in nodes)
    # What the writers write makes no difference in a random network: nothing there should be found
    # refuted, and what holds would hold as well if it were not their name.
    assert {one["verdict"]["outcome"] for one in found} == {"weak"}
    assert {one["result"] for one in found} == {"failed"}


@only_in_full
def test_names_of_several_tokens_are_one_clear_error(example, pytester, monkeypatch):
    save_network(pytester.path / "bytes", merged=False)
    monkeypatch.setenv(FOLDER, str(pytester.path / "bytes"))
    result = example("-k", "thirteen")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(
        ["*DataError: the name 'Mary' is 5 tokens for this tokenizer; take a network with*"]
    )


@only_in_full  # a process of its own, as the one before
def test_a_folder_that_is_not_there_is_an_error_and_no_skip(example, pytester, monkeypatch):
    monkeypatch.setenv(FOLDER, str(pytester.path / "nowhere"))
    result = example("-k", "thirteen")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*ModelError: there is no file or folder *nowhere*"])


def test_without_weights_every_claim_is_skipped_with_the_reason(example):
    result = example()
    result.assert_outcomes(skipped=CLAIMS)
    result.stdout.fnmatch_lines(
        ["SKIPPED*the Hugging Face hub cannot be reached; *SCRUB_GPT2=/folder"]
    )


def test_a_name_of_two_tokens_is_refused():
    with pytest.raises(DataError, match="the name 'Tom' is 2 tokens for this tokenizer"):
        data.dataset(PROMPTS[:5], lambda piece: ENCODE(piece) * (2 if piece == " Tom" else 1))
