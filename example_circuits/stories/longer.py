"""Claims that take longer, four minutes together, and so are run by name only:

pytest example_circuits/stories/longer.py
"""

from __future__ import annotations

import pytest

from example_circuits.stories.claims import EXPLAINED, KL, everything_at, three_heads, two_heads
from pytest_scrub import Refuted, RefutedByAdversary, Undecided, claim, logit_difference

refuted = pytest.mark.xfail(raises=Refuted, strict=True)
# not refuted on average, but by the worst swaps
falls = pytest.mark.xfail(raises=RefutedByAdversary, strict=True)
# So near to the bound that other draws decide otherwise, but for that it does not hold.
not_held = pytest.mark.xfail(raises=(RefutedByAdversary, Undecided), strict=True)


@falls  # explains 99 % on average, 70 % at the worst
@claim(min_explained=EXPLAINED, metric=logit_difference(against="rival"))
def test_three_heads_carry_the_gender_in_logits():
    """What was believed first, by how far one pronoun is ahead of the other, which can cancel."""
    return three_heads()


@not_held  # explains 91 % on average and 89 % at the worst; believed before it was run
@claim(**KL)
def test_they_read_the_last_tokens_of_noun_and_name():
    return two_heads(0, 2, reads=[everything_at("noun_end"), everything_at("name_end")])


@falls  # explains 90 % on average, which is not decided, and 88 % at the worst
@claim(**KL)
def test_one_head_is_enough():
    return two_heads(2)


@refuted  # explains 66 %
@claim(**KL)
def test_they_read_the_name_alone():
    return two_heads(0, 2, reads=[everything_at("name_end")])
