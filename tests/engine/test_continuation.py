"""What is said after a prompt in which something was swapped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pytest_scrub import (
    ANYTHING,
    EXACT,
    Dataset,
    FunctionGraph,
    Metric,
    ModuleGraph,
    WhichDonors,
    check,
    continuation,
    edit,
    head,
    meaning,
    mlp,
    module,
    output,
)
from pytest_scrub.engine.continuation import Continuation
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.explain import explain
from pytest_scrub.errors import DataError, HypothesisError, ModelError
from pytest_scrub.network import as_graph
from pytest_scrub.tree.nodes import Node
from tests.reference import generate_plain
from tests.reference.bridges import BridgeNetwork
from tests.reference.families import AllFloat64
from tests.reference.functions import FunctionNetwork
from tests.reference.generate import (
    Architecture,
    SmallTransformer,
    architectures,
    build,
    datasets,
    hypotheses,
    swap_sets,
)
from tests.reference.generate_plain import COLUMNS, LENGTH, ROWS, Plain, hooked_graph, weights
from tests.sizes import only_in_full, sized

TOKENS = 3


def changed(said: Tensor, batch: Any) -> Tensor:
    """Whether any token is another than without a swap."""
    return (said != batch.clean).any(1).double()


def says(tokens: int) -> Metric:
    return continuation(changed, tokens, lower=0.0, upper=1.0)


# Against what it means ----------------------------------------------------------------------------


def assert_same(evaluator: Evaluator, network: Any, swap_set: Any, tolerance: float) -> None:
    """The logits of every token are those of the slow reference, and the largest is said."""
    each: list[Tensor] = []
    best = Continuation._best

    def kept(self: Continuation, logits: Tensor) -> Tensor:
        each.append(logits.double())
        return best(self, logits)

    with mock.patch.object(Continuation, "_best", kept):
        said = evaluator.outputs(swap_set)
    root, dataset = evaluator.hypothesis, evaluator.dataset
    theirs = torch.stack(meaning.continuations(network, root, dataset, swap_set, TOKENS))
    scale = max(float(theirs.abs().max()), 1e-6)
    torch.testing.assert_close(torch.stack(each, 1), theirs, rtol=0, atol=tolerance * scale)
    assert said.tolist() == theirs.argmax(-1).tolist()


def along_every_path(root: Node) -> Node:
    return replace(root, reads=tuple(replace(child, via="any") for child in root.reads))


@st.composite
def prompts(draw: st.DrawFn, kind: str) -> tuple[SmallTransformer, SmallTransformer, Dataset]:
    """A causal network with room for what it says, the same as if it had none, and prompts."""
    drawn = draw(architectures(kind))
    longer = replace(drawn, n_ctx=drawn.n_ctx + TOKENS - 1, causal=True, d_vocab_out=drawn.d_vocab)
    model = build(longer)
    short = replace(model, architecture=replace(longer, n_ctx=drawn.n_ctx))
    dataset = draw(datasets(short))
    inputs = {"tokens": dataset.inputs["tokens"]}
    columns = {name: dataset.feature(name) for name in dataset.feature_names}
    return model, short, Dataset(inputs, labels=dataset.labels, features=columns)


def evaluator_of(graph: Any, dataset: Dataset, root: Node, store: Any = None) -> Evaluator | None:
    """None where a claim read along every path has no meaning."""
    try:
        evaluator = Evaluator(graph, dataset, root, says(TOKENS), store=store)
    except HypothesisError as error:
        # groups that are computed, and what is one edge then
        assert "be read directly" in str(error) or "the same edge" in str(error), error  # noqa: PT017
        event("refused")
        return None
    event(f"{sum(1 for _ in evaluator.plan.walk())} nodes")
    return evaluator


@pytest.mark.parametrize(
    "kind", ["gpt2", *(pytest.param(kind, marks=only_in_full) for kind in ("native", "llama"))]
)
def test_engine_and_reference_say_the_same(kind: str) -> None:
    @settings(max_examples=sized(4, 150))
    @given(data=st.data())
    def say_the_same(data: st.DataObject) -> None:
        model, short, dataset = data.draw(prompts(kind))
        root = along_every_path(data.draw(hypotheses(short, dataset)))
        swap_set = data.draw(swap_sets(root, dataset))
        if evaluator := evaluator_of(as_graph(model.bridge), dataset, root):
            network = BridgeNetwork(model.bridge, dataset)
            assert_same(evaluator, network, swap_set, model.tolerance)

    say_the_same()


def mixed(x: Tensor) -> Tensor:
    """Of all positions until each."""
    return torch.tanh(x.cumsum(1) @ weights(5, x.shape[-1]))


FUNCTIONS = {
    "A": lambda tokens: weights(0, 6)[tokens],
    "B": lambda A: torch.tanh(mixed(A)),
    "C": lambda A, B: torch.sin(A + 2 * B) * B,
    "output": lambda B, C: mixed(B - 3 * C) @ weights(1, 6) + C,
}


def functions() -> Plain:
    tokens = torch.randint(6, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    dataset = Dataset(tokens, features=COLUMNS)
    reads = {"B": ("A",), "C": ("A", "B"), "output": ("B", "C")}
    above = {"B": ("A",), "C": ("A", "B"), "output": ("A", "B", "C")}
    network = FunctionNetwork(FUNCTIONS, dataset)
    return Plain(FunctionGraph(**FUNCTIONS), network, dataset, reads, above)


@pytest.mark.parametrize("kind", ["functions", pytest.param("hooks", marks=only_in_full)])
def test_so_they_do_without_a_residual_stream(kind: str) -> None:
    plain = functions() if kind == "functions" else hooked_graph("Gemma2", 0)

    @settings(max_examples=sized(30, 300 if kind == "functions" else 60))
    @given(data=st.data())
    def say_the_same(data: st.DataObject) -> None:
        root = along_every_path(data.draw(generate_plain.hypotheses(plain)))
        swap_set = data.draw(swap_sets(root, plain.dataset))
        store = plain.store
        if evaluator := evaluator_of(store.graph, plain.dataset, root, store):
            assert_same(evaluator, plain.network, swap_set, 1e-9)

    with AllFloat64():  # a family's softmax, too
        say_the_same()


# What a claim of several tokens comes to ----------------------------------------------------------


REMEMBERED = torch.tensor([1.0, 0.1, 0.0, 0.0])
# It says the token at position 1, and after that the one that it holds in memory of position 0.
REMEMBERS = {
    "heard": lambda tokens: torch.eye(5)[tokens],
    "memory": lambda tokens: torch.eye(5)[tokens] * REMEMBERED[: tokens.shape[1], None],
    "output": lambda heard, memory: torch.where(
        (torch.arange(heard.shape[1]) <= 2)[:, None], heard[:, 1:2], memory.cumsum(1)
    ),
}


def remembers(**more: Any) -> tuple[FunctionGraph, Dataset]:
    tokens = torch.cartesian_prod(torch.arange(5), torch.arange(5), torch.tensor([0]))
    features = {"first": tokens[:, 0], "second": tokens[:, 1]}
    data = Dataset(tokens, features=features, **more)
    return FunctionGraph(**REMEMBERS), data


def memory(agrees_on: Any = ANYTHING) -> Node:
    return output(module("memory", agrees_on=agrees_on, via="any"), rest=EXACT)


def heard(agrees_on: Any = ANYTHING) -> Node:
    return output(module("heard", agrees_on=agrees_on, via="any"), rest=EXACT)


@pytest.mark.parametrize(
    ("claim", "tokens", "outcome"),
    [
        (memory(), 1, "held"),  # the first token says nothing of the memory
        (memory(), 2, "refuted"),
        (memory("first"), 2, "held"),
        (memory("second"), 2, "refuted"),
        (heard("second"), 2, "held"),
        (heard("first"), 2, "refuted"),
    ],
)
def test_a_claim_is_about_every_token(claim: Node, tokens: int, outcome: str) -> None:
    verdict = check(claim, *remembers(), metric=says(tokens), tolerance=0.1)
    assert verdict.average == outcome
    assert verdict.outcome == outcome
    if outcome == "refuted":
        assert verdict.gap.mean == pytest.approx(0.8, abs=0.05)


def test_the_worst_is_searched_without_slopes() -> None:
    """And finds the one donor in five that says another second token."""
    graph, data = remembers()
    verdict = check(
        memory(), graph, data, metric=says(2), tolerance=0.9, adversaries=(WhichDonors(),)
    )
    assert verdict.outcome == "refuted"
    assert verdict.average == "held"
    assert verdict.search is not None
    assert verdict.search.worst is not None
    found = verdict.search.counterexample
    assert found is not None
    assert found.clean_output.startswith("tokens ")
    assert found.clean_output != found.scrubbed_output
    assert found.clean_output.split()[1] == found.scrubbed_output.split()[1]


def test_a_function_gets_whole_numbers_and_what_is_said_without_a_swap() -> None:
    shown: list[Any] = []

    def compare(said: Tensor, batch: Any) -> Tensor:
        shown.append((said, batch.clean))
        return changed(said, batch)

    graph, data = remembers()
    evaluator = Evaluator(graph, data, memory(), continuation(compare, 2))
    swap_set = evaluator.space.draw(10, np.random.default_rng(0))
    rows, donors = torch.tensor(swap_set.references), torch.tensor(swap_set.donors[-1])
    evaluator.evaluate(swap_set)
    tokens = data.inputs["tokens"]
    said, clean = shown[0]
    assert said.dtype == clean.dtype == torch.int64
    assert said.tolist() == torch.stack([tokens[rows, 1], tokens[donors, 0]], 1).tolist()
    assert clean.tolist() == torch.stack([tokens[rows, 1], tokens[rows, 0]], 1).tolist()
    evaluator.unscrubbed(np.array([3]))
    assert shown[-1][0].tolist() == [tokens[3, [1, 0]].tolist()]


def test_a_prediction_is_of_every_token() -> None:
    def swapped(reference: Any, memory: Any) -> Tensor:
        return torch.tensor(np.stack([reference["second"], memory["first"]], 1))

    def unlike_labels(said: Tensor, batch: Any) -> Tensor:
        return (said != batch.labels).any(1).double()

    graph, data = remembers()
    own = data.inputs["tokens"][:, [1, 0]]
    graph, data = remembers(labels=own)
    metric = continuation(unlike_labels, 2, lower=0.0, upper=1.0)
    claim = output(
        module("memory", agrees_on=ANYTHING, via="any", name="memory"),
        rest=EXACT,
        predicts=swapped,
    )
    verdict = check(claim, graph, data, metric=metric, tolerance=0.1, controls=False)
    assert verdict.outcome == "held"
    assert verdict.predicted is not None
    assert verdict.predicted.accuracy is not None
    assert verdict.predicted.accuracy.mean == 1.0
    wrong = replace(
        claim,
        predicts=replace(
            claim.predicts,
            function=lambda memory: torch.tensor(np.stack([memory["first"], memory["first"]], 1)),
        ),
    )
    assert check(wrong, graph, data, metric=metric, tolerance=0.1).outcome == "refuted"


def test_an_edit_holds_while_the_prompt_is_read() -> None:
    """What is added at the prompt stays in memory; what is said later is not changed."""
    graph, data = remembers()
    claim = output(edit(module("memory"), add=torch.eye(5)[4] * 9, via="any"), rest=EXACT)
    evaluator = Evaluator(graph, data, claim, says(2))
    swap_set = evaluator.space.unswapped(np.arange(25))
    said = evaluator.outputs(swap_set)
    assert said[:, 0].tolist() == data.inputs["tokens"][:, 1].tolist()
    assert (said[:, 1] == 4).all()
    verdict = check(claim, graph, data, metric=says(2), min_gap=0.5, controls=False)
    assert verdict.outcome == "held"


# What it costs ------------------------------------------------------------------------------------


class Causal(nn.Module):
    """Counts its calls, and reads no more than so many positions."""

    def __init__(self, most: int = 9) -> None:
        super().__init__()
        self.embed, self.head, self.most, self.calls = nn.Embedding(5, 4), nn.Linear(4, 5), most, 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        if tokens.shape[1] > self.most:
            raise IndexError("too far")
        return self.head(torch.tanh(self.embed(tokens).cumsum(1)))


def causal(most: int = 9) -> Causal:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Causal(most).double().eval()


ROWS_OF_FIVE = torch.randint(5, (20, 4), generator=torch.Generator().manual_seed(1))
PROMPTS = Dataset(ROWS_OF_FIVE, features={"first": ROWS_OF_FIVE[:, 0]})
EMBEDDED = output(module("embed", agrees_on="first"), rest=EXACT)


@pytest.mark.parametrize("root", [EMBEDDED, output(agrees_on="first")])
def test_passes_are_as_many_as_are_told(root: Node) -> None:
    network = causal()
    evaluator = Evaluator(ModuleGraph(network), PROMPTS, root, says(3))
    swap_set = evaluator.space.draw(8, np.random.default_rng(0))
    plan = explain(evaluator)
    assert "said after each prompt: 3 tokens, 3 passes of the network for each swap and 3 " in str(
        plan
    )
    assert (plan.tokens, plan.passes) == (3, 3)
    evaluator.outputs(swap_set)  # proved, and what is cached is there
    network.calls = 0
    evaluator.outputs(swap_set)
    assert network.calls == (3 if root.reads else 2)  # where nothing is swapped, the first is there
    evaluator.unscrubbed(swap_set.references)
    network.calls = 0
    evaluator.unscrubbed(swap_set.references)
    assert network.calls == 0


def test_a_transformer_takes_clean_passes_of_longer_texts_beside_reruns() -> None:
    model = build(Architecture("gpt2", 2, n_ctx=6, norm="LN", attn_only=False))
    tokens = torch.randint(5, (12, 3), generator=torch.Generator().manual_seed(0))
    data = Dataset(tokens, features={"first": tokens[:, 0]})
    graph = as_graph(model.bridge)
    root = output(mlp(0, agrees_on=ANYTHING, via="any"), rest=EXACT)
    plan = explain(Evaluator(graph, data, root, says(3)))
    assert (plan.tokens, plan.passes) == (3, 5)
    of_logits = Metric("the largest", lambda out, batch: out.flatten(1).amax(1), -1)
    assert explain(Evaluator(graph, data, root, of_logits)).passes == 0


# Padding ------------------------------------------------------------------------------------------


def of_hugging_face(kind: str) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    same: dict[str, Any] = {
        "vocab_size": 30, "bos_token_id": 0, "eos_token_id": None, "pad_token_id": 0,
        "initializer_range": 0.5,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "gpt2":
            config = GPT2Config(n_positions=32, n_embd=32, n_layer=2, n_head=4, **same)
            return GPT2LMHeadModel(config).eval()
        sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
        return LlamaForCausalLM(LlamaConfig(num_attention_heads=4, **sizes, **same)).eval()


@pytest.mark.parametrize(
    ("kind", "padded"), [("gpt2", False), ("gpt2", True), ("llama", False), ("llama", True)]
)
def test_what_is_said_is_what_generate_says(kind: str, padded: bool) -> None:
    """Of a network that counts padding, rows without it alone."""
    network = of_hugging_face(kind)
    tokens = torch.randint(1, 30, (12, 6), generator=torch.Generator().manual_seed(1))
    seen = torch.ones_like(tokens)
    for row in range(12) if padded else ():
        seen[row, : row % 4] = 0
    tokens = tokens * seen
    data = Dataset({"tokens": tokens, "attention_mask": seen})
    root = output(mlp(0, agrees_on=ANYTHING, via="any"), rest=EXACT)
    evaluator = Evaluator(as_graph(network), data, root, says(TOKENS))
    with torch.no_grad():
        theirs = network.generate(
            tokens, attention_mask=seen, do_sample=False, max_new_tokens=TOKENS
        )[:, 6:]
    if kind == "gpt2" and padded:
        with pytest.raises(DataError, match="counts padding among its positions, so after row 1"):
            evaluator.clean_outputs(np.arange(12))
        with pytest.raises(DataError, match="give prompts of one length"):
            evaluator.outputs(evaluator.space.draw(4, np.random.default_rng(0)))
    else:
        assert evaluator.clean_outputs(np.arange(12)).tolist() == theirs.tolist()


# What has no meaning ------------------------------------------------------------------------------


def refused(kind: type[Exception], match: str, network: Any, data: Dataset, root: Node) -> None:
    def evaluate() -> None:
        evaluator = Evaluator(as_graph(network), data, root, says(3))
        evaluator.outputs(evaluator.space.draw(4, np.random.default_rng(0)))

    with pytest.raises(kind, match=match):
        evaluate()


def test_inputs_that_are_no_text_are_refused() -> None:
    graph = FunctionGraph(A=lambda a: a, output=lambda A: A)
    data = Dataset({"a": torch.randn(4, 3, 2)})
    refused(DataError, "goes on with the tokens of one text.*inputs are 'a'", graph, data, output())
    more = Dataset({"tokens": ROWS_OF_FIVE, "position_ids": ROWS_OF_FIVE})
    two = FunctionGraph(output=lambda tokens, position_ids: torch.eye(5)[tokens])
    refused(DataError, "inputs are 'position_ids', 'tokens'; leave", two, more, output())


def test_a_network_without_logits_at_each_position_is_refused() -> None:
    graph = FunctionGraph(output=lambda tokens: torch.eye(5)[tokens[:, 0]])
    refused(ModelError, r"needs logits .* 4 positions, and a graph of functions gives \[5\]",
            graph, PROMPTS, output())  # fmt: skip


def test_a_network_that_says_other_classes_than_it_reads_is_refused() -> None:
    model = build(Architecture(n_ctx=4, d_vocab=5, d_vocab_out=2))
    root = output(head(0, 0, agrees_on=ANYTHING, via="any"))
    refused(ModelError, "reads 5 and gives 2 logits", model.bridge, PROMPTS, root)


def test_rows_that_are_padded_at_their_end_are_refused() -> None:
    seen = torch.ones_like(ROWS_OF_FIVE)
    seen[2, -1] = 0
    graph = FunctionGraph(output=lambda tokens, attention_mask: torch.eye(5)[tokens])
    data = Dataset({"tokens": ROWS_OF_FIVE, "attention_mask": seen})
    refused(DataError, "row 2 is padded there; pad on the left", graph, data, output())


def test_a_child_that_is_read_directly_is_refused() -> None:
    root = output(module("memory", agrees_on=ANYTHING))
    refused(HypothesisError, "output/memory.*along every path; say via='any' of it",
            *remembers(), root)  # fmt: skip


def test_a_child_without_positions_is_refused() -> None:
    graph = FunctionGraph(
        A=lambda tokens: tokens[:, 0].double(),
        output=lambda tokens, A: torch.eye(5)[tokens] * A[:, None, None],
    )
    root = output(module("A", agrees_on=ANYTHING, via="any"))
    refused(HypothesisError, "A has no numbers at each of its 4 positions", graph, PROMPTS, root)


def test_a_network_that_reads_later_tokens_is_refused() -> None:
    graph = FunctionGraph(
        A=lambda tokens: torch.eye(5)[tokens], output=lambda A: A - 0.1 * A.mean(1, keepdim=True)
    )
    root = output(module("A", agrees_on=ANYTHING, via="any"))
    refused(ModelError, "where more tokens follow.*take a causal network", graph, PROMPTS, root)


def test_texts_that_are_too_long_for_the_network_are_refused() -> None:
    match = "on a prompt and 2 more tokens 4, the last that it may say: too far; take fewer"
    refused(ModelError, match, ModuleGraph(causal(most=5)), PROMPTS, EMBEDDED)


def test_logits_that_are_nan_are_refused() -> None:
    def fades(A: Tensor) -> Tensor:
        logits = torch.eye(5)[A]
        return torch.where((torch.arange(A.shape[1]) > 3)[:, None], torch.nan, logits)

    graph = FunctionGraph(A=lambda tokens: tokens, output=fades)
    root = output(module("A", agrees_on=ANYTHING, via="any"))
    refused(ModelError, "are NaN", graph, PROMPTS, root)
