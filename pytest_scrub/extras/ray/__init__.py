"""Running claims on many machines with Ray. Nothing here is imported without `--scrub-ray`."""
