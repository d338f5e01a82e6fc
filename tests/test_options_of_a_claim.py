"""The options of a claim: what is no such number, word or list is one sentence; numbers of any
library are alike."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import (
    Dataset,
    FunctionGraph,
    HypothesisError,
    Verdict,
    WhichDonors,
    WhichNodes,
    check,
    module,
    output,
)
from pytest_scrub.pytest_edge.session import Scrub, Session

HUGE = (10**400, 10**5000, -(10**400))
NO_NUMBERS = (True, "x", math.nan, [], 1j, torch.ones(2, 2))
CLAIM = output(module("A", agrees_on="a"))
USUAL = {"tolerance": 0.5, "samples": 60, "adversaries": ()}


@cache
def network() -> FunctionGraph:
    return FunctionGraph(
        A=lambda a: 4 * a - 2, output=lambda A, b: torch.stack([-(A + b), A + b], -1)
    )


@cache
def rows() -> Dataset:
    a = torch.arange(40) % 2
    return Dataset({"a": a.float(), "b": torch.linspace(-1, 1, 40)}, labels=a, features={"a": a})


def judged(**options: Any) -> Verdict:
    return check(CLAIM, network(), rows(), **{**USUAL, **options})


@pytest.mark.parametrize(
    ("option", "wrong", "says"),
    [
        ("tolerance", (-1, math.inf),
        "tolerance= is a gap in the metric's unit, zero or more, not "),
        ("min_recovered", (1.5, -math.inf), "min_recovered= is a share of at most 1, such as 0.9, "
                                            "not "),
        ("samples", (1, 2.5, None), "samples= is a whole number of at least 2, not |samples= is at "
                                    "most 100,"),
        ("budget", (-1, 10**30, 0.5), "budget= is a whole number of evaluations, not |budget= is "
                                      "at most 1,"),
        ("deadline", (-1,), "deadline= is a number of seconds, not "),
        ("adversarial_tolerance", (-1,), "adversarial_tolerance= is a gap, zero or more, not "),
        ("slice_tolerance", (-1, math.inf), "slice_tolerance= is a gap, zero or more, not "),
        ("min_with_other", (2, None), "min_with_other= is a share from 0 to 1, not "),
        ("min_moved", (2, None), "min_moved= is a share from 0 to 1, not "),
        ("min_power", (2, -1), "min_power= is a share from 0 to 1, such as 0.8, not "),
        ("seed", (0.5, None), "seed= is a whole number, not "),
    ],
)  # fmt: skip
def test_no_number_is_believed_that_has_no_meaning(
    option: str, wrong: tuple[Any, ...], says: str
) -> None:
    for value in (*wrong, *NO_NUMBERS, *HUGE):
        with pytest.raises(HypothesisError) as raised:
            judged(**{"by": "a" if option == "slice_tolerance" else None, option: value})
        assert str(raised.value).startswith(tuple(says.split("|")))
        assert "\n" not in str(raised.value)
        assert len(str(raised.value)) < 300


def test_no_array_is_made_for_too_many_samples() -> None:
    with pytest.raises(HypothesisError, match=r"^samples= is at most 100,000,000, not 10{30}$"):
        judged(samples=10**30)


@pytest.mark.parametrize("option", ["generalize", "controls", "mutate", "anew"])
def test_a_switch_is_no_word(option: str) -> None:
    # None leaves controls to what the claim says
    for value in ("no", 1, *([] if option == "controls" else [None])):
        with pytest.raises(HypothesisError, match=f"^{option}= is True or False, not {value!r}$"):
            judged(**{option: value})


def test_words_and_lists() -> None:
    for option, value, says in (
        ("direction", 10**5000, "direction= is 'either' or 'worse', not a number of 16610 bits"),
        ("adversary", "gates", "adversary= is 'gate' or 'report', not 'gates'"),
        (
            "adversaries",
            WhichNodes(),
            "adversaries= takes a list such as [WhichDonors()], not WhichNodes",
        ),
        (
            "adversaries",
            [WhichNodes],
            "adversaries= takes adversaries such as WhichDonors(), not <class",
        ),
        ("by", 3, "by= is the name of a feature of the dataset, not 3"),
        ("name", 3, "name= is a text, not 3"),
        ("folder", "x", "folder= is a pathlib.Path, not 'x'"),
        ("progress", 3, "progress= is a function of (what, done, total, how it stands), not 3"),
        (
            "store",
            3,
            "store= is an ActivationStore, or a function of network and data that returns one, not "
            "3",
        ),
        (
            "store",
            lambda model, data: 3,
            "store= is an ActivationStore, or a function of network and data that",
        ),
        ("tolerence", 3, "check takes no tolerence=; did you mean 'tolerance'?"),
    ):
        with pytest.raises(HypothesisError) as raised:
            judged(**{option: value})
        assert str(raised.value).startswith(says)


def test_numbers_of_numpy_and_torch_are_as_good() -> None:
    plain = judged(
        tolerance=0.25, samples=80, seed=3, budget=600, min_moved=0.5, adversaries=[WhichNodes()]
    )
    other = judged(
        tolerance=np.float32(0.25), samples=np.int64(80), seed=torch.tensor(3),
        budget=np.int32(600),
        min_moved=torch.tensor(0.5), adversaries=[WhichNodes()],
    )  # fmt: skip
    assert other.to_json() == plain.to_json()


def test_the_effort_of_a_session_knows_samples_of_any_kind() -> None:
    scrub = Scrub(Session({"samples": 60, "effort": "quick"}), network(), rows(), "claim")
    plain, other = (
        scrub.check(CLAIM, tolerance=0.5, samples=samples) for samples in (80, np.int64(80))
    )
    assert plain.search is not None
    assert plain.search.budget == 8000
    assert other.to_json() == plain.to_json()


def test_a_generator_of_adversaries_is_searched() -> None:
    listed, generated = (
        judged(adversaries=[WhichNodes()]),
        judged(adversaries=(one for one in [WhichNodes()])),
    )
    assert listed.search is not None
    assert listed.search.attempts[0].searched
    assert generated.to_json() == listed.to_json()


def test_an_infinite_adversarial_tolerance_shows_and_never_gates() -> None:
    gated, shown, reported = (
        check(
            output(module("b", agrees_on="a")),
            network(),
            rows(),
            tolerance=3,
            adversaries=[WhichDonors()],
            **how,
        )
        for how in ({}, {"adversarial_tolerance": math.inf}, {"adversary": "report"})
    )
    assert (gated.outcome, shown.average) == ("refuted", "held")
    assert shown.to_json() == reported.to_json()
