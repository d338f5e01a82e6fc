"""Datasets from strategies: which examples become rows, from what randomness, and what more can be
made of them."""

from __future__ import annotations

import importlib
import math
import random
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, seed, settings
from hypothesis import strategies as st
from hypothesis.database import InMemoryExampleDatabase
from hypothesis.errors import NoSuchExample
from scipy import stats

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.data.strategies import StrategySource
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError
from pytest_scrub.network import FunctionGraph
from pytest_scrub.swaps.space import SwapSet
from pytest_scrub.tree.nodes import ANYTHING, module, output
from tests.places import ROOT
from tests.sizes import only_in_full

BRACKETS = st.text(alphabet="()", min_size=1, max_size=8)
DIGITS = st.lists(st.integers(0, 3), min_size=6, max_size=6)


def ids(text: str) -> list[int]:
    return [1 + "()".index(bracket) for bracket in text]


def count(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return (batch["tokens"] == 1).sum(1)


def brackets(rows: int = 100, **fields: Any) -> Dataset:
    given = {
        "pad": 0,
        "labels": lambda text: text[0] == "(",
        "features": {"count": count},
        **fields,
    }
    return Dataset.from_strategy(BRACKETS, ids, rows=rows, **given)


def source(data: Dataset) -> StrategySource:
    assert data.source is not None
    return data.source


def fresh(data: Dataset, count: int, seed: int = 0) -> tuple[dict[str, torch.Tensor], Any]:
    return source(data).batch(source(data).draws(count, seed))


def text_of(row: torch.Tensor) -> str:
    return "".join(" ()"[token] for token in row.tolist()).rstrip()


def refuses(sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""
    return pytest.raises(DataError, match=rf"^{re.escape(sentence)}$")


def test_importing_a_dataset_does_not_import_hypothesis() -> None:
    code = "import sys, pytest_scrub.data.dataset; assert 'hypothesis' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- the rows -------------------------------------------------------------------------------------


def test_examples_become_rows_with_labels_and_features() -> None:
    data = brackets()
    texts = [text_of(row) for row in data.inputs["tokens"]]
    assert (len(data), len(set(texts))) == (100, 100)
    assert data.inputs["tokens"].shape == (100, 8)
    assert data.inputs["attention_mask"].sum(1).tolist() == [len(text) for text in texts]
    assert data.labels is not None
    assert data.labels.tolist() == [int(text[0] == "(") for text in texts]
    assert data.feature("count").tolist() == [text.count("(") for text in texts]
    assert data.name == "text(alphabet='()', min_size=1, max_size=8)"
    assert source(data).strategy is BRACKETS
    assert source(data).asked == 100


def test_all_else_is_as_for_any_dataset() -> None:
    data = brackets(
        name="mine",
        donors=range(60),
        label_pos=0,
        show=lambda row: text_of(row["tokens"]),
        digest="d",
    )
    assert (data.name, data.digest(), data.label_pos, len(data.reference_rows)) == (
        "mine",
        "d",
        0,
        40,
    )
    assert set(data.show(0)) <= set("()")


@pytest.mark.parametrize(
    "form", [list, tuple, np.array, torch.tensor, lambda row: {"tokens": np.array(row)}]
)
def test_tokens_come_in_any_form(form: Callable[[list[int]], Any]) -> None:
    data = Dataset.from_strategy(DIGITS, form, rows=20)
    assert (
        data.inputs["tokens"].tolist()
        == Dataset.from_strategy(DIGITS, list, rows=20).inputs["tokens"].tolist()
    )
    assert source(data).encode([0, 1, 2, 3, 0, 1])[0]["tokens"].tolist() == [[0, 1, 2, 3, 0, 1]]


def test_there_may_be_several_inputs() -> None:
    pairs = st.tuples(st.integers(0, 9), st.floats(0, 1))
    data = Dataset.from_strategy(
        pairs, lambda pair: {"n": pair[0], "x": [pair[1], 2 * pair[1]]}, rows=50
    )
    assert data.inputs["n"].shape == (50,)
    assert data.inputs["x"].dtype == torch.float32
    torch.testing.assert_close(data.inputs["x"][:, 1], 2 * data.inputs["x"][:, 0])
    whole, _ = source(data).encode((3, 1))  # a float that is whole, too
    assert (whole["n"].tolist(), whole["x"].tolist(), whole["x"].dtype) == (
        [3],
        [[1.0, 2.0]],
        torch.float32,
    )


def test_rows_of_equal_content_appear_once_with_the_first_label() -> None:
    data = Dataset.from_strategy(
        st.integers(0, 10**6), lambda n: [n % 7], labels=lambda n: n, rows=50
    )
    assert sorted(data.inputs["tokens"][:, 0].tolist()) == list(range(7))
    assert data.labels is not None
    assert (data.labels % 7).tolist() == data.inputs["tokens"][:, 0].tolist()


@pytest.mark.parametrize(
    ("strategy", "rows", "found", "name"),
    [
        (st.integers(0, 15), 1000, 16, "integers(min_value=0, max_value=15): 16 of 1000 rows"),
        (st.just(3), 5, 1, "just(3): 1 of 5 rows"),
        (st.integers(0, 299), 300, 300, "integers(min_value=0, max_value=299)"),
        (st.integers(0, 10**9).map(lambda n: n % 200), 500, 200, None),
        (st.integers(0, 99).filter(lambda n: n % 10 == 0), 10, 10, None),
    ],
)
def test_all_there_are_are_found_and_the_name_says_when_they_are_fewer(
    strategy: Any, rows: int, found: int, name: str | None
) -> None:
    data = Dataset.from_strategy(strategy, lambda n: [n], rows=rows)
    assert (len(data), source(data).asked) == (found, rows)
    assert data.name == name or name is None


def test_it_gives_up_soon_where_there_is_nothing_more() -> None:
    asked = []
    Dataset.from_strategy(st.integers(0, 9), lambda n: [asked.append(n) or n], rows=10_000)
    assert len(asked) < 300


def test_a_long_name_is_cut_and_says_no_address() -> None:
    strategy = st.lists(st.just(object()).map(lambda thing: 1), min_size=1, max_size=3)
    data = Dataset.from_strategy(strategy, list, pad=0, rows=1)
    assert data.name == "lists(just(<object object>).map(lambda thing: 1), min_siz..."


# --- randomness -----------------------------------------------------------------------------------


def test_a_seed_is_all_the_randomness_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = brackets().digest()
    random.seed(1)
    np.random.seed(1)
    state = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    settings.register_profile("other", derandomize=False, max_examples=1, phases=[Phase.explicit])
    # Of modules like this Hypothesis takes constants, where it looks for failing tests.
    (tmp_path / "local_constants.py").write_text(
        "A, B, C = '((((((((', '()()', '))))'\nD, E = 3, 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        settings.load_profile("other")
        importlib.import_module("local_constants")
        assert brackets().digest() == digest
    finally:
        settings.load_profile("scrub")  # that of this repository
        sys.modules.pop("local_constants", None)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state  # type: ignore[index]
    assert brackets(seed=1).digest() != digest


def test_fewer_rows_are_the_first_of_more() -> None:
    few, many = (
        Dataset.from_strategy(DIGITS, list, rows=rows).inputs["tokens"] for rows in (20, 50)
    )
    assert few.tolist() == many[:20].tolist()


def test_examples_are_independent_draws() -> None:
    tokens = Dataset.from_strategy(DIGITS, list, rows=1500).inputs["tokens"].numpy()
    pairs = Counter(zip(tokens[:-1, 0].tolist(), tokens[1:, 3].tolist(), strict=True))
    assert stats.chisquare([pairs[a, b] for a in range(4) for b in range(4)]).pvalue > 1e-4
    for column in tokens.T:
        assert stats.chisquare(np.bincount(column, minlength=4)).pvalue > 1e-4


# --- more of them ---------------------------------------------------------------------------------


def test_one_example_becomes_a_row_that_extends_the_dataset() -> None:
    data = brackets()
    inputs, labels = source(data).encode("(()")
    assert inputs["tokens"].tolist() == [[1, 1, 2, 0, 0, 0, 0, 0]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]
    assert labels is not None
    assert labels.tolist() == [1]
    extended = data.extend(inputs, labels)
    assert (len(extended), extended.feature("count")[-1]) == (101, 2)
    assert source(brackets(labels=None)).encode("(()")[1] is None


@pytest.mark.parametrize("text", ["((((((((", "("])
def test_the_longest_and_the_shortest_fit(text: str) -> None:
    inputs, _ = source(brackets()).encode(text)
    assert text_of(inputs["tokens"][0]) == text
    assert inputs["attention_mask"].sum() == len(text)


def test_fresh_examples_are_rows_like_the_datasets() -> None:
    data = brackets()
    inputs, labels = fresh(data, 80)
    assert list(inputs) == list(data.inputs)
    texts = [text_of(row) for row in inputs["tokens"]]
    assert len(set(texts)) == len(texts) == 80
    assert labels is not None
    assert labels.tolist() == [int(text[0] == "(") for text in texts]
    assert inputs["attention_mask"].sum(1).tolist() == [len(text) for text in texts]
    extended = data.extend(inputs, labels)
    assert extended.donor_rows.tolist() == list(range(180))
    assert extended.feature("count")[100:].tolist() == [text.count("(") for text in texts]


def test_fresh_examples_follow_from_both_seeds() -> None:
    def tokens(data: Dataset, seed: int) -> Any:
        return fresh(data, 30, seed)[0]["tokens"].tolist()

    data = Dataset.from_strategy(DIGITS, list, rows=30)
    assert tokens(data, 0) == tokens(Dataset.from_strategy(DIGITS, list, rows=30), 0)
    own = data.inputs["tokens"].tolist()
    others = [
        tokens(data, 0),
        tokens(data, 1),
        tokens(Dataset.from_strategy(DIGITS, list, rows=30, seed=1), 0),
    ]
    assert len({str(rows) for rows in [own, *others]}) == 4
    assert len([row for row in others[0] if row in own]) < 5


def test_what_does_not_fit_is_left_out() -> None:
    lengths = st.integers(1, 30).map(lambda length: [length] * length)
    data = Dataset.from_strategy(lengths, list, rows=4, pad=0)
    longest = data.inputs["tokens"].shape[1]
    assert longest < 30
    inputs, _ = fresh(data, 100)
    assert sorted(inputs["tokens"][:, 0].tolist()) == list(range(1, longest + 1))
    assert inputs["tokens"].shape[1] == longest


def test_there_may_be_nothing_fresh_that_fits() -> None:
    lengths = iter(range(1, 10**6))  # no two of one length
    data = Dataset.from_strategy(
        st.integers(), lambda n: [n % 9] * next(lengths), labels=lambda n: 0.5, rows=1
    )
    inputs, labels = fresh(data, 5)
    assert labels is not None
    assert (inputs["tokens"].shape, inputs["tokens"].dtype, labels.shape) == (
        (0, 1),
        torch.int64,
        (0,),
    )
    assert labels.dtype == torch.float32


@pytest.mark.parametrize(
    ("example", "sentence"),
    [
        ("(((((((((",
         "'(((((((((' does not fit the dataset: it is attention_mask torch.int64 [9], tokens "
         "torch.int64 [9], but rows are attention_mask torch.int64 [8], tokens torch.int64 [8]"),
        ("((", "'((' does not fit the dataset: it is labels= torch.float32 [], but rows are "
               "labels= torch.int64 []"),
        ("",
         "'' does not fit the dataset: 'tokens' of this and the longest row has no tokens at row "
         "1; take the row out"),
    ],
)  # fmt: skip
def test_an_example_that_does_not_fit_is_refused(example: str, sentence: str) -> None:
    strategy = BRACKETS.filter(lambda text: text != "((")
    labels = lambda text: 0.5 if text == "((" else len(text)  # noqa: E731
    data = Dataset.from_strategy(strategy, ids, pad=0, rows=50, labels=labels)
    with refuses(sentence):
        source(data).encode(example)


def test_without_pad_an_example_of_another_length_is_refused() -> None:
    data = Dataset.from_strategy(DIGITS, list, rows=5)
    with refuses(
        "[1, 2] does not fit the dataset: 'tokens' of this and the longest row has rows of 2 to 6 "
        "tokens; give pad= the id of the pad token"
    ):
        source(data).encode([1, 2])


def test_only_inputs_that_differ_in_length_are_filled_up() -> None:
    def tokenize(text: str) -> dict[str, list[int]]:
        return {"input_ids": ids(text), "kinds": [1] * len(text), "context": list(range(20))}

    data = Dataset.from_strategy(BRACKETS, tokenize, pad=9, rows=40)
    assert {name: tensor.shape[1] for name, tensor in data.inputs.items()} == {
        "attention_mask": 8, "input_ids": 8, "kinds": 8, "context": 20,
    }  # fmt: skip
    inputs, _ = source(data).encode("()")
    assert inputs["input_ids"].tolist() == [[1, 2, 9, 9, 9, 9, 9, 9]]
    assert inputs["kinds"].tolist() == [[1, 1, 0, 0, 0, 0, 0, 0]]
    assert inputs["context"].tolist() == [list(range(20))]


def test_the_source_stays_with_the_dataset() -> None:
    data = brackets()
    assert data.to("meta").source is data.extend(*source(data).encode("(")).source is data.source
    assert Dataset([[1, 2]]).source is None
    assert Dataset([[1, 2]]).extend([[3, 4]]).source is None


# --- the strategy itself, for a search of one's own -----------------------------------------------


def test_the_choices_of_a_draw_make_its_example_again() -> None:
    seen = []

    @given(BRACKETS)
    def again(text: str) -> None:
        seen.append(text)

    draws = source(brackets()).draws(20, 0)
    for draw in draws:
        again.hypothesis.fuzz_one_input(draw.choices)  # type: ignore[attr-defined]
        assert text_of(draw.inputs["tokens"][0]) == draw.example
    assert seen == [draw.example for draw in draws]
    assert max(len(draw.choices) for draw in draws) < 100


# The output is the token at 0 less the one at 1, so a donor that starts with "()" gives -1, and no
# other gives less.
NETWORK = FunctionGraph(first=lambda tokens: tokens[:, 0], second=lambda tokens: tokens[:, 1],
                        output=lambda first,
                        second: (first - second).double()[:, None])  # fmt: skip
CLAIM = output(module("first", agrees_on=ANYTHING), module("second", agrees_on=ANYTHING))


def lowered(data: Dataset, text: str) -> float:
    """What the network gives for row 0 when this example stands in for it."""
    try:
        extended = data.extend(*source(data).encode(text))
    except DataError:
        return 0.0
    evaluator = Evaluator(NETWORK, extended, CLAIM, lambda output, batch: output[:, 0])
    donors = np.full((len(evaluator.space.paths), 1), len(extended) - 1)
    return float(
        evaluator.evaluate(SwapSet([0], donors, evaluator.space.paths, extended.digest()))[0]
    )


FEW = settings(max_examples=200, database=None, deadline=None)


@only_in_full
def test_an_input_can_be_shrunk() -> None:
    data = brackets()
    for _ in range(2):
        small = find(
            BRACKETS, lambda text: lowered(data, text) == -1, settings=FEW, random=random.Random(0)
        )
        assert small == "()"
    with pytest.raises(NoSuchExample):
        find(BRACKETS, lambda text: lowered(data, text) < -1, settings=FEW, random=random.Random(0))


def test_an_input_that_was_drawn_can_be_shrunk() -> None:
    data = brackets()
    draw = next(
        draw
        for draw in source(data).draws(100, 0)
        if draw.example.startswith("()") and len(draw.example) > 5
    )
    tried: list[str] = []

    @settings(database=InMemoryExampleDatabase(), phases=[Phase.reuse, Phase.shrink], deadline=None)
    @seed(0)  # below settings, as it takes their database away
    @given(BRACKETS)
    def never(text: str) -> None:
        tried.append(text)
        assert lowered(data, text) != -1

    with pytest.raises(AssertionError):
        never.hypothesis.fuzz_one_input(draw.choices)  # type: ignore[attr-defined]
    with pytest.raises(AssertionError):
        never()
    assert tried[0] == tried[1] == draw.example
    assert tried[-1] == "()"


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 1000))
def test_a_property_may_draw_fresh_inputs(number: int) -> None:
    assert len(source(DATA).draws(3, number)) == 3


DATA = brackets()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "fields", "sentence"),
    [
        ([1], {}, "from_strategy() takes a Hypothesis strategy, such as "
                  "hypothesis.strategies.text(), no list"),
        (st.integers(5, 3), {},
         "nothing can be drawn from integers(min_value=5, max_value=3): Cannot have max_value=3 < "
         "min_value=5"),
        (st.just(3).flatmap(lambda _: st.integers(5, 3)), {},
         "nothing can be drawn from just(3).flatmap(lambda _: st.integers(5, 3)): Cannot have "
         "max_value=3 < min_value=5"),
        (st.just(1).filter(lambda _: False), {"rows": 30},
         "just(1).filter(lambda _: False) gave no example in 1000 tries; let it filter out less"),
        (st.just([]), {}, "tokenize= gives no tokens for []; filter out such examples"),
        (st.just([1]), {"tokenize": lambda _: {"a": [1], "b": []}},
         "tokenize= gives no tokens for [1]; filter out such examples"),
        (st.lists(st.just(1), min_size=1, max_size=2), {},
         "'tokens' of lists(just(1), min_size=1, max_size=2) has rows of 1 to 2 tokens; give pad= "
         "the id of the pad token"),
        (st.booleans(), {"tokenize": lambda named: {"a": [1]} if named else [1]},
         "tokenize= returns a mapping for some examples only; let it return one for all of them"),
        (DIGITS, {"rows": 0}, "rows= is how many examples to draw; give at least 1, not 0"),
        (DIGITS, {"rows": 2.0}, "rows= is how many examples to draw; give at least 1, not 2.0"),
        (DIGITS, {"labels": [1]}, "labels= of from_strategy() takes a function of an example, not "
                                  "a list"),
        (DIGITS, {"tokenize": "ids"}, "tokenize= of from_strategy() takes a function of an "
                                      "example, not a str"),
        (DIGITS, {"features": ["f"]}, "features= of from_strategy() maps names to functions of the "
                                      "inputs, it is no"
         " list"),
        (DIGITS, {"features": {"f": [1]}},
         "feature 'f' is a column; give it as a function of the inputs, for only functions work "
         "on fresh inputs, which from_strategy() is for"),
    ],
)  # fmt: skip
def test_what_makes_no_dataset_is_refused(
    strategy: Any, fields: dict[str, Any], sentence: str
) -> None:
    with refuses(sentence):
        Dataset.from_strategy(strategy, **{"tokenize": list, **fields})


def test_an_empty_strategy_is_refused() -> None:
    with pytest.raises(
        DataError,
        match=r"^nothing can be drawn from nothing\(\): Cannot generate .* empty strategy",
    ):
        Dataset.from_strategy(st.nothing(), list)


def test_what_is_no_row_of_numbers_is_refused() -> None:
    names = iter("abcd")
    with pytest.raises(DataError, match=r"^input 'tokens' is no tensor \("):
        Dataset.from_strategy(BRACKETS.filter(lambda text: len(text) == 3), list, rows=2)
    with pytest.raises(
        DataError,
        match=r"^what tokenize= returns for example 1 has no field 'a'; its fields are b$",
    ):
        Dataset.from_strategy(st.integers(0, 99), lambda n: {next(names): [n]}, rows=2)


def test_what_goes_wrong_in_a_function_of_the_users_is_not_hidden() -> None:
    def broken(_: Any) -> Any:
        raise KeyError("mine")

    for strategy, tokenize in ((DIGITS, broken), (DIGITS.map(broken), list)):
        with pytest.raises(KeyError, match="mine"):
            Dataset.from_strategy(strategy, tokenize)


def test_drawing_ends_with_the_first_example_after_a_deadline() -> None:
    source = Dataset.from_strategy(st.integers(0, 9999), lambda n: [n], rows=20).source
    assert source is not None
    assert source.draws(5, 0, until=0.0) == []
    assert len(source.draws(5, 0, until=math.inf)) == 5
