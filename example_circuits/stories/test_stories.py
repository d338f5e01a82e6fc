"""How a small story-telling network chooses "she" or "he", claimed; the README tells the story and
gives the figures.

What patching showed before any of these claims was run: the gender stands in the last token of the
noun and in the last token of the name, and three heads of the last layer copy it from there, as
values, to where the pronoun is due.
"""

from __future__ import annotations

import pytest
import torch

from pytest_scrub import (
    claim,
    embed,
    group,
    head,
    kl_to_clean,
    logit_difference,
    mlp,
    output,
)

EXPLAINED = 0.9  # of what a claim costs if its features know nothing, on average and at the worst
KL = {"min_explained": EXPLAINED, "metric": kl_to_clean()}
LAST = 4  # the last layer


def at_the_end(which, agrees_on, reads=()):
    """A head of the last layer as the end of the prompt hears it: along every path, since the last
    MLP reads it too."""
    return head(LAST, which, agrees_on=agrees_on, pos="end", via="any", reads=list(reads))


def told(*nodes):
    """These heads tell the end of the prompt; all else there may come from any prompt that ends
    with the same words."""
    return output(*nodes, rest="ending")


def three_heads():
    return told(*(at_the_end(which, "gender") for which in (0, 2, 4)))


def two_heads(*heads, agrees_on="gender", reads=()):
    """These heads carry the gender, and head 4.4 the initial of the name."""
    return told(*(at_the_end(which, agrees_on, reads) for which in heads), at_the_end(4, "initial"))


def everything_at(position):
    """The residual stream before the last layer, as values at one position: all that is written to
    it there, taken from one prompt."""
    below = range(LAST)
    parts = [embed(), *(mlp(layer) for layer in below)]
    parts += [head(layer, which) for layer in below for which in range(8)]
    return group(parts, agrees_on="gender", pos=position, into="v", name=f"stream at {position}")


def test_the_network_chooses_by_gender(stories, scrub_data):
    """The behaviour that is explained: she or he is due, and the network knows which."""
    rows, end = torch.arange(len(scrub_data)), torch.tensor(scrub_data.feature("end"))
    with torch.no_grad():
        chances = stories(scrub_data.inputs["tokens"])[rows, end].softmax(-1)
    right = chances[rows, scrub_data.labels]
    wrong = chances[rows, torch.tensor(scrub_data.feature("rival"))]
    assert bool((right > wrong).all())
    assert float((right + wrong > 0.5).float().mean()) > 0.99


@claim(**KL)
def test_three_heads_carry_the_gender():
    """What was believed first."""
    return three_heads()


@claim(min_explained=EXPLAINED, metric=logit_difference(against="rival"))
def test_three_heads_carry_the_gender_in_logits():
    """The same by how far one pronoun is ahead of the other, which can cancel."""
    return three_heads()


@claim(**KL)
def test_two_heads_carry_the_gender():
    """What is believed since: head 4.4 says with which letter the name begins."""
    return two_heads(0, 2)


@claim(**KL)
def test_they_read_the_last_tokens_of_noun_and_name():
    return two_heads(0, 2, reads=[everything_at("noun_end"), everything_at("name_end")])


# Neighbours that are believed false. Each differs from one of the last two in one thing.


@claim(**KL)
def test_they_read_the_first_tokens_of_noun_and_name():
    return two_heads(0, 2, reads=[everything_at("noun_start"), everything_at("name_start")])


@claim(**KL)
def test_they_read_the_name_alone():
    return two_heads(0, 2, reads=[everything_at("name_end")])


@claim(**KL)
def test_one_head_is_enough():
    return two_heads(2)


@claim(**KL)
def test_two_other_heads_carry_the_gender():
    """They look at the name as well, with 0.28 and 0.19 of their attention."""
    return two_heads(6, 7)


@claim(**KL)
def test_they_carry_the_initial_of_the_name():
    return two_heads(0, 2, agrees_on="initial")
