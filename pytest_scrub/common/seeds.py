"""Random streams, each derived from a seed and a purpose; there is no global generator."""

from __future__ import annotations

import hashlib

import numpy as np


def stream(seed: int, *purpose: str) -> np.random.Generator:
    """A generator that depends on the session's seed and on its purpose, such as a test's id and
    "draw"."""
    text = "\0".join((str(seed), *purpose))
    return np.random.default_rng(
        int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "big")
    )
