"""Claims that predict another label, run by pytest: nothing false ends with exit code 0."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

HELD = """
import numpy as np

def swapped(**said):
    return output(module("A", name="it", agrees_on=ANYTHING), rest=EXACT, **said)

@claim(tolerance=0.1, metric=zero_one_error())
def test_held():
    return swapped(
        predicts=lambda it: it["a"], rivals={"the other one": lambda it: 1 - it["a"]}
    )
"""
FALSE = """
@claim(tolerance=0.1, metric=zero_one_error())
def test_untested():
    return swapped(predicts=lambda reference: reference.labels)

@claim(tolerance=0.1, metric=zero_one_error())
def test_refuted():
    return swapped(predicts=lambda it: 1 - it["a"])

@claim(tolerance=0.5, metric=zero_one_error())
def test_rival():
    return swapped(
        predicts=lambda it: np.where(it["row"] < 16, 1 - it["a"], it["a"]),
        rivals={"all of them": lambda it: it.labels},
    )

@claim(tolerance=0.7, metric=zero_one_error())
def test_weak():
    return swapped(predicts=lambda it: np.where(it["row"] % 2 < 1, 1 - it["a"], it["a"]))

@claim(tolerance=0.1, metric=zero_one_error())
def test_misstated():
    return swapped(predicts=lambda its: its["a"])
"""
OUTCOMES = {
    "test_held": "held", "test_untested": "untested", "test_refuted": "refuted",
    "test_rival": "refuted", "test_weak": "weak",
}  # fmt: skip
FIRST_LINES = {
    "test_untested": "claim untested: only 0.0% of the swaps should change the label",
    "test_refuted": "claim refuted: gap 1 [0.945, 1] in 0-1 error",
    "test_rival": "claim refuted: the rival all of them predicts as well, worse by -0.2",
    "test_weak": "claim weak: it held, but it would hold as well with the label predicted from "
    "another draw",
    "test_misstated": "predicts= reads 'its', but no node has that name=; did you mean 'it'",
}


@pytest.mark.parametrize(
    "options", [(), pytest.param(("-n", "2"), marks=only_in_full), ("--scrub-mutate",)], ids=str
)
def test_nothing_false_passes(suite: Suite, options: tuple[str, ...]) -> None:
    suite.write(HELD + FALSE)
    ran = suite.run(*options, alone="-n" in options)
    assert ran.result.ret == 1
    assert {name: verdict.outcome for name, verdict in ran.verdicts.items()} == OUTCOMES
    for name, line in FIRST_LINES.items():
        assert line in ran.messages[name]
    suite.write(HELD)
    assert suite.run(*options, alone="-n" in options).result.ret == 0


def test_figures_of_predictions_are_in_every_report(suite: Suite) -> None:
    suite.write(HELD + FALSE)
    ran = suite.run("--scrub-json=found.json", "--scrub-html=page.html", adversary="quick")
    record = json.loads((suite.pytester.path / "found.json").read_text())
    (held,) = (one for one in record["claims"] if one["test"].endswith("::test_held"))
    assert held["verdict"]["predicted"]["accuracy"]["mean"] == 1
    assert (
        held["verdict"]["circuit"]["nodes"][0]["predicts"] == "predicts <lambda>, not the other one"
    )
    properties = {
        one.attrib["name"]: one.attrib["value"]
        for case in ElementTree.parse(suite.pytester.path / "junit.xml").iter("testcase")
        for one in case.iter("property")
        if case.get("name") == "test_rival"
    }
    assert 0.6 < float(properties["scrub_interchange_accuracy"]) < 0.9
    assert properties["scrub_decided_by_rival"] == "all of them"
    report = ran.reports["test_refuted"]
    assert "interchange accuracy 0.0%" in report
    assert "predicted of these swaps" in report
    page = (suite.pytester.path / "page.html").read_text()
    for text in (
        "predicts &lt;lambda&gt;",
        "What the swaps lead to",
        "all of them",
        "which decided",
    ):
        assert text in page


CHANGED = """
@claim(tolerance=0.1, metric=zero_one_error())
def test_it():
    return output(
        module("A", name="it", agrees_on=ANYTHING), rest=EXACT, predicts=lambda it: {}
    )
"""


def test_a_saved_counterexample_is_held_against_what_is_predicted_by_now(suite: Suite) -> None:
    suite.write(CHANGED.format("1 - it['a']"))
    suite.run(adversary="quick").result.assert_outcomes(failed=1)
    (file,) = (suite.pytester.path / ".scrub").glob("*.json")
    still = suite.run(f"--scrub-replay={file}")
    still.result.assert_outcomes(failed=1)
    assert "still breaks the claim: gap 1 (saved 1)" in still.reports["test_it"]
    suite.write(CHANGED.format("it['a']"))
    suite.run(f"--scrub-replay={file}").result.assert_outcomes(passed=1, warnings=1)


FRESH = """
import numpy as np
from hypothesis import strategies as st

@pytest.fixture(scope="module")
def scrub_model():
    return FunctionGraph(
        A=lambda tokens: tokens.double(),
        output=lambda A: torch.nn.functional.one_hot(A[:, 0].long() % 3, 3).double() * 20,
    )

@pytest.fixture(scope="module")
def scrub_data():
    return Dataset.from_strategy(
        st.integers(0, 50), tokenize=lambda n: [n], labels=lambda n: n % 3, rows=40,
        features=FEATURES,
    )

FEATURES = {{"rest": {feature}}}

@claim(tolerance=0.1, metric=zero_one_error())
def test_it():
    return output(module("A", name="it", agrees_on=ANYTHING), predicts=lambda it: {predicted})
"""


@pytest.mark.parametrize(
    ("feature", "predicted", "searched"),
    [
        ("lambda inputs: inputs['tokens'][:, 0] % 3", "it['rest']", True),
        ("lambda inputs: inputs['tokens'][:, 0] % 3", "it.labels", True),
    ],
)
def test_fresh_inputs_are_held_against_their_own_labels(
    suite: Suite, feature: str, predicted: str, searched: bool
) -> None:
    suite.write(FRESH.format(feature=feature, predicted=predicted))
    ran = suite.run(adversary="default")
    assert ran.verdicts["test_it"].outcome == "held"
    assert ran.verdicts["test_it"].search is not None
    (attempt,) = (
        one for one in ran.verdicts["test_it"].search.attempts if one.adversary == "which inputs"
    )
    assert attempt.searched == searched
    assert attempt.gap == 0
