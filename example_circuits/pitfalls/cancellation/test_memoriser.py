"""One claim about two trained networks: that of a whole sequence only the marker counts.

It is false of the memoriser, which has learnt by heart what noise its training sequences came with,
and true of the learner. On sequences that neither has seen the average cannot tell them apart; the
README says why.
"""

from __future__ import annotations

import pytest

from pytest_scrub import Refuted, RefutedByAdversary, claim, embed, output, zero_one_error

# of the answers: a sixth of what the marker is worth, 0.5 wrong without it and 0.2 with it
TOLERANCE = 0.05
OPTIONS = {"tolerance": TOLERANCE, "metric": zero_one_error(), "samples": 8_000}


def only_the_marker_counts():
    """The first letter from a sequence of the same marker, the other letters from any sequence."""
    return output(embed(agrees_on="marker", pos=0, via="any"))


@claim(**OPTIONS, model="memoriser", data="fresh_sequences", adversaries=[])
def test_the_memoriser_on_average():
    return only_the_marker_counts()


# gap 0.01, at its worst 0.66: no answer is right
@pytest.mark.xfail(raises=RefutedByAdversary, strict=True)
@claim(**OPTIONS, model="memoriser", data="fresh_sequences")
def test_the_memoriser_at_its_worst():
    return only_the_marker_counts()


@pytest.mark.xfail(raises=Refuted, strict=True)  # gap 0.35
@claim(**OPTIONS, model="memoriser", data="memorised_sequences")
def test_the_memoriser_on_what_it_memorised():
    return only_the_marker_counts()


@claim(**OPTIONS, model="learner", data="fresh_sequences")
def test_the_learner():
    return only_the_marker_counts()
