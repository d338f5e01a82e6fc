"""What the package says of every family, held against the network's own hooks.

Nothing is known beforehand: a family is read directly, along every path or not at all as the
package says when it is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from pytest_scrub import ANYTHING, Dataset, Metric, attn, head, mlp, module, output
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import ScrubError
from pytest_scrub.network import ModelGraph, as_graph
from pytest_scrub.swaps.slots import slots_of
from pytest_scrub.swaps.swap_set import SwapSet
from pytest_scrub.tree.nodes import Node
from tests.reference.family_hooks import FamilyHooks
from tests.reference.family_networks import HEADS, HIDDEN, ROWS, Family, twins

TOLERANCE = 1e-5  # of the output's largest value; many norms compute in float32
SEEN = 1e-3  # how much a swap has to change, or nothing would be compared
DIRECTLY, EVERY_PATH, REFUSED = "directly", "along every path", "refused"
FREE: dict[str, Any] = {"agrees_on": ANYTHING}
LOWER, UPPER = 1, 2  # heads of layers 0 and 1
PADDED = "padded"  # a head of a head on inputs with a hidden end
KEYS = "keys of a head"  # where keys are made by themselves
MODULE = "module"  # of networks without heads
UNSWAPPED = "clean"  # the output where nothing is swapped

Rows = Mapping[str, int]
Expected = Callable[[FamilyHooks, Rows], Tensor]


def _lower(**options: Any) -> Node:
    return head(0, LOWER, **FREE, name="child", **options)


# What claims are, and what they mean for one reference. Rows: of the output's rest, of the node's
# own input, of its rest and of its child.


def _clean(hooks: FamilyHooks, rows: Rows) -> Tensor:
    return hooks.run(rows["rest"])


# --- directly ---


def _leaf(hooks: FamilyHooks, rows: Rows, pos: int | None = None) -> Tensor:
    new = hooks.clean(rows["node"]).mixed[1]
    row = rows["rest"]
    return hooks.output_with(row, hooks.change_of_head(1, UPPER, row, new, pos))


def _below(hooks: FamilyHooks, rows: Rows) -> Tensor:
    """What a child in layer 0 changes where its parent's rest is read."""
    new = hooks.clean(rows["child"]).mixed[0]
    return hooks.change_of_head(0, LOWER, rows["node/rest"], new)


def _head_of_head(hooks: FamilyHooks, rows: Rows, slot: str | None = None) -> Tensor:
    new = hooks.head_with(1, rows["node/rest"], _below(hooks, rows), slot)
    return hooks.output_with(rows["rest"], hooks.change_of_head(1, UPPER, rows["rest"], new))


def _mlp(hooks: FamilyHooks, rows: Rows) -> Tensor:
    new = hooks.clean(rows["node"]).mlp[0]
    return hooks.output_with(rows["rest"], hooks.change_of_mlp(0, rows["rest"], new))


def _mlp_of_head(hooks: FamilyHooks, rows: Rows) -> Tensor:
    new = hooks.mlp_with(1, rows["node/rest"], _below(hooks, rows))
    return hooks.output_with(rows["rest"], hooks.change_of_mlp(1, rows["rest"], new))


def _attn(hooks: FamilyHooks, rows: Rows) -> Tensor:
    return hooks.output_with(rows["rest"], hooks.change_of_attn(0, rows["rest"], rows["node"]))


# --- along every path ---


def _any_head(
    hooks: FamilyHooks, rows: Rows, layer: int = 0, which: int = LOWER, pos: int | None = None
) -> Tensor:
    with hooks.head_replaced(layer, which, hooks.clean(rows["node"]).mixed[layer], pos):
        return hooks.run(rows["rest"])


def _any_head_of_head(hooks: FamilyHooks, rows: Rows) -> Tensor:
    with hooks.head_replaced(0, LOWER, hooks.clean(rows["child"]).mixed[0]):
        new = hooks.mixed_now(1, rows["node/rest"])
    with hooks.head_replaced(1, UPPER, new):
        return hooks.run(rows["rest"])


def _any_mlp(hooks: FamilyHooks, rows: Rows) -> Tensor:
    with hooks.replaced(0, hooks.wiring.mlp, hooks.clean(rows["node"]).mlp[0]):
        return hooks.run(rows["rest"])


def _any_mlp_of_head(hooks: FamilyHooks, rows: Rows) -> Tensor:
    with hooks.head_replaced(0, LOWER, hooks.clean(rows["child"]).mixed[0]):
        new = hooks.mlp_now(1, rows["node/rest"])
    with hooks.replaced(1, hooks.wiring.mlp, new):
        return hooks.run(rows["rest"])


def _any_attn(hooks: FamilyHooks, rows: Rows) -> Tensor:
    with hooks.attn_replaced(0, rows["node"]):
        return hooks.run(rows["rest"])


@dataclass(frozen=True)
class Claim:
    """A claim in both ways in which it may be read; None where it is not made so."""

    tree: Callable[[], Node]
    directly: Expected | None
    anywhere: Expected | None


def _node(make: Callable[..., Node], *at: int, **options: Any) -> Callable[[], Node]:
    return lambda: output(make(*at, **FREE, name="node", **options))


def _head_reading_a_head() -> Node:
    return output(head(1, UPPER, **FREE, name="node", reads=[_lower()]))


def claims_at(pos: int) -> dict[str, Claim]:
    """All of them, by the columns of the table; those at a position at this one."""
    return {
        UNSWAPPED: Claim(_node(head, 1, UPPER), _clean, _clean),
        "head": Claim(_node(head, 1, UPPER), _leaf, lambda h, r: _any_head(h, r, 1, UPPER)),
        "head of a head": Claim(_head_reading_a_head, _head_of_head, _any_head_of_head),
        KEYS: Claim(
            lambda: output(head(1, UPPER, **FREE, name="node", reads=[_lower(into="k")])),
            lambda h, r: _head_of_head(h, r, "k"),
            None,
        ),
        "MLP": Claim(_node(mlp, 0), _mlp, _any_mlp),
        "MLP of a head": Claim(
            lambda: output(mlp(1, **FREE, name="node", reads=[_lower()])),
            _mlp_of_head,
            _any_mlp_of_head,
        ),
        "attention": Claim(_node(attn, 0), _attn, _any_attn),
        PADDED: Claim(_head_reading_a_head, _head_of_head, _any_head_of_head),
        "every path": Claim(_node(head, 0, LOWER, via="any"), _any_head, _any_head),
        "position": Claim(
            _node(head, 1, UPPER, pos=pos),
            lambda h, r: _leaf(h, r, pos),
            lambda h, r: _any_head(h, r, 1, UPPER, pos),
        ),
        "every path, position": Claim(
            _node(head, 0, LOWER, pos=pos, via="any"),
            lambda h, r: _any_head(h, r, pos=pos),
            lambda h, r: _any_head(h, r, pos=pos),
        ),
    }


CLAIMS = claims_at(2)


def _mixer(family: Family) -> Claim:
    """What a network without heads has in their place, as a module."""
    path = _path(family)

    def replaced(hooks: FamilyHooks, rows: Rows) -> Tensor:
        with hooks.replaced(0, str(family.mixers), hooks.output_of(path, rows["node"])):
            return hooks.run(rows["rest"])

    return Claim(lambda: output(module(path, **FREE, name="node")), None, replaced)


def _path(family: Family) -> str:
    return f"{family.wiring.layers}.0.{family.mixers}"


@dataclass
class Examined:
    """What is said of a family.

    - `read`: `DIRECTLY`, `EVERY_PATH` or `REFUSED`; `why`: not directly, in the package's words.
    - `off`: by claim, how far an evaluation is from the network's own hooks, of its largest value.
    - `said`: by claim, the sentence that it is refused with.
    """

    read: str
    why: str = ""
    off: dict[str, float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)


def examine(
    family: Family, hooks: FamilyHooks | None = None, only: Collection[str] | None = None
) -> Examined:
    """Tries every claim on the family's network.

    **Arguments**

    - `hooks`: what it is held against; by default its own twin.
    - `only`: the claims that are tried; by default all.
    """
    model, twin = twins(family)
    inputs = family.inputs()
    hooks = hooks or FamilyHooks(twin, family.wiring, HEADS, inputs)
    claims = claims_at(family.pos)
    if family.mixers:
        claims = {MODULE: _mixer(family)}
    try:
        graph = as_graph(model)
        store = _store(graph, inputs)
    except ScrubError as error:
        return Examined(REFUSED, _sentence(error))
    found = Examined(DIRECTLY if graph.reads_directly else EVERY_PATH)
    if not graph.reads_directly:
        make, at = (module, (_path(family),)) if family.mixers else (head, (1, UPPER))
        found.why = _refusal(store, output(make(*at, **FREE, via="direct")))
    for name, claim in claims.items():
        expected = claim.directly if graph.reads_directly else claim.anywhere
        if expected is None or (name == KEYS and family.wiring.key is None):
            continue
        if only is not None and name not in only:
            continue
        if name == PADDED and family.reads != "tokens":
            continue
        try:
            if name == PADDED:
                given = inputs | {"attention_mask": family.mask()}
                there = FamilyHooks(twin, family.wiring, HEADS, given), _store(graph, given)
            else:
                there = hooks, store
            found.off[name] = _off(*there, claim.tree(), expected, name)
        except ScrubError as error:
            found.said[name] = _sentence(error)
    if not found.off:
        return Examined(REFUSED, next(iter(found.said.values())))
    return found


def off_where_hidden(family: Family, mask: Tensor) -> dict[str, float]:
    """By claim on all of a row, how far an evaluation is from the network's own hooks where inputs
    are hidden, of a family that is read directly."""
    model, twin = twins(family)
    given = family.inputs() | {"attention_mask": mask}
    store = _store(as_graph(model), given)
    assert store.graph.reads_directly
    hooks = FamilyHooks(twin, family.wiring, HEADS, given)
    claims = {name: claim for name, claim in CLAIMS.items() if name not in (PADDED, KEYS)}
    return {
        name: _off(hooks, store, claim.tree(), claim.directly, name)
        for name, claim in claims.items()
        if claim.directly is not None
    }


def _store(graph: ModelGraph, inputs: Mapping[str, Tensor]) -> ActivationStore:
    """Of inputs as the graph calls them; a lone one has no name."""
    if graph.reads_directly:
        inputs = {name.replace("input_ids", "tokens"): given for name, given in inputs.items()}
    data = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    return ActivationStore(graph, Dataset(data, labels=np.zeros(ROWS, dtype=int)))


def _refusal(store: ActivationStore, root: Node) -> str:
    try:
        Evaluator(store.graph, store.dataset, root, OUTPUT, store=store)
    except ScrubError as error:
        return _sentence(error)
    raise AssertionError("is read directly, though it says that it is not")


def _sentence(error: ScrubError) -> str:
    return str(error).splitlines()[0]


def _output(out: Tensor, batch: Any) -> Tensor:
    return out.flatten(1).sum(1)


OUTPUT = Metric("output", _output, None)


def _off(
    hooks: FamilyHooks, store: ActivationStore, root: Node, expected: Expected, claim: str
) -> float:
    """The largest difference over references with explicit donors, of the output's largest
    value; where inputs are hidden it is not looked at."""
    slots = tuple(slot.path for slot in slots_of(root))
    references = np.arange(ROWS)
    # every slot another row, and none the reference's own
    swaps, seen = claim != UNSWAPPED, slice(-HIDDEN if claim == PADDED else None)
    steps = [1 + nth if swaps else 0 for nth in range(len(slots))]
    donors = np.stack([(references + step) % ROWS for step in steps])
    swap_set = SwapSet(references, donors, slots, store.dataset.digest())
    evaluator = Evaluator(store.graph, store.dataset, root, OUTPUT, store=store)
    worst = 0.0
    for column, value in enumerate(evaluator.outputs(swap_set).double()):
        rows = {_short(slot): int(donors[nth, column]) for nth, slot in enumerate(slots)}
        theirs, unswapped = expected(hooks, rows)[seen], hooks.run(rows["rest"])[seen]
        scale = float(theirs.abs().max())
        if swaps and float((theirs - unswapped).abs().max()) < SEEN * scale:
            raise AssertionError("a swap changes too little to be compared")
        worst = max(worst, float((value[seen].view_as(theirs) - theirs).abs().max()) / scale)
    return worst


def _short(slot: str) -> str:
    """`output/node/child` is the child, `output/node/rest` the node's rest, `output/rest` the
    output's."""
    parts = [part.partition("[")[0].partition("@")[0] for part in slot.split("/")[1:]]
    return "/".join(parts) if parts[-1] == "rest" else parts[-1]


# As a page ----------------------------------------------------------------------------------------


def heading() -> list[str]:
    """The first lines of the docs' table."""
    columns = ["family", "class", "read", *CLAIMS]
    return [f"| {' | '.join(columns)} |", f"| {' | '.join(['---'] * len(columns))} |"]


def row(name: str, family: Family, found: Examined) -> str:
    """A line of the table."""
    cells = [_cell(found, claim) for claim in CLAIMS]
    if family.mixers and MODULE in {*found.off, *found.said}:
        cells[0] = f"`{family.mixers}`: {_cell(found, MODULE)}"
    return f"| {' | '.join([name, f'`{family.kind}`', found.read, *cells])} |"


def _cell(found: Examined, claim: str) -> str:
    """`right`, or by how much it is not; `no` where it is refused, nothing where it is not made."""
    if claim in found.off:
        off = found.off[claim]
        return "right" if off <= TOLERANCE else f"**off by {off:.0e}**"
    return "no" if claim in found.said else ""


def told(name: str, found: Examined) -> list[str]:
    """What the package says of a family that it does not read directly, or not in every way."""
    by_sentence: dict[str, list[str]] = {}
    for claim, said in found.said.items():
        by_sentence.setdefault(said, []).append(claim)
    lines = [f"- {name}, {found.read}: {found.why}"] if found.why else []
    lines += [f"- {name}, {', '.join(claims)}: {said}" for said, claims in by_sentence.items()]
    return lines
