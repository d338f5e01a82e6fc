"""Baselines: the figures of a run as one small JSON file for each claim, to be committed, reviewed
and compared with.

A file says nothing of when or how fast it was made, and no number has more digits than a network
has, so that saving what has not changed changes no byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from pytest_scrub import ScrubError, Verdict
from pytest_scrub.adversaries.saved import path_for
from pytest_scrub.common.records import Malformed, as_plain_dict, fields_of, parse_json, read_record
from pytest_scrub.errors import did_you_mean
from pytest_scrub.reports.run import Run
from pytest_scrub.settings import CONFIDENCE
from pytest_scrub.statistics.intervals import clopper_pearson
from pytest_scrub.verdict import HELD, Estimate, Function, OnAverage, Outcome, Search

SCHEMA_VERSION: Final = 1
DIGITS = 6
# times as far as the ends of a claim that held lie from its gap, were they as far on both sides
WIDEST = 3
# of a run's versions: the kernel of whoever saved it is no part of a result
NOT_KEPT = ("platform",)


class BaselineError(ScrubError):
    """A baseline that is not there, or a file of it that cannot be read."""


@dataclass(frozen=True)
class Worst:
    """The worst that was found, and the search that found it.

    - `gap`: mean over so many `references`; `by`: the adversary.
    - `budget`: evaluations that all of them together might spend; `tried`: those that searched.
    - `late`: a deadline ended the search of one of them.
    - `interval`: of the gap; a point where all references were searched, and None in older files.
    """

    gap: float
    by: str
    references: int
    budget: int
    tried: tuple[str, ...]
    late: bool
    interval: Estimate | None = None

    @property
    def known(self) -> Estimate:
        """The gap with its interval, a point where none is known of."""
        return self.interval or Estimate(self.gap, self.gap, self.gap)

    @property
    def is_point(self) -> bool:
        """Whether nothing is said of other references."""
        return self.known.low == self.known.high


@dataclass(frozen=True)
class Unknowing:
    """What the claim would be if its features knew nothing: its `gap`, from so many `samples`, and
    how much the claim has `explained` of it, None where that has no meaning."""

    gap: Estimate
    samples: int
    explained: float | None


@dataclass(frozen=True)
class Refuted:
    """How many mutants were `refuted`, `of` how many."""

    refuted: int
    of: int

    @property
    def share(self) -> float:
        """The power."""
        return self.refuted / self.of

    def __str__(self) -> str:
        return f"{self.refuted}/{self.of}"


@dataclass(frozen=True)
class Accuracy:
    """How many swaps the network answers as the claim predicts: a `share` of so many `samples`,
    `exact` where these are all that there are."""

    share: float
    samples: int
    exact: bool = False

    def interval(self, confidence: float) -> Estimate:
        """For one look, at this confidence."""
        return clopper_pearson(self.share, self.samples, None if self.exact else confidence)


@dataclass(frozen=True)
class Figures:
    """What may move; all but `recovered`, `power` and `accuracy` in the metric's unit. As in a
    `Verdict`.

    - `worst`, `power`: None where nothing was searched, or no mutant judged.
    - `null`: None where the claim has none, and in older files; so `accuracy`, where it predicts no
      label.
    """

    gap: Estimate
    unscrubbed: float
    scrubbed: float
    baseline: float
    recovered: float | None
    worst: Worst | None
    power: Refuted | None
    null: Unknowing | None = None
    accuracy: Accuracy | None = None

    @property
    def scale(self) -> float:
        """How large the metric is."""
        return max(abs(self.unscrubbed), abs(self.scrubbed))

    @property
    def last_digit(self) -> float:
        """By how much figures may differ that are the same: one unit of the last digit that is
        kept."""
        worst = 0.0 if self.worst is None else self.worst.gap
        null = 0.0 if self.null is None else self.null.gap.mean
        return _unit(max(self.scale, abs(worst), abs(null)))


@dataclass(frozen=True)
class Baseline:
    """All that a file holds of one claim: its verdict without what only explains it.

    - `average`: the outcome without what adversaries found; `hypothesis`: its lines.
    - `interval`: which swaps and which statistics that of the gap speaks of.
    - `versions`: of Python and the packages that figures depend on.
    - `confidence`: of the intervals.
    - `functions`: of the hypothesis and the metric, whose texts have but their names; none in older
      files.
    - `bounds`: all options that make the claim easier or harder to hold; none in older files.
    """

    claim: str
    outcome: Outcome
    average: OnAverage
    hypothesis: tuple[str, ...]
    metric: str
    tolerance: float
    figures: Figures
    interval: str
    samples: int
    seed: int
    model: str
    model_digest: str
    dataset: str
    dataset_digest: str
    versions: Mapping[str, str]
    confidence: float = CONFIDENCE
    functions: tuple[Function, ...] = ()
    bounds: Mapping[str, float | str | bool] = field(default_factory=dict)
    schema_version: Literal[1] = SCHEMA_VERSION

    @classmethod
    def of(cls, verdict: Verdict, versions: Mapping[str, str]) -> Baseline:
        """Rounded as it is written."""
        return cls(**{
            **fields_of(cls, verdict),
            "hypothesis": tuple(verdict.hypothesis.split("\n")),
            "tolerance": _rounded(verdict.tolerance),
            "figures": _figures(verdict),
            "interval": verdict.interval_kind,
            "bounds": {one.what: one.value for one in verdict.bounds if one.value is not None},
            "versions": {name: of for name, of in versions.items() if name not in NOT_KEPT},
            "schema_version": SCHEMA_VERSION,
        })  # fmt: skip

    def to_json(self) -> str:
        """Sorted, one value a line; what cannot be printed is escaped, other text stays as it is
        read."""
        record = _without_what_older_files_have_not(as_plain_dict(self))
        text = (
            json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
        )
        return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def texts(run: Run) -> dict[str, str]:
    """File name to content, for every claim of a run that has a verdict."""
    kept = [Baseline.of(verdict, run.versions) for verdict in run.judged]
    return {file_of(one.claim): one.to_json() for one in kept}


def file_of(claim: str) -> str:
    """The name of its file."""
    return path_for(Path(), claim).name


def load(folder: Path) -> dict[str, Baseline]:
    """Claim to what was saved of it.

    **Raises** `BaselineError` where there is no such baseline, or a file of it cannot be read.
    """
    save = f"--scrub-save={folder.name}"
    try:
        files = sorted(folder.glob("*.json")) if folder.is_dir() else []
        if not files:
            others = [path.name for path in folder.parent.glob("*") if path.is_dir()]
            hint = did_you_mean(folder.name, others)
            raise BaselineError(
                f"there is no baseline {folder.name!r} in {folder.parent}{hint}; make one with "
                f"{save}"
            )
        found = {}
        for file in files:
            one = _parsed(file.read_bytes())
            if path_for(folder, one.claim) != file:
                raise Malformed(f"its claim {one.claim!r} belongs into another file")
            found[one.claim] = one
    except OSError as error:
        raise BaselineError(
            f"the baseline {folder} cannot be read ({error.strerror or error}); mend that"
        ) from error
    except Malformed as error:
        raise BaselineError(
            f"{file} is no part of a baseline ({error}); restore it, or delete it and {save}"
        ) from error
    return found


def _parsed(content: bytes) -> Baseline:
    baseline = read_record(Baseline, parse_json(content))
    for why in _contradictions(baseline):
        raise Malformed(why)
    return baseline


def _contradictions(one: Baseline) -> Iterator[str]:
    """What no run has written: figures that would let any figure of today pass."""
    figures, gap, power = one.figures, one.figures.gap, one.figures.power
    if one.tolerance < 0:
        yield f"its tolerance is {one.tolerance:g}, less than none"
    if one.samples < 2:
        yield f"its figures are of {one.samples} samples"
    if not _holds_its_mean(gap):
        yield f"its gap {gap} lies outside its interval"
    if not 0.5 <= one.confidence < 1:
        yield f"the confidence of its intervals is {one.confidence:g}"
    if figures.null is not None and not _holds_its_mean(figures.null.gap):
        yield f"the gap of its null {figures.null.gap} lies outside its interval"
    if figures.worst is not None and not _holds_its_mean(figures.worst.known):
        yield f"its worst {figures.worst.known} lies outside its interval"
    if abs(figures.scrubbed - figures.unscrubbed - gap.mean) > 2 * _unit(figures.scale):
        yield f"its gap {gap.mean:g} is not scrubbed minus unscrubbed metric"
    if one.average == HELD and gap.around > WIDEST * (one.tolerance + abs(gap.mean)) + _unit(
        figures.scale
    ):
        yield f"its gap {gap} cannot have held a tolerance of {one.tolerance:g}"
    if power is not None and not 0 <= power.refuted <= power.of:
        yield f"its power is {power}"
    accuracy = figures.accuracy
    if accuracy is not None and not (0 <= accuracy.share <= 1 and accuracy.samples > 0):
        yield f"its accuracy is {accuracy.share:g} of {accuracy.samples} samples"


def _without_what_older_files_have_not(record: Any) -> Any:
    """Files of claims that have nothing to say of it stay as they were."""
    if not isinstance(record, dict):
        return record
    silent: tuple[tuple[str, Any], ...] = (
        ("exact", False), ("accuracy", None), ("functions", ()), ("bounds", {}),
    )  # fmt: skip
    return {
        name: _without_what_older_files_have_not(value)
        for name, value in record.items()
        if (name, value) not in silent
    }


def _holds_its_mean(estimate: Estimate) -> bool:
    return estimate.low <= estimate.mean <= estimate.high


def _figures(verdict: Verdict) -> Figures:
    scale = max(abs(verdict.unscrubbed), abs(verdict.scrubbed))
    search, power, null, said = verdict.search, verdict.power, verdict.null, verdict.predicted
    return Figures(
        accuracy=None
        if said is None or said.accuracy is None
        else Accuracy(_rounded(said.accuracy.mean, 1.0), said.samples, verdict.gap.exact),
        gap=_estimate(verdict.gap, scale),
        unscrubbed=_rounded(verdict.unscrubbed, scale),
        scrubbed=_rounded(verdict.scrubbed, scale),
        baseline=_rounded(verdict.baseline, scale),
        recovered=None if verdict.recovered is None else _rounded(verdict.recovered, 1.0),
        worst=None if search is None else _worst(search, scale),
        power=None if power is None else Refuted(power.refuted, len(power.mutants)),
        null=None
        if null is None
        else Unknowing(
            _estimate(null.gap, scale),
            null.samples,
            None if verdict.explained is None else _rounded(verdict.explained, 1.0),
        ),
    )


def _estimate(estimate: Estimate, scale: float) -> Estimate:
    ends = (estimate.mean, estimate.low, estimate.high)
    return Estimate(*(_rounded(end, scale) for end in ends), exact=estimate.exact)


def _worst(search: Search, scale: float) -> Worst | None:
    worst, searched = search.worst, [attempt for attempt in search.attempts if attempt.searched]
    if worst is None:
        return None
    return Worst(
        gap=_rounded(worst.found, scale),
        by=worst.adversary,
        references=worst.references,
        budget=search.budget,
        tried=tuple(attempt.adversary for attempt in searched),
        late=any(attempt.late for attempt in searched),
        interval=None if worst.interval is None else _estimate(worst.interval, scale),
    )


def _rounded(value: float, scale: float = 0.0) -> float:
    """To six digits of what it is measured on: a small difference of large numbers has no more."""
    if not math.isfinite(value):
        return value
    return round(value, -_last_place(max(abs(value), scale))) + 0.0  # no minus zero


def _unit(scale: float) -> float:
    return 10.0 ** _last_place(scale)


def _last_place(scale: float) -> int:
    return math.floor(math.log10(scale)) + 1 - DIGITS if scale > 0 else -12
