"""The page of a run: every part where there is something to show, and nothing of what data say is
ever markup."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from pytest_scrub.common.visible import visible_lines
from pytest_scrub.extras.html import page as html
from pytest_scrub.extras.html.page import fragment, page
from pytest_scrub.verdict import Estimate, Verdict
from tests.example_verdicts import (
    TWO,
    claimed,
    node,
    refuted,
    run,
    search,
    slot,
    verdict,
    whole,
)

HOSTILE = (
    "<script>alert(1)</script>", "</title></style></script><img src=x onerror=alert(1)>",
    "'\" onclick='alert(1)'",
    "\x1b[31mred\x1b[0m", "\u202egnp.exe\u2066", "one\r\nline", "$x$ \\frac{1}{2} $",
    "&lt;b&gt; &amp;", "日本語 אב",
    "{{ 7 * 7 }} {% raw %}", "nul \x00", "half \ud83d of a pair",
)  # fmt: skip
INLINE = {"wbr", "span", "b", "i", "a", "code", "del", "ins"}
VOID = {"meta", "link", "br", "wbr", "input", "img"}


class Parsed(HTMLParser):
    """The elements of a page, and the text in each."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.texts.append("" if tag in INLINE else " ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.texts.append(data)

    @property
    def ids(self) -> list[str | None]:
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def sections(self) -> list[str | None]:
        return [
            attributes.get("aria-label") for tag, attributes in self.elements if tag == "section"
        ]


def shown(found: Verdict) -> Parsed:
    return Parsed(page(run(claimed(found))))


def everywhere(hostile: str) -> Verdict:
    """A verdict that says one text wherever it says anything of what data or people call things."""

    def said(value: Any) -> Any:
        if isinstance(value, str):
            return hostile
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            return tuple(said(one) for one in value)
        if hasattr(value, "__dataclass_fields__"):
            kept = ("outcome", "average", "direction", "worse", "path", "parent", "slot")
            return replace(
                value,
                **{
                    name: said(getattr(value, name))
                    for name in value.__dataclass_fields__
                    if name not in kept
                },
            )
        return value

    found = whole()
    hostile_circuit = replace(
        TWO, nodes=tuple(said(replace(one, into="q", positions="x")) for one in TWO.nodes)
    )
    return replace(
        said(replace(found, recovered=None, recovered_reason="x")), circuit=hostile_circuit
    )


@pytest.mark.parametrize("hostile", HOSTILE, ids=ascii)
def test_what_data_say_is_text(hostile: str) -> None:
    """The page has the same elements, with the same attributes, as one that says `x` everywhere."""
    pages = []
    for said in ("x", hostile):
        one = replace(claimed(everywhere(said), f"t.py::{said}"), file=said)
        other = claimed(None, f"u.py::{said}", message=said)
        text = page(run(one, other, options=(f"--scrub-{said}",), versions={said: said}))
        pages.append(Parsed(text))
    tame, found = pages
    for what in (tags, attribute_names):
        assert what(found) == what(tame)
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert not any(name.startswith("on") for name in attribute_names(found))
    assert " ".join(visible_lines(hostile).split()) in found.text
    assert not re.search(
        r"[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", text
    )


def tags(found: Parsed) -> set[str]:
    return {tag for tag, _ in found.elements}


def attribute_names(found: Parsed) -> set[str]:
    return {name for _, attributes in found.elements for name in attributes}


def test_the_page_loads_nothing_and_runs_only_its_own_script() -> None:
    text = page(run(claimed(whole())))
    found = Parsed(text)
    for tag, attributes in found.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            inside = ("#", "data:,", "data:image/png;base64,")
            assert (attributes.get(name) or "#").startswith(inside), (tag, attributes)
        assert "url(http" not in (attributes.get("style") or "")
    assert not re.search(r"@import|url\((?!#)", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = (facts["content"] for tag, facts in found.elements if facts.get("http-equiv"))
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}';" in policy
    assert "script-src 'unsafe-inline'" not in policy


def test_every_id_is_there_once() -> None:
    found = Parsed(
        page(
            run(claimed(whole(), "a.py::a"), claimed(whole(), "a.py::b"), claimed(None, "a.py::c"))
        )
    )
    ids = found.ids
    assert len(ids) == len(set(ids))
    used = [
        attributes["href"][1:]
        for tag, attributes in found.elements
        if attributes.get("href", "").startswith("#")
    ]
    assert used
    assert set(used) <= set(ids)
    assert not Parsed(fragment(whole())).ids  # of two pieces in a notebook


def test_the_same_run_is_the_same_page() -> None:
    one = run(claimed(whole()), claimed(None, "b.py::b"))
    assert page(one) == page(one)


def test_a_fragment_has_its_style_and_no_script() -> None:
    found = Parsed(fragment(whole()))
    tags = [tag for tag, _ in found.elements]
    assert tags[0] == "div"
    assert tags.count("style") == 1
    assert not {"script", "html", "body", "link", "meta"} & set(tags)
    (style,) = re.findall(r"<style>(.*?)</style>", fragment(whole()), re.DOTALL)
    selectors = [
        one.strip() for rule in re.findall(r"([^{}]+)\{", style) for one in rule.split(",")
    ]
    # as specific as an id, so that a notebook's own style of tables and lists stays out
    assert all(".scrub:not(#_)" in one for one in selectors if not one.startswith("@"))
    assert (
        "claim held on average, fell to the search: 0.9 [?, ?] of 0.5, found by which donors"
        in found.text
    )


def with_pictures(uri: str | None) -> Verdict:
    found = search()
    assert found.counterexample is not None
    (swap,) = found.counterexample.swaps
    swap = replace(swap, own_picture=uri, donor_picture=uri)
    seen = replace(found.counterexample, picture=uri, swaps=(swap,))
    return refuted(search=replace(found, counterexample=seen))


def test_images_of_a_counterexample_are_drawn() -> None:
    uri = "data:image/png;base64,iVBORw0KGgo="
    found = Parsed(fragment(with_pictures(uri)))
    assert [facts for tag, facts in found.elements if tag == "img"] == [
        {"src": uri, "alt": told}
        for told in ("reference: the cat sat", "own: the cat sat", "donor: the dog sat")
    ]
    assert "What differs is underlined" not in found.text
    assert "img" not in tags(Parsed(fragment(with_pictures(None))))


@pytest.mark.parametrize("uri", ["https://example.org/x.png", "javascript:alert(1)", "x", *HOSTILE])
def test_only_images_that_are_in_the_verdict_are_drawn(uri: str) -> None:
    """A verdict from a file may hold anything, and a notebook has no policy."""
    for text in (fragment(with_pictures(uri)), page(run(claimed(with_pictures(uri))))):
        found = Parsed(text)
        assert "img" not in tags(found)
        assert not any(name.startswith("on") for name in attribute_names(found))
        assert "donor: the dog sat" in found.text


def test_attention_and_outputs_of_both_inputs_stand_beside_each_other() -> None:
    text = fragment(refuted())
    found = Parsed(text)
    pictures = [facts["href"] for tag, facts in found.elements if tag == "image"]
    counterexample = search().counterexample
    assert counterexample is not None
    (looks,) = counterexample.swaps[0].attention
    assert pictures == [looks.own, looks.donor]
    drawn = "".join(re.findall(r'<svg class="attention".*?</svg>', text, re.DOTALL))
    labels = re.findall(r'<text text-anchor="end" x=[^>]*>([^<]*)</text>', drawn)
    assert labels == ["the", "cat", "sat", "the", "dog", "sat"]
    assert "attention of head2.1 own input" in found.text
    assert "largest outputs, untouched own input 1 (2.5) donor 7 (3.5) 0 (1)" in found.text


@pytest.mark.parametrize("uri", ["https://example.org/x.png", "data:image/png;base64,", *HOSTILE])
def test_only_attention_that_is_in_the_verdict_is_drawn(uri: str) -> None:
    found = search()
    assert found.counterexample is not None
    (swap,) = found.counterexample.swaps
    looks = replace(swap.attention[0], own=uri, donor=uri)
    seen = replace(found.counterexample, swaps=(replace(swap, attention=(looks,)),))
    for text in (
        fragment(refuted(search=replace(found, counterexample=seen))),
        page(run(claimed(refuted(search=replace(found, counterexample=seen))))),
    ):
        assert "image" not in tags(Parsed(text))


ALWAYS = ["the circuit", "figures", "plots", "nodes", "the hypothesis", "what was measured"]
SEARCHED = [*ALWAYS[:4], "adversaries", *ALWAYS[4:]]


@pytest.mark.parametrize(
    ("found", "sections"),
    [
        (verdict(), ALWAYS),
        (refuted(search=search(counterexample=None, mends=())), SEARCHED),
        (
            refuted(),
            [*ALWAYS[:4], "adversaries", "counterexample", "what would mend it", *ALWAYS[4:]],
        ),
        (
            whole(),
            [
                *ALWAYS[:4],
                "adversaries",
                "counterexample",
                "what would mend it",
                "slices",
                "power",
                "controls",
                *ALWAYS[4:],
            ],
        ),
    ],
)
def test_a_part_is_there_where_there_is_something_to_show(
    found: Verdict, sections: list[str]
) -> None:
    assert sorted(Parsed(fragment(found)).sections, key=str) == sorted(sections)
    alone = [*sections, "to run it again"]
    assert shown(found).sections == alone
    both = page(run(claimed(found, "a.py::a"), claimed(found, "a.py::b")))
    assert Parsed(both).sections == ["gaps", "all claims", "each claim", *alone, *alone]


def test_a_page_of_one_claim_is_about_that_claim() -> None:
    text = page(run(claimed(refuted(), "a.py::test_it")))
    found = Parsed(text)
    assert not {"table", "details", "noscript"} & {
        tag for tag, facts in found.elements if "cards" not in (facts.get("class") or "")
    }
    assert "<title>held on average, fell to the search: a.py::test_it</title>" in text
    assert re.search(r'<h1 class="text">test_<wbr>it</h1>', text)
    assert "First failure" not in found.text
    expected = Parsed(page(run(claimed(refuted(), result="xfailed", is_expected=True))))
    assert "▼ held on average, fell to the search (xfailed as expected)" in expected.text
    nothing = Parsed(page(run(claimed(None, "a.py::test_it"))))
    assert "No verdict: Misstated: there is no component 'C'" in nothing.text


@pytest.mark.parametrize(
    ("results", "opened", "first"),
    [
        (("passed", "xfailed", "failed", "failed"), "claim-3", True),
        (("passed", "error"), "claim-2", True),
        (("xfailed", "skipped"), "claim-1", False),
    ],
)
def test_the_first_failure_is_open_or_else_the_first_claim(
    results: tuple[str, ...], opened: str, first: bool
) -> None:
    claims = [
        claimed(verdict(), f"a.py::test_{nth}", result=result) for nth, result in enumerate(results)
    ]
    found = Parsed(page(run(*claims)))
    details = [facts for tag, facts in found.elements if facts.get("class") == "claim"]
    assert [facts["id"] for facts in details if "open" in facts] == [opened]
    # all others are one text for browsers with a script
    assert tags_of(found).count("noscript") == len(results) - 1
    assert ("First failure: test_" in found.text) == first


def tags_of(found: Parsed) -> list[str]:
    return [tag for tag, _ in found.elements]


def test_cells_say_which_column_they_are_in() -> None:
    """Which a narrow page shows in place of the table's head."""
    found = Parsed(page(run(claimed(whole(), "a.py::a"), claimed(None, "a.py::b"))))
    columns: list[str] = []
    for tag, facts in found.elements:
        if tag == "td":
            assert facts.get("data-label"), facts
            columns.append(facts["data-label"] or "")
    assert columns[:10] == [
        "outcome", "claim", "gap on average", "tolerance", "gap / tolerance", "recovered",
        "worst found", "power", "pytest", "seconds",
    ]  # fmt: skip
    assert columns[20:27] == [
        "node", "agrees on", "donors (min/median/max)", "references with another donor", "swapped",
        "gap alone", "tested",
    ]  # fmt: skip
    assert {"adversary", "addition", "last", "false claim", "control"} <= set(columns)


def test_a_wide_circuit_is_also_an_outline() -> None:
    children = [node(f"output/A{nth}", 0) for nth in range(5)]
    circuit = replace(TWO, nodes=(TWO.nodes[0], *children, node("output/A0/<i>", 0, into="k")))
    text = fragment(verdict(circuit=circuit))
    outline = Parsed(text[text.index('<div class="outline">') : text.index("Information flows")])
    for words in ("A4 · agrees on a", "A, into k <i> · agrees on a", "rest agrees on ANYTHING"):
        assert words in outline.text
    # one for each parent
    assert [tag for tag, _ in outline.elements].count("ul") == 3
    assert "outline" not in [
        facts.get("class") for _, facts in Parsed(fragment(verdict())).elements
    ]


def test_figures_are_those_of_the_terminal() -> None:
    text = shown(whole(gap=Estimate(0.0123456, -0.0234567, 0.0456789))).text
    for words in (
        "0.01235 [-0.02346, 0.04568]", "unscrubbed cross-entropy 0.125", "99.0% of the way",
        "mean absolute change 0.03", "samples that got worse 40.0%", "400 of at most 4000",
        "95% of them stay within 0.1234, and 98% within the tolerance",
        "95 % asymptotic confidence "
        "sequence", "on average alone held", "0123abcd", "4567cdef", "seed 7",
        "pytest test_it.py::test_it "
        "--scrub-seed=7", "python 3.12.0, torch 2.13.0", "test_it.py:3", "3/7/9",
        "pytest --scrub-replay '.scrub/one file.json'", "output/A agrees also on b 0.25 on average",
        "1 of 2 are refuted (50%, 80% asked for); 1 equivalent ones left out, 2 more not judged",
        "the values of a do not matter", "weights shuffled ✖ refuted "
                                         "0.75", "not judged", "it has none",
        "x 0.3 [0.2, 0.4] 200 30 ● held", "y not drawn 0 1 ◆ undecided", "Each has to stay within "
                                                                         "0.6",
        "Note: a note beside it", "not searched", "900 + 12 forward passes", "2026-01-02T03:04:05",
    ):  # fmt: skip
        assert words in text, words
    assert "confirmed" not in text


def test_an_outcome_is_always_a_word_and_colour_never_alone() -> None:
    for tag, attributes in (parsed := shown(whole())).elements:
        if tag == "span" and "outcome" in (attributes.get("class") or "").split():
            assert len((attributes["class"] or "").split()) == 2
    for word in ("refuted", "held", "undecided"):
        assert html.SIGNS[word] in parsed.text


@pytest.mark.parametrize("outcome", ["untested", "undecided"])
def test_what_did_not_decide_says_what_to_change(outcome: str) -> None:
    nodes = (
        slot("output/rest"),
        slot("output/A", with_other=0.01, is_tested=False, wanting=("a=3", "a=4")),
    )
    text = shown(verdict(outcome=outcome, average=outcome, nodes=nodes)).text
    assert ("add rows that share a but differ elsewhere" in text) == (outcome == "untested")
    assert ("the interval straddles the tolerance; draw more" in text) == (outcome == "undecided")
    assert "nothing else has a=3; a=4" in text


def test_claims_without_a_verdict_are_listed_with_their_message() -> None:
    text = page(
        run(
            claimed(verdict()),
            claimed(None, "b.py::b"),
            claimed(None, "b.py::c", result="skipped", message=None),
        )
    )
    found = Parsed(text)
    # in the table, and where its link leads
    assert found.text.count("Misstated: there is no component 'C'") == 2
    assert "No verdict: the claim was not checked" in found.text
    rows = [facts for tag, facts in found.elements if tag == "tr" and "data-outcome" in facts]
    assert [row["data-outcome"] for row in rows] == ["held", "failed", "skipped"]
    assert {row["data-claim"] for row in rows} == {
        facts["id"] for tag, facts in found.elements if facts.get("class") == "claim"
    }
    assert "1● held 1· skipped" in found.text


def test_a_run_without_claims_says_so() -> None:
    found = Parsed(page(run()))
    assert "There were no claims in this run" in found.text
    assert not any(tag in {"table", "svg", "details"} for tag, _ in found.elements)


@pytest.mark.parametrize("interrupted", [False, True])
def test_an_interrupted_run_says_so(interrupted: bool) -> None:
    assert (
        "This run was interrupted"
        in Parsed(page(run(claimed(verdict()), interrupted=interrupted))).text
    ) is interrupted


def test_a_page_of_many_claims_is_small() -> None:
    many = [claimed(whole(), f"a.py::test_{i}") for i in range(8)]
    assert len(page(run(*many)).encode()) < 8 * 40_000


def test_names_that_nobody_can_break_may_be_broken() -> None:
    text = page(run(claimed(verdict()), claimed(verdict())))
    assert "test_<wbr>it.py:<wbr>:<wbr>test_<wbr>it" in text


def test_the_circuit_is_drawn_with_what_the_legend_needs() -> None:
    plain = Parsed(fragment(verdict()))
    assert "(q, k, v)" not in plain.text
    assert "dashed" not in plain.text
    nodes = (
        node("output", 1, agrees_on=None, rest="ANYTHING"),
        node("output/A[k]", 0, into="k", along_every_path=True, is_computed=True),
    )
    found = Parsed(fragment(verdict(circuit=replace(TWO, nodes=nodes))))
    classes = [attributes.get("class") for _, attributes in found.elements]
    assert "edge every" in classes
    assert "box computed" in classes
    assert "slot" in classes
    for words in (
        "(q, k, v)",
        "A dashed arrow is read along every path",
        "A dashed box stands for a function",
    ):
        assert words in found.text
