"""Calls of functions, text that is safe to show, random streams, records as JSON, and files that
are written whole."""
