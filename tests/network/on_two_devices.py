"""Claims about networks on two devices beside the same networks on one: a process of its own, whose
last line is what it found, as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
import transformers

from pytest_scrub import EXACT, Dataset, attn, head, mlp, neurons, output, pattern, stream
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network import as_graph
from pytest_scrub.network.precision import precision_of
from pytest_scrub.network.state import State
from tests.reference import second_device

SMALL: dict[str, Any] = {
    "vocab_size": 12,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 8,
    "use_cache": False,
    "initializer_range": 0.3,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 4}
DECODER = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"}
THERE = {"model.layers.1": "second", "model.norm": "second", "lm_head": "second"}
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "Llama": ("Llama", GROUPED, {**DECODER, **THERE}),
    # the other way round: what is read lies there, what reads it here
    "Qwen3": ("Qwen3", GROUPED, {**DECODER, "model.layers.0": "second", "model.layers.1": "cpu"}),
    "Gemma2": ("Gemma2", {**GROUPED, "sliding_window": 3}, {**DECODER, **THERE}),
    "Bert": (
        "Bert",
        SMALL,
        {"bert.embeddings": "cpu", "bert.encoder.layer.0": "second", "bert.encoder.layer.1": "cpu"},
    ),
}
CLAIMS = {
    "leaves": output(head(1, 2, agrees_on="first"), mlp(0, agrees_on="first"), rest=EXACT),
    "a head of a head": output(
        head(1, 2, agrees_on="first", reads=[head(0, 1, agrees_on="first")])
    ),
    "attention, and an MLP": output(
        attn(0, agrees_on="first"), mlp(1, agrees_on="first", reads=[head(0, 1, agrees_on="first")])
    ),
    "every path": output(head(0, 1, agrees_on="first", via="any", pos=1), rest=EXACT),
    "units": output(
        head(
            1,
            2,
            agrees_on="first",
            reads=[pattern(1, 2, agrees_on="first"), stream(1, agrees_on="first", into="v")],
        ),
        neurons(1, [0, 3], agrees_on="first", reads=[stream(1, agrees_on="first")]),
    ),
}


def made(family: str) -> Any:
    torch.manual_seed(0)
    kind, options, _ = FAMILIES[family]
    name = f"{kind}ForMaskedLM" if family == "Bert" else f"{kind}ForCausalLM"
    return getattr(transformers, name)(getattr(transformers, f"{kind}Config")(**options)).eval()


def compared(family: str) -> dict[str, Any]:
    one, two = made(family), second_device.spread(made(family), FAMILIES[family][2])
    tokens = torch.randint(12, (8, 4), generator=torch.Generator().manual_seed(1))
    data = Dataset(tokens, labels=tokens[:, 0], label_pos=-1, features={"first": tokens[:, 0] % 2})
    here, there = as_graph(one), as_graph(two)
    stores = [ActivationStore(graph, data) for graph in (here, there)]
    found: dict[str, Any] = {}
    for what, claim in CLAIMS.items():
        if what == "units" and here.indirect is not None:
            continue  # a pattern is read directly
        mine, other = (Evaluator(s.graph, data, claim, store=s) for s in stores)
        swaps = mine.space.draw(12, np.random.default_rng(0))
        second_device.ran().clear()
        wanted, got = mine.evaluate(swaps), other.evaluate(swaps)
        pairs = list(zip(mine.slopes(swaps), other.slopes(swaps), strict=True))
        found[what] = {
            "off": float(np.abs(wanted - got).max()),
            "change": float(np.abs(wanted - mine.unscrubbed(swaps.references)).max()),
            "slopes": [
                float((a.gradient - b.gradient).abs().max() / a.gradient.abs().max())
                for a, b in pairs
            ],
            "softmaxes there": second_device.ran()["aten::_softmax", "second"],
        }
    state, weight = State(there), next(w for w in two.parameters() if w.device.type == "second")
    found["noticed"] = [state.is_current()]
    with torch.no_grad():
        weight.add_(1.0)
    found["noticed"].append(state.is_current())
    found["read"] = there.indirect or "directly"
    found["precision"] = precision_of(there)
    return found


if __name__ == "__main__":
    lasting = second_device.register()
    print(json.dumps({family: compared(family) for family in sys.argv[1:]}))
