"""Hypotheses as trees of nodes; nothing of networks or data."""
