"""What a network computes of a row may not depend on the rows beside it, nor on how many they
are."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pytest_scrub import (
    ANYTHING,
    DataError,
    Dataset,
    FunctionGraph,
    Metric,
    ModelError,
    ModuleGraph,
    check,
    head,
    load_model,
    module,
    output,
)
from pytest_scrub.engine.row_independence import relative_difference
from pytest_scrub.network import as_graph
from pytest_scrub.network.graph import ModelGraph
from tests.reference.generate import Architecture, build

ROWS = 300
MEAN = Metric("mean", lambda out, batch: out.flatten(1).mean(1))
SETTINGS: dict[str, Any] = {"metric": MEAN, "tolerance": 100.0, "samples": 300}


def rows(count: int = ROWS) -> Dataset:
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(1))
    return Dataset({"tokens": x}, features={"sign": (x[:, 0] > 0).numpy()})


def sorted_by_its_first(x: Tensor) -> Tensor:
    return x[x[:, 0].argsort(stable=True)]


MIXING: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x - x.mean(0),
    "norm": lambda x: x / x.norm(dim=0),
    "rank": lambda x: x + 0.01 * x.argsort(0).argsort(0),
    "sorted": sorted_by_its_first,
    "running sum": lambda x: x.cumsum(0),
    "the row before": lambda x: x + 0.1 * x.roll(1, 0),
    "first row": lambda x: x + 0.1 * x[:1],
    "size": lambda x: x * len(x),
    "odd sizes": lambda x: x + len(x) % 2,
    "from 20 rows on": lambda x: x + (len(x) >= 20),
    "from 200 rows on": lambda x: x + (len(x) >= 200),
    "below 20 rows": lambda x: x + (2 < len(x) < 20),
    "one row": lambda x: x + (len(x) == 1),
    "full batches": lambda x: x + (len(x) == 256),
    "softmax over the batch": lambda x: x + x.softmax(0),
}


class Mixing(nn.Module):
    """A network that `mix` is a part of."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.part, self.last = nn.Linear(4, 4), Part(mix), nn.Linear(4, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(self.part(self.first(tokens)))


class Part(nn.Module):
    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(x)


def mixing_transformer(mix: Callable[[Tensor], Tensor]) -> ModelGraph:
    bridge = build.__wrapped__(Architecture(attn_only=False, n_layers=2)).bridge
    bridge.blocks[0].mlp.original_component.register_forward_hook(
        lambda part, inputs, out: mix(out)
    )
    return as_graph(bridge)


KINDS: dict[str, Callable[[Callable[[Tensor], Tensor]], ModelGraph]] = {
    "module": lambda mix: ModuleGraph(Mixing(mix)),
    "functions": lambda mix: FunctionGraph(
        part=lambda tokens: 1 * mix(tokens), output=lambda part: 2 * part
    ),
}


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_mixes_rows_is_refused_by_name(
    kind: str, mix: Callable[[Tensor], Tensor]
) -> None:
    root = output(module("part", agrees_on="sign"))
    with pytest.raises(
        ModelError,
        match=r"the value of (part|output) of a row depends on the rows beside it: in a batch ",
    ):
        check(root, KINDS[kind](mix), rows(), **SETTINGS)


@pytest.mark.parametrize(
    "mix", [lambda x: x - x.mean(0), lambda x: x / x.abs().sum(0)], ids=["mean", "norm"]
)
@pytest.mark.parametrize(
    "grid", [[(0.0, y) for y in (0, 1, 2)], [(x, y) for x in (-1.0, 0, 1) for y in (-1, 0, 1)]]
)
def test_no_row_hides_it_that_is_like_the_mean_of_all(
    grid: Any, mix: Callable[[Tensor], Tensor]
) -> None:
    graph = FunctionGraph(part=lambda tokens: mix(tokens.sum(1)), output=lambda part: part[:, None])
    for scale in range(1, 30):  # which rows are run again depends on their content
        data = Dataset({"tokens": scale * torch.tensor(grid)}, features={"f": [0] * len(grid)})
        with pytest.raises(ModelError, match="depends on the rows beside it"):
            check(output(module("part", agrees_on="f")), graph, data, **SETTINGS)


@pytest.mark.parametrize("mix", MIXING.values(), ids=MIXING)
def test_so_is_an_activation_that_the_output_does_not_need(mix: Callable[[Tensor], Tensor]) -> None:
    graph = FunctionGraph(
        part=lambda tokens: 1 * mix(tokens), output=lambda part, tokens: tokens + 0 * part
    )
    with pytest.raises(
        ModelError,
        match=r"^a graph of functions: the value of part of a row depends on the rows beside ",
    ):
        check(output(module("part", agrees_on="sign")), graph, rows(), **SETTINGS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_alone_are_accepted(kind: str) -> None:
    root = output(module("part", agrees_on="sign"))
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        part = lambda x, dtype=dtype: (x.to(dtype) @ torch.ones(4, 4, dtype=dtype)).float()  # noqa: E731
        assert check(root, KINDS[kind](part), rows(), **SETTINGS).average == "held"


@pytest.mark.parametrize("count", [1, 2, 3, 17, 257, 511])
def test_any_number_of_rows(count: int) -> None:
    graph = ModuleGraph(Mixing(lambda x: x + (len(x) >= 3)))
    root = output(agrees_on=ANYTHING)
    if count > 2:
        with pytest.raises(ModelError, match="depends on the rows beside it"):
            check(root, graph, rows(count), **SETTINGS)
    else:
        assert check(root, graph, rows(count), **SETTINGS).samples > 0


def test_a_refused_network_is_refused_again_by_the_next_claim() -> None:
    """What was captured before the proof failed is not kept."""
    from pytest_scrub.pytest_edge.session import Session

    session, graph, data = (
        Session({"samples": 100, "effort": "none"}),
        ModuleGraph(Mixing(MIXING["mean"])),
        rows(),
    )
    for _ in range(2):
        with pytest.raises(ModelError, match="depends on the rows beside it"):
            session.check(
                output(agrees_on=ANYTHING), model=graph, data=data, name="claim", **SETTINGS
            )


def test_what_only_patched_runs_show() -> None:
    """Captured batches are never so large as those of what is computed from them."""
    graph = FunctionGraph(part=lambda tokens: tokens, output=lambda part: part + (len(part) > 256))
    with pytest.raises(
        ModelError,
        match=r"the scrubbed output of a row depends on the rows beside it: in a batch of 300",
    ):
        check(output(module("part", agrees_on="sign")), graph, rows(), **SETTINGS)


def test_what_is_computed_for_a_claim() -> None:
    def centred(signs: Any) -> Tensor:
        value = torch.as_tensor(signs).float()[:, None].expand(-1, 4)
        return value - value.mean(0)

    graph = FunctionGraph(part=lambda tokens: tokens.sign(), output=lambda part: part)
    root = output(module("part", agrees_on="sign", computed_by=centred))
    with pytest.raises(
        ModelError, match=r"let the network, and each computed_by=, compute every row by itself"
    ):
        check(root, graph, rows(), **SETTINGS)


def test_a_metric_of_several_references() -> None:
    graph = FunctionGraph(part=lambda tokens: tokens, output=lambda part: part)
    centred = Metric("centred", lambda out, batch: out.mean(1) - out.mean())
    with pytest.raises(
        DataError, match=r"^the metric centred of a reference depends on the references beside it; "
    ):
        check(
            output(module("part", agrees_on="sign")),
            graph,
            rows(),
            **{**SETTINGS, "metric": centred},
        )


@pytest.mark.parametrize(
    "mix", [lambda x: x + (len(x) >= 20), lambda x: x + (len(x) >= 60)], ids=["20 on", "60 on"]
)
def test_a_transformer(mix: Callable[[Tensor], Tensor]) -> None:
    tokens = torch.randint(0, 5, (ROWS, 3), generator=torch.Generator().manual_seed(0))
    data = Dataset(tokens, features={"first": tokens[:, 0]})
    with pytest.raises(
        ModelError, match=r"depends on the rows beside it: in a batch of \d+ it differs by "
    ):
        check(output(head(1, 0, agrees_on="first")), mixing_transformer(mix), data, **SETTINGS)


def test_noise_that_shows_late_is_not_called_company() -> None:
    calls = []

    def late(x: Tensor) -> Tensor:
        calls.append(0)
        return x + len(calls) * (len(calls) > 4)

    with pytest.raises(
        ModelError, match="differs between two runs on the same inputs; make it deterministic"
    ):
        check(output(agrees_on=ANYTHING), ModuleGraph(Mixing(late)), rows(), **SETTINGS)


def test_batch_normalisation() -> None:
    network, data = (
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        Dataset({"input": rows().inputs["tokens"]}),
    )
    sentence = r"^the model is in train mode and 1 normalises over the batch; call model.eval\(\)$"
    with pytest.raises(ModelError, match=sentence):
        ModuleGraph(network)
    graph = ModuleGraph(network.eval())
    assert check(output(agrees_on=ANYTHING), graph, data, **SETTINGS).samples > 0
    network.train()
    with pytest.raises(ModelError, match=sentence):
        check(output(agrees_on=ANYTHING), graph, data, **SETTINGS)
    network[1] = nn.BatchNorm1d(4, track_running_stats=False)
    with pytest.raises(
        ModelError,
        match=r"^1 normalises over the batch, in eval mode too; make it with track_running_sta",
    ):
        ModuleGraph(network.eval())


def test_how_far_apart() -> None:
    whole = torch.tensor([3.0, 4.0, 5.0])
    assert relative_difference(whole, whole + 1e-5, whole) == 0
    assert relative_difference(whole, whole + 0.1, whole) == pytest.approx(
        0.1 / (50 / 3) ** 0.5, rel=1e-5
    )
    assert relative_difference(whole[:2], whole, whole) == float("inf")
    assert relative_difference(whole, whole * torch.nan, whole) == float("inf")
    assert relative_difference(whole * torch.nan, whole * torch.nan, whole) == 0
    assert relative_difference(
        torch.tensor([1, 2]), torch.tensor([1, 3]), torch.tensor([1, 2])
    ) == float("inf")


# Modules that are not what they were on the first batch -------------------------------------------


class Uneven(nn.Module):
    """Its part is called as `calls` says from 20 rows on."""

    def __init__(self, calls: Callable[[nn.Module, Tensor], Tensor], least: int = 20) -> None:
        super().__init__()
        self.part, self.last, self.calls, self.least = (
            nn.Linear(4, 4),
            nn.Linear(4, 4),
            calls,
            least,
        )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.last(
            self.calls(self.part, tokens) if len(tokens) >= self.least else self.part(tokens)
        )


@pytest.mark.parametrize(
    ("calls", "why"),
    [
        (
            lambda part, x: torch.cat([part(half) for half in x.chunk(2)]),
            "returns [128, 4] for 256 inputs, not one value",
        ),
        (
            lambda part, x: (part(x), part(x))[1],
            "is called 2 times on 256 inputs, more than on the first",
        ),
        (
            lambda part, x: nn.functional.linear(x, part.weight, part.bias),
            "is not called on 256 inputs",
        ),
    ],
)
def test_a_part_that_is_called_otherwise_in_a_large_batch(calls: Any, why: str) -> None:
    with pytest.raises(ModelError, match=re.escape(f"module 'part' {why}")):
        check(
            output(module("part", agrees_on=ANYTHING)),
            ModuleGraph(Uneven(calls)),
            rows(),
            **SETTINGS,
        )


# What is no tensor of one value per row -----------------------------------------------------------

UNUSUAL: dict[str, tuple[Callable[[Tensor], Any], Callable[[Any], Tensor], str]] = {
    "tuple": (lambda x: ((x, x),), lambda y: y[0][0], "returns tuple, not a tensor"),
    "dict": (lambda x: {"h": [x]}, lambda y: y["h"][0], "returns dict, not a tensor"),
    "turned in a tuple": (
        lambda x: (None, x.transpose(0, 1)),
        lambda y: y[1].transpose(0, 1),
        "returns [4, 1, 4] for 1 inputs, not one value",
    ),
    "sparse": (
        lambda x: x.to_sparse(),
        lambda y: y.to_dense(),
        "returns a tensor that is sparse_coo",
    ),
    "complex": (torch.fft.fft, lambda y: y.real, "returns a tensor that is complex64"),
    "float8": (
        lambda x: x.to(torch.float8_e4m3fn),
        lambda y: y.float(),
        "returns a tensor that is float8_e4m3fn",
    ),
    "empty": (lambda x: x[:, :0], lambda y: y.sum(1), "returns a tensor that is empty, [1, 0, 4]"),
    "turned": (
        lambda x: x.transpose(0, 1),
        lambda y: y.transpose(0, 1),
        "returns [4, 1, 4] for 1 inputs, not one value",
    ),
}


class Wrapped(nn.Module):
    def __init__(self, part: Callable[[Tensor], Any], rest: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.part, self.rest = Part(part), rest

    def forward(self, tokens: Tensor) -> Tensor:
        return self.rest(self.part(tokens))


@pytest.mark.parametrize(("part", "rest", "why"), UNUSUAL.values(), ids=UNUSUAL)
@pytest.mark.parametrize("pos", [None, 1])
def test_a_module_without_one_value_per_row(
    part: Any, rest: Any, why: str, pos: int | None
) -> None:
    data = Dataset({"tokens": rows().inputs["tokens"][:, :, None].expand(-1, -1, 4).contiguous()})
    root = output(module("part", agrees_on=ANYTHING, pos=pos))
    with pytest.raises(ModelError, match=rf"^module 'part' {re.escape(why.partition(' [')[0])}"):
        check(root, ModuleGraph(Wrapped(part, rest)), data, **SETTINGS)


@pytest.mark.parametrize(
    "out", [lambda x: x.to_sparse(), torch.fft.fft, lambda x: x.sum(), lambda x: x[:1]]
)
def test_an_output_without_one_value_per_row(out: Any) -> None:
    with pytest.raises(ModelError, match=r"^torch module Wrapped returns "):
        check(
            output(agrees_on=ANYTHING), ModuleGraph(Wrapped(lambda x: x, out)), rows(), **SETTINGS
        )


def test_weights_without_a_shape() -> None:
    with pytest.raises(
        ModelError,
        match=r"^the weight 0.weight has no shape yet; run the network once on a batch before$",
    ):
        ModuleGraph(nn.Sequential(nn.LazyLinear(3)))


def test_a_name_that_is_assigned_later() -> None:
    graph = FunctionGraph(
        part=lambda tokens: tokens if len(tokens) else later, output=lambda part: part
    )
    assert check(output(module("part", agrees_on="sign")), graph, rows(), **SETTINGS).samples > 0
    later = 2


def test_code_that_names_torchs_own_modules() -> None:
    """They import one another, and torch is among them."""
    network = ModuleGraph(
        Mixing(lambda x: torch.nn.functional.relu(torch.fft.fft(x).real) + torch.fft.ifft(x).real)
    )
    assert check(output(module("part", agrees_on="sign")), network, rows(), **SETTINGS).samples > 0


def test_a_folder_with_an_encoder_is_loaded_as_it_says(tmp_path: Any) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=7, hidden_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    assert load_model(tmp_path).source == "BertModel (along every path)"


def test_codes_that_jump_at_a_threshold_may_differ_in_few_places() -> None:
    """And no more: what depends on the rows beside it differs everywhere."""
    own = torch.randn(8, 10, 5, generator=torch.Generator().manual_seed(0))
    jumped, mixed = own.clone(), own + 0.01
    jumped[3, 2] += 1.0
    assert relative_difference(jumped, own, own) > 0.5
    assert not relative_difference(jumped, own, own, jumps=True)
    assert relative_difference(mixed, own, own, jumps=True) > 0
    assert relative_difference(jumped[3:4, 2:3], own[3:4, 2:3], own, jumps=True) > 0.5
    jumped[4] += 1.0
    assert relative_difference(jumped, own, own, jumps=True) > 0.5
