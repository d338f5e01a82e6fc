"""`--scrub-replay FILE`: a saved counterexample, evaluated alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_scrub.pytest_edge.ids import id_of
from pytest_scrub.pytest_edge.options import FOLDER, named, option
from pytest_scrub.verdict import Replay

if TYPE_CHECKING:
    from pytest_scrub.adversaries.saved import Saved
    from pytest_scrub.engine.evaluator import Evaluator


def replay(
    saved: Saved,
    evaluator: Evaluator,
    claimed: Mapping[str, Any],
    *,
    samples: int,
    seed: int,
    name: str,
) -> Replay:
    """**Arguments**

    - `claimed`: what the claim says, as `check` takes it: its own tolerances decide, whatever the
      file says.
    - `samples`, `seed`, `name`: of the references that say how much there is to recover.

    **Raises** `ScrubError` where its rows are gone, or the claim no longer has its slots or allows
    it.
    """
    from pytest_scrub.adversaries.counterexample import described
    from pytest_scrub.adversaries.worst import OWN_DRAWS, SearchOptions, restored
    from pytest_scrub.statistics.deciding import Acceptance, beyond
    from pytest_scrub.statistics.measuring import Criteria
    from pytest_scrub.statistics.sampling import References

    acceptance = Acceptance(
        evaluator.metric, claimed["tolerance"], claimed["min_recovered"], claimed["direction"]
    )
    slices = Criteria(
        acceptance, samples, by=claimed["by"], slice_tolerance=claimed["slice_tolerance"]
    )
    found = SearchOptions(tolerance=claimed["adversarial_tolerance"]).tolerance
    # what refuted the average is no search's find
    if found is None or saved.minimal.adversary == OWN_DRAWS:
        room = 0.0
        if acceptance.min_recovered is not None:
            room = References.of(
                evaluator, samples, seed=seed, name=name, generalize=claimed["generalize"]
            ).room
        found = acceptance.accepted(room)
    tolerance = min(found, math.inf if slices.slice_tolerance is None else slices.slice_tolerance)
    swap_set, there = restored(saved, saved.minimal, evaluator)
    shown = described(there, swap_set, saved.minimal.adversary)
    same = saved.model_digest == evaluator.graph.digest()
    breaks = beyond(shown.gap, None, tolerance, acceptance.sides)
    return Replay(shown, shown.gap, saved.minimal.gap, tolerance, saved.tolerance, breaks, same)


def replayed(config: pytest.Config) -> Saved | None:
    """The counterexample that `--scrub-replay` names. **Raises** `pytest.UsageError` where it
    cannot be read."""
    given = str(option(config, "replay"))
    if not given:
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
    others = [item for item in items if id_of(item) != saved.claim]
    if len(others) == len(items):
        raise pytest.UsageError(
            f"--scrub-replay: the claim {saved.claim} was not collected; name its file or folder"
        )
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if id_of(item) == saved.claim]
