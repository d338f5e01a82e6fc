"""Figures on disk, `--scrub-save`, and what moved since, `--scrub-compare`."""
