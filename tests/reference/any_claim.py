"""Hypothesis strategies: whatever a user may hand to `check`, with the truth about it, kind by
kind.

Most cases are ordinary claims. Some kinds are odd but have a meaning; some have none, and are to be
refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor, nn

import pytest_scrub
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FunctionGraph,
    Metric,
    ModuleGraph,
    WhichDonors,
    WhichNodes,
    WhichRefinement,
    WhichSwaps,
    group,
    module,
    output,
    squared_error,
)
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.tree.nodes import Node
from tests.reference.every_swap import (
    Features,
    Functions,
    Rows,
    Truth,
    combinations,
    every_swap,
    truth_of,
)
from tests.sizes import sized

MOST_SWAPS = sized(2_500, 10_000)  # of all references together
# of the exact gap: near it, five in a hundred intervals miss
FACTORS = (0.3, 0.3, 0.7, 1.5, 3.0, 3.0)
SEARCH = ("adversaries", "adversary", "budget", "deadline")
SEARCHES = 240  # evaluations for each reference, below which a search takes fewer references


@dataclass(frozen=True, eq=False)
class Case:
    """A call of `check`.

    - `make`: what it is given: the hypothesis, the model, the data, and options by name. Called
      once.
    - `truth`: what enumeration says of it; None where it has no meaning, so that `check` has to
      refuse it.
    """

    make: Callable[[], tuple[Any, Any, Any, dict[str, Any]]]
    truth: Truth | None = None
    accepts: Accepts | None = None


@dataclass(frozen=True)
class Accepts:
    """The bounds of a claim: on the gap, on that of each slice, and on the mean of the worst
    swaps."""

    gap: float
    is_two_sided: bool = True
    slices: float | None = None
    by: Any = None
    worst: float | None = None


# Small worlds: a table, a network of functions, a score -------------------------------------------


@dataclass(frozen=True, eq=False)
class World:
    """Everything of a claim but the hypothesis and its bounds."""

    network: Functions
    features: Features
    labels: Tensor
    metric: Any
    score: Callable[[Tensor, Tensor], Tensor]  # (output, labels)
    worse: int = 1
    model: Callable[[], Any] | None = None
    anywhere: bool = False
    dataset: Mapping[str, Any] = field(default_factory=dict)  # what differs from the plain data set

    @property
    def rows(self) -> int:
        return len(self.labels)

    def data(self, **fields: Any) -> Dataset:
        plain = {
            "inputs": {k: v.clone() for k, v in self.network.inputs.items()},
            "labels": self.labels.clone(),
        }
        return Dataset(**{**plain, "features": dict(self.features), **self.dataset, **fields})

    def graph(self) -> Any:
        return FunctionGraph(**self.network.calls) if self.model is None else self.model()

    def truth(self, root: Node, references: Rows, donors: Rows | None = None) -> Truth:
        swaps = every_swap(root, self.features, references, self.rows, donors)
        labels = self.labels
        return truth_of(
            root,
            self.network,
            swaps,
            self.features,
            lambda out, rows: self.score(out.double(), labels[rows]).double(),
            self.worse,
            self.anywhere,
        )


def _metric(score: Callable[[Tensor, Tensor], Tensor], **bounds: Any) -> Metric:
    return Metric("made up", lambda out, batch: score(out, batch.labels), **bounds)


METRICS: tuple[tuple[Any, Callable[[Tensor, Tensor], Tensor], int], ...] = (
    (squared_error(), lambda out, label: (out - label) ** 2, 1),
    (_metric(lambda out, label: (out - label).abs()), lambda out, label: (out - label).abs(), 1),
    (_metric(lambda out, label: out), lambda out, label: out, 1),
    (_metric(lambda out, label: out * label, worse="lower"), lambda out, label: out * label, -1),
    (
        _metric(lambda out, label: torch.tanh(out - label), lower=-1.0, upper=1.0),
        lambda out, label: torch.tanh(out - label),
        1,
    ),
    (
        _metric(lambda out, label: ((out > 0) != (label > 0)).double(), lower=0.0, upper=1.0),
        lambda out, label: ((out > 0) != (label > 0)).double(),
        1,
    ),
)

JOINED: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x + y,
    lambda x, y: x * y,
    lambda x, y: torch.tanh(x) + 0.3 * y,
    lambda x, y: torch.relu(x - y),
    lambda x, y: x - y,
)
SHAPES: tuple[dict[str, tuple[str, ...]], ...] = (
    {"A": ("a", "b"), "B": ("b", "c"), "output": ("A", "B")},
    {"A": ("a", "b"), "C": ("A", "c"), "output": ("C", "b")},
    {"A": ("a", "b"), "B": ("A", "c"), "C": ("A", "B"), "output": ("B", "C")},
)


@st.composite
def tables(draw: st.DrawFn, rows: int | None = None) -> dict[str, np.ndarray]:
    """Two to four values of three inputs: all combinations, or some rows, repeated ones among
    them."""
    levels = draw(st.integers(2, 3))
    if rows is None and draw(st.booleans()):
        grid = np.stack(
            np.meshgrid(*(np.arange(levels),) * (3 if levels == 2 else 2), indexing="ij"), -1
        )
        grid = grid.reshape(-1, grid.shape[-1])
    else:
        count = draw(st.integers(3, 12)) if rows is None else rows
        grid = np.random.default_rng(draw(st.integers(0, 999))).integers(0, levels, size=(count, 3))
    columns = [*grid.T, grid[:, 0]] if grid.shape[1] == 2 else list(grid.T)
    return dict(zip("abc", columns, strict=False))


@st.composite
def worlds(draw: st.DrawFn, rows: int | None = None) -> World:
    table = draw(tables(rows))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    shape = draw(st.sampled_from(SHAPES))
    calls = {
        name: _function(reads, draw(st.sampled_from(JOINED)), rng) for name, reads in shape.items()
    }
    inputs = {name: torch.tensor(column, dtype=torch.float64) for name, column in table.items()}
    a, b, c = table["a"], table["b"], table["c"]
    features = {
        "a": a,
        "b": b,
        "c": c,
        "parity": (a + b) % 2,
        "some": a > 0,
        "word": np.array(["no", "yes"])[b % 2],
    }
    network = Functions(shape, calls, inputs)
    labels = torch.tensor(rng.normal(size=len(a)))
    if draw(st.booleans()):
        # a network that is right about everything
        labels = network.run(np.arange(len(a)), {})["output"].clone()
    metric, score, worse = draw(st.sampled_from(METRICS))
    return World(network, features, labels, metric, score, worse)


def _function(
    reads: tuple[str, ...], joined: Callable[[Tensor, Tensor], Tensor], rng: Any
) -> Callable[..., Tensor]:
    """A function whose parameters are called as a graph wants it."""
    scales = [float(x) for x in rng.choice([-2.0, -1.0, 0.5, 1.0, 1.5], size=2)]
    scope = {"joined": joined, "p": scales[0], "q": scales[1]}
    first, second = reads
    return eval(f"lambda {first}, {second}: joined(p * {first}, q * {second})", scope)


class _Net(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        sizes = {"first": (3, 3), "second": (3, 3), "third": (3, 3), "last": (3, 1)}
        for name, (n_in, n_out) in sizes.items():
            layer = nn.Linear(n_in, n_out).double()
            for parameter in layer.parameters():
                parameter.data.copy_(
                    torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                )
            setattr(self, name, layer)

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        x = torch.stack([a, b, c], -1)
        second = self.second(torch.tanh(self.first(x)))
        return self.last(torch.tanh(second) * torch.sin(self.third(x)))[:, 0]


def functions_of(net: _Net, inputs: Mapping[str, Tensor]) -> Functions:
    """The module's forward pass, component by component, with the weights as they are when it is
    called."""
    reads = {
        "first": ("a", "b", "c"),
        "second": ("first",),
        "third": ("a", "b", "c"),
        "last": ("second", "third"),
        "output": ("last",),
    }

    def layer(name: str, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x @ getattr(net, name).weight.clone().T + getattr(net, name).bias

    calls = {
        "first": lambda a, b, c: layer("first", torch.stack([a, b, c], -1)),
        "second": lambda first: layer("second", torch.tanh(first)),
        "third": lambda a, b, c: layer("third", torch.stack([a, b, c], -1)),
        "last": lambda second, third: layer("last", torch.tanh(second) * torch.sin(third)),
        "output": lambda last: last[:, 0],
    }
    return Functions(reads, calls, inputs)


@st.composite
def module_worlds(draw: st.DrawFn) -> tuple[World, _Net]:
    world, net = draw(worlds()), _Net(draw(st.integers(0, 99)))
    network = functions_of(net, world.network.inputs)
    return replace(world, network=network, model=lambda: ModuleGraph(net), anywhere=True), net


# Trees --------------------------------------------------------------------------------------------


def agreements(features: Features) -> st.SearchStrategy[Any]:
    names = sorted(features)
    lists = st.lists(st.sampled_from(names), min_size=1, max_size=2)
    return st.one_of(
        st.sampled_from(names), lists, st.just(ANYTHING), st.just(EXACT), st.sampled_from(names)
    )


@st.composite
def trees(draw: st.DrawFn, world: World) -> Node:
    on = agreements(world.features)
    root = draw(st.one_of(st.none(), st.none(), on))
    children = draw(_children(world, "output", 0))
    return output(*children, agrees_on=root, rest=draw(on))


@st.composite
def _children(draw: st.DrawFn, world: World, parent: str, depth: int) -> list[Node]:
    network, on = world.network, agreements(world.features)
    along = world.anywhere or draw(st.integers(0, 4)) == 2
    readable = [
        name for name in network.above(parent) if not world.anywhere or name in network.calls
    ]
    names = readable if along else list(network.reads[parent])
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True))
    return [draw(_child(world, name, depth, on, "any" if along else None)) for name in chosen]


@st.composite
def _child(draw: st.DrawFn, world: World, name: str, depth: int, on: Any, via: str | None) -> Node:
    claim: dict[str, Any] = {"agrees_on": draw(on), "via": via}
    readable = world.network.reads.get(name, ())
    if world.anywhere:
        readable = [other for other in world.network.above(name) if other in world.network.calls]
    if readable and depth < 1 and draw(st.booleans()):
        return module(name, reads=draw(_children(world, name, depth + 1)), rest=draw(on), **claim)
    if not world.anywhere and name in world.network.calls and draw(st.integers(0, 5)) == 3:
        claim |= {"agrees_on": "a", "computed_by": _wave}
    return module(name, **claim)


def _wave(a: Any) -> Tensor:
    return torch.sin(torch.tensor(np.array(a, dtype=np.float64)) + 1)


# Claims -------------------------------------------------------------------------------------------


@st.composite
def claims(
    draw: st.DrawFn, world: World, root: Any = None, most: int = MOST_SWAPS, **fixed: Any
) -> Case:
    """A hypothesis about a world, with bounds away from the truth, and options of every kind."""
    root = draw(trees(world)) if root is None else root
    each = combinations(root, world.features, world.rows)
    assume(each <= most)
    everyone = np.arange(world.rows)
    count = min(world.rows, most // each)
    references = everyone[:count]
    data = {} if count == world.rows else {"references": references}
    donors = None
    if count == world.rows and draw(st.integers(0, 5)) == 3:
        donors = everyone[: max(1, world.rows - 2)]
        data = {"references": references, "donors": donors}
    truth = world.truth(root, references, donors)
    options, accepts = draw(bounds(truth, world, len(references) * each))
    more = draw(others()) | fixed
    options |= {
        name: value for name, value in more.items() if accepts.worst is None or name not in SEARCH
    }
    return Case(
        lambda: (root, world.graph(), world.data(**data), {"metric": world.metric, **options}),
        truth,
        accepts,
    )


@st.composite
def bounds(
    draw: st.DrawFn, truth: Truth, world: World, swaps: int
) -> tuple[dict[str, Any], Accepts]:
    """Options that decide, and what they accept."""
    direction = draw(st.sampled_from(["either", "either", "worse"]))
    gap, two = truth.gap, direction == "either"
    size = max(abs(gap), truth.rounding * 1e3)
    factor = draw(st.sampled_from(FACTORS))
    how = draw(st.sampled_from(["tolerance", "tolerance", "recovered", "slices", "worst", "both"]))
    options: dict[str, Any] = {"direction": direction, "adversaries": ()}
    if how in ("recovered", "both") and truth.room > 0.05 * abs(truth.baseline):
        options |= {"min_recovered": 1 - factor * size / truth.room}
        accepts = Accepts(factor * size, two)
        if how == "both":
            options["tolerance"] = 2 * factor * size
        return options, accepts
    options["tolerance"] = size * factor
    accepts = Accepts(size * factor, two)
    if how == "slices":
        by = draw(st.sampled_from(sorted(world.features)))
        largest = max(size, *map(abs, truth.of_slices(world.features[by])))
        options |= {"by": by, "slice_tolerance": largest * factor}
        options["tolerance"] = size * max(factor, 1.5)  # or the mean alone would tell
        accepts = Accepts(options["tolerance"], two, largest * factor, world.features[by])
    if how == "worst" and truth.worst > truth.rounding * 1e3:
        references = len(truth.of_reference)
        budget = max(swaps, SEARCHES * references) + 1
        options |= {
            "adversaries": (WhichDonors(),),
            "budget": budget,
            "tolerance": truth.worst * factor,
        }
        accepts = replace(accepts, gap=truth.worst * factor, worst=truth.worst * factor)
    return options, accepts


@st.composite
def others(draw: st.DrawFn) -> dict[str, Any]:
    """Options that leave the truth alone."""
    options: dict[str, Any] = {
        "samples": draw(st.sampled_from([50, 400, 1000, 4000])),
        "seed": draw(st.integers(0, 10**6)),
    }
    more = draw(st.sampled_from(["none", "none", "none", "ladder", "reported", "late", "mutants"]))
    if more == "ladder":
        ladder = draw(
            st.lists(
                st.sampled_from([WhichSwaps, WhichNodes, WhichRefinement, WhichDonors]),
                max_size=3,
                unique=True,
            )
        )
        options |= {
            "adversaries": tuple(adversary() for adversary in ladder),
            "budget": draw(st.sampled_from([0, 1, 7, 300, 3000])),
        }
    if more == "reported":
        options |= {
            "adversary": "report",
            "budget": draw(st.sampled_from([0, 1, 500])),
            "adversaries": None,
        }
    if more == "late":
        options |= {
            "adversaries": None,
            "deadline": draw(st.sampled_from([0.0, 1e-9, 1e-3])),
            "budget": 500,
        }
    if more == "mutants":
        options |= {"min_power": draw(st.sampled_from([0.0, 0.5, 1.0])), "controls": True}
        options["samples"] = min(options["samples"], 400)
    return {} if more == "none" and draw(st.booleans()) else options


@st.composite
def ordinary(draw: st.DrawFn) -> Case:
    return draw(claims(draw(worlds())))


@st.composite
def of_torch_modules(draw: st.DrawFn) -> Case:
    world, _ = draw(module_worlds())
    return draw(claims(world))


@st.composite
def of_transformers(draw: st.DrawFn) -> Case:
    """One or two components of a small transformer, read directly or along every path."""
    from tests.reference.any_transformer import transformer_claim

    return draw(transformer_claim())


# Odd, but with a meaning --------------------------------------------------------------------------


@st.composite
def tiny_samples(draw: st.DrawFn) -> Case:
    return draw(claims(draw(worlds()), samples=draw(st.integers(2, 50))))


@st.composite
def rare_large_changes(draw: st.DrawFn) -> Case:
    """One donor in hundreds changes everything."""
    rows = draw(st.sampled_from([100, 300]))
    column = torch.arange(rows, dtype=torch.float64)
    network = Functions(
        {"A": ("a",), "output": ("A", "b")},
        {"A": lambda a: torch.where(a == 7, 1000.0, 0.0), "output": lambda A, b: A + b},
        {"a": column, "b": column % 3},
    )
    features = {"b": np.arange(rows) % 3, "all": np.zeros(rows)}
    world = World(
        network, features, column % 3, squared_error(), lambda out, label: (out - label) ** 2
    )
    root = output(module("A", agrees_on="all"), rest=EXACT)
    return draw(claims(world, root, rows * rows, samples=draw(st.sampled_from([50, 400, 1000]))))


@st.composite
def metrics_with_an_offset(draw: st.DrawFn) -> Case:
    """All metrics are a million times what any change is, and more."""
    world, offset = draw(worlds()), draw(st.sampled_from([1e6, 1e9, -1e9]))
    return draw(claims(_scored(world, lambda out, label: (out - label).abs() + offset)))


@st.composite
def one_heavy_row(draw: st.DrawFn) -> Case:
    """One row's metric is 1e11 whatever is swapped."""
    world = draw(worlds())
    world.labels[0] = 77.0

    def score(out: Tensor, label: Tensor) -> Tensor:
        return out + torch.where(label == 77, 1e11, 0.0)

    return draw(claims(_scored(world, score)))


@st.composite
def wrong_bounds(draw: st.DrawFn) -> Case:
    """A metric that leaves its own bounds; refused, or judged as if it had none."""
    world, width = draw(worlds()), draw(st.sampled_from([1e-6, 0.1]))
    metric = _metric(
        world.score, lower=0.0, upper=width, worse="higher" if world.worse > 0 else "lower"
    )
    return draw(claims(replace(world, metric=metric)))


@st.composite
def metrics_that_overwrite(draw: st.DrawFn) -> Case:
    """What a metric does to its arguments is nobody else's."""
    world = draw(worlds())

    def function(out: Tensor, batch: Any) -> Tensor:
        score = world.score(out.clone(), batch.labels.clone())
        (out if spoils == "output" else batch.labels).mul_(0)
        return score

    spoils = draw(st.sampled_from(["output", "labels"]))
    return draw(
        claims(replace(world, metric=Metric("overwrites", function, worse=_word(world.worse))))
    )


@st.composite
def nodes_that_overwrite(draw: st.DrawFn) -> Case:
    """A network's function that changes its argument after reading it."""
    world = draw(worlds())
    network = world.network
    name = draw(st.sampled_from(list(network.calls)))
    inner, (first, second) = network.calls[name], network.reads[name]

    def call(x: Tensor, y: Tensor) -> Tensor:
        value = inner(x.clone(), y.clone())
        x.mul_(0)
        return value

    spoilt = eval(f"lambda {first}, {second}: call({first}, {second})", {"call": call})
    calls = {**network.calls, name: spoilt}
    return draw(claims(replace(world, model=lambda: FunctionGraph(**calls))))


@st.composite
def features_that_overwrite(draw: st.DrawFn) -> Case:
    """A feature's function that changes the inputs it was given."""
    world = draw(worlds())
    name = draw(st.sampled_from(["a", "b", "c"]))

    def feature(inputs: dict[str, Tensor]) -> Tensor:
        values = inputs[name].clone()
        inputs[spoilt_input].mul_(0)
        return values

    spoilt_input = draw(st.sampled_from(["a", "b"]))
    assume(name in world.features)
    features = {**world.features, name: feature}
    return draw(claims(replace(world, dataset={"features": features})))


@st.composite
def computed_in_place(draw: st.DrawFn) -> Case:
    """A `computed_by=` that overwrites the feature values it is called with."""
    world = draw(worlds())
    name = world.network.reads["output"][0]

    def compute(values: Any) -> Tensor:
        computed = torch.sin(torch.tensor(np.array(values, dtype=np.float64)))
        np.asarray(values)[...] = 0
        return computed

    def fair(values: Any) -> Tensor:
        return torch.sin(torch.tensor(np.array(values, dtype=np.float64)))

    rest = draw(agreements(world.features))
    stated, meant = (
        output(module(name, agrees_on="a", computed_by=f), rest=rest) for f in (compute, fair)
    )
    case = draw(claims(world, meant))
    _, model, data, options = case.make()
    return replace(case, make=lambda: (stated, model, data, options))


@st.composite
def weights_changed_between(draw: st.DrawFn) -> Case:
    """Two checks share a store; the weights are changed through `.data` after the first."""
    world, net = draw(module_worlds())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    name = draw(st.sampled_from(["first.weight", "second.bias", "third.weight", "last.weight"]))
    after = {**before, name: before[name] * -2 + 0.5}
    net.load_state_dict(after)
    case = draw(claims(world))
    root, _, data, options = case.make()

    def make() -> Any:
        net.load_state_dict(before)
        store = ActivationStore(ModuleGraph(net), data)
        pytest_scrub.check(
            root, store.graph, data, tolerance=1.0, metric=world.metric, adversaries=(), store=store
        )
        net.get_parameter(name).data.copy_(after[name])
        return root, store.graph, data, {**options, "store": store}

    return replace(case, make=make)


@st.composite
def generalizes(draw: st.DrawFn) -> Case:
    """The interval speaks of more than the rows, all of which are drawn."""
    world = draw(worlds(rows=60))
    inputs = {**world.network.inputs, "c": world.network.inputs["c"] + torch.arange(60) / 1000}
    world = replace(world, network=replace(world.network, inputs=inputs))
    name = draw(st.sampled_from(world.network.reads["output"]))
    root = output(
        module(name, agrees_on=draw(st.sampled_from(["a", "parity", "some"]))),
        rest=draw(agreements({"a": 0})),
    )
    return draw(
        claims(
            world,
            root,
            60 * 60 * 60,
            generalize=True,
            samples=draw(st.sampled_from([60, 300, 4000])),
        )
    )


@st.composite
def huge_numbers(draw: st.DrawFn) -> Case:
    """Numbers that no float, no array and no clock holds; refused or judged rightly."""
    world = draw(worlds())
    name = draw(
        st.sampled_from(
            ["adversarial_tolerance", "budget", "deadline", "seed", "slice_tolerance", "samples"]
        )
    )
    case = draw(claims(world))
    value = draw(
        st.sampled_from([10**400, 10**25, *([float("inf"), 1e308] if "tolerance" in name else [])])
    )
    accepts = replace(
        case.accepts, worst=None, **({"slices": None} if name == "slice_tolerance" else {})
    )
    return _with(
        replace(case, accepts=accepts),
        **{name: value, **({"by": "a"} if name == "slice_tolerance" else {})},
    )


@st.composite
def numpy_numbers(draw: st.DrawFn) -> Case:
    """Numbers that are numpy's, not Python's; refused or judged rightly."""
    case = draw(claims(draw(worlds())))
    options = case.make()[3]
    kinds = {
        float: st.sampled_from([np.float64, np.array, torch.tensor]),
        int: st.sampled_from([np.int64, np.array]),
    }
    return _with(
        case, **{k: draw(kinds[type(v)])(v) for k, v in options.items() if type(v) in kinds}
    )


@st.composite
def shared_donors(draw: st.DrawFn) -> Case:
    """Two siblings with one donor."""
    world = draw(worlds())
    on, rest = draw(agreements(world.features)), draw(agreements(world.features))
    first, second = world.network.reads["output"]
    lender, sharer = (
        module(first, agrees_on=on, name="lender"),
        module(second, agrees_on=on, shares="lender"),
    )
    return draw(claims(world, output(*draw(st.permutations([lender, sharer])), rest=rest)))


def _scored(world: World, score: Callable[[Tensor, Tensor], Tensor]) -> World:
    return replace(world, metric=_metric(score), score=score, worse=1)


def _word(worse: int) -> str:
    return "higher" if worse > 0 else "lower"


def _with(case: Case, **changed: Any) -> Case:
    """The same call with some options changed."""

    def make() -> Any:
        root, model, data, options = case.make()
        return root, model, data, {**options, **changed}

    return replace(case, make=make)


# Without a meaning: these are to be refused -------------------------------------------------------

NAN, HUGE = float("nan"), 10**400
ODD: list[Any] = [True, "x", NAN, [], -1, object()]
WRONG_OPTIONS: dict[str, list[Any]] = {
    "tolerance": [*ODD, float("inf"), HUGE, 1j],
    "min_recovered": [*(x for x in ODD if x != -1), float("inf"), float("-inf"), 2, HUGE, -HUGE],
    "direction": [*ODD, None, "better"],
    "metric": [*ODD, 3],
    "samples": [*ODD, None, 0, 1, 2.5],
    "min_with_other": [*ODD, None, 2, HUGE],
    "min_moved": [*ODD, None, 2],
    "by": [*ODD, "no such feature", 3],
    "slice_tolerance": [*ODD, 0.1],  # without by=
    "adversaries": [
        *(x for x in ODD if x != []),
        3,
        [3],
        [WhichDonors],
        WhichDonors(),
        ["which donors"],
    ],
    "adversarial_tolerance": [*ODD],
    "adversary": [*ODD, None, "none"],
    "budget": [*ODD, 2.5],
    "deadline": [True, "x", NAN, [], object(), -1],
    "min_power": [*ODD, 2],
    "name": [3, None, []],
    "store": [3, "x", []],
    "progress": [3, "x"],
    "folder": [3, []],
}


def _spoilt(**options: Any) -> Callable[[World], Any]:
    return lambda world: (
        _plain_root(world), world.graph(), world.data(),
        {"metric": world.metric, "tolerance": 1.0, **options}
    )  # fmt: skip


def _plain_root(world: World) -> Node:
    return output(module(world.network.reads["output"][0], agrees_on="a"), rest="b")


@st.composite
def misstated_options(draw: st.DrawFn) -> Case:
    name = draw(st.sampled_from(sorted(WRONG_OPTIONS)))
    value = draw(st.sampled_from(WRONG_OPTIONS[name]))
    world = draw(worlds())
    return Case(lambda: _spoilt(**{name: value})(world))


def _tree(make: Callable[[str], Any]) -> Callable[[World], Any]:
    """A root made from the name of a component that the output reads."""
    return lambda world: (
        make(world.network.reads["output"][0]), world.graph(), world.data(),
        {"metric": world.metric, "tolerance": 1.0}
    )  # fmt: skip


def _contains_itself() -> list[Any]:
    names: list[Any] = []
    names.append(names)
    return names


WRONG_TREES: dict[str, Callable[[World], Any]] = {
    "a typo of agrees_on": _tree(lambda n: output(module(n, agrees_on="a", agres_on="b"))),
    "a typo of reads": _tree(
        lambda n: output(module(n, agrees_on="a", read=[module("a", agrees_on="a")]))
    ),
    "a typo of rest": _tree(lambda n: output(module(n, agrees_on="a"), rets="b")),
    "a typo of pos": _tree(lambda n: output(module(n, agrees_on="a", position=0))),
    "a typo of computed_by": _tree(lambda n: output(module(n, agrees_on="a", compute_by=_wave))),
    "a typo in a group": _tree(lambda n: output(group([n], agrees_on="a", share="b"))),
    "no feature": _tree(lambda n: output(module(n))),
    "an unknown feature": _tree(lambda n: output(module(n, agrees_on="no such"))),
    "an unknown feature of the rest": _tree(
        lambda n: output(module(n, agrees_on="a"), rest="no such")
    ),
    "an unknown component": _tree(lambda n: output(module("no such", agrees_on="a"))),
    "an unknown component in a group": _tree(
        lambda n: output(group([n, "no such"], agrees_on="a"))
    ),
    "a component that it cannot read": _tree(lambda n: output(module("output", agrees_on="a"))),
    "one edge twice": _tree(lambda n: output(module(n, agrees_on="a"), module(n, agrees_on="b"))),
    "a root of another name": _tree(lambda n: module(n, agrees_on="a")),
    "two roots": _tree(lambda n: output(output(module(n, agrees_on="a")))),
    "a rest on a leaf": _tree(lambda n: output(module(n, agrees_on="a", rest="a"))),
    "a rest on a bare root": _tree(lambda _: output(rest="a")),
    "no tree": _tree(lambda _: None),
    "a list of trees": _tree(lambda n: [output(module(n, agrees_on="a"))]),
    "an empty list of features": _tree(lambda n: output(module(n, agrees_on=[]))),
    "a feature that is None": _tree(lambda n: output(module(n, agrees_on=[None]))),
    "a feature that is a number": _tree(lambda n: output(module(n, agrees_on=3))),
    "a feature that is NaN": _tree(lambda n: output(module(n, agrees_on=NAN))),
    "a feature that is an array": _tree(lambda n: output(module(n, agrees_on=np.zeros(3)))),
    "features that contain themselves": _tree(
        lambda n: output(module(n, agrees_on=_contains_itself()))
    ),
    "children that contain themselves": _tree(lambda _: output(*_contains_itself())),
    "reads that are None": _tree(lambda n: output(module(n, agrees_on="a", reads=None))),
    "reads that are a number": _tree(lambda n: output(module(n, agrees_on="a", reads=3))),
    "reads that are text": _tree(lambda n: output(module(n, agrees_on="a", reads="a"))),
    "a name that is None": _tree(lambda _: output(module(None, agrees_on="a"))),
    "a name that is a number": _tree(lambda _: output(module(3, agrees_on="a"))),
    "a name that is empty": _tree(lambda _: output(module("", agrees_on="a"))),
    "an unknown slot": _tree(lambda n: output(module(n, agrees_on="a", into="q"))),
    "a slot that is a number": _tree(lambda n: output(module(n, agrees_on="a", into=3))),
    "a way that is none": _tree(lambda n: output(module(n, agrees_on="a", via="some"))),
    "a position that is True": _tree(lambda n: output(module(n, agrees_on="a", pos=True))),
    "a position that is NaN": _tree(lambda n: output(module(n, agrees_on="a", pos=NAN))),
    "a position where there are none": _tree(lambda n: output(module(n, agrees_on="a", pos=0))),
    "a position far away": _tree(lambda n: output(module(n, agrees_on="a", pos=10**30))),
    "a slice of text": _tree(lambda n: output(module(n, agrees_on="a", pos=slice("x", None)))),
    "a slice of no step": _tree(
        lambda n: output(module(n, agrees_on="a", pos=slice(None, None, 0)))
    ),
    "an unknown column of positions": _tree(
        lambda n: output(module(n, agrees_on="a", pos="no such"))
    ),
    "a subspace that is text": _tree(lambda n: output(module(n, agrees_on="a", subspace="x"))),
    "a subspace of NaN": _tree(
        lambda n: output(module(n, agrees_on="a", subspace=np.full((3, 1), NAN)))
    ),
    "a subspace of another width": _tree(
        lambda n: output(module(n, agrees_on="a", subspace=np.eye(5)))
    ),
    "a subspace of no tensor's": _tree(
        lambda n: output(module(n, agrees_on="a", subspace=[[1.0], [2.0, 3.0]]))
    ),
    "a computation that is none": _tree(lambda n: output(module(n, agrees_on="a", computed_by=3))),
    "a computation of NaN": _tree(
        lambda n: output(module(n, agrees_on="a", computed_by=lambda a: a * NAN))
    ),
    "a computation of nothing": _tree(
        lambda n: output(module(n, agrees_on="a", computed_by=lambda a: None))
    ),
    "a computation of one number": _tree(
        lambda n: output(module(n, agrees_on="a", computed_by=lambda a: 1.0))
    ),
    "a computation of text": _tree(
        lambda n: output(module(n, agrees_on="a", computed_by=lambda a: ["x"] * len(a)))
    ),
    "a computation of too many rows": _tree(
        lambda n: output(module(n, agrees_on="a", computed_by=lambda a: np.zeros(len(a) + 1)))
    ),
    "a computation of another shape": _tree(
        lambda n: output(module(n, agrees_on="a", computed_by=lambda a: np.zeros((len(a), 7))))
    ),
    "a computation of two features given one": _tree(
        lambda n: output(module(n, agrees_on="a", computed_by=lambda a, b: a))
    ),
    "a computation of text's sine": _tree(
        lambda n: output(module(n, agrees_on="word", computed_by=_wave))
    ),
    "a lender who is nobody": _tree(lambda n: output(module(n, agrees_on="a", shares="nobody"))),
    "a lender who is a number": _tree(lambda n: output(module(n, agrees_on="a", shares=3))),
    "a name with a slash": _tree(lambda n: output(module(n, agrees_on="a", name="x/y"))),
    "a group of nothing": _tree(lambda _: output(group([], agrees_on="a"))),
    "a group of None": _tree(lambda _: output(group(None, agrees_on="a"))),
    "a group of one twice": _tree(lambda n: output(group([n, n], agrees_on="a"))),
    "a head that is text": _tree(lambda _: output(pytest_scrub.head("x", None, agrees_on="a"))),
    "a head below zero": _tree(lambda _: output(pytest_scrub.head(-1, 0, agrees_on="a"))),
    "an mlp where there is none": _tree(lambda _: output(pytest_scrub.mlp(0, agrees_on="a"))),
}


def _data(**fields: Callable[[int], Any]) -> Callable[[World], Any]:
    """A data set with these fields, each made for a number of rows."""
    return lambda world: (
        _plain_root(world),
        world.graph(),
        world.data(**{name: make(world.rows) for name, make in fields.items()}),
        {"metric": squared_error(), "tolerance": 1.0},
    )


def _feature(make: Callable[[int], Any]) -> Callable[[World], Any]:
    """A data set whose feature a is this, made for a number of rows; callables are called with the
    inputs."""
    return _data(features=lambda n: {"a": make(n), "b": [0] * n})


def _ramp(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.float64)


WRONG_DATA: dict[str, Callable[[World], Any]] = {
    "a feature with NaN": _feature(lambda n: np.array([NAN, *range(n - 1)])),
    "a feature of NaN": _feature(lambda n: torch.full((n,), NAN)),
    "a feature with None": _feature(lambda n: [None, *range(n - 1)]),
    "a feature that is None": _feature(lambda _: None),
    "a feature that is text": _feature(lambda n: "x" * n),
    "a feature that is a number": _feature(lambda _: 3),
    "a feature that is too short": _feature(lambda n: range(n - 1)),
    "a feature that is too long": _feature(lambda n: range(n + 1)),
    "a feature of lists that contain themselves": _feature(lambda n: [_contains_itself()] * n),
    "a feature that is a set": _feature(lambda n: set(range(n))),
    "a feature of objects": _feature(lambda n: [object()] * n),
    "a feature of complex numbers": _feature(lambda n: np.ones(n) * 1j),
    "a feature's function of nothing": _feature(lambda _: lambda inputs: None),
    "a feature's function of one number": _feature(lambda _: lambda inputs: 3.0),
    "a feature's function of NaN": _feature(lambda n: lambda inputs: inputs["a"] * NAN),
    "features that are a list": _data(features=lambda n: [("a", [0] * n)]),
    "features that are text": _data(features=lambda n: "a"),
    "labels of another length": _data(labels=lambda n: _ramp(n + 1)),
    "labels of another shape": _data(labels=lambda n: _ramp(n)[:, None]),
    "labels of NaN": _data(labels=lambda n: _ramp(n) * NAN),
    "labels of text": _data(labels=lambda n: ["x"] * n),
    "no labels": _data(labels=lambda n: None),
    "labels of one number": _data(labels=lambda n: 3.0),
    "inputs of NaN": _data(inputs=lambda n: {name: _ramp(n) * NAN for name in "abc"}),
    "inputs of other lengths": _data(
        inputs=lambda n: {"a": _ramp(n), "b": _ramp(n + 1), "c": _ramp(n)}
    ),
    "inputs of other names": _data(inputs=lambda n: {"x": _ramp(n)}),
    "inputs that are None": _data(inputs=lambda n: None),
    "inputs that are empty": _data(inputs=lambda n: {}),
    "inputs of no rows": _data(inputs=lambda n: {name: _ramp(0) for name in "abc"}),
    "inputs of text": _data(inputs=lambda n: {name: ["x"] * n for name in "abc"}),
    "inputs of ragged lists": _data(
        inputs=lambda n: {name: [[1.0]] * (n - 1) + [[1.0, 2.0]] for name in "abc"}
    ),
    "references that are none": _data(references=lambda n: []),
    "references out of range": _data(references=lambda n: [n]),
    "references of NaN": _data(references=lambda n: [NAN]),
    "references of text": _data(references=lambda n: ["x"]),
    "a mask of another length": _data(references=lambda n: [True] * (n + 1)),
    "donors twice": _data(donors=lambda n: [0, 0]),
    "a position of labels where there are none": _data(label_pos=lambda n: 0),
    "a position of labels that is text": _data(label_pos=lambda n: "no such"),
    "a position of labels that is NaN": _data(label_pos=lambda n: NAN),
    "a way to show that is none": _data(show=lambda n: 3),
    "no data set": lambda world: (_plain_root(world), world.graph(), None, {"tolerance": 1.0}),
    "a table": lambda world: (
        _plain_root(world),
        world.graph(),
        dict(world.network.inputs),
        {"tolerance": 1.0},
    ),
}


def _metric_of(function: Callable[[Tensor, Any], Any]) -> Callable[[World], Any]:
    return _spoilt(metric=function)


def _bounded(**wrong: Any) -> Callable[[World], Any]:
    return lambda world: _spoilt(metric=_metric(world.score, **wrong))(world)


WRONG_METRICS: dict[str, Callable[[World], Any]] = {
    "None": _metric_of(lambda out, batch: None),
    "a Python number": _metric_of(lambda out, batch: 1.0),
    "one number": _metric_of(lambda out, batch: out.mean()),
    "a column": _metric_of(lambda out, batch: out[:, None]),
    "a row": _metric_of(lambda out, batch: out[None]),
    "a list": _metric_of(lambda out, batch: out.tolist()),
    "an array": _metric_of(lambda out, batch: out.detach().numpy()),
    "NaN": _metric_of(lambda out, batch: out * NAN),
    "NaN for one row": _metric_of(lambda out, batch: torch.where(batch.rows == 1, NAN, out)),
    "infinity": _metric_of(lambda out, batch: out + float("inf")),
    "too many": _metric_of(lambda out, batch: torch.cat([out, out])),
    "complex numbers": _metric_of(lambda out, batch: out * 1j),
    "every pair": _metric_of(lambda out, batch: (out[:, None] - batch.labels) ** 2),
    "a pair's bounds the wrong way round": lambda world: _spoilt(
        metric=_metric(world.score, lower=1.0, upper=0.0)
    )(world),
    "bounds of NaN": _bounded(lower=NAN),
    "bounds of text": _bounded(lower="x"),
    "worse than words": _bounded(worse="more"),
    "a position of nothing": _spoilt(metric=squared_error(pos=0)),
    "a position that is NaN": _spoilt(metric=squared_error(pos=NAN)),
    "classes of no class": _spoilt(metric=pytest_scrub.cross_entropy()),
}


def _network(**changed: Callable[..., Any]) -> Callable[[World], Any]:
    calls = {"A": lambda a, b: a + b, "output": lambda A, c: A * c} | changed
    return lambda world: (
        output(module("A", agrees_on="a"), rest="b"),
        FunctionGraph(**calls),
        world.data(),
        {"metric": squared_error(), "tolerance": 1.0},
    )


MIXING: dict[str, Callable[[World], Any]] = {
    "centred": _network(A=lambda a, b: a - (a + b).mean(0)),
    "scaled": _network(A=lambda a, b: (a + b) / (1 + (a + b).abs().sum())),
    "turned round": _network(A=lambda a, b: (a + 3 * b).flip(0)),
    "summed up": _network(A=lambda a, b: (1 + a + b).cumsum(0)),
    "centred output": _network(output=lambda A, c: A + c - (A + c).mean(0)),
    "the first row's": _network(output=lambda A, c: A + c + (A + c)[:1]),
}


def _in_turns() -> Callable[[Tensor, Tensor], Tensor]:
    calls = iter(range(10**9))
    return lambda a, b: a + b + next(calls)


WRONG_NETWORKS: dict[str, Callable[[World], Any]] = {
    "at random": _network(A=lambda a, b: a + torch.rand_like(b)),
    "in turns": _network(A=_in_turns()),
    "None": _network(A=lambda a, b: None),
    "NaN": _network(output=lambda A, c: A * NAN),
    "infinity": _network(A=lambda a, b: a / 0),
    "one number": _network(output=lambda A, c: A.mean()),
    "whole numbers": _network(output=lambda A, c: (A * c).long()),
    "yes or no": _network(output=lambda A, c: A - c > 0),
    "complex numbers": _network(output=lambda A, c: A * 1j),
    "a list": _network(output=lambda A, c: (A * c).tolist()),
    "too few rows": _network(output=lambda A, c: A[:-1]),
    "another shape": _network(output=lambda A, c: torch.stack([A, c], 1)),
    "no function": _network(A=3),  # type: ignore[arg-type]
    "a function of C": _network(A=torch.add),
    "an error": _network(A=lambda a, b: a[3:, 7] + b),
    "arguments of any number": _network(A=lambda *a: a[0]),
    "a circle": _network(A=lambda B: B, B=lambda A: A),
    "an input that is none": _network(A=lambda no_such: no_such),
    "no network": lambda world: (_plain_root(world), None, world.data(), {"tolerance": 1.0}),
    "a number": lambda world: (_plain_root(world), 3, world.data(), {"tolerance": 1.0}),
    "text": lambda world: (_plain_root(world), "x", world.data(), {"tolerance": 1.0}),
    "a class": lambda world: (_plain_root(world), _Net, world.data(), {"tolerance": 1.0}),
}


def misstated(
    table: Mapping[str, Callable[[World], Any]], of: st.SearchStrategy[World] | None = None
) -> st.SearchStrategy[Case]:
    """One entry of a table of what is to be refused, about some world."""

    def case(name: str, world: World) -> Case:
        return Case(lambda: table[name](world))

    return st.builds(case, st.sampled_from(sorted(table)), worlds() if of is None else of)


VALID: dict[str, st.SearchStrategy[Case]] = {
    "ordinary": ordinary(),
    "of_torch_modules": of_torch_modules(),
    "of_transformers": of_transformers(),
    "shared_donors": shared_donors(),
    "generalizes": generalizes(),
    "tiny_samples": tiny_samples(),
}
HOSTILE: dict[str, st.SearchStrategy[Case]] = {
    "rare_large_changes": rare_large_changes(),
    "metrics_with_an_offset": metrics_with_an_offset(),
    "one_heavy_row": one_heavy_row(),
    "wrong_bounds": wrong_bounds(),
    "metrics_that_overwrite": metrics_that_overwrite(),
    "nodes_that_overwrite": nodes_that_overwrite(),
    "features_that_overwrite": features_that_overwrite(),
    "computed_in_place": computed_in_place(),
    "weights_changed_between": weights_changed_between(),
    "huge_numbers": huge_numbers(),
    "numpy_numbers": numpy_numbers(),
    "mixes_rows": misstated(MIXING, worlds(rows=12)),  # of two rows alone it may not show
    "misstated_options": misstated_options(),
    "misstated_trees": misstated(WRONG_TREES),
    "misstated_data": misstated(WRONG_DATA),
    "misstated_metrics": misstated(WRONG_METRICS),
    "misstated_networks": misstated(WRONG_NETWORKS),
}
KINDS = VALID | HOSTILE
