"""The plugin costs nothing where it is not used: what is imported, and when."""

from __future__ import annotations

import sys

import pytest

from tests.pytest_edge.conftest import CONFTEST, IMPORTS, Suite

HEAVY = ("torch", "transformer_lens", "transformers", "scipy", "rich", "hypothesis", "safetensors")
EVERY = (*HEAVY, "numpy")
# Other plugins of this environment import what they like.
ONLY_OURS = ("-p", "pytest_scrub.plugin")


def report_loaded(modules: tuple[str, ...]) -> str:
    return f"""
        import sys

        def pytest_unconfigure():
            print("\\nloaded:", *[name for name in {modules} if name in sys.modules], "end")
    """


@pytest.fixture
def plain(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder without a conftest.py, and no plugin but ours."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return pytester


def test_importing_the_package_and_the_plugin(pytester: pytest.Pytester) -> None:
    result = pytester.run(
        sys.executable, "-c",
        "import sys, pytest_scrub, pytest_scrub.plugin; from pytest_scrub.pytest_edge import "
        "fixtures, options; "
        f"dir(pytest_scrub); print([name for name in {EVERY} if name in sys.modules])",
    )  # fmt: skip
    assert result.stdout.lines == ["[]"]


def test_the_names_of_claims_need_no_torch(pytester: pytest.Pytester) -> None:
    result = pytester.run(
        sys.executable, "-c",
        "import sys; from pytest_scrub import ANYTHING, EXACT, Dataset, Refuted, Verdict, claim, "
        f"group, head, join, mask, mlp, module, output, pos_embed; print([name for name in {HEAVY} "
        "if name in sys.modules])",
    )  # fmt: skip
    assert result.stdout.lines == ["[]"]


def test_a_suite_without_claims(plain: pytest.Pytester) -> None:
    plain.makeconftest(report_loaded(EVERY))
    plain.makepyfile(
        "def test_ordinary(pytestconfig):\n    assert "
        "pytestconfig.pluginmanager.has_plugin('pytest_scrub.plugin')"
    )
    result = plain.runpytest_subprocess(*ONLY_OURS)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["loaded: end"])


def test_collecting_claims(plain: pytest.Pytester) -> None:
    """Also when they are deselected, and with options to read."""
    plain.makeconftest(report_loaded(HEAVY))
    plain.makepyfile("""
        import pytest
        from pytest_scrub import ANYTHING, Refuted, claim, head, output

        @pytest.mark.xfail(raises=Refuted, strict=True)
        @claim(tolerance=0.1)
        def test_it():
            return output(head(0, 0, agrees_on=ANYTHING))

        def test_ordinary(scrub_device):
            assert scrub_device == "cpu"
    """)
    result = plain.runpytest_subprocess(*ONLY_OURS, "--collect-only", "-q", "--scrub-samples=10")
    result.stdout.fnmatch_lines(["test_collecting_claims.py::test_it", "loaded: end"])
    result = plain.runpytest_subprocess(*ONLY_OURS, "-m", "not claim")
    result.assert_outcomes(passed=1, deselected=1)
    result.stdout.fnmatch_lines(["loaded: end"])


def test_a_claim_about_functions_needs_neither_transformer_lens_nor_ray(
    plain: pytest.Pytester,
) -> None:
    plain.makeconftest(
        CONFTEST
        + report_loaded(("torch", "transformer_lens", "transformers", "ray")).replace(" " * 8, "")
    )
    plain.makepyfile(
        IMPORTS
        + "@claim(tolerance=0.5)\ndef test_held():\n    return output(module('A', agrees_on='a'))"
    )
    result = plain.runpytest_subprocess(*ONLY_OURS)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["loaded: torch end"])


def test_asserts_of_the_package_are_not_rewritten(suite: Suite) -> None:
    """Rewriting every module of an installed plugin is paid at each start where bytecode is not
    kept."""
    suite.write("""
        def test_it():
            import pytest_scrub.plugin
            assert "PYTEST_DONT_REWRITE" in pytest_scrub.plugin.__doc__
    """)
    assert suite.run().outcomes == {"passed": 1}
