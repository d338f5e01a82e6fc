"""Transformers that TransformerLens does not know: which are read, and what is not believed of
their modules' names. `tests/whole/test_family_table.py` holds those that are against their own
hooks."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from pytest_scrub import EXACT, Dataset, head, load_model, mlp, output, pattern, stream
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import HypothesisError, ModelError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import as_graph
from pytest_scrub.network.blocks import names_of
from tests.reference.family_networks import FAMILIES
from tests.reference.hooked import SMALL

TOTAL = Metric("total", lambda out, batch: out.flatten(1).abs().sum(1))
F: dict[str, Any] = {"agrees_on": "f"}
ROWS = torch.randint(1, 12, (6, 5), generator=torch.Generator().manual_seed(0))
VISION: dict[str, Any] = {**SMALL, "image_size": 8, "patch_size": 4}


def of_tokens(**more: Tensor) -> Dataset:
    return Dataset({"input_ids": ROWS, **more}, features={"f": ROWS[:, 0] % 2})


def test_both_sides_and_what_joins_them_are_found() -> None:
    family = FAMILIES["Whisper"]
    graph = as_graph(family.build())
    ActivationStore(graph, Dataset(family.inputs(), features={"f": ROWS[:, 0] % 2}))
    heads = [name for name in graph.components if "head1." in name]
    assert heads == [f"{whose}head1.{n}" for whose in ("encoder.", "", "cross.") for n in range(4)]


def test_a_block_that_is_called_again_has_no_heads_of_one_layer() -> None:
    config = transformers.AlbertConfig(**SMALL, embedding_size=4)
    graph, claim = as_graph(transformers.AlbertModel(config).eval()), output(head(0, 1, **F))
    with pytest.raises(ModelError, match=r"no one module that is called once and gives head0\.1"):
        Evaluator(graph, of_tokens(), claim, TOTAL)


def test_mlps_are_claimed_by_their_own_names() -> None:
    graph = as_graph(FAMILIES["DistilBERT"].build())
    said = "no one module that is called once and gives mlp1 for each row; claim a module of it"
    with pytest.raises(ModelError, match=said):
        Evaluator(graph, of_tokens(), output(mlp(1, **F)), TOTAL)


@pytest.mark.parametrize("other", [stream(0, **F, name="again"), stream(1, **F)], ids=str)
def test_the_first_stream_is_one_edge_though_nothing_is_known_to_write_it(other: Any) -> None:
    graph = as_graph(FAMILIES["DistilBERT"].build())
    with pytest.raises(HypothesisError, match="claim the same edge into output twice"):
        Evaluator(graph, of_tokens(), output(stream(0, **F), other), TOTAL)


@pytest.mark.parametrize(
    "make",
    [
        lambda: transformers.CLIPModel(
            transformers.CLIPConfig(text_config={**SMALL}, vision_config={**VISION})
        ),
        lambda: transformers.SwinModel(
            transformers.SwinConfig(
                embed_dim=4,
                depths=[1, 1],
                num_heads=[2, 2],
                window_size=2,
                image_size=8,
                patch_size=4,
            )
        ),
        lambda: transformers.ModernBertModel(
            transformers.ModernBertConfig(**SMALL, cls_token_id=0, sep_token_id=0, pad_token_id=0)
        ),
    ],
    ids=["two towers", "stages", "one matrix for queries, keys and values"],
)
def test_what_is_not_one_list_of_blocks_with_heads_is_refused_as_unknown(make: Any) -> None:
    model = make().eval()
    assert names_of(model) is None
    with pytest.raises(ModelError, match=r"^TransformerLens does not know .* ModuleGraph"):
        as_graph(model)


def test_a_folder_is_read_as_the_model_is(tmp_path: Any) -> None:
    config = transformers.CTRLConfig(vocab_size=12, n_embd=8, dff=8, n_layer=1, n_head=2)
    model = transformers.CTRLLMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    graph = load_model(tmp_path)
    assert graph.indirect == "TransformerLens does not know CTRLLMHeadModel"
    with torch.no_grad():
        torch.testing.assert_close(graph.run({"input_ids": ROWS}), model(ROWS).logits)


class Misnamed(transformers.PreTrainedModel):  # type: ignore[misc]
    """Two heads that read the stream itself. What is called a value is something else, or it is
    mixed over the heads before it is projected, or both ends are what they are called."""

    config_class = transformers.BertConfig

    def __init__(self, config: Any, kind: str) -> None:
        super().__init__(config)
        self.embed, self.kind = nn.Embedding(12, 8), kind
        self.layers = nn.ModuleList([nn.Module()])
        attention = self.layers[0].attention = nn.Module()
        attention.num_heads = 2  # type: ignore[assignment]
        for name in ("v_proj", "aside", "o_proj", "mixer"):
            setattr(attention, name, nn.Linear(8, 8))
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        x, attention = self.embed(input_ids), self.layers[0].attention
        value, aside = attention.v_proj(x), attention.aside(x)
        made = {"right": value, "value": aside + 0 * value, "mixed": attention.mixer(value)}
        z = made[self.kind].cumsum(1)
        return SimpleNamespace(logits=x + attention.o_proj(z) + aside)


@pytest.mark.parametrize("kind", ["right", "value", "mixed"])
def test_a_name_is_not_believed(kind: str) -> None:
    torch.manual_seed(0)
    model = Misnamed(transformers.BertConfig(**SMALL), kind).double().eval()
    claim = output(head(0, 1, **F), rest=EXACT)
    if kind == "right":
        assert Evaluator(as_graph(model), of_tokens(), claim, TOTAL)
        return
    said = "head0.1 is not claimed in Misnamed (along every path): equal parts of what attn0"
    with pytest.raises(ModelError, match=f"^{re.escape(said)}"):
        Evaluator(as_graph(model), of_tokens(), claim, TOTAL)


@pytest.mark.parametrize("masks", [False, True], ids=["rows", "masks"])
def test_a_name_is_not_believed_where_the_first_rows_are_alike(masks: bool) -> None:
    """Nor where they differ in what is hidden alone, which values do not depend on."""
    torch.manual_seed(0)
    model = Misnamed(transformers.BertConfig(**SMALL), "mixed").double().eval()
    tokens = torch.cat([ROWS[:1].expand(20, -1), ROWS])
    more = {"attention_mask": torch.ones_like(tokens)} if masks else {}
    for mask in more.values():
        mask[1, -1] = 0
    data = Dataset({"input_ids": tokens, **more}, features={"f": tokens[:, 0] % 2})
    with pytest.raises(ModelError, match=r"head0\.1 is not claimed in Misnamed"):
        Evaluator(as_graph(model), data, output(head(0, 1, **F), rest=EXACT), TOTAL)


class Attention(nn.Module):
    """Of four heads, whatever it says."""

    def __init__(self, says: int) -> None:
        super().__init__()
        self.num_heads = says
        self.v_proj, self.o_proj = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        value = self.v_proj(x).unflatten(-1, (4, 2)).transpose(1, 2)
        probabilities = (value @ value.mT).softmax(-1)
        mixed: Tensor = self.o_proj((probabilities @ value).transpose(1, 2).flatten(2))
        return mixed


class Miscounted(transformers.PreTrainedModel):  # type: ignore[misc]
    config_class = transformers.BertConfig

    def __init__(self, config: Any, says: int) -> None:
        super().__init__(config)
        self.embed, block = nn.Embedding(12, 8), nn.Module()
        block.attention = Attention(says)
        self.layers = nn.ModuleList([block])
        self.post_init()

    def forward(self, input_ids: Tensor) -> Any:
        x = self.embed(input_ids)
        return SimpleNamespace(logits=x + self.layers[0].attention(x))


@pytest.mark.parametrize("says", [4, 2])
def test_a_number_of_heads_is_not_believed(says: int) -> None:
    """Two of two heads each are as much apart as heads are; their probabilities are not."""
    torch.manual_seed(0)
    model = Miscounted(transformers.BertConfig(**SMALL), says).double().eval()
    looks = head(0, 1, **F, reads=[pattern(0, 1, **F)], rest=EXACT)
    for claim in (output(looks, rest=EXACT), output(head(0, 1, **F), rest=EXACT)):
        if says == 4:
            assert Evaluator(as_graph(model), of_tokens(), claim, TOTAL)
        else:
            with pytest.raises(ModelError, match="is not claimed in Miscounted"):
                Evaluator(as_graph(model), of_tokens(), claim, TOTAL)
