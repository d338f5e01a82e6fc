"""The page of `--scrub-html`: every claim with its drawing and its plots."""
