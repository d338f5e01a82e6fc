"""Datasets: rows, labels, features and positions, where they come from, and whether they were
changed."""
