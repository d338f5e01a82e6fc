"""What a module returns and keeps as well is read from there too, where it is read from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

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

ROWS = torch.randint(0, 2, (80, 2), generator=torch.Generator().manual_seed(0)).float()
LABELS = (ROWS[:, 0] != ROWS[:, 1]).long()


def without_the_part(model: nn.Module) -> Verdict:
    """The claim that the part does not matter."""
    return check(
        output(module("part", agrees_on=ANYTHING), rest=EXACT),
        ModuleGraph(model.eval()), Dataset(ROWS, labels=LABELS),
        metric=zero_one_error(), tolerance=0.1, samples=300, adversaries=(),
    )  # fmt: skip


class Keeping(nn.Module):
    def __init__(self, keep: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.results: dict[str, Tensor] = {}
        self.all: list[Tensor] = []
        self.keep = keep

    def forward(self, x: Tensor) -> Tensor:
        out = 1.0 * x
        self.keep(self, out)
        return out


class Around(nn.Module):
    """Returns what a part of it returned, and that keeps."""

    def __init__(self, inner: Keeping) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)  # type: ignore[no-any-return]


class Reading(nn.Module):
    """Whether two bits differ; one is taken from where a part keeps it, and not from what that
    returned."""

    def __init__(self, part: nn.Module, read: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.part, self.read = part, read

    def forward(self, tokens: Tensor) -> Tensor:
        self.part(tokens[:, 0])
        differ = (self.read(self.part) - tokens[:, 1]).abs()
        return 9 * torch.stack([1 - differ, differ], -1)


def attribute(part: Any, out: Tensor) -> None:
    part.last = out


def detached(part: Any, out: Tensor) -> None:
    part.last = out.detach()


def in_another_shape(part: Any, out: Tensor) -> None:
    part.last = out[:, None]


def in_a_dictionary(part: Any, out: Tensor) -> None:
    part.results["last"] = out


def in_a_list(part: Any, out: Tensor) -> None:
    part.all[:] = [out]


def last(part: Any) -> Tensor:
    return part.last  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("keep", "read"),
    [
        (attribute, last),
        (detached, last),
        (in_another_shape, lambda part: part.last[:, 0]),
        (in_a_dictionary, lambda part: part.results["last"]),
        (in_a_list, lambda part: part.all[0]),
    ],
    ids=["attribute", "detached", "shape", "dictionary", "list"],
)
@pytest.mark.parametrize("is_around", [False, True])
def test_a_part_that_is_read_from_where_it_keeps_its_value_matters(
    keep: Any, read: Any, is_around: bool
) -> None:
    part = Keeping(keep)
    model = Reading(part, read)
    if is_around:
        model = Reading(Around(part), lambda around: read(around.inner))
    assert without_the_part(model).outcome == "refuted"


class Returning(nn.Module):
    def __init__(self, made: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.made = made

    def forward(self, x: Tensor) -> Any:
        return self.made(1.0 * x)


class ReadingElsewhere(Reading):
    """From another item of what a part returned."""

    def forward(self, tokens: Tensor) -> Tensor:
        differ = (self.read(self.part(tokens[:, 0])) - tokens[:, 1]).abs()
        return 9 * torch.stack([1 - differ, differ], -1)


@pytest.mark.parametrize(
    ("made", "read"),
    [
        (lambda out: (out, out), lambda found: found[1]),
        (lambda out: (out, [2 * out, out]), lambda found: found[1][-1]),
        (lambda out: {"last": out, "all": (out,)}, lambda found: found["all"][0]),
        (lambda out: (out, out[:, None]), lambda found: found[1][:, 0]),
        (
            lambda out: BaseModelOutput(out[:, None], hidden_states=(0 * out, out[:, None])),
            lambda found: found.hidden_states[-1][:, 0],
        ),
    ],
    ids=["pair", "list", "dictionary", "view", "hidden states"],
)
def test_a_part_that_is_read_from_another_item_that_is_the_same_tensor_matters(
    made: Any, read: Any
) -> None:
    model = ReadingElsewhere(Returning(made), read)
    assert without_the_part(model).outcome == "refuted"


def test_items_that_are_the_same_tensor_can_be_told_apart_by_name() -> None:
    """What is put in for one of them is not put in for the other, which has its own."""
    model = ReadingElsewhere(Returning(lambda out: (out, out)), lambda found: found[1])
    graph, inputs = ModuleGraph(model.eval()), {"tokens": ROWS[:4]}
    graph.prove(inputs)
    put = {"part": torch.zeros(4), "part(item=1)": ROWS[:4, 1]}
    found = graph.run_with(inputs, put, lambda name, _: put[name])
    assert found[:, 1].tolist() == [0, 0, 0, 0]  # as the second is all that is read


class Table(nn.Module):
    """Returns what it holds, which is no result of a run."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.tensor([[1.0, 2.0]]).expand(4, 2).clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.table[: len(x)]


def test_what_a_module_holds_and_returns_is_put_back() -> None:
    model = nn.Sequential(Table(), nn.Linear(2, 1)).eval()
    table = model[0].table
    graph = ModuleGraph(model)
    inputs = {"tokens": torch.zeros(4, 2)}
    graph.prove(inputs)
    clean = graph.run(inputs)
    swapped = graph.run_with(inputs, ["0"], lambda name, value: 2 * value)
    assert not torch.equal(swapped, clean)
    assert model[0].table is table
    assert torch.equal(graph.run(inputs), clean)
