"""The smallest false claim that looks true: an XOR whose second bit is said not to matter."""

from __future__ import annotations

import numpy as np
import pytest

from pytest_scrub import (
    ANYTHING,
    Evaluator,
    RefutedByAdversary,
    Weak,
    claim,
    module,
    output,
    zero_one_error,
)

TOLERANCE = 0.10  # of the answers, of which half are right


def z2_is_irrelevant():
    return output(module("z1", agrees_on="z1"), module("z2", agrees_on=ANYTHING))


# it holds, and would hold as well if its feature knew nothing
@pytest.mark.xfail(raises=Weak, strict=True)
@claim(tolerance=TOLERANCE, metric=zero_one_error(), model="xor", data="bits", adversaries=[])
def test_the_average_does_not_notice():
    return z2_is_irrelevant()


# wrong on every reference: error 1.0, gap 0.5
@pytest.mark.xfail(raises=RefutedByAdversary, strict=True)
@claim(tolerance=TOLERANCE, metric=zero_one_error(), model="xor", data="bits")
def test_the_worst_allowed_swaps_notice():
    return z2_is_irrelevant()


def test_every_answer_can_be_made_wrong_and_every_one_right(xor, bits):
    """All allowed swaps, enumerated."""
    evaluator = Evaluator(xor, bits, z2_is_irrelevant(), zero_one_error())
    error = {int(row): [] for row in evaluator.space.reference_rows}
    average = 0.0
    for swap_set, chances in evaluator.space.enumerate():
        errors = evaluator.evaluate(swap_set)
        average += float(chances @ errors)
        for row, value in zip(swap_set.references, errors, strict=True):
            error[int(row)].append(value)
    assert evaluator.unscrubbed(np.arange(4)).mean() == 0.5
    assert average == 0.5
    assert [max(errors) for errors in error.values()] == [1.0] * 4
    assert [min(errors) for errors in error.values()] == [0.0] * 4
