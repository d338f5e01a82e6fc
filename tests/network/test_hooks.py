"""Transformers that are read along every path, by their own modules; `tests/whole` holds them
against each family's own hooks on random claims."""

from __future__ import annotations

import copy
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformer_lens.model_bridge.sources import build_bridge_from_module

from pytest_scrub import (
    EXACT,
    Dataset,
    Dictionary,
    check,
    group,
    head,
    latents,
    meaning,
    mlp,
    module,
    neurons,
    output,
    pattern,
    stream,
    with_dictionaries,
)  # fmt: skip
from pytest_scrub.engine.circuit import circuit_of
from pytest_scrub.engine.evaluator import Evaluator
from pytest_scrub.engine.explain import explain
from pytest_scrub.engine.store import ActivationStore
from pytest_scrub.errors import DataError, HypothesisError, ModelError
from pytest_scrub.metrics import Metric
from pytest_scrub.network import ResidualGraph, as_graph
from pytest_scrub.network.hooks import HookGraph
from pytest_scrub.network.transformer_lens import along_every_path, bridge_of
from pytest_scrub.power.mutants import mutants
from pytest_scrub.pytest_edge.session import Session
from pytest_scrub.swaps.swap_set import SwapSet
from tests.reference.families import AllFloat64
from tests.reference.generate import rotation
from tests.reference.generate_plain import COLUMNS, ROWS, hooked_graph
from tests.reference.hooked import FAMILIES, SMALL, built, ids, network
from tests.reference.latents import dictionary_of
from tests.sizes import few_in_quick, sized
from tests.whole.test_engine_against_reference import assert_same

TOTAL = Metric("total", lambda out, batch: out.flatten(1).abs().sum(1))
F: dict[str, Any] = {"agrees_on": "f"}
G: dict[str, Any] = {"agrees_on": "g"}


def data_for(family: str) -> Dataset:
    return Dataset(FAMILIES[family].inputs(), features=COLUMNS)


def refuses(kind: type[Exception], sentence: str) -> Any:
    return pytest.raises(kind, match=rf"^{re.escape(sentence)}(\nsaid at .*)?$")


def swapped(evaluator: Evaluator, columns: int = 4) -> SwapSet:
    return evaluator.space.draw(columns, np.random.default_rng(0))


@few_in_quick(3)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_is_what_the_familys_own_hooks_say(family: str) -> None:
    with AllFloat64():  # a softmax too
        every_part_is_what_the_familys_own_hooks_say(family)


def every_part_is_what_the_familys_own_hooks_say(family: str) -> None:
    plain = hooked_graph(family, 0)
    store, seen = plain.store, list[Tensor]()
    graph, data = store.graph, store.dataset
    for name in plain.above["output"]:
        # of a part, since a norm of all that another adds would give the same
        half = rotation(plain.shapes[name][-1])[:, ::2]
        root = output(group([name], subspace=half, **F), rest=EXACT)
        evaluator = Evaluator(graph, data, root, TOTAL, store=store)
        swaps = SwapSet([0, 3], [[0, 3], [2, 5]], evaluator.space.paths, data.digest())
        found = evaluator.outputs(swaps)
        theirs = torch.stack(meaning.outputs(plain.network, root, data, swaps, None))
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-8 * float(theirs.abs().max()))
        seen.append(found)
    assert len(torch.unique(torch.stack(seen), dim=0)) == len(seen)
    kinds = r"(\w+\.)?(head|attn|mlp|stream)[\d.]+"
    known = {name for name in graph.components if re.fullmatch(kinds, name)}
    of_places = {name for name in plain.above["output"] if not dictionary_of(name)}
    assert known == {name for name in of_places if "neurons" not in name}
    patterns = {name for name in graph.components if "pattern" in name}
    assert patterns == {name for name in plain.above if "pattern" in name}


@few_in_quick(1)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_pattern_is_what_the_familys_own_softmax_gives(family: str) -> None:
    with AllFloat64():
        plain = hooked_graph(family, 0)
        store, data = plain.store, plain.dataset
        for name in [name for name in plain.above if "pattern" in name]:
            below = module(name.replace("pattern", "head"), **F, reads=[module(name, **F)])
            evaluator = Evaluator(store.graph, data, output(below, rest=EXACT), TOTAL, store=store)
            swaps = evaluator.space.draw(4, np.random.default_rng(0))
            found = evaluator.outputs(swaps)
            theirs = meaning.outputs(plain.network, evaluator.hypothesis, data, swaps, None)
            torch.testing.assert_close(found, torch.stack(theirs), rtol=0, atol=1e-8)
            assert (found - evaluator.clean_outputs(swaps.references)).abs().max() > 1e-3, name


@pytest.mark.parametrize(
    ("root", "said"),
    [
        (
            output(head(1, 1, **F, reads=[pattern(1, 0, **F)])),
            "head1.1 cannot read pattern1.0: only head1.0 reads it; put it under that head",
        ),
        (output(pattern(1, 0, **F)), "output cannot read pattern1.0: only head1.0 reads it"),
        (
            output(head(1, 0, **F, reads=[pattern(1, 0, **F, pos="where")])),
            "pos= of a pattern means the same queries for all inputs, not those of column 'where'; "
            "give an int or a slice",
        ),
        (
            output(head(0, 0, **F, reads=[stream(1, **F)])),
            "head0.0 cannot read stream1, which is computed later or not at all before it",
        ),
        (output(stream(1, **F), head(0, 0, **F)), "claim the same edge into output twice"),
        (output(neurons(1, 3, **F), mlp(1, **F)), "claim the same edge into output twice"),
        (output(neurons(1, 99, **F)), "neurons1 has 10 units, 0 to 9, not 99"),
        (output(neurons(4, 0, **F)), "has no component 'neurons4'; it has neurons0 to neurons1"),
    ],
    ids=str,
)
def test_streams_patterns_and_neurons_are_refused_as_ever(root: Any, said: str) -> None:
    store = hooked_graph("BertModel", 0).store
    with pytest.raises(HypothesisError) as error:
        Evaluator(store.graph, store.dataset, root, TOTAL, store=store)
    assert said in str(error.value)


def sae(at: str, width: int = 8, **options: Any) -> Dictionary:
    """Of random numbers."""
    drawn = torch.Generator().manual_seed(0)
    read, rows = (torch.randn(8, width, generator=drawn, dtype=torch.float64) for _ in range(2))
    return Dictionary(read.T.clone(), None, rows, at=at, **options)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (
            sae("blocks.0.hook_mlp_out", reads="blocks.0.hook_resid_mid"),
            "reads resid_mid.0 and stands at blocks.0.hook_mlp_out, but of a network that is read "
            "along every path no hook is known to show both in one run; take an SAE",
        ),
        (
            sae("blocks.0.mlp.hook_out"),
            "is not known to be what mlp0 adds in a network that is read along every path; take",
        ),
        (sae("blocks.2.hook_attn_out"), "stands at blocks.2.hook_attn_out, which BertModel (along"),
        (
            sae("encoder_blocks.0.hook_resid_pre"),
            "which BertModel (along every path) does not have",
        ),
        (
            sae("blocks.1.hook_attn_out"),  # after a norm of the sum with the stream
            "stands at blocks.1.hook_attn_out, which shows something else than attn1, by",
        ),
        (
            sae("blocks.1.attn.hook_z", width=4),
            "reads 4 numbers and has rows of 4, but what stands at blocks.1.attn.hook_z of this",
        ),
        (
            sae("blocks.1.hook_resid_mid"),
            "stands at blocks.1.hook_resid_mid, which no module is known to hold in a network that",
        ),
    ],
    ids=range(7),
)
def test_dictionaries_that_no_place_of_a_run_has_are_refused(own: Dictionary, said: str) -> None:
    plain = hooked_graph("BertModel", 0)
    with AllFloat64(), pytest.raises(ModelError, match=re.escape(said)):
        with_dictionaries(plain.store.graph, own=own).prove(plain.dataset.inputs)


@pytest.mark.parametrize("family", ["BertModel", "Gemma2", "T5"])
def test_two_sets_of_units_and_the_error_from_three_donors(family: str) -> None:
    """Each changes its place by what it was there, whatever else is put in."""
    plain = hooked_graph(family, 0)
    for own in ("sae_stream1", "z_attn0"):
        sets = ([f"{own}[0:2]"], [f"{own}[3]"], [f"{own}.error"])
        beside = [head(0, 1, **F, pos=0)] if own == "z_attn0" else []
        where = {"pos": 1} if beside else {}
        root = output(*(group(some, **F, **where) for some in sets), *beside, rest=EXACT)
        with AllFloat64():
            evaluator = Evaluator(plain.store.graph, plain.dataset, root, TOTAL, store=plain.store)
            swaps = swapped(evaluator)
            theirs = meaning.outputs(plain.network, root, plain.dataset, swaps, None)
            assert_same(evaluator.outputs(swaps), theirs, 1e-9)


def test_names_that_such_a_network_will_have_are_no_dictionarys() -> None:
    network = built("BertModel", 1)[0]
    unproven = along_every_path(network, bridge_of(network), "of a test")
    for taken in ("neurons0", "stream1", "pattern", "encoder"):
        with pytest.raises(ModelError, match=f"{taken} is what claims call something else of a ne"):
            with_dictionaries(unproven, **{taken: sae("blocks.1.hook_resid_pre")})


def test_a_unit_that_is_never_active_is_said() -> None:
    plain = hooked_graph("BertModel", 0)
    own = sae("blocks.1.hook_resid_pre")
    encoder = own.encoder.W_enc.clone()
    encoder[:, 2] = 0  # whose code is zero whatever is read
    with AllFloat64():
        dead = Dictionary(encoder, None, own.rows, at=own.hook)
        graph = with_dictionaries(plain.store.graph, dead=dead)
        for units, silent in (([2], (2,)), ([2, 3], ())):
            claimed = output(latents("dead", units, **F), rest=EXACT)
            options: Any = {"tolerance": 1e6, "metric": TOTAL, "adversaries": ()}
            verdict = check(claimed, graph, plain.dataset, **options)
            assert [node.silent for node in verdict.nodes if not node.is_rest] == [silent]
            assert (verdict.outcome == "untested") == bool(silent)


def test_units_and_the_error_are_a_place_of_an_encoder() -> None:
    """Of a network with two stacks, whose hooks say which."""
    plain = hooked_graph("T5", 0)
    with AllFloat64():
        graph = with_dictionaries(
            plain.store.graph, own=sae("encoder_blocks.1.hook_resid_pre", names={3: "dogs"})
        )
        store = ActivationStore(graph, plain.dataset)
        whole = output(stream(1, of="encoder", **F, name="it"), rest=EXACT)
        parts = output(group(["own[0:8]", "own.error"], **F, name="it"), rest=EXACT)
        some = output(latents("own", [3], **F, name="it"), rest=EXACT)
        first, second, third = (
            Evaluator(graph, plain.dataset, root, TOTAL, store=store)
            for root in (whole, parts, some)
        )
        swaps = swapped(first)
        outputs = first.outputs(swaps)
        torch.testing.assert_close(second.outputs(swaps), outputs)
        assert not torch.allclose(third.outputs(swaps), outputs)
        assert not torch.allclose(third.outputs(swaps), third.clean_outputs(swaps.references))
        names = [node.components[0] for node in circuit_of(some, graph).nodes if node.parent]
        assert names == ["own[3 dogs]"]
        # another dictionary is another network, and a rebuilt one has its own
        assert graph.digest() != plain.store.graph.digest() == plain.store.graph.rebuilt().digest()
        assert graph.rebuilt().digest() == graph.digest()


def test_probabilities_that_nothing_shows_are_no_component() -> None:
    """Attention by some function of its own: the network says how to load it."""
    model = copy.deepcopy(built("BertModel", 0)[1])
    model.set_attn_implementation("sdpa")
    data = Dataset(ids("input_ids", 0), features=COLUMNS)
    graph = along_every_path(model, bridge_of(model), "of a test")
    known = graph._modules["encoder.layer.1.attention.self"]
    forward = known.forward

    def unseen(*given: Any, **named: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return forward(*given, **named)

    known.forward = unseen  # type: ignore[method-assign]
    try:
        root = output(head(1, 0, **F, reads=[pattern(1, 0, **F)]))
        with pytest.raises(ModelError) as error:
            Evaluator(graph, data, root, TOTAL)
    finally:
        del known.forward
    assert str(error.value) == (
        "BertModel (along every path) computes the probabilities of pattern1.0 where no hook sees "
        "them; load it with attn_implementation='eager'"
    )


# --- claims ---------------------------------------------------------------------------------------


def test_one_head_of_a_bert_at_one_position() -> None:
    data = Dataset(ids("tokens", 0)["tokens"], features=COLUMNS)
    bert, plain = built("BertModel", 0)
    root = output(head(1, 0, agrees_on="g", pos=2))
    evaluator = Evaluator(as_graph(bert), data, root, TOTAL)
    swaps = swapped(evaluator)
    with torch.no_grad():
        for column, (carrier, donor) in enumerate(zip(*swaps.donors.tolist(), strict=True)):
            projection = plain.get_submodule("encoder.layer.1.attention.output.dense")
            seen: list[Tensor] = []
            take = projection.register_forward_pre_hook(
                lambda _, given, to=seen: to.append(given[0])
            )
            plain(data.inputs["tokens"][[donor]])
            take.remove()

            def put(_: Any, given: Any, new: Tensor = seen[0]) -> Any:
                mixed = given[0].clone()
                mixed[:, 2, :4] = new[:, 2, :4]
                return (mixed,)

            handle = projection.register_forward_pre_hook(put)
            expected = plain(data.inputs["tokens"][[carrier]]).last_hidden_state[0]
            handle.remove()
            found = evaluator.outputs(swaps[column : column + 1])[0]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    verdict = check(root, bert, data, metric=TOTAL, tolerance=1e-9, samples=100)
    assert verdict.model == "BertModel (along every path)"


def test_positions_count_in_the_sequence_that_a_component_belongs_to() -> None:
    inputs = {**ids("input_ids", 0, 5), **ids("decoder_input_ids", 1, 3)}
    data, (model, _) = Dataset(inputs, features=COLUMNS), built("T5", 0)
    root = output(
        head(0, 1, of="encoder", pos=4, **G), head(1, 0, of="cross", pos=2, **G), head(0, 0, **G)
    )
    evaluator = Evaluator(as_graph(model), data, root, TOTAL)
    swaps = swapped(evaluator)
    theirs = meaning.outputs(network("T5", 0, data), root, data, swaps, None)
    torch.testing.assert_close(evaluator.outputs(swaps), torch.stack(theirs), rtol=0, atol=1e-8)
    assert evaluator.space.paths == (
        "output/rest",
        "output/encoder.head0.1@4",
        "output/cross.head1.0@2",
        "output/head0.0",
    )
    for of in (None, "cross"):
        with pytest.raises(DataError, match="is 4, but positions go from -3 to 2"):
            Evaluator(as_graph(model), data, output(head(0, 1, of=of, pos=4, **F)), TOTAL)


def test_a_decoder_reads_the_encoder_and_not_the_other_way_round() -> None:
    graph = as_graph(built("T5", 0)[0])
    ActivationStore(graph, data_for("T5"))
    assert graph.slots("head0.0", "encoder.head1.1", True) == ("in",)
    assert graph.slots("encoder.head1.1", "head0.0", True) == ()
    assert graph.slots("head1.0", "head1.1", True) == ()  # computed together
    assert graph.slots("cross.head1.0", "head1.1", True) == ("in",)
    assert graph.slots("attn1", "head1.1", True) == ("in",)


def test_a_claim_that_needs_direct_reading_is_told_what_does_not_sum() -> None:
    model = transformers.BertModel(transformers.BertConfig(**SMALL)).eval()
    graph, data = as_graph(model), data_for("BertModel")
    why = "since TransformerLens knows the base of BertModel only"
    with refuses(
        HypothesisError,
        "output/head0.0: components of BertModel (along every path) are always read along every "
        f"path, {why}; leave via= out",
    ):
        Evaluator(graph, data, output(head(0, 0, via="direct", **F)), TOTAL)
    below = head(1, 0, reads=[head(0, 0, into="k", **F)], **F)
    with refuses(
        HypothesisError,
        "output/head1.0/head0.0[k]: head1.0 reads head0.0 in one way only, without into=, "
        f"{why}, not into='k'",
    ):
        Evaluator(graph, data, output(below), TOTAL)
    evaluator = Evaluator(graph, data, output(head(0, 0, **F)), TOTAL)
    assert str(explain(evaluator)).endswith(f"everything is read along every path, {why}")


def test_kin_and_pictures_are_those_of_a_transformer() -> None:
    graph, data = as_graph(built("T5", 0)[0]), data_for("T5")
    root = output(mlp(1, of="encoder", **G), head(1, 0, **G))
    ActivationStore(graph, data)
    found = mutants(graph, data, root, None, np.random.default_rng(0), 1000).mutants
    new = {
        node.component
        for mutant in found
        if mutant.kind == "component"
        for node in mutant.hypothesis.reads
    } - {"encoder.mlp1", "head1.0"}
    assert new <= {n for n in graph.components if re.fullmatch(r"(\w+\.)?(head|mlp)[\d.]+", n)}
    kinds = {re.sub(r"[\d.]+$", "", name).rpartition(".")[2] for name in new}
    assert kinds == {"head", "mlp"}
    levels = circuit_of(root, graph).levels
    assert levels.index("encoder mlp 1") < levels.index("attention 1")


def test_an_attention_and_one_of_its_heads_are_the_same_edge() -> None:
    graph, data = as_graph(built("BertModel", 0)[0]), data_for("BertModel")
    with pytest.raises(HypothesisError, match="claim the same edge into output twice"):
        Evaluator(graph, data, output(head(0, 1, **F), module("attn0", **G)), TOTAL)
    with pytest.raises(HypothesisError, match=r"both hold head0.1"):
        Evaluator(graph, data, output(group(["attn0", "head0.1"], **F)), TOTAL)
    Evaluator(graph, data, output(head(0, 1, **F), module("attn1", **G)), TOTAL)


# --- which networks -------------------------------------------------------------------------------


def llama() -> Any:
    config = {**SMALL, "num_key_value_heads": 1, "vocab_size": 12}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).eval()


def test_what_does_not_sum_is_seen_before_there_are_data() -> None:
    assert isinstance(as_graph(llama()), ResidualGraph)
    bent = llama()
    handle = bent.model.layers[0].register_forward_hook(lambda _, given, out: out * 1.5)
    graph = as_graph(bent)
    assert isinstance(graph, HookGraph)
    assert re.match(
        r"TransformerBridge \(LlamaForCausalLM\): the stream before layer 1 differs from the "
        r"network's own by .* of its scale",
        str(graph.indirect),
    )
    data = Dataset(ids("tokens", 0)["tokens"], features=COLUMNS)
    evaluator = Evaluator(graph, data, output(head(0, 1, **G), rest=EXACT), TOTAL)
    assert np.abs(evaluator.evaluate(swapped(evaluator))).min() > 0
    handle.remove()
    assert isinstance(as_graph(bent), ResidualGraph)


def test_a_hook_on_a_network_that_a_bridge_is_in_already_is_not_lost() -> None:
    model, rows = llama(), torch.arange(9).view(3, 3)
    assert isinstance(as_graph(model), ResidualGraph)
    handle = model.model.layers[0].register_forward_hook(lambda _, given, out: out * 1.5)
    with torch.no_grad():
        bent = model(rows).logits
    for _ in range(2):
        graph = as_graph(model)
        assert isinstance(graph, HookGraph)
        torch.testing.assert_close(graph.run({"tokens": rows}), bent)
    handle.remove()
    graph = as_graph(model)
    assert isinstance(graph, ResidualGraph)
    with torch.no_grad():
        assert float((graph.run({"tokens": rows}) - bent).abs().max()) > 1e-3


def test_a_network_whose_base_is_known_is_read_with_its_own_head() -> None:
    config = transformers.BertConfig(**SMALL, num_labels=3)
    model = transformers.BertForSequenceClassification(config).eval()
    data = Dataset(
        {**ids("input_ids", 0), "attention_mask": torch.ones(ROWS, 3).long()}, features=COLUMNS
    )
    with torch.no_grad():
        clean = model(**data.inputs).logits
    for _ in range(2):  # a second graph is as good as the first
        graph = as_graph(model)
        torch.testing.assert_close(graph.run(data.inputs), clean)
        evaluator = Evaluator(graph, data, output(head(1, 1, pos=0, **G)), TOTAL)
        assert evaluator.outputs(swapped(evaluator)).shape == (4, 3)


def wav2vec2() -> Any:
    """Its convolution's weights are computed by a list of modules of torch's own."""
    convolutions = {"conv_dim": (8, 8), "conv_stride": (5, 2), "conv_kernel": (10, 3)}
    positions = {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2}
    sizes = {**SMALL, **convolutions, **positions, "num_feat_extract_layers": 2}
    return transformers.Wav2Vec2ForCTC(transformers.Wav2Vec2Config(**sizes))


def granite_hybrid() -> Any:
    """Has no rotation, without which TransformerLens's bridge cannot be run."""
    mamba = {"mamba_n_heads": 4, "mamba_d_head": 4, "mamba_d_state": 4, "mamba_expand": 2}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "shared_intermediate_size": 8}
    sizes = {**SMALL, **mamba, **experts, "layer_types": ["attention", "mamba"]}
    config = transformers.GraniteMoeHybridConfig(**sizes, position_embedding_type=None)
    model = transformers.GraniteMoeHybridForCausalLM(config)
    model.set_experts_implementation("eager")  # others have no kernel for sizes as small
    return model


UNWRAPPED: dict[str, Any] = {
    "BertModel": (lambda: FAMILIES["BertModel"].make(transformers), FAMILIES["BertModel"].inputs),
    "T5": (lambda: FAMILIES["T5"].make(transformers), FAMILIES["T5"].inputs),
    "Wav2Vec2": (wav2vec2, lambda: {"input_values": torch.arange(600.0).sin().view(3, 200)}),
    "Granite, hybrid": (granite_hybrid, lambda: {"input_ids": torch.arange(9).view(3, 3)}),
}


@pytest.mark.parametrize("family", UNWRAPPED)
def test_nothing_of_a_bridge_is_left_in_a_network_that_is_read_along_every_path(
    family: str,
) -> None:
    make, inputs = UNWRAPPED[family]
    model = make().eval()

    def said() -> list[Any]:
        return [(type(m), m.training, "forward" in vars(m)) for m in model.modules()]

    def out() -> Tensor:
        with torch.no_grad():
            found: Tensor = model(**inputs())[0]
            return found

    before, clean, sources = said(), out(), set[str | None]()
    for _ in range(2):
        sources.add(as_graph(model).indirect)
        assert said() == before
        assert torch.equal(out(), clean)
    assert len(sources) == 1


RESNET: dict[str, Any] = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1]}
CLIP: dict[str, Any] = {"text_config": {**SMALL}, "vision_config": {**SMALL, "image_size": 8}}
UNREAD: dict[str, Any] = {
    "cannot wrap this ResNetModel (": lambda: transformers.ResNetModel(
        transformers.ResNetConfig(**RESNET, layer_type="basic")
    ),
    # has no embedding of tokens alone, and nothing limits how many there are
    "does not know CLIPModel (": lambda: transformers.CLIPModel(transformers.CLIPConfig(**CLIP)),
    "does not know XLNetLMHeadModel (": lambda: transformers.XLNetLMHeadModel(
        transformers.XLNetConfig(vocab_size=12, d_model=8, n_layer=1, n_head=2, d_inner=8)
    ),
}


@pytest.mark.parametrize("said", UNREAD)
def test_what_transformer_lens_fails_on_is_refused_with_what_to_use(said: str) -> None:
    start = re.escape(f"TransformerLens {said}")
    with pytest.raises(ModelError, match=rf"^{start}.+\); for claims .* ModuleGraph\(model\)$"):
        as_graph(UNREAD[said]().eval())


def test_a_network_that_nothing_shows_its_bridge_to_be_is_not_read_directly() -> None:
    """It cannot be run on tokens alone, on which the two are compared."""
    model = llama()
    model.register_forward_pre_hook(needs_a_mask_of_ones, with_kwargs=True)
    graph = as_graph(model)
    assert isinstance(graph, HookGraph)
    why = "it cannot be run on a few tokens alone (RuntimeError)"
    assert graph.indirect == f"nothing shows that its bridge is this LlamaForCausalLM: {why}"


def needs_a_mask_of_ones(_: nn.Module, given: Any, named: dict[str, Any]) -> None:
    if not named.get("attention_mask", torch.ones(1)).all():
        raise RuntimeError


def test_outputs_without_a_tensor_of_interest_are_said_once() -> None:
    model = transformers.BertForQuestionAnswering(transformers.BertConfig(**SMALL)).eval()
    data = Dataset({"input_ids": ids("input_ids", 0)["input_ids"]}, features=COLUMNS)
    with refuses(
        ModelError,
        "BertForQuestionAnswering (along every path) returns QuestionAnsweringModelOutput, not a "
        "tensor; say which with ModuleGraph(module, output=...)",
    ):
        ActivationStore(as_graph(model), data)


def test_a_bridge_that_is_given_is_read_with_its_own_modules() -> None:
    model = transformers.BertForMaskedLM(transformers.BertConfig(**SMALL)).double().eval()
    data = Dataset(ids("tokens", 0)["tokens"], features=COLUMNS)
    root, found = output(head(0, 1, pos=1, **G), mlp(1, **G), rest=EXACT), []
    bridge = build_bridge_from_module(
        copy.deepcopy(model), architecture="BertForMaskedLM", hf_config=model.config
    ).eval()
    for network_ in (model, bridge):
        evaluator = Evaluator(as_graph(network_), data, root, TOTAL)
        found.append(evaluator.evaluate(swapped(evaluator)))
    np.testing.assert_allclose(*found, rtol=1e-9)


def test_sixteen_bits_do() -> None:
    model = transformers.BertModel(transformers.BertConfig(**SMALL)).eval().bfloat16()
    data = Dataset(ids("tokens", 0)["tokens"], features=COLUMNS)
    evaluator = Evaluator(as_graph(model), data, output(head(0, 1, **F)), TOTAL)
    assert np.isfinite(evaluator.evaluate(swapped(evaluator))).all()


def test_gradients_are_those_of_what_is_gathered() -> None:
    data, (model, _) = data_for("BertModel"), built("BertModel", 0)
    root = output(head(0, 1, name="a", **G), mlp(0, name="b", **G), rest=EXACT)
    evaluator = Evaluator(as_graph(model), data, root, Metric("sum", lambda out, _: out[:, 2, 1]))
    swaps = swapped(evaluator)
    slopes = {evaluator.space.paths[s.slot]: s.gradient for s in evaluator.slopes(swaps)}
    assert set(slopes) == {"output/a", "output/b"}
    assert all(float(slope.abs().max()) > 0 for slope in slopes.values())


# --- bad input ------------------------------------------------------------------------------------


def test_inputs_are_the_networks_own() -> None:
    model = built("T5", 0)[0]
    data = Dataset({**FAMILIES["T5"].inputs(), "atention_mask": torch.ones(ROWS, 3)})
    with refuses(
        ModelError,
        "T5ForConditionalGeneration (along every path) takes no input 'atention_mask'; did you "
        "mean 'attention_mask'?; rename the inputs of the dataset",
    ):
        ActivationStore(as_graph(model), data)
    with pytest.raises(ModelError) as caught:
        ActivationStore(as_graph(model), Dataset(ids("tokens", 0)["tokens"]))
    assert str(caught.value).startswith(
        "T5ForConditionalGeneration (along every path) cannot be run on a row of the inputs tokens "
        "alone: "
    )


def test_rows_that_it_cannot_be_run_on_are_refused_with_what_it_says() -> None:
    config = transformers.BertConfig(**SMALL, max_position_embeddings=4)
    model, known = transformers.BertModel(config).eval(), config.vocab_size
    said = {
        "BertModel (along every path) cannot be run on a row of the inputs input_ids alone: The "
        "expanded size of the tensor (5) must match": torch.zeros(2, 5).long(),
        f"input 'input_ids' holds the token id {known} on row 1, but the network knows {known} "
        "tokens": torch.tensor([[0], [known]]),
        "input 'input_ids' holds float32 numbers, but": torch.zeros(2, 3),
    }
    for sentence, rows in said.items():
        with pytest.raises(ModelError, match=f"^{re.escape(sentence)}"):
            ActivationStore(as_graph(model), Dataset({"input_ids": rows}))


@pytest.mark.parametrize("scaled", sized([True], [True, False]))
def test_token_ids_are_those_that_are_looked_up(scaled: bool) -> None:
    """BART's embedding of positions is called with tokens, of which it reads the shape."""
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "d_model": 8, "max_position_embeddings": 4}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "scale_embedding": scaled}
    config = transformers.BartConfig(**sizes, **heads, vocab_size=30, decoder_start_token_id=0)
    model = transformers.BartForConditionalGeneration(config).eval()
    rows = torch.arange(24, 30).view(2, 3)
    ActivationStore(as_graph(model), Dataset({"input_ids": rows, "decoder_input_ids": rows}))
    too_high = Dataset({"input_ids": rows, "decoder_input_ids": rows + 1})
    with pytest.raises(
        ModelError,
        match="'decoder_input_ids' holds the token id 30 on row 1, but the network knows 30",
    ):
        ActivationStore(as_graph(model), too_high)


def test_a_module_under_another_name_is_claimed_once() -> None:
    graph, data = as_graph(built("BertModel", 0)[0]), data_for("BertModel")
    name = "encoder.layer.0.output.dense"
    with refuses(ModelError, f"module {name!r} is mlp0; claim it under that name"):
        Evaluator(graph, data, output(module(name, **F)), TOTAL)
    evaluator = Evaluator(graph, data, output(module("encoder.layer.0", **F)), TOTAL)
    assert evaluator.space.paths[1] == "output/encoder.layer.0"
    with pytest.raises(HypothesisError, match=r"no component 'head2.0'; it has head0.0 to head1.1"):
        Evaluator(graph, data, output(head(2, 0, **F)), TOTAL)


# --- what sums on a few tokens and not on the data ------------------------------------------------


def bent_beyond(positions: int) -> Any:
    """A Llama whose first layer adds something of its own to inputs that are longer."""

    def bend(_: Any, given: Any, out: Tensor) -> Tensor:
        return out * 1.5 if out.shape[1] > positions else out

    model = llama()
    model.model.layers[0].register_forward_hook(bend)
    return model


def tokens_of(length: int, rows: int = 30) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 12, (rows, length), generator=generator)
    return Dataset(tokens, features={"g": tokens[:, 0] % 2})


SUM = Metric("sum", lambda out, batch: out.flatten(1).sum(1))
WHY = (
    r"on the dataset's rows TransformerBridge \(LlamaForCausalLM\): the stream before layer 1 "
    r"differs from the network's own by \S+ of its scale, so this network is not the sum of parts "
    "that a claim needs"
)


def judged_as(model: Any, data: Dataset, root: Any, session: Session) -> Any:
    return session.check(
        root, model=model, data=data, metric=SUM, tolerance=1e9, samples=50, name="claim"
    )


@pytest.mark.parametrize("loaded", [False, True], ids=["model", "graph"])
def test_what_does_not_sum_on_the_data_alone_is_read_along_every_path(loaded: bool) -> None:
    model, session = bent_beyond(8), Session({"effort": "none"})
    given = as_graph(model) if loaded else model
    short, long = tokens_of(6), tokens_of(10)
    direct, anywhere = output(head(0, 1, **G)), output(head(0, 1, via="any", **G))
    found = {}
    for _ in range(2):  # whichever comes first, each has what is its own
        for data in (short, long):
            verdict = judged_as(given, data, direct, session)
            found.setdefault(id(data), []).append(verdict)
            assert (verdict.scrubbed == judged_as(given, data, anywhere, session).scrubbed) == (
                data is long
            )
    for verdict, again in found.values():
        assert verdict.scrubbed == again.scrubbed
        assert verdict.model_digest == again.model_digest
    assert found[id(short)][0].indirect is None
    assert found[id(short)][0].model == "TransformerBridge (LlamaForCausalLM)"
    said = found[id(long)][0]
    assert said.model == "LlamaForCausalLM (along every path)"
    assert re.fullmatch(WHY, str(said.indirect))
    assert f"1 claim read along every path, since {said.indirect}" in str(said)
    with torch.no_grad():  # and what is read is the network with what its user hung on it
        clean = model(long.inputs["tokens"]).logits.flatten(1).sum(1).double()
    evaluator = session.evaluator(direct, SUM, model=given, data=long)
    np.testing.assert_allclose(evaluator.unscrubbed(np.arange(30)), clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("judge", [check, Session({}).check], ids=["check", "session"])
def test_a_claim_that_needs_direct_reading_is_told_what_does_not_sum_on_the_data(
    judge: Any,
) -> None:
    model, data = bent_beyond(8), tokens_of(10)
    for root, sentence in {
        output(head(0, 1, via="direct", **G)): "output/head0.1: components of LlamaForCausalLM "
        r"\(along every path\) are always read along every path, since " + WHY,
        output(head(1, 1, reads=[head(0, 1, into="k", **G)], **G)): "output/head1.1/head0.1"
        r"\[k\]: head1.1 reads head0.1 in one way only, without into=, since " + WHY,
    }.items():
        with pytest.raises(HypothesisError, match=sentence):
            judge(root, model=model, data=data, metric=SUM, tolerance=1e9, samples=50)


@pytest.mark.parametrize(("length", "rows"), [(2, 16), (5, 13), (32, 2), (200, 2)])
def test_the_proof_runs_no_more_rows_than_settle_it(length: int, rows: int) -> None:
    """As many different ones as have 64 tokens, two at least and sixteen at most."""
    tokens = tokens_of(length, 60).inputs["tokens"]
    twice = tokens.repeat_interleave(2, 0)
    seen = as_graph(llama()).proof_rows({"tokens": twice})
    assert len(seen) == len({tuple(row.tolist()) for row in twice[list(seen)]}) == rows


def test_of_many_short_rows_those_that_are_padded_are_proved_too() -> None:
    inputs = tokens_of(3, 60).inputs
    visible = torch.ones_like(inputs["tokens"])
    visible[50, -1:], visible[55, -2:] = 0, 0
    rows = as_graph(llama()).proof_rows({**inputs, "attention_mask": visible})
    assert {50, 55} <= {*rows}
    assert len(rows) == 16


@pytest.mark.parametrize("hidden", sized([2], [1, 2, 3]))
def test_a_row_that_is_padded_in_its_own_way_is_among_those_that_are_proved(hidden: int) -> None:
    """A network that is no sum of parts on this row alone, which stands far behind."""
    length, last = 6, 25
    data = tokens_of(length)
    visible = torch.ones_like(data.inputs["tokens"])
    visible[last, -hidden:] = 0
    inputs = {**data.inputs, "attention_mask": visible}
    padded = Dataset(inputs, features={"g": data.inputs["tokens"][:, 0] % 2})
    assert last in as_graph(llama()).proof_rows(padded.inputs)
    model, bent = llama(), data.inputs["tokens"][last]

    def note(_: Any, given: tuple[Tensor]) -> None:
        model.there = (given[0] == bent).all(1) if given[0].shape[1] == length else None

    def bend(_: Any, given: Any, out: Tensor) -> Tensor:
        return out if model.there is None else out * (1 + 0.5 * model.there[:, None, None])

    model.model.embed_tokens.register_forward_pre_hook(note)
    model.model.layers[0].register_forward_hook(bend)
    graph = as_graph(model)
    assert graph.reads_directly
    claim = output(head(1, 1, **G), rest=EXACT)
    options: dict[str, Any] = {"tolerance": 1e3, "samples": 40, "adversaries": [], "metric": SUM}
    verdict = check(claim, graph, padded, **options)
    assert "the stream before layer 1 differs" in str(verdict.indirect)


def test_rows_that_an_adversary_adds_do_not_change_how_a_claim_is_read() -> None:
    graph, data = as_graph(bent_beyond(8)), tokens_of(6)
    store = ActivationStore.of(graph.rebuilt(), data)
    with pytest.raises(ModelError, match="the stream before layer 1 differs"):
        store.for_dataset(store.graph, tokens_of(10))


def test_an_encoder_alone_has_no_decoder() -> None:
    graph, data = as_graph(built("T5EncoderModel", 0)[0]), data_for("T5EncoderModel")
    for part in (head(0, 1, **F), mlp(0, **F)):
        with refuses(
            ModelError,
            f"T5EncoderModel (along every path) has no {part.component} but its encoder's; say "
            "of='encoder'",
        ):
            Evaluator(graph, data, output(part), TOTAL)


# --- hooks that lie -------------------------------------------------------------------------------


class Layer(nn.Module):
    """Two heads of width two, and an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.v, self.o, self.out = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.o(self.mixed(self.v(x)))
        return x + self.out(torch.tanh(x))

    def mixed(self, v: Tensor) -> Tensor:
        return v.cumsum(1)


class Interleaved(Layer):
    def mixed(self, v: Tensor) -> Tensor:
        return v.cumsum(1)[..., [0, 2, 1, 3]]


class Beside(Layer):
    """Calls its output projection, and adds something else."""

    def forward(self, x: Tensor) -> Tensor:
        z = self.mixed(self.v(x))
        self.o(z)
        x = x + nn.functional.linear(z, self.o.weight, self.o.bias)
        return x + self.out(torch.tanh(x))


class Noticing(Layer):
    """Is another where its projection is called with something else than it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.o = Remembering(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        z = self.mixed(self.v(x))
        x = x + self.o(z)
        return x + self.out(torch.tanh(x)) * (1 + float(self.o.got is not z))


class Remembering(nn.Linear):
    got: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.got = x
        return super().forward(x)


class Sideways(Layer):
    """Its output projection adds something that no head has handed to it."""

    def __init__(self) -> None:
        super().__init__()
        self.o = Leaking(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.o.aside = torch.tanh(x)
        return super().forward(x)


class Leaking(nn.Linear):
    aside: Any = None

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.aside


def graph_of(layer: Layer) -> HookGraph:
    attention = SimpleNamespace(submodules={"o": layer.o, "v": layer.v}, original_component=None)
    mlp_ = SimpleNamespace(submodules={"out": layer.out})
    block = SimpleNamespace(submodules={"attn": attention, "mlp": mlp_})
    names = SimpleNamespace(_modules={"blocks": [block]}, cfg=SimpleNamespace(n_heads=2))
    return HookGraph(layer.double().eval(), names, "of a test")


VECTORS = Dataset(
    torch.randn(ROWS, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)),
    features=COLUMNS,
)


def test_hooks_that_do_what_they_should_are_believed() -> None:
    graph = graph_of(Layer())
    ActivationStore(graph, VECTORS)
    assert graph.components == ("v", "head0.0", "head0.1", "attn0", "mlp0", "output")


def test_a_part_that_is_off_the_path_is_found() -> None:
    # a claim about it would hold whatever it says
    with refuses(
        ModelError,
        "Beside (along every path): its output is the same whatever attn0 adds, so its hooks are "
        "not to be trusted; use ModuleGraph(model)",
    ):
        ActivationStore(graph_of(Beside()), VECTORS)


def test_an_attention_that_is_more_than_its_heads_is_found() -> None:
    with refuses(
        ModelError,
        "Sideways (along every path): with all heads of another row attn0 does not add what it "
        "adds there, so its hooks are not to be trusted; use ModuleGraph(model)",
    ):
        ActivationStore(graph_of(Sideways()), VECTORS)


def test_heads_that_are_not_apart_are_no_components() -> None:
    graph = graph_of(Interleaved())
    with refuses(
        ModelError,
        "head0.1 is not claimed in Interleaved (along every path): equal parts of what attn0 "
        "projects are not shown to be heads; claim attn0 as a whole",
    ):
        Evaluator(graph, VECTORS, output(head(0, 1, **F)), TOTAL)
    assert graph.components == ("v", "attn0", "mlp0", "output")


def test_a_network_that_notices_hooks_is_refused() -> None:
    with refuses(
        ModelError,
        "Noticing (along every path): its output changes where every part is given its own value, "
        "so its hooks are not to be trusted; use ModuleGraph(model)",
    ):
        ActivationStore(graph_of(Noticing()), VECTORS)


class CountingHooks(transformers.BertForMaskedLM):  # type: ignore[misc]
    """Is another network wherever anything hangs on it, whatever that does."""

    def forward(self, input_ids: Tensor) -> Any:
        out = super().forward(input_ids=input_ids)
        out.logits = out.logits + sum(len(module._forward_hooks) for module in self.modules())
        return out


def test_a_network_that_is_another_with_hooks_on_it_is_refused() -> None:
    """Where softmaxes are looked at, too, which may change the last digits of a run."""
    model = CountingHooks(transformers.BertConfig(**SMALL)).eval()
    data = Dataset({"input_ids": ids("input_ids", 0)["input_ids"]}, features=COLUMNS)
    with refuses(
        ModelError,
        "CountingHooks (along every path): its output changes where every part is given its own "
        "value, so its hooks are not to be trusted; use ModuleGraph(model)",
    ):
        ActivationStore(as_graph(model), data)


def test_another_attention_is_another_graph() -> None:
    """What there is to claim depends on it, and kept activations are of what there is."""
    eager, fused = (
        transformers.BertModel(transformers.BertConfig(**SMALL, attn_implementation=which)).eval()
        for which in ("eager", "sdpa")
    )
    fused.load_state_dict(eager.state_dict())
    assert as_graph(eager).digest() != as_graph(fused).digest()
    assert as_graph(eager).digest() == as_graph(copy.deepcopy(eager)).digest()
