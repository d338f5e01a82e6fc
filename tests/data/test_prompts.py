"""Datasets from prompts: words, their positions and the label's token, by tokenizers of several
kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from pytest_scrub import DataError, Dataset

NAMES = ["Mary", "John", "Alexandra"]
SLOTS = {"giver": NAMES, "receiver": NAMES, "place": ["store", "old garden"]}
TEMPLATE = "When {giver} and {receiver} went to the {place}, {giver} gave a ring to"


def different(words: Mapping[str, str]) -> bool:
    return words["giver"] != words["receiver"]


def trained(*, bos: bool = False, end: bool = False) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer like GPT-2's, of a few words, that knows no Alexandra."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    text = " When Mary and John went to the store, the old garden, Mary gave a ring to " * 3
    special = ["<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(special_tokens=special, show_progress=False, vocab_size=400)
    tokenizer.train_from_iterator([text, text.replace(" When", "When")], trainer)
    single = " ".join(["<s>:0"] * bos + ["$A:0"] + ["</s>:0"] * end)
    ids = [(name, nth) for nth, name in enumerate(special)]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def words_of(text: str) -> list[int]:
    """One id for every word and comma."""
    return [sum(map(ord, word)) for word in text.replace(",", " ,").split()]


KINDS: dict[str, Callable[[], Any]] = {
    "as GPT-2": trained,
    "begins with a token": lambda: trained(bos=True),
    "begins and ends with one": lambda: trained(bos=True, end=True),
    "a function": lambda: words_of,
}


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_where_it_says(kind: str) -> None:
    tokenizer = KINDS[kind]()
    data = Dataset.from_prompts(TEMPLATE, SLOTS, tokenizer=tokenizer, where=different)
    encode = (
        tokenizer
        if kind == "a function"
        else lambda text: tokenizer.encode(text, add_special_tokens=False)
    )
    assert len(data) == 3 * 2 * 2
    for row in range(len(data)):
        ids = data.inputs["tokens"][row].tolist()
        for at, slot in (("giver", "giver"), ("giver_2", "giver"), ("receiver", "receiver"),
                         ("place", "place")):  # fmt: skip
            first, last = (int(data.feature(f"{at}_{end}")[row]) for end in ("start", "end"))
            word = data.feature(slot)[row]
            # every word stands in the middle, behind a space
            assert ids[first : last + 1] == list(encode(f" {word}")), (at, word)
        end = int(data.feature("end")[row])
        assert ids[end] == encode(" to")[-1]
        visible = data.inputs["attention_mask"][row].tolist()
        assert sum(visible) == end + 1 + (kind == "begins and ends with one")
        assert data.show(row) == TEMPLATE.format(**{s: data.feature(s)[row] for s in SLOTS})
    assert data.label_pos == "end"


def test_labels_are_the_tokens_that_follow() -> None:
    tokenizer, slots = trained(bos=True), {**SLOTS, "giver": NAMES[:2], "receiver": NAMES[:2]}
    data = Dataset.from_prompts(
        TEMPLATE, slots, tokenizer=tokenizer, where=different,
        label=" {receiver}", against=lambda words: f" {words['giver']}",
        features={"swapped": lambda words: words["giver"] > words["receiver"]},
    )  # fmt: skip
    assert data.labels is not None
    for row, (label, against) in enumerate(
        zip(data.labels.tolist(), data.feature("against").tolist(), strict=True)
    ):
        assert tokenizer.decode([label]) == f" {data.feature('receiver')[row]}"
        assert tokenizer.decode([against]) == f" {data.feature('giver')[row]}"
    assert data.feature("swapped").tolist() == [w == "Mary" for w in data.feature("giver")]


def test_without_rows_all_prompts_are_there_and_with_rows_so_many_different_ones() -> None:
    every = Dataset.from_prompts("{a}, {b} and", {"a": NAMES, "b": NAMES}, tokenizer=words_of)
    pairs = set(zip(every.feature("a"), every.feature("b"), strict=True))
    assert len(every) == len(pairs) == 9
    some = [
        Dataset.from_prompts(
            "{a}, {b} and", {"a": NAMES, "b": NAMES}, tokenizer=words_of, rows=5, seed=seed
        )
        for seed in (0, 0, 1)
    ]
    chosen = [list(zip(d.feature("a"), d.feature("b"), strict=True)) for d in some]
    assert all(len(set(pairs)) == 5 for pairs in chosen)
    assert chosen[0] == chosen[1] != chosen[2]


def test_more_prompts_than_fit_a_machine_number_are_drawn_from() -> None:
    slots = {f"s{nth}": [f"w{n}" for n in range(1000)] for nth in range(8)}
    template = " ".join(f"{{{slot}}}" for slot in slots)
    data = Dataset.from_prompts(template, slots, tokenizer=words_of, rows=50)
    assert len(set(map(data.show, range(50)))) == 50


def test_several_templates_share_positions_of_what_all_hold() -> None:
    data = Dataset.from_prompts(
        ["{a} met {b} and", "At the {place}, {a} met {b} and"],
        {"a": NAMES[:1], "b": NAMES[1:2], "place": ["store"]},
        tokenizer=words_of,
    )
    assert data.feature("template").tolist() == [0, 1]
    assert data.feature("a_start").tolist() == [0, 4]
    assert data.feature("place").tolist() == ["store", "store"]
    with pytest.raises(DataError, match="no feature 'place_start'"):
        data.feature("place_start")


def test_a_row_of_another_kind_is_shown_by_its_tokens() -> None:
    data = Dataset.from_prompts("{a} and", {"a": NAMES}, tokenizer=words_of)
    more = data.extend({name: tensor[:1] * 0 for name, tensor in data.inputs.items()})
    assert more.show(0) == "Mary and"
    assert set(more.show(len(data)).split()) == {"0"}


@pytest.mark.parametrize(
    ("template", "changes", "says"),
    [
        ("{giverr} and", {}, "slot 'giverr', which slots= does not; did you mean 'giver'"),
        ("{giver} and {receiver}", {}, "slots= has 'place', which no template holds as {place}"),
        (TEMPLATE + " ", {}, "ends with a space, which would be a token of its own"),
        ("{giver", {}, "cannot be read"),
        (TEMPLATE, {"slots": {**SLOTS, "giver": "Mary"}}, "'Mary' for 'giver'; give a list"),
        (TEMPLATE, {"slots": {**SLOTS, "giver": ["Mary", ""]}}, "'' for 'giver'; give words"),
        (TEMPLATE, {"slots": {**SLOTS, "giver": ["Mary"] * 2}}, "'Mary' for 'giver' twice"),
        (TEMPLATE, {"slots": {**SLOTS, "end": ["x"]}}, "a slot cannot be called 'end'"),
        (TEMPLATE, {"slots": []}, "slots= maps the names in the template to lists of words"),
        (TEMPLATE, {"label": "receiver"}, r"label= is the text that follows.* write label=' {rec"),
        (TEMPLATE, {"label": "{receiver}"}, "without a space between them; write ' Mary'"),
        (TEMPLATE, {"label": " {receiver}"}, r"' Alexandra' after .* which is \d tokens for this"),
        (TEMPLATE, {"label": lambda words: 3}, "label= gives 3 after .* give text that follows"),
        (TEMPLATE, {"against": " {other}"}, "slot 'other', which slots= does not"),
        (TEMPLATE, {"rows": 10**4}, "18 of 18 different prompts are there, fewer than 10000"),
        (TEMPLATE, {"where": lambda words: False}, "0 of 18 .* that where= keeps, fewer than 1"),
        (TEMPLATE, {"where": lambda words: words["x"]}, "the function where= raised KeyError"),
        (TEMPLATE, {"rows": 0}, "rows= is a whole number of at least 1, not 0"),
        (TEMPLATE, {"tokenizer": 3}, "tokenizer= takes a tokenizer or a function"),
        (TEMPLATE, {"features": {"end": len}}, "features= has 'end', which from_prompts"),
        (TEMPLATE, {"features": {"x": [1]}}, "takes a function of a prompt's words, not"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(template: str, changes: dict[str, Any], says: str) -> None:
    given = {"slots": SLOTS, "tokenizer": trained(), **changes}
    with pytest.raises(DataError, match=says):
        Dataset.from_prompts(template, **given)


def test_a_token_across_the_edge_of_a_word_is_refused() -> None:
    def pairs(text: str) -> list[int]:
        return [hash(text[at : at + 2]) % 1000 for at in range(0, len(text), 2)]

    with pytest.raises(DataError, match="words have no positions of their own"):
        Dataset.from_prompts("a{digit}b", {"digit": ["1", "22"]}, tokenizer=pairs)


def test_a_digit_may_follow_a_sign() -> None:
    data = Dataset.from_prompts(
        "{a}+{b}=", {"a": list("12"), "b": list("34")}, tokenizer=lambda text: [*map(ord, text)],
        label=lambda words: str(int(words["a"]) + int(words["b"])),
    )  # fmt: skip
    assert data.labels is not None
    assert [chr(label) for label in data.labels.tolist()] == ["4", "5", "5", "6"]
    assert np.array_equal(data.feature("b_start"), [2] * 4)
