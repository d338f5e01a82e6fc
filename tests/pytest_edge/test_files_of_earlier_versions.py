"""Files that an earlier version wrote, in a run of today: each is read, and says the same."""

from __future__ import annotations

import re
import shutil

import pytest

from pytest_scrub.pytest_edge.options import FOLDER
from tests.pytest_edge.conftest import Suite
from tests.whole.test_saved_files import BASELINE, COUNTEREXAMPLES

# The claims that the files in `tests/saved` are of: one for every shape that a file has.
CLAIMS = r"""
    from hypothesis import strategies as st
    from pytest_scrub import Metric, WhichInputs, WhichNodes, WhichRefinement, squared_error

    @pytest.fixture(scope="session")
    def drawn():
        numbers = st.floats(-8, 8, width=16, allow_nan=False)
        return Dataset.from_strategy(
            numbers, lambda n: {"x": n}, labels=lambda n: n, rows=40,
            features={"positive": lambda batch: batch["x"] > 0}, name="drawn",
        )

    @pytest.fixture(scope="session")
    def doubled():
        return FunctionGraph(X=lambda x: x, output=lambda X: X)

    @pytest.fixture(scope="session")
    def three():
        x = torch.arange(60) % 3 - 1.0 + torch.arange(60) / 1000
        features = {"large": x > -0.5}
        return Dataset({"x": x}, features=features, references=torch.arange(1, 60, 3), name="three")

    @claim(tolerance=0.5, by="b", min_power=0.2, controls=True)
    def test_held():
        return output(module("A", agrees_on="a"))

    @claim(tolerance=0.5)
    def test_refuted():
        return output(module("B", agrees_on="b"))

    @claim(tolerance=0.05, adversaries=[WhichDonors()])
    def test_falls():
        return output(module("A", agrees_on="a"))

    @claim(tolerance=1, samples=20, adversaries=[])
    def test_undecided():
        return output(module("B", agrees_on="b"))

    @claim(tolerance=0.5)
    def test_untested():
        return output(module("A", agrees_on="row"))

    @claim(tolerance=100, min_power=0.9, controls=True)
    def test_weak():
        return output(module("A", agrees_on="a"))

    @claim(tolerance=9, by="a", slice_tolerance=0.5, adversaries=[WhichNodes()])
    def test_slices():
        return output(module("B", agrees_on="b"))

    @claim(
        tolerance=0.3, model="doubled", data="three", adversaries=[WhichNodes(), WhichRefinement()],
        metric=Metric("signed", lambda out, batch: out, lower=-2, upper=2),
    )
    def test_refined():
        return output(module("X", agrees_on=ANYTHING))

    @claim(
        tolerance=30, model="doubled", data="drawn", metric=squared_error(),
        adversaries=[WhichInputs()],
    )
    def test_fresh():
        return output(module("X", agrees_on="positive"))

    @pytest.mark.parametrize("way", ["../up", "a b", "\u202e\u00e4"])
    @claim(tolerance=0.5, metric=Metric("loss\ud800\x1b \u202e<&", lambda out, batch:
        torch.nn.functional.cross_entropy(out, batch.labels, reduction="none")))
    def test_named(way):
        return output(module("A", agrees_on="a"))

    @claim(tolerance=0.5)
    def test_misstated():
        return output(module("C", agrees_on="a"))
"""


@pytest.fixture
def suite_of_then(suite: Suite) -> Suite:
    suite.write(CLAIMS)
    shutil.copytree(BASELINE, suite.pytester.path / FOLDER / "baselines" / "main")
    return suite


def test_figures_are_what_they_were(suite_of_then: Suite) -> None:
    """Every claim's, searched and drawn, but for those whose searches take long.

    How much is spent on a search is not what it was: what was found is not compared.
    """
    ran = suite_of_then.run(
        "--scrub-compare", "--scrub-compare-fail=all:0", "-k",
        "undecided or untested or slices or refined or falls",
        adversary=None,
    )  # fmt: skip
    said = ran.text.partition("compared with the baseline")[2]
    assert "5 claims compared: no outcome changed, and no figure that gates moved" in said, ran.text
    gaps = re.findall(r"^ +gap .*  (\S+)$", said, re.MULTILINE)
    assert gaps == ["unchanged"] * 4, said
    assert said.count("not compared: another search") == 3, said


def test_counterexamples_still_break_their_claims(suite_of_then: Suite) -> None:
    for file in COUNTEREXAMPLES:
        ran = suite_of_then.run(f"--scrub-replay={file}", adversary=None)
        assert ran.outcomes["failed"] == 1
        assert "the saved counterexample still breaks the claim: gap " in ran.text, file
        now, then = re.search(r"claim: gap (\S+) \(saved (\S+)\)", ran.text).groups()  # type: ignore[union-attr]
        assert now == then
