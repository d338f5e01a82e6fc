"""`join(H, H')`: the hypothesis that claims both.

Its allowed swap sets are those that H and H' both allow. What only one of them claims is tied, by
the other, to the other's rest, so it becomes a condition on the rest's donor; where one has a leaf
and the other a tree below it, everything below is tied to the leaf's donor, and the leaf wins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial, reduce
from itertools import chain, product
from typing import Protocol

from pytest_scrub.errors import HypothesisError, located_at
from pytest_scrub.tree.nodes import (
    ANYTHING,
    EACH,
    EXACT,
    HEAD_SLOTS,
    PATTERN_SLOTS,
    Agreement,
    Node,
    is_attn,
    is_head,
    is_pattern,
    natural_key,
)
from pytest_scrub.tree.paths import donor_owners, node_paths, readers, with_changes
from pytest_scrub.tree.units import are_apart, shown, split

Edge = tuple[object, ...]


class KnowsHeads(Protocol):
    """A network as `load_model` gives it."""

    def heads_of(self, attention: str) -> Sequence[str]:
        """The heads of a layer's attention; none where it has no such layer."""
        ...


def join(
    first: Node | Agreement, second: Node | Agreement, *, model: KnowsHeads | None = None
) -> Node | Agreement:
    """The hypothesis that claims what both claim.

    **Arguments**

    - `first`, `second`: roots of trees, or `ANYTHING` (neutral) or `EXACT` (absorbing).
    - `model`: what `load_model` gives. Needed where one claims heads and the other `attn` of their
      layer, since trees do not know which heads that has.

    **Returns** a tree, or `EXACT` / `ANYTHING` where an operand forces it.

    **Raises** `HypothesisError` where both cannot be said in one tree: a node computed in two ways,
    a child read directly in one and along every path in the other, members of a group read into
    different slots, a donor that nodes apart from each other share where only one claims them.
    """
    if model is not None and not hasattr(model, "heads_of"):
        raise HypothesisError(
            f"model= of join is what load_model(...) gives, not a {type(model).__name__}"
        )
    if EXACT in (first, second):
        return EXACT
    if first == ANYTHING:
        return second
    if second == ANYTHING:
        return first
    if not isinstance(first, Node) or not isinstance(second, Node):
        other = second if isinstance(first, Node) else first
        raise HypothesisError(f"join takes hypotheses, EXACT or ANYTHING, not {other}")
    if first.components != second.components:
        raise HypothesisError(f"join takes two roots, not {first.component} and {second.component}")
    if first.predicts != second.predicts:
        with located_at(first, second):
            raise HypothesisError(
                "cannot join: the two predict different labels, or only one of them predicts any; "
                "let both have the same predicts= and rivals="
            )
    afar = _shared_afar(first) | _shared_afar(second)
    if not afar:
        return _join_nodes(first, second, model)
    one, other = (_sharing_none(root, _shared_afar(root)) for root in (first, second))
    return _sharing_afar(_join_nodes(one, other, model), (first, second), afar)


def _shared_afar(root: Node) -> dict[str, str]:
    """The nodes that take the donor of one that is no sibling, and that one, by path."""
    above = readers(root)
    return {path: of for path, of in donor_owners(root).items() if above[path] != above[of]}


def _sharing_none(root: Node, paths: Collection[str]) -> Node:
    return with_changes(
        root, lambda path, node: replace(node, shares=None) if path in paths else node
    )


def _sharing_afar(both: Node, of: Sequence[Node], afar: Mapping[str, str]) -> Node:
    """The joined tree in which nodes take the donors of nodes that are no siblings; whether what is
    above them settles what they agree on then is seen with the data."""
    nodes = {path: node for path, node, _ in node_paths(both)}
    for path, owner in afar.items():
        settled = [readers(root).keys() >= {path, owner} for root in (both, *of)]
        others = {_shared_afar(root).get(path, owner) for root in of}
        if not all(settled) or others != {owner} or nodes[path].shares is not None:
            raise HypothesisError(
                f"cannot join: {path} takes the donor of {owner} in only one of the hypotheses, or "
                "they are not the same two nodes in both; claim both nodes in both, under one name"
            )
        nodes[path] = replace(nodes[path], shares=nodes[owner].name)
    both = with_changes(both, lambda path, _: nodes[path])
    owners = {**{path: path for path in nodes}, **donor_owners(both)}
    agreed: dict[str, Agreement] = {}
    for path, node in nodes.items():
        if node.agrees_on is not None:
            agreed[owners[path]] = agreed.get(owners[path], ANYTHING) | node.agrees_on
    return with_changes(both, lambda path, node: _agreeing(node, agreed.get(owners[path])))


def _join_nodes(a: Node, b: Node, model: KnowsHeads | None) -> Node:
    """Two claims about the same edges; a donor that is shared is settled among the siblings."""
    with located_at(a, b):
        return _join_claims(a, b, model)


def _join_claims(a: Node, b: Node, model: KnowsHeads | None) -> Node:
    if a.edited != b.edited:
        raise HypothesisError(
            f"cannot join: {a.component} is edited in two ways, or only in one of the hypotheses"
        )
    if a.computed_by is not b.computed_by:
        raise HypothesisError(
            f"cannot join: {a.component} is computed by two different functions, or only by one"
        )
    # A root without a feature is the reference itself: as strict as EXACT.
    agrees_on = None if a.agrees_on is None or b.agrees_on is None else a.agrees_on | b.agrees_on
    node = replace(
        _agreeing(a, agrees_on),
        components=tuple(sorted({*a.components, *b.components}, key=natural_key)),
        into=a.into if a.into == b.into else None,
        # a donor from another position is allowed where both allow it
        pos=EACH if a.is_shifted != b.is_shifted else a.pos,
        shares=None,
        name=_joint_name(a, b),
    )
    if a.rest is None or b.rest is None:
        return replace(node, reads=(), rest=None)
    heads = _heads_to_tell(a, b, model)
    children, rest = _join_children(
        _in_heads(a, heads), _in_heads(b, heads), a.rest | b.rest, model
    )
    children = tuple(_as_attention(child, heads) for child in children)
    return replace(node, reads=children, rest=rest)


def _agreeing(node: Node, agrees_on: Agreement | None) -> Node:
    """**Raises** `HypothesisError` where the node is computed, and from other features than
    these."""
    if node.computed_by is not None and agrees_on != node.agrees_on:
        raise HypothesisError(
            f"cannot join: {node.component} is computed from its features, so both hypotheses must "
            "name the same ones"
        )
    return replace(node, agrees_on=agrees_on)


def _joint_name(a: Node, b: Node) -> str | None:
    if a.name == b.name:
        return a.name
    return "+".join(sorted({part for node in (a, b) if node.name for part in node.name.split("+")}))


def _edges(parent: Node, child: Node) -> frozenset[Edge]:
    """What a child claims of its parent, in the smallest pieces that the tree itself can tell
    apart."""
    above = parent.components[0]
    by_default = (
        HEAD_SLOTS if is_head(above) or is_attn(above)
        else PATTERN_SLOTS if is_pattern(above)
        else (None,)
    )  # fmt: skip

    def slots(component: str) -> tuple[str | None, ...]:
        if component == "mask" or is_pattern(component):
            return (component,)
        return by_default if child.into is None else (child.into,)

    return frozenset(
        (component, slot, EACH if child.is_each else child.pos, child.subspace)
        for component in child.components
        for slot in slots(component)
    )


def _join_children(
    a: Node, b: Node, rest: Agreement, model: KnowsHeads | None
) -> tuple[tuple[Node, ...], Agreement]:
    """The children claimed by both, and what their rest agrees on."""
    _refuse_unknown(a, b)
    children: list[Node] = []
    order = [*a.reads, *b.reads]
    claims = [
        (_edges(a, child) | _ties(parent, child), child)
        for parent in (a, b)
        for child in parent.reads
    ]
    # What claims a common edge, or shares a donor, in either hypothesis takes one donor together.
    for together in sorted(_connected(claims), key=lambda nodes: order.index(nodes[0])):
        blocks = _connected((_edges(a, child), child) for child in together)
        in_both = [block for block in blocks if _claimed(a, block) == _claimed(b, block)]
        nodes = [_join_block(a, block, model) for block in in_both]
        if in_both == blocks:
            children += _with_one_donor(nodes, blocks)
            continue
        for node in nodes:
            if not node.is_leaf:
                raise HypothesisError(
                    f"cannot join: {node.component} reads others, and shares its donor with a node "
                    "that only one of the hypotheses claims"
                )
        for child in together:
            if child.computed_by is not None:
                raise HypothesisError(
                    f"cannot join: {child.component} is computed by a function in only one "
                    "hypothesis"
                )
        rest = reduce(Agreement.__or__, (_feature(child) for child in together), rest)
    return tuple(children), rest


Heads = Mapping[str, tuple[str, ...]]
"""The heads of attentions, by name."""


def _heads_to_tell(a: Node, b: Node, model: KnowsHeads | None) -> Heads:
    """The attentions of which one claims all, and the other heads.

    **Raises** `HypothesisError` where nobody says which heads they have."""
    found: dict[str, tuple[str, ...]] = {}
    for first, second in ((a, b), (b, a)):
        for whole, part in product(first.reads, second.reads):
            edges = {edge[1:] for edge in _edges(a, whole)} & {edge[1:] for edge in _edges(a, part)}
            for attn, head in product(filter(is_attn, whole.components), part.components):
                if edges and is_head(head) and head.startswith(attn.replace("attn", "head") + "."):
                    found[attn] = tuple(() if model is None else model.heads_of(attn))
                    if model is None or head not in found[attn]:
                        raise HypothesisError(
                            f"cannot join: {attn} in one and {head} in the other; "
                            + (
                                "a tree does not know which heads a layer has, so give join(..., "
                                "model=load_model(...))"
                                if model is None
                                else f"the network has no {head}; claim one that it has"
                            )
                        )
    return found


def _in_heads(node: Node, heads: Heads) -> Node:
    """The node, where children that are an attention are all of its heads together."""

    def told(child: Node) -> Node:
        names = (heads.get(name, (name,)) for name in child.components)
        return replace(child, components=tuple(chain.from_iterable(names)))

    return replace(node, reads=tuple(map(told, node.reads))) if heads else node


def _as_attention(child: Node, heads: Heads) -> Node:
    """The same the other way round."""
    for attn, names in heads.items():
        if {*names} <= {*child.components}:
            others = {*child.components} - {*names}
            child = replace(child, components=tuple(sorted({*others, attn}, key=natural_key)))
    return child


def _refuse_unknown(a: Node, b: Node) -> None:
    """**Raises** `HypothesisError` where both claim what may be in part the same, by different
    names: a tree does not know which parts a network has."""
    for first, second in ((a, b), (b, a)):
        for whole, part in product(first.reads, second.reads):
            mine, other = _edges(a, whole), _edges(a, part)
            if {edge[1:] for edge in mine} & {edge[1:] for edge in other}:
                for one, two in product(whole.components, part.components):
                    if remedy := _unknown(one, two):
                        # two sets of units in one order, whatever that of the operands
                        names = sorted((one, two)) if split(one) and split(two) else (one, two)
                        shorter = " in one and ".join(map(shown, names))
                        raise HypothesisError(
                            f"cannot join: {shorter} in the other; a tree does not know {remedy}"
                        )
            slots = {edge[1] for edge in other}
            if is_pattern(whole.component) and slots & {*PATTERN_SLOTS, "mask"}:
                raise HypothesisError(
                    f"cannot join: {whole.component} in one, and in the other {part.label} into "
                    "what it is read in place of; put that under the pattern"
                )


def _unknown(one: str, other: str) -> str:
    """What a tree does not know of two components that may have parts in common, and what to do;
    empty where they are the same, or have none."""
    units, others = split(one), split(other)
    if units and one != other:
        is_whole = other == units[0].replace("neurons", "mlp")
        if is_whole or (others and others[0] == units[0] and not are_apart(units[1], others[1])):
            return "which units a place has, so name the same sets of them in both"
    (side, kind, layer), (there, what, at) = _named(one), _named(other)
    is_before = at is None or at < (layer or 0) or what == kind
    if kind == "stream" and one != other and side == there and is_before:
        return "what adds to a stream, so name the same in both"
    return ""


def _named(component: str) -> tuple[bool, str, int | None]:
    """Whether a component is an encoder's, its kind, and its layer, where it has one."""
    found = re.match(r"(encoder\.)?(?:cross\.)?([^\d\[]*)(\d+)?", component)
    assert found is not None  # of any text
    return bool(found[1]), found[2], None if found[3] is None else int(found[3])


def _claimed(parent: Node, block: list[Node]) -> frozenset[Edge]:
    """The edges that a hypothesis claims by the nodes of a block."""
    return frozenset[Edge]().union(
        *(_edges(parent, child) for child in block if child in parent.reads)
    )


def _ties(parent: Node, child: Node) -> frozenset[Edge]:
    """What a child has in common with the siblings that take the same donor, told apart by
    hypothesis."""
    name = child.shares or child.name
    is_shared = any(sibling.shares == name for sibling in parent.reads if name is not None)
    return frozenset({(id(parent), name)}) if is_shared else frozenset()


def _with_one_donor(nodes: list[Node], blocks: list[list[Node]]) -> list[Node]:
    """The node of each block, all with one donor: several blocks are only connected by a donor that
    is shared."""
    if len(nodes) == 1:
        return nodes
    shared = {child.shares for block in blocks for child in block} - {None}
    owners = [
        node
        for node, block in zip(nodes, blocks, strict=True)
        if shared & {child.name for child in block}
    ]
    # Not simply the first: joining is commutative.
    owner = min(
        owners, key=lambda node: (str(node.name), node.component, str(node.into), str(node.pos))
    )
    agrees_on = reduce(Agreement.__or__, (_feature(node) for node in nodes))

    def share(node: Node) -> Node:
        name = None if node.name == owner.name else node.name  # the owner's has to be its own
        return replace(_agreeing(node, agrees_on), shares=owner.name, name=name)

    return [
        replace(_agreeing(node, agrees_on), shares=None) if node is owner else share(node)
        for node in nodes
    ]


def _feature(node: Node) -> Agreement:
    assert node.agrees_on is not None  # only a root has none
    return node.agrees_on


def _join_block(parent: Node, block: list[Node], model: KnowsHeads | None) -> Node:
    """Children with common edges, as one node."""
    node = reduce(partial(_join_nodes, model=model), block)
    ways = {child.via for child in block}
    if "any" in ways and len(ways) > 1:
        raise HypothesisError(
            f"cannot join: {node.component} is read along every path in only one of the "
            "hypotheses; write the same via= in both"
        )
    if _edges(parent, node) != frozenset[Edge]().union(*(_edges(parent, child) for child in block)):
        raise HypothesisError(
            f"cannot join: {node.component} would be one node, but its members are read into "
            "different slots; claim them one by one"
        )
    return replace(node, via=next((via for via in sorted(filter(None, ways))), None))


def _connected(claims: Iterable[tuple[frozenset[Edge], Node]]) -> list[list[Node]]:
    """The nodes in groups connected by a common edge."""
    groups: list[tuple[frozenset[Edge], list[Node]]] = []
    for edges, node in claims:
        touching = [group for group in groups if group[0] & edges]
        groups = [group for group in groups if group not in touching]
        nodes = [earlier for _, members in touching for earlier in members]
        groups.append((edges.union(*(claimed for claimed, _ in touching)), [*nodes, node]))
    return [nodes for _, nodes in groups]
