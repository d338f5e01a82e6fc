"""One claim under two metrics: that of a bag only the asked word counts.

The crowded network has ten dimensions for forty words, so the other words of a bag disturb its
answer. That disturbance is random: it averages out of the loss, and KL to the clean output asks for
it all the same.
"""

from __future__ import annotations

import pytest

from pytest_scrub import (
    Refuted,
    RefutedByAdversary,
    claim,
    cross_entropy,
    kl_to_clean,
    module,
    output,
)

TOLERANCE = 0.10  # nats, a seventh of what the answer to a yes-or-no question is worth


def only_the_asked_word_counts():
    """The bag from any question after the same word with the same answer."""
    return output(
        module("written", agrees_on=["asked", "is_in"]), module("question", agrees_on="asked")
    )


@claim(tolerance=TOLERANCE, metric=cross_entropy(), model="crowded", adversary="report")
def test_crowded_loss():
    return only_the_asked_word_counts()


@pytest.mark.xfail(raises=Refuted, strict=True)  # gap 0.47
@claim(tolerance=TOLERANCE, metric=kl_to_clean(), model="crowded")
def test_crowded_kl():
    return only_the_asked_word_counts()


@pytest.mark.xfail(raises=RefutedByAdversary, strict=True)  # gap -0.01, at its worst 4.3
@claim(tolerance=TOLERANCE, metric=cross_entropy(), model="crowded")
def test_crowded_loss_at_its_worst():
    return only_the_asked_word_counts()


@claim(tolerance=TOLERANCE, metric=cross_entropy(), model="roomy")
def test_roomy_loss():
    return only_the_asked_word_counts()


@claim(tolerance=TOLERANCE, metric=kl_to_clean(), model="roomy")
def test_roomy_kl():
    return only_the_asked_word_counts()
