"""`--scrub-suite-error`: how often a run may be wrong, shared among the claims that it judges.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pytest

from pytest_scrub.errors import HypothesisError
from pytest_scrub.pytest_edge.items import is_claim
from pytest_scrub.pytest_edge.options import named, option
from pytest_scrub.settings import CONFIDENCE, MOST_CONFIDENCE

# of the report of a claim: among how many the error is shared; workers of pytest-xdist say it so
CLAIMS_PROPERTY = "scrub_suite_claims"
NAME, EACH = "suite-error", "confidence"


@dataclass(frozen=True)
class SuiteError:
    """One probability that any verdict of a run is wrong, however many there are (Bonferroni).

    - `error`: of the run; `claims`: how many share it.
    """

    error: float
    claims: int

    @property
    def confidence(self) -> float:
        """Of each of the claims, at least."""
        return 1 - self.error / max(1, self.claims)

    def require_enough(self, confidence: float) -> None:
        """**Raises** `HypothesisError` for a claim that is less sure than its share needs."""
        if confidence < self.confidence:
            raise HypothesisError(
                f"confidence={confidence:.6g} is less than the {self.confidence:.6g} that each of "
                f"{self.claims} claims needs with --scrub-suite-error={self.error:g}; leave it out"
            )

    def __str__(self) -> str:
        return (
            f"suite error {self.error:g}, shared among {self.claims} "
            f"claim{'s' * (self.claims != 1)}: {self.confidence * 100:.6g} % confidence for each"
        )


SHARED = pytest.StashKey[SuiteError]()


def asked(config: pytest.Config) -> float | None:
    """The error of the run; None where every claim has its own.

    A confidence for every claim on the command line comes before the error of the ini file, as
    the command line does, so that one claim can be run again as it was.

    **Raises** `pytest.UsageError` where both are given in the same place.
    """
    error: float | None = option(config, NAME)
    if error is None:
        return None
    here, there = (config.getoption(f"scrub_{name.replace('-', '_')}") for name in (NAME, EACH))
    in_file = config.getini("scrub_confidence") != str(CONFIDENCE)
    if here is None and there is not None:
        return None
    if there is not None or (here is None and in_file):
        raise pytest.UsageError(
            f"{named(config, NAME)} says how sure the run is and {named(config, EACH)} how sure "
            "each of its claims: leave one out"
        )
    return error


def share(config: pytest.Config, items: Collection[pytest.Item]) -> None:
    """Once it is known which tests are run. Claims that are skipped count: which of them are is
    not known yet, and a share that is too small only makes the others surer."""
    error = asked(config)
    if error is None:
        return
    claims = [item for item in items if is_claim(item)]
    config.stash[SHARED] = SuiteError(error, len(claims))
    for item in claims:
        item.user_properties.append((CLAIMS_PROPERTY, len(claims)))


def shared_by(config: pytest.Config) -> SuiteError | None:
    """What each claim gets, None where the run has no error; fails whoever asks where that is more
    than intervals can give, which workers of pytest-xdist can say of no collection."""
    shared = config.stash.get(SHARED, None)
    if shared is not None and shared.confidence > MOST_CONFIDENCE:
        pytest.fail(
            f"{named(config, NAME)}: {shared.error:g} shared among {shared.claims} claims asks for "
            f"more than {MOST_CONFIDENCE} confidence of each; make it larger, or run fewer claims",
            pytrace=False,
        )
    return shared


def of_report(config: pytest.Config, report: pytest.TestReport) -> SuiteError | None:
    """What the claim of a report had its confidence from, where it was the error of the run."""
    error, claims = asked(config), dict(report.user_properties).get(CLAIMS_PROPERTY)
    return None if error is None or claims is None else SuiteError(error, int(str(claims)))
