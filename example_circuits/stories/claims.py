"""What is claimed of how the network chooses "she" or "he", as trees.

What patching showed before any of them was run: the gender stands in the last token of the noun and
in the last token of the name, and heads of the last layer copy it from there, as values, to where
the pronoun is due.
"""

from __future__ import annotations

from pytest_scrub import embed, group, head, kl_to_clean, mlp, output

EXPLAINED = 0.9  # of what a claim costs if its features know nothing, on average and at the worst
KL = {"min_explained": EXPLAINED, "metric": kl_to_clean()}
LAST, HEADS = 4, 8  # the last layer; heads of a layer


def at_the_end(which, agrees_on, reads=()):
    """A head of the last layer as the end of the prompt hears it: along every path, since the last
    MLP reads it too."""
    return head(LAST, which, agrees_on=agrees_on, pos="end", via="any", reads=list(reads))


def told(*nodes):
    """These heads tell the end of the prompt; all else there may come from any prompt that ends
    with the same words."""
    return output(*nodes, rest="ending")


def three_heads():
    """What was believed first."""
    return told(*(at_the_end(which, "gender") for which in (0, 2, 4)))


def two_heads(*heads, agrees_on="gender", reads=()):
    """What is believed since: these heads carry the gender, and head 4.4 the initial of the
    name."""
    return told(*(at_the_end(which, agrees_on, reads) for which in heads), at_the_end(4, "initial"))


def everything_at(position):
    """The residual stream before the last layer, as values at one position: all that is written to
    it there, taken from one prompt."""
    below = range(LAST)
    parts = [embed(), *(mlp(layer) for layer in below)]
    parts += [head(layer, which) for layer in below for which in range(HEADS)]
    return group(parts, agrees_on="gender", pos=position, into="v", name=f"stream at {position}")
