"""Addition modulo 113, learnt by a transformer, on its whole domain.

The network has no norm and is read at one position, so its logits are a sum: of what the MLP, the
heads and the embedding write there. Whether an answer can be made wrong is then known exactly: for
each rival of the right answer, the worst donor of one part does not depend on that of another.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.exam import claims as k
from benchmarks.exam.features import lottery, memorised
from benchmarks.exam.truth import Extremes
from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    group,
    head,
    load_model,
    mlp,
    output,
    zero_one_error,
)
from pytest_scrub.tree.nodes import Node

P, EQUALS, HEADS, D_HEAD = 113, 113, 4, 32
OPTIONS = {"tolerance": 0.02, "metric": zero_one_error()}


def folder() -> Path | None:
    """Where networks of others are."""
    given = os.environ.get("SCRUB_NETWORKS")
    return Path(given) / "modular_addition" if given else None


@cache
def parts() -> dict[str, Tensor]:
    """What each part adds to the logits at the last position, float32 `[rows, 114]`, computed from
    the weights alone; `rest` is what belongs to nobody."""
    from safetensors.torch import load_file

    where = folder()
    assert where is not None
    w = load_file(where / "modular_addition.safetensors")
    tokens = rows()
    stream = w["embed.weight"][tokens] + w["pos_embed.weight"]
    q, key, v = (
        (stream @ w[f"blocks.0.attn.{name}.weight"].T + w[f"blocks.0.attn.{name}.bias"])
        .reshape(len(tokens), -1, HEADS, D_HEAD).transpose(1, 2)
        for name in "qkv"
    )  # fmt: skip
    attention = (q[:, :, -1:] @ key.transpose(-1, -2) / key.shape[-1] ** 0.5).softmax(-1)
    mixed = (attention @ v)[:, :, 0]
    out = w["blocks.0.attn.o.weight"].reshape(-1, HEADS, D_HEAD)
    written = torch.einsum("rhd,ehd->rhe", mixed, out)
    middle = stream[:, -1] + written.sum(1) + w["blocks.0.attn.o.bias"]
    hidden = (middle @ w["blocks.0.mlp.in.weight"].T + w["blocks.0.mlp.in.bias"]).relu()
    unembed = w["unembed.weight"].T
    constant = stream[:, -1] + w["blocks.0.attn.o.bias"] + w["blocks.0.mlp.out.bias"]
    found = {f"head{h}": written[:, h] @ unembed for h in range(HEADS)}
    found["mlp"] = hidden @ w["blocks.0.mlp.out.weight"].T @ unembed
    found["rest"] = constant @ unembed + w["unembed.bias"]
    return found


def parts_sum() -> Tensor:
    """The logits, as a sum of their parts."""
    return torch.stack(list(parts().values())).sum(0)


def rows() -> Tensor:
    a, b = torch.cartesian_prod(torch.arange(P), torch.arange(P)).T
    return torch.stack([a, b, torch.full_like(a, EQUALS)], 1)


@cache
def data() -> Dataset:
    tokens = rows()
    a, b = tokens[:, 0], tokens[:, 1]
    total = (a + b) % P
    features = {
        "a": a, "b": b, "sum": total, "difference": (a - b) % P, "half": total // 2,
        "pair": torch.minimum(a, b) * P + torch.maximum(a, b), "lottery": lottery(len(tokens)),
        "mostly_sum": memorised(total.numpy(), share=0.01),
        "nearly_sum": memorised(total.numpy(), share=0.001), "low": total % 10,
        "a_or_b": torch.minimum(a, b),
    }  # fmt: skip
    return Dataset(tokens, labels=total, label_pos=-1, features=features, name="sums mod 113")


# Which answers can be made wrong ------------------------------------------------------------------


def wrong_answers(leaves: Sequence[tuple[Sequence[str], str]]) -> k.Known:
    """The share of the references of which some allowed swaps make a wrong answer.

    **Arguments**

    - `leaves`: the parts that one leaf swaps together, and the feature it agrees on (`anything` for
      none); all other parts stay.
    """
    found, dataset = parts(), data()
    label = dataset.labels
    assert label is not None
    swapped = {name for names, _ in leaves for name in names}
    none = torch.zeros_like(found["rest"])
    stays = sum((value for name, value in found.items() if name not in swapped), start=none)
    summed = [
        (torch.stack([found[name] for name in names]).sum(0), _codes(feature))
        for names, feature in leaves
    ]
    wrong = torch.zeros(len(label), dtype=torch.bool)
    for right in range(P):
        rows = (label == right).nonzero()[:, 0]
        margin = stays[rows] - stays[rows][:, [right]]
        for value, codes in summed:
            margin = margin + _worst_of_class(value - value[:, [right]], codes)[codes[rows]]
        margin[:, right] = -torch.inf
        wrong[rows] = (margin > 0).any(1)
    return Extremes(None, float(wrong.double().mean()), 0.0).known(OPTIONS["tolerance"])  # type: ignore[arg-type]


def _codes(feature: str) -> Tensor:
    if feature == "anything":
        return torch.zeros(P * P, dtype=torch.long)
    codes = np.unique(data().feature(feature), return_inverse=True)[1]
    return torch.from_numpy(codes.reshape(-1))


def _worst_of_class(margin: Tensor, codes: Tensor) -> Tensor:
    """The largest margin of each rival among the donors of each class, `[classes, 114]`."""
    worst = torch.full((int(codes.max()) + 1, margin.shape[1]), -torch.inf)
    return worst.scatter_reduce(0, codes[:, None].expand_as(margin), margin, "amax")


# The claims ---------------------------------------------------------------------------------------

ALL_HEADS = tuple(f"head{h}" for h in range(HEADS))


def questions() -> Iterator[k.Question]:
    where = folder()
    if where is None:
        return
    model = load_model(where / "modular_addition.safetensors")
    ground = k.Ground("modular addition", model, data(), OPTIONS)
    for truth, kind, name, leaves, more in _claims():
        yield k.Question(
            ground, name, kind, _tree(leaves, more), truth, _proof(leaves, more), _options(more)
        )


Leaves = list[tuple[tuple[str, ...], str]]


def _claims() -> Iterator[tuple[str, str, str, Leaves, dict[str, Any]]]:
    """The truth, the kind, the name, what is swapped, and what else there is to it."""
    mlp_only: Leaves = [(("mlp",), "sum")]
    yield k.TRUE, k.AS_IT_IS, "the MLP knows the sum", mlp_only, {}
    yield (
        k.TRUE,
        k.AS_IT_IS,
        "the MLP and the heads know the sum",
        [(("mlp", *ALL_HEADS), "sum")],
        {},
    )
    yield k.TRUE, k.AS_IT_IS, "the MLP knows the pair", [(("mlp",), "pair")], {"samples": 30_000}
    yield k.TRUE, k.AS_IT_IS, "heads add nothing of their own", [(ALL_HEADS, "anything")], {}
    yield k.TRUE, k.AS_IT_IS, "each for itself", [(("mlp",), "sum"), (ALL_HEADS, "sum")], {}
    yield k.TRUE, k.AS_IT_IS, "the rest is any", mlp_only, {"rest": ANYTHING}
    yield k.APART, k.REDUNDANT, "heads know the pair", [(ALL_HEADS, "pair")], {"samples": 30_000}
    yield k.FALSE, k.WRONG_FEATURE, "the MLP knows the difference", [(("mlp",), "difference")], {}
    yield k.FALSE, k.WRONG_FEATURE, "the MLP knows a", [(("mlp",), "a")], {}
    yield k.FALSE, k.COARSER, "the MLP knows half of the sum", [(("mlp",), "half")], {}
    yield k.FALSE, k.COARSER, "the MLP knows the last digit", [(("mlp",), "low")], {}
    yield k.FALSE, k.LOTTERY, "the MLP, by lot", [(("mlp",), "lottery")], {"samples": 30_000}
    yield k.FALSE, k.MEMORISED, "the sum, but for one in a hundred", [(("mlp",), "mostly_sum")], {}
    nearly: Leaves = [(("mlp",), "nearly_sum")]
    yield k.FALSE, k.MEMORISED, "the sum, but for one in a thousand", nearly, {}
    heads: Leaves = [(ALL_HEADS, "sum")]
    yield k.FALSE, k.OTHER_COMPONENT, "heads write the sum", heads, {"rest": ANYTHING}
    yield k.FALSE, k.DROPPED, "the smaller summand is enough", [(("mlp",), "a_or_b")], {}


def _tree(leaves: Leaves, more: dict[str, Any]) -> Node:
    nodes = []
    for names, feature in leaves:
        members = [mlp(0) if name == "mlp" else head(0, int(name[-1])) for name in names]
        agrees_on: Any = ANYTHING if feature == "anything" else feature
        if len(members) == 1:
            nodes.append(mlp(0, agrees_on=agrees_on, pos=-1))
        else:
            nodes.append(group(members, agrees_on=agrees_on, pos=-1))
    return output(*nodes, rest=more.get("rest", EXACT))


def _proof(leaves: Leaves, more: dict[str, Any]) -> Any:
    def proof(_: k.Question) -> k.Known:
        claimed = set(itertools.chain.from_iterable(names for names, _ in leaves))
        rest = tuple(name for name in parts() if name not in claimed)
        return wrong_answers([*leaves, (rest, "anything")] if "rest" in more else leaves)

    return proof


def _options(more: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in more.items() if name == "samples"}
