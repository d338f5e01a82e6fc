"""Where a network recodes what passes and gives it back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pytest_scrub import ModuleGraph
from pytest_scrub.network.places import IN, Point
from tests.reference.recoding import WIDTH, Coupling, Inverse, that_knows_bits

ROWS = {"tokens": torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(0))}


class Whole(nn.Module):
    """A map and its way back in one module, whose value between is the map's."""

    def __init__(self) -> None:
        super().__init__()
        self.into = Coupling(2)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.into.back(self.into(hidden))


class Flow(nn.Module):
    """One step of a map, or of its way back, so that several are a longer one."""

    def __init__(self, into: Coupling, *, is_back: bool) -> None:
        super().__init__()
        self.into, self.is_back = into, is_back

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.into.back(hidden) if self.is_back else self.into(hidden)
        return found


class Adds(nn.Module):
    """What a layer does that adds to what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.same = nn.Linear(WIDTH, WIDTH), nn.Identity()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        added = self.inner(hidden)
        return self.same(hidden) + added


class CallsMore(nn.Module):
    """A map and its way back, and a module more that is called where another value comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.into, self.more = nn.Linear(WIDTH, WIDTH), Coupling(2), nn.Identity()
        self.back, self.last = Inverse(self.into), nn.Linear(WIDTH, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        hidden = self.first(tokens)
        back = self.back(self.into(hidden))
        if not torch.allclose(back, hidden, atol=1e-3):
            self.more(tokens)
        found: torch.Tensor = self.last(back)
        return found


class Roughly(nn.Module):
    """A way back that is off by about a hundredth."""

    def __init__(self, back: nn.Linear) -> None:
        super().__init__()
        self.back = back

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = features @ self.back.weight.T
        return hidden + 0.02 * (9 * hidden).sin()


def turned() -> tuple[nn.Linear, nn.Linear]:
    """A rotation, and its inverse."""
    into, back = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
    with torch.no_grad():
        nn.init.orthogonal_(into.weight, generator=torch.Generator().manual_seed(0))
        back.weight.copy_(into.weight.T)
    return into, back


def flat() -> nn.Module:
    one, two = Coupling(1), Coupling(1)
    steps = [Flow(one, is_back=False), Flow(two, is_back=False)]
    back = [Flow(two, is_back=True), Flow(one, is_back=True)]
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), *steps, *back, nn.Linear(WIDTH, 2))


def between() -> nn.Module:
    into = Coupling(2)
    return nn.Sequential(nn.Linear(WIDTH, WIDTH), into, Inverse(into), nn.Linear(WIDTH, 2))


def around(network: nn.Module, name: str) -> list[nn.Module]:
    graph = ModuleGraph(network.eval())
    graph.prove(ROWS)
    found = graph.recoding([name], ROWS)
    return [] if found is None else list(found.modules)


@pytest.mark.parametrize(
    ("network", "name", "children"),
    [
        (between(), "1", (1, 2)),
        (flat(), "2", (1, 2, 3, 4)),
        (flat(), "1", (1, 2, 3, 4)),
        (nn.Sequential(nn.Linear(WIDTH, WIDTH), Whole(), nn.Linear(WIDTH, 2)), "1.into", (1,)),
    ],
)
def test_all_from_where_it_is_recoded_to_where_it_is_back(
    network: nn.Sequential, name: str, children: tuple[int, ...]
) -> None:
    weights = {id(weight) for nth in children for weight in network[nth].parameters()}
    found = {id(weight) for one in around(network, name) for weight in one.parameters()}
    assert found == weights


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (between(), "0"),  # before it
        (between(), "2"),  # after it
        (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Identity(), nn.ReLU()), "1"),
        (nn.Sequential(nn.Linear(WIDTH, WIDTH), Adds(), nn.Linear(WIDTH, 2)), "1.inner"),
        (nn.Sequential(nn.Linear(WIDTH, WIDTH), Adds(), Adds(), nn.Linear(WIDTH, 2)), "1"),
    ],
)
def test_what_gives_nothing_back_is_no_recoding(network: nn.Sequential, name: str) -> None:
    assert around(network, name) == []


def test_what_a_module_is_called_with_is_recoded_as_well() -> None:
    """As the streams of networks that are read by their hooks are."""
    network = between().eval()
    graph = ModuleGraph(network)
    graph.prove(ROWS)
    part = graph.parts["2"]
    part.place = part.place._replace(point=Point("2", IN))
    found = graph.recoding(["2"], ROWS)
    assert found is not None
    assert [*found.modules][-1] is network[2]
    assert network[1] in found.modules


def test_a_network_that_calls_more_for_another_value_hides_nothing() -> None:
    network = CallsMore()
    found = around(network, "into")
    assert network.into in found
    assert network.back in found


def test_a_way_back_that_is_not_exact_is_one() -> None:
    into, inverse = turned()
    back = Roughly(inverse)
    network = nn.Sequential(nn.Linear(WIDTH, WIDTH), into, back, nn.Linear(WIDTH, 2))
    assert around(network, "1")[:2] == [into, back]


class Norms(nn.Module):
    """A layer that reads a stream through a norm, and adds little to it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = hidden + 0.15 * self.inner(self.norm(hidden))
        return found


def test_a_stream_between_layers_that_norm_it_is_no_code() -> None:
    """What they read of it is nearly the same before and after."""
    first = nn.Linear(WIDTH, WIDTH)
    with torch.no_grad():
        first.weight *= 4
    network = nn.Sequential(first, *(Norms() for _ in range(4)), nn.Linear(WIDTH, 2))
    for name in ("1", "2", "3"):
        assert around(network, name) == []


def test_layers_that_add_little_give_nothing_back() -> None:
    """However near what they read and add to is to what is read after them."""
    layers = [Adds() for _ in range(4)]
    for layer in layers:
        with torch.no_grad():
            layer.inner.weight *= 0.05
    network = nn.Sequential(nn.Linear(WIDTH, WIDTH), *layers, nn.Linear(WIDTH, 2))
    for name in ("1", "2", "2.inner", "3.inner", "3"):
        assert around(network, name) == []


def test_a_column_that_never_changes_hides_nothing() -> None:
    """Of so many positions every n-th number is of the first column."""
    first, into, back = nn.Linear(8, 8), nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
    with torch.no_grad():
        first.weight[0], first.bias[0] = 0, 0
        nn.init.orthogonal_(into.weight, generator=torch.Generator().manual_seed(0))
        back.weight.copy_(into.weight.T)
    network = nn.Sequential(first, into, nn.Identity(), back, nn.Linear(8, 2))
    rows = {"tokens": torch.randn(16, 256, 8, generator=torch.Generator().manual_seed(1))}
    graph = ModuleGraph(network.eval())
    graph.prove(rows)
    found = graph.recoding(["2"], rows)
    assert found is not None
    assert [*found.modules] == [into, network[2], back]


def test_a_network_that_computes_the_same_again_is_no_part_of_it() -> None:
    model, tokens, _ = that_knows_bits(16, 0)
    graph = ModuleGraph(model)
    graph.prove({"tokens": tokens})
    found = graph.recoding(["1"], {"tokens": tokens})
    assert found is not None
    theirs = {id(weight) for weight in model[3].parameters()}  # type: ignore[index]
    assert not theirs & {id(weight) for one in found.modules for weight in one.parameters()}
