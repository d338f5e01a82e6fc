"""Bracket strings, their tokens and their features; every string follows from one seed.

A string is read as steps of +1 for `(` and -1 for `)`. Lengths are even, from 2 to `MAX_BRACKETS`
brackets: an odd length alone would give the answer away. The features follow the paren-balance
checker of Chan et al., "Causal Scrubbing: results on a paren balance checker" (2022), which reads
strings from the right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

START, PAD, END, OPEN, CLOSE = range(5)
MAX_BRACKETS = 24
N_POSITIONS = MAX_BRACKETS + 2  # with the start and the end token

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def strings(n: int, seed: int) -> list[str]:
    """`n` distinct bracket strings, a mix of four kinds, every even length about as often until it
    runs out.

    Balanced (40 %), fair coin flips (20 %), as many `(` as `)` in random order (20 %), and balanced
    ones with one or two brackets turned round or one pair of brackets exchanged (20 %). Short
    lengths have few distinct strings, so they are rarer than that.
    """
    rng = np.random.default_rng(seed)
    seen: dict[str, None] = {}  # a set that keeps the order in which strings were drawn
    while len(seen) < n:
        lengths = rng.integers(1, MAX_BRACKETS // 2, size=n, endpoint=True) * 2
        kinds = rng.choice(4, size=n, p=(0.4, 0.2, 0.2, 0.2))
        drawn = np.full(n, "", dtype=f"U{MAX_BRACKETS}")
        for length in range(2, MAX_BRACKETS + 1, 2):
            for kind, draw in enumerate((_balanced, _coin_flips, _shuffled, _nearly_balanced)):
                rows = np.flatnonzero((lengths == length) & (kinds == kind))
                drawn[rows] = _text(draw(rng, len(rows), length))
        seen.update(dict.fromkeys(drawn.tolist()))
    return list(seen)[:n]


def _shuffled(rng: np.random.Generator, n: int, length: int) -> Ints:
    """Steps `[n, length]`, half of each row +1, in uniformly random order."""
    return rng.permuted(np.tile(np.repeat([1, -1], length // 2), (n, 1)), axis=1)


def _balanced(rng: np.random.Generator, n: int, length: int) -> Ints:
    """Steps `[n, length]`, uniform over balanced strings.

    By the cycle lemma: a shuffled row with one more -1 has exactly one rotation that stays above
    zero until that last -1, and it begins behind the first lowest point.
    """
    steps = rng.permuted(
        np.tile(np.repeat([1, -1], [length // 2, length // 2 + 1]), (n, 1)), axis=1
    )
    begin = steps.cumsum(axis=1).argmin(axis=1)[:, None] + 1
    return np.take_along_axis(steps, (begin + np.arange(length)) % (length + 1), axis=1)


def _coin_flips(rng: np.random.Generator, n: int, length: int) -> Ints:
    return rng.integers(0, 2, size=(n, length)) * 2 - 1


def _nearly_balanced(rng: np.random.Generator, n: int, length: int) -> Ints:
    """Balanced steps with one or two brackets turned round, or two brackets exchanged, a third of
    the rows each."""
    steps, row = _balanced(rng, n, length), np.arange(n)
    first = rng.integers(length, size=n)
    second = (first + rng.integers(1, length, size=n)) % length  # another bracket than the first
    edit = rng.integers(3, size=n)
    was_first, was_second = steps[row, first], steps[row, second]
    steps[row, first] = np.where(edit == 2, was_second, -was_first)
    steps[row, second] = np.where(
        edit == 2, was_first, np.where(edit == 1, -was_second, was_second)
    )
    return steps


def _text(steps: Ints) -> list[str]:
    return ["".join("(" if step > 0 else ")" for step in row) for row in steps.tolist()]


def tokens(texts: list[str]) -> tuple[Ints, Ints]:
    """Token ids and attention mask, both int64 `[len(texts), N_POSITIONS]`; 0 in the mask hides
    padding.

    **Raises** `ValueError` for a string that is too long or holds anything but brackets.
    """
    ids = np.full((len(texts), N_POSITIONS), PAD, dtype=np.int64)
    for row, text in zip(ids, texts, strict=True):
        if len(text) > MAX_BRACKETS or set(text) - set("()"):
            raise ValueError(f"{text!r} is not a string of at most {MAX_BRACKETS} brackets")
        row[: len(text) + 2] = [
            START,
            *(OPEN if bracket == "(" else CLOSE for bracket in text),
            END,
        ]
    return ids, (ids != PAD).astype(np.int64)


def show(ids: Ints) -> str:
    """The brackets of one row of tokens."""
    return "".join({OPEN: "(", CLOSE: ")"}.get(token, "") for token in ids.tolist())


def _steps(ids: Ints) -> Ints:
    return np.asarray((ids == OPEN).astype(np.int64) - (ids == CLOSE))


def suffixes(ids: Ints) -> Ints:
    """How many more `(` than `)` the string holds from each position on, `[n, positions]`."""
    return np.asarray(_steps(ids)[:, ::-1].cumsum(axis=1)[:, ::-1])


def difference(ids: Ints) -> Ints:
    """How many more `(` than `)`."""
    return np.asarray(_steps(ids).sum(axis=1))


def count(ids: Ints) -> Bools:
    """As many `(` as `)`."""
    return np.asarray(difference(ids) == 0)


def overhang(ids: Ints) -> Ints:
    """The most by which any suffix holds more `(` than `)`, 0 where none does."""
    return np.asarray(suffixes(ids).max(axis=1))


def horizon(ids: Ints) -> Bools:
    """No suffix holds more `(` than `)`."""
    return np.asarray(overhang(ids) == 0)


def starts_open(ids: Ints) -> Bools:
    """The first bracket is `(`."""
    return np.asarray(ids[:, 1] == OPEN)


def count_open(ids: Ints) -> Bools:
    """As many `(` as `)`, and the first bracket is `(`: one yes-or-no feature."""
    return np.asarray(count(ids) & starts_open(ids))


def balanced(ids: Ints) -> Bools:
    """Count and horizon together; the label."""
    return np.asarray(count(ids) & horizon(ids))


FEATURES: dict[str, Callable[[Ints], NDArray[np.generic]]] = {
    feature.__name__: feature
    for feature in (count, horizon, starts_open, count_open, balanced, difference, overhang)
}
