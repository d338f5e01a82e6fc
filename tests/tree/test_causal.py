"""Causal models: what they compute, what they predict of interchanged variables, and what is
refused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from pytest_scrub import Dataset, FunctionGraph, Verdict, check, zero_one_error
from pytest_scrub.errors import HypothesisError, ScrubError
from pytest_scrub.tree.causal import CausalModel, aligned, predicting
from pytest_scrub.tree.nodes import ANYTHING, EXACT, Node, head, module, stream

ROW = {"ones": np.array([3, 12, 17, 9]), "tens": np.array([1, 9, 9, 0])}
DONOR = {"ones": np.array([12, 3, 18, 11]), "tens": np.array([8, 8, 8, 8])}
OTHER = {"ones": np.array([0, 0, 0, 0]), "tens": np.array([5, 6, 7, 9])}


def written() -> CausalModel:
    return CausalModel(
        carry=lambda ones: ones // 10,
        total=lambda tens, carry: tens + carry,
        answer=lambda total: total % 10,
    )


def told(predicts: Callable[..., Any], *rows: Any) -> list[int]:
    return list(predicts(*rows).tolist())


def test_values_are_computed_in_order_whatever_the_order_they_are_written_in() -> None:
    model = CausalModel(answer=lambda b: b + 1, b=lambda a, x: a * x, a=lambda x: x + 1)
    found = model.values({"x": np.array([1, 2])}, {})
    assert {name: value.tolist() for name, value in found.items()} == {
        "x": [1, 2], "a": [2, 3], "b": [2, 6], "answer": [3, 7],
    }  # fmt: skip


def test_a_given_value_stays_and_reaches_what_reads_it() -> None:
    found = written().values(ROW, {"carry": np.array([1, 0, 0, 1])})
    assert found["total"].tolist() == [2, 9, 9, 1]
    assert found["answer"].tolist() == [2, 9, 9, 1]


@pytest.mark.parametrize(
    ("names", "rows", "answers"),
    [
        ([], [], [1, 0, 0, 0]),
        (["carry"], [DONOR], [2, 9, 0, 1]),
        (["tens"], [OTHER], [5, 7, 8, 9]),
        (["carry", "tens"], [DONOR, OTHER], [6, 6, 8, 0]),
        (["total"], [DONOR], [9, 8, 9, 9]),
        (["total", "carry"], [DONOR, OTHER], [9, 8, 9, 9]),  # what it depends on has no say
        (["answer"], [DONOR], [9, 8, 9, 9]),
    ],
)
def test_what_is_predicted_of_interchanged_variables(
    names: list[str], rows: list[Any], answers: list[int]
) -> None:
    assert told(predicting(written(), names), ROW, *rows) == answers


def test_its_arguments_are_the_reference_and_the_variables() -> None:
    predicted = predicting(written(), ["carry", "tens"])
    assert list(inspect.signature(predicted).parameters) == ["reference", "carry", "tens"]


def test_a_rival_predicts_nothing_of_what_it_does_not_have() -> None:
    rival = CausalModel(answer=lambda tens: tens % 10)
    assert told(predicting(rival, ["carry", "tens"]), ROW, DONOR, OTHER) == [5, 6, 7, 9]


def test_what_a_function_changes_in_place_is_read_unchanged_by_others() -> None:
    def spoils(ones: Any) -> Any:
        ones += 100
        return ones

    model = CausalModel(a=spoils, answer=lambda a, ones: ones + 0 * a)
    assert model.values(ROW, {})["answer"].tolist() == ROW["ones"].tolist()
    assert ROW["ones"].tolist() == [3, 12, 17, 9]


def test_a_hypothesis_reads_each_part_along_every_path_and_leaves_the_rest() -> None:
    root = aligned(written(), carry=stream(2, pos=5), tens=stream(1, pos=4, agrees_on="tens"))
    assert root.rest == EXACT
    assert root.agrees_on is None
    assert [(one.name, one.component, one.pos, one.via) for one in root.reads] == [
        ("carry", "stream2", 5, "any"), ("tens", "stream1", 4, "any"),
    ]  # fmt: skip
    assert root.reads[0].agrees_on == ANYTHING
    assert str(root.reads[1].agrees_on) == "tens"


def test_nodes_and_hypothesis_know_the_line_that_they_are_written_on() -> None:
    root = aligned(written(), carry=stream(2, pos=5))
    for node in (root, *root.reads):
        assert node.place is not None
        assert node.place.file == __file__


def refuses(sentence: str) -> Any:
    return pytest.raises(HypothesisError, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


REFUSED_MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "no answer": (
        {"carry": lambda ones: ones // 10},
        "a CausalModel needs a variable called 'answer', the label that it predicts; it has carry",
    ),
    "nothing": (
        {},
        "a CausalModel needs a variable called 'answer', the label that it predicts; it has none",
    ),
    "a circle": (
        {"a": lambda b: b, "b": lambda a: a, "answer": lambda a: a},
        "the variables a -> b -> a read one another in a circle",
    ),
    "a variable called as the feature that it is made of": (
        {"ones": lambda ones: ones // 10, "answer": lambda ones: ones},
        "the variable 'ones' reads itself; call it otherwise than what it is made of",
    ),
    "nothing reads it": (
        {"carry": lambda ones: ones // 10, "answer": lambda tens: tens},
        "nothing reads the variable 'carry', so the answer does not depend on it; leave it out, or "
        "name it among the arguments of what depends on it",
    ),
    "no function": (
        {"answer": 3},
        "variable 'answer' has to be a Python function of the variables and features it reads, not "
        "3",
    ),
    "any arguments": (
        {"answer": lambda *all: all},
        "variable 'answer' has to name its arguments after the variables and features that it "
        "reads",
    ),
    "a reserved name": (
        {"answer": lambda reference: reference},
        "a CausalModel has no variable or feature called 'reference', which means something else "
        "to what is made of it; call it otherwise",
    ),
}


@pytest.mark.parametrize("what", REFUSED_MODELS)
def test_a_model_that_cannot_be_one_is_refused(what: str) -> None:
    variables, sentence = REFUSED_MODELS[what]
    with pytest.raises(HypothesisError) as error:
        CausalModel(**variables)
    # which variable a circle is told from is up to Python
    assert sentence.replace("a -> b -> a", "b -> a -> b") == str(error.value).replace(
        "a -> b -> a", "b -> a -> b"
    )


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (
            lambda tens: tens / 2,
            "the variable 'answer' has to return integer labels [batch], not float64 of shape (4,)",
        ),
        (
            lambda tens: np.stack([tens, tens], 1),
            "the variable 'answer' has to return integer labels [batch], not int64 of shape (4, 2)",
        ),
        (
            lambda tens: 3,
            "the variable 'answer' has to return an array with one value for each row, not 3",
        ),
        (
            lambda tens: tens[:1],
            "the variable 'answer' has to return an array with one value for each row, not "
            "array([1])",
        ),
    ],
    ids=["fractions", "a matrix", "one number", "too few"],
)
def test_values_that_are_no_labels_are_refused(answer: Callable[..., Any], sentence: str) -> None:
    with refuses(sentence):
        CausalModel(answer=answer).values(ROW, {})


def test_what_a_function_raises_is_told_with_its_line() -> None:
    model = CausalModel(answer=lambda tens: tens.nope)
    with pytest.raises(HypothesisError, match=r"^the variable 'answer' raised AttributeError: .*"):
        model.values(ROW, {})


REFUSED_ALIGNMENTS: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown variable": (
        lambda: aligned(written(), cary=stream(2)),
        "the causal model has no variable 'cary'; did you mean 'carry'?; it has ones, tens, carry, "
        "total, answer",
    ),
    "no node": (
        lambda: aligned(written(), carry="stream2"),  # type: ignore[arg-type]
        "carry= of aligned is a node that says where the variable is, such as stream(2), not "
        "'stream2'",
    ),
    "no alignment": (
        lambda: aligned(written()),
        "aligned got no alignment; say where a variable is, such as answer=stream(2)",
    ),
    "no model": (
        lambda: aligned(lambda tens: tens, tens=stream(2)),  # type: ignore[arg-type, misc]
        "the first argument of aligned is a CausalModel(answer=lambda ...: ...), not ",
    ),
    "no rival": (
        lambda: aligned(written(), rivals={"r": 3}, carry=stream(2)),  # type: ignore[dict-item]
        "the rival 'r' is a CausalModel(answer=lambda ...: ...), not 3",
    ),
    "a list of rivals": (
        lambda: aligned(written(), rivals=[3], carry=stream(2)),  # type: ignore[arg-type]
        "rivals= maps names to CausalModels, not [3]",
    ),
    "its name": (
        lambda: aligned(written(), carry=stream(2, name="c")),
        "stream2 has name=, but what is aligned with a variable is a leaf that is called after it "
        "and read along every path; leave name= out",
    ),
    "what it reads": (
        lambda: aligned(written(), carry=head(1, 0, reads=[head(0, 0, agrees_on="ones")])),
        "head1.0 has reads=, but what is aligned with a variable is a leaf that is called after it "
        "and read along every path; leave reads= out",
    ),
    "read directly": (
        lambda: aligned(written(), carry=module("carry", via="direct")),
        "carry has via=, but what is aligned with a variable is a leaf that is called after it and "
        "read along every path; leave via= out",
    ),
}


@pytest.mark.parametrize("what", REFUSED_ALIGNMENTS)
def test_an_alignment_that_cannot_be_one_is_refused(what: str) -> None:
    make, sentence = REFUSED_ALIGNMENTS[what]
    with pytest.raises(HypothesisError, match=re.escape(sentence)):
        make()


# --- judged ---------------------------------------------------------------------------------------

DIGITS = torch.cartesian_prod(*[torch.arange(4)] * 2)
NETWORK = FunctionGraph(
    carried=lambda digits: digits.sum(1) // 4,
    low=lambda digits: digits.sum(1) % 4,
    output=lambda carried, low: one_hot(2 * carried + low // 2, 4).float(),
)


def judged(root: Node, **options: Any) -> Verdict:
    ones = DIGITS.sum(1)
    data = Dataset(
        {"digits": DIGITS}, labels=2 * (ones // 4) + ones % 4 // 2, features={"ones": ones}
    )
    return check(root, NETWORK, data, **{"tolerance": 0.05, "metric": zero_one_error(), **options})


def adding(ones: str = "ones") -> CausalModel:
    variables = {
        "carry": f"lambda {ones}: {ones} // 4",
        "low": f"lambda {ones}: {ones} % 4",
        "answer": "lambda carry, low: 2 * carry + low // 2",
    }
    return CausalModel(**{name: eval(text) for name, text in variables.items()})


@pytest.mark.parametrize("names", [["carry"], ["low"], ["carry", "low"]])
def test_what_is_so_holds_with_every_answer_as_predicted(names: list[str]) -> None:
    places = {"carry": module("carried"), "low": module("low")}
    verdict = judged(aligned(adding(), **{name: places[name] for name in names}))
    assert verdict.outcome == "held"
    assert verdict.predicted is not None
    assert verdict.predicted.accuracy is not None
    assert verdict.predicted.accuracy.mean == 1


def test_two_variables_the_other_way_round_are_refuted() -> None:
    root = aligned(adding(), carry=module("low"), low=module("carried"))
    assert judged(root).outcome == "refuted"


def test_a_rival_that_predicts_the_same_is_not_told_from_the_model() -> None:
    verdict = judged(aligned(adding(), rivals={"itself": adding()}, carry=module("carried")))
    assert verdict.outcome == "untested"


def test_a_rival_that_does_better_refutes_whatever_the_tolerance() -> None:
    idle = CausalModel(answer=lambda ones: 2 * (ones // 4) + ones % 4 // 2)
    root = aligned(adding(), rivals={"nothing changes": idle}, carry=module("low"))
    verdict = judged(root, tolerance=0.99)
    assert verdict.outcome == "refuted"
    assert verdict.predicted is not None
    assert [rival.outcome for rival in verdict.predicted.rivals] == ["refuted"]


def test_an_argument_that_is_no_feature_is_told_with_the_nearest() -> None:
    root = aligned(adding("onse"), carry=module("carried"))
    with pytest.raises(ScrubError, match=r"'onse'; did you mean 'ones'\?"):
        judged(root)


def test_an_answer_that_is_no_label_is_refused_where_it_is_asked_for() -> None:
    half = CausalModel(carry=lambda ones: ones / 4, answer=lambda carry: carry / 2)
    with pytest.raises(ScrubError, match=r"^the variable 'answer' has to return integer labels"):
        judged(aligned(half, carry=module("carried")))
