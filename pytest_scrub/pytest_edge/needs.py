"""Options of extras that need what the core does without.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from pytest_scrub.pytest_edge.options import named, option

NEEDED = {"html": "jinja2", "ray": "ray"}  # by options; what pip calls it, and Python


def require_needed(config: pytest.Config) -> None:
    """**Raises** `pytest.UsageError` for an option that was given, and what it needs was not."""
    for name, package in NEEDED.items():
        if option(config, name) and find_spec(package) is None:
            raise pytest.UsageError(
                f"{named(config, name)} needs {package}, which is not installed: pip install "
                f"{package}"
            )
