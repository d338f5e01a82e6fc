"""The neurons of a network that adds modulo 113, by their frequencies; the README tells the story
and gives the figures."""

from __future__ import annotations

import pytest
import torch

from pytest_scrub import ANYTHING, EXACT, Refuted, claim, neurons, output

EXPLAINED = 0.9  # of what a claim costs if its features know nothing, on average and at the worst
HIDDEN = 512
refuted = pytest.mark.xfail(raises=Refuted, strict=True)


def test_the_network_adds(addition, scrub_data):
    """The behaviour that is explained."""
    with torch.no_grad():
        answers = addition(scrub_data.inputs["tokens"])[:, -1].argmax(-1)
    assert bool((answers == scrub_data.labels).all())


def test_which_frequencies_there_are(by_frequency):
    assert {k: len(units) for k, units in by_frequency.items()} == {
        6: 78, 23: 56, 37: 97, 39: 37, 41: 75,
    }  # fmt: skip


def some(units, agrees_on):
    return neurons(0, units, agrees_on=agrees_on, pos=-1)


def each(by_frequency, feature):
    """The neurons of every frequency, each lot from an input of its own; all else stays."""
    return output(
        *(some(units, feature(k)) for k, units in by_frequency.items()),
        rest=EXACT,
    )


@claim(min_explained=EXPLAINED)
def test_each_frequency_knows_the_sum(by_frequency):
    return each(by_frequency, lambda k: "sum")


@claim(min_explained=EXPLAINED)
def test_each_knows_the_angle_of_the_sum_to_a_sixteenth_of_a_turn(by_frequency):
    return each(by_frequency, lambda k: f"sector_{k}")


@claim(min_explained=EXPLAINED)
def test_each_knows_cosine_and_sine(by_frequency):
    return each(by_frequency, lambda k: [f"cos_{k}", f"sin_{k}"])


@claim(tolerance=0.001)
def test_neurons_of_no_frequency_are_idle(by_frequency):
    known = {unit for units in by_frequency.values() for unit in units}
    return output(some(sorted({*range(HIDDEN)} - known), ANYTHING), rest=EXACT)


@refuted  # explains 52 %
@claim(min_explained=EXPLAINED)
def test_each_knows_the_cosine_alone(by_frequency):
    return each(by_frequency, lambda k: f"cos_{k}")


@refuted  # explains nothing
@claim(min_explained=EXPLAINED)
def test_each_knows_the_angle_of_the_difference(by_frequency):
    return each(by_frequency, lambda k: f"apart_{k}")


@refuted  # explains 7 %
@claim(min_explained=EXPLAINED)
def test_each_knows_the_angle_at_the_next_frequency(by_frequency):
    ks = list(by_frequency)
    after = dict(zip(ks, ks[1:] + ks[:1], strict=True))
    return each(by_frequency, lambda k: f"sector_{after[k]}")


@refuted  # explains 57 %
@claim(min_explained=EXPLAINED)
def test_one_frequency_is_enough(by_frequency):
    """All else at the last position may come from any pair."""
    return output(some(by_frequency[23], "sum"))
