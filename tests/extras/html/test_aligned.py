"""Two texts beside each other: what differs is marked in both."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_scrub.extras.html.aligned import RUN, aligned
from pytest_scrub.extras.html.page import fragment
from tests.example_verdicts import (
    refuted,
)


def pieces(own: str, donor: str) -> list[tuple[str, str]]:
    return [(piece.own, piece.donor) for piece in aligned(own, donor)]


@pytest.mark.parametrize(
    ("own", "donor", "expected"),
    [
        ("the cat sat", "the dog sat", [("the", "the"), (" cat", " dog"), (" sat", " sat")]),
        (
            "the cat sat",
            "the big cat sat",
            [("the", "the"), ("", " big"), (" cat sat", " cat sat")],
        ),
        ("a b c d e f", "b c d e f g", [("a b", "b"), (" c d e f", " c d e f"), ("", " g")]),
        ("^abcd", "^xbyd", [("^", "^"), ("a", "x"), ("b", "b"), ("c", "y"), ("d", "d")]),
        ("abcd", "badc", [("abcd", "badc")]),
        ("abc", "abc", [("abc", "abc")]),
        ("", "abc", [("", "abc")]),
        ("", "", []),
    ],
)
def test_what_differs(own: str, donor: str, expected: list[tuple[str, str]]) -> None:
    assert pieces(own, donor) == expected


@given(st.text(max_size=60), st.text(max_size=60))
def test_pieces_are_the_whole_texts(own: str, donor: str) -> None:
    found = pieces(own, donor)
    assert "".join(one for one, _ in found) == own
    assert "".join(other for _, other in found) == donor
    assert all(max(len(one), len(other)) <= RUN for one, other in found)


def test_long_texts_are_compared_in_place_and_quickly() -> None:
    own, donor = "ab" * 20_000, "ba" * 20_000
    found = pieces(own, donor)
    assert "".join(one for one, _ in found) == own


def test_differences_are_marked_in_both_texts() -> None:
    text = fragment(refuted())
    assert re.search(r"<del>\s*cat</del><ins>\s*dog</ins>", text)
    assert "<span>the</span><span>the</span>" in text
