"""What a claim means, to be read: which swaps are allowed, and what a node's value is then.

One node, one slot and one reference at a time, and nothing fast. The rules are those of
docs/meaning.md, "Exactly", and are named where they are followed. A network answers six questions
(`Network`) in its own way; all the rest is here. Nothing in the package imports this module, and it
shares no code with the engine, which the tests hold against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pytest_scrub.data.dataset import Dataset
from pytest_scrub.data.feature_values import FeatureValues
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import ROOT, Agreement, Each, Node, Position, Span
from pytest_scrub.tree.paths import donor_owners, node_paths, readers
from pytest_scrub.tree.predictions import arguments_of

# What a network answers ---------------------------------------------------------------------------


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


# Which donors are allowed -------------------------------------------------------------------------


def rows_of(swap_set: SwapSet, column: int) -> dict[str | None, int]:
    """For one reference x, the row in every slot; rule 7: of a donor from another position its
    number, see `agreeing`. Rule 1: x is what the root, with no parent (None), agrees with, and its
    own input unless it names a feature, which gives it a slot."""
    x, donors = int(swap_set.references[column]), swap_set.donors[:, column].tolist()
    return {None: x, ROOT: x, **dict(zip(swap_set.slots, donors, strict=True))}


def allowed(root: Node, dataset: Dataset, swap_set: SwapSet, column: int) -> dict[str, set[int]]:
    """For every slot, the rows that may be its donor, the donors above it being as they are; where
    all donors are among these, a swap set is allowed. Rule 11 says nothing else of these sets: of
    two claims about the same nodes, `join` allows in every slot what both do."""
    own, owners, rows = rows_of(swap_set, column), donor_owners(root), dict[str, set[int]]()
    for path, node, _ in node_paths(root):
        # rule 7: a node with pos=EACH is a leaf for every position
        for place in places(path, own) if node.is_each else [None]:
            at = "" if place is None else f"/{place}"
            if node.agrees_on is not None:  # rule 2: with the parent's own input
                with_own, agree = own[reader(root, path)], set[int]()
                for further in range(len(places(path, own)) if node.is_shifted else 1):
                    shift = further, len(places(path, own))
                    agree |= agreeing(dataset, node.agrees_on, with_own, place, *shift)
                rows[path + at] = agree
            if path in owners:  # rule 5: the donor of the node of that name
                rows[path + at] &= {own[owners[path] + at]}
        if node.rest is not None:  # rule 4: with the node's own input
            rows[f"{path}/rest"] = agreeing(dataset, node.rest, own[path])
    return rows


def places(path: str, rows: Mapping[str | None, int]) -> range:
    """The positions of a node with a slot for each."""
    return range(sum(slot is not None and slot.rpartition("/")[0] == path for slot in rows))


def reader(root: Node, path: str) -> str | None:
    """The node with whose own input a donor agrees: the parent, or of a donor that is shared the
    nearest node that reads all who take it (rule 5)."""
    owners, above = donor_owners(root), readers(root)
    owner = owners.get(path, path)
    takers = [owner, *(taker for taker, of in owners.items() if of == owner)]
    common = [node for node in above[path] if all(node in above[taker] for taker in takers)]
    return common[-1] if common else None


def agreeing(
    dataset: Dataset, on: Agreement, row: int, place: int | None = None,
    further: int = 0, positions: int = 1,
) -> set[int]:  # fmt: skip
    """Rule 2: the row itself, and every row among the donors that agrees with it; rule 7: at one
    position, where neither is padded, or with the donor so many positions further on, around the
    end, which its number tells: the row plus as many times the number of rows."""
    there = None if place is None else (place + further) % max(positions, place + 1)
    agree = np.full(len(dataset.donor_rows), not on.exact)
    for values in map(dataset.feature, on.features):  # none for ANYTHING: all agree
        is_one = place is None or values.ndim == 1
        own, theirs = (values, values) if is_one else (values[:, place], values[:, there])
        agree &= [np.all(theirs[donor] == own[row]) for donor in dataset.donor_rows]
    if place is not None and "attention_mask" in dataset.inputs:
        mask = dataset.inputs["attention_mask"].numpy() != 0
        agree &= mask[row, place] & mask[dataset.donor_rows, there]
    found = {*(dataset.donor_rows[agree] + further * len(dataset)).tolist()}
    return found if further else {row, *found}


def chance(root: Node, dataset: Dataset, swap_set: SwapSet, column: int) -> float:
    """Rule 5: the probability of one sample, a uniform reference with uniform donors."""
    own, rows = rows_of(swap_set, column), allowed(root, dataset, swap_set, column)
    of_donors = [(own[slot] in rows[slot]) / len(rows[slot]) for slot in swap_set.slots]
    return float(np.mean(dataset.reference_rows == own[None]) * np.prod(of_donors))


# What the network computes then -------------------------------------------------------------------


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
                longer = replace(meaning, network=network.after(said), prompt=prompt)
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
    places = {node.name: path for path, node, _ in node_paths(root) if not node.is_each}
    read = [rows[places.get(name)] for name in arguments_of("predicts=", function)]
    return np.asarray(function(*(FeatureValues(dataset, np.array([row])) for row in read)))[0]


@dataclass(frozen=True, eq=False)
class Claim:
    """What a node puts in place of an activation, or of the sum of several. Rule 7: the carrier is
    the row on whose sequence the value is computed."""

    node: Node
    carrier: int
    components: tuple[str, ...]
    value: Tensor


@dataclass(frozen=True)
class Meaning:
    """The value of every node for one reference, the rows in the slots being these; of texts that
    have more than that, `prompt` positions are swapped."""

    network: Network
    dataset: Dataset
    root: Node
    rows: Mapping[str | None, int]
    prompt: int | None = None

    def claims(self, path: str, node: Node) -> list[Claim]:
        """What a node hands to its parent."""
        if node.is_each:  # rule 7: what each donor gives where it is read
            at_each, given = places(path, self.rows), list[dict[str, Tensor]]()
            for at in at_each:
                further, row = divmod(self.rows[f"{path}/{at}"], len(self.dataset))
                values, there = self.network.run(row, {}).values, (at + further) % len(at_each)
                given.append({name: values[name][there] for name in node.components})
            each = {name: torch.stack([one[name] for one in given]) for name in node.components}
            return [Claim(node, -1, (name,), value) for name, value in each.items()]
        if node.edited is not None:  # rule 18: changed where it is read, and taken from nowhere
            return [Claim(node, -1, node.components, torch.empty(0))]
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
                if claim.components == (name,) and self.prompt is None:
                    now = self.blend(now, claim, row)
                elif claim.components == (name,):  # rule 20: nowhere after the prompt
                    prompt = self.blend(now[: self.prompt], claim, row)
                    now = torch.cat([prompt, now[self.prompt :]])
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
