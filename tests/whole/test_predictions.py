"""Claims that predict another label: the engine against `pytest_scrub.meaning`, verdicts against
every allowed swap, and what a false one could hide behind."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FeatureValues,
    FunctionGraph,
    Metric,
    WhichDonors,
    check,
    meaning,
    module,
    output,
    zero_one_error,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.errors import DataError, HypothesisError, ScrubError
from pytest_scrub.network import as_graph
from tests.reference import generate_plain
from tests.reference.bridges import BridgeNetwork
from tests.reference.families import AllFloat64
from tests.reference.generate import datasets, hypotheses, positions, small_transformers, swap_sets
from tests.reference.generate_plain import function_graphs, module_graphs
from tests.sizes import sized

# The engine against the meaning -------------------------------------------------------------------

CASES = sized(
    {"native": 8, "functions": 20, "modules": 10}, {"native": 300, "functions": 300, "modules": 200}
)
CLASSES = 5


@pytest.mark.parametrize("kind", CASES)
def test_engine_and_meaning_predict_the_same_labels(kind):
    trees = {"functions": function_graphs(), "modules": module_graphs()}
    with AllFloat64():
        settings(max_examples=CASES[kind])(
            given(trees.get(kind, small_transformers("native")), st.data())(agree)
        )()


def agree(model, data):
    if isinstance(model, generate_plain.Plain):
        labels = torch.arange(len(model.dataset)) % CLASSES
        dataset = Dataset(model.dataset.inputs, labels=labels, features=generate_plain.COLUMNS)
        root, network = data.draw(generate_plain.hypotheses(model)), model.network
        at, features = None, generate_plain.FEATURES
        graph, tolerance = as_graph(model.source), 1e-9
    else:
        dataset = data.draw(datasets(model))
        root, network = data.draw(hypotheses(model, dataset)), BridgeNetwork(model.bridge, dataset)
        at, features = data.draw(positions(dataset)), ("parity", "first", "total")
        graph, tolerance = as_graph(model.bridge), model.tolerance
    root = data.draw(predicting(root, features))
    swap_set = data.draw(swap_sets(root, dataset))
    try:
        evaluator = Evaluator(graph, dataset, root, Metric("by label", times_label, at))
    except HypothesisError as error:
        assert "would change nothing" in str(error), error  # noqa: PT017  # as without predictions
        return
    labels = [meaning.label(root, dataset, swap_set, i) for i in range(len(swap_set))]
    assert evaluator.labels(swap_set).tolist() == [int(label) for label in labels]
    outputs = meaning.outputs(network, root, dataset, swap_set, at)
    wanted = [float(out.sum() * (1 + label)) for out, label in zip(outputs, labels, strict=True)]
    scale = max(1e-6, CLASSES * sum(float(out.abs().sum()) for out in outputs))
    assert evaluator.evaluate(swap_set) == pytest.approx(wanted, rel=0, abs=tolerance * scale)


def times_label(output, batch):
    """Where the metric reads nothing, it is the sum over nothing."""
    valid = (
        1
        if batch.valid is None
        else batch.valid.reshape(*batch.valid.shape, *[1] * (output.ndim - 2))
    )
    return (output * valid).flatten(1).sum(1) * (1 + batch.labels)


@st.composite
def predicting(draw, root, features):
    """The tree with names for some of its nodes, and a label that is a sum of what is known of
    these."""
    names = []

    def named(node):
        if node.name is None and not node.is_each and draw(st.booleans()):
            names.append(f"n{len(names)}")
            node = replace(node, name=names[-1])
        return replace(node, reads=tuple(map(named, node.reads)))

    root = replace(root, reads=tuple(map(named, root.reads)))
    read = draw(st.permutations(["reference", *names]))[: draw(st.integers(1, 3))]
    which = [draw(st.sampled_from([None, *features])) for _ in read]
    event(f"{len(read)} read")

    def label(*rows):
        parts = [row.labels if on is None else row[on] for row, on in zip(rows, which, strict=True)]
        return sum((2 + i) * part for i, part in enumerate(parts)) % CLASSES

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    label.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in read])
    return replace(root, predicts=output(predicts=label).predicts)


# Verdicts against every allowed swap --------------------------------------------------------------

ONES, TENS = (column.reshape(-1) for column in np.meshgrid([0, 3, 6, 9, 12], [0, 1, 2]))
ROWS = np.arange(len(ONES))
SUM = (ONES // 10 + TENS) % CLASSES


def data(**fields):
    """Three tens by five sums of ones, of which one is carried."""
    inputs = {"ones": torch.tensor(ONES), "tens": torch.tensor(TENS)}
    features = {"ones": ONES, "tens": TENS, "c": ONES // 10, "odd": ONES % 2, "row": ROWS}
    return Dataset(inputs, **{"labels": SUM, "features": features, **fields})


def one_hot(digits):
    return torch.nn.functional.one_hot(digits.long() % CLASSES, CLASSES).double() * 20


def shown(digit):
    return one_hot(digit)


def adder(answer=lambda carry, tens, odd: carry + tens):
    """Written addition, with another function for the last step where it is to be wrong."""
    return FunctionGraph(
        carry=lambda ones: (ones >= 10).double(),
        odd=lambda ones: ones % 2.0,
        digit=answer,
        output=shown,
    )


def carried(reference, carry):
    return (reference["tens"] + carry["ones"] // 10) % CLASSES


def direct(**said):
    """The carry of another row, all else the reference's own."""
    carry = module("carry", name="carry", agrees_on=ANYTHING)
    digit = module("digit", agrees_on=EXACT, rest=EXACT, reads=[carry])
    return output(digit, rest=EXACT, **said)


def by_way_of_a_row_that_feeds_nothing(**said):
    """The own input of `digit` is read by nothing but the prediction; what is below agrees with
    it."""
    carry = module("carry", agrees_on="c")
    digit = module("digit", name="digit", agrees_on=ANYTHING, rest="tens", reads=[carry])
    return output(digit, rest=EXACT, **said)


def of_odd(reference, digit):
    """Of the row of `digit` also what neither its child nor its rest agrees on."""
    return (digit["tens"] + digit["c"] + (digit["ones"] == 3)) % CLASSES


def every(slots):
    """All allowed swaps of all references by hand: (reference, rows by slot, chance)."""
    for x in ROWS:
        yield from ((x, rows, chance / len(ROWS)) for rows, chance in slots(x))


def of_direct(x):
    yield from (({"carry": r}, 1 / len(ROWS)) for r in ROWS)


def of_way(x):
    for d in ROWS:
        rests, carries = ROWS[TENS[d] == TENS], ROWS[ONES[d] // 10 == ONES // 10]
        for rest, carry in product(rests, carries):
            chance = 1 / len(ROWS) / len(rests) / len(carries)
            yield {"digit": d, "rest": rest, "carry": carry}, chance


def answered(x, rows, answer):
    """What the network says under a swap: its last step is on one row, the carry's on another."""
    rest, carry = rows.get("rest", x), rows["carry"]
    return int(answer(ONES[carry] // 10, TENS[rest], ONES[rest] % 2)) % CLASSES


def brute(slots, answer, said):
    """Mean error against a prediction, mean of the worst of every reference, share of swaps that
    should change the label; `said`: from x and the rows."""
    worst, error, changed = dict.fromkeys(ROWS, 0.0), 0.0, 0.0
    for x, rows, chance in every(slots):
        label = int(said(x, rows)) % CLASSES
        wrong = float(answered(x, rows, answer) != label)
        error, changed = error + chance * wrong, changed + chance * (label != SUM[x])
        worst[x] = max(worst[x], wrong)
    return error, float(np.mean(list(worst.values()))), changed


TREES = {
    "leaf": (direct, of_direct, carried, lambda x, rows: TENS[x] + ONES[rows["carry"]] // 10),
    "no leaf": (
        by_way_of_a_row_that_feeds_nothing,
        of_way,
        of_odd,
        lambda x, rows: TENS[d := rows["digit"]] + ONES[d] // 10 + (ONES[d] == 3),
    ),
}
NETWORKS = {
    "right": lambda carry, tens, odd: carry + tens,
    "wrong": lambda carry, tens, odd: carry * odd + tens,
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("tree", TREES)
def test_figures_are_those_of_every_allowed_swap(tree, network):
    make, slots, function, said = TREES[tree]
    answer = NETWORKS[network]
    rivals = {"tens alone": lambda reference: reference["tens"]}
    graph, rows = adder(answer), data()
    v = check(
        make(predicts=function, rivals=rivals), graph, rows, metric=zero_one_error(),
        tolerance=0.01, samples=20_000, adversaries=(WhichDonors(),), budget=300_000,
    )  # fmt: skip
    clean = np.mean([answered(x, {"carry": x}, answer) != SUM[x] for x in ROWS])
    error, worst, changed = brute(slots, answer, said)
    rival, *_ = brute(slots, answer, lambda x, rows: TENS[x])
    assert v.gap.exact
    assert v.gap.mean == pytest.approx(error - clean)
    assert v.predicted.accuracy.mean == pytest.approx(1 - error)
    assert v.predicted.changed.mean == pytest.approx(changed)
    (of_rival,) = v.predicted.rivals
    assert of_rival.gap.exact
    assert of_rival.gap.mean == pytest.approx(rival - error)
    assert of_rival.outcome == ("held" if rival > error else "refuted")
    assert {one.by: one.agrees for one in v.predicted.answers}["tens alone"] == pytest.approx(
        1 - rival
    )
    attempt = v.search.attempts[0]
    assert attempt.exhaustive
    assert attempt.gap == pytest.approx(worst - clean)


# What a false claim could hide behind -------------------------------------------------------------


@pytest.mark.parametrize(
    ("ones", "samples", "outcome", "word"),
    [
        (32, 400, "untested", "does not tell"),  # 12 % should change the label
        (32, 20_000, "held", None),  # drawn until that is told
        (20, 20_000, "untested", "only"),  # 7.7 %
        (150, 400, "held", None),  # 42 %
    ],
)
def test_enough_has_to_change_by_its_interval(ones, samples, outcome, word):
    a = np.arange(500) < ones
    rows = Dataset({"a": torch.tensor(a)}, labels=a.astype(int), features={"a": a})
    graph = FunctionGraph(A=lambda a: a.double(), output=lambda A: 1.0 * one_hot(A))
    root = output(
        module("A", name="a", agrees_on=ANYTHING), rest=EXACT, predicts=lambda a: a["a"].astype(int)
    )
    found = check(
        root, graph, rows, metric=zero_one_error(), tolerance=0.02, samples=samples, adversaries=()
    )
    assert found.outcome == outcome
    changed = found.predicted.changed
    assert changed.low < 2 * (ones / 500) * (1 - ones / 500) < changed.high
    assert (found.predicted.untested is None) is (word is None)
    assert word is None or word in found.predicted.untested
    assert found.samples <= samples
    assert (found.samples > 400) == (samples > 400)
    assert found.predicted.accuracy.mean == found.predicted.accuracy.high == 1
    assert found.predicted.accuracy.low == pytest.approx(0.025 ** (1 / 400))


def unmoved():
    """A network that computes the answer beside `carry`, which therefore changes nothing."""
    return FunctionGraph(
        carry=lambda ones: (ones >= 10).double(),
        digit=lambda carry, tens, ones: (ones >= 10) + tens + 0 * carry,
        output=shown,
    )


def stubborn():
    """A network that never carries, and is wrong by one."""
    return FunctionGraph(
        carry=lambda ones: (ones >= 10).double(),
        digit=lambda carry, tens: tens + 1 + 0 * carry,
        output=shown,
    )


def sufficient(**said):
    """That `digit` alone is enough, whatever the rest is."""
    return output(module("digit", agrees_on=EXACT), rest=ANYTHING, **said)


def again(reference, carry):
    return carried(reference, carry) + 0


def but_for_few(reference, carry):
    return np.where(carry["row"] < 2, 4, carried(reference, carry))


# of each what it comes to, and a word that says why
FALSE = {
    "it says what is so anyway": (
        direct(predicts=lambda reference: reference.labels),
        unmoved,
        {},
        "untested",
        "0.0% of",
    ),
    "it reads a node and says what is so anyway": (
        direct(predicts=lambda reference, carry: reference.labels + 0 * carry["c"]),
        unmoved,
        {},
        "untested",
        "0.0% of",
    ),
    "the label is another for few references": (
        direct(predicts=lambda reference: (reference.labels + (reference["row"] < 2)) % CLASSES),
        unmoved,
        {"tolerance": 0.2},
        "refuted",
        "no change",
    ),
    "the label is another for few donors": (
        direct(predicts=lambda reference, carry: (reference.labels + (carry["row"] < 2)) % CLASSES),
        unmoved,
        {"tolerance": 0.2},
        "weak",
        "another draw",
    ),
    "the network says so without any swap": (
        direct(predicts=lambda reference: (reference["tens"] + 1) % CLASSES),
        stubborn,
        {"direction": "worse"},
        "untested",
        "without any swap",
    ),
    "a rival says the same": (
        direct(predicts=carried, rivals={"again": again}),
        adder,
        {},
        "untested",
        "again",
    ),
    "a rival says more": (
        direct(
            predicts=but_for_few,
            rivals={"all of it": carried},
        ),
        adder,
        {"tolerance": 0.3},
        "refuted",
        "all of it",
    ),
    "the donor has the reference's label": (
        output(
            module("digit", name="digit", agrees_on=["tens", "c"]),
            rest=EXACT,
            predicts=lambda digit: digit.labels,
        ),
        adder,
        {},
        "untested",
        "0.0% of",
    ),
    "the donor's label is not what the swap brings": (
        direct(predicts=lambda carry: carry.labels),
        adder,
        {},
        "refuted",
        "false of this network",
    ),
}


@pytest.mark.parametrize("name", FALSE)
def test_a_false_prediction_does_not_hold(name):
    root, network, options, outcome, word = FALSE[name]
    given = {"metric": zero_one_error(), "tolerance": 0.1, "adversaries": (), **options}
    verdict = check(root, network(), data(), **given)
    assert verdict.outcome == outcome
    assert word in str(verdict)
    assert verdict == type(verdict).from_json(verdict.to_json())


def by_the_dataset(output, batch):
    return (output.argmax(-1) != batch.dataset.labels[batch.rows]).double()


def at_random(carry):
    return np.random.default_rng().integers(0, CLASSES, len(carry["c"]))


def that_skips_some(output, batch):
    return torch.nn.functional.cross_entropy(output, batch.labels, reduction="none")


WRONG = {
    "gives the label -100 in place of a class": (
        {"metric": that_skips_some},
        lambda carry: np.where(carry["c"] == 0, 0, -100),
    ),
    "reads no label": ({"metric": Metric("own", by_the_dataset, lower=0, upper=1)}, carried),
    "when it is called for it alone": ({}, lambda carry: 0 * carry["c"] + carry["c"].max()),
    "the same every time": ({}, at_random),
    "one label for each reference": ({}, lambda carry: carry["c"][:1]),
    "returns float64 numbers": ({}, lambda carry: carry["c"] / 3),
    "did you mean 'carry'": ({}, lambda carri: carri["c"]),
    "no feature 'cc'": ({}, lambda carry: carry["cc"]),
    "a feature is written rows['c']": ({}, lambda carry: carry.c),
    "carry['ones'] are values of one feature, carry itself holds all": (
        {},
        lambda carry: 2 * carry,
    ),
    "of object, of which no labels can be made": ({}, lambda carry: carry["c"].astype(object)),
}


@pytest.mark.parametrize("word", WRONG)
def test_a_prediction_that_means_nothing_is_refused(word):
    options, function = WRONG[word]
    given = {"metric": zero_one_error(), "tolerance": 0.1, "adversaries": (), **options}
    with pytest.raises(ScrubError) as raised:
        check(direct(predicts=function), adder(), data(), **given)
    assert word in str(raised.value)


@pytest.mark.parametrize("name", ["the claim", "no change", "no swap"])
def test_a_rival_has_a_name_of_its_own(name):
    with pytest.raises(HypothesisError, match=f"one called '{name}'"):
        output(predicts=carried, rivals={name: carried})


def test_labels_at_several_positions_change_where_they_are_read():
    tokens = np.random.default_rng(0).integers(0, CLASSES, size=(40, 3))
    rows = Dataset({"t": torch.tensor(tokens)}, labels=tokens, features={"first": tokens[:, 0]})
    graph = FunctionGraph(A=lambda t: t.double(), output=lambda A: 1.0 * one_hot(A))
    claim = {
        "held": lambda reference, a: np.stack([reference.labels[:, 0], *a.labels.T[1:]], axis=1),
        "refuted": lambda reference, a: a.labels,
    }
    for outcome, function in claim.items():
        root = output(
            module("A", agrees_on=EXACT, pos=0),
            module("A", name="a", agrees_on=ANYTHING, pos=slice(1, None)),
            rest=EXACT,
            predicts=function,
        )
        found = check(
            root, graph, rows, metric=zero_one_error(), tolerance=0.1, adversaries=(), samples=2000
        )
        assert found.outcome == outcome
        expected = 1 if outcome == "held" else 0.2
        assert found.predicted.accuracy.mean == pytest.approx(expected, abs=0.1)


def test_nodes_that_share_a_donor_are_predicted_from_it():
    graph = FunctionGraph(
        A=lambda a: a.double(), B=lambda b: b.double(), output=lambda A, B: one_hot(A + B)
    )
    a, b = (column.reshape(-1) for column in np.meshgrid([0, 1], [0, 1]))
    rows = Dataset(
        {"a": torch.tensor(a), "b": torch.tensor(b)}, labels=a + b, features={"a": a, "b": b}
    )
    predicted = {
        "held": lambda taker: taker["a"] + taker["b"],
        "refuted": lambda reference, taker: reference["a"] + taker["b"],
    }
    for outcome, function in predicted.items():
        root = output(
            module("A", name="lender", agrees_on=ANYTHING),
            module("B", name="taker", agrees_on=ANYTHING, shares="lender"),
            predicts=function,
        )
        found = check(root, graph, rows, metric=zero_one_error(), tolerance=0.1)
        assert found.outcome == outcome


def test_a_second_draw_is_never_a_slot_of_the_claim():
    """Or the null would read what the claim reads."""
    graph = FunctionGraph(
        predicted=lambda ones: (ones >= 10).double(),
        digit=lambda predicted, tens: predicted + tens,
        output=shown,
    )
    below = module("predicted", agrees_on="c")
    digit = module("digit", name="digit", agrees_on=ANYTHING, rest="tens", reads=[below])
    root = output(digit, rest=EXACT, predicts=lambda digit: (digit["tens"] + digit["c"]) % CLASSES)
    with pytest.raises(HypothesisError, match="two slots would be called output/digit/predicted"):
        check(root, graph, data(), metric=zero_one_error(), tolerance=0.1)


@dataclass
class Unhashable:
    def __call__(self, carry):
        return carry["c"]


def test_a_prediction_that_equals_others_by_chance_is_refused():
    with pytest.raises(HypothesisError, match="Unhashable has no hash"):
        output(predicts=Unhashable())


def test_a_prediction_cannot_write_which_rows_are_swapped():
    """Neither the swap set's own, which would be what is evaluated, nor those that it is given,
    whose features it would read of others."""
    rows = np.array([0, 1])
    given = FeatureValues(data(), rows)
    with pytest.raises(ValueError, match="read-only"):
        given.rows[:] = 0
    assert rows.flags.writeable
    assert given.rows.tolist() == rows.tolist() == [0, 1]


def test_labels_of_fresh_rows_are_not_made_up():
    fresh = {"ones": torch.tensor([0, 12]), "tens": torch.tensor([1, 2])}
    new = np.array([len(ROWS)])
    assert FeatureValues(data().extend(fresh, labels=[1, 3]), new).labels.tolist() == [1]
    extended = data().extend(fresh)
    assert FeatureValues(extended, ROWS).labels.tolist() == SUM.tolist()
    for rows in (extended, extended.extend(fresh, labels=[1, 3])):
        with pytest.raises(DataError, match="added without labels= have none"):
            FeatureValues(rows, new).labels  # noqa: B018


def test_no_mutant_lacks_a_node_that_the_prediction_reads():
    """`carry` is below `digit`, and gone where that is dropped."""
    found = check(
        direct(predicts=carried), adder(), data(), metric=zero_one_error(), tolerance=0.1,
        adversaries=(), mutate=True,
    )  # fmt: skip
    assert found.outcome == "held"
    assert found.power is not None
    assert "dropped" not in {mutant.kind for mutant in found.power.mutants}
