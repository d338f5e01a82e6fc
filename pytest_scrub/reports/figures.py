"""A verdict's figures as plain scalars, for whoever reads properties rather than JSON."""

from __future__ import annotations

import math
from dataclasses import is_dataclass
from functools import reduce
from typing import Any

from pytest_scrub.common.calls import as_plain
from pytest_scrub.common.visible import utf8_safe
from pytest_scrub.verdict import Verdict

Scalar = str | float | int | bool
# fields of a verdict that are no figures: the test's id, and long texts
NO_FIGURES = {
    "claim", "hypothesis", "interval_kind", "recovered_reason", "min_with_other", "min_moved",
}  # fmt: skip
# where a verdict has what its own fields do not say; of several things, how many they are
PLACES = {
    "result": "result",
    "gap": "gap.mean",
    "gap_low": "gap.low",
    "gap_high": "gap.high",
    "gap_exact": "gap.exact",
    "swaps_share": "share.share",
    "swaps_within": "share.within",
    "swaps_tolerated": "share.tolerated",
    "adversarial_tolerance": "search.tolerance",
    "adversary_gates": "search.gates",
    "search_budget": "search.budget",
    "worst": "search.worst.gap",
    "worst_by": "search.worst.adversary",
    "worst_refutes": "search.worst.refutes",
    "worst_low": "search.worst.interval.low",
    "worst_high": "search.worst.interval.high",
    "unsearched": "search.unsearched",
    "counterexample_gap": "search.counterexample.gap",
    "counterexample": "search.counterexample.file",
    "slices_by": "slices.by",
    "slice_tolerance": "slices.tolerance",
    "slices": "slices.slices",
    "power": "power.power",
    "power_required": "power.required",
    "interchange_accuracy": "predicted.accuracy.mean",
    "should_change": "predicted.changed.mean",
    "rivals": "predicted.rivals",
    "decided_by_rival": "predicted.decided_by",
    "mutants": "power.mutants",
    "mutants_refuted": "power.refuted",
    "mutants_equivalent": "power.equivalent",
    "mutants_left_out": "power.left_out",
}


def figures(verdict: Verdict) -> dict[str, Scalar]:
    """Name to value, of Python's own types; what a claim has not, and what is infinite, is left
    out."""
    found = {
        name: value
        for name, value in vars(verdict).items()
        if name not in NO_FIGURES and not is_dataclass(value) and not isinstance(value, tuple)
    }
    for name, place in PLACES.items():
        value = at(verdict, place)
        found[name] = len(value) if isinstance(value, tuple) else value
    found |= _more(verdict)
    # numbers of numpy's, and lone surrogates, do not get from a worker of pytest-xdist to the
    # controller
    return {
        name: utf8_safe(value) if isinstance(value, str) else as_plain(value)
        for name, value in found.items()
        if value is not None and (not isinstance(value, float) or math.isfinite(value))
    }


def at(verdict: Verdict, place: str) -> Any:
    """What a verdict has at names with dots between them; None where one of them is."""

    def part(whole: Any, name: str) -> Any:
        return None if whole is None else getattr(whole, name)

    return reduce(part, place.split("."), verdict)


def _more(verdict: Verdict) -> dict[str, object]:
    """Sums over what a verdict lists, and the worst slice."""
    found: dict[str, object] = {}
    if verdict.search is not None:
        found["evaluations"] = sum(attempt.evaluations for attempt in verdict.search.attempts)
    for worst in verdict.slices.slices[:1] if verdict.slices is not None else ():
        if (gap := worst.gap) is not None:
            found |= {"worst_slice": worst.value, "worst_slice_gap": gap.mean}
            found |= {"worst_slice_low": gap.low, "worst_slice_high": gap.high}
    if verdict.controls:
        found["controls"] = len(verdict.controls)
        found["controls_passed"] = sum(control.passed for control in verdict.controls)
    return found
