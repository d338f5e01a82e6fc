"""`--scrub-replay FILE`: a saved counterexample, evaluated alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_scrub.ids import id_of
from pytest_scrub.options import FOLDER, named, option

if TYPE_CHECKING:
    from pytest_scrub.engine.evaluator import Evaluator
    from pytest_scrub.store.counterexamples import Saved
    from pytest_scrub.verdict import Counterexample


@dataclass(frozen=True)
class Replay:
    """A saved counterexample as it is on this network and data.

    - `gap`: of its minimal swap set, measured now; `saved_gap` when it was saved.
    - `same_model`: whether the weights are those it was saved with.
    """

    counterexample: Counterexample
    gap: float
    saved_gap: float
    tolerance: float
    same_model: bool

    @property
    def breaks(self) -> bool:
        """Whether it still lies beyond the tolerance it was saved with."""
        return abs(self.gap) > self.tolerance


def replay(saved: Saved, evaluator: Evaluator) -> Replay:
    """**Raises** `ScrubError` where its rows are gone, or the claim no longer has its slots or allows it."""
    from pytest_scrub.counterexample import described
    from pytest_scrub.searching import restored

    swap_set, there = restored(saved, saved.minimal, evaluator)
    shown = described(there, swap_set, saved.minimal.adversary)
    same = saved.model_digest == evaluator.graph.digest()
    return Replay(shown, shown.gap, saved.minimal.gap, saved.tolerance, same)


def replayed(config: pytest.Config) -> Saved | None:
    """The counterexample that `--scrub-replay` names. **Raises** `pytest.UsageError` where it cannot be read."""
    given = str(option(config, "replay"))
    if not given:
        return None
    from pytest_scrub.store.counterexamples import DamagedFile, load

    path = Path(config.invocation_params.dir, given)
    try:
        return load(path)
    except DamagedFile as error:
        raise pytest.UsageError(f"{named(config, 'replay')}: {error}") from None
    except OSError as error:
        raise pytest.UsageError(
            f"{named(config, 'replay')}: {path} cannot be read ({error.strerror or error}); name a file of {FOLDER}"
        ) from None


def only_replayed(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselects everything but the claim whose counterexample is replayed."""
    saved = replayed(config)
    if saved is None:
        return
    others = [item for item in items if id_of(item) != saved.claim]
    if len(others) == len(items):
        raise pytest.UsageError(f"--scrub-replay: the claim {saved.claim} was not collected; name its file or folder")
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if id_of(item) == saved.claim]
