"""Balanced brackets of length 16, learnt by a transformer, on all 65,536 strings.

The network sums over positions before it decides. What it reads of the first half of a string
depends on that half alone, since attention is causal: 256 sums, each of which can be put beside any
of 65,536 second halves. Those are all the answers that swaps of halves can make.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.exam import claims as k
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import Extremes
from pytest_scrub import (
    EXACT,
    Dataset,
    load_model,
    module,
    output,
    zero_one_error,
)
from pytest_scrub.tree.nodes import AgreesOn, Node

LENGTH, WIDTH, HEADS, HIDDEN = 16, 32, 2, 64
HALF = LENGTH // 2
TIGHT, LOOSE = 0.02, 0.1
OPTIONS = {"tolerance": TIGHT, "metric": zero_one_error()}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.Wq, self.Wk, self.Wv, self.Wo = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.mlp1, self.mlp2 = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, z: Tensor) -> Tensor:
        q, key, v = (
            made(z).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for made in (self.Wq, self.Wk, self.Wv)
        )
        scores = q @ key.transpose(-1, -2) / key.shape[-1] ** 0.5
        hidden = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v
        z = z + self.Wo(mixed.transpose(1, 2).flatten(2))
        out: Tensor = z + self.mlp2(self.mlp1(z).relu())
        return out


class Pool(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z.sum(1)


class Dyck(nn.Module):
    """The network of "verified-circuits"; class 1 is balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(2, WIDTH)
        self.pos = nn.Parameter(torch.zeros(LENGTH, WIDTH))
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.pool = Pool()
        self.h1, self.h2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        z = self.tok(tokens) + self.pos
        for block in self.blocks:
            z = block(z)
        out: Tensor = self.h2(self.h1(self.pool(z)).relu())
        return out


def folder() -> Path | None:
    given = os.environ.get("SCRUB_NETWORKS")
    return Path(given) / "dyck16" if given else None


@cache
def network() -> Dyck:
    from safetensors.torch import load_file

    where = folder()
    assert where is not None
    made = Dyck()
    made.load_state_dict(load_file(where / "dyck16.safetensors"))
    return made.eval().requires_grad_(False)


@cache
def data() -> Dataset:
    tokens = torch.cartesian_prod(*[torch.arange(2)] * LENGTH)
    depths = (1 - 2 * tokens).cumsum(1)
    final, middle = depths[:, -1], depths[:, HALF - 1]
    never_below = depths.min(1).values >= 0
    balanced = (final == 0) & never_below
    in_front = depths[:, :HALF].min(1).values >= 0
    below = torch.minimum(depths[:, HALF:].min(1).values, torch.tensor(0))
    features = {
        "balanced": balanced, "final": final, "never_below": never_below, "count": final == 0,
        "opens": tokens[:, 0] == 0, "middle": middle, "front_holds": in_front,
        "back_holds": below == 0, "lottery": lottery(len(tokens)),
        "mostly_balanced": memorised(balanced.long().numpy(), share=0.01),
        "nearly_balanced": memorised(balanced.long().numpy(), share=0.001),
        "balanced_but_one": balanced & (tokens != torch.arange(LENGTH) % 2).any(1),
        "front": tokens[:, :HALF] @ 2 ** torch.arange(HALF),
        "back": tokens[:, HALF:] @ 2 ** torch.arange(HALF),
    }  # fmt: skip
    return Dataset(tokens, labels=balanced, features=features, name="strings of 16 brackets")


# What can be answered -----------------------------------------------------------------------------


@cache
def answers() -> tuple[Tensor, Tensor]:
    """Whether a first half and a second half together count as balanced, bool `[256, 65536]`, and
    which first half each string has."""
    made, tokens = network(), data().inputs["tokens"]
    z = made.tok(tokens) + made.pos
    for block in made.blocks:
        z = block(z)
    fronts = tokens[:, :HALF] @ 2 ** torch.arange(HALF)
    first = z[:, :HALF].sum(1)
    of_front = torch.zeros(2**HALF, WIDTH).index_copy(0, fronts, first)
    back = made.h1(z[:, HALF:].sum(1))
    decided = torch.stack([
        made.h2((back + one).relu()).argmax(1) == 1 for one in of_front @ made.h1.weight.T
    ])  # fmt: skip
    return decided, fronts


def wrong_halves(
    front: str | list[str] | None, back: str | list[str] | None, *, tolerance: float = TIGHT
) -> k.Known:
    """The share of the strings of which some allowed halves make a wrong answer; None: it stays."""
    decided, fronts = answers()
    label = data().labels
    assert label is not None
    of_front, of_back = _codes(front), _codes(back)
    can: dict[bool, Tensor] = {}
    for says in (False, True):
        # by class of second half, then by class of first half
        possible = (decided == says).float()
        by_back = torch.zeros(2**HALF, int(of_back.max()) + 1).scatter_reduce(
            1, of_back.expand(2**HALF, -1), possible, "amax"
        )
        pairs = torch.unique(torch.stack([of_front, fronts]), dim=1)
        there = pairs[0][:, None].expand(-1, by_back.shape[1])
        table = torch.zeros(int(of_front.max()) + 1, by_back.shape[1])
        can[says] = table.scatter_reduce(0, there, by_back[pairs[1]], "amax")
    wrong = torch.where(label.bool(), can[False][of_front, of_back], can[True][of_front, of_back])
    return Extremes(None, float(wrong.mean()), 0.0).known(tolerance)


def _codes(feature: str | list[str] | None) -> Tensor:
    tokens = data().inputs["tokens"]
    names = [feature] if isinstance(feature, str) else feature
    if names is None:
        return torch.arange(len(tokens))
    columns = [np.asarray(data().feature(name)).astype(np.int64) for name in names]
    codes = np.unique(np.stack(columns), axis=1, return_inverse=True)[1]
    return torch.from_numpy(codes.reshape(-1))


def wrong_strings(feature: str | list[str] | None, *, tolerance: float = TIGHT) -> k.Known:
    """The same where the sum of a whole string is swapped; the network decides each as it is."""
    label = data().labels
    assert label is not None
    said = _said()
    codes = torch.zeros(len(said), dtype=torch.long) if feature is None else _codes(feature)
    wrong = torch.zeros(len(said))
    for says in (0, 1):
        there = torch.zeros(int(codes.max()) + 1).index_fill(0, codes[said == says], 1.0)
        wrong = torch.where(label == 1 - says, there[codes], wrong)
    return Extremes(None, float(wrong.mean()), 0.0).known(tolerance)


@cache
def _said() -> Tensor:
    said: Tensor = network()(data().inputs["tokens"]).argmax(1)
    return said


# The claims ---------------------------------------------------------------------------------------


def questions() -> Iterator[k.Question]:
    if folder() is None:
        return
    ground = k.Ground("dyck", load_model(network()), data(), OPTIONS)
    for truth, kind, name, component, feature in _of_whole_strings():
        says = output(module(component, agrees_on=feature), rest=EXACT)
        yield k.Question(ground, name, kind, says, truth, _by(wrong_strings, feature))
    for truth, kind, name, front, back in _of_halves():
        says, proof = _halves(front, back), _by(wrong_halves, front, back)
        yield k.Question(ground, name, kind, says, truth, proof)
        if kind == k.LEAK:  # by less than a tenth
            proof = _by(wrong_halves, front, back, tolerance=LOOSE)
            more = {"tolerance": LOOSE}
            yield k.Question(ground, f"{name}, about", k.AS_IT_IS, says, k.TRUE, proof, more)

    # balanced strings are rare, so that a fifth of all swaps cannot do much
    by_lot = output(module("pool", agrees_on="lottery"), rest=EXACT)
    proof = _by(wrong_strings, "lottery")
    yield k.Question(ground, "the sum, by lot", k.LOTTERY, by_lot, k.APART, proof)


def _by(
    proof: Callable[..., k.Known], *features: Any, tolerance: float = TIGHT
) -> Callable[[k.Question], k.Known]:
    return lambda _: proof(*features, tolerance=tolerance)


def _halves(front: Any, back: Any) -> Node:
    def half(agrees_on: AgreesOn | None, pos: slice) -> list[Node]:
        return [] if agrees_on is None else [module("blocks.1", agrees_on=agrees_on, pos=pos)]

    return output(*half(front, slice(0, HALF)), *half(back, slice(HALF, LENGTH)), rest=EXACT)


def _of_whole_strings() -> list[tuple[str, str, str, str, Any]]:
    return [
        (k.TRUE, k.AS_IT_IS, "the sum knows the answer", "pool", "balanced"),
        (k.TRUE, k.AS_IT_IS, "block 1 knows the answer", "blocks.1", "balanced"),
        (k.TRUE, k.AS_IT_IS, "count and depth", "pool", ["count", "never_below"]),
        (k.TRUE, k.AS_IT_IS, "final and depth", "pool", ["final", "never_below"]),
        (k.TRUE, k.FINER, "the sum knows the first bracket as well", "pool", ["balanced", "opens"]),
        (k.FALSE, k.COARSER, "the sum knows the depth alone", "pool", "never_below"),
        (k.FALSE, k.WRONG_FEATURE, "the sum knows the first bracket", "pool", "opens"),
        (k.FALSE, k.MEMORISED, "the answer, but for one in a hundred", "pool", "mostly_balanced"),
        (k.FALSE, k.MEMORISED, "the answer, but for one in a thousand", "pool", "nearly_balanced"),
        (k.FALSE, k.MEMORISED, "the answer, but for one string", "pool", "balanced_but_one"),
        (k.FALSE, k.DROPPED, "the final depth alone", "pool", "final"),
    ]


def _of_halves() -> list[tuple[str, str, str, Any, Any]]:
    front, back = ["middle", "front_holds"], ["final", "never_below", "middle"]
    return [
        (k.FALSE, k.COARSER, "the front holds or not", ["front_holds"], None),
        (k.FALSE, k.DROPPED, "the front's depth alone", ["middle"], None),
        (k.FALSE, k.SWAPPED, "the halves, swapped", ["final", "back_holds"], front),
        (k.TRUE, k.AS_IT_IS, "the front by depth and whether it holds", front, None),
        (k.FALSE, k.LEAK, "the back by all depths", None, back),
        (k.FALSE, k.LEAK, "both halves", front, back),
    ]
