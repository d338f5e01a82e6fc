"""In a notebook: the tutorial says what its cells print, verdicts and hypotheses are drawn in a
style that the notebook's does not reach, and progress is gone when a claim is checked."""

from __future__ import annotations

import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_scrub import (
    ANYTHING,
    EXACT,
    DataError,
    Dataset,
    FunctionGraph,
    check,
    group,
    head,
    module,
    output,
)
from pytest_scrub.pytest_edge import progress
from tests import notebook as tutorial
from tests.example_verdicts import refuted, verdict, whole
from tests.sizes import only_in_full

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
HYPOTHESIS = output(
    head(1, 0, agrees_on="count", name="counter", reads=[head(0, 1, agrees_on="token", into="k")]),
    group([head(2, 0), head(2, 1)], agrees_on=EXACT),
    rest=ANYTHING,
)


def _needed(package: str) -> Any:
    return pytest.importorskip(
        package, reason=f"{package} is not installed: no notebook is looked at"
    )


# The tutorial -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def executed() -> Any:
    _needed("nbclient")
    _needed("ipykernel")
    return tutorial.executed()


def printed(notebook: Any) -> list[str]:
    """What each cell prints, whatever the version of pandas puts between two columns."""
    return [
        " ".join((one.get("text") or one["data"]["text/plain"]).split())
        for cell in notebook.cells
        for one in cell.get("outputs", ())
        if one.output_type != "display_data"
    ]


@only_in_full
def test_the_tutorial_prints_what_it_says(executed: Any) -> None:
    assert printed(executed) == printed(tutorial.read()), "python -m tests.notebook writes it anew"


@only_in_full
def test_hypotheses_and_verdicts_of_the_tutorial_are_drawn(executed: Any) -> None:
    shown = [one for cell in executed.cells for one in cell.get("outputs", ()) if "data" in one]
    assert sum("svg" in one["data"].get("text/html", "") for one in shown) == 4


@only_in_full
def test_the_tutorial_as_a_page(executed: Any, tmp_path: Path) -> None:
    looked_at(executed, tmp_path, drawings=4)


def test_what_is_kept_of_the_tutorial_is_text() -> None:
    text = tutorial.NOTEBOOK.read_text()
    assert '"text/html"' not in text
    assert text.count("execution_count") == text.count('"execution_count": null')


# Drawings -----------------------------------------------------------------------------------------


def looked_at(notebook: Any, folder: Path, drawings: int) -> None:
    """As nbconvert makes a page of it: nothing lies over anything else, and nothing is cut."""
    exporters = _needed("nbconvert.exporters")
    sync_api = _needed("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page is not looked at")
    path = folder / "notebook.html"
    path.write_text(exporters.HTMLExporter().from_notebook_node(notebook)[0])
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
            page.route("http*://**", lambda route: route.abort())
            page.goto(path.as_uri())
            assert page.locator(".scrub").count() == drawings
            page.evaluate(
                "document.querySelectorAll('.scrub details').forEach(one => { one.open = true })"
            )
            assert page.evaluate(FOREIGN) == []
            # the page is light, whatever its reader's machine is
            assert (
                page.evaluate("getComputedStyle(document.querySelector('.scrub')).backgroundColor")
                == "rgb(255, 255, 255)"
            )
        browser.close()


# what of a page's own style reaches the drawings: labels over or beside their values, ...
FOREIGN = """() => {
  const all = selector => [...document.querySelectorAll(`.scrub ${selector}`)], found = [];
  for (const pair of all("dl.figures > div")) {
    const [label, value] = [...pair.children].map(part => part.getBoundingClientRect());
    if (label.bottom > value.top + 1 || label.left != value.left) found.push(pair.innerText);
  }
  for (const cell of all(":is(td, th):not(.number)"))
    if (!["left", "start"].includes(getComputedStyle(cell).textAlign)) found.push(cell.innerText);
  for (const heading of all("h3"))
    if (getComputedStyle(heading).fontWeight != 700) found.push(heading.innerText);
  if (document.documentElement.scrollWidth > innerWidth) found.push("it is too wide");
  return found;
}"""


@only_in_full
def test_drawings_in_a_notebooks_page(tmp_path: Path) -> None:
    nbformat = _needed("nbformat.v4")
    shown = [verdict(), refuted(), whole(), HYPOTHESIS]
    cells = [
        nbformat.new_code_cell(
            "shown",
            outputs=[nbformat.new_output("execute_result", {"text/html": one._repr_html_()})],
        )
        for one in shown
    ]
    looked_at(nbformat.new_notebook(cells=cells), tmp_path, drawings=len(shown))


def test_a_hypothesis_is_drawn_before_it_knows_a_network() -> None:
    text = HYPOTHESIS._repr_html_() or ""
    boxes = re.findall(r'<text class="name"[^>]*>([^<]*)<', text)
    assert boxes == ["output", "head1.0", "head0.1", "group of 2", "head2.0", "head2.1"]
    assert len(re.findall('class="lane"', text)) == 3
    assert "counter (head1.0) agrees on count" in text  # what a drawing does not say
    assert not re.findall(r"<script|\bon\w+=", text)


def test_a_hypothesis_and_a_verdict_in_a_list_are_short() -> None:
    assert repr([HYPOTHESIS]) == f"[{HYPOTHESIS}]"
    assert "Node(" not in repr(HYPOTHESIS)
    assert repr(verdict()).startswith("<Verdict: claim held: gap 0.01 [-0.02, 0.04] in cross-entr")
    assert "\n" not in repr(whole())
    assert len(repr(whole().worst)) < 600


# Progress -----------------------------------------------------------------------------------------


class Kernel:
    """What IPython is within a kernel, as far as progress asks for it."""

    def __init__(self, kernel: object = True) -> None:
        self.kernel, self.shown = kernel, list[dict[str, str]]()

    def display(self, shown: dict[str, str], *, raw: bool, display_id: bool) -> Kernel:
        assert raw
        assert display_id
        assert not self.shown
        self.shown.append(shown)
        return self

    def update(self, shown: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(shown)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: kernel  # type: ignore[attr-defined]
    shown = types.ModuleType("IPython.display")
    shown.display = kernel.display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "BETWEEN", 0.0)
    return kernel


def checked(**options: Any) -> Any:
    a = torch.arange(64) % 2
    network = FunctionGraph(A=lambda a: 4 * a - 2, output=lambda A: torch.stack([-A, A], -1) / 2)
    data = Dataset({"a": a.float()}, labels=a, features={"parity": a})
    hypothesis = output(module("A", agrees_on="parity"))
    return check(hypothesis, network, data, tolerance=0.1, **options)


def test_progress_stands_below_the_cell_until_the_claim_is_checked(kernel: Kernel) -> None:
    checked()
    *during, last = kernel.shown
    assert during
    assert all(
        "samples" in one["text/plain"] or "activations" in one["text/plain"] for one in during
    )
    assert all(one["text/html"].startswith("<pre") for one in during)
    assert last == {"text/html": "", "text/plain": ""}


def test_progress_goes_where_a_check_ends_in_an_error(kernel: Kernel) -> None:
    def broken(outputs: torch.Tensor, _: Any) -> torch.Tensor:
        if kernel.shown:
            raise ZeroDivisionError
        return outputs[:, 0]

    with pytest.raises(DataError, match="ZeroDivisionError"):
        checked(metric=broken)
    assert kernel.shown[-1] == {"text/html": "", "text/plain": ""}


def test_a_check_that_takes_no_time_shows_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "PATIENCE", 1000.0)
    checked()
    assert not kernel.shown


def test_an_interactive_python_that_is_no_notebook_shows_nothing(kernel: Kernel) -> None:
    kernel.kernel = None
    checked()
    assert not kernel.shown


def test_a_progress_of_ones_own_comes_first(kernel: Kernel) -> None:
    seen = []
    checked(progress=lambda *told: seen.append(told))
    assert seen
    assert not kernel.shown
