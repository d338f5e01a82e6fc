"""The report in a browser: everything clicked, at the width of a desk and of a phone; nothing is
loaded."""

from __future__ import annotations

import importlib
import io
import re
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pytest_scrub.extras.html import page as html
from pytest_scrub.reports.run import Claimed
from pytest_scrub.verdict import Circuit, Estimate, Null, Verdict
from tests.example_verdicts import claimed, node, refuted, run, slot, verdict, whole
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
        (row.locator("td").nth(i).text_content() or "").strip()  # also where it is out of sight
        for row in page.locator("#overview tbody tr").all()
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
    assert f"test_refuted[{HOSTILE}]" in page.locator("#overview tbody a").all_text_contents()
    assert page.locator("pre.text", has_text="b is").inner_text().startswith(HOSTILE)
    assert page.title() == title
    assert page.locator("script").count() == 1
    assert page.locator("img").count() == 0
    assert seen.problems == []
    assert {url.partition("#")[0] for url in seen.requests} == {seen.address}


@only_in_full
def test_a_link_to_a_claim_opens_it(report: Path, browser: Any) -> None:
    page = browser.new_page()
    page.goto(f"{report.as_uri()}#claim-4")
    # beside the first failure
    opened = page.locator("details.claim[open]").all()
    assert [one.get_attribute("id") for one in opened] == ["claim-2", "claim-4"]
    assert page.locator("#claim-4 svg.circuit").is_visible()


@only_in_full
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
        assert page.locator("#overview tbody tr:visible a").all_text_contents() == [name]
    # the figure that decided lies outside of the band
    band = page.locator("figure.wide .narrow .band").bounding_box()
    mark = page.locator("figure.wide .narrow .mark.fell").bounding_box()
    dot = page.locator("figure.wide .narrow .mark.plain").bounding_box()
    assert dot["x"] < band["x"] + band["width"] < mark["x"]
    assert page.locator("figure.wide .narrow .mark.worst").count() == 2
    assert seen.problems == []


@only_in_full
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
    pictures = page.locator("section[aria-label=counterexample] img")
    assert pictures.count() >= 3
    for picture in pictures.all():
        assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [4, 6]
        assert picture.bounding_box()["width"] > 100
    assert seen.is_narrow_enough()
    assert seen.problems == []


FACE = {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
WIDTHS = (1280, 390)


def wide() -> Verdict:
    """One with every part, and a circuit of twelve heads, of which one reads another."""
    heads = [node(f"output/head1.{nth}", 1) for nth in range(12)]
    below = node("output/head1.0/head0.0[k]", 0, into="k", along_every_path=True)
    circuit = Circuit(("attention 0", "attention 1", "output"), (
        node("output", 2, agrees_on=None, rest="ANYTHING"), *heads, below,
    ))  # fmt: skip
    null = Null("a permuted", Estimate(1.0, 0.9, 1.1), 1.0, 400, "refuted",
                changes=tuple(i / 20 for i in range(101)))  # fmt: skip
    slots = tuple(slot(one.path, 0.1) for one in circuit.nodes)
    return whole(circuit=circuit, null=null, nodes=slots)


def written(path: Path, *claims: Claimed) -> Path:
    path.write_text(html.page(run(*claims)), encoding="utf-8")
    return path


def what_is_cut(page: Any, selector: str) -> list[str]:
    """Elements that are seen and lie beyond the sides of the page, or of what they are in."""
    return list(
        page.evaluate(
            """(selector) => [...document.querySelectorAll(selector)].filter((one) => {
                const box = one.getBoundingClientRect();
                return box.width && (box.left < 0 || box.right > innerWidth + 0.5 ||
                    one.scrollWidth > one.clientWidth + 1);
            }).map((one) => one.outerHTML.slice(0, 200))""",
            selector,
        )
    )


@pytest.mark.parametrize("width", [pytest.param(1280, marks=only_in_full), 390])
def test_nothing_is_cut_at_either_width(tmp_path: Path, browser: Any, width: int) -> None:
    hurts = verdict(min_gap=0.5, tolerance=0.5, gap=Estimate(1.0, 0.8, 1.2))
    long = claimed(verdict(), "a.py::test_" + "long_" * 20)
    path = written(
        tmp_path / "report.html", long, claimed(wide(), "a.py::b"), claimed(hurts, "a.py::c")
    )
    page = browser.new_page(viewport={"width": width, "height": 900})
    seen = Seen(page, path)
    opened = page.locator("details.claim[open]")
    assert opened.get_attribute("id") == "claim-2"  # the first failure
    assert opened.locator("svg.circuit").is_visible() == (width == 1280)
    assert opened.locator("div.outline").is_visible() == (width == 390)
    assert page.locator("figure.wide .broad").is_visible() == (width == 1280)
    assert page.locator("figure.wide .narrow").is_visible() == (width == 390)
    assert page.locator("figure.wide svg:visible a").count() == 3
    cut = "td, figure.wide .scroll, figure.wide text, .outline .node, .scroll:has(table)"
    assert what_is_cut(page, cut) == []
    if width == 390:
        assert what_is_cut(page, "#claim-2 .scroll:not(:has(pre))") == []
        label = page.locator("#claim-2 td", has_text="output/head1.11").locator("xpath=../td[6]")
        shown = label.evaluate("one => getComputedStyle(one, '::before').content")
        assert shown == '"gap alone"'
    assert seen.is_narrow_enough()
    assert labels_that_overlap(page) == []
    assert seen.problems == []


@only_in_full
def test_what_is_closed_is_no_part_of_the_page_yet(tmp_path: Path, browser: Any) -> None:
    many = [claimed(wide(), f"a.py::test_{nth}", result="passed") for nth in range(20)]
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    seen = Seen(page, written(tmp_path / "report.html", *many))
    assert page.locator("details.claim section").count() == 13  # of the one that is open
    before = page.locator("*").count()
    page.locator("#claim-7 > summary").click()
    assert page.locator("#claim-7 svg.circuit").is_visible()
    assert page.locator("#claim-7 section").count() == 13
    assert page.locator("*").count() > before + 300
    page.locator("#every").click()
    assert page.locator("details.claim section").count() == 20 * 13
    assert seen.problems == []


@only_in_full
@pytest.mark.parametrize("width", WIDTHS)
def test_five_hundred_claims_open_in_about_a_second(
    tmp_path: Path, browser: Any, width: int
) -> None:
    """Of the processor's time, which other programs take nothing of."""
    many = [claimed(wide(), f"a.py::test_that_nothing_else_matters_{nth}") for nth in range(500)]
    path = written(tmp_path / "report.html", *many)
    page = browser.new_page(viewport={"width": width, "height": 900})
    devtools = page.context.new_cdp_session(page)
    devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    seen = Seen(page, path)
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
    found = devtools.send("Performance.getMetrics")["metrics"]
    seconds = next(one["value"] for one in found if one["name"] == "ThreadTime")
    assert seconds < 2  # one, where nothing else is computed
    assert page.locator("#overview .scroll").bounding_box()["height"] < 900
    assert seen.problems == []


@only_in_full
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_circuit_is_copied_and_saved_as_it_is_seen(
    tmp_path: Path, browser: Any, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, color_scheme=scheme, accept_downloads=True,
        permissions=["clipboard-read", "clipboard-write"],
    )  # fmt: skip
    page = context.new_page()
    path = written(tmp_path / "report.html", claimed(verdict(), "a.py::test_a"),
                   claimed(wide(), f"a.py::{HOSTILE}"))  # fmt: skip
    seen = Seen(page, path)
    claim = page.locator("#claim-2")
    for kind in ("SVG", "PNG"):
        with page.expect_download() as found:
            claim.get_by_role("button", name=f"save {kind}").click()
        assert re.fullmatch(rf"[\w.-]+\.{kind.lower()}", found.value.suggested_filename)
        found.value.save_as(tmp_path / f"circuit.{kind.lower()}")
    saved = (tmp_path / "circuit.svg").read_text(encoding="utf-8")
    texts = [one.text or "" for one in ElementTree.fromstring(saved).iter() if one.text]
    for words in ("▼ held on average, fell to the search", "head1.11", "attention", "k"):
        assert words in texts
    assert "alert" not in saved.partition("<text")[0]
    # by itself it looks as on the page
    boxes = "one => { const style = getComputedStyle(one); return [style.fill, style.stroke]; }"
    own = claim.locator("svg.circuit rect").nth(5).evaluate(boxes)
    alone = context.new_page()
    alone.goto((tmp_path / "circuit.svg").as_uri())
    assert alone.locator("svg svg rect").nth(5).evaluate(boxes) == own
    assert alone.locator("rect").first.evaluate(boxes)[0] == FACE[scheme]
    drawn, wanted = (
        each.evaluate("one => [one.width.baseVal.value, one.height.baseVal.value]")
        for each in (alone.locator("svg").first, claim.locator("svg.circuit"))
    )
    assert drawn[0] > wanted[0]
    assert drawn[1] > wanted[1] + 60
    size = struct.unpack(">2I", (tmp_path / "circuit.png").read_bytes()[16:24])
    assert size == pytest.approx([2 * side for side in drawn], abs=2)
    claim.get_by_role("button", name="copy SVG").click()
    claim.get_by_text("copied", exact=True).wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == saved
    claim.get_by_role("button", name="copy PNG").click()
    page.wait_for_function("""async () => {
        const [item] = await navigator.clipboard.read();
        return item.types.includes("image/png");
    }""")
    assert page.title().startswith("2 claims")
    assert seen.problems == []


@only_in_full
@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_attention_of_both_inputs_is_seen(
    tmp_path: Path, browser: Any, scheme: str, width: int
) -> None:
    images = pytest.importorskip("PIL.Image", reason="Pillow is not installed: nothing is seen")
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    seen = Seen(page, written(tmp_path / "report.html", claimed(refuted(), "a.py::test_it")))
    both = page.locator("svg.attention image").all()
    own, donor = (one.bounding_box() for one in both)
    assert (own["y"] == donor["y"]) == (width == 1280)  # a phone has them below each other
    face = tuple(map(int, re.findall(r"\d+", FACE[scheme])))
    for one, below in zip(both, (face, (232, 89, 12)), strict=True):
        image = images.open(io.BytesIO(one.screenshot())).convert("RGB")
        size = image.width // 3
        # the first two of the diagonal, what is above it, and what is below
        places = [(0, 0), (1, 1), (1, 0), (0, 1)]
        colours = [image.getpixel((size * x + size // 2, size * y + size // 2)) for x, y in places]
        assert colours == [(232, 89, 12), (232, 89, 12), face, below]
    assert labels_that_overlap(page) == []
    assert seen.is_narrow_enough()
    assert seen.problems == []


@only_in_full
@pytest.mark.parametrize("width", WIDTHS)
def test_one_claim_is_a_page_of_its_own(tmp_path: Path, browser: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    seen = Seen(page, written(tmp_path / "report.html", claimed(refuted(), "a.py::test_it")))
    assert page.locator("h1").inner_text() == "test_it"
    circuit = page.locator("svg.circuit").bounding_box()
    assert circuit["y"] + circuit["height"] < 900  # without scrolling
    assert page.locator("#overview").count() == 0
    with page.expect_download() as found:
        page.get_by_role("button", name="save SVG").click()
    saved = Path(found.value.path()).read_text(encoding="utf-8")
    # below what became of it, and its name
    assert re.findall(r"<text[^>]*>([^<]+)", saved)[:2] == [
        "▼ held on average, fell to the search", "test_it",
    ]  # fmt: skip
    page.locator("#theme").click()
    assert seen.is_narrow_enough()
    assert seen.problems == []


def test_without_its_script_the_page_says_the_same(report: Path, browser: Any) -> None:
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(report.as_uri())
    assert page.locator("#overview tbody tr:visible").count() == 4
    assert not page.locator("#theme").is_visible()
    page.locator("details.claim summary").first.click()
    assert page.locator("svg.circuit").first.is_visible()
    assert not page.locator(".take").first.is_visible()
    assert page.get_by_role("heading", name="To run it again").first.is_visible()
