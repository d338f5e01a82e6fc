"""`--scrub-replay FILE`: a saved counterexample, evaluated alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_scrub.pytest_edge.items import id_of
from pytest_scrub.pytest_edge.options import FOLDER, named, option
from pytest_scrub.settings import DRAWN_BY_CLAIM, Settings

if TYPE_CHECKING:
    from pytest_scrub.adversaries.saved import Replay, Saved
    from pytest_scrub.engine.evaluator import Evaluator


def replay(saved: Saved, evaluator: Evaluator, settings: Settings) -> Replay:
    """A counterexample held against what its claim accepts now, whatever the file says.

    **Raises** `ScrubError` where its rows are gone, or the claim no longer has its slots or allows
    it, or says now that swaps hurt, of which no swap that does is a counterexample.
    """
    from pytest_scrub.adversaries.counterexample import described
    from pytest_scrub.adversaries.saved import Replay
    from pytest_scrub.adversaries.saved_rows import ClaimChanged
    from pytest_scrub.adversaries.worst import restored
    from pytest_scrub.statistics.acceptance import Acceptance, beyond
    from pytest_scrub.statistics.average import measure
    from pytest_scrub.statistics.sampling import References

    if settings.min_gap is not None:
        raise ClaimChanged(
            "the claim has changed since: by min_gap= it says that swaps hurt, as the saved ones "
            "do; delete the saved counterexample"
        )
    acceptance = Acceptance.of(settings, evaluator.metric)
    tolerance = settings.tolerance_of_search
    # what refuted the average is no search's find
    if tolerance is None or saved.minimal.adversary == DRAWN_BY_CLAIM:
        tolerance = acceptance.tolerance
        if acceptance.min_recovered is not None or acceptance.min_explained is not None:
            # a share of what the baseline, or the null, costs
            references = References.of(evaluator, settings)
            tolerance = measure(evaluator, references, settings).tolerance
    assert tolerance is not None  # a claim says one of them
    if settings.slice_tolerance is not None:
        tolerance = min(tolerance, settings.slice_tolerance)
    swap_set, there = restored(saved, saved.minimal, evaluator)
    shown = described(there, swap_set, saved.minimal.adversary)
    same = saved.model_digest == evaluator.graph.digest()
    breaks = beyond(shown.gap, tolerance, acceptance.sides)
    return Replay(shown, saved, tolerance, breaks, same)


def replayed(config: pytest.Config) -> Saved | None:
    """The counterexample that `--scrub-replay` names. **Raises** `pytest.UsageError` where it
    cannot be read."""
    if not (given := option(config, "replay")):
        return None
    from pytest_scrub.adversaries.saved import DamagedFile, load

    path = Path(config.invocation_params.dir, given)
    try:
        return load(path)
    except DamagedFile as error:
        raise pytest.UsageError(f"{named(config, 'replay')}: {error}") from None
    except OSError as error:
        raise pytest.UsageError(
            f"{named(config, 'replay')}: {path} cannot be read ({error.strerror or error}); name a "
            f"file of {FOLDER}"
        ) from None


def only_replayed(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects everything but the claim whose counterexample is replayed."""
    saved = replayed(config)
    if saved is None:
        return
    its_claim = [item for item in items if id_of(item) == saved.claim]
    if not its_claim:
        raise pytest.UsageError(
            f"--scrub-replay: the claim {saved.claim} was not collected; name its file or folder"
        )
    config.hook.pytest_deselected(items=[item for item in items if item not in its_claim])
    items[:] = its_claim
