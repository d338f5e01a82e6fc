"""What is shown of a counterexample beside its texts: where heads look on both inputs, and what the
network makes of each."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from pytest_scrub import ANYTHING, Dataset, attn, head, mlp, output
from pytest_scrub.adversaries import counterexample
from pytest_scrub.adversaries.counterexample import described
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.network import as_graph
from pytest_scrub.tree.nodes import Node
from pytest_scrub.verdict import Counterexample

Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: no image is read back")
TOKENS = torch.randint(1, 20, (4, 6), generator=torch.Generator().manual_seed(0))
# of the reference two positions are padded, of its donor none
SMALL = {
    "d_model": 16, "d_head": 4, "n_heads": 4, "n_layers": 2, "n_ctx": 12, "d_vocab": 20, "seed": 0,
    "d_mlp": 24, "act_fn": "relu",
}  # fmt: skip
MASK = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1] * 6, [1] * 6])
OWN, DONOR = 0, 2


@pytest.fixture(scope="module")
def bridge() -> TransformerBridge:
    bridge = TransformerBridge.boot_native(TransformerBridgeConfig(**SMALL))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in bridge.parameters():
            weights.add_(0.5 * torch.randn(weights.shape, generator=generator))
    return bridge.eval()


def shown(bridge: Any, child: Node, **facts: Any) -> Counterexample:
    """A reference whose child has a donor, and whose rest has none."""
    data = Dataset({"tokens": TOKENS, "attention_mask": MASK}, labels=[0] * 4, label_pos=0, **facts)
    evaluator = Evaluator(as_graph(bridge), data, output(child))
    swap_set = evaluator.space.unswapped(np.array([OWN]))
    donors = swap_set.donors.copy()
    donors[[slot.endswith("/rest") for slot in evaluator.space.paths].index(False)] = DONOR
    return described(evaluator, replace(swap_set, donors=donors), "hand")


def shares_of(uri: str) -> Any:
    image = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    return np.asarray(image)[..., 3] / 255


def test_attention_is_what_the_network_pays_on_each_input_by_itself(bridge: Any) -> None:
    (swap,) = shown(bridge, head(1, 2, agrees_on=ANYTHING)).swaps
    (looks,) = swap.attention
    assert looks.head == "head1.2"
    for row, uri, words in (
        (OWN, looks.own, looks.own_words),
        (DONOR, looks.donor, looks.donor_words),
    ):
        seen = int(MASK[row].sum())
        _, cache = bridge.run_with_cache(TOKENS[row : row + 1, :seen])
        np.testing.assert_allclose(
            shares_of(uri), cache["blocks.1.attn.hook_pattern"][0, 2].numpy(), atol=0.51 / 255
        )
        # of a row that is shown with what is padded no word is known for sure
        assert words == (() if row == OWN else tuple(map(str, TOKENS[row].tolist())))


@pytest.mark.parametrize(
    ("child", "most", "heads"),
    [
        (attn(0, agrees_on=ANYTHING), 4, ["head0.0", "head0.1", "head0.2", "head0.3"]),
        (attn(0, agrees_on=ANYTHING), 3, ["head0.0", "head0.1", "head0.2"]),
        (mlp(0, agrees_on=ANYTHING), 4, []),
    ],
)
def test_of_a_layer_the_first_heads_are_shown_and_of_what_has_none_nothing(
    bridge: Any, child: Node, most: int, heads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counterexample, "MOST_HEADS", most)
    (swap,) = shown(bridge, child).swaps
    assert [one.head for one in swap.attention] == heads


@pytest.mark.parametrize(("most", "count"), [(6, 1), (5, 0)])  # the donor has six positions
def test_attention_over_many_positions_is_not_shown(
    bridge: Any, most: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counterexample, "MOST_POSITIONS", most)
    (swap,) = shown(bridge, head(1, 2, agrees_on=ANYTHING)).swaps
    assert len(swap.attention) == count


class Tokenizer:
    vocab_size = SMALL["d_vocab"]

    def decode(self, ids: list[int]) -> str:
        return "".join(f" w{token}" for token in ids)


def test_outputs_of_both_inputs_are_told_by_the_words_of_the_tokenizer(bridge: Any) -> None:
    found = shown(bridge, head(1, 2, agrees_on=ANYTHING), show=Tokenizer())
    (swap,) = found.swaps
    assert swap.own_output == found.clean_output
    with torch.no_grad():
        logits = bridge(TOKENS[[DONOR]])[0, 0]
    values, places = torch.topk(logits, 3)
    told = [f"' w{n}' ({value:.3g})" for n, value in zip(places, values, strict=True)]
    assert swap.donor_output == ", ".join(told)
    # classes that are not all of its tokens have no words
    plain = shown(bridge, head(1, 2, agrees_on=ANYTHING)).swaps[0].donor_output
    assert plain == ", ".join(
        f"{n} ({value:.3g})" for n, value in zip(places.tolist(), values, strict=True)
    )
