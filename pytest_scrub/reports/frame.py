"""What a verdict says as tables of pandas, which nothing else needs."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from pytest_scrub.errors import ScrubError, did_you_mean
from pytest_scrub.reports.figures import at, figures
from pytest_scrub.verdict import Estimate, Verdict

# where a verdict has the records of each
TABLES = {
    "nodes": "nodes",
    "attempts": "search.attempts",
    "looks": "looks",
    "slices": "slices.slices",
    "mutants": "power.mutants",
    "controls": "controls",
    "answers": "predicted.answers",
    "rivals": "predicted.rivals",
}


def frame(verdict: Verdict, of: str) -> Any:
    """One of the tables, each figure with its interval in columns of their own."""
    if of != "claim" and of not in TABLES:
        raise ScrubError(
            f"a verdict has no table {of!r}{did_you_mean(of, ['claim', *TABLES])}; there are claim,"
            f" {', '.join(TABLES)}"
        )
    try:
        import pandas
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "to_dataframe() needs pandas, which is not installed: pip install pandas"
        ) from None
    if of == "claim":
        return pandas.DataFrame([{"claim": verdict.claim, **figures(verdict)}])
    return pandas.DataFrame([_row(record) for record in at(verdict, TABLES[of]) or ()])


def _row(record: Any) -> dict[str, Any]:
    """The fields of a record, without those that are lists of their own."""
    found: dict[str, Any] = {}
    for name, value in vars(record).items():
        if isinstance(value, Estimate):
            found |= {name: value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        elif not isinstance(value, tuple) and not is_dataclass(value):
            found[name] = value
    return found
