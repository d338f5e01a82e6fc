"""Networks, rows and claims that a cluster is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers as hf
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from pytest_scrub import (
    Dataset,
    FunctionGraph,
    head,
    mlp,
    module,
    output,
)
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.metrics import Batch
from pytest_scrub.network import as_graph
from tests.reference.configurations import GPT2, GROUPED

ROWS = 1200
TOKENS = torch.randint(20, (ROWS, 12), generator=torch.Generator().manual_seed(0))
NUMBERS = torch.randn(ROWS, 12, generator=torch.Generator().manual_seed(0))
BLOCK = {
    "d_model": 16,
    "d_head": 4,
    "n_heads": 4,
    "n_layers": 2,
    "n_ctx": 12,
    "d_vocab": 20,
    "d_mlp": 32,
}
HEADS = output(
    head(1, 1, agrees_on="first", reads=[head(0, 2, agrees_on="second", into="v")]),
    mlp(1, agrees_on="first", pos=-1),
)
MODULE = output(module("1", agrees_on="sign"))


def tokens() -> Dataset:
    # Features of both kinds, one of them code of this file.
    features = {"first": TOKENS[:, 0] % 4, "second": lambda inputs: inputs["tokens"][:, 1] % 3}
    return Dataset(TOKENS, labels=TOKENS[:, 0], label_pos=-1, features=features)


def numbers(**features: Any) -> Dataset:
    return Dataset(
        NUMBERS, labels=(NUMBERS[:, 0] > 0).long(), features={"sign": NUMBERS[:, 0] > 0, **features}
    )


def native() -> nn.Module:
    return TransformerBridge.boot_native(TransformerBridgeConfig(**BLOCK, act_fn="relu", seed=0))


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    return hf.GPT2LMHeadModel(hf.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0)).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    return hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)).eval()


class Perceptron(nn.Sequential):
    """A class that no worker can import."""

    def __init__(self, width: int = 32) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Linear(12, width), nn.Tanh(), nn.Linear(width, 3))


def functions() -> FunctionGraph:
    weight = torch.randn(12, 3, generator=torch.Generator().manual_seed(1))
    return FunctionGraph(
        A=lambda tokens: tokens @ weight, output=lambda A, tokens: A + tokens[:, :3]
    )


def loss(output: Tensor, batch: Batch) -> Tensor:
    assert batch.labels is not None
    return nn.functional.cross_entropy(output, batch.labels, reduction="none")


def evaluator(
    network: Any, data: Dataset, hypothesis: Any, executor: Any = None, **options: Any
) -> Evaluator:
    graph = as_graph(network)
    return Evaluator(
        graph, data, hypothesis, store=ActivationStore(graph, data, executor=executor), **options
    )


def figures(own: Evaluator, count: int = 600) -> tuple[np.ndarray, np.ndarray]:
    """The scrubbed and the clean metric of references drawn at random."""
    drawn = own.space.draw(count, np.random.default_rng(0))
    return own.evaluate(drawn), own.unscrubbed(drawn.references)
