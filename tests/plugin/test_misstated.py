"""What users get wrong: each is one sentence on the line of the claim, and none of it passes for a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from .conftest import Ran, Suite


class Wrong(NamedTuple):
    """A claim about the network of conftest.py, what the message says, and fixtures of the module."""

    claim: str
    says: tuple[str, ...]
    fixtures: str = ""


def with_data(expression: str) -> str:
    return f"@pytest.fixture\ndef scrub_data():\n    return {expression}\n"


def with_model(expression: str) -> str:
    return f"@pytest.fixture\ndef scrub_model():\n    return {expression}\n"


A = 'output(module("A", agrees_on="a"))'

# fmt: off
WRONG = {
    "unknown module": Wrong(
        'output(module("outpt", agrees_on="a"))', ("output/outpt", "no component 'outpt'", "did you mean 'output'?")
    ),
    "unknown module far from any": Wrong(
        'output(module("decoder", agrees_on="a"))', ("'decoder'", "it has a, b, A, B")),
    "child that is not read": Wrong(
        'output(module("A", agrees_on="a", reads=[module("b", agrees_on="b")]))',
        ("output/A/b: A cannot read b", "not computed before it"),
    ),
    "child read only by way of another": Wrong(
        'output(module("a", agrees_on="a"))', ("output cannot read a directly", "via='any'")
    ),
    "wrong slot": Wrong(
        'output(module("A", agrees_on="a", into="B"))', ("output reads A through", "not into='B'")
    ),
    "same edge twice": Wrong(
        'output(module("A", agrees_on="a"), module("A", agrees_on="b", name="again"))',
        ("output/A and output/again", "claim the same edge into output twice", "join them"),
    ),
    "two slots of one name": Wrong(
        'output(module("A", agrees_on="a", name="x"), module("B", agrees_on="b", name="x"), '
        'module("rest", agrees_on="b"))',
        ("rest",),
    ),
    "no feature": Wrong('output(module("A"))', ("A names no feature", "agrees_on=")),
    "feature missing": Wrong(
        'output(module("A", agrees_on="rows"))', ("output/A", "no feature 'rows'", "did you mean 'row'?", "a, b, row")
    ),
    "rest of a missing feature": Wrong(
        'output(module("A", agrees_on="a"), rest="c")', ("output/rest", "no feature 'c'")
    ),
    "dataset without features": Wrong(A, ("no feature 'a'", "features="), with_data("rows(features={})")),
    "feature is NaN": Wrong(
        A,
        ("feature 'a' is NaN at row 5", "equals nothing"),
        with_data('rows(features={"a": [float("nan") if i == 5 else i % 2 for i in range(64)]})'),
    ),
    "feature of a wrong length": Wrong(
        A, ("feature 'a' has 63 values for 64 rows",), with_data('rows(features={"a": range(63)})')
    ),
    "feature is no column": Wrong(A, ("feature 'a'", "one value per row"), with_data('rows(features={"a": 3})')),
    "labels of a wrong shape": Wrong(
        A,
        ("cross_entropy", "one class index for each output it reads, [", "int64 [", ", 1]"),
        with_data("rows(labels=torch.zeros(64, 1, dtype=torch.long))"),
    ),
    "labels of a wrong length": Wrong(A, ("63 labels for 64 rows",), with_data("rows(labels=torch.zeros(63).long())")),
    "labels that are no class": Wrong(
        A, ("a label outside 0 to 1",), with_data("rows(labels=torch.arange(64))")
    ),
    "no labels": Wrong(A, ("cross_entropy needs labels", "labels="), with_data("rows(labels=None)")),
    "integer output": Wrong(
        A,
        ("a graph of functions returns int64 numbers", "floating-point"),
        with_model("FunctionGraph(A=lambda a: a, output=lambda A, b: torch.stack([A, A], -1).long())"),
    ),
    "NaN in an activation": Wrong(
        A,
        ("value of A is NaN or infinite on row 3", "take the row out"),
        with_model("FunctionGraph(A=lambda a, b: a / (b != b[3] if len(b) == 64 else b), "
                   "output=lambda A, b: torch.stack([-A, A], -1))"),
    ),
    "data on another device": Wrong(
        A, ("the data is on meta and the model on cpu", "Dataset.to('cpu')"), with_data('rows().to("meta")')
    ),
    "input missing": Wrong(
        A,
        ("no input 'b'", "it has ['a']"),
        with_data('Dataset({"a": torch.ones(4)}, labels=torch.ones(4).long(), features={"a": range(4)})'),
    ),
    "not deterministic": Wrong(
        A,
        ("node 'A' gave two different values", "deterministic"),
        with_model("FunctionGraph(A=lambda a: torch.rand_like(a), output=lambda A, b: torch.stack([A, b], -1))"),
    ),
    "no network": Wrong(A, ("the model is a str, not a network", "load_model"), with_model('"gpt2"')),
    "no dataset": Wrong(A, ("the data is a list, not a Dataset", "Dataset(...)"), with_data("[1, 2]")),
    "nothing returned": Wrong("None", ("the claim returned NoneType, not a hypothesis", "output(...)")),
    "a node that is no root": Wrong('module("A", agrees_on="a")', ("output(",)),
    "two roots": Wrong(f"output({A})", ("output is the root", "exactly one")),
    "no number for each reference": Wrong(
        A, ("the metric <lambda> has to return one number per reference", "not ()")
    ),
}
# fmt: on


def run_one(suite: Suite, wrong: Wrong) -> tuple[Ran, Path]:
    metric = ", metric=lambda output, batch: output.mean()" if "<lambda>" in wrong.says[0] else ""
    path = suite.write(
        f"{wrong.fixtures}\n@claim(tolerance=0.5{metric})\ndef test_wrong():\n    return {wrong.claim}\n"
    )
    return suite.run(), path


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_one_sentence_on_the_line_of_the_claim(suite: Suite, wrong: Wrong) -> None:
    ran, path = run_one(suite, wrong)
    assert ran.result.ret == 1
    assert not ran.verdicts
    message = ran.messages["test_wrong"]
    for part in wrong.says:
        assert part in message
    assert "\n" not in message
    crash = ran.crash("test_wrong")
    assert crash.path == str(path)
    assert path.read_text().splitlines()[crash.lineno - 1].startswith("@claim")
    assert crash.message == message
    assert message.startswith("Misstated: ")
    body = message.removeprefix("Misstated: ")
    lines = ran.text.splitlines()
    assert lines[lines.index(body) - 1].strip("_ ") == "test_wrong"  # the whole section is this sentence
    assert lines[lines.index(body) + 1].startswith("---")
    assert "pytest_scrub/" not in ran.text
