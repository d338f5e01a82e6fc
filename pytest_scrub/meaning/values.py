"""What the network computes, the donors being these: rules 1, 3, 4, 6 to 9, 17, 18 and 20.

`outputs` is where to begin: a tree is computed from its leaves up, node by node (`claims`), each
by what it reads of its children (`read`), and put in wholly or in part (`blend`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.data.feature_values import FeatureValues
from pytest_scrub.meaning.donors import places, rows_of
from pytest_scrub.meaning.network import Change, Network, Run
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ROOT, Each, Node, Position, Span
from pytest_scrub.tree.paths import node_paths
from pytest_scrub.tree.predictions import arguments_of


def outputs(
    network: Network, root: Node, dataset: Dataset, swap_set: SwapSet, at: Position | None
) -> list[Tensor]:
    """The scrubbed output of every reference, float64 `[positions, ...]`, at the metric's positions
    `at` (None: all) on the root's carrier (rule 7); donors may be any rows. The metric holds them
    against the `label`."""
    found = []
    with torch.no_grad():
        for column in range(len(swap_set)):
            meaning = Meaning(network, dataset, root, rows_of(swap_set, column))
            (output,) = meaning.claims(ROOT, root)
            found.append(output.value[meaning.positions(at, output.carrier, output.value)].double())
    return found


def continuations(
    network: Network, root: Node, dataset: Dataset, swap_set: SwapSet, tokens: int
) -> list[Tensor]:
    """Rule 20: what follows the prompt of every reference's carrier where it was swapped: for each
    token its logits, `[tokens, classes]`. The largest is said, and all that was said is read."""
    found = []
    with torch.no_grad():
        for column in range(len(swap_set)):
            meaning = Meaning(network, dataset, root, rows_of(swap_set, column))
            carrier = meaning.rows[ROOT if root.is_leaf else f"{ROOT}/rest"]
            claims, each = meaning.below(ROOT), list[Tensor]()
            prompt = len(network.run(carrier, {}).values[ROOT])
            for _ in range(tokens):  # what children give is computed on prompts alone
                said = [int(logits.argmax()) for logits in each]
                longer = replace(meaning, network=network.after(said), swapped=slice(prompt))
                each.append(longer.read(root, carrier, claims)[-1])
            found.append(torch.stack(each).double())
    return found


def label(root: Node, dataset: Dataset, swap_set: SwapSet, column: int) -> Any:
    """What the metric of the scrubbed output is taken against, for one reference.

    Rule 1: the reference's own label; rule 17: or what the output predicts, from what is known of
    the reference and of the rows of named nodes, whether or not they feed anything.
    """
    rows = rows_of(swap_set, column)
    if root.predicts is None:
        return FeatureValues(dataset, np.array([rows[None]])).labels[0]
    function = root.predicts.function
    named = {node.name: path for path, node, _ in node_paths(root) if not node.is_each}
    read = [rows[named.get(name)] for name in arguments_of("predicts=", function)]
    return np.asarray(function(*(FeatureValues(dataset, np.array([row])) for row in read)))[0]


NO_ROW = -1


@dataclass(frozen=True, eq=False)
class Claim:
    """What a node puts in place of an activation, or of the sum of several. Rule 7: the carrier is
    the row on whose sequence the value is computed, NO_ROW where that is not one and the same."""

    node: Node
    carrier: int
    components: tuple[str, ...]
    value: Tensor


@dataclass(frozen=True)
class Meaning:
    """The value of every node for one reference, the rows in the slots being these.

    - `swapped`: the positions that are swapped along every path, as an index; all, or those of the
      prompt (rule 20).
    """

    network: Network
    dataset: Dataset
    root: Node
    rows: Mapping[str | None, int]
    swapped: Any = ...

    def claims(self, path: str, node: Node) -> list[Claim]:
        """What a node hands to its parent."""
        if node.is_each:  # rule 7: at each position what its own donor has, there or further on
            at_each, given = places(path, self.rows), list[dict[str, Tensor]]()
            for at in at_each:
                further, row = divmod(self.rows[f"{path}/{at}"], len(self.dataset))
                there, values = (at + further) % len(at_each), self.network.run(row, {}).values
                given.append({name: values[name][there] for name in node.components})
            return [
                Claim(node, NO_ROW, (name,), torch.stack([one[name] for one in given]))
                for name in node.components
            ]
        if node.edited is not None:  # rule 18: changed where it is read, and taken from nowhere
            return [Claim(node, NO_ROW, node.components, torch.empty(0))]
        own = self.rows[path]
        if not node.is_leaf:  # whose own input feeds nothing (rule 4)
            carrier = self.rows[f"{path}/rest"]
            value = self.read(node, carrier, self.below(path))
            return [Claim(node, carrier, node.components, value)]
        if node.computed_by is not None and node.agrees_on is not None:  # rule 9
            features = [self.dataset.feature(name)[[own]] for name in node.agrees_on.features]
            value = torch.as_tensor(node.computed_by(*features))[0]
            return [Claim(node, own, node.components, value)]
        values = self.network.run(own, {}).values  # rule 3; rule 5: a group has one donor
        return [Claim(node, own, (name,), values[name]) for name in node.components]

    def below(self, path: str) -> list[Claim]:
        """What the children of a node hand to it."""
        children = [(at, child) for at, child, above in node_paths(self.root) if above == path]
        return [claim for at, child in children for claim in self.claims(at, child)]

    def read(self, node: Node, row: int, claims: Sequence[Claim]) -> Tensor:
        """Rule 4: recomputed on what its children give, and for the rest on a clean run on
        `row`."""
        parent, runs, changes = node.component, dict[str, Run](), dict[str, list[Change]]()
        for slot in self.network.slots(parent):
            read = [claim for claim in claims if claim.node.into in (None, slot)]  # rule 6
            anywhere = [claim for claim in read if (claim.node.via or self.network.via) == "any"]
            runs[slot] = self.run(row, anywhere)
            for claim in read:
                name = claim.components[0]
                if claim not in anywhere and self.network.writes(name, parent, slot):
                    changes.setdefault(slot, []).append((name, self.change(runs[slot], claim)))
        return self.network.recompute(parent, runs, changes)

    def run(self, row: int, claims: Sequence[Claim]) -> Run:
        """Rule 6, along every path: a run in which all these are replaced together."""

        def replace(name: str, now: Tensor) -> Tensor:
            for claim in claims:
                if claim.components == (name,):
                    now = now.clone()
                    now[self.swapped] = self.blend(now[self.swapped], claim, row)
            return now

        names = [name for claim in claims for name in claim.components]
        return self.network.run(row, {name: partial(replace, name) for name in names})

    def change(self, run: Run, claim: Claim) -> Tensor:
        """Rule 6, directly: what is added to what a slot reads in this run, value_c - value_c(r_n);
        beside children along every path it holds their replacements already."""
        now = torch.stack([run.values[name] for name in claim.components]).sum(dim=0)
        return self.blend(now, claim, run.row) - now

    def blend(self, now: Tensor, claim: Claim, row: int) -> Tensor:
        """`now`, computed on `row`, with the claim's value put in; what it does not claim stays.
        Rule 7: taken at the positions of its own carrier, put in at those of its parent's, k-th to
        k-th. Rule 8: only the projection on its subspace is replaced."""
        node = claim.node
        if node.edited is not None:  # rule 18: as it is in this run
            put, edited = self.positions(node.pos, row, now), now.clone()
            vector = torch.tensor(node.edited.vector, dtype=now.dtype)
            along = 1 if node.edited.is_added else -(now[put] @ vector) / (vector @ vector)
            edited[put] += torch.as_tensor(along)[..., None] * vector
            return edited
        value = claim.value.to(now.dtype).expand_as(now)
        new = value[self.positions(node.pos, claim.carrier, value)]
        put = self.positions(node.pos, row, now)
        assert new.shape == now[put].shape, f"{node.label} has other positions in row {row}"
        if node.subspace is not None:
            basis = torch.tensor(node.subspace.basis, dtype=now.dtype)
            new = now[put] + (new - now[put]) @ basis @ basis.T
        blended = now.clone()
        blended[put] = new
        return blended

    def positions(self, pos: Position | Each | None, row: int, value: Tensor) -> Any:
        """Rule 7: what `pos` means in this row, as an index of `value [positions, ...]`."""
        if pos is None or isinstance(pos, Each):
            return ...
        at: Any = pos.slice if isinstance(pos, Span) else pos
        if isinstance(pos, str):  # a position of each row, or a mask of its positions
            at = self.dataset.feature(pos)[row]
        return np.arange(len(value))[at].reshape(-1).tolist()
