"""A verdict is a record of plain values, which travels as JSON and comes back the same."""

from __future__ import annotations

import json
import math
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from pytest_scrub.statistics.acceptance import (
    NO_NODE,
)
from pytest_scrub.tree.nodes import module, output
from pytest_scrub.verdict import (
    HELD,
    REFUTED,
    Estimate,
    Verdict,
)
from tests.statistics.test_acceptance import TESTED, verdict_on

VERDICT = verdict_on(
    output(module("A", agrees_on="b"), module("b", agrees_on="b")), tolerance=0.1, samples=100
)


def test_a_verdict_travels_as_json() -> None:
    assert VERDICT.outcome == REFUTED  # so that the gaps of single nodes travel too
    assert VERDICT.nodes[0].alone is not None
    text = VERDICT.to_json()
    assert "\n" not in text
    assert Verdict.from_json(text) == VERDICT
    without = replace(VERDICT, recovered=None, recovered_reason="why", nodes=(TESTED, NO_NODE))
    assert Verdict.from_json(without.to_json()) == without


def test_a_verdict_is_made_of_plain_values() -> None:
    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(part) for key, part in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or type(value) in (bool, int, float, str)

    parts = ("gap", "nodes", "share", "circuit", "looks", "null")
    fields = {name: value for name, value in vars(VERDICT).items() if name not in parts}
    assert plain(fields), {name: type(value) for name, value in fields.items()}
    assert plain(vars(VERDICT.gap))
    for node in VERDICT.nodes:
        gaps = ("alone", "unknowing")
        assert plain({name: value for name, value in vars(node).items() if name not in gaps}), node
        assert all(plain(vars(gap)) for name in gaps if (gap := getattr(node, name)) is not None)
    assert VERDICT.null is not None
    assert plain({name: value for name, value in vars(VERDICT.null).items() if name != "gap"})
    assert plain(vars(VERDICT.null.gap))
    assert plain(VERDICT.circuit.levels)
    assert all(plain(vars(node)) for node in VERDICT.circuit.nodes)
    assert all(plain(look.samples) and plain(vars(look.gap)) for look in VERDICT.looks)


def test_another_schema_is_refused() -> None:
    fields = json.loads(VERDICT.to_json())
    assert fields["schema_version"] == 1
    for version in (2, None):
        with pytest.raises(ValueError, match=f"^{re.escape(f'its schema is {version}, not 1')}$"):
            Verdict.from_json(json.dumps({**fields, "schema_version": version}))


def test_nan_never_travels() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        replace(VERDICT, gap=Estimate(math.nan, 0, 0)).to_json()


def test_a_verdict_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        VERDICT.outcome = HELD  # type: ignore[misc]
