"""Networks that keep something of what they were run on before.

A network that remembers its answers gives the clean one whatever is swapped: "this does not matter"
holds of all that it is made of.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

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
from pytest_scrub.errors import ModelError
from pytest_scrub.pytest_edge.session import Scrub, Session

ROWS = torch.randint(0, 2, (80, 3), generator=torch.Generator().manual_seed(0)).float()
LABELS = (ROWS[:, 0] != ROWS[:, 1]).long()


class Part(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1.0 * x


class Network(nn.Module):
    """Whether two bits differ, so both matter."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = Part(), Part()
        self.make()

    def make(self) -> None:
        """What it holds beside its parts."""

    def answer(self, a: Tensor, b: Tensor) -> Tensor:
        differ = (a - b).abs()
        return 9 * torch.stack([1 - differ, differ], -1)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.answer(self.a(tokens[:, 0]), self.b(tokens[:, 1]))


class Remembering(Network):
    """Answers what it has answered to the same input before."""

    kept: dict[Any, Tensor]

    def make(self) -> None:
        self.kept = {}

    def forward(self, tokens: Tensor) -> Tensor:
        answers = zip(map(tuple, tokens.tolist()), super().forward(tokens), strict=True)
        return torch.stack([self.kept.setdefault(*one) for one in answers])


class Deeper(Remembering):
    """In something that a part holds."""

    def make(self) -> None:
        self.b.answers = {"kept": {}}  # type: ignore[assignment]

    @property
    def kept(self) -> dict[Any, Tensor]:  # type: ignore[override]
        return self.b.answers["kept"]  # type: ignore[index, return-value, operator]


class Counting(Network):
    """Does not read a part any more after some runs."""

    def make(self) -> None:
        self.runs = 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.runs += 1
        a = self.a(tokens[:, 0])
        return self.answer(a if self.runs < 4 else tokens[:, 0], self.b(tokens[:, 1]))


class Averaging(Network):
    """Keeps means in evaluation, too."""

    def make(self) -> None:
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, tokens: Tensor) -> Tensor:
        self.mean.lerp_(tokens.mean(0), 0.1)
        return super().forward(tokens)


class Exchanging(Averaging):
    def forward(self, tokens: Tensor) -> Tensor:
        self.mean = self.mean.lerp(tokens.mean(0), 0.1)
        return Network.forward(self, tokens)


ANSWERS: dict[Any, Tensor] = {}


class InItsClass(Remembering):
    kept = ANSWERS

    def make(self) -> None:
        ANSWERS.clear()


class InAGlobal(Network):
    def make(self) -> None:
        ANSWERS.clear()

    def forward(self, tokens: Tensor) -> Tensor:
        answers = zip(map(tuple, tokens.tolist()), super().forward(tokens), strict=True)
        return torch.stack([ANSWERS.setdefault(*one) for one in answers])


CLAIM = output(module("a", agrees_on=ANYTHING), rest=EXACT)


def judged(model: nn.Module, data: Dataset | None = None) -> Verdict:
    return check(
        CLAIM, ModuleGraph(model.eval()), data or Dataset(ROWS, labels=LABELS),
        metric=zero_one_error(), tolerance=0.1, samples=300, adversaries=(),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (Remembering, "'kept' of the network itself"),
        (Deeper, "'answers' of module 'b'"),
        (Counting, "'runs' of the network itself"),
        (Averaging, "the weight or buffer 'mean'"),
        (Exchanging, "the weight or buffer 'mean'"),
        (InItsClass, "the class attribute 'kept'"),
        (InAGlobal, "the global 'ANSWERS'"),
    ],
)
def test_a_network_that_keeps_something_of_earlier_runs_is_refused(
    made: type[Network], named: str
) -> None:
    said = f"^torch module {made.__name__}: {named} is another after the runs of this claim, and"
    with pytest.raises(ModelError, match=said):
        judged(made())


def test_a_memory_that_is_full_is_refused_as_it_was() -> None:
    """Asked again, as a test that is run again asks, it has seen all rows, and changes no more."""
    model = Remembering()
    for _ in range(2):
        with pytest.raises(ModelError, match="'kept' of the network itself"):
            judged(model)


def test_a_hook_that_keeps_what_it_saw_is_named() -> None:
    model, kept = Network(), list[Any]()
    model.a.register_forward_hook(lambda module, given, out: kept.append(out))
    with pytest.raises(ModelError, match=r"something that the function '.*' closes over"):
        judged(model)


def test_a_part_that_a_memory_would_hide_matters() -> None:
    assert judged(Network()).outcome == "refuted"


class OfTheLastRun(Network):
    """For whoever wants to look at it."""

    def forward(self, tokens: Tensor) -> Tensor:
        self.size, self.read = len(tokens), self.a(tokens[:, 0])
        return self.answer(self.read, self.b(tokens[:, 1]))


class MadeOnce(Network):
    """As a mask, or angles of a rotation, are; and again where rows are more, or another number."""

    def make(self) -> None:
        self.ones: Tensor | None = None
        self.by_size: dict[int, Tensor] = {}
        self.register_buffer("longest", torch.zeros(0))

    def forward(self, tokens: Tensor) -> Tensor:
        size = len(tokens)
        if self.ones is None or len(self.ones) != size:
            self.ones = torch.ones(size)
        if len(self.longest) < size:
            self.longest = torch.ones(size)
        factor = self.by_size.setdefault(size, torch.ones(size)) * self.ones * self.longest[:size]
        return self.answer(self.a(tokens[:, 0]) * factor, self.b(tokens[:, 1]))


@pytest.mark.parametrize("made", [OfTheLastRun, MadeOnce])
def test_what_is_kept_of_the_last_run_or_of_sizes_is_no_memory(made: type[Network]) -> None:
    assert judged(made()).outcome == "refuted"


class OfWords(Remembering):
    """Of two bits in one whole number."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(torch.cat([tokens % 2, tokens // 2], 1).float())


def test_a_memory_of_all_that_there_is_is_refused() -> None:
    """By the end there is no input left that it does not know: its first rows were alike."""
    words = torch.cat([torch.zeros(16, dtype=torch.long), torch.arange(64) % 4])[:, None]
    labels = (words % 2 != words // 2).long()[:, 0]
    with pytest.raises(ModelError, match="'kept' of the network itself"):
        judged(OfWords(), Dataset(words, labels=labels))


def test_weights_that_are_written_to_while_a_claim_is_checked_are_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).eval()

    def metric(out: Tensor, batch: Any) -> Tensor:
        with torch.no_grad():
            model[1].weight.mul_(1 + 1e-6)  # by less than two batches may differ
        return out.sum(-1)

    with pytest.raises(ModelError, match=r"the weight or buffer '1\.weight' is another"):
        check(
            output(module("0", agrees_on=ANYTHING), rest=EXACT),
            ModuleGraph(model), Dataset(ROWS), metric=metric, tolerance=1.0, samples=50,
            adversaries=(),
        )  # fmt: skip


def test_gaps_by_hand_are_refused_too() -> None:
    scrub = Scrub(Session({}), ModuleGraph(Counting().eval()), Dataset(ROWS, labels=LABELS), "t")
    drawn = scrub.space(CLAIM).draw(20, np.random.default_rng(0))
    with pytest.raises(ModelError, match="'runs' of the network itself"):
        scrub.gap(drawn, CLAIM)
