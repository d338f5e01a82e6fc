"""What can be said of streams, patterns, neurons, latents and of every position by itself, of the
compiled programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.exam import claims as k
from benchmarks.exam.compiled import BASE, adder, inductor, sorter
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import drawn_beyond, enumerated
from pytest_scrub import (
    ANYTHING,
    EACH,
    EXACT,
    Dataset,
    Dictionary,
    error,
    group,
    head,
    latents,
    load_model,
    mlp,
    neurons,
    output,
    pattern,
    stream,
    with_dictionaries,
    zero_one_error,
)  # fmt: skip
from pytest_scrub.tree.nodes import Node

OPTIONS = {"tolerance": 0.3}  # nats; a wrong answer costs eight
LAST = -1
BY_COPYING = "head 0.0 copies the letter before to each position, and nothing of where that is"
BY_CONSTRUCTION = "the output at a position reads the head there, which has but one answer"


def questions() -> list[k.Question]:
    return [*_of_adder(), *_of_latents(), *_of_inductor(), *_of_sorter()]


def _sheet(
    made: Any, name: str, features: dict[str, Any], options: Any = OPTIONS, **dictionaries: Any
) -> k.Sheet:
    data = Dataset(
        made.tokens, labels=made.labels, label_pos=made.at, name=name,
        features={**features, "lottery": lottery(len(made.tokens))},
    )  # fmt: skip
    model = load_model(made.network())
    if dictionaries:
        model = with_dictionaries(model, **dictionaries)
    return k.Sheet(k.Ground(name, model, data, options), enumerated)


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


def _of_latents() -> list[k.Question]:
    """A unit for each value of each variable before layer 1, so that the error is nearly nothing;
    and a dictionary that lacks those of the carry, which is in its error."""
    made = adder()
    a1, a0, b1, b0 = made.tokens[:, 1:5].T
    units = a0 + b0
    every = torch.eye(made.program.width, dtype=torch.float64)
    values = Dictionary(every, None, every, at="blocks.1.hook_resid_pre")
    named = np.arange(made.program.width)[made.program.variables["carry"].directions]
    others = torch.tensor(np.setdiff1d(np.arange(made.program.width), named))
    rows = every[others]
    few = Dictionary(rows.T.clone(), None, rows, at="blocks.1.hook_resid_pre")
    features = {
        "a1": a1, "b1": b1, "a0": a0, "carry": units // BASE, "low": units % BASE,
        "high": a1 + b1, "total": made.labels,
    }  # fmt: skip
    sheet = _sheet(made, "latents of an adder", features, values=values, few=few)

    def those(variable: str, agrees_on: Any, **claim: Any) -> Node:
        where = made.program.variables[variable].directions
        return latents("values", where, agrees_on=agrees_on, pos=LAST, **claim)

    def total(*reads: Node) -> Node:
        return output(mlp(1, agrees_on="total", pos=LAST, reads=reads, rest=EXACT), rest=EXACT)

    sheet.true("latents of the carry", total(those("carry", "carry")))
    sheet.true("latents of the high digits", total(those("a1", "a1"), those("b1", "b1")))
    heads = [head(0, 1, agrees_on="a0", pos=LAST)]
    deep = those("carry", "carry", reads=heads, rest=EXACT)
    sheet.true("latents of the carry read the low digit of a", total(deep))
    sheet.true("the error does not matter", total(error("values", agrees_on=ANYTHING, pos=LAST)))
    left = [error("few", agrees_on=agrees_on, pos=LAST) for agrees_on in ("carry", "low", ANYTHING)]
    sheet.true("what a dictionary without the carry leaves is the carry", total(left[0]))

    def digits(agrees_on: str, **shares: str) -> Node:
        """The high digits of both numbers."""
        first = those("a1", agrees_on, name="first")
        return total(first, those("b1", agrees_on, **shares))

    sheet.true("high digits of one sum, of one input", digits("high", shares="first"))
    false = sheet.false
    false(k.COARSER, "high digits of one sum, of two inputs", digits("high"))
    false(k.WRONG_FEATURE, "high digits of one input, by the low", digits("low", shares="first"))
    false(k.WRONG_FEATURE, "what it leaves is the low digit", total(left[1]))
    false(k.DROPPED, "what it leaves does not matter", total(left[2]))
    false(k.WRONG_FEATURE, "latents of the carry know the low digit", total(those("carry", "low")))
    false(k.SWAPPED, "latents of high digits, swapped", total(those("a1", "b1"), those("b1", "a1")))
    false(k.LOTTERY, "latents of the low digit, by lot", total(those("low", "lottery")))
    false(k.DROPPED, "latents of a high digit do not matter", total(those("a1", ANYTHING)))
    return sheet.questions


def _of_inductor() -> list[k.Question]:
    made = inductor()
    tokens, answer = made.tokens, made.labels
    where = (tokens[:, 1:-1] == tokens[:, -1:]).int().argmax(1) + 2
    before = torch.cat([torch.full((len(tokens), 1), -1), tokens[:, :-1]], 1)
    sheet = _sheet(
        made,
        "units of an inductor",
        {
            "last": tokens[:, -1], "answer": answer, "where": where, "before": where - 1,
            "answer_is_high": answer > 1, "fourth": tokens[:, 4],
            # the letter before each position, and whether it is high; none before the first
            "letter": tokens, "letter_before": before, "before_is_high": before > 1,
        },
    )  # fmt: skip

    def match(*reads: Node) -> Node:
        node = head(1, 0, agrees_on=EXACT, pos=LAST, reads=reads, rest=EXACT)
        return output(node, rest=EXACT)

    def looks(agrees_on: Any, **claim: Any) -> Node:
        return pattern(1, 0, agrees_on=agrees_on, pos=LAST, **claim)

    def value(agrees_on: Any, pos: str = "where") -> Node:
        return stream(1, agrees_on=agrees_on, pos=pos, into="v")

    def shifted(agrees_on: str) -> Node:
        """What head 0.0 writes, from any position."""
        keys = head(0, 0, agrees_on=agrees_on, pos=EACH(with_shift=True), into="k")
        return match(keys)

    # where it looks is the same for all that agree on that, to the last digit
    sheet.apart(k.TAUTOLOGY, "head 1.0 looks where the letter stands", match(looks("where")))
    finer = match(looks(["where", "last"]))
    sheet.apart(k.TAUTOLOGY, "and it knows the letter", finer)
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
    keys = "its keys are the letters before, wherever these stand"
    sheet.true(keys, shifted("letter_before"), proof=BY_COPYING)
    for kind, name in (
        (k.WRONG_FEATURE, "letter"),
        (k.COARSER, "before_is_high"),
        (k.LOTTERY, "lottery"),
    ):
        told = f"its keys are what {name} says, wherever that stands"
        false(kind, told, shifted(name), proof=drawn_beyond)
    every = group(["embed", "pos_embed"], agrees_on="letter", pos=EACH(with_shift=True), into="k")
    false(
        k.WRONG_POSITION,
        "where a letter stands does not matter to head 0.0",
        match(head(0, 0, agrees_on=EXACT, into="k", reads=[every], rest=EXACT)),
        proof=drawn_beyond,
    )
    return sheet.questions


def _of_sorter() -> list[k.Question]:
    """The answer at each position is the letter that belongs there."""
    made = sorter()
    letters = made.tokens[:, 1:]
    content = letters.sort(1).values
    start = torch.full((len(letters), 1), -1)
    features = {
        "ranked": torch.cat([start, content], 1), "letter": made.tokens,
        "is_high": torch.cat([start, (content > 2).long()], 1),
        "reversed": torch.cat([start, content.flip(1)], 1),
    }  # fmt: skip
    wrong = {"tolerance": 0.05, "metric": zero_one_error()}
    sheet = _sheet(made, "every position of a sorter", features, wrong)

    def at_each(agrees_on: str) -> Node:
        return output(head(1, 0, agrees_on=agrees_on, pos=EACH), rest=EXACT)

    sheet.true("head 1.0 writes what belongs there", at_each("ranked"), proof=BY_CONSTRUCTION)
    false = sheet.false
    for kind, claim in (
        (k.WRONG_FEATURE, "letter"),
        (k.COARSER, "is_high"),
        (k.SWAPPED, "reversed"),
    ):
        false(kind, f"head 1.0 writes what {claim} says", at_each(claim), proof=drawn_beyond)
    return sheet.questions
