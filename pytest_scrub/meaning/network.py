"""What a network answers, by passes of its own: of rules 6, 9, 10 and 12 to 15, and 20.

What a component is (a stream, a pattern, units of an MLP or of a dictionary: rules 12 to 15) shows
in these answers alone. How each kind of network gives them stands in `tests/reference`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


@dataclass
class Run:
    """One pass of a network on one row, on its sequence alone: no tensor here has a batch axis.

    - `values`: component to its activation `[positions, ...]`, or to what was put in its place. The
      mask's is `[positions]`, 1 where a key is visible; the output's is what the metric reads.
    - `reads`: component to the residual stream `[positions, d_model]` that it reads, if any.
    """

    row: int
    values: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)


Change = tuple[str, Tensor]
"""A component, and what is added to its activation `[positions, ...]`; of several that are replaced
by their sum it is the first, and what is added to that sum."""


class Network(Protocol):
    """A network as components that read one another. Constant terms (biases) belong to no
    activation (rule 9). Which keys are visible is the activation of `mask`, which heads read in a
    slot of its own (rule 10)."""

    via: str  # rule 6: how a child is read that does not say, `direct`, or `any` in torch modules

    def slots(self, component: str) -> Sequence[str]:
        """What it reads, by name: `q`, `k`, `v` and `mask` of a head, a function's arguments."""

    def writes(self, child: str, parent: str, slot: str) -> bool:
        """Whether the child's activation is a term of what the parent reads into this slot."""

    def run(self, row: int, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Run:
        """One pass in which what `replace` names is replaced once computed; all else follows."""

    def recompute(
        self, component: str, runs: Mapping[str, Run], changes: Mapping[str, Sequence[Change]]
    ) -> Tensor:
        """A component's activation `[positions, ...]` when it reads something else.

        - `runs`: for every slot the run in which it is read. All are on one row, the carrier, whose
          position ids are those of rotary embeddings (rule 10).
        - `changes`: slot to what is added to activations that it reads in its run, if anything. A
          function of a sum of activations is one of them all together (rule 6).
        """

    def after(self, said: Sequence[int]) -> Network:
        """The same network on texts in which these tokens follow those of every row (rule 20)."""
