"""The report in a browser: everything clicked, at the width of a desk and of a hand; nothing is
loaded."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
QUIET = ["--no-sandbox", "--headless", "--disable-gpu", "--disable-background-networking"]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine: the report is not looked at"
)
sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: the report is not looked at"
)

# See tests/pytest_edge/conftest.py: what an inner run would be the first to import.
importlib.import_module("pytest_scrub.extras.html.page")

HOSTILE = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\">"

CLAIMS = """
@claim(tolerance=0.5)
def test_held():
    return output(module("A", agrees_on="a"))

@pytest.mark.parametrize("x", [1], ids=[HOSTILE])
@claim(tolerance=0.5)
def test_refuted(x):
    return output(module("B", agrees_on="b"))

@claim(tolerance=0.5)
def test_untested():
    return output(module("A", agrees_on="row"))

@claim(tolerance=0.5)
def test_misstated():
    return output(module("C", agrees_on="a"))
"""
OUTCOMES = ["failed", "held", "refuted", "untested"]


@pytest.fixture
def report(suite: Suite) -> Path:
    """The page of a run with a claim of every kind, whose rows and names are hostile."""
    suite.extend_conftest(f"""
        HOSTILE = {HOSTILE!r}

        @pytest.fixture(scope="session")
        def scrub_data():
            more = "and more words to break the line"
            return rows(show=lambda row: f"{{HOSTILE}} b is {{float(row['b']):.3f}} {{more}}")
    """)
    suite.write(f"HOSTILE = {HOSTILE!r}\n{CLAIMS}")
    path = suite.pytester.path / "report.html"
    ran = suite.run(f"--scrub-html={path}", "--scrub-controls", "--scrub-mutate", adversary="quick")
    assert ran.outcomes == {"passed": 1, "failed": 3}
    return path


class Seen:
    """A page, and all that it complained of or asked for."""

    def __init__(self, page: Any, path: Path) -> None:
        self.page, self.problems, self.requests = page, [], []
        page.on("console", lambda message: self.problems.append(message.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("dialog", lambda dialog: (self.problems.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        self.address = path.as_uri()
        page.goto(self.address)

    def is_narrow_enough(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


@pytest.fixture
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def column(page: Any, i: int) -> list[str]:
    return [
        row.locator("td").nth(i).inner_text() for row in page.locator("#overview tbody tr").all()
    ]


def sort_by_every_column(page: Any) -> None:
    headers = page.locator("#overview thead th").all()
    assert len(headers) == 10
    for i, header in enumerate(headers):
        before = sorted(column(page, i))
        header.get_by_role("button").focus()
        for key, direction in (("Enter", "ascending"), ("Space", "descending")):
            page.keyboard.press(key)
            assert header.get_attribute("aria-sort") == direction
            assert page.locator("#overview th[aria-sort]").count() == 1
            found = column(page, i)
            assert sorted(found) == before
            filled = [text.split()[0].removesuffix("%") for text in found if text.strip()]
            # what is missing is last
            assert found[len(filled) :] == [""] * (len(found) - len(filled))
            if "number" in (header.get_attribute("class") or "") and not any(
                "/" in text for text in filled
            ):
                values = [float(text) for text in filled]
                assert values == sorted(values, reverse=direction == "descending")
    page.locator("#overview thead th button").first.click()
    assert [text.split()[-1] for text in column(page, 0)] == OUTCOMES


def filter_in_every_way(page: Any) -> None:
    def shown() -> list[str]:
        visible = [row for row in page.locator("#overview tbody tr").all() if row.is_visible()]
        return sorted(row.get_attribute("data-outcome") for row in visible)

    assert shown() == OUTCOMES
    page.locator("#outcome").select_option("held")
    assert shown() == ["held"]
    assert page.locator("details.claim:visible").count() == 1
    assert page.locator("#shown").inner_text() == "1 of 4 shown"
    page.locator("#outcome").select_option("")
    page.locator("#words").fill("MISSTATED")
    assert shown() == ["failed"]
    page.locator("#words").fill("nothing has this")
    assert shown() == []
    page.locator("#words").fill("")
    assert shown() == OUTCOMES


def open_every_claim(seen: Seen) -> None:
    page = seen.page
    for link in page.locator("#overview tbody a").all():
        link.click()
        claim = page.locator(link.get_attribute("href"))
        page.wait_for_function("one => one.open", arg=claim.element_handle())
        for summary in claim.locator("section details > summary").all():
            summary.click()
        assert claim.get_by_role("heading", name="To run it again").is_visible()
        assert seen.is_narrow_enough(), link.inner_text()
    assert page.locator("svg.circuit:visible").count() == 3


def labels_that_overlap(page: Any) -> list[str]:
    """Pairs of texts of one picture that lie on each other."""
    return list(
        page.evaluate("""() => [...document.querySelectorAll("svg")].flatMap((svg) => {
            const texts = [...svg.querySelectorAll("text")]
                .map((one) => [one.textContent, one.getBoundingClientRect()])
                .filter(([, box]) => box.width);
            return texts.flatMap(([name, a], i) => texts.slice(i + 1)
                .filter(([, b]) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1 &&
                    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4)
                .map(([other]) => `${name} | ${other}`));
        })""")
    )


def texts_outside_their_box(page: Any) -> list[str]:
    return list(
        page.evaluate("""() => [...document.querySelectorAll("svg.circuit g")].flatMap((group) => {
            const box = group.querySelector(".box").getBoundingClientRect();
            return [...group.querySelectorAll("text")].filter((one) => {
                const text = one.getBoundingClientRect();
                const beyond = text.left < box.left || text.right > box.right;
                return text.width && (beyond || text.bottom > box.bottom + 1);
            }).map((one) => one.textContent);
        })""")
    )


def background(page: Any) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize(
    ("scheme", "width"),
    [
        ("light", 1280),
        pytest.param("dark", 390, marks=only_in_full),
        pytest.param("light", 390, marks=only_in_full),
        pytest.param("dark", 1280, marks=only_in_full),
    ],
)
def test_everything_can_be_clicked(report: Path, browser: Any, width: int, scheme: str) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen(page, report)
    title = page.title()
    assert title == "4 claims: 1 failed; 1 refuted; 1 untested; 1 held"
    assert seen.is_narrow_enough()
    sort_by_every_column(page)
    filter_in_every_way(page)
    open_every_claim(seen)
    assert labels_that_overlap(page) == []
    assert texts_outside_their_box(page) == []

    at_first = background(page)
    page.locator("#theme").click()
    assert background(page) != at_first
    page.locator("#theme").click()
    assert background(page) == at_first
    page.locator("#every").click()
    page.locator("#every").click()

    # as text, to read
    assert f"test_refuted[{HOSTILE}]" in page.locator("#overview tbody a").all_inner_texts()
    assert page.locator("pre.text", has_text="b is").inner_text().startswith(HOSTILE)
    assert page.title() == title
    assert page.locator("script").count() == 1
    assert page.locator("img").count() == 0
    assert seen.problems == []
    assert {url.partition("#")[0] for url in seen.requests} == {seen.address}


def test_a_link_to_a_claim_opens_it(report: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{report.as_uri()}#claim-2")
    assert page.locator("details.claim[open]").count() == 1
    assert page.locator("#claim-2").get_attribute("open") is not None


def test_what_fell_to_a_search_and_what_was_expected_are_filtered_for_themselves(
    suite: Suite, browser: Any
) -> None:
    suite.write("""
        @claim(tolerance=0.05)
        def test_falls():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_refuted():
            return output(module("B", agrees_on="b"))

        @pytest.mark.xfail(raises=Refuted, strict=True)
        @claim(tolerance=0.5)
        def test_known():
            return output(module("B", agrees_on="b"))
    """)
    path = suite.pytester.path / "report.html"
    suite.run(f"--scrub-html={path}", adversary="default")
    page = browser.new_page(viewport={"width": 390, "height": 900})
    seen = Seen(page, path)
    assert seen.is_narrow_enough()
    assert page.locator("#outcome option").all_inner_texts() == [
        "all", "refuted", "held on average, fell to the search", "xfailed as expected",
    ]  # fmt: skip
    for told, name in (
        ("refuted", "test_refuted"),
        ("held on average, fell to the search", "test_falls"),
        ("xfailed as expected", "test_known"),
    ):
        page.locator("#outcome").select_option(told)
        assert page.locator("#overview tbody tr:visible a").all_inner_texts() == [name]
    # the figure that decided lies outside of the band
    band = page.locator("figure.wide .band").bounding_box()
    mark = page.locator("figure.wide .mark.fell").bounding_box()
    dot = page.locator("figure.wide .mark.plain").bounding_box()
    assert dot["x"] < band["x"] + band["width"] < mark["x"]
    assert page.locator("figure.wide .mark.worst").count() == 2
    assert seen.problems == []


def test_images_are_drawn(suite: Suite, browser: Any) -> None:
    suite.extend_conftest("""
        import torch

        @pytest.fixture(scope="session")
        def scrub_data():
            return rows(show=lambda row: torch.full((6, 4), float(row["b"])))
    """)
    suite.write("""
        @claim(tolerance=0.5)
        def test_refuted():
            return output(module("B", agrees_on="b"))
    """)
    path = suite.pytester.path / "report.html"
    suite.run(f"--scrub-html={path}", adversary="default")
    page = browser.new_page(viewport={"width": 390, "height": 900})
    seen = Seen(page, path)
    page.locator("details.claim > summary").first.click()
    pictures = page.locator("section[aria-label=counterexample] img")
    assert pictures.count() >= 3
    for picture in pictures.all():
        assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [4, 6]
        assert picture.bounding_box()["width"] > 100
    assert seen.is_narrow_enough()
    assert seen.problems == []


def test_without_its_script_the_page_says_the_same(report: Path, browser: Any) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("#overview tbody tr:visible").count() == 4
    assert not page.locator("#theme").is_visible()
    page.locator("details.claim summary").first.click()
    assert page.get_by_role("heading", name="To run it again").first.is_visible()
