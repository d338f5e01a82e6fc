"""What can be said of streams, patterns and neurons of the compiled programs."""

from __future__ import annotations

from typing import Any

from benchmarks.exam import claims as k
from benchmarks.exam.compiled import BASE, adder, inductor
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import enumerated
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    head,
    load_model,
    mlp,
    neurons,
    output,
    pattern,
    stream,
)
from pytest_scrub.tree.nodes import Node

OPTIONS = {"tolerance": 0.3}  # nats; a wrong answer costs eight
LAST = -1


def questions() -> list[k.Question]:
    return [*_of_adder(), *_of_inductor()]


def _sheet(made: Any, name: str, features: dict[str, Any]) -> k.Sheet:
    data = Dataset(
        made.tokens, labels=made.labels, label_pos=made.at, name=name,
        features={**features, "lottery": lottery(len(made.tokens))},
    )  # fmt: skip
    return k.Sheet(k.Ground(name, load_model(made.network()), data, OPTIONS), enumerated)


def _of_adder() -> list[k.Question]:
    made = adder()
    a1, a0, b1, b0 = made.tokens[:, 1:5].T
    units = a0 + b0
    sheet = _sheet(
        made,
        "units of an adder",
        {
            "a1": a1, "b1": b1, "a0": a0, "units": units, "carry": units // BASE,
            "low": units % BASE, "high": a1 + b1, "total": made.labels,
            "mostly_total": memorised(made.labels.numpy()),
        },
    )  # fmt: skip
    digits = made.program.variables["a0"].size
    carry, low = slice(0, digits**2), slice(digits**2, 2 * digits**2)  # neurons of MLP 0

    def total(*reads: Node, rest: Any = EXACT) -> Node:
        return output(mlp(1, agrees_on="total", pos=LAST, reads=reads, rest=rest), rest=EXACT)

    def of_carry(agrees_on: Any) -> Node:
        """What layer 1 finds of the carry in the stream."""
        return stream(1, agrees_on=agrees_on, pos=LAST, subspace=made.directions("carry"))

    def found(agrees_on: Any) -> Node:
        return total(stream(1, agrees_on=agrees_on, pos=LAST))

    def those(which: slice, agrees_on: Any, **claim: Any) -> Node:
        return neurons(0, which, agrees_on=agrees_on, pos=LAST, **claim)

    sheet.true("the last stream knows the total", output(stream(2, agrees_on="total", pos=LAST)))
    sheet.true("the carry is in its directions", total(of_carry("carry")))
    sheet.true("stream 1 knows what is added", found(["a1", "b1", "units"]))
    sheet.true("and the total alone is read", found("total"))
    sheet.true("neurons of the carry", total(those(carry, "carry")))
    sheet.true("neurons of the low digit", total(those(low, "low"), rest=["a1", "b1", "carry"]))
    heads = [head(0, number, agrees_on=digit, pos=LAST) for number, digit in ((1, "a0"),)]
    deep = those(carry, "carry", reads=heads, rest=EXACT)
    sheet.true("neurons of the carry read the low digit of a", total(deep))
    sheet.true("all neurons of MLP 1", output(neurons(1, slice(None), agrees_on="total", pos=LAST)))
    sheet.finer("neurons of the carry, and the low digit", total(those(carry, ["carry", "low"])))
    false = sheet.false
    false(
        k.WRONG_FEATURE, "the last stream knows the high sum", output(stream(2, agrees_on="high"))
    )
    false(k.WRONG_FEATURE, "the carry's directions hold the low digit", total(of_carry("low")))
    false(k.DROPPED, "stream 1 without a digit", found(["a1", "units"]))
    false(k.COARSER, "stream 1 knows the low digit", found("low"))
    false(k.WRONG_FEATURE, "neurons of the carry know a digit", total(those(carry, "a0")))
    false(k.SWAPPED, "neurons of the low digit know the carry", total(those(low, "carry")))
    false(k.LOTTERY, "neurons of the carry, by lot", total(those(carry, "lottery")))
    few = neurons(1, slice(None), agrees_on="mostly_total", pos=LAST)
    false(k.MEMORISED, "neurons of MLP 1, but for two sums", output(few, rest=EXACT))
    half = neurons(1, slice(0, None, 2), agrees_on=ANYTHING, pos=LAST)
    false(k.OTHER_COMPONENT, "every other neuron of MLP 1 is idle", output(half, rest=EXACT))
    return sheet.questions


def _of_inductor() -> list[k.Question]:
    made = inductor()
    tokens, answer = made.tokens, made.labels
    where = (tokens[:, 1:-1] == tokens[:, -1:]).int().argmax(1) + 2
    sheet = _sheet(
        made,
        "units of an inductor",
        {
            "last": tokens[:, -1], "answer": answer, "where": where, "before": where - 1,
            "answer_is_high": answer > 1, "fourth": tokens[:, 4],
        },
    )  # fmt: skip

    def match(*reads: Node) -> Node:
        node = head(1, 0, agrees_on=EXACT, pos=LAST, reads=reads, rest=EXACT)
        return output(node, rest=EXACT)

    def looks(agrees_on: Any, **claim: Any) -> Node:
        return pattern(1, 0, agrees_on=agrees_on, pos=LAST, **claim)

    def value(agrees_on: Any, pos: str = "where") -> Node:
        return stream(1, agrees_on=agrees_on, pos=pos, into="v")

    sheet.true("head 1.0 looks where the letter stands", match(looks("where")))
    sheet.finer("and it knows the letter", match(looks(["where", "last"])))
    asks = stream(1, agrees_on="last", pos=LAST, into="q")
    sheet.true("it finds it by the last letter", match(looks("where", reads=[asks], rest=EXACT)))
    sheet.true("and takes what stands there", match(value("answer")))
    both = match(looks("where"), value("answer"))
    sheet.true("pattern and value make it up", both)
    false = sheet.false
    false(k.WRONG_FEATURE, "head 1.0 looks as the last letter says", match(looks("last")))
    false(k.COARSER, "head 1.0 looks anywhere", match(looks(ANYTHING)))
    false(k.LOTTERY, "head 1.0 looks by lot", match(looks("lottery")))
    wrong = match(value("answer", "before"))
    sheet.apart(k.WRONG_POSITION, "it takes what stands before", wrong)
    false(k.COARSER, "it takes half of the answer", match(value("answer_is_high")))
    false(k.SWAPPED, "it is asked for the answer", match(looks("where", reads=[
        stream(1, agrees_on="answer", pos=LAST, into="q")], rest=EXACT)))  # fmt: skip
    return sheet.questions
