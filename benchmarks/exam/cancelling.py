"""Graphs in which what is false cancels: between references, between parts, or nearly always."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.exam import claims as k
from benchmarks.exam.features import lottery
from benchmarks.exam.truth import enumerated
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FunctionGraph,
    Metric,
    logit_difference,
    module,
    output,
    squared_error,
    zero_one_error,
)
from pytest_scrub.metrics import Batch
from pytest_scrub.tree.nodes import AgreesOn, Node


def questions() -> list[k.Question]:
    return [*_pronouns(), *_differences(), *_opposed(), *_leaks(), *_guards(), *_xor()]


def _value(output: Tensor, batch: Batch) -> Tensor:
    return output


VALUE = Metric("value", _value)


def _pronouns() -> list[k.Question]:
    """She or he by the sex of a name. The metric is she minus he for everybody: whatever is
    swapped, as many references gain as lose."""
    rows = torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(8))
    sex, template, name = rows.T

    def pronoun(sex: Tensor, name: Tensor) -> Tensor:
        return 2.0 * sex - 1 + 0.02 * (name - 3.5)

    def style(template: Tensor, name: Tensor) -> Tensor:
        return 0.1 * template - 0.02 * name

    def answer(pronoun: Tensor, style: Tensor) -> Tensor:
        return torch.stack([1.5 * pronoun + style, -1.5 * pronoun + style], 1)

    features = {
        "sex": sex, "template": template, "name": name, "lottery": lottery(len(rows)),
        "name_and_template": 8 * template + name,
    }  # fmt: skip
    data = Dataset(
        {"sex": sex, "template": template, "name": name},
        labels=torch.zeros(len(rows), dtype=torch.long), features=features, name="names",
    )  # fmt: skip
    graph = FunctionGraph(pronoun=pronoun, style=style, output=answer)
    options = {"tolerance": 0.3, "metric": logit_difference(against=1)}
    sheet = k.Sheet(k.Ground("pronouns", graph, data, options), enumerated)
    for feature in ("template", "name", "name_and_template", "lottery"):
        node = module("pronoun", agrees_on=feature)
        kind = k.LOTTERY if feature == "lottery" else k.CANCELS
        sheet.false(kind, f"the pronoun knows {feature}", output(node, rest=EXACT))
    root = output(module("pronoun", agrees_on="template"), agrees_on="template", rest="template")
    sheet.false(k.CANCELS, "all of it knows the template", root)
    node = module("pronoun", agrees_on=ANYTHING)
    sheet.false(k.CANCELS, "the pronoun does not matter", output(node, rest=EXACT))
    sheet.true("the pronoun knows the sex", output(module("pronoun", agrees_on="sex"), rest=EXACT))
    node = module("pronoun", agrees_on="sex")
    sheet.true("the style is in the rest", output(node))
    node = module("pronoun", agrees_on=["sex", "template"])
    sheet.finer("the pronoun knows sex and template", output(node, rest=EXACT))
    style_only = output(module("style", agrees_on=ANYTHING), rest=EXACT)
    sheet.true("the style does not matter", style_only)
    return sheet.questions


def _differences() -> list[k.Question]:
    """Two parts that are always equal, and taken from one another."""
    u, c = torch.cartesian_prod(torch.arange(9), torch.arange(9)).T

    def plus(u: Tensor, c: Tensor) -> Tensor:
        return u + 0.01 * c

    def minus(u: Tensor, c: Tensor) -> Tensor:
        return u - 0.01 * c

    def answer(plus: Tensor, minus: Tensor, c: Tensor) -> Tensor:
        return plus - minus + c

    features = {"u": u, "c": c, "high": u > 4, "lottery": lottery(len(u))}
    data = Dataset({"u": u, "c": c}, labels=c.float(), features=features, name="pairs")
    graph = FunctionGraph(plus=plus, minus=minus, output=answer)
    options = {"tolerance": 0.4, "metric": VALUE}
    signed = k.Sheet(k.Ground("differences", graph, data, options), enumerated)
    squared = {"tolerance": 0.4, "metric": squared_error()}
    for kind, feature in ((k.CANCELS, "c"), (k.COARSER, "high"), (k.LOTTERY, "lottery")):
        both = output(
            module("plus", agrees_on=feature), module("minus", agrees_on=feature), rest=EXACT
        )
        signed.false(kind, f"both parts know {feature}", both)
        signed.false(kind, f"both parts know {feature}, squared", both, **squared)
    one = module("plus", agrees_on=ANYTHING, name="plus")
    other = module("minus", agrees_on=ANYTHING, shares="plus")
    signed.true("both from one row do not matter", output(one, other, rest=EXACT))
    both = output(module("plus", agrees_on="u"), module("minus", agrees_on="u"), rest=EXACT)
    signed.true("both parts know u", both)
    signed.true("both parts know u, squared", both, **squared)
    idle = output(
        module("plus", agrees_on=ANYTHING), module("minus", agrees_on=ANYTHING), rest=EXACT
    )
    signed.false(k.CANCELS, "neither matters", idle)
    return signed.questions


def _opposed() -> list[k.Question]:
    """One part helps, and one is wrong about as much: swapping both changes nothing on average."""
    c, s, w = torch.cartesian_prod(torch.arange(8), torch.arange(2), torch.arange(2)).T

    def helps(s: Tensor, c: Tensor) -> Tensor:
        return 2 * s - 1 + 0.005 * c

    def errs(w: Tensor, c: Tensor) -> Tensor:
        return 2 * w - 1 - 0.005 * c

    def answer(helps: Tensor, errs: Tensor, c: Tensor) -> Tensor:
        return c + helps + errs

    labels = (c + (2 * s - 1) - (2 * w - 1)).float()
    features = {"c": c, "s": s, "w": w, "s_and_c": 8 * s + c}
    data = Dataset({"c": c, "s": s, "w": w}, labels=labels, features=features, name="opposed")
    graph = FunctionGraph(helps=helps, errs=errs, output=answer)
    options = {"tolerance": 0.5, "metric": squared_error()}
    sheet = k.Sheet(k.Ground("opposed parts", graph, data, options), enumerated)

    def both(helps: AgreesOn, errs: AgreesOn) -> Node:
        nodes = module("helps", agrees_on=helps), module("errs", agrees_on=errs)
        return output(*nodes, rest=EXACT)

    sheet.true("each knows its own", both("s", "w"))
    sheet.false(k.CANCELS, "neither part matters", both(ANYTHING, ANYTHING))
    sheet.false(k.CANCELS, "both parts know c", both("c", "c"))
    sheet.false(k.SWAPPED, "each knows the other's", both("w", "s"))
    return sheet.questions


def _leaks() -> list[k.Question]:
    """A part looks aside, a little more or a little less than is accepted: on average it never
    shows."""
    main, side = torch.cartesian_prod(torch.arange(6), torch.arange(21)).T
    features = {"main": main, "side": side}
    questions = []
    for part in (0.3, 0.6, 0.8, 0.9, 1.25, 1.6, 3):
        inputs = {"main": main, "side": side}
        data = Dataset(inputs, labels=main.float(), features=features, name="main and side")
        # a side is ten away from the largest and from the smallest, on average
        graph = _looking_aside(part * 0.5 / 10)
        ground = k.Ground(f"leak of {part:g}", graph, data, {"tolerance": 0.5, "metric": VALUE})
        sheet = k.Sheet(ground, enumerated)
        node = output(module("reader", agrees_on="main"), rest=EXACT)
        says = k.TRUE if part < 1 else k.FALSE
        sheet.add(says, k.AS_IT_IS if says == k.TRUE else k.LEAK, "the reader knows main", node)
        questions += sheet.questions
    return questions


def _looking_aside(much: float) -> FunctionGraph:
    def reader(main: Tensor, side: Tensor) -> Tensor:
        return main + much * side

    def answer(reader: Tensor) -> Tensor:
        return reader

    return FunctionGraph(reader=reader, output=answer)


def _guards() -> list[k.Question]:
    """A part that matters for one row in sixty-four, and then very much."""
    main, special = torch.cartesian_prod(torch.arange(8), torch.arange(64)).T

    def guard(special: Tensor, main: Tensor) -> Tensor:
        return 20.0 * (special == 17) + 0.01 * main

    def answer(guard: Tensor, main: Tensor) -> Tensor:
        return guard + main

    features = {"main": main, "special": special, "is_special": special == 17, "odd": special % 2}
    inputs = {"main": main, "special": special}
    data = Dataset(inputs, labels=main.float(), features=features, name="guarded rows")
    graph = FunctionGraph(guard=guard, output=answer)
    ground = k.Ground("guard", graph, data, {"tolerance": 1.0, "metric": VALUE})
    sheet = k.Sheet(ground, enumerated)
    for feature in ("main", "odd"):
        node = output(module("guard", agrees_on=feature), rest=EXACT)
        sheet.false(k.MEMORISED, f"the guard knows {feature}", node)
    idle = output(module("guard", agrees_on=ANYTHING), rest=EXACT)
    sheet.false(k.MEMORISED, "the guard does not matter", idle)
    sheet.true(
        "the guard knows its row", output(module("guard", agrees_on="is_special"), rest=EXACT)
    )
    return sheet.questions


def _xor() -> list[k.Question]:
    """Of two bits one is said not to matter, and the label is the other."""
    z1, z2, noise = torch.cartesian_prod(*[torch.arange(2)] * 2, torch.arange(4)).T

    def first(z1: Tensor, noise: Tensor) -> Tensor:
        return z1 + 0.01 * noise

    def second(z2: Tensor, noise: Tensor) -> Tensor:
        return z2 - 0.01 * noise

    def answer(first: Tensor, second: Tensor) -> Tensor:
        is_other = (first.round() != second.round()).float()
        return torch.stack([1 - is_other, is_other], 1)

    features = {"z1": z1, "z2": z2, "noise": noise}
    inputs = {"z1": z1, "z2": z2, "noise": noise}
    data = Dataset(inputs, labels=z1, features=features, name="two bits")
    graph = FunctionGraph(first=first, second=second, output=answer)
    options = {"tolerance": 0.1, "metric": zero_one_error()}
    sheet = k.Sheet(k.Ground("xor", graph, data, options), enumerated)
    nodes = module("first", agrees_on="z1"), module("second", agrees_on="z2")
    sheet.true("both bits", output(*nodes))
    one = output(nodes[0], module("second", agrees_on=ANYTHING))
    sheet.false(k.CANCELS, "the second bit does not matter", one)
    sheet.false(
        k.CANCELS,
        "the second bit knows the noise",
        output(nodes[0], module("second", agrees_on="noise")),
    )
    sheet.false(
        k.SWAPPED,
        "the bits, swapped",
        output(module("first", agrees_on="z2"), module("second", agrees_on="z1")),
    )
    return sheet.questions
