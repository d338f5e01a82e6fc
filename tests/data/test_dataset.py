"""Datasets: what agrees with what, which rows may be swapped, where positions are, and what is
refused."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pytest_scrub.data.dataset import Dataset, Positions
from pytest_scrub.errors import DataError
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Agreement, Span
from tests.places import ROOT

TOKENS = [[0, 3, 4, 2], [0, 3, 3, 2], [0, 3, 4, 2], [0, 4, 1, 1]]


def rows(count: int) -> torch.Tensor:
    return torch.arange(2 * count).reshape(count, 2)


def refuses(sentence: str) -> Any:
    """The whole sentence, so that no error loses its name or its remedy."""

    return pytest.raises(DataError, match=rf"^{re.escape(sentence)}$")


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, pytest_scrub.data.dataset; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- inputs and labels ----------------------------------------------------------------------------


def test_a_lone_tensor_is_the_tokens() -> None:
    tokens = torch.tensor(TOKENS)
    data = Dataset(tokens, name="brackets")
    assert list(data.inputs) == ["tokens"]
    assert data.inputs["tokens"].data_ptr() == tokens.data_ptr()  # not copied
    assert (len(data), data.name, data.device, data.labels) == (4, "brackets", tokens.device, None)


def test_a_mapping_keeps_its_names() -> None:
    data = Dataset({"x": np.ones((3, 2)), "y": torch.zeros(3)})
    assert list(data.inputs) == ["x", "y"]
    assert data.inputs["x"].dtype == torch.float64


def test_an_array_is_copied_even_when_it_is_read_only(recwarn: pytest.WarningsRecorder) -> None:
    tokens = np.array(TOKENS)
    tokens.setflags(write=False)
    assert Dataset(tokens).inputs["tokens"].tolist() == TOKENS
    assert not recwarn.list


def test_integer_and_bool_labels_become_class_indices() -> None:
    assert Dataset(rows(2), labels=[True, False]).labels.tolist() == [1, 0]
    assert Dataset(rows(2), labels=np.array([1, 2], np.int32)).labels.dtype == torch.int64
    assert Dataset(rows(2), labels=[0.5, 1.5]).labels.dtype == torch.float32
    assert Dataset(rows(2), labels=rows(2)).labels.shape == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"inputs": torch.zeros(0, 3)}, "the dataset has no rows; give at least one"),
        ({"inputs": {}}, "the dataset has no rows; give at least one"),
        (
            {"inputs": {"a": rows(2), "b": rows(3)}},
            "the inputs differ in their number of rows (a 2, b 3); give as many of each",
        ),
        (
            {"inputs": torch.tensor(3)},
            "input 'tokens' is a single number; its first dimension has to be the rows",
        ),
        (
            {"inputs": {"a": rows(2), "b": torch.zeros(2, device="meta")}},
            "the inputs are on several devices (cpu, meta); move them to one",
        ),
        (
            {"inputs": rows(4), "labels": [1, 0, 1]},
            "there are 3 labels for 4 rows; give one per row",
        ),
        (
            {"inputs": rows(4), "labels": 1},
            "labels= is a single number; its first dimension has to be the rows",
        ),
        (
            {"inputs": rows(4), "show": "x"},
            "show= takes a tokenizer or a function of a row, not a str",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with refuses(sentence):
        Dataset(**arguments)


@pytest.mark.parametrize("inputs", [[[1, 2], [3]], ["a", "b"], np.array(["a", "b"]), [None, None]])
def test_inputs_that_are_no_numbers_are_refused(inputs: Any) -> None:
    with pytest.raises(
        DataError,
        match=r"^input 'tokens' is no tensor \(.*\); give numbers, in rows of one length$",
    ):
        Dataset(inputs)


@pytest.mark.parametrize("labels", [["yes", "no"], np.array(["yes", "no"]), [[1], [2, 3]]])
def test_labels_that_are_no_numbers_are_refused_in_one_sentence(labels: Any) -> None:
    """Which has all that torch says of them: its own error is not shown above."""
    with pytest.raises(
        DataError, match=r"^labels= is no tensor \(.+\); give numbers, in rows of one length$"
    ) as refused:
        Dataset(rows(2), labels=labels)
    assert refused.value.__suppress_context__
    assert refused.value.__cause__ is None


def test_one_row_is_a_dataset() -> None:
    assert len(Dataset([[1, 2]])) == 1


# --- references and donors ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "references", "donors"),
    [
        ({}, [0, 1, 2, 3], [0, 1, 2, 3]),
        ({"references": [2, 0]}, [0, 2], [0, 1, 2, 3]),
        ({"donors": [3, 1]}, [0, 2], [1, 3]),
        ({"donors": [False, True, True, False]}, [0, 3], [1, 2]),
        ({"donors": torch.tensor([1]), "references": np.array([0, 1], np.int32)}, [0, 1], [1]),
    ],
)
def test_which_rows_may_be_swapped(
    arguments: dict[str, Any], references: list[int], donors: list[int]
) -> None:
    data = Dataset(rows(4), **arguments)
    assert data.reference_rows.tolist() == references
    assert data.donor_rows.tolist() == donors
    assert data.reference_rows.dtype == data.donor_rows.dtype == np.int64


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"donors": []}, "donors= holds no row; references and donors need at least one each"),
        (
            {"references": [False] * 4},
            "references= holds no row; references and donors need at least one each",
        ),
        (
            {"donors": [0, 1, 2, 3]},
            "what donors= leaves for references= holds no row; references and donors need at least "
            "one each",
        ),
        (
            {"fitted_on": range(4)},
            "what fitted_on= leaves holds no row; references and donors need at least one each",
        ),
        ({"donors": [1, 4]}, "donors= holds row 4, but rows go from 0 to 3"),
        ({"references": [-1]}, "references= holds row -1, but rows go from 0 to 3"),
        ({"references": [1, 0, 1]}, "references= holds row 1 several times; name each row once"),
        (
            {"donors": [True]},
            "donors= takes row numbers, or a mask of 4 bools, not bool of shape [1]",
        ),
        (
            {"donors": [0.5]},
            "donors= takes row numbers, or a mask of 4 bools, not float64 of shape [1]",
        ),
        ({"donors": 2}, "donors= takes row numbers, or a mask of 4 bools, not int64 of shape []"),
    ],
)
def test_rows_that_cannot_be_chosen_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with refuses(sentence):
        Dataset(rows(4), **arguments)


def test_a_batch_is_the_rows_in_the_order_asked_for() -> None:
    data = Dataset({"a": rows(4), "b": torch.arange(4.0)})
    expected = [3.0, 0.0, 3.0]
    for asked in ([3, 0, 3], np.array([3, 0, 3]), torch.tensor([3, 0, 3])):
        batch = data.batch(asked)
        assert batch["b"].tolist() == expected
        assert batch["a"].shape == (3, 2)
    assert data.batch(data.reference_rows)["b"].tolist() == [0, 1, 2, 3]


# --- agreement and content ------------------------------------------------------------------------


def same(codes: np.ndarray) -> list[list[bool]]:
    return [[bool(a == b) for b in codes] for a in codes]


def test_exact_is_the_row_and_anything_is_all() -> None:
    data = Dataset([[1], [1], [2]])
    assert data.codes(EXACT).tolist() == [0, 1, 2]
    assert data.codes(ANYTHING).tolist() == [0, 0, 0]
    assert data.codes(ANYTHING).dtype == data.codes(EXACT).dtype == data.content.dtype == np.int64


def test_codes_are_cached_and_cannot_be_changed() -> None:
    data = Dataset(rows(2), features={"f": ["a", "b"]})
    codes = data.codes(Agreement(("f",)))
    assert data.codes(Agreement(("f",))) is codes
    assert data.content is data.content
    assert not codes.flags.writeable


scalars = st.one_of(
    st.booleans(),
    st.sampled_from([0, 1, 2, -1, 2**53, 2**53 + 1, 2**63, -(2**63), 2**70]),
    st.sampled_from([0.0, -0.0, 1.0, 0.5, 2.0**53, float("inf"), -float("inf")]),
    st.sampled_from(["", "a", "a\0", "1", "True"]),
)
values = scalars | st.tuples(scalars, scalars) | st.lists(scalars, max_size=2).map(tuple)
columns = st.integers(1, 8).flatmap(
    lambda n: st.lists(
        st.one_of(
            *(
                st.lists(kind, min_size=n, max_size=n)
                for kind in (
                    values,
                    scalars,
                    st.booleans(),
                    st.integers(-2, 2),
                    st.sampled_from([0.0, -0.0, 0.5]),
                    st.sampled_from(["", "a", "b"]),
                    st.tuples(st.booleans(), st.sampled_from([0.0, -0.0])),
                )
            )
        ),
        min_size=1,
        max_size=3,
    )
)


@settings(deadline=None)
@given(columns)
def test_rows_agree_exactly_where_their_values_are_equal(columns: list[list[Any]]) -> None:
    features = {f"f{i}": column for i, column in enumerate(columns)}
    data = Dataset(rows(len(columns[0])), features=features)
    expected = [[a == b for b in zip(*columns, strict=True)] for a in zip(*columns, strict=True)]
    assert same(data.codes(Agreement(tuple(features)))) == expected


@settings(deadline=None)
@given(
    st.sampled_from([np.bool_, np.int8, np.uint64, np.float16, np.float32, "<U2", ">i4"]),
    st.lists(st.lists(st.integers(-1, 1), min_size=2, max_size=2), min_size=1, max_size=6),
    st.booleans(),
)
def test_arrays_and_tensors_agree_as_their_values(
    dtype: Any, table: list[list[int]], flat: bool
) -> None:
    # makes -0.0
    signed = np.copysign(np.abs(table), table) if np.dtype(dtype).kind == "f" else np.abs(table)
    array = signed.astype(dtype)
    column = array[:, 0] if flat else np.asfortranarray(array)
    data = Dataset(rows(len(table)), features={"f": column})
    plain = column.tolist()
    assert same(data.codes(Agreement(("f",)))) == [[a == b for b in plain] for a in plain]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from([0.0, -0.0, 1.0])),
        min_size=1,
        max_size=8,
    )
)
def test_content_is_equal_exactly_where_all_inputs_are(table: list[tuple[int, int, float]]) -> None:
    inputs = {
        "tokens": torch.tensor([[a, b] for a, b, _ in table]),
        "scale": torch.tensor([c for _, _, c in table], dtype=torch.bfloat16),
    }
    data = Dataset(inputs, labels=list(range(len(table))))
    keys = [repr(row) for row in table]  # repr tells -0.0 from 0.0, as their bytes do
    assert same(data.content) == [[a == b for b in keys] for a in keys]
    digests = [data.row_digest(row) for row in range(len(table))]
    assert same(data.content) == [[a == b for b in digests] for a in digests]


def test_inputs_without_bytes_are_equal() -> None:
    assert Dataset(torch.zeros(3, 0)).content.tolist() == [0, 0, 0]
    assert Dataset(torch.arange(6).reshape(2, 3).T).content.tolist() == [0, 1, 2]  # not contiguous


def test_many_wide_rows_are_factorised() -> None:
    tokens = torch.randint(0, 2, (20_000, 8), generator=torch.Generator().manual_seed(0))
    assert len(np.unique(Dataset(tokens).content)) == 256


# --- positions ------------------------------------------------------------------------------------


def positions(spec: Any, **features: Any) -> Positions:
    return Dataset(rows(3), features=features).positions(spec, 4, where="pos= of head1.0")


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (0, [0]),
        (-1, [3]),
        (-4, [0]),
        (Span(1, None, None), [1, 2, 3]),
        (Span(None, None, -2), [3, 1]),
        (slice(-2, 4), [2, 3]),
    ],
)
def test_positions_that_every_row_shares(spec: Any, expected: list[int]) -> None:
    found = positions(spec)
    assert found.static
    assert found.index.tolist() == expected
    assert found.index.dtype == np.int64


def test_a_position_per_row() -> None:
    found = positions("end", end=[0, -1, 2])
    assert not found.static
    assert found.index.tolist() == [[0], [3], [2]]
    assert positions("end", end=torch.tensor([1, 2, 3], dtype=torch.uint8)).index.tolist() == [
        [1],
        [2],
        [3],
    ]


def test_a_mask_per_row_is_filled_up() -> None:
    mask = [[True, False, True, False], [False, False, False, True], [True, True, False, True]]
    found = positions("m", m=mask)
    assert found.index.tolist() == [[0, 2, -1], [3, -1, -1], [0, 1, 3]]
    assert found.index.dtype == np.int64


@pytest.mark.parametrize(
    ("spec", "column", "sentence"),
    [
        (4, None, "pos= of head1.0 is 4, but positions go from -4 to 3"),
        (-5, None, "pos= of head1.0 is -5, but positions go from -4 to 3"),
        (
            Span(4, None, None),
            None,
            "pos= of head1.0 is 4:, which holds none of the 4 positions; widen it",
        ),
        *(
            (
                Span(start, stop, None),
                None,
                f"pos= of head1.0 is {said}, which goes past the 4 positions there are, and would "
                "be cut short; give a slice within them",
            )
            for start, stop, said in [(1, 5, "1:5"), (-5, 2, "-5:2"), (None, 9, ":9")]
        ),
        (True, None, "pos= of head1.0 takes an int, a slice or the name of a feature, not True"),
        (1.5, None, "pos= of head1.0 takes an int, a slice or the name of a feature, not 1.5"),
        (
            "f",
            [0, 1, 4],
            "pos= of head1.0, the feature 'f', is 4 at row 2, but positions go from -4 to 3",
        ),
        (
            "f",
            [0, -5, 4],
            "pos= of head1.0, the feature 'f', is -5 at row 1, but positions go from -4 to 3",
        ),
        (
            "f",
            [[True] * 3] * 3,
            "pos= of head1.0, the feature 'f', is a mask of 3 positions, but there are 4",
        ),
        (
            "f",
            [[True] * 4, [False] * 4, [True] * 4],
            "pos= of head1.0, the feature 'f', marks no position at row 1; mark at least one in "
            "every row",
        ),
        *(
            (
                "f",
                column,
                f"pos= of head1.0, the feature 'f', holds {has}; give one int per row, or a bool "
                "mask [rows, positions]",
            )
            for column, has in [
                ([0.0, 1.0, 2.0], "float64 [3]"),
                ([True, False, True], "bool [3]"),
                ([[1, 2]] * 3, "int64 [3, 2]"),
                (["a", "b", "c"], "object [3]"),
            ]
        ),
    ],
)
def test_positions_that_are_not_there_are_refused(spec: Any, column: Any, sentence: str) -> None:
    with refuses(sentence):
        positions(spec, f=column)


def test_a_position_that_is_no_feature_is_refused() -> None:
    with refuses("the dataset has no feature 'ende'; did you mean 'end'?; it has end"):
        positions("ende", end=[0, 1, 2])


# --- digests and showing --------------------------------------------------------------------------


def test_the_digest_is_of_inputs_and_labels() -> None:
    data = Dataset(TOKENS, labels=[1, 0, 1, 0])
    assert (
        data.digest()
        == Dataset(np.array(TOKENS), labels=[True, False, True, False], name="other").digest()
    )
    others = [
        Dataset(TOKENS),
        Dataset(TOKENS, labels=[1, 0, 1, 1]),
        Dataset({"x": TOKENS}, labels=[1, 0, 1, 0]),
        Dataset(np.array(TOKENS, np.int32), labels=[1, 0, 1, 0]),
        Dataset(np.array(TOKENS).reshape(4, 2, 2), labels=[1, 0, 1, 0]),
        Dataset(TOKENS[::-1], labels=[1, 0, 1, 0]),
    ]
    assert len({data.digest(), *(other.digest() for other in others)}) == 7


def test_the_digest_does_not_depend_on_the_order_of_the_inputs() -> None:
    assert (
        Dataset({"a": rows(2), "b": TOKENS[:2]}).digest()
        == Dataset({"b": TOKENS[:2], "a": rows(2)}).digest()
    )


def test_labels_are_not_an_input() -> None:
    assert (
        Dataset({"a": [1, 2], "labels": [3, 4]}).digest()
        != Dataset({"a": [1, 2]}, labels=[3, 4]).digest()
    )


def test_a_given_digest_is_used() -> None:
    assert Dataset(TOKENS, digest="abc").digest() == "abc"


def test_digests_stay_what_they_were() -> None:
    """Saved counterexamples name rows by digest: these may never change."""
    data = Dataset(np.array(TOKENS, np.int64), labels=[1, 0, 1, 0])
    assert data.digest() == "e0c34c7b7996736011a1e07cde717b2c"
    assert data.row_digest(0) == data.row_digest(2) == "a2a126040f612fab6791d90f7946b9ab"


def test_a_row_has_its_digest_wherever_it_is() -> None:
    data, turned = Dataset(TOKENS, labels=[1, 2, 3, 4]), Dataset(TOKENS[::-1])
    assert [data.row_digest(row) for row in range(4)] == [
        turned.row_digest(row) for row in (3, 2, 1, 0)
    ]


class Tokenizer:
    def decode(self, ids: list[int]) -> str:
        assert all(type(token) is int for token in ids)
        return "".join("\x02_\n()"[token] for token in ids)

    def __call__(self, text: str) -> list[int]:  # as Hugging Face's are
        raise AssertionError


def test_a_row_is_one_line_of_text() -> None:
    assert Dataset(TOKENS).show(3) == "0 4 1 1"
    assert Dataset(TOKENS, show=Tokenizer()).show(0) == r"\x02()\n"
    assert Dataset({"x": [[0.5]], "input_ids": [[3, 4]]}, show=Tokenizer()).show(0) == "()"
    assert (
        Dataset(TOKENS, show=lambda row: f"\x1b[31m{row['tokens'].sum()}\u202e é").show(1)
        == r"\x1b[31m8\u202e é"
    )
    assert Dataset({"x": [[0.5, 1]], "on": [True]}).show(0) == "x=[0.5 1. ] on=True"
    assert len(Dataset(torch.zeros(1, 100, 100)).show(0)) < 400


MASKED = {"tokens": [[2, 3, 2, 0], [4, 3, 1, 1]], "attention_mask": [[1, 1, 1, 0], [1, 1, 1, 1]]}


@pytest.mark.parametrize(
    ("show", "words"),
    [
        (None, [(), ("4", "3", "1", "1")]),  # the padded row is shown with what is padded
        (Tokenizer(), [("\\n", "(", "\\n"), None]),
        (lambda row: "aba", [("a", "b", "a"), ()]),
        (lambda row: "ab ba ab", [("ab", "ba", "ab"), ()]),
        (lambda row: "abc", [(), ()]),  # one token is not two letters
        (lambda row: "aaa", [(), ()]),  # nor are two tokens one
        (lambda row: "cabb", [(), ("c", "a", "b", "b")]),
    ],
)
def test_what_stands_at_each_position_is_told_where_show_says_it(
    show: Any, words: list[tuple[str, ...] | None]
) -> None:
    data = Dataset(MASKED, show=show)
    for row, expected in enumerate(words):
        if expected is not None:
            assert data.words(row) == expected
    assert Dataset({"x": [[0.5, 1.0]]}, show=lambda row: "ab").words(0) == ()


def test_a_tokenizer_says_its_words_and_how_many_it_knows() -> None:
    data, knows = Dataset(TOKENS, show=Tokenizer()), Tokenizer()
    knows.vocab_size = 5  # type: ignore[attr-defined]
    assert (data.word(3), data.vocabulary) == ("(", None)
    assert Dataset(TOKENS, show=knows).vocabulary == 5
    assert Dataset(TOKENS, show=lambda row: "x").word(3) is None


def test_showing_has_to_return_text_or_an_image() -> None:
    with refuses(
        "show= returned None for row 1; return a str, or an image: of Pillow, or numbers [height, "
        "width] or [height, width, 3]"
    ):
        Dataset(TOKENS, show=lambda row: None).show(1)


# --- other devices, fresh rows --------------------------------------------------------------------


def test_it_moves_to_a_device() -> None:
    data = Dataset(
        TOKENS,
        labels=[1, 0, 1, 0],
        features={"f": ["a", "b", "a", "b"]},
        donors=[0],
        digest="d",
        label_pos=-1,
    )
    moved = data.to("meta")
    assert (moved.device.type, moved.labels.device.type, data.device.type) == (
        "meta",
        "meta",
        "cpu",
    )
    assert moved.feature("f").tolist() == ["a", "b", "a", "b"]
    assert moved.donor_rows.tolist() == [0]
    assert (moved.digest(), moved.label_pos) == ("d", -1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_is_the_same_on_a_gpu() -> None:
    data = Dataset(
        TOKENS, labels=[1, 0, 1, 0], features={"last": lambda batch: batch["tokens"][:, -1]}
    )
    moved = Dataset(
        torch.tensor(TOKENS, device="cuda"),
        labels=[1, 0, 1, 0],
        features={"last": lambda batch: batch["tokens"][:, -1]},
    )
    assert moved.labels.is_cuda
    assert moved.batch(np.array([1, 0]))["tokens"].is_cuda
    assert moved.digest() == data.digest() == data.to("cuda").digest()
    assert moved.row_digest(1) == data.row_digest(1)
    assert moved.show(1) == data.show(1)
    assert moved.feature("last").tolist() == data.feature("last").tolist()
    assert moved.content.tolist() == data.content.tolist()
    assert moved.extend([[1, 2, 3, 4]]).inputs["tokens"].is_cuda


# --- more features --------------------------------------------------------------------------------


def test_more_features_share_all_that_is_known_of_the_rows() -> None:
    data = Dataset(
        torch.tensor(TOKENS),
        labels=[0, 1, 0, 1],
        features={"old": lambda batch: batch["tokens"][:, 1]},
    )
    codes = data.codes(Agreement(("old",)))
    more = data.with_features(
        {"column": [1, 1, 0, 0], "last": lambda batch: batch["tokens"][:, -1]}
    )
    assert more.feature_names == ("old", "column", "last")
    assert more.feature("column").tolist() == [1, 1, 0, 0]
    assert more.feature("last").tolist() == [2, 2, 2, 1]
    assert more.feature("old") is data.feature("old")
    assert more.codes(Agreement(("old",))) is codes
    assert more.inputs is data.inputs
    assert more.labels is data.labels
    assert more.content is data.content
    assert more.digest() == data.digest()


def test_more_features_leave_the_dataset_as_it_was() -> None:
    data = Dataset(rows(2), features={"old": [0, 1]})
    data.with_features({"new": [1, 0]}).codes(Agreement(("new", "old")))
    assert data.feature_names == ("old",)
    for use in (lambda: data.feature("new"), lambda: data.codes(Agreement(("new", "old")))):
        with refuses("the dataset has no feature 'new'; it has old"):
            use()


def test_a_feature_is_never_replaced() -> None:
    with refuses("the dataset has a feature 'old' already; give the new one another name"):
        Dataset(rows(2), features={"old": [0, 1]}).with_features({"new": [1, 0], "old": [1, 0]})


def test_a_new_column_needs_a_value_for_every_row() -> None:
    with refuses("feature 'new' has 1 values for 2 rows; give one per row"):
        Dataset(rows(2)).with_features({"new": [1]}).feature("new")


def test_rows_that_an_alignment_was_found_on_are_neither_references_nor_donors() -> None:
    tokens = torch.arange(12).view(6, 2)
    data = Dataset(tokens, fitted_on=[1, 4])
    assert data.reference_rows.tolist() == data.donor_rows.tolist() == [0, 2, 3, 5]
    assert data.of_fit.reference_rows.tolist() == data.of_fit.donor_rows.tolist() == [1, 4]
    assert data.extend(torch.full((1, 2), 99)).of_fit.donor_rows.tolist() == [1, 4]
    apart = Dataset(tokens, fitted_on=[1, 4], donors=[0, 2])
    assert (apart.reference_rows.tolist(), apart.donor_rows.tolist()) == ([3, 5], [0, 2])
    plain = Dataset(tokens)
    assert plain.fitted_rows is None
    assert plain.of_fit is plain


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([0, 1, 2], {"references": [0, 1]}, "fitted_on= holds row 1 which references= holds too"),
        ([0, 1, 2], {"references": [0], "donors": [1]}, "row 1 which donors= holds too"),
        ([0, 1, 1], {}, "fitted_on= holds row 1, the same input as row 2, which references= holds"),
        ([0, 1, 1], {"donors": [2], "references": [0]}, "as row 2, which donors= holds too"),
    ],
)
def test_nothing_is_judged_on_what_its_alignment_was_found_on(
    rows: list[int], options: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataError, match=says) as raised:
        Dataset(torch.tensor(rows)[:, None], fitted_on=[1], **options)
    assert "an alignment is judged on inputs that it was not found on; leave" in str(raised.value)


def test_fresh_rows_become_donors() -> None:
    data = Dataset(TOKENS, labels=[1, 0, 1, 0], donors=[2, 3], digest="d", name="n", label_pos=-1)
    extended = data.extend([[0, 3, 3, 2], [5, 5, 5, 5]])
    assert (len(data), len(extended), extended.name, extended.label_pos) == (4, 6, "n", -1)
    assert extended.reference_rows.tolist() == [0, 1]
    assert extended.donor_rows.tolist() == [2, 3, 4, 5]
    assert extended.labels.tolist() == [1, 0, 1, 0, 0, 0]
    assert extended.content[4] == extended.content[1]
    assert extended.digest() not in ("d", data.digest())
    assert data.extend([[5] * 4], labels=[7]).labels.tolist() == [1, 0, 1, 0, 7]


def test_functions_are_computed_for_the_fresh_rows_only() -> None:
    seen = []

    def last(batch: dict[str, torch.Tensor]) -> list[Any]:
        seen.append(len(batch["tokens"]))
        return [str(row[-1]) if row[-1] > 4 else row[-1] for row in batch["tokens"].tolist()]

    data = Dataset(TOKENS, features={"last": last, "later": lambda batch: batch["tokens"].sum(1)})
    assert data.feature("last").tolist() == [2, 2, 2, 1]
    extended = data.extend([[0, 0, 0, 9], [0, 0, 0, 2]])
    assert extended.feature("last").tolist() == [2, 2, 2, 1, "9", 2]
    assert extended.feature("later").tolist() == [9, 8, 9, 6, 9, 2]
    assert extended.extend([[0, 0, 0, 0]]).feature("last").tolist() == [2, 2, 2, 1, "9", 2, 0]
    assert seen == [4, 4, 1, 1, 2, 1]
    assert extended.codes(Agreement(("last",))).tolist() == [0, 0, 0, 1, 2, 0]


def test_a_column_says_nothing_of_fresh_rows() -> None:
    data = Dataset(
        TOKENS, features={"column": [1, 2, 3, 4], "total": lambda batch: batch["tokens"].sum(1)}
    )
    data.feature("column")
    extended = data.extend([[0, 0, 0, 9]])
    assert extended.feature("total").tolist() == [9, 8, 9, 6, 9]
    for again in (extended, extended.extend([[0, 0, 0, 8]]), extended.to("cpu")):
        with refuses(
            "feature 'column' is a column and has no values for rows that extend() added; give it "
            "as a function of the inputs, for only functions work on fresh inputs"
        ):
            again.codes(Agreement(("column",)))


@pytest.mark.parametrize(
    ("inputs", "labels", "sentence"),
    [
        (
            [[1, 2, 3]],
            None,
            "extend() got tokens torch.int64 ['rows', 3], but the dataset has tokens torch.int64 "
            "['rows', 4]; make names, types and shapes fit",
        ),
        (
            {"ids": [[1.0] * 4]},
            None,
            "extend() got ids torch.float32 ['rows', 4], but the dataset has tokens torch.int64 "
            "['rows', 4]; make names, types and shapes fit",
        ),
        (
            [[1, 2, 3, 4]],
            [1],
            "extend() got labels torch.int64 ['rows'], but the dataset has none; make names, types "
            "and shapes fit",
        ),
        ([[1, 2, 3, 4]], [1, 2], "there are 2 labels for 1 rows; give one per row"),
    ],
)
def test_fresh_rows_that_do_not_fit_are_refused(inputs: Any, labels: Any, sentence: str) -> None:
    with refuses(sentence):
        Dataset(TOKENS).extend(inputs, labels)
