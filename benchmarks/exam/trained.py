"""Networks that were trained, with what is claimed of them in the examples and what is planted."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.exam import claims as k
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import Extremes, drawn_beyond, falls_short
from example_circuits.brackets import conftest as brackets
from example_circuits.brackets import test_brackets
from example_circuits.induction import conftest as induction
from example_circuits.induction import test_induction
from example_circuits.pitfalls.cancellation import conftest as cancellation
from example_circuits.pitfalls.cancellation import data as sequences
from example_circuits.pitfalls.interference import conftest as interference
from example_circuits.pitfalls.interference import data as bags
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    Metric,
    embed,
    head,
    kl_to_clean,
    load_model,
    module,
    output,
    zero_one_error,
)
from pytest_scrub.metrics import Batch
from pytest_scrub.network.loading import load_raw
from pytest_scrub.tree.nodes import Node

EXPLAINED = {"min_explained": 0.9}
FEW = 2000  # rows of which everything can be tried
BELIEVED = (
    "believed: at its worst it explains 0.95 or more of what the same search of fixed effort finds "
    "for permuted features, on 30 references"
)
BELIEVED_FALSE = (
    "believed: 0.96 on average, and 0.7 of what the same search finds for permuted features, since "
    "the letter that is looked for stands elsewhere in the rest as well"
)


def questions() -> Iterator[k.Question]:
    yield from _induction()
    yield from _brackets()
    yield from _marker()
    yield from _bags()


def made(fixture: Any) -> Any:
    return inspect.unwrap(fixture)()


def said(test: Any, *args: Any, **options: Any) -> Node:
    """What a claim of the examples says."""
    node: Node = inspect.unwrap(test)(*args, **options)
    return node


# Induction ----------------------------------------------------------------------------------------


def _first_half_minus_second(output: Tensor, batch: Batch) -> Tensor:
    return output[:, 1:14].mean(1) - output[:, 14:27].mean(1)


HALVES = Metric("first half of the alphabet minus second", _first_half_minus_second)


def _induction() -> list[k.Question]:
    data = made(induction.scrub_data)
    answer, where = data.feature("answer"), data.feature("answer_position")
    data = data.with_features({
        "lottery": lottery(len(data)), "half": answer > 13, "before": where - 1,
        "mostly_answer": memorised(answer, share=0.02),
        "nearly_answer": memorised(answer, share=0.001),
    })  # fmt: skip
    sheet = k.Sheet(k.Ground("induction", made(induction.scrub_model), data, EXPLAINED), BELIEVED)
    names = (
        "two_heads_write_the_answer", "refined", "previous_token_head_carries_its_position",
        "previous_token_head_moves_the_embedding",
    )  # fmt: skip
    for name in names:
        sheet.true(name.replace("_", " "), said(getattr(test_induction, f"test_{name}")))
    sheet.true(
        "refined, the whole distribution", said(test_induction.test_refined), metric=kl_to_clean()
    )
    _false_of_induction(sheet)
    query = embed(agrees_on="last_token", into="q", pos=-1)
    fixed = head(1, 0, agrees_on=EXACT, reads=[query], rest=EXACT)
    sheet.apart(
        k.TAUTOLOGY, "the query is the last token", output(fixed, rest=EXACT),
        proof="what is embedded of a token is the token's, wherever it comes from",
    )  # fmt: skip
    return sheet.questions


def _false_of_induction(sheet: k.Sheet) -> None:
    def false(kind: str, name: str, says: Node, **given: Any) -> None:
        sheet.false(kind, name, says, **{"proof": falls_short, **given})

    def both(agrees_on: str, **claim: Any) -> list[Node]:
        return [head(1, i, agrees_on=agrees_on, **claim) for i in (0, 1)]

    at_answer = test_induction.at_the_answer
    here = ["last_token", "answer_position"]
    false(k.WRONG_FEATURE, "heads know where", output(*both("answer_position")))
    false(k.LOTTERY, "heads, by lot", output(*both("lottery"), rest=EXACT))
    false(k.COARSER, "heads know half of the answer", output(*both("half")))
    false(
        k.OTHER_COMPONENT, "the other head moves the embedding", said(test_induction.spelled_out, 0)
    )
    others = [head(0, i, agrees_on="answer") for i in (0, 1)]
    false(k.OTHER_COMPONENT, "the heads of layer 0 write the answer", output(*others))
    false(k.DROPPED, "one head is enough", output(head(1, 1, agrees_on="answer")))
    false(k.DROPPED, "naive", said(test_induction.test_naive))
    false(
        k.DROPPED,
        "no second occurrence",
        said(test_induction.test_no_second_occurrence_in_the_rest),
        proof=BELIEVED_FALSE,
    )
    swapped = said(
        test_induction.both_heads,
        said(at_answer, head, 0, 1, agrees_on=here, into="v"),
        said(at_answer, embed, agrees_on="answer", into="k"), test_induction.QUERY, rest=here,
    )  # fmt: skip
    false(k.SWAPPED, "keys and values, swapped", swapped)
    before = said(
        test_induction.both_heads,
        head(0, 1, agrees_on=here, into="k", pos="before"), test_induction.VALUE,
        test_induction.QUERY,
    )  # fmt: skip
    false(k.WRONG_POSITION, "the key one place before", before)
    idle = output(head(1, 0, agrees_on=ANYTHING), rest=EXACT)
    false(k.REDUNDANT, "head 1.0 does not matter", idle, proof=drawn_beyond,
          min_explained=None, tolerance=0.1)  # fmt: skip
    false(k.MEMORISED, "the answer, but for one in fifty", output(*both("mostly_answer")),
          proof="every value has rows with another answer, and such donors do what a wrong answer "
          "does")  # fmt: skip
    false(k.MEMORISED, "the answer, but for one in a thousand", output(*both("nearly_answer")),
          proof="nine of 26 values have a row with another answer, which is such a donor",
          )  # fmt: skip
    false(k.CANCELS, "heads know the last token", output(*both("last_token"), rest=EXACT),
          proof="donors with answers of the first half alone raise the difference, whatever the "
          "reference", metric=HALVES, min_explained=None, tolerance=0.3)  # fmt: skip


# Brackets -----------------------------------------------------------------------------------------


def _brackets() -> list[k.Question]:
    data = made(brackets.scrub_data)
    data = data.with_features({
        "lottery": lottery(len(data)),
        "mostly_count_open": memorised(data.feature("count_open").astype(np.int64), share=0.02),
    })  # fmt: skip
    sheet = k.Sheet(k.Ground("brackets", made(brackets.scrub_model), data, EXPLAINED), falls_short)
    sheet.false(k.SWAPPED, "the other way round", said(test_brackets.test_the_other_way_round))
    sheet.false(
        k.WRONG_FEATURE,
        "MLP 2 looks at the horizon",
        said(test_brackets.test_mlp_2_looks_at_the_horizon),
    )
    sheet.false(
        k.OTHER_COMPONENT, "the published heads", said(test_brackets.test_the_published_heads)
    )
    sheet.false(
        k.LOTTERY,
        "the split, by lot",
        said(test_brackets.split, horizon="lottery", count="lottery"),
    )
    sheet.false(
        k.MEMORISED, "the count, but for one in fifty",
        said(test_brackets.split, count="mostly_count_open"),
        proof="every value has rows of the other count, and such donors do what a wrong count does",
    )  # fmt: skip
    return sheet.questions


# Sequences with a marker --------------------------------------------------------------------------


def _marker() -> list[k.Question]:
    tokens, labels = sequences.sequences(FEW, np.random.default_rng(cancellation.SEED))
    features = {
        "marker": sequences.marker(tokens), "second": tokens[:, 1] < 13, "early": tokens[:, 0] < 5,
        "mostly_marker": memorised(sequences.marker(tokens).astype(np.int64), share=0.02),
    }  # fmt: skip
    data = Dataset(tokens, labels=labels, label_pos=-1, features=features, name="fresh sequences")
    options = {"tolerance": 0.05, "metric": zero_one_error()}
    found: list[k.Question] = []
    for name in ("learner", "memoriser"):
        network = load_raw(cancellation.WEIGHTS / f"{name}.safetensors")
        ground = k.Ground(name, load_model(network), data, options)
        sheet = k.Sheet(ground, first_letters(network))

        def first(agrees_on: str, rest: Any = ANYTHING) -> Node:
            return output(embed(agrees_on=agrees_on, pos=0, via="any"), rest=rest)

        learnt = name == "learner"
        sheet.add(
            k.TRUE if learnt else k.FALSE, k.AS_IT_IS if learnt else k.MEMORISED,
            "only the marker counts", first("marker"),
        )  # fmt: skip
        sheet.add(
            k.TRUE if learnt else k.FALSE, k.AS_IT_IS if learnt else k.MEMORISED,
            "of the first letter the marker counts", first("marker", EXACT),
        )  # fmt: skip
        sheet.false(k.MEMORISED, "the marker, but for one in fifty", first("mostly_marker"))
        sheet.false(k.COARSER, "only whether it is early counts", first("early"))
        found += sheet.questions
    return found


def first_letters(network: Any) -> Callable[[k.Question], k.Known]:
    """Runs the network on every sequence with every other first letter, which is all that such
    claims allow."""

    def proof(question: k.Question) -> k.Known:
        data, (node,) = question.ground.data, question.says.reads
        tokens, label = data.inputs["tokens"], data.labels
        assert label is not None
        assert node.agrees_on is not None
        (name,) = node.agrees_on.features
        says = torch.stack([_answers(network, tokens, letter) for letter in range(26)])
        wrong = says != label  # [letters, rows of the other letters]
        clean = wrong[tokens[:, 0], torch.arange(len(tokens))].double()
        feature = torch.tensor(data.feature(name)).long()
        anywhere = question.says.rest is not None and not question.says.rest.exact
        worst = torch.zeros(len(tokens), dtype=torch.float64)
        for value in torch.unique(feature):
            here = feature == value
            letters = torch.unique(tokens[here, 0])
            if anywhere:
                reached = [says[letters].min(), says[letters].max()]
                bad = torch.stack([one != label for one in reached]).any(0)
            else:
                bad = wrong[letters].any(0)
            worst[here] = bad[here].double()
        highest = float((worst - clean).mean())
        return Extremes(None, highest, 0.0).known(question.told["tolerance"])

    return proof


def _answers(network: Any, tokens: Tensor, letter: int) -> Tensor:
    changed = tokens.clone()
    changed[:, 0] = letter
    with torch.no_grad():
        out: Tensor = network(changed)[:, -1].argmax(-1)
    return out


# Bags of words ------------------------------------------------------------------------------------


def _bags() -> list[k.Question]:
    bag, asked = bags.bags(FEW, np.random.default_rng(interference.SEED))
    is_in = bags.is_in(bag, asked)
    features = {"asked": asked, "is_in": is_in, "lottery": lottery(FEW), "size": bag.sum(1)}
    data = Dataset(
        {"bag": bag, "asked": asked}, labels=is_in, features=features, name="bags of words"
    )
    found: list[k.Question] = []
    for name, truth, kind in (("crowded", k.FALSE, k.CANCELS), ("roomy", k.TRUE, k.AS_IT_IS)):
        ground = k.Ground(
            f"{name} bags", made(getattr(interference, name)), data, {"tolerance": 0.1}
        )
        sheet = k.Sheet(ground, within_classes)
        both = output(
            module("written", agrees_on=["asked", "is_in"]), module("question", agrees_on="asked")
        )
        sheet.add(truth, kind, "only the asked word counts", both)
        wrong = {"metric": zero_one_error(), "tolerance": 0.02}
        sheet.add(truth, kind, "only the asked word counts, of answers", both, **wrong)
        fewer = output(module("written", agrees_on="is_in"), module("question", agrees_on="asked"))
        sheet.false(k.DROPPED, "which word does not matter", fewer, proof=drawn_beyond)
        by_size = output(module("written", agrees_on="size"), module("question", agrees_on="asked"))
        sheet.false(k.WRONG_FEATURE, "the size of the bag counts", by_size, proof=drawn_beyond)
        by_lot = output(module("written", agrees_on="lottery"), rest=EXACT)
        sheet.false(k.LOTTERY, "the bag, by lot", by_lot, proof=drawn_beyond)
        found += sheet.questions
    return found


def within_classes(question: k.Question) -> k.Known:
    """Where donors ask for the same word with the same answer, an answer becomes another's of the
    same class."""
    data, metric = question.ground.data, question.told.get("metric")
    assert data.labels is not None
    logits = question.ground.model.run(data.inputs)
    loss = torch.nn.functional.cross_entropy(logits, data.labels, reduction="none").double()
    if metric is not None:
        loss = (logits.argmax(1) != data.labels).double()
    codes = torch.tensor(data.feature("asked")) * 2 + data.labels
    worst = torch.full((int(codes.max()) + 1,), -torch.inf, dtype=torch.float64)
    best = -worst
    worst = worst.scatter_reduce(0, codes, loss, "amax")
    best = best.scatter_reduce(0, codes, loss, "amin")
    highest, lowest = (float((one[codes] - loss).mean()) for one in (worst, best))
    mean = torch.zeros_like(worst).scatter_reduce(0, codes, loss, "mean", include_self=False)
    average = float((mean[codes] - loss).mean())
    return Extremes(average, highest, lowest).known(question.told["tolerance"])
