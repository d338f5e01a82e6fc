"""GitHub's summary of a step, and its annotations."""
