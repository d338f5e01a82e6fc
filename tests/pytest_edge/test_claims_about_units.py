"""Units, streams and donors for each position through all that a run offers: false claims made of
them (`--scrub-mutate`), counterexamples saved and replayed, on a network that was broken since."""

from __future__ import annotations

import re

import pytest

import tests.reference.generate  # once: transformers cannot be imported again by a run in here
from tests.pytest_edge.conftest import Suite
from tests.sizes import only_in_full

assert tests.reference.generate

# The output is what the second dictionary's place holds, so its units matter; nothing is trained.
UNITS = """
    from pytest_scrub import (
        EACH, Dictionary, head, latents, neurons, pattern, with_dictionaries,
    )
    from tests.reference.generate import Architecture, build

    SCALE = 1.0

    @pytest.fixture(scope="module")
    def scrub_model():
        drawn = torch.Generator().manual_seed(0)
        def some(*shape):
            return torch.randn(shape, generator=drawn, dtype=torch.float64)
        sae = Dictionary(some(8, 20), some(20), some(20, 8), at="blocks.1.hook_resid_pre")
        clt = Dictionary(
            some(8, 20), some(20), SCALE * some(20, 2, 8), part_of="clt",
            at="blocks.0.hook_mlp_out", reads="blocks.0.hook_resid_mid",
        )
        network = build(Architecture(n_layers=2, attn_only=False, n_ctx=4, seed=3)).bridge
        return with_dictionaries(network, sae=sae, clt=clt)

    @pytest.fixture(scope="module")
    def scrub_data():
        tokens = torch.randint(0, 5, (60, 4), generator=torch.Generator().manual_seed(1))
        return Dataset(
            tokens, labels=tokens[:, 0], label_pos=-1,
            features={"last": tokens[:, -1], "token": tokens, "first": tokens[:, 0]},
        )

    CLAIMS = {
        "crossing": lambda: latents("clt", slice(0, 20), agrees_on="first"),
        "neurons": lambda: neurons(1, slice(0, 9), agrees_on="first"),
        "pattern": lambda: head(
            1, 0, agrees_on="first", reads=[pattern(1, 0, agrees_on="first", pos=EACH)]
        ),
        "shifted": lambda: head(
            1, 1, agrees_on="first",
            reads=[latents("sae", slice(0, 20), agrees_on="token", pos=EACH(with_shift=True))],
        ),
    }

    @pytest.mark.parametrize("name", CLAIMS)
    @claim(tolerance=1e-4, samples=300)
    def test_it(name):
        return output(CLAIMS[name](), rest=EXACT)
"""
NAMES = ("crossing", "neurons", "pattern", "shifted")


def test_false_claims_are_made_of_units(suite: Suite) -> None:
    held = 'tolerance=1000, samples=100, adversaries=[], on_weak="warn"'
    suite.write(UNITS.replace("tolerance=1e-4, samples=300", held))
    ran = suite.run("--scrub-mutate", "--scrub-seed=0")
    for name in NAMES:
        power = ran.verdicts[f"test_it[{name}]"].power
        assert power is not None, ran.reports
        assert power.mutants, name


@only_in_full
def test_counterexamples_of_units_are_saved_and_replayed(suite: Suite) -> None:
    suite.write(UNITS)
    ran = suite.run("--scrub-adversary=quick", "--scrub-seed=0")
    ran.result.assert_outcomes(failed=len(NAMES))
    assert {ran.verdicts[f"test_it[{name}]"].outcome for name in NAMES} == {"refuted"}
    files = {
        name: file
        for file in (suite.pytester.path / ".scrub").glob("*.json")
        for name in NAMES
        if name in file.name
    }
    assert files.keys() == {*NAMES}
    assert '"further": {' in files["shifted"].read_text()
    assert '"further": {' not in files["pattern"].read_text()
    for name in ("shifted", "crossing"):
        again = suite.run(f"--scrub-replay={files[name]}")
        again.result.assert_outcomes(failed=1)
        gap = re.search(r"still breaks the claim: gap (\S+)", again.reports[f"test_it[{name}]"])
        assert gap is not None
        assert float(gap[1].rstrip(",;")) != pytest.approx(0, abs=1e-4)


def test_a_counterexample_of_units_that_write_nothing_any_more_is_mended(suite: Suite) -> None:
    """Broken on purpose: rows of zeros, at the later layer too."""
    suite.write(UNITS)
    suite.run("-k", "crossing", "--scrub-adversary=quick", "--scrub-seed=0")
    (file,) = (suite.pytester.path / ".scrub").glob("*.json")
    suite.write(UNITS.replace("SCALE = 1.0", "SCALE = 0.0"))
    again = suite.run(f"--scrub-replay={file}")
    again.result.assert_outcomes(passed=1)
