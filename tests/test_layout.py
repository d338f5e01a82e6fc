"""`tests/` mirrors the package: where the test file of a module is, or what else protects it."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

from tests.places import ROOT

PACKAGE, TESTS = ROOT / "pytest_scrub", ROOT / "tests"
SHORT = 60  # lines of code; what is shorter is tested with what uses it

# Modules, and folders of them, that are tested with what they are parts of.
ELSEWHERE = {
    "__init__.py": "pytest_edge/test_cost.py",
    "plugin.py": "pytest_edge/test_options.py",
    "judge.py": "whole/test_any_claim.py",
    "meaning": "whole/test_engine_against_reference.py",
    "common/calls.py": "common/test_user_code.py",
    "tree/predictions.py": "whole/test_predictions.py",
    "swaps/predicted.py": "whole/test_predictions.py",
    "statistics/predicted.py": "whole/test_predictions.py",
    "network/__init__.py": "network/kinds/test_latents.py",
    "network/graph.py": "engine/test_evaluator.py",
    "network/encoders.py": "network/test_dictionaries.py",
    "network/residual.py": "whole/test_engine_against_reference.py",
    "network/kinds": "whole/test_engine_against_reference.py",
    "network/places.py": "network/test_modules.py",
    "network/state.py": "whole/test_staleness.py",
    "network/coded.py": "network/test_hooks.py",
    "network/transformer_lens.py": "network/test_hooks.py",
    "network/wrapping.py": "network/test_hooks.py",
    "network/adapter.py": "network/test_bridge.py",
    "network/parts.py": "network/test_bridge.py",
    "network/hooked.py": "network/compat_hooked_transformer.py",  # make compat
    "engine/fitting.py": "power/test_controls.py",
    "engine/plan.py": "whole/test_fast_paths.py",
    "adversaries/which_donors.py": "adversaries/test_search.py",
    "adversaries/in_turn.py": "adversaries/test_sequence.py",
    "adversaries/which_nodes.py": "adversaries/test_distributions.py",
    "adversaries/which_refinement.py": "adversaries/test_distributions.py",
    "data/tensors.py": "data/test_dataset.py",
    "adversaries/bound.py": "adversaries/test_sequence.py",
    "power/null.py": "swaps/test_null.py",
    "adversaries/repairs.py": "adversaries/test_minimal.py",
    "adversaries/simpler_inputs.py": "pytest_edge/test_adversaries.py",
    "reports": "pytest_edge/test_run_reports.py",
    "extras/baselines/text.py": "extras/baselines/test_comparison.py",
    "extras/baselines/summary.py": "extras/baselines/test_comparison.py",
    "extras/ray/worker.py": "extras/ray/test_executor.py",
    "pytest_edge/progress.py": "pytest_edge/test_run_reports.py",
}

MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
TEST_FILES = sorted(TESTS.rglob("test_*.py"))


def lines_of_code(path: Path) -> int:
    """Lines on which something other than a comment or a docstring stands."""
    text = path.read_text()
    silent: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate((line.strip() for line in text.splitlines()), 1)
    return sum(bool(line) and line[0] != "#" and at not in silent for at, line in lines)


def own_test_file(module: Path) -> Path:
    return TESTS / module.with_name(f"test_{module.name}")


def test_a_module_has_a_test_file_of_its_name_or_is_listed() -> None:
    for module in MODULES:
        if own_test_file(module).exists() or lines_of_code(PACKAGE / module) <= SHORT:
            continue
        listed = [ELSEWHERE[str(one)] for one in (module, *module.parents) if str(one) in ELSEWHERE]
        assert listed, f"write {own_test_file(module)}, or list what protects {module}"
        assert (TESTS / listed[0]).exists(), listed


def test_what_is_listed_is_needed() -> None:
    for listed in map(Path, ELSEWHERE):
        modules = [one for one in MODULES if listed in (one, *one.parents)]
        lacking = [one for one in modules if not own_test_file(one).exists()]
        assert any(lines_of_code(PACKAGE / one) > SHORT for one in lacking), listed


def test_a_name_that_stands_twice_is_that_of_two_modules() -> None:
    found = defaultdict(list)
    for path in TEST_FILES:
        found[path.name].append(path.relative_to(TESTS))
    modules = {own_test_file(module).relative_to(TESTS) for module in MODULES}
    for paths in found.values():
        assert len(paths) == 1 or modules.issuperset(paths), paths


def test_a_test_file_says_what_it_protects_and_lies_in_a_package() -> None:
    for path in TEST_FILES:
        assert ast.get_docstring(ast.parse(path.read_text())), path
        assert (path.parent / "__init__.py").exists(), path
