"""What a claim means, to be read: what is swapped, what a node's value is then, and which swaps are
allowed.

One node, one slot and one reference at a time, and nothing fast. The rules are those of
docs/meaning.md, "Exactly", and are named where they are followed. A network answers five questions
(`Network`) in its own way; all the rest is here.

Nothing in the package imports this module, and it shares no code with the engine, which the tests
hold against it on random networks, claims and swap sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.swaps.slots import node_paths
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ROOT, Agreement, Node, Position

# What a network answers ---------------------------------------------------------------------------


@dataclass
class Run:
    """One pass of a network on one row, on its sequence alone: no tensor here has a batch axis.

    - `row`: the row of the dataset.
    - `values`: component to its activation `[positions, ...]`, or to what was put in its place. The
      mask's is `[positions]`, 1 where a key is visible; the output's is what the metric reads.
    - `reads`: component to the residual stream `[positions, d_model]` that it reads, where there is
      one.
    """

    row: int
    values: dict[str, Tensor] = field(default_factory=dict)
    reads: dict[str, Tensor] = field(default_factory=dict)


Change = tuple[str, Tensor]
"""A component, and what is added to its activation `[positions, ...]`; of several that are replaced
by their sum it is the first, and what is added to that sum."""


class Network(Protocol):
    """A network as components that read one another. Constant terms (biases) belong to no
    activation (rule 9).

    Which keys are visible is the activation of `mask`, which heads read in a slot of its own (rule
    10).
    """

    @property
    def via(self) -> str:
        """How a child is read that does not say: `direct`, or `any` as in torch modules (rule
        6)."""

    def slots(self, component: str) -> Sequence[str]:
        """What a component reads, by name: `q`, `k`, `v` and `mask` of a head, the arguments of a
        function."""

    def writes(self, child: str, parent: str, slot: str) -> bool:
        """Whether the child's activation is a term of what the parent reads into this slot."""

    def run(self, row: int, replace: Mapping[str, Callable[[Tensor], Tensor]]) -> Run:
        """One pass on a row, in which what `replace` names is replaced as soon as it is computed;
        all else follows."""

    def recompute(
        self, component: str, runs: Mapping[str, Run], changes: Mapping[str, Sequence[Change]]
    ) -> Tensor:
        """A component's activation `[positions, ...]` when it reads something else than in one
        clean run.

        - `runs`: for every slot the run in which it is read. All are on one row, the carrier, whose
          position ids are those of rotary embeddings (rule 10).
        - `changes`: slot to what is added to activations that it reads in its run; a slot may be
          missing. Where the network adds a function of a sum of activations, it is one of them all
          together (rule 6).
        """


# Who is whose donor -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placed:
    """A node with the rows that a swap set gives it for one reference.

    - `own`: the node's own input x_n, which is a leaf's donor. A non-leaf's feeds nothing (rule 4).
    - `carrier`: the row on whose sequence the node's value is computed: its rest's donor; of a
      leaf, its own (rule 7).
    """

    path: str
    node: Node
    own: int
    carrier: int
    children: tuple[Placed, ...]


def place(root: Node, swap_set: SwapSet, column: int) -> Placed:
    """The tree with the rows of one column of a swap set."""
    reference = int(swap_set.references[column])
    donors = dict(zip(swap_set.slots, swap_set.donors[:, column].tolist(), strict=True))

    def placed(path: str, node: Node) -> Placed:
        # rule 1: only a root without a feature has no donor; its input is x
        own = donors.get(path, reference)
        carrier = own if node.is_leaf else donors[f"{path}/rest"]
        below = [
            placed(child_path, child)
            for child_path, child, parent in node_paths(root)
            if parent == path
        ]
        return Placed(path, node, own, carrier, tuple(below))

    return placed(ROOT, root)


# Which donors are allowed -------------------------------------------------------------------------


def allowed(root: Node, dataset: Dataset, swap_set: SwapSet, column: int) -> dict[str, set[int]]:
    """For every slot, the rows that may be its donor, the donors above it being as they are.

    A swap set is allowed where every donor is among these. Rule 11 says nothing else of these sets:
    of two claims about the same nodes, `join` allows in every slot what both do.
    """
    rows: dict[str, set[int]] = {}

    def ask(placed: Placed, parents_own: int, siblings: Sequence[Placed]) -> None:
        path, node = placed.path, placed.node
        # rules 1 and 2: with the parent's own input, for the root with x
        if node.agrees_on is not None:
            rows[path] = agreeing(dataset, node.agrees_on, parents_own)
        if node.shares is not None:  # rule 5: the donor of the sibling of that name
            rows[path] &= {
                s.own for s in siblings if s.node.name == node.shares and s is not placed
            }
        if node.rest is not None:  # rule 4: with the node's own input
            rows[f"{path}/rest"] = agreeing(dataset, node.rest, placed.own)
        for child in placed.children:
            ask(child, placed.own, placed.children)

    ask(place(root, swap_set, column), int(swap_set.references[column]), ())
    return rows


def agreeing(dataset: Dataset, agreement: Agreement, row: int) -> set[int]:
    """Rule 2: the row itself, and every row among the donors that agrees with it."""
    if agreement.exact:
        return {row}
    # none for ANYTHING: all donors agree
    columns = [dataset.feature(name) for name in agreement.features]
    return {row} | {
        int(d)
        for d in dataset.donor_rows
        if all(np.all(values[d] == values[row]) for values in columns)
    }


def chance(root: Node, dataset: Dataset, swap_set: SwapSet, column: int) -> float:
    """Rule 5: the probability that one sample is this one, a uniform reference with a uniform donor
    in every slot."""
    rows, donors = allowed(root, dataset, swap_set, column), swap_set.donors[:, column]
    of_donors = [
        (donor in rows[slot]) / len(rows[slot])
        for slot, donor in zip(swap_set.slots, donors, strict=True)
    ]
    return float(
        np.mean(dataset.reference_rows == swap_set.references[column]) * np.prod(of_donors)
    )


# What the network computes then -------------------------------------------------------------------


def outputs(
    network: Network, root: Node, dataset: Dataset, swap_set: SwapSet, at: Position | None
) -> list[Tensor]:
    """The scrubbed output of every reference, float64 `[positions, ...]`, at the metric's positions
    (None: all).

    These are the root's carrier's (rule 7); the label stays the reference's (rule 1). Donors may be
    any rows.
    """
    meaning, found = Meaning(network, dataset), []
    with torch.no_grad():
        for column in range(len(swap_set)):
            placed = place(root, swap_set, column)
            (output,) = meaning.claims(placed)
            found.append(output.value[meaning.positions(at, placed.carrier, output.value)].double())
    return found


@dataclass(frozen=True, eq=False)
class Claim:
    """What a node puts in place of an activation; where it computes the sum of several, in place of
    their sum."""

    node: Node
    carrier: int
    components: tuple[str, ...]
    value: Tensor


@dataclass(frozen=True)
class Meaning:
    """The value of every node."""

    network: Network
    dataset: Dataset

    def claims(self, placed: Placed) -> list[Claim]:
        """What a node hands to its parent, on the sequence of its own carrier."""
        node, carrier = placed.node, placed.carrier
        # rule 9: f(feature values of the donor)
        if node.computed_by is not None and node.agrees_on is not None:
            features = [
                self.dataset.feature(name)[[placed.own]] for name in node.agrees_on.features
            ]
            return [
                Claim(
                    node, carrier, node.components, torch.as_tensor(node.computed_by(*features))[0]
                )
            ]
        if node.is_leaf:  # rule 3; rule 5: a group is one leaf with one donor
            values = self.network.run(placed.own, {}).values
            return [Claim(node, carrier, (name,), values[name]) for name in node.components]
        return [Claim(node, carrier, node.components, self.recomputed(placed))]

    def recomputed(self, placed: Placed) -> Tensor:
        """Rule 4: what it claims to read from its children, everything else from a clean run on its
        rest's donor."""
        parent, row = placed.node.component, placed.carrier
        claims = [claim for child in placed.children for claim in self.claims(child)]
        runs: dict[str, Run] = {}
        changes: dict[str, list[Change]] = {}
        for slot in self.network.slots(parent):
            # rule 6: only that slot reads it
            read = [claim for claim in claims if claim.node.into in (None, slot)]
            anywhere = [claim for claim in read if (claim.node.via or self.network.via) == "any"]
            direct = [
                c
                for c in read
                if c not in anywhere and self.network.writes(c.components[0], parent, slot)
            ]
            runs[slot] = self.run(row, anywhere)
            if direct:
                changes[slot] = [
                    (claim.components[0], self.change(runs[slot], claim)) for claim in direct
                ]
        return self.network.recompute(parent, runs, changes)

    def run(self, row: int, claims: Sequence[Claim]) -> Run:
        """Rule 6, along every path: a run in which all these are replaced together; a clean one
        without any."""

        def replace(name: str, now: Tensor) -> Tensor:
            for claim in claims:
                now = self.blend(now, claim, row) if claim.components == (name,) else now
            return now

        return self.network.run(
            row, {name: partial(replace, name) for claim in claims for name in claim.components}
        )

    def change(self, run: Run, claim: Claim) -> Tensor:
        """Rule 6, directly: what is added to what a slot reads in this run, value_c - value_c(r_n).

        Beside children along every path the run holds their replacements already.
        """
        now = torch.stack([run.values[name] for name in claim.components]).sum(dim=0)
        return self.blend(now, claim, run.row) - now

    def blend(self, now: Tensor, claim: Claim, row: int) -> Tensor:
        """`now`, computed on `row`, with the claim's value put in; what it does not claim belongs
        to the rest.

        Rule 7: taken at the positions of its own carrier, put in at those of its parent's, k-th to
        k-th. Rule 8: only the projection on its subspace is replaced.
        """
        node, value = claim.node, claim.value.to(now.dtype).expand_as(now)
        new, put = (
            value[self.positions(node.pos, claim.carrier, value)],
            self.positions(node.pos, row, now),
        )
        assert new.shape == now[put].shape, (
            f"{node.label}: rows {claim.carrier} and {row} differ in their positions"
        )
        if node.subspace is not None:
            basis = torch.tensor(node.subspace.basis, dtype=now.dtype)
            new = now[put] + (new - now[put]) @ basis @ basis.T
        blended = now.clone()
        blended[put] = new
        return blended

    def positions(self, pos: Position | None, row: int, value: Tensor) -> Any:
        """Rule 7: what `pos` means in this row, as an index of `value [positions, ...]`."""
        if pos is None:
            return ...
        if isinstance(pos, str):
            column = self.dataset.feature(pos)[row]
            if column.dtype == bool:
                return np.flatnonzero(column).tolist()
            pos = int(column)
        every = range(len(value))
        return [every[pos]] if isinstance(pos, int) else list(every[pos.slice])
