"""Extras build on the public names and a few seams of the package, and not on one another."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_scrub
from tests.places import ROOT

EXTRAS = ROOT / "pytest_scrub" / "extras"
FILES = sorted(path for path in EXTRAS.rglob("*.py") if path.parent != EXTRAS)


def imported(path: Path) -> Iterator[tuple[str, str]]:
    """Module and name of all that a file imports of the package, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((one.name, "") for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written out"
            yield from ((node.module or "", one.name) for one in node.names)


def seams() -> set[str]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("### What extras build on")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {f"pytest_scrub.{name}" for row in rows for name in re.findall("`([^`]+)`", row)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(EXTRAS)))
def test_it_builds_on_public_names_and_seams(path: Path) -> None:
    own = f"pytest_scrub.extras.{path.relative_to(EXTRAS).parts[0]}"
    for module, name in imported(path):
        if module == "pytest_scrub":
            assert name in pytest_scrub.__all__
        elif module.partition(".")[0] == "pytest_scrub" and not module.startswith(own):
            assert module in seams()


def test_every_seam_is_used() -> None:
    used = {module for path in FILES for module, _ in imported(path)}
    assert seams() <= used
