"""Four numbers sorted by merging, and by a pivot, as graphs of functions: all lists of 0, 1, 2."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.exam import claims as k
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import enumerated
from pytest_scrub import ANYTHING, EXACT, Dataset, FunctionGraph, Metric, group, module, output
from pytest_scrub.metrics import Batch
from pytest_scrub.tree.nodes import Node

VALUES, LENGTH = 3, 4
NONE = 9  # an empty place, behind all numbers


def merging() -> FunctionGraph:
    def front(numbers: Tensor) -> Tensor:
        return numbers[:, :2].sort(1).values + 0.01 * numbers[:, :1]

    def back(numbers: Tensor) -> Tensor:
        return numbers[:, 2:].sort(1).values + 0.01 * numbers[:, 2:3]

    def merged(front: Tensor, back: Tensor) -> Tensor:
        return torch.cat([front, back], 1).sort(1).values.round()

    return FunctionGraph(front=front, back=back, output=merged)


def dividing() -> FunctionGraph:
    def pivot(numbers: Tensor) -> Tensor:
        return numbers[:, :1] + 0.01 * numbers[:, 3:]

    def smaller(numbers: Tensor) -> Tensor:
        rest = numbers[:, 1:]
        return rest.where(rest < numbers[:, :1], NONE).sort(1).values + 0.01 * numbers[:, :1]

    def larger(numbers: Tensor) -> Tensor:
        rest = numbers[:, 1:]
        return rest.where(rest >= numbers[:, :1], NONE).sort(1).values + 0.01 * numbers[:, 1:2]

    def joined(smaller: Tensor, pivot: Tensor, larger: Tensor) -> Tensor:
        parts = torch.cat([smaller, pivot, larger], 1).round()
        places = (parts == NONE).int().argsort(dim=1, stable=True)
        return parts.gather(1, places)[:, :LENGTH]

    return FunctionGraph(pivot=pivot, smaller=smaller, larger=larger, output=joined)


def data() -> Dataset:
    numbers = torch.cartesian_prod(*[torch.arange(VALUES)] * LENGTH)
    rest, pivot = numbers[:, 1:], numbers[:, :1]
    front, back = numbers[:, :2].sort(1).values, numbers[:, 2:].sort(1).values
    features = {
        # all of it as one value, not as one for each position
        "content": numbers.sort(1).values[:, None],
        "front": front, "back": back, "pivot": pivot[:, 0],
        "smaller": rest.where(rest < pivot, NONE).sort(1).values,
        "larger": rest.where(rest >= pivot, NONE).sort(1).values,
        "sum_in_front": front.sum(1), "largest_in_front": front[:, 1], "last": numbers[:, -1],
        "middle": numbers[:, 1:3].sort(1).values, "lottery": lottery(len(numbers)),
        "mostly_front": memorised((front[:, 0] * VALUES + front[:, 1]).numpy()),
    }  # fmt: skip
    return Dataset(
        {"numbers": numbers}, labels=numbers.sort(1).values, features=features, name="lists of four"
    )


def _unsorted(output: Tensor, batch: Batch) -> Tensor:
    return (output != batch.require_labels("unsorted")).any(1).double()


OPTIONS = {"tolerance": 0.05, "metric": Metric("unsorted lists", _unsorted, lower=0, upper=1)}


def part(name: str, agrees_on: str | list[str]) -> Node:
    return module(name, agrees_on=agrees_on)


def questions() -> list[k.Question]:
    merge = k.Sheet(k.Ground("merging", merging(), data(), OPTIONS), enumerated)
    divide = k.Sheet(k.Ground("dividing", dividing(), data(), OPTIONS), enumerated)
    _of_merging(merge)
    _of_dividing(divide)
    return merge.questions + divide.questions


def _of_merging(sheet: k.Sheet) -> None:
    halves = part("front", "front"), part("back", "back")
    sheet.true("front sorts the front", output(halves[0], rest=EXACT))
    sheet.true("both halves", output(*halves))
    sheet.true("what the list holds is all there is", output(agrees_on="content"))
    both = group([module("front"), module("back")], agrees_on="content")
    sheet.true("both halves of one list", output(both))
    sheet.finer("front agrees on more", output(part("front", ["front", "last"]), rest=EXACT))
    sheet.finer("back agrees on more", output(part("back", ["back", "front"]), rest=EXACT))
    sheet.true("the back is in the rest", output(halves[0], rest="back"))

    def false(kind: str, name: str, *reads: Node, rest: object = EXACT) -> None:
        sheet.false(kind, name, output(*reads, rest=rest))  # type: ignore[arg-type]

    false(k.WRONG_FEATURE, "front knows the back", part("front", "back"))
    false(k.WRONG_FEATURE, "front holds what is smaller", part("front", "smaller"))
    false(k.COARSER, "front knows its sum", part("front", "sum_in_front"))
    false(k.COARSER, "front knows its largest", part("front", "largest_in_front"))
    false(k.COARSER, "each half knows all", part("front", "content"), part("back", "content"))
    false(k.SWAPPED, "the halves, swapped", part("front", "back"), part("back", "front"))
    false(k.DROPPED, "the front is enough", halves[0], rest=ANYTHING)
    false(k.WRONG_POSITION, "front sorts the middle", part("front", "middle"))
    false(k.LOTTERY, "front, by lot", part("front", "lottery"))
    false(k.MEMORISED, "front, but for two lists", part("front", "mostly_front"))


def _of_dividing(sheet: k.Sheet) -> None:
    parts = part("smaller", "smaller"), part("larger", "larger")
    sheet.true("smaller holds what is smaller", output(parts[0], rest=EXACT))
    sheet.true("smaller and larger", output(*parts, rest=EXACT))
    sheet.true("the pivot", output(part("pivot", "pivot"), rest=EXACT))
    for name in ("smaller", "larger"):
        node = part(name, [name, "last"])
        sheet.finer(f"{name} agrees on the last as well", output(node, rest=EXACT))
    sheet.true("the rest knows the pivot", output(*parts, rest="pivot"))

    def false(kind: str, name: str, *reads: Node, rest: object = EXACT) -> None:
        sheet.false(kind, name, output(*reads, rest=rest))  # type: ignore[arg-type]

    false(k.OTHER_COMPONENT, "smaller sorts the front", part("smaller", "front"))
    false(
        k.SWAPPED,
        "smaller and larger, swapped",
        part("smaller", "larger"),
        part("larger", "smaller"),
    )
    false(k.WRONG_POSITION, "the pivot is the last", part("pivot", "last"))
    false(k.DROPPED, "the pivot does not matter", *parts, rest=ANYTHING)
    false(k.COARSER, "each part knows all", part("smaller", "content"), part("larger", "content"))
