"""Two-digit addition to the base 3 as a graph of functions, and what can be said of it.

The carry is computed three times, and two of three decide: each alone is redundant. As trained
networks are, it is a little off: every part looks at a digit that is not its own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.exam import claims as k
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import enumerated
from pytest_scrub import ANYTHING, EXACT, Dataset, FunctionGraph, group, module, output
from pytest_scrub.tree.nodes import Node

BASE = 3
TOTALS = 2 * BASE**2
STIFFNESS = 4.0  # of the logits: a total that is off by one costs four nats


def graph() -> FunctionGraph:
    def low(a0: Tensor, b0: Tensor, a1: Tensor) -> Tensor:
        return (a0 + b0) % BASE + 0.02 * a1

    def carry(a0: Tensor, b0: Tensor, b1: Tensor) -> Tensor:
        return (a0 + b0) // BASE + 0.02 * b1

    def again(a0: Tensor, b0: Tensor, b1: Tensor) -> Tensor:
        return (a0 + b0) // BASE + 0.01 * b1

    def thrice(a0: Tensor, b0: Tensor, a1: Tensor) -> Tensor:
        return (a0 + b0) // BASE - 0.01 * a1

    def high(a1: Tensor, b1: Tensor, a0: Tensor) -> Tensor:
        return a1 + b1 + 0.01 * a0

    def answer(low: Tensor, carry: Tensor, again: Tensor, thrice: Tensor, high: Tensor) -> Tensor:
        carried = torch.stack([carry, again, thrice]).median(0).values
        value = BASE * (high + carried) + low
        return -STIFFNESS * (torch.arange(TOTALS) - value[:, None]) ** 2

    return FunctionGraph(low=low, carry=carry, again=again, thrice=thrice, high=high, output=answer)


def data() -> Dataset:
    digits = torch.cartesian_prod(*[torch.arange(BASE)] * 4)
    a1, a0, b1, b0 = digits.T
    units, high = a0 + b0, a1 + b1
    features = {
        "a1": a1, "a0": a0, "b1": b1, "b0": b0, "units": units, "low": units % BASE,
        "carry": units // BASE, "high": high, "total": BASE * high + units,
        "low_is_zero": units % BASE == 0, "half_of_high": high // 2,
        "lottery": lottery(len(digits)),
        "mostly_low": memorised((units % BASE).numpy()), "mostly_high": memorised(high.numpy()),
        "mostly_carry": memorised((units // BASE).numpy()),
    }  # fmt: skip
    inputs = {"a1": a1, "a0": a0, "b1": b1, "b0": b0}
    return Dataset(inputs, labels=BASE * high + units, features=features, name="sums")


def carries(agrees_on: object) -> Node:
    names = ("carry", "again", "thrice")
    return group([module(name) for name in names], agrees_on=agrees_on)  # type: ignore[arg-type]


def low(agrees_on: object) -> Node:
    return module("low", agrees_on=agrees_on)  # type: ignore[arg-type]


def high(agrees_on: object) -> Node:
    return module("high", agrees_on=agrees_on)  # type: ignore[arg-type]


def zero(low: Tensor) -> Tensor:
    return torch.zeros(len(low))


def itself(low: Tensor) -> Tensor:
    return torch.as_tensor(low).float()


def questions() -> list[k.Question]:
    ground = k.Ground("adding", graph(), data(), {"tolerance": 0.5})
    sheet = k.Sheet(ground, enumerated)
    _true(sheet)
    _finer(sheet)
    _false(sheet)
    _apart(sheet)
    return sheet.questions


def _true(sheet: k.Sheet) -> None:
    a1, b1 = module("a1", agrees_on="a1"), module("b1", agrees_on="b1")
    sheet.true("low is the low digit", output(low("low"), rest=EXACT))
    sheet.true("the carry is the carry", output(carries("carry"), rest=EXACT))
    sheet.true("high is the sum of the high digits", output(high("high"), rest=EXACT))
    sheet.true("the three parts", output(low("low"), carries("carry"), high("high"), rest=EXACT))
    sheet.true("low is made of the units", output(low("units"), rest=EXACT))
    sheet.true("the total is all there is", output(agrees_on="total"))
    units = group([module(name) for name in ("low", "carry", "again", "thrice")], agrees_on="units")
    sheet.true("the units, together", output(units, high("high")))
    node = module("high", agrees_on="high", reads=[a1, b1], rest=EXACT)
    sheet.true("high reads both high digits", output(node, rest=EXACT))
    node = module("high", agrees_on="high", reads=[a1], rest="b1")
    sheet.true("high reads a1, and b1 is in its rest", output(node, rest=EXACT))
    sheet.true("carries are in the rest", output(low("low"), high("high"), rest="carry"))
    one = module("thrice", agrees_on=ANYTHING)
    sheet.true("one of three carries does not matter", output(one, rest=EXACT))
    node = module("low", agrees_on="low", computed_by=itself)
    sheet.true("low is computed", output(node, rest=EXACT))


def _finer(sheet: k.Sheet) -> None:
    nodes: dict[str, tuple[Callable[[object], Node], list[object]]] = {
        "low": (low, [["low", "high"], ["low", "carry"], ["units", "b1"]]),
        "carry": (carries, [["carry", "low"], ["carry", "high"], "units"]),
        "high": (high, [["high", "low"], ["high", "carry"], ["a1", "b1"]]),
    }
    for name, (node, features) in nodes.items():
        for feature in features:
            sheet.finer(f"{name} agrees on {feature}", output(node(feature), rest=EXACT))


def _false(sheet: k.Sheet) -> None:
    def false(kind: str, name: str, *reads: Node, rest: object = EXACT) -> None:
        sheet.false(kind, name, output(*reads, rest=rest))  # type: ignore[arg-type]

    false(k.WRONG_FEATURE, "low knows the high sum", low("high"))
    false(k.WRONG_FEATURE, "high knows the low digit", high("low"))
    false(k.WRONG_FEATURE, "low knows one digit", low("a0"))
    false(k.LOTTERY, "low, by lot", low("lottery"))
    false(k.LOTTERY, "high, by lot", high("lottery"))
    false(k.COARSER, "low is zero or not", low("low_is_zero"))
    false(k.COARSER, "half of the high sum", high("half_of_high"))
    false(k.OTHER_COMPONENT, "low carries", low("carry"), carries("carry"))
    false(k.DROPPED, "the carry does not matter", low("low"), high("high"), rest=ANYTHING)
    node = module("high", agrees_on="high", reads=[module("a1", agrees_on="a1")])
    false(k.DROPPED, "high reads a1 alone", node)
    false(k.SWAPPED, "low and carry the other way round", low("carry"), carries("low"))
    idle = [module(name, agrees_on=ANYTHING) for name in ("carry", "again")]
    false(k.REDUNDANT, "two of three carries do not matter", *idle)
    false(k.MEMORISED, "low, but for two sums", low("mostly_low"))
    false(k.MEMORISED, "high, but for two sums", high("mostly_high"))
    false(k.MEMORISED, "carry, but for two sums", carries("mostly_carry"))
    node = module("low", agrees_on="low", computed_by=zero)
    false(k.WRONG_FEATURE, "low is always zero", node)


def _apart(sheet: k.Sheet) -> None:
    wrong = module("again", agrees_on="high")
    sheet.apart(k.REDUNDANT, "one of three carries knows the high sum", output(wrong, rest=EXACT))
    node = module("carry", agrees_on="carry", computed_by=zero)
    sheet.apart(k.REDUNDANT, "one of three carries is always zero", output(node, rest=EXACT))
    every = ["a1", "b1", "a0"]
    sheet.apart(k.TAUTOLOGY, "high agrees on all it reads", output(high(every), rest=EXACT))
