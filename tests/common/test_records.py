"""Records as JSON: what is no record is refused with the field that is wrong, whatever stands
there."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import given

from pytest_scrub.common.records import Malformed, as_plain_dict, fields_of, parse_json
from pytest_scrub.verdict import FELL, OUTCOMES, Attempt, Estimate, Outcome, Verdict
from tests.example_verdicts import attempt, verdict, whole
from tests.reference.edits import edited

TEXT = whole().to_json()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"tolerance": 0.5', '"tolerance": NaN', "`$.tolerance`"),
        ('"tolerance": 0.5', '"tolerance": -Infinity', "`$.tolerance`"),
        ('"tolerance": 0.5', '"tolerance": 1e999', "`$.tolerance`"),
        ('"tolerance": 0.5', f'"tolerance": 1{"0" * 400}', "`$.tolerance`"),
        ('"tolerance": 0.5', '"tolerance": "0.5"', "`$.tolerance`"),
        ('"tolerance": 0.5', '"tolerance": 1, "tolerance": 2', "'tolerance' stands there twice"),
        ('"seed": 7', f'"seed": 1{"0" * 400}', "`$.seed`"),
        ('"seed": 7', f'"seed": 1{"0" * 5000}', "it is no JSON"),
        ('"seed": 7', '"seed": true', "`$.seed`"),
        ('"seed": 7', '"seed": 7.0', "`$.seed`"),
        ('"seed": 7, ', "", "`seed`"),
        ('"outcome": "refuted"', '"outcome": "confirmed"', "'confirmed' - at `$.outcome`"),
        ('"low": -0.02', '"low": NaN', "`$.gap.low`"),
        ('"low": -0.02', '"low": -0.02, "hgih": 1', "'gap' has a 'hgih' too many"),
        ('"search": ', '"serach": ', "'the file' has a 'serach' too many"),
        ('"late": ', '"refuted": true, "late": ', "'attempts' has a 'refuted' too many"),
        ('"schema_version": 1', '"schema_version": true', "`$.schema_version`"),
        ('"schema_version": 1', '"schema_version": 1.0', "`$.schema_version`"),
        ('"tolerance": 0.5', '"tolerance": true', "`$.tolerance`"),
        ('"mean": 0.01', '"mean": null', "`$.gap.mean`"),
        ('"schema_version": 1', '"schema_version": 2', "its schema is 2, not 1"),
    ],
)
def test_a_wrong_value_is_named(old: str, new: str, why: str) -> None:
    assert old in TEXT
    with pytest.raises(Malformed) as raised:
        Verdict.from_json(TEXT.replace(old, new, 1))
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "NaN", "null", "[" * 100_000, '{"a": ' * 9999]
)
def test_what_is_no_record(text: str) -> None:
    with pytest.raises(Malformed, match=r"^it(s schema is None, not 1| is no JSON: )"):
        Verdict.from_json(text)


@given(edited(TEXT))
def test_no_edit_does_more_than_be_refused(text: str) -> None:
    try:
        found = Verdict.from_json(text)
    except Malformed:
        return
    assert Verdict.from_json(found.to_json()) == found


NOT_KNOWN = {"mean": 0.5, "low": None, "high": None, "exact": False}


def test_ends_that_are_not_known_are_null_and_come_back() -> None:
    one = verdict(gap=Estimate(0.5, -math.inf, math.inf))
    assert parse_json(one.to_json())["gap"] == NOT_KNOWN
    assert Verdict.from_json(one.to_json()) == one
    assert as_plain_dict(one.gap) == NOT_KNOWN


def test_a_seed_may_be_as_large_as_seeds_are() -> None:
    one = verdict(seed=-(2**128))
    assert Verdict.from_json(one.to_json()) == one


def test_what_is_shared_is_that_of_the_first_that_has_it() -> None:
    class Found:
        adversary, gap, more = "mine", 2.5, None

    values = fields_of(Attempt, Found(), attempt())
    assert (values["adversary"], values["gap"], values["how"]) == ("mine", 2.5, attempt().how)
    assert values.keys() == {field.name for field in fields(Attempt)}
    assert fields_of(Estimate, Found()) == {}


def test_every_outcome_has_its_marks() -> None:
    assert OUTCOMES.keys() == {*get_args(Outcome), FELL}
    assert len({mark.sign for mark in OUTCOMES.values()}) == len(OUTCOMES)
