"""What evaluating would take, told before it is done, against what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pytest_scrub import ANYTHING, EXACT, Dataset, ModuleGraph, head, module, output
from pytest_scrub.engine.alike import Columns
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.explain import explain
from pytest_scrub.engine.memory import Memory
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network import as_graph
from tests.engine.counting import NON_LEAF, OUT, REPEATED, counting, drawn
from tests.network.on_two_devices import made
from tests.reference.recoding import WIDTH, that_knows_bits

CLAIM = output(
    head(1, 2, agrees_on="first", reads=[head(0, 1, agrees_on="first", via="any")]),
    head(0, 3, agrees_on="first", via="any"),
    rest=EXACT,
)


def evaluator_of(memory: Memory | None = None) -> Evaluator:
    tokens = torch.randint(12, (24, 5), generator=torch.Generator().manual_seed(1))
    data = Dataset(tokens, labels=tokens[:, 0], label_pos=-1, features={"first": tokens[:, 0] % 2})
    graph = as_graph(made("Llama"))
    return Evaluator(graph, data, CLAIM, store=ActivationStore(graph, data, memory))


def test_bytes_and_reruns_are_those_of_an_evaluation() -> None:
    evaluator = evaluator_of()
    plan = explain(evaluator)
    evaluator.store.ensure(evaluator.sites, np.arange(24))
    kept = [evaluator.store.site_cache(site) for site in evaluator.sites]
    assert plan.cached_bytes == sum(each.bytes for each in kept)
    assert (plan.rows, plan.fits) == (24, True)
    # what is read in head1.2 and what is read in the output
    assert plan.reruns == 2
    assert plan.batch_bytes >= plan.batch * plan.cached_bytes / plan.rows
    assert "with 2 reruns of layers for each" in str(plan)


def test_passes_are_as_many_as_are_told_and_none_before() -> None:
    """Rows of the same content are run once, whatever is evaluated, and one to learn the sizes."""
    graph = counting()
    store = ActivationStore(graph, REPEATED)
    evaluator = Evaluator(graph, REPEATED, NON_LEAF, OUT, store=store)
    graph.captured.clear()
    plan = explain(evaluator)
    assert set(graph.captured) == {0.0}
    graph.captured.clear()
    for seed in range(5):
        evaluator.evaluate(drawn(evaluator, 100, seed))
    # a few more, together with others, show that a row does not depend on those beside it
    once = set(graph.captured)
    assert len(once) == plan.rows == 5
    assert f"clean passes: {plan.rows} rows at most, each once" in str(plan)
    before = sum(graph.captured.values())
    evaluator.evaluate(drawn(evaluator, 100, 7))
    assert sum(graph.captured.values()) == before


def test_the_batch_that_is_told_is_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator, sizes = evaluator_of(Memory(1 << 20)), list[int]()
    plan = explain(evaluator)
    output_of = evaluator._output

    def seen(columns: Columns, *more: Any) -> torch.Tensor:
        sizes.append(len(columns))
        return output_of(columns, *more)

    monkeypatch.setattr(evaluator, "_output", seen)
    evaluator.evaluate(evaluator.space.draw(2 * plan.batch, np.random.default_rng(0)))
    assert max(sizes) == plan.batch


def test_nothing_is_kept_of_the_row_that_shows_the_sizes() -> None:
    graph = counting()
    store = ActivationStore(graph, REPEATED)
    plan = explain(Evaluator(graph, REPEATED, NON_LEAF, OUT, store=store))
    assert plan.reruns == 0
    assert "reruns" not in str(plan)
    assert not any(kept.filled[1:].any() for kept in store._kept.values())


def test_what_does_not_fit_is_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_scrub.engine.memory.free_bytes", lambda device: 10)
    plan = explain(evaluator_of())
    assert not plan.fits
    assert "  they do not fit: 9.54e-06 MiB are there in memory; name positions" in str(plan)


@pytest.mark.parametrize(
    ("part", "subspace", "predicts", "swaps"),
    [
        ("0", None, True, 0),
        ("0", np.eye(WIDTH)[:, :1], False, 0),
        ("0", np.eye(WIDTH)[:, :1], True, 8 * 500 * 64),
        ("1", None, True, 8 * 2000 * 64),
    ],
    ids=["nothing to fit", "no control", "a subspace", "a map"],
)
def test_what_a_control_takes_that_fits_the_alignment_anew(
    part: str, subspace: Any, predicts: bool, swaps: int
) -> None:
    """To the weights shuffled seven times, and to the network itself."""
    model, tokens, features = that_knows_bits(40, 24)
    data = Dataset(tokens, labels=features["bit"] ^ features["more"], features=features)
    label = (lambda reference, held: held["bit"] ^ reference["more"]) if predicts else None
    held = module(part, agrees_on=ANYTHING, name="held", subspace=subspace)
    plan = explain(Evaluator(ModuleGraph(model), data, output(held, rest=EXACT, predicts=label)))
    assert plan.fitted == swaps
    assert (f"up to {swaps:,} swaps with their gradients" in str(plan)) == (swaps > 0)
    assert plan.shuffled == predicts * (19 + 7 * (swaps > 0))
    times = f"up to {plan.shuffled} times, as a rule 7"
    assert (times in str(plan)) == predicts
