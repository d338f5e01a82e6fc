"""Options of extras that need what the core does without.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from pytest_scrub.pytest_edge.options import named, option

# by options: the package, and what pip installs it with
NEEDED = {"html": ("jinja2", "jinja2"), "ray": ("ray", "pytest-scrub[ray]")}


def require_needed(config: pytest.Config) -> None:
    """**Raises** `pytest.UsageError` for an option that was given, and what it needs was not."""
    for name, (package, by) in NEEDED.items():
        if option(config, name) and find_spec(package) is None:
            raise pytest.UsageError(
                f"{named(config, name)} needs {package}, which is not installed: pip install {by}"
            )
