"""The documentation as it stands: a page is a script, whose files are written, commands run and
outputs compared.

- A block whose first line is a comment with a file's name is that file; `# NAME, continued` adds to
  it.
- A `bash` block is run, line by line; a command with the comment `# fails` has to fail with exit
  code 1.
- A `text` block after it is what it prints: a line `...` stands for any lines, ` ...` at an end for
  the rest of a line.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

import pytest_scrub
from benchmarks import published_brackets as published
from pytest_scrub import Dataset, claim
from pytest_scrub.pytest_edge.options import OPTIONS
from pytest_scrub.settings import COMMAND_LINE_OPTIONS, SETTINGS, CheckOptions, ClaimOptions
from pytest_scrub.tree.nodes import NodeOptions
from tests import said
from tests.places import ROOT
from tests.sizes import only_in_full

DOCS = ROOT / "docs"
WORKFLOW = DOCS / "workflow.yml"
TUTORIAL, NOTEBOOK, SENTENCES = "tutorial.md", "from-the-notebook.md", said.PAGE.name
LONG = [TUTORIAL, "writing-claims.md", NOTEBOOK, "dictionaries.md", "reference.md", SENTENCES]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"# ([\w./-]+\.\w+|\.\w+)(, continued)?\n")
SLOWEST = 900  # seconds for one command: fifty at most on a free machine
SCRIPTS = sorted(path.name for path in DOCS.glob("*.md") if "```bash" in path.read_text())


def blocks(page: str) -> list[tuple[str, str]]:
    """(language, text) of every block of a page."""
    return BLOCK.findall((DOCS / page).read_text())


def environment(**more: str) -> dict[str, str]:
    """Where commands run as if typed by hand: no CI, this Python first on the path, eighty
    columns."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST", "GITHUB", "SCRUB"))
    }
    for name in ("CI", "FORCE_COLOR", "PY_COLORS"):
        kept.pop(name, None)
    path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    return {
        **kept,
        "PATH": path,
        "COLUMNS": "80",
        "OMP_NUM_THREADS": "1",
        "PYTEST_ADDOPTS": "-p no:randomly",
    } | more


def run(command: str, folder: Path, **env: str) -> str:
    """What a command prints, which has to end as its comment says; installing is for other
    machines."""
    arguments = shlex.split(command, comments=True)
    if arguments[0] == "pip" or arguments[:3] == ["python", "-m", "pip"]:
        return ""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=SLOWEST,
        check=False,
    )
    assert done.returncode == int("# fails" in command), f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def write(text: str, folder: Path) -> bool:
    """Write a block that is a file; whether it was one."""
    named = FILE.match(text)
    if named is None:
        return False
    path = folder / named[1]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if named[2] else "w") as file:
        file.write(text)
    return True


def missing(expected: str, printed: str) -> list[str]:
    """The first stretch of lines of a shown output that is not printed, in the order shown."""
    lines = [_timeless(line) for line in printed.splitlines()]
    for stretch in re.split(r"^\.\.\.$", expected, flags=re.MULTILINE):
        wanted = [_timeless(line) for line in stretch.strip("\n").splitlines()]
        starts = range(len(lines) - len(wanted) + 1)
        at = next((i for i in starts if all(map(_is_shown, wanted, lines[i:]))), None)
        if at is None:
            return wanted
        lines = lines[at + len(wanted) :]
    return []


def _timeless(line: str) -> str:
    line = re.sub(r" *\b\d+\.\d+ ?s\b( \(\d+:\d\d:\d\d\))?", " TIME", line.rstrip())
    return re.sub(r"^=+ (.* TIME) =+$", r"\1", line)  # the padding follows the time's length


def _is_shown(wanted: str, line: str) -> bool:
    return (
        line.startswith(wanted.removesuffix(" ...")) if wanted.endswith(" ...") else line == wanted
    )


def with_the_repository() -> dict[str, str]:
    """An environment in which its example networks are found, for the page that says so."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def perform(page: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Run a page; every shown output with what was printed before it."""
    env = with_the_repository() if page == SENTENCES else {}
    printed: str | None = None
    for language, text in blocks(page):
        if language == "bash":
            printed = "\n".join(run(line, folder, **env) for line in text.splitlines())
        elif language == "text" and printed is not None:
            yield text, printed
        elif not write(text, folder):
            assert language in ("text", "yaml", "mermaid"), (
                f"a block of {page} names no file:\n{text}"
            )


def bring_the_published_network(folder: Path) -> None:
    """What the page about the notebook takes as given."""
    at = published.folder()
    if at is None:
        pytest.skip(f"{published.FOLDER} does not name the published network")
    shutil.copy(at / "brackets_model_state_dict.pt", folder / "brackets.pt")
    rows = json.loads((at / "brackets_data.json").read_text())[: published.STRINGS]
    (folder / "brackets.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module", autouse=True)
def warm(python):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", python)
        yield


@pytest.fixture(scope="module")
def performed(tmp_path_factory):
    """Runs a page once: its folder, and every shown output with what was printed."""

    @functools.cache
    def perform_once(page: str) -> tuple[Path, list[tuple[str, str]]]:
        folder = tmp_path_factory.mktemp(page.replace(".", "-"))
        if page == NOTEBOOK:
            bring_the_published_network(folder)
        return folder, list(perform(page, folder))

    return perform_once


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(
            page, marks=[pytest.mark.xdist_group(page), only_in_full] if page in LONG else ()
        )
        for page in SCRIPTS
    ],
)
def test_a_page_runs_as_it_stands(page, performed):
    for expected, printed in performed(page)[1]:
        lost = missing(expected, printed)
        assert not lost, "\n".join(
            [f"{page} shows what is not printed:", *lost, "", "printed was:", printed]
        )


@only_in_full
@pytest.mark.xdist_group(SENTENCES)
def test_every_sentence_shows_what_was_said_of_it(performed):
    shows = {one.test: one.says for one in said.shown(said.PAGE.read_text())}
    assert len(shows) > 60
    assert all(shows.values())
    assert said.of_run(performed(SENTENCES)[0] / "verdicts.json") == shows


def test_a_claim_without_its_verdict_is_seen():
    page = "```python\n# test_a.py\n@claim()\ndef test_b():\n    return 1\n"
    page += "    # held: so\n    # far\n\n\n"
    page += "@claim()\ndef test_c(x):\n    # why\n    return 2\n```\n"
    assert [(one.test, one.says) for one in said.shown(page)] == [
        ("test_a.py::test_b", "held: so far"),
        ("test_a.py::test_c", ""),
    ]


def test_the_claim_on_the_first_page_is_the_tutorials():
    ((_, claimed),) = blocks("index.md")
    run_there = "\n".join(text for _, text in blocks("tutorial.md"))
    assert claimed.partition("\n\n\n")[2] in run_there


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("a\nb", True),
        ("a\n...\nc", True),
        ("b", True),
        ("a\nc", False),
        ("c\n...\na", False),
        ("lo ...", True),
    ],
)
def test_outputs_are_compared_line_by_line(expected, found):
    assert bool(missing(expected, "a\nb\nc\nlong line")) is not found


def test_times_do_not_count():
    assert not missing("=== 2 passed in 0.31s ===", "====== 2 passed in 72.00s (0:01:12) ======")
    assert missing("=== 2 passed in 0.31s ===", "=== 3 passed in 0.31s ===")


def _given(language: str) -> str:
    return "\n".join(text for kind, text in blocks("writing-claims.md") if kind == language)


@pytest.mark.parametrize(
    "name",
    [
        *(n for n, p in inspect.signature(claim).parameters.items() if p.kind is p.KEYWORD_ONLY),
        *NodeOptions.__annotations__,
        *("of", "call", "item", "head"),
        *(n for n in inspect.signature(Dataset.__init__).parameters if n not in ("self", "inputs")),
    ],
)
def test_every_parameter_has_an_example(name):
    assert re.search(rf"\b{name}=", _given("python")), (
        f"docs/writing-claims.md has no example of {name}="
    )


@pytest.mark.parametrize("option", [option.name for option in OPTIONS])
def test_every_option_has_an_example_and_its_twin(option):
    assert f"--scrub-{option}" in _given("bash"), (
        f"docs/writing-claims.md has no example of --scrub-{option}"
    )
    assert f"`scrub_{option.replace('-', '_')}`" in (DOCS / "writing-claims.md").read_text()


def of_a_claim(names: Iterable[str]) -> Iterator[str]:
    """The docs' table of these settings."""
    yield from ("| option | default | for all claims | what it does |", "| --- | --- | --- | --- |")
    for name, setting in SETTINGS.items():
        if name in names:
            default = "none" if setting.default is None else f"`{setting.default!r}`"
            twin = (
                f"`--scrub-{COMMAND_LINE_OPTIONS[name].name}`"
                if name in COMMAND_LINE_OPTIONS
                else ""
            )
            yield f"| `{name}=` | {default} | {twin} | {setting.help} |"


def of_the_command_line() -> Iterator[str]:
    yield from ("| option | ini | default | what it does |", "| --- | --- | --- | --- |")
    for one in OPTIONS:
        default = "off" if one.read is bool else one.default or "none"
        yield f"| `--scrub-{one.name}` | `{one.dest}` | {default} | {one.help.replace('%%', '%')} |"


@pytest.mark.parametrize(
    "table",
    [
        of_a_claim(ClaimOptions.__annotations__),
        of_a_claim(CheckOptions.__annotations__.keys() - ClaimOptions.__annotations__),
        of_the_command_line(),
    ],
    ids=["claim", "check", "command line"],
)
def test_a_table_of_options_is_what_the_package_says(table):
    text = "\n".join(table)
    assert f"\n\n{text}\n\n" in (DOCS / "writing-claims.md").read_text(), f"it is\n{text}"


@pytest.mark.parametrize("name", pytest_scrub.__all__)
def test_every_public_name_is_in_the_reference(name):
    described = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    named = [path.rpartition(".") for path in described if path.endswith(f".{name}")]
    assert [getattr(importlib.import_module(home), last) for home, _, last in named] == [
        getattr(pytest_scrub, name)
    ]


def used_in(text: str) -> set[str]:
    """The names that some Python does something with, beside importing them."""
    every = list(ast.walk(ast.parse(text)))
    own = {
        node.attr
        for node in every
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == pytest_scrub.__name__
    }
    return own | {node.id for node in every if isinstance(node, ast.Name)}


@functools.cache
def used_in_the_reference() -> set[str]:
    return set().union(
        *(used_in(text) for kind, text in blocks("reference.md") if kind == "python")
    )


@pytest.mark.parametrize("name", pytest_scrub.__all__)
def test_every_public_name_has_an_example_in_the_reference(name):
    assert name in used_in_the_reference(), f"docs/reference.md has no example of {name}"


def test_what_is_only_imported_is_no_example():
    text = "from a import (\n    b,\n)\nimport c\nc.d()\npytest_scrub.e\nf(g)"
    assert used_in(text) == {*"cefg", "pytest_scrub"}


@pytest.mark.xdist_group(TUTORIAL)
@only_in_full
@pytest.mark.parametrize("noisy", [True, False])
def test_the_workflow_gates_a_circuit(performed, noisy, tmp_path, monkeypatch):
    """Its steps as GitHub runs them, but for those that install: they are for its machines, and
    need the network."""
    # which ends with noise on the weights
    circuit = shutil.copytree(performed(TUTORIAL)[0], tmp_path / "circuit")
    if not noisy:
        monkeypatch.chdir(circuit)
        runpy.run_path("dice.py", run_name="__main__")
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["claims"]
    commands = [" ".join(step["run"].split()) for step in job["steps"] if "run" in step]
    (check,) = [command for command in commands if not command.startswith("pip install ")]
    summary = circuit / f"summary-{noisy}.md"
    on_github = {"GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_STEP_SUMMARY": str(summary)}
    printed = run(f"{check}  # fails" if noisy else check, circuit, **on_github)
    assert ("was held and is held on average, fell to the search" in printed) is noisy
    assert "test_the_sum_of_the_dice" in summary.read_text()
    assert "```mermaid" in summary.read_text()
    assert "## Compared with the baseline main" in summary.read_text()
    uploaded = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))
    assert uploaded["if"] == "always()"
    written = {path.name: path.read_text() for path in (circuit / "reports").iterdir()}
    assert written.keys() == {"claims.html", "claims.json", "junit.xml"}
    assert all("test_the_sum_of_the_dice" in text for text in written.values())
    for name in uploaded["with"]["path"].split():
        assert list(circuit.glob(name)), f"{name} is uploaded and was not written"


@only_in_full
def test_the_page_of_an_index_leads_nowhere_that_is_not_there(tmp_path):
    """There, relative links and pictures of README.md are text, and nothing else changes."""
    for name in ("README.md", "LICENSE", "pyproject.toml", "setup.py", "pytest_scrub/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "metadata").mkdir()
    made = "from setuptools import build_meta as m; m.prepare_metadata_for_build_wheel('metadata')"
    subprocess.run(
        [sys.executable, "-c", made], cwd=tmp_path, env=environment(), check=True,
        capture_output=True, timeout=SLOWEST,
    )  # fmt: skip
    (folder,) = (tmp_path / "metadata").glob("*.dist-info")
    head, page = (folder / "METADATA").read_text().split("\n\n", 1)
    assert "Description-Content-Type: text/markdown" in head
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert links
    assert all(link.startswith("https://") for link in links)
    readme = (ROOT / "README.md").read_text()
    assert BLOCK.findall(page) == BLOCK.findall(readme)
    named = [path for path in re.findall(r"\]\(([^)]+)\)", readme) if "://" not in path]
    assert len(named) > 10
    assert all((ROOT / path).exists() and f"`{path}`" in page for path in named)


def test_the_site_builds_without_a_broken_link(tmp_path):
    pytest.importorskip("mkdocs", reason="the documentation's extra is not installed")
    pytest.importorskip("mkdocstrings", reason="the documentation's extra is not installed")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=DOCS.parent, env=environment(), capture_output=True, text=True, timeout=SLOWEST,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > len(SCRIPTS)
    loaded = re.compile(
        r"<(?:script|img|iframe)[^>]*\ssrc=\"(?:https?:)?//|<link[^>]*stylesheet[^>]*href=\"(?:https?:)?//"
    )
    assert not [page for page in pages if loaded.search(page.read_text())]
