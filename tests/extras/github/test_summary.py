"""What GitHub is given: workflow commands, and Markdown with diagrams. Nothing in them is more than
text."""

from __future__ import annotations

import html
import math
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.extras.github.mermaid import flowchart
from pytest_scrub.extras.github.summary import NOTE, ROOM, step_summary, workflow_commands
from pytest_scrub.judge import check
from pytest_scrub.network.plain import FunctionGraph
from pytest_scrub.reports.run import (
    ERROR,
    FAILED,
    PASSED,
    SKIPPED,
    XFAILED,
    Claimed,
    Measured,
    Run,
)
from pytest_scrub.tree.nodes import module, output
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    UNDECIDED,
    UNKNOWN,
    UNTESTED,
    WEAK,
    WHY_UNKNOWN,
    Circuit,
    CircuitNode,
    Estimate,
    Verdict,
)
from tests.example_verdicts import claimed as example
from tests.example_verdicts import run

HOSTILE = 'x"]; click n0|`</code><script>a</script>@user\n::error::\u202e# *b* #quot; $$y$$ 😀'


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    a = torch.arange(64) % 2
    network = FunctionGraph(
        A=lambda a, b: 2 * a - 1 + b / 1e3, output=lambda A: torch.stack([-A, A], -1)
    )
    data = Dataset(
        {"a": a.float(), "b": torch.arange(64.0)}, labels=a, features={"a": a}, name="rows"
    )
    return check(
        output(module("A", agrees_on="a")),
        network,
        data,
        tolerance=0.5,
        samples=400,
        name="test_a.py::test_it",
    )


def claimed(
    verdict: Verdict | None, result: str, outcome: str | None = None, **fields: Any
) -> Claimed:
    one = (
        verdict
        if verdict is None or outcome is None
        else replace(verdict, outcome=outcome, average=outcome)
    )
    test = fields.pop("test", "t/test_a.py::test_it")
    rerun = shlex.join(["pytest", test, "--scrub-seed=0"])
    usual = {"file": "t/test_a.py", "message": "claim refuted: gap 2", "rerun": rerun}
    return example(one, test, **{**usual, "result": result, "seconds": 0.5, **fields})


def a_run(*claims: Claimed, interrupted: bool = False) -> Run:
    return run(*claims, options=("--scrub-seed=0",), versions={}, interrupted=interrupted)


# Annotations --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("result", "outcome", "level"),
    [
        (FAILED, REFUTED, "error"), (FAILED, UNDECIDED, "error"), (ERROR, HELD, "error"),
        (FAILED, HELD, "error"),
        (PASSED, UNDECIDED, "warning"), (XFAILED, UNTESTED, "warning"),
        (PASSED, WEAK, "warning"),
        (PASSED, HELD, None), (XFAILED, REFUTED, None), (SKIPPED, None, None),
        (FAILED, None, "error"),
    ],
)  # fmt: skip
def test_which_claims_are_annotated(
    verdict: Verdict, result: str, outcome: str | None, level: str | None
) -> None:
    lines = workflow_commands(a_run(claimed(verdict if outcome else None, result, outcome)))
    assert [line.split()[0] for line in lines] == ([] if level is None else [f"::{level}"])


def test_a_command_names_the_line_and_says_how_to_run_the_claim_again(verdict: Verdict) -> None:
    assert workflow_commands(a_run(claimed(verdict, FAILED, REFUTED)), "circuits") == [
        "::error file=circuits/t/test_a.py,line=3,title=refuted%3A test_it::claim refuted: gap 2"
        "%0Apytest t/test_a.py::test_it --scrub-seed=0"
    ]


def test_a_claim_that_held_says_that_its_test_did_not(verdict: Verdict) -> None:
    (line,) = workflow_commands(a_run(claimed(verdict, FAILED, HELD, message="[XPASS(strict)]")))
    assert "title=held%2C but its test failed%3A test_it::[XPASS(strict)]" in line


def test_names_and_messages_cannot_end_a_command_or_begin_one() -> None:
    fields = {
        "test": "t.py::a,b:c\r\n::error::x",
        "file": "a,b:c%.py",
        "message": "100%\x1b[0m\r\n::error::y",
    }
    (line,) = workflow_commands(a_run(claimed(None, FAILED, **fields)))
    assert line.isprintable()
    properties, _, message = line.removeprefix("::error ").partition("::")
    assert properties == "file=a%2Cb%3Ac%25.py,line=3,title=failed%3A x"
    assert message.startswith("100%25\\x1b[0m\\r\\n::error::y%0Apytest ")


def test_files_outside_of_the_folder_are_named_from_the_checkout(verdict: Verdict) -> None:
    (line,) = workflow_commands(
        a_run(claimed(verdict, FAILED, REFUTED, file="../other\\test_a.py")), "here"
    )
    assert "file=other/test_a.py," in line


# The summary --------------------------------------------------------------------------------------


def test_the_summary_has_counts_figures_texts_and_diagrams(verdict: Verdict) -> None:
    run = a_run(
        claimed(verdict, PASSED), claimed(verdict, FAILED, REFUTED, test="t.py::bad"),
        claimed(None, SKIPPED),
        claimed(verdict, XFAILED, REFUTED, test="t.py::known", is_expected=True), interrupted=True,
    )  # fmt: skip
    text = step_summary(run)
    assert text.startswith(
        "## Claims: 1 refuted; 1 held; 1 skipped; 1 xfailed as expected\n\nThe run was interrupted"
    )
    rows = re.findall(r"<tr>(<td>.*)</tr>", text)
    assert [re.findall("<td>(.*?)</td>", row)[1] for row in rows] == [
        "held", "<b>refuted</b>", "skipped", "refuted (xfailed as expected)",
    ]  # fmt: skip
    assert re.findall("<td>(.*?)</td>", rows[0])[2:4] == [str(verdict.gap), "0.5"]
    assert text.count("```text\nclaim refuted") == 1  # of what failed, and of nothing else
    assert text.count("```mermaid\nflowchart BT") == 3
    assert "pytest t.py::bad --scrub-seed=0\n```" in text


def test_an_interval_that_is_not_known_says_why(verdict: Verdict) -> None:
    few = replace(verdict, gap=Estimate(0.0, -math.inf, math.inf))
    text = step_summary(a_run(claimed(few, FAILED, UNDECIDED)))
    assert f"</table>\n\n{UNKNOWN}: {WHY_UNKNOWN}.\n" in text
    assert WHY_UNKNOWN not in step_summary(a_run(claimed(verdict, PASSED)))


def test_every_cell_is_inert(verdict: Verdict) -> None:
    text = step_summary(a_run(claimed(verdict, FAILED, REFUTED, test=HOSTILE, message=HOSTILE)))
    shown = HOSTILE.replace("\n", "\\n").replace("\u202e", "\\u202e")
    file, test = (html.escape(part) for part in shown.split("::", 1))
    assert f"<tr><td><code>{file}::</code><br><code>{test}</code></td>" in text
    table = text[text.index("<table>") : text.index("</table>")]
    assert "\n\n" not in table  # a blank line would end the HTML, and Markdown begin
    outside = re.sub(r"(?s)(`{3,}).*?\n\1\n", "", text)
    assert "<script" not in outside
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", text)
    assert "@user" not in re.sub("<code>.*?</code>", "", outside)


@pytest.mark.parametrize("ticks", [0, 3, 4, 9])
def test_a_text_cannot_end_its_fence(verdict: Verdict, ticks: int) -> None:
    inner = "`" * ticks
    worse = replace(
        verdict, outcome=REFUTED, average=REFUTED, hypothesis=f"output\n{inner}\n# a heading"
    )
    text = step_summary(a_run(claimed(worse, FAILED)))
    fence = "`" * max(3, ticks + 1)
    found = re.search(rf"^{fence}text\n(.*?)\n^{fence}$", text, re.DOTALL | re.MULTILINE)
    assert found is not None
    assert f"\n{inner}\n# a heading\n" in found[1]


def test_what_is_too_large_is_left_out_diagrams_first(verdict: Verdict) -> None:
    run = a_run(*(claimed(verdict, FAILED, REFUTED, test=f"t.py::test_{i}") for i in range(50)))
    whole = step_summary(run)
    assert "Left out" not in whole
    size = len(whole.encode())
    assert step_summary(run, size + NOTE) == whole
    seen = []
    for room in range(size, 0, -size // 40):
        text = step_summary(run, room)
        assert len(text.encode()) <= room
        kept = (text.count("<td><code>"), text.count("```text"), text.count("```mermaid"))
        seen.append(kept)
        if text:
            said = {
                kind: int(count) for count, kind in re.findall(r"(\d+) (rows|texts|diagrams)", text)
            }
            assert kept == tuple(50 - said.get(kind, 0) for kind in ("rows", "texts", "diagrams"))
    assert any(rows == texts == 50 and 0 < diagrams < 50 for rows, texts, diagrams in seen)
    assert any(rows == 50 and 0 < texts < 50 and not diagrams for rows, texts, diagrams in seen)
    assert any(0 < rows < 50 and not texts for rows, texts, _ in seen)
    assert step_summary(run, 100) == ""
    assert ROOM < 1024**2


# Diagrams -----------------------------------------------------------------------------------------


def node(path: str, parent: str | None, **fields: Any) -> CircuitNode:
    usual = {
        "components": (path.rpartition("/")[2],), "level": 0, "into": None, "agrees_on": None,
        "rest": None,
        "positions": None, "subspace": None, "along_every_path": False, "is_computed": False,
    }  # fmt: skip
    return CircuitNode(path=path, parent=parent, **{**usual, **fields})


def test_a_circuit_is_drawn_as_it_is_stated(verdict: Verdict) -> None:
    nodes = (
        node("output", None, rest="ANYTHING"),
        node(
            "output/A",
            "output",
            components=("head1.0", "head1.1"),
            agrees_on="count",
            positions="-1",
        ),
        node(
            "output/A/B",
            "output/A",
            into="k",
            agrees_on="a_b",
            subspace="2 of 8",
            along_every_path=True,
        ),
        node("output/C", "output", along_every_path=True, is_computed=True, agrees_on="x"),
    )
    slots = (
        replace(verdict.nodes[0], slot="output/C", is_tested=False),
        replace(verdict.nodes[0], slot="output/A", is_tested=True),
    )
    drawn = flowchart(
        replace(
            verdict, outcome=REFUTED, average=REFUTED, circuit=Circuit(("l",), nodes), nodes=slots
        )
    )
    assert drawn == "\n".join([  # parsed and drawn by Mermaid 11
        "flowchart BT",
        '  n0["<b>output</b><br>rest agrees on ANYTHING"]',
        '  n1["<b>group of 2<br>head1#46;0<br>head1#46;1</b><br>at #45;1<br>agrees on count"]',
        '  n2["<b>B</b><br>in 2 of 8<br>read along every path<br>agrees on a#95;b"]',
        '  n3["<b>C</b><br>computed by a function<br>read along every path<br>agrees on x"]',
        "  n1 --> n0",
        '  n2 -.->|"k"| n1',
        "  n3 -.-> n0",
        "  classDef untested stroke:#9a6700,stroke-width:3px,stroke-dasharray:5",
        "  class n3 untested",
        "  classDef refuted stroke:#cf222e,stroke-width:3px",
        "  class n0 refuted",
    ])  # fmt: skip


def test_names_cannot_break_out_of_a_diagram(verdict: Verdict) -> None:
    words = {
        "agrees_on": HOSTILE,
        "into": HOSTILE,
        "rest": HOSTILE,
        "positions": HOSTILE,
        "subspace": HOSTILE,
    }
    nodes = (node("output", None), node(HOSTILE, "output", components=(HOSTILE, "end"), **words))
    drawn = flowchart(replace(verdict, circuit=Circuit(("l",), nodes)))
    assert drawn is not None
    lines = drawn.splitlines()
    assert len(lines) == 6
    label = r"(?:[\w ,]|#\d+;|#8288;|<br>|</?b>)*"
    assert re.fullmatch(rf'  n1\["{label}"\]', lines[2])
    assert re.fullmatch(rf'  n1 -->\|"{label}"\| n0', lines[3])
    decoded = re.sub(r"#(\d+);", lambda found: chr(int(found[1])), lines[3]).replace("\u2060", "")
    assert HOSTILE.replace("\n", "\\n").replace("\u202e", "\\u202e") in decoded


def test_a_circuit_that_mermaid_would_refuse_is_left_out(verdict: Verdict) -> None:
    many = (node("output", None), *(node(f"output/{i}", "output") for i in range(600)))
    large = replace(verdict, circuit=Circuit(("l",), many))
    assert flowchart(large) is None
    assert "Left out, as GitHub shows no more: 1 diagrams.\n" in step_summary(
        a_run(claimed(large, PASSED))
    )


def test_a_claim_over_checkpoints_has_a_table_of_them(verdict: Verdict) -> None:
    """In the order of the training, with what the page has."""

    def at(nth: int, digest: str, **facts: Any) -> Claimed:
        one = replace(verdict, model_digest=digest, explained=nth / 10, **facts)
        over = Measured("t.py::test_<it>", nth, f"step{nth}")
        return claimed(one, PASSED, test=f"t.py::test_<it>[step{nth}]", over=over)

    claims = [at(10, "b"), at(2, "a", min_gap=0.5), claimed(None, FAILED, test="t.py::test_<it>[x]",
              over=Measured("t.py::test_<it>", 11, "x"))]  # fmt: skip
    text = step_summary(a_run(*claims))
    table = text.partition("</table>")[2].partition("</table>")[0]
    assert table.strip().startswith("<code>t.py::test_&lt;it&gt;</code>")
    rows = re.findall("<tr>(.*?)</tr>", table)
    assert [re.findall("<t[hd]>(.*?)</t[hd]>", row)[0] for row in rows] == [
        "checkpoint", "<code>step2</code>", "<code>step10</code>", "<code>x</code>",
    ]  # fmt: skip
    cells = re.findall("<td>(.*?)</td>", rows[1])
    assert cells[1:] == ["held", html.escape(str(verdict.gap)), "≥ 0.5", "20.0%"]
    assert re.findall("<td>(.*?)</td>", rows[3])[1:] == ["<b>failed</b>", "", "", ""]
    assert "identical" not in text
    same = step_summary(a_run(at(1, "a"), at(2, "a")))
    assert "<b>step1 and step2 are identical: no weight" in same
    # without checkpoints there is but the table of claims
    assert step_summary(a_run(claimed(verdict, PASSED))).count("<table>") == 1
