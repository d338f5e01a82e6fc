"""A small compiler: programs of attention, in the manner of RASP, to the weights of a transformer.

A program says what is known at every position of a sequence: variables, each with a few values.
`tokens` and `indices` are there; a head makes a variable of another by *selecting* positions and
copying (`copied`) or counting them (`counted`); an MLP computes one of several that stand at the
same position (`mapped`). In the residual stream every variable has directions of its own, one for
each value. Numbers are exact: scores are so far apart that a softmax is a choice, and an MLP has
one neuron for each combination of values.

The network is a native one of TransformerLens, without norms, in float64. Position 0 of every
sequence is a start token: a head that selects nothing attends there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FAR = 100.0  # between scores: exp(-FAR / 2) is no number beside 1
SURE = 8.0  # between the logit of the answer and any other
STEEP = 1000.0  # of the steps that turn a number into one of a few values
BLURRED = ("embed.weight", "v.weight", "o.weight")  # where a network may be off


@dataclass(frozen=True)
class Variable:
    """What is known at each position.

    - `first`: its first direction of the residual stream; `size`: how many values it has, and
      directions.
    - `stage`: 0 for what is embedded, 2l + 1 after the heads of layer l, 2l + 2 after its MLP.
    - `head`: layer and number of the head that writes it, where one does.
    """

    name: str
    first: int
    size: int
    stage: int
    head: tuple[int, int] | None = None

    @property
    def directions(self) -> slice:
        return slice(self.first, self.first + self.size)

    @property
    def layer(self) -> int:
        """Of the head or MLP that writes it."""
        return (self.stage - 1) // 2


@dataclass
class _Head:
    query: Variable
    key: Variable
    scores: Tensor  # [values of the query, values of the key]
    value: Variable
    kept: Tensor  # [values of the new variable, values of the one that is read]
    into: Variable


@dataclass
class _Neurons:
    inward: list[tuple[dict[int, float], float]] = field(default_factory=list)  # weights and bias
    outward: list[dict[int, float]] = field(default_factory=list)


class Program:
    """Variables in the order in which they were made, and what makes them.

    - `letters`: how many tokens there are beside the start token, which is the last one.
    - `length`: of a sequence, with the start token.
    """

    def __init__(self, letters: int, length: int, *, causal: bool = False) -> None:
        self.letters, self.length, self.causal = letters, length, causal
        self.width = 0
        self.heads: dict[tuple[int, int], _Head] = {}
        self.neurons: dict[int, _Neurons] = {}
        self.variables: dict[str, Variable] = {}
        self.tokens = self._variable("tokens", letters + 1, 0)
        self.indices = self._variable("indices", length, 0)
        self.start = letters

    def _variable(
        self, name: str, size: int, stage: int, head: tuple[int, int] | None = None
    ) -> Variable:
        made = Variable(name, self.width, size, stage, head)
        self.width += size
        self.variables[name] = made
        return made

    # Heads ---------------------------------------------------------------------------------------

    def copied(
        self,
        name: str,
        value: Variable,
        query: Variable,
        key: Variable,
        selects: Callable[[int, int], bool],
    ) -> Variable:
        """The value at the position whose key the query selects; at the start token where none is
        selected."""
        scores = torch.tensor(
            [[FAR * selects(q, k) for k in range(key.size)] for q in range(query.size)],
            dtype=torch.float64,
        )
        return self._head(name, value, query, key, scores, torch.eye(value.size).double())

    def counted(
        self,
        name: str,
        most: int,
        query: Variable,
        key: Variable,
        selects: Callable[[int, int], bool],
    ) -> Variable:
        """How many positions the query selects, 0 to `most`; the start token's is never one.

        A head attends to them and to the start token alike, which gets 1 / (1 + count) of it; an
        MLP reads the count from that.
        """
        scores = torch.tensor(
            [[FAR / 2 * selects(q, k) for k in range(key.size)] for q in range(query.size)],
            dtype=torch.float64,
        )
        is_start = torch.zeros(1, self.length, dtype=torch.float64)
        is_start[0, 0] = 1
        share = self._head(f"share of {name}", self.indices, query, key, scores, is_start)
        layer = share.layer
        made = self._variable(name, most + 1, 2 * layer + 2)
        ends = [0.0, *((1 / (1 + c) + 1 / (2 + c)) / 2 for c in reversed(range(most))), 2.0]
        for count, (low, high) in enumerate(itertools.pairwise(ends)):
            into = made.first + most - count
            for end, sign in ((low, 1.0), (high, -1.0)):
                self._step(layer, share.first, end, into, sign)
        return made

    def _step(self, layer: int, reads: int, end: float, into: int, sign: float) -> None:
        """Adds `sign` where what is read lies above `end`."""
        neurons = self.neurons.setdefault(layer, _Neurons())
        for half, way in ((0.5, 1.0), (-0.5, -1.0)):
            neurons.inward.append(({reads: STEEP}, half - STEEP * end))
            neurons.outward.append({into: way * sign})

    def _head(
        self,
        name: str,
        value: Variable,
        query: Variable,
        key: Variable,
        scores: Tensor,
        kept: Tensor,
    ) -> Variable:
        layer = max(one.stage + 1 for one in (value, query, key)) // 2
        number = sum(at == layer for at, _ in self.heads)
        made = self._variable(name, len(kept), 2 * layer + 1, (layer, number))
        self.heads[layer, number] = _Head(query, key, scores, value, kept, made)
        return made

    # MLPs ----------------------------------------------------------------------------------------

    def mapped(self, name: str, size: int, rule: Callable[..., int], *of: Variable) -> Variable:
        """What `rule` makes of the values that other variables have at the same position."""
        layer = max(one.stage for one in of) // 2
        made = self._variable(name, size, 2 * layer + 2)
        neurons = self.neurons.setdefault(layer, _Neurons())
        for values in itertools.product(*(range(one.size) for one in of)):
            reads = {one.first + value: 1.0 for one, value in zip(of, values, strict=True)}
            neurons.inward.append((reads, 1.0 - len(of)))
            neurons.outward.append({made.first + rule(*values): 1.0})
        return made

    # The network ---------------------------------------------------------------------------------

    def compiled(self, answer: Variable, off: float = 0.0) -> Any:
        """The network whose logits say what `answer` is at each position.

        `off` is a standard deviation: what is embedded, and what heads move, is a little off then,
        as in trained networks, and no answer is another one for it.
        """
        from transformer_lens.config import TransformerBridgeConfig
        from transformer_lens.model_bridge import TransformerBridge

        layers = max(one.layer for one in self.variables.values()) + 1
        n_heads = max([1, *(number + 1 for _, number in self.heads)])
        d_head = max([1, *(max(one.key.size + 1, len(one.kept)) for one in self.heads.values())])
        d_mlp = max([1, *(len(one.inward) for one in self.neurons.values())])
        config = TransformerBridgeConfig(
            d_model=self.width, d_head=d_head, n_layers=layers, n_heads=n_heads,
            n_ctx=self.length, d_mlp=d_mlp, d_vocab=self.letters + 1, d_vocab_out=answer.size,
            act_fn="relu", normalization_type=None, positional_embedding_type="standard",
            attention_dir="causal" if self.causal else "bidirectional",
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            bridge: Any = TransformerBridge.boot_native(config, dtype=torch.float64)
        weights = {
            name: torch.zeros_like(given, dtype=torch.float64)
            for name, given in bridge.state_dict().items()
        }
        weights["embed.weight"][:, self.tokens.directions] = torch.eye(self.letters + 1).double()
        weights["pos_embed.weight"][:, self.indices.directions] = torch.eye(self.length).double()
        weights["unembed.weight"][:, answer.directions] = SURE * torch.eye(answer.size).double()
        for (layer, number), made in self.heads.items():
            self._fill_head(weights, layer, slice(number * d_head, (number + 1) * d_head), made)
        for layer, neurons in self.neurons.items():
            _fill_mlp(weights, layer, neurons)
        generator = torch.Generator().manual_seed(0)
        for name, weight in weights.items():
            if name.endswith(BLURRED) and not name.startswith("unembed"):
                noise = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                weight.add_(off * noise)
        bridge.load_state_dict(weights)
        return bridge.eval().requires_grad_(False)

    def _fill_head(self, weights: dict[str, Tensor], layer: int, rows: slice, made: _Head) -> None:
        """One dimension for each value of the key, and one that the start token alone has."""
        attn, size = f"blocks.{layer}.attn", made.key.size
        d_head = rows.stop - rows.start
        query, key, value, out = (weights[f"{attn}.{name}.weight"] for name in "qkvo")
        # scores are divided by the root of d_head
        query[rows, made.query.directions][:size] = made.scores.T * d_head**0.5
        weights[f"{attn}.q.bias"][rows][size] = FAR / 2 * d_head**0.5
        key[rows, made.key.directions][:size] = torch.eye(size).double()
        key[rows, self.indices.first][size] = 1.0
        value[rows, made.value.directions][: len(made.kept)] = made.kept
        out[made.into.directions, rows][:, : len(made.kept)] = torch.eye(len(made.kept)).double()


def _fill_mlp(weights: dict[str, Tensor], layer: int, neurons: _Neurons) -> None:
    inward, bias, outward = (
        weights[f"blocks.{layer}.mlp.{name}"] for name in ("in.weight", "in.bias", "out.weight")
    )
    for i, ((reads, offset), writes) in enumerate(
        zip(neurons.inward, neurons.outward, strict=True)
    ):
        bias[i] = offset
        for direction, weight in reads.items():
            inward[i, direction] = weight
        for direction, weight in writes.items():
            outward[direction, i] = weight


def with_start(rows: Sequence[Sequence[int]], letters: int) -> Tensor:
    """Sequences of letters with the start token before them."""
    return torch.tensor([[letters, *row] for row in rows])
