"""Random sequences in which segments come back, and what a claim about them needs to know of each.

A sequence is a start token and letters drawn uniformly. Whenever a letter happens to have occurred
before, the sequence goes on as it did then, and after every copied letter it stops doing so with
probability `REPEAT_ENDS`. So a segment's start, length and distance to its copy are all random: a
fixed offset predicts nothing. One earlier occurrence tells all there is to know about the next
letter, and having been seen does not make a letter more or less likely where nothing is copied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LETTERS = "abcdefghijklmnopqrstuvwxyz"
START = 0  # the letters are 1 to 26
D_VOCAB = len(LETTERS) + 1
LENGTH = 24  # tokens, with the start
REPEAT_ENDS = 0.1
LONGEST_COPY = 6  # at the end of an evaluation sequence

Tokens = NDArray[np.int64]


def walks(n: int, generator: np.random.Generator) -> tuple[Tokens, NDArray[np.bool_]]:
    """`n` sequences as they are trained on, each with the token that comes after its last one.

    **Returns** the tokens `[n, LENGTH + 1]`, and which of them are copied `[n, LENGTH + 1]` (one
    drawn anew that happens to be what the copy would have been is not).
    """
    tokens = np.full((n, LENGTH + 1), START, dtype=np.int64)
    copied = np.zeros((n, LENGTH + 1), dtype=bool)
    tokens[:, 1] = generator.integers(1, D_VOCAB, size=n)
    for position in range(2, LENGTH + 1):
        earlier = tokens[:, : position - 1] == tokens[:, position - 1, None]
        # Of several earlier occurrences each is as likely to be the one that is copied.
        source = np.where(earlier, generator.random(earlier.shape), -1.0).argmax(axis=1)
        copied[:, position] = earlier.any(axis=1) & (generator.random(n) >= REPEAT_ENDS)
        copy = np.take_along_axis(tokens, source[:, None] + 1, axis=1)[:, 0]
        fresh = generator.integers(1, D_VOCAB, size=n)
        tokens[:, position] = np.where(copied[:, position], copy, fresh)
    return tokens, copied


def sequences(n: int, seed: int) -> Tokens:
    """`n` sequences `[n, LENGTH]` to test a claim on: different letters, of which the last 1 to 6
    are a copy.

    So the last token has exactly one earlier occurrence, at a position drawn uniformly, and between
    the segment and its copy lies at least one letter, the answer. The same `seed` gives the same
    sequences.
    """
    generator = np.random.default_rng(seed)
    tokens = np.full((n, LENGTH), START, dtype=np.int64)
    tokens[:, 1:] = generator.random((n, D_VOCAB - 1)).argsort(axis=1)[:, : LENGTH - 1] + 1
    earlier = generator.integers(1, LENGTH - 2, size=n)
    # A longer copy would take in the start token, or leave no room for the answer.
    longest = np.minimum(np.minimum(earlier, LENGTH - 2 - earlier), LONGEST_COPY)
    copied = generator.integers(1, longest + 1)
    positions = np.arange(LENGTH)
    distance = (LENGTH - 1 - earlier)[:, None]
    source = np.where(positions >= (LENGTH - copied)[:, None], positions - distance, positions)
    return np.take_along_axis(tokens, source, axis=1)


def earlier_position(tokens: Tokens) -> Tokens:
    """`[n]`: where the last token occurred before."""
    return np.asarray((tokens[:, :-1] == tokens[:, -1:]).argmax(axis=1))


def answer_position(tokens: Tokens) -> Tokens:
    """`[n]`: the position after `earlier_position`, which holds the answer."""
    return earlier_position(tokens) + 1


def answer(tokens: Tokens) -> Tokens:
    """`[n]`: the token that followed the last token when it occurred before; the label."""
    return np.asarray(np.take_along_axis(tokens, answer_position(tokens)[:, None], axis=1)[:, 0])


def last_token(tokens: Tokens) -> Tokens:
    """`[n]`: the token whose successor is asked for."""
    return tokens[:, -1]


def token_before(tokens: Tokens) -> Tokens:
    """`[n, LENGTH]`: what stands before each position, -1 before the first."""
    return np.concatenate([np.full_like(tokens[:, :1], -1), tokens[:, :-1]], axis=1)


def show(row: Tokens) -> str:
    """A sequence as text: `^` and letters."""
    return "".join("^" if token == START else LETTERS[token - 1] for token in row)
