"""Claims with few swaps in a run: what the terminal, the files and baselines say of exact gaps."""

from __future__ import annotations

import json
import re

import pytest

from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

# 8 rows: 8 * 4 swap sets of the claim, and 70 times as many of its null
CLAIMS = """
    from pytest_scrub import Metric

    @pytest.fixture(scope="module")
    def scrub_data():
        return rows(8)

    def off(out, batch):
        clean = 2 * batch.inputs["a"] - 1 + batch.inputs["b"] / 8
        return (out[:, 1] - clean).abs()

    away = Metric("away", off)

    @claim(tolerance=0.4, metric=away)
    def test_exact():
        return output(module("B", agrees_on="a"), module("A", agrees_on="a"), rest=EXACT)

    @claim(tolerance=0.001, metric=away)
    def test_refuted():
        return output(module("B", agrees_on="a"), rest=EXACT)

    @claim(tolerance=0.5, metric=away, samples=200)
    def test_drawn():
        return output(module("A", agrees_on="a"))
"""


def test_the_terminal_and_the_files_say_exact(suite: Suite) -> None:
    suite.write(CLAIMS)
    ran = suite.run(
        "--scrub-samples=1000", "--scrub-json=run.json", "--scrub-html=run.html", "-v",
        "--scrub-mutate", "--scrub-controls",
    )  # fmt: skip
    exact, refuted = ran.verdicts["test_exact"], ran.verdicts["test_refuted"]
    assert exact.gap.exact
    assert refuted.gap.exact
    assert (refuted.outcome, exact.average) == ("refuted", "held")
    assert not ran.verdicts["test_drawn"].gap.exact
    (line,) = [line for line in ran.summary if "test_refuted" in line]
    assert f"{refuted.gap.mean:.3g} (exact)" in line
    assert f"FAILED refuted {refuted.gap.mean:.3g} (exact) of 0.001" in ran.text
    assert f"gap {refuted.gap.mean:.4g} (exact) in away, tolerance 0.001" in ran.text
    assert "all 32 swap sets, seed 0; exact: every allowed swap set" in ran.text
    written = json.loads((suite.pytester.path / "run.json").read_text())["claims"]
    of = {one["test"].partition("::")[2]: one["verdict"]["gap"]["exact"] for one in written}
    assert of == {"test_exact": True, "test_refuted": True, "test_drawn": False}
    page = (suite.pytester.path / "run.html").read_text()
    assert f"<b>{refuted.gap}</b>" in page
    assert "all 32 swap sets" in page
    assert "Gap: exact: every allowed swap set" in page


@pytest.mark.parametrize("samples", [1000, 31])
def test_a_baseline_of_exact_gaps_is_compared(suite: Suite, samples: int) -> None:
    """Also with one whose gap has an interval."""
    suite.write(CLAIMS)
    saved = suite.run("--scrub-samples=1000", "--scrub-save", "-k", "exact")
    assert saved.verdicts["test_exact"].gap.exact
    ran = suite.run(f"--scrub-samples={samples}", "--scrub-compare", "-k", "exact")
    assert "compared with the baseline main" in ran.text
    assert "no part of a baseline" not in ran.text
    assert not re.search(r"  moved(?! by)", ran.text)  # as the verdict of a figure


@only_in_full
def test_workers_find_the_same(suite: Suite) -> None:
    suite.write(CLAIMS)
    one, other = (
        suite.run("--scrub-samples=1000", *options, alone=bool(options))
        for options in ((), ("-n", "2"))
    )
    assert one.verdicts == other.verdicts
