"""rust_circuit (Redwood Research): the same network as a circuit of its own, and the same two
claims.

Its user builds the circuit from the weights, names parts of it by matchers, and asks
`Experiment.scrub(n).evaluate()` for the scrubbed output of n samples; here with everything that was
found to make it faster.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import rust_circuit as rc
import torch
import torch.nn.functional as F
from rust_circuit.causal_scrubbing.dataset import Dataset as Rows
from rust_circuit.causal_scrubbing.experiment import (
    Experiment,
    ExperimentEvalSettings,
    ScrubbedExperiment,
)
from rust_circuit.causal_scrubbing.hypothesis import (
    Correspondence,
    ExactSampler,
    FuncSampler,
    InterpNode,
    SampledInputs,
    UncondSampler,
    chain_excluding,
    corr_root_matcher,
)
from torch import Tensor

from benchmarks.peers_small import D_HEAD, HEADS, SEQ, rows_of
from pytest_scrub.swaps.space import SwapSpace
from pytest_scrub.swaps.swap_set import SwapSet

ANY_HEAD = rc.Regex(r"^a\d\.(h\d|rest)(\.last)?$")
TOKENS = rc.Array(torch.zeros(SEQ, dtype=torch.int64), name="tokens")


def _heads(
    w: Mapping[str, Tensor],
    layer: int,
    heads: Sequence[int],
    stream: rc.Circuit,
    queries: rc.Circuit,
    name: str,
) -> rc.Circuit:
    """The sum of some heads of a layer, together; `[1, d_model]` where only the last position
    asks."""
    bound = {
        n: rc.Array(w[f"{n}{layer}"][list(heads)].contiguous(), f"{name}.{n}")
        for n in ("W_Q", "W_K", "W_V", "W_O")
    }
    q, k, v = (
        rc.Einsum.from_einsum_string("sd,hdc->hsc", x, bound[n], name=f"{name}.{n[-1].lower()}")
        for n, x in (("W_Q", queries), ("W_K", stream), ("W_V", stream))
    )
    scores = rc.Einsum.from_einsum_string(
        "hqc,hkc,->hqk", q, k, rc.Scalar(D_HEAD**-0.5), name=f"{name}.scores"
    )
    if queries.shape[0] > 1:  # the last position sees all keys
        scores = rc.Add(
            scores, rc.Array(torch.full((SEQ, SEQ), -1e9).triu(1), "causal"), name=f"{name}.masked"
        )
    pattern = rc.softmax(scores, name=f"{name}.pattern")
    mixed = rc.Einsum.from_einsum_string("hqk,hkc->hqc", pattern, v, name=f"{name}.mixed")
    return rc.Einsum.from_einsum_string("hqc,hcd->qd", mixed, bound["W_O"], name=name)


def circuit(
    weights: Mapping[str, Tensor], apart: Sequence[tuple[int, int]], late: bool
) -> rc.Circuit:
    """Tokens `[SEQ]` to logits at the last position, `[1, VOCABULARY]`: an output that reads heads
    and embedding through one flat sum, and in the last layer only the query that matters.

    **Arguments**

    - `apart`: (layer, head) of the heads that can be named; the others of a layer are computed
      together, faster.
    - `late`: whether the output reads layer 0 through queries of the last position only.
    """
    embed, pos, unembed = (
        rc.Array(weights[name].contiguous(), name) for name in ("embed", "pos", "unembed")
    )
    looked_up = rc.GeneralFunction.gen_index(embed, TOKENS, index_dim=0, check_index_ints=False)
    embedded = rc.Add(looked_up, pos, name="embed")
    last = (slice(SEQ - 1, SEQ),)

    def layer(
        number: int, stream: rc.Circuit, queries: rc.Circuit, suffix: str = ""
    ) -> list[rc.Circuit]:
        single = [head for at, head in apart if at == number]
        rest = [head for head in range(HEADS) if head not in single]
        parts = [
            _heads(weights, number, [h], stream, queries, f"a{number}.h{h}{suffix}") for h in single
        ]
        return parts + (
            [_heads(weights, number, rest, stream, queries, f"a{number}.rest{suffix}")]
            if rest
            else []
        )

    lower = layer(0, embedded, embedded)
    stream = rc.Add(embedded, *lower, name="stream")
    embedded_last = rc.Index(embedded, last)
    lower_last = [rc.Index(part, last) for part in lower]
    query = rc.Add(embedded_last, *lower_last, name="last of stream")
    upper = layer(1, stream, query)
    direct = layer(0, embedded, embedded_last, ".last") if late else lower_last
    final = rc.Add(embedded_last, *direct, *upper, name="final")
    return rc.Einsum.from_einsum_string("qd,dv->qv", final, unembed, name="logits")


ALL_APART = [(layer, head) for layer in range(2) for head in range(HEADS)]


def _parity(position: int) -> FuncSampler:
    return FuncSampler(lambda rows: rows.tokens.value[:, position] % 2)


def _direct(child: str, below: rc.IterativeMatcher = corr_root_matcher) -> rc.IterativeMatcher:
    """`child` where it is reached from `below` by way of no other head."""
    return chain_excluding(below, child, term_early_at=ANY_HEAD)


@dataclass(frozen=True)
class Claim:
    """A hypothesis of theirs, and which slot of ours says what a node of theirs is sampled as."""

    tree: Correspondence
    slot: Mapping[InterpNode, str | None]
    rest: Mapping[InterpNode, str]


def claim_of_4_nodes() -> Claim:
    tree, root = Correspondence(), InterpNode(ExactSampler(), "output", UncondSampler())
    tree.add(root, corr_root_matcher)
    upper = root.make_descendant(_parity(-1), "1.0", UncondSampler())
    at_upper = rc.IterativeMatcher("a1.h0")
    tree.add(upper, at_upper)
    lower = upper.make_descendant(_parity(-2), "0.3")
    tree.add(lower, at_upper.chain("a0.h3"))
    direct = root.make_descendant(ExactSampler(), "embed")
    tree.add(direct, _direct("embed"))
    slot = {
        root: None,
        upper: "output/head1.0",
        lower: "output/head1.0/head0.3",
        direct: "output/embed",
    }
    return Claim(tree, slot, {root: "output/rest", upper: "output/head1.0/rest"})


def claim_of_73_nodes() -> Claim:
    tree, root = Correspondence(), InterpNode(ExactSampler(), "output", UncondSampler())
    tree.add(root, corr_root_matcher)
    slot: dict[InterpNode, str | None] = {root: None}
    rest = {root: "output/rest"}
    for i in range(HEADS):
        upper = root.make_descendant(UncondSampler(), f"1.{i}", UncondSampler())
        at_upper = rc.IterativeMatcher(f"a1.h{i}")
        tree.add(upper, at_upper)
        slot[upper], rest[upper] = f"output/head1.{i}", f"output/head1.{i}/rest"
        for j in range(HEADS):
            lower = upper.make_descendant(UncondSampler(), f"1.{i} 0.{j}")
            tree.add(lower, at_upper.chain(f"a0.h{j}"))
            slot[lower] = f"output/head1.{i}/head0.{j}"
    return Claim(tree, slot, rest)


class Scrubber:
    """Their experiment on one claim: drawing as their user does, or exactly the swaps of a swap set
    of ours."""

    def __init__(
        self,
        circuit: rc.Circuit,
        claim: Claim,
        tokens: Tensor,
        labels: Tensor,
        numbered: bool = False,
    ) -> None:
        """With `numbered`, every row carries its number, which costs a little."""
        self.claim = claim
        columns = {"tokens": tokens, "labels": labels} | (
            {"row": torch.arange(len(tokens))} if numbered else {}
        )
        self.rows = Rows(
            [rc.Array(values, name) for name, values in columns.items()], input_names={"tokens"}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that checks are off, which is faster
            self.experiment = Experiment(circuit, self.rows, claim.tree, check=False)
        self.checked = Experiment(circuit, self.rows, claim.tree, check=True)

    def draw(self, samples: int, batch: int | None, optimize: bool = False) -> Tensor:
        """Losses of freshly drawn samples, float64 `[samples]`."""
        scrubbed = self.experiment.scrub(samples, treeify=False, check=False)
        return _losses(scrubbed, _settings(batch, optimize))

    def drawn(self, samples: int, space: SwapSpace) -> tuple[SwapSet, Tensor]:
        """What they draw, as a swap set of ours, and their losses; only where rows are numbered."""
        scrubbed = self.experiment.scrub(samples, treeify=False, check=False)
        sampled = scrubbed.sampled_inputs

        def numbers(rows: Rows) -> np.ndarray:
            return rows.arrs["row"].value.numpy()

        by_slot = {
            slot: numbers(sampled.datasets[n])
            for n, slot in self.claim.slot.items()
            if slot is not None
        }
        by_slot |= {
            slot: numbers(sampled.other_inputs_datasets[n]) for n, slot in self.claim.rest.items()
        }
        donors = np.stack([by_slot[slot] for slot in space.paths])
        return space.swap_set(numbers(scrubbed.ref_ds), donors), _losses(scrubbed, _settings(64))

    def exactly(self, swap_set: SwapSet, batch: int | None, check: bool = False) -> Tensor:
        """Losses of these swaps; with `check`, through every check they have."""

        def rows(indices: np.ndarray) -> Rows:
            return self.rows[torch.from_numpy(indices.copy())]

        references = rows(swap_set.references)
        sampled = SampledInputs(
            {
                n: references if s is None else rows(rows_of(swap_set, s))
                for n, s in self.claim.slot.items()
            },
            {n: rows(rows_of(swap_set, s)) for n, s in self.claim.rest.items()},
        )
        experiment = self.checked if check else self.experiment
        group = rc.DiscreteVar.uniform_probs_and_group(len(swap_set))
        base = experiment.treeified(check) if check else experiment.base_circuit
        scrubbed = experiment.replace_inputs(
            experiment.wrap_in_var(base, references, group), sampled
        )
        found = ScrubbedExperiment(
            scrubbed,
            ref_ds=references,
            sampled_inputs=sampled,
            group=group,
            nodes=self.claim.tree,
            seed=0,
        )
        return _losses(found, _settings(batch))


def _losses(scrubbed: ScrubbedExperiment, settings: ExperimentEvalSettings) -> Tensor:
    logits = scrubbed.evaluate(settings)[:, 0]
    return F.cross_entropy(logits.double(), scrubbed.ref_ds.arrs["labels"].value, reduction="none")


def forward(circuit: rc.Circuit, tokens: Tensor, batch: int | None) -> Tensor:
    """Their own plain forward pass."""
    group = rc.DiscreteVar.uniform_probs_and_group(len(tokens))
    variable = rc.DiscreteVar(
        values=rc.Array(tokens, "tokens"), probs_and_group=group, name="tokens_var"
    )
    sampled = (
        _settings(batch).get_sampler(group, 0).sample(circuit.update("tokens", lambda _: variable))
    )
    return sampled.evaluate()[:, 0]


def _settings(batch: int | None, optimize: bool = False) -> ExperimentEvalSettings:
    """`optimize=True` ends the process on these circuits, unless what is computed when is decided
    naively."""
    return ExperimentEvalSettings(
        optimize=optimize,
        optim_settings=rc.OptimizationSettings(scheduling_naive=True),
        batch_size=batch,
        device_dtype=rc.TorchDeviceDtypeOp("cpu"),
    )
