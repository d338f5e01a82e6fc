"""`--scrub-html FILE`: the page of a run, from this process and from workers, and where it cannot
be written."""

from __future__ import annotations

import errno
import importlib
import os
import re
from pathlib import Path

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

# See conftest.py: what an inner run would be the first to import.
importlib.import_module("pytest_scrub.extras.html.page")


@pytest.fixture
def html(suite: Suite) -> Path:
    return suite.pytester.path / "report.html"


def rows(page: str) -> dict[str, str]:
    """Claim to outcome, as the table has them, or the head of the page of one claim."""
    alone = re.search(
        r'<h1 class="text">(.*?)</h1>.*?<span class="outcome (\w+)">', page, re.DOTALL
    )
    if alone is not None:
        return {alone[1].replace("<wbr>", ""): alone[2]}
    found = re.findall(r'<tr data-outcome="(\w+)".*?<a class="text".*?>(.*?)</a>', page, re.DOTALL)
    return {name.replace("<wbr>", ""): outcome for outcome, name in found}


EXPECTED = {
    "test_held": "held", "test_refuted": "refuted", "test_undecided": "undecided",
    "test_untested": "untested",
    "test_misstated": "failed",
}  # fmt: skip


def test_the_page_of_a_run(four: Suite, html: Path) -> None:
    ran = four.run(f"--scrub-html={html}")
    page = html.read_text(encoding="utf-8")
    assert rows(page) == EXPECTED
    assert str(ran.verdicts["test_refuted"].gap) in page
    assert (
        "pytest test_claims.py::test_held --scrub-seed=0 --scrub-samples=200 --scrub-adversary=none"
        in page
    )
    assert "Misstated: output/C: the network has no component" in page
    assert ran.result.ret == pytest.ExitCode.TESTS_FAILED


@only_in_full
def test_workers_make_the_same_page(four: Suite, html: Path) -> None:
    other = html.with_name("workers.html")
    assert four.run(f"--scrub-html={html}", "-n0", alone=True).outcomes == {
        "passed": 1,
        "failed": 4,
    }
    assert four.run(f"--scrub-html={other}", "-n2", alone=True).outcomes == {
        "passed": 1,
        "failed": 4,
    }
    pages = [path.read_text(encoding="utf-8") for path in (html, other)]
    assert rows(pages[0]) == EXPECTED
    one, two = (
        re.sub(
            r"\d\d:\d\d:\d\d|[\d.]+ s\b|\d+\.\d+</td></tr>|data-value=\"[\d.]+\">[\d.]+", "", page
        )
        for page in pages
    )
    assert one == two


def test_missing_folders_are_made(four: Suite, html: Path) -> None:
    deep = html.parent / "reports" / "of today" / "it.html"
    four.run(f"--scrub-html={deep}", "-k", "held")
    assert rows(deep.read_text()) == {"test_held": "held"}
    assert [path.name for path in deep.parent.iterdir()] == ["it.html"]


def test_a_run_without_claims_has_a_page_that_says_so(suite: Suite, html: Path) -> None:
    suite.write("def test_ordinary():\n    pass")
    ran = suite.run(f"--scrub-html={html}")
    assert ran.result.ret == 0
    assert "There were no claims in this run" in html.read_text()


def test_a_folder_that_is_a_file(suite: Suite, html: Path) -> None:
    """One sentence, before anything is run."""
    suite.write("""
        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))
    """)
    html.write_text("in the way")
    ran = suite.run(f"--scrub-html={html / 'report.html'}")
    assert not ran.verdicts
    assert ran.result.ret == pytest.ExitCode.USAGE_ERROR
    (line,) = [line for line in ran.result.errlines if line]
    assert f"{html / 'report.html'} cannot be written" in line
    assert html.read_text() == "in the way"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_page(
    suite: Suite, html: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    suite.write("""
        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))
    """)
    html.write_text("of yesterday")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        ran = suite.run(f"--scrub-html={html}", "-p", "no:cacheprovider")
    assert html.read_text() == "of yesterday"
    assert ran.result.ret == pytest.ExitCode.TESTS_FAILED
    assert "No space left on device" in ran.text
    assert not list(html.parent.glob("*.tmp")) + list(html.parent.glob(".*.tmp"))
    assert suite.run(f"--scrub-html={html}").result.ret == 0
    assert rows(html.read_text()) == {"test_held": "held"}


def test_names_and_rows_do_no_harm(suite: Suite, html: Path) -> None:
    suite.extend_conftest("""
        HOSTILE = (
            "<script>alert(1)</script>", "\\x1b[31mred", "\\u202eright to left", "two\\nlines"
        )

        @pytest.fixture(scope="session")
        def scrub_data():
            a = torch.arange(64) % 2
            return rows(show=lambda row: HOSTILE[int(100 * abs(row["b"])) % 4])
    """)
    suite.write("""
        @pytest.mark.parametrize("x", [1], ids=["$x$ </script><script>alert(2)</script>"])
        @claim(tolerance=0.5)
        def test_ünïcode(x):
            return output(module("B", agrees_on="b"))
    """)
    suite.run(f"--scrub-html={html}", adversary="quick")
    page = html.read_text(encoding="utf-8")
    assert page.count("<script") == 1
    assert "$x$ &lt;/script&gt;&lt;script&gt;alert(2)" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "Counterexample" in page


def test_an_interrupted_run_has_a_page(suite: Suite, html: Path) -> None:
    suite.write("""
        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))

        def test_later():
            raise KeyboardInterrupt
    """)
    ran = suite.run(f"--scrub-html={html}", alone=True)
    assert ran.result.ret == pytest.ExitCode.INTERRUPTED
    page = html.read_text()
    assert "This run was interrupted" in page
    assert rows(page) == {"test_held": "held"}
