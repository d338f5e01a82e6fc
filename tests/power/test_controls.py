"""Where else a claim should not hold: shuffled weights, and features permuted among rows."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import nn

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    ModuleGraph,
    Verdict,
    check,
    module,
    output,
    zero_one_error,
)
from pytest_scrub.network.shuffled import shuffled
from tests.power.test_refuted import ROWS, judged


class Network(nn.Module):
    """Two hidden layers that were not trained, and labels that are what it says."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 3)
        self.register_buffer("scale", torch.tensor([3.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        both = torch.cat([self.a(x[:, :4]).tanh(), self.b(x[:, 4:]).tanh()], -1)
        return 20 * self.out(both * self.scale.repeat_interleave(8))


def network() -> tuple[Network, Dataset]:
    model = Network().eval()
    kinds = torch.eye(4)[
        torch.randint(0, 4, (ROWS, 2), generator=torch.Generator().manual_seed(2))
    ].flatten(1)
    kinds = kinds + 0.01 * torch.randn(kinds.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        labels = model(kinds).argmax(-1)
    features = {"left": kinds[:, :4].argmax(-1), "right": kinds[:, 4:].argmax(-1)}
    return model, Dataset(kinds, labels=labels, features=features)


def test_controls_show_that_a_claim_says_something() -> None:
    model, data = network()
    root = output(module("a", agrees_on="left"), module("b", agrees_on="right"), rest=EXACT)
    found = check(
        root, ModuleGraph(model), data, tolerance=0.1, samples=600, adversaries=(), controls=True
    )
    assert found.outcome == "held"
    weights, features = found.controls
    assert (weights.name, features.name) == ("weights shuffled", "features permuted among rows")
    assert (features.outcome, features.passed, features.note) == ("refuted", True, None)
    assert features.gap is not None
    assert features.gap > 0.2
    assert weights.passed  # nothing is known there that could be lost, or the claim fails
    assert weights.outcome != "held" or "nothing can be lost there" in str(weights.note)


def test_a_claim_that_holds_on_permuted_features_is_weak() -> None:
    model, data = network()
    root = output(module("a", agrees_on="left"), rest=EXACT)
    found = check(
        root, ModuleGraph(model), data, tolerance=50.0, samples=600, adversaries=(), controls=True
    )
    assert found.outcome == "weak"
    assert [control.passed for control in found.controls][1] is False
    assert Verdict.from_json(found.to_json()) == found


def test_a_claim_that_may_hold_on_permuted_features_is_weak() -> None:
    model, data = network()
    root = output(module("a", agrees_on="left"), module("b", agrees_on="right"), rest=EXACT)
    settings: Any = {"samples": 600, "adversaries": (), "controls": True}
    gap = check(root, ModuleGraph(model), data, tolerance=0.1, **settings).controls[1].gap
    found = check(root, ModuleGraph(model), data, tolerance=gap, **settings)
    assert (found.average, found.outcome) == ("held", "weak")
    assert (found.controls[1].outcome, found.controls[1].passed) == ("undecided", False)
    assert "these samples do not decide whether it holds with features permuted among rows" in str(
        found
    )
    assert "it holds there too" not in str(found)


def test_where_there_is_nothing_to_change() -> None:
    found = judged(
        output(module("C", agrees_on=ANYTHING)), mutate=False, controls=True, tolerance=100.0
    )
    assert [control.outcome for control in found.controls] == [None, None]
    assert [control.note for control in found.controls] == [
        "a graph of functions has no weights",
        "the claim names no feature",
    ]
    assert found.outcome == "held"


def test_weights_are_put_back() -> None:
    model, data = network()
    graph = ModuleGraph(model)
    before, version = (
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        graph.version(),
    )
    clean = graph.run(data.batch(range(5)))
    rng = np.random.default_rng(0)
    with suppress(KeyboardInterrupt), shuffled(graph, rng) as other:
        assert other is not None
        assert not torch.allclose(other.run(data.batch(range(5))), clean)
        for name, tensor in model.named_parameters():
            assert sorted(tensor.flatten().tolist()) == sorted(before[name].flatten().tolist())
        assert torch.equal(model.scale, before["scale"])  # nothing that was learned
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert graph.version() == version  # what was cached is still of this network
    assert torch.equal(graph.run(data.batch(range(5))), clean)


# Claims that predict a change: controls by default ------------------------------------------------


class Untrained(nn.Module):
    """Two halves of the input, each read by a layer, and what it says of both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(26)
        self.a, self.b = nn.Linear(4, 8, bias=False), nn.Linear(4, 8, bias=False)
        self.out = nn.Linear(16, 5, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 20 * self.out(torch.cat([self.a(x[:, :4]), self.b(x[:, 4:])], -1))


def exchanged(subspace: Any, **options: Any) -> Verdict:
    """What layer a holds is exchanged, and the label is to be what the network says of the left
    half of the donor and the right half of the reference."""
    model = Untrained().eval()
    halves = torch.cat([torch.eye(4).repeat_interleave(4, 0), torch.eye(4).repeat(4, 1)], 1)
    with torch.no_grad():
        table = model(halves).argmax(-1).numpy().reshape(4, 4)
    left, right = np.random.default_rng(0).integers(0, 4, (2, ROWS))
    features = {"left": left, "right": right}
    data = Dataset(halves[4 * left + right], labels=table[left, right], features=features)
    root = output(
        module("a", agrees_on=ANYTHING, name="a", subspace=subspace(model)),
        rest=EXACT,
        predicts=lambda reference, a: table[a["left"], reference["right"]],
    )
    return check(
        root, ModuleGraph(model), data, metric=zero_one_error(), tolerance=0.1, samples=1000,
        adversaries=(), **options,
    )  # fmt: skip


def everything(_: Untrained) -> Any:
    return np.eye(8)


def all_that_is_written(model: Untrained) -> Any:
    """Four of the eight dimensions."""
    return torch.linalg.qr(model.a.weight.detach().double())[0]


def test_an_alignment_with_the_whole_space_is_weak_by_its_controls() -> None:
    """Any other basis of it does as well; the network was never trained."""
    found = exchanged(everything)
    assert (found.average, found.outcome) == ("held", "weak")
    weights, spaces = found.controls
    assert (weights.passed, weights.outcome) == (True, "refuted")
    assert (spaces.name, spaces.passed) == ("random subspaces of the same width", False)
    assert found.predicted is not None
    assert found.predicted.accuracy is not None
    assert spaces.accuracy == found.predicted.accuracy.mean == 1.0
    assert weights.accuracy is not None
    assert weights.accuracy < 0.6
    assert "random subspaces of the same width" in str(found)
    assert exchanged(everything, controls=False).outcome == "held"


def test_an_alignment_that_others_of_its_width_are_not_is_held() -> None:
    found = exchanged(all_that_is_written)
    assert found.outcome == "held"
    weights, spaces = found.controls
    assert (weights.passed, spaces.passed) == (True, True)
    assert spaces.accuracy is not None
    assert spaces.accuracy < 0.9


# Alignments that are not linear -------------------------------------------------------------------


class ByHeart(nn.Module):
    """A map of what is hidden, and back, that was learnt by heart from some rows: its first number
    is a bit of the nearest of them, and where another bit comes back, so does a row with that bit.
    """

    def __init__(self, hidden: torch.Tensor, bit: torch.Tensor, other: torch.Tensor) -> None:
        super().__init__()
        for name, value in {"known": hidden, "bit": bit.float(), "other": other}.items():
            self.register_buffer(name, value)

    def nearest(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cdist(hidden, self.known).argmin(-1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.bit[self.nearest(hidden), None], hidden], -1)


class Back(nn.Module):
    def __init__(self, into: ByHeart) -> None:
        super().__init__()
        self.into = into

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        bit, hidden = features[:, 0], features[:, 1:]
        nearest = self.into.nearest(hidden)
        is_own = (bit - self.into.bit[nearest]).abs() < 0.5
        return torch.where(is_own[:, None], hidden, self.into.known[self.into.other[nearest]])


def checkered(rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points of a square, and which of them are on light squares of a board."""
    points = 2 * torch.rand(rows, 2, generator=torch.Generator().manual_seed(seed)) - 1
    return points, (points * 15).floor().long().sum(1) % 2


def of_a_board(learnt_from: int, judged_on: int) -> Verdict:
    """That a network which was never trained answers by whether a square is light, and by one bit
    more: of any network, as that bit makes up for all that it does."""
    torch.manual_seed(0)
    first, last = (
        nn.Sequential(nn.Linear(2, 16, bias=False), nn.Tanh()),
        nn.Linear(16, 2, bias=False),
    )
    with torch.no_grad():
        points, light = checkered(300, learnt_from)
        hidden = first(points)
        more = last(hidden).argmax(-1) ^ light
        others = (light[:, None] != light) & (more[:, None] == more)
        into = ByHeart(hidden, light, others.int().argmax(1))
        model = nn.Sequential(first, into, Back(into), last).eval()
        points, light = checkered(300, judged_on)
        labels = model(points).argmax(-1)
    features = {"light": light.numpy(), "more": (labels ^ light).numpy()}
    data = Dataset(points, labels=labels, features=features)
    root = output(
        module("1", agrees_on=ANYTHING, name="a", subspace=np.eye(17)[:, :1]),
        rest=EXACT,
        predicts=lambda reference, a: a["light"] ^ reference["more"],
    )
    return check(
        root, ModuleGraph(model), data, metric=zero_one_error(), tolerance=0.1, samples=1000,
        adversaries=(),
    )  # fmt: skip


def test_a_map_that_was_learnt_by_heart_fails_on_other_rows() -> None:
    """Where it was learnt it is right of every swap, and no control learns it anew: what the docs
    say of alignments that are not linear."""
    learnt, other = of_a_board(0, 0), of_a_board(0, 1)
    for found in (learnt, other):
        assert found.predicted is not None
        assert found.predicted.accuracy is not None
    assert (learnt.outcome, learnt.predicted.accuracy.mean) == ("held", 1)
    assert [control.passed for control in learnt.controls] == [True, True]
    assert other.outcome == "refuted"
    assert 0.3 < other.predicted.accuracy.mean < 0.8
