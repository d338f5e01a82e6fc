"""The inner runs of pytest that the plugin's tests use."""

from tests.pytest_edge.conftest import suite

__all__ = ["suite"]
