"""A verdict's figures as plain scalars, for whoever reads properties rather than JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import is_dataclass

from pytest_scrub.common.visible import sendable
from pytest_scrub.verdict import Estimate, Search, Slices, Verdict

Scalar = str | float | int | bool
# the test's id, long texts, and what is no figure of the claim
SAID_ELSEWHERE = {
    "claim", "hypothesis", "interval_kind", "recovered_reason", "min_with_other", "min_moved",
}  # fmt: skip


def figures(verdict: Verdict) -> dict[str, Scalar]:
    """Name to value, of Python's own types; what a claim has not, and what is infinite, is left
    out."""
    found: dict[str, Scalar] = {}
    for name, value in _figures(verdict):
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            continue
        found[name] = _plain(value)
    return found


def _plain(value: Scalar) -> Scalar:
    """Numbers of numpy's do not get from a worker of pytest-xdist to the controller, nor do lone
    surrogates."""
    if isinstance(value, str):
        return sendable(value)
    plain: Scalar = value.item() if hasattr(value, "item") else value
    return plain


def _figures(verdict: Verdict) -> Iterator[tuple[str, Scalar | None]]:
    for name, value in vars(verdict).items():
        if name not in SAID_ELSEWHERE and not is_dataclass(value) and not isinstance(value, tuple):
            yield name, value
    yield "gap", verdict.gap.mean
    yield from _ends("gap", verdict.gap)
    if verdict.share is not None:
        yield "swaps_share", verdict.share.share
        yield "swaps_within", verdict.share.within
        yield "swaps_tolerated", verdict.share.tolerated
    if verdict.search is not None:
        yield from _found(verdict.search)
    if verdict.slices is not None:
        yield from _worst_slice(verdict.slices)
    if verdict.power is not None:
        yield "power", verdict.power.power
        yield "power_required", verdict.power.required
        yield "mutants", len(verdict.power.mutants)
        yield "mutants_refuted", verdict.power.refuted
        yield "mutants_equivalent", verdict.power.equivalent
        yield "mutants_left_out", verdict.power.left_out
    if verdict.controls:
        yield "controls", len(verdict.controls)
        yield "controls_passed", sum(control.passed for control in verdict.controls)


def _found(search: Search) -> Iterator[tuple[str, Scalar | None]]:
    yield "adversarial_tolerance", search.tolerance
    yield "adversary_gates", search.gates
    yield "search_budget", search.budget
    yield "evaluations", sum(attempt.evaluations for attempt in search.attempts)
    if (worst := search.worst) is not None:
        yield "worst", worst.found
        yield "worst_by", worst.adversary
        yield "worst_refutes", worst.refutes
        if worst.interval is not None:
            yield from _ends("worst", worst.interval)
    yield "unsearched", search.unsearched
    if search.counterexample is not None:
        yield "counterexample_gap", search.counterexample.gap
        yield "counterexample", search.counterexample.file


def _worst_slice(sliced: Slices) -> Iterator[tuple[str, Scalar | None]]:
    yield "slices", len(sliced.slices)
    yield "slices_by", sliced.by
    yield "slice_tolerance", sliced.tolerance
    if sliced.slices and (worst := sliced.slices[0]).gap is not None:
        yield "worst_slice", worst.value
        yield "worst_slice_gap", worst.gap.mean
        yield from _ends("worst_slice", worst.gap)


def _ends(of: str, interval: Estimate) -> Iterator[tuple[str, float]]:
    yield f"{of}_low", interval.low
    yield f"{of}_high", interval.high
