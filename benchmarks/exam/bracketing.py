"""Whether brackets are balanced, as a graph of functions: all strings of six.

Balanced is *count* (as many opening as closing ones) and *horizon* (no prefix closes more than it
opened). Every part looks a little at a bracket that is none of its business.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.exam import claims as k
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import enumerated
from pytest_scrub import ANYTHING, EXACT, Dataset, FunctionGraph, group, module, output
from pytest_scrub.tree.nodes import Node

LENGTH = 6
SURE = 8.0  # nats that a wrong answer costs


def graph() -> FunctionGraph:
    def depths(steps: Tensor) -> Tensor:
        return steps.cumsum(1)

    def total(depths: Tensor, steps: Tensor) -> Tensor:
        return depths[:, -1] + 0.05 * steps[:, 2]

    def lowest(depths: Tensor, steps: Tensor) -> Tensor:
        return depths.min(1).values + 0.05 * steps[:, 3]

    def first(steps: Tensor) -> Tensor:
        return steps[:, 0]

    def answer(total: Tensor, lowest: Tensor, first: Tensor) -> Tensor:
        is_balanced = (total.abs() < 0.5) & (lowest > -0.5)
        yes = SURE * (is_balanced.float() - 0.5) + 0.01 * (total + lowest + first)
        return torch.stack([-yes / 2, yes / 2], 1) * 2

    return FunctionGraph(depths=depths, total=total, lowest=lowest, first=first, output=answer)


def data() -> Dataset:
    steps = 2 * torch.cartesian_prod(*[torch.arange(2)] * LENGTH) - 1
    depths = steps.cumsum(1)
    difference, lowest = depths[:, -1], depths.min(1).values
    from_the_right = steps.flip(1).cumsum(1).max(1).values
    count, horizon = difference == 0, lowest >= 0
    features = {
        "difference": difference, "lowest": lowest, "count": count, "horizon": horizon,
        "balanced": count & horizon, "opens": steps[:, 0] > 0, "closes": steps[:, -1] < 0,
        "not_more_closed": difference >= 0, "from_the_right": from_the_right <= 0,
        "lottery": lottery(len(steps)), "mostly_count": memorised(count.long().numpy()),
        "mostly_horizon": memorised(horizon.long().numpy()),
    }  # fmt: skip
    return Dataset(
        {"steps": steps}, labels=count & horizon, features=features, name="strings of six"
    )


def total(agrees_on: object) -> Node:
    return module("total", agrees_on=agrees_on)  # type: ignore[arg-type]


def lowest(agrees_on: object) -> Node:
    return module("lowest", agrees_on=agrees_on)  # type: ignore[arg-type]


def questions() -> list[k.Question]:
    ground = k.Ground("bracketing", graph(), data(), {"tolerance": 0.2})
    sheet = k.Sheet(ground, enumerated)
    _true(sheet)
    _finer(sheet)
    _false(sheet)
    fixed = output(module("first", agrees_on="opens"), rest=EXACT)
    sheet.apart(k.TAUTOLOGY, "first agrees on what it is", fixed)
    wrong = output(module("first", agrees_on="count"), rest=EXACT)
    sheet.apart(k.REDUNDANT, "an idle part counts", wrong)
    return sheet.questions


def _true(sheet: k.Sheet) -> None:
    both = total("count"), lowest("horizon")
    sheet.true("the total counts", output(total("count"), rest=EXACT))
    sheet.true("the total is the difference", output(total("difference"), rest=EXACT))
    sheet.true("the lowest depth is the horizon", output(lowest("horizon"), rest=EXACT))
    sheet.true("count and horizon", output(*both))
    sheet.true("the answer is all there is", output(agrees_on="balanced"))
    together = group([module("total"), module("lowest")], agrees_on="balanced")
    sheet.true("both parts from one string with this answer", output(together))
    named = module("total", agrees_on="balanced", name="total")
    shared = module("lowest", agrees_on="balanced", shares="total")
    sheet.true("both parts share a string", output(named, shared))
    sheet.true(
        "the first bracket does not matter", output(module("first", agrees_on=ANYTHING), rest=EXACT)
    )
    read = module("depths", agrees_on="difference")
    node = module("total", agrees_on="count", reads=[read])
    sheet.true("the total reads the depths", output(node, rest=EXACT))


def _finer(sheet: k.Sheet) -> None:
    for feature in (["count", "horizon"], ["difference", "opens"], ["count", "closes"]):
        sheet.finer(f"the total agrees on {feature}", output(total(feature), rest=EXACT))
    for feature in (["horizon", "count"], ["lowest"], ["horizon", "difference"]):
        sheet.finer(f"the lowest depth agrees on {feature}", output(lowest(feature), rest=EXACT))


def _false(sheet: k.Sheet) -> None:
    def false(kind: str, name: str, *reads: Node, rest: object = EXACT) -> None:
        sheet.false(kind, name, output(*reads, rest=rest))  # type: ignore[arg-type]

    false(k.COARSER, "the total knows the answer", total("balanced"))
    false(k.COARSER, "the lowest depth knows the answer", lowest("balanced"))
    false(k.COARSER, "both know the answer", total("balanced"), lowest("balanced"))
    false(k.COARSER, "the total knows the sign", total("not_more_closed"))
    false(k.SWAPPED, "the other way round", total("horizon"), lowest("count"))
    false(k.WRONG_FEATURE, "the total knows the horizon", total("horizon"))
    false(k.WRONG_FEATURE, "the lowest depth knows the first bracket", lowest("opens"))
    false(k.LOTTERY, "the total, by lot", total("lottery"))
    false(k.LOTTERY, "both, by lot", total("lottery"), lowest("lottery"))
    false(k.DROPPED, "counting is enough", total("count"), rest=ANYTHING)
    false(k.DROPPED, "the horizon is enough", lowest("horizon"), rest=ANYTHING)
    false(k.WRONG_POSITION, "the horizon from the other end", lowest("from_the_right"))
    false(k.WRONG_POSITION, "the last bracket instead of the first", lowest("closes"))
    false(
        k.OTHER_COMPONENT,
        "the first bracket counts",
        module("first", agrees_on="count"),
        rest=ANYTHING,
    )
    false(k.MEMORISED, "count, but for two strings", total("mostly_count"))
    false(k.MEMORISED, "horizon, but for two strings", lowest("mostly_horizon"))
    read = module("depths", agrees_on="count")
    node = module("lowest", agrees_on="horizon", reads=[read], rest=EXACT)
    false(k.WRONG_FEATURE, "the lowest depth reads whether depths end at zero", node)
