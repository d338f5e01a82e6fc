"""How networks answer `pytest_scrub.meaning`, against which the engine is checked, and generators
of what to check."""
