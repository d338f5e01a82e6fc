"""What a test is called, whoever runs it: its random streams, counterexamples and baselines go by
that."""

from __future__ import annotations

import pytest


def id_of(item: pytest.Item) -> str:
    """The node id as pytest made it; for `--dist loadgroup` pytest-xdist may have put the name of
    the group into it."""
    assert item.parent is not None  # only the session has none
    return f"{item.parent.nodeid}::{item.name}"
