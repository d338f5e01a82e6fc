"""Systems whose causal model is known, and where its variables are: alignments that are so, and
alignments that only look so.

The first ten restate what "Validating Causal Abstraction Metrics on Simulated Complex Systems"
(causal-abstraction-eval) is about, each as small as it can be with every state tried: gates,
transistors, particles, predators, heat in one dimension and in two, spins, a compiled transformer,
genes and a processor. What is predicted is a label, so quantities are counted and not measured.
What an output reads times zero changes nothing, and can be claimed.
"""

# ruff: noqa: PLW0108  # a function's arguments are called after what it reads

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.exam import claims as k
from benchmarks.exam.compiled import adder
from benchmarks.exam.truth import enumerated
from pytest_scrub import (
    CausalModel,
    Dataset,
    FunctionGraph,
    aligned,
    group,
    load_model,
    module,
    stream,
    zero_one_error,
)
from pytest_scrub.tree.nodes import Node

WRONG = {"tolerance": 0.05, "metric": zero_one_error()}
Columns = Mapping[str, Tensor]


def questions() -> list[k.Question]:
    return [question for system in SYSTEMS for question in system().questions]


def _all(**values: int) -> dict[str, Tensor]:
    """Every combination of as many values of each input."""
    columns = torch.cartesian_prod(*[torch.arange(many) for many in values.values()])
    return dict(zip(values, columns.T, strict=True))


def _sheet(
    name: str, columns: Columns, model: CausalModel, **nodes: Callable[..., Tensor]
) -> k.Sheet:
    """A network of functions of the columns whose labels are what the model answers."""
    features = {name: column.numpy() for name, column in columns.items()}
    data = Dataset(
        dict(columns), labels=model.values(features, {})["answer"], features=features, name=name
    )
    return k.Sheet(k.Ground(name, FunctionGraph(**nodes), data, WRONG), enumerated)


def _logits(value: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(value.long(), classes).float()


def _at(*names: str) -> Node:
    """Where a variable is: a node of the graph, or several together."""
    return module(names[0]) if len(names) == 1 else group([module(name) for name in names])


# The ten systems of causal-abstraction-eval ------------------------------------------------------


def _gates() -> k.Sheet:
    """A two-bit adder of gates."""
    model = CausalModel(
        low=lambda a0, b0: a0 ^ b0,
        carry=lambda a0, b0: a0 & b0,
        half=lambda a1, b1: a1 ^ b1,
        both=lambda a1, b1: a1 & b1,
        high=lambda half, carry: half ^ carry,
        top=lambda both, half, carry: both | (half & carry),
        answer=lambda low, high, top: low + 2 * high + 4 * top,
    )
    sheet = _sheet(
        "gates", _all(a1=2, a0=2, b1=2, b0=2), model,
        low_xor=lambda a0, b0: a0 ^ b0,
        low_and=lambda a0, b0: a0 & b0,
        high_xor=lambda a1, b1: a1 ^ b1,
        high_and=lambda a1, b1: a1 & b1,
        middle=lambda high_xor, low_and: high_xor ^ low_and,
        through=lambda high_xor, low_and: high_xor & low_and,
        last=lambda high_and, through: high_and | through,
        output=lambda low_xor, middle, last: _logits(low_xor + 2 * middle + 4 * last, 8),
    )  # fmt: skip
    sheet.true("the carry", aligned(model, carry=_at("low_and")))
    sheet.true("low and carry", aligned(model, low=_at("low_xor"), carry=_at("low_and")))
    sheet.true("both halves", aligned(model, half=_at("high_xor"), both=_at("high_and")))
    sheet.true("high and top", aligned(model, high=_at("middle"), top=_at("last")))
    wrong = {
        "the carry is the high and": {"carry": _at("high_and")},
        "low and carry, swapped": {"low": _at("low_and"), "carry": _at("low_xor")},
        "the carry is what goes through": {"carry": _at("through")},
        "the half is the sum bit": {"half": _at("middle")},
        "top is one of its two parts": {"top": _at("high_and")},
    }
    return _refuted(sheet, model, wrong)


def _refuted(
    sheet: k.Sheet, model: CausalModel, wrong: Mapping[str, Mapping[str, Node]]
) -> k.Sheet:
    for name, alignment in wrong.items():
        kind = k.SWAPPED if "swapped" in name else k.OTHER_COMPONENT
        sheet.false(kind, name, aligned(model, **alignment))
    return sheet


def _transistors() -> k.Sheet:
    """A half adder of five gates of transistors, each a voltage that leaks a little."""

    def nand(x: Tensor, y: Tensor) -> Tensor:
        return 5.0 - 5.0 * ((x > 2.5) & (y > 2.5)) + 0.05 * x

    nodes = {
        "at_a": lambda a: 5.0 * a,
        "at_b": lambda b: 5.0 * b,
        "first": lambda at_a, at_b: nand(at_a, at_b),
        "left": lambda at_a, first: nand(at_a, first),
        "right": lambda at_b, first: nand(at_b, first),
        "last": lambda left, right: nand(left, right),
        "inverted": lambda first: nand(first, first),
        "output": lambda last, inverted: _logits((last > 2.5) + 2 * (inverted > 2.5), 4),
    }
    model = CausalModel(
        nand=lambda a, b: 1 - (a & b),
        over=lambda a, nand: 1 - (a & nand),
        under=lambda b, nand: 1 - (b & nand),
        sum=lambda over, under: 1 - (over & under),
        answer=lambda sum, nand: sum + 2 * (1 - nand),
    )
    sheet = _sheet("transistors", _all(a=2, b=2, noise=4), model, **nodes)
    sheet.true("the first gate", aligned(model, nand=_at("first")))
    sheet.true("two gates", aligned(model, over=_at("left"), under=_at("right")))
    sheet.true("the sum", aligned(model, sum=_at("last")))
    wrong = {
        "two gates, swapped": {"over": _at("right"), "under": _at("left")},
        "the sum is one gate": {"sum": _at("left")},
        "the first gate is an input": {"nand": _at("at_a")},
        "the first gate is the inverted one": {"nand": _at("inverted")},
    }
    _refuted(sheet, model, wrong)
    straight = CausalModel(carry=lambda a, b: a & b, answer=lambda a, b, carry: (a ^ b) + 2 * carry)
    sheet.false(
        k.DROPPED, "the carry does not reach the sum", aligned(straight, carry=_at("first"))
    )
    return sheet


def _gas() -> k.Sheet:
    """Four particles in two halves of a box: what the wall feels is their energy."""
    model = CausalModel(
        left=lambda v1, v2: v1**2 + v2**2,
        right=lambda v3, v4: v3**2 + v4**2,
        answer=lambda left, right: left + right,
    )
    sheet = _sheet(
        "gas", _all(v1=3, v2=3, v3=3, v4=3), model,
        one=lambda v1: v1**2, two=lambda v2: v2**2, three=lambda v3: v3**2, four=lambda v4: v4**2,
        here=lambda one, two: one + two,
        there=lambda three, four: three + four,
        fastest=lambda v1, v2: torch.maximum(v1, v2) ** 2,
        output=lambda here, there, fastest: _logits(here + there + 0 * fastest, 33),
    )  # fmt: skip
    sheet.true("the energy of one half", aligned(model, left=_at("here")))
    sheet.true("of both", aligned(model, left=_at("here"), right=_at("there")))
    sheet.true("of two particles together", aligned(model, left=_at("one", "two")))
    wrong = {
        "both halves, swapped": {"left": _at("there"), "right": _at("here")},
        "one half is one particle": {"left": _at("one")},
        "one half is its fastest particle": {"left": _at("fastest")},
        "one half is everything": {"left": _at("here", "there")},
    }
    _refuted(sheet, model, wrong)
    speeds = CausalModel(
        left=lambda v1, v2: v1 + v2,
        answer=lambda left, v3, v4: left**2 + v3**2 + v4**2,
    )
    sheet.false(k.COARSER, "the square of the mean speed", aligned(speeds, left=_at("here")))
    return sheet


def _predators() -> k.Sheet:
    """Animals one by one; how many prey there are next year depends on how many there are."""
    model = CausalModel(
        prey=lambda x1, x2, x3, x4: x1 + x2 + x3 + x4,
        predators=lambda y1, y2: y1 + y2,
        eaten=lambda prey, predators: np.minimum(prey, 2 * predators),
        answer=lambda prey, eaten: np.clip(prey + prey // 2 - eaten, 0, 6),
    )
    sheet = _sheet(
        "predators", _all(x1=2, x2=2, x3=2, x4=2, y1=2, y2=2), model,
        hares=lambda x1, x2, x3, x4: x1 + x2 + x3 + x4,
        lynxes=lambda y1, y2: y1 + y2,
        born=lambda hares: hares // 2,
        caught=lambda hares, lynxes: torch.minimum(hares, 2 * lynxes),
        output=lambda hares, born, caught: _logits((hares + born - caught).clamp(0, 6), 7),
    )  # fmt: skip
    sheet.true("both kinds", aligned(model, prey=_at("hares"), predators=_at("lynxes")))
    sheet.true("what is eaten", aligned(model, eaten=_at("caught")))
    sheet.true("prey and eaten", aligned(model, prey=_at("hares"), eaten=_at("caught")))
    wrong = {
        "both kinds, swapped": {"prey": _at("lynxes"), "predators": _at("hares")},
        "prey is who is born": {"prey": _at("born")},
        "prey is one animal": {"prey": _at("x1")},
        "what is eaten is who eats": {"eaten": _at("lynxes")},
    }
    return _refuted(sheet, model, wrong)


def _rod() -> k.Sheet:
    """Heat in four cells of a rod, of which half of the difference flows."""
    model = CausalModel(
        left=lambda h1, h2: h1 + h2,
        right=lambda h3, h4: h3 + h4,
        flows=lambda left, right: (left - right) // 2,
        answer=lambda left, flows: np.clip(left - flows, 0, 6),
    )
    sheet = _sheet(
        "rod", _all(h1=3, h2=3, h3=3, h4=3), model,
        warm=lambda h1, h2: h1 + h2,
        cold=lambda h3, h4: h3 + h4,
        flux=lambda warm, cold: torch.div(warm - cold, 2, rounding_mode="floor"),
        edge=lambda h2, h3: h2 - h3,
        output=lambda warm, flux, edge: _logits((warm - flux + 0 * edge).clamp(0, 6), 7),
    )  # fmt: skip
    sheet.true("both halves", aligned(model, left=_at("warm"), right=_at("cold")))
    sheet.true("what flows", aligned(model, flows=_at("flux")))
    sheet.true("a half and what flows", aligned(model, left=_at("warm"), flows=_at("flux")))
    wrong = {
        "both halves, swapped": {"left": _at("cold"), "right": _at("warm")},
        "a half is one cell": {"left": _at("h1")},
        "what flows is at the edge": {"flows": _at("edge")},
        "what flows is the cold half": {"flows": _at("cold")},
    }
    _refuted(sheet, model, wrong)
    insulated = CausalModel(
        left=lambda h1, h2: h1 + h2,
        answer=lambda left, h1, h2, h3, h4: np.clip(left - (h1 + h2 - h3 - h4) // 2, 0, 6),
    )
    sheet.false(k.DROPPED, "the half does not flow", aligned(insulated, left=_at("warm")))
    return sheet


def _plate() -> k.Sheet:
    """Heat in six cells of a plate: which of its three parts is the hottest."""
    model = CausalModel(
        a=lambda t1, t2: t1 + t2,
        b=lambda t3, t4: t3 + t4,
        c=lambda t5, t6: t5 + t6,
        answer=lambda a, b, c: np.argmax(np.stack([a, b, c], 1), 1),
    )
    sheet = _sheet(
        "plate", _all(t1=2, t2=2, t3=2, t4=2, t5=2, t6=2), model,
        north=lambda t1, t2: t1 + t2,
        middle=lambda t3, t4: t3 + t4,
        south=lambda t5, t6: t5 + t6,
        column=lambda t1, t3: t1 + t3,
        output=lambda north, middle, south, column: 3 * torch.stack([north, middle, south], 1)
        - torch.arange(3.0) + 0 * column[:, None],
    )  # fmt: skip
    sheet.true("one part", aligned(model, a=_at("north")))
    sheet.true("two parts", aligned(model, a=_at("north"), c=_at("south")))
    sheet.true("a part is its cells", aligned(model, b=_at("t3", "t4")))
    wrong = {
        "two parts, swapped": {"a": _at("south"), "c": _at("north")},
        "a part is one cell": {"a": _at("t1")},
        "a part is a column": {"a": _at("column")},
        "a part is two parts": {"a": _at("north", "middle")},
    }
    return _refuted(sheet, model, wrong)


def _spins() -> k.Sheet:
    """Six spins in two blocks, of which the majority counts."""

    def majority(x: Any, y: Any, z: Any) -> Any:
        return (x + y + z) // 2

    model = CausalModel(
        first=lambda s1, s2, s3: majority(s1, s2, s3),
        second=lambda s4, s5, s6: majority(s4, s5, s6),
        answer=lambda first, second: first + 2 * second,
    )
    sheet = _sheet(
        "spins", _all(s1=2, s2=2, s3=2, s4=2, s5=2, s6=2), model,
        up=lambda s1, s2, s3: s1 + s2 + s3,
        over=lambda s4, s5, s6: s4 + s5 + s6,
        block=lambda up: up // 2,
        other=lambda over: over // 2,
        odd=lambda s1, s2, s3: (s1 + s2 + s3) % 2,
        output=lambda block, other, odd: _logits(block + 2 * other + 0 * odd, 4),
    )  # fmt: skip
    sheet.true("both blocks", aligned(model, first=_at("block"), second=_at("other")))
    sheet.true("the sum of the spins will do", aligned(model, first=_at("up")))
    sheet.true("so do the spins", aligned(model, first=_at("s1", "s2", "s3")))
    wrong = {
        "both blocks, swapped": {"first": _at("other"), "second": _at("block")},
        "a block is one spin": {"first": _at("s1")},
        "a block is its parity": {"first": _at("odd")},
    }
    _refuted(sheet, model, wrong)
    decimated = CausalModel(
        first=lambda s2: s2,
        answer=lambda first, s4, s5, s6: first + 2 * majority(s4, s5, s6),
    )
    sheet.false(
        k.COARSER, "a block is what its middle spin says", aligned(decimated, first=_at("block"))
    )
    return sheet


def _compiled() -> k.Sheet:
    """Addition to the base 3, compiled to the weights of a transformer."""
    program = adder()
    tokens = program.tokens
    features = {name: tokens[:, at] for at, name in enumerate(("a1", "a0", "b1", "b0"), start=1)}
    data = Dataset(tokens, labels=program.labels, label_pos=-1, features=features, name="compiled")
    sheet = k.Sheet(k.Ground("compiled", load_model(program.network(0.0)), data, WRONG), enumerated)
    model = CausalModel(
        carry=lambda a0, b0: (a0 + b0) // 3,
        low=lambda a0, b0: (a0 + b0) % 3,
        answer=lambda a1, b1, carry, low: 3 * (a1 + b1 + carry) + low,
    )

    def of(name: str) -> Node:
        return stream(COMPUTED, pos=-1, subspace=torch.as_tensor(program.directions(name)))

    sheet.true("the carry", aligned(model, carry=of("carry")))
    sheet.true("carry and low digit", aligned(model, carry=of("carry"), low=of("low")))
    wrong = {
        "carry and low digit, swapped": {"carry": of("low"), "low": of("carry")},
        "the carry is a digit": {"carry": of("a0")},
        "the low digit is a digit": {"low": of("b0")},
    }
    return _refuted(sheet, model, wrong)


COMPUTED = 1  # the stream in which the compiled carry stands, before layer 1


def _genes() -> k.Sheet:
    """Two genes that repress one another, and a third that reads both a step later."""
    model = CausalModel(
        x=lambda a, b: a * (1 - b),
        y=lambda c, x: c * (1 - x),
        z=lambda x, y, d: np.where(d == 1, x | y, x & (1 - y)),
        answer=lambda z, y: z + 2 * y,
    )
    sheet = _sheet(
        "genes", _all(a=2, b=2, c=2, d=2), model,
        first=lambda a, b: a * (1 - b),
        second=lambda c, first: c * (1 - first),
        third=lambda first, second, d: torch.where(d == 1, first | second, first & (1 - second)),
        output=lambda third, second: _logits(third + 2 * second, 4),
    )  # fmt: skip
    sheet.true("the first gene", aligned(model, x=_at("first")))
    sheet.true("two genes", aligned(model, x=_at("first"), y=_at("second")))
    sheet.true("the third gene", aligned(model, z=_at("third")))
    wrong = {
        "two genes, swapped": {"x": _at("second"), "y": _at("first")},
        "the first gene is its signal": {"x": _at("a")},
        "the third gene is the second": {"z": _at("second")},
    }
    _refuted(sheet, model, wrong)
    free = CausalModel(
        x=lambda a, b: a * (1 - b),
        y=lambda a, b, c: c * (1 - a * (1 - b)),
        answer=lambda x, y, d: np.where(d == 1, x | y, x & (1 - y)) + 2 * y,
    )
    sheet.false(k.DROPPED, "the first does not repress the second", aligned(free, x=_at("first")))
    return sheet


def _processor() -> k.Sheet:
    """A processor with four operations, whose results are all computed; and a flag for zero."""

    def result(op: Any, r1: Any, r2: Any) -> Any:
        results = [(r1 + r2) % 3, (r1 - r2) % 3, np.minimum(r1, r2), np.maximum(r1, r2)]
        return np.choose(op, results)

    model = CausalModel(
        result=result,
        flag=lambda result: result == 0,
        answer=lambda result, flag: result + 3 * flag,
    )
    sheet = _sheet(
        "processor", _all(op=4, r1=3, r2=3), model,
        added=lambda r1, r2: (r1 + r2) % 3,
        taken=lambda r1, r2: (r1 - r2) % 3,
        least=lambda r1, r2: torch.minimum(r1, r2),
        most=lambda r1, r2: torch.maximum(r1, r2),
        chosen=lambda op, added, taken, least, most: torch.stack([added, taken, least, most])
        .gather(0, op[None])[0],
        zero=lambda chosen: (chosen == 0).long(),
        output=lambda chosen, zero: _logits(chosen + 3 * zero, 6),
    )  # fmt: skip
    sheet.true("the result", aligned(model, result=_at("chosen")))
    sheet.true("result and flag", aligned(model, result=_at("chosen"), flag=_at("zero")))
    wrong = {
        "result and flag, swapped": {"result": _at("zero"), "flag": _at("chosen")},
        "the result is the sum": {"result": _at("added")},
        "the flag is the result": {"flag": _at("chosen")},
        "the result is a register": {"result": _at("r1")},
    }
    return _refuted(sheet, model, wrong)


# And some of ours ---------------------------------------------------------------------------------


def _carries() -> k.Sheet:
    """Addition to the base 3 in which the carry is computed three times, and two of three decide;
    a fourth copy of it is read by nobody."""
    model = CausalModel(
        carry=lambda a0, b0: (a0 + b0) // 3,
        low=lambda a0, b0: (a0 + b0) % 3,
        high=lambda a1, b1: a1 + b1,
        answer=lambda high, carry, low: 3 * (high + carry) + low,
    )

    def carried(a0: Tensor, b0: Tensor) -> Tensor:
        return (a0 + b0) // 3

    sheet = _sheet(
        "carries", _all(a1=3, a0=3, b1=3, b0=3), model,
        unit=lambda a0, b0: (a0 + b0) % 3,
        once=carried, again=carried, thrice=carried, unread=carried,
        tens=lambda a1, b1: a1 + b1,
        output=lambda unit, once, again, thrice, tens, unread: _logits(
            3 * (tens + torch.stack([once, again, thrice]).median(0).values) + unit + 0 * unread, 18
        ),
    )  # fmt: skip
    three = _at("once", "again", "thrice")
    sheet.true("the three carries", aligned(model, carry=three))
    sheet.true("carries and the high sum", aligned(model, carry=three, high=_at("tens")))
    sheet.true("two of three will do", aligned(model, carry=_at("once", "again")))
    wrong = {
        "one of three carries": {"carry": _at("once")},
        "a carry that nobody reads": {"carry": _at("unread")},
        "carry and low digit, swapped": {"carry": _at("unit"), "low": three},
        "the high sum is one digit": {"high": _at("a1")},
    }
    _refuted(sheet, model, wrong)
    without = CausalModel(
        low=lambda a0, b0: (a0 + b0) % 3, answer=lambda a1, b1, low: 3 * (a1 + b1) + low
    )
    sheet.false(k.DROPPED, "digits without carry", aligned(without, low=_at("unit")))
    return sheet


def _parity() -> k.Sheet:
    """Parity of five bits, computed one after another."""
    model = CausalModel(
        two=lambda b1, b2: b1 ^ b2,
        four=lambda two, b3, b4: two ^ b3 ^ b4,
        answer=lambda four, b5: four ^ b5,
    )
    sheet = _sheet(
        "parity", _all(b1=2, b2=2, b3=2, b4=2, b5=2), model,
        early=lambda b1, b2: b1 ^ b2,
        later=lambda early, b3, b4: early ^ b3 ^ b4,
        count=lambda b1, b2: b1 + b2,
        output=lambda later, b5, count: _logits((later ^ b5) + 0 * count, 2),
    )  # fmt: skip
    sheet.true("parity of two", aligned(model, two=_at("early")))
    sheet.true("of two and of four", aligned(model, two=_at("early"), four=_at("later")))
    wrong = {
        "parity of two is one bit": {"two": _at("b1")},
        "parity of two is that of four": {"two": _at("later")},
        "parity is a count that nobody reads": {"two": _at("count")},
    }
    return _refuted(sheet, model, wrong)


def _equality() -> k.Sheet:
    """Whether two pairs are both equal or both unequal; one vector holds both, turned."""
    turn = torch.linalg.qr(torch.tensor([[2.0, 1.0], [-1.0, 1.0]])).Q

    def both(w: Tensor, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        return torch.stack([(w == x).float(), (y == z).float()], 1) @ turn.T

    model = CausalModel(
        left=lambda w, x: w == x,
        right=lambda y, z: y == z,
        answer=lambda left, right: left == right,
    )

    def answer(both: Tensor) -> Tensor:
        told = (both @ turn).round()
        return _logits(told[:, 0] == told[:, 1], 2)

    columns = _all(w=3, x=3, y=3, z=3)
    sheet = _sheet("equality", columns, model, both=both, output=answer)

    def within(basis: Tensor) -> Node:
        return module("both", subspace=basis)

    left, right, plain = turn[:, :1], turn[:, 1:], torch.eye(2)
    sheet.true("one pair", aligned(model, left=within(left)))
    sheet.true("both pairs", aligned(model, left=within(left), right=within(right)))
    wrong = {
        "both pairs, swapped": {"left": within(right), "right": within(left)},
        "a pair is one of the units": {"left": within(plain[:, :1])},
        "a pair is all of the vector": {"left": within(plain)},
        "a pair is one of its inputs": {"left": _at("w")},
    }
    return _refuted(sheet, model, wrong)


def _choice() -> k.Sheet:
    """One of two values, as a third says."""
    model = CausalModel(
        first=lambda a, b: (a + b) % 3,
        second=lambda b, c: (b - c) % 3,
        answer=lambda which, first, second: np.where(which == 1, first, second),
    )
    sheet = _sheet(
        "choice", _all(which=2, a=3, b=3, c=3), model,
        one=lambda a, b: (a + b) % 3,
        two=lambda b, c: (b - c) % 3,
        output=lambda which, one, two: _logits(torch.where(which == 1, one, two), 3),
    )  # fmt: skip
    sheet.true("the first", aligned(model, first=_at("one")))
    sheet.true("both", aligned(model, first=_at("one"), second=_at("two")))
    sheet.true("which it is", aligned(model, which=_at("which"), second=_at("two")))
    wrong = {
        "both, swapped": {"first": _at("two"), "second": _at("one")},
        "the first is an input of both": {"first": _at("b")},
    }
    _refuted(sheet, model, wrong)
    always = CausalModel(first=lambda a, b: (a + b) % 3, answer=lambda first: first)
    sheet.false(k.DROPPED, "always the first", aligned(always, first=_at("one")))
    return sheet


def _depth() -> k.Sheet:
    """Brackets, +1 and -1: how deep they are after half of them, and whether they ever close more
    than was open."""
    columns = _all(t1=2, t2=2, t3=2, t4=2, t5=2, t6=2)

    def level(*tokens: Any) -> Any:
        return sum(1 - 2 * token for token in tokens)

    model = CausalModel(
        middle=lambda t1, t2, t3: level(t1, t2, t3),
        dips=lambda t1, middle: (level(t1) < 0) | (middle < 0),
        end=lambda middle, t4, t5, t6: middle + level(t4, t5, t6),
        dips_later=lambda middle, t4, t5: middle + level(t4, t5) < 0,
        answer=lambda dips, dips_later, end: (end == 0) & ~dips & ~dips_later,
    )
    sheet = _sheet(
        "depth", columns, model,
        half=lambda t1, t2, t3: level(t1, t2, t3),
        early=lambda t1, half: ((level(t1) < 0) | (half < 0)).long(),
        late=lambda half, t4, t5: (half + level(t4, t5) < 0).long(),
        final=lambda half, t4, t5, t6: half + level(t4, t5, t6),
        output=lambda early, late, final: _logits((final == 0) & (early == 0) & (late == 0), 2),
    )  # fmt: skip
    sheet.true("the depth at the end", aligned(model, end=_at("final")))
    sheet.true("both dips", aligned(model, dips=_at("early"), dips_later=_at("late")))
    wrong = {
        "the depth at the end is that in the middle": {"end": _at("half")},
    }
    return _refuted(sheet, model, wrong)


SYSTEMS: tuple[Callable[[], k.Sheet], ...] = (
    _gates, _transistors, _gas, _predators, _rod, _plate, _spins, _compiled, _genes, _processor,
    _carries, _parity, _equality, _choice, _depth,
)  # fmt: skip
