"""Where else a claim should not hold: shuffled weights, and features permuted among rows."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.exam.__main__ import questions
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    ModuleGraph,
    Verdict,
    check,
    module,
    output,
    squared_error,
    zero_one_error,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.fitting import fitted, weights_anew
from pytest_scrub.judge import judged as judged_as
from pytest_scrub.network.shuffled import shuffled
from pytest_scrub.power.controls import FITTED, ROTATED
from pytest_scrub.settings import Settings
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import Control
from tests.power.test_refuted import ROWS, judged
from tests.reference.recoding import WIDTH, Coupling, Inverse, Reads, that_knows_bits
from tests.sizes import few_in_quick, only_in_full


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


# As many draws as tell ---------------------------------------------------------------------------


class Weighed(nn.Module):
    """A sum of signs, so many of which are on the left; all that was learned is how each weighs."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.left, self.right = nn.Identity(), nn.Identity()
        self.out = nn.Linear(len(weights), 1, bias=False)
        self.out.weight.data = torch.tensor([weights])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        half = x.shape[1] // 2
        return self.out(torch.cat([self.left(x[:, :half]), self.right(x[:, half:])], 1))[:, 0]


def exchanged_half(half: str, weights: list[float], **told: Any) -> Verdict:
    """What is claimed of exchanging it, by all inputs, so exactly; of six numbers by donors that
    have one right half."""
    model = Weighed(weights).eval()
    inputs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * len(weights))
    donors = (inputs[:, 3:] == 1).all(1).numpy() if len(weights) == 6 else None
    with torch.no_grad():
        data = Dataset(inputs, labels=model(inputs), donors=donors)
    root = output(module(half, agrees_on=ANYTHING), rest=EXACT)
    settings = Settings(metric=squared_error(), samples=512, effort="none", **told)
    return judged_as(root, ModuleGraph(model), data, settings)


HALF = [3.0, 3.0, 3.0, 1.0, 1.0, 1.0]  # two threes are on the left of nine shuffles in nineteen
NAMES_AND_SEEDS = [{"name": f"test_{i}"} for i in range(20)] + [{"seed": i} for i in range(20)]


def test_a_claim_that_holds_on_half_of_all_shuffles_is_weak_whatever_is_drawn() -> None:
    """Of one draw it was weak by nineteen of these names and seeds, and held by twenty-one."""
    found = [exchanged_half("left", HALF, min_gap=36.0, **options) for options in NAMES_AND_SEEDS]
    assert {(one.average, one.outcome) for one in found} == {("held", "weak")}
    drawn = [one.controls[0].note or "1 of 1 " for one in found]
    assert {note[:5] for note in drawn} == {"1 of "}  # the first that holds is the last
    assert len({note[5:].split()[0] for note in drawn}) > 2
    assert "1 of 2 do, or may do, as well; this is the nearest" in "".join(map(str, found))


@few_in_quick(2)
@pytest.mark.parametrize(
    ("weights", "at_least", "nearest", "drawn"),
    [(HALF, 55.0, 48.0, None), ([3.0, 1.0], 15.0, 12.0, None), ([4.0, 1.0], 60.0, 16.0, 7)],
    ids=["one in twenty", "half of them", "half of them, others far off"],
)
def test_shuffles_to_the_same_network_say_nothing(
    weights: list[float], at_least: float, nearest: float, drawn: int | None
) -> None:
    """Where others come near, hurting a third as much as is claimed, nineteen are drawn, else seven
    beside those that are the same."""
    silent = 0
    for options in NAMES_AND_SEEDS[::8]:
        found = exchanged_half("left", weights, min_gap=at_least, **options)
        assert found.outcome == "held"
        (control,) = found.controls
        assert (control.outcome, control.passed) == ("refuted", True)
        assert control.gap == pytest.approx(nearest)
        told, _, more = (control.note or "").partition("; of ")
        silent += bool(more)
        others = drawn or 19 - (int(more.split()[0]) if more else 0)
        assert told == f"0 of {others} do, or may do, as well; this is the nearest"
        if more:
            assert more.endswith("more: the network answers as before, so that says nothing")
    assert silent >= (4 if len(weights) == 2 else 1)


def test_progress_says_how_many_were_drawn() -> None:
    said: list[tuple[str, int, int, str]] = []
    exchanged_half("left", [4.0, 1.0], min_gap=60.0, progress=lambda *told: said.append((*told,)))
    told = [one for one in said if one[0] == "controls"]
    assert [count for _, count, _, _ in told] == [*range(1, len(told) + 1)]
    assert {(most, what) for _, _, most, what in told} == {(19, "weights shuffled")}
    assert 7 <= len(told) <= 19


def test_networks_that_lose_no_more_than_a_claim_accepts_say_nothing_against_it() -> None:
    """On each of them one half matters as little as the other; of all that the network answers
    itself more can be lost."""
    weights = [3.0, 0.1, 0.1, 0.1]
    for name in ("test_a", "test_b"):
        found = exchanged_half("right", weights, tolerance=2.0, controls=True, name=name)
        assert found.outcome == "held", str(found)
        assert "nothing can be lost there, so that says nothing: no more than" in str(found)
    assert exchanged_half("right", weights, tolerance=1.0, controls=True).outcome == "weak"


@only_in_full
def test_a_claim_that_changes_nothing_is_not_weak_by_shuffles_that_nothing_reaches() -> None:
    """In a fifth of them nobody reads what is claimed, so it holds there by its null as well."""
    (asked,) = questions("compiled, many: head 0.0 counts by its keys")
    for name in ("test_a", "test_b"):
        found = check(
            asked.says, asked.ground.model, asked.ground.data,
            **asked.told | {"adversaries": (), "controls": True, "name": name},
        )  # fmt: skip
        assert found.outcome == "held", str(found)
        assert "nothing can be lost there" in str(found)


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as learn few rows by heart."""
    monkeypatch.setattr("pytest_scrub.engine.fitting.STEPS", 60)
    monkeypatch.setattr("pytest_scrub.engine.fitting.STEPS_OF_MODULES", 300)


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


@pytest.mark.usefixtures("few_steps")
def test_an_alignment_with_the_whole_space_is_weak_by_its_controls() -> None:
    """Any other basis of it does as well; the network was never trained."""
    found = exchanged(everything)
    assert (found.average, found.outcome) == ("held", "weak")
    weights, anew, spaces = found.controls
    assert (weights.passed, weights.outcome) == (True, "refuted")
    assert anew.outcome == "refuted"  # no turn of it is another
    assert (spaces.name, spaces.passed) == ("random subspaces of the same width", False)
    assert found.predicted is not None
    assert found.predicted.accuracy is not None
    assert spaces.accuracy == found.predicted.accuracy.mean == 1.0
    assert weights.accuracy is not None
    assert weights.accuracy < 0.6
    assert "random subspaces of the same width" in str(found)
    assert exchanged(everything, controls=False).outcome == "held"


@pytest.mark.usefixtures("few_steps")
def test_an_alignment_that_others_of_its_width_are_not_is_held() -> None:
    found = exchanged(all_that_is_written)
    assert found.outcome == "held"
    weights, anew, spaces = found.controls
    assert (weights.passed, anew.passed, spaces.passed) == (True, True, True)
    assert anew.outcome == "refuted"
    assert spaces.accuracy is not None
    assert spaces.accuracy < 0.9


@only_in_full
@pytest.mark.usefixtures("few_steps")
def test_in_few_dimensions_no_random_subspace_is_nearly_the_claims_own() -> None:
    """As every now and then one of three dimensions is, which then holds the answer as well."""
    inputs = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)).sign()
    first = (inputs[:, 0] > 0).long()
    data = Dataset(inputs, labels=first, features={"first": first.numpy()})
    model = nn.Sequential(nn.Identity(), nn.Linear(3, 2, bias=False)).eval()
    model[1].weight.data = torch.tensor([[-1.0, 0, 0], [1, 0, 0]])
    root = output(
        module("0", agrees_on=ANYTHING, name="held", subspace=np.eye(3)[:, :1]),
        rest=EXACT,
        predicts=lambda reference, held: held["first"],
    )
    for seed in range(2):
        found = check(
            root, ModuleGraph(model), data, metric=zero_one_error(), tolerance=0.1,
            samples=1000, adversaries=(), seed=seed,
        )  # fmt: skip
        spaces = {control.name: control for control in found.controls}[ROTATED]
        assert (found.average, spaces.outcome) == ("held", "refuted")


@only_in_full
def test_of_all_dimensions_that_are_named_no_part_is_nearly_where_it_was() -> None:
    """Of two dimensions, each of which is claimed by itself, every turn is again all of them."""
    (asked,) = questions("equality: both pairs as it is")
    for seed in range(3):
        told = asked.told | {"adversaries": (), "seed": seed}
        found = check(asked.says, asked.ground.model, asked.ground.data, **told)
        assert found.outcome == "held", str(found)


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


def test_a_map_that_was_learnt_by_heart_is_weak_and_fails_on_other_rows() -> None:
    """Where it was learnt it is right of every swap, and nothing tells whether another network has
    one that is as well: it has no weights that could be fitted."""
    learnt, other = of_a_board(0, 0), of_a_board(0, 1)
    for found in (learnt, other):
        assert found.predicted is not None
        assert found.predicted.accuracy is not None
    assert (learnt.average, learnt.outcome, learnt.predicted.accuracy.mean) == ("held", "weak", 1)
    weights, anew, spaces = learnt.controls
    assert (weights.passed, anew.passed, spaces.passed) == (True, False, True)
    assert (anew.name, anew.outcome) == ("the alignment fitted anew to shuffled weights", None)
    assert anew.note == "it cannot be fitted: the modules that recode what passes have no weights"
    assert "nothing tells whether it holds with the alignment fitted anew" in str(learnt)
    assert other.outcome == "refuted"
    assert 0.3 < other.predicted.accuracy.mean < 0.8


def learnt_by_heart() -> tuple[nn.Module, Dataset]:
    """A network that was never trained, and a map of what it holds that learnt a bit of 24 rows."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(24, 8, generator=generator)
    bit = torch.randint(2, (24,), generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = nn.Sequential(nn.Linear(8, WIDTH), nn.Tanh()).requires_grad_(False)
        after, into = nn.Linear(WIDTH, 2, bias=False).requires_grad_(False), Coupling(3)
    model = nn.Sequential(before, into, Inverse(into), after)
    hidden = before(rows)
    label = after(hidden).argmax(-1)
    descent = torch.optim.Adam(into.parameters(), lr=0.01)
    for _ in range(400):
        reference, donor = torch.randint(24, (2, 64), generator=generator)
        own, others = into(hidden[reference]), into(hidden[donor])
        out = after(model[2](torch.cat([others[:, :1], own[:, 1:]], 1)))
        loss = nn.functional.cross_entropy(out, (label ^ bit)[reference] ^ bit[donor])
        descent.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        descent.step()
    features = {"bit": bit.numpy(), "more": (label ^ bit).numpy()}
    return model.eval(), Dataset(rows, labels=label, features=features)


def holds_the_bit(model: nn.Module, data: Dataset) -> Verdict:
    root = output(
        module("1", agrees_on=ANYTHING, name="held", subspace=np.eye(WIDTH)[:, :1]),
        rest=EXACT,
        predicts=lambda reference, held: held["bit"] ^ reference["more"],
    )
    return check(
        root, ModuleGraph(model), data, metric=zero_one_error(), tolerance=0.1, samples=600,
        adversaries=(),
    )  # fmt: skip


@only_in_full
@pytest.mark.usefixtures("few_steps")
def test_a_map_that_is_not_linear_of_random_weights_is_weak_by_its_controls() -> None:
    model, data = learnt_by_heart()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = holds_the_bit(model, data)
    assert (found.average, found.outcome) == ("held", "weak")
    controls = {control.name: control for control in found.controls}
    anew = controls.pop(FITTED)
    assert (anew.passed, anew.outcome) == (False, "held")
    assert anew.accuracy is not None
    assert anew.accuracy > 0.9
    assert all(control.passed for control in controls.values())
    assert "fitted by 300 steps of Adam with 64 swaps each, on the rows that it is judged on" in (
        anew.note or ""
    )
    assert "say so with fitted_on= of the Dataset" in str(found)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(weight.requires_grad for weight in model[1].parameters())  # type: ignore[index]
    assert not any(w.requires_grad for w in model[0].parameters())  # type: ignore[index]


def fitted_anew(found: Verdict) -> Control:
    return {control.name: control for control in found.controls}[FITTED]


def of_known_bits(tokens: int, **which: Any) -> tuple[nn.Module, Dataset]:
    model, rows, features = that_knows_bits(tokens, 24)
    labels = features["bit"] ^ features["more"]
    return model, Dataset(rows, labels=labels, features=features, **which)


@pytest.mark.usefixtures("few_steps")
def test_a_true_map_that_was_found_on_other_rows_is_held() -> None:
    """The network knows a bit of every token, and recodes what it knows. The same fit finds that of
    the network on rows that it has not seen, and of shuffled weights it does not."""
    judged = np.arange(300) < 60
    found = holds_the_bit(*of_known_bits(300, fitted_on=~judged))
    assert found.outcome == "held"
    anew = fitted_anew(found)
    assert (anew.passed, anew.outcome) == (True, "refuted")
    assert anew.note is not None
    assert "on the rows of fitted_on=; " in anew.note
    assert "fitted so to the network itself its interchange accuracy is 100.0%" in anew.note
    assert "says little" not in anew.note


@pytest.mark.usefixtures("few_steps")
def test_a_map_speaks_for_itself_only_on_rows_that_it_was_not_found_on() -> None:
    """It may know the others by heart, and that a fit to shuffled weights fails does not tell that
    it does not: these answer little, whatever passes."""
    judged = np.arange(300) < 60
    found = holds_the_bit(*of_known_bits(300, references=judged, donors=judged))
    anew = fitted_anew(found)
    assert (found.average, found.outcome) == ("held", "weak")
    assert (anew.passed, anew.outcome) == (False, None)
    assert "say so with fitted_on=" in str(found)


@few_in_quick(1)
@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("rows", [1, 6])
def test_rows_that_nothing_can_be_found_on_do_not_vouch_for_a_map(rows: int) -> None:
    """It was learnt by heart on all rows, some of which are said to be those that it was found on:
    on one nothing is exchanged, and from few the same fit to the network does not find it."""
    model, data = learnt_by_heart()
    features = {name: data.feature(name) for name in ("bit", "more")}
    told = Dataset(data.inputs, labels=data.labels, features=features, fitted_on=np.arange(rows))
    found = holds_the_bit(model, told)
    anew = fitted_anew(found)
    assert (found.average, found.outcome, anew.passed) == ("held", "weak", False)
    assert anew.note is not None
    if rows == 1:
        assert anew.outcome == "held"
        assert "since on those of fitted_on= the claim is untested" in anew.note
        assert "give fitted_on= rows on which the claim holds" in str(found)
        assert "say so with fitted_on=" not in str(found)
    else:
        assert anew.outcome is None
        assert "which does not hold, so this says little" in anew.note
        assert "more rows there, or a simpler one, would tell" in str(found)


def test_nothing_is_judged_on_other_rows_where_no_weights_are_to_be_shuffled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which may take as long as the claim, and would tell nothing."""

    def judged_there(_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr("pytest_scrub.power.controls._found_on", judged_there)
    monkeypatch.setattr("pytest_scrub.power.controls.why_not_shuffled", lambda _: "it is packed")
    anew = fitted_anew(holds_the_bit(*of_known_bits(80, fitted_on=np.arange(80) < 40)))
    assert (anew.outcome, anew.note) == (None, "it cannot be fitted: it is packed")


@few_in_quick(1)
@pytest.mark.parametrize("is_told", [True, False])
def test_a_map_without_weights_is_weak(is_told: bool) -> None:
    model, data = of_known_bits(80, **({"fitted_on": np.arange(80) < 40} if is_told else {}))
    for part in model[1].modules():  # type: ignore[index]
        for name in list(part._parameters):
            part.register_buffer(name, part._parameters.pop(name))
    found = holds_the_bit(model, data)
    anew = fitted_anew(found)
    assert (found.average, found.outcome) == ("held", "weak")
    assert (anew.passed, anew.outcome) == (False, None)
    assert "no weights" in (anew.note or "")
    assert "one with weights that gradients reach would tell" in str(found)


def test_a_fit_does_not_start_where_the_claims_own_was_found() -> None:
    """Nor do weights without `reset_parameters()`: one to the network would find it there."""
    model, data = of_known_bits(60)
    for part in model[1].modules():  # type: ignore[index]
        if isinstance(part, nn.Linear):
            part.reset_parameters = None  # type: ignore[assignment]
    graph = ModuleGraph(model)
    graph.prove(data.batch(range(60)))
    before = {id(weight): weight.detach().clone() for weight in model.parameters()}
    with weights_anew(
        graph.recoding(["1"], data.batch(range(60))), np.random.default_rng(0)
    ) as weights:
        for weight in weights:
            was = before[id(weight)]
            assert not torch.equal(weight, was)
            assert sorted(weight.flatten().tolist()) == sorted(was.flatten().tolist())
    assert all(torch.equal(weight, before[id(weight)]) for weight in model.parameters())


@pytest.mark.usefixtures("few_steps")
def test_a_map_that_is_not_computed_with_gradients_cannot_be_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Coupling, "forward", torch.no_grad()(Coupling.forward))
    monkeypatch.setattr(Inverse, "forward", torch.no_grad()(Inverse.forward))
    monkeypatch.setattr(Reads, "forward", torch.no_grad()(Reads.forward))
    model, tokens, features = that_knows_bits(40, 24)
    data = Dataset(tokens, labels=features["bit"] ^ features["more"], features=features)
    found = holds_the_bit(model, data)
    assert found.outcome == "weak"
    assert "has no gradient" in str(found)


# Subspaces ----------------------------------------------------------------------------------------


def in_a_subspace(tokens: int, width: int, name: str = "claim", **which: Any) -> Verdict:
    """That half of the space that a random network embeds tokens in holds a random bit of each, as
    one half does that was found."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        embed, hidden = nn.Embedding(tokens, width), nn.Linear(width, 128)
        model = nn.Sequential(embed, hidden, nn.Tanh(), nn.Linear(128, 2)).eval()
        hidden.weight.data *= 3
        bit = torch.randint(2, (tokens,), generator=torch.Generator().manual_seed(1))
    rows = torch.arange(tokens)
    with torch.no_grad():
        label = model(rows).argmax(-1)
    features = {"bit": bit.numpy(), "more": (label ^ bit).numpy()}
    data = Dataset(rows, labels=label, features=features)

    def claimed(subspace: Any) -> Node:
        return output(
            module("0", agrees_on=ANYTHING, name="held", subspace=subspace),
            rest=EXACT,
            predicts=lambda reference, held: held["bit"] ^ reference["more"],
        )

    start = Evaluator(
        ModuleGraph(model), data, claimed(np.eye(width)[:, : width // 2]), zero_one_error()
    )
    (found,) = fitted(start, None, [], 500, np.random.default_rng(5)).reads
    assert found.subspace is not None
    return check(
        claimed(found.subspace.basis), ModuleGraph(model),
        Dataset(rows, labels=label, features=features, **which), metric=zero_one_error(),
        tolerance=0.1, samples=400, adversaries=(), name=name,
    )  # fmt: skip


@few_in_quick(1)
@pytest.mark.parametrize("which", [{}, {"fitted_on": [4]}], ids=["seen", "one other"])
def test_a_subspace_that_is_found_as_well_on_shuffled_weights_is_weak(which: Any) -> None:
    """Nothing can be found on one row, where nothing is exchanged: it does not switch it off."""
    found = in_a_subspace(5, 64, **which)
    assert (found.average, found.outcome) == ("held", "weak")
    controls = {control.name: control for control in found.controls}
    anew = controls.pop(FITTED)
    assert (anew.passed, anew.outcome) == (False, "held")
    assert all(control.passed for control in controls.values())
    assert "fitted by 500 steps of Adam with 64 swaps each" in (anew.note or "")
    assert ("the claim is untested" in (anew.note or "")) == bool(which)


def test_a_fit_that_comes_near_is_made_on_other_shuffles(monkeypatch: pytest.MonkeyPatch) -> None:
    """On half of them it holds, and on the first of these it just fails."""
    monkeypatch.setattr("pytest_scrub.engine.fitting.STEPS", 150)
    found = in_a_subspace(5, 64, "claim 2")
    assert (found.average, found.outcome) == ("held", "weak")
    anew = fitted_anew(found)
    assert not anew.passed
    assert "; 1 of " in (anew.note or "")
