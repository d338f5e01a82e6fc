"""Where the repository is, and the files that earlier versions wrote."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]
SAVED = ROOT / "tests" / "saved"  # of the claims in pytest_edge/test_files_of_earlier_versions.py
