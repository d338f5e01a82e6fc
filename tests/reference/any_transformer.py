"""Claims about small transformers whose swaps are few enough for the slow evaluator."""

from __future__ import annotations

from itertools import combinations as pairs
from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from torch import Tensor

from pytest_scrub import (
    EXACT,
    Dataset,
    Metric,
    head,
    meaning,
    mlp,
    neurons,
    output,
    pattern,
    stream,
)  # fmt: skip
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node
from pytest_scrub.tree.paths import node_paths
from tests.reference.any_claim import Case, bounds, others
from tests.reference.bridges import BridgeNetwork
from tests.reference.every_swap import Swaps, Truth, combinations, every_swap
from tests.reference.generate import FEATURES, Architecture, build, overlap

MOST_SWAPS = 48
ROWS, POSITIONS, VOCABULARY = 8, 3, 5


@st.composite
def transformer_claim(draw: st.DrawFn) -> Case:
    """Leaves and heads that read, at the last position, judged by the label's logit."""
    seeds = st.integers(0, 20)
    norm = draw(st.sampled_from([None, "LN"]))
    model = build(
        Architecture(n_layers=2, attn_only=draw(st.booleans()), norm=norm, seed=draw(seeds))
    )
    tokens = np.random.default_rng(draw(seeds)).integers(0, VOCABULARY, size=(ROWS, POSITIONS))
    features = {"parity": tokens.sum(1) % 2, "first": tokens[:, 0], "total": tokens.sum(1) % 4}
    labels = tokens[:, -1]
    root = draw(_trees(model.architecture.attn_only))
    each = combinations(root, features, ROWS)
    assume(each <= MOST_SWAPS)
    references = np.arange(ROWS)[: max(1, MOST_SWAPS // each)]
    data = Dataset(tokens, labels=labels, label_pos=-1, features=features, references=references)
    swaps = every_swap(root, features, references, ROWS)
    truth = _truth(model.bridge, root, data, swaps, labels)
    world: Any = type("Features", (), {"features": features})
    options, accepts = draw(bounds(truth, world, len(references) * each))
    more = draw(others())
    if accepts.worst is None:
        options |= more
    metric = Metric("the label's logit", _logit, -1, worse="lower")
    return Case(lambda: (root, model.bridge, data, {"metric": metric, **options}), truth, accepts)


def _logit(out: Tensor, batch: Any) -> Tensor:
    return out.gather(1, batch.labels[:, None])[:, 0]


@st.composite
def _trees(draw: st.DrawFn, attn_only: bool) -> Node:
    on = st.sampled_from([*FEATURES, "total", EXACT])
    via = draw(st.sampled_from([None, "any"]))
    below = head(0, 1, agrees_on=draw(on), into=draw(st.sampled_from([None, "q", "k", "v"])))
    nodes = [
        head(1, 0, agrees_on=draw(on), via=via),
        head(0, 0, agrees_on=draw(on), via=via),
        head(1, 1, agrees_on=draw(on), reads=[below], rest=EXACT, via=via),
        stream(draw(st.integers(0, 2)), agrees_on=draw(on), via=via),
        head(1, 0, agrees_on=draw(on), reads=[pattern(1, 0, agrees_on=draw(on))], rest=EXACT),
    ]
    if not attn_only:
        units = draw(st.sampled_from([3, [0, 3, 7], slice(None)]))
        nodes += [
            mlp(1, agrees_on=draw(on), via=via),
            neurons(1, units, agrees_on=draw(on), via=via),
        ]
    chosen = draw(st.lists(st.sampled_from(range(len(nodes))), min_size=1, max_size=2, unique=True))
    claimed = [nodes[i].component for i in chosen]
    assume(not any(overlap(*pair) for pair in pairs(claimed, 2)))
    return output(
        *(nodes[i] for i in chosen), rest=draw(st.sampled_from([EXACT, "total", "first"]))
    )


def _truth(bridge: Any, root: Node, data: Dataset, swaps: Swaps, labels: Any) -> Truth:
    network = BridgeNetwork(bridge, data)

    def scored(tree: Node, swaps: Swaps) -> Any:
        paths = tuple(path for path, _ in _slots(tree))
        donors = np.stack([swaps.donors[path] for path in paths])
        swap_set = SwapSet(swaps.references, donors, paths, data.digest())
        outputs = meaning.outputs(network, tree, data, swap_set, -1)
        return np.array(
            [float(out[0, labels[row]]) for out, row in zip(outputs, swaps.references, strict=True)]
        )

    everything = every_swap(
        output(agrees_on="parity"), {"parity": np.zeros(ROWS)}, np.unique(swaps.references), ROWS
    )
    unswapped = dict.fromkeys(swaps.donors, swaps.references)
    clean = scored(root, Swaps(swaps.references, unswapped, swaps.weights))
    scrubbed = scored(root, swaps)
    baseline = scored(output(agrees_on="parity"), everything).mean()
    return Truth(swaps, clean, scrubbed, float(baseline), -1)


def _slots(root: Node) -> list[tuple[str, Node]]:
    found = []
    for path, node, _ in node_paths(root):
        found += [(path, node)] if node.agrees_on is not None else []
        found += [(f"{path}/rest", node)] if node.rest is not None else []
    return found
