"""`tests/` mirrors the package: where the test file of a module is, or what else protects it."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import defaultdict
from pathlib import Path

import pytest

from tests.places import ROOT

PACKAGE, TESTS = ROOT / "pytest_scrub", ROOT / "tests"
SHORT = 60  # lines of code; what is shorter is tested with what uses it

# Modules, and folders of them, that are tested with what they are parts of.
ELSEWHERE = {
    "__init__.py": "pytest_edge/test_cost.py",
    "plugin.py": "pytest_edge/test_options.py",
    "judge.py": "whole/test_any_claim.py",
    "meaning.py": "whole/test_engine_against_reference.py",
    "common/calls.py": "common/test_user_code.py",
    "network/graph.py": "engine/test_evaluator.py",
    "network/residual.py": "whole/test_engine_against_reference.py",
    "network/kinds": "whole/test_engine_against_reference.py",
    "network/adapter.py": "network/test_bridge.py",
    "network/hooked.py": "network/compat_hooked_transformer.py",  # make compat
    "engine/plan.py": "whole/test_fast_paths.py",
    "engine/explain.py": "pytest_edge/test_fixtures.py",
    "adversaries/which_donors.py": "adversaries/test_search.py",
    "adversaries/counterexample.py": "pytest_edge/test_adversaries.py",
    "adversaries/minimal.py": "pytest_edge/test_adversaries.py",
    "adversaries/shrinking.py": "pytest_edge/test_adversaries.py",
    "reports": "pytest_edge/test_reporting.py",
    "extras/baselines/lines.py": "extras/baselines/test_comparing.py",
    "extras/ray/worker.py": "extras/ray/test_crew.py",
    "pytest_edge/progress.py": "pytest_edge/test_reporting.py",
}

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
TEST_FILES = sorted(TESTS.rglob("test_*.py"))


def lines_of_code(path: Path) -> int:
    """Lines on which something other than a comment or a docstring stands."""
    text = path.read_text()
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def own_test_file(module: Path) -> Path:
    return TESTS / module.with_name(f"test_{module.name}")


@pytest.mark.parametrize(
    "module", [path for path in MODULES if lines_of_code(PACKAGE / path) > SHORT], ids=str
)
def test_a_module_has_a_own_test_file_its_name_or_is_listed(module: Path) -> None:
    listed = [ELSEWHERE[str(one)] for one in (module, *module.parents) if str(one) in ELSEWHERE]
    if not own_test_file(module).exists():
        assert listed, f"write {own_test_file(module)}, or list what protects {module}"
        assert (TESTS / listed[0]).exists()


@pytest.mark.parametrize("listed", ELSEWHERE)
def test_what_is_listed_is_needed(listed: str) -> None:
    modules = [one for one in MODULES if one == Path(listed) or Path(listed) in one.parents]
    assert any(lines_of_code(PACKAGE / one) > SHORT for one in modules)
    assert not all(own_test_file(one).exists() for one in modules)


def test_a_name_that_stands_twice_is_that_of_two_modules() -> None:
    found = defaultdict(list)
    for path in TEST_FILES:
        found[path.name].append(path.relative_to(TESTS))
    modules = {own_test_file(module).relative_to(TESTS) for module in MODULES}
    for paths in found.values():
        assert len(paths) == 1 or modules.issuperset(paths), paths


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_test_file_says_what_it_protects_and_lies_in_a_package(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))
    assert (path.parent / "__init__.py").exists()
