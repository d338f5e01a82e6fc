"""A claim is an ordinary test: it is collected, selected, parametrised and given fixtures as any
other."""

from __future__ import annotations

import pytest

from tests.pytest_edge.conftest import Suite


def test_collecting_runs_nothing(four: Suite) -> None:
    four.extend_conftest("""
        @pytest.fixture(scope="session")
        def scrub_model():
            raise AssertionError("the network was asked for")
    """)
    four.write("""
        @claim(tolerance=1)
        def test_body():
            raise AssertionError("the claim was run")
    """)
    ran = four.run("--collect-only", "-q")
    ran.result.stdout.fnmatch_lines(["test_claims.py::test_body"])
    assert ran.result.ret == 0
    assert not ran.verdicts
    assert not ran.summary


def test_selecting_by_name_and_by_marker(suite: Suite) -> None:
    suite.write("""
        def test_ordinary():
            assert network().components

        @claim(tolerance=0.5)
        def test_held():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5)
        def test_refuted():
            return output(module("B", agrees_on="b"))
    """)
    assert suite.run("-k", "held").outcomes == {"passed": 1, "deselected": 2}
    assert suite.run("-m", "claim").outcomes == {"passed": 1, "failed": 1, "deselected": 1}
    ordinary = suite.run("-m", "not claim", "--strict-markers")
    assert ordinary.outcomes == {"passed": 1, "deselected": 2}
    assert ordinary.result.ret == 0


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    pytester.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.claim: *"])


@pytest.mark.parametrize(
    "above", [True, False], ids=["parametrize above claim", "claim above parametrize"]
)
def test_parametrised_claims(suite: Suite, above: bool) -> None:
    decorators = ['@pytest.mark.parametrize("node", ["A", "B"])', "@claim(tolerance=0.5)"]
    first, second = decorators if above else decorators[::-1]
    suite.write(f"""
        {first}
        {second}
        def test_node(node):
            return output(module(node, agrees_on=node.lower()))
    """)
    ran = suite.run()
    found = {name: (verdict.outcome, verdict.claim) for name, verdict in ran.verdicts.items()}
    assert found == {
        "test_node[A]": ("held", "test_claims.py::test_node[A]"),
        "test_node[B]": ("refuted", "test_claims.py::test_node[B]"),
    }


def test_claims_in_classes_and_the_other_marks(suite: Suite) -> None:
    suite.write("""
        class TestCircuit:
            node = "A"

            @claim(tolerance=0.5)
            def test_own_node(self):
                return output(module(self.node, agrees_on="a"))

            @pytest.mark.parametrize("node", ["B"])
            @claim(tolerance=0.5)
            def test_other_node(self, node):
                assert self.node == "A"
                return output(module(node, agrees_on="b"))

            @pytest.mark.skip(reason="later")
            @claim(tolerance=0.5)
            def test_skipped(self):
                raise AssertionError

            @claim(tolerance=0.5)
            def test_skips_itself(self):
                pytest.skip("not here")
    """)
    ran = suite.run()
    assert ran.outcomes == {"passed": 1, "failed": 1, "skipped": 2}
    found = {verdict.claim: verdict.outcome for verdict in ran.verdicts.values()}
    assert found == {
        "test_claims.py::TestCircuit::test_own_node": "held",
        "test_claims.py::TestCircuit::test_other_node[B]": "refuted",
    }


def test_fixtures_as_arguments(suite: Suite) -> None:
    """Those of the user, the plugin's own, and the very ones that the claim is tested with."""
    suite.write("""
        @pytest.fixture(params=["A", "B"])
        def node(request):
            return request.param

        @claim(tolerance=0.5)
        def test_arguments(
            node, scrub_seed, scrub_device, scrub_model, scrub_data, request, tmp_path
        ):
            assert (scrub_seed, scrub_device) == (7, "cpu")
            assert "B" in scrub_model.components and len(scrub_data) == 64
            assert request.node.name == f"test_arguments[{node}]" and tmp_path.exists()
            return output(module(node, agrees_on=scrub_data.feature_names["AB".index(node)]))
    """)
    ran = suite.run("--scrub-seed=7")
    assert {name: verdict.outcome for name, verdict in ran.verdicts.items()} == {
        "test_arguments[A]": "held", "test_arguments[B]": "refuted",
    }  # fmt: skip


def test_the_name_and_docstring_of_a_claim_stay(suite: Suite) -> None:
    suite.write("""
        @claim(tolerance=0.5)
        def test_documented(request):
            "What it says."
            assert request.function.__doc__ == "What it says."
            assert request.function.__name__ == "test_documented"
            return output(module("A", agrees_on="a"))
    """)
    assert suite.run().outcomes == {"passed": 1}


# its loss is another one: which network and data were used shows in the verdict
BLUNT = "network(sharpness=0.5)"


def test_model_and_data_may_name_other_fixtures(suite: Suite) -> None:
    suite.write(f"""
        @pytest.fixture
        def blunt():
            return {BLUNT}

        @pytest.fixture
        def few():
            return rows(8, name="few")

        @claim(tolerance=0.5)
        def test_default():
            return output(module("A", agrees_on="a"))

        @claim(tolerance=0.5, model="blunt", data="few")
        def test_named():
            return output(module("A", agrees_on="a"))
    """)
    verdicts = suite.run().verdicts
    assert {name: verdict.dataset for name, verdict in verdicts.items()} == {
        "test_default": "rows",
        "test_named": "few",
    }
    assert verdicts["test_named"].unscrubbed > 2 * verdicts["test_default"].unscrubbed


def test_fixtures_that_are_not_asked_for_are_not_made(suite: Suite) -> None:
    suite.write("""
        @pytest.fixture
        def scrub_model():
            raise AssertionError("made")

        scrub_data = scrub_model

        @pytest.fixture
        def blunt():
            return network()

        @pytest.fixture
        def few():
            return rows(8)

        @claim(tolerance=0.5, model="blunt", data="few")
        def test_named():
            return output(module("A", agrees_on="a"))
    """)
    assert suite.run().outcomes == {"passed": 1}


def test_modules_and_classes_may_override_the_network_and_the_data(suite: Suite) -> None:
    held = 'return output(module("A", agrees_on="a"))'
    suite.write(
        f"""
        @pytest.fixture(scope="module")
        def scrub_model():
            return {BLUNT}

        @claim(tolerance=0.5)
        def test_of_module():
            {held}

        class TestClass:
            @pytest.fixture(scope="class")
            def scrub_model(self):
                return network(sharpness=0.1)

            @pytest.fixture
            def scrub_data(self):
                return rows(8, name="few")

            @claim(tolerance=0.5)
            def test_of_class(self):
                {held}
        """,
        name="test_a_module",
    )
    suite.write(
        f"@claim(tolerance=0.5)\ndef test_of_conftest():\n    {held}\n", name="test_b_module"
    )
    verdicts = suite.run().verdicts
    clean = {name: verdict.unscrubbed for name, verdict in verdicts.items()}
    assert clean["test_of_conftest"] < 0.2 < clean["test_of_module"] < 0.55 < clean["test_of_class"]
    assert {verdict.dataset for name, verdict in verdicts.items() if name != "test_of_class"} == {
        "rows"
    }
    assert verdicts["test_of_class"].dataset == "few"


def test_the_network_runs_once_for_all_claims_about_the_same_rows(suite: Suite) -> None:
    suite.write("""
        from pathlib import Path

        class Network(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.A = torch.nn.Identity()

            def forward(self, a, b):
                # a list would be a part of the network that changes
                with Path("calls").open("a") as file:
                    print(len(a), file=file)
                A = self.A(2.0 * a - 1)
                return torch.stack([-A, A + b / 9], -1)

        @pytest.fixture(scope="module")
        def scrub_model():
            return Network()

        @pytest.mark.parametrize("tolerance", range(3))
        @claim(tolerance=0.5)
        def test_again(tolerance):
            return output(module("A", agrees_on="a"))

        def test_calls():
            assert Path("calls").read_text().split().count("64") == 1
    """)
    assert suite.run().outcomes == {"passed": 4}


def test_a_custom_metric_and_a_share_recovered(suite: Suite) -> None:
    suite.write("""
        def margin(output, batch):
            return output[:, 0] - output[:, 1]

        @claim(tolerance=0.001, metric=margin)
        def test_margin():
            return output(module("A", agrees_on="a"), module("B", agrees_on="b"))

        @claim(min_recovered=0.9)
        def test_recovered():
            return output(module("A", agrees_on="a"))

        @claim(min_recovered=0.9, tolerance=1e-6)
        def test_the_stricter_counts():
            return output(module("A", agrees_on="a"))
    """)
    verdicts = suite.run().verdicts
    assert verdicts["test_margin"].metric == "margin"
    assert (verdicts["test_recovered"].outcome, verdicts["test_the_stricter_counts"].tolerance) == (
        "held",
        1e-6,
    )
    wanted = 0.1 * (verdicts["test_recovered"].baseline - verdicts["test_recovered"].unscrubbed)
    assert verdicts["test_recovered"].tolerance == pytest.approx(wanted, rel=0.1)
