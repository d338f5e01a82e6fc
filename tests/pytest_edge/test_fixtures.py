"""The fixture `scrub`: the engine inside a test of one's own."""

from __future__ import annotations

from tests.pytest_edge.conftest import Suite


def test_check_says_and_does_not_raise(suite: Suite) -> None:
    suite.write("""
        def test_own(scrub, scrub_seed):
            held = scrub.check(output(module("A", agrees_on="a")), tolerance=0.5)
            refuted = scrub.check(output(module("B", agrees_on="b")), tolerance=0.5, samples=150)
            assert (held.outcome, held.samples, held.seed) == ("held", 200, scrub_seed)
            assert (refuted.outcome, refuted.samples) == ("refuted", 150)
            assert held.claim == "test_claims.py::test_own"
    """)
    ran = suite.run()
    assert ran.outcomes == {"passed": 1}
    assert not ran.summary  # the user's own test says what it makes of the verdicts


def test_check_gives_the_figures_of_a_claim_of_the_same_name(suite: Suite) -> None:
    hypothesis = 'output(module("A", agrees_on="a"))'
    suite.write(f"@claim(tolerance=0.5)\ndef test_same():\n    return {hypothesis}\n")
    verdict = suite.run().verdicts["test_same"]
    suite.write(f"""
        def test_same(scrub):
            assert scrub.check({hypothesis}, tolerance=0.5).to_json() == {verdict.to_json()!r}
    """)
    assert suite.run().outcomes == {"passed": 1}


def test_gap_is_the_difference_on_each_reference(suite: Suite) -> None:
    suite.write("""
        import numpy as np

        def loss(a, b, labels):
            margin = 2 * (2 * a - 1) + b / 4
            return np.log1p(np.exp(np.where(labels == 1, -margin, margin)))

        def test_gap(scrub, scrub_data):
            hypothesis = output(module("A", agrees_on="a"))
            swaps = scrub.space(hypothesis).draw(40, np.random.default_rng(0))
            donor = dict(zip(swaps.slots, swaps.donors))
            a, b = (scrub_data.inputs[name].double().numpy() for name in "ab")
            labels = scrub_data.labels.numpy()[swaps.references]
            scrubbed = loss(a[donor["output/A"]], b[donor["output/rest"]], labels)
            clean = loss(a[swaps.references], b[swaps.references], labels)
            gap = scrub.gap(swaps, hypothesis)
            assert gap.shape == (40,) and gap.dtype == np.float64
            np.testing.assert_allclose(gap, scrubbed - clean, atol=1e-6)
            assert np.abs(gap).max() > 0.01
    """)
    assert suite.run().outcomes == {"passed": 1}


def test_explain_names_slots_donors_and_costs_and_evaluates_nothing(suite: Suite) -> None:
    suite.write("""
        def never(output, batch):
            raise AssertionError("evaluated")

        def test_explain(scrub):
            plan = scrub.explain(output(module("A", agrees_on="a")), metric=never)
            assert [slot.slot for slot in plan.slots] == ["output/rest", "output/A"]
            assert plan.slots[1].donors == (32, 32.0, 32) and plan.rows == 64
            assert plan.fits and plan.reruns == 0 and plan.batch == 8192
            print(plan)
    """)
    ran = suite.run("-s")
    assert ran.outcomes == {"passed": 1}
    ran.result.stdout.fnmatch_lines(
        [
            "*output/A: a: 32, 32, 32; 100%",
            "cached for 64 rows*",
            "  in memory, where * for them",
            "clean passes: 64 rows at most, each once",
            "recomputed for every swap:",
            "evaluated at once: 8192 swaps, about 1.5 MiB",
        ]
    )


def test_scrub_uses_the_overridden_network(suite: Suite) -> None:
    suite.write("""
        class TestBlunt:
            @pytest.fixture
            def scrub_model(self):
                return network(sharpness=0.1)

            def test_it(self, scrub):
                assert scrub.check(output(module("A", agrees_on="a")), tolerance=1).unscrubbed > 0.5
    """)
    assert suite.run().outcomes == {"passed": 1}
