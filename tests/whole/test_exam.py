"""The exam: its networks compute what they are said to, its truths are true, its figures add up."""

from __future__ import annotations

import inspect
import itertools
import json

import numpy as np
import pytest
import torch

from benchmarks.exam import adding, cancelling, causal, compiled, dyck, modular, programs, sorting
from benchmarks.exam.__main__ import main, questions
from benchmarks.exam.claims import APART, FALSE, TRUE
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.judging import answer, record_of
from benchmarks.exam.table import tables
from benchmarks.exam.truth import agrees, enumerated, evaluator_of, extremes_of
from pytest_scrub import meaning
from pytest_scrub.metrics import Batch
from tests.reference.bridges import BridgeNetwork
from tests.reference.every_swap import Functions, every_swap, truth_of
from tests.sizes import only_in_full, sized

each = pytest.mark.parametrize


@each("make", compiled.PROGRAMS, ids=lambda make: make.__name__)
def test_compiled_networks_compute_their_programs(make):
    made = make()
    for off in (0.0, compiled.OFF):
        logits = made.network(off)(made.tokens)[:, made.at]
        assert torch.equal(logits.argmax(-1), made.labels)
        if not off:  # the answer alone has a logit, however often it is computed
            certain = 8 * torch.nn.functional.one_hot(made.labels, logits.shape[-1])
            torch.testing.assert_close(logits, certain.double(), rtol=0, atol=1e-9)


def test_variables_have_their_values_in_the_residual_stream():
    made = compiled.counter()
    stream = made.network(0.0).run_with_cache(made.tokens)[1]["blocks.0.hook_resid_post"]
    ones = made.program.variables["ones"]
    at_end = stream[:, -1, ones.directions]
    assert torch.equal(at_end.argmax(1), made.tokens[:, 1:].sum(1))
    torch.testing.assert_close(at_end.sum(1), torch.ones(64).double())


def test_graphs_compute_what_is_asked():
    for sheet in (adding.questions(), sorting.questions()):
        for ground in {question.ground for question in sheet}:
            output = ground.model.run(ground.data.inputs)
            right = output if output.shape == ground.data.labels.shape else output.argmax(1)
            assert torch.equal(right.long(), ground.data.labels)


SLOW_SYSTEMS = {"_gas", "_predators", "_rod", "_plate", "_spins", "_compiled", "_carries"}


@each(
    "system",
    [
        pytest.param(
            one, id=one.__name__[1:], marks=only_in_full if one.__name__ in SLOW_SYSTEMS else ()
        )
        for one in causal.SYSTEMS
    ],
)
def test_a_network_answers_as_the_model_does_where_an_alignment_is_so(system):
    """Of all swaps of all references: interchange accuracy is 1, or worse than is accepted."""
    sheet = system()
    assert {question.truth for question in sheet.questions} == {TRUE, FALSE}
    for question in sheet.questions:
        assert not evaluator_of(question).unscrubbed(np.arange(len(question.ground.data))).any()
        found = extremes_of(evaluator_of(question))
        if question.truth == TRUE:
            assert (found.average, found.highest, found.lowest) == (0, 0, 0), question.id
        else:
            assert found.highest > question.told["tolerance"], question.id


@each(
    "system",
    [
        pytest.param(one, id=one.__name__[1:], marks=() if one is causal._parity else only_in_full)
        for one in causal.SYSTEMS
    ],
)
def test_alignments_that_are_so_hold_and_others_do_not(system):
    for question in system().questions:
        said = answer(question)
        assert said.is_right, f"{question.id}: {said.outcome}, {said.figures}"


def by_name(sheet, *names):
    found = {question.name: question for question in sheet}
    return [found[name] for name in names]


OF_ADDING = (
    "low is the low digit", "high reads a1 alone", "carries are in the rest", "low is always zero",
    "two of three carries do not matter", "low, but for two sums",
)  # fmt: skip
OF_CANCELLING = (
    "the second bit does not matter", "the guard knows odd", "both from one row do not matter",
    "the pronoun knows template",
)  # fmt: skip
SLOW = {"high reads a1 alone", "carries are in the rest"}
ENUMERATED = [
    *by_name(adding.questions(), *OF_ADDING),
    *by_name(cancelling.questions(), *OF_CANCELLING),
]


@each(
    "question",
    [
        pytest.param(one, id=one.name, marks=only_in_full if one.name in SLOW else ())
        for one in ENUMERATED
    ],
)
def test_truths_agree_with_another_enumeration(question):
    """The tests' own, which shares nothing with the package but the tree."""
    ground, data = question.ground, question.ground.data
    features = {name: data.feature(name) for name in data.feature_names}
    graph = ground.model
    reads = {name: tuple(inspect.signature(call).parameters) for name, call in graph.nodes.items()}
    calls = {name: graph.nodes[name] for name in graph.parts if name in graph.nodes}
    network = Functions(reads, calls, data.inputs)
    metric = evaluator_of(question).metric

    def score(output, rows):
        at = torch.from_numpy(np.asarray(rows))
        return metric(output, Batch(data, at, data.labels[at], None))

    swaps = every_swap(question.says, features, np.arange(len(data)), len(data))
    truth = truth_of(question.says, network, swaps, features, score)
    found = extremes_of(evaluator_of(question))
    changes = truth.scrubbed - truth.clean
    per_row = [changes[swaps.references == row] for row in range(len(data))]
    assert found.average == pytest.approx(truth.gap, abs=1e-6)
    assert found.highest == pytest.approx(np.mean([one.max() for one in per_row]), abs=1e-6)
    assert found.lowest == pytest.approx(np.mean([one.min() for one in per_row]), abs=1e-6)


def test_a_truth_about_a_compiled_network_agrees_with_the_meaning_to_be_read():
    (question,) = by_name(programs.questions(), "two votes do not matter")
    data, evaluator = question.ground.data, evaluator_of(question)
    network = BridgeNetwork(compiled.voter().network(), data)
    rows = np.array([5, 40])
    worst = dict.fromkeys(rows.tolist(), -np.inf)
    for donors in itertools.product((3, 5, 40, 63), repeat=2):
        # only the two votes are swapped
        swap_set = evaluator.space.fill(
            rows, lambda i, parents, _, d=donors: parents if i == 0 else np.full(2, d[i % 2])
        )
        outputs = meaning.outputs(network, question.says, data, swap_set, -1)
        found = evaluator.evaluate(swap_set)
        for column, row in enumerate(rows.tolist()):
            loss = -outputs[column].log_softmax(-1)[0, data.labels[row]].item()
            assert found[column] == pytest.approx(loss, abs=1e-9)
            worst[row] = max(worst[row], loss)
    assert min(worst.values()) > 7  # both can be outvoted


def test_how_far_a_leak_reaches_is_known_in_closed_form():
    for question in cancelling.questions():
        if question.ground.name.startswith("leak"):
            part = float(question.ground.name.split()[-1])
            found = extremes_of(evaluator_of(question))
            assert found.highest == pytest.approx(part * 0.5)
            assert found.lowest == pytest.approx(-part * 0.5)


@each("name", ["modular addition", pytest.param("dyck", marks=only_in_full)])
def test_networks_of_others_are_taken_apart_as_they_compute(name):
    where = {"modular addition": modular, "dyck": dyck}[name]
    if where.folder() is None:
        pytest.skip("SCRUB_NETWORKS is not set")
    ground = next(iter(where.questions())).ground
    rows = torch.arange(0, len(ground.data), 997)
    inputs = {"tokens": ground.data.inputs["tokens"][rows]}
    if where is modular:
        logits = modular.parts_sum()[rows]
        from pytest_scrub.network.loading import load_raw

        network = load_raw(modular.folder() / "modular_addition.safetensors")
        torch.testing.assert_close(logits, network(inputs["tokens"])[:, -1], rtol=1e-4, atol=1e-3)
    else:
        decided, fronts = dyck.answers()
        said = dyck.network()(inputs["tokens"]).argmax(1)
        assert torch.equal(decided[fronts[rows], rows].long(), said)
        assert torch.equal(said, ground.data.labels[rows])


def test_what_is_written_down_is_proved():
    quick = [
        question
        for question in (*cancelling.questions(), *sized([], sorting.questions()))
        if question.proof is enumerated
    ]
    assert [question.id for question in quick if not agrees(question, enumerated(question))] == []


def test_there_are_enough_claims_of_every_kind():
    asked = list(questions())
    truths = [question.truth for question in asked]
    assert len({question.id for question in asked}) == len(asked) >= 120
    assert 0.35 < truths.count(TRUE) / (truths.count(TRUE) + truths.count(FALSE)) < 0.65
    assert all(question.proof for question in asked)
    systems = {system.__name__[1:] for system in causal.SYSTEMS}
    alignments = [one.truth for one in asked if one.ground.name in systems]
    assert len(systems) >= 10
    assert min(alignments.count(TRUE), alignments.count(FALSE)) >= 30


def test_features_that_are_wrong_are_wrong_by_as_much_as_they_say():
    values = lottery(1000)
    partners = np.bincount(values)[values] > 1
    assert partners.mean() == pytest.approx(0.2)
    right = np.arange(1000) % 7
    assert (memorised(right, share=0.03) != right).mean() == pytest.approx(0.03)


def test_the_record_adds_up():
    asked = by_name(
        cancelling.questions(), "both bits", "the bits, swapped", "the second bit does not matter"
    )
    asked += by_name(adding.questions(), "high agrees on all it reads")
    answers = [answer(question, samples=200, budget=2000) for question in asked]
    record = record_of(answers)
    assert (record["true"], record["false"], record["apart"]) == (1, 2, 1)
    for truth, stages in (
        (TRUE, "true_by_stage"),
        (FALSE, "false_by_stage"),
        (APART, "apart_by_stage"),
    ):
        assert sum(record[stages].values()) == record[truth]
        assert record[stages].get("held", 0) == record[f"{truth}_held"]
    assert sum(record["false_by_outcome"].values()) == record["false"]
    assert record["evaluations"] == sum(one.evaluations for one in answers) > 0
    assert set(record["misses"]) == {one.question.id for one in answers if not one.is_right}
    assert "| all | 2 |" in tables(answers)


def test_the_command_line_ends_with_one_json_object(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["exam", "--only", "^leak of (0.8|1.6)"])
    main()
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (record["true"], record["true_held"], record["false"]) == (1, 1, 1)
    assert record["false_held"] == 0
