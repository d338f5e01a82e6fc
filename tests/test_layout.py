"""Which test file protects a module: `tests/` mirrors the package, and what does not is listed."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.places import ROOT

PACKAGE = ROOT / "pytest_scrub"
MANY_LINES = 60

PROTECTED_ELSEWHERE: dict[str, str] = {}


def lines_of_code(path: Path) -> int:
    """Lines on which something other than a comment or a docstring stands."""
    text = path.read_text()
    tree = ast.parse(text)
    silent: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            silent.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in silent
        for number, line in enumerate(text.splitlines(), 1)
    )


def mirrored(path: Path) -> Path:
    own = path.relative_to(PACKAGE)
    return ROOT / "tests" / own.with_name(f"test_{own.name}")
