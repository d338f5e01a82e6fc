"""One seed, the same verdicts and figures: whatever the order, the selection, or what else has
run."""

from __future__ import annotations

import dataclasses
import json

import pytest

from pytest_scrub.verdict import Verdict
from tests.pytest_edge.conftest import TORCH_CLAIMS, Suite, assert_same_figures
from tests.sizes import only_in_full, sized


@pytest.fixture
def modules(suite: Suite) -> Suite:
    suite.write(TORCH_CLAIMS)
    return suite


def assert_same(one: dict[str, Verdict], other: dict[str, Verdict]) -> None:
    assert set(one) == set(other)
    for name, verdict in one.items():
        assert_same_figures(dataclasses.asdict(verdict), dataclasses.asdict(other[name]))


def test_the_order_does_not_matter(modules: Suite) -> None:
    in_order = modules.run().verdicts
    assert list(in_order) == ["test_a", "test_b", "test_c", "test_d"]
    orders = set()
    for seed in sized((1, 3), (1, 2, 3)):
        shuffled = modules.run("-p", "randomly", f"--randomly-seed={seed}").verdicts
        orders.add(tuple(shuffled))
        assert_same(in_order, shuffled)
    assert len(orders) > 1  # they were shuffled
    modules.extend_conftest("""
        def pytest_collection_modifyitems(items):
            items.reverse()
    """)
    in_reverse = modules.run().verdicts
    assert list(in_reverse) == ["test_d", "test_c", "test_b", "test_a"]
    assert_same(in_order, in_reverse)


def test_a_claim_alone_says_what_it_says_among_others(modules: Suite) -> None:
    together = modules.run().verdicts
    for name, verdict in together.items():
        assert_same({name: verdict}, modules.run(f"test_claims.py::{name}").verdicts)


def test_state_of_global_generators_does_not_matter(modules: Suite) -> None:
    plain = modules.run().verdicts
    modules.extend_conftest("""
        import random
        import numpy as np

        @pytest.fixture(autouse=True)
        def disturbed(request):
            seed = len(request.node.name) + 99
            random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    """)
    assert_same(plain, modules.run().verdicts)


def test_another_seed_gives_other_figures(modules: Suite) -> None:
    zero, one, again = (modules.run(f"--scrub-seed={seed}").verdicts for seed in (0, 1, 0))
    assert_same(zero, again)
    for name, verdict in zero.items():
        assert verdict.gap != one[name].gap
        assert verdict.scrubbed != one[name].scrubbed
        assert verdict.hypothesis == one[name].hypothesis
        assert (verdict.seed, one[name].seed) == (0, 1)


def test_claims_of_other_names_draw_other_swaps(suite: Suite) -> None:
    suite.write("""
        @pytest.mark.parametrize("again", range(3))
        @claim(tolerance=0.5)
        def test_it(again):
            return output(module("A", agrees_on="a"))
    """)
    assert len({verdict.scrubbed for verdict in suite.run().verdicts.values()}) == 3


REVERSED = """
    def pytest_collection_modifyitems(items):
        items.reverse()
"""
QUARTER = """
    import pytest_scrub.engine.evaluator as evaluator, pytest_scrub.engine.store as store

    @pytest.fixture(autouse=True)
    def quarter(monkeypatch):
        monkeypatch.setattr(evaluator, "MOST_COLUMNS", 16)
        monkeypatch.setattr(evaluator, "COLUMNS_OF_A_RERUN", 16)
        monkeypatch.setattr(store, "CAPTURE_BATCH", 16)
"""


@only_in_full
@pytest.mark.parametrize("variant", [REVERSED, QUARTER])
def test_searches_mutants_and_controls_say_the_same_too(modules: Suite, variant: str) -> None:
    """Whatever was cached before, and however large the batches are."""
    asked = ("--scrub-mutate", "--scrub-controls", "--scrub-samples=500")
    plain = modules.run(*asked, adversary="quick").verdicts
    assert any(
        verdict.search is not None and verdict.search.counterexample is not None
        for verdict in plain.values()
    )
    modules.forget()
    modules.extend_conftest(variant)
    assert_same(plain, modules.run(*asked, adversary="quick").verdicts)


@only_in_full
def test_two_workers_say_what_one_says(modules: Suite) -> None:
    plain = modules.run(adversary="quick").verdicts
    modules.forget()
    assert_same(plain, modules.run("-n", "2", adversary="quick").verdicts)


@only_in_full
def test_groups_of_tests_change_nothing(modules: Suite) -> None:
    """pytest-xdist writes them into the ids of tests where pytest is older than 9.2."""
    plain = modules.run(adversary="quick").verdicts
    modules.forget()
    modules.extend_conftest("""
        @pytest.hookimpl(tryfirst=True)
        def pytest_collection_modifyitems(items):
            for item in items:
                item.add_marker(pytest.mark.xdist_group("g"))
    """)
    grouped = modules.run(
        "-n", "2", "--dist=loadgroup", "--scrub-json=claims.json", adversary="quick"
    ).verdicts
    assert_same(plain, {name.removesuffix("@g"): verdict for name, verdict in grouped.items()})
    claims = json.loads((modules.pytester.path / "claims.json").read_text())["claims"]
    assert [one["test"] for one in claims] == [f"test_claims.py::{name}" for name in plain]
    (file, *_) = modules.pytester.path.glob(".scrub/*.json")
    replayed = modules.run("-n", "1", "--dist=loadgroup", f"--scrub-replay={file}")
    replayed.result.assert_outcomes(failed=1)
