"""How much is tried: `make test` tries a part of what `make full` does."""

from __future__ import annotations

import os
from typing import TypeVar

import pytest

T = TypeVar("T")

FULL = {"quick": False, "full": True}[os.environ.get("SCRUB_PROFILE", "quick")]

# Skipped and not deselected: pytest-xdist does not count what is deselected.
only_in_full = pytest.mark.skipif(not FULL, reason="only `make full` runs it (SCRUB_PROFILE=full)")


def few_in_quick(number: int) -> pytest.MarkDecorator:
    """Of a test with many cases `make test` tries so many, see conftest.py, and `make full` all."""
    return pytest.mark.few_in_quick(number)


def sized(quick: T, full: T) -> T:
    """One of two sizes of the same test."""
    return full if FULL else quick
