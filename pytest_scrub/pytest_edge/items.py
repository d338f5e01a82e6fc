"""What a test is called, whoever runs it, and whether it asks for what a claim needs."""

from __future__ import annotations

import inspect

import pytest


def id_of(item: pytest.Item) -> str:
    """The node id as pytest made it: random streams, counterexamples and baselines go by that.

    For `--dist loadgroup` pytest-xdist may have put the name of the group into the item's own.
    """
    assert item.parent is not None  # only the session has none
    return f"{item.parent.nodeid}::{item.name}"


def is_claim(item: pytest.Item) -> bool:
    """Whether `@claim` stands on it."""
    return item.get_closest_marker("claim") is not None


def is_ours(item: pytest.Item) -> bool:
    """Whether it is a claim, or uses the fixture `scrub`; a method of `unittest.TestCase` has no
    fixtures, but may be a claim."""
    return "scrub_session" in {*arguments_of(item), *getattr(item, "fixturenames", ())}


def arguments_of(item: pytest.Item) -> list[str]:
    """What the function of a test takes; nothing of a test that has none."""
    return [*inspect.signature(getattr(item, "function", lambda: None)).parameters]


def tell_once(report: pytest.TestReport) -> None:
    """Of the failure of a claim, the summary repeats the first line alone, which is enough by
    itself: in CI pytest would repeat the whole story."""
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        crash.message = next(iter(crash.message.splitlines()), "")
