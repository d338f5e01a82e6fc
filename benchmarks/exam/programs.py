"""What can be said of the compiled programs."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.exam import claims as k
from benchmarks.exam.compiled import BASE, Compiled, adder, counter, inductor, sorter, voter
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import enumerated
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    embed,
    group,
    head,
    load_model,
    mlp,
    output,
    zero_one_error,
)
from pytest_scrub.tree.nodes import Node

CROSS_ENTROPY = {"tolerance": 0.3}  # nats; a wrong answer costs eight
WRONG = {"tolerance": 0.05, "metric": zero_one_error()}


def questions() -> list[k.Question]:
    return [*_adder(), *_inductor(), *_counter(), *_voter(), *_sorter()]


def _sheet(made: Compiled, features: dict[str, Any], options: dict[str, Any]) -> k.Sheet:
    name = made.answer.name
    data = Dataset(
        made.tokens, labels=made.labels, label_pos=made.at, name=name,
        features={**features, "lottery": lottery(len(made.tokens))},
    )  # fmt: skip
    return k.Sheet(
        k.Ground(f"compiled, {name}", load_model(made.network()), data, options), enumerated
    )


def last(make: Any, *where: int, **claim: Any) -> Node:
    """A component at the last position."""
    node: Node = make(*where, pos=-1, **claim)
    return node


def _adder() -> list[k.Question]:
    made = adder()
    a1, a0, b1, b0 = made.tokens[:, 1:5].T
    units = a0 + b0
    features = {
        "a1": a1, "a0": a0, "b1": b1, "b0": b0, "units": units, "carry": units // BASE,
        "low": units % BASE, "high": a1 + b1, "total": made.labels, "half": made.labels // 2,
        "low_is_zero": units % BASE == 0, "mostly_total": memorised(made.labels.numpy()),
    }  # fmt: skip
    sheet = _sheet(made, features, CROSS_ENTROPY)
    directions = {name: made.directions(name) for name in ("carry", "low")}
    others = {"a1": ["b1", "units"], "carry": ["a1", "b1", "low"], "low": ["a1", "b1", "carry"]}

    def total(*reads: Node, agrees_on: object = "total", rest: object = EXACT) -> Node:
        return output(last(mlp, 1, agrees_on=agrees_on, reads=reads, rest=rest), rest=EXACT)

    def part(name: str, agrees_on: str) -> Node:
        return last(mlp, 0, agrees_on=agrees_on, subspace=directions[name], name=name)

    sheet.true("MLP 1 writes the total", output(last(mlp, 1, agrees_on="total")))
    sheet.true(
        "MLP 1 reads the high digit of a",
        total(last(head, 0, 0, agrees_on="a1"), rest=others["a1"]),
    )
    sheet.true("MLP 1 reads the carry", total(part("carry", "carry"), rest=others["carry"]))
    sheet.true("MLP 1 reads the low digit", total(part("low", "low"), rest=others["low"]))
    sheet.true("MLP 1 reads the units", total(last(mlp, 0, agrees_on="units"), rest=["a1", "b1"]))
    reads = [last(head, 0, number, agrees_on=digit) for number, digit in ((1, "a0"), (3, "b0"))]
    node = last(mlp, 0, agrees_on="units", reads=reads, rest=EXACT)
    sheet.true("MLP 0 reads the low digits", total(node, agrees_on=EXACT))
    node = last(head, 0, 1, agrees_on="a0", reads=[embed(agrees_on="a0", pos=2, into="v")])
    units_read = last(mlp, 0, agrees_on=EXACT, reads=[node], rest=EXACT)
    sheet.true("head 0.1 copies the low digit of a", total(units_read, agrees_on=EXACT))
    idle = group([head(0, number) for number in range(4)], agrees_on=ANYTHING)
    sheet.true(
        "no head is read by the output", output(idle, mlp(0, agrees_on=ANYTHING), rest=EXACT)
    )
    for more in ("a1", "low"):
        node = last(mlp, 1, agrees_on=["total", more])
        sheet.finer(f"MLP 1 agrees on {more} as well", output(node))
    _false_of_adder(sheet, total, part)
    return sheet.questions


def _false_of_adder(sheet: k.Sheet, total: Any, part: Any) -> None:
    def false(kind: str, name: str, says: Node) -> None:
        sheet.false(kind, name, says)

    high = [last(head, 0, number, agrees_on=digit) for number, digit in ((0, "a1"), (2, "b1"))]
    crossed = [last(head, 0, number, agrees_on=digit) for number, digit in ((0, "b1"), (2, "a1"))]
    false(k.WRONG_FEATURE, "MLP 1 knows the high sum", output(last(mlp, 1, agrees_on="high")))
    false(k.COARSER, "MLP 1 knows half of the total", output(last(mlp, 1, agrees_on="half")))
    false(k.LOTTERY, "MLP 1, by lot", output(last(mlp, 1, agrees_on="lottery"), rest=EXACT))
    false(
        k.MEMORISED,
        "MLP 1, but for two sums",
        output(last(mlp, 1, agrees_on="mostly_total"), rest=EXACT),
    )
    false(k.OTHER_COMPONENT, "MLP 0 writes the total", output(last(mlp, 0, agrees_on="total")))
    false(k.DROPPED, "MLP 1 reads the high digits alone", total(high[0], rest="b1"))
    false(k.SWAPPED, "the heads, swapped", total(*crossed))
    false(k.COARSER, "the low digit is zero or not", total(part("low", "low_is_zero")))
    node = last(head, 0, 1, agrees_on=EXACT, reads=[embed(agrees_on="a0", pos=1, into="v")])
    units_read = last(mlp, 0, agrees_on=EXACT, reads=[node], rest=EXACT)
    false(
        k.WRONG_POSITION,
        "head 0.1 copies from the place before",
        total(units_read, agrees_on=EXACT),
    )


def _inductor() -> list[k.Question]:
    made = inductor()
    tokens, answer = made.tokens, made.labels
    where = (tokens[:, 1:-1] == tokens[:, -1:]).int().argmax(1) + 2
    features = {
        "last": tokens[:, -1], "answer": answer, "where": where, "before": where - 1,
        "answer_is_high": answer > 1, "mostly_answer": memorised(answer.numpy()),
        "fourth": tokens[:, 4],
    }  # fmt: skip
    sheet = _sheet(made, features, CROSS_ENTROPY)
    every = ["last", "answer", "where"]

    def match(*reads: Node, agrees_on: Any = every, **claim: Any) -> Node:
        return output(last(head, 1, 0, agrees_on=agrees_on, reads=reads, **claim), rest=EXACT)

    key = head(0, 0, agrees_on="last", pos="where", into="k")
    value = embed(agrees_on="answer", pos="where", into="v")
    query = embed(agrees_on="last", pos=-1, into="q")
    sheet.true("head 1.0 writes the answer", output(last(head, 1, 0, agrees_on="answer")))
    for more in ("where", "last"):
        node = last(head, 1, 0, agrees_on=["answer", more])
        sheet.finer(f"head 1.0 agrees on {more} as well", output(node))
    sheet.true("and copies it from where it stands", match(value, rest=["last", "where"]))
    sheet.true("whatever it asks, where it finds it", match(value, rest="where"))
    sheet.true("it asks with the last letter", match(query, rest=["last", "where", "answer"]))
    sheet.true("it finds the place by head 0.0", match(key, rest=["last", "where", "answer"]))
    deep = head(0, 0, agrees_on="last", pos="where", into="k", rest=EXACT,
                reads=[embed(agrees_on="last", pos="before", into="v")])  # fmt: skip
    sheet.true("which moves letters one place on", match(deep, agrees_on=EXACT, rest=EXACT))
    sheet.true(
        "head 0.0 is not read by the output", output(head(0, 0, agrees_on=ANYTHING), rest=EXACT)
    )
    false = sheet.false
    false(
        k.WRONG_FEATURE,
        "head 1.0 knows the last letter",
        output(last(head, 1, 0, agrees_on="last")),
    )
    false(k.WRONG_FEATURE, "head 1.0 knows where", output(last(head, 1, 0, agrees_on="where")))
    false(
        k.COARSER,
        "head 1.0 knows half of the answer",
        output(last(head, 1, 0, agrees_on="answer_is_high")),
    )
    false(k.LOTTERY, "head 1.0, by lot", output(last(head, 1, 0, agrees_on="lottery"), rest=EXACT))
    few = last(head, 1, 0, agrees_on="mostly_answer")
    false(k.MEMORISED, "head 1.0, but for a few rows", output(few, rest=EXACT))
    false(
        k.OTHER_COMPONENT,
        "head 0.0 writes the answer",
        output(last(head, 0, 0, agrees_on="answer")),
    )
    false(
        k.WRONG_POSITION,
        "it copies from the place before",
        match(embed(agrees_on="answer", pos="before", into="v"), rest="last"),
    )
    false(k.DROPPED, "what it finds does not matter", match(query, agrees_on="last"))
    wrong = embed(agrees_on="answer", pos="where", into="k")
    false(k.SWAPPED, "it reads the answer as a key", match(wrong, rest="last"))

    return sheet.questions


def _counter() -> list[k.Question]:
    made = counter()
    bits = made.tokens[:, 1:]
    ones = bits.sum(1)
    features = {
        "ones": ones, "many": ones > 3, "three": ones > 2, "odd": ones % 2, "first": bits[:, 0],
        "ones_in_front": bits[:, :3].sum(1), "mostly_many": memorised((ones > 3).long().numpy()),
    }  # fmt: skip
    sheet = _sheet(made, features, CROSS_ENTROPY)

    def many(*reads: Node, rest: Any = EXACT) -> Node:
        return output(last(mlp, 1, agrees_on="many", reads=reads, rest=rest), rest=EXACT)

    def ones_of(agrees_on: str, *reads: Node) -> Node:
        return last(mlp, 0, agrees_on=agrees_on, reads=reads, rest=EXACT)

    def counted(agrees_on: Any, *reads: Node) -> Node:
        return last(head, 0, 0, agrees_on=agrees_on, reads=reads, rest=EXACT)

    def counted_so(share: Node) -> Node:
        node = last(mlp, 0, agrees_on=EXACT, reads=[share], rest=EXACT)
        return output(last(mlp, 1, agrees_on=EXACT, reads=[node], rest=EXACT), rest=EXACT)

    def share(agrees_on: str) -> Node:
        return last(head, 0, 0, agrees_on=agrees_on)

    sheet.true("MLP 1 says whether there are many", output(last(mlp, 1, agrees_on="many")))
    for more in (["many", "first"], ["ones"]):
        node = last(mlp, 1, agrees_on=more)
        sheet.finer(f"MLP 1 agrees on {more}", output(node))
    sheet.true("MLP 1 reads the count", many(last(mlp, 0, agrees_on="ones")))
    sheet.true("of the count only many matters", many(last(mlp, 0, agrees_on="many")))
    sheet.true("nothing else is read", many(last(mlp, 0, agrees_on="many"), rest=ANYTHING))
    sheet.true("MLP 0 reads the share of head 0.0", many(ones_of("ones", share("ones"))))
    keys = embed(agrees_on="ones", into="k")
    sheet.true("head 0.0 counts by its keys", counted_so(counted(EXACT, keys)))
    false = sheet.false
    false(k.COARSER, "MLP 1 knows the parity", output(last(mlp, 1, agrees_on="odd")))
    false(k.WRONG_FEATURE, "MLP 1 knows the first bit", output(last(mlp, 1, agrees_on="first")))
    false(
        k.WRONG_FEATURE, "MLP 0 says whether there are three", many(last(mlp, 0, agrees_on="three"))
    )
    false(
        k.WRONG_POSITION,
        "only the front is counted",
        output(last(mlp, 1, agrees_on="ones_in_front")),
    )
    false(k.DROPPED, "MLP 1 reads the head alone", many(share("ones"), rest=ANYTHING))
    false(k.MEMORISED, "many, but for two rows", many(last(mlp, 0, agrees_on="mostly_many")))
    false(k.LOTTERY, "MLP 1, by lot", output(last(mlp, 1, agrees_on="lottery"), rest=EXACT))
    values, front = (
        embed(agrees_on="ones", into="v"), embed(agrees_on="ones", pos=slice(1, 4), into="k")
    )  # fmt: skip
    by_values = counted_so(last(head, 0, 0, agrees_on="ones", reads=[values]))
    false(k.SWAPPED, "head 0.0 counts by its values", by_values)
    by_front = last(head, 0, 0, agrees_on=EXACT, reads=[front], rest=EXACT)
    false(k.WRONG_POSITION, "the front agrees on the count", counted_so(by_front))
    return sheet.questions


def _voter() -> list[k.Question]:
    made = voter()
    first, second, third = made.tokens[:, 1:].T
    features = {"first": first, "second": second, "third": third, "high": first > 1}
    sheet = _sheet(made, features, CROSS_ENTROPY)

    def votes(*reads: Node) -> Node:
        return output(last(mlp, 0, agrees_on=EXACT, reads=reads, rest=EXACT), rest=EXACT)

    def vote(number: int, agrees_on: Any) -> Node:
        return last(head, 0, number, agrees_on=agrees_on)

    sheet.true("MLP 0 writes the first letter", output(last(mlp, 0, agrees_on="first")))
    sheet.true(
        "three votes for the first letter", votes(*(vote(number, "first") for number in range(3)))
    )
    sheet.true(
        "two votes for it are enough", votes(vote(0, "first"), vote(1, "first"), vote(2, ANYTHING))
    )
    sheet.true("the third vote does not matter", votes(vote(2, ANYTHING)))
    every = output(head(0, 1, agrees_on=ANYTHING, via="any"), rest=EXACT)
    sheet.true("the second vote matters along no path", every)
    sheet.false(k.REDUNDANT, "two votes do not matter", votes(vote(0, ANYTHING), vote(1, ANYTHING)))
    both = [head(0, number, agrees_on=ANYTHING, via="any") for number in (1, 2)]
    sheet.false(k.REDUNDANT, "two votes matter along no path", output(*both, rest=EXACT))
    sheet.false(
        k.WRONG_FEATURE,
        "two votes for the second letter",
        votes(vote(0, "second"), vote(1, "second")),
    )
    sheet.false(
        k.COARSER,
        "three votes for half of it",
        votes(*(vote(number, "high") for number in range(3))),
    )
    sheet.false(
        k.LOTTERY, "three votes, by lot", votes(*(vote(number, "lottery") for number in range(3)))
    )
    wrong = votes(vote(0, "second"))
    sheet.apart(k.REDUNDANT, "one vote is for the second letter", wrong)

    def always_for_a(second: torch.Tensor) -> torch.Tensor:
        vote = torch.zeros(len(second), 4, made.program.width, dtype=torch.float64)
        vote[:, :, made.program.variables["one"].first] = 1
        return vote

    computed = last(head, 0, 0, agrees_on="second", computed_by=always_for_a)
    sheet.apart(k.REDUNDANT, "one vote is always for a", votes(computed))
    sheet.apart(
        k.TAUTOLOGY,
        "the first letter's embedding",
        output(embed(agrees_on="first", pos=1, via="any"), rest=EXACT),
    )
    return sheet.questions


def _sorter() -> list[k.Question]:
    made = sorter()
    letters = made.tokens[:, 1:]
    content = letters.sort(1).values
    features = {
        "content": content, "order": letters.argsort(1), "smallest": content[:, 0],
        "middle": content[:, 1], "largest": content[:, 2], "largest_at": letters.argmax(1),
        "sum": letters.sum(1), "ends": content[:, [0, 2]],
    }  # fmt: skip
    sheet = _sheet(made, features, WRONG)
    names = ("smallest", "middle", "largest")

    def placed(*features: str, first: int = 1) -> list[Node]:
        return [head(1, 0, agrees_on=name, pos=at) for at, name in enumerate(features, start=first)]

    def reads(*children: Node) -> Node:
        return output(head(1, 0, agrees_on=EXACT, reads=children, rest=EXACT), rest=EXACT)

    sheet.true("head 1.0 writes what the list holds", output(head(1, 0, agrees_on="content")))
    node = head(1, 0, agrees_on=["content", "largest_at"])
    sheet.finer("head 1.0 agrees on where the largest is as well", output(node, rest=EXACT))
    sheet.true("each in its place", output(*placed(*names), rest=EXACT))
    sheet.true("keys are the order", reads(mlp(0, agrees_on="order", into="k")))
    false = sheet.false
    false(
        k.SWAPPED,
        "the first two places, swapped",
        output(*placed("middle", "smallest"), rest=EXACT),
    )
    false(
        k.WRONG_POSITION,
        "one place too far",
        output(*placed("smallest", "middle", first=2), rest=EXACT),
    )
    false(k.COARSER, "head 1.0 knows the sum", output(head(1, 0, agrees_on="sum"), rest=EXACT))
    false(k.DROPPED, "the middle does not matter", output(head(1, 0, agrees_on="ends"), rest=EXACT))
    false(
        k.COARSER, "keys know where the largest is", reads(mlp(0, agrees_on="largest_at", into="k"))
    )
    false(
        k.WRONG_FEATURE,
        "keys know what the list holds",
        reads(mlp(0, agrees_on="content", into="k")),
    )
    false(k.SWAPPED, "the order comes by the values", reads(embed(agrees_on="order", into="v")))
    return sheet.questions
