"""`--scrub-over PATTERN`: the claims once for each checkpoint of a training.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import glob
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_scrub.common.visible import natural
from pytest_scrub.errors import HypothesisError
from pytest_scrub.pytest_edge.options import named, option

if TYPE_CHECKING:
    from pytest_scrub.reports.run import Measured

# and the property of a claim's report that names its checkpoint
FIXTURE = "scrub_checkpoint"
FOUND = pytest.StashKey[dict[str, Path]]()
TAKE_IT = "let the fixture of its network take scrub_checkpoint, and load what lies there"


def checkpoints(config: pytest.Config) -> dict[str, Path]:
    """By name, step 2 before step 10; none without the option. Files that a training writes
    meanwhile are no part of the run.

    **Raises** `pytest.UsageError` for a pattern that nothing matches.
    """
    if FOUND not in config.stash:
        config.stash[FOUND] = _matching(config)
    return config.stash[FOUND]


def _matching(config: pytest.Config) -> dict[str, Path]:
    pattern, start = option(config, "over"), config.invocation_params.dir
    if not pattern:
        return {}
    # a name stays what it is when other files are added: it begins where the pattern leaves open
    fixed = takewhile(lambda part: glob.escape(part) == part, Path(pattern).parts[:-1])
    folder = Path(*fixed)
    paths = map(Path, glob.glob(pattern, root_dir=start, recursive=True))
    in_order = sorted(paths, key=lambda path: natural(path.as_posix()))
    found = {path.relative_to(folder).as_posix(): start / path for path in in_order}
    if not found:
        raise pytest.UsageError(
            f"{named(config, 'over')}: nothing matches {pattern!r}, as seen from {start}; name the "
            "checkpoints of one training, such as 'checkpoints/*.safetensors'"
        )
    return found


def parametrize(metafunc: pytest.Metafunc) -> None:
    """Every test whose fixtures ask for a checkpoint is run for each, those of one together."""
    found = checkpoints(metafunc.config)
    if found and FIXTURE in metafunc.fixturenames:
        paths, names = list(found.values()), list(found)
        metafunc.parametrize(FIXTURE, paths, indirect=True, scope="session", ids=names)


def given(request: pytest.FixtureRequest) -> Path | None:
    """What the fixture gives. Fails a test that asks for it so late that it was not parametrized:
    it would be about one network alone."""
    path: Path | None = getattr(request, "param", None)
    if path is None and checkpoints(request.config):
        pytest.fail(
            f"{FIXTURE} is asked for while the test runs, too late for "
            f"{named(request.config, 'over')}; take it as an argument",
            pytrace=False,
        )
    return path


def require_checkpoint(item: pytest.Item) -> None:
    """**Raises** `HypothesisError` for a claim that would have the same network every time."""
    if checkpoints(item.config) and FIXTURE not in getattr(item, "fixturenames", ()):
        raise HypothesisError(
            f"no fixture of this claim takes a checkpoint, so it says nothing over those of "
            f"{named(item.config, 'over')}; {TAKE_IT}, or leave the claim out"
        )


def checkpoint_of(item: pytest.Item) -> str | None:
    """The name of the checkpoint that a test is run for."""
    path = getattr(getattr(item, "callspec", None), "params", {}).get(FIXTURE)
    return next((name for name, one in checkpoints(item.config).items() if one == path), None)


def measured(config: pytest.Config, report: pytest.TestReport, test: str) -> Measured | None:
    """The claim and the checkpoint of a report; None where it has none.

    The checkpoint is the last of a test's parameters: see the hook.
    """
    from pytest_scrub.reports.run import Measured

    name = dict(report.user_properties).get(FIXTURE)
    if not isinstance(name, str):
        return None
    escaped = name.encode("unicode_escape").decode("ascii")  # as pytest has it in an id
    for one in (name, escaped):
        test = test.removesuffix(f"[{one}]")
        if test.endswith(f"-{one}]"):  # others stand before it
            test = f"{test.removesuffix(f'-{one}]')}]"
    return Measured(test, list(checkpoints(config)).index(name) + 1, name)
