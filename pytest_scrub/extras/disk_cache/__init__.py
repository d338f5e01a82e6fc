"""Clean activations that outlive a run, `--scrub-cache`."""
