"""Programs of attention that were compiled to weights, and what can be said of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.exam.compiler import Program, Variable, with_start

OFF = 0.0001
Rows = Sequence[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Compiled:
    """A program with every sequence that it is for.

    - `answer`: what the network says; `at`: the positions where it is asked; `labels`: what is
      right there, worked out without the program.
    """

    program: Program
    answer: Variable
    tokens: Tensor
    labels: Tensor
    at: int | slice

    def network(self, off: float = OFF) -> Any:
        return self.program.compiled(self.answer, off)

    def directions(self, name: str) -> npt.NDArray[np.float64]:
        """A basis of the directions of a variable."""
        return np.eye(self.program.width)[:, self.program.variables[name].directions]


def _compiled(
    program: Program, answer: Variable, rows: Rows, labels: Sequence[Any], at: int | slice = -1
) -> Compiled:
    tokens = with_start(rows, program.letters)
    return Compiled(program, answer, tokens, torch.tensor(list(labels)), at)


BASE, ASK = 3, 3


def adder() -> Compiled:
    """a1 a0 b1 b0 ?, two numbers of two digits each to the base 3; the answer is their sum."""
    program = Program(letters=BASE + 1, length=6)
    indices = program.indices
    a1, a0, b1, b0 = (
        program.copied(name, program.tokens, indices, indices, lambda q, k, at=at: bool(k == at))  # type: ignore[misc]
        for at, name in enumerate(("a1", "a0", "b1", "b0"), start=1)
    )
    carry = program.mapped("carry", 2, lambda a, b: int(BASE <= a + b < 2 * BASE), a0, b0)
    low = program.mapped("low", BASE, lambda a, b: (a + b) % BASE, a0, b0)
    most = 2 * BASE**2
    total = program.mapped(
        "total", most, lambda a, b, c, d: min(BASE * (a + b + c) + d, most - 1), a1, b1, carry, low
    )
    rows = [(*digits, ASK) for digits in itertools.product(range(BASE), repeat=4)]
    sums = [BASE * (a1 + b1) + a0 + b0 for a1, a0, b1, b0, _ in rows]
    return _compiled(program, total, rows, sums)


def inductor() -> Compiled:
    """Five letters, the last of which occurred once before, first or second; the answer is the
    letter that came after it then."""
    program = Program(letters=4, length=6)
    tokens, indices = program.tokens, program.indices
    previous = program.copied("previous", tokens, indices, indices, lambda q, k: k == q - 1)
    match = program.copied("match", tokens, tokens, previous, lambda q, k: q == k)
    rows = [
        row
        for row in itertools.product(range(4), repeat=5)
        if row[:4].count(row[4]) == 1 and row[4] in row[:2]
    ]
    return _compiled(program, match, rows, [row[row.index(row[4]) + 1] for row in rows])


def counter() -> Compiled:
    """Six bits; the answer is whether more than three of them are ones."""
    program = Program(letters=2, length=7)
    ones = program.counted("ones", 6, program.indices, program.tokens, lambda q, k: k == 1)
    many = program.mapped("many", 2, lambda count: int(count > 3), ones)
    rows = list(itertools.product(range(2), repeat=6))
    return _compiled(program, many, rows, [int(sum(row) > 3) for row in rows])


def voter() -> Compiled:
    """Three letters; the answer is the first one, which three heads copy. Two of three decide."""
    program = Program(letters=4, length=4)
    indices = program.indices
    votes = [
        program.copied(name, program.tokens, indices, indices, lambda q, k: k == 1)
        for name in ("one", "other", "third")
    ]

    def decided(a: int, b: int, c: int) -> int:
        return a if a in (b, c) else b

    first = program.mapped("first", 5, decided, *votes)
    rows = list(itertools.product(range(4), repeat=3))
    return _compiled(program, first, rows, [row[0] for row in rows])


def sorter() -> Compiled:
    """Three of five letters; at each position the answer is the letter that belongs there."""
    program = Program(letters=5, length=4)
    tokens = program.tokens
    rank = program.counted("rank", 3, tokens, tokens, lambda q, k: k < q)
    in_order = program.copied("in order", tokens, program.indices, rank, lambda q, k: k == q - 1)
    rows = list(itertools.permutations(range(5), 3))
    return _compiled(program, in_order, rows, [sorted(row) for row in rows], slice(1, None))


PROGRAMS = (adder, inductor, counter, voter, sorter)
