"""Baselines on disk: what a file holds, how it is rounded, and what is no such file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_scrub.common.whole_files import write_file
from pytest_scrub.extras.baselines.files import Baseline, BaselineError, Figures, load, texts
from pytest_scrub.verdict import Estimate, Null, Verdict
from tests.example_verdicts import attempt, claimed, refuted, run, search, verdict, whole


def save(folder: Path, *verdicts: Verdict) -> dict[str, str]:
    found = texts(
        run(
            *(claimed(one, one.claim) for one in verdicts),
            claimed(None, "test_it.py::test_misstated"),
        )
    )
    for name, text in found.items():
        write_file(folder / name, text)
    return found


@pytest.mark.parametrize(
    "one", [verdict(), refuted(), whole(), verdict(recovered=None, recovered_reason="none")]
)
def test_what_is_saved_is_what_is_loaded(tmp_path: Path, one: Verdict) -> None:
    (text,) = save(tmp_path, one).values()
    assert load(tmp_path) == {one.claim: Baseline.of(one, {"python": "3.12.0", "torch": "2.13.0"})}
    assert load(tmp_path)[one.claim].to_json() == text
    record = json.loads(text)
    assert list(record) == sorted(record)
    assert list(record["figures"]) == sorted(record["figures"])


def test_an_end_of_an_interval_that_is_not_known(tmp_path: Path) -> None:
    one = verdict(
        gap=Estimate(0.5, -math.inf, math.inf), unscrubbed=0.5, scrubbed=1.0, average="undecided"
    )
    (text,) = save(tmp_path, one).values()
    assert json.loads(text)["figures"]["gap"] == {"mean": 0.5, "low": None, "high": None}
    assert load(tmp_path)[one.claim].figures.gap == one.gap


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("tolerance", -1.0, "its tolerance is -1, less than none"),
        ("tolerance", 10**400, "got `NoNumber` - at `$.tolerance`"),
        ("samples", 1, "its figures are of 1 samples"),
        ("samples", 10**400, "got `NoNumber` - at `$.samples`"),
        ("figures.gap.mean", 1e308, "lies outside its interval"),
        ("figures.gap.low", -1e308, "cannot have held a tolerance of"),
        ("figures.gap.low", None, "cannot have held a tolerance of"),
        ("figures.gap.high", 1e308, "cannot have held a tolerance of"),
        ("figures.gap.low", 1.0, "lies outside its interval"),
        ("figures.unscrubbed", 1e308, "is not scrubbed minus unscrubbed metric"),
        ("figures.power.refuted", 10**6, "its power is 1000000/"),
        ("figures.worst.interval.low", 1e308, "its worst 0.9 [1e+308, 1] lies outside"),
        ("figures.null.gap.high", -1e308, "the gap of its null 2 [1.5, -1e+308] lies outside"),
        ("confidence", 1.0, "the confidence of its intervals is 1"),
        ("confidence", 0.0, "the confidence of its intervals is 0"),
        ("figures.power.refuted", -1, "its power is -1/"),
    ],
)
def test_figures_that_would_let_everything_pass(
    tmp_path: Path, path: str, value: Any, why: str
) -> None:
    null = Null("features permuted", Estimate(2.0, 1.5, 2.5), 2.0, 400, "refuted")
    found = search(attempts=(attempt(interval=Estimate(0.9, 0.8, 1.0)),))
    (name,) = save(tmp_path, whole(null=null, search=found))
    record = json.loads((tmp_path / name).read_text())
    *parts, last = path.split(".")
    inner = record
    for part in parts:
        inner = inner[part]
    inner[last] = value
    (tmp_path / name).write_text(json.dumps(record))
    with pytest.raises(BaselineError, match=re.escape(why)):
        load(tmp_path)


def test_what_stands_there_twice(tmp_path: Path) -> None:
    (name,) = save(tmp_path, whole())
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(text.replace('"tolerance":', '"tolerance": 1e308, "tolerance":'))
    with pytest.raises(BaselineError, match="'tolerance' stands there twice"):
        load(tmp_path)


def test_the_platform_and_the_clock_change_no_byte() -> None:
    one = run(claimed(whole()), versions={"python": "3.12.0", "platform": "Linux 1"})
    other = replace(
        one, versions={"python": "3.12.0", "platform": "Linux 2"}, started="later", seconds=99.0
    )
    assert texts(one) == texts(other)


def test_digits_that_a_network_does_not_have_are_not_kept() -> None:
    """A small difference of large numbers has fewer."""
    one = verdict(
        unscrubbed=123.456789, scrubbed=123.461234, gap=Estimate(0.00444412345, -0.001234, 0.01)
    )
    kept = Baseline.of(one, {}).figures
    assert (kept.unscrubbed, kept.scrubbed) == (123.457, 123.461)
    assert (kept.gap.mean, kept.gap.low) == (0.004, -0.001)
    small = Baseline.of(
        verdict(unscrubbed=0.0, scrubbed=1.23456789e-9, gap=Estimate(1.23456789e-9, -0.0, 1.0)), {}
    )
    assert small.figures.gap == Estimate(1.23457e-9, 0.0, 1.0)
    assert "-0.0" not in small.to_json()


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_figures_that_differ_in_the_seventh_digit_are_kept_alike(
    gap: float, unscrubbed: float
) -> None:
    def kept(way: float) -> Figures:
        facts = {"unscrubbed": unscrubbed * way, "scrubbed": (unscrubbed + gap) * way}
        return Baseline.of(
            verdict(gap=Estimate(gap * way, gap * way, gap * way), **facts), {}
        ).figures

    one, other = kept(1.0), kept(1 + 1e-8)
    assert abs(one.gap.mean - other.gap.mean) <= max(one.last_digit, other.last_digit) * 1.0001
    assert abs(one.gap.mean - gap) <= one.last_digit * 0.5001


def test_claims_of_every_name_have_files_of_their_own(tmp_path: Path) -> None:
    names = [
        "a.py::b",
        "a.py::B",
        "a.py::b[../../up]",
        "a.py::\u202e\ud800\x1b",
        "a.py::" + "x" * 300,
        "a.py::ä",
    ]
    found = save(tmp_path, *(verdict(claim=name) for name in names))
    assert len(found) == len(names)
    assert all("/" not in name and len(name) < 200 for name in found)
    assert load(tmp_path).keys() == set(names)
    assert all(c.isprintable() or c == "\n" for text in found.values() for c in text)


def altered(text: str, path: str, value: Any) -> str:
    record = json.loads(text)
    *way, last = path.split(".")
    part = record
    for name in way:
        part = part[name]
    part[last] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("claim", 3), ("outcome", None), ("hypothesis", "output"), ("hypothesis", [1]),
        ("samples", 1.5), ("seed", "0"),
        ("tolerance", True), ("tolerance", math.nan), ("tolerance", math.inf), ("versions", []),
        ("versions", {"a": 1}),
        ("figures", {}), ("figures.gap", 0.5), ("figures.gap.mean", None),
        ("figures.gap.mean", "1"),
        ("figures.gap.mean", math.inf), ("figures.more", 1), ("figures.worst.tried", None),
        ("figures.worst.late", 0),
        ("figures.power.of", -0.5), ("schema_version", 2), ("schema_version", None),
        ("schema_version", "1"),
    ],
)  # fmt: skip
def test_a_value_that_does_not_belong_there(tmp_path: Path, path: str, value: Any) -> None:
    ((name, text),) = save(tmp_path / "kept", whole()).items()
    (tmp_path / "kept" / name).write_text(altered(text, path, value))
    with pytest.raises(BaselineError) as raised:
        load(tmp_path / "kept")
    assert name in str(raised.value)
    assert "--scrub-save=kept" in str(raised.value)
    assert path.rpartition(".")[2].removesuffix("_version") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content", [b"", b"null", b"\xff\xfe", b"{", b"[" * 100_000, b'{"schema_version": 1}']
)
def test_what_is_no_baseline(tmp_path: Path, content: bytes) -> None:
    save(tmp_path, verdict())
    (tmp_path / "zzz.json").write_bytes(content)
    with pytest.raises(
        BaselineError,
        match=r"zzz\.json is no part of a baseline \(.*\); restore it, or delete it and",
    ):
        load(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "odd.json").mkdir()
    with pytest.raises(BaselineError, match="cannot be read"):
        load(tmp_path)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    save(tmp_path, verdict())
    (tmp_path / "README.md").write_text("what this is")
    assert len(load(tmp_path)) == 1
