"""Verdicts for people and machines; nothing here reads anything but a `Verdict`."""
