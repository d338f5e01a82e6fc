"""A folder of bounded size: what was not used for longest goes first, and unfinished files go."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pytest_scrub.extras.disk_cache.folder import ABANDONED, BoundedFolder


def filled(folder: BoundedFolder, name: str, size: int, age: float) -> Path:
    path = folder.path / f"{name}.safetensors"
    assert folder.write(path, lambda temporary: temporary.write_bytes(bytes(size)), size)
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_who_reads_while_a_file_is_exchanged_reads_the_old_one(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 1000)
    path = filled(folder, "a", 100, 0)
    with path.open("rb") as reading:
        filled(folder, "a", 200, 0)
        assert len(reading.read()) == 100
    assert path.stat().st_size == 200


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 1000)
    oldest, old, new = (
        filled(folder, name, 300, age) for name, age in (("b", 30), ("a", 20), ("c", 10))
    )
    folder.touch(oldest)
    newest = filled(folder, "d", 300, 0)
    assert sorted(tmp_path.iterdir()) == sorted([oldest, new, newest])
    assert not old.exists()
    filled(folder, "d", 400, 0)  # what it replaces does not count
    assert sorted(tmp_path.iterdir()) == sorted([oldest, new, newest])
    filled(folder, "e", 1000, 0)
    assert [path.stem for path in tmp_path.iterdir()] == ["e"]
    assert not folder.write(tmp_path / "f.safetensors", pytest.fail, 1001)
    assert [path.stem for path in tmp_path.iterdir()] == ["e"]


def test_unfinished_files_of_runs_that_were_killed_go(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 1000)
    killed, going_on = tmp_path / ".killed.tmp", tmp_path / ".other.tmp"
    for path in (killed, going_on):
        path.write_bytes(b"half")
    os.utime(killed, (time.time() - 2 * ABANDONED,) * 2)
    filled(folder, "a", 1000, 0)
    assert not killed.exists()
    assert going_on.exists()
