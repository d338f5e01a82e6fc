"""The norm of the output: its form is measured, and donors are ranked by what
they do through it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub.adversaries.output_norm import OutputRanking, form_of
from pytest_scrub.adversaries.search import (
    Spending,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.tree.nodes import EXACT, head, mlp, module, output
from tests.adversaries.problems import (
    ANY,
    MANY,
    OUT,
    REFERENCES,
    SOME,
    TOKENS,
    by_all_donors,
    candidates,
    changes,
    dataset,
    generator,
    product,
    transformer,
)
from tests.sizes import few_in_quick

STREAMS = torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
GAIN, BIAS = (
    torch.linspace(-2, 3, 8, dtype=torch.float64),
    torch.linspace(1, -1, 8, dtype=torch.float64),
)


def layer_norm(stream: Tensor) -> Tensor:
    return torch.nn.functional.layer_norm(stream, (8,), GAIN, BIAS, eps=1e-6)


def rms_norm(stream: Tensor) -> Tensor:
    return torch.nn.functional.rms_norm(stream, (8,), GAIN, eps=1e-6)


@pytest.mark.parametrize(("norm", "center"), [(layer_norm, True), (rms_norm, False)])
def test_the_form_of_a_norm_is_measured(norm: Any, center: bool) -> None:
    form = form_of(norm, STREAMS)
    assert form is not None
    assert form.center is center
    torch.testing.assert_close(form.gain, GAIN, rtol=1e-4, atol=1e-4)
    direction = form.direction(STREAMS)
    normed = form.gain * direction / direction.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(
        normed + norm(torch.zeros(1, 8, dtype=torch.float64)), norm(STREAMS), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    "other",
    [
        torch.tanh,
        lambda stream: stream,  # has no length to divide by: to first order it is exact
        lambda stream: stream / stream.abs().mean(-1, keepdim=True),
        lambda stream: torch.nn.functional.layer_norm(stream, (8,), eps=10.0),
        lambda stream: layer_norm(stream).relu(),
    ],
)
def test_what_has_another_form_is_not_taken_for_a_norm(other: Any) -> None:
    assert form_of(other, STREAMS) is None


def log_odds(out: Tensor, batch: Any) -> Tensor:
    flat = out.flatten(0, -2)
    labels = batch.labels.repeat_interleave(len(flat) // len(out))
    odds = flat.gather(1, 1 - labels[:, None]) - flat.gather(1, labels[:, None])
    return odds.reshape(len(out), -1).mean(1)


@few_in_quick(2)
@pytest.mark.parametrize("norm", ["LN", "RMS"])
@pytest.mark.parametrize(("label_pos", "pos"), [(-1, -1), (slice(1, 3), -2)])
def test_the_output_ranks_donors_by_the_true_log_odds(norm: str, label_pos: Any, pos: int) -> None:
    """With two classes these are linear in what the norm gives, so values are exact up to a
    constant."""
    root = output(
        head(1, 0, **ANY), mlp(1, **ANY, pos=pos), head(1, 1, **ANY, reads=[head(0, 0, **ANY)])
    )
    data = dataset(label_pos, classes=2)
    assert len(set(data.content.tolist())) == len(data)
    evaluator = Evaluator(transformer(norm, classes=2), data, root, log_odds)
    rows = np.arange(len(data))
    slots = list(range(len(evaluator.space.slots)))
    ranking = OutputRanking(Spending(evaluator, 10**9), evaluator.space, rows, slots)
    exact = [
        evaluator.space.index[path]
        for path in ("output/rest", "output/head1.0", f"output/mlp1@{pos}")
    ]
    assert sorted(ranking.contributions) == sorted(exact)
    swap_set = evaluator.space.draw(len(SOME), generator(), SOME)
    values = ranking.values(swap_set)
    for slot in exact:
        true, found = by_all_donors(evaluator, swap_set, slot, rows), values[slot].numpy()
        assert np.ptp(true, axis=1).max() > 1e-2
        # the norm has an eps
        np.testing.assert_allclose(found - found[:, :1], true - true[:, :1], rtol=0, atol=2e-4)


def test_the_output_ranks_shared_donors_together() -> None:
    root = output(head(1, 0, **ANY, name="both"), mlp(1, **ANY, shares="both"), rest=EXACT)
    evaluator = Evaluator(transformer("LN", classes=2), dataset(classes=2), root, log_odds)
    rows = np.arange(len(evaluator.dataset))
    slot = evaluator.space.index["output/both"]
    ranking = OutputRanking(Spending(evaluator, 10**9), evaluator.space, rows, [slot])
    swap_set = evaluator.space.draw(len(SOME), generator(), SOME)
    true = []
    for donor in rows:
        donors = swap_set.donors.copy()
        donors[[slot, evaluator.space.index["output/mlp1"]]] = donor
        true.append(changes(evaluator, evaluator.space.swap_set(SOME, donors)))
    found = ranking.values(swap_set)[slot].numpy()
    np.testing.assert_allclose(
        found - found[:, :1], np.array(true).T - np.array(true)[0][:, None], rtol=0, atol=2e-4
    )


def test_a_donor_of_repeated_content_is_ranked_like_the_row_it_repeats() -> None:
    twice = [*range(len(TOKENS)), *range(len(TOKENS))]
    data = dataset(classes=2, rows=twice)
    evaluator = Evaluator(
        transformer("LN", classes=2), data, output(head(1, 0, **ANY), mlp(1, **ANY)), log_odds
    )
    ranked = candidates(evaluator)
    assert len(ranked.rows) == len(TOKENS)
    swap_set = evaluator.space.draw(len(SOME), generator(), SOME)
    values = ranked.values(swap_set)
    for slot in ranked.slots:
        true, found = by_all_donors(evaluator, swap_set, slot, ranked.rows), values[slot]
        np.testing.assert_allclose(found - found[:, :1], true - true[:, :1], rtol=0, atol=2e-4)


def test_only_what_adds_to_the_output_is_ranked_through_its_norm() -> None:
    for root, label_pos in [
        (output(head(0, 0, **ANY, via="any")), -1),  # is run again
        (output(head(1, 0, **ANY, pos="where")), -1),
        (output(head(1, 0, **ANY)), "where"),
    ]:
        evaluator = Evaluator(transformer(), dataset(label_pos), root)
        assert not candidates(evaluator).output.contributions
    plain = Evaluator(product(), MANY, output(module("A", agrees_on="none")), OUT)
    assert not candidates(plain, REFERENCES).output.contributions
    without = Evaluator(transformer(None), dataset(), output(head(1, 0, **ANY)))
    assert not candidates(without).output.contributions
