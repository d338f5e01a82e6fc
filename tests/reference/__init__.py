"""The slow, obvious evaluator that the engine is checked against, and generators of what to check it on."""
