"""What pytest sees: options, fixtures, claims as tests, and where the reports of all workers come
together."""
