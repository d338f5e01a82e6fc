"""Dictionaries at places of a network: what they add up to, what is refused, and that a changed one
is another network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pytest_scrub import (
    ANYTHING,
    EACH,
    EXACT,
    Dataset,
    Dictionary,
    Evaluator,
    HypothesisError,
    ModelError,
    ModuleGraph,
    Verdict,
    attn,
    check,
    edit,
    error,
    group,
    head,
    latents,
    mlp,
    module,
    output,
    stream,
    with_dictionaries,
)
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.network import as_graph
from pytest_scrub.network.encoders import Gated, Rectified, TopK
from pytest_scrub.network.graph import ModelGraph, Site
from pytest_scrub.power.mutants import mutants
from pytest_scrub.tree.nodes import Node
from tests.reference.families import AllFloat64
from tests.reference.generate import Architecture, build

D, Z, UNITS, ROWS, LAYERS = 8, 4, 20, 12, 2  # Z: of two heads together
MODEL = build(Architecture(n_layers=LAYERS, attn_only=False, norm="LN", n_ctx=4, seed=3)).bridge
TOKENS = np.random.default_rng(0).integers(0, 5, (ROWS, 4))
DATA = Dataset(TOKENS, labels=TOKENS[:, 0], label_pos=-1, features={"parity": TOKENS.sum(1) % 2})
PLACES = {
    "blocks.1.hook_resid_pre": (stream, 1),
    "blocks.1.hook_resid_post": (stream, 2),
    "blocks.0.hook_resid_mid": (lambda layer, **say: module(f"mid{layer}", **say), 0),
    "blocks.0.hook_attn_out": (attn, 0),
    "blocks.0.hook_mlp_out": (mlp, 0),
    "blocks.0.attn.hook_out": (attn, 0),
    "blocks.0.mlp.hook_out": (mlp, 0),
    "blocks.0.attn.hook_z": (attn, 0),
}
READS = {
    "own": {},
    "stream": {"reads": "blocks.0.hook_resid_mid"},
    "as the MLP has it": {"reads": "blocks.0.hook_mlp_in"},
    "normalised": {"reads": "blocks.0.mlp.hook_in"},
}


def dictionary(
    at: str = "blocks.1.hook_resid_pre", kind: str = "relu", **options: Any
) -> Dictionary:
    drawn = torch.Generator().manual_seed(1)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64)

    width = Z if at.endswith("hook_z") else D
    read: dict[str, Any] = {"W_enc": some(width, UNITS), "b_enc": some(UNITS)}
    rows, bias = some(UNITS, width), some(width)
    if kind == "gated":
        encoder: Rectified = Gated(**read, b_gate=some(UNITS), gain=some(UNITS).exp())
    elif kind == "topk":
        encoder = TopK(**read, k=3)
    else:
        encoder = Rectified(**read, threshold=some(UNITS).abs() if kind == "jumprelu" else None)
    return Dictionary(encoder, None, rows, bias, at=at, **options)


def values(graph: ModelGraph, *names: str) -> list[Tensor]:
    """The clean values of components on the first rows."""
    sites = [Site("value", (name,)) for name in names]
    found = graph.capture(sites, DATA.batch([0, 1, 2]))
    return [found[site] for site in sites]


@pytest.mark.parametrize("kind", ["relu", "jumprelu", "gated", "topk"])
@pytest.mark.parametrize("hook", PLACES)
def test_all_units_and_the_error_are_the_place(hook: str, kind: str) -> None:
    """Up to a constant, which belongs to nobody."""
    graph = with_dictionaries(MODEL, sae=dictionary(hook, kind))
    constructor, layer = PLACES[hook]
    first, second, left, place = values(
        graph, "sae[0:15]", "sae[15:20]", "sae.error", constructor(layer).component
    )
    off = first + second + left - place
    torch.testing.assert_close(off, off[0, 0].expand_as(off))
    assert first.std() > 0.1 < left.std()


@pytest.mark.parametrize("hook", PLACES)
@pytest.mark.parametrize("via", ["direct", "any"])
def test_swapping_all_units_and_the_error_is_swapping_the_place(hook: str, via: str) -> None:
    graph = with_dictionaries(MODEL, sae=dictionary(hook))
    constructor, layer = PLACES[hook]
    whole = output(constructor(layer, agrees_on=ANYTHING, via=via, name="it"))
    parts = output(group(["sae[0:20]", "sae.error"], agrees_on=ANYTHING, via=via, name="it"))
    one, other = (Evaluator(graph, DATA, claim) for claim in (whole, parts))
    swap_set = one.space.draw(40, np.random.default_rng(0))
    np.testing.assert_allclose(one.evaluate(swap_set), other.evaluate(swap_set), atol=1e-9)
    assert np.abs(one.evaluate(swap_set) - one.unscrubbed(swap_set.references)).max() > 0.01


@pytest.mark.parametrize("reads", READS)
def test_recomputed_units_are_those_of_a_run(reads: str) -> None:
    """A non-leaf all of whose input is that of one row is a leaf on this row."""
    graph = with_dictionaries(MODEL, tc=dictionary("blocks.0.hook_mlp_out", **READS[reads]))
    for node in (lambda **say: latents("tc", [1, 7, 12], **say), lambda **say: error("tc", **say)):
        leaf = output(node(agrees_on=EXACT, name="it"))
        read = output(
            node(agrees_on=EXACT, name="it", rest=EXACT, reads=[head(0, 0, agrees_on=EXACT)])
        )
        one, other = (Evaluator(graph, DATA, claim) for claim in (leaf, read))
        rows, paths = np.arange(ROWS), ("output/it", "output/rest")
        donors = np.stack([rows[::-1], rows])
        mine = one.space.swap_set(rows, donors[[one.space.paths.index(p) for p in paths]])
        every = {"output/it": rows[::-1], "output/rest": rows}
        theirs = np.stack([every.get(path, rows[::-1]) for path in other.space.paths])
        np.testing.assert_allclose(
            one.evaluate(mine), other.evaluate(other.space.swap_set(rows, theirs)), atol=1e-9
        )


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "layer": ({"at": "blocks.2.hook_resid_pre", "made_for": "a larger one"}, ""),
    "no such layer": (
        {"at": "blocks.3.hook_resid_pre", "made_for": "gpt2"},
        "sae stands at blocks.3.hook_resid_pre, which a network of 2 layers, counted from 0, does "
        "not have; it is of gpt2",
    ),
    "another MLP's input": (
        {"at": "blocks.0.hook_mlp_out", "reads": "blocks.1.hook_resid_mid"},
        "sae reads resid_mid.1, but stands at blocks.0.hook_mlp_out; a dictionary reads what",
    ),
    "an MLP's input": (
        {"at": "blocks.0.hook_attn_out", "reads": "blocks.0.hook_resid_pre"},
        "sae reads resid_pre.0, but stands at blocks.0.hook_attn_out",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_dictionaries_of_other_networks_are_refused(case: str) -> None:
    options, message = REFUSED[case]
    if not message:
        assert with_dictionaries(MODEL, sae=dictionary(**options))
        return
    with pytest.raises(ModelError, match=message):
        with_dictionaries(MODEL, sae=dictionary(**options))


@pytest.mark.parametrize(
    ("hook", "lacks"),
    [("hook_mlp_out", "MLPs"), ("mlp.hook_out", "MLPs"), ("hook_resid_mid", "stream between")],
)
def test_a_network_without_mlps_has_no_dictionary_of_one(hook: str, lacks: str) -> None:
    alone = build(Architecture(n_layers=LAYERS, attn_only=True, n_ctx=4)).bridge
    with pytest.raises(ModelError, match=f"2 layers, counted from 0, and no {lacks}.* not have"):
        with_dictionaries(alone, sae=dictionary(f"blocks.0.{hook}"))


def test_a_network_whose_blocks_are_parallel_has_no_stream_between() -> None:
    with AllFloat64():
        parallel = build(Architecture(kind="cohere", attn_only=False, d_head=4, n_ctx=4)).bridge
        with pytest.raises(ModelError, match="no stream between attention and MLP does not have"):
            with_dictionaries(parallel, sae=dictionary("blocks.0.hook_resid_mid"))


def test_the_stream_between_is_a_component_only_where_a_dictionary_stands_there() -> None:
    """Nothing else of a network changes: no search, mutant or picture has one more."""
    assert not any(name.startswith("mid") for name in as_graph(MODEL).parts)
    graph = with_dictionaries(MODEL, sae=dictionary("blocks.1.hook_resid_mid"))
    assert [name for name in graph.parts if name.startswith("mid")] == ["mid1"]
    assert graph.slots("mlp1", "sae[0]", False) == ("in",)
    assert not graph.slots("head1.0", "sae[0]", True)
    assert not graph.slots("sae[0]", "mlp1", True)
    assert graph.slots("sae[0]", "head1.0", False)


def test_widths_names_and_other_networks() -> None:
    narrow = Dictionary(torch.ones(4, 3), None, torch.ones(3, 4), at="blocks.0.hook_mlp_out")
    with pytest.raises(
        ModelError, match="sae reads 4 numbers and has rows of 4, but what stands at b"
    ):
        with_dictionaries(MODEL, sae=narrow)
    for taken in ("mlp0", "neurons1", "head", "stream"):
        with pytest.raises(ModelError, match=f"{taken} is what claims call something else"):
            with_dictionaries(MODEL, **{taken: dictionary()})
    with pytest.raises(
        ModelError, match=r"dictionaries stand at places of a transformer, as .* is not; claim"
    ):
        with_dictionaries(ModuleGraph(torch.nn.Linear(2, 2)), sae=dictionary())
    with AllFloat64():
        small = Architecture(kind="olmo2", n_layers=LAYERS, attn_only=False, n_heads=4)
        post_norm = build(small).bridge
        with pytest.raises(ModelError, match=r"normalises or scales what mlp0 adds; take a transc"):
            with_dictionaries(post_norm, clt=crossing())


def test_before_a_norm_of_what_is_added_and_after_it_are_two_places() -> None:
    """Both are what the network's own hooks of these names show."""
    with AllFloat64():
        small = Architecture(kind="gemma2", attn_only=False, d_head=4, score_cap=3.0, logit_cap=3.0)
        network = build(small).bridge
        every = torch.eye(D, dtype=torch.float64)
        at = {f"{kind}_{end}": f"blocks.0.{name}" for kind in ("attn", "mlp") for end, name in (
            ("added", f"hook_{kind}_out"), ("given", f"{kind}.hook_out"),
        )}  # fmt: skip
        # one unit for each direction, below and above zero, which give all of it
        both, rows = torch.cat([every, -every], 1), torch.cat([every, -every])
        own = {name: Dictionary(both, None, rows, at=hook) for name, hook in at.items()}
        graph = with_dictionaries(network, **own)
        (tokens,) = DATA.batch([0, 1, 2]).values()
        shown: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda value, hook: shown.update({name: value.clone()})

        network.run_with_hooks(tokens, fwd_hooks=[(hook, keep(n)) for n, hook in at.items()])
        found = values(graph, *(f"{name}[0:16]" for name in at))
        for name, mine in zip(at, found, strict=True):
            torch.testing.assert_close(mine, shown[name])
        assert not torch.allclose(shown["attn_added"], shown["attn_given"])


def test_a_norm_whose_weights_come_after_the_hook_is_refused() -> None:
    graph = with_dictionaries(
        MODEL, tc=dictionary("blocks.0.hook_mlp_out", reads="blocks.0.ln2.hook_normalized")
    )
    with pytest.raises(
        ModelError, match=r"tc reads blocks.0.ln2.hook_normalized, which differs by"
    ):
        graph.prove(DATA.batch([0, 1, 2]))


def test_codes_too_large_for_the_numbers_are_refused() -> None:
    own = dictionary()
    own.rows = own.rows * 1e14
    with pytest.raises(
        ModelError, match=r"does not give blocks.1.hook_resid_pre of .* back with its"
    ):
        with_dictionaries(MODEL, sae=own).prove(DATA.batch([0, 1, 2]))


CLAIMS: dict[str, tuple[Any, str]] = {
    "unit": (lambda: latents("sae", 20, agrees_on=EXACT), "sae has 20 units, 0 to 19, not 20"),
    "dictionary": (
        lambda: latents("saes", 1, agrees_on=EXACT),
        "the network has no component 'saes'; did you mean 'sae'",
    ),
    "error": (
        lambda: error("saes", agrees_on=EXACT),
        "the network has no component 'saes.error'; did you mean 'sae.error'",
    ),
    "no such dictionary": (
        lambda: latents("res1", 1347, agrees_on=EXACT),
        "no component 'res1'; with_dictionaries.model, res1=.... attaches a dictionary of that ",
    ),
    "no error of such a dictionary": (
        lambda: error("res1", agrees_on=EXACT),
        "component 'res1.error'; with_dictionaries.model, res1=....",
    ),
    "name": (
        lambda: latents("sae.x", 1, agrees_on=EXACT),
        "latents takes the name of a dictionary",
    ),
    "twice": (
        lambda: (latents("sae", [1, 2], agrees_on=EXACT), latents("sae", [2], agrees_on=EXACT)),
        r"claim the same edge into output twice, as sae\[2\] goes into both",
    ),
    "unit and place": (
        lambda: (latents("sae", [1], agrees_on=EXACT), stream(1, agrees_on=EXACT)),
        "claim the same edge into output twice, as embed goes into both",
    ),
    "error and what writes the place": (
        lambda: (error("sae", agrees_on=EXACT), head(0, 1, agrees_on=EXACT)),
        "claim the same edge into output twice",
    ),
    "cannot read": (
        lambda: head(0, 0, agrees_on=EXACT, reads=[latents("sae", 1, agrees_on=EXACT)]),
        r"head0.0 cannot read sae\[1\]",
    ),
}


@pytest.mark.parametrize("case", CLAIMS)
def test_claims_that_have_no_meaning_are_refused(case: str) -> None:
    make, message = CLAIMS[case]
    graph = with_dictionaries(MODEL, sae=dictionary())
    with pytest.raises(HypothesisError, match=message):
        claimed_by(graph, make())


def claimed_by(graph: ModelGraph, nodes: Node | tuple[Node, ...]) -> Evaluator:
    return Evaluator(graph, DATA, output(*(nodes if isinstance(nodes, tuple) else (nodes,))))


def test_units_beside_other_units_and_the_error_are_edges_of_their_own() -> None:
    graph = with_dictionaries(MODEL, sae=dictionary())
    claim = output(
        latents("sae", slice(0, 5), agrees_on="parity"),
        latents("sae", [7, 9], agrees_on=EXACT),
        error("sae", agrees_on=EXACT),
    )
    assert Evaluator(graph, DATA, claim)


def test_a_changed_dictionary_is_another_network() -> None:
    """Whatever was changed: figures, caches and counterexamples of the old one are not met."""
    own = dictionary(kind="gated")
    graph = with_dictionaries(MODEL, sae=own)
    before = graph.digest()
    assert before == with_dictionaries(MODEL, sae=dictionary(kind="gated")).digest()
    others = {
        "none": with_dictionaries(MODEL),
        "name": with_dictionaries(MODEL, other=own),
        "kind": with_dictionaries(MODEL, sae=dictionary()),
        "place": with_dictionaries(MODEL, sae=dictionary("blocks.1.hook_resid_post", "gated")),
    }
    assert len({before, *(other.digest() for other in others.values())}) == 5
    for _, tensor in own.tensors():
        store = ActivationStore(graph, DATA)
        claim = output(latents("sae", [3], agrees_on=ANYTHING), error("sae", agrees_on=ANYTHING))
        evaluator = Evaluator(graph, DATA, claim, store=store)
        evaluator.evaluate(evaluator.space.draw(5, np.random.default_rng(0)))
        assert not store.is_stale()
        with torch.no_grad():
            tensor[..., 3] += 0.5
        assert store.is_stale()
        assert graph.digest() != before
        graph, before = graph.rebuilt(), graph.rebuilt().digest()


class Own(torch.nn.Module):
    """A dictionary of somebody else, with tensors and a number that no list of weights has."""

    def __init__(self) -> None:
        super().__init__()
        self.W = torch.nn.Parameter(dictionary().rows.clone())
        self.held, self.threshold = {"b": torch.ones(UNITS, dtype=torch.float64)}, 0.5

    def encode(self, x: Tensor) -> Tensor:
        before = x @ self.W.T + self.held["b"]
        return before * (before > self.threshold)

    def decode(self, codes: Tensor) -> Tensor:
        return codes @ self.W


def test_a_changed_object_is_another_network() -> None:
    own = Own()
    graph = with_dictionaries(MODEL, sae=Dictionary.of(own, width=D, at="blocks.0.hook_mlp_out"))
    digests = {graph.digest()}
    weight, held = own.W, own.held["b"]
    changes = {
        "weight": lambda: weight.data[0, 0].add_(1),
        "what it holds": lambda: held[2].add_(1),
        "number": lambda: setattr(own, "threshold", 0.7),
    }
    for change in changes.values():
        store = ActivationStore(graph, DATA)
        assert not store.is_stale()
        change()
        assert store.is_stale()
        graph = graph.rebuilt()
        digests.add(graph.digest())
        torch.testing.assert_close(graph.dictionaries["sae"].rows, own.W.data)
        graph.prove(DATA.batch([0, 1]))
    assert len(digests) == 4


def test_mutants_are_about_other_units_that_are_as_often_active() -> None:
    own = dictionary()
    # half of the units are hardly ever active
    bias = own.encoder.b_enc.clone()
    bias[::2] -= 3.0
    bias[1::2] += 2.0
    rarely = Dictionary(0.2 * own.encoder.W_enc, bias, own.rows, own.bias, at=own.hook)
    graph = with_dictionaries(MODEL, sae=rarely)
    often = graph.bases["sae"].active(DATA.batch(range(ROWS)))
    assert often[1::2].min() > 2 * often[::2].max()
    x, _ = graph._standing[0].in_run(
        graph.transformer.capture(DATA.batch(range(ROWS)), ["resid_pre.1"])
    )
    assert often.tolist() == (rarely.encode(x) > 0).sum((0, 1)).tolist()
    claim = output(latents("sae", [1, 2, 5], agrees_on="parity", name="it"))
    made = mutants(graph, DATA, claim, None, np.random.default_rng(0))
    names = {one.hypothesis.reads[0].component for one in made.mutants if one.kind == "component"}
    assert len(names) == 3
    for name in names:
        units = graph.parts[name].units
        assert not {1, 2, 5} & {*units.tolist()}
        assert sum(unit % 2 for unit in units.tolist()) == 2


def test_pictures_call_units_by_their_names() -> None:
    graph = with_dictionaries(MODEL, sae=dictionary(names={3: "dogs", 7: "cats"}))
    claim = output(
        latents("sae", [3, 4, 7], agrees_on=EXACT), error("sae", agrees_on=EXACT),
        latents("sae", slice(8, 18), agrees_on=EXACT),
    )  # fmt: skip
    drawn = circuit_of(claim, graph)
    shown = {node.path: node.components[0] for node in drawn.nodes if node.parent}
    assert [*shown.values()] == ["sae[3 dogs, 4, 7 cats]", "sae.error", "sae[8:18]"]
    levels = {drawn.levels[node.level] for node in drawn.nodes if node.parent}
    assert levels == {"stream before layer 1"}


def test_units_that_are_never_active_are_said() -> None:
    own = dictionary()
    bias = own.encoder.b_enc.clone()
    bias[[2, 9]] = -1e6
    graph = with_dictionaries(
        MODEL, sae=Dictionary(own.encoder.W_enc, bias, own.rows, own.bias, at=own.hook)
    )

    def verdict(units: list[int]) -> Verdict:
        claim = output(latents("sae", units, agrees_on="parity"))
        return check(claim, graph, DATA, tolerance=1e6, adversary="report")

    dead, some = verdict([2, 9]), verdict([2, 3, 5, 7])
    assert dead.outcome == "untested"
    assert "sae[2,9] is never active: unit 2, 9 is zero on every row that was looked at" in str(
        dead
    )
    assert some.outcome != "untested"
    (x,) = graph.transformer.capture(DATA.batch(range(ROWS)), ["resid_pre.1"]).values()
    read = (x[:, -1] @ own.encoder.W_enc + bias > 0).any(0)  # at the last position
    silent = tuple(unit for unit in (2, 3, 5, 7) if not read[unit])
    assert [node.silent for node in some.nodes if not node.is_rest] == [silent]
    assert 2 in silent and len(silent) < 4  # noqa: PT018
    assert "parity (never active: 2" in str(some)


@pytest.mark.parametrize(("via", "pos"), [("direct", None), ("any", None), ("direct", EACH)])
def test_what_the_error_makes_up_for_is_said(via: str, pos: Any) -> None:
    """The others give all that stands there, so that the error is what one unit more adds, with the
    other sign: from one donor the two change nothing, whatever the unit knows."""
    every, drawn = torch.eye(D, dtype=torch.float64), torch.Generator().manual_seed(0)
    more = torch.randn(D, 1, generator=drawn, dtype=torch.float64)
    encoder, rows = torch.cat([every, -every, more], 1), torch.cat([every, -every, more.T])
    graph = with_dictionaries(
        MODEL, sae=Dictionary(encoder, None, rows, at="blocks.1.hook_resid_pre")
    )

    def verdict(**shares: str) -> Verdict:
        unit = latents("sae", 16, agrees_on="parity", name="unit", via=via, pos=pos)
        left = error("sae", agrees_on="parity", via=via, pos=pos, **shares)
        return check(output(unit, left, rest=EXACT), graph, DATA, tolerance=0.01)

    false, together = verdict(), verdict(shares="unit")
    assert false.outcome == "refuted"
    assert together.outcome == "untested"
    assert abs(together.gap.mean) < 1e-9
    unit, left = (node for node in together.nodes if not node.is_rest)
    assert (unit.made_up_by, left.made_up_by) == ((left.slot,), (unit.slot,))
    assert (
        f"untested:  what {unit.slot} changes is made up for by {left.slot}, swapped with it: "
        "together they add the same on every donor; give them donors of their own, or claim one of "
        "them alone"
    ) in str(together)
    assert f"parity (made up for by {unit.slot})" in str(together)
    assert all(not node.made_up_by for node in false.nodes)


# Units that write at several layers --------------------------------------------------------------


def crossing(layer: int = 0, part_of: str | None = "clt", rows: Tensor | None = None) -> Dictionary:
    """A layer of a cross-layer transcoder of the two layers that the network has."""
    drawn = torch.Generator().manual_seed(layer)

    def some(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn, dtype=torch.float64)

    read = some(D, UNITS), some(UNITS)
    rows = some(UNITS, LAYERS - layer, D) if rows is None else rows
    at = {"at": f"blocks.{layer}.hook_mlp_out", "reads": f"blocks.{layer}.hook_resid_mid"}
    return Dictionary(*read, rows, part_of=part_of if rows.ndim == 3 else None, **at)


@pytest.mark.parametrize("via", ["direct", "any"])
def test_a_unit_that_writes_at_several_layers_is_one_node(via: str) -> None:
    """Directly it is the sum of what it writes; along every path it is replaced at each, so that
    without later rows it is any transcoder's."""
    clt = crossing()
    rows = torch.cat([clt.rows[:, None], clt.later], 1)
    if via == "any":
        rows[:, 1:] = 0
    one = with_dictionaries(MODEL, clt=crossing(rows=rows))
    other = with_dictionaries(MODEL, clt=crossing(rows=rows.sum(1)))
    claim = output(latents("clt", slice(0, 8), agrees_on=ANYTHING, via=via))
    evaluators = [Evaluator(graph, DATA, claim) for graph in (one, other)]
    swap_set = evaluators[0].space.draw(40, np.random.default_rng(0))
    found = [evaluator.evaluate(swap_set) for evaluator in evaluators]
    np.testing.assert_allclose(*found, atol=1e-9)
    assert np.abs(found[0] - evaluators[0].unscrubbed(swap_set.references)).max() > 1e-3


def test_what_reads_only_some_layers_reads_what_was_written_there() -> None:
    clt = crossing()
    rows = torch.cat([clt.rows[:, None], clt.later], 1)
    other = rows.clone()
    other[:, 1:] = 0
    claim = output(head(1, 0, agrees_on=ANYTHING, reads=[latents("clt", 3, agrees_on=ANYTHING)]))
    evaluators = [
        Evaluator(with_dictionaries(MODEL, clt=crossing(rows=own)), DATA, claim)
        for own in (rows, other)
    ]
    swap_set = evaluators[0].space.draw(40, np.random.default_rng(0))
    assert np.array_equal(*(evaluator.evaluate(swap_set) for evaluator in evaluators))


CROSSING: dict[str, tuple[Any, str]] = {
    "error": (
        lambda: error("clt0", agrees_on=EXACT),
        "clt0 is a layer of a cross-layer transcoder, of which several leave something of an MLP "
        "together, so it has no error; claim mlp0",
    ),
    "subspace": (
        lambda: latents("clt0", 1, agrees_on=EXACT, subspace=torch.eye(D)[:, :2]),
        r"clt0\[1\] writes at several layers, and subspace= says of one activation what it is",
    ),
    "computed": (
        lambda: latents(
            "clt0", 1, agrees_on="parity", computed_by=lambda f: torch.zeros(len(f), D)
        ),
        r"clt0\[1\] writes at several layers, and computed_by= says",
    ),
    "edited": (
        lambda: edit(latents("clt0", 1), project_out=np.ones(D)),
        r"clt0\[1\] writes at several layers, and an edit changes one activation by its",
    ),
    "what it writes at": (
        lambda: (latents("clt0", 1, agrees_on=EXACT), mlp(1, agrees_on=EXACT)),
        "claim the same edge into output twice",
    ),
    "another's": (
        lambda: (latents("clt0", 1, agrees_on=EXACT), latents("other", 1, agrees_on=EXACT)),
        "claim the same edge into output twice",
    ),
    "twice": (
        lambda: (latents("clt0", [1, 2], agrees_on=EXACT), latents("clt0", 2, agrees_on=EXACT)),
        "claim the same edge into output twice",
    ),
}


@pytest.mark.parametrize("case", CROSSING)
def test_what_units_of_several_layers_cannot_mean(case: str) -> None:
    make, message = CROSSING[case]
    graph = with_dictionaries(MODEL, clt0=crossing(0), clt1=crossing(1), other=crossing(1, "o"))
    with pytest.raises((HypothesisError, ModelError), match=message):
        claimed_by(graph, make())


def test_units_of_two_layers_of_one_transcoder_are_two_edges() -> None:
    graph = with_dictionaries(MODEL, clt0=crossing(0), clt1=crossing(1))
    both = (latents("clt0", [1, 2], agrees_on=EXACT), latents("clt1", [1], agrees_on=EXACT))
    assert claimed_by(graph, both)
    unsaid = with_dictionaries(MODEL, clt0=crossing(0, None), clt1=crossing(1, None))
    with pytest.raises(HypothesisError, match="claim the same edge into output twice"):
        claimed_by(unsaid, both)


def test_a_transcoder_of_more_layers_is_refused() -> None:
    with pytest.raises(ModelError, match=r"has rows for 3 layers from .* but this network has no"):
        with_dictionaries(MODEL, clt=crossing(rows=torch.ones(UNITS, 3, D, dtype=torch.float64)))
    rows = torch.ones(UNITS, 2, D)
    with pytest.raises(ModelError, match=r"stands at blocks\.N\.hook_mlp_out and reads what that"):
        Dictionary(torch.ones(D, UNITS), None, rows, at="blocks.0.hook_resid_pre")


def test_later_rows_are_part_of_what_the_network_is() -> None:
    graphs = [
        with_dictionaries(MODEL, clt=crossing(rows=rows))
        for rows in (torch.ones(UNITS, 2, D), torch.ones(UNITS, 2, D))
    ]
    graphs[1].dictionaries["clt"].later[0, 0, 0] = 2
    assert graphs[0].digest() != graphs[1].digest()
