"""The inner runs of pytest that the plugin's tests use."""

from tests.plugin.conftest import suite

__all__ = ["suite"]
