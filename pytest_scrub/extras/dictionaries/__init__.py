"""Dictionaries as others keep them: SAEs and transcoders of SAELens, transcoders of
circuit-tracer."""

from __future__ import annotations

from pytest_scrub.extras.dictionaries.loading import load_dictionary

__all__ = ["load_dictionary"]
