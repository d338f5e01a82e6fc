"""A network of the size people study: GPT-2 small's shape, random weights, and the 26 heads of a
published circuit.

Wang et al., "Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2
small" (2022). The weights are random, so the claims are false; what evaluating them costs does not
depend on that.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.peers_timing import Contender, Race, race, sized, table
from pytest_scrub import Dataset, Evaluator, head, load_model, output
from pytest_scrub.common.seeds import stream
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.tree.nodes import Node

ROWS, SEQ, VOCABULARY = 256, 16, 50257
COLUMNS = 256  # samples of one call of the evaluator
SIZES = (16, 32, 64, 128)  # of a batch of the forward pass: 8 and 256 were slower
END = -1
NAME_MOVERS = ((9, 9), (9, 6), (10, 0))
OTHER_WRITERS = (
    (10, 7), (11, 10),  # negative name movers, then backup name movers
    (9, 0), (9, 7), (10, 1), (10, 2), (10, 6), (10, 10), (11, 2), (11, 9),
)  # fmt: skip
S_INHIBITION = ((7, 3), (7, 9), (8, 6), (8, 10))
INDUCTION = ((5, 5), (5, 8), (5, 9), (6, 9))
DUPLICATE_TOKEN = ((0, 1), (0, 10), (3, 0))
PREVIOUS_TOKEN = ((2, 2), (4, 11))


def module():
    """Hugging Face's own module, as it comes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config()).eval()


def dataset(rows: int = ROWS) -> Dataset:
    """Random tokens; where the subject stands first and again differs from row to row, as in
    prompts."""
    generator = torch.Generator().manual_seed(2)

    def draw(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, (rows, *shape), generator=generator)

    tokens, s1 = draw(0, VOCABULARY, SEQ), draw(1, 5)
    return Dataset(
        tokens,
        labels=draw(0, VOCABULARY),
        label_pos=END,
        features={
            "io": draw(0, 4), "s": draw(0, 4), "order": draw(0, 2),
            "after_s1": s1 + 1, "s2_at": draw(8, 12),
        },
        name="random tokens",
    )  # fmt: skip


def leaves() -> Node:
    """Ten heads of layers 9 and 10 at the end, each a leaf: what else there is does not matter."""
    writers = [which for which in NAME_MOVERS + OTHER_WRITERS if which[0] < 11]
    return output(*(head(*which, agrees_on="io", pos=END) for which in writers))


def three_levels() -> Node:
    """All 26 heads: name movers ask with what S-inhibition heads say (q), which read (v)
    duplicate-token and induction heads, whose keys (k) previous-token heads write."""
    before = [head(*which, agrees_on="s", pos="after_s1", into="k") for which in PREVIOUS_TOKEN]
    repeats = [
        *(head(*which, agrees_on="order", pos="s2_at", into="v") for which in DUPLICATE_TOKEN),
        *(
            head(*which, agrees_on="order", pos="s2_at", into="v", reads=before)
            for which in INDUCTION
        ),
    ]
    inhibition = [
        head(*which, agrees_on=("s", "order"), pos=END, into="q", reads=repeats)
        for which in S_INHIBITION
    ]
    return output(
        *(head(*which, agrees_on="io", pos=END, reads=inhibition) for which in NAME_MOVERS),
        *(head(*which, agrees_on="io", pos=END) for which in OTHER_WRITERS),
    )


def nodes(claim: Node) -> int:
    """How many nodes a tree has, the root not counted: a head that two others read is two nodes."""
    return sum(1 + nodes(child) for child in claim.reads)


def evaluation(name: str, evaluator: Evaluator, columns: int) -> Contender:
    """What a user pays for a sample whose clean activations are there: drawing it, and evaluating
    it."""
    rng = stream(0, "timing", name)
    return Contender(name, columns, lambda: evaluator.evaluate(evaluator.space.draw(columns, rng)))


def measure() -> tuple[Race, dict[str, int]]:
    """Both claims and both forward passes (logits at all positions, as it is run, and at the last
    one only); and how large the claims are."""
    print("GPT-2 small's shape", flush=True)
    network, data = module(), dataset()
    tokens = data.inputs["tokens"]
    store = ActivationStore(load_model(network), data)
    claims = {"gpt2_three_levels": three_levels(), "gpt2_leaves": leaves()}
    evaluators = {
        name: Evaluator(store.graph, data, claim, store=store) for name, claim in claims.items()
    }
    facts = {name: nodes(claim) for name, claim in claims.items()}
    for name, one in evaluators.items():
        one.evaluate(one.space.draw(ROWS, stream(0, "warm", name)))
    facts["megabytes"] = round(store.bytes() / 1e6)
    forward = sized(lambda n: network(tokens[:n], use_cache=False), SIZES)
    at_end = sized(lambda n: network(tokens[:n], use_cache=False, logits_to_keep=1), SIZES)
    contenders = [evaluation(name, one, COLUMNS) for name, one in evaluators.items()]
    return race([*contenders, forward.named("forward"), at_end.named("forward_end")]), facts


def section(result: Race, facts: dict[str, int]) -> list[str]:
    """What of it is shown."""
    titles = {
        "gpt2_three_levels": "26 heads, of which three levels read others: "
        f"{facts['gpt2_three_levels']} nodes",
        "gpt2_leaves": f"{facts['gpt2_leaves']} heads as leaves",
        "forward": "clean forward pass",
        "forward_end": "the same with logits at the last position only",
    }
    return [
        f"GPT-2 small's shape (12 layers, 12 heads, d_model 768, vocabulary {VOCABULARY:,}), "
        f"random weights, {ROWS} inputs of {SEQ} tokens; cross-entropy at the last position. "
        f"Drawing is included, {facts['megabytes']:,} MB of clean activations are cached. The last "
        "column compares with the clean forward pass.",
        "",
        *table(result, titles, "forward"),
    ]
