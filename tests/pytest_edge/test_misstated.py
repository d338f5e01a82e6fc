"""What users get wrong: each is one sentence on the line of the claim, and none of it passes for a
verdict."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pytest_edge.conftest import Ran, Suite


class Wrong(NamedTuple):
    """A claim about the network of conftest.py, what the message says, and fixtures of the
    module."""

    claim: str
    says: tuple[str, ...]
    fixtures: str = ""


def with_data(expression: str) -> str:
    return f"@pytest.fixture\ndef scrub_data():\n    return {expression}\n"


def with_model(expression: str) -> str:
    return f"@pytest.fixture\ndef scrub_model():\n    return {expression}\n"


def with_nan(row: int) -> str:
    """The activation of A is NaN on one row."""
    data = (
        'Dataset({"a": torch.arange(64.0)}, labels=torch.arange(64) % 2, features={"a": '
        "torch.arange(64) % 2})"
    )
    nodes = (
        f'A=lambda a: torch.where(a == {row}, float("nan"), a % 2), output=lambda A: '
        "torch.stack([-A, A], -1)"
    )
    return with_data(data) + with_model(f"FunctionGraph({nodes})")


A = 'output(module("A", agrees_on="a"))'

# fmt: off
WRONG = {
    "unknown module": Wrong(
        'output(module("outpt", '
        'agrees_on="a"))', ("output/outpt", "no component 'outpt'", "did you mean 'output'?")
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
        'output(module("A", agrees_on="a", into="B"))', ("output reads A in one way "
                                                         "only", "not into='B'")
    ),
    "same edge twice": Wrong(
        'output(module("A", agrees_on="a"), module("A", agrees_on="b", name="again"))',
        ("output/A and output/again", "claim the same edge into output twice", "join them"),
    ),
    "node that takes the name of a rest": Wrong(
        'output(module("A", agrees_on="a", name="rest"))',
        ("two slots would be called output/rest", "another name="),
    ),
    "no feature": Wrong('output(module("A"))', ("A names no feature", "agrees_on=")),
    "feature missing": Wrong(
        'output(module("A", agrees_on="rows"))',
        ("output/A", "no feature 'rows'", "did you mean 'row'?", "a, b, row"),
    ),
    "rest of a missing feature": Wrong(
        'output(module("A", agrees_on="a"), rest="c")', ("output/rest", "no feature 'c'")
    ),
    "dataset without features": Wrong(
        A, ("no feature 'a'", "features="), with_data("rows(features={})")
    ),
    "feature is NaN": Wrong(
        A,
        ("feature 'a' is NaN at row 5", "equals nothing"),
        with_data('rows(features={"a": [float("nan") if i == 5 else i % 2 for i in range(64)]})'),
    ),
    "feature of a wrong length": Wrong(
        A, ("feature 'a' has 63 values for 64 rows",), with_data('rows(features={"a": range(63)})')
    ),
    "feature is no column": Wrong(
        A, ("feature 'a'", "one value per row"), with_data('rows(features={"a": 3})')
    ),
    "labels of a wrong shape": Wrong(
        A,
        ("cross_entropy", "one class index for each output it reads, [", "int64 [", ", 1]",
         "; take the last axis away: labels.squeeze(-1)"),
        with_data("rows(labels=torch.zeros(64, 1, dtype=torch.long))"),
    ),
    "labels that are no class": Wrong(
        A,
        ("got the class 63, but the network's go from 0 to 1",),
        with_data("rows(labels=torch.arange(64))"),
    ),
    "no labels": Wrong(
        A, ("cross_entropy needs labels", "labels="), with_data("rows(labels=None)")
    ),
    "integer output": Wrong(
        A,
        ("a graph of functions returns int64 numbers", "floating-point"),
        with_model("FunctionGraph(A=lambda a: a, output=lambda A, b: torch.stack([A, A], "
                   "-1).long())"),
    ),
    "NaN in an activation of a late row": Wrong(
        A, ("the value of A is NaN or infinite on row 50 (a=50.)", "take the row out"), with_nan(50)
    ),
    "NaN in an activation of an early row": Wrong(
        A, ("the value of A is NaN or infinite on row 3 (a=3.)",), with_nan(3)
    ),
    "data on another device": Wrong(
        A, ("the data is on meta and the model on "
            "cpu", "Dataset.to('cpu')"), with_data('rows().to("meta")')
    ),
    "input missing": Wrong(
        A,
        ("no input 'b'", "it has ['a']"),
        with_data('Dataset({"a": torch.ones(4)}, labels=torch.ones(4).long(), features={"a": '
                  'range(4)})'),
    ),
    "not deterministic": Wrong(
        A,
        ("node 'A' gave two different values", "deterministic"),
        with_model("FunctionGraph(A=lambda a: torch.rand_like(a), output=lambda A, b: "
                   "torch.stack([A, b], -1))"),
    ),
    "no network": Wrong(A, ("the model is a str, not a "
                            "network", "load_model"), with_model('"gpt2"')),
    "no dataset": Wrong(A, ("the data is a list, not a "
                            "Dataset", "Dataset(...)"), with_data("[1, 2]")),
    "nothing returned": Wrong("None", ("the claim returned NoneType, not a "
                                       "hypothesis", "output(...)")),
    "a node that is no root": Wrong('module("A", agrees_on="a")', ("output(",)),
    "two roots": Wrong(f"output({A})", ("output is the root", "exactly one")),
    "no number for each reference": Wrong(
        A, ("the metric <lambda> has to return one number per reference", "not ()")
    ),
}
# fmt: on


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_one_sentence_on_the_line_of_the_claim(suite: Suite, wrong: Wrong) -> None:
    metric = ", metric=lambda output, batch: output.mean()" if "<lambda>" in wrong.says[0] else ""
    path = suite.write(
        f"{wrong.fixtures}\n@claim(tolerance=0.5{metric})\ndef test_wrong():\n    return "
        f"{wrong.claim}\n"
    )
    ran = suite.run()
    message = ran.messages["test_wrong"]
    for part in wrong.says:
        assert part in message
    assert_points_at_claim(ran, path, "test_wrong")


def test_the_line_of_the_claim_is_that_of_its_first_decorator(suite: Suite) -> None:
    path = suite.write("""
        class TestIt:
            # A comment, and two decorators.
            @pytest.mark.parametrize("node", ["C"])
            @claim(
                tolerance=0.5, samples=1
            )
            def test_wrong(self, node):
                # Some work first.
                return output(module(node, agrees_on="a"))
    """)
    crash = suite.run().crash("test_wrong[C]")
    assert crash.path == str(path)
    assert "parametrize" in path.read_text().splitlines()[crash.lineno - 1]


def test_a_node_is_found_at_the_line_that_said_it(suite: Suite) -> None:
    """In whatever function or file, and however deep in the tree."""
    suite.pytester.makepyfile(
        parts="from pytest_scrub import module\n\ndef part(name):\n    return module(name, "
        "agrees_on='a')\n"
    )
    path = suite.write("""
        from parts import part

        @claim(tolerance=0.5)
        def test_below():
            return output(
                module("B", agrees_on="b"),
                module(
                    "A",
                    agrees_on="a",
                    reads=[
                        module("C", agrees_on="a"),
                    ],
                ),
            )

        @claim(tolerance=0.5)
        def test_elsewhere():
            return output(
                part("C"),
            )

        @claim(tolerance=0.5)
        def test_twice():
            return output(
                module("A", agrees_on="a"),
                module("A", agrees_on="b", name="again"),
            )

        @claim(tolerance=0.5)
        def test_typo():
            return output(
                module("A", agree_on="a"),
            )
    """)  # fmt: skip
    ran = suite.run()
    lines = path.read_text().splitlines()
    here = {text.strip(): i for i, text in enumerate(lines, 1)}
    claims = [i for i, text in enumerate(lines, 1) if text.startswith("@claim")]

    def says(name: str, *places: str) -> bool:
        claimed = f"in the claim at test_claims.py:{claims.pop(0)})"
        return ran.messages[name].endswith(f"({', '.join([*places, claimed])}")

    below, typo = here['module("C", agrees_on="a"),'], here['module("A", agree_on="a"),']
    twice = [here['module("A", agrees_on="a"),'], here['module("A", agrees_on="b", name="again"),']]
    assert says("test_below", f"test_claims.py:{below}")
    assert says("test_elsewhere", "parts.py:4")
    assert says("test_twice", *(f"test_claims.py:{line}" for line in twice))
    assert says("test_typo", f"test_claims.py:{typo}")
    assert (ran.crash("test_below").path, ran.crash("test_below").lineno) == (str(path), below)
    assert (ran.crash("test_typo").path, ran.crash("test_typo").lineno) == (str(path), typo)
    assert ran.crash("test_elsewhere").path == str(suite.pytester.path / "parts.py")
    assert "pytest_scrub/" not in ran.text


def test_a_misstated_claim_is_marked_by_its_public_name(suite: Suite) -> None:
    suite.write("""
        from pytest_scrub import Misstated

        @pytest.mark.xfail(raises=Misstated, strict=True)
        @claim(tolerance=0.5)
        def test_wrong():
            return output(module("A", agrees_on="typo"))
    """)
    assert suite.run().outcomes == {"xfailed": 1}


def test_where_a_node_was_said_is_no_part_of_a_verdict(suite: Suite) -> None:
    claims = (
        '@claim(tolerance=0.5)\ndef test_it():\n    return output({}module("B", agrees_on="b"))\n'
    )
    suite.write(claims.format(""))
    first = suite.run(adversary="quick").verdicts["test_it"]
    saved = [file.read_text() for file in suite.saved]
    suite.forget()
    suite.write(claims.format("\n\n    "))
    assert suite.run(adversary="quick").verdicts["test_it"].to_json() == first.to_json()
    assert [file.read_text() for file in suite.saved] == saved != []


def test_a_typo_is_no_refutation(suite: Suite) -> None:
    """A typo in a claim that is expected to be refuted does not go unnoticed."""
    suite.write("""
        @pytest.mark.xfail(raises=Refuted, strict=True)
        @claim(tolerance=0.5)
        def test_wrong():
            return output(module("A", agrees_on="typo"))
    """)
    ran = suite.run()
    assert ran.outcomes == {"failed": 1}
    assert "no feature 'typo'" in ran.messages["test_wrong"]


@pytest.mark.parametrize(
    ("decorator", "says"),
    [
        ("claim", "write @claim(tolerance=...) with a tolerance, not a bare @claim"),
        (
            "claim()",
            "a claim needs tolerance= (the largest gap, in the metric's unit), min_explained= or "
            "min_recovered=, or min_gap= where it says that swaps hurt",
        ),
        (
            "claim(tolerance=-0.1)",
            "tolerance= is a gap in the metric's unit, zero or more, not -0.1",
        ),
        (
            "claim(tolerance=float('nan'))",
            "tolerance= is a gap in the metric's unit, zero or more, not nan",
        ),
        (
            "claim(tolerance=True)",
            "tolerance= is a gap in the metric's unit, zero or more, not True",
        ),
        (
            "claim(tolerance='10%')",
            "tolerance= is a gap in the metric's unit, zero or more, not '10%'",
        ),
        ("claim(min_recovered=90)", "min_recovered= is a share of at most 1, such as 0.9, not 90"),
        (
            "claim(tolerance=1, model=network())",
            "model= of @claim takes the name of a fixture, not FunctionGraph",
        ),
        (
            "claim(tolerance=1, data=rows())",
            "data= of @claim takes the name of a fixture, not Dataset",
        ),
    ],
)
def test_a_wrong_decorator_is_found_at_collection(suite: Suite, decorator: str, says: str) -> None:
    path = suite.write(f"@{decorator}\ndef test_wrong():\n    return {A}\n")
    line = 1 + path.read_text().splitlines().index(f"@{decorator}")
    ran = suite.run()
    assert ran.result.ret == pytest.ExitCode.INTERRUPTED
    assert ran.outcomes == {"errors": 1}
    ran.result.stdout.fnmatch_lines(
        [f"test_claims.py:{line}: in <module>", f"E   *HypothesisError: {says}"]
    )
    assert "pytest_scrub/" not in ran.text  # none of our frames


@pytest.mark.parametrize("samples", ["1", "True", "2.5", "'many'"])
def test_samples_of_a_claim(suite: Suite, samples: str) -> None:
    path = suite.write(
        f"@claim(tolerance=1, samples={samples})\ndef test_wrong():\n    return {A}\n"
    )
    ran = suite.run()
    assert ran.messages["test_wrong"].startswith(
        f"Misstated: samples= is a whole number of at least 2, not {samples} (test_claims.py:"
    )
    assert_points_at_claim(ran, path, "test_wrong")


def test_a_dataset_that_cannot_be_made_fails_where_it_is_made(suite: Suite) -> None:
    suite.write(
        f"{with_data('rows(labels=torch.zeros(63).long())')}\n@claim(tolerance=1)\ndef "
        f"test_wrong():\n    return {A}"
    )
    ran = suite.run()
    assert ran.outcomes == {"errors": 1}
    ran.result.stdout.fnmatch_lines(
        ["*DataError: there are 63 labels for 64 rows; give one per row"]
    )


@pytest.mark.parametrize(
    ("fixture", "says"),
    [
        ("scrub_model", "no network: define a fixture scrub_model that returns load_model(...)"),
        ("scrub_data", "no data: define a fixture scrub_data that returns a Dataset(...)"),
    ],
)
@pytest.mark.parametrize("own", [False, True], ids=["claim", "fixture scrub"])
def test_missing_fixtures(suite: Suite, fixture: str, says: str, own: bool) -> None:
    other = {"scrub_model": with_data("rows()"), "scrub_data": with_model("network()")}[fixture]
    path = suite.write(
        other
        + (
            "def test_it(scrub): ..."
            if own
            else f"@claim(tolerance=1)\ndef test_it():\n    return {A}\n"
        )
    )
    conftest = suite.pytester.path / "conftest.py"
    conftest.write_text(conftest.read_text().replace(f"def {fixture}()", "def unused()"))
    ran = suite.run()
    assert (ran.result.ret, ran.outcomes) == (1, {"errors": 1})
    assert says in ran.messages["test_it"]
    assert "pytest_scrub/" not in ran.text
    assert f"ERROR {path.name}::test_it" in ran.text


def test_a_named_fixture_that_does_not_exist(suite: Suite) -> None:
    suite.write(f"@claim(tolerance=1, model='nowhere')\ndef test_it():\n    return {A}\n")
    ran = suite.run()
    assert ran.outcomes == {"errors": 1}
    assert "fixture 'nowhere' not found" in ran.text


UNTESTED = {
    "no donor but the row itself": (
        "",
        'output(module("A", agrees_on="row"), module("B", agrees_on="b"))',
        "output/A",
    ),
    "one row": (with_data("rows(1)"), 'output(module("A", agrees_on="a"))', "output/A"),
    "all rows the same": (
        with_data(
            'Dataset({"a": torch.ones(9), "b": torch.ones(9)}, labels=torch.ones(9).long(), '
            'features={"a": [1] * 9})'
        ),
        'output(module("A", agrees_on="a"))',
        "output/A",
    ),
    "no claim at all": ("", "output()", "output"),
    "all is EXACT": ("", 'output(module("A", agrees_on=EXACT), rest=EXACT)', "output/A"),
}


@pytest.mark.parametrize(("fixtures", "hypothesis", "node"), UNTESTED.values(), ids=UNTESTED.keys())
def test_what_cannot_be_tested_names_the_node(
    suite: Suite, fixtures: str, hypothesis: str, node: str
) -> None:
    path = suite.write(
        f"{fixtures}\n@claim(tolerance=100)\ndef test_vacuous():\n    return {hypothesis}\n"
    )
    ran = suite.run()
    assert (ran.result.ret, ran.outcomes) == (1, {"failed": 1})
    assert ran.verdicts["test_vacuous"].outcome == "untested"
    headline, *report = ran.reports["test_vacuous"].splitlines()
    assert ran.messages["test_vacuous"].startswith(f"Untested: {headline}")
    assert headline.endswith(f" {node}")
    assert len([line for line in report if line.startswith(f"untested:  {node} ")]) == 1
    crash = ran.crash("test_vacuous")
    assert (crash.path, path.read_text().splitlines()[crash.lineno - 1]) == (
        str(path),
        "@claim(tolerance=100)",
    )


def assert_points_at_claim(ran: Ran, path: Path, name: str) -> None:
    """One sentence, with the lines of the node and of the claim and none of our frames; the claim
    has no verdict."""
    assert ran.result.ret == 1
    assert not ran.verdicts
    message = ran.messages[name]
    assert "\n" not in message
    assert message.startswith("Misstated: ")
    crash = ran.crash(name)
    assert (crash.path, crash.message) == (str(path), message)
    source = path.read_text().splitlines()
    claimed = next(i for i, line in enumerate(source, 1) if line.startswith("@claim"))
    about_node = f"({path.name}:{crash.lineno}, " in message and source[
        crash.lineno - 1
    ].startswith("    return")
    assert about_node or (f"({path.name}:{claimed})" in message and crash.lineno == claimed)
    assert message.endswith(f"{path.name}:{claimed})")
    body = message.removeprefix("Misstated: ")
    lines = ran.text.splitlines()
    assert lines[lines.index(body) - 1].strip("_ ") == name  # the whole section is this sentence
    assert lines[lines.index(body) + 1].startswith("-")  # of the line about the JUnit file
    assert "pytest_scrub/" not in ran.text


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ("adversaries=[3]", ["--scrub-adversary=none"]),
        ("controls=0", ["--scrub-controls"]),
        ("controls='no'", ["--scrub-controls"]),
    ],
)
def test_no_option_of_the_run_hides_a_wrong_one_of_the_claim(
    suite: Suite, given: str, options: list[str]
) -> None:
    suite.write(f"""
        @claim(tolerance=0.5, {given})
        def test_it():
            return output(module("A", agrees_on="a"))
    """)
    assert f"{given.partition('=')[0]}= " in suite.run(*options).messages["test_it"]


def test_nor_of_scrub_check(suite: Suite) -> None:
    suite.write("""
        def test_it(scrub):
            scrub.check(output(module("A", agrees_on="a")), tolerance=0.5, mutate="no")
    """)
    assert "mutate= is True or False, not 'no'" in suite.run("--scrub-mutate").messages["test_it"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("Dataset({'a': torch.zeros(3)}, labels=torch.zeros(2))", "DataError: there are 2 labels"),
        ("load_model(torch.nn.Sequential(torch.nn.Dropout()).train())", "ModelError: "),
        ("load_model('nowhere.safetensors')", "ModelError: "),
    ],
)
def test_what_is_wrong_in_a_fixture_is_shown_on_its_own_line(
    suite: Suite, wrong: str, says: str
) -> None:
    suite.write(
        f"""
        from pytest_scrub import Dataset, load_model

        @pytest.fixture
        def scrub_data():
            return {wrong}

        @claim(tolerance=1)
        def test_claim():
            return {A}
        """
    )
    ran = suite.run()
    assert ran.outcomes == {"errors": 1}
    shown = [line for line in ran.result.outlines if line.startswith("E  ")]
    assert len(shown) == 1
    assert says in shown[0]
    assert "pytest_scrub/" not in ran.text
