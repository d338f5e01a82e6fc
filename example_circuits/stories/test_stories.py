"""How a small story-telling network chooses "she" or "he", claimed; the README tells the story and
gives the figures, and `longer.py` has the claims that take longer."""

from __future__ import annotations

import pytest
import torch

from example_circuits.stories.claims import KL, everything_at, three_heads, two_heads
from pytest_scrub import Refuted, claim

refuted = pytest.mark.xfail(raises=Refuted, strict=True)


def test_the_network_chooses_by_gender(stories, scrub_data):
    """The behaviour that is explained: she or he is due, and the network knows which."""
    rows, end = torch.arange(len(scrub_data)), torch.tensor(scrub_data.feature("end"))
    with torch.no_grad():
        chances = stories(scrub_data.inputs["tokens"])[rows, end].softmax(-1)
    right = chances[rows, scrub_data.labels]
    wrong = chances[rows, torch.tensor(scrub_data.feature("rival"))]
    assert bool((right > wrong).all())
    assert float((right + wrong > 0.5).float().mean()) > 0.99


@refuted  # explains 87 %; believed before it was run
@claim(**KL)
def test_three_heads_carry_the_gender():
    return three_heads()


@claim(**KL)
def test_two_heads_carry_the_gender():
    """Stated after the first claim was refuted, and before this one was run."""
    return two_heads(0, 2)


@refuted  # explains 7 %
@claim(**KL)
def test_two_other_heads_carry_the_gender():
    """They look at the name as well, with 0.28 and 0.19 of their attention."""
    return two_heads(6, 7)


@refuted  # explains 43 %
@claim(**KL)
def test_they_carry_the_initial_of_the_name():
    return two_heads(0, 2, agrees_on="initial")


@refuted  # explains 13 %
@claim(**KL)
def test_they_read_the_first_tokens_of_noun_and_name():
    return two_heads(0, 2, reads=[everything_at("noun_start"), everything_at("name_start")])
