"""Writing a file as a whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".tmp"


@contextmanager
def replaced_at_end(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file under, which takes its place at the end; its folder is
    made.

    Whoever reads meanwhile sees the old file or the new one; where anything is raised, the old file
    stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{UNFINISHED}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with suppress(OSError):  # gone where it took its place; another error was raised before
            temporary.unlink()


def require_writable(path: Path) -> None:
    """**Raises** `OSError` where no file of this name can be made now, nor the folders it lies in;
    leaves nothing."""
    if path.exists() and not path.is_file():
        raise FileExistsError(
            errno.EEXIST, "it is a folder" if path.is_dir() else "it is no ordinary file"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryFile(dir=folder):
        pass


def write_file(path: Path, text: str) -> None:
    """Write UTF-8 text. A lone surrogate, which is no UTF-8, is written as its escape.

    **Raises** `OSError` where it cannot be written, for instance on a full disk; the old file stays
    as it was.
    """
    with replaced_at_end(path) as temporary, temporary.open("xb") as file:
        file.write(text.encode("utf-8", "backslashreplace"))
        file.flush()
        os.fsync(file.fileno())
