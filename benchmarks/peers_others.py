"""Two tools that evaluate less than a tree of claims, on what they can say: some heads of the last
layer are those of a clean input, and everything else is that of a corrupt one.

pyvene exchanges activations, so what it exchanges goes along every path (here, through the last MLP
too). `transformer_lens.tools.analysis.faithfulness` exchanges edges, so the same heads can be read
directly by the logits; it takes one pair of inputs at a time. A small GPT-2, which both can handle.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pytest_scrub import EXACT, Dataset, Evaluator, Metric, head, load_model, output
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node

LAYERS, HEADS, D_MODEL, SEQ, VOCABULARY, ROWS = 2, 8, 256, 16, 1000, 512
CHOSEN = (0, 3, 5)  # of the last layer


def module():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=LAYERS,
        n_head=HEADS,
        n_embd=D_MODEL,
        n_positions=SEQ,
        vocab_size=VOCABULARY,
        initializer_range=0.1,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config).eval()


def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(VOCABULARY, (ROWS, SEQ), generator=generator)
    labels = torch.randint(VOCABULARY, (ROWS,), generator=generator)
    return Dataset(tokens, labels=labels, label_pos=-1, name="random tokens")


def label_logit() -> Metric:
    """The label's logit: a metric that every tool can compute."""

    def value(logits: Tensor, batch) -> Tensor:
        return logits.gather(-1, batch.labels[:, None])[:, 0]

    return Metric("the label's logit", value)


def claim(via: str) -> Node:
    """The output reads these heads on its own input; everything else is swapped."""
    return output(*(head(LAYERS - 1, which, agrees_on=EXACT, via=via) for which in CHOSEN))


def ours(bridge, data: Dataset) -> tuple[ActivationStore, dict[str, Evaluator]]:
    graph = load_model(bridge)
    store = ActivationStore(graph, data)
    return store, {
        via: Evaluator(graph, data, claim(via), label_logit(), store=store)
        for via in ("any", "direct")
    }


def swaps(evaluator: Evaluator, n: int) -> SwapSet:
    return evaluator.space.draw(n, stream(0, "pairs"))


def pairs(data: Dataset, swap_set: SwapSet) -> tuple[Tensor, Tensor, Tensor]:
    """Clean inputs, corrupt inputs and labels of a swap set."""
    clean, corrupt = (
        torch.from_numpy(np.array(rows))
        for rows in (swap_set.references, swap_set.donors[swap_set.slots.index("output/rest")])
    )
    tokens = data.inputs["tokens"]
    return tokens[clean], tokens[corrupt], data.labels[clean]


def pyvene(network) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """A function of clean inputs, corrupt inputs and labels to the labels' logits."""
    with contextlib.redirect_stdout(io.StringIO()):  # it says what else could be installed
        import pyvene as pv

    config = pv.IntervenableConfig(
        [
            pv.RepresentationConfig(
                LAYERS - 1, "head_attention_value_output", "h", max_number_of_units=len(CHOSEN)
            )
        ],
        intervention_types=pv.VanillaIntervention,
    )
    model = pv.IntervenableModel(config, network)

    def run(clean: Tensor, corrupt: Tensor, labels: Tensor) -> Tensor:
        heads = [[list(CHOSEN)] * len(clean)]
        _, patched = model(
            {"input_ids": corrupt}, [{"input_ids": clean}], {"sources->base": (heads, heads)}
        )
        return patched.logits[:, -1].gather(-1, labels[:, None])[:, 0]

    return run


def faithfulness(bridge) -> Callable[[Tensor, Tensor, Tensor], float]:
    """A function of one clean input, one corrupt one and the label to the label's logit."""
    from transformer_lens.tools.analysis.attribution_patching import _edge_hook_flags as flags
    from transformer_lens.tools.analysis.attribution_patching import (
        _edge_hook_names,
        cache_activation_and_gradient,
        enumerate_edges,
        faithfulness,
    )

    with torch.no_grad(), flags(bridge):
        cache = cache_activation_and_gradient(
            bridge,
            torch.zeros(1, SEQ, dtype=torch.int64),
            lambda logits: logits.sum(),
            names_filter=_edge_hook_names(LAYERS),
            compute_gradient=False,
        )
        edges = enumerate_edges(bridge, cache)
    kept = [
        (writer, reader)
        for writer, reader in edges
        if reader.kind != "logits"
        or (writer.kind == "attn_head_out" and writer.layer == LAYERS - 1 and writer.head in CHOSEN)
    ]

    def run(clean: Tensor, corrupt: Tensor, label: Tensor) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = faithfulness(
                bridge, clean, corrupt, lambda logits: logits[0, -1, int(label)], kept
            )
        return found.corrupt_metric + found.recovered * (found.full_metric - found.corrupt_metric)

    return run
