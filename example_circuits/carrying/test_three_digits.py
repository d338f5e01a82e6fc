"""What an adding network that others trained holds where it begins to answer; the README gives the
figures.

Skipped where SCRUB_NETWORKS names no folder.
"""

from __future__ import annotations

import pytest

from example_circuits.carrying.three_digits import EQUALS_AT, NO_CARRY, WRITTEN
from pytest_scrub import (
    Refuted,
    RefutedByAdversary,
    Undecided,
    aligned,
    claim,
    group,
    head,
    stream,
    zero_one_error,
)

WRONG = {
    "metric": zero_one_error(), "tolerance": 0.1, "model": "of_others", "data": "three_digits",
}  # fmt: skip
refuted = pytest.mark.xfail(raises=Refuted, strict=True)
falls = pytest.mark.xfail(raises=RefutedByAdversary, strict=True)

HUNDREDS = [head(0, number) for number in range(3)]


@claim(**WRONG)
def test_one_head_holds_the_tens():
    return aligned(WRITTEN, tens=head(0, 3, pos=EQUALS_AT))


@falls  # of sums whose tens make nine, the carry of the ones is not there: 0.37
@claim(**WRONG)
def test_one_head_holds_the_carry():
    return aligned(WRITTEN, carry=head(0, 3, pos=EQUALS_AT))


@pytest.mark.xfail(raises=Undecided, strict=True)  # the worst pairs: 0.090 [0.072, 0.112] of 0.1
@claim(**WRONG)
def test_it_does_not_add_the_hundreds_alone():
    return aligned(WRITTEN, tens=head(0, 3, pos=EQUALS_AT), rivals={"no carry": NO_CARRY})


@falls  # 0.61 for the worst pairs that are found
@claim(**WRONG)
def test_three_heads_hold_the_hundreds():
    return aligned(WRITTEN, hundreds=group(HUNDREDS, pos=EQUALS_AT))


@falls  # 0.71
@claim(**WRONG)
def test_hundreds_and_tens_make_the_first_digit():
    return aligned(WRITTEN, hundreds=group(HUNDREDS, pos=EQUALS_AT), tens=head(0, 3, pos=EQUALS_AT))


@refuted
@claim(**WRONG)
def test_two_heads_hold_the_hundreds():
    return aligned(WRITTEN, hundreds=group(HUNDREDS[:2], pos=EQUALS_AT))


@refuted
@claim(**WRONG)
def test_another_head_holds_the_carry():
    return aligned(WRITTEN, carry=head(0, 2, pos=EQUALS_AT))


@refuted
@claim(**WRONG)
def test_the_carry_is_where_the_last_digit_is_read():
    """Where the network of this folder has it."""
    return aligned(WRITTEN, carry=stream(1, pos=EQUALS_AT - 1))
