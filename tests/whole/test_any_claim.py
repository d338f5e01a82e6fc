"""Whatever is claimed: a verdict or an error of ours, and never `held`, nor held on average, where
all allowed swaps say otherwise, nor `refuted` where none of them does."""

from __future__ import annotations

import math
import warnings
from collections import Counter

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from pytest_scrub import ScrubError, check
from tests.reference.any_claim import HOSTILE, KINDS, VALID
from tests.sizes import sized

# three in five of all kinds mixed, the others kind by kind
CASES = sized(40, 1080)
FEWEST = sized(2, 3)  # of a kind; the first is always the simplest
RELATIVE = 1e-6
VERDICT_SHARE = 0.5
NO_ROOM = "min_recovered= cannot be judged"  # too few draws tell the baseline from the network


def outcomes_of(case):
    """The verdict's outcome and what the draws alone decided, or `refused: ` and why; what is not
    the project's own error is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            root, model, data, options = case.make()
            note(f"{root}\n{options}")
            verdict = check(root, model, data, **options)
            return verdict.outcome, verdict.average
        except ScrubError as error:
            return (f"refused: {error}",) * 2


def wrongs_on_average(truth, accepts):
    """What all allowed swaps say against a claim that held on average."""

    def is_beyond(gap, bound):
        badness = abs(gap) if accepts.is_two_sided else truth.worse * gap
        return badness > bound * (1 + RELATIVE) + truth.rounding

    if is_beyond(truth.gap, accepts.gap):
        yield f"the gap is {truth.gap}, of {accepts.gap} accepted"
    if accepts.slices is not None and any(
        is_beyond(gap, accepts.slices) for gap in truth.of_slices(accepts.by)
    ):
        yield f"the slices' gaps are {truth.of_slices(accepts.by)}, of {accepts.slices} accepted"


def wrongs_at_worst(truth, accepts):
    """What the worst of them say against one that held."""
    if (
        truth.worst
        > (math.inf if accepts.worst is None else accepts.worst) * (1 + RELATIVE) + truth.rounding
    ):
        yield f"the worst swaps' gap is {truth.worst}, of {accepts.worst} accepted"


def wrongs_of_refuted(truth, accepts):
    """What all allowed swaps say against a refutation: that not one of them is beyond what the
    claim accepts."""
    most = abs(truth.scrubbed - truth.clean).max()
    accepted = min(accepts.gap, math.inf if accepts.slices is None else accepts.slices)
    if most < accepted * (1 - RELATIVE) - truth.rounding:
        yield f"no swap changes the metric by more than {most}, of {accepted} accepted"


def judge(case, kind):
    outcome, average = outcomes_of(case)
    is_refused = outcome.startswith("refused")
    assert case.truth is not None or is_refused, f"{kind}: {outcome} instead of an error"
    assert kind not in VALID or not is_refused or NO_ROOM in outcome, f"{kind}: {outcome}"
    if average == "held":
        assert not [*wrongs_on_average(case.truth, case.accepts)], f"{kind}: held on average"
    if outcome == "held":
        assert not [*wrongs_at_worst(case.truth, case.accepts)], f"{kind}: held"
        assert average == "held", f"{kind}: held, and {average} on average"
    if outcome == "refuted":
        assert not [*wrongs_of_refuted(case.truth, case.accepts)], f"{kind}: refuted"
    return outcome, average


def test_nothing_false_is_held_and_most_cases_reach_a_verdict():
    outcomes, averages = Counter(), Counter()

    @settings(max_examples=CASES * 3 // 5)
    @given(st.data())
    def property_of(data):
        kind = data.draw(st.sampled_from([*list(VALID) * 12, *HOSTILE]))
        outcome, average = judge(data.draw(KINDS[kind]), kind)
        outcomes[outcome.partition(":")[0]] += 1
        averages[average.partition(":")[0]] += 1

    property_of()
    print(
        f"{1 - outcomes['refused'] / outcomes.total():.0%} of {outcomes.total()} reach a verdict: "
        f"{dict(outcomes)}, on average {dict(averages)}"
    )
    assert outcomes["refused"] < (1 - VERDICT_SHARE) * outcomes.total(), outcomes
    assert averages["held"], averages
    assert averages["refuted"], averages


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_false_of_one_kind_is_held(kind):
    @settings(max_examples=max(FEWEST, CASES // 60))
    @given(KINDS[kind])
    def property_of(case):
        judge(case, kind)

    property_of()
