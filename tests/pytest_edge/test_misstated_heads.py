"""What users get wrong about a transformer: heads, layers, slots, positions and masks that it does
not have."""

from __future__ import annotations

import importlib
import re

import pytest

from tests.pytest_edge.conftest import Suite

CONFTEST = """
import pytest, torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge.sources.native import boot
from pytest_scrub import Dataset, load_model

@pytest.fixture(scope="session")
def bridge():
    torch.manual_seed(0)
    return boot(TransformerBridgeConfig(
        d_model=8, d_head=4, n_layers=2, n_ctx=5, n_heads=2, d_mlp=16, d_vocab=6, d_vocab_out=6,
        act_fn="gelu",
        normalization_type="LN", positional_embedding_type="standard", attn_only=False,
    ))

@pytest.fixture(scope="session")
def scrub_model(bridge):
    return load_model(bridge)

@pytest.fixture(scope="session")
def scrub_data():
    tokens = torch.randint(0, 6, (40, 5), generator=torch.Generator().manual_seed(0))
    return Dataset(tokens, labels=tokens[:, 0], label_pos=-1, features={
        "last": tokens[:, -1], "first": lambda inputs: inputs["tokens"][:, 0], "far": [9] * 40,
    })
"""

# The claim, and what the message says.
WRONG = {
    "unknown layer": ('output(head(7, 0, agrees_on="last"))',
    "output/head7.0: the network has no component 'head7.0'"),
    "unknown head": ('output(head(1, 5, agrees_on="last"))',
    "no component 'head1.5'; it has head1.0 to head1.1"),
    "unknown mlp": ('output(mlp(3, agrees_on="last"))', "no component 'mlp3'; it has mlp0 to mlp1"),
    "unknown name": ('output(module("embedding", agrees_on="last"))', "did you mean 'embed'?"),
    "unknown feature": ('output(head(1, 0, agrees_on="lst"))',
    "no feature 'lst'; did you mean 'last'?"),
    "later layer": (
        'output(head(0, 1, agrees_on="last", reads=[head(1, 0, agrees_on="first", into="k")]))',
        "output/head0.1/head1.0[k]: head0.1 cannot read head1.0, which is not computed before it",
    ),
    "head of the same layer": (
        'output(head(1, 1, agrees_on="last", reads=[head(1, 0, agrees_on="first")]))',
        "head1.1 cannot read head1.0",
    ),
    "slot of the output": ('output(head(1, 0, agrees_on="last", into="k"))', "not into='k'"),
    "unknown slot": (
        'output(head(1, 0, agrees_on="last", reads=[head(0, 0, agrees_on="first", into="key")]))',
        "head1.0 reads head0.0 into q, k or v, not into='key'",
    ),
    "same edge twice": (
        'output(head(1, 0, agrees_on="last"), head(1, 0, agrees_on="first"))',
        "output/head1.0 and output/head1.0#2 claim the same edge into output twice",
    ),
    "same edge in a group": (
        'output(group(["head0.0", "head1.0"], agrees_on="last"), head(1, 0, agrees_on="first"))',
        "claim the same edge into output twice",
    ),
    "position out of range": (
        'output(head(1, 0, agrees_on="last", pos=5))',
        "output/head1.0@5 is 5, but positions go from -5 to 4"),
    "position column out of range": ('output(head(1, 0, agrees_on="last", pos="far"))',
    "is 9 at row 0, but positions"),
    "position that nobody reads": (
        'output(head(1, 0, agrees_on="last", pos=1))', "output is read at position 4 only"
    ),
    "mask of an unmasked dataset": (
        'output(head(1, 0, agrees_on="last", reads=[mask(agrees_on="last")]))',
        "have no 'attention_mask'"
    ),
    "subspace of another width": (
        'output(head(1, 0, agrees_on="last", subspace=torch.eye(5)[:, :2]))', "subspace= has 5 rows"
    ),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _transformer_lens() -> None:
    """Imported out here, or every run would import it again."""
    for name in (
        "transformer_lens.model_bridge.sources.native",
        "pytest_scrub.network.transformer_lens",
    ):
        importlib.import_module(name)


@pytest.fixture
def transformer(suite: Suite) -> Suite:
    suite.pytester.makeconftest(CONFTEST)
    return suite


def write(suite: Suite, claims: str) -> None:
    names = "Refuted, claim, embed, group, head, kl_to_clean, mask, mlp, module, output, pos_embed"
    suite.pytester.makepyfile(
        test_claims=f"import pytest, torch\nfrom pytest_scrub import {names}\n{claims}"
    )


def test_each_is_one_sentence_that_names_the_nearest(transformer: Suite) -> None:
    """All in one run, for loading the network is what takes the time."""
    write(transformer, "".join(
        f"\n@claim(tolerance=1)\ndef test_{i}():\n    return {claim}\n" for i,
        (claim, _) in enumerate(WRONG.values())
    ))  # fmt: skip
    ran = transformer.run()
    assert ran.outcomes == {"failed": len(WRONG)}
    for i, (what, (_, says)) in enumerate(WRONG.items()):
        message = ran.messages[f"test_{i}"]
        assert says in message, what
        assert message.startswith("Misstated: "), what
        assert "\n" not in message, what
        assert ran.crash(f"test_{i}").path.endswith("test_claims.py"), what
    assert "pytest_scrub/" not in ran.text


def test_a_dictionary_that_does_not_fit_is_shown_where_it_is_attached(transformer: Suite) -> None:
    write(transformer, """
from pytest_scrub import Dictionary, with_dictionaries

@pytest.fixture
def wide(scrub_model):
    return with_dictionaries(scrub_model, sae=Dictionary(
        torch.eye(9), None, torch.eye(9), at="blocks.1.hook_resid_pre"))

@claim(tolerance=1, model="wide")
def test_it():
    return output(head(1, 0, agrees_on="last"))
""")  # fmt: skip
    ran = transformer.run()
    assert ran.outcomes == {"errors": 1}
    assert "reads 9 numbers and has rows of 9, but what stands at blocks.1" in ran.text
    assert "pytest_scrub/" not in ran.text


def test_claims_about_heads_have_verdicts(transformer: Suite) -> None:
    write(transformer, """
@claim(tolerance=0.013, metric=kl_to_clean())
def test_held():
    reads = [embed(agrees_on="first", into="k")]
    return output(head(1, 0, agrees_on="last", reads=reads), mlp(1, agrees_on="last"), rest="last")

@pytest.mark.xfail(raises=Refuted, strict=True)
@claim(tolerance=0, metric=kl_to_clean())
def test_refuted():
    return output(head(1, 0, agrees_on="last"))
""")  # fmt: skip
    ran = transformer.run("--scrub-samples=4000")
    assert ran.outcomes == {"passed": 1, "xfailed": 1}
    slots = [node.slot for node in ran.verdicts["test_held"].nodes]
    assert slots == [
        "output/rest",
        "output/head1.0",
        "output/head1.0/rest",
        "output/head1.0/embed[k]",
        "output/mlp1",
    ]
    assert ran.verdicts["test_held"].model.startswith("TransformerBridge")


def test_a_weight_that_is_nan_names_the_node_and_the_row(transformer: Suite) -> None:
    """Token 5 has no embedding to speak of; some of the first rows hold it."""
    write(transformer, """
@pytest.fixture
def scrub_model(bridge):
    from pytest_scrub import load_model
    with torch.no_grad():
        bridge.embed.weight[5] = float("nan")
    return load_model(bridge)

@claim(tolerance=1)
def test_nan():
    return output(embed(agrees_on="last"))
""")  # fmt: skip
    message = transformer.run().messages["test_nan"]
    assert re.search(
        r"embed is NaN or infinite on row \d+; take the row out, or mend the weights", message
    )
