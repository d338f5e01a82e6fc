"""`--scrub-replay`: the claim decides whether a counterexample breaks it, and not what the file
says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.pytest_edge.conftest import Suite

CLAIM = """
@claim({})
def test_it():
    return output(module("A", agrees_on="a"))
"""


def saved(suite: Suite, options: str) -> Path:
    """The counterexample of a claim that falls to the adversary."""
    suite.write(CLAIM.format(options))
    suite.run("--scrub-adversary=quick").result.assert_outcomes(failed=1)
    (file,) = (suite.pytester.path / ".scrub").glob("*.json")
    return file


@pytest.mark.parametrize("tolerance", [0.0, 5.0, 1e308])
def test_a_tolerance_in_the_file_decides_nothing(suite: Suite, tolerance: float) -> None:
    file = saved(suite, "tolerance=0.05")
    record = json.loads(file.read_text())
    record["tolerance"] = tolerance
    record["minimal"]["gap"] = record["worst"]["gap"] = 0.0
    file.write_text(json.dumps(record))
    ran = suite.run(f"--scrub-replay={file}")
    ran.result.assert_outcomes(failed=1)
    assert "still breaks the claim: gap 0." in ran.reports["test_it"]
    assert f"tolerance 0.05 (saved {tolerance:.4g})" in ran.reports["test_it"]


LOWER = """
from pytest_scrub import Metric
cross_entropy = torch.nn.functional.cross_entropy
LOWER = Metric("loss", lambda out, batch: cross_entropy(out, batch.labels, reduction="none"),
               worse="lower")
"""


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ("tolerance=5.0", "5"),
        ("tolerance=0.05, adversarial_tolerance=3.0", "3"),
        ("min_recovered=-5", ""),
        # by which a higher loss is no objection
        ("tolerance=0.05, direction='worse', metric=LOWER", "0.05"),
    ],
)
def test_what_the_claim_accepts_by_now_decides(suite: Suite, options: str, tolerance: str) -> None:
    file = saved(suite, "tolerance=0.05")
    suite.write(LOWER + CLAIM.format(options))
    ran = suite.run(f"--scrub-replay={file}")
    ran.result.assert_outcomes(passed=1, warnings=1)
    ran.result.stdout.fnmatch_lines(
        [
            f"*no longer breaks the claim: gap*tolerance {tolerance}*",
            "*nothing else of the claim was checked; run it without --scrub-replay",
        ]
    )


def test_a_share_of_the_null_is_accepted_as_the_claim_accepts_it(suite: Suite) -> None:
    file = saved(suite, "tolerance=0.05")
    suite.write(CLAIM.format("min_explained=0.5"))
    ran = suite.run(f"--scrub-replay={file}")
    said = ran.reports.get("test_it") or ran.result.stdout.str()
    (tolerance,) = re.findall(r"tolerance (\S+) \(saved", said)
    assert float(tolerance) > 0


def test_a_claim_that_swaps_hurt_is_broken_by_none_that_does(suite: Suite) -> None:
    file = saved(suite, "tolerance=0.05")
    suite.write(CLAIM.format("min_gap=1e9"))
    ran = suite.run(f"--scrub-replay={file}")
    ran.result.assert_outcomes(failed=1)
    assert "Misstated: the claim has changed since: by min_gap=" in ran.result.stdout.str()


def test_what_refuted_the_average_is_not_judged_as_a_find(suite: Suite) -> None:
    suite.write(CLAIM.format("tolerance=0.01, adversarial_tolerance=50.0").replace('"a"', '"b"'))
    suite.run("--scrub-adversary=quick").result.assert_outcomes(failed=1)
    (file,) = (suite.pytester.path / ".scrub").glob("*.json")
    assert json.loads(file.read_text())["minimal"]["adversary"] == "the claim's own draws"
    ran = suite.run(f"--scrub-replay={file}")
    ran.result.assert_outcomes(failed=1)
    assert "tolerance 0.01" in ran.reports["test_it"]


def test_a_slice_and_a_share_decide_too(suite: Suite) -> None:
    file = saved(suite, "tolerance=0.05")
    for options in ("tolerance=5.0, by='a', slice_tolerance=0.05", "min_recovered=0.95"):
        suite.write(CLAIM.format(options))
        suite.run(f"--scrub-replay={file}").result.assert_outcomes(failed=1)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('"tolerance": 0.05', '"tolerance": -1', "its tolerance is -1, less than none"),
        (
            '"tolerance": 0.05',
            f'"tolerance": 1{"0" * 400}',
            "Expected `float`, got `NoNumber` - at `$.tolerance`",
        ),
        (
            '"tolerance": 0.05',
            '"tolerance": NaN',
            "Expected `float`, got `NoNumber` - at `$.tolerance`",
        ),
        (
            '"tolerance": 0.05',
            '"tolerance": 0.05, "tolerance": 1e308',
            "'tolerance' stands there twice",
        ),
        (
            '"pointwise": true',
            '"pointwise": 1',
            "Expected `bool | null`, got `int` - at `$.*.pointwise`",
        ),
    ],
)
def test_figures_that_are_none_are_damage(suite: Suite, old: str, new: str, why: Any) -> None:
    file = saved(suite, "tolerance=0.05")
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    ran = suite.run(f"--scrub-replay={file}")
    assert ran.result.ret == pytest.ExitCode.USAGE_ERROR
    ran.result.stderr.fnmatch_lines(
        [f"*--scrub-replay: the saved counterexample * is damaged*{why}*"]
    )
